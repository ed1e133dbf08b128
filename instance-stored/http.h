/* SPDX-License-Identifier: Apache-2.0
 *
 * The control interface: HTTP and JSON on a unix socket (docs/instance-store.md). A thread of its
 * own speaks HTTP; what is asked for is carried out on the store's loop.
 */
#ifndef INSTANCE_STORED_HTTP_H
#define INSTANCE_STORED_HTTP_H

#include "instance-store/istore.h"

struct http;

/* Answers on `listen_fd`, which belongs to it from here on, if it starts. Whoever can connect may
 * end disks: the socket is for its owner. */
int http_new(struct istore *store, struct io_loop *loop, int listen_fd, struct http **ret_http,
	     struct err *err);
/* What comes from now on is refused. */
void http_quiesce(struct http *http);
/* Operations are under way (after http_quiesce); the loop has to run on. */
bool http_is_busy(const struct http *http);
void http_free(struct http *http); /* NULL is legal */

#endif
