/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands share: asking the daemon, saying what went wrong, finding things by name,
 * taking answers apart. Functions that return an exit status have said the error by then.
 */
#ifndef CLI_REQUEST_H
#define CLI_REQUEST_H

#include "base/size.h"
#include "cli/run.h"

#include <jansson.h>
#include <stdint.h>

/* "volumectl: ..." on standard error; returns `status`. */
int cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The exit status for an answer's HTTP status. */
int cli_exit_of(unsigned http_status);

struct cli_request {
	const char *method;
	const char *path;
	json_t *body; /* taken over; or NULL */
	const char *token;
	const char *waiting;
};
/* Sends it; what comes back is *ret_reply, the caller's, if the result is EXIT_OK. */
int cli_send(struct cli *cli, const struct cli_request *request, json_t **ret_reply);
/* Between two looks at something that takes long. */
void cli_nap(void);
/* GET of all pages of a list; *ret_items is one array. `query` is "" or "&name=value...". Stops
 * after `limit` items, if that is not 0. */
int cli_list(struct cli *cli, const char *path, const char *query, const char *name, unsigned limit,
	     json_t **ret_items);
/* The client, connected when it is first needed. */
int cli_connect(struct cli *cli);

/* The id of the volume or instance that `text` names, in *ret_id, which lives as long as the
 * client. */
int cli_find_volume(struct cli *cli, const char *text, const char **ret_id);
int cli_find_snapshot(struct cli *cli, const char *text, const char **ret_id);
int cli_find_instance(struct cli *cli, const char *text, const char **ret_id);

/* The filters of the command line as "&filter.NAME=VALUE...", in *ret_query. */
int cli_filters(struct cli *cli, const char **ret_query);
int cli_parse_size(const char *text, uint64_t *ret_bytes);
/* The --tag options as an object, the caller's. */
int cli_tags(const struct cli_line *line, json_t **ret_tags);
int cli_out_of_memory(void);

/* Members of an answer; "" and 0 where there is none. */
const char *get_text(const json_t *object, const char *name);
uint64_t get_number(const json_t *object, const char *name);

/* A number of bytes for people: "1.5 GiB". */
const char *get_size(const json_t *object, const char *name, char text[SIZE_TEXT_MAX]);
/* The ids of the items, a line each. */
void cli_print_ids(const json_t *items);

void cli_print_json(const json_t *json);
/* "2026-11-22 23:48:40" of the API's time, in `ret`. */
const char *cli_time(const char *api_time, char ret[32]);

#endif
