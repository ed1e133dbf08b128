/* SPDX-License-Identifier: Apache-2.0
 *
 * WAIST 3: what the machine looks like to the daemon. Files, sockets, timers, other threads, the
 * clock, chance. Two implementations are chosen at link time: io/io_uring.c, and tests/sim/ (fake
 * disk, network, clock; workers inline), in which a seed decides everything.
 *
 * Rules that hold for every operation below:
 *  - An `io_op` lives in the caller's object and belongs to io/ from the call that starts it until
 * `done` runs. Starting can't fail, for lack of memory or anything else: every error comes by
 * `result`.
 *  - `done` never runs inside the call that started the operation, even on an instant error. It
 * runs on the loop that was named in the call. It may start operations, its own op again included.
 *  - All functions are called from the loop's own thread, unless it says "any thread".
 *  - Short transfers, EINTR and EAGAIN are finished in here. `result` is all the bytes or a
 * negative errno; a read that ends at the end of the file is -EIO.
 *  - An array of iovecs belongs to io/ until `done`, and is altered by it.
 */
#ifndef IO_IO_H
#define IO_IO_H

#include "base/err.h"
#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct io_loop;
struct io_file;
struct io_sock;

struct io_op {
	void (*done)(struct io_op *op); /* set by the caller before each start */
	int64_t result;                 /* bytes, 0, or a negative errno */

	/* io/'s own from here on. */
	struct io_op *next;
	struct io_loop *loop;
	struct io_file *file;
	struct io_sock *sock;
	struct iovec *iov;
	struct iovec iov_one;
	int n_iov;
	int kind;
	int state;
	uint64_t offset; /* file offset; for timers the deadline */
	size_t wanted;   /* bytes that make the op complete */
	size_t moved;    /* bytes so far */
	uint64_t private[4];
};

/* ---- Loops ------------------------------------------------------------------------------------
 */

struct io_loop_config {
	const char *name;       /* thread name, at most 15 bytes */
	unsigned queue_entries; /* ring size; 0: the default */
	unsigned n_workers;     /* CPU worker threads; 0: the default */
	int cpu;                /* pin to this CPU; -1: do not */
};

/* A loop without a thread yet. Set-up may start operations; they run once the loop does. */
int io_loop_new(const struct io_loop_config *config, struct io_loop **ret_loop, struct err *err);
/* Runs until io_loop_stop. Returns 0 or -errno when the ring itself fails. An idle loop sleeps. */
int io_loop_run(struct io_loop *loop);
/* As io_loop_run, in a thread of its own. io_loop_join waits for its end and returns what it
 * returned. */
int io_loop_start(struct io_loop *loop, struct err *err);
int io_loop_join(struct io_loop *loop);
/* Any thread. The loop returns after the turn under way; operations in flight are abandoned, so
 * stop only what is quiet. */
void io_loop_stop(struct io_loop *loop);
void io_loop_free(struct io_loop *loop); /* NULL is legal; the loop must not be running */

/* A hook runs in each turn of the loop: after the completions at hand were delivered, before the
 * ring is submitted and the loop sleeps. Group commit and reply batching live here. Hooks run in
 * the order of adding, again and again until a whole pass starts nothing and delivers nothing. */
struct io_hook {
	void (*run)(struct io_hook *hook);
	struct list node;
};
void io_hook_add(struct io_loop *loop, struct io_hook *hook);
void io_hook_remove(struct io_hook *hook);

/* Completes `op` with `result` on a later turn of this loop. */
void io_defer(struct io_loop *loop, struct io_op *op, int64_t result);

/* ---- Between threads --------------------------------------------------------------------------
 */

/* A message runs once on the target loop. Its memory belongs to the target from io_post on. */
struct io_msg {
	void (*run)(struct io_msg *msg);
	struct io_msg *next;
};
/* Any thread. Messages from one thread to one loop arrive in order. */
void io_post(struct io_loop *to, struct io_msg *msg);

/* CPU work (hashing, sorting, compression): `run` in a worker thread, then `done` on the loop.
 * `run` must touch nothing but what the caller set aside for it. */
struct io_work {
	void (*run)(struct io_work *work);
	void (*done)(struct io_work *work);
	struct io_loop *loop;
	struct io_work *next;
};
void io_work(struct io_loop *loop, struct io_work *work);
/* The same for work that waits for the machine (files of a directory, a network library), on
 * threads of its own, started at the first use, so that no hashing waits behind an fsync. */
void io_work_blocking(struct io_loop *loop, struct io_work *work);

/* ---- Clock, timers, chance --------------------------------------------------------------------
 */

uint64_t io_now(struct io_loop *loop);        /* monotonic, ns; may be as old as the turn's start */
uint64_t io_wall_clock(struct io_loop *loop); /* ns since 1970 */
void io_random(struct io_loop *loop, void *buf, size_t len); /* from the kernel, fit for secrets */

