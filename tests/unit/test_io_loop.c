/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop on the real machine: deferred operations, hooks, timers, sleep, life.
 */
#include "tests/unit/test_io_common.h"

#include "io/internal.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>

static char trace[256];

static void trace_add(char c)
{
	size_t len = strlen(trace);

	assert_true(len + 1 < sizeof(trace));
	trace[len] = c;
	trace[len + 1] = 0;
}

static int setup(void **state)
{
	trace[0] = 0;
	return test_loop_setup(state);
}

/* ---- Deferred operations ---------------------------------------------------------------------
 */

/* A deferred operation completes later, with its result, in the order of starting. */
static void defer_completes_later_in_order(void **state)
{
	struct test_op a, b;

	(void)state;
	io_defer(test_loop, test_op(&a), 7);
	io_defer(test_loop, test_op(&b), -EIO);
	assert_int_equal(a.n_done, 0);
	assert_int_equal(b.n_done, 0);
	test_run();
	assert_int_equal(a.op.result, 7);
	assert_int_equal(b.op.result, -EIO);
}

struct chain {
	struct io_op op;
	int left;
	bool inside;
};

static void chain_done(struct io_op *op)
{
	struct chain *c = container_of(op, struct chain, op);

	assert_false(c->inside); /* never inside the call that started it */
	if (--c->left == 0) {
		io_loop_stop(test_loop);
		return;
	}
	c->inside = true;
	io_defer(test_loop, op, 0);
	c->inside = false;
}

/* `done` may start its own op again, for ever, without the stack growing. */
static void defer_from_done_is_flat(void **state)
{
	struct chain c = {.op.done = chain_done, .left = 1000000};

	(void)state;
	io_defer(test_loop, &c.op, 0);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(c.left, 0);
}

/* An operation that completes again and again keeps neither timers nor messages waiting. */
static void defer_does_not_starve_timers(void **state)
{
	struct chain c = {.op.done = chain_done, .left = INT32_MAX};
	struct test_op t;

	(void)state;
	io_defer(test_loop, &c.op, 0);
	io_timer(test_loop, test_op(&t), NSEC_PER_MSEC);
	test_run();
	assert_int_equal(t.op.result, 0);
	assert_true(c.left > 0);
}

/* ---- Hooks -----------------------------------------------------------------------------------
 */

struct test_hook {
	struct io_hook hook;
	char name;
	int n_run;
	int n_start; /* operations it will start, one in each run */
	struct io_op op;
	struct io_hook *victim; /* removed in the first run */
};

static void hook_op_done(struct io_op *op)
{
	trace_add(container_of(op, struct test_hook, op)->name - 'a' + 'A');
}

static void hook_run(struct io_hook *hook)
{
	struct test_hook *h = container_of(hook, struct test_hook, hook);

	h->n_run++;
	trace_add(h->name);
	if (h->victim)
		io_hook_remove(h->victim);
	h->victim = NULL;
	if (h->n_start > 0) {
		h->n_start--;
		h->op.done = hook_op_done;
		io_defer(test_loop, &h->op, 0);
	}
}

static struct test_hook *hook_add(struct test_hook *h, char name)
{
	*h = (struct test_hook){.hook.run = hook_run, .name = name};
	io_hook_add(test_loop, &h->hook);
	return h;
}

/* Hooks run after the completions at hand, in the order of adding, again and again until a whole
 * pass starts nothing and delivers nothing. */
static void hooks_run_in_order_until_quiet(void **state)
{
	struct test_hook a, b;
	struct test_op t;

	(void)state;
	hook_add(&a, 'a');
	hook_add(&b, 'b')->n_start = 2;
	io_loop_stop(test_loop); /* one turn, then */
	io_defer(test_loop, test_op(&t), 0);
	test_run();
	assert_int_equal(t.n_done, 1);
	/* Two passes that start something, and a third that does not. */
	assert_string_equal(trace, "abBabBab");
}

/* A hook may remove itself and others while hooks run; the rest still run. */
static void hooks_may_be_removed_by_hooks(void **state)
{
	struct test_hook a, b, c;

	(void)state;
	hook_add(&a, 'a');
	hook_add(&b, 'b');
	hook_add(&c, 'c');
	a.victim = &b.hook;
	c.victim = &c.hook;
	io_loop_stop(test_loop);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_string_equal(trace, "ac");
	io_loop_stop(test_loop);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_string_equal(trace, "aca");
}

/* A hook that always starts something does not keep the loop from its timers. */
static void hooks_do_not_starve_timers(void **state)
{
	struct test_hook a;
	struct test_op t;

	(void)state;
	hook_add(&a, 'a')->n_start = 100; /* more than the passes of one turn */
	io_timer(test_loop, test_op(&t), 0);
	test_run();
	assert_int_equal(t.op.result, 0);
	assert_true(a.n_start > 0);
	io_hook_remove(&a.hook);
}

/* ---- Timers ----------------------------------------------------------------------------------
 */

