/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake disk: what it may lose it sometimes loses, what it may not it never does.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/sim/probe.h"

enum seen { SAW_OLD = 1, SAW_NEW = 2, SAW_TORN = 4 };

/* Syncs 16 KiB of ones, writes twos over them, and asks what a power cut (or kill) leaves. */
static unsigned overwrite_then_end(uint64_t seed, bool sync_too, bool kill, bool in_flight)
{
	enum { LEN = 16384 };
	struct sim *sim = sim_new(seed, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	struct probe p;
	uint8_t got[LEN];

	assert_int_equal(do_write(sim, loop, file, filled(LEN, 1), LEN, 0), LEN);
	assert_int_equal(do_sync(sim, loop, file), 0);
	if (in_flight) {
		probe_init(&p);
		sim_disk_nth(sim, SIM_WRITE, 1, SIM_STALL, 0);
		io_write(loop, &p.op, file, filled(LEN, 2), LEN, 0);
	} else {
		assert_int_equal(do_write(sim, loop, file, filled(LEN, 2), LEN, 0), LEN);
	}
	if (sync_too)
		assert_int_equal(do_sync(sim, loop, file), 0);
	if (kill)
		sim_kill(sim);
	sim_reboot(sim);
	assert_int_equal(sim_file_size(sim, PATH), LEN);
	sim_file_peek(sim, PATH, 0, got, LEN);
	sim_free(sim);
	for (size_t i = 0; i < LEN; i += 512) {
		assert_true(got[i] == 1 || got[i] == 2);
		assert_true(is_all(got + i, 512, got[i])); /* sectors are whole */
	}
	if (is_all(got, LEN, 1))
		return SAW_OLD;
	return is_all(got, LEN, 2) ? SAW_NEW : SAW_TORN;
}

static unsigned over_seeds(bool sync_too, bool kill, bool in_flight)
{
	unsigned seen = 0;

	for (uint64_t seed = 1; seed <= 200; seed++)
		seen |= overwrite_then_end(seed, sync_too, kill, in_flight);
	return seen;
}

/* What completed but was not synced is kept, dropped or torn by a power cut. */
static void cut_unsynced_kept_dropped_or_torn(void **state)
{
	(void)state;
	assert_int_equal(over_seeds(false, false, false), SAW_OLD | SAW_NEW | SAW_TORN);
}

/* So is what was in flight. */
static void cut_in_flight_kept_dropped_or_torn(void **state)
{
	(void)state;
	assert_int_equal(over_seeds(false, false, true), SAW_OLD | SAW_NEW | SAW_TORN);
}

/* What was synced is never lost. */
static void cut_synced_kept(void **state)
{
	(void)state;
	assert_int_equal(over_seeds(true, false, false), SAW_NEW);
}

/* A killed process loses nothing that completed, and anything of what was in flight. */
static void kill_completed_kept(void **state)
{
	(void)state;
	assert_int_equal(over_seeds(false, true, false), SAW_NEW);
	assert_int_equal(over_seeds(false, true, true), SAW_OLD | SAW_NEW | SAW_TORN);
}

/* A write that was still in flight when the sync was submitted is not covered by it. */
static void sync_covers_only_what_completed_before(void **state)
{
	bool lost = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		struct probe w;
		struct probe s;
		uint8_t got[512];

		assert_int_equal(do_write(sim, loop, file, filled(512, 1), 512, 0), 512);
		assert_int_equal(do_sync(sim, loop, file), 0);
		probe_init(&w);
		probe_init(&s);
		sim_disk_nth(sim, SIM_SYNC, 1, SIM_SLOW, 0);
		io_write(loop, &w.op, file, filled(512, 2), 512, 0);
		io_sync(loop, &s.op, file);
		wait_for(sim, &s);
		assert_true(w.done);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, got, 512);
		lost |= got[0] == 1;
		sim_free(sim);
	}
	assert_true(lost);
}

