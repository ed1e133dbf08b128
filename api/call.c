/* SPDX-License-Identifier: Apache-2.0 */
#include "api/call.h"

#include "api/limits.h"
#include "api/render.h"
#include "api/who.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static void call_enter(struct call *c, enum call_state state)
{
	c->state = state;
}

static uint64_t wall_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

/* ---- The head ---------------------------------------------------------------------- */

static void find_route(struct call *c, const char *path, const char *method)
{
	struct route_id id;

	c->route = route_find(method, path, &id, c->allow, &c->error);
	if (!c->route || !id.text)
		return;
	c->id = arena_printf(&c->memory, "%.*s", (int)id.len, id.text);
	if (!c->id)
		api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
}

static int complain_too_large(struct call *c)
{
	return api_error_set(&c->error, API_TOO_LARGE, "the body has more than %d bytes",
			     API_BODY_MAX);
}

/* What its sender says that the body is. */
static bool is_announced_too_large(const struct call *c)
{
	const char *text = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND,
						       MHD_HTTP_HEADER_CONTENT_LENGTH);

	return text && strtoull(text, NULL, 10) > API_BODY_MAX;
}

struct call *call_new(struct api *api, struct MHD_Connection *connection, const char *path,
		      const char *method)
{
	struct call *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->api = api;
	c->connection = connection;
	call_enter(c, CALL_HEAD);
	find_route(c, path, method);
	if (__atomic_load_n(&api->quiet, __ATOMIC_SEQ_CST))
		api_error_set(&c->error, API_UNAVAILABLE, "the daemon is stopping");
	__atomic_add_fetch(&api->n_calls, 1, __ATOMIC_SEQ_CST);
	return c;
}

/* ---- The body ---------------------------------------------------------------------- */

/* Keeps the bytes, or drops those of a body that nobody will look at. MHD_NO: the sender will not
 * end, and is cut off. */
static enum MHD_Result take_body(struct call *c, const char *data, size_t len)
{
	char *body;

	if (c->body_len + len > API_BODY_MAX)
		complain_too_large(c);
	if (c->error.code) {
		c->drained += len;
		return c->drained <= API_BODY_DRAIN ? MHD_YES : MHD_NO;
	}
	body = mem_realloc(c->body, c->body_len + len);
	if (!body) {
		api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
		return MHD_YES;
	}
	memcpy(body + c->body_len, data, len);
	c->body = body;
	c->body_len += len;
	return MHD_YES;
}

/* ---- The arguments ----------------------------------------------------------------- */

struct parameters {
	struct api_parameter all[API_PARAMETERS_MAX];
	unsigned n;
	bool too_many;
};

static enum MHD_Result take_parameter(void *arg, enum MHD_ValueKind kind, const char *name,
				      const char *value)
{
	struct parameters *p = arg;

	(void)kind;
	p->too_many = p->n == API_PARAMETERS_MAX;
	if (p->too_many)
		return MHD_NO;
	p->all[p->n++] = (struct api_parameter){.name = name, .value = value ? value : ""};
	return MHD_YES;
}

static int parse_query(struct call *c)
{
	struct parameters *p = arena_alloc(&c->memory, sizeof(*p));

	if (!p)
		return api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
	MHD_get_connection_values(c->connection, MHD_GET_ARGUMENT_KIND, take_parameter, p);
	if (p->too_many)
		return api_error_set(&c->error, API_TOO_LARGE, "more than %d parameters",
				     API_PARAMETERS_MAX);
	if (c->route->is_list)
		return api_parse_list_query(p->all, p->n, &c->op.list, &c->memory, &c->error);
	return api_parse_query(p->all, p->n, c->route->query, &c->op, &c->memory, &c->error);
}

/* The header, or the member of the body, or both if they agree. */
static int take_token(struct call *c)
{
	const char *token =
	    MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Client-Token");
	const char **at = &c->op.create.client_token;

	if (!token)
		return 0;
	if (!c->route->idempotent)
		return api_error_set(&c->error, API_UNKNOWN_PARAMETER,
				     "a Client-Token is for POST /v1/volumes alone");
	if (*at && strcmp(*at, token) != 0)
		return api_error_set(&c->error, API_BAD_COMBINATION,
				     "the Client-Token of the header is not that of the body");
	*at = arena_text(&c->memory, token);
	return *at ? 0 : api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
}

static int take_id(struct call *c)
{
	const char **one;

	if (!c->id)
		return 0;
	if (!c->route->one_of_list) {
		*(const char **)((char *)&c->op + c->route->id_offset) = c->id;
		return 0;
	}
	one = arena_alloc(&c->memory, sizeof(*one));
	if (!one)
		return api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
	*one = c->id;
	c->op.list.ids = one;
	c->op.list.n_ids = 1;
	return 0;
}

static int parse(struct call *c)
{
	const struct route *r = c->route;

	if (c->error.code)
		return -1;
	if (parse_query(c) < 0 ||
	    api_parse_body(c->body, c->body_len, r->body, &c->op, &c->memory, &c->error) < 0 ||
	    take_token(c) < 0)
		return -1;
	return take_id(c);
}

/* ---- The operation ----------------------------------------------------------------- */

bool api_begin_operation(struct api *api)
{
	__atomic_add_fetch(&api->n_operations, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&api->quiet, __ATOMIC_SEQ_CST))
		return true;
	api_end_operation(api);
	return false;
}

void api_end_operation(struct api *api)
{
	__atomic_sub_fetch(&api->n_operations, 1, __ATOMIC_SEQ_CST);
}

