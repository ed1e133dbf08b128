/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client sent, as the arguments of a control_op. Pure functions over bytes: they never trust
 * them, and copy what they keep into an arena. All return 0, or -1 with `error` set.
 */
#ifndef API_REQUEST_H
#define API_REQUEST_H

#include "api/error.h"
#include "base/arena.h"
#include "control/control.h"

enum api_field_kind {
	FIELD_TEXT,   /* a string; in the op a const char * */
	FIELD_SIZE,   /* bytes as a number, or "10GiB"; a uint64_t */
	FIELD_NUMBER, /* a whole number; a uint64_t */
	FIELD_SWITCH, /* true or false; a bool */
	FIELD_TAGS, /* an object of strings; op->create.tags or op->snapshot_create.tags, and their
		     * n_tags. Not in a query */
};

/* One member of a JSON body, or one parameter of a query. */
struct api_field {
	const char *name; /* NULL ends a table */
	size_t offset;    /* in struct control_op */
	enum api_field_kind kind;
	bool required;
};

/* One of a query string, decoded. */
struct api_parameter {
	const char *name;
	const char *value;
};

/* A JSON object with the members of `fields`; no bytes at all are an empty object. `fields` NULL:
 * there may be no body. */
int api_parse_body(const char *body, size_t len, const struct api_field *fields,
		   struct control_op *op, struct arena *memory, struct api_error *error);
/* `fields` NULL: there may be no parameters. */
int api_parse_query(const struct api_parameter *parameters, unsigned n,
		    const struct api_field *fields, struct control_op *op, struct arena *memory,
		    struct api_error *error);
/* Those of every list: id=, filter.NAME=, both repeatable, max_results=, next_token=. */
int api_parse_list_query(const struct api_parameter *parameters, unsigned n,
			 struct control_list_args *args, struct arena *memory,
			 struct api_error *error);

#endif
