/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop. One turn:
 *
 *   reap the ring -> run messages -> expire timers -> [ run dones -> run hooks ] until quiet
 *   -> submit, and sleep in the kernel if nothing is at hand
 *
 * so that a turn costs one system call, and one more for every few operations that it starts.
 */
#include "io/internal.h"

#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Passes over dones and hooks in one turn, before the ring has its turn again: hooks that keep each
 * other busy can't keep I/O waiting. */
#define PASSES_MAX 64

static bool loop_settle(struct io_loop *loop);
static void dones_run(struct io_loop *loop);
static void hooks_run(struct io_loop *loop);

/* ---- A turn ----------------------------------------------------------------------------------
 */

static int loop_turn(struct io_loop *loop)
{
	bool quiet;
	int ret;

	loop->now = clock_now();
	ring_reap(loop);
	mailbox_run(loop);
	timers_expire(loop);
	quiet = loop_settle(loop);
	workers_flush(loop);
	/* A stop after this look at it has a message that ends the sleep. */
	if (quiet && atomic_load_explicit(&loop->stop, memory_order_acquire))
		quiet = false;
	ret = ring_enter(loop, quiet && mailbox_sleep(loop));
	return ret < 0 ? ret : loop->failure;
}

/* True: nothing is at hand any more. */
static bool loop_settle(struct io_loop *loop)
{
	for (int pass = 0; pass < PASSES_MAX; pass++) {
		uint64_t before;

		dones_run(loop);
		before = loop->n_started;
		hooks_run(loop);
		if (loop->n_started == before && !loop->done.head)
			return true;
	}
	return false;
}

/* Those at hand; what they finish comes in the next pass. */
static void dones_run(struct io_loop *loop)
{
	struct op_list batch = loop->done;
	struct io_op *op;

	loop->done = (struct op_list){0};
	while ((op = op_list_pop(&batch)))
		op->done(op);
}

/* Each hook is moved to a second list before it runs, so that it may remove itself or any other. */
static void hooks_run(struct io_loop *loop)
{
	struct list ran;
	struct list *node;

	list_init(&ran);
	while ((node = list_pop(&loop->hooks))) {
		struct io_hook *hook = list_entry(node, struct io_hook, node);

		list_add_tail(&ran, node);
		hook->run(hook);
	}
	list_splice_tail(&loop->hooks, &ran);
}

void io_hook_add(struct io_loop *loop, struct io_hook *hook)
{
	list_add_tail(&loop->hooks, &hook->node);
}

void io_hook_remove(struct io_hook *hook)
{
	list_remove(&hook->node);
}

void loop_started(struct io_loop *loop)
{
	CHECK(!loop->running || pthread_equal(loop->runner, pthread_self()));
	loop->n_started++;
}

void op_finish(struct io_loop *loop, struct io_op *op, int64_t result)
{
	op->result = result;
	op_list_push(&loop->done, op);
}

void io_defer(struct io_loop *loop, struct io_op *op, int64_t result)
{
	loop_started(loop);
	op->loop = loop;
	op_finish(loop, op, result);
}

/* ---- Life ------------------------------------------------------------------------------------
 */

static void stop_on_msg(struct io_msg *msg)
{
	struct io_loop *loop = container_of(msg, struct io_loop, stop_msg);

	/* Its errand was to wake the loop; `stop` says the rest. */
	atomic_store_explicit(&loop->stop_posted, false, memory_order_release);
}

int io_loop_new(const struct io_loop_config *config, struct io_loop **ret_loop, struct err *err)
{
	struct io_loop *loop = mem_alloc(sizeof(*loop));
	int ret;

	if (!loop)
		return err_set(err, -ENOMEM, "out of memory for a loop");
	snprintf(loop->name, sizeof(loop->name), "%s", config->name ? config->name : "io");
	loop->cpu = config->cpu;
	loop->wake_fd = -1;
	loop->stop_msg.run = stop_on_msg;
	list_init(&loop->hooks);
	ret = ring_open(loop, config->queue_entries, err);
	if (ret == 0)
		ret = mailbox_open(loop, err);
	if (ret == 0)
		ret = workers_open(loop, config->n_workers, err);
	if (ret < 0) {
		io_loop_free(loop);
		return ret;
	}
	*ret_loop = loop;
	return 0;
}

void io_loop_free(struct io_loop *loop)
{
	if (!loop)
		return;
	CHECK(!loop->running);
	workers_close(loop);
	ring_close(loop);
	mailbox_close(loop);
	mem_free(loop);
}

static int pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}

int io_loop_run(struct io_loop *loop)
{
	int ret = pin(loop->cpu);

	if (ret == 0)
		ret = ring_attach(loop);
	if (ret < 0)
		return ret;
	loop->runner = pthread_self();
	loop->running = true;
	do
		ret = loop_turn(loop);
	while (ret == 0 && !atomic_load_explicit(&loop->stop, memory_order_acquire));
	loop->running = false;
	atomic_store_explicit(&loop->stop, false, memory_order_release);
	ring_detach(loop);
	return ret;
}

static void *loop_main(void *context)
{
	struct io_loop *loop = context;

	pthread_setname_np(pthread_self(), loop->name);
	loop->run_result = io_loop_run(loop);
	return NULL;
}

int io_loop_start(struct io_loop *loop, struct err *err)
{
	int ret = thread_start(&loop->thread, loop->cpu, loop_main, loop);

	if (ret < 0)
		return err_set(err, ret, "can't start thread %s (on CPU %d): %s", loop->name,
			       loop->cpu, strerror(-ret));
	return 0;
}

int io_loop_join(struct io_loop *loop)
{
	CHECK(pthread_join(loop->thread, NULL) == 0);
	return loop->run_result;
}

void io_loop_stop(struct io_loop *loop)
{
	atomic_store_explicit(&loop->stop, true, memory_order_release);
	if (!atomic_exchange_explicit(&loop->stop_posted, true, memory_order_acq_rel))
		io_post(loop, &loop->stop_msg);
}

int thread_start(pthread_t *ret_thread, int cpu, void *(*run)(void *), void *context)
{
	sigset_t all, old;
	pthread_attr_t attr;
	cpu_set_t set;
	int ret;

	pthread_attr_init(&attr);
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((unsigned)cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(ret_thread, &attr, run, context);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -ret;
}

/* ---- Clock and chance ------------------------------------------------------------------------
 */

static uint64_t clock_read(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_now(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

uint64_t io_now(struct io_loop *loop)
{
	return loop->running ? loop->now : clock_now();
}

uint64_t io_wall_clock(struct io_loop *loop)
{
	(void)loop;
	return clock_read(CLOCK_REALTIME);
}

void io_random(struct io_loop *loop, void *buf, size_t len)
{
	uint8_t *p = buf;

	(void)loop;
	while (len > 0) {
		ssize_t n = getrandom(p, len, 0);

		CHECK(n > 0 || errno == EINTR);
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
}
