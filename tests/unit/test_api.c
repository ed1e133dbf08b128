/* SPDX-License-Identifier: Apache-2.0
 *
 * api/: bytes from clients as arguments, results as JSON, codes as HTTP status, paths as routes.
 */
#include "api/limits.h"
#include "api/render.h"
#include "api/request.h"
#include "api/routes.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Nothing here submits anything. */
void control_submit(struct control *control, struct control_op *op)
{
	(void)control;
	(void)op;
	fail();
}

void control_op_release(struct control_op *op)
{
	(void)op;
	fail();
}

static const struct route *route_of(enum control_kind kind)
{
	for (const struct route *r = routes; r->method; r++)
		if (r->kind == ROUTE_CONTROL && r->op == kind)
			return r;
	fail();
	return NULL;
}

/* What parsing a body for a route gives. */
struct parsed {
	struct control_op op;
	struct arena memory;
	struct api_error error;
};

static int parse_body(struct parsed *p, enum control_kind kind, const char *body)
{
	*p = (struct parsed){0};
	return api_parse_body(body, strlen(body), route_of(kind)->body, &p->op, &p->memory,
			      &p->error);
}

static int parse_list(struct parsed *p, const struct api_parameter *parameters, unsigned n)
{
	*p = (struct parsed){0};
	return api_parse_list_query(parameters, n, &p->op.list, &p->memory, &p->error);
}

/* Every member reaches its argument, as a copy. */
static void body_create_all_members(void **state)
{
	struct parsed p;

	(void)state;
	assert_int_equal(parse_body(&p, CONTROL_VOLUME_CREATE,
				    "{\"size\": \"10GiB\", \"name\": \"db\", \"client_token\": "
				    "\"t1\", \"tags\": {\"a\": \"1\", \"b\": \"\xc3\xa4\"}}"),
			 0);
	assert_int_equal(p.op.create.size, 10 * GiB);
	assert_string_equal(p.op.create.name, "db");
	assert_string_equal(p.op.create.client_token, "t1");
	assert_int_equal(p.op.create.n_tags, 2);
	assert_string_equal(p.op.create.tags[0].key, "a");
	assert_string_equal(p.op.create.tags[1].value, "\xc3\xa4");
	arena_free(&p.memory);

	assert_int_equal(parse_body(&p, CONTROL_VOLUME_CREATE, "{\"size\": 4096, \"name\": null}"),
			 0);
	assert_int_equal(p.op.create.size, 4096);
	assert_null(p.op.create.name);
	arena_free(&p.memory);

	assert_int_equal(parse_body(&p, CONTROL_ATTACH,
				    "{\"device\": \"/dev/sdg\", \"delete_on_termination\": true}"),
			 0);
	assert_string_equal(p.op.attach.device, "/dev/sdg");
	assert_true(p.op.attach.delete_on_termination);
	assert_null(p.op.attach.instance);
	arena_free(&p.memory);

	assert_int_equal(parse_body(&p, CONTROL_ATTACH, ""), 0);
	arena_free(&p.memory);
}

