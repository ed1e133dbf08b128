/* SPDX-License-Identifier: Apache-2.0
 *
 * Looks at everything: the catalog's invariants, then each volume that the catalog or the store
 * knows, one after the other, with its disk held, so that nothing changes it meanwhile.
 *
 *     WAIT_CATALOG -> LIST -> WAIT_LIST -> ... -> NEXT -> WAIT_VOLUME -> NEXT ... -> END
 *
 * and for each volume
 *
 *     BEGIN -> WAIT_ROW -> WAIT_OBJECT -> [WAIT_OPEN -> WAIT_WALK -> WAIT_CLOSE] -> END
 *     BEGIN -> WAIT_ROW -> WAIT_OBJECT -> WAIT_IN_USE -> WALKED -> [WAIT_SCRUB -> SCRUBBED
 *           -> WAIT_BAD] -> LEAVE -> [WAIT_CLOSE] -> END             it is open already
 *
 * A volume that is open, for clients or for what goes on behind answers, is let go while it is
 * walked, and stays open for it. Its blocks are read by a scrub, as anybody may start one. If its
 * space is needed, or it is deleted, it is not walked to the end, and that is said.
 */
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 3

enum check_state {
	CHECK_WAIT_CATALOG,
	CHECK_LIST,
	CHECK_WAIT_LIST,
	CHECK_NEXT,
	CHECK_WAIT_VOLUME,
	CHECK_END,
};

enum look_state {
	LOOK_BEGIN,
	LOOK_WAIT_ROW,
	LOOK_WAIT_OBJECT,
	LOOK_WAIT_OPEN,
	LOOK_WAIT_WALK,
	LOOK_WAIT_CLOSE,
	LOOK_WAIT_IN_USE,
	LOOK_WALKED,
	LOOK_WAIT_SCRUB,
	LOOK_SCRUBBED,
	LOOK_WAIT_BAD,
	LOOK_LEAVE,
	LOOK_END,
};

/* Of one check; t->private of its task and of each volume's. */
struct checking {
	struct task *task;
	struct list link; /* control->checks */
	struct control_check *result;
	struct store_ctl ctl;
	struct id *ids;
	unsigned n_ids;
	unsigned room;
	unsigned next;
	struct task *look; /* at the volume of the moment, or NULL */
	bool out_of_memory;
	bool has_row;
	bool has_object;
	unsigned tries; /* of a walk of a volume in use */
	char id[ID_TEXT_MAX];
};

static void check_step(struct task *t);
static int catalog_job(struct catalog *c, struct catalog_job *job);
static void check_on_list(struct store_ctl *ctl);
static void check_on_look(struct task *look, void *arg);
static void look_step(struct task *t);
static int row_job(struct catalog *c, struct catalog_job *job);
static void look_on_object(struct store_ctl *ctl);

static void say(struct checking *k, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whoever has the check at the moment; never two at a time. */
static void say(struct checking *k, const char *format, ...)
{
	struct control_check *r = k->result;
	struct arena *memory = &k->task->op->memory;
	char text[500];
	va_list args;

	r->n_wrong++;
	if (r->n_findings == CONTROL_CHECK_FINDINGS)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	r->findings[r->n_findings] = arena_text(memory, text);
	if (r->findings[r->n_findings])
		r->n_findings++;
}

static void say_text(void *arg, const char *text)
{
	say(arg, "%s", text);
}

/* From the volume's loop. */
static void say_of_volume(void *arg, const char *text)
{
	struct checking *k = arg;

	say(k, "%s: %s", k->id, text);
}

static int add_id(struct checking *k, struct id id)
{
	if (k->n_ids == k->room) {
		unsigned room = k->room ? 2 * k->room : 256;
		struct id *wider = mem_realloc(k->ids, room * sizeof(*wider));

		if (!wider) {
			k->out_of_memory = true;
			return -ENOMEM;
		}
		k->ids = wider;
		k->room = room;
	}
	k->ids[k->n_ids++] = id;
	return 0;
}

/* ---- The check --------------------------------------------------------------------- */

void control_check(struct control *c, struct control_op *op)
{
	struct task *t = task_new(c, op, check_step);
	struct checking *k = t ? mem_alloc(sizeof(*k)) : NULL;
	struct control_check *r = k ? arena_alloc(&op->memory, sizeof(*r)) : NULL;

	if (r)
		r->findings = arena_calloc(&op->memory, CONTROL_CHECK_FINDINGS, sizeof(char *));
	if (!r || !r->findings) {
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		mem_free(k);
		if (t) {
			t->error = op->error;
			task_end(t);
		} else {
			control_finish(c, op);
		}
		return;
	}
	op->result.checked = r;
	k->task = t;
	k->result = r;
	t->private = k;
	list_add_tail(&c->checks, &k->link);
	task_job(t, CHECK_WAIT_CATALOG, catalog_job);
}

static int catalog_job(struct catalog *c, struct catalog_job *job)
{
	struct checking *k = task_of_job(job)->private;
	struct catalog_volume v = {0};
	uint64_t wrong = 0;
	int r = catalog_check(c, say_text, k, &wrong, &job->err);

	while (r == 0) {
		r = catalog_volume_after(c, v.id, &v, &job->err);
		if (r == 0)
			r = add_id(k, v.id);
	}
	return r == -ENOENT ? 0 : r;
}

static void list_more(struct checking *k)
{
	struct store *store = k->task->control->config.store;

	k->task->state = CHECK_WAIT_LIST;
	k->ctl.loop = k->task->control->loop;
	k->ctl.done = check_on_list;
	store->ops->object_list(store, &k->ctl);
}

static void check_on_list(struct store_ctl *ctl)
{
	struct checking *k = container_of(ctl, struct checking, ctl);

	k->task->step(k->task);
}

static int compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct id));
}

