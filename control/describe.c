/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows as results; lists, page by page; one volume with its counters.
 */
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum describe_state { DESCRIBE_BEGIN, DESCRIBE_WAIT_JOB, DESCRIBE_WAIT_STATS, DESCRIBE_END };

/* Rows that one page looks at, so that a filter that matches little does not keep the catalog's
 * thread for long: such a page ends early, with a token. */
#define PAGE_ROWS_MAX 20000

static void list_step(struct task *t);
static int list_job(struct catalog *c, struct catalog_job *job);
static void show_step(struct task *t);
static int show_job(struct catalog *c, struct catalog_job *job);
static void stats_on_home(struct io_msg *msg);
static void stats_on_return(struct io_msg *msg);

/* ---- Rows -------------------------------------------------------------------------- */

/* A path in a URI's query: what is not plain is percent-encoded. */
static char *encode_path(struct arena *memory, const char *path)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "/-._~";
	char *text = arena_alloc(memory, 3 * strlen(path) + 1);
	char *to = text;

	for (; text && *path; path++) {
		if (strchr(plain, *path))
			*to++ = *path;
		else
			to += snprintf(to, 4, "%%%02X", (unsigned char)*path);
	}
	return text;
}

static bool make_uris(struct control *control, struct arena *memory, struct control_attachment *a)
{
	const struct control_config *config = &control->config;

	if (config->nbd_socket) {
		char *path = encode_path(memory, config->nbd_socket);

		a->uri =
		    path ? arena_printf(memory, "nbd+unix:///%s?socket=%s", a->export_name, path)
			 : NULL;
		if (!a->uri)
			return false;
	}
	if (config->nbd_tcp) {
		a->tcp_uri = arena_printf(memory, "nbd://%s/%s", config->nbd_tcp, a->export_name);
		if (!a->tcp_uri)
			return false;
	}
	return true;
}

static char *id_text(struct arena *memory, struct id id, const char *prefix)
{
	char text[ID_TEXT_MAX];

	return arena_text(memory, id_format(id, prefix, text));
}

int describe_attachment(struct control *control, struct arena *memory,
			const struct catalog_attachment *a, struct control_attachment *ret_a)
{
	*ret_a = (struct control_attachment){
	    .id = id_text(memory, a->id, CATALOG_ATTACHMENT_PREFIX),
	    .volume = id_text(memory, a->volume, CATALOG_VOLUME_PREFIX),
	    .instance = id_text(memory, a->instance, CATALOG_INSTANCE_PREFIX),
	    .device = arena_text(memory, a->device),
	    .state = catalog_attachment_state_name(a->state),
	    .generation = a->generation,
	    .attach_time = a->created,
	    .delete_on_termination = a->delete_on_termination,
	    .export_name = arena_text(memory, a->export_name),
	    .error_text = "",
	};
	if (ret_a->id && ret_a->volume && ret_a->instance && ret_a->device && ret_a->export_name &&
	    make_uris(control, memory, ret_a))
		return 0;
	return -ENOMEM;
}

int describe_tags(struct catalog *c, struct arena *memory, const char *resource,
		  struct control_tag **ret_tags, unsigned *ret_n, const char **ret_name,
		  struct err *err)
{
	struct control_tag *tags = arena_calloc(memory, CONTROL_TAGS_MAX, sizeof(*tags));
	struct catalog_tag tag;
	char after[CATALOG_TAG_KEY_MAX + 1] = "";
	unsigned n = 0;
	int r = 0;

	if (!tags)
		return err_set(err, -ENOMEM, "out of memory");
	while (n < CONTROL_TAGS_MAX) {
		struct control_tag *to = &tags[n];

		r = catalog_tag_after(c, resource, after, &tag, err);
		if (r < 0)
			break;
		to->key = arena_text(memory, tag.key);
		to->value = arena_text(memory, tag.value);
		if (!to->key || !to->value)
			return err_set(err, -ENOMEM, "out of memory");
		if (strcmp(tag.key, "Name") == 0)
			*ret_name = to->value;
		n++;
		memcpy(after, tag.key, sizeof(after));
	}
	*ret_tags = tags;
	*ret_n = n;
	return r == -ENOENT ? 0 : r;
}

