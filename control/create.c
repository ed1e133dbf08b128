/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a volume:
 *
 *     [LOOK -> WAIT_LOOK ->] BEGIN -> WAIT_BEGIN -> [HOLD -> WAIT_HOLD ->] WAIT_ENGINE
 *           -> WAIT_CONFIRM -> END
 *
 * From WAIT_LOOK and WAIT_BEGIN to END, if it is refused or the client token was known; from
 * WAIT_HOLD and WAIT_ENGINE by FORGET, [WAIT_FORGET] and WAIT_UNDO, if that failed.
 *
 * The row is there, creating, before the engine has it; so a crash leaves no volume that nobody
 * knows. A start goes on from WAIT_BEGIN's end. A volume that is wanted in full stays creating
 * until it is copied (origin.c).
 */
#include "base/mem.h"
#include "base/size.h"
#include "control/origin.h"
#include "control/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CREATE_RATE_MIN MiB

enum create_state {
	CREATE_LOOK,
	CREATE_WAIT_LOOK,
	CREATE_BEGIN,
	CREATE_WAIT_BEGIN,
	CREATE_HOLD,
	CREATE_WAIT_HOLD,
	CREATE_ENGINE,
	CREATE_WAIT_ENGINE,
	CREATE_WAIT_CONFIRM,
	CREATE_FORGET,
	CREATE_WAIT_FORGET,
	CREATE_WAIT_UNDO,
	CREATE_END,
};

static void create_step(struct task *t);
static int create_begin(struct catalog *c, struct catalog_job *job);
static int create_confirm(struct catalog *c, struct catalog_job *job);
static int create_undo(struct catalog *c, struct catalog_job *job);

/* Of a volume that is made of a snapshot; t->private. */
struct founding {
	struct task *task;
	struct repository_op op;
	struct snap_info info;
};

static int check_args(struct control *c, struct control_op *op, uint64_t *ret_size,
		      struct id *ret_base)
{
	bool from_snapshot = op->create.snapshot && op->create.snapshot[0];
	int r = 0;

	if (from_snapshot)
		r = args_snapshot_id(op->create.snapshot, ret_base, &op->error);
	if (r == 0 && from_snapshot)
		r = snapshot_check_repository(c, &op->error);
	if (r == 0 && !from_snapshot && op->create.initialization_rate)
		r = control_fail(
		    &op->error, "InvalidParameterCombination", -EINVAL,
		    "an initialization rate is for volumes that are made of a snapshot");
	if (r == 0 && !from_snapshot && op->create.full)
		r = control_fail(&op->error, "InvalidParameterCombination", -EINVAL,
				 "only a volume that is made of a snapshot can be copied in full");
	if (r == 0 && op->create.initialization_rate &&
	    op->create.initialization_rate < CREATE_RATE_MIN)
		r = control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				 "the initialization rate is at least 1 MiB a second");
	if (r == 0 && (!from_snapshot || op->create.size))
		r = args_size(op->create.size, ret_size, &op->error);
	return r == 0 ? args_create(op, &op->error) : r;
}

static int start_founding(struct task *t)
{
	struct founding *f;

	if (id_is_zero(t->volume.base))
		return 0;
	f = mem_alloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->task = t;
	t->private = f;
	return 0;
}

void control_create(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	uint64_t size = 0;
	struct id base = {0};

	if (check_args(c, op, &size, &base) == 0) {
		t = task_new(c, op, create_step);
		if (!t)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	}
	if (!t) {
		control_finish(c, op);
		return;
	}
	args_hash_create(op, t->request);
	t->volume.state = CATALOG_CREATING;
	t->volume.size = size;
	t->volume.created = t->now;
	t->volume.base = base;
	t->volume.hydration_rate = op->create.initialization_rate;
	t->volume.full = op->create.full ? CATALOG_FULL_WANTED : CATALOG_FULL_NO;
	snprintf(t->volume.zone, sizeof(t->volume.zone), "%s", c->config.zone);
	t->state = id_is_zero(base) ? CREATE_BEGIN : CREATE_LOOK;
	if (start_founding(t) < 0) {
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
		t->state = CREATE_END;
	}
	task_take(t, control_new_id(c));
}

int create_resume(struct control *c, const struct resume *r)
{
	struct task *t = task_new(c, NULL, create_step);

	if (!t)
		return -ENOMEM;
	t->volume = *r->volume;
	t->ended = r->ended;
	t->ended_arg = r->arg;
	t->state = CREATE_WAIT_BEGIN;
	if (start_founding(t) < 0)
		t->state = CREATE_END; /* the next start goes on */
	task_take(t, r->volume->id);
	return 0;
}

