/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of snapshots: what the repository has, which is the region's, together with this zone's
 * rows, which know of pending ones and of errors. Both come in the order of their ids.
 *
 *     REPOSITORY -> WAIT_REPOSITORY -> MERGE -> WAIT_MERGE -> REPOSITORY ... -> END
 *
 * With ids, each is a page of its own.
 */
#include "base/mem.h"
#include "control/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DAMAGED "its object in the repository is damaged"

#define PAGE 32 /* objects that are read at a time; 25 KiB each */

enum list_state { LIST_REPOSITORY, LIST_WAIT_REPOSITORY, LIST_WAIT_MERGE, LIST_END };

/* t->private. */
struct snapshot_listing {
	struct task *task;
	struct snap_list page;
	struct repository_op get;
	struct id *ids; /* asked for */
	unsigned at;    /* of them */
	struct id after;
	bool repository_end;
	bool ended;
	unsigned max;
	struct snap_info infos[PAGE];
};

static void list_step(struct task *t);
static void list_on_page(struct snap_list *page);
static void list_on_get(struct repository_op *op);
static int merge_job(struct catalog *c, struct catalog_job *job);

/* ---- One ------------------------------------------------------------------------------------- */

static const char *id_or_empty(struct arena *memory, struct id id, const char *prefix)
{
	char text[ID_TEXT_MAX];

	return id_is_zero(id) ? "" : arena_text(memory, id_format(id, prefix, text));
}

/* The next of the strings, and 0 at the end. */
static const char *next_label(const struct snap_info *info, uint32_t *at)
{
	const char *text = info->labels + *at;

	if (*at >= info->labels_len)
		return NULL;
	*at += (uint32_t)strlen(text) + 1;
	return text;
}

static int describe_labels(struct arena *memory, const struct snap_info *info,
			   struct control_snapshot *s, struct err *err)
{
	uint32_t at = 0;
	const char *text = next_label(info, &at);

	s->tags = arena_calloc(memory, CONTROL_TAGS_MAX, sizeof(*s->tags));
	s->description = arena_text(memory, text);
	while (s->tags && s->description && s->n_tags < CONTROL_TAGS_MAX) {
		struct control_tag *tag = &s->tags[s->n_tags];
		const char *key = next_label(info, &at);
		const char *value = key ? next_label(info, &at) : NULL;

		if (!value)
			return 0;
		tag->key = arena_text(memory, key);
		tag->value = arena_text(memory, value);
		if (!tag->key || !tag->value)
			break;
		if (strcmp(key, "Name") == 0)
			s->name = tag->value;
		s->n_tags++;
	}
	return s->n_tags == CONTROL_TAGS_MAX ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static const char *state_of(const struct snap_info *info)
{
	switch (info->state) {
	case SNAP_PENDING:
		return "pending";
	case SNAP_COMPLETED:
		return "completed";
	case SNAP_DELETED:
		return "deleting";
	}
	return "error"; /* its object is damaged */
}

static void take_row(struct arena *memory, const struct catalog_snapshot *row,
		     struct control_snapshot *s)
{
	s->id = id_or_empty(memory, row->id, CATALOG_SNAPSHOT_PREFIX);
	s->volume = id_or_empty(memory, row->volume, CATALOG_VOLUME_PREFIX);
	s->parent = id_or_empty(memory, row->parent, CATALOG_SNAPSHOT_PREFIX);
	s->state = catalog_snapshot_state_name(row->state);
	s->size = row->size;
	s->start_time = row->started;
	s->completion_time = row->completed;
	s->stored_bytes = row->stored;
	s->error_text = arena_text(memory, row->error);
	s->description = arena_text(memory, row->description);
}

static void take_info(struct arena *memory, const struct snap_info *info,
		      struct control_snapshot *s)
{
	s->id = id_or_empty(memory, info->id, CATALOG_SNAPSHOT_PREFIX);
	s->volume = id_or_empty(memory, info->volume, CATALOG_VOLUME_PREFIX);
	s->parent = id_or_empty(memory, info->parent, CATALOG_SNAPSHOT_PREFIX);
	s->state = state_of(info);
	s->size = info->size;
	s->start_time = info->started;
	s->completion_time = info->completed;
	s->stored_bytes = info->stored;
	s->error_text = info->state ? "" : DAMAGED;
}

int snapshot_describe(struct catalog *c, struct arena *memory, const struct catalog_snapshot *row,
		      const struct snap_info *info, struct control_snapshot *ret_s, struct err *err)
{
	int r;

	*ret_s = (struct control_snapshot){.name = "", .description = ""};
	if (row)
		take_row(memory, row, ret_s);
	else
		take_info(memory, info, ret_s);
	if (!ret_s->id || !ret_s->volume || !ret_s->parent || !ret_s->error_text ||
	    !ret_s->description)
		return err_set(err, -ENOMEM, "out of memory");
	/* What is completed is in the repository, whole, or not at all. */
	if (row && info && info->state == 0 && row->state == CATALOG_SNAPSHOT_COMPLETED) {
		ret_s->state = state_of(info);
		ret_s->error_text = DAMAGED;
	}
	if (info)
		ret_s->full_bytes = info->blocks * SNAP_BLOCK;
	ret_s->progress = strcmp(ret_s->state, "completed") == 0 ? 100 : 0;
	if (row)
		r = describe_tags(c, memory, ret_s->id, &ret_s->tags, &ret_s->n_tags, &ret_s->name,
				  err);
	else
		r = describe_labels(memory, info, ret_s, err);
	return r;
}

int snapshot_result(struct catalog *c, struct task *t, const struct catalog_snapshot *row)
{
	struct control_op *op = t->op;

	if (!op)
		return 0;
	op->result.snapshots = arena_alloc(&op->memory, sizeof(*op->result.snapshots));
	op->n_items = 1;
	if (!op->result.snapshots)
		return err_set(&t->job.err, -ENOMEM, "out of memory");
	return snapshot_describe(c, &op->memory, row, NULL, op->result.snapshots, &t->job.err);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static int parse_ids(struct control_op *op, struct snapshot_listing *l)
{
	int r = 0;

	if (op->list.n_ids > 0 && (op->list.max_results > 0 || op->list.next_token))
		return control_fail(
		    &op->error, "InvalidParameterCombination", -EINVAL,
		    "ids cannot be used with the parameter maxResults or nextToken");
	if (op->list.n_ids > CONTROL_PAGE_MAX || op->list.max_results > CONTROL_PAGE_MAX)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "at most %d of them in one call", CONTROL_PAGE_MAX);
	l->ids = arena_calloc(&op->memory, op->list.n_ids + 1, sizeof(*l->ids));
	if (!l->ids)
		return control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	for (unsigned i = 0; i < op->list.n_ids && r == 0; i++)
		r = args_snapshot_id(op->list.ids[i], &l->ids[i], &op->error);
	if (r == 0 && op->list.next_token &&
	    id_parse(op->list.next_token, CATALOG_SNAPSHOT_PREFIX, &l->after) < 0)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "Unable to parse pagination token");
	return r == 0 ? filter_check(op, &op->error) : r;
}

