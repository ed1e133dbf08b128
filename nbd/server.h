/* SPDX-License-Identifier: Apache-2.0
 *
 * An NBD server: listeners, handshakes, connections. It serves whatever `struct exports` resolves.
 *
 * Threads: loops[0] has the listeners and the handshakes; a connection then moves to the loop of
 * its device and stays there. All functions are called on loops[0], or before it runs, unless it
 * says "any thread".
 */
#ifndef NBD_SERVER_H
#define NBD_SERVER_H

#include "base/err.h"
#include "block/export.h"
#include "io/io.h"

struct nbd_server;

/* 0 stands for the default, which nbd/limits.h has with its reason. */
struct nbd_config {
	struct exports *exports;
	struct io_loop *const *loops; /* all on which devices live; copied */
	unsigned n_loops;
	uint32_t max_connections;
	uint32_t max_handshakes;
	uint32_t max_in_flight;   /* requests of one connection */
	uint64_t memory_per_loop; /* bytes for payloads */
	uint64_t handshake_ns;
	uint64_t stall_ns; /* see NBD_STALL */
};

struct nbd_stats {
	uint64_t connections; /* now being served */
	uint64_t connected;   /* to an export, ever */
	uint64_t refused;     /* handshakes that ended without an export, ever */
	uint64_t requests;
	uint64_t errors; /* requests that got an error */
	uint64_t bytes_read;
	uint64_t bytes_written;
};

int nbd_server_new(const struct nbd_config *config, struct nbd_server **ret_server,
		   struct err *err);
/* Accepts from `listener`, which belongs to the server from here on. -ENOSPC: too many. */
int nbd_server_listen(struct nbd_server *server, struct io_sock *listener);
/* Serves one connection, as inetd or a fuzzer hands it over; `sock` belongs to the server from here
 * on. `ended` (may be NULL) completes when it is closed. -ENOSPC: too many. */
int nbd_server_serve_one(struct nbd_server *server, struct io_sock *sock, struct io_op *ended);
/* Accepts nothing more; every connection answers what it has received, flushes its device and is
 * closed. Handshakes get ERR_SHUTDOWN. `stopped` completes when nothing is left; then the loops may
 * stop. Call it once. */
void nbd_server_stop(struct nbd_server *server, struct io_op *stopped);
/* The server is stopped, or no loop has run yet. NULL is legal. */
void nbd_server_free(struct nbd_server *server);
/* Any thread. */
void nbd_server_stats(const struct nbd_server *server, struct nbd_stats *ret_stats);

#endif
