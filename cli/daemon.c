/* SPDX-License-Identifier: Apache-2.0
 *
 * status, ping, check, events: the daemon as a whole.
 */
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PING_WAIT_SECONDS 60
#define PING_TIMEOUT_MS   5000
#define POLL_MS           200
#define EVENTS_LIMIT      20

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NSEC_PER_MSEC;
}

static void sleep_ms(unsigned ms)
{
	const struct timespec time = {.tv_nsec = (long)(ms * NSEC_PER_MSEC)};

	nanosleep(&time, NULL);
}

/* A whole number from `min` to `max`. */
static int parse_number(const char *what, const char *text, unsigned long min, unsigned long max,
			unsigned long *ret)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || n < min || n > max)
		return cli_fail(EXIT_USAGE, "%s '%s' is not a number from %lu to %lu", what, text,
				min, max);
	*ret = n;
	return EXIT_OK;
}

/* ---- status ------------------------------------------------------------------------ */

static const char *duration(const char *since, const char *now, char ret[64])
{
	struct tm from = {0};
	struct tm to = {0};
	long s;

	strptime(since, "%Y-%m-%dT%H:%M:%S", &from);
	strptime(now, "%Y-%m-%dT%H:%M:%S", &to);
	s = (long)(timegm(&to) - timegm(&from));
	if (s >= 86400)
		snprintf(ret, 64, "%ld d %ld h", s / 86400, s % 86400 / 3600);
	else if (s >= 3600)
		snprintf(ret, 64, "%ld h %ld min", s / 3600, s % 3600 / 60);
	else if (s >= 60)
		snprintf(ret, 64, "%ld min %ld s", s / 60, s % 60);
	else
		snprintf(ret, 64, "%ld s", s);
	return ret;
}

static void print_space(const json_t *space)
{
	char text[3][SIZE_TEXT_MAX];
	double limit = json_number_value(json_object_get(space, "overcommit_limit"));

	print_field("store", "%s, %s used, %s free",
		    size_format(get_number(space, "capacity"), text[0]),
		    size_format(get_number(space, "used"), text[1]),
		    size_format(get_number(space, "free"), text[2]));
	if (limit > 0)
		print_field("provisioned", "%s, %.2f of the store; the limit is %.2f (%s)",
			    size_format(get_number(space, "provisioned"), text[0]),
			    json_number_value(json_object_get(space, "overcommit")), limit,
			    size_format(get_number(space, "provision_limit"), text[1]));
	else
		print_field("provisioned", "%s, %.2f of the store",
			    size_format(get_number(space, "provisioned"), text[0]),
			    json_number_value(json_object_get(space, "overcommit")));
}

static void print_counts(const json_t *status)
{
	static const char *const states[] = {"available", "in-use", "creating", "deleting",
					     "error"};
	const json_t *volumes = json_object_get(status, "volumes");
	char text[256];
	uint64_t sum = 0;
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(states); i++) {
		uint64_t n = get_number(volumes, states[i]);

		sum += n;
		if (n > 0)
			used +=
			    (size_t)snprintf(text + used, sizeof(text) - used, "%s%" PRIu64 " %s",
					     used ? ", " : "", n, states[i]);
	}
	print_field("volumes", "%" PRIu64 "%s%s%s", sum, used ? " (" : "", text, used ? ")" : "");
	print_field("instances", "%" PRIu64, get_number(status, "instances"));
	print_field("attachments", "%" PRIu64 ", %" PRIu64 " NBD connections",
		    get_number(status, "attachments"), get_number(status, "connections"));
}

static void print_sweep(const json_t *sweep)
{
	const json_t *progress = json_object_get(sweep, "progress");
	const json_t *last = json_object_get(sweep, "last");
	char text[3][SIZE_TEXT_MAX];

	if (json_is_object(progress))
		print_field("snapshots",
			    "sweeping: %" PRIu64 " objects looked at, %" PRIu64
			    " removed, %s given back",
			    get_number(progress, "objects"), get_number(progress, "removed"),
			    size_format(get_number(progress, "freed"), text[0]));
	else if (strcmp(get_text(sweep, "state"), "elsewhere") == 0)
		print_field("snapshots", "another daemon sweeps");
	if (json_is_object(last))
		print_field("last sweep", "%s, %s given back; %s stored, %s needed",
			    get_text(last, "time"), size_format(get_number(last, "freed"), text[0]),
			    size_format(get_number(last, "stored"), text[1]),
			    size_format(get_number(last, "live"), text[2]));
}

