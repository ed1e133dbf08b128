/* SPDX-License-Identifier: Apache-2.0
 *
 * volume create, list, show, resize, delete; attach, detach.
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

/* "/v1/volumes/ID" and `rest`. */
static const char *volume_path(struct cli *cli, const char *id, const char *rest)
{
	return client_printf(cli->client, "/v1/volumes/%s%s", id, rest);
}

/* ---- create ------------------------------------------------------------------------ */

/* A size may be left out with a snapshot; 0 then. */
static int take_origin(struct cli *cli, uint64_t *ret_bytes, const char **ret_snapshot,
		       uint64_t *ret_rate)
{
	const char *size = cli->line.value[OPT_SIZE];
	const char *rate = cli->line.value[OPT_INITIALIZATION_RATE];
	const char *snapshot = cli->line.value[OPT_SNAPSHOT];
	int status = EXIT_OK;

	*ret_snapshot = NULL;
	if (!size && !snapshot)
		return cli_fail(EXIT_USAGE, "--size SIZE is missing (or --snapshot SNAP)");
	if (cli->line.given & OPTION_BIT(OPT_FULL) && !snapshot)
		return cli_fail(EXIT_USAGE, "--full needs a --snapshot SNAP");
	if (rate && !snapshot)
		return cli_fail(EXIT_USAGE, "--initialization-rate needs a --snapshot SNAP");
	if (size)
		status = cli_parse_size(size, ret_bytes);
	if (status == EXIT_OK && rate)
		status = cli_parse_size(rate, ret_rate);
	if (status == EXIT_OK && snapshot)
		status = cli_find_snapshot(cli, snapshot, ret_snapshot);
	return status;
}

static unsigned percent_copied(const json_t *v)
{
	uint64_t all = get_number(v, "base_bytes");

	return all ? (unsigned)(get_number(v, "hydrated_bytes") * 100 / all) : 0;
}

/* Replaces *reply by the volume once it needs its snapshot no more. */
static int wait_copied(struct cli *cli, json_t **reply)
{
	const char *id = client_printf(cli->client, "%s", get_text(*reply, "id"));
	struct cli_request request = {.method = "GET"};
	int status = id ? EXIT_OK : cli_out_of_memory();

	if (status == EXIT_OK)
		request.path = volume_path(cli, id, "");
	while (status == EXIT_OK && *get_text(*reply, "snapshot") &&
	       strcmp(get_text(*reply, "state"), "error") != 0) {
		print_progress("%s: %u %% is copied", id, percent_copied(*reply));
		cli_nap();
		json_decref(*reply);
		*reply = NULL;
		status = cli_send(cli, &request, reply);
	}
	print_progress_end();
	if (status == EXIT_OK && *get_text(*reply, "snapshot"))
		status = cli_fail(EXIT_FAILED, "%s is %s: %s", id, get_text(*reply, "state"),
				  get_text(*reply, "error"));
	return status;
}

int run_volume_create(struct cli *cli)
{
	struct cli_request request = {
	    .method = "POST",
	    .path = "/v1/volumes",
	    .token = cli->line.value[OPT_CLIENT_TOKEN],
	    .waiting = "creating the volume",
	};
	char size[SIZE_TEXT_MAX];
	uint64_t bytes = 0;
	json_t *tags = NULL;
	json_t *reply = NULL;
	uint64_t rate = 0;
	const char *snapshot;
	int status = take_origin(cli, &bytes, &snapshot, &rate);

	if (status == EXIT_OK)
		status = cli_tags(&cli->line, &tags);
	if (status != EXIT_OK)
		return status;
	request.body = json_pack("{s:I, s:o, s:s*, s:s*, s:I, s:b}", "size", (json_int_t)bytes,
				 "tags", tags, "name", cli->line.value[OPT_NAME], "snapshot",
				 snapshot, "initialization_rate", (json_int_t)rate, "full",
				 (cli->line.given & OPTION_BIT(OPT_FULL)) != 0);
	if (!request.body)
		return cli_fail(EXIT_USAGE, "--name is no UTF-8");
	status = cli_send(cli, &request, &reply);
	if (status == EXIT_OK && cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED))
		status = wait_copied(cli, &reply);
	if (status != EXIT_OK) {
		json_decref(reply);
		return status;
	}
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(get_text(reply, "id"));
	else
		printf("%s is %s: %s\n", get_text(reply, "id"), get_text(reply, "state"),
		       get_size(reply, "size", size));
	json_decref(reply);
	return EXIT_OK;
}

