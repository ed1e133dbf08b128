/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/data_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_dir(const char *path, struct err *err)
{
	if (mkdir(path, 0700) == 0 || errno == EEXIST)
		return 0;
	if (errno == ENOENT)
		return err_set(
		    err, -errno,
		    "data folder %s: the folder above it does not exist; make that first", path);
	return err_set(err, -errno, "data folder %s: making it failed: %s", path, strerror(errno));
}

static int open_and_lock(struct data_dir *dir, struct err *err)
{
	dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0)
		return err_set(err, -errno, "data folder %s: %s", dir->path, strerror(errno));
	if (flock(dir->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return err_set(err, -EBUSY,
			       "data folder %s: another volumed is using it; stop that one first, "
			       "or choose another folder",
			       dir->path);
	return err_set(err, -errno, "data folder %s: locking it failed: %s", dir->path,
		       strerror(errno));
}

/* "DIR/name" into ret, which has PATH_MAX bytes. */
static int path_in(const char *dir, const char *name, char *ret, struct err *err)
{
	if (snprintf(ret, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "data folder %s: its path is too long", dir);
	return 0;
}

int data_dir_open(struct data_dir *dir, const char *path, const char *store, bool create,
		  struct err *err)
{
	int r;

	dir->fd = -1;
	if (strlen(path) >= sizeof(dir->path))
		return err_set(err, -ENAMETOOLONG, "the path of the data folder is too long");
	snprintf(dir->path, sizeof(dir->path), "%s", path);
	r = path_in(path, "nbd.sock", dir->socket, err);
	if (r == 0)
		r = path_in(path, "volumed.sock", dir->api, err);
	if (r == 0)
		r = path_in(path, "catalog", dir->catalog, err);
	if (r == 0)
		r = path_in(path, "snapshots", dir->snapshots, err);
	if (r < 0)
		return r;
	if (store && strlen(store) >= sizeof(dir->store))
		return err_set(err, -ENAMETOOLONG, "the path of the store is too long");
	if (store)
		snprintf(dir->store, sizeof(dir->store), "%s", store);
	else
		r = path_in(path, "store", dir->store, err);
	if (r == 0 && create)
		r = make_dir(path, err);
	if (r == 0)
		r = open_and_lock(dir, err);
	return r;
}

void data_dir_close(struct data_dir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	dir->fd = -1;
}
