/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume made of a snapshot is copied to its end, attached or not: it is held open until it needs
 * its snapshot no more, and its hold in the repository is renewed as long.
 *
 *     QUEUE -> TAKE -> WAIT_ROW -> [WAIT_OPEN] -> REST -> [WAIT_HOLD -> REST] -> LEAVE
 *           -> [WAIT_CLOSE] -> END
 *
 * The engine copies by itself while the volume is open (origin.c). The disk is let go while this
 * rests, so that everything else goes on; who closes the volume all the same (a deletion, a stop)
 * says that this is over.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/origin.h"

#include <errno.h>

#define RENEW (24 * 3600 * NSEC_PER_SEC)

enum hydrator_state {
	HYDRATOR_QUEUE,
	HYDRATOR_TAKE,
	HYDRATOR_WAIT_ROW,
	HYDRATOR_WAIT_OPEN,
	HYDRATOR_REST,
	HYDRATOR_WAIT_HOLD,
	HYDRATOR_LEAVE,
	HYDRATOR_WAIT_CLOSE,
	HYDRATOR_END,
};

struct hydrator {
	struct task *task;
	struct list link; /* control->hydrators */
	bool over;        /* it is needed no more */
	struct repository_op hold;
	struct snap_info info;
	char holder[ID_TEXT_MAX];
};

static void hydrator_step(struct task *t);

/* ---- From outside ---------------------------------------------------------------------------- */

static void begin(struct hydrator *h)
{
	h->task->control->n_hydrators++;
	h->task->state = HYDRATOR_TAKE;
	task_take(h->task, h->task->volume.id);
}

void hydrator_kick(struct control *c, struct id volume)
{
	struct disk *d = disk_find_or_make(c, volume);
	struct hydrator *h;

	if (!d || d->hydrator || c->stopping || !c->config.repository) {
		if (d)
			disk_drop_if_idle(d);
		return;
	}
	h = mem_alloc(sizeof(*h));
	if (h)
		h->task = task_new(c, NULL, hydrator_step);
	if (!h || !h->task) {
		mem_free(h);
		log_error("no memory for copying a snapshot: it goes on while the volume is open");
		disk_drop_if_idle(d);
		return;
	}
	h->task->private = h;
	h->task->disk = d;
	h->task->volume.id = volume;
	id_format(volume, CATALOG_VOLUME_PREFIX, h->holder);
	d->hydrator = h;
	list_add_tail(&c->hydrators, &h->link);
	if (c->n_hydrators < HYDRATORS_MAX)
		begin(h);
}

void hydrator_over(struct disk *d)
{
	struct hydrator *h = d->hydrator;

	if (!h || h->over)
		return;
	h->over = true;
	if (h->task->timer_runs)
		io_timer_cancel(h->task->control->loop, &h->task->timer);
}

void hydrators_stop(struct control *c)
{
	list_for_each_safe (&c->hydrators, node) {
		struct hydrator *h = list_entry(node, struct hydrator, link);
		struct task *t = h->task;

		hydrator_over(t->disk);
		if (t->state == HYDRATOR_QUEUE) {
			t->state = HYDRATOR_END;
			hydrator_step(t);
		}
	}
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static int row_job(struct catalog *c, struct catalog_job *job)
{
	return task_read_volume(c, task_of_job(job));
}

static bool is_wanted(const struct task *t)
{
	const struct hydrator *h = t->private;
	enum catalog_volume_state state = t->volume.state;

	return !h->over && !t->control->stopping && !id_is_zero(t->volume.base) &&
	       (state == CATALOG_AVAILABLE || state == CATALOG_CREATING ||
		(state == CATALOG_IN_USE && t->disk->volume));
}

static void on_timer(struct io_op *op)
{
	struct task *t = container_of(op, struct task, timer);

	t->timer_runs = false;
	t->step(t);
}

/* The disk goes to whoever waits for it. */
static void rest(struct task *t)
{
	t->state = HYDRATOR_REST;
	t->timer.done = on_timer;
	t->timer_runs = true;
	io_timer(t->control->loop, &t->timer, RENEW);
}

static void on_hold(struct repository_op *op)
{
	struct hydrator *h = container_of(op, struct hydrator, hold);

	if (op->error)
		log_warning("volume %s: its hold of the snapshot that it is made of can't be "
			    "renewed: %s",
			    h->holder, op->err.text);
	hydrator_step(h->task);
}

static void renew(struct task *t)
{
	struct hydrator *h = t->private;

	t->state = HYDRATOR_WAIT_HOLD;
	h->hold.done = on_hold;
	snap_hold(t->control->config.repository, t->control->loop, &h->hold, t->volume.base,
		  h->holder, HOLD_TIME, &h->info);
}

/* True: asleep. */
static bool leave(struct task *t)
{
	struct disk *d = t->disk;

	d->hydrator = NULL;
	t->state = HYDRATOR_END;
	if (d->volume && !disk_is_needed(d) && !t->control->stopping)
		task_close(t, HYDRATOR_WAIT_CLOSE);
	return t->state == HYDRATOR_WAIT_CLOSE;
}

static void end(struct task *t)
{
	struct control *c = t->control;
	struct hydrator *h = t->private;

	if (t->disk->hydrator == h) { /* it never began */
		t->disk->hydrator = NULL;
		c->n_hydrators++;
	}
	c->n_hydrators--;
	list_remove(&h->link);
	mem_free(h);
	task_end(t);
	list_for_each_safe (&c->hydrators, node) {
		struct hydrator *next = list_entry(node, struct hydrator, link);

		if (next->task->state == HYDRATOR_QUEUE && c->n_hydrators < HYDRATORS_MAX &&
		    !c->stopping)
			begin(next);
	}
}

static void hydrator_step(struct task *t)
{
	struct hydrator *h = t->private;

	for (;;) {
		switch ((enum hydrator_state)t->state) {
		case HYDRATOR_QUEUE:
			return;
		case HYDRATOR_TAKE:
			task_job(t, HYDRATOR_WAIT_ROW, row_job);
			return;
		case HYDRATOR_WAIT_ROW:
			t->state = HYDRATOR_LEAVE;
			if (!task_job_ok(t) || !is_wanted(t))
				continue;
			if (!t->disk->volume) {
				task_open(t, HYDRATOR_WAIT_OPEN, false);
				return;
			}
			rest(t);
			task_release(t);
			return;
		case HYDRATOR_WAIT_OPEN:
			task_opened(t);
			t->state = HYDRATOR_LEAVE;
			if (t->act.code) {
				log_error("volume %s can't be opened for copying its snapshot: %s",
					  h->holder, t->act.text);
				continue;
			}
			if (h->over)
				continue;
			rest(t);
			task_release(t);
			return;
		case HYDRATOR_REST:
			if (!h->over) {
				renew(t);
				return;
			}
			task_retake(t, HYDRATOR_LEAVE);
			return;
		case HYDRATOR_WAIT_HOLD:
			if (!h->over) {
				rest(t);
				return;
			}
			task_retake(t, HYDRATOR_LEAVE);
			return;
		case HYDRATOR_LEAVE:
			if (leave(t))
				return;
			continue;
		case HYDRATOR_WAIT_CLOSE:
			task_closed(t);
			t->state = HYDRATOR_END;
			continue;
		case HYDRATOR_END:
			end(t);
			return;
		}
	}
}
