/* SPDX-License-Identifier: Apache-2.0 */
#include "api/render.h"

#include "base/util.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char *api_time_format(uint64_t ns, char text[API_TIME_TEXT])
{
	time_t seconds = (time_t)(ns / NSEC_PER_SEC);
	struct tm tm = {0};
	size_t used;

	gmtime_r(&seconds, &tm);
	used = strftime(text, API_TIME_TEXT - 8, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + used, 8, ".%03uZ", (unsigned)(ns % NSEC_PER_SEC / NSEC_PER_MSEC));
	return text;
}

/* Text from below may quote bytes of a file name, which JSON could not bear. */
static json_t *text(const char *s)
{
	char plain[ERR_TEXT_MAX];
	json_t *json;
	size_t i;

	if (!s)
		s = "";
	json = json_string(s);
	if (json)
		return json;
	for (i = 0; s[i] && i < sizeof(plain) - 1; i++)
		plain[i] = (unsigned char)s[i] < 0x80 ? s[i] : '?';
	plain[i] = '\0';
	return json_string(plain);
}

static json_t *text_or_null(const char *s)
{
	return s ? text(s) : json_null();
}

static json_t *when(uint64_t ns)
{
	char buf[API_TIME_TEXT];

	return json_string(api_time_format(ns, buf));
}

static json_int_t number(uint64_t n)
{
	return (json_int_t)n;
}

static json_t *texts(const char *const *all, unsigned n)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < n; i++)
		json_array_append_new(array, text(all[i]));
	return array;
}

static json_t *page(const char *name, json_t *array, const struct control_op *op)
{
	return json_pack("{s:o, s:o}", name, array, "next_token", text_or_null(op->next_token));
}

/* ---- Volumes, attachments, instances ----------------------------------------------- */

static json_t *attachment(const struct control_attachment *a)
{
	return json_pack(
	    "{s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:b, s:o, s:o, s:o, s:I, s:o}", "id", text(a->id),
	    "volume", text(a->volume), "instance", text(a->instance), "device", text(a->device),
	    "state", text(a->state), "generation", number(a->generation), "attach_time",
	    when(a->attach_time), "delete_on_termination", a->delete_on_termination, "export_name",
	    text(a->export_name), "uri", text_or_null(a->uri), "tcp_uri", text_or_null(a->tcp_uri),
	    "connections", number(a->connections), "error", text(a->error_text));
}

static json_t *attachments(const struct control_attachment *all, unsigned n)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < n; i++)
		json_array_append_new(array, attachment(&all[i]));
	return array;
}

static json_t *tags(const struct control_tag *all, unsigned n)
{
	json_t *object = json_object();

	for (unsigned i = 0; object && i < n; i++)
		json_object_set_new(object, all[i].key, text(all[i].value));
	return object;
}

static json_t *counters(const struct control_counters *c)
{
	return json_pack(
	    "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "live_bytes",
	    number(c->live_bytes), "allocated_bytes", number(c->allocated_bytes), "records",
	    number(c->records), "syncs", number(c->syncs), "checkpoints", number(c->checkpoints),
	    "bad_reads", number(c->bad_reads), "sequence", number(c->sequence), "durable_sequence",
	    number(c->durable_sequence), "replayed", number(c->replayed), "written_bytes",
	    number(c->written_bytes), "logged_bytes", number(c->logged_bytes), "moved_bytes",
	    number(c->moved_bytes), "map_bytes", number(c->map_bytes));
}

static json_t *stalled(const struct control_volume *v)
{
	if (!v->stalled_text)
		return json_null();
	return json_pack("{s:o, s:f, s:o}", "io", text(v->stalled_io), "seconds",
			 (double)v->stalled_ns / 1e9, "text", text(v->stalled_text));
}

static json_t *volume(const struct control_volume *v)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "id",
			 text(v->id), "name", text(v->name), "snapshot",
			 text_or_null(v->snapshot && *v->snapshot ? v->snapshot : NULL), "state",
			 text(v->state), "zone", text(v->zone), "size", number(v->size),
			 "create_time", when(v->create_time), "error", text(v->error_text), "tags",
			 tags(v->tags, v->n_tags), "attachments",
			 attachments(v->attachments, v->n_attachments), "io_performance",
			 text(v->io_performance), "stalled", stalled(v));
}

