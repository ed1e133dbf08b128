/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of io/ share; nobody else includes it.
 *
 *   loop.c      the turn, hooks, deferred operations, life of a loop, clock and chance
 *   io_uring.c  the ring: set-up, submission, completion
 *   mailbox.c   messages from other threads, and the wake-up of a sleeping loop
 *   timer.c     timers, in a heap made of the io_ops themselves
 *   work.c      CPU worker threads
 *   iovec.c     partial transfers
 *   file.c, sock.c   what is read and written
 *
 * Threads: everything here belongs to the loop's thread, but for what says otherwise. An io_op is
 * in one place at a time: the ring, the backlog, the done list, the timer heap, or a worker.
 */
#ifndef IO_INTERNAL_H
#define IO_INTERNAL_H

#include "base/check.h"
#include "io/io.h"

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

enum op_kind {
	OP_READ,
	OP_WRITE,
	OP_SYNC,
	OP_GROW,
	OP_RESERVE,
	OP_PUNCH,
	OP_ACCEPT,
	OP_RECV,
	OP_SEND,
	OP_WAKE, /* the loop's own: reads the eventfd */
};

/* What becomes of an operation that the kernel has completed. */
enum op_next {
	OP_DONE,  /* op->result is set */
	OP_AGAIN, /* something is left: submit it again */
};

/* The kernel takes at most this many iovecs, and 32 bits of length, in one call. */
#define IOV_BATCH_MAX   1024
#define XFER_BATCH_MAX  ((size_t)1 << 30)
#define LOOP_NAME_MAX   16
#define N_WORKERS_MAX   64
#define SQ_ENTRIES_DFLT 256

struct op_list {
	struct io_op *head;
	struct io_op *tail;
};

struct worker_pool;

struct work_queue {
	struct io_work *head; /* new works of this turn, in order */
	struct io_work *tail;
	struct worker_pool *pool; /* NULL: not started yet */
};

struct io_loop {
	char name[LOOP_NAME_MAX];
	int cpu;
	pthread_t thread; /* made by io_loop_start */
	pthread_t runner; /* the thread that runs the loop, while `running` */
	bool running;
	int run_result; /* for io_loop_join */

	struct io_uring ring;
	bool ring_open;
	bool ring_enabled;
	struct msghdr *msgs;    /* one for each SQE: the kernel reads it when it takes the SQE */
	struct op_list backlog; /* found no SQE */
	struct op_list done;    /* have a result, and wait for `done` to be called */
	uint64_t n_started;     /* all operations and works, ever */
	int failure;            /* a negative errno that ends the loop */

	struct list hooks;
	uint64_t now;
	struct io_op *timers; /* root of the heap; NULL: none */
	uint64_t timer_seq;

	/* Any thread. Newest first; MAILBOX_ASLEEP at the end of the list says that the loop may be
	 * asleep in the kernel. See mailbox.c. */
	_Atomic(struct io_msg *) mailbox;
	int wake_fd;
	uint64_t wake_count; /* the eventfd is read to here */
	struct io_op wake_op;
	atomic_bool stop;
	atomic_bool stop_posted;
	struct io_msg stop_msg;

	struct work_queue cpu_works;
	struct work_queue blocking_works;
	_Atomic(struct io_work *) works_done; /* any thread; newest first */
	struct io_msg works_msg;
};

static inline void op_list_push(struct op_list *l, struct io_op *op)
{
	op->next = NULL;
	if (l->head)
		l->tail->next = op;
	else
		l->head = op;
	l->tail = op;
}

static inline struct io_op *op_list_pop(struct op_list *l)
{
	struct io_op *op = l->head;

	if (op)
		l->head = op->next;
	return op;
}

/* ---- loop.c ----------------------------------------------------------------------------------
 */

/* CHECKs the thread, and counts what is started for the hooks' sake. */
void loop_started(struct io_loop *loop);
/* Gives `op` its result; `done` runs later. */
void op_finish(struct io_loop *loop, struct io_op *op, int64_t result);
uint64_t clock_now(void);
/* A thread that takes no signals. `cpu` -1: on any CPU. 0 or -errno. */
int thread_start(pthread_t *ret_thread, int cpu, void *(*run)(void *), void *context);

/* ---- io_uring.c ------------------------------------------------------------------------------
 */

int ring_open(struct io_loop *loop, unsigned entries, struct err *err);
void ring_close(struct io_loop *loop);
/* Binds the ring to the calling thread. */
int ring_attach(struct io_loop *loop);
void ring_detach(struct io_loop *loop);
/* Starts an operation that the kernel carries out; kind and all else are set. */
void ring_start(struct io_loop *loop, struct io_op *op);
/* Asks the kernel to end an operation soon; it completes as ever, with -ECANCELED if that worked.
 */
void ring_cancel(struct io_loop *loop, struct io_op *op);
/* Moves completions, up to the turn's budget, to the done list or back to the kernel. */
void ring_reap(struct io_loop *loop);
/* Submits all there is; with `wait`, sleeps until a completion or the next timer. 0 or -errno. */
int ring_enter(struct io_loop *loop, bool wait);

/* ---- mailbox.c -------------------------------------------------------------------------------
 */

int mailbox_open(struct io_loop *loop, struct err *err);
void mailbox_close(struct io_loop *loop);
void mailbox_run(struct io_loop *loop);
/* False: there are messages, do not sleep. True: whoever posts from now on wakes the loop. */
bool mailbox_sleep(struct io_loop *loop);
enum op_next wake_complete(struct io_op *op, int result);

/* ---- timer.c ---------------------------------------------------------------------------------
 */

void timers_expire(struct io_loop *loop);
/* The earliest deadline, or UINT64_MAX. */
uint64_t timers_next(const struct io_loop *loop);

/* ---- work.c ----------------------------------------------------------------------------------
 */

int workers_open(struct io_loop *loop, unsigned n, struct err *err);
void workers_close(struct io_loop *loop);
/* Hands the turn's new works to the workers. */
void workers_flush(struct io_loop *loop);

/* ---- iovec.c ---------------------------------------------------------------------------------
 */

/* Sets the op's iovecs, the sum of their lengths as `wanted`, and `moved` to 0. */
void op_set_iov(struct io_op *op, struct iovec *iov, int n);
void op_set_buf(struct io_op *op, void *buf, size_t len);
/* Takes n bytes, which have been moved, off the front of the iovecs. */
void op_advance(struct io_op *op, size_t n);

/* ---- file.c, sock.c --------------------------------------------------------------------------
 */

void file_prepare(struct io_op *op, struct io_uring_sqe *sqe);
enum op_next file_complete(struct io_op *op, int result);
/* `msg` stays untouched until the SQE is submitted. */
void sock_prepare(struct io_op *op, struct io_uring_sqe *sqe, struct msghdr *msg);
enum op_next sock_complete(struct io_op *op, int result);

#endif
