/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume's pending snapshots, one after the other, each with the newest completed one before it
 * as its parent. A task that has the volume's disk but for the time of an upload:
 *
 *     QUEUE -> BEGIN -> WAIT_ROW -> OPEN -> WAIT_OPEN -> WAIT_PIN -> [WAIT_ORPHAN ...]
 *           -> WAIT_PARENT -> WAIT_UPLOAD -> UPLOADED -> UNPIN -> [WAIT_OPEN_2] -> WAIT_UNPIN
 *           -> [WAIT_GET] -> CONFIRM -> WAIT_CONFIRM -> BEGIN ...
 *     BEGIN -> WAIT_ROW -> CLOSE -> WAIT_CLOSE -> END       when none is pending any more
 *
 * The row says what is to be done, pin and repository say how far it is; so a start, a retry and
 * the first time are the same. A pin goes before its row stops being pending, and after the seal.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/upload.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum uploader_state {
	UP_QUEUE,
	UP_BEGIN,
	UP_WAIT_ROW,
	UP_OPEN,
	UP_WAIT_OPEN,
	UP_PIN,
	UP_WAIT_PIN,
	UP_PARENT,
	UP_WAIT_PARENT,
	UP_ORPHAN,
	UP_WAIT_ORPHAN,
	UP_WAIT_UPLOAD,
	UP_UPLOADED,
	UP_UNPIN,
	UP_WAIT_OPEN_2,
	UP_WAIT_UNPIN,
	UP_GET,
	UP_WAIT_GET,
	UP_CONFIRM,
	UP_WAIT_CONFIRM,
	UP_RETRY,
	UP_WAIT_NOTE,
	UP_WAIT_TIMER,
	UP_CLOSE,
	UP_WAIT_CLOSE,
	UP_END,
};

enum outcome {
	OUTCOME_NONE,
	OUTCOME_COMPLETED,
	OUTCOME_FAILED, /* why: u->why */
	OUTCOME_NEVER,  /* it was never cut, and nobody was told that it was */
};

struct uploader {
	struct task *task;
	struct list link; /* control->uploaders */
	bool counted;     /* in control->n_uploads */
	bool queued;
	bool running; /* `upload` */
	bool has_row;
	bool volume_known;
	bool without_parent;
	enum outcome outcome;
	struct err why;
	struct catalog_snapshot row;
	struct id parent;
	uint64_t since;
	struct volume_pin pins[VOLUME_PINS];
	unsigned n_pins;
	bool orphan[VOLUME_PINS];
	uint64_t base_size;
	uint64_t base_hydrated;
	struct id base;
	struct upload upload;
	struct repository_op get;
	struct snap_info info;
	uint32_t labels_len;
	char labels[SNAP_LABELS_MAX];
};

static void uploader_step(struct task *t);
static void uploader_on_upload(struct upload *upload);
static void uploader_on_get(struct repository_op *op);
static void uploader_on_timer(struct io_op *op);
static int row_job(struct catalog *c, struct catalog_job *job);
static int parent_job(struct catalog *c, struct catalog_job *job);
static int confirm_job(struct catalog *c, struct catalog_job *job);
static int note_job(struct catalog *c, struct catalog_job *job);

/* ---- From outside ---------------------------------------------------------------------------- */

void uploader_kick(struct control *c, struct id volume)
{
	struct disk *d = disk_find_or_make(c, volume);
	struct uploader *u;

	if (!d || d->uploader || c->stopping || !c->config.repository)
		return;
	u = mem_alloc(sizeof(*u));
	if (u)
		u->task = task_new(c, NULL, uploader_step);
	if (!u || !u->task) {
		mem_free(u);
		log_error("no memory for uploading snapshots: the next start goes on with them");
		disk_drop_if_idle(d);
		return;
	}
	u->task->private = u;
	u->task->disk = d;
	u->task->volume.id = volume;
	d->uploader = u;
	list_add_tail(&c->uploaders, &u->link);
	u->task->state = UP_QUEUE;
	uploader_step(u->task);
}

