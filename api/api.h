/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTP API: control/'s operations as JSON over a unix socket, for volumectl and for scripts.
 * docs/api.md describes it to its users. Whoever may open the socket may do everything, so its file
 * belongs to the daemon's user, mode 0600.
 *
 * Threads: the server has a thread of its own, on which requests are parsed and replies rendered.
 * The functions below are called from one thread, any but that.
 */
#ifndef API_API_H
#define API_API_H

#include "base/err.h"

#include <stdbool.h>

struct api;
struct control;

struct api_config {
	struct control *control;
	int listen_fd; /* a listening unix socket */
};

/* Starts serving; `listen_fd` is the server's from then on. On an error it stays the caller's. */
int api_new(const struct api_config *config, struct api **ret_api, struct err *err);
/* New requests get 503 from now on. Those under way go on: stop control next, which ends them. */
void api_quiesce(struct api *api); /* NULL is legal */
/* After api_quiesce: whether an operation of ours is still in control, or a reply not sent, for
 * which clients get a second. Ask again a little later; never with NULL. */
bool api_is_busy(struct api *api);
/* It is not busy. NULL is legal. */
void api_free(struct api *api);

#endif
