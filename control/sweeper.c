/* SPDX-License-Identifier: Apache-2.0
 *
 * The space of deleted snapshots comes back: sweeps of the repository, one after the other, behind
 * all else. One is due soon after a start and after each deletion, and from time to time. The
 * repository's lease sees to it that of the daemons that share it one sweeps at a time.
 *
 *     WAITS --due--> SWEEPS --done--> WAITS        stopping: both end, then `over`
 *
 * What a crash interrupts is begun anew: a sweep has no state of its own but the repository's.
 */
#include "base/size.h"
#include "control/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SWEEP_DELAY (5 * NSEC_PER_SEC)   /* deletions in a row share one sweep */
#define SWEEP_SHARE 9                    /* it rests so many times as long as it took */
#define SWEEP_LEASE (60 * NSEC_PER_SEC)  /* as sweep.h has it */
#define SWEEP_GRACE (600 * NSEC_PER_SEC) /* the same: younger packs stay */
#define SWEEP_LATER (60 * NSEC_PER_SEC)  /* behind such a time */
#define SWEEP_NEVER UINT64_MAX

static void sweeper_on_timer(struct io_op *op);
static void sweeper_on_sweep(struct snap_sweep *sweep);

static bool is_on(const struct control *c)
{
	return c->config.repository && c->config.sweep_interval_ns > 0;
}

/* ---- When ------------------------------------------------------------------------------------ */

static void wait_until_due(struct control *c)
{
	struct sweeper *w = &c->sweeper;
	uint64_t now = io_now(c->loop);

	w->waits = true;
	w->timer.done = sweeper_on_timer;
	io_timer(c->loop, &w->timer, w->due > now ? w->due - now : 0);
}

static void wake(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	if (!w->waits || w->woken)
		return;
	w->woken = true;
	io_timer_cancel(c->loop, &w->timer);
}

static void due_in(struct control *c, uint64_t delay)
{
	struct sweeper *w = &c->sweeper;
	uint64_t due = max_u64(io_now(c->loop) + delay, w->rests_until);

	if (due >= w->due)
		return;
	w->due = due;
	wake(c); /* the timer is set anew */
}

void sweeper_start(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	if (!is_on(c))
		return;
	c->n_tasks++; /* until it is over */
	w->is_on = true;
	w->asked = true;
	w->due = io_now(c->loop) + SWEEP_DELAY;
	wait_until_due(c);
}

void sweeper_ask(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	if (!w->is_on || c->stopping)
		return;
	w->asked = true;
	due_in(c, SWEEP_DELAY);
}

/* ---- Stopping -------------------------------------------------------------------------------- */

static void over(struct control *c)
{
	c->sweeper.is_on = false;
	snap_sweep_clear(&c->sweeper.sweep);
	c->n_tasks--;
	stop_kick(c);
}

void sweeper_stop(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	if (w->runs)
		snap_sweep_cancel(&w->sweep);
	else
		wake(c);
}

/* ---- Sweeping -------------------------------------------------------------------------------- */

static void begin(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	w->due = SWEEP_NEVER;
	w->wanted = w->wanted || w->asked;
	w->asked = false;
	w->runs = true;
	w->began = io_now(c->loop);
	snap_sweep_clear(&w->sweep);
	w->sweep.done = sweeper_on_sweep;
	w->sweep.config = (struct snap_sweep_config){
	    .lease_ns = SWEEP_LEASE,
	    .grace_ns = SWEEP_GRACE,
	    .removes_per_second = c->config.sweep_rate,
	};
	snap_sweep_start(c->config.repository, c->loop, &w->memory, &w->sweep);
}

static void sweeper_on_timer(struct io_op *op)
{
	struct sweeper *w = container_of(op, struct sweeper, timer);
	struct control *c = container_of(w, struct control, sweeper);

	w->waits = false;
	w->woken = false;
	if (c->stopping)
		over(c);
	else if (io_now(c->loop) < w->due)
		wait_until_due(c);
	else
		begin(c);
}

/* Once, however often it fails in the same way. */
static void tell(struct sweeper *w)
{
	const struct snap_sweep *s = &w->sweep;
	char freed[SIZE_TEXT_MAX];

	if (s->error && strcmp(w->error, s->err.text) != 0)
		log_error("snapshots: no space is given back: %s", s->err.text);
	if (!s->error && s->freed > 0)
		log_info("snapshots: %s given back, of %" PRIu64 " objects",
			 size_format(s->freed, freed), s->removed);
	snprintf(w->error, sizeof(w->error), "%s", s->error ? s->err.text : "");
}

static void note(struct control *c)
{
	struct sweeper *w = &c->sweeper;

	tell(w);
	w->last = (struct control_sweep_result){
	    .time = control_now(c),
	    .took_ns = io_now(c->loop) - w->began,
	    .freed = w->sweep.freed,
	    .removed = w->sweep.removed,
	    .given_up = w->sweep.given_up,
	    .stored = w->sweep.stored,
	    .live = w->sweep.live,
	};
}

static void sweeper_on_sweep(struct snap_sweep *sweep)
{
	struct sweeper *w = container_of(sweep, struct sweeper, sweep);
	struct control *c = container_of(w, struct control, sweeper);
	uint64_t interval = c->config.sweep_interval_ns;
	uint64_t took = io_now(c->loop) - w->began;

	w->runs = false;
	w->elsewhere = sweep->error == -EBUSY || sweep->error == -ESTALE;
	if (c->stopping) {
		over(c);
		return;
	}
	if (!w->elsewhere) {
		w->wanted = false;
		note(c);
	}
	w->rests_until = io_now(c->loop) + min_u64(took * SWEEP_SHARE, interval);
	w->due = SWEEP_NEVER;
	due_in(c, interval);
	if (w->elsewhere && w->wanted) /* whoever it is may have begun too early, or be dead */
		due_in(c, SWEEP_LEASE + SWEEP_LATER);
	/* What it buried may have left packs that are too young yet. */
	if (sweep->tombstones > 0 || sweep->given_up > 0)
		due_in(c, SWEEP_GRACE + SWEEP_LATER);
	if (w->asked)
		due_in(c, SWEEP_DELAY);
	wait_until_due(c);
}

/* ---- Status ---------------------------------------------------------------------------------- */

void sweeper_describe(const struct control *c, struct control_sweep *ret)
{
	const struct sweeper *w = &c->sweeper;

	*ret = (struct control_sweep){.state = "off", .last = w->last, .error_text = w->error};
	if (!w->is_on)
		return;
	ret->state = w->runs ? "sweeping" : w->elsewhere ? "elsewhere" : "waiting";
	if (!w->runs)
		return;
	ret->objects = w->sweep.packs;
	ret->pages = w->sweep.pages_done;
	ret->removed = w->sweep.removed;
	ret->freed = w->sweep.freed;
}
