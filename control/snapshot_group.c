/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots of all volumes of an instance, at one common point:
 *
 *     LIST -> WAIT_LIST -> TAKE ... -> BEGIN -> WAIT_BEGIN -> [OPEN ...] -> CUT -> WAIT_CUT
 *          -> CONFIRM -> WAIT_CONFIRM -> END
 *
 * Each volume's disk is taken by a task of its own, in the order of their ids: two groups never
 * wait for each other. The rows are there, cutting, before any volume is cut, and cease to be that
 * together, when all are. What fails in between, or is found cutting by a start, is deleted, pins
 * included: so there are all of them, or none.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_MAX 128 /* EC2's most volumes of an instance */

enum group_state {
	GROUP_LIST,
	GROUP_WAIT_LIST,
	GROUP_TAKE,
	GROUP_BEGIN,
	GROUP_WAIT_BEGIN,
	GROUP_OPEN,
	GROUP_CUT,
	GROUP_WAIT_CUT,
	GROUP_CONFIRM,
	GROUP_WAIT_CONFIRM,
	GROUP_END,
};

enum member_state {
	MEMBER_TAKE,
	MEMBER_WAIT_OPEN,
};

/* One volume of the instance. */
struct member {
	struct group *group;
	struct task *task; /* has its disk, or is in line for it; NULL: not yet, or over */
	bool ready;        /* what was begun for it is done */
	struct id volume;
	struct catalog_snapshot row;
};

/* The task's private. */
struct group {
	struct task *task; /* of the caller; has no disk */
	bool asleep;       /* until the member at `at` is ready */
	bool has_rows;
	bool is_whole; /* the rows are not cutting any more */
	unsigned at;
	unsigned n;
	struct volume_cut cut;
	struct volume_cut_part parts[GROUP_MAX];
	struct member members[GROUP_MAX];
};

static void group_step(struct task *t);
static int list_job(struct catalog *c, struct catalog_job *job);
static int begin_job(struct catalog *c, struct catalog_job *job);
static int confirm_job(struct catalog *c, struct catalog_job *job);

void control_snapshot_group(struct control *c, struct control_op *op)
{
	struct group *g = NULL;
	struct task *t = NULL;
	struct id instance;

	if (snapshot_check_repository(c, &op->error) == 0 &&
	    args_instance_id(op->snapshot_create.instance, &instance, &op->error) == 0 &&
	    args_snapshot_create(op, &op->error) == 0) {
		g = mem_alloc(sizeof(*g));
		t = g ? task_new(c, op, group_step) : NULL;
		if (!t)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	}
	if (!t) {
		mem_free(g);
		control_finish(c, op);
		return;
	}
	g->task = t;
	t->private = g;
	t->instance.id = instance;
	group_step(t);
}

/* ---- Members --------------------------------------------------------------------------------- */

static void member_ready(struct member *m)
{
	struct group *g = m->group;

	m->ready = true;
	if (!g->asleep)
		return;
	g->asleep = false;
	group_step(g->task);
}

static void member_step(struct task *t)
{
	if (t->state == MEMBER_WAIT_OPEN)
		task_opened(t);
	member_ready(t->private);
}

/* It could not take its disk. */
static void member_on_end(struct task *t, void *arg)
{
	struct member *m = arg;
	struct group *g = m->group;

	m->task = NULL;
	if (!g->task->error.code)
		g->task->error = t->error;
	member_ready(m);
}

/* True: asleep. */
static bool member_take(struct member *m)
{
	struct group *g = m->group;
	struct task *t = g->task;
	struct disk *d = disk_find(t->control, m->volume);
	struct stall stall;
	char id[ID_TEXT_MAX];

	if (d && stall_look(d, &stall)) {
		control_fail(&t->error, "IncorrectState", -EBUSY, "Volume '%s': %s",
			     id_format(m->volume, CATALOG_VOLUME_PREFIX, id), stall.text);
		return false;
	}
	m->task = task_new(t->control, NULL, member_step);
	if (!m->task) {
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
		return false;
	}
	snprintf(m->task->who, sizeof(m->task->who), "%s", t->who);
	m->task->private = m;
	m->task->ended = member_on_end;
	m->task->ended_arg = m;
	m->task->state = MEMBER_TAKE;
	task_take(m->task, m->volume);
	g->asleep = !m->ready;
	return g->asleep;
}

