/* SPDX-License-Identifier: Apache-2.0
 *
 * SIGTERM, SIGINT and SIGHUP as a message to a loop. The handler only writes a byte to a socket; a
 * second signal ends the process at once. One per process.
 */
#ifndef VOLUMED_SIGNALS_H
#define VOLUMED_SIGNALS_H

#include "base/err.h"
#include "io/io.h"

struct signals {
	void (*on_stop)(struct signals *signals); /* on the loop, at the first signal */
	void (*on_closed)(struct signals *signals);
	struct io_loop *loop;
	struct io_sock *sock;
	struct io_op op;
	uint8_t byte;
	bool closing;
};

/* Catches the signals from now on. `on_stop` is set. */
int signals_open(struct signals *signals, struct io_loop *loop, struct err *err);
/* Stops listening; `on_closed` runs on a later turn. Signals are still caught, and ignored. */
void signals_close(struct signals *signals);

#endif
