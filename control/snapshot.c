/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking and deleting snapshots. Taking one:
 *
 *     BEGIN -> WAIT_BEGIN -> [WAIT_OPEN] -> CUT -> WAIT_CUT -+-> END     the uploader goes on
 *                                   '------------------------+-> WAIT_UNDO -> [WAIT_CLOSE] -> END
 *
 * The caller is answered when the cut is durable in the volume's log. Its row was there before,
 * without a place in the log: a start asks the volume whether it was cut.
 *
 * Deleting one that is pending; the others begin at FORGET:
 *
 *     BEGIN -> WAIT_BEGIN -> TAKE -> [WAIT_UPLOAD] -> [WAIT_OPEN] -> UNPIN -> WAIT_UNPIN -> FORGET
 *     FORGET -> WAIT_FORGET -> CONFIRM -> WAIT_CONFIRM -> END
 *
 * In the repository only the root goes; a sweep gives the space back.
 */
#include "control/snapshot.h"
#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum create_state {
	CREATE_BEGIN,
	CREATE_WAIT_BEGIN,
	CREATE_WAIT_OPEN,
	CREATE_CUT,
	CREATE_WAIT_CUT,
	CREATE_UNDO,
	CREATE_WAIT_UNDO,
	CREATE_WAIT_CLOSE,
	CREATE_END,
};

enum delete_state {
	DELETE_BEGIN,
	DELETE_WAIT_BEGIN,
	DELETE_TAKE,
	DELETE_WAIT_UPLOAD,
	DELETE_OPEN,
	DELETE_WAIT_OPEN,
	DELETE_WAIT_UNPIN,
	DELETE_FORGET,
	DELETE_WAIT_FORGET,
	DELETE_WAIT_CONFIRM,
	DELETE_END,
};

/* t->private of a deletion. */
struct forgetting {
	struct task *task;
	struct repository_op op;
	bool has_row;
	bool was_pending;
	bool looking; /* op is a look whether it is there at all */
	struct snap_info info;
};

static void create_step(struct task *t);
static void delete_step(struct task *t);
static int create_begin(struct catalog *c, struct catalog_job *job);
static int create_undo(struct catalog *c, struct catalog_job *job);
static int delete_begin(struct catalog *c, struct catalog_job *job);
static int delete_confirm(struct catalog *c, struct catalog_job *job);
static void delete_on_repository(struct repository_op *op);

int snapshot_check_repository(struct control *c, struct control_error *error)
{
	if (c->config.repository)
		return 0;
	return control_fail(
	    error, "Unavailable", -ENODEV, "there is no repository of snapshots: %s",
	    c->config.no_repository ? c->config.no_repository : "none is configured");
}

static int no_memory(struct control_error *error)
{
	return control_fail(error, "InternalError", -ENOMEM, "out of memory");
}

/* ---- Taking one ------------------------------------------------------------------------------ */

void control_snapshot_create(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	struct id volume;

	if (snapshot_check_repository(c, &op->error) == 0 &&
	    args_volume_id(op->snapshot_create.volume, &volume, &op->error) == 0 &&
	    args_snapshot_create(op, &op->error) == 0) {
		t = task_new(c, op, create_step);
		if (!t)
			no_memory(&op->error);
	}
	if (!t) {
		control_finish(c, op);
		return;
	}
	t->snapshot.id = control_new_id(c);
	task_take(t, volume);
}

static void cut(struct task *t)
{
	t->home = t->disk->home;
	t->volume_op = (struct volume_op){
	    .volume = t->disk->volume,
	    .snapshot = t->snapshot.id,
	};
	task_engine(t, CREATE_WAIT_CUT, volume_snapshot);
}

void snapshot_fail_limit(struct control_error *error)
{
	control_fail(error, "ConcurrentSnapshotLimitExceeded", -EAGAIN,
		     "Maximum allowed in-progress snapshots for a single volume exceeded.");
}

