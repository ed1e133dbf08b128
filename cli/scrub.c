/* SPDX-License-Identifier: Apache-2.0
 *
 * scrub; and what is bad of a volume, for people.
 */
#include "cli/scrub.h"

#include "base/size.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int percent(const json_t *v)
{
	uint64_t size = get_number(v, "size");
	uint64_t done = get_number(json_object_get(v, "scrub"), "bytes");

	return size ? (int)((double)done * 100 / (double)size) : 100;
}

static void print_place(const json_t *place)
{
	const char *what = get_text(place, "what");
	uint64_t offset = get_number(place, "offset");
	uint64_t length = get_number(place, "length");
	char size[SIZE_TEXT_MAX];

	if (strcmp(what, "root") == 0)
		print_field("bad", "%s (%" PRIu64 ")", get_text(place, "why"), offset);
	else
		print_field("bad", "%s at LBA %" PRIu64 " (of 4 KiB; byte %" PRIu64 "): %s",
			    size_format(length, size), offset / 4096, offset,
			    get_text(place, "why"));
}

void print_integrity(const json_t *v)
{
	const json_t *last = json_object_get(v, "last_scrub");
	const json_t *scrub = json_object_get(v, "scrub");
	const json_t *place;
	char when[32];
	size_t i;

	json_array_foreach(json_object_get(v, "bad"), i, place) print_place(place);
	if (json_is_true(json_object_get(v, "more_bad")))
		print_field("bad", "and more, or of unknown place: scrub it");
	if (scrub)
		print_field("scrub", "%d %%, %" PRIu64 " bad places so far", percent(v),
			    get_number(scrub, "bad"));
	if (last)
		print_field("last scrub", "%s, %" PRIu64 " bad places",
			    cli_time(get_text(last, "time"), when), get_number(last, "bad"));
}

static int ask(struct cli *cli, const char *id, json_t **reply)
{
	struct cli_request request = {.method = "GET"};

	request.path = client_printf(cli->client, "/v1/volumes/%s", id);
	cli_nap();
	json_decref(*reply);
	*reply = NULL;
	return cli_send(cli, &request, reply);
}

/* A scrub that was stopped leaves the time of the one before. */
static int wait_for_end(struct cli *cli, const char *id, json_t **reply)
{
	char before[64];
	const json_t *last;
	int status;

	snprintf(before, sizeof(before), "%s",
		 get_text(json_object_get(*reply, "last_scrub"), "time"));
	do {
		print_progress("%s: %d %%", id, percent(*reply));
		status = ask(cli, id, reply);
	} while (status == EXIT_OK && json_object_get(*reply, "scrub"));
	print_progress_end();
	if (status != EXIT_OK)
		return status;
	last = json_object_get(*reply, "last_scrub");
	if (strcmp(get_text(last, "time"), before) == 0)
		return cli_fail(EXIT_FAILED, "the scrub of %s was stopped before its end", id);
	return get_number(last, "bad") ? EXIT_FAILED : EXIT_OK;
}

static int report(struct cli *cli, const json_t *v, bool waited)
{
	const json_t *last = json_object_get(v, "last_scrub");
	uint64_t bad = get_number(last, "bad");

	if (cli->json)
		cli_print_json(v);
	else if (cli->quiet)
		puts(get_text(v, "id"));
	else if (!waited)
		printf("%s is being scrubbed; volumectl volume show tells how far it is\n",
		       get_text(v, "id"));
	else if (bad == 0)
		printf("%s: nothing is bad\n", get_text(v, "id"));
	else
		printf("%s: %" PRIu64 " bad places; overwrite them, or restore the volume\n",
		       get_text(v, "id"), bad);
	if (waited && bad && !cli->json && !cli->quiet)
		print_integrity(v);
	return EXIT_OK;
}

static int stop(struct cli *cli, const char *id)
{
	struct cli_request request = {.method = "DELETE"};
	json_t *reply = NULL;
	int status;

	request.path = client_printf(cli->client, "/v1/volumes/%s/scrub", id);
	status = cli_send(cli, &request, &reply);
	if (status == EXIT_OK && cli->json)
		cli_print_json(reply);
	else if (status == EXIT_OK && !cli->quiet)
		printf("the scrub of %s stops\n", id);
	json_decref(reply);
	return status;
}

int run_scrub(struct cli *cli)
{
	struct cli_request request = {.method = "POST"};
	bool waits = cli->line.given & OPTION_BIT(OPT_WAIT_COMPLETED);
	json_t *reply = NULL;
	uint64_t rate = 0;
	const char *id;
	int status = EXIT_OK;
	int said;

	if (cli->line.value[OPT_RATE])
		status = cli_parse_size(cli->line.value[OPT_RATE], &rate);
	if (status == EXIT_OK)
		status = cli_find_volume(cli, cli->line.arguments[0], &id);
	if (status != EXIT_OK)
		return status;
	if (cli->line.given & OPTION_BIT(OPT_STOP))
		return stop(cli, id);
	request.path = client_printf(cli->client, "/v1/volumes/%s/scrub", id);
	request.body = rate ? json_pack("{s:I}", "rate", (json_int_t)rate) : json_object();
	if (!request.body)
		return cli_out_of_memory();
	status = cli_send(cli, &request, &reply);
	if (status == EXIT_OK && waits)
		status = wait_for_end(cli, id, &reply);
	said = reply && (status == EXIT_OK || status == EXIT_FAILED) ? report(cli, reply, waits)
								     : EXIT_OK;
	json_decref(reply);
	return status != EXIT_OK ? status : said;
}