int describe_volume(struct catalog *c, struct control *control, struct arena *memory,
		    const struct catalog_volume *v, struct control_volume *ret_v, struct err *err)
{
	struct catalog_attachment a;
	int r;

	*ret_v = (struct control_volume){
	    .id = id_text(memory, v->id, CATALOG_VOLUME_PREFIX),
	    .name = "",
	    .state = catalog_volume_state_name(v->state),
	    .zone = arena_text(memory, v->zone),
	    .size = v->size,
	    .create_time = v->created,
	    .scrub_time = v->scrubbed,
	    .scrub_bad = v->scrub_bad,
	    .error_text = arena_text(memory, v->error),
	    .snapshot =
		id_is_zero(v->base) ? "" : id_text(memory, v->base, CATALOG_SNAPSHOT_PREFIX),
	    .health = "",
	    .io_performance = "not-applicable",
	};
	if (!ret_v->id || !ret_v->zone || !ret_v->error_text || !ret_v->snapshot)
		return err_set(err, -ENOMEM, "out of memory");
	r = describe_tags(c, memory, ret_v->id, &ret_v->tags, &ret_v->n_tags, &ret_v->name, err);
	if (r < 0 || v->state != CATALOG_IN_USE)
		return r;
	r = catalog_attachment_get(c, v->id, &a, err);
	if (r < 0)
		return r;
	ret_v->attachments = arena_alloc(memory, sizeof(*ret_v->attachments));
	if (!ret_v->attachments || describe_attachment(control, memory, &a, ret_v->attachments) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	ret_v->n_attachments = 1;
	return 0;
}

static unsigned count_attachments(struct catalog *c, struct id instance, int *ret_error,
				  struct err *err)
{
	struct catalog_attachment a = {0};
	char after[CATALOG_DEVICE_MAX + 1] = "";
	unsigned n = 0;
	int r;

	while ((r = catalog_attachment_after(c, instance, after, &a, err)) == 0) {
		memcpy(after, a.device, sizeof(after));
		n++;
	}
	*ret_error = r == -ENOENT ? 0 : r;
	return n;
}

int describe_instance(struct catalog *c, struct control *control, struct arena *memory,
		      const struct catalog_instance *i, struct control_instance *ret_i,
		      struct err *err)
{
	struct catalog_attachment a = {0};
	char after[CATALOG_DEVICE_MAX + 1] = "";
	int r = 0;
	unsigned n = count_attachments(c, i->id, &r, err);

	*ret_i = (struct control_instance){
	    .id = id_text(memory, i->id, CATALOG_INSTANCE_PREFIX),
	    .name = arena_text(memory, i->name),
	    .host = arena_text(memory, i->host),
	    .state = arena_text(memory, i->state),
	    .create_time = i->created,
	    .own = id_equal(i->id, control->own_instance),
	    .attachments = arena_calloc(memory, n + 1, sizeof(*ret_i->attachments)),
	};
	if (!ret_i->id || !ret_i->name || !ret_i->host || !ret_i->state || !ret_i->attachments)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned k = 0; k < n && r == 0; k++) {
		r = catalog_attachment_after(c, i->id, after, &a, err);
		memcpy(after, a.device, sizeof(after));
		if (r == 0 && describe_attachment(control, memory, &a, &ret_i->attachments[k]) < 0)
			r = err_set(err, -ENOMEM, "out of memory");
	}
	ret_i->n_attachments = n;
	return r;
}

void describe_live(struct control *c, struct arena *memory, struct control_attachment *a)
{
	struct stall stall;
	char *text;
	struct disk *d;
	struct id id;

	if (id_parse(a->volume, CATALOG_VOLUME_PREFIX, &id) < 0)
		return;
	d = disk_find(c, id);
	if (d && d->port)
		a->connections = d->port->n_claims;
	if (!d || strcmp(a->state, "attached") == 0 || !stall_look(d, &stall))
		return;
	text = arena_text(memory, stall.text);
	if (text)
		a->error_text = text;
}

/* ---- Lists ------------------------------------------------------------------------- */

struct listing {
	struct task *task;
	struct catalog *catalog;
	const struct control_list_args *args;
	struct arena *memory;
	unsigned max;
	bool ended;
	size_t item_size;
	/* Reads the next row into `item` (0; -ENOENT at the end), and whether the filters
	 * take it. */
	int (*next)(struct listing *l, void *item, bool *ret_matches);
	struct id after;
	uint64_t before; /* events */
};

static int next_volume(struct listing *l, void *item, bool *ret_matches)
{
	struct catalog_volume v;
	struct err *err = &l->task->job.err;
	int r = catalog_volume_after(l->catalog, l->after, &v, err);

	if (r < 0)
		return r;
	l->after = v.id;
	r = describe_volume(l->catalog, l->task->control, l->memory, &v, item, err);
	*ret_matches = r == 0 && filter_volume(l->args, item);
	return r;
}

