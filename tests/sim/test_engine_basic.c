/* SPDX-License-Identifier: Apache-2.0
 *
 * One thing at a time: what a volume answers, and finds again after closing, a killed process, a
 * power cut.
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
#define BUF_BYTES    (8 * MiB)

static struct world world;
static uint8_t *buf;
static uint8_t *expected;

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	world_init(&world, sim_new(7, &options));
	buf = calloc(1, BUF_BYTES);
	expected = calloc(1, BUF_BYTES);
	assert_int_equal(world_begin(&world), 0);
	assert_int_equal(world_create(&world, 0, VOLUME_BYTES), 0);
	assert_int_equal(world_open(&world, 0), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim_free(world.sim);
	free(buf);
	free(expected);
	return 0;
}

static void fill(uint8_t *p, size_t len, uint64_t tag)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = hash_u64(tag * 1000003 + i);

		memcpy(p + i, &v, 8);
	}
}

static void write_ok(uint64_t offset, uint64_t length, uint64_t tag, uint32_t flags)
{
	fill(buf, length, tag);
	assert_int_equal(world_io(&world, 0, BLOCK_WRITE, flags, offset, length, buf), 0);
}

static void read_is(uint64_t offset, uint64_t length, uint64_t tag)
{
	fill(expected, length, tag);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, offset, length, buf), 0);
	assert_memory_equal(buf, expected, length);
}

static void read_zero(uint64_t offset, uint64_t length)
{
	memset(expected, 0, length);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, offset, length, buf), 0);
	assert_memory_equal(buf, expected, length);
}

static void again(void)
{
	assert_int_equal(world_begin(&world), 0);
	if (world_open(&world, 0) != 0)
		fail_msg("open: %s", world.err.text);
}

static void check_clean(void)
{
	assert_int_equal(world_check(&world, 0), 0);
}

/* E5: what was never written reads as zeroes. */
static void read_fresh_is_zero(void **state)
{
	(void)state;
	read_zero(0, 1 * MiB);
	read_zero(VOLUME_BYTES - 512, 512);
	check_clean();
}

/* E4: a read returns what was last written, whatever the sizes and edges. */
static void write_then_read(void **state)
{
	static const struct {
		uint64_t offset;
		uint64_t length;
	} cases[] = {{0, 4096},
		     {8704, 512},
		     {4096 * 3 + 1024, 4096},
		     {1 * MiB, 1 * MiB},
		     {4 * MiB + 512, 1 * MiB},
		     {10 * MiB - 1536, 6 * MiB + 1024},
		     {VOLUME_BYTES - 512, 512}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		write_ok(cases[i].offset, cases[i].length, i, 0);
		read_is(cases[i].offset, cases[i].length, i);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		read_is(cases[i].offset, cases[i].length, i);
	check_clean();
	assert_int_equal(world_checkpoint(&world, 0), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		read_is(cases[i].offset, cases[i].length, i);
	check_clean();
}

/* E1: a clean close keeps everything; so does the next, and one after nothing was written. */
static void close_and_open(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 5; i++) {
		write_ok(i * MiB, 64 * KiB, 100 + i, 0);
		assert_int_equal(world_end(&world), 0);
		again();
		for (uint64_t j = 0; j <= i; j++)
			read_is(j * MiB, 64 * KiB, 100 + j);
		check_clean();
		assert_int_equal(world_end(&world), 0);
		again();
		check_clean();
	}
}

/* E1: the death of the process loses no acknowledged write. */
static void kill_keeps_acknowledged(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 10; i++) {
		write_ok(i * MiB + 512, 64 * KiB, 200 + i, 0);
		if (i == 5)
			assert_int_equal(world_checkpoint(&world, 0), 0);
		sim_kill(world.sim);
		sim_reboot(world.sim);
		again();
		for (uint64_t j = 0; j <= i; j++)
			read_is(j * MiB + 512, 64 * KiB, 200 + j);
		check_clean();
	}
}

