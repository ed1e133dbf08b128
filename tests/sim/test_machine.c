/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated machine: a seed is a run, the loops behave, and what callers do wrong is told.
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

/* ---- One seed, one run --------------------------------------------------------------- */

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

/* ---- Rules that the machine watches -------------------------------------------------- */

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

struct trespass {
	struct io_op op;
	struct io_loop *other;
	struct probe probe;
};

static void on_turn_trespass(struct io_op *op)
{
	struct trespass *t = container_of(op, struct trespass, op);

	io_defer(t->other, &t->probe.op, 0);
}

/* An operation on a loop from another loop's turn is told. */
static void watch_foreign_loop(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct trespass t = {.op = {.done = on_turn_trespass}};

	(void)state;
	expect_failure(sim);
	probe_init(&t.probe);
	t.other = make_loop("other");
	io_defer(make_loop("own"), &t.op, 0);
	wait_for(sim, &t.probe);
	assert_non_null(strstr(failure, "on loop other, from the turn of loop own"));
	sim_free(sim);
}

/* ---- Loops --------------------------------------------------------------------------- */

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

		probes_done = 0;
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

struct removing_hook {
	struct io_hook hook;
	struct removing_hook *victim;
	int runs;
};

static void on_removing_hook(struct io_hook *hook)
{
	struct removing_hook *h = container_of(hook, struct removing_hook, hook);

	h->runs++;
	if (h->victim)
		io_hook_remove(&h->victim->hook);
}

/* A hook may remove the next one, and itself. */
static void hooks_may_be_removed(void **state)
{
	struct sim *sim = sim_new(1, NULL);
	struct io_loop *loop = make_loop("a");
	struct removing_hook h[3] = {{{.run = on_removing_hook}, &h[1], 0},
				     {{.run = on_removing_hook}, NULL, 0},
				     {{.run = on_removing_hook}, &h[2], 0}};

	(void)state;
	for (int i = 0; i < 3; i++)
		io_hook_add(loop, &h[i].hook);
	assert_int_equal(sim_run_until(sim, NULL, NULL, STEPS), SIM_IDLE);
	assert_int_equal(sim_run_until(sim, NULL, NULL, STEPS), SIM_IDLE);
	assert_int_equal(h[0].runs, 2);
	assert_int_equal(h[1].runs, 0);
	assert_int_equal(h[2].runs, 1);
	sim_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    /* clang-format off */
	    cmocka_unit_test(seed_is_a_run),
	    cmocka_unit_test(life_ends_memory),
	    cmocka_unit_test(watch_unstable_buffer),
	    cmocka_unit_test(watch_alignment_and_reuse),
	    cmocka_unit_test(watch_foreign_loop),
	    cmocka_unit_test(timers_in_order),
	    cmocka_unit_test(mail_in_order),
	    cmocka_unit_test(work_runs_then_done),
	    cmocka_unit_test(hooks_run_until_quiet),
	    cmocka_unit_test(hooks_may_be_removed),
	    /* clang-format on */
	};

	return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
