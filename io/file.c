/* SPDX-License-Identifier: Apache-2.0
 *
 * Files and block devices: opening, and what is done to them.
 */
#include "io/internal.h"

#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define ALIGNMENT_MIN 512
#define ALIGNMENT_MAX 4096

/* The kernel finishes the I/O of a process that was killed after others have seen its end, and only
 * then gives up its locks: seen to last 60 ms with 4 MiB in flight. So a claim has patience. */
#define CLAIM_PAUSE_NS  10000000
#define CLAIM_TRIES_MAX 200

struct io_file {
	int fd;
	bool read_only;
	struct io_file_info info; /* the size of a regular file is asked for anew each time */
};

static int file_claim(struct io_file *file, const char *path, int flags, struct err *err);
static int file_make_durable(int fd, const char *path, struct err *err);
static int file_measure(struct io_file *file, const char *path, struct err *err);
static int device_measure(struct io_file *file, const char *path, struct err *err);
static void file_go_direct(struct io_file *file);

/* ---- Opening ---------------------------------------------------------------------------------
 */

/* Sleeps for a moment and returns true, or it is time to give up. Keeps errno. */
static bool claim_again(unsigned *n_tries)
{
	const struct timespec pause = {.tv_nsec = CLAIM_PAUSE_NS};
	int saved = errno;

	if ((*n_tries)++ >= CLAIM_TRIES_MAX)
		return false;
	nanosleep(&pause, NULL);
	errno = saved;
	return true;
}

/* A device is claimed by opening it with O_EXCL, which also refuses mounted ones, whatever name
 * they are known by. */
static int file_open_fd(const char *path, int flags, struct err *err)
{
	int how = O_CLOEXEC | O_NOCTTY | (flags & IO_OPEN_READ_ONLY ? O_RDONLY : O_RDWR);
	unsigned n_tries = 0;
	struct stat st;
	int fd;

	if (stat(path, &st) == 0) {
		if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
			return err_set(err, -EINVAL,
				       "%s is neither a regular file nor a block device", path);
		if (S_ISBLK(st.st_mode) && flags & IO_OPEN_EXCLUSIVE && how & O_RDWR)
			how |= O_EXCL;
	} else if (flags & IO_OPEN_CREATE) {
		how |= O_CREAT;
	}
	do
		fd = open(path, how, 0600);
	while (fd < 0 && (errno == EINTR || (errno == EBUSY && claim_again(&n_tries))));
	if (fd < 0 && errno == EBUSY)
		return err_set(err, -EBUSY, "%s is in use (mounted, or open in another process)",
			       path);
	if (fd < 0)
		return err_set(err, -errno, "can't open %s: %s", path, strerror(errno));
	return fd;
}

int io_file_open(const char *path, int flags, struct io_file **ret_file, struct err *err)
{
	struct io_file *file = mem_alloc(sizeof(*file));
	int ret;

	if (!file)
		return err_set(err, -ENOMEM, "out of memory for opening %s", path);
	file->read_only = flags & IO_OPEN_READ_ONLY;
	file->fd = file_open_fd(path, flags, err);
	ret = file->fd < 0 ? file->fd : file_claim(file, path, flags, err);
	if (ret == 0 && flags & IO_OPEN_CREATE)
		ret = file_make_durable(file->fd, path, err);
	if (ret == 0)
		ret = file_measure(file, path, err);
	if (ret < 0) {
		io_file_close(file);
		return ret;
	}
	*ret_file = file;
	return 0;
}

void io_file_close(struct io_file *file)
{
	if (!file)
		return;
	if (file->fd >= 0)
		close(file->fd);
	mem_free(file);
}

/* The lock belongs to the open file description: it holds against other processes and against
 * another open in this one, and goes with the descriptor. */
static int file_claim(struct io_file *file, const char *path, int flags, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	unsigned n_tries = 0;
	int ret;

	if (!(flags & IO_OPEN_EXCLUSIVE) || file->read_only)
		return 0;
	do
		ret = fcntl(file->fd, F_OFD_SETLK, &lock);
	while (ret < 0 && (errno == EINTR || (errno == EAGAIN && claim_again(&n_tries))));
	if (ret == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, -EBUSY, "%s is locked: another process has it open", path);
	return err_set(err, -errno, "can't lock %s: %s; is it on a file system without locks?",
		       path, strerror(errno));
}

/* Done even if the file was there: its maker may have died before it got so far. */
static int file_make_durable(int fd, const char *path, struct err *err)
{
	char copy[PATH_MAX];
	const char *dir;
	int ret = 0, dir_fd;

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return err_set(err, -ENAMETOOLONG, "the path %s is too long", path);
	if (fsync(fd) < 0)
		return err_set(err, -errno, "can't sync %s: %s", path, strerror(errno));
	dir = dirname(copy);
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return err_set(err, -errno, "can't open directory %s: %s", dir, strerror(errno));
	if (fsync(dir_fd) < 0)
		ret = err_set(err, -errno, "can't sync directory %s: %s", dir, strerror(errno));
	close(dir_fd);
	return ret;
}

