/* SPDX-License-Identifier: Apache-2.0
 *
 * The oracle passes an honest device, whatever the seed, and catches each dishonest one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/oracle.h"
#include "tests/sim/seeds.h"
#include "tests/sim/toy.h"
#include "tests/sim/workload.h"

#define STEPS 3000000

/* ---- Toys under load ----------------------------------------------------------------- */

static char caught[500];

static bool catch_it(const char *text)
{
	snprintf(caught, sizeof(caught), "%s", text);
	return false;
}

static struct io_loop *make_loop(void)
{
	struct io_loop_config config = {.name = "toy", .cpu = -1};
	struct io_loop *loop = NULL;

	assert_int_equal(io_loop_new(&config, &loop, NULL), 0);
	return loop;
}

/* A load, which a crash ends. */
static bool one_life(struct sim *sim, struct toy *toy, struct oracle *oracle, bool power_cut)
{
	struct workload_options options = {.n_ops = 20 + sim_below(sim, 200)};
	struct io_loop *loop = make_loop();
	struct workload *w = workload_start(sim, loop, toy_open(toy, loop), oracle, &options);
	enum sim_end end;
	bool ok;

	end = sim_run_until(sim, workload_is_over, w, 1 + sim_below(sim, 4000));
	assert_true(end == SIM_DONE || end == SIM_STEPS);
	ok = !workload_failure(w) || catch_it(workload_failure(w));
	if (power_cut)
		sim_cut(sim);
	else
		sim_kill(sim);
	sim_reboot(sim);
	workload_free(w);
	toy_crash(toy, power_cut);
	oracle_crash_begin(oracle, power_cut ? ORACLE_POWER_CUT : ORACLE_KILL);
	return ok;
}

static bool check_life(struct sim *sim, struct toy *toy, struct oracle *oracle)
{
	struct io_loop *loop = make_loop();
	const char *text;
	enum verify_end end = workload_verify_crash(sim, loop, toy_open(toy, loop), oracle, &text);

	assert_true(end == VERIFY_OK || end == VERIFY_WRONG);
	return end == VERIFY_OK || catch_it(text);
}

/* Several lives of one toy. True: the oracle had nothing to say. */
static bool toy_passes(enum toy_flaw flaw, uint64_t seed)
{
	struct sim *sim = sim_new(seed, NULL);
	uint64_t size = (256 + sim_below(sim, 8000)) * BLOCK_SECTOR;
	struct toy *toy = toy_new(sim, size, flaw);
	struct oracle *oracle = oracle_new(size / BLOCK_SECTOR, seed);
	bool ok = true;

	for (int life = 0; life < 4 && ok; life++) {
		ok = one_life(sim, toy, oracle, sim_below(sim, 3) > 0) &&
		     check_life(sim, toy, oracle);
	}
	oracle_free(oracle);
	toy_free(toy);
	sim_free(sim);
	return ok;
}

/* An honest device passes with every seed: the oracle demands nothing that was not promised. */
static void honest_device_passes(void **state)
{
	struct seeds seeds = seeds_to_run(150);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		if (!toy_passes(TOY_HONEST, seed))
			fail_msg("seed %llu: %s", (unsigned long long)seed, caught);
}

/* Each broken promise is caught by one of a few seeds. */
static void each_flaw_is_caught(void **state)
{
	(void)state;
	for (int flaw = TOY_HONEST + 1; flaw < TOY_N_FLAWS; flaw++) {
		uint64_t seed = 1;

		while (seed <= 100 && toy_passes((enum toy_flaw)flaw, seed))
			seed++;
		if (seed > 100)
			fail_msg("a toy that breaks \"%s\" was not caught",
				 toy_flaw_name((enum toy_flaw)flaw));
		if (getenv("SIM_VERBOSE"))
			fprintf(stderr, "%s: seed %llu: %s\n", toy_flaw_name((enum toy_flaw)flaw),
				(unsigned long long)seed, caught);
	}
}