struct test_timer {
	struct io_op op;
	uint64_t due;
	int n_done;
};

static uint64_t timer_last_due;
static int timer_errors;

static void timer_done(struct io_op *op)
{
	struct test_timer *t = container_of(op, struct test_timer, op);

	t->n_done++;
	if (op->result == 0) {
		timer_errors += t->due < timer_last_due;
		timer_errors += io_now(test_loop) < t->due;
		timer_last_due = t->due;
	}
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

/* Any number of timers: each ends once, in order of deadline, none early, cancelled ones with
 * -ECANCELED. */
static void timers_end_in_order(void **state)
{
	enum { N = 2000 };
	struct test_timer *timers = mem_calloc(N, sizeof(*timers));
	uint32_t random = 12345;

	(void)state;
	timer_last_due = 0;
	timer_errors = 0;
	for (int i = 0; i < N; i++) {
		uint64_t delay;

		random = random * 1103515245 + 12345;
		delay = (random >> 8) % 20 * NSEC_PER_MSEC;
		timers[i].op.done = timer_done;
		test_pending++;
		io_timer(test_loop, &timers[i].op, delay);
		timers[i].due = timers[i].op.offset;
	}
	for (int i = 0; i < N; i += 3)
		io_timer_cancel(test_loop, &timers[i].op);
	for (int i = 0; i < N; i++)
		assert_int_equal(timers[i].n_done, 0);
	test_run();
	assert_int_equal(timer_errors, 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(timers[i].n_done, 1);
		assert_int_equal(timers[i].op.result, i % 3 == 0 ? -ECANCELED : 0);
	}
	mem_free(timers);
}

/* Timers with one deadline end in the order of starting. */
static void timers_of_one_deadline_end_in_order(void **state)
{
	struct test_timer timers[100] = {0};

	(void)state;
	timer_last_due = 0;
	timer_errors = 0;
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		timers[i].op.done = timer_done;
		test_pending++;
		io_timer(test_loop, &timers[i].op, UINT64_MAX); /* saturates: all the same */
		assert_int_equal(timers[i].op.offset, UINT64_MAX);
	}
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		timers[i].due = i;
	test_loop->now = UINT64_MAX;
	timers_expire(test_loop);
	test_run();
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		assert_int_equal(timers[i].op.result, 0);
	assert_int_equal(timer_errors, 0);
}

/* A timer that has ended, and whose `done` is still to come, may be cancelled: it completes once.
 */
static void timer_cancel_twice_completes_once(void **state)
{
	struct test_op t;

	(void)state;
	io_timer(test_loop, test_op(&t), NSEC_PER_SEC);
	io_timer_cancel(test_loop, &t.op);
	io_timer_cancel(test_loop, &t.op);
	assert_int_equal(test_result(&t), -ECANCELED);
}

static void timer_restart_done(struct io_op *op)
{
	struct chain *c = container_of(op, struct chain, op);

	assert_int_equal(op->result, 0);
	if (--c->left == 0)
		io_loop_stop(test_loop);
	else
		io_timer(test_loop, op, 0);
}

/* A timer of no delay that is started again by its own `done` ends again. */
static void timer_restarts_itself(void **state)
{
	struct chain c = {.op.done = timer_restart_done, .left = 1000};

	(void)state;
	io_timer(test_loop, &c.op, 0);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(c.left, 0);
}

/* ---- Sleep and life --------------------------------------------------------------------------
 */

/* An idle loop sleeps in the kernel: no turns, hence no hooks and no switches of context. */
static void idle_loop_sleeps(void **state)
{
	struct rusage before, after;
	struct test_hook a;
	struct test_op t;

	(void)state;
	hook_add(&a, 'a');
	getrusage(RUSAGE_THREAD, &before);
	io_timer(test_loop, test_op(&t), 300 * NSEC_PER_MSEC);
	test_run();
	getrusage(RUSAGE_THREAD, &after);
	assert_true(after.ru_nvcsw - before.ru_nvcsw <= 10);
	assert_true(a.n_run <= 10);
	io_hook_remove(&a.hook);
}

static void *stop_later(void *context)
{
	usleep(300000);
	io_loop_stop(context);
	return NULL;
}

/* The same where there is no timer at all, but a receive that waits. */
static void idle_loop_sleeps_without_timers(void **state)
{
	struct rusage before, after;
	struct test_hook a;
	struct test_op t;
	struct io_sock *sock;
	pthread_t stopper;
	int fds[2];
	char buf[4];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	sock = io_sock_from_fd(fds[0]);
	hook_add(&a, 'a');
	assert_int_equal(pthread_create(&stopper, NULL, stop_later, test_loop), 0);
	getrusage(RUSAGE_THREAD, &before);
	io_recv(test_loop, test_op(&t), sock, buf, 1, sizeof(buf));
	assert_int_equal(io_loop_run(test_loop), 0);
	getrusage(RUSAGE_THREAD, &after);
	assert_true(after.ru_nvcsw - before.ru_nvcsw <= 10);
	assert_true(a.n_run <= 10);
	pthread_join(stopper, NULL);
	close(fds[1]);
	assert_int_equal(test_result(&t), 0);
	io_hook_remove(&a.hook);
	io_sock_close(sock);
}