static void print_status(struct cli *cli, const json_t *status)
{
	const json_t *warning;
	char up[64];
	size_t i;

	print_field("health", "%s",
		    json_is_true(json_object_get(status, "healthy")) ? "ok" : "look at this:");
	json_array_foreach(json_object_get(status, "warnings"), i, warning)
	    print_field("warning", "%s", json_string_value(warning));
	print_field("version", "%s, up %s", get_text(status, "version"),
		    duration(get_text(status, "start_time"), get_text(status, "now"), up));
	print_field("zone", "%s (%" PRIu64 ")", get_text(status, "zone"),
		    get_number(status, "zone_number"));
	print_field("this machine", "%s", get_text(status, "instance"));
	print_space(json_object_get(status, "space"));
	print_counts(status);
	print_sweep(json_object_get(status, "snapshot_sweep"));
	if (*get_text(status, "nbd_socket"))
		print_field("NBD", "%s", get_text(status, "nbd_socket"));
	if (*get_text(status, "nbd_tcp"))
		print_field("NBD (TCP)", "%s", get_text(status, "nbd_tcp"));
	print_field("API", "%s", client_socket(cli->client));
}

int run_status(struct cli *cli)
{
	const struct cli_request request = {.method = "GET", .path = "/v1/status"};
	json_t *reply;
	bool healthy;
	int status = cli_send(cli, &request, &reply);

	if (status != EXIT_OK)
		return status;
	healthy = json_is_true(json_object_get(reply, "healthy"));
	if (cli->json)
		cli_print_json(reply);
	else if (cli->quiet)
		puts(healthy ? "ok" : "warning");
	else
		print_status(cli, reply);
	json_decref(reply);
	return EXIT_OK;
}

/* ---- ping -------------------------------------------------------------------------- */

/* Whether the daemon answers that it is ready. */
static bool ping(struct cli *cli, struct err *err)
{
	struct client_call call = {
	    .method = "GET",
	    .path = "/v1/ping",
	    .timeout_ms = PING_TIMEOUT_MS,
	};
	bool ready;

	if (client_send(cli->client, &call, err) < 0)
		return false;
	ready = call.status == 200;
	if (!ready)
		err_set(err, -EAGAIN, "%s",
			get_text(json_object_get(call.reply, "error"), "message"));
	json_decref(call.reply);
	return ready;
}

static bool connect_and_ping(struct cli *cli, struct err *err)
{
	const char *path = cli->line.value[OPT_SOCKET];
	bool ready;

	if (!path)
		path = getenv("VOLUMED_SOCKET");
	if (client_new(path && *path ? path : NULL, &cli->client, err) < 0)
		return false;
	ready = ping(cli, err);
	client_free(cli->client);
	cli->client = NULL;
	return ready;
}

int run_ping(struct cli *cli)
{
	const char *text = cli->line.value[OPT_WAIT];
	unsigned long seconds = PING_WAIT_SECONDS;
	uint64_t start = now_ms();
	struct err err;

	if (!(cli->line.given & OPTION_BIT(OPT_WAIT)))
		seconds = 0;
	else if (text && parse_number("--wait", text, 0, 86400, &seconds) != EXIT_OK)
		return EXIT_USAGE;
	while (!connect_and_ping(cli, &err)) {
		uint64_t waited = now_ms() - start;

		if (waited >= seconds * 1000)
			return cli_fail(EXIT_UNREACHABLE, "%s", err.text);
		print_progress("waiting for the daemon: %" PRIu64 " s", waited / 1000);
		sleep_ms(POLL_MS / 2);
	}
	print_progress_end();
	if (cli->json)
		puts("{\n  \"status\": \"ok\"\n}");
	else if (!cli->quiet)
		puts("ready");
	return EXIT_OK;
}

/* ---- check ------------------------------------------------------------------------- */

static bool is_state(const json_t *check, const char *state)
{
	return strcmp(get_text(check, "state"), state) == 0;
}