/* Of two unsynced writes of one sector, a power cut may keep the older and drop the newer. */
static void cut_older_may_win(void **state)
{
	bool older = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		uint8_t got[512];

		assert_int_equal(do_write(sim, loop, file, filled(512, 1), 512, 0), 512);
		assert_int_equal(do_write(sim, loop, file, filled(512, 2), 512, 0), 512);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, got, 512);
		older |= got[0] == 1;
		sim_free(sim);
	}
	assert_true(older);
}

/* Growth that was not synced may be lost, whether by writing past the end or by io_grow; growth
 * that was synced stays, and new bytes read as zeroes. */
static void cut_growth(void **state)
{
	bool lost = false;
	bool kept = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		struct probe p;
		uint8_t got[4096];

		probe_init(&p);
		io_grow(loop, &p.op, file, 8192);
		assert_int_equal(wait_for(sim, &p), 0);
		assert_int_equal(do_sync(sim, loop, file), 0);
		assert_int_equal(do_write(sim, loop, file, filled(4096, 1), 4096, 8192), 4096);
		assert_int_equal(sim_file_size(sim, PATH), 12288);
		sim_reboot(sim);
		lost |= sim_file_size(sim, PATH) == 8192;
		kept |= sim_file_size(sim, PATH) == 12288;
		sim_file_peek(sim, PATH, 4096, got, 4096);
		assert_true(is_all(got, 4096, 0));
		assert_true(sim_file_size(sim, PATH) >= 8192);
		sim_free(sim);
	}
	assert_true(lost);
	assert_true(kept);
}

/* Operations in flight together complete in many orders. */
static void completions_come_in_any_order(void **state)
{
	bool first_last = false;
	bool first_first = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		struct probe p[4];

		probes_done = 0;
		for (int i = 0; i < 4; i++) {
			probe_init(&p[i]);
			io_write(loop, &p[i].op, file, filled(512, 1), 512, (uint64_t)i * 512);
			assert_false(p[i].done); /* never inside the call */
		}
		sim_run_until(sim, NULL, NULL, STEPS);
		first_first |= p[0].order == 0;
		first_last |= p[0].order == 3;
		sim_free(sim);
	}
	assert_true(first_first);
	assert_true(first_last);
}

/* A read that races a write sees old or new, sector by sector, and never anything else. */
static void read_races_write(void **state)
{
	unsigned seen = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		enum { LEN = 8192 };
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		struct probe w;
		uint8_t *got = filled(LEN, 9);

		assert_int_equal(do_write(sim, loop, file, filled(LEN, 1), LEN, 0), LEN);
		probe_init(&w);
		io_write(loop, &w.op, file, filled(LEN, 2), LEN, 0);
		assert_int_equal(do_read(sim, loop, file, got, LEN, 0), LEN);
		for (size_t i = 0; i < LEN; i += 512)
			assert_true(is_all(got + i, 512, 1) || is_all(got + i, 512, 2));
		seen |= is_all(got, LEN, 1) ? SAW_OLD : is_all(got, LEN, 2) ? SAW_NEW : SAW_TORN;
		sim_free(sim);
	}
	assert_true(seen & SAW_TORN);
}

/* A read past the end fails, and so does one that a fault hits. */
static void read_errors(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(4096, 1);

	(void)state;
	assert_int_equal(do_write(sim, loop, file, buf, 512, 0), 512);
	assert_int_equal(do_read(sim, loop, file, buf, 1024, 0), -EIO);
	sim_disk_nth(sim, SIM_READ, 2, SIM_FAIL, -EIO);
	assert_int_equal(do_read(sim, loop, file, buf, 512, 0), 512);
	assert_int_equal(do_read(sim, loop, file, buf, 512, 0), -EIO);
	assert_int_equal(do_read(sim, loop, file, buf, 512, 0), 512);
	sim_free(sim);
}

/* After a failed sync data may be gone at the power cut, though a later sync succeeded and readers
 * saw it all the time. */