/* A stop before the run is not lost, and the loop can run again afterwards. */
static void stop_before_run_and_again(void **state)
{
	struct test_op t;

	(void)state;
	for (int i = 0; i < 100; i++) {
		io_loop_stop(test_loop);
		io_loop_stop(test_loop);
		assert_int_equal(io_loop_run(test_loop), 0);
	}
	io_timer(test_loop, test_op(&t), NSEC_PER_MSEC);
	assert_int_equal(test_result(&t), 0);
}

/* A sleeping loop in a thread of its own is stopped from outside, at whatever moment. */
static void stop_from_another_thread(void **state)
{
	(void)state;
	for (int i = 0; i < 200; i++) {
		struct io_loop_config config = {.name = "other", .n_workers = 1, .cpu = -1};
		struct io_loop *loop;
		struct err err;

		assert_int_equal(io_loop_new(&config, &loop, &err), 0);
		assert_int_equal(io_loop_start(loop, &err), 0);
		if (i % 2)
			usleep(i % 7 * 100);
		io_loop_stop(loop);
		assert_int_equal(io_loop_join(loop), 0);
		io_loop_free(loop);
	}
}

static void check_name_done(struct io_op *op)
{
	char name[16] = "";

	pthread_getname_np(pthread_self(), name, sizeof(name));
	op->result = strcmp(name, "named") == 0 ? 1 : -1;
	io_loop_stop(op->loop);
}

/* Operations that set-up code started run once the loop does, in its thread, which has its name and
 * its CPU. */
static void set_up_ops_run_in_the_loops_thread(void **state)
{
	struct io_loop_config config = {.name = "named", .cpu = 0};
	struct io_op op = {.done = check_name_done};
	struct io_loop *loop;
	struct err err;

	(void)state;
	assert_int_equal(io_loop_new(&config, &loop, &err), 0);
	io_defer(loop, &op, 0);
	assert_int_equal(io_loop_start(loop, &err), 0);
	assert_int_equal(io_loop_join(loop), 0);
	assert_int_equal(op.result, 1);
	io_loop_free(loop);
}

/* A loop that can't be pinned, or have so many workers, is refused with a reason. */
static void impossible_config_is_refused(void **state)
{
	struct io_loop_config config = {.name = "x", .cpu = 1023};
	struct io_loop *loop = NULL;
	struct err err;

	(void)state;
	assert_int_equal(io_loop_new(&config, &loop, &err), 0);
	assert_int_equal(io_loop_start(loop, &err), -EINVAL);
	assert_non_null(strstr(err.text, "1023"));
	io_loop_free(loop);
	loop = NULL;
	config = (struct io_loop_config){.name = "x", .n_workers = 100000, .cpu = -1};
	assert_int_equal(io_loop_new(&config, &loop, &err), -EINVAL);
	assert_non_null(strstr(err.text, "100000"));
	assert_null(loop);
	io_loop_free(NULL);
}

/* ---- Clock and chance ------------------------------------------------------------------------
 */

/* The clocks go forward, and random bytes differ. */
static void clock_and_chance(void **state)
{
	uint64_t before = io_now(test_loop);
	uint8_t a[32] = {0}, b[32] = {0};
	struct test_op t;

	(void)state;
	io_timer(test_loop, test_op(&t), 2 * NSEC_PER_MSEC);
	assert_int_equal(test_result(&t), 0);
	assert_true(io_now(test_loop) >= before + 2 * NSEC_PER_MSEC);
	/* 2020 to 2100. */
	assert_true(io_wall_clock(test_loop) > 1577836800 * NSEC_PER_SEC);
	assert_true(io_wall_clock(test_loop) < 4102444800 * NSEC_PER_SEC);
	io_random(test_loop, a, sizeof(a));
	io_random(test_loop, b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, test_loop_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(defer_completes_later_in_order),
	    TEST(defer_from_done_is_flat),
	    TEST(defer_does_not_starve_timers),
	    TEST(hooks_run_in_order_until_quiet),
	    TEST(hooks_may_be_removed_by_hooks),
	    TEST(hooks_do_not_starve_timers),
	    TEST(timers_end_in_order),
	    TEST(timers_of_one_deadline_end_in_order),
	    TEST(timer_cancel_twice_completes_once),
	    TEST(timer_restarts_itself),
	    TEST(idle_loop_sleeps),
	    TEST(idle_loop_sleeps_without_timers),
	    TEST(stop_before_run_and_again),
	    TEST(stop_from_another_thread),
	    TEST(set_up_ops_run_in_the_loops_thread),
	    TEST(impossible_config_is_refused),
	    TEST(clock_and_chance),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
