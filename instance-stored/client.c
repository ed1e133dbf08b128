/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-stored/client.h"

#include "base/mem.h"
#include "base/size.h"
#include "base/util.h"

#include <argp.h>
#include <curl/curl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOCKET    "/run/instance-stored/instance-stored.sock"
#define REPLY_MAX ((size_t)4 << 20)
#define PATH_SIZE 256
#define ARGS_MAX  3

struct client {
	const char *command;
	const char *socket;
	bool json;
	const char *args[ARGS_MAX];
	unsigned n_args;

	char *reply;
	size_t reply_len;
	long status;
};

static const struct command {
	const char *name;
	const char *args;
	const char *doc;
	unsigned min;
	unsigned max;
	const char *done; /* what has happened to disks */
} commands[] = {
    {"create", "INSTANCE NUMBER SIZE",
     "Makes disk NUMBER (0 to 23) of an instance; again with the same size, it does nothing.", 3, 3,
     NULL},
    {"list", "[INSTANCE]", "Lists the disks of this host, or of one instance.", 0, 1, NULL},
    {"wipe", "INSTANCE [NUMBER]",
     "Destroys the data of an instance's disks, or of one: they read as zeroes.", 1, 2, "wiped"},
    {"delete", "INSTANCE [NUMBER]", "Ends an instance's disks, or one, and their data.", 1, 2,
     "deleted"},
    {"event", "INSTANCE EVENT",
     "Tells what happens to an instance: reboot keeps its disks; stop, hibernate, terminate, move "
     "and host-failure end them.",
     2, 2, "ended"},
    {"status", "", "Shows the store.", 0, 0, NULL},
};