static void remove_doubles(struct checking *k)
{
	unsigned n = 0;

	if (k->n_ids > 0)
		qsort(k->ids, k->n_ids, sizeof(k->ids[0]), compare_ids);
	for (unsigned i = 0; i < k->n_ids; i++)
		if (n == 0 || !id_equal(k->ids[n - 1], k->ids[i]))
			k->ids[n++] = k->ids[i];
	k->n_ids = n;
}

static void take_list(struct checking *k)
{
	struct task *t = k->task;

	if (k->ctl.error) {
		control_fail(&t->error, "InternalError", k->ctl.error,
			     "listing the volumes of the store: %s", strerror(-k->ctl.error));
		t->state = CHECK_END;
		return;
	}
	for (uint32_t i = 0; i < k->ctl.n; i++) {
		struct id id = {.hi = k->ctl.segments[i].id, .lo = k->ctl.segments[i].incarnation};

		if (id.hi <= 0xf)
			add_id(k, id);
	}
	t->state = k->ctl.n > 0 ? CHECK_LIST : CHECK_NEXT;
	if (t->state == CHECK_NEXT)
		remove_doubles(k);
	__atomic_store_n(&t->op->steps, k->n_ids, __ATOMIC_RELAXED);
}

/* True: asleep. */
static bool look_at_next(struct checking *k)
{
	struct task *t = k->task;

	__atomic_store_n(&t->op->steps_done, k->next, __ATOMIC_RELAXED);
	t->state = CHECK_END;
	if (k->next == k->n_ids || t->control->stopping)
		return false;
	k->look = task_new(t->control, NULL, look_step);
	if (!k->look) {
		k->out_of_memory = true;
		return false;
	}
	k->look->private = k;
	k->look->ended = check_on_look;
	k->look->ended_arg = k;
	t->state = CHECK_WAIT_VOLUME;
	id_format(k->ids[k->next], CATALOG_VOLUME_PREFIX, k->id);
	task_take(k->look, k->ids[k->next++]);
	return true;
}

static void check_on_look(struct task *look, void *arg)
{
	struct checking *k = arg;

	(void)look;
	k->look = NULL;
	k->task->step(k->task);
}

static void check_end(struct checking *k)
{
	struct task *t = k->task;

	if (k->out_of_memory && !t->error.code)
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
	if (t->control->stopping && !t->error.code && k->next < k->n_ids)
		control_fail(&t->error, "Unavailable", -ESHUTDOWN, "volumed is stopping");
	list_remove(&k->link);
	mem_free(k->ids);
	mem_free(k);
	task_end(t);
}

void checks_stop(struct control *c)
{
	list_for_each (&c->checks, node) {
		struct checking *k = list_entry(node, struct checking, link);

		if (k->look)
			__atomic_store_n(&k->look->volume_op.stop, true, __ATOMIC_RELAXED);
	}
}

static void check_step(struct task *t)
{
	struct checking *k = t->private;

	for (;;) {
		switch ((enum check_state)t->state) {
		case CHECK_WAIT_CATALOG:
			t->state = task_job_ok(t) ? CHECK_LIST : CHECK_END;
			continue;
		case CHECK_LIST:
			list_more(k);
			return;
		case CHECK_WAIT_LIST:
			take_list(k);
			continue;
		case CHECK_NEXT:
			if (look_at_next(k))
				return;
			continue;
		case CHECK_WAIT_VOLUME:
			t->state = CHECK_NEXT;
			continue;
		case CHECK_END:
			check_end(k);
			return;
		}
	}
}

/* ---- One volume -------------------------------------------------------------------- */

static int row_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct checking *k = t->private;
	int r = task_read_volume(c, t);

	k->has_row = r == 0;
	/* It was deleted after its id was listed. */
	if (r == -ENOENT && t->error.code) {
		r = 0;
		job->err = (struct err){0};
	}
	t->error = (struct control_error){0};
	return r;
}

