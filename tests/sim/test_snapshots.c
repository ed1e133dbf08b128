/* SPDX-License-Identifier: Apache-2.0
 *
 * The snapshot repository without crashes: S1, S3, S4, S5, and what is asked of each operation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/depot.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct model empty;

static unsigned stored_bytes(struct depot *depot)
{
	return (unsigned)blobs_sim_stored(depot->objects, PREFIX_PACKS);
}

/* S1: a line of incremental snapshots; each reads as what its volume held. */
static void every_snapshot_reads_as_what_was_put(void **state)
{
	struct seeds seeds = seeds_to_run(6);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model models[5] = {{{0}}};

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		for (unsigned i = 0; i < 5; i++) {
			struct id parent = depot_id(i - 1);

			if (i > 0)
				models[i] = models[i - 1];
			model_change(&depot, &models[i], i == 0 ? 12 : 4);
			assert_true(depot_upload(&depot, i % 2, depot_id(i), i ? &parent : NULL,
						 i ? &models[i - 1] : &empty, &models[i]));
		}
		for (unsigned i = 0; i < 5; i++)
			assert_true(depot_verify(&depot, i % 2, depot_id(i), NULL, &models[i]));
		depot_free(&depot);
	}
}

/* S5: what is put again as the parent has it, and zeroes, take no room but for the tree. */
static void same_and_zero_blocks_take_no_room(void **state)
{
	struct depot depot;
	struct model a = {.seed = {5, 6, 7, 9}}, b, none = {{0}};
	struct id id = depot_id(0);
	struct upload u;
	unsigned before;

	(void)state;
	depot_init(&depot, 1);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &a));
	before = stored_bytes(&depot);
	b = a;
	b.seed[4] = SEED_ZERO;
	b.seed[5] = SEED_ZERO;
	/* All of it is put once more. */
	upload_start(&u, &depot, 0, depot_id(1), &id, &none, &b);
	assert_true(depot_wait(&depot, &u.done));
	assert_int_equal(u.error, 0);
	assert_int_equal(u.stats.same, 4);
	assert_int_equal(u.stats.zero, 2);
	assert_int_equal(u.stats.stored_blocks, 0);
	assert_true(stored_bytes(&depot) - before < 16 * KiB);
	assert_true(depot_verify(&depot, 1, depot_id(1), NULL, &b));
	upload_free(&u);
	depot_free(&depot);
}

static bool walk_flag;

static void walk_done(struct snap_walk *walk)
{
	(void)walk;
	walk_flag = true;
}

/* What differs between two snapshots is just what was changed, and no data is read for it. */
static void compare_tells_what_differs(void **state)
{
	struct seeds seeds = seeds_to_run(5);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model a = {{0}}, b;
		struct snap_reader *ra, *rb;
		struct snap_block blocks[3];
		struct snap_walk walk = {.done = walk_done, .blocks = blocks, .max = 3};
		struct id id = depot_id(0);
		unsigned n = 0;
		int error;

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		model_change(&depot, &a, 10);
		b = a;
		model_change(&depot, &b, 5);
		assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &a));
		assert_true(depot_upload(&depot, 0, depot_id(1), &id, &a, &b));
		assert_true(depot_open(&depot, 0, depot_id(0), NULL, &ra, &error));
		assert_true(depot_open(&depot, 0, depot_id(1), NULL, &rb, &error));
		while (walk.next != UINT64_MAX) {
			walk_flag = false;
			snap_compare(ra, rb, &walk);
			assert_true(depot_wait(&depot, &walk_flag));
			assert_int_equal(walk.error, 0);
			for (uint32_t i = 0; i < walk.n; i++, n++) {
				while (n < DEPOT_PLACES && a.seed[n] == b.seed[n])
					n++;
				assert_true(n < DEPOT_PLACES);
				assert_int_equal(blocks[i].block, depot_place(n));
				assert_int_equal(blocks[i].in_first, a.seed[n] != SEED_ABSENT);
				assert_int_equal(blocks[i].in_second, b.seed[n] != SEED_ABSENT);
			}
		}
		while (n < DEPOT_PLACES && a.seed[n] == b.seed[n])
			n++;
		assert_int_equal(n, DEPOT_PLACES);
		snap_reader_close(ra);
		snap_reader_close(rb);
		depot_free(&depot);
	}
}

/* Deleting in any order gives back, at the next sweep, what no other needs, and nothing else. */
static void delete_gives_back_what_nobody_needs(void **state)
{
	struct seeds seeds = seeds_to_run(6);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model models[4] = {{{0}}};
		bool gone[4] = {false};

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		for (unsigned i = 0; i < 4; i++) {
			struct id parent = depot_id(i - 1);

			if (i > 0)
				models[i] = models[i - 1];
			model_change(&depot, &models[i], i == 0 ? 14 : 5);
			assert_true(depot_upload(&depot, 0, depot_id(i), i ? &parent : NULL,
						 i ? &models[i - 1] : &empty, &models[i]));
		}
		for (unsigned n = 0; n < 4; n++) {
			struct snap_sweep sweep = {.config = depot_sweep_config()};
			unsigned i = (unsigned)sim_below(depot.sim, 4);

			while (gone[i])
				i = (i + 1) % 4;
			gone[i] = true;
			assert_true(depot_delete(&depot, 1, depot_id(i)));
			assert_true(depot_sweep(&depot, n % 2, &sweep));
			assert_int_equal(sweep.error, 0);
			assert_int_equal(sweep.tombstones, 1);
			assert_int_equal(sweep.n_usage, 3 - n);
			snap_sweep_clear(&sweep);
			for (unsigned j = 0; j < 4; j++)
				if (!gone[j])
					assert_true(
					    depot_verify(&depot, 0, depot_id(j), NULL, &models[j]));
		}
		assert_int_equal(blobs_sim_count(depot.objects, PREFIX_PACKS), 0);
		assert_int_equal(blobs_sim_count(depot.objects, PREFIX_SNAPSHOTS), 0);
		depot_free(&depot);
	}
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(every_snapshot_reads_as_what_was_put),
	    TEST(same_and_zero_blocks_take_no_room),
	    TEST(compare_tells_what_differs),
	    TEST(delete_gives_back_what_nobody_needs),
	};
	const char *only = getenv("SIM_TEST");

	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
