/* SPDX-License-Identifier: Apache-2.0
 *
 * The file: opening, transactions, ballast. catalog_rows.c and catalog_small.c have the rows.
 */
#include "metadata/catalog.h"

#include "base/mem.h"
#include "base/util.h"
#include "metadata/sql.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BALLAST_CHUNK  ((int)(64 * KiB))
#define BALLAST_PIECES 16

/* ---- Opening ----------------------------------------------------------------------- */

static char *join(const char *path, const char *suffix)
{
	size_t size = strlen(path) + strlen(suffix) + 1;
	char *joined = mem_alloc(size);

	if (joined)
		snprintf(joined, size, "%s%s", path, suffix);
	return joined;
}

static int open_file(struct catalog *c, const struct catalog_config *config, struct err *err)
{
	int flags =
	    config->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
	int code = sqlite3_open_v2(c->path, &c->db,
				   flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, c->vfs);

	return code == SQLITE_OK ? 0 : sql_error(c, code, "opening it", err);
}

/* A process that dies in a commit may leave it whole and not durable: SQLite finds it in the WAL
 * and takes it as done. What follows from it, in the store, must not be durable before it is. */
static int sync_recovered(struct catalog *c, struct err *err)
{
	sqlite3_file *wal = NULL;
	int code = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);

	if (code == SQLITE_OK && wal && wal->pMethods)
		code = wal->pMethods->xSync(wal, SQLITE_SYNC_NORMAL);
	return code == SQLITE_OK ? 0 : sql_error(c, code, "syncing it", err);
}

/* EXCLUSIVE before the first access: the WAL's index then lives in memory, and no other process can
 * change the file under us. */
static int set_up(struct catalog *c, const struct catalog_config *config, struct err *err)
{
	static const char reading[] = "PRAGMA locking_mode = EXCLUSIVE;"
				      "PRAGMA foreign_keys = ON;"
				      "PRAGMA trusted_schema = OFF;"
				      "PRAGMA temp_store = MEMORY;"
				      "PRAGMA cache_size = -4096;"
				      "PRAGMA mmap_size = 0;";
	static const char writing[] = "PRAGMA synchronous = FULL;"
				      "PRAGMA journal_mode = WAL;"
				      "PRAGMA wal_autocheckpoint = 1000;"
				      "PRAGMA journal_size_limit = 4194304;";
	int64_t version = 0;
	int r = sql_script(c, reading, "opening it", err);

	/* The owner's mark is looked at before a byte is changed. */
	if (r == 0)
		r = sql_number(c, "PRAGMA user_version", &version, err);
	if (r == 0 && config->read_only && version == 0)
		r = err_set(err, -EMEDIUMTYPE, "%s is no catalog of volumed", c->path);
	if (r == 0 && !config->read_only)
		r = schema_check(c, err);
	if (r == 0 && !config->read_only)
		r = sql_script(c, writing, "opening it", err);
	if (r == 0)
		r = config->read_only ? schema_check(c, err) : schema_migrate(c, err);
	if (r == 0 && !config->read_only)
		r = sync_recovered(c, err);
	return r;
}

int catalog_open(const struct catalog_config *config, struct catalog **ret_catalog, struct err *err)
{
	struct catalog *c = mem_alloc(sizeof(*c));
	int r;

	if (!c)
		return err_set(err, -ENOMEM, "the catalog %s: out of memory", config->path);
	c->path = join(config->path, "");
	c->ballast_path = join(config->path, "-ballast");
	c->ballast_size = config->read_only ? 0 : config->ballast_size;
	c->vfs = config->vfs;
	if (c->path && c->ballast_path)
		r = open_file(c, config, err);
	else
		r = err_set(err, -ENOMEM, "the catalog %s: out of memory", config->path);
	if (r == 0)
		r = set_up(c, config, err);
	if (r < 0) {
		catalog_close(c);
		return r;
	}
	catalog_ballast_restore(c);
	*ret_catalog = c;
	return 0;
}

void catalog_close(struct catalog *catalog)
{
	if (!catalog)
		return;
	for (unsigned i = 0; i < SQL_STATEMENTS; i++)
		sqlite3_finalize(catalog->statements[i]);
	sqlite3_close(catalog->db);
	mem_free(catalog->ballast_path);
	mem_free(catalog->path);
	mem_free(catalog);
}

