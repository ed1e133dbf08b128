/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-stored/route.h"

#include "base/log.h"
#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_MAX  64
#define PARTS_MAX 5

/* ---- The head ---------------------------------------------------------------------- */

struct path {
	unsigned n;
	char parts[PARTS_MAX][PART_MAX];
};

int route_refuse(struct route_call *r, unsigned status, const char *code, const char *format, ...)
{
	va_list args;

	r->has_op = false;
	if (r->status)
		return -1;
	r->status = status;
	snprintf(r->code, sizeof(r->code), "%s", code);
	va_start(args, format);
	vsnprintf(r->text, sizeof(r->text), format, args);
	va_end(args);
	return -1;
}

/* "/v1/disks/i-0123/0" in parts; false: too many, or one is too long. */
static bool split(const char *path, struct path *ret)
{
	ret->n = 0;
	while (*path == '/') {
		size_t len = strcspn(++path, "/");

		if (ret->n == PARTS_MAX || len == 0 || len >= PART_MAX)
			return false;
		memcpy(ret->parts[ret->n], path, len);
		ret->parts[ret->n++][len] = '\0';
		path += len;
	}
	return *path == '\0';
}

static int take_instance(struct route_call *r, const char *text)
{
	if (id_parse(text, ISTORE_INSTANCE, &r->op.instance) == 0)
		return 0;
	return route_refuse(r, 400, "InvalidInstanceID.Malformed",
			    "'%s' is no instance: write one as in i-0123456789abcdef0", text);
}

static int take_number(struct route_call *r, const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text >= '0' && *text <= '9' && *end == '\0' && n < ISTORE_DISKS_MAX) {
		r->op.number = (uint32_t)n;
		return 0;
	}
	return route_refuse(r, 400, "InvalidParameterValue",
			    "'%s' is no disk number: those of an instance are 0 to %d", text,
			    ISTORE_DISKS_MAX - 1);
}

/* What stands for it in the table: parts that begin with ':' are anything. */
static bool matches(const char *pattern, const struct path *path)
{
	struct path p;

	if (!split(pattern, &p) || p.n != path->n)
		return false;
	for (unsigned i = 0; i < p.n; i++)
		if (p.parts[i][0] != ':' && strcmp(p.parts[i], path->parts[i]) != 0)
			return false;
	return true;
}

static const struct route {
	const char *method;
	const char *pattern;
	enum route_kind kind;
	enum istore_op_kind op;
} routes[] = {
    {"GET", "/v1/status", ROUTE_STATUS, ISTORE_LIST},
    {"GET", "/v1/disks", ROUTE_LIST, ISTORE_LIST},
    {"POST", "/v1/disks", ROUTE_CREATE, ISTORE_CREATE},
    {"DELETE", "/v1/disks/:instance/:number", ROUTE_END, ISTORE_DELETE},
    {"POST", "/v1/disks/:instance/:number/wipe", ROUTE_END, ISTORE_WIPE},
    {"GET", "/v1/instances/:instance", ROUTE_LIST, ISTORE_LIST},
    {"DELETE", "/v1/instances/:instance", ROUTE_END, ISTORE_DELETE},
    {"POST", "/v1/instances/:instance/wipe", ROUTE_END, ISTORE_WIPE},
    {"POST", "/v1/instances/:instance/event", ROUTE_EVENT, ISTORE_DELETE},
};

void route_begin(struct route_call *r, const char *method, const char *path)
{
	const struct route *other = NULL;
	struct path p;

	*r = (struct route_call){.op.number = ISTORE_ALL};
	if (!split(path, &p)) {
		route_refuse(r, 404, "NoSuchRoute", "there is nothing at this path");
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(routes); i++) {
		if (!matches(routes[i].pattern, &p))
			continue;
		other = &routes[i];
		if (strcmp(other->method, method) != 0)
			continue;
		r->kind = other->kind;
		r->op.kind = other->op;
		r->has_op = true;
		if (p.n >= 3 && take_instance(r, p.parts[2]) == 0 && p.n >= 4 &&
		    strcmp(p.parts[1], "disks") == 0)
			take_number(r, p.parts[3]);
		return;
	}
	if (!other) {
		route_refuse(r, 404, "NoSuchRoute", "there is nothing at this path");
		return;
	}
	r->allow = other->method;
	route_refuse(r, 405, "MethodNotAllowed", "this path wants %s", other->method);
}

/* ---- The body ---------------------------------------------------------------------- */

static int parse_create(struct route_call *r, json_t *body)
{
	const char *instance = NULL;
	json_int_t number = -1;
	json_int_t size = 0;
	json_error_t why;

	if (json_unpack_ex(body, &why, JSON_STRICT, "{s:s, s:I, s:I}", "instance", &instance,
			   "number", &number, "size", &size) < 0)
		return route_refuse(r, 400, "InvalidParameter",
				    "a disk needs \"instance\", \"number\" and \"size\" (bytes), "
				    "and nothing else: %s",
				    why.text);
	if (number < 0 || number >= ISTORE_DISKS_MAX)
		return route_refuse(r, 400, "InvalidParameterValue",
				    "number: those of an instance's disks are 0 to %d",
				    ISTORE_DISKS_MAX - 1);
	if (size <= 0)
		return route_refuse(r, 400, "InvalidParameterValue",
				    "size: a number of bytes is needed");
	r->op.number = (uint32_t)number;
	r->op.size = (uint64_t)size;
	return take_instance(r, instance);
}