static const struct command *find_command(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

bool client_is_command(int argc, char **argv)
{
	return argc > 1 && find_command(argv[1]);
}

/* ---- Arguments --------------------------------------------------------------------- */

enum option_key { KEY_SOCKET = 256, KEY_JSON };

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct client *c = state->input;
	const struct command *command = find_command(c->command);

	switch (key) {
	case KEY_SOCKET:
		c->socket = arg;
		return 0;
	case KEY_JSON:
		c->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (c->n_args == command->max)
			argp_error(state, "'%s' is one argument too many", arg);
		c->args[c->n_args++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (c->n_args < command->min)
			argp_error(state, "an argument is missing: %s", command->args);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void parse(struct client *c, int argc, char **argv)
{
	static const struct argp_option options[] = {
	    {"socket", KEY_SOCKET, "PATH", 0,
	     "The daemon's instance-stored.sock (default: $INSTANCE_STORED_SOCKET, or " SOCKET ")",
	     1},
	    {"json", KEY_JSON, NULL, 0, "Print what the daemon answers", 1},
	    {0},
	};
	const struct command *command = find_command(argv[1]);
	const struct argp argp = {
	    .options = options,
	    .parser = parse_option,
	    .args_doc = command->args,
	    .doc = command->doc,
	};
	static char name[64];

	snprintf(name, sizeof(name), "instance-stored %s", command->name);
	argv[1] = name;
	c->command = command->name;
	argp_err_exit_status = 2;
	argp_parse(&argp, argc - 1, argv + 1, 0, NULL, c);
	if (!c->socket)
		c->socket = getenv("INSTANCE_STORED_SOCKET");
	if (!c->socket || !c->socket[0])
		c->socket = SOCKET;
}

/* ---- Requests ---------------------------------------------------------------------- */

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct client *c = arg;
	size_t len = size * n;
	char *reply;

	if (c->reply_len + len > REPLY_MAX)
		return 0;
	reply = mem_realloc(c->reply, c->reply_len + len + 1);
	if (!reply)
		return 0;
	memcpy(reply + c->reply_len, data, len);
	c->reply = reply;
	c->reply_len += len;
	c->reply[c->reply_len] = '\0';
	return len;
}

static int perform(struct client *c, const char *method, const char *path, const char *body)
{
	char error[CURL_ERROR_SIZE] = "";
	char url[PATH_SIZE + 32];
	CURL *curl = curl_easy_init();
	CURLcode code = CURLE_FAILED_INIT;

	snprintf(url, sizeof(url), "http://localhost%s", path);
	if (curl) {
		curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
		curl_easy_setopt(curl, CURLOPT_URL, url);
		curl_easy_setopt(curl, CURLOPT_PROXY, "");
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
		curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
		curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
		curl_easy_setopt(curl, CURLOPT_WRITEDATA, c);
		if (body)
			curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
		code = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &c->status);
		curl_easy_cleanup(curl);
	}
	if (code == CURLE_OK)
		return 0;
	fprintf(stderr,
		"instance-stored: no daemon answers on %s (%s): start one (instance-stored "
		"--data-dir DIR), or name its socket by --socket or INSTANCE_STORED_SOCKET\n",
		c->socket, error[0] ? error : curl_easy_strerror(code));
	return -1;
}

/* The part of a path that `text` is; what is not plain there is no id anyway. */
static const char *part(const char *text)
{
	return text[0] && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(text)
		   ? text
		   : "-";
}

static char *body_of_create(const struct client *c)
{
	uint64_t size = 0;
	char *end;
	unsigned long number = strtoul(c->args[1], &end, 10);
	json_t *json;
	char *text;

	if (size_parse(c->args[2], &size) < 0 || *end || end == c->args[1]) {
		fprintf(stderr, "instance-stored create: write a number and a size, as in: "
				"i-0123456789abcdef0 0 75GiB\n");
		return NULL;
	}
	json = json_pack("{s:s, s:I, s:I}", "instance", c->args[0], "number", (json_int_t)number,
			 "size", (json_int_t)size);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return text;
}

static char *body_of_event(const struct client *c)
{
	json_t *json = json_pack("{s:s}", "event", c->args[1]);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

/* 0, 2: bad usage, 1: no answer. */
static int send_command(struct client *c)
{
	bool is_wipe = strcmp(c->command, "wipe") == 0;
	const char *instance = c->n_args ? part(c->args[0]) : NULL;
	const char *method = is_wipe ? "POST" : "DELETE";
	const char *end = is_wipe ? "/wipe" : "";
	char path[PATH_SIZE];
	char *body = NULL;
	int r;

	if (strcmp(c->command, "create") == 0) {
		body = body_of_create(c);
		if (!body)
			return 2;
		r = perform(c, "POST", "/v1/disks", body);
		mem_free(body);
		return r < 0 ? 1 : 0;
	}
	if (strcmp(c->command, "event") == 0) {
		body = body_of_event(c);
		method = "POST";
		snprintf(path, sizeof(path), "/v1/instances/%s/event", instance);
	} else if (strcmp(c->command, "status") == 0) {
		method = "GET";
		snprintf(path, sizeof(path), "/v1/status");
	} else if (strcmp(c->command, "list") == 0) {
		method = "GET";
		snprintf(path, sizeof(path), instance ? "/v1/instances/%s" : "/v1/disks", instance);
	} else if (c->n_args == 2) {
		snprintf(path, sizeof(path), "/v1/disks/%s/%s%s", instance, part(c->args[1]), end);
	} else {
		snprintf(path, sizeof(path), "/v1/instances/%s%s", instance, end);
	}
	r = perform(c, method, path, body);
	mem_free(body);
	return r < 0 ? 1 : 0;
}

/* ---- Output ------------------------------------------------------------------------ */

static uint64_t number_of(const json_t *json, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(json, name));
}

static const char *size_of(const json_t *json, const char *name, char text[SIZE_TEXT_MAX])
{
	return size_format(number_of(json, name), text);
}

static void print_disk(const json_t *disk)
{
	const char *export = json_string_value(json_object_get(disk, "export"));
	char size[SIZE_TEXT_MAX];
	char written[SIZE_TEXT_MAX];

	printf("%-34s %12s %12s %6" PRIu64 "  %s\n", export ? export : "-",
	       size_of(disk, "size", size), size_of(disk, "written", written),
	       number_of(disk, "connections"),
	       json_is_true(json_object_get(disk, "served")) ? "served" : "not served");
}

static void print_status(const json_t *status)
{
	const char *error = json_string_value(json_object_get(status, "discard_error"));
	char a[SIZE_TEXT_MAX];
	char b[SIZE_TEXT_MAX];

	printf("disks:       %" PRIu64 "\n", number_of(status, "disks"));
	printf("used:        %s of %s\n", size_of(status, "used", a), size_of(status, "size", b));
	printf("to discard:  %s%s%s\n", size_of(status, "to_discard", a),
	       error && error[0] ? "; last error: " : "", error ? error : "");
	if (json_is_true(json_object_get(status, "table_failed")))
		printf("the disk table could not be written: restart the daemon\n");
}

static void print_reply(const struct client *c, const json_t *reply)
{
	const json_t *disks = json_object_get(reply, "disks");
	const json_t *disk;
	size_t i;

	if (json_is_array(disks)) {
		printf("%-34s %12s %12s %6s  %s\n", "EXPORT", "SIZE", "WRITTEN", "CONNS", "STATE");
		json_array_foreach(disks, i, disk) print_disk(disk);
	} else if (strcmp(c->command, "status") == 0) {
		print_status(reply);
	} else if (strcmp(c->command, "create") == 0) {
		printf("%s\n", json_string_value(json_object_get(reply, "export")));
	} else {
		printf("%" PRIu64 " disk%s %s\n", number_of(reply, "disks"),
		       number_of(reply, "disks") == 1 ? "" : "s", find_command(c->command)->done);
	}
}

static int show(const struct client *c)
{
	json_t *reply = json_loads(c->reply ? c->reply : "", 0, NULL);
	const json_t *error = json_object_get(reply, "error");
	bool ok = c->status >= 200 && c->status < 300;

	if (c->json && reply)
		printf("%s\n", c->reply);
	else if (!reply)
		fprintf(stderr, "instance-stored: %s does not speak for an instance store\n",
			c->socket);
	else if (ok)
		print_reply(c, reply);
	if (reply && error)
		fprintf(stderr, "instance-stored: %s\n",
			json_string_value(json_object_get(error, "message")));
	json_decref(reply);
	return ok && reply ? 0 : 1;
}

int client_run(int argc, char **argv)
{
	struct client c = {0};
	int status;

	json_set_alloc_funcs(mem_alloc, mem_free);
	parse(&c, argc, argv);
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return 1;
	status = send_command(&c);
	if (status == 0)
		status = show(&c);
	mem_free(c.reply);
	return status;
}
