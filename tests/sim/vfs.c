/* SPDX-License-Identifier: Apache-2.0
 *
 * Locks and shared memory are not here: the catalog is opened in exclusive mode, by one connection.
 */
#include "tests/sim/vfs.h"

#include "base/check.h"
#include "base/util.h"
#include "tests/sim/machine/sim.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 120

struct vfs_file {
	sqlite3_file base; /* first */
	char path[PATH_BYTES];
};

static const char *path_of(sqlite3_file *file)
{
	return ((struct vfs_file *)file)->path;
}

/* ---- A file ------------------------------------------------------------------------ */

static int vfs_close(sqlite3_file *file)
{
	(void)file;
	return SQLITE_OK;
}

static uint64_t size_of(const char *path)
{
	struct sim *sim = sim_current();

	return sim_file_exists(sim, path) ? sim_file_size(sim, path) : 0;
}

static int vfs_read(sqlite3_file *file, void *buf, int n, sqlite3_int64 offset)
{
	uint64_t end = (uint64_t)offset + (uint64_t)n;

	if (sim_now_read(sim_current(), path_of(file), (uint64_t)offset, buf, (size_t)n) < 0)
		return SQLITE_IOERR_READ;
	return end > size_of(path_of(file)) ? SQLITE_IOERR_SHORT_READ : SQLITE_OK;
}

static int vfs_write(sqlite3_file *file, const void *buf, int n, sqlite3_int64 offset)
{
	int r = sim_now_write(sim_current(), path_of(file), (uint64_t)offset, buf, (size_t)n);

	return r == -ENOSPC ? SQLITE_FULL : r < 0 ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

static int vfs_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	int r = sim_now_truncate(sim_current(), path_of(file), (uint64_t)size);

	return r < 0 ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

static int vfs_sync(sqlite3_file *file, int flags)
{
	(void)flags;
	return sim_now_sync(sim_current(), path_of(file)) < 0 ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int vfs_file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
	*ret_size = (sqlite3_int64)size_of(path_of(file));
	return SQLITE_OK;
}

static int vfs_lock(sqlite3_file *file, int level)
{
	(void)file;
	(void)level;
	return SQLITE_OK;
}

static int vfs_check_reserved(sqlite3_file *file, int *ret_reserved)
{
	(void)file;
	*ret_reserved = 0;
	return SQLITE_OK;
}

static int vfs_control(sqlite3_file *file, int what, void *arg)
{
	(void)file;
	(void)what;
	(void)arg;
	return SQLITE_NOTFOUND;
}

static int vfs_sector_size(sqlite3_file *file)
{
	(void)file;
	return 512;
}

/* As SQLite takes it of any disk: what is beside a write stays whole. */
static int vfs_characteristics(sqlite3_file *file)
{
	(void)file;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = vfs_close,
    .xRead = vfs_read,
    .xWrite = vfs_write,
    .xTruncate = vfs_truncate,
    .xSync = vfs_sync,
    .xFileSize = vfs_file_size,
    .xLock = vfs_lock,
    .xUnlock = vfs_lock,
    .xCheckReservedLock = vfs_check_reserved,
    .xFileControl = vfs_control,
    .xSectorSize = vfs_sector_size,
    .xDeviceCharacteristics = vfs_characteristics,
};

/* ---- The file system --------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
		    int *ret_flags)
{
	struct vfs_file *f = (struct vfs_file *)file;

	(void)vfs;
	f->base.pMethods = NULL;
	/* Only temporary files have no name; the catalog keeps those in memory. */
	if (!name || strlen(name) >= PATH_BYTES)
		return SQLITE_CANTOPEN;
	if (!sim_file_exists(sim_current(), name) &&
	    (!(flags & SQLITE_OPEN_CREATE) || sim_now_truncate(sim_current(), name, 0) < 0))
		return SQLITE_CANTOPEN;
	snprintf(f->path, sizeof(f->path), "%s", name);
	f->base.pMethods = &methods;
	if (ret_flags)
		*ret_flags = flags;
	return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	int r = sim_now_remove(sim_current(), name);

	(void)vfs;
	(void)sync_dir;
	return r == -ENOENT ? SQLITE_IOERR_DELETE_NOENT : r < 0 ? SQLITE_IOERR_DELETE : SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret_yes)
{
	(void)vfs;
	*ret_yes = sim_file_exists(sim_current(), name) &&
		   (flags != SQLITE_ACCESS_EXISTS || size_of(name) > 0);
	return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *name, int n, char *ret_path)
{
	(void)vfs;
	snprintf(ret_path, (size_t)n, "%s", name);
	return SQLITE_OK;
}

static int vfs_randomness(sqlite3_vfs *vfs, int n, char *ret_bytes)
{
	(void)vfs;
	for (int i = 0; i < n; i++)
		ret_bytes[i] = (char)sim_random(sim_current());
	return n;
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
	(void)vfs;
	return microseconds;
}

static int vfs_time(sqlite3_vfs *vfs, double *ret_days)
{
	(void)vfs;
	*ret_days = 2460000 + (double)sim_time(sim_current()) / (86400 * (double)NSEC_PER_SEC);
	return SQLITE_OK;
}

static int vfs_last_error(sqlite3_vfs *vfs, int n, char *ret_text)
{
	(void)vfs;
	(void)n;
	(void)ret_text;
	return 0;
}

void sim_vfs_register(void)
{
	static sqlite3_vfs vfs = {
	    .iVersion = 1,
	    .szOsFile = sizeof(struct vfs_file),
	    .mxPathname = PATH_BYTES,
	    .zName = SIM_VFS,
	    .xOpen = vfs_open,
	    .xDelete = vfs_delete,
	    .xAccess = vfs_access,
	    .xFullPathname = vfs_full_path,
	    .xRandomness = vfs_randomness,
	    .xSleep = vfs_sleep,
	    .xCurrentTime = vfs_time,
	    .xGetLastError = vfs_last_error,
	};

	CHECK(sqlite3_vfs_register(&vfs, 0) == SQLITE_OK);
}
