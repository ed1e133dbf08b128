/* SPDX-License-Identifier: Apache-2.0
 *
 * The local store on the simulated machine: power cuts after each device operation, killed
 * processes, failing disks. A model beside it knows what the store has promised (T1 to T5).
 */
#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"
#include "store/format.h"
#include "store/local.h"
#include "tests/sim/machine/sim.h"

#define PATH      "/store"
#define STEPS     10000000
#define SEGMENT   (4 * MiB)
#define GROUPS    3
#define SEGMENTS  (GROUPS * FORMAT_SEGMENTS)
#define VOLUMES   4
#define NAMES     6
#define OPS       6
#define IO_LENGTH 4096

/* ---- The model --------------------------------------------------------------------------------
 */

enum seg_state { SEG_FREE, SEG_LENT, SEG_FREEING };

struct seg_model {
	enum seg_state state;
	unsigned volume;
	uint32_t generation; /* the greatest that was seen */
	uint64_t stamp;      /* 0: nothing is known to be durable in it */
};

/* `fill` makes an object's bytes; version 0 is none. */
struct object_model {
	uint64_t version;
	uint64_t fill;
	bool pending; /* a swap was under way when the life ended */
	uint64_t pending_fill;
	bool pending_delete;
};

struct model {
	struct seg_model segs[SEGMENTS + 1];
	bool lending[VOLUMES];
	struct object_model objects[NAMES];
	uint64_t owner_term;
	bool damaged; /* by the test */
};

enum op_kind { OP_NONE, OP_LEND, OP_FREE, OP_SWAP, OP_GET };

struct op {
	enum op_kind kind;
	struct rig *rig;
	bool done;
	unsigned volume; /* or name */
	uint64_t fill;
	struct store_ctl ctl;
};

struct rig {
	struct sim *sim;
	struct io_loop *owner;
	struct io_loop *other; /* a caller that is not the owner */
	struct store *store;
	struct store_open open;
	bool opened;
	uint64_t max_size;
	bool kill; /* instead of cutting the power */
	uint32_t pool;
	struct model m;
	struct op ops[OPS];
	struct store_io io;
	bool io_done;
	uint8_t *page; /* IO_LENGTH, aligned */
	struct iovec iov;
};

static struct id volume_name(unsigned volume)
{
	return (struct id){.hi = 1, .lo = 100 + volume};
}

static struct id object_name(unsigned name)
{
	return (struct id){.hi = 2, .lo = 200 + name};
}

/* Length and bytes of an object follow from `fill`. */
static uint32_t fill_data(uint64_t fill, uint8_t *data)
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

static struct rig *rig_new(uint64_t seed, const struct sim_options *options)
{
	struct rig *r = sim_alloc(sizeof(*r));

	r->sim = sim_new(seed, options);
	r->max_size = format_group_offset(SEGMENT, GROUPS);
	r->pool = 2;
	r->page = sim_alloc(2 * IO_LENGTH);
	r->page = (uint8_t *)round_up((uintptr_t)r->page, IO_LENGTH);
	if (options && options->is_device)
		sim_file_plant(r->sim, PATH, r->max_size - 1, "", 1);
	return r;
}

static void rig_free(struct rig *r)
{
	sim_free(r->sim);
	/* The page is not given back by its aligned address; the process is short. */
	sim_release(r);
}

static void on_open(struct store_open *open)
{
	struct rig *r = container_of(open, struct rig, open);

	r->opened = true;
	r->store = open->store;
}

/* Runs until *flag, or the end of the life. */
static bool run(struct rig *r, bool *flag)
{
	enum sim_end end = sim_run_until(r->sim, sim_flag_is_set, flag, STEPS);

	if (end != SIM_DEAD && end != SIM_DONE)
		sim_fail(r->sim, "neither done nor dead: %d", end);
	return end == SIM_DONE;
}

/* False if the life ended. Else r->open says how it went. */
static bool rig_open_as(struct rig *r, bool read_only)
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
	return run(r, &r->opened);
}

static bool rig_open(struct rig *r)
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

static bool rig_sync(struct rig *r)
{
	r->io_done = false;
	r->io.done = on_io;
	store_sync(r->store, r->other, &r->io);
	return run(r, &r->io_done);
}

static bool rig_append(struct rig *r, uint64_t segment, uint64_t stamp)
{
	for (unsigned i = 0; i < IO_LENGTH / 8; i++)
		memcpy(r->page + 8 * i, &(uint64_t){stamp + i}, 8);
	r->iov = (struct iovec){.iov_base = r->page, .iov_len = IO_LENGTH};
	r->io_done = false;
	r->io.done = on_io;
	store_append(r->store, r->other, &r->io, segment, (uint32_t)(stamp % 1024) * IO_LENGTH,
		     &r->iov, 1);
	return run(r, &r->io_done);
}

