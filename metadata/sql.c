/* SPDX-License-Identifier: Apache-2.0 */
#include "metadata/sql.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

/* Columns in the order in which the readers of catalog_rows.c take them. */
#define VOLUME_COLUMNS                                                                             \
	"id, state, size, resize_to, created, generation, zone, error, base, hydration_rate, "     \
	"scrubbed, scrub_bad, lineage, full"
#define SNAPSHOT_COLUMNS                                                                           \
	"id, volume, parent, state, size, sequence, started, completed, stored, description, "     \
	"error, cutting"
#define INSTANCE_COLUMNS "id, created, name, host, state"
#define ATTACHMENT_COLUMNS                                                                         \
	"id, volume, instance, state, generation, created, delete_on_termination, device, "        \
	"export_name"

static const char *const texts[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_VOLUME_ADD] = "INSERT INTO volumes (" VOLUME_COLUMNS ") VALUES "
		       "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [SQL_VOLUME_GET] = "SELECT " VOLUME_COLUMNS " FROM volumes WHERE id = ?",
    [SQL_VOLUME_PUT] = "UPDATE volumes SET state = ?2, size = ?3, resize_to = ?4, created = ?5, "
		       "generation = ?6, zone = ?7, error = ?8, base = ?9, hydration_rate = ?10, "
		       "scrubbed = ?11, scrub_bad = ?12, lineage = ?13, full = ?14 "
		       "WHERE id = ?1",
    [SQL_VOLUME_REMOVE] = "DELETE FROM volumes WHERE id = ?",
    [SQL_VOLUME_AFTER] = "SELECT " VOLUME_COLUMNS " FROM volumes WHERE id > ? ORDER BY id LIMIT 1",
    [SQL_PROVISIONED] = "SELECT coalesce(sum(max(size, resize_to)), 0) FROM volumes "
			"WHERE state <> 'deleting'",
    [SQL_COUNT_VOLUMES] = "SELECT state, count(*) FROM volumes GROUP BY state",
    [SQL_COUNT_OTHERS] = "SELECT (SELECT count(*) FROM instances), "
			 "(SELECT count(*) FROM attachments)",
    [SQL_INSTANCE_ADD] = "INSERT INTO instances (" INSTANCE_COLUMNS ") VALUES (?,?,?,?,?)",
    [SQL_INSTANCE_GET] = "SELECT " INSTANCE_COLUMNS " FROM instances WHERE id = ?",
    [SQL_INSTANCE_REMOVE] = "DELETE FROM instances WHERE id = ?",
    [SQL_INSTANCE_AFTER] =
	"SELECT " INSTANCE_COLUMNS " FROM instances WHERE id > ? ORDER BY id LIMIT 1",
    [SQL_ATTACHMENT_ADD] =
	"INSERT INTO attachments (" ATTACHMENT_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?)",
    [SQL_ATTACHMENT_GET] = "SELECT " ATTACHMENT_COLUMNS " FROM attachments WHERE volume = ?",
    [SQL_ATTACHMENT_STATE] = "UPDATE attachments SET state = ?2 WHERE id = ?1",
    [SQL_ATTACHMENT_REMOVE] = "DELETE FROM attachments WHERE id = ?",
    [SQL_ATTACHMENT_AFTER] = "SELECT " ATTACHMENT_COLUMNS " FROM attachments "
			     "WHERE instance = ?1 AND device > ?2 ORDER BY device LIMIT 1",
    [SQL_DEVICE_TAKEN] = "SELECT count(*) FROM attachments WHERE instance = ?1 AND device = ?2",
    [SQL_SNAPSHOT_ADD] =
	"INSERT INTO snapshots (" SNAPSHOT_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
    [SQL_SNAPSHOT_GET] = "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE id = ?",
    [SQL_SNAPSHOT_PUT] = "UPDATE snapshots SET volume = ?2, parent = ?3, state = ?4, size = ?5, "
			 "sequence = ?6, started = ?7, completed = ?8, stored = ?9, "
			 "description = ?10, error = ?11, cutting = ?12 WHERE id = ?1",
    [SQL_SNAPSHOT_REMOVE] = "DELETE FROM snapshots WHERE id = ?",
    [SQL_SNAPSHOT_AFTER] =
	"SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE id > ? ORDER BY id LIMIT 1",
    [SQL_SNAPSHOT_UNFINISHED] = "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE id > ? AND "
				"state IN ('pending', 'deleting') ORDER BY id LIMIT 1",
    [SQL_SNAPSHOT_NEXT_PENDING] =
	"SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE volume = ? AND state = 'pending' "
	"AND cutting = 0 ORDER BY sequence = 0, sequence, started LIMIT 1",
    [SQL_SNAPSHOT_PARENT] =
	"SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE volume = ?1 AND state = 'completed' AND "
	"sequence > 0 AND sequence < ?2 ORDER BY sequence DESC LIMIT 1",
    [SQL_SNAPSHOTS_PENDING] =
	"SELECT count(*) FROM snapshots WHERE volume = ? AND state = 'pending'",
    [SQL_TOKEN_ADD] = "INSERT INTO tokens (token, request_1, request_2, volume, expires) "
		      "VALUES (?,?,?,?,?)",
    [SQL_TOKEN_GET] = "SELECT token, request_1, request_2, volume, expires FROM tokens "
		      "WHERE token = ?",
    [SQL_TOKEN_REMOVE] = "DELETE FROM tokens WHERE token = ?",
    [SQL_TOKEN_EXPIRE] = "DELETE FROM tokens WHERE expires <= ?",
    [SQL_TAG_PUT] = "INSERT INTO tags (resource, key, value) VALUES (?,?,?) "
		    "ON CONFLICT (resource, key) DO UPDATE SET value = excluded.value",
    [SQL_TAG_AFTER] = "SELECT key, value FROM tags WHERE resource = ?1 AND key > ?2 "
		      "ORDER BY key LIMIT 1",
    [SQL_TAGS_REMOVE] = "DELETE FROM tags WHERE resource = ?",
    [SQL_EVENT_ADD] = "INSERT INTO events (time, who, what, resource, detail) VALUES (?,?,?,?,?)",
    [SQL_EVENT_TRIM] = "DELETE FROM events WHERE sequence <= last_insert_rowid() - ?",
    [SQL_EVENT_BEFORE] = "SELECT sequence, time, who, what, resource, detail FROM events "
			 "WHERE sequence < ? ORDER BY sequence DESC LIMIT 1",
    [SQL_META_GET] = "SELECT value FROM meta WHERE key = ?",
    [SQL_META_SET] = "INSERT INTO meta (key, value) VALUES (?,?) "
		     "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
};