/* What is wrong is refused with the code and the name of the culprit. */
static void body_refuses(void **state)
{
	static const struct {
		const char *body;
		const char *code;
		const char *says;
	} cases[] = {
	    {"[]", API_MALFORMED_JSON, "object"},
	    {"\"size\"", API_MALFORMED_JSON, "JSON"},
	    {"{\"size\": 1", API_MALFORMED_JSON, "line 1"},
	    {"{\"size\": 1} x", API_MALFORMED_JSON, "column"},
	    {"{\"size\": 1, \"size\": 2}", API_MALFORMED_JSON, "duplicate"},
	    {"{\"size\": 1, \"name\": \"\xff\"}", API_MALFORMED_JSON, "0xff"},
	    {"{\"size\": 1, \"name\": \"\\u0000\"}", API_MALFORMED_JSON, "\\u0000"},
	    {"{\"size\": 99999999999999999999}", API_MALFORMED_JSON, "big"},
	    {"{\"sice\": 1}", API_UNKNOWN_PARAMETER, "did you mean 'size'"},
	    {"{\"size\": 1, \"xyzzy\": 1}", API_UNKNOWN_PARAMETER, "'xyzzy'"},
	    {"{\"size\": -1}", API_INVALID_PARAMETER, "size"},
	    {"{\"size\": 1.5}", API_INVALID_PARAMETER, "size"},
	    {"{\"size\": true}", API_INVALID_PARAMETER, "size"},
	    {"{\"size\": \"lots\"}", API_INVALID_PARAMETER, "'lots'"},
	    {"{\"size\": \"9999999TiB\"}", API_INVALID_PARAMETER, "too large"},
	    {"{\"size\": 1, \"name\": 7}", API_INVALID_PARAMETER, "name: give a string"},
	    {"{\"size\": 1, \"tags\": []}", API_INVALID_PARAMETER, "tags"},
	    {"{\"size\": 1, \"tags\": {\"k\": 1}}", API_INVALID_PARAMETER, "'k'"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct parsed p;

		if (parse_body(&p, CONTROL_VOLUME_CREATE, cases[i].body) == 0)
			fail_msg("accepted: %s", cases[i].body);
		if (strcmp(p.error.code, cases[i].code) != 0 ||
		    !strstr(p.error.text, cases[i].says))
			fail_msg("%s: %s: %s", cases[i].body, p.error.code, p.error.text);
		arena_free(&p.memory);
	}
}

/* What must be there and is not is named. */
static void body_misses(void **state)
{
	static const char *const bodies[] = {"", "{}", "{\"size\": null}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		struct parsed p;

		if (parse_body(&p, CONTROL_VOLUME_RESIZE, bodies[i]) == 0)
			fail_msg("accepted: %s", bodies[i]);
		assert_string_equal(p.error.code, API_MISSING_PARAMETER);
		assert_non_null(strstr(p.error.text, "'size'"));
		arena_free(&p.memory);
	}
}

/* A route without a body refuses one. */
static void body_refused_where_there_is_none(void **state)
{
	struct parsed p;

	(void)state;
	assert_int_equal(parse_body(&p, CONTROL_STATUS, "{}"), -1);
	assert_string_equal(p.error.code, API_UNKNOWN_PARAMETER);
	assert_int_equal(parse_body(&p, CONTROL_STATUS, ""), 0);
}

/* Deep nesting ends in an error, not in a stack overflow. */
static void body_nesting_is_bounded(void **state)
{
	static char body[API_BODY_MAX + 1];
	struct parsed p;

	(void)state;
	memset(body, '[', API_BODY_MAX);
	assert_int_equal(parse_body(&p, CONTROL_VOLUME_CREATE, body), -1);
	assert_string_equal(p.error.code, API_MALFORMED_JSON);
}

/* The parameters of a query reach their arguments; unknown, doubled and malformed ones do not. */
static void query_detach(void **state)
{
	const struct api_field *fields = route_of(CONTROL_DETACH)->query;
	const struct api_parameter good[] = {
	    {"force", "true"}, {"instance", "i-1"}, {"device", "/dev/sdf"}};
	const struct api_parameter unknown[] = {{"forse", "true"}};
	const struct api_parameter twice[] = {{"force", "true"}, {"force", "false"}};
	const struct api_parameter malformed[] = {{"force", "1"}};
	struct parsed p = {0};

	(void)state;
	assert_int_equal(api_parse_query(good, 3, fields, &p.op, &p.memory, &p.error), 0);
	assert_true(p.op.detach.force);
	assert_string_equal(p.op.detach.instance, "i-1");
	assert_string_equal(p.op.detach.device, "/dev/sdf");
	assert_int_equal(api_parse_query(unknown, 1, fields, &p.op, &p.memory, &p.error), -1);
	assert_non_null(strstr(p.error.text, "did you mean 'force'"));
	p.error.code = NULL;
	assert_int_equal(api_parse_query(twice, 2, fields, &p.op, &p.memory, &p.error), -1);
	assert_string_equal(p.error.code, API_BAD_COMBINATION);
	p.error.code = NULL;
	assert_int_equal(api_parse_query(malformed, 1, fields, &p.op, &p.memory, &p.error), -1);
	assert_string_equal(p.error.code, API_INVALID_PARAMETER);
	p.error.code = NULL;
	assert_int_equal(api_parse_query(good, 1, NULL, &p.op, &p.memory, &p.error), -1);
	assert_string_equal(p.error.code, API_UNKNOWN_PARAMETER);
	arena_free(&p.memory);
}

/* A number is digits alone, and what must be there is missed. */
static void query_number(void **state)
{
	const struct api_field *fields = route_of(CONTROL_SNAPSHOT_BLOCK)->query;
	static const char *const malformed[] = {"",   "-1",   "1x",
						" 1", "1KiB", "1234567890123456789"};
	struct api_parameter index = {"index", "123456789012345678"};
	struct parsed p = {0};

	(void)state;
	assert_int_equal(api_parse_query(&index, 1, fields, &p.op, &p.memory, &p.error), 0);
	assert_int_equal(p.op.block.index, 123456789012345678);
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
		index.value = malformed[i];
		p.error = (struct api_error){0};
		assert_int_equal(api_parse_query(&index, 1, fields, &p.op, &p.memory, &p.error),
				 -1);
		assert_string_equal(p.error.code, API_INVALID_PARAMETER);
	}
	p.error = (struct api_error){0};
	assert_int_equal(api_parse_query(NULL, 0, fields, &p.op, &p.memory, &p.error), -1);
	assert_string_equal(p.error.code, API_MISSING_PARAMETER);
	arena_free(&p.memory);
}

