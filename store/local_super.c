/* SPDX-License-Identifier: Apache-2.0
 *
 * A change of the superblock:
 *
 *   IDLE -> WAIT_FIRST -> WAIT_FIRST_SYNC -> WAIT_SECOND -> WAIT_SECOND_SYNC -> IDLE
 *
 * First the copy that is not the newest, then the other, so that at each moment one whole copy is
 * durable; and done only when both are, so that damage to one later costs nothing. An error ends it
 * at once.
 */
#include "base/check.h"
#include "base/mem.h"
#include "store/local_internal.h"

#include <errno.h>

static void super_step(struct local *l);
static void super_put(struct local *l, unsigned copy);
static void super_on_op(struct io_op *op);
static void super_sync(struct local *l);
static void super_on_sync(struct store_io *io);

int super_init(struct local *l)
{
	l->super_writer.buffer = mem_alloc_pages(FORMAT_PAGE);
	return l->super_writer.buffer ? 0 : -ENOMEM;
}

void super_destroy(struct local *l)
{
	mem_free_pages(l->super_writer.buffer, FORMAT_PAGE);
}

void super_write(struct local *l, void (*done)(struct local *l, int error))
{
	CHECK(l->super_writer.state == SUPER_IDLE);

	l->super.sequence++;
	l->super_writer.done = done;
	l->super_writer.error = 0;
	format_super_encode(&l->super, l->super_writer.buffer);
	super_step(l);
}

static void super_step(struct local *l)
{
	struct super_writer *w = &l->super_writer;

	if (w->error)
		w->state = SUPER_WAIT_SECOND_SYNC;
	switch (w->state) {
	case SUPER_IDLE:
		w->state = SUPER_WAIT_FIRST;
		super_put(l, !l->super_newest);
		return;
	case SUPER_WAIT_FIRST:
		w->state = SUPER_WAIT_FIRST_SYNC;
		super_sync(l);
		return;
	case SUPER_WAIT_FIRST_SYNC:
		w->state = SUPER_WAIT_SECOND;
		super_put(l, l->super_newest);
		return;
	case SUPER_WAIT_SECOND:
		w->state = SUPER_WAIT_SECOND_SYNC;
		super_sync(l);
		return;
	case SUPER_WAIT_SECOND_SYNC:
		w->state = SUPER_IDLE;
		w->done(l, w->error);
		return;
	}
}

static void super_put(struct local *l, unsigned copy)
{
	struct super_writer *w = &l->super_writer;

	w->op.done = super_on_op;
	io_write(l->loop, &w->op, l->file, w->buffer, FORMAT_PAGE, copy * FORMAT_SUPER_DISTANCE);
}

static void super_on_op(struct io_op *op)
{
	struct local *l = container_of(op, struct local, super_writer.op);

	if (op->result < 0)
		l->super_writer.error = (int)op->result;
	super_step(l);
}

static void super_sync(struct local *l)
{
	l->super_writer.sync.done = super_on_sync;
	local_sync(&l->store, l->loop, &l->super_writer.sync);
}

static void super_on_sync(struct store_io *io)
{
	struct local *l = container_of(io, struct local, super_writer.sync);

	if (io->result < 0)
		l->super_writer.error = (int)io->result;
	super_step(l);
}
