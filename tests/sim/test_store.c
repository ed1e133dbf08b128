/* SPDX-License-Identifier: Apache-2.0
 *
 * The local store under power cuts and kills: after each device operation of each thing it does,
 * and anywhere in random lives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/sim/seeds.h"
#include "tests/sim/store_rig.h"

/* ---- Power-cut loops --------------------------------------------------------------------------
 */

/* A scenario sets up, arms the cut, and acts. Returns at the end of the life, or when it
 * is through. */
typedef void (*scenario)(struct rig *r, uint64_t k);

/* The power is cut, or the process alone is killed. */
static void arm(struct rig *r, uint64_t k)
{
	if (r->kill)
		sim_kill_after(r->sim, k);
	else
		sim_cut_after(r->sim, k);
}

static void cut_everywhere(scenario act, uint64_t n_seeds)
{
	/* A seed takes up to a second: a long run does not do as many as of the random lives. */
	struct seeds seeds = seeds_to_run(n_seeds);
	uint64_t last = min_u64(seeds.last, seeds.first + 99);

	for (uint64_t seed = seeds.first; seed <= last; seed++) {
		bool dead = true;

		for (uint64_t k = 1; dead; k += seeds_stride()) {
			struct rig *r = rig_new(seed * 1000 + k, NULL);

			r->kill = seed % 2 == 0;
			act(r, k);
			dead = sim_is_dead(r->sim);
			rig_recover(r);
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
	assert_true(rig_finish(r, rig_lend(r, 1, 6)));
	assert_true(rig_stamp_all(r));
}

static void set_up_objects(struct rig *r)
{
	set_up(r);
	assert_true(rig_finish(r, rig_swap(r, 0, 11, false)));
	assert_true(rig_finish(r, rig_swap(r, 1, 12, false)));
}

static void act_lend(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up(r);
	arm(r, k);
	a = rig_lend(r, 1, 2);
	b = rig_lend(r, 2, 64);
	if (rig_finish(r, a) && rig_finish(r, b))
		rig_finish(r, rig_lend(r, 3, 1));
}

static void act_free(struct rig *r, uint64_t k)
{
	set_up(r);
	arm(r, k);
	if (rig_finish(r, rig_free_some(r, 1, 2)) && rig_finish(r, rig_lend(r, 2, 1)) &&
	    rig_finish(r, rig_free_some(r, 1, 4)) && rig_finish(r, rig_lend(r, 3, 3)))
		if (rig_stamp_all(r))
			rig_close(r);
}

static void act_swap(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up_objects(r);
	arm(r, k);
	a = rig_swap(r, 0, 21, false);
	b = rig_swap(r, 1, 22, false);
	if (rig_finish(r, a) && rig_finish(r, b))
		rig_finish(r, rig_swap(r, 0, 23, false));
}

static void act_create_delete(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up_objects(r);
	arm(r, k);
	a = rig_swap(r, 0, 0, true);
	b = rig_swap(r, 2, 32, false);
	if (!rig_finish(r, a) || !rig_finish(r, b))
		return;
	a = rig_swap(r, 0, 33, false);
	b = rig_swap(r, 3, 34, false);
	if (rig_finish(r, a) && rig_finish(r, b))
		rig_finish(r, rig_swap(r, 3, 0, true));
}

/* Two groups more. */
static void act_grow(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	assert_true(rig_open(r));
	arm(r, k);
	a = rig_lend(r, 0, 64);
	b = rig_lend(r, 1, 64);
	if (rig_finish(r, a) && rig_finish(r, b) && rig_finish(r, rig_lend(r, 1, 64)))
		rig_finish(r, rig_lend(r, 2, 64));
}

/* The first object brings the first segment of objects. */
static void act_first_object(struct rig *r, uint64_t k)
{
	struct op *a, *b;

	set_up(r);
	arm(r, k);
	a = rig_swap(r, 0, 41, false);
	b = rig_swap(r, 1, 42, false);
	if (rig_finish(r, a))
		rig_finish(r, b);
}

/* A killed process leaves copies that are newer, and not durable; the next one is cut while it
 * opens, and while it changes them. */
static void act_reopen(struct rig *r, uint64_t k)
{
	set_up(r);
	sim_kill_after(r->sim, 1 + k % 17);
	if (rig_finish(r, rig_lend(r, 1, 2)))
		rig_finish(r, rig_free_some(r, 1, 1));
	sim_kill(r->sim);
	rig_reboot(r);
	arm(r, k);
	if (!rig_open(r))
		return;
	rig_check(r);
	if (!sim_is_dead(r->sim) && rig_finish(r, rig_lend(r, 2, 1)))
		rig_finish(r, rig_free_some(r, 2, 1));
}

/* N: formatting, cut anywhere, leaves a blank file or a store. */
static void format_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_format, 16);
}

