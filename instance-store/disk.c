/* SPDX-License-Identifier: Apache-2.0
 *
 * A request becomes an op, which holds the blocks that it touches: ops that overlap wait for each
 * other in order of arrival, unless all read. An op is carried out in pieces of at most 128 KiB,
 * each with a buffer of its own for what is encrypted; several pieces of an op are in flight
 * (piece.c).
 */
#include "instance-store/disk_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

static void disk_submit(struct block_dev *dev, struct block_req *req);
static void op_start(struct istore_disk *d, struct op *op);
static void disk_on_finish(struct io_op *io);
static void disk_on_sync(struct io_op *io);

static const struct block_ops disk_ops = {.name = "instance-store", .submit = disk_submit};

/* ---- Life -------------------------------------------------------------------------- */

static void init_parts(struct istore_disk *d)
{
	list_init(&d->ops);
	list_init(&d->free_ops);
	list_init(&d->free_pieces);
	list_init(&d->backlog);
	list_init(&d->finished);
	list_init(&d->to_decrypt);
	list_init(&d->to_sync);
	list_init(&d->syncing);
	d->finish.done = disk_on_finish;
	d->sync.done = disk_on_sync;
	d->turn.done = istore_disk_on_turn;
	for (unsigned i = 0; i < N_OPS; i++)
		list_add_tail(&d->free_ops, &d->all_ops[i].node);
	list_init(&d->all_ops[N_OPS].node);
	for (unsigned i = 0; i < N_PIECES; i++) {
		struct piece *p = &d->all_pieces[i];

		p->disk = d;
		p->io.done = istore_piece_on_io;
		p->buf = d->buffers + i * PIECE;
		list_add_tail(&d->free_pieces, &p->node);
	}
}

int istore_disk_new(const struct istore_disk_config *config, struct istore_disk **ret_disk,
		    struct err *err)
{
	struct istore_disk *d = mem_alloc(sizeof(*d));
	int r = 0;

	if (!d) {
		mem_free(config->slices);
		return err_set(err, -ENOMEM, "out of memory for a disk");
	}
	d->config = *config;
	d->dev = (struct block_dev){.ops = &disk_ops, .size = config->size};
	d->map = config->item->map;
	d->n_written = map_count(d->map, 0, BLOCK_OF(config->size));
	d->buffers = mem_alloc_pages(N_PIECES * PIECE);
	if (!d->buffers)
		r = err_set(err, -ENOMEM, "out of memory for the buffers of a disk");
	if (r == 0)
		r = xts_new(config->item->key, &d->xts, err);
	if (r < 0) {
		istore_disk_free(d);
		return r;
	}
	init_parts(d);
	*ret_disk = d;
	return 0;
}

void istore_disk_free(struct istore_disk *d)
{
	if (!d)
		return;
	CHECK(!d->ops.next || list_empty(&d->ops));
	CHECK(!d->sync_runs && !d->turn_runs);
	xts_free(d->xts);
	if (d->buffers)
		mem_free_pages(d->buffers, N_PIECES * PIECE);
	mem_free(d->config.slices);
	mem_free(d);
}

struct block_dev *istore_disk_dev(struct istore_disk *d)
{
	return &d->dev;
}

uint64_t istore_disk_written(const struct istore_disk *d)
{
	return __atomic_load_n(&d->n_written, __ATOMIC_RELAXED) * BLOCK_SIZE;
}

/* ---- Requests ---------------------------------------------------------------------- */

static void status(const struct istore_disk *d, struct block_req *req)
{
	uint64_t end = req->offset + req->length;
	uint64_t at = req->offset;
	uint32_t max = req->flags & BLOCK_REQ_ONE ? 1 : req->max_extents;

	while (at < end && req->n_extents < max) {
		bool set = map_get(d->map, BLOCK_OF(at));
		uint64_t stop = map_run_end(d->map, BLOCK_OF(at), BLOCK_END(end), set);

		stop = min_u64(stop * BLOCK_SIZE, end);
		req->extents[req->n_extents++] = (struct block_extent){
		    .length = stop - at,
		    .flags = set ? 0 : BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO,
		};
		at = stop;
	}
}

static void sync_start(struct istore_disk *d)
{
	if (d->sync_runs || list_empty(&d->to_sync))
		return;
	list_splice_tail(&d->syncing, &d->to_sync);
	d->sync_runs = true;
	io_sync(d->config.loop, &d->sync, d->config.file);
}

static void sync_add(struct istore_disk *d, struct block_req *req)
{
	list_add_tail(&d->to_sync, &req->link);
	sync_start(d);
}

/* The kernel forgets what a failed sync did not write: what was written since the last good one is
 * unsure, and nothing is acknowledged any more. */
static void disk_on_sync(struct io_op *io)
{
	struct istore_disk *d = container_of(io, struct istore_disk, sync);
	struct list batch;
	struct list *node;

	d->sync_runs = false;
	list_init(&batch);
	list_splice_tail(&batch, &d->syncing);
	if (io->result < 0) {
		d->failed = -EIO;
		list_splice_tail(&batch, &d->to_sync);
	}
	sync_start(d);
	while ((node = list_pop(&batch)))
		block_done(list_entry(node, struct block_req, link), d->failed);
}