static void rig_check_stamp(struct rig *r, uint64_t segment, uint64_t stamp)
{
	r->io_done = false;
	r->io.done = on_io;
	store_read(r->store, r->other, &r->io, segment, (uint32_t)(stamp % 1024) * IO_LENGTH,
		   r->page, IO_LENGTH);
	if (!run(r, &r->io_done))
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

	m->lending[op->volume] = false;
	if (op->ctl.error == -ENOSPC) {
		sim_assert(r->sim, op->ctl.n == 0);
		return;
	}
	if (op->ctl.error)
		return;
	sim_assert(r->sim, op->ctl.n >= 1);
	for (unsigned i = 0; i < op->ctl.n; i++) {
		const struct store_segment *s = &op->ctl.segments[i];
		struct seg_model *seg = &m->segs[s->id];

		sim_assert(r->sim, s->id >= 1 && s->id <= SEGMENTS);
		sim_assert(r->sim, seg->state == SEG_FREE);
		sim_assert(r->sim, s->generation > seg->generation);
		sim_assert(r->sim, s->stream == STORE_STREAM_USER);
		*seg = (struct seg_model){
		    .state = SEG_LENT, .volume = op->volume, .generation = s->generation};
	}
}

static void free_done(struct rig *r, struct op *op)
{
	if (op->ctl.error)
		return;
	for (unsigned i = 0; i < op->ctl.n; i++)
		r->m.segs[op->ctl.segments[i].id].state = SEG_FREE;
}