/* ---- list -------------------------------------------------------------------------- */

static bool is_stalled(const json_t *v)
{
	return json_is_object(json_object_get(v, "stalled"));
}

static const char *list_state(struct cli *cli, const json_t *v)
{
	const char *state = get_text(v, "state");
	const char *text =
	    is_stalled(v) ? client_printf(cli->client, "%s, I/O stalled", state) : NULL;

	return text ? text : state;
}

static int print_volumes(struct cli *cli, const json_t *volumes)
{
	static const struct print_column columns[] = {
	    {"ID", false},     {"NAME", false},     {"SIZE", true},    {"STATE", false},
	    {"DEVICE", false}, {"INSTANCE", false}, {"CREATED", false}};
	struct print_table table;
	const json_t *v;
	size_t i;

	print_table_init(&table, columns, ARRAY_SIZE(columns));
	json_array_foreach(volumes, i, v)
	{
		const json_t *a = json_array_get(json_object_get(v, "attachments"), 0);
		char size[SIZE_TEXT_MAX];
		char created[32];
		const char *cells[] = {
		    get_text(v, "id"),
		    get_text(v, "name"),
		    get_size(v, "size", size),
		    list_state(cli, v),
		    get_text(a, "device"),
		    get_text(a, "instance"),
		    cli_time(get_text(v, "create_time"), created),
		};

		if (print_table_add(&table, cells) < 0)
			return cli_out_of_memory();
	}
	print_table_end(&table);
	return EXIT_OK;
}

int run_volume_list(struct cli *cli)
{
	const char *query;
	json_t *volumes;
	int status = cli_filters(cli, &query);

	if (status == EXIT_OK)
		status = cli_list(cli, "/v1/volumes", query, "volumes", 0, &volumes);
	if (status != EXIT_OK)
		return status;
	if (cli->json) {
		json_t *object = json_pack("{s:O}", "volumes", volumes);

		cli_print_json(object);
		json_decref(object);
	} else if (cli->quiet) {
		cli_print_ids(volumes);
	} else {
		status = print_volumes(cli, volumes);
	}
	json_decref(volumes);
	return status;
}

/* ---- show -------------------------------------------------------------------------- */

static void print_attachment(const json_t *a)
{
	char when[32];

	print_field("attached to", "%s as %s", get_text(a, "instance"), get_text(a, "device"));
	print_field("attachment", "%s, %s since %s", get_text(a, "id"), get_text(a, "state"),
		    cli_time(get_text(a, "attach_time"), when));
	if (*get_text(a, "error"))
		print_field("warning", "it is %s: %s", get_text(a, "state"), get_text(a, "error"));
	if (*get_text(a, "uri"))
		print_field("URI", "%s", get_text(a, "uri"));
	if (*get_text(a, "tcp_uri"))
		print_field("URI (TCP)", "%s", get_text(a, "tcp_uri"));
	print_field("connections", "%" PRIu64, get_number(a, "connections"));
	if (json_is_true(json_object_get(a, "delete_on_termination")))
		print_field("on termination", "the volume is deleted, too");
}

