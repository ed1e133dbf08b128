/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated machine keeps its own promises: what a disk may lose it sometimes loses, what it
 * may not it never does, and a seed is a run.
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
#include "base/util.h"
#include "tests/sim/machine/sim.h"

#define PATH  "/disk"
#define STEPS 1000000

/* ---- Help -------------------------------------------------------------------------------------
 */

struct probe {
	struct io_op op;
	bool done;
	unsigned order; /* the how-manieth to be done */
};

static unsigned n_done;

static void on_probe(struct io_op *op)
{
	struct probe *p = container_of(op, struct probe, op);

	assert_false(p->done);
	p->done = true;
	p->order = n_done++;
}

static void probe_init(struct probe *p)
{
	*p = (struct probe){.op = {.done = on_probe}};
}

static struct io_loop *make_loop(const char *name)
{
	struct io_loop_config config = {.name = name, .cpu = -1};
	struct io_loop *loop = NULL;

	assert_int_equal(io_loop_new(&config, &loop, NULL), 0);
	return loop;
}

static struct io_file *open_file(void)
{
	struct io_file *file = NULL;

	assert_int_equal(io_file_open(PATH, IO_OPEN_CREATE, &file, NULL), 0);
	return file;
}

static int64_t wait_for(struct sim *sim, struct probe *p)
{
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p->done, STEPS), SIM_DONE);
	return p->op.result;
}

static int64_t do_write(struct sim *sim, struct io_loop *loop, struct io_file *file,
			const void *buf, size_t len, uint64_t offset)
{
	struct probe p;

	probe_init(&p);
	io_write(loop, &p.op, file, buf, len, offset);
	return wait_for(sim, &p);
}

static int64_t do_read(struct sim *sim, struct io_loop *loop, struct io_file *file, void *buf,
		       size_t len, uint64_t offset)
{
	struct probe p;

	probe_init(&p);
	io_read(loop, &p.op, file, buf, len, offset);
	return wait_for(sim, &p);
}

static int64_t do_sync(struct sim *sim, struct io_loop *loop, struct io_file *file)
{
	struct probe p;

	probe_init(&p);
	io_sync(loop, &p.op, file);
	return wait_for(sim, &p);
}

static bool is_all(const uint8_t *buf, size_t len, uint8_t byte)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != byte)
			return false;
	return true;
}

static uint8_t *filled(size_t len, uint8_t byte)
{
	uint8_t *buf = mem_alloc_pages(len);

	assert_non_null(buf);
	memset(buf, byte, len);
	return buf;
}

/* What the machine found wrong, without aborting. */
static char failure[400];

static void on_failure(void *arg, const char *text)
{
	(void)arg;
	snprintf(failure, sizeof(failure), "%s", text);
}

static void expect_failure(struct sim *sim)
{
	failure[0] = '\0';
	sim_on_failure(sim, on_failure, NULL, true);
}

/* ---- One seed, one run ------------------------------------------------------------------------
 */

/* A mixed load; returns the digest. */
static uint64_t mixed_run(uint64_t seed)
{
	struct sim *sim = sim_new(seed, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(4096, 1);
	struct probe p[32];
	uint64_t digest;

	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		probe_init(&p[i]);
		if (i % 4 == 3)
			io_sync(loop, &p[i].op, file);
		else if (i % 4 == 2)
			io_timer(loop, &p[i].op, sim_below(sim, 100000));
		else
			io_write(loop, &p[i].op, file, buf, 4096, i * 4096);
	}
	assert_int_equal(sim_run_until(sim, NULL, NULL, STEPS), SIM_IDLE);
	sim_reboot(sim);
	digest = sim_digest(sim);
	sim_free(sim);
	return digest;
}

/* The same seed gives the same run, decision by decision; other seeds give others. */
static void seed_is_a_run(void **state)
{
	(void)state;
	assert_true(mixed_run(7) == mixed_run(7));
	assert_true(mixed_run(7) != mixed_run(8));
	assert_true(mixed_run(8) != mixed_run(9));
}

