/* SPDX-License-Identifier: Apache-2.0 */
#include "api/request.h"

#include "api/limits.h"
#include "base/closest.h"
#include "base/size.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define FILTER_PREFIX "filter."

static int out_of_memory(struct api_error *error)
{
	return api_error_set(error, API_INTERNAL_ERROR, "out of memory");
}

static void *field_at(const struct api_field *field, struct control_op *op)
{
	return (char *)op + field->offset;
}

static const struct api_field *field_find(const struct api_field *fields, const char *name)
{
	for (const struct api_field *f = fields; f && f->name; f++)
		if (strcmp(f->name, name) == 0)
			return f;
	return NULL;
}

static int unknown(const struct api_field *fields, const char *name, struct api_error *error)
{
	struct closest closest = {.typed = name};

	for (const struct api_field *f = fields; f && f->name; f++)
		closest_offer(&closest, f->name);
	if (closest.best)
		return api_error_set(error, API_UNKNOWN_PARAMETER,
				     "there is no parameter '%.*s' here; did you mean '%s'?",
				     API_QUOTE_MAX, name, closest.best);
	return api_error_set(error, API_UNKNOWN_PARAMETER, "there is no parameter '%.*s' here",
			     API_QUOTE_MAX, name);
}

/* ---- Values ------------------------------------------------------------------------ */

static int take_text(const char *text, void *at, struct arena *memory, struct api_error *error)
{
	const char *copy = arena_text(memory, text);

	if (!copy)
		return out_of_memory(error);
	*(const char **)at = copy;
	return 0;
}

static int take_size_text(const char *name, const char *text, void *at, struct api_error *error)
{
	int r = size_parse(text, at);

	if (r < 0)
		return api_error_set(error, API_INVALID_PARAMETER,
				     "%s: '%.*s' is %s: give bytes, or a text as 10GiB or 512MiB",
				     name, API_QUOTE_MAX, text,
				     r == -ERANGE ? "too large" : "no size");
	return 0;
}

static int take_size_json(const char *name, const json_t *value, void *at, struct api_error *error)
{
	if (json_is_string(value))
		return take_size_text(name, json_string_value(value), at, error);
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return api_error_set(error, API_INVALID_PARAMETER,
				     "%s: give a whole number of bytes, or a text as \"10GiB\"",
				     name);
	*(uint64_t *)at = (uint64_t)json_integer_value(value);
	return 0;
}

static int take_number_text(const char *name, const char *text, void *at, struct api_error *error)
{
	size_t len = strlen(text);

	if (len == 0 || len > 18 || strspn(text, "0123456789") != len)
		return api_error_set(error, API_INVALID_PARAMETER,
				     "%s: '%.*s' is no whole number of at most 18 digits", name,
				     API_QUOTE_MAX, text);
	*(uint64_t *)at = strtoull(text, NULL, 10);
	return 0;
}

static int take_switch_text(const char *name, const char *text, void *at, struct api_error *error)
{
	if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
		return api_error_set(error, API_INVALID_PARAMETER,
				     "%s: '%.*s' is neither true nor false", name, API_QUOTE_MAX,
				     text);
	*(bool *)at = strcmp(text, "true") == 0;
	return 0;
}

static int take_tags(json_t *object, const struct api_field *field, struct control_op *op,
		     struct arena *memory, struct api_error *error)
{
	struct control_tag *tags;
	const char *key;
	json_t *value;
	unsigned n = 0;

	if (!json_is_object(object))
		return api_error_set(error, API_INVALID_PARAMETER,
				     "tags: give an object, as {\"team\": \"storage\"}");
	tags = arena_calloc(memory, json_object_size(object) + 1, sizeof(*tags));
	if (!tags)
		return out_of_memory(error);
	json_object_foreach(object, key, value)
	{
		if (!json_is_string(value))
			return api_error_set(error, API_INVALID_PARAMETER,
					     "tags: the value of '%.*s' is no string",
					     API_QUOTE_MAX, key);
		if (take_text(key, &tags[n].key, memory, error) < 0 ||
		    take_text(json_string_value(value), &tags[n].value, memory, error) < 0)
			return -1;
		n++;
	}
	*(const struct control_tag **)field_at(field, op) = tags;
	if (field->offset == offsetof(struct control_op, create.tags))
		op->create.n_tags = n;
	else
		op->snapshot_create.n_tags = n;
	return 0;
}