static void stop_one(struct uploader *u)
{
	struct task *t = u->task;

	if (u->running)
		upload_stop(&u->upload);
	if (t->timer_runs)
		io_timer_cancel(t->control->loop, &t->timer);
	if (u->queued) {
		u->queued = false;
		t->state = UP_END;
		uploader_step(t);
	}
}

void uploaders_stop(struct control *c)
{
	list_for_each_safe (&c->uploaders, node)
		stop_one(list_entry(node, struct uploader, link));
}

bool uploader_interrupt(struct disk *d, struct id snapshot, struct task *t)
{
	struct uploader *u = d->uploader;

	if (!u || !u->running || (!id_is_zero(snapshot) && !id_equal(snapshot, u->row.id)))
		return false;
	d->upload_waiter = t;
	upload_stop(&u->upload);
	return true;
}

bool uploader_progress(struct disk *d, struct id snapshot, uint64_t *ret_done, uint64_t *ret_all)
{
	struct uploader *u = d->uploader;

	if (!u || !u->running || !id_equal(snapshot, u->row.id))
		return false;
	*ret_done = __atomic_load_n(&u->upload.units_done, __ATOMIC_RELAXED);
	*ret_all = u->upload.units;
	return true;
}

void task_open_pinned(struct task *t, int state)
{
	task_open_as(t, state, &(struct volume_op){.deleted = t->volume.state == CATALOG_DELETING});
}