/* ---- Disk -------------------------------------------------------------------------------------
 */

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

		n_done = 0;
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

		assert_int_equal(do_write(sim, loop, file, filled(512, 1), 512, 0), 512);
		assert_int_equal(do_sync(sim, loop, file), 0);
		assert_int_equal(do_write(sim, loop, file, filled(512, 2), 512, 0), 512);
		sim_disk_nth(sim, SIM_SYNC, 1, SIM_FAIL, -EIO);
		assert_int_equal(do_sync(sim, loop, file), -EIO);
		assert_int_equal(do_sync(sim, loop, file), 0);
		assert_int_equal(do_read(sim, loop, file, got, 512, 0), 512);
		assert_int_equal(got[0], 2);
		sim_reboot(sim);
		sim_file_peek(sim, PATH, 0, failure, 1);
		lost |= failure[0] == 1;
		kept |= failure[0] == 2;
		sim_free(sim);
	}
	assert_true(lost);
	assert_true(kept);
}

/* Lost writes, misdirected writes and stalls do what their names say; punched ranges read as
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

/* ---- Rules that the machine watches -----------------------------------------------------------
 */

/* A buffer that changes while its write is in flight is told. */
static void watch_unstable_buffer(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(512, 1);
	struct probe p;

	(void)state;
	expect_failure(sim);
	probe_init(&p);
	io_write(loop, &p.op, file, buf, 512, 0);
	buf[100] = 2;
	wait_for(sim, &p);
	assert_non_null(strstr(failure, "changed under way"));
	sim_free(sim);
}

/* So are unaligned operations, and an op that is started twice. */
static void watch_alignment_and_reuse(void **state)
{
	struct sim_options options = {.alignment = 4096};
	struct sim *sim = sim_new(1, &options);
	struct io_loop *loop = make_loop("a");
	struct io_file *file = open_file();
	uint8_t *buf = filled(8192, 1);
	struct probe p;

	(void)state;
	expect_failure(sim);
	assert_int_equal(do_write(sim, loop, file, buf, 4096, 512), -EINVAL);
	assert_non_null(strstr(failure, "not aligned"));
	assert_int_equal(do_write(sim, loop, file, buf + 512, 4096, 0), -EINVAL);
	assert_non_null(strstr(failure, "unaligned buffer"));
	failure[0] = '\0';
	probe_init(&p);
	io_write(loop, &p.op, file, buf, 4096, 0);
	assert_string_equal(failure, "");
	io_write(loop, &p.op, file, buf, 4096, 0);
	assert_non_null(strstr(failure, "in flight"));
	sim_free(sim);
}

static void on_foreign_turn(struct io_op *op)
{
	io_defer(op->file ? (struct io_loop *)(void *)op->file : op->loop, op, 0);
	op->done = on_probe;
}

/* An operation on a loop from another loop's turn is told. */
static void watch_foreign_loop(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_loop *a = make_loop("a");
	struct io_loop *b = make_loop("b");
	struct probe p;

	(void)state;
	expect_failure(sim);
	probe_init(&p);
	p.op.done = on_foreign_turn;
	p.op.file = (struct io_file *)(void *)b;
	io_defer(a, &p.op, 0);
	wait_for(sim, &p);
	assert_non_null(strstr(failure, "from the turn of loop a"));
	sim_free(sim);
}

/* ---- Loops ------------------------------------------------------------------------------------
 */

/* Timers fire by deadline, never early; a cancelled one says so; the clock jumps when idle. */
static void timers_in_order(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct probe p[10];
		struct probe far;
		uint64_t start = sim_time(sim);

		n_done = 0;
		for (unsigned i = 0; i < 10; i++) {
			probe_init(&p[i]);
			io_timer(loop, &p[i].op, (10 - i) * 3600 * NSEC_PER_SEC);
		}
		probe_init(&far);
		io_timer(loop, &far.op, UINT64_MAX);
		assert_int_equal(sim_run_until(sim, NULL, NULL, STEPS), SIM_IDLE);
		for (unsigned i = 0; i < 10; i++)
			assert_int_equal(p[i].order, 9 - i);
		assert_true(sim_time(sim) >= start + 36000 * NSEC_PER_SEC);
		assert_false(far.done);
		io_timer_cancel(loop, &far.op);
		assert_int_equal(wait_for(sim, &far), -ECANCELED);
		sim_free(sim);
	}
}

struct letter {
	struct io_msg msg;
	int number;
};
static int letters[64];
static int n_letters;

static void on_letter(struct io_msg *msg)
{
	letters[n_letters++] = container_of(msg, struct letter, msg)->number;
}

struct poster {
	struct io_op op;
	struct io_loop *to;
	struct letter letter[8];
};

static void on_post_all(struct io_op *op)
{
	struct poster *p = container_of(op, struct poster, op);

	for (int i = 0; i < 8; i++)
		io_post(p->to, &p->letter[i].msg);
}

