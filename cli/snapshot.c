/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot create, list, show, export, delete.
 */
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"
#include "cli/scrub.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *snapshot_path(struct cli *cli, const char *id)
{
	return client_printf(cli->client, "/v1/snapshots/%s", id);
}

static bool has_state(const json_t *s, const char *state)
{
	return strcmp(get_text(s, "state"), state) == 0;
}

/* ---- create -------------------------------------------------------------------------------- */

static int ask(struct cli *cli, const char *id, json_t **ret_reply)
{
	struct cli_request request = {.method = "GET", .path = snapshot_path(cli, id)};

	return cli_send(cli, &request, ret_reply);
}

/* Replaces *reply by how the snapshot ended. */
static int wait_completed(struct cli *cli, json_t **reply)
{
	const char *id = client_printf(cli->client, "%s", get_text(*reply, "id"));
	int status = id ? EXIT_OK : cli_out_of_memory();

	while (status == EXIT_OK && has_state(*reply, "pending")) {
		print_progress("%s: %" PRIu64 " %%", id, get_number(*reply, "progress"));
		cli_nap();
		json_decref(*reply);
		*reply = NULL;
		status = ask(cli, id, reply);
	}
	print_progress_end();
	if (status == EXIT_OK && !has_state(*reply, "completed"))
		status = cli_fail(EXIT_FAILED, "%s is %s: %s", id, get_text(*reply, "state"),
				  get_text(*reply, "error"));
	return status;
}

/* `volume`, or all of an instance: NULL. */
static int make_body(struct cli *cli, const char *volume, json_t **ret_body)
{
	const char *name = cli->line.value[OPT_NAME];
	bool exclude = cli->line.given & OPTION_BIT(OPT_EXCLUDE_BOOT);
	json_t *tags = NULL;
	int status = cli_tags(&cli->line, &tags);

	if (status != EXIT_OK)
		return status;
	if (name && json_object_get(tags, "Name")) {
		json_decref(tags);
		return cli_fail(EXIT_USAGE, "--name is the tag Name: give one of the two");
	}
	if (name && json_object_set_new(tags, "Name", json_string(name)) < 0) {
		json_decref(tags);
		return cli_fail(EXIT_USAGE, "--name is no UTF-8");
	}
	*ret_body = json_pack("{s:o, s:s*, s:s*}", "tags", tags, "volume", volume, "description",
			      cli->line.value[OPT_DESCRIPTION]);
	if (!*ret_body)
		return cli_fail(EXIT_USAGE, "--description is no UTF-8");
	if (exclude && json_object_set_new(*ret_body, "exclude_boot", json_true()) < 0)
		return cli_out_of_memory();
	return EXIT_OK;
}

static int create_of_volume(struct cli *cli)
{
	struct cli_request request = {.method = "POST", .path = "/v1/snapshots"};
	char size[SIZE_TEXT_MAX];
	const char *volume;
	json_t *reply = NULL;
	int status = cli_find_volume(cli, cli->line.arguments[0], &volume);

	if (status == EXIT_OK)
		status = make_body(cli, volume, &request.body);
	if (status != EXIT_OK)
		return status;
	request.waiting = client_printf(cli->client, "taking a snapshot of %s", volume);
	status = cli_send(cli, &request, &reply);
	if (status == EXIT_OK && cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED))
		status = wait_completed(cli, &reply);
	if (status == EXIT_OK && cli->json)
		cli_print_json(reply);
	else if (status == EXIT_OK && cli->quiet)
		puts(get_text(reply, "id"));
	else if (status == EXIT_OK)
		printf("%s of %s is %s: %s\n", get_text(reply, "id"), volume,
		       get_text(reply, "state"), get_size(reply, "size", size));
	json_decref(reply);
	return status;
}

static void print_group(const json_t *snapshots)
{
	const json_t *s;
	size_t i;

	json_array_foreach(snapshots, i, s)
	{
		char size[SIZE_TEXT_MAX];

		printf("%s of %s is %s: %s\n", get_text(s, "id"), get_text(s, "volume"),
		       get_text(s, "state"), get_size(s, "size", size));
	}
}

