/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a volume:
 *
 *     BEGIN -> WAIT_BEGIN -> WAIT_ENGINE -+-> WAIT_CONFIRM -> END
 *                  |                      '-> WAIT_UNDO ----> END
 *                  '-> END (refused, or the client token was known)
 *
 * The row is there, creating, before the engine has it; so a crash leaves no volume that nobody
 * knows. A start goes on from WAIT_BEGIN's end.
 */
#include "control/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum create_state {
	CREATE_BEGIN,
	CREATE_WAIT_BEGIN,
	CREATE_WAIT_ENGINE,
	CREATE_WAIT_CONFIRM,
	CREATE_WAIT_UNDO,
	CREATE_END,
};

static void create_step(struct task *t);
static int create_begin(struct catalog *c, struct catalog_job *job);
static int create_confirm(struct catalog *c, struct catalog_job *job);
static int create_undo(struct catalog *c, struct catalog_job *job);

void control_create(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	uint64_t size = 0;

	if (args_size(op->create.size, &size, &op->error) == 0 &&
	    args_create(op, &op->error) == 0) {
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
	snprintf(t->volume.zone, sizeof(t->volume.zone), "%s", c->config.zone);
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
	task_take(t, r->volume->id);
	return 0;
}

static void act(struct task *t)
{
	t->home = disk_choose_home(t->control);
	t->volume_op = (struct volume_op){.size = t->volume.size};
	task_engine(t, CREATE_WAIT_ENGINE, volume_create);
}

static void create_step(struct task *t)
{
	for (;;) {
		switch ((enum create_state)t->state) {
		case CREATE_BEGIN:
			task_job(t, CREATE_WAIT_BEGIN, create_begin);
			return;
		case CREATE_WAIT_BEGIN:
			if (!task_job_ok(t) || t->replayed) {
				t->state = CREATE_END;
				continue;
			}
			act(t);
			return;
		case CREATE_WAIT_ENGINE:
			/* It may be there from before a crash. */
			if (t->act.code && t->act.code != -EEXIST)
				task_job_essential(t, CREATE_WAIT_UNDO, create_undo);
			else
				task_job(t, CREATE_WAIT_CONFIRM, create_confirm);
			return;
		case CREATE_WAIT_CONFIRM:
			task_job_ok(t);
			t->state = CREATE_END;
			continue;
		case CREATE_WAIT_UNDO:
			if (task_job_ok(t))
				control_fail_from(&t->error, &t->act);
			t->state = CREATE_END;
			continue;
		case CREATE_END:
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
	if (t->act.code == -ENOSPC) {
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
