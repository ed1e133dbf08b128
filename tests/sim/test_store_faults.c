/* SPDX-License-Identifier: Apache-2.0
 *
 * The local store on disks that fail: it stops before it lies, and what it has promised stays.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/seeds.h"
#include "tests/sim/store_rig.h"

static void set_up(struct rig *r)
{
	assert_true(rig_open(r));
	assert_true(rig_finish(r, rig_lend(r, 1, 6)));
	assert_true(rig_finish(r, rig_swap(r, 0, 11, false)));
	assert_true(rig_stamp_all(r));
}

static int answer(struct rig *r, struct op *op)
{
	assert_true(rig_finish(r, op));
	return op->ctl.error;
}

/* T4: a failed sync is for ever. Appends, syncs, lending, freeing and swaps get -EIO, whatever the
 * disk says later; reads go on; the next opening finds all that was promised before. */
static void failed_sync_is_for_ever(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct rig *r = rig_new(seed, NULL);

		set_up(r);
		/* Nothing runs in the background any more. */
		sim_run_until(r->sim, NULL, NULL, STEPS);
		sim_disk_nth(r->sim, SIM_SYNC, 1, SIM_FAIL, -EIO);
		assert_true(rig_append(r, 3, 1));
		assert_true(rig_sync(r));
		assert_int_equal(r->io.result, -EIO);
		for (unsigned i = 0; i < 2; i++) {
			assert_true(rig_append(r, 3, 2));
			assert_int_equal(r->io.result, -EIO);
			assert_true(rig_sync(r));
			assert_int_equal(r->io.result, -EIO);
			assert_int_equal(answer(r, rig_lend(r, 2, 1)), -EIO);
			assert_int_equal(answer(r, rig_free_some(r, 1, 1)), -EIO);
			assert_int_equal(answer(r, rig_swap(r, 0, 12, false)), -EIO);
			assert_int_equal(answer(r, rig_get(r, 0)), 0);
		}
		rig_check(r);
		assert_true(rig_close(r));
		rig_recover(r);
		rig_free(r);
	}
}

/* Does a bit of everything, and takes -EIO for an answer. */
static bool act(struct rig *r)
{
	bool alive = true;

	for (unsigned i = 0; i < 3 && alive; i++) {
		struct op *ops[5];

		ops[0] = rig_lend(r, 2, 3);
		ops[1] = rig_free_some(r, 1, 2);
		ops[2] = rig_swap(r, 0, 20 + i, false);
		ops[3] = rig_swap(r, 1 + i, 30 + i, false);
		ops[4] = rig_lend(r, 3, 64);
		for (unsigned j = 0; j < ARRAY_SIZE(ops); j++)
			alive = alive && rig_finish(r, ops[j]);
		if (!alive || r->m.objects[0].pending)
			break;
	}
	return alive;
}

/* Whichever write, sync or growth fails, what was answered with success is there after the next
 * opening, and nothing is lent twice. */
static void any_operation_may_fail(void **state)
{
	const unsigned kinds = SIM_WRITE | SIM_SYNC | SIM_GROW | SIM_PUNCH | SIM_RESERVE;
	struct seeds seeds = seeds_to_run(1);
	uint64_t last = min_u64(seeds.last, seeds.first + 49);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= last; seed++) {
		for (uint64_t k = 1; k <= 120; k += seeds_stride()) {
			struct rig *r = rig_new(seed * 1000 + k, NULL);

			set_up(r);
			sim_disk_nth(r->sim, kinds, k, SIM_FAIL, -EIO);
			assert_true(act(r));
			/* Half the time the power goes, too. */
			if (k % 2)
				assert_true(rig_close(r));
			rig_recover(r);
			rig_free(r);
		}
	}
}

/* A full file system gives -ENOSPC for what needs new space, and everything else goes on; once
 * there is space, so does the rest. */
static void full_file_system(void **state)
{
	struct sim_options options = {.capacity = 600 * MiB};
	struct rig *r = rig_new(1, &options);
	struct op *op;

	(void)state;
	r->stream = STORE_STREAM_MOVED;
	set_up(r);
	do {
		op = rig_lend(r, 2, 64);
		assert_true(rig_finish(r, op));
	} while (op->ctl.error == 0);
	assert_int_equal(op->ctl.error, -ENOSPC);
	assert_int_equal(answer(r, rig_swap(r, 0, 5, false)), 0);
	assert_int_equal(answer(r, rig_free_some(r, 1, 1)), 0);
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), 0);
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), -ENOSPC);
	sim_options(r->sim)->capacity = 0;
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), 0);
	rig_check(r);
	assert_true(rig_close(r));
	rig_recover(r);
	rig_free(r);
}

#define RESERVE 16 /* what users are not lent: store/local_table.c */