static void fail_from_act(struct task *t)
{
	char id[ID_TEXT_MAX];

	if (t->act.code == -EAGAIN)
		snapshot_fail_limit(&t->error);
	else
		control_fail(&t->error, "InternalError", t->act.code,
			     "%s: a snapshot can't be taken: %s",
			     id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id), t->act.text);
}

static void create_step(struct task *t)
{
	for (;;) {
		switch ((enum create_state)t->state) {
		case CREATE_BEGIN:
			task_job(t, CREATE_WAIT_BEGIN, create_begin);
			return;
		case CREATE_WAIT_BEGIN:
			t->state = task_job_ok(t) ? CREATE_CUT : CREATE_END;
			if (t->state == CREATE_END || t->disk->volume)
				continue;
			t->opened_here = true;
			task_open(t, CREATE_WAIT_OPEN, false);
			return;
		case CREATE_WAIT_OPEN:
			task_opened(t);
			t->state = t->act.code ? CREATE_UNDO : CREATE_CUT;
			continue;
		case CREATE_CUT:
			cut(t);
			return;
		case CREATE_WAIT_CUT:
			t->state = t->act.code ? CREATE_UNDO : CREATE_END;
			if (t->state == CREATE_UNDO)
				continue;
			task_answer(t);
			uploader_kick(t->control, t->disk->id);
			continue;
		case CREATE_UNDO:
			fail_from_act(t);
			t->undone = t->error;
			task_job_essential(t, CREATE_WAIT_UNDO, create_undo);
			return;
		case CREATE_WAIT_UNDO:
			t->error = t->undone;
			t->state = CREATE_END;
			if (!t->opened_here || !t->disk->volume || t->disk->uploader)
				continue;
			task_close(t, CREATE_WAIT_CLOSE);
			return;
		case CREATE_WAIT_CLOSE:
			task_closed(t);
			t->state = CREATE_END;
			continue;
		case CREATE_END:
			task_end(t);
			return;
		}
	}
}

static int check_volume(struct catalog *c, struct task *t)
{
	char id[ID_TEXT_MAX];
	uint64_t pending = 0;
	int r = task_read_volume(c, t);

	if (r < 0)
		return r;
	if (t->volume.state != CATALOG_AVAILABLE && t->volume.state != CATALOG_IN_USE)
		return control_fail(&t->error, "IncorrectState", -EBUSY,
				    "Volume '%s' is in the '%s' state.",
				    id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
				    catalog_volume_state_name(t->volume.state));
	r = catalog_snapshots_pending(c, t->volume.id, &pending, &t->job.err);
	if (r == 0 && pending >= VOLUME_PINS) {
		snapshot_fail_limit(&t->error);
		return t->error.err;
	}
	return r;
}

static int add_tags(struct catalog *c, struct task *t)
{
	const struct control_op *op = t->op;
	struct catalog_tag tag;
	char id[ID_TEXT_MAX];
	int r = 0;

	id_format(t->snapshot.id, CATALOG_SNAPSHOT_PREFIX, id);
	for (unsigned i = 0; i < op->snapshot_create.n_tags && r == 0; i++) {
		snprintf(tag.key, sizeof(tag.key), "%s", op->snapshot_create.tags[i].key);
		snprintf(tag.value, sizeof(tag.value), "%s", op->snapshot_create.tags[i].value);
		r = catalog_tag_put(c, id, &tag, &t->job.err);
	}
	return r;
}

int snapshot_add(struct catalog *c, struct task *t)
{
	const char *description = t->op->snapshot_create.description;
	struct catalog_snapshot *s = &t->snapshot;
	char id[ID_TEXT_MAX];
	char volume[ID_TEXT_MAX];
	int r = check_volume(c, t);

	if (r < 0)
		return r;
	s->volume = t->volume.id;
	s->state = CATALOG_SNAPSHOT_PENDING;
	s->size = t->volume.size;
	s->started = t->now;
	snprintf(s->description, sizeof(s->description), "%s", description ? description : "");
	r = catalog_snapshot_add(c, s, &t->job.err);
	if (r == 0)
		r = add_tags(c, t);
	if (r == 0)
		r = task_event(c, t, "createSnapshot",
			       id_format(s->id, CATALOG_SNAPSHOT_PREFIX, id), "of %s",
			       id_format(s->volume, CATALOG_VOLUME_PREFIX, volume));
	return r;
}

