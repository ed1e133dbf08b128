/* SPDX-License-Identifier: Apache-2.0
 *
 * The ring: set-up, submission, completion. Every SQE but a cancellation belongs to an io_op, whose
 * address is its user_data. What finds no SQE waits in the backlog, in order, for the next turn.
 */
#include "io/internal.h"

#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SQ_ENTRIES_MAX 32768
/* Receives and accepts that wait take no CQE, so there may be many more of them than SQEs. What
 * still finds no room is kept by the kernel (IORING_FEAT_NODROP). */
#define CQ_PER_SQ 16
/* Completions in one turn; then hooks run and new work is submitted. */
#define REAP_MAX 512
/* So many at a time go to the kernel within a turn. All at its end would be fewer calls, but the
 * disk would stand idle while a long batch is prepared, and then everything finish at once, again
 * and again: a seventh of the device's reads a second was lost to that. */
#define SUBMIT_EARLY   4
#define RETRY_PAUSE_NS 1000000 /* when the kernel is out of memory and nothing is at hand */

/* NODROP: no completion is lost. SUBMIT_STABLE: a msghdr may be reused once it is submitted.
 * FAST_POLL: sockets wait without threads. EXT_ARG: a sleep has an end. */
#define FEATURES_NEEDED                                                                            \
	(IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL |                  \
	 IORING_FEAT_EXT_ARG)

static bool ring_take(struct io_loop *loop, struct io_op *op);

/* ---- Set-up ----------------------------------------------------------------------------------
 */

/* The value of kernel.io_uring_disabled: 0 on, 1 only for the privileged, 2 off; -1 unknown. */
static int sysctl_disabled(void)
{
	char text[8] = {0};
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 && text[0] >= '0' && text[0] <= '2' ? text[0] - '0' : -1;
}

static int ring_refused(int code, struct err *err)
{
	switch (-code) {
	case ENOSYS:
	case EINVAL:
	case EOPNOTSUPP:
		return err_set(err, code,
			       "this kernel's io_uring is missing or too old (%s); Linux 6.1 or "
			       "newer is needed",
			       strerror(-code));
	case EPERM:
	case EACCES:
		if (sysctl_disabled() > 0)
			return err_set(
			    err, code,
			    "io_uring is switched off on this machine; set sysctl "
			    "kernel.io_uring_disabled=0 (or 1, and put this user's group "
			    "into kernel.io_uring_group)");
		return err_set(
		    err, code,
		    "io_uring is refused, most likely by a seccomp filter (a container, or "
		    "SystemCallFilter= of the unit); allow io_uring_setup, io_uring_enter "
		    "and io_uring_register");
	case ENOMEM:
		return err_set(
		    err, code,
		    "no memory for an io_uring; raise the locked-memory limit (ulimit -l, "
		    "LimitMEMLOCK= of the unit) or the cgroup's memory limit");
	case EMFILE:
	case ENFILE:
		return err_set(
		    err, code,
		    "no descriptor is left for an io_uring; raise the limit of open files "
		    "(ulimit -n, LimitNOFILE= of the unit)");
	default:
		return err_set(err, code, "can't set up an io_uring: %s", strerror(-code));
	}
}

int ring_open(struct io_loop *loop, unsigned entries, struct err *err)
{
	/* Best first. Each is refused with -EINVAL by kernels that don't know it: 6.1, 5.19, 5.11.
	 * R_DISABLED, since the ring is to belong to the thread that will run the loop. */
	static const unsigned flags[] = {
	    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
	    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	    0,
	};
	int ret = -EINVAL;

	entries = (unsigned)min_u64(entries ? entries : SQ_ENTRIES_DFLT, SQ_ENTRIES_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(flags) && ret == -EINVAL; i++) {
		struct io_uring_params params = {
		    .flags = flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE |
			     IORING_SETUP_CLAMP,
		    .cq_entries = entries * CQ_PER_SQ,
		};

		ret = io_uring_queue_init_params(entries, &loop->ring, &params);
		if (ret < 0)
			continue;
		loop->ring_open = true;
		if ((params.features & FEATURES_NEEDED) != FEATURES_NEEDED)
			return ring_refused(-ENOSYS, err);
	}
	if (ret < 0)
		return ring_refused(ret, err);
	loop->msgs = mem_calloc(loop->ring.sq.ring_entries, sizeof(*loop->msgs));
	if (!loop->msgs)
		return err_set(err, -ENOMEM, "out of memory for a loop");
	return 0;
}

void ring_close(struct io_loop *loop)
{
	if (loop->ring_open)
		io_uring_queue_exit(&loop->ring);
	loop->ring_open = false;
	mem_free(loop->msgs);
	loop->msgs = NULL;
}

int ring_attach(struct io_loop *loop)
{
	int ret = 0;

	if (!loop->ring_enabled) {
		/* liburing 2.3 does not export io_uring_enable_rings. */
		ret = io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS,
					NULL, 0);
		if (ret < 0)
			return ret;
		loop->ring_enabled = true;
		ring_start(loop, &loop->wake_op);
	}
	/* Saves a look-up of the descriptor in each system call; a kernel before 5.18 refuses. */
	io_uring_register_ring_fd(&loop->ring);
	return 0;
}