/* Mail of one sender arrives in order; that of two comes mixed in more than one way. */
static void mail_in_order(void **state)
{
	unsigned mixes = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 30; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *to = make_loop("to");
		struct poster p[2];
		int last[2] = {-1, -1};

		n_letters = 0;
		for (int who = 0; who < 2; who++) {
			p[who] = (struct poster){.op = {.done = on_post_all}, .to = to};
			for (int i = 0; i < 8; i++)
				p[who].letter[i] = (struct letter){{.run = on_letter}, who * 8 + i};
			io_defer(make_loop("from"), &p[who].op, 0);
		}
		sim_run_until(sim, NULL, NULL, STEPS);
		assert_int_equal(n_letters, 16);
		for (int i = 0; i < 16; i++) {
			int who = letters[i] / 8;

			assert_int_equal(letters[i] % 8, last[who] + 1);
			last[who]++;
		}
		mixes |= 1u << (letters[0] / 8);
		sim_free(sim);
	}
	assert_int_equal(mixes, 3);
}

struct job {
	struct io_work work;
	bool ran;
	bool done;
};

static void job_run(struct io_work *work)
{
	container_of(work, struct job, work)->ran = true;
}

static void job_done(struct io_work *work)
{
	struct job *job = container_of(work, struct job, work);

	assert_true(job->ran);
	job->done = true;
}

/* Work runs, not inside the call, and is then done on the loop. */
static void work_runs_then_done(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_loop *loop = make_loop("a");
	struct job job = {.work = {.run = job_run, .done = job_done}};

	(void)state;
	io_work(loop, &job.work);
	assert_false(job.ran);
	sim_run_until(sim, sim_flag_is_set, &job.done, STEPS);
	assert_true(job.done);
	sim_free(sim);
}

struct counting_hook {
	struct io_hook hook;
	struct io_loop *loop;
	struct probe probe;
	int runs;
};

static void on_hook(struct io_hook *hook)
{
	struct counting_hook *h = container_of(hook, struct counting_hook, hook);

	if (h->runs++ == 0)
		io_defer(h->loop, &h->probe.op, 5);
}

/* A hook runs again until a pass starts nothing. A loop can be stopped and freed. */
static void hooks_run_until_quiet(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct counting_hook h = {.hook = {.run = on_hook}, .loop = make_loop("a")};

	(void)state;
	probe_init(&h.probe);
	io_hook_add(h.loop, &h.hook);
	assert_int_equal(wait_for(sim, &h.probe), 5);
	assert_true(h.runs >= 2);
	io_loop_stop(h.loop);
	io_loop_free(h.loop);
	sim_free(sim);
}

/* ---- Sockets ----------------------------------------------------------------------------------
 */

static struct io_sock *accept_one(struct sim *sim, struct io_loop *loop, struct io_sock *listener)
{
	struct io_sock *sock = NULL;
	struct probe p;

	probe_init(&p);
	io_accept(loop, &p.op, listener, &sock);
	assert_int_equal(wait_for(sim, &p), 0);
	assert_non_null(sock);
	return sock;
}

/* Receives `len` bytes in pieces of 1 to 300; returns how many pieces it took. */
static unsigned recv_all(struct sim *sim, struct io_loop *loop, struct io_sock *sock, uint8_t *buf,
			 size_t len)
{
	unsigned pieces = 0;

	for (size_t got = 0; got < len; pieces++) {
		struct probe p;

		probe_init(&p);
		io_recv(loop, &p.op, sock, buf + got, 1, min_u64(300, len - got));
		wait_for(sim, &p);
		assert_true(p.op.result > 0);
		got += (size_t)p.op.result;
	}
	return pieces;
}

/* A stream comes in pieces that differ by seed, and its bytes are right both ways. */
static void socket_stream_in_pieces(void **state)
{
	unsigned fewest = 1000;
	unsigned most = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_sock *listener = sim_listen(sim, true);
		struct io_sock *client = sim_connect(sim, listener);
		struct io_sock *server = accept_one(sim, loop, listener);
		uint8_t out[2000];
		uint8_t in[2000];
		struct iovec iov = {out, sizeof(out)};
		struct probe p;
		unsigned pieces;

		for (size_t i = 0; i < sizeof(out); i++)
			out[i] = (uint8_t)sim_random(sim);
		sim_send(client, out, sizeof(out));
		pieces = recv_all(sim, loop, server, in, sizeof(in));
		fewest = pieces < fewest ? pieces : fewest;
		most = pieces > most ? pieces : most;
		assert_memory_equal(in, out, sizeof(in));

		probe_init(&p);
		io_send(loop, &p.op, server, &iov, 1);
		assert_int_equal(wait_for(sim, &p), sizeof(out));
		sim_run_until(sim, NULL, NULL, STEPS);
		assert_int_equal(sim_recv(client, in, sizeof(in)), sizeof(in));
		assert_memory_equal(in, out, sizeof(in));
		io_sock_close(server);
		io_sock_close(client);
		sim_free(sim);
	}
	assert_true(fewest < most);
}

