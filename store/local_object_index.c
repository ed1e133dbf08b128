/* SPDX-License-Identifier: Apache-2.0
 *
 * What memory knows of the objects: names by hash, free pairs, segments. And how a segment is added
 * when the pairs are used up:
 *
 *   IDLE -> WAIT_SEGMENT -> WAIT_ZERO (again and again) -> WAIT_SYNC -> WAIT_LISTED -> IDLE
 *
 * It is zeroed before it is listed, since it may hold what a user wrote, who could have made it
 * look like objects.
 */
#include "base/check.h"
#include "base/mem.h"
#include "store/local_internal.h"
#include "store/local_object.h"

#include <errno.h>

#define BUCKETS_MIN 256

static void grow_step(struct local *l);
static void grow_on_zeroed(struct io_op *op);
static void grow_on_sync(struct store_io *io);
static void grow_on_listed(struct store_ctl *ctl);
static void grow_end(struct objects *o);
static void grow_fail(struct local *l, int error);

/* ---- Names ------------------------------------------------------------------------------------
 */

static uint32_t *bucket_of(struct objects *o, struct id name)
{
	return &o->buckets[hash_u64(name.lo ^ hash_u64(name.hi)) & (o->n_buckets - 1)];
}

static uint32_t *buckets_new(uint32_t n)
{
	uint32_t *buckets = mem_calloc(n, sizeof(buckets[0]));

	if (buckets) {
		for (uint32_t i = 0; i < n; i++)
			buckets[i] = PAIR_NONE;
	}
	return buckets;
}

int object_index_init(struct objects *o)
{
	o->n_buckets = BUCKETS_MIN;
	o->buckets = buckets_new(o->n_buckets);
	return o->buckets ? 0 : -ENOMEM;
}

uint32_t object_find(struct objects *o, struct id name)
{
	uint32_t number = *bucket_of(o, name);

	while (number != PAIR_NONE && !id_equal(object_pair(o, number)->name, name))
		number = object_pair(o, number)->next;
	return number;
}

static void index_link(struct objects *o, uint32_t number)
{
	struct pair *p = object_pair(o, number);
	uint32_t *bucket = bucket_of(o, p->name);

	p->next = *bucket;
	*bucket = number;
}

/* Doubles the table. Without memory for it the chains just get longer. */
static void index_widen(struct objects *o)
{
	uint32_t n_old = o->n_buckets;
	uint32_t *old = o->buckets;
	uint32_t *wider = buckets_new(2 * n_old);

	if (!wider)
		return;
	o->buckets = wider;
	o->n_buckets = 2 * n_old;
	for (uint32_t i = 0; i < n_old; i++) {
		uint32_t number = old[i];

		while (number != PAIR_NONE) {
			uint32_t next = object_pair(o, number)->next;

			index_link(o, number);
			number = next;
		}
	}
	mem_free(old);
}

void object_index_add(struct objects *o, uint32_t number)
{
	if (o->n_live >= o->n_buckets)
		index_widen(o);
	index_link(o, number);
	o->n_live++;
}

void object_index_remove(struct objects *o, uint32_t number)
{
	uint32_t *link = bucket_of(o, object_pair(o, number)->name);

	while (*link != number) {
		CHECK(*link != PAIR_NONE);
		link = &object_pair(o, *link)->next;
	}
	*link = object_pair(o, number)->next;
	o->n_live--;
}

/* ---- Free pairs -------------------------------------------------------------------------------
 */

void object_put_free(struct objects *o, uint32_t number)
{
	object_pair(o, number)->next = o->free;
	o->free = number;
}

uint32_t object_take_free(struct objects *o)
{
	uint32_t number = o->free;

	if (number != PAIR_NONE)
		o->free = object_pair(o, number)->next;
	return number;
}

int object_add_half(struct objects *o, uint32_t number)
{
	uint32_t *half = mem_realloc(o->half, (o->n_half + 1) * sizeof(half[0]));

	if (!half)
		return -ENOMEM;
	o->half = half;
	o->half[o->n_half++] = number;
	return 0;
}

/* ---- Segments ---------------------------------------------------------------------------------
 */

int object_add_segment(struct local *l, uint64_t id, uint32_t generation)
{
	struct objects *o = &l->objects;
	struct object_segment *segments =
	    mem_realloc(o->segments, (o->n_segments + 1) * sizeof(segments[0]));
	struct pair *pairs;

	if (!segments)
		return -ENOMEM;
	o->segments = segments;
	pairs = mem_calloc(o->pairs_per_segment, sizeof(pairs[0]));
	if (!pairs)
		return -ENOMEM;
	o->segments[o->n_segments++] =
	    (struct object_segment){.id = id, .generation = generation, .pairs = pairs};
	return 0;
}

