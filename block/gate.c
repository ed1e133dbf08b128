/* SPDX-License-Identifier: Apache-2.0 */
#include "block/gate.h"

#include "base/check.h"

#include <errno.h>
#include <stddef.h>

static void gate_submit(struct block_dev *dev, struct block_req *req);
static void gate_on_done(struct block_req *req);
static void gate_defer(struct gate *gate);
static void gate_on_deferred(struct io_op *op);

static const struct block_ops gate_ops = {.name = "gate", .submit = gate_submit};

void gate_init(struct gate *gate, struct block_dev *below, struct io_loop *loop,
	       uint64_t generation)
{
	*gate = (struct gate){
	    .dev = {.ops = &gate_ops, .flags = below->flags},
	    .below = below,
	    .loop = loop,
	    .generation = generation,
	    .deferred = {.done = gate_on_deferred},
	};
	list_init(&gate->refused);
	gate_update_size(gate);
}

void gate_update_size(struct gate *gate)
{
	block_set_size(&gate->dev, block_size(gate->below));
}

void gate_close(struct gate *gate, void (*on_drained)(struct gate *gate))
{
	CHECK(!gate->closed);
	gate->closed = true;
	gate->on_drained = on_drained;
	if (gate->in_flight == 0)
		gate_defer(gate);
}

static void gate_submit(struct block_dev *dev, struct block_req *req)
{
	struct gate *gate = container_of(dev, struct gate, dev);

	if (gate->closed) {
		list_add_tail(&gate->refused, &req->link);
		gate_defer(gate);
		return;
	}
	gate->in_flight++;
	req->gate_private = gate;
	req->gate_done = req->done;
	req->done = gate_on_done;
	block_submit(gate->below, req);
}

static void gate_on_done(struct block_req *req)
{
	struct gate *gate = req->gate_private;

	CHECK(gate->in_flight > 0);
	gate->in_flight--;
	req->done = req->gate_done;
	req->done(req);
	if (gate->closed && gate->in_flight == 0)
		gate_defer(gate);
}

static void gate_defer(struct gate *gate)
{
	if (gate->deferred_runs)
		return;
	gate->deferred_runs = true;
	io_defer(gate->loop, &gate->deferred, 0);
}

/* Answers what came too late, and says once that the gate is drained. */
static void gate_on_deferred(struct io_op *op)
{
	struct gate *gate = container_of(op, struct gate, deferred);
	void (*on_drained)(struct gate *) = gate->on_drained;
	struct list refused;
	struct list *node;

	gate->deferred_runs = false;
	list_init(&refused);
	list_splice_tail(&refused, &gate->refused);
	while ((node = list_pop(&refused)))
		block_done(list_entry(node, struct block_req, link), -ESHUTDOWN);
	if (gate->in_flight > 0 || gate->deferred_runs || !on_drained)
		return;
	gate->on_drained = NULL;
	on_drained(gate);
}