/* Whether an instance's disks go on after it; -1: there is no such event. */
static int keeps_disks(const char *event)
{
	static const char *const ends[] = {"stop", "hibernate", "terminate", "move",
					   "host-failure"};

	if (strcmp(event, "reboot") == 0)
		return 1;
	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
		if (strcmp(event, ends[i]) == 0)
			return 0;
	return -1;
}

static int parse_event(struct route_call *r, json_t *body)
{
	const char *event = NULL;
	json_error_t why;
	int keeps;

	if (json_unpack_ex(body, &why, JSON_STRICT, "{s:s}", "event", &event) < 0)
		return route_refuse(r, 400, "InvalidParameter",
				    "an event needs \"event\", and nothing else: %s", why.text);
	keeps = keeps_disks(event);
	if (keeps < 0)
		return route_refuse(r, 400, "InvalidParameterValue",
				    "'%s' is no event: there are reboot, stop, hibernate, "
				    "terminate, move and host-failure",
				    event);
	if (keeps)
		r->op.kind = ISTORE_LIST;
	return 0;
}

int route_parse(struct route_call *r, const char *body, size_t len)
{
	bool wants = r->kind == ROUTE_CREATE || r->kind == ROUTE_EVENT;
	json_error_t why;
	json_t *json;
	int ret;

	if (r->status)
		return -1;
	if (!wants)
		return len == 0
			   ? 0
			   : route_refuse(r, 400, "InvalidParameter", "this request has no body");
	json = json_loadb(body, len, JSON_REJECT_DUPLICATES, &why);
	if (!json)
		return route_refuse(r, 400, "MalformedRequest", "the body is no JSON: %s",
				    why.text);
	ret = r->kind == ROUTE_CREATE ? parse_create(r, json) : parse_event(r, json);
	json_decref(json);
	return ret;
}

/* ---- The result -------------------------------------------------------------------- */

static const struct {
	int code;
	unsigned status;
	const char *name;
} errors[] = {
    {-EINVAL, 400, "InvalidParameterValue"}, {-EEXIST, 409, "IncorrectState"},
    {-ENOENT, 404, "InvalidDisk.NotFound"},  {-ENOSPC, 507, "InsufficientCapacity"},
    {-EAGAIN, 503, "Unavailable"},           {-ESHUTDOWN, 503, "Unavailable"},
};

static void take_error(struct route_call *r)
{
	const struct err *e = &r->op.error;

	if (r->status || e->code == 0)
		return;
	/* No disk is what an event wants. */
	if (r->kind == ROUTE_EVENT && e->code == -ENOENT)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
		if (errors[i].code == e->code) {
			route_refuse(r, errors[i].status, errors[i].name, "%s", e->text);
			return;
		}
	}
	route_refuse(r, 500, "InternalError", "%s", e->text);
}

static json_t *render_disk(const struct istore_info *d)
{
	char instance[ID_TEXT_MAX];
	char name[ISTORE_EXPORT_MAX];

	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:s}", "instance",
			 id_format(d->instance, ISTORE_INSTANCE, instance), "number",
			 (json_int_t)d->number, "size", (json_int_t)d->size, "written",
			 (json_int_t)d->written, "generation", (json_int_t)d->generation,
			 "connections", (json_int_t)d->connections, "served", d->served, "export",
			 istore_export_name(d->instance, d->number, name));
}

static json_t *render_list(const struct route_call *r)
{
	json_t *disks = json_array();

	for (unsigned i = 0; i < r->op.n_infos; i++)
		if (json_array_append_new(disks, render_disk(&r->op.infos[i])) < 0) {
			json_decref(disks);
			return NULL;
		}
	return json_pack("{s:o}", "disks", disks);
}

static json_t *render_status(const struct route_call *r)
{
	const struct istore_stats *s = &r->op.stats;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:b}", "disks",
			 (json_int_t)r->op.n_infos, "size", (json_int_t)s->size, "used",
			 (json_int_t)s->used, "slice_size", (json_int_t)s->slice_size, "to_discard",
			 (json_int_t)s->to_discard, "discarded", (json_int_t)s->discarded,
			 "discard_error", s->discard_error ? strerror(-s->discard_error) : "",
			 "table_failed", s->failed);
}

json_t *route_render(struct route_call *r)
{
	take_error(r);
	if (r->code[0])
		return json_pack("{s:{s:s, s:s}}", "error", "code", r->code, "message", r->text);
	r->status = r->kind == ROUTE_CREATE && !r->op.existed ? 201 : 200;
	switch (r->kind) {
	case ROUTE_STATUS:
		return render_status(r);
	case ROUTE_LIST:
		return render_list(r);
	case ROUTE_CREATE:
		return r->op.n_infos ? render_disk(&r->op.infos[0]) : NULL;
	case ROUTE_END:
	case ROUTE_EVENT:
		return json_pack("{s:I}", "disks", (json_int_t)r->op.n_done);
	}
	return NULL;
}

void route_log(const struct route_call *r)
{
	const struct istore_op *op = &r->op;
	char instance[ID_TEXT_MAX];
	char size[SIZE_TEXT_MAX];

	if (op->kind == ISTORE_LIST || op->kind == ISTORE_TIDY)
		return;
	id_format(op->instance, ISTORE_INSTANCE, instance);
	if (op->error.code && op->error.code != -ENOENT)
		log_warning("%s: %s", instance, op->error.text);
	else if (op->kind == ISTORE_CREATE && !op->existed && !op->error.code)
		log_info("%s: disk %" PRIu32 " of %s is made", instance, op->number,
			 size_format(op->size, size));
	else if (op->n_done)
		log_info("%s: disks %s: %u", instance, op->kind == ISTORE_WIPE ? "wiped" : "ended",
			 op->n_done);
}