static void swap_done(struct rig *r, struct op *op)
{
	struct object_model *o = &r->m.objects[op->volume];

	if (op->ctl.error)
		return;
	o->pending = false;
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
			 ctl->length == fill_data(o->fill, data) &&
			 memcmp(ctl->data, data, ctl->length) == 0;
		is_new = o->pending && !o->pending_delete && ctl->version == o->version + 1 &&
			 ctl->length == fill_data(o->pending_fill, data) &&
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

static struct op *op_begin(struct rig *r, enum op_kind kind, unsigned volume)
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

static struct op *start_lend(struct rig *r, unsigned volume, unsigned n)
{
	struct op *op = op_begin(r, OP_LEND, volume);

	op->ctl.volume = volume_name(volume);
	op->ctl.incarnation = 7;
	op->ctl.stream = STORE_STREAM_USER;
	op->ctl.n = n;
	r->m.lending[volume] = true;
	r->store->ops->lend(r->store, &op->ctl);
	return op;
}

/* Of the segments that the volume has, up to n from a random place. NULL: it has none. */
static struct op *start_free(struct rig *r, unsigned volume, unsigned n)
{
	uint64_t first = sim_below(r->sim, SEGMENTS);
	struct op *op = op_begin(r, OP_FREE, volume);

	op->ctl.volume = volume_name(volume);
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

static struct op *start_swap(struct rig *r, unsigned name, uint64_t fill, bool delete)
{
	struct object_model *o = &r->m.objects[name];
	struct op *op = op_begin(r, OP_SWAP, name);

	op->ctl.volume = object_name(name);
	op->ctl.version = o->version + 1;
	op->ctl.length = delete ? 0 : fill_data(fill, op->ctl.data);
	o->pending = true;
	o->pending_fill = fill;
	o->pending_delete = delete;
	r->store->ops->object_swap(r->store, &op->ctl);
	return op;
}

static struct op *start_get(struct rig *r, unsigned name)
{
	struct op *op = op_begin(r, OP_GET, name);

	op->ctl.volume = object_name(name);
	r->store->ops->object_get(r->store, &op->ctl);
	return op;
}

static bool finish(struct rig *r, struct op *op)
{
	return !op || run(r, &op->done);
}

static bool finish_all(struct rig *r)
{
	for (unsigned i = 0; i < OPS; i++) {
		if (r->ops[i].kind != OP_NONE && !finish(r, &r->ops[i]))
			return false;
	}
	return true;
}

/* Writes to every segment that has nothing yet, and syncs. */
static bool stamp_all(struct rig *r)
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

static bool rig_close(struct rig *r)
{
	struct op *op = op_begin(r, OP_NONE, 0);

	op->done = false;
	op->ctl.done = on_ctl;
	r->store->ops->close(r->store, &op->ctl);
	r->store = NULL;
	return run(r, &op->done);
}

/* ---- The check after a crash ------------------------------------------------------------------
 */

/* The lists, against what was promised; then the lists are what is true. */
static void check_lists(struct rig *r)
{
	struct model *m = &r->m;
	bool seen[SEGMENTS + 1] = {false};

	for (unsigned volume = 0; volume < VOLUMES; volume++) {
		struct op *op = op_begin(r, OP_NONE, 0);

		op->ctl.volume = volume_name(volume);
		do {
			op->done = false;
			r->store->ops->list(r->store, &op->ctl);
			if (!finish(r, op))
				return;
			sim_assert(r->sim, op->ctl.error == 0);
			for (unsigned i = 0; i < op->ctl.n; i++) {
				const struct store_segment *s = &op->ctl.segments[i];
				struct seg_model *seg = &m->segs[s->id];

				/* T1: nothing is lent twice. */
				sim_assert(r->sim, !seen[s->id]);
				seen[s->id] = true;
				sim_assert(r->sim, s->incarnation == 7);
				if (seg->state == SEG_FREE) {
					/* Only a lending that was never answered. */
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
		op = start_get(r, name);
		if (!finish(r, op))
			return;
		expected += r->m.objects[name].version != 0;
		if (op->ctl.degraded && !r->m.damaged) {
			/* What an unfinished swap tore stays until the next one. */
			continue;
		}
		r->m.objects[name].pending = false;
	}
	op = op_begin(r, OP_NONE, 0);
	do {
		op->done = false;
		r->store->ops->object_list(r->store, &op->ctl);
		if (!finish(r, op))
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

static void check_all(struct rig *r)
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

static void reboot(struct rig *r)
{
	sim_reboot(r->sim);
	r->store = NULL;
	for (unsigned i = 0; i < OPS; i++)
		r->ops[i].kind = OP_NONE;
}

/* After a crash: opens, checks, and works on a bit. */
static void recover(struct rig *r)
{
	reboot(r);
	assert_true(rig_open(r));
	check_all(r);
	assert_true(finish(r, start_lend(r, 0, 3)));
	assert_true(finish(r, start_swap(r, NAMES - 1, sim_random(r->sim), false)));
	assert_true(stamp_all(r));
	check_all(r);
	assert_true(rig_close(r));
	assert_int_equal(sim_mem_in_use(r->sim), 0);
}

/* ---- Power-cut loops --------------------------------------------------------------------------
 */

/* A scenario sets up, arms the cut by *armed, and acts. Returns at the end of the life, or when it
 * is through. */
typedef void (*scenario)(struct rig *r, uint64_t k);

/* Each k gets a cut of the power, and a kill of the process alone. */
static void arm(struct rig *r, uint64_t k)
{
	if (r->kill)
		sim_kill_after(r->sim, k);
	else
		sim_cut_after(r->sim, k);
}

static void cut_everywhere(scenario act, unsigned n_seeds)
{
	for (uint64_t seed = 1; seed <= n_seeds; seed++) {
		bool dead = true;

		for (uint64_t k = 1; dead; k++) {
			struct rig *r = rig_new(seed * 1000 + k, NULL);

			r->kill = seed % 4 == 0;
			act(r, k);
			dead = sim_is_dead(r->sim);
			recover(r);
			rig_free(r);
		}
	}
}

static void act_format(struct rig *r, uint64_t k)
{
	arm(r, k);
	rig_open(r);
}

static void set_up(struct rig *r)
{
	assert_true(rig_open(r));
	assert_true(finish(r, start_lend(r, 1, 6)));
	assert_true(finish(r, start_swap(r, 0, 11, false)));
	assert_true(finish(r, start_swap(r, 1, 12, false)));
	assert_true(stamp_all(r));
}

static void act_lend(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up(r);
	arm(r, k);
	a = start_lend(r, 1, 2);
	b = start_lend(r, 2, 64);
	if (finish(r, a) && finish(r, b))
		finish(r, start_lend(r, 3, 1));
}

static void act_free(struct rig *r, uint64_t k)
{
	set_up(r);
	arm(r, k);
	if (finish(r, start_free(r, 1, 2)) && finish(r, start_lend(r, 2, 1)) &&
	    finish(r, start_free(r, 1, 4)) && finish(r, start_lend(r, 3, 3)))
		if (stamp_all(r))
			rig_close(r);
}

static void act_swap(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up(r);
	arm(r, k);
	a = start_swap(r, 0, 21, false);
	b = start_swap(r, 1, 22, false);
	if (finish(r, a) && finish(r, b))
		finish(r, start_swap(r, 0, 23, false));
}

static void act_create_delete(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up(r);
	arm(r, k);
	a = start_swap(r, 0, 0, true);
	b = start_swap(r, 2, 32, false);
	if (!finish(r, a) || !finish(r, b))
		return;
	a = start_swap(r, 0, 33, false);
	b = start_swap(r, 3, 34, false);
	if (finish(r, a) && finish(r, b))
		finish(r, start_swap(r, 3, 0, true));
}

/* The first object brings the first segment of objects, and the first lending a group. */
static void act_grow(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	assert_true(rig_open(r));
	arm(r, k);
	a = start_swap(r, 0, 41, false);
	b = start_lend(r, 0, 64);
	if (finish(r, a) && finish(r, b) && finish(r, start_lend(r, 1, 64)))
		finish(r, start_lend(r, 2, 64));
}

/* N: formatting, cut anywhere, leaves a blank file or a store. */
static void format_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_format, 4);
}

/* N, T1: a lending, cut anywhere, is there or not; what was answered is. */
static void lend_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_lend, 4);
}

/* N, T1, T3: freeing, punching and lending again, cut anywhere, never lend a segment twice nor
 * touch what is lent. */
static void free_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_free, 4);
}

/* N, T2: a swap, cut anywhere, leaves the old or the new version. */
static void swap_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_swap, 4);
}

