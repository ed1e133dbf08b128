/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops, timers, mail, work and hooks of the simulated machine. A turn has the shape of the real
 * one: some of what is at hand is delivered, then hooks run until they come to rest.
 *
 * Completions are delivered in any order; timers of one loop by deadline; mail of one sender in
 * order, of several senders in any.
 */
#include "tests/sim/machine/machine.h"

#include "base/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HOOK_PASSES_MAX 10000 /* in one turn; more is a hook that never rests */
#define WALL_CLOCK_ZERO UINT64_C(1700000000000000000)

enum loop_state { NEW, RUNNING, STOPPED };

struct ops {
	struct io_op **op;
	size_t n;
	size_t room;
};

struct mailbox {
	struct io_msg *head;
	struct io_msg **tail;
};

struct io_loop {
	struct sim *sim;
	struct list node;
	unsigned index;
	char name[16];
	enum loop_state state;
	bool wants_turn;    /* hooks have something to look at */
	uint64_t n_started; /* operations, ever: tells whether a hook did something */
	struct list hooks;
	struct ops ready;
	struct ops timers; /* op->offset is the deadline */
	struct mailbox mail[LOOPS_MAX + 1];
	struct list works_done;
};

/* io_work has one link of its own; this keeps the rest. */
struct sim_work {
	struct list node;
	struct io_work *work;
};

static void ops_add(struct ops *ops, struct io_op *op)
{
	if (ops->n == ops->room) {
		size_t room = ops->room ? ops->room * 2 : 64;
		struct io_op **wider = sim_alloc(room * sizeof(*wider));

		if (ops->n)
			memcpy(wider, ops->op, ops->n * sizeof(*wider));
		sim_release(ops->op);
		ops->op = wider;
		ops->room = room;
	}
	ops->op[ops->n++] = op;
}

static struct io_op *ops_take(struct ops *ops, size_t i)
{
	struct io_op *op = ops->op[i];

	ops->op[i] = ops->op[--ops->n];
	return op;
}

static bool ops_have(const struct ops *ops, const struct io_op *op)
{
	for (size_t i = 0; i < ops->n; i++)
		if (ops->op[i] == op)
			return true;
	return false;
}

/* ---- Life of a loop ------------------------------------------------------------------ */

int io_loop_new(const struct io_loop_config *config, struct io_loop **ret_loop, struct err *err)
{
	struct sim *sim = sim_current();
	struct io_loop *loop;

	if (sim->n_loops == LOOPS_MAX)
		return err_set(err, -EMFILE, "the simulated machine has at most %d loops",
			       LOOPS_MAX);
	loop = sim_alloc(sizeof(*loop));
	loop->sim = sim;
	loop->index = sim->n_loops++;
	snprintf(loop->name, sizeof(loop->name), "%s",
		 config && config->name ? config->name : "loop");
	list_init(&loop->hooks);
	list_init(&loop->works_done);
	for (size_t i = 0; i < ARRAY_SIZE(loop->mail); i++)
		loop->mail[i].tail = &loop->mail[i].head;
	loop->wants_turn = true;
	list_add_tail(&sim->loops, &loop->node);
	*ret_loop = loop;
	return 0;
}

static void drop_works(struct sim *sim, struct io_loop *loop)
{
	list_for_each_safe (&sim->works, node) {
		struct sim_work *w = container_of(node, struct sim_work, node);

		if (!loop || w->work->loop == loop) {
			list_remove(&w->node);
			sim_release(w);
		}
	}
}

static void loop_drop(struct io_loop *loop)
{
	struct list *node;

	while ((node = list_pop(&loop->works_done)))
		sim_release(container_of(node, struct sim_work, node));
	list_remove(&loop->node);
	sim_release(loop->ready.op);
	sim_release(loop->timers.op);
	sim_release(loop);
}

void io_loop_free(struct io_loop *loop)
{
	if (!loop)
		return;
	CHECK(loop->sim->turn != loop);
	disk_forget_loop(loop->sim, loop);
	net_forget_loop(loop->sim, loop);
	drop_works(loop->sim, loop);
	loop_drop(loop);
}

void loops_drop(struct sim *sim)
{
	drop_works(sim, NULL);
	list_for_each_safe (&sim->loops, node)
		loop_drop(container_of(node, struct io_loop, node));
	sim->n_loops = 0;
}

void io_loop_stop(struct io_loop *loop)
{
	loop->state = STOPPED;
}

int io_loop_run(struct io_loop *loop)
{
	struct sim *sim = loop->sim;

	CHECK(!sim->turn);
	loop->state = RUNNING;
	loop->wants_turn = true;
	while (loop->state == RUNNING && sim_step(sim))
		;
	/* An idle machine with a loop that nobody stopped would sleep for ever. */
	if (loop->state == RUNNING && sim->life == ALIVE)
		sim_fail(sim, "loop %s sleeps for ever: nothing is left to happen", loop->name);
	return 0;
}