/* A sparse file on a file system with room for so many segments. */
struct thin {
	bool backed[SEGMENTS + 1];
	unsigned room;
	bool broken; /* somebody wrote to what has no space */
};

static uint64_t segment_at(uint64_t offset)
{
	uint64_t id = 1;

	while (id < SEGMENTS && format_segment_offset(SEGMENT, id + 1) <= offset)
		id++;
	return format_segment_offset(SEGMENT, id) <= offset ? id : 0;
}

static enum sim_fate thin_fate(void *arg, struct sim_disk_op *op)
{
	struct thin *t = arg;
	uint64_t first = segment_at(op->offset);
	uint64_t n = op->len / SEGMENT;

	op->error = -ENOSPC;
	if (op->kind == SIM_WRITE && first && !t->backed[first] &&
	    op->offset < format_segment_offset(SEGMENT, first) + SEGMENT) {
		t->broken = true;
		return SIM_FAIL;
	}
	if (op->kind != SIM_RESERVE)
		return SIM_PROCEED;
	if (n > t->room)
		return SIM_FAIL;
	t->room -= (unsigned)n;
	for (uint64_t i = 0; i < n; i++)
		t->backed[first + i] = true;
	return SIM_PROCEED;
}

/* E6: when the file system below a sparse store is full, it is the lending that gets -ENOSPC, never
 * a write to what was lent; all there is can be used, and once there is more, that can, too. */
static void full_below_a_sparse_file(void **state)
{
	struct rig *r = rig_new(1, NULL);
	struct thin thin = {.room = 40};
	struct op *op;
	unsigned n = 0;

	(void)state;
	sim_disk_hook(r->sim, thin_fate, &thin);
	set_up(r);
	while ((op = rig_lend(r, 2, 8)), rig_finish(r, op), op->ctl.error == 0)
		n += op->ctl.n;
	assert_int_equal(op->ctl.error, -ENOSPC);
	assert_int_equal(thin.room, 0);
	assert_int_equal(n, 40 - 6 - 1 - RESERVE); /* set_up has six, the objects one */
	r->stream = STORE_STREAM_MOVED;
	assert_int_equal(answer(r, rig_lend(r, 3, RESERVE + 1)), 0);
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), -ENOSPC);
	assert_int_equal(answer(r, rig_swap(r, 0, 5, false)), 0);
	assert_int_equal(answer(r, rig_free_some(r, 1, 1)), 0);
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), 0);
	assert_int_equal(answer(r, rig_lend(r, 3, 1)), -ENOSPC);
	thin.room = 3;
	assert_int_equal(answer(r, rig_lend(r, 3, 4)), 0);
	assert_int_equal(thin.room, 0);
	assert_true(rig_stamp_all(r));
	assert_false(thin.broken);
	rig_check(r);
	assert_true(rig_close(r));
	sim_disk_hook(r->sim, NULL, NULL);
	rig_recover(r);
	rig_free(r);
}

static enum sim_fate refuse_reserves(void *arg, struct sim_disk_op *op)
{
	(*(unsigned *)arg) += op->kind == SIM_RESERVE;
	op->error = -EOPNOTSUPP;
	return op->kind == SIM_RESERVE ? SIM_FAIL : SIM_PROCEED;
}

/* Where space can't be set aside, it is tried once, and segments are lent without. */
static void no_backing_here(void **state)
{
	struct rig *r = rig_new(1, NULL);
	unsigned tries = 0;

	(void)state;
	sim_disk_hook(r->sim, refuse_reserves, &tries);
	set_up(r);
	assert_int_equal(answer(r, rig_lend(r, 2, 40)), 0);
	assert_int_equal(tries, 1);
	rig_check(r);
	assert_true(rig_close(r));
	sim_disk_hook(r->sim, NULL, NULL);
	rig_recover(r);
	rig_free(r);
}

static unsigned n_punches;

static enum sim_fate refuse_punches(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	if (op->kind != SIM_PUNCH)
		return SIM_PROCEED;
	n_punches++;
	op->error = -EOPNOTSUPP;
	return SIM_FAIL;
}