static int file_measure(struct io_file *file, const char *path, struct err *err)
{
	struct stat st;
	int ret = 0;

	if (fstat(file->fd, &st) < 0)
		return err_set(err, -errno, "can't stat %s: %s", path, strerror(errno));
	file->info.is_device = S_ISBLK(st.st_mode);
	file->info.size = (uint64_t)st.st_size;
	file->info.alignment = ALIGNMENT_MAX;
	if (file->info.is_device)
		ret = device_measure(file, path, err);
	file_go_direct(file);
	if (ret == 0 && file->info.alignment > ALIGNMENT_MAX)
		ret =
		    err_set(err, -EINVAL,
			    "%s wants direct I/O aligned to %u bytes, and at most %d is supported",
			    path, file->info.alignment, ALIGNMENT_MAX);
	return ret;
}

static int device_measure(struct io_file *file, const char *path, struct err *err)
{
	int sector;

	if (ioctl(file->fd, BLKGETSIZE64, &file->info.size) < 0 ||
	    ioctl(file->fd, BLKSSZGET, &sector) < 0)
		return err_set(err, -errno, "can't learn the size of device %s: %s", path,
			       strerror(errno));
	file->info.alignment = sector <= ALIGNMENT_MIN ? ALIGNMENT_MIN : ALIGNMENT_MAX;
	if (sector > ALIGNMENT_MAX)
		file->info.alignment = (uint32_t)sector;
	return 0;
}

/* What statx says about alignment (Linux 6.1), else the assumption that is there already. */
static void file_go_direct(struct io_file *file)
{
	int flags = fcntl(file->fd, F_GETFL);
	struct statx stx;

	if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT) < 0)
		return;
	file->info.direct = true;
	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN))
		return;
	if (stx.stx_dio_offset_align == 0) { /* accepted, and then refused in each transfer */
		file->info.direct = fcntl(file->fd, F_SETFL, flags) < 0;
		return;
	}
	file->info.alignment = (uint32_t)max_u64(
	    ALIGNMENT_MIN, max_u64(stx.stx_dio_offset_align, stx.stx_dio_mem_align));
	if (file->info.alignment > ALIGNMENT_MIN && file->info.alignment < ALIGNMENT_MAX)
		file->info.alignment = ALIGNMENT_MAX;
}

void io_file_info(const struct io_file *file, struct io_file_info *ret_info)
{
	struct stat st;

	*ret_info = file->info;
	if (!file->info.is_device && fstat(file->fd, &st) == 0)
		ret_info->size = (uint64_t)st.st_size;
}

