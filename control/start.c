/* SPDX-License-Identifier: Apache-2.0
 *
 * Starting:
 *
 *     META -> WAIT_META -> LIST (until all are listed) -> COMPARE -> WAIT_COMPARE
 *          -> ADOPT -> [WAIT_ADOPT] -> ADOPT ...    what the store has and the catalog has not
 *          -> ROW -> WAIT_ROW -> [WAIT_ROOM] -> ROW ...   goes on with what is half done
 *          -> WAIT_REST -> SNAPSHOT -> WAIT_SNAPSHOT -> SNAPSHOT ...   uploads go on behind
 *          -> FIRST -> WAIT_FIRST -> [WAIT_CREATE] -> [WAIT_ATTACH] -> WAIT_DECIDED
 *          -> DONE
 *
 * A volume that only the store knows was made by a volumed without a catalog, or its catalog is
 * lost: it is adopted, never deleted. Deleting goes on behind; nobody waits for it.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum start_state {
	START_META,
	START_WAIT_META,
	START_LIST,
	START_WAIT_LIST,
	START_COMPARE,
	START_WAIT_COMPARE,
	START_ADOPT,
	START_WAIT_ADOPT,
	START_ROW,
	START_WAIT_ROW,
	START_WAIT_ROOM,
	START_WAIT_REST,
	START_SNAPSHOT,
	START_WAIT_SNAPSHOT,
	START_FIRST,
	START_WAIT_FIRST,
	START_WAIT_CREATE,
	START_WAIT_ATTACH,
	START_DECIDE,
	START_WAIT_DECIDED,
	START_DONE,
};

struct starting {
	struct control *control;
	struct control_start *start;
	enum start_state state;
	struct err err;
	struct catalog_job job;
	struct store_ctl ctl;

	/* Ids of the store's volumes; after COMPARE, those that the catalog does not know. */
	struct id *ids;
	unsigned n_ids;
	unsigned room;
	unsigned next;

	struct id cursor; /* of the rows */
	bool rows_end;
	struct catalog_snapshot snapshot; /* the newest row, and the cursor */
	bool snapshots_end;
	struct catalog_volume volume;
	struct catalog_attachment attachment;
	bool has_attachment;
	unsigned n_pending; /* resumed, and waited for */
	struct id only;     /* the newest volume that was seen */

	bool decided; /* about the first volume */
	struct control_op op;
	char only_text[ID_TEXT_MAX];
	uint64_t now;
	struct id new_instance;
};

static void start_step(struct starting *s);
static void start_on_job(struct catalog_job *job);
static void start_on_list(struct store_ctl *ctl);
static void start_on_task(struct task *t, void *arg);
static void start_on_op(struct control_op *op);
static int meta_job(struct catalog *c, struct catalog_job *job);
static int compare_job(struct catalog *c, struct catalog_job *job);
static int row_job(struct catalog *c, struct catalog_job *job);
static int snapshot_job(struct catalog *c, struct catalog_job *job);
static int first_job(struct catalog *c, struct catalog_job *job);
static int decided_job(struct catalog *c, struct catalog_job *job);
static int adopt_start(struct starting *s, struct id id);

static struct starting *starting_of(struct catalog_job *job)
{
	return container_of(job, struct starting, job);
}

void control_start(struct control *control, struct control_start *start)
{
	struct starting *s = mem_alloc(sizeof(*s));

	CHECK(s); /* a few KiB, at set-up */
	start->err = (struct err){0};
	start->n_volumes = 0;
	start->n_attached = 0;
	start->n_served = 0;
	s->control = control;
	s->start = start;
	s->now = control_now(control);
	s->new_instance = control_new_id(control);
	control->starting = s;
	control->start_time = s->now;
	start_step(s);
}

/* ---- Steps ------------------------------------------------------------------------- */

static void submit(struct starting *s, enum start_state state,
		   int (*run)(struct catalog *c, struct catalog_job *job))
{
	s->state = state;
	s->job.run = run;
	s->job.done = start_on_job;
	s->job.loop = s->control->loop;
	s->job.essential = true;
	catalog_submit(s->control->config.catalog, &s->job);
}

static void start_on_job(struct catalog_job *job)
{
	struct starting *s = starting_of(job);

	if (job->err.code)
		s->err = job->err;
	start_step(s);
}

static void list_more(struct starting *s)
{
	struct store *store = s->control->config.store;

	s->state = START_WAIT_LIST;
	s->ctl.loop = s->control->loop;
	s->ctl.done = start_on_list;
	store->ops->object_list(store, &s->ctl);
}

