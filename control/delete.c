/* SPDX-License-Identifier: Apache-2.0
 *
 * Deleting a volume:
 *
 *     BEGIN -> WAIT_BEGIN -> [WAIT_UPLOAD] -> PENDING -> WAIT_PENDING -> [WAIT_OPEN]
 *           -> [WAIT_CLOSE] -> WAIT_ENGINE (again, while segments are left)
 *           -> [WAIT_HOLD] -> WAIT_CONFIRM -> END
 *
 * Pending snapshots outlive it: its row stays, deleting, until their uploader has ended, which
 * comes here again. What a crash has cut short between a cut and its pin is made whole by opening.
 *
 * The caller is answered after WAIT_BEGIN, when the row says that it goes; the space comes back
 * behind it, batch by batch. Stopping waits for one batch; the next start goes on.
 */
#include "control/origin.h"

#include <errno.h>

enum delete_state {
	DELETE_BEGIN,
	DELETE_WAIT_BEGIN,
	DELETE_WAIT_UPLOAD,
	DELETE_PENDING,
	DELETE_WAIT_PENDING,
	DELETE_WAIT_OPEN,
	DELETE_CLOSE,
	DELETE_WAIT_CLOSE,
	DELETE_ENGINE,
	DELETE_WAIT_ENGINE,
	DELETE_WAIT_HOLD,
	DELETE_WAIT_CONFIRM,
	DELETE_END,
};

static void delete_step(struct task *t);
static int delete_begin(struct catalog *c, struct catalog_job *job);
static int delete_pending(struct catalog *c, struct catalog_job *job);
static int delete_confirm(struct catalog *c, struct catalog_job *job);

void control_delete(struct control *c, struct control_op *op)
{
	struct id id;
	struct disk *d;
	struct task *t;

	if (args_volume_id(op->delete.volume, &id, &op->error) < 0) {
		control_finish(c, op);
		return;
	}
	/* It is on its way already: say so, and do not wait for the end. */
	d = disk_find(c, id);
	if (d && d->deleting) {
		control_show(c, op);
		return;
	}
	t = task_new(c, op, delete_step);
	if (!t) {
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		control_finish(c, op);
		return;
	}
	task_take(t, id);
}

int delete_resume(struct control *c, const struct resume *r)
{
	struct task *t = task_new(c, NULL, delete_step);

	if (!t)
		return -ENOMEM;
	t->volume = *r->volume;
	t->ended = r->ended;
	t->ended_arg = r->arg;
	t->state = DELETE_WAIT_BEGIN;
	t->n_pending = UINT64_MAX; /* not known */
	task_take(t, r->volume->id);
	return 0;
}

static void act(struct task *t)
{
	t->volume_op = (struct volume_op){0};
	task_engine(t, DELETE_WAIT_ENGINE, volume_delete);
}

static void say_stuck(struct task *t, const char *why)
{
	char id[ID_TEXT_MAX];

	log_error("volume %s can't be deleted now, the next start tries again: %s",
		  id_format(t->disk->id, CATALOG_VOLUME_PREFIX, id), why);
}

/* Pending snapshots let go of the volume, and it is closed. True: asleep. */
static bool step_pending(struct task *t)
{
	switch (t->state) {
	case DELETE_WAIT_UPLOAD:
		t->state = DELETE_PENDING;
		return false;
	case DELETE_PENDING:
		task_job_essential(t, DELETE_WAIT_PENDING, delete_pending);
		return true;
	case DELETE_WAIT_PENDING:
		t->state = DELETE_CLOSE;
		if (!task_job_ok(t) || t->disk->volume || t->n_pending == 0)
			return false;
		task_open(t, DELETE_WAIT_OPEN, false);
		return true;
	case DELETE_WAIT_OPEN:
		task_opened(t); /* it is marked already, if that failed */
		t->state = DELETE_CLOSE;
		return false;
	case DELETE_CLOSE:
		t->state = DELETE_ENGINE;
		if (t->disk->volume)
			task_close(t, DELETE_WAIT_CLOSE);
		return t->state == DELETE_WAIT_CLOSE;
	default:
		task_closed(t);
		t->state = DELETE_ENGINE;
		return false;
	}
}

static void delete_step(struct task *t)
{
	for (;;) {
		switch ((enum delete_state)t->state) {
		case DELETE_BEGIN:
			task_job_essential(t, DELETE_WAIT_BEGIN, delete_begin);
			return;
		case DELETE_WAIT_BEGIN:
			if (!task_job_ok(t)) {
				t->state = DELETE_END;
				continue;
			}
			task_answer(t);
			t->disk->deleting = true;
			hydrator_over(t->disk);
			t->disk->open_error = (struct err){0};
			t->state =
			    t->n_pending == UINT64_MAX ? DELETE_PENDING : DELETE_WAIT_PENDING;
			if (uploader_interrupt(t->disk, (struct id){0}, t)) {
				t->state = DELETE_WAIT_UPLOAD;
				return;
			}
			continue;
		case DELETE_WAIT_UPLOAD:
		case DELETE_PENDING:
		case DELETE_WAIT_PENDING:
		case DELETE_WAIT_OPEN:
		case DELETE_CLOSE:
		case DELETE_WAIT_CLOSE:
			if (step_pending(t))
				return;
			continue;
		case DELETE_ENGINE:
			t->home = disk_choose_home(t->control);
			act(t);
			return;
		case DELETE_WAIT_ENGINE:
			if (t->act.code)
				say_stuck(t, t->act.text);
			if (t->act.code || t->volume_op.pins ||
			    (t->volume_op.more && t->control->stopping)) {
				t->state = DELETE_END;
				continue;
			}
			if (t->volume_op.more) {
				t->state = DELETE_ENGINE;
				continue;
			}
			if (!id_is_zero(t->volume.base) && origin_forget(t, DELETE_WAIT_HOLD))
				return;
			t->state = DELETE_WAIT_HOLD;
			continue;
		case DELETE_WAIT_HOLD:
			task_job_essential(t, DELETE_WAIT_CONFIRM, delete_confirm);
			return;
		case DELETE_WAIT_CONFIRM:
			if (!task_job_ok(t))
				say_stuck(t, t->error.text);
			t->state = DELETE_END;
			continue;
		case DELETE_END:
			t->disk->deleting = false;
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int delete_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	char instance[ID_TEXT_MAX];
	int r = task_read_volume(c, t);

	if (r < 0)
		return r;
	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (t->volume.state == CATALOG_IN_USE)
		return control_fail(
		    &t->error, "VolumeInUse", -EBUSY,
		    "Volume %s is currently attached to %s; detach it first", id,
		    id_format(t->attachment.instance, CATALOG_INSTANCE_PREFIX, instance));
	t->volume.state = CATALOG_DELETING;
	t->volume.resize_to = 0;
	r = catalog_snapshots_pending(c, t->volume.id, &t->n_pending, &job->err);
	if (r == 0)
		r = catalog_volume_put(c, &t->volume, &job->err);
	if (r == 0)
		r = task_event(c, t, "deleteVolume", id, "%llu bytes",
			       (unsigned long long)t->volume.size);
	return r == 0 ? task_describe(c, t) : r;
}

static int delete_pending(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);

	return catalog_snapshots_pending(c, t->disk->id, &t->n_pending, &job->err);
}

static int delete_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r = catalog_volume_remove(c, t->volume.id, &job->err);

	return r == 0 ? task_event(c, t, "volumeDeleted",
				   id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
				   "its space is free")
		      : r;
}
