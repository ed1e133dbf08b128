/* SPDX-License-Identifier: Apache-2.0
 *
 * Space below the segments. The store grows by one group at a time:
 *
 *   IDLE -> WAIT_SIZE -> WAIT_TABLES -> WAIT_SYNC -> WAIT_SUPER -> IDLE
 *
 * The group's tables are durable before the superblock counts it: a crash before leaves bytes that
 * the next growth overwrites. Freed segments beyond the pool are punched back to the file system,
 * one at a time, behind everything else. Only what is durably free is punched.
 */
#include "base/mem.h"
#include "store/local_internal.h"

#include <errno.h>

static uint64_t grown_size(const struct local *l);
static void grow_step(struct local *l);
static void grow_tables(struct local *l);
static void grow_on_op(struct io_op *op);
static void grow_on_sync(struct store_io *io);
static void grow_on_super(struct local *l, int error);
static void grow_end(struct local *l);
static void grow_fail(struct local *l);
static void punch_on_done(struct io_op *op);

int space_init(struct local *l)
{
	for (unsigned i = 0; i < 2; i++) {
		l->grow.ops[i].local = l;
		l->grow.ops[i].op.done = grow_on_op;
	}
	l->punch.op.done = punch_on_done;
	l->grow.buffer = mem_alloc_pages(FORMAT_TABLE_SIZE);
	return l->grow.buffer ? 0 : -ENOMEM;
}

void space_destroy(struct local *l)
{
	mem_free_pages(l->grow.buffer, FORMAT_TABLE_SIZE);
	mem_free(l->grow.group);
}

/* ---- Growth -----------------------------------------------------------------------------------
 */

bool space_can_grow(const struct local *l)
{
	return l->n_groups * FORMAT_SEGMENTS < l->n_possible;
}

void space_grow(struct local *l)
{
	struct grow *g = &l->grow;

	if (g->state != GROW_IDLE)
		return;
	g->state = GROW_WAIT_SIZE;
	g->error = 0;
	g->in_flight = 1;
	g->group = group_new(l->n_groups);
	if (!g->group || table_reserve_group(l) < 0)
		io_defer(l->loop, &g->ops[0].op, -ENOMEM);
	else if (l->file_info.is_device)
		io_defer(l->loop, &g->ops[0].op, 0);
	else
		io_grow(l->loop, &g->ops[0].op, l->file, grown_size(l));
}

/* Up to the end of the new group, or of what the size limit allows of it. */
static uint64_t grown_size(const struct local *l)
{
	uint64_t last = min_u64((l->n_groups + 1) * FORMAT_SEGMENTS, l->n_possible);

	return format_segment_offset(l->super.segment_size, last) + l->super.segment_size;
}

static void grow_step(struct local *l)
{
	struct grow *g = &l->grow;

	if (g->error) {
		grow_fail(l);
		return;
	}
	switch (g->state) {
	case GROW_IDLE:
		return;
	case GROW_WAIT_SIZE:
		g->state = GROW_WAIT_TABLES;
		grow_tables(l);
		return;
	case GROW_WAIT_TABLES:
		g->state = GROW_WAIT_SYNC;
		g->sync.done = grow_on_sync;
		local_sync(&l->store, l->loop, &g->sync);
		return;
	case GROW_WAIT_SYNC:
		g->state = GROW_WAIT_SUPER;
		l->super.groups++;
		super_write(l, grow_on_super);
		return;
	case GROW_WAIT_SUPER:
		g->state = GROW_IDLE;
		grow_end(l);
		return;
	}
}

static void grow_tables(struct local *l)
{
	struct grow *g = &l->grow;
	struct format_table table = {.version = 1};

	for (unsigned i = 0; i < FORMAT_PAGES_PER_GROUP; i++) {
		format_table_encode(&table, l->super.uuid, l->n_groups, i,
				    g->buffer + i * FORMAT_PAGE);
		g->group->pages[i].version = table.version;
	}
	g->in_flight = 2;
	for (unsigned copy = 0; copy < 2; copy++)
		io_write(l->loop, &g->ops[copy].op, l->file, g->buffer, FORMAT_TABLE_SIZE,
			 format_table_offset(l->super.segment_size, l->n_groups, copy));
}

static void grow_on_op(struct io_op *op)
{
	struct local *l = container_of(op, struct grow_op, op)->local;

	if (op->result < 0)
		l->grow.error = (int)op->result;
	if (--l->grow.in_flight == 0)
		grow_step(l);
}

static void grow_on_sync(struct store_io *io)
{
	struct local *l = container_of(io, struct local, grow.sync);

	l->grow.error = io->result < 0 ? (int)io->result : 0;
	grow_step(l);
}

static void grow_on_super(struct local *l, int error)
{
	l->grow.error = error;
	grow_step(l);
}

static void grow_end(struct local *l)
{
	struct group *group = l->grow.group;

	l->grow.group = NULL;
	table_add_group(l, group);
	for (unsigned i = 0; i < FORMAT_SEGMENTS; i++)
		table_place_free(l, &group->segments[i]);
	table_pump(l);
}

/* A full file system leaves the store as it was: who waits for space learns that there is none. */
static void grow_fail(struct local *l)
{
	struct grow *g = &l->grow;
	bool full = g->error == -ENOSPC || g->error == -EFBIG || g->error == -EDQUOT;
	bool harmless = (full || g->error == -ENOMEM) && g->state != GROW_WAIT_SUPER;

	mem_free(g->group);
	g->group = NULL;
	g->state = GROW_IDLE;
	if (!harmless)
		l->control_failed = true;
	table_refuse_lends(l, full ? -ENOSPC : g->error);
	table_pump(l);
}

/* ---- Punching ---------------------------------------------------------------------------------
 */

void space_punch(struct local *l)
{
	struct punch *p = &l->punch;

	if (p->segment || p->refused || l->closing || l->n_pool <= l->pool_segments)
		return;
	p->segment = list_first(&l->pool, struct segment, link);
	list_remove(&p->segment->link);
	l->n_pool--;
	p->segment->place = SEGMENT_PUNCHING;
	io_punch(l->loop, &p->op, l->file,
		 format_segment_offset(l->super.segment_size, p->segment->id),
		 l->super.segment_size);
}

static void punch_on_done(struct io_op *op)
{
	struct local *l = container_of(op, struct local, punch.op);
	struct segment *segment = l->punch.segment;

	/* The mark that it is bare goes along with some later round: without it a restart would
	 * just punch once more. */
	if (op->result < 0) {
		l->punch.refused = true;
	} else {
		segment->entry.flags &= ~(uint32_t)FORMAT_SEGMENT_WRITTEN;
		table_mark(l, segment);
	}
	l->punch.segment = NULL;
	table_place_free(l, segment);
	table_pump(l);
}
