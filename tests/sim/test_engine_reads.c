/* SPDX-License-Identifier: Apache-2.0
 *
 * How reads go to the disk: blocks that lie near each other are read at once, with what is between
 * them, and what can't be read at once is read block by block, so that only what is bad is called
 * bad.
 */
#include "base/util.h"
#include "tests/sim/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME_BYTES (64 * MiB)
#define BLOCK        4096
#define N_BLOCKS     32

static struct world world;
static uint8_t *buf;
static uint8_t *expected;

static struct watch {
	unsigned n_reads;
	uint64_t first; /* offset of the first read */
	uint64_t longest;
	uint64_t bad_from; /* reads that touch [bad_from, bad_to) fail */
	uint64_t bad_to;
} watch;

static enum sim_fate watch_reads(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	if (op->kind != SIM_READ)
		return SIM_PROCEED;
	if (watch.n_reads++ == 0)
		watch.first = op->offset;
	watch.longest = max_u64(watch.longest, op->len);
	return op->offset < watch.bad_to && op->offset + op->len > watch.bad_from ? SIM_FAIL
										  : SIM_PROCEED;
}

static void watch_begin(uint64_t bad_from, uint64_t bad_to)
{
	watch = (struct watch){.bad_from = bad_from, .bad_to = bad_to};
	sim_disk_hook(world.sim, watch_reads, NULL);
}

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	world_init(&world, sim_new(12, &options));
	buf = sim_alloc(MiB);
	expected = sim_alloc(MiB);
	assert_int_equal(world_begin(&world), 0);
	assert_int_equal(world_create(&world, 0, VOLUME_BYTES), 0);
	assert_int_equal(world_open(&world, 0), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim_free(world.sim);
	sim_release(buf);
	sim_release(expected);
	return 0;
}

static void fill(uint8_t *p, uint64_t lba)
{
	for (unsigned i = 0; i < BLOCK; i += 8) {
		uint64_t v = hash_u64(lba * 1000003 + i);

		memcpy(p + i, &v, 8);
	}
}

/* One record for each block, one after the other; behind each, `between` blocks elsewhere. */
static void write_singly(unsigned between)
{
	for (uint64_t lba = 0; lba < N_BLOCKS; lba++) {
		fill(expected + lba * BLOCK, lba);
		memcpy(buf, expected + lba * BLOCK, BLOCK);
		assert_int_equal(world_io(&world, 0, BLOCK_WRITE, 0, lba * BLOCK, BLOCK, buf), 0);
		if (between > 0)
			assert_int_equal(world_io(&world, 0, BLOCK_WRITE, 0, 8 * MiB,
						  (uint64_t)between * BLOCK, buf),
					 0);
	}
}

static int read_all(void)
{
	return world_io(&world, 0, BLOCK_READ, 0, 0, N_BLOCKS * BLOCK, buf);
}

static void all_is_right(void)
{
	assert_int_equal(read_all(), 0);
	assert_memory_equal(buf, expected, N_BLOCKS * BLOCK);
}

static void health_is(enum volume_health health, uint32_t n_bad)
{
	struct volume_bad bad[VOLUME_BAD_MAX];
	struct volume_stats stats;
	bool more;

	volume_stats(world.volumes[0], &stats);
	assert_int_equal(stats.health, health);
	assert_int_equal(volume_bad(world.volumes[0], bad, &more), n_bad);
}

static void neighbours_are_read_at_once(void **state)
{
	(void)state;
	write_singly(0);
	watch_begin(0, 0);
	all_is_right();
	assert_true(watch.n_reads <= 2);
	/* Headers lie between them, nothing else. */
	assert_true(watch.longest <= 2 * N_BLOCKS * BLOCK);
}

static void what_lies_far_is_not(void **state)
{
	(void)state;
	write_singly(8);
	watch_begin(0, 0);
	all_is_right();
	assert_int_equal(watch.n_reads, N_BLOCKS);
	assert_int_equal(watch.longest, BLOCK);
}

/* The header of a record that is never looked at any more. */
static void bad_place_between_harms_nobody(void **state)
{
	(void)state;
	write_singly(0);
	watch_begin(0, 0);
	all_is_right();
	watch_begin(watch.first + BLOCK, watch.first + 2 * BLOCK);
	all_is_right();
	health_is(VOLUME_OK, 0);
	assert_true(watch.n_reads > 2);
}

/* Its place is known from where the disk was read. */
static void one_bad_block_is_named_alone(void **state)
{
	struct volume_bad bad[VOLUME_BAD_MAX];
	uint64_t third;
	bool more;

	(void)state;
	write_singly(0);
	watch_begin(0, 0);
	all_is_right();
	third = watch.first + 4 * BLOCK;
	watch_begin(third, third + BLOCK);
	assert_int_equal(read_all(), -EIO);
	health_is(VOLUME_IMPAIRED, 1);
	volume_bad(world.volumes[0], bad, &more);
	assert_false(more);
	assert_int_equal(bad[0].lba, 2);
	assert_int_equal(bad[0].blocks, 1);
	for (uint64_t lba = 0; lba < N_BLOCKS; lba++)
		assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, lba * BLOCK, BLOCK, buf),
				 lba == 2 ? -EIO : 0);
	watch_begin(0, 0);
	all_is_right();
	health_is(VOLUME_OK, 0);
}

/* A disk that reads nothing any more, and takes its time to say so. */
static void dead_disk_is_not_asked_for_each_block(void **state)
{
	(void)state;
	assert_int_equal(world_io(&world, 0, BLOCK_WRITE, 0, 0, 256 * KiB, buf), 0);
	watch_begin(0, UINT64_MAX);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, 0, 256 * KiB, buf), -EIO);
	assert_true(watch.n_reads <= 5);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(neighbours_are_read_at_once),           TEST(what_lies_far_is_not),
	    TEST(bad_place_between_harms_nobody),        TEST(one_bad_block_is_named_alone),
	    TEST(dead_disk_is_not_asked_for_each_block),
	};

	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
