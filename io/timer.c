/* SPDX-License-Identifier: Apache-2.0
 *
 * Timers in a pairing heap whose nodes are the io_ops themselves: no memory of its own, starting
 * is O(1), expiry and cancelling O(log n) amortised. The loop's sleep ends at the root's deadline.
 */
#include "io/internal.h"

#include "base/util.h"

enum timer_state { TIMER_WAITS, TIMER_ENDED };

/* Kept in io_op.private. The children of a node are a list from `child` by `next`; `prev` is the
 * left sibling, or for the first child the parent. */
struct timer_links {
	struct io_op *child;
	struct io_op *next;
	struct io_op *prev;
	uint64_t seq; /* the order of starting, among equal deadlines */
};

_Static_assert(sizeof(struct timer_links) <= sizeof(((struct io_op *)0)->private),
	       "the links fit into io_op.private");

static struct timer_links *links(struct io_op *op)
{
	return (struct timer_links *)op->private;
}

static bool is_earlier(struct io_op *a, struct io_op *b)
{
	if (a->offset != b->offset)
		return a->offset < b->offset;
	return links(a)->seq < links(b)->seq;
}

/* Makes one heap of two roots; each may be NULL. */
static struct io_op *heap_merge(struct io_op *a, struct io_op *b)
{
	struct io_op *root = a, *child = b;

	if (!a || !b)
		return a ? a : b;
	if (is_earlier(b, a)) {
		root = b;
		child = a;
	}
	links(child)->prev = root;
	links(child)->next = links(root)->child;
	if (links(child)->next)
		links(links(child)->next)->prev = child;
	links(root)->child = child;
	return root;
}

/* Makes one heap of a list of siblings: neighbours first, then all the pairs. */
static struct io_op *heap_merge_siblings(struct io_op *first)
{
	struct io_op *pairs = NULL, *root = NULL;

	while (first) {
		struct io_op *a = first, *b = links(a)->next;

		first = b ? links(b)->next : NULL;
		links(a)->next = NULL;
		if (b)
			links(b)->next = NULL;
		a = heap_merge(a, b);
		links(a)->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct io_op *next = links(pairs)->next;

		links(pairs)->next = NULL;
		root = heap_merge(root, pairs);
		pairs = next;
	}
	if (root)
		links(root)->prev = NULL;
	return root;
}

static void heap_remove(struct io_op **root, struct io_op *op)
{
	struct timer_links *l = links(op);
	struct io_op *below = heap_merge_siblings(l->child);

	if (op == *root) {
		*root = below;
		return;
	}
	if (links(l->prev)->child == op)
		links(l->prev)->child = l->next;
	else
		links(l->prev)->next = l->next;
	if (l->next)
		links(l->next)->prev = l->prev;
	*root = heap_merge(*root, below);
}

static void timer_end(struct io_loop *loop, struct io_op *op, int result)
{
	heap_remove(&loop->timers, op);
	op->state = TIMER_ENDED;
	op_finish(loop, op, result);
}

void io_timer(struct io_loop *loop, struct io_op *op, uint64_t delay_ns)
{
	uint64_t now = clock_now(); /* not io_now, which is late: a timer never ends early */

	loop_started(loop);
	op->loop = loop;
	op->state = TIMER_WAITS;
	op->offset = delay_ns < UINT64_MAX - now ? now + delay_ns : UINT64_MAX;
	*links(op) = (struct timer_links){.seq = loop->timer_seq++};
	loop->timers = heap_merge(loop->timers, op);
}

void io_timer_cancel(struct io_loop *loop, struct io_op *op)
{
	CHECK(op->loop == loop);
	if (op->state == TIMER_WAITS) {
		loop_started(loop);
		timer_end(loop, op, -ECANCELED);
	}
}

void timers_expire(struct io_loop *loop)
{
	while (loop->timers && loop->timers->offset <= loop->now)
		timer_end(loop, loop->timers, 0);
}

uint64_t timers_next(const struct io_loop *loop)
{
	return loop->timers ? loop->timers->offset : UINT64_MAX;
}