/* ---- Errors ------------------------------------------------------------------------ */

static int errno_of(struct catalog *c, int code)
{
	if (c->db && sqlite3_system_errno(c->db) == ENOSPC && (code & 0xff) != SQLITE_CONSTRAINT)
		return -ENOSPC;
	switch (code & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_CANTOPEN:
		return -ENOENT;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return -EACCES;
	default:
		return -EIO;
	}
}

int sql_error(struct catalog *c, int code, const char *doing, struct err *err)
{
	int r = errno_of(c, code);
	const char *why = c->db ? sqlite3_errmsg(c->db) : sqlite3_errstr(code);

	if (r == -EUCLEAN)
		return err_set(
		    err, r,
		    "the catalog %s is damaged (%s). Put back a copy of it; or move it and "
		    "the files %s-* away and start again: all volumes are then found in the "
		    "store, without their names, tags and attachments",
		    c->path, why, c->path);
	if (r == -ENOSPC)
		return err_set(
		    err, r,
		    "the catalog %s: the disk is full while %s; delete volumes or make room "
		    "on its file system",
		    c->path, doing);
	return err_set(err, r, "the catalog %s: %s failed: %s", c->path, doing, why);
}

int sql_script(struct catalog *c, const char *script, const char *doing, struct err *err)
{
	int code = sqlite3_exec(c->db, script, NULL, NULL, NULL);

	return code == SQLITE_OK ? 0 : sql_error(c, code, doing, err);
}

int sql_number(struct catalog *c, const char *sql, int64_t *ret_number, struct err *err)
{
	sqlite3_stmt *s = NULL;
	int code = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);

	if (code == SQLITE_OK)
		code = sqlite3_step(s);
	if (code == SQLITE_ROW)
		*ret_number = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return code == SQLITE_ROW ? 0 : sql_error(c, code, sql, err);
}