bool catalog_is_new(const struct catalog *catalog)
{
	return catalog->is_new;
}

const char *catalog_path(const struct catalog *catalog)
{
	return catalog->path;
}

/* ---- Transactions ------------------------------------------------------------------ */

static int run(struct catalog *c, enum sql_statement which, struct err *err)
{
	sqlite3_stmt *s = sql_use(c, which, err);

	return s ? sql_run(c, s, false, err) : err->code;
}

int catalog_begin(struct catalog *catalog, struct err *err)
{
	return run(catalog, SQL_BEGIN, err);
}

int catalog_commit(struct catalog *catalog, struct err *err)
{
	return run(catalog, SQL_COMMIT, err);
}

void catalog_rollback(struct catalog *catalog)
{
	struct err ignored;

	/* Some errors have rolled back by themselves. */
	if (!sqlite3_get_autocommit(catalog->db))
		run(catalog, SQL_ROLLBACK, &ignored);
}

/* ---- Ballast ----------------------------------------------------------------------------------
 * By SQLite's own way to files, so that it lies where the catalog lies, in the simulator, too.
 */

static sqlite3_file *ballast_open(struct catalog *c, sqlite3_vfs *vfs)
{
	sqlite3_file *file = mem_alloc((size_t)vfs->szOsFile);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_SUPER_JOURNAL;

	if (file && vfs->xOpen(vfs, c->ballast_path, file, flags, NULL) == SQLITE_OK)
		return file;
	mem_free(file);
	return NULL;
}

static void ballast_close(sqlite3_file *file)
{
	file->pMethods->xClose(file);
	mem_free(file);
}

bool catalog_ballast_release(struct catalog *catalog)
{
	sqlite3_vfs *vfs = sqlite3_vfs_find(catalog->vfs);
	sqlite3_file *file = catalog->ballast_size ? ballast_open(catalog, vfs) : NULL;
	uint64_t piece = round_up(catalog->ballast_size / BALLAST_PIECES, (uint64_t)BALLAST_CHUNK);
	sqlite3_int64 size = 0;
	bool released;

	if (!file)
		return false;
	released = file->pMethods->xFileSize(file, &size) == SQLITE_OK && size > 0;
	if (released) {
		size -= (sqlite3_int64)min_u64(piece, (uint64_t)size);
		released = file->pMethods->xTruncate(file, size) == SQLITE_OK;
	}
	ballast_close(file);
	return released;
}

/* Bytes that no file system can store in less. */
static int fill(sqlite3_file *file, uint64_t from, uint64_t to)
{
	uint64_t *chunk = mem_alloc((size_t)BALLAST_CHUNK);
	int code = chunk ? SQLITE_OK : SQLITE_NOMEM;

	for (uint64_t at = from; at < to && code == SQLITE_OK; at += (uint64_t)BALLAST_CHUNK) {
		for (uint64_t i = 0; i < (uint64_t)BALLAST_CHUNK / 8; i++)
			chunk[i] = hash_u64(at + i);
		code = file->pMethods->xWrite(file, chunk, BALLAST_CHUNK, (sqlite3_int64)at);
	}
	mem_free(chunk);
	if (code == SQLITE_OK)
		code = file->pMethods->xSync(file, SQLITE_SYNC_NORMAL);
	return code;
}

bool catalog_ballast_restore(struct catalog *catalog)
{
	sqlite3_vfs *vfs = sqlite3_vfs_find(catalog->vfs);
	uint64_t wanted = round_up(catalog->ballast_size, (uint64_t)BALLAST_CHUNK);
	sqlite3_file *file = wanted ? ballast_open(catalog, vfs) : NULL;
	sqlite3_int64 size = 0;
	int code;

	if (!file)
		return wanted == 0;
	code = file->pMethods->xFileSize(file, &size);
	if (code == SQLITE_OK && (uint64_t)size < wanted)
		code = fill(file, round_down((uint64_t)size, (uint64_t)BALLAST_CHUNK), wanted);
	if (code != SQLITE_OK)
		file->pMethods->xTruncate(file, size); /* others may need what there was */
	ballast_close(file);
	return code == SQLITE_OK;
}