static void start_on_list(struct store_ctl *ctl)
{
	start_step(container_of(ctl, struct starting, ctl));
}

/* A volume's id has 68 bits; the store may hold objects of other kinds. */
static bool is_volume(struct id id)
{
	return id.hi <= 0xf && !id_is_zero(id);
}

static int take_ids(struct starting *s)
{
	for (uint32_t i = 0; i < s->ctl.n; i++) {
		struct id id = {.hi = s->ctl.segments[i].id, .lo = s->ctl.segments[i].incarnation};

		if (!is_volume(id))
			continue;
		if (s->n_ids == s->room) {
			unsigned room = s->room ? 2 * s->room : 256;
			struct id *wider = mem_realloc(s->ids, room * sizeof(*wider));

			if (!wider)
				return err_set(&s->err, -ENOMEM,
					       "no memory for the list of the store's volumes");
			s->ids = wider;
			s->room = room;
		}
		s->ids[s->n_ids++] = id;
	}
	return 0;
}

/* It is made, and wanted in full. */
static bool is_copying(const struct catalog_volume *v)
{
	return v->state == CATALOG_CREATING && v->full == CATALOG_FULL_COPYING;
}

static int resume_volume(struct starting *s, const struct resume *r)
{
	struct control *c = s->control;

	switch (r->volume->state) {
	case CATALOG_CREATING:
		if (!is_copying(r->volume))
			return create_resume(c, r);
		break;
	case CATALOG_DELETING:
		return delete_resume(c, r);
	case CATALOG_IN_USE:
		if (r->attachment->state == CATALOG_DETACHING)
			return detach_resume(c, r);
		s->start->n_attached++;
		return attach_resume(c, r);
	case CATALOG_AVAILABLE:
	case CATALOG_ERROR:
		break;
	}
	return -ENODATA; /* nothing to do */
}

/* The same machines as ever, from where the row says they were. */
static void resume_row(struct starting *s)
{
	struct resume r = {
	    .volume = &s->volume,
	    .attachment = s->has_attachment ? &s->attachment : NULL,
	    .ended = start_on_task,
	    .arg = s,
	};
	int error;

	s->start->n_volumes++;
	s->only = s->volume.id;
	if (s->volume.state == CATALOG_DELETING)
		r.ended = NULL;
	if ((s->volume.state == CATALOG_AVAILABLE || is_copying(&s->volume)) &&
	    !id_is_zero(s->volume.base))
		hydrator_kick(s->control, s->volume.id);
	s->n_pending += r.ended != NULL;
	error = resume_volume(s, &r);
	if (error && r.ended)
		s->n_pending--;
	if (error == -ENOMEM)
		err_set(&s->err, error, "no memory for the volumes");
	if (s->volume.resize_to == 0 || s->volume.state == CATALOG_DELETING)
		return;
	s->n_pending++;
	if (resize_resume(s->control, &r) < 0)
		s->n_pending--;
}

/* Nobody waits for these. */
static void resume_snapshot(struct starting *s)
{
	s->state = s->err.code ? START_DONE : s->snapshots_end ? START_FIRST : START_SNAPSHOT;
	if (s->state != START_SNAPSHOT)
		return;
	if (s->snapshot.state == CATALOG_SNAPSHOT_PENDING && !s->snapshot.cutting)
		uploader_kick(s->control, s->snapshot.volume);
	else if (snapshot_delete_resume(s->control, &s->snapshot) < 0)
		err_set(&s->err, -ENOMEM, "no memory for the snapshots");
}

static void start_on_task(struct task *t, void *arg)
{
	struct starting *s = arg;

	CHECK(s->n_pending > 0);
	s->n_pending--;
	(void)t;
	/* One that ends while it is being started is nobody's wake-up. */
	if (s->state == START_WAIT_ADOPT || s->state == START_WAIT_ROOM ||
	    s->state == START_WAIT_REST)
		start_step(s);
}

static void make_first(struct starting *s)
{
	s->state = START_WAIT_CREATE;
	s->op = (struct control_op){
	    .kind = CONTROL_VOLUME_CREATE,
	    .done = start_on_op,
	    .who = "volumed",
	    .create = {.size = s->control->config.first_volume_size},
	    .control = s->control,
	};
	control_create(s->control, &s->op);
}

static void attach_only(struct starting *s)
{
	s->state = START_WAIT_ATTACH;
	id_format(s->only, CATALOG_VOLUME_PREFIX, s->only_text);
	s->op = (struct control_op){
	    .kind = CONTROL_ATTACH,
	    .done = start_on_op,
	    .who = "volumed",
	    .attach = {.volume = s->only_text},
	    .control = s->control,
	};
	control_attach(s->control, &s->op);
}