/* On control's loop. */
static void call_on_done(struct control_op *op)
{
	struct call *c = container_of(op, struct call, op);
	struct api *api = c->api;

	MHD_resume_connection(c->connection); /* from here on `c` may be gone */
	api_end_operation(api);
}

static void submit(struct call *c)
{
	if (!api_begin_operation(c->api)) {
		api_error_set(&c->error, API_UNAVAILABLE, "the daemon is stopping");
		call_enter(c, CALL_REPLY);
		return;
	}
	call_enter(c, CALL_WAIT);
	c->op.kind = c->route->op;
	c->op.done = call_on_done;
	c->op.who = who_is(c->connection, &c->memory);
	c->submitted = true;
	MHD_suspend_connection(c->connection);
	control_submit(c->api->control, &c->op);
}

static void act(struct call *c)
{
	if (parse(c) < 0) {
		call_enter(c, CALL_REPLY);
		return;
	}
	switch (c->route->kind) {
	case ROUTE_CONTROL:
		submit(c);
		return;
	case ROUTE_CHECK_START:
		api_check_start(c->api, c->op.check.deep, wall_clock(), &c->error);
		break;
	case ROUTE_INDEX:
	case ROUTE_CHECK_SHOW:
		break;
	}
	call_enter(c, CALL_REPLY);
}

/* ---- The reply --------------------------------------------------------------------- */

static void take_error(struct call *c)
{
	if (c->submitted && c->op.error.code)
		api_error_set(&c->error, c->op.error.code, "%s", c->op.error.text);
}

static json_t *render(const struct call *c, unsigned *ret_status)
{
	*ret_status = 200;
	switch (c->route->kind) {
	case ROUTE_CONTROL:
		*ret_status = c->route->status;
		return c->route->render(&c->op);
	case ROUTE_INDEX:
		return routes_render();
	case ROUTE_CHECK_START:
		*ret_status = 202;
		return api_check_render(&c->api->check);
	case ROUTE_CHECK_SHOW:
		return api_check_render(&c->api->check);
	}
	return NULL;
}

/* The text of `json` and a newline, in memory for mem_free; NULL: no memory. */
static char *dump(const json_t *json, size_t *ret_len)
{
	const size_t flags = JSON_INDENT(2);
	size_t len = json_dumpb(json, NULL, 0, flags);
	char *text = len ? mem_alloc(len + 1) : NULL;

	if (!text)
		return NULL;
	json_dumpb(json, text, len, flags);
	text[len] = '\n';
	*ret_len = len + 1;
	return text;
}

/* Where the thing that was made can be found. */
static void add_location(struct call *c, struct MHD_Response *response, const json_t *json)
{
	const char *id = json_string_value(json_object_get(json, "id"));
	const char *path;

	if (!c->route || !c->route->located || !id)
		return;
	path = arena_printf(&c->memory, "%s%s", c->route->located, id);
	if (path)
		MHD_add_response_header(response, MHD_HTTP_HEADER_LOCATION, path);
}

static enum MHD_Result send_json(struct call *c, unsigned status, const json_t *json)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	size_t len = 0;
	char *text = dump(json, &len);

	if (!text)
		return MHD_NO;
	response = MHD_create_response_from_buffer_with_free_callback(len, text, mem_free);
	if (!response) {
		mem_free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, c->allow);
	add_location(c, response, json);
	result = MHD_queue_response(c->connection, status, response);
	MHD_destroy_response(response);
	return result;
}

/* The bytes stay the operation's until call_free, which comes after the reply. */
static enum MHD_Result send_block(struct call *c)
{
	const struct control_blocks *r = c->op.result.blocks;
	struct MHD_Response *response = MHD_create_response_from_buffer(
	    r->block_size, (void *)(uintptr_t)r->data, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
	MHD_add_response_header(response, "Checksum", r->blocks[0].second);
	MHD_add_response_header(response, "Checksum-Algorithm", "SHA256");
	result = MHD_queue_response(c->connection, c->route->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result reply(struct call *c)
{
	enum MHD_Result result;
	json_t *json = NULL;
	unsigned status;

	take_error(c);
	if (!c->error.code && c->route->raw)
		return send_block(c);
	if (!c->error.code) {
		json = render(c, &status);
		if (!json)
			api_error_set(&c->error, API_INTERNAL_ERROR, "out of memory");
	}
	if (!json) {
		status = api_status(c->error.code);
		json = api_render_error(c->error.code, c->error.text);
	}
	if (!json)
		return MHD_NO;
	result = send_json(c, status, json);
	json_decref(json);
	return result;
}

/* ---- The steps --------------------------------------------------------------------- */

enum MHD_Result call_step(struct call *c, const char *data, size_t *data_len)
{
	size_t len = *data_len;

	for (;;) {
		switch (c->state) {
		case CALL_HEAD:
			/* A reply before the body is read ends the connection: for those that are
			 * not worth reading. */
			call_enter(c, CALL_BODY);
			if (!is_announced_too_large(c))
				return MHD_YES;
			complain_too_large(c);
			call_enter(c, CALL_REPLY);
			continue;
		case CALL_BODY:
			*data_len = 0;
			if (len > 0)
				return take_body(c, data, len);
			act(c);
			if (c->state == CALL_WAIT)
				return MHD_YES;
			continue;
		case CALL_WAIT:
			call_enter(c, CALL_REPLY);
			continue;
		case CALL_REPLY:
			return reply(c);
		}
	}
}

void call_free(struct call *c)
{
	if (c->submitted)
		control_op_release(&c->op);
	__atomic_sub_fetch(&c->api->n_calls, 1, __ATOMIC_SEQ_CST);
	arena_free(&c->memory);
	mem_free(c->body);
	mem_free(c);
}
