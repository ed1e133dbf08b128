/* SPDX-License-Identifier: Apache-2.0
 *
 * Attaching a volume:
 *
 *     BEGIN -> WAIT_BEGIN -> WAIT_OPEN -> WAIT_CONFIRM -> END
 *                  |             |             '-> CLOSE -> WAIT_CLOSE -.
 *                  '-> END       '------------------------- FAILED <----'
 *                                                             '-> WAIT_UNDO -> END
 *
 * WAIT_BEGIN ends with the new generation and the export name in the catalog: nothing is served
 * before that is durable. A start goes on from there, for attachments that were half made and for
 * those that were whole: the latter stay as they are if their volume can't be opened, so that
 * the operator sees what is wrong and decides.
 */
#include "base/check.h"
#include "control/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum attach_state {
	ATTACH_BEGIN,
	ATTACH_WAIT_BEGIN,
	ATTACH_WAIT_OPEN,
	ATTACH_WAIT_CONFIRM,
	ATTACH_CLOSE,
	ATTACH_WAIT_CLOSE,
	ATTACH_FAILED,
	ATTACH_WAIT_UNDO,
	ATTACH_END,
};

static void attach_step(struct task *t);
static int attach_begin(struct catalog *c, struct catalog_job *job);
static int attach_confirm(struct catalog *c, struct catalog_job *job);
static int attach_undo(struct catalog *c, struct catalog_job *job);

static int check_args(struct control *c, struct control_op *op, struct id *ret_volume,
		      struct id *ret_instance)
{
	int r = args_volume_id(op->attach.volume, ret_volume, &op->error);

	*ret_instance = c->own_instance;
	if (r == 0 && op->attach.instance)
		r = args_instance_id(op->attach.instance, ret_instance, &op->error);
	if (r == 0 && op->attach.device)
		r = args_device(op->attach.device, &op->error);
	return r;
}

/* 128 bits that nobody can guess. */
static void make_export_name(struct control *c, char name[CATALOG_EXPORT_MAX + 1])
{
	uint8_t random[EXPORT_SECRET];

	io_random(c->loop, random, sizeof(random));
	for (unsigned i = 0; i < EXPORT_SECRET; i++)
		snprintf(name + 2 * i, 3, "%02x", random[i]);
}

void control_attach(struct control *c, struct control_op *op)
{
	struct task *t;
	struct id volume;
	struct id instance;

	if (check_args(c, op, &volume, &instance) < 0) {
		control_finish(c, op);
		return;
	}
	t = task_new(c, op, attach_step);
	if (!t) {
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		control_finish(c, op);
		return;
	}
	t->attachment.id = control_new_id(c);
	t->attachment.instance = instance;
	t->attachment.delete_on_termination = op->attach.delete_on_termination;
	if (op->attach.device)
		snprintf(t->attachment.device, sizeof(t->attachment.device), "%s",
			 op->attach.device);
	make_export_name(c, t->attachment.export_name);
	task_take(t, volume);
}

int attach_resume(struct control *c, const struct resume *r)
{
	struct task *t = task_new(c, NULL, attach_step);

	if (!t)
		return -ENOMEM;
	t->volume = *r->volume;
	t->attachment = *r->attachment;
	t->was_whole = r->attachment->state == CATALOG_ATTACHED;
	t->ended = r->ended;
	t->ended_arg = r->arg;
	t->state = ATTACH_WAIT_BEGIN;
	task_take(t, r->volume->id);
	return 0;
}

/* ---- Steps ------------------------------------------------------------------------- */

static bool make_port(struct task *t)
{
	CHECK(!t->disk->port);
	t->disk->open_error = (struct err){0};
	t->disk->port = port_new(t->control, &t->attachment);
	return t->disk->port != NULL;
}

/* The engine's size is the truth. */
static bool mirror_size(struct task *t)
{
	uint64_t size = block_size(volume_dev(t->disk->volume));

	if (size == t->volume.size)
		return false;
	log_warning("a volume's size was %llu in the catalog and is %llu in its log, which counts",
		    (unsigned long long)t->volume.size, (unsigned long long)size);
	t->volume.size = size;
	return true;
}

/* True: asleep. */
static bool opened(struct task *t)
{
	task_opened(t);
	if (t->act.code) {
		t->state = ATTACH_FAILED;
		return false;
	}
	if (mirror_size(t) || !t->was_whole) {
		task_job(t, ATTACH_WAIT_CONFIRM, attach_confirm);
		return true;
	}
	port_open(t->disk->port, t->disk);
	t->state = ATTACH_END;
	return false;
}

/* True: asleep. */
static bool failed(struct task *t)
{
	char id[ID_TEXT_MAX];

	log_error("volume %s is not served: %s", id_format(t->disk->id, CATALOG_VOLUME_PREFIX, id),
		  t->act.text);
	if (t->disk->port)
		port_abandon(t->disk->port, -ENOENT);
	t->disk->port = NULL;
	if (t->was_whole) {
		t->disk->open_error = t->act;
		t->state = ATTACH_END;
		return false;
	}
	task_job_essential(t, ATTACH_WAIT_UNDO, attach_undo);
	return true;
}

/* True: asleep. It is open already if a snapshot of it is being uploaded. */
static bool open_volume(struct task *t)
{
	if (!t->disk->volume) {
		task_open(t, ATTACH_WAIT_OPEN, false);
		return true;
	}
	t->act = (struct err){0};
	t->volume_op.volume = t->disk->volume;
	t->state = ATTACH_WAIT_OPEN;
	return false;
}

