/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/store_rig.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct id rig_volume_name(unsigned volume)
{
	return (struct id){.hi = 1, .lo = 100 + volume};
}

static struct id rig_object_name(unsigned name)
{
	return (struct id){.hi = 2, .lo = 200 + name};
}

/* Length and bytes of an object follow from `fill`. */
static uint32_t rig_fill_data(uint64_t fill, uint8_t *data)
{
	uint32_t length = 1 + hash_u64(fill) % STORE_OBJECT_MAX;

	for (uint32_t i = 0; i < length; i++)
		data[i] = (uint8_t)hash_u64(fill + i / 8) + (uint8_t)i;
	return length;
}

/* ---- The rig ----------------------------------------------------------------------------------
 */

static struct io_loop *make_loop(const char *name)
{
	struct io_loop_config config = {.name = name, .cpu = -1};
	struct io_loop *loop = NULL;

	assert_int_equal(io_loop_new(&config, &loop, NULL), 0);
	return loop;
}

void rig_tune(void)
{
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

struct rig *rig_new(uint64_t seed, const struct sim_options *options)
{
	struct rig *r = sim_alloc(sizeof(*r));

	r->sim = sim_new(seed, options);
	r->max_size = format_group_offset(SEGMENT, GROUPS);
	r->pool = 2;
	r->stream = STORE_STREAM_USER;
	r->page_memory = sim_alloc(2 * IO_LENGTH);
	r->page = (uint8_t *)round_up((uintptr_t)r->page_memory, IO_LENGTH);
	if (options && options->is_device)
		sim_file_plant(r->sim, PATH, r->max_size - 1, "", 1);
	return r;
}

void rig_free(struct rig *r)
{
	sim_free(r->sim);
	sim_release(r->page_memory);
	sim_release(r);
}

static void on_open(struct store_open *open)
{
	struct rig *r = container_of(open, struct rig, open);

	r->opened = true;
	r->store = open->store;
}

/* Runs until *flag, or the end of the life. */
bool rig_run(struct rig *r, bool *flag)
{
	enum sim_end end = sim_run_until(r->sim, sim_flag_is_set, flag, STEPS);

	if (end != SIM_DEAD && end != SIM_DONE)
		sim_fail(r->sim, "neither done nor dead: %d", end);
	return end == SIM_DONE;
}

/* False if the life ended. Else r->open says how it went. */
bool rig_open_as(struct rig *r, bool read_only)
{
	r->owner = make_loop("owner");
	r->other = make_loop("other");
	r->opened = false;
	r->open = (struct store_open){
	    .loop = r->owner,
	    .config = {.path = PATH,
		       .create = !read_only,
		       .read_only = read_only,
		       .max_size = r->max_size,
		       .segment_size = SEGMENT,
		       .pool_segments = r->pool},
	    .done = on_open,
	};
	store_local_open(&r->open);
	return rig_run(r, &r->opened);
}

bool rig_open(struct rig *r)
{
	if (!rig_open_as(r, false))
		return false;
	if (r->open.err.code)
		sim_fail(r->sim, "open: %s", r->open.err.text);
	sim_assert(r->sim, r->store->info.owner_term > r->m.owner_term);
	r->m.owner_term = r->store->info.owner_term;
	return true;
}

static void on_io(struct store_io *io)
{
	container_of(io, struct rig, io)->io_done = true;
}

bool rig_sync(struct rig *r)
{
	r->io_done = false;
	r->io.done = on_io;
	store_sync(r->store, r->other, &r->io);
	return rig_run(r, &r->io_done);
}

bool rig_append(struct rig *r, uint64_t segment, uint64_t stamp)
{
	for (unsigned i = 0; i < IO_LENGTH / 8; i++)
		memcpy(r->page + 8 * i, &(uint64_t){stamp + i}, 8);
	r->iov = (struct iovec){.iov_base = r->page, .iov_len = IO_LENGTH};
	r->io_done = false;
	r->io.done = on_io;
	store_append(r->store, r->other, &r->io, segment, (uint32_t)(stamp % 1024) * IO_LENGTH,
		     &r->iov, 1);
	return rig_run(r, &r->io_done);
}

static void rig_check_stamp(struct rig *r, uint64_t segment, uint64_t stamp)
{
	r->io_done = false;
	r->io.done = on_io;
	store_read(r->store, r->other, &r->io, segment, (uint32_t)(stamp % 1024) * IO_LENGTH,
		   r->page, IO_LENGTH);
	if (!rig_run(r, &r->io_done))
		return;
	sim_assert(r->sim, r->io.result == IO_LENGTH);
	for (unsigned i = 0; i < IO_LENGTH / 8; i++)
		sim_assert(r->sim, memcmp(r->page + 8 * i, &(uint64_t){stamp + i}, 8) == 0);
}

/* ---- Operations -------------------------------------------------------------------------------
 */

static void lend_done(struct rig *r, struct op *op)
{
	struct model *m = &r->m;

	sim_assert(r->sim, op->ctl.n == 0 || !op->ctl.error);
	/* After an -EIO it may be there or not. */
	if (op->ctl.error == -EIO)
		return;
	m->lending[op->volume] = false;
	if (op->ctl.error) {
		sim_assert(r->sim, op->ctl.error == -ENOSPC || op->ctl.error == -EROFS);
		return;
	}
	sim_assert(r->sim, op->ctl.n >= 1);
	for (unsigned i = 0; i < op->ctl.n; i++) {
		const struct store_segment *s = &op->ctl.segments[i];
		struct seg_model *seg = &m->segs[s->id];

		sim_assert(r->sim, s->id >= 1 && s->id <= SEGMENTS);
		sim_assert(r->sim, seg->state == SEG_FREE);
		sim_assert(r->sim, s->generation > seg->generation);
		sim_assert(r->sim, s->stream == op->ctl.stream);
		*seg = (struct seg_model){
		    .state = SEG_LENT, .volume = op->volume, .generation = s->generation};
	}
}

static void free_done(struct rig *r, struct op *op)
{
	if (op->ctl.error) {
		sim_assert(r->sim, op->ctl.error == -EIO);
		return;
	}
	for (unsigned i = 0; i < op->ctl.n; i++)
		r->m.segs[op->ctl.segments[i].id].state = SEG_FREE;
}

static void swap_done(struct rig *r, struct op *op)
{
	struct object_model *o = &r->m.objects[op->volume];

	if (op->ctl.error == -EIO)
		return;
	o->pending = false;
	if (op->ctl.error) {
		sim_assert(r->sim, op->ctl.error == -ENOSPC);
		return;
	}
	o->version = o->pending_delete ? 0 : op->ctl.version;
	o->fill = o->pending_fill;
}

static void check_object(struct rig *r, unsigned name, struct store_ctl *ctl)
{
	struct object_model *o = &r->m.objects[name];
	uint8_t data[STORE_OBJECT_MAX];
	bool is_old, is_new;

	if (ctl->error == -ENOENT) {
		is_old = o->version == 0;
		is_new = o->pending && o->pending_delete;
	} else {
		sim_assert(r->sim, ctl->error == 0);
		is_old = o->version != 0 && ctl->version == o->version &&
			 ctl->length == rig_fill_data(o->fill, data) &&
			 memcmp(ctl->data, data, ctl->length) == 0;
		is_new = o->pending && !o->pending_delete && ctl->version == o->version + 1 &&
			 ctl->length == rig_fill_data(o->pending_fill, data) &&
			 memcmp(ctl->data, data, ctl->length) == 0;
		sim_assert(r->sim, !ctl->degraded || o->pending || r->m.damaged);
	}
	sim_assert(r->sim, is_old || is_new);
	if (is_new && !is_old) {
		o->version = o->pending_delete ? 0 : o->version + 1;
		o->fill = o->pending_fill;
	}
}

static void on_ctl(struct store_ctl *ctl)
{
	struct op *op = container_of(ctl, struct op, ctl);

	op->done = true;
	switch (op->kind) {
	case OP_NONE:
		return;
	case OP_LEND:
		lend_done(op->rig, op);
		return;
	case OP_FREE:
		free_done(op->rig, op);
		return;
	case OP_SWAP:
		swap_done(op->rig, op);
		return;
	case OP_GET:
		check_object(op->rig, op->volume, &op->ctl);
		return;
	}
}

struct op *rig_op(struct rig *r, enum op_kind kind, unsigned volume)
{
	for (unsigned i = 0; i < OPS; i++) {
		struct op *op = &r->ops[i];

		if (op->kind != OP_NONE && !op->done)
			continue;
		*op = (struct op){.kind = kind, .rig = r, .volume = volume};
		op->ctl.loop = r->other;
		op->ctl.done = on_ctl;
		return op;
	}
	return NULL;
}

struct op *rig_lend(struct rig *r, unsigned volume, unsigned n)
{
	struct op *op = rig_op(r, OP_LEND, volume);

	op->ctl.volume = rig_volume_name(volume);
	op->ctl.incarnation = 7;
	op->ctl.stream = r->stream;
	op->ctl.n = n;
	r->m.lending[volume] = true;
	r->store->ops->lend(r->store, &op->ctl);
	return op;
}

/* Of the segments that the volume has, up to n from a random place. NULL: it has none. */
struct op *rig_free_some(struct rig *r, unsigned volume, unsigned n)
{
	uint64_t first = sim_below(r->sim, SEGMENTS);
	struct op *op = rig_op(r, OP_FREE, volume);

	op->ctl.volume = rig_volume_name(volume);
	for (uint64_t i = 0; i < SEGMENTS && op->ctl.n < n; i++) {
		uint64_t id = 1 + (first + i) % SEGMENTS;
		struct seg_model *seg = &r->m.segs[id];

		if (seg->state != SEG_LENT || seg->volume != volume)
			continue;
		seg->state = SEG_FREEING;
		op->ctl.segments[op->ctl.n++] =
		    (struct store_segment){.id = id, .generation = seg->generation};
	}
	if (op->ctl.n == 0) {
		op->kind = OP_NONE;
		return NULL;
	}
	r->store->ops->free(r->store, &op->ctl);
	return op;
}

struct op *rig_swap(struct rig *r, unsigned name, uint64_t fill, bool delete)
{
	struct object_model *o = &r->m.objects[name];
	struct op *op = rig_op(r, OP_SWAP, name);

	op->ctl.volume = rig_object_name(name);
	op->ctl.version = o->version + 1;
	op->ctl.length = delete ? 0 : rig_fill_data(fill, op->ctl.data);
	o->pending = true;
	o->pending_fill = fill;
	o->pending_delete = delete;
	r->m.has_objects = true;
	r->store->ops->object_swap(r->store, &op->ctl);
	return op;
}

struct op *rig_get(struct rig *r, unsigned name)
{
	struct op *op = rig_op(r, OP_GET, name);

	op->ctl.volume = rig_object_name(name);
	r->store->ops->object_get(r->store, &op->ctl);
	return op;
}

bool rig_finish(struct rig *r, struct op *op)
{
	return !op || rig_run(r, &op->done);
}

bool rig_finish_all(struct rig *r)
{
	for (unsigned i = 0; i < OPS; i++) {
		if (r->ops[i].kind != OP_NONE && !rig_finish(r, &r->ops[i]))
			return false;
	}
	return true;
}

/* Writes to every segment that has nothing yet, and syncs. */
bool rig_stamp_all(struct rig *r)
{
	for (uint64_t id = 1; id <= SEGMENTS; id++) {
		struct seg_model *seg = &r->m.segs[id];

		if (seg->state != SEG_LENT || seg->stamp)
			continue;
		if (!rig_append(r, id, id * 1000003 + seg->generation))
			return false;
	}
	if (!rig_sync(r) || r->io.result < 0)
		return false;
	for (uint64_t id = 1; id <= SEGMENTS; id++) {
		struct seg_model *seg = &r->m.segs[id];

		if (seg->state == SEG_LENT)
			seg->stamp = id * 1000003 + seg->generation;
	}
	return true;
}

bool rig_close(struct rig *r)
{
	struct op *op = rig_op(r, OP_NONE, 0);

	op->done = false;
	op->ctl.done = on_ctl;
	r->store->ops->close(r->store, &op->ctl);
	r->store = NULL;
	return rig_run(r, &op->done);
}

/* ---- The check after a crash ------------------------------------------------------------------
 */

/* The lists, against what was promised; then the lists are what is true. */
static void check_lists(struct rig *r)
{
	struct model *m = &r->m;
	bool seen[SEGMENTS + 1] = {false};

	for (unsigned volume = 0; volume < VOLUMES; volume++) {
		struct op *op = rig_op(r, OP_NONE, 0);

		op->ctl.volume = rig_volume_name(volume);
		do {
			op->done = false;
			r->store->ops->list(r->store, &op->ctl);
			if (!rig_finish(r, op))
				return;
			sim_assert(r->sim, op->ctl.error == 0);
			for (unsigned i = 0; i < op->ctl.n; i++) {
				const struct store_segment *s = &op->ctl.segments[i];
				struct seg_model *seg = &m->segs[s->id];

				/* T1: nothing is lent twice. */
				sim_assert(r->sim, !seen[s->id]);
				seen[s->id] = true;
				sim_assert(r->sim, s->incarnation == 7);
				if (seg->state == SEG_FREE || (seg->state == SEG_FREEING &&
							       seg->generation < s->generation)) {
					/* Only a lending that was never answered; nor perhaps was
					 * the freeing before it. */
					sim_assert(r->sim, m->lending[volume]);
					sim_assert(r->sim, s->generation > seg->generation);
					*seg = (struct seg_model){.volume = volume,
								  .generation = s->generation};
				}
				sim_assert(r->sim, seg->volume == volume);
				sim_assert(r->sim, s->generation == seg->generation);
				seg->state = SEG_LENT;
			}
		} while (op->ctl.n > 0);
		m->lending[volume] = false;
		op->done = true;
	}
	for (uint64_t id = 1; id <= SEGMENTS; id++) {
		/* T1: what was lent is still listed, unless it was being freed. */
		sim_assert(r->sim, seen[id] || m->segs[id].state != SEG_LENT);
		if (!seen[id])
			m->segs[id].state = SEG_FREE;
	}
}

static void check_objects(struct rig *r)
{
	struct op *op;
	unsigned n = 0, expected = 0;

	for (unsigned name = 0; name < NAMES; name++) {
		op = rig_get(r, name);
		if (!rig_finish(r, op))
			return;
		expected += r->m.objects[name].version != 0;
		if (op->ctl.degraded && !r->m.damaged) {
			/* What an unfinished swap tore stays until the next one. */
			continue;
		}
		r->m.objects[name].pending = false;
	}
	op = rig_op(r, OP_NONE, 0);
	do {
		op->done = false;
		r->store->ops->object_list(r->store, &op->ctl);
		if (!rig_finish(r, op))
			return;
		n += op->ctl.n;
	} while (op->ctl.n > 0);
	sim_assert(r->sim, n == expected);
}

/* E8 in small: what the store says is free is what nobody has. */
static void check_free(struct rig *r)
{
	uint64_t lent = 0;
	uint64_t free_now = __atomic_load_n(&r->store->info.free, __ATOMIC_RELAXED) / SEGMENT;
	uint64_t capacity = r->store->info.capacity / SEGMENT;

	for (uint64_t id = 1; id <= SEGMENTS; id++)
		lent += r->m.segs[id].state == SEG_LENT;
	sim_assert(r->sim, capacity == SEGMENTS);
	/* Segments of objects are the store's own. */
	sim_assert(r->sim, free_now + lent <= capacity);
	sim_assert(r->sim, free_now + lent + 2 >= capacity);
}

void rig_check(struct rig *r)
{
	/* What runs in the background may come to the cut. */
	check_lists(r);
	if (!sim_is_dead(r->sim))
		check_objects(r);
	if (!sim_is_dead(r->sim))
		check_free(r);
	for (uint64_t id = 1; id <= SEGMENTS; id++) {
		const struct seg_model *seg = &r->m.segs[id];

		if (seg->state == SEG_LENT && seg->stamp)
			rig_check_stamp(r, id, seg->stamp);
	}
}

void rig_reboot(struct rig *r)
{
	sim_reboot(r->sim);
	r->store = NULL;
	for (unsigned i = 0; i < OPS; i++)
		r->ops[i].kind = OP_NONE;
}

/* After a crash: opens, checks, and works on a bit. */
void rig_recover(struct rig *r)
{
	rig_reboot(r);
	assert_true(rig_open(r));
	rig_check(r);
	assert_true(rig_finish(r, rig_lend(r, 0, 3)));
	/* Objects make a life long; a test without them stays without. */
	if (r->m.has_objects)
		assert_true(rig_finish(r, rig_swap(r, NAMES - 1, sim_random(r->sim), false)));
	assert_true(rig_stamp_all(r));
	rig_check(r);
	assert_true(rig_close(r));
	assert_int_equal(sim_mem_in_use(r->sim), 0);
}
