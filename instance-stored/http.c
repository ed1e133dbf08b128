/* SPDX-License-Identifier: Apache-2.0
 *
 * A call is read whole, parsed, handed to the store's loop while its connection is suspended, and
 * answered:
 *
 *     HEAD -> BODY -> [WAIT ->] REPLY
 */
#include "instance-stored/http.h"

#include "base/log.h"
#include "base/mem.h"
#include "instance-stored/route.h"

#include <errno.h>
#include <jansson.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BODY_MAX        4096
#define DRAIN_MAX       MiB
#define CONNECTIONS_MAX 64
#define IDLE_SECONDS    60

struct http {
	struct istore *store;
	struct io_loop *loop;
	struct MHD_Daemon *daemon;
	unsigned quiet;
	unsigned n_operations;
};

enum call_state {
	CALL_HEAD,
	CALL_BODY,
	CALL_WAIT,
	CALL_REPLY,
};

struct call {
	struct http *http;
	struct MHD_Connection *connection;
	enum call_state state;
	char body[BODY_MAX];
	size_t body_len;
	size_t drained;
	struct route_call route;
	struct io_msg msg;
};

static void call_on_loop(struct io_msg *msg);
static void call_on_done(struct istore_op *op);

static struct call *call_new(struct http *http, struct MHD_Connection *connection, const char *path,
			     const char *method)
{
	struct call *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->http = http;
	c->connection = connection;
	route_begin(&c->route, method, path);
	return c;
}

static void call_free(struct call *c)
{
	istore_op_release(&c->route.op);
	mem_free(c);
}

/* Keeps the bytes, or drops those of a body that nobody will look at. */
static enum MHD_Result take_body(struct call *c, const char *data, size_t len)
{
	if (c->body_len + len > BODY_MAX)
		route_refuse(&c->route, 413, "RequestEntityTooLarge",
			     "the body has more than %d bytes", BODY_MAX);
	if (c->route.status) {
		c->drained += len;
		return c->drained <= DRAIN_MAX ? MHD_YES : MHD_NO;
	}
	memcpy(c->body + c->body_len, data, len);
	c->body_len += len;
	return MHD_YES;
}

/* ---- The operation ----------------------------------------------------------------- */

static bool begin_operation(struct http *http)
{
	__atomic_add_fetch(&http->n_operations, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&http->quiet, __ATOMIC_SEQ_CST))
		return true;
	__atomic_sub_fetch(&http->n_operations, 1, __ATOMIC_SEQ_CST);
	return false;
}

static void act(struct call *c)
{
	c->state = CALL_REPLY;
	if (route_parse(&c->route, c->body, c->body_len) < 0 || !c->route.has_op)
		return;
	if (!begin_operation(c->http)) {
		route_refuse(&c->route, 503, "Unavailable", "the daemon is stopping");
		return;
	}
	c->state = CALL_WAIT;
	c->route.op.done = call_on_done;
	c->msg.run = call_on_loop;
	MHD_suspend_connection(c->connection);
	io_post(c->http->loop, &c->msg);
}

static void call_on_loop(struct io_msg *msg)
{
	struct call *c = container_of(msg, struct call, msg);

	istore_submit(c->http->store, &c->route.op);
}

static void call_on_done(struct istore_op *op)
{
	struct call *c = container_of(op, struct call, route.op);
	struct http *http = c->http;

	route_log(&c->route);
	MHD_resume_connection(c->connection); /* from here on `c` may be gone */
	__atomic_sub_fetch(&http->n_operations, 1, __ATOMIC_SEQ_CST);
}

/* ---- The reply --------------------------------------------------------------------- */

static enum MHD_Result reply(struct call *c)
{
	json_t *json = route_render(&c->route);
	char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	struct MHD_Response *response = NULL;
	enum MHD_Result result = MHD_NO;

	json_decref(json);
	if (text)
		response =
		    MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	mem_free(text); /* main gave jansson our allocator */
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	if (c->route.status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, c->route.allow);
	result = MHD_queue_response(c->connection, c->route.status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result call_step(struct call *c, const char *data, size_t *data_len)
{
	size_t len = *data_len;

	switch (c->state) {
	case CALL_HEAD:
		c->state = CALL_BODY;
		return MHD_YES;
	case CALL_BODY:
		*data_len = 0;
		if (len > 0)
			return take_body(c, data, len);
		act(c);
		return c->state == CALL_WAIT ? MHD_YES : reply(c);
	case CALL_WAIT:
		c->state = CALL_REPLY;
		return reply(c);
	case CALL_REPLY:
		return reply(c);
	}
	return MHD_NO;
}

/* ---- The server -------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void on_message(void *arg, const char *format,
							     va_list args)
{
	char text[300];

	(void)arg;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	log_debug("http: %s", text);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path,
				  const char *method, const char *version, const char *data,
				  size_t *data_len, void **state)
{
	(void)version;
	if (!*state)
		*state = call_new(arg, connection, path, method);
	return *state ? call_step(*state, data, data_len) : MHD_NO;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode why)
{
	(void)arg;
	(void)connection;
	(void)why;
	if (*state)
		call_free(*state);
	*state = NULL;
}

int http_new(struct istore *store, struct io_loop *loop, int listen_fd, struct http **ret_http,
	     struct err *err)
{
	struct http *http = mem_alloc(sizeof(*http));

	if (!http)
		return err_set(err, -ENOMEM, "the control socket: out of memory");
	http->store = store;
	http->loop = loop;
	errno = 0;
	http->daemon = MHD_start_daemon(
	    MHD_USE_ERROR_LOG | MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL,
	    NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL,
	    MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
	    (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
	    MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
	if (!http->daemon) {
		int code = errno ? -errno : -EIO;

		mem_free(http);
		return err_set(err, code, "the control socket's HTTP server did not start: %s",
			       strerror(-code));
	}
	*ret_http = http;
	return 0;
}

void http_quiesce(struct http *http)
{
	if (http)
		__atomic_store_n(&http->quiet, 1, __ATOMIC_SEQ_CST);
}

bool http_is_busy(const struct http *http)
{
	return http && __atomic_load_n(&http->n_operations, __ATOMIC_SEQ_CST) > 0;
}

void http_free(struct http *http)
{
	if (!http)
		return;
	MHD_stop_daemon(http->daemon);
	mem_free(http);
}