/* Where there is no punching, it is tried once, and what is free stays free. */
static void no_punching_here(void **state)
{
	struct rig *r = rig_new(1, NULL);

	(void)state;
	n_punches = 0;
	set_up(r);
	sim_disk_hook(r->sim, refuse_punches, NULL);
	assert_int_equal(answer(r, rig_lend(r, 2, 20)), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(answer(r, rig_free_some(r, 2, 5)), 0);
	sim_run_until(r->sim, NULL, NULL, STEPS);
	assert_int_equal(n_punches, 1);
	assert_int_equal(answer(r, rig_lend(r, 3, 20)), 0);
	rig_check(r);
	assert_true(rig_close(r));
	rig_recover(r);
	rig_free(r);
}

static enum sim_fate stall_punches(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	return op->kind == SIM_PUNCH ? SIM_STALL : SIM_PROCEED;
}

/* A punch that takes for ever holds up no lending, until nothing but its segment is left. */
static void slow_punch_holds_up_nobody(void **state)
{
	struct rig *r = rig_new(1, NULL);
	struct op *op;

	(void)state;
	set_up(r);
	assert_int_equal(answer(r, rig_lend(r, 2, 20)), 0);
	sim_disk_hook(r->sim, stall_punches, NULL);
	assert_int_equal(answer(r, rig_free_some(r, 2, 20)), 0);
	sim_run_until(r->sim, NULL, NULL, STEPS);
	assert_int_equal(sim_disk_in_flight(r->sim, SIM_PUNCH), 1);
	r->stream = STORE_STREAM_MAP;
	while (r->store->info.free > SEGMENT)
		assert_int_equal(answer(r, rig_lend(r, 3, 60)), 0);
	op = rig_lend(r, 2, 1);
	sim_run_until(r->sim, NULL, NULL, STEPS);
	assert_false(op->done);
	sim_disk_hook(r->sim, NULL, NULL);
	sim_release_stalled(r->sim);
	assert_int_equal(answer(r, op), 0);
	rig_check(r);
	assert_true(rig_close(r));
	rig_reboot(r);
	rig_free(r);
}

static enum sim_fate fail_reads_of_copy(void *arg, struct sim_disk_op *op)
{
	uint64_t distance = *(uint64_t *)arg;
	uint64_t table = format_table_offset(SEGMENT, 0, 0) + distance;

	if (op->kind != SIM_READ || op->len > FORMAT_TABLE_SIZE)
		return SIM_PROCEED;
	return op->offset >= table && op->offset < table + FORMAT_TABLE_SIZE ? SIM_FAIL
									     : SIM_PROCEED;
}

static void count_findings(void *arg, const char *text)
{
	(void)text;
	(*(unsigned *)arg)++;
}

/* A copy that can't be read is as good as damaged: the other serves. */
static void unreadable_copy(void **state)
{
	(void)state;
	for (uint64_t copy = 0; copy < 2; copy++) {
		struct rig *r = rig_new(1 + copy, NULL);
		uint64_t distance = copy * FORMAT_TABLE_DISTANCE;
		unsigned n = 0;

		set_up(r);
		assert_true(rig_close(r));
		rig_reboot(r);
		sim_disk_hook(r->sim, fail_reads_of_copy, &distance);
		assert_true(rig_open(r));
		assert_int_equal(store_local_check(r->store, count_findings, &n), 2);
		assert_int_equal(n, 2);
		rig_check(r);
		assert_true(rig_close(r));
		sim_disk_hook(r->sim, NULL, NULL);
		rig_recover(r);
		rig_free(r);
	}
}

static void on_sync(struct store_io *io)
{
	(void)io;
}

static unsigned n_syncs;

static enum sim_fate count_syncs(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	n_syncs += op->kind == SIM_SYNC;
	return SIM_PROCEED;
}

/* Syncs that come while one runs share the next: a hundred cost two, on each loop. */
static void syncs_are_shared(void **state)
{
	struct rig *r = rig_new(1, NULL);
	static struct store_io many[100];

	(void)state;
	set_up(r);
	sim_run_until(r->sim, NULL, NULL, STEPS);
	n_syncs = 0;
	sim_disk_hook(r->sim, count_syncs, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = (struct store_io){.done = on_sync, .result = 1};
		store_sync(r->store, i % 2 ? r->owner : r->other, &many[i]);
	}
	assert_int_equal(sim_run_until(r->sim, NULL, NULL, STEPS), SIM_IDLE);
	assert_int_equal(n_syncs, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		assert_int_equal(many[i].result, 0);
	assert_true(rig_close(r));
	rig_reboot(r);
	rig_free(r);
}

/* Lendings that come together share a round: many cost few syncs. */
static void lendings_are_batched(void **state)
{
	struct rig *r = rig_new(1, NULL);

	(void)state;
	set_up(r);
	sim_run_until(r->sim, NULL, NULL, STEPS);
	n_syncs = 0;
	sim_disk_hook(r->sim, count_syncs, NULL);
	for (unsigned i = 0; i < VOLUMES; i++)
		rig_lend(r, i, 2);
	assert_true(rig_finish_all(r));
	assert_true(n_syncs <= 2);
	assert_true(rig_close(r));
	rig_reboot(r);
	rig_free(r);
}

/* Rot in any one copy of what the store keeps: it opens, and knows all but perhaps the newest
 * version of one object. */
static void rot_in_one_copy(void **state)
{
	struct seeds seeds = seeds_to_run(60);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct rig *r = rig_new(seed, NULL);
		uint64_t objects = format_segment_offset(SEGMENT, 7);
		const uint64_t places[][2] = {
		    {0, FORMAT_PAGE},
		    {FORMAT_SUPER_DISTANCE, FORMAT_PAGE},
		    {format_table_offset(SEGMENT, 0, 0), FORMAT_TABLE_SIZE},
		    {format_table_offset(SEGMENT, 0, 1), FORMAT_TABLE_SIZE},
		    /* the slot with the only version so far has a twin */
		    {objects, FORMAT_PAGE},
		    {objects + FORMAT_PAGE, FORMAT_PAGE},
		};
		const uint64_t *place = places[seed % ARRAY_SIZE(places)];
		unsigned n = 0;

		set_up(r);
		assert_true(rig_close(r));
		rig_reboot(r);
		sim_file_rot(r->sim, PATH, place[0], place[1]);
		r->m.damaged = true;
		assert_true(rig_open(r));
		assert_int_equal(store_local_check(r->store, count_findings, &n), 1);
		rig_check(r);
		assert_true(rig_close(r));
		rig_recover(r);
		rig_free(r);
	}
}

/* A segment's worth of what could be taken for objects, if it were where objects are. */
static void forge_objects(struct rig *r, uint64_t segment, uint32_t generation)
{
	uint8_t page[FORMAT_PAGE];
	const struct format_slot slot = {
	    .name = {.hi = 66, .lo = 66}, .version = 9, .sequence = 6, .length = 5};

	for (uint32_t pair = 0; pair < SEGMENT / FORMAT_PAIR_SIZE; pair++) {
		const struct format_slot_place place = {.store = r->store->info.uuid,
							.segment = segment,
							.generation = generation,
							.pair = pair};

		format_slot_encode(&slot, &place, "false", page);
		sim_file_plant(r->sim, PATH,
			       format_segment_offset(SEGMENT, segment) + pair * FORMAT_PAIR_SIZE,
			       page, sizeof(page));
	}
}

/* What a user wrote is never taken for objects, even if the store's own segment comes to lie where
 * it was. */
static void objects_are_not_forged(void **state)
{
	struct rig *r = rig_new(1, NULL);
	struct op *op;
	unsigned n = 0;

	(void)state;
	assert_true(rig_open(r));
	for (unsigned i = 0; i < SEGMENTS / 63; i++)
		assert_int_equal(answer(r, rig_lend(r, 1, 63)), 0);
	assert_int_equal(answer(r, rig_lend(r, 1, 1)), -ENOSPC);
	op = rig_free_some(r, 1, 1);
	forge_objects(r, op->ctl.segments[0].id, op->ctl.segments[0].generation + 1);
	assert_int_equal(answer(r, op), 0);
	assert_int_equal(answer(r, rig_swap(r, 0, 1, false)), 0);
	assert_true(rig_close(r));
	rig_reboot(r);
	assert_true(rig_open(r));
	assert_int_equal(store_local_check(r->store, count_findings, &n), 0);
	op = rig_op(r, OP_NONE, 0);
	op->ctl.volume = (struct id){.hi = 66, .lo = 66};
	r->store->ops->object_get(r->store, &op->ctl);
	assert_int_equal(answer(r, op), -ENOENT);
	op->done = true;
	assert_int_equal(answer(r, rig_get(r, 0)), 0);
	assert_true(rig_close(r));
	rig_reboot(r);
	rig_free(r);
}

/* A read-only opening writes nothing at all. */
static void read_only_writes_nothing(void **state)
{
	struct rig *r = rig_new(1, NULL);
	uint64_t points;

	(void)state;
	set_up(r);
	rig_reboot(r); /* the power is cut: there may be copies to bring up to date */
	points = sim_points(r->sim);
	assert_true(rig_open_as(r, true));
	assert_int_equal(r->open.err.code, 0);
	rig_check(r);
	assert_int_equal(answer(r, rig_lend(r, 0, 1)), -EROFS);
	assert_true(rig_close(r));
	assert_true(sim_points(r->sim) == points);
	rig_reboot(r);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(failed_sync_is_for_ever),
	    cmocka_unit_test(any_operation_may_fail),
	    cmocka_unit_test(full_file_system),
	    cmocka_unit_test(full_below_a_sparse_file),
	    cmocka_unit_test(no_backing_here),
	    cmocka_unit_test(no_punching_here),
	    cmocka_unit_test(slow_punch_holds_up_nobody),
	    cmocka_unit_test(unreadable_copy),
	    cmocka_unit_test(syncs_are_shared),
	    cmocka_unit_test(lendings_are_batched),
	    cmocka_unit_test(rot_in_one_copy),
	    cmocka_unit_test(objects_are_not_forged),
	    cmocka_unit_test(read_only_writes_nothing),
	};

	rig_tune();
	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