/* Values of one filter are gathered from anywhere in the query; names stay apart. */
static void query_list(void **state)
{
	const struct api_parameter parameters[] = {
	    {"filter.status", "available"},
	    {"id", "vol-1"},
	    {"filter.tag:a=b", "x"},
	    {"filter.status", "in-use"},
	    {"max_results", "17"},
	    {"next_token", "abc"},
	    {"id", "vol-2"},
	};
	struct parsed p;
	const struct control_list_args *list = &p.op.list;

	(void)state;
	assert_int_equal(parse_list(&p, parameters, ARRAY_SIZE(parameters)), 0);
	assert_int_equal(list->n_ids, 2);
	assert_string_equal(list->ids[1], "vol-2");
	assert_int_equal(list->max_results, 17);
	assert_string_equal(list->next_token, "abc");
	assert_int_equal(list->n_filters, 2);
	assert_string_equal(list->filters[0].name, "status");
	assert_int_equal(list->filters[0].n_values, 2);
	assert_string_equal(list->filters[0].values[1], "in-use");
	assert_string_equal(list->filters[1].name, "tag:a=b");
	assert_string_equal(list->filters[1].values[0], "x");
	arena_free(&p.memory);
}

static void query_list_refuses(void **state)
{
	static const struct api_parameter wrong[] = {
	    {"max_results", "0"}, {"max_results", "1001"}, {"max_results", "-1"},
	    {"max_results", "x"}, {"limit", "1"},          {"filter", "x"},
	};
	struct api_parameter many[CONTROL_FILTERS_MAX + 1];
	char names[CONTROL_FILTERS_MAX + 1][20];
	struct parsed p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(parse_list(&p, &wrong[i], 1), -1);
		assert_non_null(p.error.code);
		arena_free(&p.memory);
	}
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		snprintf(names[i], sizeof(names[i]), "filter.f%zu", i);
		many[i] = (struct api_parameter){names[i], "v"};
	}
	assert_int_equal(parse_list(&p, many, CONTROL_FILTERS_MAX), 0);
	arena_free(&p.memory);
	assert_int_equal(parse_list(&p, many, CONTROL_FILTERS_MAX + 1), -1);
	assert_string_equal(p.error.code, "FilterLimitExceeded");
	arena_free(&p.memory);
}