bool task_opened_pinned(struct task *t, int state)
{
	bool other_way = !t->volume_op.deleted;

	task_opened(t);
	/* Row and mark change one after the other, and what we know of the row may be old. */
	if (t->act.code != -ENOENT || t->opened_twice) {
		t->opened_twice = false;
		return true;
	}
	t->opened_twice = true;
	task_open_as(t, state, &(struct volume_op){.deleted = other_way});
	return false;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void free_place(struct uploader *u)
{
	struct control *c = u->task->control;

	if (!u->counted)
		return;
	u->counted = false;
	c->n_uploads--;
	list_for_each (&c->uploaders, node) {
		struct uploader *other = list_entry(node, struct uploader, link);

		if (!other->queued)
			continue;
		other->queued = false;
		uploader_step(other->task);
		return;
	}
}

/* True: asleep. */
static bool enter_queue(struct uploader *u)
{
	struct control *c = u->task->control;

	u->queued = c->n_uploads >= UPLOADS_MAX;
	if (u->queued)
		return true;
	u->counted = true;
	c->n_uploads++;
	task_retake(u->task, UP_BEGIN);
	return true;
}

/* On the volume's loop. */
static void look_at_pins(struct volume_op *op)
{
	struct task *t = container_of(op, struct task, volume_op);
	struct uploader *u = t->private;
	struct volume_stats stats;

	u->n_pins = volume_pins(op->volume, u->pins);
	volume_stats(op->volume, &stats);
	u->base = stats.base;
	u->base_size = stats.base_size;
	u->base_hydrated = stats.hydrated;
	op->err = (struct err){0};
	op->done(op);
}

static struct volume_pin *pin_of(struct uploader *u, struct id snapshot)
{
	for (unsigned i = 0; i < u->n_pins; i++)
		if (id_equal(u->pins[i].snapshot, snapshot))
			return &u->pins[i];
	return NULL;
}

static void start_engine(struct task *t, int state, struct id snapshot,
			 void (*start)(struct volume_op *op))
{
	t->home = t->disk->home;
	t->volume_op = (struct volume_op){.volume = t->disk->volume, .snapshot = snapshot};
	task_engine(t, state, start);
}

static void start_upload(struct uploader *u)
{
	struct task *t = u->task;
	bool inherits = !id_is_zero(u->base) && u->base_hydrated < u->base_size;

	u->upload = (struct upload){
	    .control = t->control,
	    .home = t->disk->home,
	    .volume = t->disk->volume,
	    .config =
		{
		    .id = u->row.id,
		    .volume = u->row.volume,
		    .parent = u->without_parent ? (struct id){0} : u->parent,
		    .size = u->row.size,
		    .started = u->row.started,
		    .labels = u->labels,
		    .labels_len = u->labels_len,
		},
	    .since = u->since,
	    .bytes_per_second = t->control->config.upload_rate,
	    .done = uploader_on_upload,
	    .arg = u,
	    .info = &u->info,
	};
	if (id_is_zero(u->upload.config.parent)) {
		u->upload.since = 0;
		u->upload.all = true;
		u->upload.every = inherits ? u->base_size : 0;
	}
	u->running = true;
	t->state = UP_WAIT_UPLOAD;
	upload_begin(&u->upload);
	task_release(t);
}

static void uploader_on_upload(struct upload *upload)
{
	struct uploader *u = upload->arg;
	struct disk *d = u->task->disk;
	struct task *waiter = d->upload_waiter;

	u->running = false;
	d->upload_waiter = NULL;
	if (waiter)
		waiter->step(waiter);
	task_retake(u->task, UP_UPLOADED);
}

static void uploaded(struct uploader *u)
{
	struct task *t = u->task;
	struct upload *upload = &u->upload;

	switch (upload->end) {
	case UPLOAD_SEALED:
		u->outcome = OUTCOME_COMPLETED;
		t->state = UP_UNPIN;
		return;
	case UPLOAD_FAILED:
		u->outcome = OUTCOME_FAILED;
		u->why = upload->err;
		t->state = UP_UNPIN;
		return;
	case UPLOAD_STOPPED:
		u->without_parent |= upload->parent_gone;
		u->why = upload->err;
		t->state =
		    upload->parent_gone || upload->err.code == -ECANCELED ? UP_BEGIN : UP_RETRY;
		return;
	}
}

/* What is to be done about a row whose pin is not there. */
static void got(struct uploader *u)
{
	struct task *t = u->task;

	t->state = UP_CONFIRM;
	if (u->get.error && u->get.error != -ENOENT) {
		u->why = u->get.err;
		t->state = UP_RETRY;
	} else if (!u->get.error && u->info.state == SNAP_COMPLETED) {
		u->outcome = OUTCOME_COMPLETED;
	} else if (u->outcome == OUTCOME_COMPLETED) {
		u->outcome = OUTCOME_FAILED;
		err_set(&u->why, -ENOENT, "it was deleted in the repository");
	} else if (u->row.sequence == 0) {
		u->outcome = OUTCOME_NEVER;
	} else {
		u->outcome = OUTCOME_FAILED;
		err_set(&u->why, -ENOENT, "the volume does not have its point in time any more");
	}
}

static void uploader_on_get(struct repository_op *op)
{
	struct uploader *u = container_of(op, struct uploader, get);

	uploader_step(u->task);
}

static void uploader_on_timer(struct io_op *op)
{
	struct task *t = container_of(op, struct task, timer);

	t->timer_runs = false;
	task_retake(t, UP_BEGIN);
}

static void rest(struct task *t)
{
	t->state = UP_WAIT_TIMER;
	t->timer.done = uploader_on_timer;
	t->timer_runs = true;
	io_timer(t->control->loop, &t->timer, UPLOAD_RETRY);
	task_release(t);
}

static void uploader_end(struct uploader *u)
{
	struct task *t = u->task;
	struct disk *d = t->disk;
	struct resume r = {.volume = &t->volume};
	bool goes = u->volume_known && !u->has_row && t->volume.state == CATALOG_DELETING &&
		    !t->control->stopping;

	d->uploader = NULL;
	list_remove(&u->link);
	free_place(u);
	if (goes)
		delete_resume(t->control, &r);
	mem_free(u);
	task_end(t);
}

static void row_read(struct uploader *u)
{
	struct task *t = u->task;

	u->outcome = OUTCOME_NONE;
	t->state = UP_CLOSE;
	if (!task_job_ok(t)) {
		u->why = t->job.err;
		t->state = t->control->stopping ? UP_CLOSE : UP_RETRY;
		u->has_row = false;
	} else if (u->has_row && !t->control->stopping) {
		t->state = UP_OPEN;
	}
}

static void opened(struct uploader *u)
{
	struct task *t = u->task;

	t->state = t->disk->volume ? UP_PIN : UP_RETRY;
	u->why = t->act;
	/* It is gone: what was sealed before is all that there can be. */
	if (t->act.code == -ENOENT)
		t->state = UP_GET;
}

static void pins_known(struct uploader *u)
{
	struct volume_pin *pin = pin_of(u, u->row.id);

	u->task->state = pin ? UP_PARENT : UP_GET;
	if (!pin)
		return;
	u->row.sequence = pin->sequence;
	u->row.size = pin->size;
}

/* True: asleep. */
static bool unpin_orphan(struct uploader *u)
{
	for (unsigned i = 0; i < u->n_pins; i++) {
		if (!u->orphan[i])
			continue;
		u->orphan[i] = false;
		start_engine(u->task, UP_WAIT_ORPHAN, u->pins[i].snapshot, volume_unpin);
		return true;
	}
	return false;
}

static void unpinned(struct uploader *u)
{
	struct task *t = u->task;
	bool known = u->outcome == OUTCOME_FAILED || !u->upload.sealed_before;

	t->state = known ? UP_CONFIRM : UP_GET;
	if (t->act.code && t->act.code != -ENOENT) {
		u->why = t->act;
		t->state = UP_RETRY;
	}
}

/* True: asleep. */
static bool unpin(struct uploader *u)
{
	struct task *t = u->task;

	if (t->disk->volume)
		start_engine(t, UP_WAIT_UNPIN, u->row.id, volume_unpin);
	else
		task_open_pinned(t, UP_WAIT_OPEN_2);
	return true;
}

/* Opening and pins. True: asleep. */
static bool step_pins(struct uploader *u)
{
	struct task *t = u->task;

	switch (t->state) {
	case UP_OPEN:
		t->state = UP_PIN;
		if (!t->disk->volume)
			task_open_pinned(t, UP_WAIT_OPEN);
		return t->state == UP_WAIT_OPEN;
	case UP_WAIT_OPEN:
		if (!task_opened_pinned(t, UP_WAIT_OPEN))
			return true;
		opened(u);
		return false;
	case UP_PIN:
		start_engine(t, UP_WAIT_PIN, u->row.id, look_at_pins);
		return true;
	case UP_WAIT_PIN:
		pins_known(u);
		return false;
	case UP_WAIT_OPEN_2:
		if (!task_opened_pinned(t, UP_WAIT_OPEN_2))
			return true;
		t->state = UP_UNPIN;
		if (t->act.code)
			unpinned(u);
		return false;
	case UP_WAIT_UNPIN:
		unpinned(u);
		return false;
	default:
		return unpin(u);
	}
}

/* What follows an upload, whatever became of it. True: asleep. */
static bool step_last(struct uploader *u)
{
	struct task *t = u->task;
	struct control *c = t->control;

	switch (t->state) {
	case UP_GET:
		t->state = UP_WAIT_GET;
		u->get = (struct repository_op){.done = uploader_on_get};
		snap_get(c->config.repository, c->loop, &u->get, u->row.id, &u->info);
		return true;
	case UP_WAIT_GET:
		got(u);
		return false;
	case UP_CONFIRM:
		task_job_essential(t, UP_WAIT_CONFIRM, confirm_job);
		return true;
	case UP_WAIT_CONFIRM:
		u->without_parent = false;
		t->state = task_job_ok(t) ? UP_BEGIN : UP_RETRY;
		u->why = t->job.err;
		return false;
	case UP_RETRY:
		log_warning("snapshots: trying again later: %s", u->why.text);
		task_job(t, UP_WAIT_NOTE, note_job);
		return true;
	case UP_WAIT_NOTE:
		t->state = UP_CLOSE;
		if (!c->stopping)
			rest(t);
		return t->state == UP_WAIT_TIMER;
	case UP_CLOSE:
		t->state = UP_END;
		if (t->disk->volume && !t->disk->port && !t->disk->scrub && !t->disk->hydrator &&
		    !t->disk->check && !c->stopping)
			task_close(t, UP_WAIT_CLOSE);
		return t->state == UP_WAIT_CLOSE;
	default:
		task_closed(t);
		t->state = UP_END;
		return false;
	}
}

static void uploader_step(struct task *t)
{
	struct uploader *u = t->private;

	for (;;) {
		switch ((enum uploader_state)t->state) {
		case UP_QUEUE:
			if (enter_queue(u))
				return;
			continue;
		case UP_BEGIN:
			task_job(t, UP_WAIT_ROW, row_job);
			return;
		case UP_WAIT_ROW:
			row_read(u);
			continue;
		case UP_OPEN:
		case UP_WAIT_OPEN:
		case UP_PIN:
		case UP_WAIT_PIN:
		case UP_UNPIN:
		case UP_WAIT_OPEN_2:
		case UP_WAIT_UNPIN:
			if (step_pins(u))
				return;
			continue;
		case UP_PARENT:
			task_job(t, UP_WAIT_PARENT, parent_job);
			return;
		case UP_WAIT_PARENT:
			t->state = task_job_ok(t) ? UP_ORPHAN : UP_RETRY;
			u->why = t->job.err;
			continue;
		case UP_ORPHAN:
			if (!u->has_row) { /* it is being deleted */
				t->state = UP_BEGIN;
				continue;
			}
			if (!unpin_orphan(u))
				start_upload(u);
			return;
		case UP_WAIT_ORPHAN:
			t->state = UP_ORPHAN;
			continue;
		case UP_WAIT_UPLOAD:
			return;
		case UP_UPLOADED:
			uploaded(u);
			continue;
		case UP_GET:
		case UP_WAIT_GET:
		case UP_CONFIRM:
		case UP_WAIT_CONFIRM:
		case UP_RETRY:
		case UP_WAIT_NOTE:
		case UP_CLOSE:
		case UP_WAIT_CLOSE:
			if (step_last(u))
				return;
			continue;
		case UP_WAIT_TIMER:
			return;
		case UP_END:
			uploader_end(u);
			return;
		}
	}
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static int row_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct uploader *u = t->private;
	struct err err;
	int r = catalog_volume_get(c, t->disk->id, &t->volume, &err);

	u->volume_known = r == 0;
	if (r < 0 && r != -ENOENT) {
		job->err = err;
		return r;
	}
	r = catalog_snapshot_next_pending(c, t->disk->id, &u->row, &job->err);
	u->has_row = r == 0;
	return r == -ENOENT ? 0 : r;
}

static int add_label(struct uploader *u, const char *text, struct err *err)
{
	size_t n = strlen(text) + 1;

	if (u->labels_len + n > sizeof(u->labels))
		return err_set(err, -E2BIG, "description and tags are too long");
	memcpy(u->labels + u->labels_len, text, n);
	u->labels_len += (uint32_t)n;
	return 0;
}

static int make_labels(struct catalog *c, struct uploader *u, struct err *err)
{
	char after[CATALOG_TAG_KEY_MAX + 1] = "";
	struct catalog_tag tag;
	char id[ID_TEXT_MAX];
	int r;

	u->labels_len = 0;
	r = add_label(u, u->row.description, err);
	id_format(u->row.id, CATALOG_SNAPSHOT_PREFIX, id);
	while (r == 0) {
		r = catalog_tag_after(c, id, after, &tag, err);
		if (r == 0)
			r = add_label(u, tag.key, err);
		if (r == 0)
			r = add_label(u, tag.value, err);
		memcpy(after, tag.key, sizeof(after));
	}
	return r == -ENOENT ? 0 : r;
}

/* The rows of what somebody deletes meanwhile stay as they are. False: it is not pending. */
static bool is_pending(struct catalog *c, struct id id, struct catalog_snapshot *ret_s,
		       struct err *err)
{
	struct err none;
	int r = catalog_snapshot_get(c, id, ret_s, &none);

	if (r < 0 && r != -ENOENT)
		*err = none;
	return r == 0 && ret_s->state == CATALOG_SNAPSHOT_PENDING;
}

/* The snapshot that the volume was made of: what nobody wrote since is in there, copied by now or
 * not. If it was deleted, the upload finds out. */
static struct id lineage_of(struct catalog *c, const struct uploader *u)
{
	struct catalog_volume v;
	struct err err;

	if (!id_is_zero(u->base))
		return u->base;
	return catalog_volume_get(c, u->row.volume, &v, &err) == 0 ? v.lineage : (struct id){0};
}

static int parent_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct uploader *u = t->private;
	struct catalog_snapshot s;
	int r;

	for (unsigned i = 0; i < u->n_pins && job->err.code == 0; i++)
		u->orphan[i] = !is_pending(c, u->pins[i].snapshot, &s, &job->err);
	u->has_row = is_pending(c, u->row.id, &s, &job->err);
	if (job->err.code || !u->has_row)
		return job->err.code;
	r = catalog_snapshot_parent(c, u->row.volume, u->row.sequence, &s, &job->err);
	if (r < 0 && r != -ENOENT)
		return r;
	u->parent = r == 0 ? s.id : lineage_of(c, u);
	u->since = r == 0 ? s.sequence : 0;
	u->row.parent = u->without_parent ? (struct id){0} : u->parent;
	r = catalog_snapshot_put(c, &u->row, &job->err);
	return r == 0 ? make_labels(c, u, &job->err) : r;
}