int io_loop_start(struct io_loop *loop, struct err *err)
{
	(void)err;
	loop->state = RUNNING;
	loop->wants_turn = true;
	return 0;
}

int io_loop_join(struct io_loop *loop)
{
	return loop->state == STOPPED ? 0 : io_loop_run(loop);
}

void loop_start_all(struct sim *sim)
{
	list_for_each (&sim->loops, node) {
		struct io_loop *loop = container_of(node, struct io_loop, node);

		if (loop->state == NEW)
			loop->state = RUNNING;
	}
}

void loops_wake_all(struct sim *sim)
{
	list_for_each (&sim->loops, node)
		container_of(node, struct io_loop, node)->wants_turn = true;
}

bool loop_is_stopped(const struct io_loop *loop)
{
	return loop->state == STOPPED;
}

struct sim *loop_sim(const struct io_loop *loop)
{
	return loop->sim;
}

const char *loop_name(const struct io_loop *loop)
{
	return loop->name;
}

void loop_started(struct io_loop *loop)
{
	loop->n_started++;
	loop->wants_turn = true;
}

void loop_complete(struct io_loop *loop, struct io_op *op, int64_t result)
{
	op->result = result;
	ops_add(&loop->ready, op);
}

/* ---- A turn -------------------------------------------------------------------------- */

static size_t senders(const struct io_loop *loop)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(loop->mail); i++)
		n += loop->mail[i].head != NULL;
	return n;
}

/* The index of the timer that is due first, or `none` if no timer is due. */
static size_t first_timer(const struct io_loop *loop, uint64_t now, size_t none)
{
	size_t first = none;

	for (size_t i = 0; i < loop->timers.n; i++)
		if (loop->timers.op[i]->offset <= now &&
		    (first == none || loop->timers.op[i]->offset < loop->timers.op[first]->offset))
			first = i;
	return first;
}

static bool timer_is_due(const struct io_loop *loop)
{
	return first_timer(loop, loop->sim->now, SIZE_MAX) != SIZE_MAX;
}

/* How many things could be delivered next. */
static size_t at_hand(const struct io_loop *loop)
{
	return loop->ready.n + senders(loop) + !list_empty(&loop->works_done) + timer_is_due(loop);
}

static void deliver_mail(struct io_loop *loop, size_t nth_sender)
{
	struct mailbox *box = loop->mail;
	struct io_msg *msg;

	while (!box->head || nth_sender--)
		box++;
	msg = box->head;
	box->head = msg->next;
	if (!box->head)
		box->tail = &box->head;
	msg->run(msg);
}

static void deliver_work(struct io_loop *loop)
{
	struct list *node = list_pop(&loop->works_done);
	struct sim_work *w = container_of(node, struct sim_work, node);
	struct io_work *work = w->work;

	sim_release(w);
	work->done(work);
}

static void deliver_one(struct io_loop *loop)
{
	size_t n = sim_below(loop->sim, at_hand(loop));
	struct io_op *op;

	sim_note(loop->sim, n);
	if (n < loop->ready.n) {
		op = ops_take(&loop->ready, n);
		op->done(op);
		return;
	}
	n -= loop->ready.n;
	if (n < senders(loop)) {
		deliver_mail(loop, n);
		return;
	}
	if (timer_is_due(loop) && (list_empty(&loop->works_done) || n == senders(loop))) {
		op = ops_take(&loop->timers, first_timer(loop, loop->sim->now, SIZE_MAX));
		op->result = 0;
		op->done(op);
		return;
	}
	deliver_work(loop);
}

static void deliver_some(struct io_loop *loop)
{
	size_t n = at_hand(loop);

	if (n)
		n = 1 + sim_below(loop->sim, n);
	while (n-- && at_hand(loop) && loop->sim->life == ALIVE)
		deliver_one(loop);
}

/* A mark goes along the list, so that a hook may remove any hook. */
static void run_hooks_once(struct io_loop *loop)
{
	struct list mark;

	list_add_head(&loop->hooks, &mark);
	while (mark.next != &loop->hooks && loop->sim->life == ALIVE) {
		struct list *node = mark.next;
		struct io_hook *hook = container_of(node, struct io_hook, node);

		list_remove(&mark);
		list_add_head(node, &mark);
		hook->run(hook);
	}
	list_remove(&mark);
}

static void run_hooks(struct io_loop *loop)
{
	uint64_t before;

	for (int pass = 0; pass < HOOK_PASSES_MAX && loop->sim->life == ALIVE; pass++) {
		before = loop->n_started;
		run_hooks_once(loop);
		if (loop->n_started == before)
			return;
		/* The real loop may find completions between two passes. */
		if (at_hand(loop) && sim_below(loop->sim, 2))
			deliver_some(loop);
	}
	if (loop->sim->life == ALIVE)
		sim_fail(loop->sim, "the hooks of loop %s never come to rest", loop->name);
}

