/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests of the control interface to operations of the store, and their results to JSON. Pure:
 * bytes in, a struct or an error out.
 */
#ifndef INSTANCE_STORED_ROUTE_H
#define INSTANCE_STORED_ROUTE_H

#include "instance-store/istore.h"

#include <jansson.h>

enum route_kind {
	ROUTE_STATUS,
	ROUTE_LIST,
	ROUTE_CREATE,
	ROUTE_END,   /* wipe or delete */
	ROUTE_EVENT, /* of an instance's life */
};

struct route_call {
	enum route_kind kind;
	unsigned status; /* HTTP; 0 until it is known */
	const char *allow;
	bool has_op;
	struct istore_op op;
	char code[40]; /* of an error; "": none */
	char text[ERR_TEXT_MAX];
};

/* The head. What is wrong with it is kept for the reply. */
void route_begin(struct route_call *r, const char *method, const char *path);
/* The first thing that is wrong counts. Returns -1. */
int route_refuse(struct route_call *r, unsigned status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The whole body; then op is ready for the store if has_op. -1: refused. */
int route_parse(struct route_call *r, const char *body, size_t len);
/* After the operation, if there was one: the reply, and r->status. NULL: no memory. */
json_t *route_render(struct route_call *r);
/* Says what was changed. */
void route_log(const struct route_call *r);

#endif