static void act(struct task *t)
{
	struct founding *f = t->private;

	t->home = disk_choose_home(t->control);
	t->volume_op = (struct volume_op){.size = t->volume.size};
	if (f) {
		t->volume_op.snapshot = t->volume.base;
		t->volume_op.base_size = round_up(f->info.size, BLOCK_SIZE);
	}
	task_engine(t, CREATE_WAIT_ENGINE, volume_create);
}

static void create_on_repository(struct repository_op *op)
{
	struct task *t = container_of(op, struct founding, op)->task;

	t->step(t);
}

/* The size of the snapshot, if it can be used. */
static void looked(struct task *t)
{
	struct founding *f = t->private;
	char least[SIZE_TEXT_MAX];

	t->state = CREATE_END;
	if (f->op.error == -ENOENT)
		control_fail(&t->error, "InvalidSnapshot.NotFound", -ENOENT,
			     "The snapshot '%.64s' does not exist.", t->op->create.snapshot);
	else if (f->op.error)
		control_fail_from(&t->error, &f->op.err);
	else if (f->info.state != SNAP_COMPLETED)
		control_fail(&t->error, "IncorrectState", -EBUSY,
			     "Snapshot '%.64s' is not 'completed' yet.", t->op->create.snapshot);
	else if (t->volume.size && t->volume.size < f->info.size)
		control_fail(&t->error, "InvalidParameterValue", -EINVAL,
			     "the volume can't be smaller than its snapshot, which has %s",
			     size_format(f->info.size, least));
	else
		t->state = CREATE_BEGIN;
	if (t->volume.size == 0)
		t->volume.size = round_up(f->info.size, CONTROL_VOLUME_SIZE_UNIT);
}

/* Looking and holding. True: asleep. */
static bool step_snapshot(struct task *t)
{
	struct founding *f = t->private;
	struct control *c = t->control;
	char holder[ID_TEXT_MAX];

	switch (t->state) {
	case CREATE_LOOK:
		t->state = CREATE_WAIT_LOOK;
		f->op = (struct repository_op){.done = create_on_repository};
		snap_get(c->config.repository, c->loop, &f->op, t->volume.base, &f->info);
		return true;
	case CREATE_WAIT_LOOK:
		looked(t);
		return false;
	case CREATE_HOLD:
		t->state = CREATE_ENGINE;
		if (!f)
			return false;
		t->state = CREATE_WAIT_HOLD;
		if (!c->config.repository) {
			err_set(&f->op.err, -ENODEV, "there is no repository of snapshots");
			f->op.error = -ENODEV;
			return false;
		}
		f->op = (struct repository_op){.done = create_on_repository};
		snap_hold(c->config.repository, c->loop, &f->op, t->volume.base,
			  id_format(t->volume.id, CATALOG_VOLUME_PREFIX, holder), HOLD_TIME,
			  &f->info);
		return true;
	default:
		t->act = f->op.err;
		t->state = f->op.error ? CREATE_FORGET : CREATE_ENGINE;
		return false;
	}
}

