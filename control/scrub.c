/* SPDX-License-Identifier: Apache-2.0
 *
 * Scrubbing a volume, attached or not; and stopping that:
 *
 *     BEGIN -> WAIT_ROW -> [WAIT_OPEN] -> START -> WAIT_SCRUB -> TAKE -> NOTE -> WAIT_NOTE
 *           -> CLOSE -> [WAIT_CLOSE] -> END
 *
 * The caller is answered at START. The disk is let go while the engine scrubs, and the volume stays
 * open for it; whoever closes the volume ends the scrub. How it ended is in the catalog.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <string.h>

enum scrub_state {
	SCRUB_BEGIN,
	SCRUB_WAIT_ROW,
	SCRUB_WAIT_OPEN,
	SCRUB_START,
	SCRUB_WAIT_SCRUB,
	SCRUB_TAKE,
	SCRUB_WAIT_NOTE,
	SCRUB_WAIT_CLOSE,
	SCRUB_END,
};

#define SCRUB_RATE_MIN MiB

/* Of a volume that is being scrubbed; t->private. */
struct scrubbing {
	struct task *task;
	struct list link; /* control->scrubs */
	struct io_msg msg;
	struct volume *volume;
	bool stopping; /* msg is on its way, or was */
	bool msg_is_out;
	bool over; /* the engine has ended it */
	uint64_t n_bad;
	struct err result;
};

static void scrub_step(struct task *t);
static int row_job(struct catalog *c, struct catalog_job *job);
static int note_job(struct catalog *c, struct catalog_job *job);

static void refuse(struct control *c, struct control_op *op)
{
	if (!op->error.code)
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	control_finish(c, op);
}

static int check_rate(struct control_op *op)
{
	if (op->scrub.rate == 0 || op->scrub.rate >= SCRUB_RATE_MIN)
		return 0;
	return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
			    "rate: at least 1 MiB a second");
}

void control_scrub(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	struct id id;

	if (args_volume_id(op->scrub.volume, &id, &op->error) == 0 && check_rate(op) == 0)
		t = task_new(c, op, scrub_step);
	if (t)
		task_take(t, id);
	else
		refuse(c, op);
}

/* ---- For a check ------------------------------------------------------------------- */

bool scrub_join(struct task *waiter, int state)
{
	struct disk *d = waiter->disk;
	struct task *t = d->scrub ? NULL : task_new(waiter->control, NULL, scrub_step);

	if (!d->scrub && !t)
		return false;
	CHECK(!d->scrub_waiter);
	d->scrub_waiter = waiter;
	waiter->state = state;
	if (t) {
		t->for_check = true;
		task_take(t, d->id); /* in line */
	}
	task_release(waiter);
	return true;
}

/* A scrub is over, or one for a check could not begin. */
static void tell_waiter(struct task *t)
{
	const struct scrubbing *s = t->private;
	struct task *waiter = t->disk->scrub_waiter;

	if (!waiter || t->disk->scrub || (!s && !t->for_check))
		return;
	t->disk->scrub_waiter = NULL;
	waiter->act = (struct err){0};
	if (s)
		waiter->act = s->result;
	else
		err_set(&waiter->act, t->error.err, "%s", t->error.text);
	waiter->step(waiter);
}

/* ---- Stopping ---------------------------------------------------------------------- */

static void stop_on_return(struct io_msg *msg)
{
	struct scrubbing *s = container_of(msg, struct scrubbing, msg);

	s->msg_is_out = false;
	if (s->over)
		scrub_step(s->task);
}

static void stop_on_home(struct io_msg *msg)
{
	struct scrubbing *s = container_of(msg, struct scrubbing, msg);

	volume_scrub_stop(s->volume);
	s->msg.run = stop_on_return;
	io_post(s->task->control->loop, &s->msg);
}

/* Whoever closes the volume does so by a message to the same loop, which comes after this one. */
static void stop_one(struct scrubbing *s)
{
	struct disk *d = s->task->disk;

	if (s->stopping || s->over || !d->volume || d->closing)
		return;
	s->stopping = s->msg_is_out = true;
	s->msg.run = stop_on_home;
	io_post(d->home->loop, &s->msg);
}

void scrubs_stop(struct control *c)
{
	list_for_each_safe (&c->scrubs, node)
		stop_one(list_entry(node, struct scrubbing, link));
}

/* ---- Steps ------------------------------------------------------------------------- */

