/* SPDX-License-Identifier: Apache-2.0
 *
 * The data path: append, read and sync run on the caller's loop, any loop, with no lock and no
 * message. A segment's place in the file is arithmetic.
 */
#include "base/check.h"
#include "store/local_internal.h"

#include <errno.h>

static struct loop_sync *loop_sync(struct local *l, struct io_loop *loop);
static void sync_start(struct loop_sync *s);
static void sync_on_done(struct io_op *op);
static void sync_answer(struct list *list, int error);
static void io_on_done(struct io_op *op);

void sync_init(struct local *l)
{
	for (unsigned i = 0; i < LOCAL_LOOPS_MAX; i++) {
		l->syncs[i].local = l;
		list_init(&l->syncs[i].waiting);
		list_init(&l->syncs[i].sharing);
	}
}

bool sync_failed(struct local *l)
{
	return __atomic_load_n(&l->failed, __ATOMIC_ACQUIRE);
}

static uint64_t segment_offset(struct local *l, uint64_t segment, uint32_t offset, uint64_t len)
{
	CHECK(segment > 0);
	CHECK(format_segment_group(segment) < __atomic_load_n(&l->n_groups, __ATOMIC_ACQUIRE));
	CHECK(is_aligned(offset | len, l->store.info.alignment));
	CHECK(offset + len <= l->store.info.segment_size);

	return format_segment_offset(l->store.info.segment_size, segment) + offset;
}

static uint64_t iov_length(const struct iovec *iov, int n)
{
	uint64_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

void local_append(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		  uint32_t offset, struct iovec *iov, int n)
{
	struct local *l = local_of(store);
	uint64_t len = iov_length(iov, n);

	io->store = store;
	io->op.done = io_on_done;
	if (l->read_only)
		io_defer(loop, &io->op, -EROFS);
	else if (sync_failed(l))
		io_defer(loop, &io->op, -EIO);
	else
		io_writev(loop, &io->op, l->file, iov, n, segment_offset(l, segment, offset, len));
}

void local_read(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		uint32_t offset, void *buf, uint32_t len)
{
	struct local *l = local_of(store);

	io->store = store;
	io->op.done = io_on_done;
	io_read(loop, &io->op, l->file, buf, len, segment_offset(l, segment, offset, len));
}

void local_readv(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		 uint32_t offset, struct iovec *iov, int n)
{
	struct local *l = local_of(store);

	io->store = store;
	io->op.done = io_on_done;
	io_readv(loop, &io->op, l->file, iov, n,
		 segment_offset(l, segment, offset, iov_length(iov, n)));
}

static void io_on_done(struct io_op *op)
{
	struct store_io *io = container_of(op, struct store_io, op);

	io->result = op->result;
	io->done(io);
}

void local_sync(struct store *store, struct io_loop *loop, struct store_io *io)
{
	struct local *l = local_of(store);
	struct loop_sync *s = loop_sync(l, loop);

	io->store = store;
	if (l->read_only || sync_failed(l)) {
		/* Of a read-only store nothing was appended, so nothing is left to be done. */
		io->op.done = io_on_done;
		io_defer(loop, &io->op, l->read_only ? 0 : -EIO);
		return;
	}
	list_add_tail(&s->waiting, &io->link);
	if (!s->running)
		sync_start(s);
}

/* Finds this loop's place, or takes one at its first use. */
static struct loop_sync *loop_sync(struct local *l, struct io_loop *loop)
{
	for (unsigned i = 0; i < LOCAL_LOOPS_MAX; i++) {
		struct loop_sync *s = &l->syncs[i];
		struct io_loop *taken = __atomic_load_n(&s->loop, __ATOMIC_ACQUIRE);

		if (!taken && __atomic_compare_exchange_n(&s->loop, &taken, loop, false,
							  __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return s;
		if (taken == loop)
			return s;
	}
	check_failed("at most LOCAL_LOOPS_MAX loops use a store", __FILE__, __LINE__);
}

static void sync_start(struct loop_sync *s)
{
	s->running = true;
	list_splice_tail(&s->sharing, &s->waiting);
	s->op.done = sync_on_done;
	io_sync(s->loop, &s->op, s->local->file);
}

static void sync_on_done(struct io_op *op)
{
	struct loop_sync *s = container_of(op, struct loop_sync, op);
	struct list answered;

	if (op->result < 0)
		__atomic_store_n(&s->local->failed, true, __ATOMIC_RELEASE);
	list_init(&answered);
	list_splice_tail(&answered, &s->sharing);
	s->running = false;
	/* The kernel tells a write-back error to one sync only: no later success may hide it. */
	if (sync_failed(s->local)) {
		list_splice_tail(&answered, &s->waiting);
		sync_answer(&answered, -EIO);
		return;
	}
	if (!list_empty(&s->waiting))
		sync_start(s);
	sync_answer(&answered, 0);
}

static void sync_answer(struct list *list, int error)
{
	struct list *node;

	while ((node = list_pop(list))) {
		struct store_io *io = list_entry(node, struct store_io, link);

		io->result = error;
		io->done(io);
	}
}
