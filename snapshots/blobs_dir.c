/* SPDX-License-Identifier: Apache-2.0
 *
 * Each operation is one piece of blocking work. How a file gets its name: it is written to .tmp/
 * under a random name, synced, linked (put) or renamed (swap) to its name, and the folder is
 * synced. Swaps exclude each other by flock on .lock, across processes too.
 */
#include "snapshots/blobs_dir.h"

#include "base/check.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TMP         ".tmp"
#define LOCK        ".lock"
#define TMP_AGE_MAX (24 * 3600) /* seconds after which a temporary file is nobody's */
#define TRIES       100         /* at a folder that sweeps remove while we fill it */

struct blobs_dir {
	struct blobs blobs;
	int fd;
	char path[];
};

/* ---- Small pieces -----------------------------------------------------------------------------
 */

static int sync_folder(int dir, const char *folder)
{
	int fd = openat(dir, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* The folder that `name` is in, "." for the top. */
static const char *folder_of(const char *name, char folder[BLOB_NAME_MAX])
{
	const char *slash = strrchr(name, '/');

	if (!slash)
		return ".";
	memcpy(folder, name, (size_t)(slash - name));
	folder[slash - name] = '\0';
	return folder;
}

/* Makes the folders that lead to `name`; each one's own name is durable then. */
static int make_folders(int dir, const char *name)
{
	char path[BLOB_NAME_MAX], above[BLOB_NAME_MAX];

	for (const char *p = strchr(name, '/'); p; p = strchr(p + 1, '/')) {
		int r;

		memcpy(path, name, (size_t)(p - name));
		path[p - name] = '\0';
		if (mkdirat(dir, path, 0700) < 0) {
			if (errno == EEXIST)
				continue;
			return -errno;
		}
		r = sync_folder(dir, folder_of(path, above));
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* A synced file under .tmp/ with these bytes. */
static int write_temporary(int dir, const struct iovec *iov, int n, char tmp[64])
{
	uint64_t random[2];
	int fd, r = 0;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	snprintf(tmp, 64, TMP "/%016" PRIx64 "%016" PRIx64, random[0], random[1]);
	fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	for (int i = 0; i < n && r == 0; i++)
		r = write_all(fd, iov[i].iov_base, iov[i].iov_len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	/* Nobody reads it soon: the memory is for others. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (close(fd) < 0 && r == 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir, tmp, 0);
	return r;
}

static int read_all(int fd, void *buf, uint64_t offset, uint64_t len, uint64_t *ret_n)
{
	char *p = buf;

	*ret_n = 0;
	while (*ret_n < len) {
		ssize_t n = pread(fd, p + *ret_n, len - *ret_n, (off_t)(offset + *ret_n));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		*ret_n += (uint64_t)n;
	}
	return 0;
}

/* ---- Operations -------------------------------------------------------------------------------
 */

static int link_new(int dir, const char *tmp, const char *name)
{
	for (int i = 0; i < TRIES; i++) {
		int r = make_folders(dir, name);

		/* A folder that was empty may have gone meanwhile. */
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		if (linkat(dir, tmp, dir, name, 0) == 0)
			return 0;
		if (errno != ENOENT)
			return -errno;
	}
	return -ENOENT;
}

static int64_t dir_put(struct blobs_dir *d, struct blob_op *op)
{
	char tmp[64], folder[BLOB_NAME_MAX];
	int r, synced;

	if (faccessat(d->fd, op->name, F_OK, 0) == 0)
		return -EEXIST;
	r = write_temporary(d->fd, op->iov, op->n_iov, tmp);
	if (r < 0)
		return r;
	r = link_new(d->fd, tmp, op->name);
	unlinkat(d->fd, tmp, 0);
	if (r < 0 && r != -EEXIST)
		return r;
	synced = sync_folder(d->fd, folder_of(op->name, folder));
	return synced < 0 ? synced : r;
}

static int64_t dir_read(struct blobs_dir *d, struct blob_op *op)
{
	int fd = openat(d->fd, op->name, O_RDONLY | O_CLOEXEC);
	uint64_t n;
	int r;

	if (fd < 0)
		return -errno;
	r = read_all(fd, op->buf, op->offset, op->len, &n);
	close(fd);
	return r < 0 ? r : (int64_t)n;
}

static int64_t dir_remove(struct blobs_dir *d, struct blob_op *op)
{
	char folder[BLOB_NAME_MAX], above[BLOB_NAME_MAX];
	int r;

	if (unlinkat(d->fd, op->name, 0) < 0)
		return errno == ENOENT ? 0 : -errno;
	folder_of(op->name, folder);
	r = sync_folder(d->fd, folder_of(op->name, folder));
	/* Folders of packs come and go with them; those that are not empty stay. */
	while (r == 0 && strchr(folder, '/') && unlinkat(d->fd, folder, AT_REMOVEDIR) == 0) {
		folder_of(folder, above);
		memcpy(folder, above, sizeof(folder));
	}
	return r == -ENOENT ? 0 : r;
}

static int64_t dir_punch(struct blobs_dir *d, struct blob_op *op)
{
	int fd = openat(d->fd, op->name, O_WRONLY | O_CLOEXEC);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
		      (off_t)op->len) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* 0 if the object is what the caller expects. */
static int swap_compare(struct blobs_dir *d, const struct blob_op *op)
{
	int fd = openat(d->fd, op->name, O_RDONLY | O_CLOEXEC);
	uint64_t n;
	char *now;
	int r;

	if (fd < 0)
		return errno != ENOENT ? -errno : op->expected ? -ESTALE : 0;
	now = mem_alloc(BLOB_SWAP_MAX + 1);
	if (!now) {
		close(fd);
		return -ENOMEM;
	}
	r = read_all(fd, now, 0, BLOB_SWAP_MAX + 1, &n);
	if (r == 0 && (!op->expected || n != op->expected_len || memcmp(now, op->expected, n) != 0))
		r = -ESTALE;
	mem_free(now);
	close(fd);
	return r;
}

static int swap_replace(struct blobs_dir *d, const struct blob_op *op)
{
	struct iovec iov = {(void *)(uintptr_t)op->wanted, op->wanted_len};
	char tmp[64];
	int r;

	if (!op->wanted)
		return unlinkat(d->fd, op->name, 0) < 0 ? -errno : 0;
	r = make_folders(d->fd, op->name);
	if (r == 0)
		r = write_temporary(d->fd, &iov, 1, tmp);
	if (r < 0)
		return r;
	if (renameat(d->fd, tmp, d->fd, op->name) == 0)
		return 0;
	r = -errno;
	unlinkat(d->fd, tmp, 0);
	return r;
}

/* Closing it gives the lock back. */
static int take_lock(struct blobs_dir *d, int how, int *ret_fd)
{
	int fd = openat(d->fd, LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return -errno;
	while (flock(fd, how) < 0) {
		if (errno == EINTR)
			continue;
		r = -errno;
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int64_t dir_swap(struct blobs_dir *d, struct blob_op *op)
{
	char folder[BLOB_NAME_MAX];
	int r, lock;

	r = take_lock(d, LOCK_EX, &lock);
	if (r < 0)
		return r;
	r = swap_compare(d, op);
	if (r == 0)
		r = swap_replace(d, op);
	if (r == 0)
		r = sync_folder(d->fd, folder_of(op->name, folder));
	close(lock);
	return r;
}

/* ---- Lists ------------------------------------------------------------------------------------
 */

struct names {
	char (*name)[BLOB_NAME_MAX]; /* folders end in '/' */
	size_t n;
	size_t room;
};

static int names_add(struct names *names, const char *prefix, const char *name, bool folder)
{
	if (names->n == names->room) {
		size_t room = names->room ? names->room * 2 : 64;
		void *wider = mem_realloc(names->name, room * BLOB_NAME_MAX);

		if (!wider)
			return -ENOMEM;
		names->name = wider;
		names->room = room;
	}
	/* What is too long is nothing of ours. */
	if (snprintf(names->name[names->n], BLOB_NAME_MAX, "%s%s%s", prefix, name,
		     folder ? "/" : "") < BLOB_NAME_MAX)
		names->n++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* All names in the folder `prefix`, sorted, that may have something behind `after`. */
static int read_folder(int top, const char *prefix, const char *after, struct names *names)
{
	int fd = openat(top, prefix, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	int r = 0;
	DIR *dir;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	errno = 0;
	while (r == 0 && (e = readdir(dir))) {
		const char *name;
		struct stat st;
		bool folder = e->d_type == DT_DIR;

		if (e->d_name[0] == '.')
			continue;
		if (e->d_type == DT_UNKNOWN)
			folder = fstatat(fd, e->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode);
		r = names_add(names, prefix, e->d_name, folder);
		if (r < 0 || names->n == 0)
			continue;
		name = names->name[names->n - 1];
		/* A folder is of interest if something in it can come behind. */
		if (strcmp(name, after) <= 0 &&
		    !(folder && strncmp(name, after, strlen(name)) == 0))
			names->n--;
		errno = 0;
	}
	if (r == 0 && errno != 0)
		r = -errno;
	closedir(dir);
	if (r == 0 && names->n > 1)
		qsort(names->name, names->n, BLOB_NAME_MAX, by_name);
	return r;
}

static int fill_entry(int top, const char *name, struct blob_entry *entry)
{
	struct stat st;

	if (fstatat(top, name, &st, 0) < 0)
		return -errno;
	memcpy(entry->name, name, BLOB_NAME_MAX);
	entry->size = (uint64_t)st.st_size;
	entry->stored = max_u64((uint64_t)st.st_blocks * 512, entry->size > 0);
	entry->modified = (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
	return 0;
}

static int list_folder(struct blobs_dir *d, const char *prefix, struct blob_op *op, uint64_t *n)
{
	struct blob_entry *entries = op->buf;
	struct names names = {0};
	int r = read_folder(d->fd, prefix, op->after, &names);

	for (size_t i = 0; i < names.n && r == 0 && *n < op->len; i++) {
		const char *name = names.name[i];

		if (name[strlen(name) - 1] == '/') {
			r = list_folder(d, name, op, n);
			continue;
		}
		r = fill_entry(d->fd, name, &entries[*n]);
		if (r == 0)
			(*n)++;
		else if (r == -ENOENT) /* it has just gone */
			r = 0;
	}
	mem_free(names.name);
	return r;
}

/* Some file systems may leave a name out of a list while it is being replaced (B4): no swap runs
 * meanwhile. */
static int64_t dir_list(struct blobs_dir *d, struct blob_op *op)
{
	uint64_t n = 0;
	int r, lock;

	r = take_lock(d, LOCK_SH, &lock);
	if (r < 0)
		return r;
	r = list_folder(d, op->name, op, &n);
	close(lock);
	return r < 0 ? r : (int64_t)n;
}

/* ---- Between loop and workers -----------------------------------------------------------------
 */

static void dir_run(struct io_work *work)
{
	struct blob_op *op = container_of(work, struct blob_op, work);
	struct blobs_dir *d = container_of(op->blobs, struct blobs_dir, blobs);

	switch ((enum blob_kind)op->kind) {
	case BLOB_PUT:
		op->result = dir_put(d, op);
		break;
	case BLOB_READ:
		op->result = dir_read(d, op);
		break;
	case BLOB_LIST:
		op->result = dir_list(d, op);
		break;
	case BLOB_REMOVE:
		op->result = dir_remove(d, op);
		break;
	case BLOB_SWAP:
		op->result = dir_swap(d, op);
		break;
	case BLOB_PUNCH:
		op->result = dir_punch(d, op);
		break;
	}
}

static void dir_done(struct io_work *work)
{
	struct blob_op *op = container_of(work, struct blob_op, work);

	op->done(op);
}

static void dir_start(struct blobs *blobs, struct blob_op *op)
{
	(void)blobs;
	op->work.run = dir_run;
	op->work.done = dir_done;
	io_work_blocking(op->loop, &op->work);
}

static void dir_close(struct blobs *blobs)
{
	struct blobs_dir *d = container_of(blobs, struct blobs_dir, blobs);

	close(d->fd);
	mem_free(d);
}

static const struct blobs_ops dir_ops = {
    .name = "directory",
    .start = dir_start,
    .close = dir_close,
};

/* ---- Opening ----------------------------------------------------------------------------------
 */

static void remove_old_temporaries(int top)
{
	int fd = openat(top, TMP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct timespec now;
	struct dirent *e;
	struct stat st;

	if (!dir)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	while ((e = readdir(dir)))
		if (fstatat(fd, e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
		    st.st_mtim.tv_sec + TMP_AGE_MAX < now.tv_sec)
			unlinkat(fd, e->d_name, 0);
	closedir(dir);
}

static int open_folder(const char *path, bool create, int *ret_fd, struct err *err)
{
	if (create && mkdir(path, 0700) == 0) {
		char above[4096];
		const char *slash = strrchr(path, '/');
		size_t n = slash ? (size_t)(slash - path) + 1 : 0;

		if (n < sizeof(above)) {
			memcpy(above, path, n);
			memcpy(above + n, ".", 2);
			sync_folder(AT_FDCWD, above);
		}
	} else if (create && errno != EEXIST) {
		return err_set(err, -errno, "can't make the repository's directory %s: %s", path,
			       strerror(errno));
	}
	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0)
		return err_set(err, -errno, "can't open the repository's directory %s: %s", path,
			       strerror(errno));
	return 0;
}

int blobs_dir_open(const char *path, bool create, struct blobs **ret_blobs, struct err *err)
{
	struct blobs_dir *d = mem_alloc(sizeof(*d) + strlen(path) + 1);
	int r;

	if (!d)
		return err_set(err, -ENOMEM, "out of memory for the repository");
	r = open_folder(path, create, &d->fd, err);
	if (r < 0) {
		mem_free(d);
		return r;
	}
	if (create && mkdirat(d->fd, TMP, 0700) < 0 && errno != EEXIST) {
		r = err_set(err, -errno, "can't write to the repository's directory %s: %s", path,
			    strerror(errno));
		close(d->fd);
		mem_free(d);
		return r;
	}
	remove_old_temporaries(d->fd);
	memcpy(d->path, path, strlen(path) + 1);
	d->blobs.ops = &dir_ops;
	d->blobs.place = d->path;
	*ret_blobs = &d->blobs;
	return 0;
}
