/* SPDX-License-Identifier: Apache-2.0
 *
 * The listening sockets: unix, TCP, and those that systemd holds for us. Set-up code: it blocks.
 */
#ifndef VOLUMED_SOCKETS_H
#define VOLUMED_SOCKETS_H

#include "base/err.h"

#include <stdbool.h>

#define LISTENERS_MAX     16
#define LISTENER_NAME_MAX 128

struct listener {
	int fd; /* -1: someone took it over */
	bool is_unix;
	bool inherited;               /* from systemd, which keeps it when we stop */
	char name[LISTENER_NAME_MAX]; /* a path, "127.0.0.1:10809" or "[::1]:10809" */
};

struct listeners {
	unsigned n;
	struct listener all[LISTENERS_MAX];
};

/* Takes over the sockets that the service manager passed (LISTEN_FDS), if any. */
int listeners_inherit(struct listeners *listeners, struct err *err);
/* Listens on a unix socket, mode 0600. One that nobody listens on any more is replaced; one that a
 * live process listens on is -EADDRINUSE, and anything else of that name is left alone. If an
 * inherited socket has that very path, there is nothing to do. */
int listeners_add_unix(struct listeners *listeners, const char *path, struct err *err);
/* Listens on "ADDR:PORT" ("[ADDR]:PORT" for IPv6; port 0: one that is free). An address that other
 * machines can reach needs `allow_remote`. */
int listeners_add_tcp(struct listeners *listeners, const char *text, bool allow_remote,
		      struct err *err);
/* Closes what is still ours, and removes the unix sockets that we made. */
void listeners_close(struct listeners *listeners);

#endif