static void attach_step(struct task *t)
{
	for (;;) {
		switch ((enum attach_state)t->state) {
		case ATTACH_BEGIN:
			task_job(t, ATTACH_WAIT_BEGIN, attach_begin);
			return;
		case ATTACH_WAIT_BEGIN:
			t->state = ATTACH_END;
			if (!task_job_ok(t))
				continue;
			if (make_port(t)) {
				if (open_volume(t))
					return;
				continue;
			}
			err_set(&t->act, -ENOMEM, "out of memory");
			t->state = ATTACH_FAILED;
			continue;
		case ATTACH_WAIT_OPEN:
			if (opened(t))
				return;
			continue;
		case ATTACH_WAIT_CONFIRM:
			t->state = ATTACH_END;
			if (task_job_ok(t)) {
				port_open(t->disk->port, t->disk);
				continue;
			}
			t->state = ATTACH_CLOSE;
			continue;
		case ATTACH_CLOSE:
			if (!t->disk->uploader) {
				task_close(t, ATTACH_WAIT_CLOSE);
				return;
			}
			t->act = t->job.err;
			t->state = ATTACH_FAILED;
			continue;
		case ATTACH_WAIT_CLOSE:
			task_closed(t);
			t->act = t->job.err; /* what the confirming failed with */
			t->state = ATTACH_FAILED;
			continue;
		case ATTACH_FAILED:
			if (failed(t))
				return;
			continue;
		case ATTACH_WAIT_UNDO:
			if (task_job_ok(t))
				control_fail_from(&t->error, &t->act);
			t->state = ATTACH_END;
			continue;
		case ATTACH_END:
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int check_states(struct catalog *c, struct task *t)
{
	char id[ID_TEXT_MAX];
	struct catalog_instance *i = &t->instance;
	struct id wanted = t->attachment.instance;
	struct catalog_attachment asked = t->attachment;
	int r = task_read_volume(c, t);

	t->attachment = asked; /* not the one that is there */
	if (r < 0)
		return r;
	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (t->volume.state == CATALOG_IN_USE)
		return control_fail(&t->error, "VolumeInUse", -EBUSY,
				    "%s is already attached to an instance", id);
	if (t->volume.state != CATALOG_AVAILABLE)
		return control_fail(&t->error, "IncorrectState", -EBUSY,
				    "%s is not 'available': it is '%s'", id,
				    catalog_volume_state_name(t->volume.state));
	r = catalog_instance_get(c, wanted, i, &t->job.err);
	id_format(wanted, CATALOG_INSTANCE_PREFIX, id);
	if (r == -ENOENT)
		return control_fail(&t->error, "InvalidInstanceID.NotFound", r,
				    "The instance ID '%s' does not exist", id);
	if (r == 0 && strcmp(i->state, "running") != 0 && strcmp(i->state, "stopped") != 0)
		return control_fail(&t->error, "IncorrectInstanceState", -EBUSY,
				    "Instance '%s' is not 'running': it is '%s'.", id, i->state);
	return r;
}

static int choose_device(struct catalog *c, struct task *t)
{
	char *device = t->attachment.device;
	char id[ID_TEXT_MAX];
	bool taken = false;
	int r;

	if (t->op->attach.device) {
		r = catalog_device_is_taken(c, t->attachment.instance, device, &taken, &t->job.err);
		if (r == 0 && taken)
			return control_fail(
			    &t->error, "InvalidParameterValue", -EBUSY,
			    "Invalid value '%s' for unixDevice. Attachment point %s "
			    "is already in use",
			    device, device);
		return r;
	}
	r = device_next_free(c, t->attachment.instance, device, &t->job.err);
	if (r == -ENOSPC && t->job.err.code == 0)
		return control_fail(
		    &t->error, "AttachmentLimitExceeded", r,
		    "Instance '%s' has a volume under every device name: detach one first",
		    id_format(t->attachment.instance, CATALOG_INSTANCE_PREFIX, id));
	return r;
}

static int attach_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	int r = check_states(c, t);

	if (r == 0)
		r = choose_device(c, t);
	if (r < 0)
		return r;
	t->volume.state = CATALOG_IN_USE;
	t->volume.generation++;
	t->attachment.volume = t->volume.id;
	t->attachment.state = CATALOG_ATTACHING;
	t->attachment.generation = t->volume.generation;
	t->attachment.created = t->now;
	r = catalog_volume_put(c, &t->volume, &job->err);
	return r == 0 ? catalog_attachment_add(c, &t->attachment, &job->err) : r;
}

static int attach_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	char instance[ID_TEXT_MAX];
	int r = catalog_volume_put(c, &t->volume, &job->err);

	if (r < 0 || t->was_whole)
		return r;
	r = catalog_attachment_set_state(c, t->attachment.id, CATALOG_ATTACHED, &job->err);
	if (r == 0)
		r = task_event(c, t, "attachVolume",
			       id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
			       "to %s as %s, generation %llu",
			       id_format(t->attachment.instance, CATALOG_INSTANCE_PREFIX, instance),
			       t->attachment.device, (unsigned long long)t->attachment.generation);
	if (r < 0)
		return r;
	t->attachment.state = CATALOG_ATTACHED;
	return task_describe_attachment(t, t->op);
}

/* The generation stays used up. */
static int attach_undo(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r;

	t->volume.state = CATALOG_AVAILABLE;
	r = catalog_attachment_remove(c, t->attachment.id, &job->err);
	if (r == 0)
		r = catalog_volume_put(c, &t->volume, &job->err);
	return r == 0 ? task_event(c, t, "attachVolumeFailed",
				   id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id), "%s",
				   t->act.text)
		      : r;
}
