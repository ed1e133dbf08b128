/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot verify and snapshot copy, and what snapshot show says of them.
 */
#include "base/size.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"
#include "cli/scrub.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_copied(const json_t *s)
{
	const json_t *now = json_object_get(s, "copy");
	const json_t *last = json_object_get(s, "last_copy");
	uint64_t all = get_number(s, "size");
	char when[32];

	if (now && all)
		print_field("copying", "to %s, %" PRIu64 " %%", get_text(now, "to"),
			    get_number(now, "bytes") * 100 / all);
	if (last && *get_text(last, "error"))
		print_field("copied", "not: %s", get_text(last, "error"));
	else if (last)
		print_field("copied", "to %s, %s", get_text(last, "to"),
			    cli_time(get_text(last, "time"), when));
}

void print_verified(const json_t *s)
{
	const json_t *now = json_object_get(s, "verify");
	const json_t *last = json_object_get(s, "last_verify");
	uint64_t all = get_number(s, "full_bytes");
	char size[SIZE_TEXT_MAX];
	char when[32];
	const json_t *bad;
	size_t i;

	if (now)
		print_field("verifying", "%" PRIu64 " %%",
			    all ? get_number(now, "bytes") * 100 / all : 0);
	print_copied(s);
	if (!last)
		return;
	if (*get_text(last, "error"))
		print_field("verified", "%s: %s", cli_time(get_text(last, "time"), when),
			    get_text(last, "error"));
	else
		print_field("verified", "%s, %s of it bad", cli_time(get_text(last, "time"), when),
			    get_size(last, "bad_bytes", size));
	json_array_foreach(json_object_get(last, "bad"), i, bad)
	    print_field("bad", "%s at %" PRIu64 ": %s", get_size(bad, "length", size),
			get_number(bad, "offset"), get_text(bad, "why"));
}

static bool is_bad(const json_t *s)
{
	const json_t *last = json_object_get(s, "last_verify");

	return get_number(last, "bad_bytes") > 0 || *get_text(last, "error");
}

/* What is done to it: its progress is `what` of the snapshot, its end `last`. */
static int wait_for_end(struct cli *cli, const char *id, const char *what, const char *last,
			json_t **reply)
{
	struct cli_request request = {.method = "GET",
				      .path = client_printf(cli->client, "/v1/snapshots/%s", id)};
	const json_t *now;
	int status = EXIT_OK;

	while (status == EXIT_OK && (now = json_object_get(*reply, what))) {
		uint64_t all =
		    get_number(*reply, strcmp(what, "copy") == 0 ? "size" : "full_bytes");
		uint64_t done = get_number(now, "bytes");

		print_progress("%s: %" PRIu64 " %%", id,
			       all && done < all ? done * 100 / all : 100);
		cli_nap();
		json_decref(*reply);
		*reply = NULL;
		status = cli_send(cli, &request, reply);
	}
	print_progress_end();
	if (status == EXIT_OK && !json_object_get(*reply, last))
		return cli_fail(EXIT_FAILED, "the %s of %s was stopped before its end", what, id);
	return status;
}

static int begin(struct cli *cli, const char *id, const char *what, const char *to, json_t **reply)
{
	struct cli_request request = {.method = "POST"};
	uint64_t rate = 0;
	int status = EXIT_OK;

	if (cli->line.value[OPT_RATE])
		status = cli_parse_size(cli->line.value[OPT_RATE], &rate);
	if (status != EXIT_OK)
		return status;
	request.path = client_printf(cli->client, "/v1/snapshots/%s/%s", id, what);
	request.body = json_pack("{s:I, s:s*}", "rate", (json_int_t)rate, "to", to);
	if (!request.body)
		return cli_fail(EXIT_USAGE, "--to is no UTF-8");
	return cli_send(cli, &request, reply);
}

/* For people, and ids for scripts. */
static void report(const struct cli *cli, const json_t *s, bool waited)
{
	const char *id = get_text(s, "id");

	if (cli->quiet)
		puts(id);
	else if (!waited)
		printf("%s is being verified; volumectl snapshot show tells how far it is\n", id);
	else if (!is_bad(s))
		printf("%s: nothing is bad\n", id);
	else
		print_verified(s);
}

static int verify_one(struct cli *cli, const char *id, bool waits, json_t *all)
{
	json_t *reply = NULL;
	int status = begin(cli, id, "verify", NULL, &reply);

	if (status == EXIT_OK && waits)
		status = wait_for_end(cli, id, "verify", "last_verify", &reply);
	if (status == EXIT_OK && waits && is_bad(reply))
		status = EXIT_FAILED;
	if (reply && (status == EXIT_OK || (waits && is_bad(reply)))) {
		if (!cli->json)
			report(cli, reply, waits);
		else if (!all)
			cli_print_json(reply);
		else
			json_array_append(all, reply);
	}
	json_decref(reply);
	return status;
}