static int take_json(const struct api_field *field, json_t *value, struct control_op *op,
		     struct arena *memory, struct api_error *error)
{
	void *at = field_at(field, op);

	switch (field->kind) {
	case FIELD_TEXT:
		if (!json_is_string(value))
			break;
		return take_text(json_string_value(value), at, memory, error);
	case FIELD_SIZE:
		return take_size_json(field->name, value, at, error);
	case FIELD_NUMBER:
		if (!json_is_integer(value) || json_integer_value(value) < 0)
			return api_error_set(error, API_INVALID_PARAMETER,
					     "%s: give a whole number", field->name);
		*(uint64_t *)at = (uint64_t)json_integer_value(value);
		return 0;
	case FIELD_SWITCH:
		if (!json_is_boolean(value))
			break;
		*(bool *)at = json_is_true(value);
		return 0;
	case FIELD_TAGS:
		return take_tags(value, field, op, memory, error);
	}
	return api_error_set(error, API_INVALID_PARAMETER, "%s: give a %s", field->name,
			     field->kind == FIELD_TEXT ? "string" : "true or false");
}

static int take_parameter(const struct api_field *field, const char *value, struct control_op *op,
			  struct arena *memory, struct api_error *error)
{
	void *at = field_at(field, op);

	switch (field->kind) {
	case FIELD_TEXT:
		return take_text(value, at, memory, error);
	case FIELD_SIZE:
		return take_size_text(field->name, value, at, error);
	case FIELD_NUMBER:
		return take_number_text(field->name, value, at, error);
	case FIELD_SWITCH:
		return take_switch_text(field->name, value, at, error);
	case FIELD_TAGS:
		break;
	}
	return unknown(NULL, field->name, error);
}

/* ---- A body ------------------------------------------------------------------------ */

static int take_object(json_t *object, const struct api_field *fields, struct control_op *op,
		       struct arena *memory, struct api_error *error)
{
	const char *name;
	json_t *value;

	if (!json_is_object(object))
		return api_error_set(error, API_MALFORMED_JSON,
				     "the body must be a JSON object, { ... }");
	json_object_foreach(object, name, value)
	{
		const struct api_field *field = field_find(fields, name);

		if (!field)
			return unknown(fields, name, error);
		if (json_is_null(value))
			continue; /* as if it were not there */
		if (take_json(field, value, op, memory, error) < 0)
			return -1;
	}
	for (const struct api_field *f = fields; f->name; f++) {
		value = json_object_get(object, f->name);
		if (f->required && (!value || json_is_null(value)))
			return api_error_set(error, API_MISSING_PARAMETER, "'%s' is missing",
					     f->name);
	}
	return 0;
}

int api_parse_body(const char *body, size_t len, const struct api_field *fields,
		   struct control_op *op, struct arena *memory, struct api_error *error)
{
	json_error_t where;
	json_t *root;
	int r;

	if (!fields) {
		if (len == 0)
			return 0;
		return api_error_set(error, API_UNKNOWN_PARAMETER, "this request takes no body");
	}
	if (len == 0) {
		body = "{}";
		len = 2;
	}
	root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &where);
	if (!root)
		return api_error_set(error, API_MALFORMED_JSON,
				     "the body is no JSON: line %d, column %d: %s", where.line,
				     where.column, where.text);
	r = take_object(root, fields, op, memory, error);
	json_decref(root);
	return r;
}

/* ---- A query ----------------------------------------------------------------------- */

static int refuse_twice(const struct api_parameter *parameters, unsigned i, struct api_error *error)
{
	for (unsigned j = 0; j < i; j++)
		if (strcmp(parameters[j].name, parameters[i].name) == 0)
			return api_error_set(error, API_BAD_COMBINATION, "'%.*s' is given twice",
					     API_QUOTE_MAX, parameters[i].name);
	return 0;
}

static int require(const struct api_parameter *parameters, unsigned n,
		   const struct api_field *fields, struct api_error *error)
{
	for (const struct api_field *f = fields; f && f->name; f++) {
		unsigned i = 0;

		while (f->required && i < n && strcmp(parameters[i].name, f->name) != 0)
			i++;
		if (f->required && i == n)
			return api_error_set(error, API_MISSING_PARAMETER, "'%s' is missing",
					     f->name);
	}
	return 0;
}