/* Completes with 0 `delay_ns` from now, or with -ECANCELED after io_timer_cancel. */
void io_timer(struct io_loop *loop, struct io_op *op, uint64_t delay_ns);
/* `op` must be running; it still completes, by `done`, exactly once (perhaps with 0: the race is
 * legal). */
void io_timer_cancel(struct io_loop *loop, struct io_op *op);

/* ---- Files ------------------------------------------------------------------------------------
 */

enum io_open_flags {
	IO_OPEN_CREATE = 1,    /* make it if missing (mode 0600), and make its name durable */
	IO_OPEN_READ_ONLY = 2, /* takes no lock */
	IO_OPEN_EXCLUSIVE = 4, /* refuse with -EBUSY what another process holds with this flag */
};

struct io_file_info {
	uint64_t size;      /* bytes */
	uint32_t alignment; /* of offsets, lengths and addresses: 512 or 4096 */
	bool direct;        /* O_DIRECT is in force (a file system may refuse it) */
	bool is_device;     /* a block device: its size is what it is */
};

/* Set-up calls: they block, and are not for the data path. */
int io_file_open(const char *path, int flags, struct io_file **ret_file, struct err *err);
void io_file_close(struct io_file *file); /* NULL is legal */
void io_file_info(const struct io_file *file, struct io_file_info *ret_info);
/* Bytes by which what is below could still let the file grow; UINT64_MAX for a device, or where
 * nobody can tell. Any thread. */
uint64_t io_file_space(const struct io_file *file);

/* Data path. Offsets, lengths and addresses are multiples of the file's alignment. A file may be
 * used by several loops. Writes go past the end of a file and make it grow. */
void io_read(struct io_loop *loop, struct io_op *op, struct io_file *file, void *buf, size_t len,
	     uint64_t offset);
void io_readv(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	      int n, uint64_t offset);
void io_write(struct io_loop *loop, struct io_op *op, struct io_file *file, const void *buf,
	      size_t len, uint64_t offset);
void io_writev(struct io_loop *loop, struct io_op *op, struct io_file *file, struct iovec *iov,
	       int n, uint64_t offset);
/* All writes to `file` that completed (on any loop) before this call are durable when it completes
 * with 0 (fdatasync). After an error nothing may be assumed of any of them. */
void io_sync(struct io_loop *loop, struct io_op *op, struct io_file *file);
/* Makes the file at least `size` bytes long (new bytes read as zeroes); durable after io_sync. */
void io_grow(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t size);
/* Has what is below set space aside for the range, so that writing there can't fail for want of it;
 * nothing to do on a device. Durable after io_sync. -ENOSPC; -EOPNOTSUPP where there is no such
 * thing. */
void io_reserve(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
		uint64_t len);
/* Gives the range back to what is below (hole punch, discard). It then reads as zeroes or, on a
 * device, as anything. -EOPNOTSUPP where there is no such thing. */
void io_punch(struct io_loop *loop, struct io_op *op, struct io_file *file, uint64_t offset,
	      uint64_t len);

/* ---- Sockets ----------------------------------------------------------------------------------
 */

/* A stream socket or listener around a descriptor of the machine; takes it over. The simulator
 * makes its sockets by its own means. NULL: out of memory, and `fd` is closed. */
struct io_sock *io_sock_from_fd(int fd);
/* Any op on it has completed. Moving a quiet socket to another loop needs nothing. NULL is legal.
 */
void io_sock_close(struct io_sock *sock);
/* Makes operations that run or come end: receiving with 0, sending with -EPIPE, accepting with
 * -ECANCELED or another error. They still complete by `done`. */
void io_sock_shutdown(struct io_loop *loop, struct io_sock *sock);
/* "unix" or "192.0.2.1:4711", for logs. Returns `text`. */
const char *io_sock_peer(const struct io_sock *sock, char text[64]);
/* True on AF_UNIX sockets. */
bool io_sock_is_local(const struct io_sock *sock);

/* Takes one connection: result 0 and *ret_sock set (TCP_NODELAY and keepalive are), or an error. */
void io_accept(struct io_loop *loop, struct io_op *op, struct io_sock *listener,
	       struct io_sock **ret_sock);
/* Completes when at least `min` bytes (1 or more) and at most `max` are in `buf`, result = bytes;
 * or when the peer has finished sending: result < min, 0 included; or with a negative errno. */
void io_recv(struct io_loop *loop, struct io_op *op, struct io_sock *sock, void *buf, size_t min,
	     size_t max);
/* Sends all of it (at most 1024 iovecs); one send at a time on a socket. A peer that has gone is
 * -EPIPE or -ECONNRESET, never a signal. */
void io_send(struct io_loop *loop, struct io_op *op, struct io_sock *sock, struct iovec *iov,
	     int n);

#endif