/* A load is a function of its seed. */
static void same_seed_same_load(void **state)
{
	uint64_t digest[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct sim *sim = sim_new(11, NULL);
		struct toy *toy = toy_new(sim, MiB, TOY_HONEST);
		struct oracle *oracle = oracle_new(MiB / BLOCK_SECTOR, 1);

		assert_true(one_life(sim, toy, oracle, true));
		assert_true(check_life(sim, toy, oracle));
		digest[i] = sim_digest(sim) ^ sim_random(sim);
		oracle_free(oracle);
		toy_free(toy);
		sim_free(sim);
	}
	assert_true(digest[0] == digest[1]);
}

/* ---- Scripts: small histories with a known verdict ----------------------------------- */

#define N 32 /* sectors of the device in a script */

static uint8_t image[N * BLOCK_SECTOR];
static uint8_t bytes[N * BLOCK_SECTOR];

static struct oracle *script_begin(void)
{
	memset(image, 0, sizeof(image));
	return oracle_new(N, 1);
}

/* Begins a write; its bytes are left in `bytes`. */
static uint32_t begin_write(struct oracle *o, uint64_t first, uint64_t n)
{
	return oracle_write_begin(o, BLOCK_WRITE, false, first, n, bytes);
}

/* The sectors [first, first + n) of the write whose bytes are in `bytes`, which began at `at`. */
static void lands(uint64_t at, uint64_t first, uint64_t n)
{
	memcpy(image + first * BLOCK_SECTOR, bytes + (first - at) * BLOCK_SECTOR, n * BLOCK_SECTOR);
}

/* A write that has ended, and may have landed. */
static uint32_t do_write(struct oracle *o, uint64_t first, uint64_t n, bool landed)
{
	uint32_t number = begin_write(o, first, n);

	oracle_write_end(o, number, 0);
	if (landed)
		lands(first, first, n);
	return number;
}

static void do_flush(struct oracle *o)
{
	oracle_flush_end(o, oracle_flush_begin(o), 0);
}

static bool after(struct oracle *o, enum oracle_crash kind)
{
	oracle_crash_begin(o, kind);
	return oracle_crash_see(o, 0, N, image) && oracle_crash_end(o);
}

static bool read_is_legal(struct oracle *o)
{
	return oracle_read_end(o, oracle_read_begin(o), 0, N, image);
}

/* E1: flushed data must be there, by power cut; unflushed need not; killed must. */
static void script_flush(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	do_write(o, 0, 4, false);
	do_flush(o);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	do_flush(o);
	do_write(o, 0, 4, false);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	do_write(o, 0, 4, false);
	assert_false(after(o, ORACLE_KILL));
	oracle_free(o);
}