static void create_step(struct task *t)
{
	for (;;) {
		switch ((enum create_state)t->state) {
		case CREATE_BEGIN:
			task_job(t, CREATE_WAIT_BEGIN, create_begin);
			return;
		case CREATE_WAIT_BEGIN:
			t->state = task_job_ok(t) && !t->replayed ? CREATE_HOLD : CREATE_END;
			continue;
		case CREATE_LOOK:
		case CREATE_WAIT_LOOK:
		case CREATE_HOLD:
		case CREATE_WAIT_HOLD:
			if (step_snapshot(t))
				return;
			continue;
		case CREATE_ENGINE:
			act(t);
			return;
		case CREATE_WAIT_ENGINE:
			/* It may be there from before a crash. */
			if (t->act.code && t->act.code != -EEXIST) {
				t->state = CREATE_FORGET;
				continue;
			}
			task_job(t, CREATE_WAIT_CONFIRM, create_confirm);
			return;
		case CREATE_WAIT_CONFIRM:
			if (task_job_ok(t) && !id_is_zero(t->volume.base))
				hydrator_kick(t->control, t->disk->id);
			t->state = CREATE_END;
			continue;
		case CREATE_FORGET:
			if (t->private && origin_forget(t, CREATE_WAIT_FORGET))
				return;
			t->state = CREATE_WAIT_FORGET;
			continue;
		case CREATE_WAIT_FORGET:
			task_job_essential(t, CREATE_WAIT_UNDO, create_undo);
			return;
		case CREATE_WAIT_UNDO:
			if (task_job_ok(t))
				control_fail_from(&t->error, &t->act);
			t->state = CREATE_END;
			continue;
		case CREATE_END:
			mem_free(t->private);
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

/* What the token made before, if it is known: t->replayed. */
static int look_up_token(struct catalog *c, struct task *t)
{
	const char *text = t->op->create.client_token;
	struct catalog_token token;
	struct err err;
	char id[ID_TEXT_MAX];
	int r = catalog_token_expire(c, t->now, &t->job.err);

	if (r == 0)
		r = catalog_token_get(c, text, &token, &err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (memcmp(token.request, t->request, sizeof(token.request)) != 0)
		return control_fail(&t->error, "IdempotentParameterMismatch", -EEXIST,
				    "Parameters on this idempotent request are inconsistent with "
				    "parameters used in previous request(s).");
	r = catalog_volume_get(c, token.volume, &t->volume, &err);
	if (r == -ENOENT)
		return control_fail(
		    &t->error, "IdempotentParameterMismatch", -EEXIST,
		    "The client token '%s' is associated with resource '%s' which has "
		    "already been deleted. Please use a different client token.",
		    text, id_format(token.volume, CATALOG_VOLUME_PREFIX, id));
	t->replayed = r == 0;
	return r == 0 ? task_describe(c, t) : r;
}

static int add_token(struct catalog *c, struct task *t)
{
	struct catalog_token token = {
	    .request = {t->request[0], t->request[1]},
	    .volume = t->volume.id,
	    .expires = t->now + t->control->config.token_life_ns,
	};

	snprintf(token.token, sizeof(token.token), "%s", t->op->create.client_token);
	return catalog_token_add(c, &token, &t->job.err);
}

static int add_tag(struct catalog *c, struct task *t, const char *key, const char *value)
{
	struct catalog_tag tag;
	char id[ID_TEXT_MAX];

	snprintf(tag.key, sizeof(tag.key), "%s", key);
	snprintf(tag.value, sizeof(tag.value), "%s", value);
	return catalog_tag_put(c, id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id), &tag,
			       &t->job.err);
}

static int add_tags(struct catalog *c, struct task *t)
{
	const struct control_op *op = t->op;
	int r = 0;

	if (op->create.name && op->create.name[0])
		r = add_tag(c, t, "Name", op->create.name);
	for (unsigned i = 0; i < op->create.n_tags && r == 0; i++)
		r = add_tag(c, t, op->create.tags[i].key, op->create.tags[i].value);
	return r;
}

static int create_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	bool has_token = t->op->create.client_token && t->op->create.client_token[0];
	int r = has_token ? look_up_token(c, t) : 0;

	if (r < 0 || t->replayed)
		return r;
	r = task_check_space(c, t, t->volume.size);
	if (r == 0)
		r = catalog_volume_add(c, &t->volume, &job->err);
	if (r == 0)
		r = add_tags(c, t);
	if (r == 0 && has_token)
		r = add_token(c, t);
	return r;
}

static int create_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r;

	if (t->volume.full)
		t->volume.full = CATALOG_FULL_COPYING;
	else
		t->volume.state = CATALOG_AVAILABLE;
	r = catalog_volume_put(c, &t->volume, &job->err);
	if (r == 0)
		r = task_event(c, t, "createVolume",
			       id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id), "%llu bytes",
			       (unsigned long long)t->volume.size);
	return r == 0 ? task_describe(c, t) : r;
}

/* Nothing of it is in the store, or nothing that deleting would not find. */
static int create_undo(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r;

	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	/* Or the snapshot was deleted meanwhile. */
	if (t->act.code == -ENOSPC || (t->act.code == -ENOENT && t->private)) {
		r = catalog_volume_remove(c, t->volume.id, &job->err);
		if (r == 0 && t->op && t->op->create.client_token)
			r = catalog_token_remove(c, t->op->create.client_token, &job->err);
	} else {
		t->volume.state = CATALOG_ERROR;
		snprintf(t->volume.error, sizeof(t->volume.error), "%s", t->act.text);
		r = catalog_volume_put(c, &t->volume, &job->err);
	}
	return r == 0 ? task_event(c, t, "createVolumeFailed", id, "%s", t->act.text) : r;
}