static void print_counters(const json_t *v)
{
	const json_t *c = json_object_get(v, "counters");
	char live[SIZE_TEXT_MAX];
	char allocated[SIZE_TEXT_MAX];

	if (!c)
		return;
	print_field("health", "%s", get_text(v, "health"));
	print_field("stored", "%s, in %s of the store", get_size(c, "live_bytes", live),
		    get_size(c, "allocated_bytes", allocated));
	print_field("log", "%" PRIu64 " records, %" PRIu64 " syncs, %" PRIu64 " checkpoints",
		    get_number(c, "records"), get_number(c, "syncs"), get_number(c, "checkpoints"));
	if (get_number(c, "bad_reads"))
		print_field("bad blocks read", "%" PRIu64, get_number(c, "bad_reads"));
}

static void print_origin(const json_t *v)
{
	uint64_t unreadable = get_number(v, "unreadable_bytes");
	char size[SIZE_TEXT_MAX];

	print_field("made of", "%s", get_text(v, "snapshot"));
	if (get_number(v, "base_bytes"))
		print_field("copied", "%u %%", percent_copied(v));
	if (unreadable)
		print_field("can't be read", "%s of the snapshot, which is tried again",
			    size_format(unreadable, size));
}

static void print_volume(const json_t *v)
{
	const json_t *attachment;
	const json_t *value;
	const char *key;
	char size[SIZE_TEXT_MAX];
	char when[32];
	size_t i;

	print_field("id", "%s", get_text(v, "id"));
	if (*get_text(v, "name"))
		print_field("name", "%s", get_text(v, "name"));
	print_field("state", "%s", get_text(v, "state"));
	if (*get_text(v, "error"))
		print_field("error", "%s", get_text(v, "error"));
	if (is_stalled(v))
		print_field("warning", "%s", get_text(json_object_get(v, "stalled"), "text"));
	print_field("size", "%s (%" PRIu64 " bytes)", get_size(v, "size", size),
		    get_number(v, "size"));
	print_field("zone", "%s", get_text(v, "zone"));
	if (*get_text(v, "snapshot"))
		print_origin(v);
	print_field("created", "%s", cli_time(get_text(v, "create_time"), when));
	json_object_foreach(json_object_get(v, "tags"), key, value)
	    print_field("tag", "%s=%s", key, json_string_value(value));
	json_array_foreach(json_object_get(v, "attachments"), i, attachment)
	    print_attachment(attachment);
	print_counters(v);
	print_integrity(v);
}

int run_volume_show(struct cli *cli)
{
	struct cli_request request = {.method = "GET"};
	const char *id;
	json_t *reply;
	int status = cli_find_volume(cli, cli->line.arguments[0], &id);

	if (status != EXIT_OK)
		return status;
	request.path = volume_path(cli, id, "");
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(get_text(reply, "id"));
	else
		print_volume(reply);
	json_decref(reply);
	return EXIT_OK;
}

/* ---- resize, delete ---------------------------------------------------------------- */

/* Sends it, and says "ID WHAT" (or what --json and --quiet want). */
static int send_and_say(struct cli *cli, const struct cli_request *request, const char *id,
			const char *what)
{
	json_t *reply;
	int status = cli_send(cli, request, &reply);

	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(id);
	else
		printf("%s %s\n", id, what);
	json_decref(reply);
	return EXIT_OK;
}

int run_volume_resize(struct cli *cli)
{
	struct cli_request request = {.method = "PATCH"};
	char size[SIZE_TEXT_MAX];
	const char *id;
	uint64_t bytes = 0;
	int status = cli_parse_size(cli->line.value[OPT_SIZE], &bytes);

	if (status == EXIT_OK)
		status = cli_find_volume(cli, cli->line.arguments[0], &id);
	if (status != EXIT_OK)
		return status;
	request.path = volume_path(cli, id, "");
	request.body = json_pack("{s:I}", "size", (json_int_t)bytes);
	request.waiting = client_printf(cli->client, "growing %s", id);
	return send_and_say(cli, &request, id,
			    client_printf(cli->client, "has %s now", size_format(bytes, size)));
}