void control_snapshot_list(struct control *c, struct control_op *op)
{
	struct snapshot_listing *l = mem_alloc(sizeof(*l));
	struct task *t = NULL;

	if (l && parse_ids(op, l) == 0) {
		l->max = op->list.n_ids         ? op->list.n_ids
			 : op->list.max_results ? op->list.max_results
						: CONTROL_PAGE_MAX;
		op->result.snapshots =
		    arena_calloc(&op->memory, l->max + 1, sizeof(*op->result.snapshots));
		t = op->result.snapshots ? task_new(c, op, list_step) : NULL;
	}
	if (!t) {
		if (!op->error.code)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		mem_free(l);
		control_finish(c, op);
		return;
	}
	l->task = t;
	t->private = l;
	list_step(t);
}

/* True: asleep. */
static bool ask_repository(struct snapshot_listing *l)
{
	struct task *t = l->task;
	struct control *c = t->control;

	t->state = LIST_WAIT_REPOSITORY;
	l->page = (struct snap_list){
	    .done = list_on_page, .after = l->after, .infos = l->infos, .max = PAGE};
	l->get = (struct repository_op){.done = list_on_get, .error = -ENOENT};
	if (!c->config.repository)
		return false; /* what the catalog knows is something */
	if (t->op->list.n_ids > 0)
		snap_get(c->config.repository, c->loop, &l->get, l->ids[l->at], l->infos);
	else
		snap_list_page(c->config.repository, c->loop, &l->page);
	return true;
}

static void list_on_page(struct snap_list *page)
{
	struct task *t = container_of(page, struct snapshot_listing, page)->task;

	t->step(t);
}

static void list_on_get(struct repository_op *op)
{
	struct task *t = container_of(op, struct snapshot_listing, get)->task;

	t->step(t);
}

static void merge(struct snapshot_listing *l)
{
	struct task *t = l->task;

	if (t->op->list.n_ids > 0) {
		l->page.n = l->get.error == 0 || l->get.error == -EBADMSG;
		if (l->get.error == -EBADMSG)
			l->infos[0] = (struct snap_info){.id = l->ids[l->at]};
		else if (l->get.error && l->get.error != -ENOENT)
			control_fail_from(&t->error, &l->get.err);
	} else if (l->page.error) {
		control_fail_from(&t->error, &l->page.err);
	}
	l->repository_end = l->page.n == 0;
	t->state = LIST_END;
	if (!t->error.code)
		task_job(t, LIST_WAIT_MERGE, merge_job);
}