/* The row is there. What comes next. */
static enum scrub_state judge(struct task *t)
{
	struct disk *d = t->disk;
	char id[ID_TEXT_MAX];

	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (t->op && t->op->kind == CONTROL_SCRUB_STOP) {
		if (d->scrub)
			stop_one(d->scrub);
		else
			control_fail(&t->error, "IncorrectState", -EINVAL,
				     "Volume '%s' is not being scrubbed.", id);
		return SCRUB_END;
	}
	if (d->scrub)
		control_fail(&t->error, "IncorrectState", -EINVAL,
			     "Volume '%s' is being scrubbed already.", id);
	else if (t->volume.state != CATALOG_AVAILABLE && t->volume.state != CATALOG_IN_USE &&
		 !d->hydrator)
		control_fail(&t->error, "IncorrectState", -EINVAL,
			     "Volume '%s' is in the '%s' state.", id,
			     catalog_volume_state_name(t->volume.state));
	else if (!d->volume && d->open_error.code)
		control_fail(&t->error, "IncorrectState", d->open_error.code, "%s",
			     d->open_error.text);
	if (t->error.code)
		return SCRUB_END;
	return d->volume ? SCRUB_START : SCRUB_WAIT_OPEN;
}

/* True: it has begun. */
static bool start(struct task *t)
{
	struct scrubbing *s = mem_alloc(sizeof(*s));
	struct disk *d = t->disk;
	uint64_t rate = t->op ? t->op->scrub.rate : 0;

	if (!s || t->control->stopping) {
		control_fail(&t->error, s ? "Unavailable" : "InternalError",
			     s ? -ESHUTDOWN : -ENOMEM, s ? "volumed is stopping" : "out of memory");
		mem_free(s);
		return false;
	}
	s->task = t;
	s->volume = d->volume;
	t->private = s;
	d->scrub = s;
	list_add_tail(&t->control->scrubs, &s->link);
	task_answer(t);
	t->home = d->home;
	t->volume_op = (struct volume_op){.volume = d->volume, .rate = rate};
	task_engine(t, SCRUB_WAIT_SCRUB, volume_scrub);
	task_release(t);
	return true;
}

static void scrubbed(struct task *t)
{
	struct scrubbing *s = t->private;

	if (!s->over) {
		s->result = t->act;
		s->n_bad = t->volume_op.n_wrong;
	}
	s->over = true;
	if (!s->msg_is_out)
		task_retake(t, SCRUB_TAKE);
}

/* Nobody else needs the volume. True: asleep. */
static bool close_maybe(struct task *t)
{
	struct disk *d = t->disk;

	t->state = SCRUB_END;
	if (d->volume && !disk_is_needed(d) && !t->control->stopping)
		task_close(t, SCRUB_WAIT_CLOSE);
	return t->state == SCRUB_WAIT_CLOSE;
}

static bool step_first(struct task *t)
{
	switch ((int)t->state) {
	case SCRUB_BEGIN:
		task_job(t, SCRUB_WAIT_ROW, row_job);
		return true;
	case SCRUB_WAIT_ROW:
		t->state = task_job_ok(t) ? judge(t) : SCRUB_END;
		if (t->state == SCRUB_WAIT_OPEN)
			task_open(t, SCRUB_WAIT_OPEN, false);
		return t->state == SCRUB_WAIT_OPEN;
	default:
		task_opened(t);
		t->state = t->act.code ? SCRUB_END : SCRUB_START;
		if (t->act.code)
			control_fail_from(&t->error, &t->act);
		return false;
	}
}

static void scrub_step(struct task *t)
{
	for (;;) {
		switch ((enum scrub_state)t->state) {
		case SCRUB_BEGIN:
		case SCRUB_WAIT_ROW:
		case SCRUB_WAIT_OPEN:
			if (step_first(t))
				return;
			continue;
		case SCRUB_START:
			if (start(t))
				return;
			if (close_maybe(t))
				return;
			continue;
		case SCRUB_WAIT_SCRUB:
			scrubbed(t);
			return;
		case SCRUB_TAKE:
			t->now = control_now(t->control);
			task_job_essential(t, SCRUB_WAIT_NOTE, note_job);
			return;
		case SCRUB_WAIT_NOTE:
			task_job_ok(t);
			list_remove(&t->disk->scrub->link);
			t->disk->scrub = NULL;
			if (close_maybe(t))
				return;
			continue;
		case SCRUB_WAIT_CLOSE:
			task_closed(t);
			t->state = SCRUB_END;
			continue;
		case SCRUB_END:
			tell_waiter(t);
			mem_free(t->private);
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int row_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	int r = task_read_volume(c, t);

	return r == 0 ? task_describe(c, t) : r;
}

static int note_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	const struct scrubbing *s = t->private;
	char id[ID_TEXT_MAX];
	int r = task_read_volume(c, t);

	if (r == -ENOENT) { /* it was deleted */
		t->error = (struct control_error){0};
		job->err = (struct err){0};
		return 0;
	}
	if (r < 0)
		return r;
	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (s->result.code)
		return task_event(c, t, "scrubStopped", id, "%s",
				  s->result.code == -ECANCELED ? "before its end" : s->result.text);
	t->volume.scrubbed = t->now;
	t->volume.scrub_bad = s->n_bad;
	r = catalog_volume_put(c, &t->volume, &job->err);
	return r < 0 ? r
		     : task_event(c, t, "volumeScrubbed", id, "%llu bad places",
				  (unsigned long long)s->n_bad);
}