static json_t *instance(const struct control_instance *i)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:b, s:o}", "id", text(i->id), "name",
			 text(i->name), "host", text(i->host), "state", text(i->state),
			 "create_time", when(i->create_time), "own", i->own, "attachments",
			 attachments(i->attachments, i->n_attachments));
}

static json_t *bad_places(const struct control_volume *v)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < v->n_bad; i++)
		json_array_append_new(
		    array, json_pack("{s:o, s:I, s:I, s:o}", "what", text(v->bad[i].what), "offset",
				     number(v->bad[i].offset), "length", number(v->bad[i].length),
				     "why", text(v->bad[i].why)));
	return array;
}

json_t *api_render_volume(const struct control_op *op)
{
	const struct control_volume *v = &op->result.volumes[0];
	json_t *object = volume(v);

	if (object && v->is_open) {
		json_object_set_new(object, "health", text(v->health));
		json_object_set_new(object, "counters", counters(&v->counters));
		json_object_set_new(object, "base_bytes", json_integer(number(v->base_bytes)));
		json_object_set_new(object, "hydrated_bytes",
				    json_integer(number(v->hydrated_bytes)));
		json_object_set_new(object, "unreadable_bytes",
				    json_integer(number(v->unreadable_bytes)));
		json_object_set_new(object, "bad", bad_places(v));
		json_object_set_new(object, "more_bad", json_boolean(v->more_bad));
	}
	if (object && v->scrubbing)
		json_object_set_new(object, "scrub",
				    json_pack("{s:I, s:I}", "bytes", number(v->scrub_bytes), "bad",
					      number(v->scrub_found)));
	if (object && v->scrub_time)
		json_object_set_new(object, "last_scrub",
				    json_pack("{s:o, s:I}", "time", when(v->scrub_time), "bad",
					      number(v->scrub_bad)));
	return object;
}

json_t *api_render_volumes(const struct control_op *op)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < op->n_items; i++)
		json_array_append_new(array, volume(&op->result.volumes[i]));
	return page("volumes", array, op);
}

static json_t *damage(const struct control_snapshot *s)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < s->n_damage; i++)
		json_array_append_new(array, json_pack("{s:I, s:I, s:o}", "offset",
						       number(s->damage[i].offset), "length",
						       number(s->damage[i].length), "why",
						       text(s->damage[i].why)));
	return array;
}

static void add_verified(json_t *object, const struct control_snapshot *s)
{
	if (object && s->verifying)
		json_object_set_new(object, "verify",
				    json_pack("{s:I, s:I}", "bytes", number(s->verified_bytes),
					      "bad_bytes", number(s->bad_bytes)));
	if (object && s->verified)
		json_object_set_new(object, "last_verify",
				    json_pack("{s:o, s:I, s:o, s:o}", "time", when(s->verified),
					      "bad_bytes", number(s->bad_bytes), "error",
					      text(s->verify_error), "bad", damage(s)));
}

static void add_copied(json_t *object, const struct control_snapshot *s)
{
	if (object && s->copying)
		json_object_set_new(object, "copy",
				    json_pack("{s:o, s:I}", "to", text(s->copy_to), "bytes",
					      number(s->copied_bytes)));
	if (object && s->copied)
		json_object_set_new(object, "last_copy",
				    json_pack("{s:o, s:o, s:I, s:o}", "time", when(s->copied), "to",
					      text(s->copy_to), "stored_bytes",
					      number(s->copy_stored), "error",
					      text(s->copy_error)));
}

static json_t *snapshot(const struct control_snapshot *s)
{
	json_t *object =
	    json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:i, s:I, s:I, s:o, s:o, s:o}",
		      "id", text(s->id), "name", text(s->name), "volume",
		      text_or_null(*s->volume ? s->volume : NULL), "parent",
		      text_or_null(*s->parent ? s->parent : NULL), "state", text(s->state), "size",
		      number(s->size), "start_time", when(s->start_time), "completion_time",
		      s->completion_time ? when(s->completion_time) : json_null(), "progress",
		      (int)s->progress, "full_bytes", number(s->full_bytes), "stored_bytes",
		      number(s->stored_bytes), "description", text(s->description), "error",
		      text(s->error_text), "tags", tags(s->tags, s->n_tags));

	add_verified(object, s);
	add_copied(object, s);
	return object;
}

