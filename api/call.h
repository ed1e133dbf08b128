/* SPDX-License-Identifier: Apache-2.0
 *
 * One HTTP request, from its first header to the end of its reply.
 *
 *     HEAD --> BODY --> WAIT --> REPLY        (an operation of control's)
 *       |       |                  ^
 *       '-------+------------------'          (anything else, and every error)
 *
 * libmicrohttpd calls again and again while the request is not answered; WAIT is the only state in
 * which the connection is suspended. All of it runs on the server's thread, but for the end of the
 * operation, which resumes the connection.
 */
#ifndef API_CALL_H
#define API_CALL_H

#include "api/check.h"
#include "api/routes.h"

#include <microhttpd.h>

struct api {
	struct MHD_Daemon *http;
	struct control *control;
	struct api_check check;
	uint64_t quiet_since; /* ns */

	/* Atomic. */
	int quiet;             /* no new operations */
	unsigned n_operations; /* in control */
	unsigned n_calls;      /* requests that have not ended */
};

/* Counts an operation that is about to be submitted; false: we are stopping, and it may not be.
 * Counted first and looked after it, so that who has called api_quiesce and then sees no operation
 * can be sure that none comes. */
bool api_begin_operation(struct api *api);
/* In `done`, the last thing. */
void api_end_operation(struct api *api);

enum call_state {
	CALL_HEAD,
	CALL_BODY,
	CALL_WAIT,
	CALL_REPLY,
};

struct call {
	struct api *api;
	struct MHD_Connection *connection;
	enum call_state state;
	const struct route *route; /* NULL: there is none */
	const char *id;            /* what {id} matched */
	char *body;
	size_t body_len;
	size_t drained; /* bytes of a body that is too large */
	struct api_error error;
	char allow[64];
	struct arena memory;  /* arguments */
	struct control_op op; /* its results, from REPLY on, if `submitted` */
	bool submitted;
};

/* A new request. NULL: no memory. */
struct call *call_new(struct api *api, struct MHD_Connection *connection, const char *path,
		      const char *method);
/* What libmicrohttpd's handler does each time. */
enum MHD_Result call_step(struct call *call, const char *data, size_t *data_len);
void call_free(struct call *call);

#endif