static void ask_for_object(struct task *t)
{
	struct checking *k = t->private;
	struct store *store = t->control->config.store;

	t->state = LOOK_WAIT_OBJECT;
	k->ctl.loop = t->control->loop;
	k->ctl.done = look_on_object;
	k->ctl.volume = t->disk->id;
	store->ops->object_get(store, &k->ctl);
}

static void look_on_object(struct store_ctl *ctl)
{
	struct checking *k = container_of(ctl, struct checking, ctl);

	k->look->step(k->look);
}

static void compare_attachment(struct task *t)
{
	struct checking *k = t->private;
	struct disk *d = t->disk;

	if (t->attachment.state != CATALOG_ATTACHED)
		say(k, "%s: its attachment is %s, and nobody is at it: detach it", k->id,
		    catalog_attachment_state_name(t->attachment.state));
	else if (!d->port)
		say(k, "%s is attached and not served: %s", k->id, d->open_error.text);
	else if (d->port->generation != t->attachment.generation)
		say(k, "%s is served with another generation than its attachment's", k->id);
}

/* The disk is held: nothing is under way. True: the volume can be walked. */
static bool compare(struct task *t)
{
	struct checking *k = t->private;
	const struct catalog_volume *v = &t->volume;

	k->has_object = k->ctl.error == 0;
	if (k->ctl.error && k->ctl.error != -ENOENT)
		say(k, "%s: its superblock can't be read: %s", k->id, strerror(-k->ctl.error));
	if (!k->has_row) {
		if (k->has_object)
			say(k,
			    "%s is in the store, and not in the catalog: the next start adopts it",
			    k->id);
		return false;
	}
	k->result->n_volumes++;
	if ((v->state == CATALOG_CREATING || v->state == CATALOG_DELETING) && !t->disk->uploader &&
	    !t->disk->hydrator)
		say(k, "%s is %s, and nobody is at it: the next start goes on", k->id,
		    catalog_volume_state_name(v->state));
	if (v->resize_to)
		say(k, "%s is half resized: resize it again, or start volumed again", k->id);
	if ((v->state == CATALOG_AVAILABLE || v->state == CATALOG_IN_USE) &&
	    k->ctl.error == -ENOENT)
		say(k, "%s is in the catalog, and not in the store: it is lost", k->id);
	if (v->state == CATALOG_ERROR)
		say(k, "%s is in state error: %s", k->id, v->error);
	if (v->state == CATALOG_IN_USE)
		compare_attachment(t);
	k->tries = 0;
	return k->has_object && !t->control->stopping &&
	       (t->disk->volume || v->state == CATALOG_AVAILABLE);
}

static void compare_size(struct task *t)
{
	struct checking *k = t->private;
	uint64_t size = block_size(volume_dev(t->disk->volume));

	if (size != t->volume.size)
		say(k, "%s has %llu bytes in the catalog and %llu in its log", k->id,
		    (unsigned long long)t->volume.size, (unsigned long long)size);
}

static void walk(struct task *t)
{
	struct checking *k = t->private;

	compare_size(t);
	t->home = t->disk->home;
	t->volume_op = (struct volume_op){
	    .volume = t->disk->volume,
	    .counters_only = !k->task->op->check.deep,
	    .say = say_of_volume,
	    .arg = k,
	};
	task_engine(t, LOOK_WAIT_WALK, volume_check);
}

/* The walk was given up, for a reason that is no finding. */
static bool was_given_up(const struct task *t)
{
	return t->act.code == -EAGAIN || t->act.code == -EBUSY || t->act.code == -ECANCELED ||
	       t->act.code == -ESHUTDOWN;
}

static void take_result(struct task *t, const char *what)
{
	struct checking *k = t->private;

	if (was_given_up(t))
		k->result->n_skipped++;
	else if (t->act.code)
		say(k, "%s can't be %s: %s", k->id, what, t->act.text);
}

/* ---- One in use -------------------------------------------------------------------- */

/* The disk goes to whoever waits for it. */
static void walk_in_use(struct task *t)
{
	t->home = t->disk->home;
	t->volume_op = (struct volume_op){
	    .volume = t->disk->volume, .in_use = true, .say = say_of_volume, .arg = t->private};
	task_engine(t, LOOK_WAIT_IN_USE, volume_check);
	task_release(t);
}

static void begin_in_use(struct task *t)
{
	struct checking *k = t->private;
	enum catalog_volume_state state = t->volume.state;

	if (t->disk->check) {
		k->result->n_skipped++;
		t->state = LOOK_END;
		look_step(t);
		return;
	}
	if ((state == CATALOG_AVAILABLE || state == CATALOG_IN_USE) && !t->volume.resize_to)
		compare_size(t);
	t->disk->check = k;
	walk_in_use(t);
}