static int create_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	int r = snapshot_add(c, t);

	return r == 0 ? snapshot_result(c, t, &t->snapshot) : r;
}

/* If its cut is found later for all that, nobody needs it. */
static int create_undo(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r = catalog_snapshot_remove(c, t->snapshot.id, &job->err);

	return r == 0 ? task_event(c, t, "createSnapshotFailed",
				   id_format(t->snapshot.id, CATALOG_SNAPSHOT_PREFIX, id), "%s",
				   t->act.text)
		      : r;
}

/* ---- Deleting one ---------------------------------------------------------------------------- */

static struct task *new_deletion(struct control *c, struct control_op *op, struct id snapshot)
{
	struct forgetting *f = mem_alloc(sizeof(*f));
	struct task *t = f ? task_new(c, op, delete_step) : NULL;

	if (!t) {
		mem_free(f);
		return NULL;
	}
	f->task = t;
	t->private = f;
	t->snapshot.id = snapshot;
	return t;
}

void control_snapshot_delete(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	struct id id;

	if (snapshot_check_repository(c, &op->error) == 0 &&
	    args_snapshot_id(op->snapshot_delete.snapshot, &id, &op->error) == 0) {
		t = new_deletion(c, op, id);
		if (!t)
			no_memory(&op->error);
	}
	if (t)
		delete_step(t);
	else
		control_finish(c, op);
}

int snapshot_delete_resume(struct control *c, const struct catalog_snapshot *s)
{
	struct task *t;

	if (!c->config.repository)
		return 0; /* a start that has one goes on */
	t = new_deletion(c, NULL, s->id);
	if (!t)
		return -ENOMEM;
	delete_step(t);
	return 0;
}

static void ask_repository(struct task *t, bool look)
{
	struct forgetting *f = t->private;
	struct control *c = t->control;

	t->state = DELETE_WAIT_FORGET;
	f->looking = look;
	f->op = (struct repository_op){.done = delete_on_repository};
	if (look)
		snap_get(c->config.repository, c->loop, &f->op, t->snapshot.id, &f->info);
	else
		snap_delete(c->config.repository, c->loop, &f->op, t->snapshot.id);
}

static void delete_on_repository(struct repository_op *op)
{
	struct task *t = container_of(op, struct forgetting, op)->task;

	t->step(t);
}

/* True: asleep. */
static bool forgot(struct task *t)
{
	struct forgetting *f = t->private;
	char id[ID_TEXT_MAX];

	id_format(t->snapshot.id, CATALOG_SNAPSHOT_PREFIX, id);
	if (f->looking && f->op.error == -ENOENT && !f->has_row) {
		control_fail(&t->error, "InvalidSnapshot.NotFound", -ENOENT,
			     "The snapshot '%s' does not exist.", id);
	} else if (f->looking) {
		ask_repository(t, false); /* a damaged one goes, too */
		return true;
	} else if (f->op.error) {
		control_fail(&t->error, "InternalError", f->op.error, "%s: %s", id, f->op.err.text);
	} else {
		task_job_essential(t, DELETE_WAIT_CONFIRM, delete_confirm);
		return true;
	}
	t->state = DELETE_END;
	return false;
}

static void delete_end(struct task *t)
{
	struct forgetting *f = t->private;

	if (t->error.code && !t->op)
		log_error("a snapshot can't be deleted now, the next start tries again: %s",
			  t->error.text);
	/* Closes the volume if nobody else needs it; goes on with its deletion. */
	if (t->disk)
		uploader_kick(t->control, t->disk->id);
	mem_free(f);
	task_end(t);
}

