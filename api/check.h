/* SPDX-License-Identifier: Apache-2.0
 *
 * The check, which takes longer than a request may: one at a time goes on by itself, and its result
 * stays until the next one starts.
 *
 * Threads: all of it on the server's, but for the end of the operation, which only sets `finished`.
 */
#ifndef API_CHECK_H
#define API_CHECK_H

#include "api/error.h"
#include "control/control.h"

#include <jansson.h>

struct api;

struct api_check {
	struct api *api;
	bool started;
	int finished; /* atomic: the operation is done */
	uint64_t start_time;
	struct control_op op;
};

/* Starts one, or joins the one that runs, if that looks as deep. */
int api_check_start(struct api *api, bool deep, uint64_t now, struct api_error *error);
/* {"state": "none" | "running" | "done" | "failed", ...}, or NULL: no memory. */
json_t *api_check_render(const struct api_check *check);
/* Control has stopped. */
void api_check_free(struct api_check *check);

#endif