static void set_range(struct op *op, uint64_t offset, uint64_t length)
{
	op->at = offset;
	op->stop = offset + length;
	op->first = BLOCK_OF(op->at);
	op->end = BLOCK_END(op->stop);
}

static void op_init(struct istore_disk *d, struct op *op, struct block_req *req)
{
	*op = (struct op){.req = req};
	set_range(op, req->offset, req->length);
	switch (req->op) {
	case BLOCK_READ:
		op->reads = true;
		return;
	case BLOCK_TRIM: /* its edges stay */
		op->at = round_up(op->at, BLOCK_SIZE);
		op->stop = max_u64(op->at, round_down(op->stop, BLOCK_SIZE));
		break;
	case BLOCK_STATUS:
		status(d, req);
		op->stop = op->at;
		return;
	case BLOCK_CACHE:
		op->stop = op->at;
		return;
	case BLOCK_WRITE:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_FLUSH:
		break;
	}
	if (d->failed)
		op->error = d->failed;
}

static void disk_submit(struct block_dev *dev, struct block_req *req)
{
	struct istore_disk *d = container_of(dev, struct istore_disk, dev);
	struct list *node;

	if (req->op == BLOCK_FLUSH && !d->failed) {
		sync_add(d, req);
		return;
	}
	node = list_pop(&d->free_ops);
	if (!node) {
		list_add_tail(&d->backlog, &req->link);
		return;
	}
	op_init(d, list_entry(node, struct op, node), req);
	op_start(d, list_entry(node, struct op, node));
}

void istore_disk_discard(struct istore_disk *d, struct istore_discard *discard)
{
	struct op *op = &d->all_ops[N_OPS];

	CHECK(!op->discard);
	CHECK(discard->offset + discard->length <= d->config.size);
	*op = (struct op){.discard = discard};
	discard->error = 0;
	set_range(op, discard->offset, discard->length);
	op_start(d, op);
}

/* ---- Ops --------------------------------------------------------------------------- */

static bool is_in_the_way(const struct op *earlier, const struct op *op)
{
	return earlier->first < op->end && op->first < earlier->end &&
	       !(earlier->reads && op->reads);
}

/* Whether an op that arrived earlier holds, or waits for, one of its blocks. */
static bool has_to_wait(const struct istore_disk *d, const struct op *op)
{
	if (op->at == op->stop)
		return false;
	list_for_each (&d->ops, node) {
		const struct op *earlier = list_entry(node, struct op, node);

		if (earlier == op)
			return false;
		if (is_in_the_way(earlier, op))
			return true;
	}
	return false;
}

static void op_start(struct istore_disk *d, struct op *op)
{
	list_add_tail(&d->ops, &op->node);
	op->waiting = has_to_wait(d, op);
	if (op->waiting) {
		d->n_waiting++;
		return;
	}
	istore_op_go_on(d, op);
	if (istore_op_is_over(op))
		istore_op_finish_later(d, op);
}

bool istore_op_is_over(const struct op *op)
{
	return op->in_flight == 0 && (op->at == op->stop || op->error);
}

/* Off the list of ops, so that what waits for it can start; answered on a later turn. */
void istore_op_finish_later(struct istore_disk *d, struct op *op)
{
	list_remove(&op->node);
	list_add_tail(&d->finished, &op->node);
	if (d->finish_runs)
		return;
	d->finish_runs = true;
	io_defer(d->config.loop, &d->finish, 0);
}

static void disk_on_finish(struct io_op *io)
{
	struct istore_disk *d = container_of(io, struct istore_disk, finish);
	struct list batch;
	struct list *node;

	/* An op that failed may have been waiting for a turn: that is to come back first. */
	if (d->turn_runs && list_empty(&d->ops)) {
		io_defer(d->config.loop, &d->finish, 0);
		return;
	}
	d->finish_runs = false;
	list_init(&batch);
	list_splice_tail(&batch, &d->finished);
	while ((node = list_pop(&batch)))
		istore_op_end(d, list_entry(node, struct op, node));
}

static void wake_waiting(struct istore_disk *d)
{
	list_for_each_safe (&d->ops, node) {
		struct op *op = list_entry(node, struct op, node);

		if (d->n_waiting == 0)
			return;
		if (!op->waiting || has_to_wait(d, op))
			continue;
		op->waiting = false;
		d->n_waiting--;
		if (d->failed && !op->reads)
			op->error = d->failed;
		istore_op_go_on(d, op);
		if (istore_op_is_over(op))
			istore_op_finish_later(d, op);
	}
}

/* The op is free before its owner hears of it, who may come again at once. */
void istore_op_end(struct istore_disk *d, struct op *op)
{
	struct block_req *req = op->req;
	struct istore_discard *discard = op->discard;
	int error = op->error;
	struct list *node;

	CHECK(!op->starved);
	list_remove(&op->node);
	op->discard = NULL;
	if (req)
		list_add_head(&d->free_ops, &op->node);
	wake_waiting(d);
	if (req && (node = list_pop(&d->backlog)))
		disk_submit(&d->dev, list_entry(node, struct block_req, link));
	if (discard)
		discard->done(discard);
	else if (!error && !d->failed && req->flags & BLOCK_FUA)
		sync_add(d, req);
	else
		block_done(req, error ? error : req->flags & BLOCK_FUA ? d->failed : 0);
}