static int next_instance(struct listing *l, void *item, bool *ret_matches)
{
	struct catalog_instance i;
	struct err *err = &l->task->job.err;
	int r = catalog_instance_after(l->catalog, l->after, &i, err);

	if (r < 0)
		return r;
	l->after = i.id;
	r = describe_instance(l->catalog, l->task->control, l->memory, &i, item, err);
	*ret_matches = r == 0 && filter_instance(l->args, item);
	return r;
}

static int next_event(struct listing *l, void *item, bool *ret_matches)
{
	struct control_event *to = item;
	struct catalog_event e;
	int r = catalog_event_before(l->catalog, l->before, &e, &l->task->job.err);

	if (r < 0)
		return r;
	l->before = e.sequence;
	*to = (struct control_event){
	    .sequence = e.sequence,
	    .time = e.time,
	    .who = arena_text(l->memory, e.who),
	    .what = arena_text(l->memory, e.what),
	    .resource = arena_text(l->memory, e.resource),
	    .detail = arena_text(l->memory, e.detail),
	};
	if (!to->who || !to->what || !to->resource || !to->detail)
		return err_set(&l->task->job.err, -ENOMEM, "out of memory");
	*ret_matches = filter_event(l->args, to);
	return 0;
}

/* Fills items[] up to `max` with what matches. */
static int fill_page(struct listing *l, uint8_t *items, unsigned *ret_n)
{
	unsigned n = 0;
	int r = 0;

	for (unsigned rows = 0; n < l->max && rows < PAGE_ROWS_MAX; rows++) {
		bool matches = false;

		r = l->next(l, items + n * l->item_size, &matches);
		if (r < 0)
			break;
		n += matches;
	}
	l->ended = r == -ENOENT;
	*ret_n = n;
	return l->ended ? 0 : r;
}

static bool is_of_volumes(const struct control_op *op)
{
	return op->kind == CONTROL_VOLUME_LIST;
}

/* Rows by the ids that were given; an unknown one fails the call. */
static int fill_ids(struct listing *l, struct control_op *op, uint8_t *items, unsigned *ret_n)
{
	struct task *t = l->task;
	unsigned n = 0;

	for (unsigned i = 0; i < op->list.n_ids; i++) {
		void *item = items + n * l->item_size;
		struct id id;
		int r = is_of_volumes(op) ? args_volume_id(op->list.ids[i], &id, &t->error)
					  : args_instance_id(op->list.ids[i], &id, &t->error);

		if (r < 0)
			return r;
		if (is_of_volumes(op)) {
			r = catalog_volume_get(l->catalog, id, &t->volume, &t->job.err);
			if (r == -ENOENT)
				return control_fail(&t->error, "InvalidVolume.NotFound", r,
						    "The volume '%s' does not exist.",
						    op->list.ids[i]);
			if (r == 0)
				r = describe_volume(l->catalog, t->control, l->memory, &t->volume,
						    item, &t->job.err);
			n += r == 0 && filter_volume(l->args, item);
		} else {
			r = catalog_instance_get(l->catalog, id, &t->instance, &t->job.err);
			if (r == -ENOENT)
				return control_fail(&t->error, "InvalidInstanceID.NotFound", r,
						    "The instance ID '%s' does not exist",
						    op->list.ids[i]);
			if (r == 0)
				r = describe_instance(l->catalog, t->control, l->memory,
						      &t->instance, item, &t->job.err);
			n += r == 0 && filter_instance(l->args, item);
		}
		if (r < 0)
			return r;
	}
	l->ended = true;
	*ret_n = n;
	return 0;
}

/* ---- Pages ------------------------------------------------------------------------------------
 * A token is the last id or sequence that was looked at.
 */

static int take_token(struct control_op *op, struct listing *l, struct control_error *error)
{
	const char *token = op->list.next_token;
	char *end = NULL;
	int r = 0;

	l->before = UINT64_MAX;
	if (!token)
		return 0;
	if (op->kind == CONTROL_EVENT_LIST) {
		errno = 0;
		l->before = strtoull(token, &end, 10);
		r = errno || *end || token[0] < '0' || token[0] > '9' ? -EINVAL : 0;
	} else {
		r = id_parse(token,
			     is_of_volumes(op) ? CATALOG_VOLUME_PREFIX : CATALOG_INSTANCE_PREFIX,
			     &l->after);
	}
	if (r < 0)
		return control_fail(error, "InvalidParameterValue", r,
				    "Unable to parse pagination token");
	return 0;
}