static void sync_failure_forgets(void **state)
{
	bool lost = false;
	bool kept = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		uint8_t *got = filled(512, 0);
		uint8_t byte;

		assert_int_equal(do_write(sim, loop, file, filled(512, 1), 512, 0), 512);
		assert_int_equal(do_sync(sim, loop, file), 0);
		assert_int_equal(do_write(sim, loop, file, filled(512, 2), 512, 0), 512);
		sim_disk_nth(sim, SIM_SYNC, 1, SIM_FAIL, -EIO);
		assert_int_equal(do_sync(sim, loop, file), -EIO);
		assert_int_equal(do_sync(sim, loop, file), 0);
		assert_int_equal(do_read(sim, loop, file, got, 512, 0), 512);
		assert_int_equal(got[0], 2);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, &byte, 1);
		lost |= byte == 1;
		kept |= byte == 2;
		sim_free(sim);
	}
	assert_true(lost);
	assert_true(kept);
}

/* A write that completed, survived a kill, and was never synced, may be lost at a power cut. */
static void kill_then_cut_may_lose(void **state)
{
	bool lost = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		uint8_t got[512] = {0};

		assert_int_equal(do_write(sim, loop, file, filled(512, 1), 512, 0), 512);
		sim_kill(sim);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, got, 512);
		assert_true(is_all(got, 512, 1));
		sim_cut(sim);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, got, 512);
		lost |= is_all(got, 512, 0);
		sim_free(sim);
	}
	assert_true(lost);
}

/* A misdirected write says done, is not where it should be, and spoils another place. */
static void fault_misdirect(void **state)
{
	bool spoiled = false;

	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		uint8_t *buf = filled(65536, 0);

		assert_int_equal(do_write(sim, loop, file, filled(65536, 1), 65536, 0), 65536);
		sim_disk_nth(sim, SIM_WRITE, 1, SIM_MISDIRECT, 0);
		assert_int_equal(do_write(sim, loop, file, filled(512, 2), 512, 0), 512);
		assert_int_equal(do_read(sim, loop, file, buf, 65536, 0), 65536);
		assert_non_null(memchr(buf, 2, 65536));
		spoiled |= buf[0] == 1;
		sim_free(sim);
	}
	assert_true(spoiled);
}

/* Faults by chance hit as often as the options say: always, here. */
static void faults_by_chance(void **state)
{
	struct sim_options options = {
	    .fail_read = 1000000, .fail_write = 1000000, .fail_sync = 1000000};
	struct sim *sim = sim_new(1, &options);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(512, 1);

	(void)state;
	assert_int_equal(do_write(sim, loop, file, buf, 512, 0), -EIO);
	assert_int_equal(do_sync(sim, loop, file), -EIO);
	assert_int_equal(do_read(sim, loop, file, buf, 512, 0), -EIO);
	sim_options(sim)->fail_write = 0;
	assert_int_equal(do_write(sim, loop, file, buf, 512, 0), 512);
	sim_free(sim);
}

/* Lost writes and stalls do what their names say; punched ranges read as
 * zeroes; a full disk refuses growth but not overwriting. */
static void faults_by_name(void **state)
{
	struct sim *sim = sim_new(3, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(4096, 0);
	struct probe p;

	(void)state;
	assert_int_equal(do_write(sim, loop, file, filled(4096, 1), 4096, 0), 4096);
	sim_disk_nth(sim, SIM_WRITE, 1, SIM_LOSE, 0);
	assert_int_equal(do_write(sim, loop, file, filled(512, 2), 512, 0), 512);
	assert_int_equal(do_read(sim, loop, file, buf, 4096, 0), 4096);
	assert_true(is_all(buf, 4096, 1));

	probe_init(&p);
	sim_disk_nth(sim, SIM_WRITE, 1, SIM_STALL, 0);
	io_write(loop, &p.op, file, filled(512, 3), 512, 0);
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p.done, STEPS), SIM_IDLE);
	sim_release_stalled(sim);
	assert_int_equal(wait_for(sim, &p), 512);

	probe_init(&p);
	io_punch(loop, &p.op, file, 0, 1024);
	assert_int_equal(wait_for(sim, &p), 0);
	assert_int_equal(do_read(sim, loop, file, buf, 1024, 0), 1024);
	assert_true(is_all(buf, 1024, 0));

	sim_options(sim)->capacity = 4096;
	assert_int_equal(do_write(sim, loop, file, filled(512, 4), 512, 4096), -ENOSPC);
	assert_int_equal(do_write(sim, loop, file, filled(512, 4), 512, 0), 512);

	assert_true(sim_file_rot(sim, PATH, 512, 512) >= 512);
	assert_int_equal(do_read(sim, loop, file, buf, 512, 512), 512);
	assert_false(is_all(buf, 512, 0));
	sim_free(sim);
}