/* ---- Routes -----------------------------------------------------------------------------------
 */

static void route_finds(void **state)
{
	struct api_error error = {0};
	struct route_id id;
	char allow[64];

	(void)state;
	assert_ptr_equal(route_find("GET", "/v1/volumes", &id, allow, &error),
			 route_of(CONTROL_VOLUME_LIST));
	assert_ptr_equal(route_find("PATCH", "/v1/volumes/vol-7", &id, allow, &error),
			 route_of(CONTROL_VOLUME_RESIZE));
	assert_int_equal(id.len, 5);
	assert_memory_equal(id.text, "vol-7", 5);
	assert_ptr_equal(route_find("DELETE", "/v1/volumes/vol-7/attachments", &id, allow, &error),
			 route_of(CONTROL_DETACH));
	assert_int_equal(id.len, 5);
	assert_null(error.code);
}

static void route_refuses(void **state)
{
	static const char *const none[] = {"/",
					   "/v1/",
					   "/v2/volumes",
					   "/v1/volumes/",
					   "/v1/volumes//x",
					   "/v1/volumes/a/b",
					   "/v1/instances/",
					   "/v1/volumesx",
					   "",
					   "/V1/volumes",
					   "/v1/volumes/a/attachments/"};
	struct route_id id;
	char allow[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		struct api_error error = {0};

		assert_null(route_find("GET", none[i], &id, allow, &error));
		assert_string_equal(error.code, API_NO_SUCH_ROUTE);
		assert_string_equal(allow, "");
	}
}

/* A wrong method is told which ones are right. */
static void route_says_which_methods(void **state)
{
	struct api_error error = {0};
	struct route_id id;
	char allow[64];

	(void)state;
	assert_null(route_find("PUT", "/v1/volumes/vol-1", &id, allow, &error));
	assert_string_equal(error.code, API_METHOD_NOT_ALLOWED);
	assert_string_equal(allow, "GET, PATCH, DELETE");
}

/* docs/api.md describes each of them. */
static void route_is_documented(void **state)
{
	static char text[65536];
	FILE *file = fopen("docs/api.md", "r");

	(void)state;
	assert_non_null(file);
	assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
	fclose(file);
	for (const struct route *r = routes; r->method; r++) {
		char heading[100];

		snprintf(heading, sizeof(heading), "`%s %s`", r->method, r->path);
		if (!strstr(text, heading))
			fail_msg("docs/api.md does not mention %s", heading);
	}
}

static void status_of_codes(void **state)
{
	(void)state;
	assert_int_equal(api_status("InvalidVolume.NotFound"), 404);
	assert_int_equal(api_status("InvalidAttachment.NotFound"), 404);
	assert_int_equal(api_status("InvalidVolumeID.Malformed"), 400);
	assert_int_equal(api_status("InvalidParameterValue"), 400);
	assert_int_equal(api_status("VolumeInUse"), 409);
	assert_int_equal(api_status("IdempotentParameterMismatch"), 409);
	assert_int_equal(api_status("OperationNotPermitted"), 403);
	assert_int_equal(api_status("InsufficientVolumeCapacity"), 507);
	assert_int_equal(api_status("InternalError"), 500);
	assert_int_equal(api_status("Unavailable"), 503);
}

/* ---- Results ----------------------------------------------------------------------------------
 */

static void render_time(void **state)
{
	char text[API_TIME_TEXT];

	(void)state;
	assert_string_equal(api_time_format(0, text), "1970-01-01T00:00:00.000Z");
	assert_string_equal(api_time_format(UINT64_C(1795391320123456789), text),
			    "2026-11-22T23:48:40.123Z");
}