static void list_end(struct snapshot_listing *l)
{
	struct task *t = l->task;
	struct control_op *op = t->op;

	for (unsigned i = 0; i < op->n_items; i++) {
		struct control_snapshot *s = &op->result.snapshots[i];
		struct disk *d;
		struct id volume;
		struct id id;
		uint64_t done;
		uint64_t all;

		if (id_parse(s->id, CATALOG_SNAPSHOT_PREFIX, &id) < 0)
			continue;
		if (snapshot_work_describe(t->control, &op->memory, id, s) < 0)
			control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
		if (id_parse(s->volume, CATALOG_VOLUME_PREFIX, &volume) < 0)
			continue;
		d = disk_find(t->control, volume);
		if (d && uploader_progress(d, id, &done, &all) && all > 0)
			s->progress = (unsigned)(done * 99 / all);
	}
	mem_free(l);
	task_end(t);
}

static void list_step(struct task *t)
{
	struct snapshot_listing *l = t->private;

	for (;;) {
		switch ((enum list_state)t->state) {
		case LIST_REPOSITORY:
			if (ask_repository(l))
				return;
			continue;
		case LIST_WAIT_REPOSITORY:
			merge(l);
			if (t->state == LIST_WAIT_MERGE)
				return;
			continue;
		case LIST_WAIT_MERGE:
			t->state = task_job_ok(t) && !l->ended ? LIST_REPOSITORY : LIST_END;
			continue;
		case LIST_END:
			list_end(l);
			return;
		}
	}
}

/* ---- The job --------------------------------------------------------------------------------- */

static int add(struct catalog *c, struct snapshot_listing *l, const struct catalog_snapshot *row,
	       const struct snap_info *info)
{
	struct task *t = l->task;
	struct control_op *op = t->op;
	struct control_snapshot *s = &op->result.snapshots[op->n_items];
	int r;

	l->after = row ? row->id : info->id;
	if (row && row->cutting)
		return 0; /* it may come to nothing */
	/* Another daemon has deleted it; or it is on its way out. */
	if (row && !info && row->state == CATALOG_SNAPSHOT_COMPLETED &&
	    t->control->config.repository)
		return 0;
	r = snapshot_describe(c, &op->memory, row, info, s, &t->job.err);
	if (r == 0 && filter_snapshot(&op->list, s))
		op->n_items++;
	return r;
}

static int merge_one(struct catalog *c, struct snapshot_listing *l)
{
	struct task *t = l->task;
	const char *text = t->op->list.ids[l->at];
	struct catalog_snapshot row;
	struct err err;
	unsigned before = t->op->n_items;
	int r = catalog_snapshot_get(c, l->ids[l->at], &row, &err);

	if (r < 0 && r != -ENOENT)
		return err_set(&t->job.err, r, "%s", err.text);
	if (r == 0 || l->page.n > 0)
		r = add(c, l, r == 0 ? &row : NULL, l->page.n > 0 ? l->infos : NULL);
	if (r == -ENOENT || (r == 0 && t->op->n_items == before && t->op->list.n_filters == 0))
		return control_fail(&t->error, "InvalidSnapshot.NotFound", -ENOENT,
				    "The snapshot '%s' does not exist.", text);
	l->at++;
	l->ended = l->at == t->op->list.n_ids;
	return r;
}

static int merge_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct snapshot_listing *l = t->private;
	struct catalog_snapshot row;
	bool has_row = false;
	unsigned i = 0;
	char id[ID_TEXT_MAX];
	int r;

	if (t->op->list.n_ids > 0)
		return merge_one(c, l);
	r = catalog_snapshot_after(c, l->after, &row, &job->err);
	while (r == 0 || r == -ENOENT) {
		int order;

		has_row = r == 0;
		if ((i == l->page.n && !l->repository_end) || (i == l->page.n && !has_row))
			break;
		if (t->op->n_items == l->max)
			break;
		order = i == l->page.n ? -1 : !has_row ? 1 : id_compare(&row.id, &l->infos[i].id);
		r = add(c, l, order <= 0 ? &row : NULL, order >= 0 ? &l->infos[i] : NULL);
		i += order >= 0;
		if (r == 0)
			r = catalog_snapshot_after(c, l->after, &row, &job->err);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	if (t->op->n_items == l->max && (i < l->page.n || has_row || !l->repository_end)) {
		l->ended = true;
		t->op->next_token =
		    arena_text(&t->op->memory, id_format(l->after, CATALOG_SNAPSHOT_PREFIX, id));
		return t->op->next_token ? 0 : err_set(&job->err, -ENOMEM, "out of memory");
	}
	l->ended = l->repository_end;
	return 0;
}