uint64_t io_file_space(const struct io_file *file)
{
	struct statvfs fs;

	if (file->info.is_device || fstatvfs(file->fd, &fs) < 0)
		return UINT64_MAX;
	return (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* ---- Reading and writing ---------------------------------------------------------------------
 */

/* `state` of a file operation. */
enum file_state {
	FILE_FIRST,
	FILE_BLOCKING, /* had EAGAIN: a kernel thread is to wait in our stead */
};

/* What all operations have in common; the caller then finishes the op or gives it to the ring. */
static void file_begin(struct io_loop *loop, struct io_op *op, struct io_file *file, int kind,
		       uint64_t offset)
{
	loop_started(loop);
	op->loop = loop;
	op->file = file;
	op->kind = kind;
	op->state = FILE_FIRST;
	op->offset = offset;
}

static void transfer_start(struct io_loop *loop, struct io_op *op, struct io_file *file, int kind,
			   uint64_t offset)
{
	uint64_t all = offset;

	for (int i = 0; i < op->n_iov; i++)
		all |= (uintptr_t)op->iov[i].iov_base | op->iov[i].iov_len;
	CHECK(is_aligned(all, file->info.alignment));
	CHECK(offset <= INT64_MAX - op->wanted);
	file_begin(loop, op, file, kind, offset);
	if (op->wanted == 0)
		op_finish(loop, op, 0);
	else
		ring_start(loop, op);
}

void io_read(struct io_loop *loop, struct io_op *op, struct io_file *file, void *buf, size_t len,
	     uint64_t offset)
{
	op_set_buf(op, buf, len);
	transfer_start(loop, op, file, OP_READ, offset);
}

void io_readv(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	      int n, uint64_t offset)
{
	op_set_iov(op, iov, n);
	transfer_start(loop, op, file, OP_READ, offset);
}

void io_write(struct io_loop *loop, struct io_op *op, struct io_file *file, const void *buf,
	      size_t len, uint64_t offset)
{
	op_set_buf(op, (void *)(uintptr_t)buf, len);
	transfer_start(loop, op, file, OP_WRITE, offset);
}

void io_writev(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	       int n, uint64_t offset)
{
	op_set_iov(op, iov, n);
	transfer_start(loop, op, file, OP_WRITE, offset);
}

void io_sync(struct io_loop *loop, struct io_op *op, struct io_file *file)
{
	file_begin(loop, op, file, OP_SYNC, 0);
	ring_start(loop, op);
}

/* Not by ftruncate: between looking at the size and setting it, a write could have made the file
 * longer, and would be cut off. Allocating the last block only ever makes a file grow. */
void io_grow(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t size)
{
	struct io_file_info info;

	CHECK(size <= INT64_MAX);
	file_begin(loop, op, file, OP_GROW, size);
	io_file_info(file, &info);
	if (info.size >= size)
		op_finish(loop, op, 0);
	else if (info.is_device)
		op_finish(loop, op, -ENOSPC);
	else
		ring_start(loop, op);
}

void io_reserve(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
		uint64_t len)
{
	CHECK(offset <= INT64_MAX);
	CHECK(len <= INT64_MAX - offset);
	file_begin(loop, op, file, OP_RESERVE, offset);
	op->wanted = len;
	if (len == 0 || file->info.is_device)
		op_finish(loop, op, 0);
	else
		ring_start(loop, op);
}

static void discard_run(struct io_work *work);
static void discard_done(struct io_work *work);

_Static_assert(sizeof(struct io_work) <= sizeof(((struct io_op *)0)->private),
	       "a work fits into io_op.private");

void io_punch(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
	      uint64_t len)
{
	CHECK(offset <= INT64_MAX);
	CHECK(len <= INT64_MAX - offset);
	file_begin(loop, op, file, OP_PUNCH, offset);
	op->wanted = len;
	if (len == 0) {
		op_finish(loop, op, 0);
	} else if (file->info.is_device) {
		struct io_work *work = (struct io_work *)op->private;

		work->run = discard_run;
		work->done = discard_done;
		io_work(loop, work);
	} else {
		ring_start(loop, op);
	}
}

/* In a worker: the ring has no discard before Linux 6.12. */
static void discard_run(struct io_work *work)
{
	struct io_op *op = container_of(work, struct io_op, private);
	uint64_t range[2] = {op->offset, op->wanted};

	op->result = ioctl(op->file->fd, BLKDISCARD, range) < 0 ? -errno : 0;
	if (op->result == -ENOTTY)
		op->result = -EOPNOTSUPP;
}

static void discard_done(struct io_work *work)
{
	struct io_op *op = container_of(work, struct io_op, private);

	op_finish(op->loop, op, op->result);
}

/* ---- The ring's side -------------------------------------------------------------------------
 */

static void transfer_prepare(struct io_op *op, struct io_uring_sqe *sqe)
{
	uint64_t offset = op->offset + op->moved;
	unsigned len = (unsigned)min_u64(op->iov->iov_len, XFER_BATCH_MAX);
	unsigned n = (unsigned)min_u64((unsigned)op->n_iov, IOV_BATCH_MAX);
	int fd = op->file->fd;

	if (op->kind == OP_READ && n == 1)
		io_uring_prep_read(sqe, fd, op->iov->iov_base, len, offset);
	else if (op->kind == OP_READ)
		io_uring_prep_readv(sqe, fd, op->iov, n, offset);
	else if (n == 1)
		io_uring_prep_write(sqe, fd, op->iov->iov_base, len, offset);
	else
		io_uring_prep_writev(sqe, fd, op->iov, n, offset);
}

void file_prepare(struct io_op *op, struct io_uring_sqe *sqe)
{
	int fd = op->file->fd;

	if (op->kind == OP_SYNC)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (op->kind == OP_GROW)
		io_uring_prep_fallocate(sqe, fd, 0, (off_t)op->offset - 1, 1);
	else if (op->kind == OP_RESERVE)
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
					(off_t)op->wanted);
	else if (op->kind == OP_PUNCH)
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)op->offset, (off_t)op->wanted);
	else
		transfer_prepare(op, sqe);
	if (op->state == FILE_BLOCKING)
		sqe->flags |= IOSQE_ASYNC;
}

/* A transfer that stops short goes on from the last aligned place. If there is not even one block,
 * it is the end of the file, or a device that will never get on. */
static enum op_next transfer_complete(struct io_op *op, uint64_t moved)
{
	if (op->moved + moved < op->wanted)
		moved = round_down(moved, op->file->info.alignment);
	if (moved == 0) {
		op->result = -EIO;
		return OP_DONE;
	}
	op_advance(op, moved);
	op->result = (int64_t)op->moved;
	return op->moved < op->wanted ? OP_AGAIN : OP_DONE;
}

enum op_next file_complete(struct io_op *op, int result)
{
	if (result == -EINTR || result == -EAGAIN) {
		op->state = FILE_BLOCKING;
		return OP_AGAIN;
	}
	if (result >= 0 && (op->kind == OP_READ || op->kind == OP_WRITE))
		return transfer_complete(op, (uint64_t)result);
	op->result = result;
	return OP_DONE;
}