int api_parse_query(const struct api_parameter *parameters, unsigned n,
		    const struct api_field *fields, struct control_op *op, struct arena *memory,
		    struct api_error *error)
{
	for (unsigned i = 0; i < n; i++) {
		const struct api_field *field = field_find(fields, parameters[i].name);

		if (!field)
			return unknown(fields, parameters[i].name, error);
		if (refuse_twice(parameters, i, error) < 0 ||
		    take_parameter(field, parameters[i].value, op, memory, error) < 0)
			return -1;
	}
	return require(parameters, n, fields, error);
}

static int take_max_results(const char *text, unsigned *ret, struct api_error *error)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || end == text || *end || n < 1 || n > CONTROL_PAGE_MAX)
		return api_error_set(error, API_INVALID_PARAMETER,
				     "max_results: '%.*s' is not a number from 1 to %d",
				     API_QUOTE_MAX, text, CONTROL_PAGE_MAX);
	*ret = (unsigned)n;
	return 0;
}

static unsigned count_named(const struct api_parameter *parameters, unsigned n, const char *name)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n; i++)
		count += strcmp(parameters[i].name, name) == 0;
	return count;
}

/* Every value whose parameter is `name`, into ret[]. */
static int take_named(const struct api_parameter *parameters, unsigned n, const char *name,
		      const char *const **ret, unsigned *ret_n, struct arena *memory,
		      struct api_error *error)
{
	unsigned count = count_named(parameters, n, name);
	const char **values = arena_calloc(memory, count + 1, sizeof(*values));
	unsigned used = 0;

	if (!values)
		return out_of_memory(error);
	for (unsigned i = 0; i < n; i++)
		if (strcmp(parameters[i].name, name) == 0 &&
		    take_text(parameters[i].value, &values[used++], memory, error) < 0)
			return -1;
	*ret = values;
	*ret_n = count;
	return 0;
}

/* Takes all parameters of that name as one filter, when it meets the first. */
static int take_filter(const struct api_parameter *parameters, unsigned n, unsigned i,
		       struct control_filter *filters, struct control_list_args *args,
		       struct arena *memory, struct api_error *error)
{
	const char *name = parameters[i].name;
	struct control_filter *filter = &filters[args->n_filters];

	if (count_named(parameters, i, name) > 0)
		return 0;
	if (args->n_filters == CONTROL_FILTERS_MAX)
		return api_error_set(error, "FilterLimitExceeded", "more than %d filters",
				     CONTROL_FILTERS_MAX);
	if (take_text(name + strlen(FILTER_PREFIX), &filter->name, memory, error) < 0)
		return -1;
	args->n_filters++;
	return take_named(parameters, n, name, &filter->values, &filter->n_values, memory, error);
}

int api_parse_list_query(const struct api_parameter *parameters, unsigned n,
			 struct control_list_args *args, struct arena *memory,
			 struct api_error *error)
{
	static const struct api_field names[] = {{.name = "id"},
						 {.name = "max_results"},
						 {.name = "next_token"},
						 {.name = "filter.tag:KEY"},
						 {.name = NULL}};
	struct control_filter *filters =
	    arena_calloc(memory, CONTROL_FILTERS_MAX, sizeof(*filters));
	int r = 0;

	if (!filters)
		return out_of_memory(error);
	args->filters = filters;
	for (unsigned i = 0; r == 0 && i < n; i++) {
		const char *name = parameters[i].name;

		if (strncmp(name, FILTER_PREFIX, strlen(FILTER_PREFIX)) == 0) {
			r = take_filter(parameters, n, i, filters, args, memory, error);
			continue;
		}
		if (!field_find(names, name))
			r = unknown(names, name, error);
		else if (strcmp(name, "id") == 0)
			continue; /* all of them below */
		else if (refuse_twice(parameters, i, error) < 0)
			r = -1;
		else if (strcmp(name, "max_results") == 0)
			r = take_max_results(parameters[i].value, &args->max_results, error);
		else
			r = take_text(parameters[i].value, &args->next_token, memory, error);
	}
	if (r == 0)
		r = take_named(parameters, n, "id", &args->ids, &args->n_ids, memory, error);
	return r;
}