/* N, T1: a lending, cut anywhere, is there or not; what was answered is. */
static void lend_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_lend, 16);
}

/* N, T1, T3: freeing, punching and lending again, cut anywhere, never lend a segment twice nor
 * touch what is lent. */
static void free_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_free, 12);
}

/* N, T2: a swap, cut anywhere, leaves the old or the new version. */
static void swap_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_swap, 2);
}

/* N, T2: creating and deleting, cut anywhere: what was deleted does not come back. */
static void create_delete_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_create_delete, 2);
}

/* N: growing by groups, cut anywhere. */
static void grow_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_grow, 16);
}

/* N, T2: making room for objects, cut anywhere. */
static void first_object_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_first_object, 2);
}

/* N: opening after a kill, cut anywhere. */
static void reopen_cut_anywhere(void **state)
{
	(void)state;
	cut_everywhere(act_reopen, 10);
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
			rig_lend(r, volume, 1 + (unsigned)sim_below(r->sim, 20));
		return;
	case 1:
		rig_free_some(r, volume, 1 + (unsigned)sim_below(r->sim, 20));
		return;
	case 2:
		if (!name_is_busy(r, name))
			rig_swap(r, name, sim_random(r->sim), exists && sim_chance(r->sim, 300000));
		return;
	default:
		if (!name_is_busy(r, name))
			rig_get(r, name);
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
		if (!rig_finish_all(r))
			return;
		if (sim_chance(r->sim, 300000) && !rig_stamp_all(r))
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
			rig_check(r);
			if (!sim_is_dead(r->sim))
				live(r);
		}
		rig_reboot(r);
	}
	rig_recover(r);
	rig_free(r);
}

/* T1, T2, T3: whatever goes on at the time, power cuts and kills break no promise. */
static void random_lives_keep_promises(void **state)
{
	struct seeds seeds = seeds_to_run(60);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		many_lives(seed, NULL);
}

/* The same on a block device with 4-KiB sectors, where punched space is rubbish. */
static void random_lives_on_a_device(void **state)
{
	struct sim_options options = {.alignment = 4096, .is_device = true};
	struct seeds seeds = seeds_to_run(20);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		many_lives(seed, &options);
}

/* ---- One copy -------------------------------------------------------------------------- */

/* Everything that exists twice, but for the superblock. */
static enum sim_fate fail_reads_of_copy(void *arg, struct sim_disk_op *op)
{
	unsigned copy = *(unsigned *)arg;

	if (op->kind != SIM_READ || op->offset < format_group_offset(SEGMENT, 0))
		return SIM_PROCEED;
	for (uint64_t g = 0; g < SEGMENTS / FORMAT_SEGMENTS + 1; g++) {
		uint64_t table = format_table_offset(SEGMENT, g, 0);

		if (op->offset >= table && op->offset < table + 2 * FORMAT_TABLE_DISTANCE)
			return (op->offset - table) / FORMAT_TABLE_DISTANCE == copy ? SIM_FAIL
										    : SIM_PROCEED;
	}
	/* Objects, in one go and then slot by slot. */
	if (op->len > FORMAT_PAGE)
		return SIM_FAIL;
	return op->offset / FORMAT_PAGE % 2 == copy ? SIM_FAIL : SIM_PROCEED;
}

/* T1, T2, T3: whatever was answered is known by both copies: either of them alone serves, though
 * the power went right behind the answer. */
static void one_copy_is_enough(void **state)
{
	struct seeds seeds = seeds_to_run(40);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct rig *r = rig_new(seed, NULL);

		assert_true(rig_open(r));
		r->m.damaged = true;
		for (unsigned life = 0; life < 4; life++) {
			unsigned copy = (unsigned)sim_below(r->sim, 2);

			live(r);
			if (r->opened)
				sim_cut(r->sim);
			rig_reboot(r);
			sim_disk_hook(r->sim, fail_reads_of_copy, &copy);
			assert_true(rig_open(r));
			sim_disk_hook(r->sim, NULL, NULL);
			rig_check(r);
		}
		assert_true(rig_close(r));
		rig_recover(r);
		rig_free(r);
	}
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
	    cmocka_unit_test(first_object_cut_anywhere),
	    cmocka_unit_test(reopen_cut_anywhere),
	    cmocka_unit_test(random_lives_keep_promises),
	    cmocka_unit_test(random_lives_on_a_device),
	    cmocka_unit_test(one_copy_is_enough),
	    cmocka_unit_test(same_seed_same_run),
	};

	rig_tune();
	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