/* ---- Statements -------------------------------------------------------------------- */

sqlite3_stmt *sql_use(struct catalog *c, enum sql_statement which, struct err *err)
{
	int code = SQLITE_OK;

	if (!c->statements[which])
		code = sqlite3_prepare_v3(c->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT,
					  &c->statements[which], NULL);
	if (code != SQLITE_OK) {
		sql_error(c, code, texts[which], err);
		return NULL;
	}
	return c->statements[which];
}

int sql_row(struct catalog *c, sqlite3_stmt *s, struct err *err)
{
	int code = sqlite3_step(s);

	if (code == SQLITE_ROW)
		return 1;
	if (code == SQLITE_DONE)
		return 0;
	return sql_error(c, code, sqlite3_sql(s), err);
}

int sql_run(struct catalog *c, sqlite3_stmt *s, bool must_change, struct err *err)
{
	int r = sql_row(c, s, err);

	sql_end(s);
	if (r < 0)
		return r;
	CHECK(r == 0);
	if (must_change && sqlite3_changes(c->db) == 0)
		return err_set(err, -ENOENT, "the catalog has no such row");
	return 0;
}

void sql_end(sqlite3_stmt *s)
{
	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
}

/* ---- Parameters -------------------------------------------------------------------- */

void sql_int(sqlite3_stmt *s, int i, uint64_t value)
{
	CHECK(sqlite3_bind_int64(s, i, (int64_t)value) == SQLITE_OK);
}

void sql_text(sqlite3_stmt *s, int i, const char *text)
{
	/* A lack of memory binds NULL, which no column takes. */
	sqlite3_bind_text(s, i, text, -1, SQLITE_TRANSIENT);
}

void sql_id(sqlite3_stmt *s, int i, struct id id, const char *prefix)
{
	char text[ID_TEXT_MAX];

	/* "" is before any id. */
	sql_text(s, i, id_is_zero(id) ? "" : id_format(id, prefix, text));
}

/* ---- Columns ----------------------------------------------------------------------- */

static int row_error(sqlite3_stmt *s, int i, struct err *err)
{
	return err_set(err, -EUCLEAN,
		       "the catalog is damaged: column %s of a row holds what it never could",
		       sqlite3_column_name(s, i));
}

uint64_t sql_get_int(sqlite3_stmt *s, int i)
{
	return (uint64_t)sqlite3_column_int64(s, i);
}

int sql_get_text(sqlite3_stmt *s, int i, char *ret_text, size_t size, struct err *err)
{
	const char *text = (const char *)sqlite3_column_text(s, i);
	size_t length = text ? strlen(text) : 0;

	if (!text || length >= size)
		return row_error(s, i, err);
	memcpy(ret_text, text, length + 1);
	return 0;
}

int sql_get_id(sqlite3_stmt *s, int i, const char *prefix, struct id *ret_id, struct err *err)
{
	const char *text = (const char *)sqlite3_column_text(s, i);

	if (!text || id_parse(text, prefix, ret_id) < 0)
		return row_error(s, i, err);
	return 0;
}

int sql_get_id_or_zero(sqlite3_stmt *s, int i, const char *prefix, struct id *ret_id,
		       struct err *err)
{
	const char *text = (const char *)sqlite3_column_text(s, i);

	*ret_id = (struct id){0};
	return text && !*text ? 0 : sql_get_id(s, i, prefix, ret_id, err);
}

int sql_take_one(struct catalog *c, sqlite3_stmt *s, void *ret_row,
		 int (*read)(sqlite3_stmt *s, void *ret_row, struct err *err), const char *what,
		 struct err *err)
{
	int r = sql_row(c, s, err);

	if (r > 0)
		r = read(s, ret_row, err);
	else if (r == 0)
		r = what ? err_set(err, -ENOENT, "the catalog has no such %s", what) : -ENOENT;
	sql_end(s);
	return r;
}

int sql_get_name(sqlite3_stmt *s, int i, const char *const *names, unsigned n, unsigned *ret_index,
		 struct err *err)
{
	const char *text = (const char *)sqlite3_column_text(s, i);

	for (unsigned k = 0; text && k < n; k++) {
		if (strcmp(text, names[k]) == 0) {
			*ret_index = k;
			return 0;
		}
	}
	return row_error(s, i, err);
}