/* Until it no longer runs. */
static int wait_for_check(struct cli *cli, json_t **check)
{
	const struct cli_request request = {.method = "GET", .path = "/v1/check"};
	int status = EXIT_OK;

	while (status == EXIT_OK && is_state(*check, "running")) {
		uint64_t steps = get_number(*check, "steps");

		if (steps)
			print_progress("checking: %" PRIu64 " of %" PRIu64 " steps",
				       get_number(*check, "steps_done"), steps);
		else
			print_progress("checking");
		json_decref(*check);
		*check = NULL;
		sleep_ms(POLL_MS);
		status = cli_send(cli, &request, check);
	}
	print_progress_end();
	return status;
}

static void print_check(const json_t *check)
{
	uint64_t wrong = get_number(check, "wrong");
	const json_t *finding;
	size_t i;

	json_array_foreach(json_object_get(check, "findings"), i, finding)
	    puts(json_string_value(finding));
	printf("%s: %" PRIu64 " volumes looked at", wrong ? "damaged" : "clean",
	       get_number(check, "volumes"));
	if (get_number(check, "in_use"))
		printf(", %" PRIu64 " of them in use", get_number(check, "in_use"));
	if (get_number(check, "skipped"))
		printf(" (%" PRIu64 " not to the end: deleted or stopped meanwhile, or the space "
		       "was needed; try again)",
		       get_number(check, "skipped"));
	printf(", %" PRIu64 " things wrong\n", wrong);
}

int run_check(struct cli *cli)
{
	struct cli_request request = {.method = "POST", .path = "/v1/check"};
	json_t *check = NULL;
	int status;

	request.body = json_pack("{s:b}", "deep", (cli->line.given & OPTION_BIT(OPT_DEEP)) != 0);
	status = cli_send(cli, &request, &check);
	if (status == EXIT_OK)
		status = wait_for_check(cli, &check);
	if (status != EXIT_OK)
		return status;
	if (is_state(check, "failed"))
		status = cli_fail(EXIT_FAILED, "the check could not be done: %s",
				  get_text(json_object_get(check, "error"), "message"));
	else if (get_number(check, "wrong") > 0)
		status = EXIT_FAILED;
	if (cli->json)
		cli_print_json(check);
	else if (!cli->quiet && is_state(check, "done"))
		print_check(check);
	json_decref(check);
	return status;
}

/* ---- events ------------------------------------------------------------------------ */

static int print_events(const json_t *events)
{
	static const struct print_column columns[] = {{"TIME", false},
						      {"WHAT", false},
						      {"RESOURCE", false},
						      {"WHO", false},
						      {"DETAIL", false}};
	struct print_table table;
	const json_t *event;
	size_t i;

	print_table_init(&table, columns, ARRAY_SIZE(columns));
	json_array_foreach(events, i, event)
	{
		char when[32];
		const char *cells[] = {
		    cli_time(get_text(event, "time"), when),
		    get_text(event, "what"),
		    get_text(event, "resource"),
		    get_text(event, "who"),
		    get_text(event, "detail"),
		};

		if (print_table_add(&table, cells) < 0)
			return cli_out_of_memory();
	}
	print_table_end(&table);
	return EXIT_OK;
}

/* The filter for the one volume or instance that is named. */
static int resource_filter(struct cli *cli, const char **query)
{
	const char *text = cli->line.n_arguments ? cli->line.arguments[0] : NULL;
	const char *id;
	int status;

	if (!text)
		return EXIT_OK;
	status = strncmp(text, "i-", 2) == 0 ? cli_find_instance(cli, text, &id)
					     : cli_find_volume(cli, text, &id);
	if (status != EXIT_OK)
		return status;
	*query = client_printf(cli->client, "%s&filter.resource=%s", *query, id);
	return *query ? EXIT_OK : cli_out_of_memory();
}

int run_events(struct cli *cli)
{
	const char *limit_text = cli->line.value[OPT_LIMIT];
	unsigned long limit = EVENTS_LIMIT;
	const char *query;
	json_t *events;
	int status = EXIT_OK;

	if (limit_text)
		status = parse_number("--limit", limit_text, 1, 1000000, &limit);
	if (status == EXIT_OK)
		status = cli_filters(cli, &query);
	if (status == EXIT_OK)
		status = resource_filter(cli, &query);
	if (status == EXIT_OK)
		status = cli_list(cli, "/v1/events", query, "events", (unsigned)limit, &events);
	if (status != EXIT_OK)
		return status;
	if (cli->json) {
		json_t *object = json_pack("{s:O}", "events", events);

		cli_print_json(object);
		json_decref(object);
	} else {
		status = print_events(events);
	}
	json_decref(events);
	return status;
}
