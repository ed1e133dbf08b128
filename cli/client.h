/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's HTTP API, from the outside.
 */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct client;

/* Finds the daemon's socket: `path`, or if that is NULL the default ones. -errno, and an err that
 * says how to get a daemon there. */
int client_new(const char *path, struct client **ret_client, struct err *err);
void client_free(struct client *client); /* NULL is legal */
const char *client_socket(const struct client *client);

struct client_call {
	const char *method;
	const char *path;    /* "/v1/volumes?..." */
	json_t *body;        /* or NULL; stays the caller's */
	const char *token;   /* Client-Token, or NULL */
	const char *waiting; /* what to tell people while it takes long; NULL: nothing */
	long timeout_ms;     /* 0: none */
	bool raw;            /* a success is bytes, and no JSON */

	/* The result. */
	unsigned status; /* HTTP */
	json_t *reply;   /* the caller's, if client_send returned 0 */
	/* With raw, a success has no reply but these, until the next call. */
	const uint8_t *bytes;
	size_t len;
	const char *checksum; /* the header; "": none */
};
/* 0: the daemon has answered with JSON, whatever the status. Else -errno, and err. */
int client_send(struct client *client, struct client_call *call, struct err *err);

/* `text` with what is special in a URL as %XX, in the client's memory until client_free; NULL: no
 * memory. */
const char *client_escape(struct client *client, const char *text);
/* printf into memory of the client's, until client_free; NULL: no memory. */
const char *client_printf(struct client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