static int wait_group(struct cli *cli, json_t *snapshots)
{
	int status = EXIT_OK;

	for (size_t i = 0; i < json_array_size(snapshots) && status == EXIT_OK; i++) {
		json_t *s = json_incref(json_array_get(snapshots, i));

		status = wait_completed(cli, &s);
		if (s && json_array_set_new(snapshots, i, s) < 0)
			status = cli_out_of_memory();
	}
	return status;
}

static int create_of_instance(struct cli *cli)
{
	struct cli_request request = {.method = "POST"};
	const char *instance;
	json_t *reply = NULL;
	json_t *snapshots;
	int status = cli_find_instance(cli, cli->line.value[OPT_INSTANCE], &instance);

	if (status == EXIT_OK)
		status = make_body(cli, NULL, &request.body);
	if (status != EXIT_OK)
		return status;
	request.path = client_printf(cli->client, "/v1/instances/%s/snapshots", instance);
	request.waiting = client_printf(cli->client, "taking snapshots of %s", instance);
	status = cli_send(cli, &request, &reply);
	snapshots = json_object_get(reply, "snapshots");
	if (status == EXIT_OK && cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED))
		status = wait_group(cli, snapshots);
	if (status == EXIT_OK && cli->json)
		cli_print_json(reply);
	else if (status == EXIT_OK && cli->quiet)
		cli_print_ids(snapshots);
	else if (status == EXIT_OK)
		print_group(snapshots);
	json_decref(reply);
	return status;
}

int run_snapshot_create(struct cli *cli)
{
	bool of_instance = cli->line.value[OPT_INSTANCE] != NULL;

	if (of_instance == (cli->line.arguments[0] != NULL))
		return cli_fail(EXIT_USAGE,
				"name either a volume or, with --instance, an instance");
	if (!of_instance && cli->line.given & OPTION_BIT(OPT_EXCLUDE_BOOT))
		return cli_fail(EXIT_USAGE, "--exclude-boot needs an --instance");
	return of_instance ? create_of_instance(cli) : create_of_volume(cli);
}

/* ---- list ---------------------------------------------------------------------------------- */

static int print_snapshots(const json_t *snapshots)
{
	static const struct print_column columns[] = {
	    {"ID", false},       {"NAME", false},  {"VOLUME", false},
	    {"SIZE", true},      {"STORED", true}, {"STATE", false},
	    {"PROGRESS", false}, {"TAKEN", false}, {"DESCRIPTION", false}};
	struct print_table table;
	const json_t *s;
	size_t i;

	print_table_init(&table, columns, ARRAY_SIZE(columns));
	json_array_foreach(snapshots, i, s)
	{
		char size[SIZE_TEXT_MAX];
		char stored[SIZE_TEXT_MAX];
		char progress[8];
		char taken[32];
		const char *cells[] = {
		    get_text(s, "id"),
		    get_text(s, "name"),
		    get_text(s, "volume"),
		    get_size(s, "size", size),
		    get_size(s, "stored_bytes", stored),
		    get_text(s, "state"),
		    progress,
		    cli_time(get_text(s, "start_time"), taken),
		    get_text(s, "description"),
		};

		snprintf(progress, sizeof(progress), "%u %%", (unsigned)get_number(s, "progress"));
		if (print_table_add(&table, cells) < 0)
			return cli_out_of_memory();
	}
	print_table_end(&table);
	return EXIT_OK;
}

int run_snapshot_list(struct cli *cli)
{
	const char *query;
	json_t *snapshots;
	int status = cli_filters(cli, &query);

	if (status == EXIT_OK)
		status = cli_list(cli, "/v1/snapshots", query, "snapshots", 0, &snapshots);
	if (status != EXIT_OK)
		return status;
	if (cli->json) {
		json_t *object = json_pack("{s:O}", "snapshots", snapshots);

		cli_print_json(object);
		json_decref(object);
	} else if (cli->quiet) {
		cli_print_ids(snapshots);
	} else {
		status = print_snapshots(snapshots);
	}
	json_decref(snapshots);
	return status;
}

/* ---- show ---------------------------------------------------------------------------------- */