json_t *api_render_snapshot(const struct control_op *op)
{
	return snapshot(&op->result.snapshots[0]);
}

json_t *api_render_snapshots(const struct control_op *op)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < op->n_items; i++)
		json_array_append_new(array, snapshot(&op->result.snapshots[i]));
	return page("snapshots", array, op);
}

json_t *api_render_attachment(const struct control_op *op)
{
	return attachment(op->result.attachment);
}

json_t *api_render_instance(const struct control_op *op)
{
	return instance(&op->result.instances[0]);
}

json_t *api_render_instances(const struct control_op *op)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < op->n_items; i++)
		json_array_append_new(array, instance(&op->result.instances[i]));
	return page("instances", array, op);
}

/* ---- The rest ---------------------------------------------------------------------- */

json_t *api_render_events(const struct control_op *op)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < op->n_items; i++) {
		const struct control_event *e = &op->result.events[i];

		json_array_append_new(array,
				      json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "sequence",
						number(e->sequence), "time", when(e->time), "who",
						text(e->who), "what", text(e->what), "resource",
						text(e->resource), "detail", text(e->detail)));
	}
	return page("events", array, op);
}

json_t *api_render_ping(const struct control_op *op)
{
	(void)op;
	return json_pack("{s:s}", "status", "ok");
}

/* JSON has no infinity. */
static double ratio(double x)
{
	return isfinite(x) ? x : 0;
}

static json_t *space(const struct control_status *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "capacity",
			 number(s->store_capacity), "free", number(s->store_free), "used",
			 number(s->store_used), "provisioned", number(s->provisioned),
			 "provision_limit", number(s->provision_limit), "overcommit",
			 ratio(s->overcommit), "overcommit_limit", ratio(s->overcommit_limit));
}

static json_t *volume_counts(const struct control_status *s)
{
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "creating", (int)s->volumes_creating,
			 "available", (int)s->volumes_available, "in-use", (int)s->volumes_in_use,
			 "deleting", (int)s->volumes_deleting, "error", (int)s->volumes_error,
			 "open", (int)s->volumes_open);
}

static json_t *sweep(const struct control_sweep *s)
{
	const struct control_sweep_result *r = &s->last;
	json_t *json = json_pack("{s:s, s:o, s:n, s:n}", "state", s->state, "error",
				 text(s->error_text), "progress", "last");

	if (json && strcmp(s->state, "sweeping") == 0)
		json_object_set_new(json, "progress",
				    json_pack("{s:I, s:I, s:I, s:I}", "objects", number(s->objects),
					      "pages", number(s->pages), "removed",
					      number(s->removed), "freed", number(s->freed)));
	if (json && r->time)
		json_object_set_new(json, "last",
				    json_pack("{s:o, s:f, s:I, s:I, s:I, s:I, s:I}", "time",
					      when(r->time), "seconds",
					      (double)r->took_ns / (double)NSEC_PER_SEC, "freed",
					      number(r->freed), "removed", number(r->removed),
					      "given_up", number(r->given_up), "stored",
					      number(r->stored), "live", number(r->live)));
	return json;
}

json_t *api_render_status(const struct control_op *op)
{
	const struct control_status *s = op->result.status;

	return json_pack(
	    "{s:b, s:o, s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:I, s:o}",
	    "healthy", s->healthy, "warnings", texts(s->warnings, s->n_warnings), "version",
	    text(s->version), "zone", text(s->zone), "zone_number", (int)s->zone_number, "instance",
	    text(s->instance), "start_time", when(s->start_time), "now", when(s->now), "nbd_socket",
	    text_or_null(s->nbd_socket), "nbd_tcp", text_or_null(s->nbd_tcp), "space", space(s),
	    "volumes", volume_counts(s), "instances", (int)s->instances, "attachments",
	    (int)s->attachments, "connections", number(s->connections), "snapshot_sweep",
	    sweep(&s->sweep));
}

json_t *api_render_checked(const struct control_check *c)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:o}", "volumes", number(c->n_volumes), "in_use",
			 number(c->n_in_use), "skipped", number(c->n_skipped), "wrong",
			 number(c->n_wrong), "findings", texts(c->findings, c->n_findings));
}

json_t *api_render_error(const char *code, const char *message)
{
	return json_pack("{s:{s:s, s:o}}", "error", "code", code, "message", text(message));
}