/* E1: a flush covers what ended before it was submitted, not what ended before it ended. */
static void script_flush_race(void **state)
{
	struct oracle *o = script_begin();
	uint64_t token = oracle_flush_begin(o);

	(void)state;
	do_write(o, 0, 4, false);
	oracle_flush_end(o, token, 0);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* E1: a flush that failed promises nothing. */
static void script_flush_failed(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	do_write(o, 0, 4, false);
	oracle_flush_end(o, oracle_flush_begin(o), -5);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* E2: of two writes, one after the other, the second alone is a hole; the first alone is a prefix;
 * of two in flight together either may be alone. */
static void script_prefix(void **state)
{
	struct oracle *o = script_begin();
	uint32_t a;
	uint32_t b;

	(void)state;
	do_write(o, 0, 4, false);
	do_write(o, 8, 4, true);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	do_write(o, 0, 4, true);
	do_write(o, 8, 4, false);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	a = begin_write(o, 0, 4);
	b = begin_write(o, 8, 4);
	lands(8, 8, 4);
	oracle_write_end(o, a, 0);
	oracle_write_end(o, b, 0);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* E2: what a power cut dropped does not come back at the next, nor in a live read. */
static void script_suffix_gone(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	do_write(o, 0, 4, false);
	assert_true(after(o, ORACLE_POWER_CUT));
	lands(0, 0, 4);
	assert_false(read_is_legal(o));
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* What a kill left in place, a power cut may still take, but not what was flushed. */
static void script_kill_then_cut(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	do_write(o, 0, 4, true);
	do_flush(o);
	do_write(o, 4, 4, true);
	assert_true(after(o, ORACLE_KILL));
	assert_true(read_is_legal(o));
	memset(image + 4 * BLOCK_SECTOR, 0, 4 * BLOCK_SECTOR);
	assert_true(after(o, ORACLE_POWER_CUT));
	memset(image, 0, sizeof(image));
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* E3: half a write is torn, whether it was answered or not. */
static void script_torn(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	do_write(o, 0, 4, false);
	lands(0, 0, 2);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	begin_write(o, 0, 4);
	lands(0, 2, 2);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	o = script_begin();
	begin_write(o, 0, 4);
	lands(0, 0, 4);
	assert_true(after(o, ORACLE_KILL));
	oracle_free(o);
}

/* E3: two that overlap in flight: one lies over the other, all of it. */
static void script_interleaved(void **state)
{
	for (int bad = 0; bad < 2; bad++) {
		struct oracle *o = script_begin();
		uint32_t a = begin_write(o, 0, 4);
		uint32_t b;

		(void)state;
		lands(0, 0, 4);
		b = begin_write(o, 0, 6);
		lands(0, bad ? 2 : 0, bad ? 4 : 6);
		oracle_write_end(o, a, 0);
		oracle_write_end(o, b, 0);
		assert_int_equal(read_is_legal(o), !bad);
		do_flush(o);
		assert_int_equal(after(o, ORACLE_POWER_CUT), !bad);
		oracle_free(o);
	}
}

/* E4: a read sees the newest that has ended, or what is in flight, and does not go back. */
static void script_reads(void **state)
{
	static uint8_t before[sizeof(image)];
	struct oracle *o = script_begin();

	(void)state;
	assert_true(read_is_legal(o));
	do_write(o, 0, 4, false);
	assert_false(read_is_legal(o));
	lands(0, 0, 4);
	assert_true(read_is_legal(o));
	begin_write(o, 0, 2);
	assert_true(read_is_legal(o));
	memcpy(before, image, sizeof(before));
	lands(0, 0, 2);
	assert_true(read_is_legal(o));
	/* The one in flight was seen: the one before it is history. */
	memcpy(image, before, sizeof(before));
	assert_false(read_is_legal(o));
	oracle_free(o);
}

/* E4: reads that ran together may see old and new in any order of their answers. */
static void script_reads_together(void **state)
{
	static uint8_t old[sizeof(image)];
	struct oracle *o = script_begin();
	uint64_t first = oracle_read_begin(o);
	uint64_t second;
	uint32_t a = begin_write(o, 0, 4);

	(void)state;
	memcpy(old, image, sizeof(old));
	lands(0, 0, 4);
	oracle_write_end(o, a, 0);
	second = oracle_read_begin(o);
	assert_true(oracle_read_end(o, second, 0, N, image));
	assert_true(oracle_read_end(o, first, 0, N, old));
	assert_false(oracle_read_end(o, oracle_read_begin(o), 0, N, old));
	oracle_free(o);
}

/* E2: of two that overlapped in flight, the order that a read has shown holds after a crash. */
static void script_shown_order(void **state)
{
	for (int bad = 0; bad < 2; bad++) {
		struct oracle *o = script_begin();
		uint32_t a = begin_write(o, 0, 4);
		uint32_t b;

		(void)state;
		lands(0, 0, 4);
		if (bad)
			assert_true(read_is_legal(o));
		b = begin_write(o, 0, 4);
		if (!bad)
			lands(0, 0, 4);
		oracle_write_end(o, b, 0);
		oracle_write_end(o, a, 0);
		assert_true(read_is_legal(o));
		if (bad)
			lands(0, 0, 4);
		do_flush(o);
		assert_int_equal(after(o, ORACLE_POWER_CUT), !bad);
		oracle_free(o);
	}
}

/* E5: a trim zeroes whole blocks and leaves the edges; zeroes that a trim made are explained by
 * it, and count as its being there. */
static void script_trim(void **state)
{
	struct oracle *o = script_begin();
	uint32_t t;

	(void)state;
	do_write(o, 0, N, true);
	do_flush(o);
	t = oracle_write_begin(o, BLOCK_TRIM, false, 4, 16, NULL); /* sectors 8 to 15 are whole */
	assert_true(read_is_legal(o));
	memset(image + 8 * BLOCK_SECTOR, 0, 8 * BLOCK_SECTOR);
	assert_true(read_is_legal(o));
	image[0] ^= 1;
	assert_false(read_is_legal(o));
	image[0] ^= 1;
	oracle_write_end(o, t, 0);
	assert_true(after(o, ORACLE_KILL));
	memset(image + 4 * BLOCK_SECTOR, 0, 4 * BLOCK_SECTOR);
	assert_false(read_is_legal(o));
	oracle_free(o);

	/* Half a trim is torn, too. */
	o = script_begin();
	do_write(o, 0, N, true);
	do_flush(o);
	oracle_write_begin(o, BLOCK_WRITE_ZEROES, false, 0, 8, NULL);
	memset(image, 0, 4 * BLOCK_SECTOR);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);

	/* And a trim that shows is not followed by a hole. */
	o = script_begin();
	do_write(o, 0, 8, true);
	do_flush(o);
	do_write(o, 16, 8, false);
	oracle_write_begin(o, BLOCK_TRIM, false, 0, 8, NULL);
	memset(image, 0, 8 * BLOCK_SECTOR);
	assert_false(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* E4: bytes of another place, of another device or of nobody are told apart and named. */
static void script_foreign_bytes(void **state)
{
	struct oracle *o = script_begin();
	struct oracle *other = oracle_new(N, 2);

	(void)state;
	do_write(o, 0, 4, false);
	lands(0, 1, 1);
	memcpy(image, image + BLOCK_SECTOR, BLOCK_SECTOR);
	assert_false(read_is_legal(o));
	assert_non_null(strstr(oracle_text(o), "misplaced"));
	do_write(other, 0, 4, true);
	assert_false(read_is_legal(o));
	assert_non_null(strstr(oracle_text(o), "another device"));
	memset(image, 7, BLOCK_SECTOR);
	assert_false(read_is_legal(o));
	assert_non_null(strstr(oracle_text(o), "nobody wrote"));
	oracle_free(other);
	oracle_free(o);
}

/* A write that failed may be there or not, but what was submitted after it lies over it. After a
 * crash it may be there though reads did not show it before. */
static void script_failed_write(void **state)
{
	struct oracle *o = script_begin();

	(void)state;
	oracle_write_end(o, begin_write(o, 0, 4), -5);
	lands(0, 0, 4);
	assert_true(read_is_legal(o));
	do_write(o, 0, 4, false);
	assert_false(read_is_legal(o));
	lands(0, 0, 4);
	assert_true(read_is_legal(o));
	oracle_write_end(o, begin_write(o, 0, 4), -5);
	assert_true(read_is_legal(o));
	lands(0, 0, 4);
	assert_true(after(o, ORACLE_KILL));
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

/* A device that has grown reads as zeroes where it is new. */
static void script_grow(void **state)
{
	struct oracle *o = oracle_new(N / 2, 1);

	(void)state;
	memset(image, 0, sizeof(image));
	do_write(o, 0, 4, true);
	oracle_grow(o, N);
	assert_true(read_is_legal(o));
	do_write(o, N - 1, 1, true);
	do_flush(o);
	assert_true(after(o, ORACLE_POWER_CUT));
	oracle_free(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    /* clang-format off */
	    cmocka_unit_test(honest_device_passes),
	    cmocka_unit_test(each_flaw_is_caught),
	    cmocka_unit_test(same_seed_same_load),
	    cmocka_unit_test(script_flush),
	    cmocka_unit_test(script_flush_race),
	    cmocka_unit_test(script_flush_failed),
	    cmocka_unit_test(script_prefix),
	    cmocka_unit_test(script_suffix_gone),
	    cmocka_unit_test(script_kill_then_cut),
	    cmocka_unit_test(script_torn),
	    cmocka_unit_test(script_interleaved),
	    cmocka_unit_test(script_reads),
	    cmocka_unit_test(script_reads_together),
	    cmocka_unit_test(script_shown_order),
	    cmocka_unit_test(script_trim),
	    cmocka_unit_test(script_foreign_bytes),
	    cmocka_unit_test(script_failed_write),
	    cmocka_unit_test(script_grow),
	    /* clang-format on */
	};

	return cmocka_run_group_tests_name("oracle", tests, NULL, NULL);
}
