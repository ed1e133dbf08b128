/* SPDX-License-Identifier: Apache-2.0
 *
 * Standard input and output as one socket, for --stdio. Where they are a socket already (inetd),
 * that is it; where they are pipes or files, two threads carry the bytes.
 */
#ifndef VOLUMED_PIPES_H
#define VOLUMED_PIPES_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>

struct pipes {
	bool pumping;
	int near; /* our end of the socket pair */
	pthread_t in;
	pthread_t out;
};

/* Gives a stream socket that belongs to the caller. */
int pipes_open(struct pipes *pipes, int *ret_socket, struct err *err);
/* The socket is closed: waits until all that was sent to it is on standard output. */
void pipes_close(struct pipes *pipes);

#endif
