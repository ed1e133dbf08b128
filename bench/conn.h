/* SPDX-License-Identifier: Apache-2.0
 *
 * One NBD connection in the transmission phase, with `depth` slots for requests. All free slots are
 * filled at once and go out in one sendmsg(2); one recv(2) takes all replies that are there. That,
 * and no copy of what nobody looks at, is what makes the client cheap. One thread, non-blocking.
 */
#ifndef BENCH_CONN_H
#define BENCH_CONN_H

#include "base/err.h"
#include "base/util.h"

#include <sys/uio.h>

/* The numbers on the wire. */
enum conn_op { CONN_READ = 0, CONN_WRITE = 1, CONN_FLUSH = 3 };

struct request {
	enum conn_op op;
	bool fua;
	bool in_flight;
	uint32_t length;
	uint32_t generation; /* of the slot's use: a reply that comes twice is noticed */
	uint64_t offset;
	uint64_t start_ns;      /* just before the send */
	const uint8_t *payload; /* of a write; unchanged until it is done */
	uint8_t *into;          /* where a read goes; NULL drops it */
	uint8_t *buffer;        /* the owner's, stays with the slot */
};

struct conn;

struct conn_owner {
	/* Describes what to do next in *r; false: nothing now. */
	bool (*next)(void *arg, struct request *r);
	/* `error` is the NBD error of the reply, or 0. A negative return ends the connection's
	 * work and is handed through conn_receive(). */
	int (*done)(void *arg, struct request *r, uint32_t error, uint64_t now_ns);
	void *arg;
};

/* Takes over `fd`. NULL: no memory, and fd stays the caller's. */
struct conn *conn_new(int fd, unsigned number, unsigned depth, const struct conn_owner *owner);
void conn_free(struct conn *c); /* says NBD_CMD_DISC if it can; NULL is legal */
int conn_fd(const struct conn *c);
struct request *conn_slot(struct conn *c, unsigned i);

/* Makes requests for the free slots, sends what the socket takes. 0 or -errno and *err. */
int conn_send(struct conn *c, struct err *err);
/* True while a batch waits for the socket. */
bool conn_wants_out(const struct conn *c);
/* Takes all replies that are there. 0, or -errno and *err. */
int conn_receive(struct conn *c, struct err *err);

uint64_t conn_clock_ns(void);

#endif