static void render_volume_members(void **state)
{
	struct control_tag tags[] = {{"Name", "db"}};
	struct control_attachment attachment = {
	    .id = "vol-attach-1",
	    .volume = "vol-1",
	    .instance = "i-1",
	    .device = "/dev/sdf",
	    .state = "attached",
	    .generation = 3,
	    .export_name = "secret",
	    .uri = "nbd+unix:///secret?socket=/run/nbd.sock",
	};
	struct control_volume volume = {
	    .id = "vol-1",
	    .name = "db",
	    .state = "in-use",
	    .zone = "zone-a",
	    .size = GiB,
	    .error_text = "odd \xff bytes",
	    .n_tags = 1,
	    .tags = tags,
	    .n_attachments = 1,
	    .attachments = &attachment,
	    .is_open = true,
	    .health = "ok",
	    .counters = {.records = 9},
	};
	struct control_op op = {.result = {.volumes = &volume}, .n_items = 1};
	json_t *json = api_render_volume(&op);
	json_t *a = json_array_get(json_object_get(json, "attachments"), 0);

	(void)state;
	assert_string_equal(json_string_value(json_object_get(json, "id")), "vol-1");
	assert_int_equal(json_integer_value(json_object_get(json, "size")), GiB);
	assert_string_equal(json_string_value(json_object_get(json, "error")), "odd ? bytes");
	assert_string_equal(
	    json_string_value(json_object_get(json_object_get(json, "tags"), "Name")), "db");
	assert_int_equal(
	    json_integer_value(json_object_get(json_object_get(json, "counters"), "records")), 9);
	assert_string_equal(json_string_value(json_object_get(a, "export_name")), "secret");
	assert_true(json_is_null(json_object_get(a, "tcp_uri")));
	json_decref(json);

	/* A closed volume has no counters, and a list says whether there is more. */
	volume.is_open = false;
	op.next_token = "more";
	json = api_render_volumes(&op);
	assert_string_equal(json_string_value(json_object_get(json, "next_token")), "more");
	a = json_array_get(json_object_get(json, "volumes"), 0);
	assert_null(json_object_get(a, "counters"));
	json_decref(json);
}

/* A ratio that is none (an empty store) is still JSON. */
static void render_status_members(void **state)
{
	const char *warnings[] = {"nearly full"};
	struct control_status status = {
	    .n_warnings = 1,
	    .warnings = warnings,
	    .version = "1",
	    .zone = "zone-a",
	    .zone_number = 1,
	    .instance = "i-1",
	    .overcommit = __builtin_nan(""),
	    .volumes_in_use = 2,
	    .sweep = {.state = "sweeping", .removed = 3, .error_text = "", .last = {.time = 1}},
	};
	struct control_op op = {.result = {.status = &status}};
	json_t *json = api_render_status(&op);
	json_t *sweep = json_object_get(json, "snapshot_sweep");

	(void)state;
	assert_non_null(json);
	assert_int_equal(
	    json_integer_value(json_object_get(json_object_get(sweep, "progress"), "removed")), 3);
	assert_true(json_is_object(json_object_get(sweep, "last")));
	assert_true(json_is_false(json_object_get(json, "healthy")));
	assert_int_equal(json_array_size(json_object_get(json, "warnings")), 1);
	assert_true(json_is_null(json_object_get(json, "nbd_socket")));
	assert_int_equal(
	    json_integer_value(json_object_get(json_object_get(json, "volumes"), "in-use")), 2);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(body_create_all_members),
	    cmocka_unit_test(body_refuses),
	    cmocka_unit_test(body_misses),
	    cmocka_unit_test(body_refused_where_there_is_none),
	    cmocka_unit_test(body_nesting_is_bounded),
	    cmocka_unit_test(query_detach),
	    cmocka_unit_test(query_number),
	    cmocka_unit_test(query_list),
	    cmocka_unit_test(query_list_refuses),
	    cmocka_unit_test(route_finds),
	    cmocka_unit_test(route_refuses),
	    cmocka_unit_test(route_says_which_methods),
	    cmocka_unit_test(route_is_documented),
	    cmocka_unit_test(status_of_codes),
	    cmocka_unit_test(render_time),
	    cmocka_unit_test(render_volume_members),
	    cmocka_unit_test(render_status_members),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
