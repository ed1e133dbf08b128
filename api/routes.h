/* SPDX-License-Identifier: Apache-2.0
 *
 * What the API offers, as one table: method and path, the operation behind it, its parameters, and
 * how its result looks.
 */
#ifndef API_ROUTES_H
#define API_ROUTES_H

#include "api/error.h"
#include "api/request.h"
#include "control/control.h"

#include <jansson.h>

enum route_kind {
	ROUTE_CONTROL,     /* one operation of control's */
	ROUTE_INDEX,       /* this table itself */
	ROUTE_CHECK_START, /* the check, which goes on when its request has ended */
	ROUTE_CHECK_SHOW,
};

struct route {
	const char *method;
	const char *path; /* with at most one {id}, that matches one piece of a path */
	const char *summary;
	json_t *(*render)(const struct control_op *op);
	size_t id_offset; /* of {id} in struct control_op */
	const struct api_field *body;
	const struct api_field *query;
	const char *located; /* a Location header: this, and the id that was made */
	enum route_kind kind;
	enum control_kind op;
	unsigned status;  /* of success */
	bool raw;         /* a block: its bytes are the body, and `render` is not used */
	bool is_list;     /* takes the parameters of lists */
	bool one_of_list; /* lists the one that {id} names */
	bool idempotent;  /* takes a Client-Token */
};

/* Ends with a NULL method. */
extern const struct route routes[];

/* What {id} matched. */
struct route_id {
	const char *text;
	size_t len;
};

/* The route, or NULL and an error; `ret_allow` then gets the methods that the path knows
 * ("GET, POST"), or "" if there is no such path. */
const struct route *route_find(const char *method, const char *path, struct route_id *ret_id,
			       char ret_allow[64], struct api_error *error);
json_t *routes_render(void);

#endif