void ring_detach(struct io_loop *loop)
{
	io_uring_unregister_ring_fd(&loop->ring);
}

/* ---- Submission ------------------------------------------------------------------------------
 */

void ring_start(struct io_loop *loop, struct io_op *op)
{
	if (loop->backlog.head || !ring_take(loop, op))
		op_list_push(&loop->backlog, op);
	else if (loop->running && io_uring_sq_ready(&loop->ring) >= SUBMIT_EARLY)
		io_uring_submit(&loop->ring); /* what is refused stays, for ring_enter() */
}

/* False: no SQE is free. */
static bool ring_take(struct io_loop *loop, struct io_op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	if (!sqe)
		return false;
	switch ((enum op_kind)op->kind) {
	case OP_READ:
	case OP_WRITE:
	case OP_SYNC:
	case OP_GROW:
	case OP_RESERVE:
	case OP_PUNCH:
		file_prepare(op, sqe);
		break;
	case OP_ACCEPT:
	case OP_RECV:
	case OP_SEND:
		sock_prepare(op, sqe, &loop->msgs[sqe - loop->ring.sq.sqes]);
		break;
	case OP_WAKE:
		io_uring_prep_read(sqe, loop->wake_fd, &loop->wake_count, sizeof(loop->wake_count),
				   0);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
	return true;
}

/* True: it was there, and is no more. */
static bool backlog_remove(struct io_loop *loop, struct io_op *op)
{
	struct op_list rest = {0};
	struct io_op *other;
	bool found = false;

	while ((other = op_list_pop(&loop->backlog)) != NULL) {
		if (other == op)
			found = true;
		else
			op_list_push(&rest, other);
	}
	loop->backlog = rest;
	return found;
}

void ring_cancel(struct io_loop *loop, struct io_op *op)
{
	struct io_uring_sqe *sqe;

	if (backlog_remove(loop, op)) {
		op_finish(loop, op, -ECANCELED);
		return;
	}
	sqe = io_uring_get_sqe(&loop->ring);
	if (!sqe) {
		io_uring_submit(&loop->ring);
		sqe = io_uring_get_sqe(&loop->ring);
	}
	/* None even so: the kernel is out of memory, and the operation runs on. */
	if (!sqe)
		return;
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL); /* nobody waits for the outcome */
}

static void backlog_take(struct io_loop *loop)
{
	while (loop->backlog.head) {
		struct io_op *op = loop->backlog.head, *next = op->next;

		if (!ring_take(loop, op))
			return;
		loop->backlog.head = next;
	}
}

/* Submits, and sleeps until something completes or the next timer is due. */
static int ring_sleep(struct io_loop *loop)
{
	uint64_t deadline = timers_next(loop), now;
	struct io_uring_cqe *cqe;
	struct __kernel_timespec ts;

	if (deadline == UINT64_MAX)
		return io_uring_submit_and_wait(&loop->ring, 1);
	now = clock_now();
	if (deadline <= now)
		return io_uring_submit_and_get_events(&loop->ring);
	ts.tv_sec = (long long)((deadline - now) / NSEC_PER_SEC);
	ts.tv_nsec = (long long)((deadline - now) % NSEC_PER_SEC);
	return io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
}

int ring_enter(struct io_loop *loop, bool wait)
{
	const struct timespec pause = {.tv_nsec = RETRY_PAUSE_NS};
	int ret;

	backlog_take(loop);
	if (wait && !loop->backlog.head)
		ret = ring_sleep(loop);
	else
		ret = io_uring_submit_and_get_events(&loop->ring);
	if (ret >= 0)
		return 0;
	switch (-ret) {
	case ETIME:
	case EINTR:
		return 0;
	case EAGAIN: /* no memory for requests now */
	case ENOMEM:
	case EBUSY: /* completions must be reaped first */
		if (io_uring_cq_ready(&loop->ring) == 0)
			nanosleep(&pause, NULL);
		return 0;
	default:
		return ret;
	}
}

/* ---- Completion ------------------------------------------------------------------------------
 */

static enum op_next op_complete(struct io_op *op, int result)
{
	switch ((enum op_kind)op->kind) {
	case OP_READ:
	case OP_WRITE:
	case OP_SYNC:
	case OP_GROW:
	case OP_RESERVE:
	case OP_PUNCH:
		return file_complete(op, result);
	case OP_ACCEPT:
	case OP_RECV:
	case OP_SEND:
		return sock_complete(op, result);
	case OP_WAKE:
		return wake_complete(op, result);
	}
	check_failed("an operation of no known kind", __FILE__, __LINE__);
}

void ring_reap(struct io_loop *loop)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&loop->ring, head, cqe)
	{
		struct io_op *op = io_uring_cqe_get_data(cqe);

		if (!op) /* a cancellation's own */
			;
		else if (op_complete(op, cqe->res) == OP_AGAIN)
			ring_start(loop, op);
		else if (op != &loop->wake_op)
			op_list_push(&loop->done, op);
		if (++n == REAP_MAX)
			break;
	}
	io_uring_cq_advance(&loop->ring, n);
}