static void start_on_op(struct control_op *op)
{
	struct starting *s = container_of(op, struct starting, op);

	if (op->error.code)
		err_set(&s->err, op->error.err, "the first volume: %s", op->error.text);
	start_step(s);
}

static void on_created(struct starting *s)
{
	id_parse(s->op.result.volumes->id, CATALOG_VOLUME_PREFIX, &s->only);
	control_op_release(&s->op);
	s->start->n_volumes++;
	attach_only(s);
}

/* The store's first volume is made and attached; one that came from before there was a catalog, or
 * whose attaching a crash cut short, is attached. */
static void decide(struct starting *s)
{
	uint64_t size = s->control->config.first_volume_size;

	s->state = START_DECIDE;
	if (s->decided || size == 0)
		s->state = START_DONE;
	else if (s->start->n_volumes == 0)
		make_first(s);
	else if (s->start->n_volumes == 1 && s->start->n_attached == 0)
		attach_only(s);
}

static void start_done(struct starting *s)
{
	struct control *c = s->control;
	struct control_start *start = s->start;

	list_for_each (&c->ports, node)
		start->n_served += list_entry(node, struct port, node)->state == PORT_OPEN;
	start->err = s->err;
	c->started = !s->err.code;
	c->starting = NULL;
	if (c->started)
		sweeper_start(c);
	mem_free(s->ids);
	mem_free(s);
	start->done(start);
}

/* After each gap. */
static void start_go_on(struct starting *s, enum start_state next)
{
	s->state = s->err.code ? START_WAIT_REST : next;
}

/* True: asleep. */
static bool start_list_or_adopt(struct starting *s)
{
	if (s->state == START_WAIT_LIST) {
		if (s->ctl.error)
			err_set(&s->err, s->ctl.error, "listing the volumes of the store: %s",
				strerror(-s->ctl.error));
		else
			take_ids(s);
		start_go_on(s, s->ctl.n > 0 ? START_LIST : START_COMPARE);
		return false;
	}
	if (s->next == s->n_ids) {
		s->state = START_ROW;
		return false;
	}
	s->n_pending++;
	s->state = START_WAIT_ADOPT;
	if (adopt_start(s, s->ids[s->next++]) == 0)
		return true;
	err_set(&s->err, -ENOMEM, "no memory for a volume");
	s->n_pending--;
	return false;
}

/* The first volume's steps end here; each says whether the machine sleeps now. */
static bool start_first_ended(struct starting *s)
{
	if (s->err.code)
		s->state = START_DONE;
	else
		decide(s);
	return s->state == START_WAIT_CREATE || s->state == START_WAIT_ATTACH;
}

static bool start_create_ended(struct starting *s)
{
	if (!s->err.code) {
		on_created(s);
		return true;
	}
	control_op_release(&s->op);
	s->state = START_DONE;
	return false;
}

static void start_attach_ended(struct starting *s)
{
	s->start->n_attached++;
	control_op_release(&s->op);
	s->state = s->err.code ? START_DONE : START_DECIDE;
}

static void row_read(struct starting *s)
{
	if (!s->err.code && !s->rows_end)
		resume_row(s);
	start_go_on(s, s->rows_end ? START_WAIT_REST : START_WAIT_ROOM);
}

/* True: asleep. */
static bool start_snapshots(struct starting *s)
{
	if (s->state == START_WAIT_SNAPSHOT) {
		resume_snapshot(s);
		return false;
	}
	submit(s, START_WAIT_SNAPSHOT, snapshot_job);
	return true;
}