static int confirm_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct uploader *u = t->private;
	struct catalog_snapshot s;
	char id[ID_TEXT_MAX];

	if (!is_pending(c, u->row.id, &s, &job->err))
		return job->err.code;
	id_format(s.id, CATALOG_SNAPSHOT_PREFIX, id);
	if (u->outcome == OUTCOME_NEVER)
		return catalog_snapshot_remove(c, s.id, &job->err);
	s.error[0] = '\0';
	if (u->outcome == OUTCOME_FAILED) {
		s.state = CATALOG_SNAPSHOT_ERROR;
		snprintf(s.error, sizeof(s.error), "%s", u->why.text);
		log_error("snapshot %s: %s", id, s.error);
	} else {
		s.state = CATALOG_SNAPSHOT_COMPLETED;
		s.completed = u->info.completed;
		s.stored = u->info.stored;
		s.parent = u->info.parent;
	}
	if (catalog_snapshot_put(c, &s, &job->err) < 0)
		return job->err.code;
	return task_event(c, t, s.error[0] ? "snapshotFailed" : "snapshotCompleted", id, "%s",
			  s.error[0] ? s.error : "it is in the repository");
}

/* Why it takes so long. */
static int note_job(struct catalog *c, struct catalog_job *job)
{
	struct uploader *u = task_of_job(job)->private;
	struct catalog_snapshot s;

	if (!is_pending(c, u->row.id, &s, &job->err))
		return job->err.code;
	snprintf(s.error, sizeof(s.error), "%s", u->why.text);
	return catalog_snapshot_put(c, &s, &job->err);
}