/* E1: a power cut loses nothing that a flush or FUA acknowledged. */
static void cut_keeps_flushed(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 10; i++) {
		write_ok(i * MiB, 64 * KiB, 300 + i, i % 2 ? BLOCK_FUA : 0);
		if (i % 2 == 0)
			assert_int_equal(world_io(&world, 0, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
		sim_cut(world.sim);
		sim_reboot(world.sim);
		again();
		for (uint64_t j = 0; j <= i; j++)
			read_is(j * MiB, 64 * KiB, 300 + j);
		check_clean();
	}
}

/* E5: trimmed and zeroed ranges read as zeroes, exact to a block for trim and to a byte for zeroes.
 */
static void trim_and_zero(void **state)
{
	(void)state;
	write_ok(0, 8 * MiB, 1, 0);
	assert_int_equal(world_io(&world, 0, BLOCK_TRIM, 0, 512, 8192, NULL), 0);
	fill(expected, 8 * MiB, 1);
	memset(expected + 4096, 0, 4096);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, 0, 8 * MiB, buf), 0);
	assert_memory_equal(buf, expected, 8 * MiB);
	assert_int_equal(
	    world_io(&world, 0, BLOCK_WRITE_ZEROES, 0, 1 * MiB - 512, 2 * MiB + 1024, NULL), 0);
	memset(expected + 1 * MiB - 512, 0, 2 * MiB + 1024);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, 0, 8 * MiB, buf), 0);
	assert_memory_equal(buf, expected, 8 * MiB);
	assert_int_equal(world_checkpoint(&world, 0), 0);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, 0, 8 * MiB, buf), 0);
	assert_memory_equal(buf, expected, 8 * MiB);
	check_clean();
	assert_int_equal(world_io(&world, 0, BLOCK_TRIM, 0, 0, VOLUME_BYTES, NULL), 0);
	write_ok(2 * MiB, 4096, 9, 0);
	assert_int_equal(world_checkpoint(&world, 0), 0);
	read_zero(0, 2 * MiB);
	read_is(2 * MiB, 4096, 9);
	read_zero(2 * MiB + 4096, 4 * MiB);
	check_clean();
}

/* E5: the space of what was trimmed comes back: dead segments are freed after two more checkpoints.
 */
static void trim_frees_segments(void **state)
{
	struct volume_stats before;
	struct volume_stats after;

	(void)state;
	for (uint64_t i = 0; i < 6; i++)
		write_ok(i * 8 * MiB, 8 * MiB, i, 0);
	volume_stats(world.volumes[0], &before);
	assert_true(before.live_bytes == 48 * MiB);
	assert_int_equal(world_io(&world, 0, BLOCK_TRIM, 0, 0, VOLUME_BYTES, NULL), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(world_checkpoint(&world, 0), 0);
	sim_run_until(world.sim, NULL, NULL, 100000); /* freeing goes on behind */
	volume_stats(world.volumes[0], &after);
	assert_true(after.live_bytes == 0);
	/* The heads of log and map. */
	assert_true(before.segments - before.spares >= 7);
	assert_true(after.segments - after.spares <= 2);
	check_clean();
}

/* A size grows by a record of the log, and is found again after a cut. */
static void resize_grows(void **state)
{
	(void)state;
	assert_int_equal(world_resize(&world, 0, 2 * GiB), 0);
	write_ok(2 * GiB - 4096, 4096, 5, BLOCK_FUA);
	sim_cut(world.sim);
	sim_reboot(world.sim);
	again();
	read_is(2 * GiB - 4096, 4096, 5);
	assert_true(block_size(volume_dev(world.volumes[0])) == 2 * GiB);
	check_clean();
}

/* Past the end: EINVAL for reads, ENOSPC for writes, and nothing happens. */
static void range_is_checked(void **state)
{
	(void)state;
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, VOLUME_BYTES - 512, 1024, buf),
			 -EINVAL);
	assert_int_equal(world_io(&world, 0, BLOCK_WRITE, 0, VOLUME_BYTES, 512, buf), -ENOSPC);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(read_fresh_is_zero),      TEST(write_then_read),   TEST(close_and_open),
	    TEST(kill_keeps_acknowledged), TEST(cut_keeps_flushed), TEST(trim_and_zero),
	    TEST(trim_frees_segments),     TEST(resize_grows),      TEST(range_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
