/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/request.h"

#include "base/id.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE 500

int cli_fail(int status, const char *format, ...)
{
	va_list args;

	print_progress_end();
	fflush(stdout);
	fputs(CLI_PROGRAM ": ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

int cli_out_of_memory(void)
{
	return cli_fail(EXIT_FAILED, "out of memory");
}

int cli_exit_of(unsigned http_status)
{
	switch (http_status) {
	case 400:
		return EXIT_USAGE;
	case 403:
	case 409:
		return EXIT_CONFLICT;
	case 404:
		return EXIT_NOT_FOUND;
	case 503:
		return EXIT_UNREACHABLE;
	case 507:
		return EXIT_NO_SPACE;
	default:
		return http_status / 100 == 2 ? EXIT_OK : EXIT_FAILED;
	}
}

/* ---- Asking ------------------------------------------------------------------------ */

int cli_connect(struct cli *cli)
{
	const char *path = cli->line.value[OPT_SOCKET];
	struct err err;

	if (cli->client)
		return EXIT_OK;
	if (!path)
		path = getenv("VOLUMED_SOCKET");
	if (client_new(path && *path ? path : NULL, &cli->client, &err) < 0)
		return cli_fail(EXIT_UNREACHABLE, "%s", err.text);
	return EXIT_OK;
}

static int complain_refused(const struct client_call *call)
{
	const json_t *error = json_object_get(call->reply, "error");
	const char *message = get_text(error, "message");

	return cli_fail(cli_exit_of(call->status), "%s",
			*message ? message : "the daemon refused, and did not say why");
}

void cli_nap(void)
{
	const struct timespec nap = {.tv_nsec = 200000000};

	nanosleep(&nap, NULL);
}

int cli_send(struct cli *cli, const struct cli_request *request, json_t **ret_reply)
{
	struct client_call call = {
	    .method = request->method,
	    .path = request->path,
	    .body = request->body,
	    .token = request->token,
	    .waiting = cli->json || cli->quiet ? NULL : request->waiting,
	};
	struct err err;
	int status = cli_connect(cli);

	if (status == EXIT_OK && !call.path)
		status = cli_out_of_memory();
	if (status == EXIT_OK && client_send(cli->client, &call, &err) < 0)
		status = cli_fail(EXIT_UNREACHABLE, "%s", err.text);
	json_decref(request->body);
	if (status != EXIT_OK)
		return status;
	if (call.status / 100 != 2) {
		status = complain_refused(&call);
		json_decref(call.reply);
		return status;
	}
	*ret_reply = call.reply;
	return EXIT_OK;
}

/* One page into `items`; *ret_next is the token of the next, or NULL. */
static int take_page(struct cli *cli, const char *path, const char *name, json_t *items,
		     const char **ret_next)
{
	const struct cli_request request = {.method = "GET", .path = path};
	const char *next;
	json_t *reply;
	int status = cli_send(cli, &request, &reply);

	if (status != EXIT_OK)
		return status;
	json_array_extend(items, json_object_get(reply, name));
	next = json_string_value(json_object_get(reply, "next_token"));
	*ret_next = next ? client_escape(cli->client, next) : NULL;
	json_decref(reply);
	return EXIT_OK;
}

int cli_list(struct cli *cli, const char *path, const char *query, const char *name, unsigned limit,
	     json_t **ret_items)
{
	json_t *items = json_array();
	const char *next = NULL;
	int status = cli_connect(cli);

	if (status == EXIT_OK && !items)
		status = cli_out_of_memory();
	do {
		uint64_t left = limit ? limit - json_array_size(items) : PAGE;
		const char *page;

		if (status != EXIT_OK)
			break;
		page = client_printf(cli->client, "%s?max_results=%u%s%s%s", path,
				     (unsigned)min_u64(left, PAGE), query,
				     next ? "&next_token=" : "", next ? next : "");
		status = take_page(cli, page, name, items, &next);
	} while (next && (limit == 0 || json_array_size(items) < limit));
	if (status == EXIT_OK)
		*ret_items = items;
	else
		json_decref(items);
	return status;
}

/* ---- Names ------------------------------------------------------------------------- */

/* A filter's value that matches just `text`. */
static const char *literal(struct cli *cli, const char *text)
{
	size_t len = strlen(text);
	char *pattern = mem_alloc(2 * len + 1);
	const char *escaped;
	size_t used = 0;

	if (!pattern)
		return NULL;
	for (; *text; text++) {
		if (strchr("*?\\", *text))
			pattern[used++] = '\\';
		pattern[used++] = *text;
	}
	escaped = client_escape(cli->client, pattern);
	mem_free(pattern);
	return escaped;
}

static int complain_ambiguous(const char *what, const char *text, const json_t *items)
{
	char ids[ERR_TEXT_MAX] = "";
	size_t used = 0;

	for (size_t i = 0; i < json_array_size(items) && used < 300; i++)
		used += (size_t)snprintf(ids + used, sizeof(ids) - used, " %s",
					 get_text(json_array_get(items, i), "id"));
	return cli_fail(EXIT_USAGE, "%zu %ss have the name '%s'; say which by its id:%s",
			json_array_size(items), what, text, ids);
}

static int pick(struct cli *cli, const char *what, const char *prefix, const char *text,
		const json_t *items, const char **ret_id)
{
	size_t n = json_array_size(items);

	if (n > 1)
		return complain_ambiguous(what, text, items);
	if (n == 0 && strncmp(text, prefix, strlen(prefix)) == 0 && text[strlen(prefix)] == '-')
		return cli_fail(EXIT_NOT_FOUND,
				"'%s' is no %s's id, which is %s- and 17 hex digits, and no %s has "
				"that name",
				text, what, prefix, what);
	if (n == 0)
		return cli_fail(EXIT_NOT_FOUND,
				"no %s has the name '%s'; `volumectl %s list` shows all", what,
				text, what);
	*ret_id = client_printf(cli->client, "%s", get_text(json_array_get(items, 0), "id"));
	return *ret_id ? EXIT_OK : cli_out_of_memory();
}

/* `list` is both the end of the path and the name of the array. */
static int find(struct cli *cli, const char *what, const char *prefix, const char *list,
		const char *filter, const char *text, const char **ret_id)
{
	struct id id;
	json_t *items;
	const char *name;
	int status = cli_connect(cli);

	*ret_id = text;
	if (status != EXIT_OK || id_parse(text, prefix, &id) == 0)
		return status;
	name = literal(cli, text);
	if (!name)
		return cli_out_of_memory();
	status =
	    cli_list(cli, client_printf(cli->client, "/v1/%s", list),
		     client_printf(cli->client, "&filter.%s=%s", filter, name), list, 10, &items);
	if (status != EXIT_OK)
		return status;
	status = pick(cli, what, prefix, text, items, ret_id);
	json_decref(items);
	return status;
}

int cli_find_volume(struct cli *cli, const char *text, const char **ret_id)
{
	return find(cli, "volume", "vol", "volumes", "tag:Name", text, ret_id);
}

int cli_find_snapshot(struct cli *cli, const char *text, const char **ret_id)
{
	return find(cli, "snapshot", "snap", "snapshots", "tag:Name", text, ret_id);
}

int cli_find_instance(struct cli *cli, const char *text, const char **ret_id)
{
	return find(cli, "instance", "i", "instances", "name", text, ret_id);
}

/* ---- Values ------------------------------------------------------------------------ */

int cli_filters(struct cli *cli, const char **ret_query)
{
	const char *query = "";
	int status = cli_connect(cli);

	for (unsigned i = 0; status == EXIT_OK && i < cli->line.n_repeated; i++) {
		const char *text = cli->line.repeated[i].value;
		const char *equals = strchr(text, '=');
		const char *name;
		const char *value;

		if (cli->line.repeated[i].id != OPT_FILTER)
			continue;
		if (!equals || equals == text)
			return cli_fail(EXIT_USAGE, "--filter '%s': write it as NAME=VALUE", text);
		name = client_printf(cli->client, "%.*s", (int)(equals - text), text);
		name = name ? client_escape(cli->client, name) : NULL;
		value = client_escape(cli->client, equals + 1);
		query = name && value
			    ? client_printf(cli->client, "%s&filter.%s=%s", query, name, value)
			    : NULL;
		if (!query)
			return cli_out_of_memory();
	}
	*ret_query = query;
	return status;
}

int cli_parse_size(const char *text, uint64_t *ret_bytes)
{
	int r = size_parse(text, ret_bytes);

	if (r < 0)
		return cli_fail(EXIT_USAGE, "--size '%s' is %s: write it as 10GiB, 512MiB or 4096",
				text, r == -ERANGE ? "too large" : "no size");
	return EXIT_OK;
}

const char *get_text(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

uint64_t get_number(const json_t *object, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(object, name));

	return n < 0 ? 0 : (uint64_t)n;
}

void cli_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
}

const char *cli_time(const char *api_time, char ret[32])
{
	struct tm tm = {0};
	time_t seconds;

	snprintf(ret, 32, "%.31s", api_time);
	if (!strptime(api_time, "%Y-%m-%dT%H:%M:%S", &tm))
		return ret;
	seconds = timegm(&tm);
	if (localtime_r(&seconds, &tm))
		strftime(ret, 32, "%Y-%m-%d %H:%M:%S", &tm);
	return ret;
}

/* ---- What volumes and snapshots have ------------------------------------------------ */

const char *get_size(const json_t *object, const char *name, char text[SIZE_TEXT_MAX])
{
	return size_format(get_number(object, name), text);
}

void cli_print_ids(const json_t *items)
{
	const json_t *item;
	size_t i;

	json_array_foreach(items, i, item) puts(get_text(item, "id"));
}

static int add_tag(json_t *tags, const char *text)
{
	const char *equals = strchr(text, '=');
	char key[1024];

	if (!equals || equals == text || (size_t)(equals - text) >= sizeof(key))
		return cli_fail(EXIT_USAGE, "--tag '%s': write it as KEY=VALUE", text);
	snprintf(key, sizeof(key), "%.*s", (int)(equals - text), text);
	if (json_object_get(tags, key))
		return cli_fail(EXIT_USAGE, "--tag '%s': the key %s is there already", text, key);
	if (json_object_set_new(tags, key, json_string(equals + 1)) < 0)
		return cli_fail(EXIT_USAGE, "--tag '%s' is no UTF-8", text);
	return EXIT_OK;
}

int cli_tags(const struct cli_line *line, json_t **ret_tags)
{
	json_t *tags = json_object();
	int status = tags ? EXIT_OK : cli_out_of_memory();

	for (unsigned i = 0; status == EXIT_OK && i < line->n_repeated; i++)
		if (line->repeated[i].id == OPT_TAG)
			status = add_tag(tags, line->repeated[i].value);
	if (status == EXIT_OK)
		*ret_tags = tags;
	else
		json_decref(tags);
	return status;
}
