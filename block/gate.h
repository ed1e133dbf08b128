/* SPDX-License-Identifier: Apache-2.0
 *
 * A gate in front of a device: it counts what is inside, and can be closed for good. That is the
 * fence of an attachment (E7): each attachment gets a gate of its own with its generation, and once
 * the gate has closed and drained, nothing of that attachment can reach the device any more. QoS
 * will sit here as well.
 *
 * At most one gate stands between a request's owner and the device, since a request has room for
 * one saved `done`. Threads: the device's loop, but for block_size() of the gate.
 */
#ifndef BLOCK_GATE_H
#define BLOCK_GATE_H

#include "block/block.h"
#include "io/io.h"

struct gate {
	struct block_dev dev; /* first: what the owner serves */
	struct block_dev *below;
	struct io_loop *loop;
	uint64_t generation; /* of the attachment; for logs and whoever compares */
	bool closed;
	uint64_t in_flight;  /* inside the device below */
	struct list refused; /* came too late; `deferred` answers them */
	struct io_op deferred;
	bool deferred_runs;
	void (*on_drained)(struct gate *gate);
};

/* An open gate with the size and flags that `below` has now. */
void gate_init(struct gate *gate, struct block_dev *below, struct io_loop *loop,
	       uint64_t generation);
/* After `below` has grown. */
void gate_update_size(struct gate *gate);
/* What is submitted from now on gets -ESHUTDOWN; what is inside goes on. `on_drained` runs once, on
 * a later turn, when nothing is inside and all that was refused is answered: from then on the gate
 * may go. Closing a closed gate is a bug. */
void gate_close(struct gate *gate, void (*on_drained)(struct gate *gate));

#endif