void object_grow_init(struct local *l)
{
	struct objects *o = &l->objects;

	o->grow_op.done = grow_on_zeroed;
	o->grow_sync.done = grow_on_sync;
	o->grow_ctl.done = grow_on_listed;
	o->grow_ctl.loop = l->loop;
	list_init(&o->grow_ctl.link);
}

void object_grow(struct local *l)
{
	struct objects *o = &l->objects;

	if (o->grow_state != OBJECT_GROW_IDLE)
		return;
	o->grow_state = OBJECT_GROW_WAIT_SEGMENT;
	o->grow_ctl.volume = l->super.uuid;
	o->grow_ctl.stream = STORE_STREAM_OBJECTS;
	o->grow_ctl.n = 1;
	table_lend(l, &o->grow_ctl);
}

void object_no_segment(struct local *l, int error)
{
	grow_fail(l, error);
}

void object_got_segment(struct local *l, struct segment *segment)
{
	struct objects *o = &l->objects;

	o->grow_segment = segment;
	o->grow_zeroed = 0;
	o->zeroes = mem_alloc_pages(LOCAL_ZERO_CHUNK);
	grow_step(l);
}

static void grow_step(struct local *l)
{
	struct objects *o = &l->objects;

	switch (o->grow_state) {
	case OBJECT_GROW_IDLE:
		return;
	case OBJECT_GROW_WAIT_SEGMENT:
		o->grow_state = OBJECT_GROW_WAIT_ZERO;
		if (!o->zeroes) {
			io_defer(l->loop, &o->grow_op, -ENOMEM);
			return;
		}
		/* fall through */
	case OBJECT_GROW_WAIT_ZERO:
		if (o->grow_zeroed < l->super.segment_size) {
			io_write(l->loop, &o->grow_op, l->file, o->zeroes, LOCAL_ZERO_CHUNK,
				 format_segment_offset(l->super.segment_size, o->grow_segment->id) +
				     o->grow_zeroed);
			return;
		}
		o->grow_state = OBJECT_GROW_WAIT_SYNC;
		local_sync(&l->store, l->loop, &o->grow_sync);
		return;
	case OBJECT_GROW_WAIT_SYNC:
		o->grow_state = OBJECT_GROW_WAIT_LISTED;
		table_lend_reserved(l, &o->grow_ctl, o->grow_segment);
		return;
	case OBJECT_GROW_WAIT_LISTED:
		return;
	}
}

static void grow_on_zeroed(struct io_op *op)
{
	struct local *l = container_of(op, struct local, objects.grow_op);

	if (op->result < 0) {
		table_give_back(l, l->objects.grow_segment);
		grow_fail(l, (int)op->result);
		return;
	}
	l->objects.grow_zeroed += LOCAL_ZERO_CHUNK;
	grow_step(l);
}

static void grow_on_sync(struct store_io *io)
{
	struct local *l = container_of(io, struct local, objects.grow_sync);

	if (io->result < 0) {
		table_give_back(l, l->objects.grow_segment);
		grow_fail(l, (int)io->result);
		return;
	}
	grow_step(l);
}

static void grow_on_listed(struct store_ctl *ctl)
{
	struct local *l = container_of(ctl, struct local, objects.grow_ctl);
	struct objects *o = &l->objects;
	const struct segment *segment = o->grow_segment;
	int error = ctl->error;

	if (!error)
		error = object_add_segment(l, segment->id, segment->entry.generation);
	if (error) {
		grow_fail(l, error);
		return;
	}
	/* The lowest ends up on top. */
	for (uint32_t i = o->pairs_per_segment; i-- > 0;)
		object_put_free(o, (o->n_segments - 1) * o->pairs_per_segment + i);
	grow_end(o);
	object_serve(l);
	local_quiet(l);
}

static void grow_end(struct objects *o)
{
	mem_free_pages(o->zeroes, LOCAL_ZERO_CHUNK);
	o->zeroes = NULL;
	o->grow_state = OBJECT_GROW_IDLE;
}

static void grow_fail(struct local *l, int error)
{
	grow_end(&l->objects);
	object_refuse_waiting(l, error);
	local_quiet(l);
}