static bool is_open(const struct task *t)
{
	return t->disk->volume && !t->control->stopping;
}

/* True: asleep. */
static bool walked(struct task *t)
{
	struct checking *k = t->private;

	t->state = LOOK_LEAVE;
	if (t->act.code == -EAGAIN && is_open(t) && ++k->tries < TRIES) {
		walk_in_use(t);
		return true;
	}
	take_result(t, "checked");
	if (t->act.code)
		return false;
	k->result->n_in_use++;
	if (!k->task->op->check.deep || !is_open(t) || t->volume.state == CATALOG_DELETING)
		return false;
	if (scrub_join(t, LOOK_WAIT_SCRUB))
		return true;
	k->out_of_memory = true;
	return false;
}

/* As volume_op: tells what is known to be bad. */
static void name_bad(struct volume_op *op)
{
	struct volume_bad places[VOLUME_BAD_MAX];
	bool more;
	unsigned n = volume_bad(op->volume, places, &more);
	char text[200];

	for (unsigned i = 0; i < n; i++) {
		snprintf(text, sizeof(text), "%s %llu to %llu: %s",
			 places[i].kind == VOLUME_BAD_ROOT ? "root or usage pages" : "blocks",
			 (unsigned long long)places[i].lba,
			 (unsigned long long)(places[i].lba + places[i].blocks - 1), places[i].why);
		op->say(op->arg, text);
	}
	if (more)
		op->say(op->arg, "there are more bad blocks than are listed");
	op->done(op);
}

/* True: asleep. */
static bool scrubbed(struct task *t)
{
	t->state = LOOK_LEAVE;
	take_result(t, "read");
	if (t->act.code || !is_open(t))
		return false;
	t->home = t->disk->home;
	t->volume_op =
	    (struct volume_op){.volume = t->disk->volume, .say = say_of_volume, .arg = t->private};
	task_engine(t, LOOK_WAIT_BAD, name_bad);
	return true;
}

/* Nobody else may need the volume any more. True: asleep. */
static bool leave(struct task *t)
{
	struct disk *d = t->disk;

	d->check = NULL;
	t->state = LOOK_END;
	if (d->volume && !disk_is_needed(d) && !t->control->stopping)
		task_close(t, LOOK_WAIT_CLOSE);
	return t->state == LOOK_WAIT_CLOSE;
}

/* True: asleep. */
static bool step_in_use(struct task *t)
{
	switch ((int)t->state) {
	case LOOK_WAIT_IN_USE:
		task_retake(t, LOOK_WALKED);
		return true;
	case LOOK_WALKED:
		return walked(t);
	case LOOK_WAIT_SCRUB:
		task_retake(t, LOOK_SCRUBBED);
		return true;
	case LOOK_SCRUBBED:
		return scrubbed(t);
	case LOOK_WAIT_BAD:
		t->state = LOOK_LEAVE;
		return false;
	default:
		return leave(t);
	}
}

/* ---- Its steps --------------------------------------------------------------------- */

static void look_step(struct task *t)
{
	struct checking *k = t->private;

	for (;;) {
		switch ((enum look_state)t->state) {
		case LOOK_BEGIN:
			task_job(t, LOOK_WAIT_ROW, row_job);
			return;
		case LOOK_WAIT_ROW:
			if (task_job_ok(t)) {
				ask_for_object(t);
				return;
			}
			say(k, "%s: %s", k->id, t->error.text);
			t->state = LOOK_END;
			continue;
		case LOOK_WAIT_OBJECT:
			t->state = LOOK_END;
			if (!compare(t))
				continue;
			if (t->disk->volume)
				begin_in_use(t);
			else
				task_open(t, LOOK_WAIT_OPEN, true);
			return;
		case LOOK_WAIT_IN_USE:
		case LOOK_WALKED:
		case LOOK_WAIT_SCRUB:
		case LOOK_SCRUBBED:
		case LOOK_WAIT_BAD:
		case LOOK_LEAVE:
			if (step_in_use(t))
				return;
			continue;
		case LOOK_WAIT_OPEN:
			task_opened(t);
			t->state = LOOK_END;
			if (t->act.code == 0 && t->control->stopping) {
				task_close(t, LOOK_WAIT_CLOSE);
				return;
			}
			if (t->act.code == 0) {
				walk(t);
				return;
			}
			say(k, "%s can't be opened: %s", k->id, t->act.text);
			continue;
		case LOOK_WAIT_WALK:
			take_result(t, "checked");
			task_close(t, LOOK_WAIT_CLOSE);
			return;
		case LOOK_WAIT_CLOSE:
			task_closed(t);
			t->state = LOOK_END;
			continue;
		case LOOK_END:
			task_end(t);
			return;
		}
	}
}