static void print_snapshot(const json_t *s)
{
	const json_t *value;
	const char *key;
	char text[SIZE_TEXT_MAX];
	char when[32];

	print_field("id", "%s", get_text(s, "id"));
	if (*get_text(s, "name"))
		print_field("name", "%s", get_text(s, "name"));
	if (*get_text(s, "description"))
		print_field("description", "%s", get_text(s, "description"));
	print_field("volume", "%s", *get_text(s, "volume") ? get_text(s, "volume") : "none");
	print_field("state", "%s", get_text(s, "state"));
	if (has_state(s, "pending"))
		print_field("progress", "%" PRIu64 " %%", get_number(s, "progress"));
	if (*get_text(s, "error"))
		print_field("error", "%s", get_text(s, "error"));
	print_field("taken", "%s", cli_time(get_text(s, "start_time"), when));
	if (*get_text(s, "completion_time"))
		print_field("completed", "%s", cli_time(get_text(s, "completion_time"), when));
	print_field("size", "%s (%" PRIu64 " bytes)", get_size(s, "size", text),
		    get_number(s, "size"));
	print_field("holds", "%s", get_size(s, "full_bytes", text));
	print_field("stored", "%s", get_size(s, "stored_bytes", text));
	if (*get_text(s, "parent"))
		print_field("shares with", "%s", get_text(s, "parent"));
	print_verified(s);
	json_object_foreach(json_object_get(s, "tags"), key, value)
	    print_field("tag", "%s=%s", key, json_string_value(value));
}

int run_snapshot_show(struct cli *cli)
{
	const char *id;
	json_t *reply;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &id);

	if (status == EXIT_OK)
		status = ask(cli, id, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(get_text(reply, "id"));
	else
		print_snapshot(reply);
	json_decref(reply);
	return EXIT_OK;
}

/* ---- export -------------------------------------------------------------------------------- */

/* A snapshot is served as it is: all that is to be done is to say where. */
static int print_export(struct cli *cli, const char *id, const char *socket)
{
	const char *uri = client_printf(cli->client, "nbd+unix:///%s?socket=%s", id, socket);
	json_t *object;

	if (!uri)
		return cli_out_of_memory();
	if (cli->json) {
		object = json_pack("{s:s, s:s}", "id", id, "uri", uri);
		cli_print_json(object);
		json_decref(object);
	} else if (cli->quiet) {
		puts(uri);
	} else {
		printf("%s can be read at\n  %s\n\nAs an image:\n"
		       "  qemu-img convert -f raw -O qcow2 '%s' %s.qcow2\n",
		       id, uri, uri, id);
	}
	return EXIT_OK;
}

int run_snapshot_export(struct cli *cli)
{
	struct cli_request request = {.method = "GET", .path = "/v1/status"};
	json_t *snapshot = NULL;
	json_t *daemon = NULL;
	const char *id;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &id);

	if (status == EXIT_OK)
		status = ask(cli, id, &snapshot);
	if (status == EXIT_OK && !has_state(snapshot, "completed"))
		status =
		    cli_fail(EXIT_CONFLICT, "%s is %s; only a completed snapshot can be exported",
			     id, get_text(snapshot, "state"));
	if (status == EXIT_OK)
		status = cli_send(cli, &request, &daemon);
	if (status == EXIT_OK && !*get_text(daemon, "nbd_socket"))
		status = cli_fail(EXIT_CONFLICT, "the daemon serves no NBD socket");
	if (status == EXIT_OK)
		status = print_export(cli, id, get_text(daemon, "nbd_socket"));
	json_decref(snapshot);
	json_decref(daemon);
	return status;
}

/* ---- delete -------------------------------------------------------------------------------- */

int run_snapshot_delete(struct cli *cli)
{
	struct cli_request request = {.method = "DELETE"};
	const char *id;
	json_t *reply;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &id);

	if (status != EXIT_OK)
		return status;
	request.path = snapshot_path(cli, id);
	request.waiting = client_printf(cli->client, "deleting %s", id);
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(id);
	else
		printf("%s is deleted\n", id);
	json_decref(reply);
	return EXIT_OK;
}