static int give_token(struct control_op *op, struct listing *l, struct err *err)
{
	if (l->ended)
		return 0;
	if (op->kind == CONTROL_EVENT_LIST)
		op->next_token = arena_printf(l->memory, "%" PRIu64, l->before);
	else
		op->next_token =
		    id_text(l->memory, l->after,
			    is_of_volumes(op) ? CATALOG_VOLUME_PREFIX : CATALOG_INSTANCE_PREFIX);
	return op->next_token ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int list_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct control_op *op = t->op;
	struct listing l = {
	    .task = t,
	    .catalog = c,
	    .args = &op->list,
	    .memory = &op->memory,
	    .max = op->list.max_results ? op->list.max_results : CONTROL_PAGE_MAX,
	};
	uint8_t *items;
	int r = take_token(op, &l, &t->error);

	if (r < 0)
		return r;
	if (op->kind == CONTROL_VOLUME_LIST) {
		l.next = next_volume;
		l.item_size = sizeof(struct control_volume);
	} else if (op->kind == CONTROL_INSTANCE_LIST) {
		l.next = next_instance;
		l.item_size = sizeof(struct control_instance);
	} else {
		l.next = next_event;
		l.item_size = sizeof(struct control_event);
	}
	/* One more: the row that does not match is described, too. */
	items = arena_calloc(l.memory, max_u64(l.max, op->list.n_ids) + 1, l.item_size);
	if (!items)
		return err_set(&job->err, -ENOMEM, "out of memory");
	op->result.volumes = (void *)items;
	r = op->list.n_ids > 0 ? fill_ids(&l, op, items, &op->n_items)
			       : fill_page(&l, items, &op->n_items);
	return r == 0 ? give_token(op, &l, &job->err) : r;
}

static int check_list(struct control_op *op)
{
	const struct control_list_args *list = &op->list;

	if (list->n_ids > 0 && (list->max_results > 0 || list->next_token))
		return control_fail(
		    &op->error, "InvalidParameterCombination", -EINVAL,
		    "ids cannot be used with the parameter maxResults or nextToken");
	if (list->n_ids > CONTROL_PAGE_MAX || list->max_results > CONTROL_PAGE_MAX)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "at most %d of them in one call", CONTROL_PAGE_MAX);
	if (list->n_ids > 0 && op->kind == CONTROL_EVENT_LIST)
		return control_fail(&op->error, "InvalidParameterCombination", -EINVAL,
				    "events have no ids");
	return filter_check(op, &op->error);
}

void control_list(struct control *c, struct control_op *op)
{
	struct task *t = check_list(op) == 0 ? task_new(c, op, list_step) : NULL;

	if (t) {
		task_job(t, DESCRIBE_WAIT_JOB, list_job);
		return;
	}
	if (!op->error.code)
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	control_finish(c, op);
}

static void volume_live(struct task *t, struct control_volume *v)
{
	stall_describe(t->control, &t->op->memory, v);
	for (unsigned i = 0; i < v->n_attachments; i++)
		describe_live(t->control, &t->op->memory, &v->attachments[i]);
}

static void list_step(struct task *t)
{
	struct control_op *op = t->op;

	if (task_job_ok(t) && op->kind == CONTROL_VOLUME_LIST) {
		for (unsigned i = 0; i < op->n_items; i++)
			volume_live(t, &op->result.volumes[i]);
	} else if (!t->error.code && op->kind == CONTROL_INSTANCE_LIST) {
		for (unsigned i = 0; i < op->n_items; i++)
			for (unsigned k = 0; k < op->result.instances[i].n_attachments; k++)
				describe_live(t->control, &op->memory,
					      &op->result.instances[i].attachments[k]);
	}
	task_end(t);
}

/* ---- Show -------------------------------------------------------------------------- */

struct stats_query {
	struct io_msg msg;
	struct task *task;
	struct volume *volume;
	struct store *store;
	struct volume_stats stats;
	struct volume_bad bad[VOLUME_BAD_MAX];
	unsigned n_bad;
	bool more_bad;
};

/* For DELETE of what is on its way already, too. */
void control_show(struct control *c, struct control_op *op)
{
	const char *volume =
	    op->kind == CONTROL_VOLUME_DELETE ? op->delete.volume : op->show.volume;
	struct task *t = NULL;
	struct id id;

	if (args_volume_id(volume, &id, &op->error) == 0) {
		t = task_new(c, op, show_step);
		if (!t)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	}
	if (!t) {
		control_finish(c, op);
		return;
	}
	t->volume.id = id;
	task_job(t, DESCRIBE_WAIT_JOB, show_job);
}

static int show_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	int r = task_read_volume(c, t);

	return r == 0 ? task_describe(c, t) : r;
}

/* It needs no claim on the volume: whoever closes it does so by a message to the same loop, which
 * comes after this one. */
