/* SPDX-License-Identifier: Apache-2.0
 *
 * What HTTP clients send, as the arguments of operations. The input is lines: method, path, query
 * ("name=value&..."), and after them the body. What is refused must be so with a code, and what is
 * accepted must be there to be read.
 */
#include "api/limits.h"
#include "api/request.h"
#include "api/routes.h"
#include "base/check.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned split_query(char *query, struct api_parameter parameters[API_PARAMETERS_MAX])
{
	unsigned n = 0;
	char *part;

	while (n < API_PARAMETERS_MAX && (part = strsep(&query, "&")) != NULL) {
		char *value = strchr(part, '=');

		if (value)
			*value++ = '\0';
		parameters[n++] = (struct api_parameter){part, value ? value : ""};
	}
	return n;
}

/* The bytes of all that was taken. */
static size_t use(const struct route *route, const struct control_op *op)
{
	size_t sum = 0;

	if (route->is_list) {
		for (unsigned i = 0; i < op->list.n_ids; i++)
			sum += strlen(op->list.ids[i]);
		for (unsigned i = 0; i < op->list.n_filters; i++) {
			sum += strlen(op->list.filters[i].name);
			for (unsigned j = 0; j < op->list.filters[i].n_values; j++)
				sum += strlen(op->list.filters[i].values[j]);
		}
		CHECK(op->list.max_results <= CONTROL_PAGE_MAX);
		CHECK(op->list.n_filters <= CONTROL_FILTERS_MAX);
	}
	for (const struct api_field *f = route->body ? route->body : route->query; f && f->name;
	     f++) {
		const char *text = *(const char *const *)((const char *)op + f->offset);

		if (f->kind == FIELD_TEXT && text)
			sum += strlen(text);
	}
	for (unsigned i = 0; route->op == CONTROL_VOLUME_CREATE && i < op->create.n_tags; i++)
		sum += strlen(op->create.tags[i].key) + strlen(op->create.tags[i].value);
	return sum;
}

static int parse(const struct route *route, char *query, const char *body, size_t len,
		 struct control_op *op, struct arena *memory, struct api_error *error)
{
	static struct api_parameter parameters[API_PARAMETERS_MAX];
	unsigned n = query && *query ? split_query(query, parameters) : 0;
	int r = route->is_list ? api_parse_list_query(parameters, n, &op->list, memory, error)
			       : api_parse_query(parameters, n, route->query, op, memory, error);

	return r < 0 ? r : api_parse_body(body, len, route->body, op, memory, error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control_op op = {0};
	struct arena memory = {0};
	struct api_error error = {0};
	struct route_id id;
	char allow[64];
	char *text = malloc(size + 1);
	char *rest = text;
	char *method;
	char *path;
	char *query;
	const struct route *route;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	method = strsep(&rest, "\n");
	path = strsep(&rest, "\n");
	query = strsep(&rest, "\n");
	route = path ? route_find(method, path, &id, allow, &error) : NULL;
	if (route) {
		size_t len = rest ? size - (size_t)(rest - text) : 0;
		int r = parse(route, query, rest ? rest : "", len, &op, &memory, &error);

		CHECK((r < 0) == (error.code != NULL));
		if (r == 0)
			CHECK(use(route, &op) <= size);
	}
	if (error.code)
		CHECK(api_status(error.code) >= 400 && error.text[0]);
	arena_free(&memory);
	free(text);
	return 0;
}