static void turn(struct io_loop *loop)
{
	struct sim *sim = loop->sim;

	CHECK(!sim->turn);
	sim->turn = loop;
	deliver_some(loop);
	run_hooks(loop);
	/* Operations that this turn started do not call for another by themselves. */
	loop->wants_turn = false;
	sim->turn = NULL;
}

/* ---- For the choice of the next event ------------------------------------------------ */

static bool can_turn(const struct io_loop *loop)
{
	return loop->state == RUNNING && (loop->wants_turn || at_hand(loop));
}

size_t loops_ready(struct sim *sim)
{
	size_t n = 0;

	list_for_each (&sim->loops, node)
		n += can_turn(container_of(node, struct io_loop, node));
	list_for_each (&sim->works, node)
		n++;
	return n;
}

static void run_work(struct sim *sim, struct sim_work *w)
{
	struct io_loop *loop = w->work->loop;

	list_remove(&w->node);
	(void)sim;
	w->work->run(w->work);
	list_add_tail(&loop->works_done, &w->node);
}

void loops_do_nth(struct sim *sim, size_t n)
{
	list_for_each (&sim->loops, node) {
		struct io_loop *loop = container_of(node, struct io_loop, node);

		if (can_turn(loop) && n-- == 0) {
			turn(loop);
			return;
		}
	}
	list_for_each (&sim->works, node) {
		if (n-- == 0) {
			run_work(sim, container_of(node, struct sim_work, node));
			return;
		}
	}
	CHECK(!"no such event");
}

uint64_t loops_next_due(struct sim *sim)
{
	uint64_t due = UINT64_MAX;

	list_for_each (&sim->loops, node) {
		struct io_loop *loop = container_of(node, struct io_loop, node);

		for (size_t i = 0; i < loop->timers.n && loop->state == RUNNING; i++)
			due = min_u64(due, loop->timers.op[i]->offset);
	}
	return due;
}

/* ---- io.h ---------------------------------------------------------------------------- */

void io_hook_add(struct io_loop *loop, struct io_hook *hook)
{
	list_add_tail(&loop->hooks, &hook->node);
	loop->wants_turn = true;
}

void io_hook_remove(struct io_hook *hook)
{
	list_remove(&hook->node);
}

void io_defer(struct io_loop *loop, struct io_op *op, int64_t result)
{
	if (!sim_may_start(loop, "io_defer"))
		return;
	if (ops_have(&loop->ready, op))
		sim_fail(loop->sim, "io_defer of an op that is under way");
	loop_started(loop);
	op->loop = loop;
	loop_complete(loop, op, result);
}

void io_post(struct io_loop *to, struct io_msg *msg)
{
	struct sim *sim = to->sim;
	struct mailbox *box = &to->mail[sim->turn ? sim->turn->index : LOOPS_MAX];

	if (sim->life != ALIVE)
		return;
	if (sim->turn)
		sim->turn->n_started++;
	msg->next = NULL;
	if (!box->head)
		box->tail = &box->head;
	*box->tail = msg;
	box->tail = &msg->next;
}

void io_work(struct io_loop *loop, struct io_work *work)
{
	struct sim_work *w;

	if (!sim_may_start(loop, "io_work"))
		return;
	w = sim_alloc(sizeof(*w));
	work->loop = loop;
	w->work = work;
	list_add_tail(&loop->sim->works, &w->node);
	loop_started(loop);
}

void io_work_blocking(struct io_loop *loop, struct io_work *work)
{
	io_work(loop, work);
}

uint64_t io_now(struct io_loop *loop)
{
	return loop->sim->now;
}

uint64_t io_wall_clock(struct io_loop *loop)
{
	return WALL_CLOCK_ZERO + loop->sim->now;
}

void io_random(struct io_loop *loop, void *buf, size_t len)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)sim_random(loop->sim);
}

void io_timer(struct io_loop *loop, struct io_op *op, uint64_t delay_ns)
{
	if (!sim_may_start(loop, "io_timer"))
		return;
	if (ops_have(&loop->timers, op) || ops_have(&loop->ready, op))
		sim_fail(loop->sim, "io_timer of an op that is under way");
	op->loop = loop;
	if (__builtin_add_overflow(loop->sim->now, delay_ns, &op->offset))
		op->offset = UINT64_MAX; /* never */
	ops_add(&loop->timers, op);
	loop_started(loop);
}

void io_timer_cancel(struct io_loop *loop, struct io_op *op)
{
	if (!sim_may_start(loop, "io_timer_cancel"))
		return;
	for (size_t i = 0; i < loop->timers.n; i++) {
		if (loop->timers.op[i] == op) {
			ops_take(&loop->timers, i);
			loop_started(loop);
			/* One that is due may have fired already. */
			loop_complete(loop, op,
				      op->offset <= loop->sim->now && sim_below(loop->sim, 2)
					  ? 0
					  : -ECANCELED);
			return;
		}
	}
	sim_fail(loop->sim, "io_timer_cancel of a timer that is not running");
}