/* True: asleep. */
static bool member_open(struct member *m)
{
	struct group *g = m->group;

	task_open(m->task, MEMBER_WAIT_OPEN, false);
	g->asleep = !m->ready;
	return g->asleep;
}

static void member_end(struct member *m)
{
	struct task *t = m->task;
	struct control *c = m->group->task->control;

	if (!t)
		return;
	m->task = NULL;
	t->ended = NULL;
	/* Uploads; or closes the volume, if nobody needs it any more. */
	uploader_kick(c, m->volume);
	task_end(t);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void on_cut(struct volume_cut *cut)
{
	struct group *g = container_of(cut, struct group, cut);

	group_step(g->task);
}

static void cut_all(struct group *g)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct disk *d = g->members[i].task->disk;

		g->parts[i] = (struct volume_cut_part){
		    .volume = d->volume,
		    .loop = d->home->loop,
		    .snapshot = g->members[i].row.id,
		};
	}
	g->cut = (struct volume_cut){
	    .loop = g->task->control->loop,
	    .parts = g->parts,
	    .n = g->n,
	    .done = on_cut,
	};
	g->task->state = GROUP_WAIT_CUT;
	volume_cut(&g->cut);
}

static void cut_failed(struct group *g)
{
	struct control_error *error = &g->task->error;

	for (unsigned i = 0; i < g->n; i++)
		if (g->parts[i].err.code == -EAGAIN) {
			snapshot_fail_limit(error);
			return;
		}
	control_fail(error, "InternalError", g->cut.err.code,
		     "snapshots of the instance can't be taken: %s", g->cut.err.text);
}

/* The tasks that delete wait in line for the disks. */
static void undo(struct group *g)
{
	for (unsigned i = 0; g->has_rows && !g->is_whole && i < g->n; i++)
		if (snapshot_delete_resume(g->task->control, &g->members[i].row) < 0)
			log_error("no memory: the next start removes a snapshot that came to "
				  "nothing");
}

static void group_end(struct group *g)
{
	struct task *t = g->task;

	undo(g);
	task_answer(t);
	for (unsigned i = 0; i < g->n; i++)
		member_end(&g->members[i]);
	mem_free(g);
	task_end(t);
}

/* Takes, or opens, one after the other. True: asleep. */
static bool step_members(struct group *g)
{
	struct task *t = g->task;
	bool opens = t->state == GROUP_OPEN;

	while (g->at < g->n && !t->error.code) {
		struct member *m = &g->members[g->at];

		if (m->ready) {
			m->ready = false;
			if (opens && m->task->act.code)
				control_fail_from(&t->error, &m->task->act);
			g->at++;
		} else if (opens && m->task->disk->volume) {
			g->at++;
		} else if (opens ? member_open(m) : member_take(m)) {
			return true;
		}
	}
	g->at = 0;
	t->state = t->error.code ? GROUP_END : opens ? GROUP_CUT : GROUP_BEGIN;
	return false;
}