static void start_step(struct starting *s)
{
	for (;;) {
		switch (s->state) {
		case START_META:
			submit(s, START_WAIT_META, meta_job);
			return;
		case START_WAIT_META:
		case START_WAIT_COMPARE:
			start_go_on(s, s->state == START_WAIT_META ? START_LIST : START_ADOPT);
			continue;
		case START_LIST:
			list_more(s);
			return;
		case START_WAIT_LIST:
		case START_ADOPT:
			if (start_list_or_adopt(s))
				return;
			continue;
		case START_COMPARE:
			submit(s, START_WAIT_COMPARE, compare_job);
			return;
		case START_WAIT_ADOPT:
			if (s->n_pending > 0)
				return;
			start_go_on(s, START_ADOPT);
			continue;
		case START_ROW:
			submit(s, START_WAIT_ROW, row_job);
			return;
		case START_WAIT_ROW:
			row_read(s);
			continue;
		case START_WAIT_ROOM:
			if (s->n_pending >= START_TASKS_MAX)
				return;
			s->state = START_ROW;
			continue;
		case START_WAIT_REST:
			if (s->n_pending > 0)
				return;
			s->state = s->err.code ? START_DONE : START_SNAPSHOT;
			continue;
		case START_SNAPSHOT:
		case START_WAIT_SNAPSHOT:
			if (start_snapshots(s))
				return;
			continue;
		case START_FIRST:
			submit(s, START_WAIT_FIRST, first_job);
			return;
		case START_WAIT_FIRST:
		case START_WAIT_CREATE:
			if (s->state == START_WAIT_FIRST ? start_first_ended(s)
							 : start_create_ended(s))
				return;
			continue;
		case START_WAIT_ATTACH:
			start_attach_ended(s);
			continue;
		case START_DECIDE:
			submit(s, START_WAIT_DECIDED, decided_job);
			return;
		case START_WAIT_DECIDED:
		case START_DONE:
			start_done(s);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int add_event(struct catalog *c, struct starting *s, const char *what, struct id volume,
		     const char *detail)
{
	struct catalog_event e = {.time = s->now, .who = "volumed"};

	snprintf(e.what, sizeof(e.what), "%s", what);
	id_format(volume, CATALOG_VOLUME_PREFIX, e.resource);
	snprintf(e.detail, sizeof(e.detail), "%s", detail);
	return catalog_event_add(c, &e, s->control->config.event_keep, &s->job.err);
}

static int check_store(struct catalog *c, struct starting *s)
{
	char ours[ID_TEXT_MAX];
	char theirs[ID_TEXT_MAX];
	int r = catalog_meta_get(c, STORE_UUID, theirs, sizeof(theirs), &s->job.err);

	uuid_format(s->control->config.store->info.uuid, ours);
	if (r == -ENOENT)
		return catalog_meta_set(c, STORE_UUID, ours, &s->job.err);
	if (r == 0 && strcmp(ours, theirs) != 0)
		return err_set(
		    &s->job.err, -EMEDIUMTYPE,
		    "the catalog %s belongs to store %s, but the store here is %s: put the "
		    "right one back, or move the catalog away to begin a new one",
		    catalog_path(c), theirs, ours);
	return r;
}

static int meta_job(struct catalog *c, struct catalog_job *job)
{
	struct starting *s = starting_of(job);
	struct control *control = s->control;
	struct catalog_instance own = {.id = s->new_instance, .created = s->now};
	char text[ID_TEXT_MAX];
	int r = check_store(c, s);

	if (r == 0)
		r = catalog_meta_get(c, OWN_INSTANCE, text, sizeof(text), &job->err);
	if (r == 0) {
		r = id_parse(text, CATALOG_INSTANCE_PREFIX, &control->own_instance);
		return r == 0 ? 0
			      : err_set(&job->err, -EUCLEAN,
					"the catalog %s is damaged: '%s' is no "
					"instance",
					catalog_path(c), text);
	}
	if (r != -ENOENT)
		return r;
	control->own_instance = own.id;
	snprintf(own.name, sizeof(own.name), "%s", control->config.host);
	snprintf(own.host, sizeof(own.host), "%s", control->config.host);
	snprintf(own.state, sizeof(own.state), "running");
	r = catalog_instance_add(c, &own, &job->err);
	if (r == 0)
		r = catalog_meta_set(c, OWN_INSTANCE,
				     id_format(own.id, CATALOG_INSTANCE_PREFIX, text), &job->err);
	return r;
}

/* A volume that the store has lost, though nobody deleted it. */
static int mark_lost(struct catalog *c, struct starting *s, struct catalog_volume *v)
{
	char id[ID_TEXT_MAX];
	int r;

	log_error("volume %s is in the catalog and not in the store: it is lost",
		  id_format(v->id, CATALOG_VOLUME_PREFIX, id));
	if (v->state == CATALOG_IN_USE)
		return 0; /* its attachment says so when it is opened */
	v->state = CATALOG_ERROR;
	snprintf(v->error, sizeof(v->error), "it is not in the store any more");
	r = catalog_volume_put(c, v, &s->job.err);
	return r == 0 ? add_event(c, s, "volumeLost", v->id, v->error) : r;
}

static int compare_job(struct catalog *c, struct catalog_job *job)
{
	struct starting *s = starting_of(job);
	struct catalog_volume v = {0};
	unsigned n = 0;
	unsigned i = 0;
	int r;

	if (s->n_ids > 0)
		qsort(s->ids, s->n_ids, sizeof(s->ids[0]), id_compare);
	/* Both in the order of their ids: what only the store has stays in ids[]. */
	while ((r = catalog_volume_after(c, v.id, &v, &job->err)) == 0) {
		while (i < s->n_ids && id_compare(&s->ids[i], &v.id) < 0)
			s->ids[n++] = s->ids[i++];
		if (i < s->n_ids && id_equal(s->ids[i], v.id))
			i++;
		else if (v.state == CATALOG_AVAILABLE || v.state == CATALOG_IN_USE ||
			 is_copying(&v))
			r = mark_lost(c, s, &v);
		if (r < 0)
			return r;
	}
	while (i < s->n_ids)
		s->ids[n++] = s->ids[i++];
	s->n_ids = n;
	return r == -ENOENT ? 0 : r;
}

static int row_job(struct catalog *c, struct catalog_job *job)
{
	struct starting *s = starting_of(job);
	int r = catalog_volume_after(c, s->cursor, &s->volume, &job->err);

	s->rows_end = r == -ENOENT;
	if (r < 0)
		return s->rows_end ? 0 : r;
	s->has_attachment = s->volume.state == CATALOG_IN_USE;
	if (s->has_attachment)
		r = catalog_attachment_get(c, s->volume.id, &s->attachment, &job->err);
	if (r == 0)
		s->cursor = s->volume.id;
	return r;
}

static int snapshot_job(struct catalog *c, struct catalog_job *job)
{
	struct starting *s = starting_of(job);
	int r = catalog_snapshot_unfinished_after(c, s->snapshot.id, &s->snapshot, &job->err);

	s->snapshots_end = r == -ENOENT;
	return r == -ENOENT ? 0 : r;
}

static int first_job(struct catalog *c, struct catalog_job *job)
{
	struct starting *s = starting_of(job);
	char text[ID_TEXT_MAX];
	int r = catalog_meta_get(c, FIRST_VOLUME_STATE, text, sizeof(text), &job->err);

	s->decided = r == 0;
	return r == -ENOENT ? 0 : r;
}

static int decided_job(struct catalog *c, struct catalog_job *job)
{
	return catalog_meta_set(c, FIRST_VOLUME_STATE, "decided", &job->err);
}

/* ---- Adopting ---------------------------------------------------------------------------------
 *
 *     BEGIN -> WAIT_OPEN -> [WAIT_CLOSE] -> ADD -> WAIT_ADD -> END
 */

enum adopt_state {
	ADOPT_BEGIN,
	ADOPT_WAIT_OPEN,
	ADOPT_WAIT_CLOSE,
	ADOPT_ADD,
	ADOPT_WAIT_ADD,
	ADOPT_END,
};

static void adopt_step(struct task *t);
static int adopt_job(struct catalog *c, struct catalog_job *job);

static int adopt_start(struct starting *s, struct id id)
{
	struct task *t = task_new(s->control, NULL, adopt_step);

	if (!t)
		return -ENOMEM;
	t->volume.created = t->now;
	snprintf(t->volume.zone, sizeof(t->volume.zone), "%s", s->control->config.zone);
	t->ended = start_on_task;
	t->ended_arg = s;
	task_take(t, id);
	return 0;
}

/* True: asleep. */
static bool adopt_opened(struct task *t)
{
	task_opened(t);
	t->state = ADOPT_ADD;
	if (t->act.code == 0) {
		t->volume.state = CATALOG_AVAILABLE;
		t->volume.size = block_size(volume_dev(t->disk->volume));
		task_close(t, ADOPT_WAIT_CLOSE);
		return true;
	}
	t->volume.state = CATALOG_ERROR;
	snprintf(t->volume.error, sizeof(t->volume.error), "%s", t->act.text);
	return false;
}

static void adopt_step(struct task *t)
{
	for (;;) {
		switch ((enum adopt_state)t->state) {
		case ADOPT_BEGIN:
			task_open(t, ADOPT_WAIT_OPEN, true);
			return;
		case ADOPT_WAIT_OPEN:
			if (adopt_opened(t))
				return;
			continue;
		case ADOPT_WAIT_CLOSE:
			task_closed(t);
			t->state = ADOPT_ADD;
			continue;
		case ADOPT_ADD:
			task_job_essential(t, ADOPT_WAIT_ADD, adopt_job);
			return;
		case ADOPT_WAIT_ADD:
			if (!task_job_ok(t))
				log_error("adopting a volume: %s", t->error.text);
			t->state = ADOPT_END;
			continue;
		case ADOPT_END:
			task_end(t);
			return;
		}
	}
}

static int adopt_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r = catalog_volume_add(c, &t->volume, &job->err);

	return r == 0 ? task_event(c, t, "adoptVolume",
				   id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
				   "it was in the store, and not in the catalog")
		      : r;
}