/* N, T2: creating and deleting, cut anywhere: what was deleted does not come back. */
static void create_delete_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_create_delete, 4);
}

/* N: growing, cut anywhere. */
static void grow_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_grow, 4);
}

/* ---- Random lives -----------------------------------------------------------------------------
 */

static bool name_is_busy(const struct rig *r, unsigned name)
{
	for (unsigned i = 0; i < OPS; i++) {
		if (r->ops[i].kind == OP_SWAP && !r->ops[i].done && r->ops[i].volume == name)
			return true;
	}
	return false;
}

static bool volume_is_lending(const struct rig *r, unsigned volume)
{
	return r->m.lending[volume];
}

/* Starts something, alone or beside what is under way. */
static void start_something(struct rig *r)
{
	unsigned volume = (unsigned)sim_below(r->sim, VOLUMES);
	unsigned name = (unsigned)sim_below(r->sim, NAMES);
	bool exists = r->m.objects[name].version != 0;

	switch (sim_below(r->sim, 4)) {
	case 0:
		if (!volume_is_lending(r, volume))
			start_lend(r, volume, 1 + (unsigned)sim_below(r->sim, 20));
		return;
	case 1:
		start_free(r, volume, 1 + (unsigned)sim_below(r->sim, 20));
		return;
	case 2:
		if (!name_is_busy(r, name))
			start_swap(r, name, sim_random(r->sim),
				   exists && sim_chance(r->sim, 300000));
		return;
	default:
		if (!name_is_busy(r, name))
			start_get(r, name);
		return;
	}
}

/* Acts until the life ends, or for some rounds. */
static void live(struct rig *r)
{
	for (unsigned round = 0; round < 12; round++) {
		unsigned n = 1 + (unsigned)sim_below(r->sim, OPS - 1);

		for (unsigned i = 0; i < n; i++)
			start_something(r);
		if (!finish_all(r))
			return;
		if (sim_chance(r->sim, 300000) && !stamp_all(r))
			return;
	}
	if (sim_chance(r->sim, 500000))
		rig_close(r);
}

static void many_lives(uint64_t seed, const struct sim_options *options)
{
	struct rig *r = rig_new(seed, options);

	for (unsigned life = 0; life < 6; life++) {
		uint64_t k = 1 + sim_below(r->sim, 400);

		if (sim_chance(r->sim, 500000))
			sim_cut_after(r->sim, k);
		else if (sim_chance(r->sim, 500000))
			sim_kill_after(r->sim, k);
		if (rig_open(r)) {
			check_all(r);
			if (!sim_is_dead(r->sim))
				live(r);
		}
		reboot(r);
	}
	recover(r);
	rig_free(r);
}

/* T1, T2, T3: whatever goes on at the time, power cuts and kills break no promise. */
static void random_lives_keep_promises(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 300; seed++)
		many_lives(seed, NULL);
}

/* The same on a block device with 4-KiB sectors, where punched space is rubbish. */
static void random_lives_on_a_device(void **state)
{
	struct sim_options options = {.alignment = 4096, .is_device = true};

	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++)
		many_lives(seed, &options);
}

/* One seed is one run: the store brings in no chance of its own. */
static void same_seed_same_run(void **state)
{
	uint64_t digest[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rig *r = rig_new(77, NULL);

		assert_true(rig_open(r));
		live(r);
		digest[i] = sim_digest(r->sim);
		rig_free(r);
	}
	assert_true(digest[0] == digest[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(format_cut_anywhere),
	    cmocka_unit_test(lend_cut_anywhere),
	    cmocka_unit_test(free_cut_anywhere),
	    cmocka_unit_test(swap_cut_anywhere),
	    cmocka_unit_test(create_delete_cut_anywhere),
	    cmocka_unit_test(grow_cut_anywhere),
	    cmocka_unit_test(random_lives_keep_promises),
	    cmocka_unit_test(random_lives_on_a_device),
	    cmocka_unit_test(same_seed_same_run),
	};

	/* Memory comes and goes by megabytes here; page faults would take most of the time. */
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