/* One after the other; what is bad in one stops none. */
static int verify_all(struct cli *cli)
{
	json_t *snapshots;
	json_t *results = json_array();
	const json_t *s;
	size_t i;
	int worst =
	    cli_list(cli, "/v1/snapshots", "&filter.status=completed", "snapshots", 0, &snapshots);

	if (worst != EXIT_OK) {
		json_decref(results);
		return worst;
	}
	json_array_foreach(snapshots, i, s)
	{
		int status = verify_one(cli, get_text(s, "id"), true, results);

		if (status != EXIT_OK)
			worst = status;
	}
	if (cli->json) {
		json_t *object = json_pack("{s:O}", "snapshots", results);

		cli_print_json(object);
		json_decref(object);
	}
	json_decref(results);
	json_decref(snapshots);
	return worst;
}

static int stop(struct cli *cli, const char *id, const char *what)
{
	struct cli_request request = {
	    .method = "DELETE",
	    .path = client_printf(cli->client, "/v1/snapshots/%s/%s", id, what),
	};
	json_t *reply = NULL;
	int status = cli_send(cli, &request, &reply);

	if (status == EXIT_OK && cli->json)
		cli_print_json(reply);
	else if (status == EXIT_OK && !cli->quiet)
		printf("the %s of %s stops\n", what, id);
	json_decref(reply);
	return status;
}

int run_snapshot_verify(struct cli *cli)
{
	bool all = cli->line.given & OPTION_BIT(OPT_ALL);
	bool stops = cli->line.given & OPTION_BIT(OPT_STOP);
	bool waits = cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED);
	const char *id;
	int status;

	if (all == (cli->line.arguments[0] != NULL))
		return cli_fail(EXIT_USAGE, "name either a snapshot or --all");
	if (all && stops)
		return cli_fail(EXIT_USAGE, "--stop needs a snapshot");
	if (all)
		return verify_all(cli);
	status = cli_find_snapshot(cli, cli->line.arguments[0], &id);
	if (status != EXIT_OK)
		return status;
	return stops ? stop(cli, id, "verify") : verify_one(cli, id, waits, NULL);
}

/* ---- copy ---------------------------------------------------------------------------------- */

static int report_copy(const struct cli *cli, const json_t *s, bool waited)
{
	const json_t *last = json_object_get(s, "last_copy");
	char size[SIZE_TEXT_MAX];

	if (waited && *get_text(last, "error"))
		return cli_fail(EXIT_FAILED, "%s is not copied: %s", get_text(s, "id"),
				get_text(last, "error"));
	if (cli->json)
		cli_print_json(s);
	else if (cli->quiet)
		puts(get_text(s, "id"));
	else if (waited)
		printf("%s is copied to %s: %s stored\n", get_text(s, "id"), get_text(last, "to"),
		       get_size(last, "stored_bytes", size));
	else
		printf("%s is being copied; volumectl snapshot show tells how far it is\n",
		       get_text(s, "id"));
	return EXIT_OK;
}

/* The daemon's working directory is not ours. */
static int absolute(struct cli *cli, const char *to, const char **ret_path)
{
	char folder[PATH_MAX];

	*ret_path = to;
	if (to[0] == '/')
		return EXIT_OK;
	if (!realpath(".", folder))
		return cli_fail(EXIT_FAILED, "--to: give an absolute path");
	*ret_path = client_printf(cli->client, "%s/%s", folder, to);
	return *ret_path ? EXIT_OK : cli_out_of_memory();
}

int run_snapshot_copy(struct cli *cli)
{
	bool waits = cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED);
	const char *to = cli->line.value[OPT_TO];
	json_t *reply = NULL;
	const char *id;
	int status = cli_find_snapshot(cli, cli->line.arguments[0], &id);

	if (status == EXIT_OK && cli->line.given & OPTION_BIT(OPT_STOP))
		return stop(cli, id, "copy");
	if (status == EXIT_OK && !to)
		status = cli_fail(EXIT_USAGE, "--to DIR is missing");
	if (status == EXIT_OK)
		status = absolute(cli, to, &to);
	if (status == EXIT_OK)
		status = begin(cli, id, "copy", to, &reply);
	if (status == EXIT_OK && waits)
		status = wait_for_end(cli, id, "copy", "last_copy", &reply);
	if (status == EXIT_OK)
		status = report_copy(cli, reply, waits);
	json_decref(reply);
	return status;
}
