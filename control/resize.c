/* SPDX-License-Identifier: Apache-2.0
 *
 * Growing a volume, attached or not:
 *
 *     BEGIN -> WAIT_BEGIN -> OPEN -> [WAIT_OPEN] -> GROW -> [WAIT_GROW] -> CLOSE -> [WAIT_CLOSE]
 *           -> CONFIRM -> WAIT_CONFIRM -> END
 *
 * The RESIZE record in the volume's log is the truth. The catalog holds the aim while the record
 * may or may not be there, and mirrors the size afterwards, whatever it has become.
 */
#include "base/check.h"
#include "base/size.h"
#include "control/internal.h"

#include <errno.h>

enum resize_state {
	RESIZE_BEGIN,
	RESIZE_WAIT_BEGIN,
	RESIZE_OPEN,
	RESIZE_WAIT_OPEN,
	RESIZE_GROW,
	RESIZE_WAIT_GROW,
	RESIZE_CLOSE,
	RESIZE_WAIT_CLOSE,
	RESIZE_CONFIRM,
	RESIZE_WAIT_CONFIRM,
	RESIZE_END,
};

static void resize_step(struct task *t);
static int resize_begin(struct catalog *c, struct catalog_job *job);
static int resize_confirm(struct catalog *c, struct catalog_job *job);

void control_resize(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	struct id id;
	uint64_t size = 0;

	if (args_volume_id(op->resize.volume, &id, &op->error) == 0 &&
	    args_size(op->resize.size, &size, &op->error) == 0) {
		t = task_new(c, op, resize_step);
		if (!t)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	}
	if (!t) {
		control_finish(c, op);
		return;
	}
	t->wanted_size = size;
	task_take(t, id);
}

int resize_resume(struct control *c, const struct resume *r)
{
	struct task *t = task_new(c, NULL, resize_step);

	if (!t)
		return -ENOMEM;
	t->volume = *r->volume;
	t->wanted_size = r->volume->resize_to;
	t->ended = r->ended;
	t->ended_arg = r->arg;
	t->state = RESIZE_WAIT_BEGIN;
	task_take(t, r->volume->id);
	return 0;
}

/* ---- Steps ------------------------------------------------------------------------- */

/* True: asleep. */
static bool open_volume(struct task *t)
{
	t->opened_here = !t->disk->volume;
	t->state = RESIZE_GROW;
	if (t->opened_here)
		task_open(t, RESIZE_WAIT_OPEN, false);
	return t->opened_here;
}

static bool grow(struct task *t)
{
	t->state = RESIZE_CLOSE;
	if (block_size(volume_dev(t->disk->volume)) >= t->wanted_size)
		return false; /* the record is there, from before a crash */
	t->home = t->disk->home;
	t->volume_op = (struct volume_op){.volume = t->disk->volume, .size = t->wanted_size};
	task_engine(t, RESIZE_WAIT_GROW, volume_resize);
	return true;
}

static void grown(struct task *t)
{
	struct disk *d = t->disk;

	t->state = RESIZE_CLOSE;
	if (t->act.code == 0 && d->port && d->port->state == PORT_OPEN)
		gate_update_size(&d->port->gate);
}

static bool close_volume(struct task *t)
{
	t->volume.size = block_size(volume_dev(t->disk->volume));
	t->grow_result = t->act;
	t->state = RESIZE_CONFIRM;
	if (t->opened_here)
		task_close(t, RESIZE_WAIT_CLOSE);
	return t->opened_here;
}

static void resize_step(struct task *t)
{
	for (;;) {
		switch ((enum resize_state)t->state) {
		case RESIZE_BEGIN:
			task_job(t, RESIZE_WAIT_BEGIN, resize_begin);
			return;
		case RESIZE_WAIT_BEGIN:
			t->state = task_job_ok(t) ? RESIZE_OPEN : RESIZE_END;
			continue;
		case RESIZE_OPEN:
			if (open_volume(t))
				return;
			continue;
		case RESIZE_WAIT_OPEN:
			task_opened(t);
			t->grow_result = t->act;
			t->state = t->act.code ? RESIZE_CONFIRM : RESIZE_GROW;
			continue;
		case RESIZE_GROW:
			t->act = (struct err){0};
			if (grow(t))
				return;
			continue;
		case RESIZE_WAIT_GROW:
			grown(t);
			continue;
		case RESIZE_CLOSE:
			if (close_volume(t))
				return;
			continue;
		case RESIZE_WAIT_CLOSE:
			task_closed(t);
			t->state = RESIZE_CONFIRM;
			continue;
		case RESIZE_CONFIRM:
			task_job_essential(t, RESIZE_WAIT_CONFIRM, resize_confirm);
			return;
		case RESIZE_WAIT_CONFIRM:
			if (task_job_ok(t) && t->grow_result.code)
				control_fail_from(&t->error, &t->grow_result);
			t->state = RESIZE_END;
			continue;
		case RESIZE_END:
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int resize_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	char now[SIZE_TEXT_MAX];
	int r = task_read_volume(c, t);

	if (r < 0)
		return r;
	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (t->volume.state != CATALOG_AVAILABLE && t->volume.state != CATALOG_IN_USE)
		return control_fail(&t->error, "IncorrectState", -EBUSY,
				    "Volume '%s' is in the '%s' state.", id,
				    catalog_volume_state_name(t->volume.state));
	if (t->wanted_size < t->volume.size)
		return control_fail(&t->error, "InvalidParameterValue", -EINVAL,
				    "New size cannot be smaller than existing size: %s has %s, and "
				    "volumes only grow",
				    id, size_format(t->volume.size, now));
	r = task_check_space(c, t, t->wanted_size - t->volume.size);
	t->volume.resize_to = t->wanted_size;
	return r == 0 ? catalog_volume_put(c, &t->volume, &job->err) : r;
}

/* t->volume.size is what the engine has; if it could not be opened, what the catalog had. */
static int resize_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r;

	t->volume.resize_to = 0;
	r = catalog_volume_put(c, &t->volume, &job->err);
	if (r == 0 && t->grow_result.code == 0)
		r = task_event(c, t, "resizeVolume",
			       id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id), "to %llu bytes",
			       (unsigned long long)t->volume.size);
	return r == 0 ? task_describe(c, t) : r;
}
