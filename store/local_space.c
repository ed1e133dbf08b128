/* SPDX-License-Identifier: Apache-2.0
 *
 * Space below the segments. The store grows by one group at a time:
 *
 *   IDLE -> WAIT_SIZE -> WAIT_TABLES -> WAIT_SYNC -> WAIT_SUPER -> IDLE
 *
 * The group's tables are durable before the superblock counts it: a crash before leaves bytes that
 * the next growth overwrites. Growing takes no space: each segment gets its own when it is about
 * to be lent (it is backed). Freed segments beyond the pool are punched back to the file system,
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
static int back_error(int error);
static void back_on_done(struct io_op *op);
static void punch_on_done(struct io_op *op);

int space_init(struct local *l)
{
	for (unsigned i = 0; i < 2; i++) {
		l->grow.ops[i].local = l;
		l->grow.ops[i].op.done = grow_on_op;
	}
	l->back.op.done = back_on_done;
	list_init(&l->back.segments);
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

static bool is_full(int error)
{
	return error == -ENOSPC || error == -EFBIG || error == -EDQUOT;
}

/* A full file system leaves the store as it was: who waits for space learns that there is none. */
static void grow_fail(struct local *l)
{
	struct grow *g = &l->grow;
	bool full = is_full(g->error);
	bool harmless = (full || g->error == -ENOMEM) && g->state != GROW_WAIT_SUPER;

	mem_free(g->group);
	g->group = NULL;
	g->state = GROW_IDLE;
	if (!harmless)
		l->control_failed = true;
	table_refuse_lends(l, full ? -ENOSPC : g->error);
	table_pump(l);
}

/* ---- Backing ------------------------------------------------------------------------------------
 */

bool space_needs_backing(const struct local *l)
{
	return !l->file_info.is_device && !l->back.refused;
}

/* Neighbours, so that one operation backs them all. */
static void back_gather(struct local *l, uint64_t n)
{
	struct back *b = &l->back;
	uint64_t id = 0;

	while (n-- > 0 && !list_empty(&l->bare)) {
		struct segment *segment = list_first(&l->bare, struct segment, link);

		if (id && (segment->id != id + 1 ||
			   format_segment_group(segment->id) != format_segment_group(id)))
			return;
		id = segment->id;
		list_remove(&segment->link);
		l->n_bare--;
		segment->place = SEGMENT_BACKING;
		list_add_tail(&b->segments, &segment->link);
	}
}

bool space_back(struct local *l, uint64_t n)
{
	struct back *b = &l->back;
	uint64_t bare = l->n_bare;
	uint64_t first;

	if (!list_empty(&b->segments))
		return true;
	if (!space_needs_backing(l) || b->error || bare == 0)
		return false;
	back_gather(l, b->careful ? 1 : n);
	first = list_first(&b->segments, struct segment, link)->id;
	io_reserve(l->loop, &b->op, l->file, format_segment_offset(l->super.segment_size, first),
		   (bare - l->n_bare) * l->super.segment_size);
	return true;
}

/* They are in the pool without the mark of written segments: after a restart they are just backed
 * once more. */
static void back_on_done(struct io_op *op)
{
	struct local *l = container_of(op, struct local, back.op);
	struct back *b = &l->back;
	struct list *node;
	unsigned n = 0;

	while ((node = list_pop(&b->segments))) {
		struct segment *segment = list_entry(node, struct segment, link);

		n++;
		if (op->result < 0) {
			table_place_free(l, segment);
			continue;
		}
		segment->place = SEGMENT_POOL;
		list_add_tail(&l->pool, &segment->link);
		l->n_pool++;
	}
	b->refused = op->result == -EOPNOTSUPP;
	if (op->result < 0 && n > 1)
		b->careful = true;
	else if (op->result < 0 && !b->refused)
		b->error = back_error((int)op->result);
	table_pump(l);
	b->error = 0; /* who asks later may have more luck */
	if (list_empty(&b->segments))
		b->careful = false;
}

static int back_error(int error)
{
	return is_full(error) ? -ENOSPC : error;
}

/* ---- Punching ---------------------------------------------------------------------------------
 */

void space_punch(struct local *l)
{
	struct punch *p = &l->punch;

	if (p->segment || p->refused || l->closing || l->n_pool <= l->pool_segments ||
	    !list_empty(&l->lends)) /* they gather in the pool what they want */
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