static bool ask_for_stats(struct task *t)
{
	struct disk *d = disk_find(t->control, t->volume.id);
	struct stats_query *q = d && d->volume && !d->closing ? mem_alloc(sizeof(*q)) : NULL;

	if (!q)
		return false;
	q->task = t;
	q->volume = d->volume;
	q->msg.run = stats_on_home;
	t->private = q;
	t->state = DESCRIBE_WAIT_STATS;
	io_post(d->home->loop, &q->msg);
	return true;
}

static void stats_on_home(struct io_msg *msg)
{
	struct stats_query *q = container_of(msg, struct stats_query, msg);

	volume_stats(q->volume, &q->stats);
	q->n_bad = volume_bad(q->volume, q->bad, &q->more_bad);
	q->msg.run = stats_on_return;
	io_post(q->task->control->loop, &q->msg);
}

static void stats_on_return(struct io_msg *msg)
{
	struct stats_query *q = container_of(msg, struct stats_query, msg);

	q->task->step(q->task);
}

static const char *health_name(enum volume_health health)
{
	switch (health) {
	case VOLUME_OK:
		return "ok";
	case VOLUME_IMPAIRED:
		return "impaired";
	case VOLUME_FAILED:
		return "failed";
	}
	return "";
}

static void take_stats(struct task *t, const struct volume_stats *s)
{
	struct control_volume *v = t->op->result.volumes;

	v->is_open = true;
	/* EBS calls stalled I/O impaired, too. */
	v->health =
	    health_name(s->health == VOLUME_OK && s->is_stuck ? VOLUME_IMPAIRED : s->health);
	v->base_bytes = s->base_size;
	v->hydrated_bytes = s->hydrated;
	v->unreadable_bytes = s->hydrate_failed;
	v->scrub_bytes = s->scrub_bytes;
	v->scrub_found = s->scrub_bad;
	v->counters = (struct control_counters){
	    .live_bytes = s->live_bytes,
	    .allocated_bytes = s->segments * t->control->config.store->info.segment_size,
	    .records = s->records,
	    .syncs = s->syncs,
	    .checkpoints = s->checkpoints,
	    .bad_reads = s->bad_reads,
	    .sequence = s->sequence,
	    .durable_sequence = s->durable_sequence,
	    .replayed = s->replayed,
	    .written_bytes = s->written_bytes,
	    .logged_bytes = s->logged_bytes,
	    .moved_bytes = s->moved_bytes,
	    .map_bytes = s->map_bytes,
	};
}

static void take_bad(struct task *t, const struct stats_query *q)
{
	static const char *const kinds[] = {
	    [VOLUME_BAD_BLOCKS] = "blocks",
	    [VOLUME_BAD_LEAF] = "leaf",
	    [VOLUME_BAD_INDEX] = "index",
	    [VOLUME_BAD_ROOT] = "root",
	};
	struct control_volume *v = t->op->result.volumes;
	struct control_bad *bad = arena_calloc(&t->op->memory, q->n_bad + 1, sizeof(*bad));

	v->more_bad = q->more_bad || !bad;
	for (unsigned i = 0; bad && i < q->n_bad; i++) {
		uint64_t unit = q->bad[i].kind == VOLUME_BAD_ROOT ? 1 : BLOCK_SIZE;

		bad[v->n_bad++] = (struct control_bad){.offset = q->bad[i].lba * unit,
						       .length = q->bad[i].blocks * unit,
						       .what = kinds[q->bad[i].kind],
						       .why = q->bad[i].why};
	}
	v->bad = bad;
}

static void show_what_is_wrong(struct task *t)
{
	struct control_volume *v = t->op->result.volumes;
	struct disk *d = disk_find(t->control, t->volume.id);
	char *text =
	    d && d->open_error.code ? arena_text(&t->op->memory, d->open_error.text) : NULL;

	/* Until its end is in the catalog. */
	v->scrubbing = d && d->scrub;
	if (text)
		v->error_text = text;
	volume_live(t, v);
}

static void show_step(struct task *t)
{
	for (;;) {
		switch ((enum describe_state)t->state) {
		case DESCRIBE_BEGIN:
		case DESCRIBE_END:
			task_end(t);
			return;
		case DESCRIBE_WAIT_JOB:
			t->state = DESCRIBE_END;
			if (!task_job_ok(t))
				continue;
			show_what_is_wrong(t);
			if (ask_for_stats(t))
				return;
			continue;
		case DESCRIBE_WAIT_STATS:
			take_stats(t, &((struct stats_query *)t->private)->stats);
			take_bad(t, t->private);
			mem_free(t->private);
			t->state = DESCRIBE_END;
			continue;
		}
	}
}