/* The cut comes right after the k-th point, each op has two, and nothing later reaches the disk. */
static void cut_after_counts_starts_and_ends(void **state)
{
	(void)state;
	for (uint64_t k = 1; k <= 5; k++) {
		struct sim *sim = sim_new(k, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_file *file = open_file();
		struct probe w;
		struct probe s;
		uint8_t got[512] = {0};

		sim_cut_after(sim, k);
		probe_init(&w);
		io_write(loop, &w.op, file, filled(512, 1), 512, 0);
		assert_int_equal(sim_is_dead(sim), k == 1);
		sim_run_until(sim, sim_flag_is_set, &w.done, STEPS);
		assert_int_equal(w.done, k > 2);
		probe_init(&s);
		io_sync(loop, &s.op, file);
		sim_run_until(sim, sim_flag_is_set, &s.done, STEPS);
		assert_int_equal(s.done, k > 4);
		sim_reboot(sim);
		assert_int_equal(sim_points(sim), 0);
		if (sim_file_size(sim, PATH) == 512)
			sim_file_peek(sim, PATH, 0, got, 512);
		if (k > 4)
			assert_true(is_all(got, 512, 1));
		sim_free(sim);
	}
}

/* A lock holds until close or the end of the life. */
static void open_exclusive(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_file *a = NULL;
	struct io_file *b = NULL;

	(void)state;
	assert_int_equal(io_file_open(PATH, 0, &a, NULL), -ENOENT);
	assert_int_equal(io_file_open(PATH, IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE, &a, NULL), 0);
	assert_int_equal(io_file_open(PATH, IO_OPEN_EXCLUSIVE, &b, NULL), -EBUSY);
	assert_int_equal(io_file_open(PATH, IO_OPEN_READ_ONLY, &b, NULL), 0);
	io_file_close(b);
	sim_reboot(sim);
	assert_int_equal(io_file_open(PATH, IO_OPEN_EXCLUSIVE, &a, NULL), 0);
	io_file_close(a);
	assert_int_equal(sim_mem_in_use(sim), 0);
	sim_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    /* clang-format off */
	    cmocka_unit_test(cut_unsynced_kept_dropped_or_torn),
	    cmocka_unit_test(cut_in_flight_kept_dropped_or_torn),
	    cmocka_unit_test(cut_synced_kept),
	    cmocka_unit_test(kill_completed_kept),
	    cmocka_unit_test(sync_covers_only_what_completed_before),
	    cmocka_unit_test(cut_older_may_win),
	    cmocka_unit_test(cut_growth),
	    cmocka_unit_test(completions_come_in_any_order),
	    cmocka_unit_test(read_races_write),
	    cmocka_unit_test(read_errors),
	    cmocka_unit_test(sync_failure_forgets),
	    cmocka_unit_test(kill_then_cut_may_lose),
	    cmocka_unit_test(fault_misdirect),
	    cmocka_unit_test(faults_by_chance),
	    cmocka_unit_test(faults_by_name),
	    cmocka_unit_test(cut_after_counts_starts_and_ends),
	    cmocka_unit_test(open_exclusive),
	    /* clang-format on */
	};

	return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