/* After a half-close a receiver gets what came before it, then 0; it can still send. */
static void socket_half_close(void **state)
{
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t buf[16];
	struct iovec iov = {buf, 4};
	struct probe p;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	sim_send(client, "abc", 3);
	sim_half_close(client);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 8, 16);
	assert_int_equal(wait_for(sim, &p), 3);
	assert_memory_equal(buf, "abc", 3);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 1, 16);
	assert_int_equal(wait_for(sim, &p), 0);
	probe_init(&p);
	io_send(loop, &p.op, in_end, &iov, 1);
	assert_int_equal(wait_for(sim, &p), 4);
	sim_free(sim);
}

/* Bytes held back stay on the wire until let pass; a reset ends what waits; shutdown does, too. */
static void socket_hold_reset_shutdown(void **state)
{
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t buf[16];
	struct probe p;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	sim_hold(client, true, false);
	sim_send(client, "abcdef", 6);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p.done, STEPS), SIM_IDLE);
	sim_let_pass(client, 2);
	assert_int_equal(wait_for(sim, &p), 2);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	sim_reset(client);
	assert_int_equal(wait_for(sim, &p), -ECONNRESET);

	sim_pair(sim, false, &in_end, &client);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	io_sock_shutdown(loop, in_end);
	assert_int_equal(wait_for(sim, &p), 0);
	sim_run_until(sim, NULL, NULL, STEPS);
	assert_true(sim_peer_closed(client));
	sim_free(sim);
}

/* A peer that does not read makes a sender wait; the end of a life resets the outside ends. */
static void socket_backpressure_and_death(void **state)
{
	enum { LEN = 1000000 };
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t *bytes = filled(LEN, 5);
	struct iovec iov = {bytes, LEN};
	uint8_t *sink = sim_alloc(LEN);
	struct probe p;
	size_t got = 0;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	probe_init(&p);
	io_send(loop, &p.op, in_end, &iov, 1);
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p.done, STEPS), SIM_IDLE);
	while (!p.done) {
		got += sim_recv(client, sink, LEN);
		sim_run_until(sim, sim_flag_is_set, &p.done, 50);
	}
	assert_true(got < LEN);
	sim_reboot(sim);
	assert_true(sim_peer_reset(client));
	sim_release(sink);
	sim_free(sim);
}

/* What a daemon had allocated is given back at the end of its life. */
static void life_ends_memory(void **state)
{
	struct sim *sim = sim_new(4, NULL);

	(void)state;
	assert_non_null(mem_alloc(1000));
	assert_non_null(mem_realloc(mem_alloc(10), 100));
	assert_non_null(pool_get(pool_new(4096, 4)));
	assert_true(sim_mem_in_use(sim) > 0);
	sim_reboot(sim);
	assert_int_equal(sim_mem_in_use(sim), 0);
	mem_free(mem_alloc(10));
	assert_int_equal(sim_mem_in_use(sim), 0);
	sim_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(seed_is_a_run),
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
	    cmocka_unit_test(faults_by_name),
	    cmocka_unit_test(cut_after_counts_starts_and_ends),
	    cmocka_unit_test(open_exclusive),
	    cmocka_unit_test(watch_unstable_buffer),
	    cmocka_unit_test(watch_alignment_and_reuse),
	    cmocka_unit_test(watch_foreign_loop),
	    cmocka_unit_test(timers_in_order),
	    cmocka_unit_test(mail_in_order),
	    cmocka_unit_test(work_runs_then_done),
	    cmocka_unit_test(hooks_run_until_quiet),
	    cmocka_unit_test(socket_stream_in_pieces),
	    cmocka_unit_test(socket_half_close),
	    cmocka_unit_test(socket_hold_reset_shutdown),
	    cmocka_unit_test(socket_backpressure_and_death),
	    cmocka_unit_test(life_ends_memory),
	};

	return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