static void group_step(struct task *t)
{
	struct group *g = t->private;

	for (;;) {
		switch ((enum group_state)t->state) {
		case GROUP_LIST:
			task_job(t, GROUP_WAIT_LIST, list_job);
			return;
		case GROUP_WAIT_LIST:
			t->state = task_job_ok(t) ? GROUP_TAKE : GROUP_END;
			for (unsigned i = 0; i < g->n; i++)
				g->members[i].row.id = control_new_id(t->control);
			continue;
		case GROUP_TAKE:
		case GROUP_OPEN:
			if (step_members(g))
				return;
			continue;
		case GROUP_BEGIN:
			task_job(t, GROUP_WAIT_BEGIN, begin_job);
			return;
		case GROUP_WAIT_BEGIN:
			g->has_rows = task_job_ok(t);
			t->state = g->has_rows ? GROUP_OPEN : GROUP_END;
			continue;
		case GROUP_CUT:
			cut_all(g);
			return;
		case GROUP_WAIT_CUT:
			t->state = g->cut.err.code ? GROUP_END : GROUP_CONFIRM;
			if (g->cut.err.code)
				cut_failed(g);
			continue;
		case GROUP_CONFIRM:
			task_job_essential(t, GROUP_WAIT_CONFIRM, confirm_job);
			return;
		case GROUP_WAIT_CONFIRM:
			g->is_whole = task_job_ok(t);
			t->state = GROUP_END;
			continue;
		case GROUP_END:
			group_end(g);
			return;
		}
	}
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static bool is_boot(const char *device)
{
	return strcmp(device, "/dev/sda1") == 0 || strcmp(device, "/dev/xvda") == 0;
}

static int by_volume(const void *a, const void *b)
{
	const struct member *one = a;
	const struct member *other = b;

	return id_compare(&one->volume, &other->volume);
}

static int list_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct group *g = t->private;
	struct catalog_attachment a = {.device = ""};
	char id[ID_TEXT_MAX];
	int r = catalog_instance_get(c, t->instance.id, &t->instance, &job->err);

	id_format(t->instance.id, CATALOG_INSTANCE_PREFIX, id);
	if (r == -ENOENT)
		return control_fail(&t->error, "InvalidInstanceID.NotFound", r,
				    "The instance ID '%s' does not exist", id);
	if (r < 0)
		return r;
	g->n = 0;
	while ((r = catalog_attachment_after(c, t->instance.id, a.device, &a, &job->err)) == 0) {
		if (t->op->snapshot_create.exclude_boot && is_boot(a.device))
			continue;
		if (g->n == GROUP_MAX)
			return control_fail(&t->error, "SnapshotLimitExceeded", -E2BIG,
					    "%s has more than %d volumes", id, GROUP_MAX);
		g->members[g->n++] = (struct member){.group = g, .volume = a.volume};
	}
	if (r != -ENOENT)
		return r;
	if (g->n == 0)
		return control_fail(
		    &t->error, "InvalidParameterValue", -EINVAL, "%s has no volume attached%s", id,
		    t->op->snapshot_create.exclude_boot ? " but its boot volume" : "");
	qsort(g->members, g->n, sizeof(g->members[0]), by_volume);
	return 0;
}

/* It may have been detached meanwhile, and attached elsewhere. */
static int check_attached(struct task *t)
{
	char id[ID_TEXT_MAX];
	char instance[ID_TEXT_MAX];

	if (t->volume.state == CATALOG_IN_USE && t->attachment.state == CATALOG_ATTACHED &&
	    id_equal(t->attachment.instance, t->instance.id))
		return 0;
	return control_fail(&t->error, "IncorrectState", -EBUSY,
			    "Volume '%s' is being attached to or detached from %s; try again",
			    id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
			    id_format(t->instance.id, CATALOG_INSTANCE_PREFIX, instance));
}

static int begin_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct group *g = t->private;
	int r = 0;

	for (unsigned i = 0; i < g->n && r == 0; i++) {
		struct member *m = &g->members[i];

		t->volume = (struct catalog_volume){.id = m->volume};
		t->snapshot = (struct catalog_snapshot){.id = m->row.id, .cutting = true};
		r = snapshot_add(c, t);
		if (r == 0)
			r = check_attached(t);
		m->row = t->snapshot;
		m->task->volume = t->volume;
	}
	return r;
}

static int confirm_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct group *g = t->private;
	struct control_op *op = t->op;
	int r = 0;

	op->result.snapshots = arena_calloc(&op->memory, g->n, sizeof(*op->result.snapshots));
	if (!op->result.snapshots)
		return err_set(&job->err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < g->n && r == 0; i++) {
		struct catalog_snapshot row;
		struct err err;

		r = catalog_snapshot_get(c, g->members[i].row.id, &row, &err);
		if (r < 0)
			return control_fail(&t->error, "IncorrectState", -EBUSY,
					    "one of the snapshots was deleted meanwhile");
		row.cutting = false;
		row.sequence = g->parts[i].sequence;
		r = catalog_snapshot_put(c, &row, &job->err);
		if (r == 0)
			r = snapshot_describe(c, &op->memory, &row, NULL, &op->result.snapshots[i],
					      &job->err);
	}
	if (r == 0)
		op->n_items = g->n;
	return r;
}