/* The pin's part. True: asleep. */
static bool step_pin(struct task *t)
{
	switch (t->state) {
	case DELETE_TAKE:
		t->state = DELETE_WAIT_UPLOAD;
		if (!t->disk) {
			task_take(t, t->snapshot.volume); /* steps; t may be gone */
			return true;
		}
		return false;
	case DELETE_WAIT_UPLOAD:
		if (uploader_interrupt(t->disk, t->snapshot.id, t))
			return true;
		t->state = DELETE_OPEN;
		return false;
	case DELETE_OPEN:
		if (!t->disk->volume) {
			task_open_pinned(t, DELETE_WAIT_OPEN);
			return true;
		}
		t->home = t->disk->home;
		t->volume_op = (struct volume_op){
		    .volume = t->disk->volume,
		    .snapshot = t->snapshot.id,
		};
		task_engine(t, DELETE_WAIT_UNPIN, volume_unpin);
		return true;
	case DELETE_WAIT_OPEN:
		if (!task_opened_pinned(t, DELETE_WAIT_OPEN))
			return true;
		t->state = t->act.code == 0 ? DELETE_OPEN : DELETE_FORGET;
		break;
	default:
		t->state = DELETE_FORGET;
	}
	if (t->act.code == 0 || t->act.code == -ENOENT)
		return false;
	control_fail_from(&t->error, &t->act);
	t->state = DELETE_END;
	return false;
}

static void delete_step(struct task *t)
{
	struct forgetting *f = t->private;

	for (;;) {
		switch ((enum delete_state)t->state) {
		case DELETE_BEGIN:
			task_job_essential(t, DELETE_WAIT_BEGIN, delete_begin);
			return;
		case DELETE_WAIT_BEGIN:
			t->state = f->was_pending ? DELETE_TAKE : DELETE_FORGET;
			if (!task_job_ok(t))
				t->state = DELETE_END;
			continue;
		case DELETE_TAKE:
		case DELETE_WAIT_UPLOAD:
		case DELETE_OPEN:
		case DELETE_WAIT_OPEN:
		case DELETE_WAIT_UNPIN:
			if (step_pin(t))
				return;
			continue;
		case DELETE_FORGET:
			ask_repository(t, !f->has_row);
			return;
		case DELETE_WAIT_FORGET:
			if (forgot(t))
				return;
			continue;
		case DELETE_WAIT_CONFIRM:
			if (task_job_ok(t))
				sweeper_ask(t->control);
			t->state = DELETE_END;
			continue;
		case DELETE_END:
			delete_end(t);
			return;
		}
	}
}

/* What it was before: only a pending one has a pin. A start can't tell any more, and looks. */
static int delete_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct forgetting *f = t->private;
	struct catalog_snapshot *s = &t->snapshot;
	struct err err;
	int r = catalog_snapshot_get(c, s->id, s, &err);

	if (r == -ENOENT)
		return 0; /* it is another zone's, or nobody's */
	if (r < 0)
		return err_set(&job->err, r, "%s", err.text);
	if (s->cutting && t->op)
		return 0; /* nobody knows of it yet */
	f->has_row = true;
	r = catalog_volume_get(c, s->volume, &t->volume, &err);
	f->was_pending = r == 0 && (s->state == CATALOG_SNAPSHOT_PENDING ||
				    s->state == CATALOG_SNAPSHOT_DELETING);
	s->state = CATALOG_SNAPSHOT_DELETING;
	r = catalog_snapshot_put(c, s, &job->err);
	return r == 0 && t->op ? snapshot_result(c, t, s) : r;
}

static int delete_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct forgetting *f = t->private;
	char id[ID_TEXT_MAX];
	int r = catalog_snapshot_remove(c, t->snapshot.id, &job->err);

	if (r == 0)
		r = task_event(c, t, "deleteSnapshot",
			       id_format(t->snapshot.id, CATALOG_SNAPSHOT_PREFIX, id), "%s",
			       t->snapshot.description);
	if (r < 0 || f->has_row || !t->op)
		return r;
	t->snapshot.volume = f->info.volume;
	t->snapshot.size = f->info.size;
	t->snapshot.started = f->info.started;
	t->snapshot.state = CATALOG_SNAPSHOT_DELETING;
	return snapshot_result(c, t, &t->snapshot);
}
