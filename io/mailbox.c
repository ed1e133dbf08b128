/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between threads. The mailbox is one atomic word: a stack of messages, newest first,
 * whose last element may be MAILBOX_ASLEEP. Since "has messages" and "may be asleep" are the same
 * word, no wake-up can fall between the two:
 *
 *  - The loop goes to sleep by changing NULL to MAILBOX_ASLEEP. If a message is there already, that
 *    fails, and it does not sleep.
 *  - A sender that puts its message upon MAILBOX_ASLEEP writes the eventfd, which ends the sleep,
 *    begun or not: the ring holds a read of it. Later senders find a message there, and write
 *    nothing: a burst costs one system call, and a busy loop none.
 *  - The loop takes the stack by exchanging it for NULL, and turns it round.
 *
 * Release by the sender's exchange and acquire by the loop's hand over what a message points at.
 */
#include "io/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct io_msg mailbox_asleep; /* only its address counts */

#define MAILBOX_ASLEEP (&mailbox_asleep)

int mailbox_open(struct io_loop *loop, struct err *err)
{
	loop->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->wake_fd < 0)
		return err_set(err, -errno,
			       "can't make an eventfd: %s; is the limit of open files reached?",
			       strerror(errno));
	atomic_init(&loop->mailbox, NULL);
	loop->wake_op.kind = OP_WAKE;
	loop->wake_op.loop = loop;
	op_set_buf(&loop->wake_op, &loop->wake_count, sizeof(loop->wake_count));
	return 0;
}

void mailbox_close(struct io_loop *loop)
{
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	loop->wake_fd = -1;
}

static void mailbox_wake(struct io_loop *loop)
{
	uint64_t one = 1;
	ssize_t n;

	do
		n = write(loop->wake_fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
	CHECK(n == sizeof(one));
}

void io_post(struct io_loop *to, struct io_msg *msg)
{
	struct io_msg *top = atomic_load_explicit(&to->mailbox, memory_order_relaxed);

	do
		msg->next = top;
	while (!atomic_compare_exchange_weak_explicit(&to->mailbox, &top, msg, memory_order_release,
						      memory_order_relaxed));
	/* From here on `msg` is the loop's. */
	if (top == MAILBOX_ASLEEP)
		mailbox_wake(to);
}

void mailbox_run(struct io_loop *loop)
{
	struct io_msg *top, *oldest = NULL;

	if (!atomic_load_explicit(&loop->mailbox, memory_order_relaxed))
		return;
	top = atomic_exchange_explicit(&loop->mailbox, NULL, memory_order_acquire);
	while (top && top != MAILBOX_ASLEEP) {
		struct io_msg *older = top->next;

		top->next = oldest;
		oldest = top;
		top = older;
	}
	while (oldest) {
		struct io_msg *msg = oldest;

		oldest = msg->next;
		msg->run(msg);
	}
}

bool mailbox_sleep(struct io_loop *loop)
{
	struct io_msg *none = NULL;

	return atomic_compare_exchange_strong_explicit(&loop->mailbox, &none, MAILBOX_ASLEEP,
						       memory_order_relaxed, memory_order_relaxed);
}

enum op_next wake_complete(struct io_op *op, int result)
{
	if (result < 0 && result != -EINTR && result != -EAGAIN) {
		op->loop->failure = result; /* without it the loop would be deaf */
		op->result = result;
		return OP_DONE;
	}
	return OP_AGAIN;
}