int run_volume_delete(struct cli *cli)
{
	struct cli_request request = {.method = "DELETE"};
	const char *id;
	int status = cli_find_volume(cli, cli->line.arguments[0], &id);

	if (status != EXIT_OK)
		return status;
	request.path = volume_path(cli, id, "");
	request.waiting = client_printf(cli->client, "deleting %s", id);
	return send_and_say(cli, &request, id, "is deleted");
}

/* ---- attach, detach ---------------------------------------------------------------- */

static void print_attached(const json_t *a)
{
	printf("%s is attached to %s as %s\n", get_text(a, "volume"), get_text(a, "instance"),
	       get_text(a, "device"));
	if (*get_text(a, "uri"))
		printf("  %s\n", get_text(a, "uri"));
	if (*get_text(a, "tcp_uri"))
		printf("  %s\n", get_text(a, "tcp_uri"));
}

/* The volume's id, and the instance's, if one is named. */
static int find_both(struct cli *cli, const char **ret_volume, const char **ret_instance)
{
	const char *instance = cli->line.value[OPT_INSTANCE];
	int status = cli_find_volume(cli, cli->line.arguments[0], ret_volume);

	*ret_instance = NULL;
	if (status == EXIT_OK && instance)
		status = cli_find_instance(cli, instance, ret_instance);
	return status;
}

int run_attach(struct cli *cli)
{
	struct cli_request request = {.method = "POST"};
	const struct cli_line *line = &cli->line;
	const char *volume;
	const char *instance;
	json_t *reply;
	int status = find_both(cli, &volume, &instance);

	if (status != EXIT_OK)
		return status;
	request.path = volume_path(cli, volume, "/attachments");
	request.waiting = client_printf(cli->client, "attaching %s", volume);
	request.body = json_pack("{s:b, s:s*, s:s*}", "delete_on_termination",
				 (line->given & OPTION_BIT(OPT_DELETE_ON_TERMINATION)) != 0,
				 "instance", instance, "device", line->value[OPT_DEVICE]);
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(*get_text(reply, "uri") ? get_text(reply, "uri") : get_text(reply, "tcp_uri"));
	else
		print_attached(reply);
	json_decref(reply);
	return EXIT_OK;
}

/* A detach that waits for a disk which does not answer is answered before its end. */
static int print_detached(struct cli *cli, const char *volume, const json_t *reply)
{
	bool detached = strcmp(get_text(reply, "state"), "detached") == 0;

	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet && detached)
		puts(volume);
	else if (detached)
		printf("%s is detached\n", volume);
	if (detached)
		return EXIT_OK;
	return cli_fail(EXIT_FAILED,
			"%s is still detaching: %s. No client can use it any more; it is detached "
			"when the disk below answers (volumectl volume show %s)",
			volume, get_text(reply, "error"), volume);
}

int run_detach(struct cli *cli)
{
	struct cli_request request = {.method = "DELETE"};
	const struct cli_line *line = &cli->line;
	const char *device = line->value[OPT_DEVICE];
	const char *volume;
	const char *instance;
	const char *query;
	json_t *reply;
	int status = find_both(cli, &volume, &instance);

	if (status != EXIT_OK)
		return status;
	if (device)
		device = client_escape(cli->client, device);
	query = client_printf(cli->client, "/attachments?force=%s%s%s%s%s",
			      line->given & OPTION_BIT(OPT_FORCE) ? "true" : "false",
			      instance ? "&instance=" : "", instance ? instance : "",
			      device ? "&device=" : "", device ? device : "");
	if (!query)
		return cli_out_of_memory();
	request.path = volume_path(cli, volume, query);
	request.waiting =
	    client_printf(cli->client, "detaching %s: waiting for its clients", volume);
	status = cli_send(cli, &request, &reply);
	if (status != EXIT_OK)
		return status;
	status = print_detached(cli, volume, reply);
	json_decref(reply);
	return status;
}
