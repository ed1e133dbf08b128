/* SPDX-License-Identifier: Apache-2.0
 *
 * A snapshot as a read-only disk. Requests take a slot each; those that find none wait.
 */
#include "snapshots/reader.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/internal.h"

#include <errno.h>
#include <string.h>

#define SLOTS         64
#define STATUS_BLOCKS 64

struct view_slot {
	struct list link; /* view->idle */
	struct snap_view *view;
	struct block_req *req;
	struct snap_read read;
	struct snap_walk walk;
	struct snap_block blocks[STATUS_BLOCKS];
	struct io_op defer;
	uint64_t at; /* STATUS: up to here there are extents */
};

struct snap_view {
	struct block_dev dev;
	struct snap_reader *reader;
	struct list idle;
	struct list waiting; /* block_reqs, by their link */
	struct view_slot slots[SLOTS];
};

static void view_submit(struct block_dev *dev, struct block_req *req);
static void view_start(struct view_slot *slot);
static void read_done(struct snap_read *read);
static void status_done(struct snap_walk *walk);

static const struct block_ops view_ops = {.name = "snapshot", .submit = view_submit};

int snap_view_new(struct snap_reader *reader, struct snap_view **ret_view, struct err *err)
{
	struct snap_view *v = mem_alloc(sizeof(*v));

	if (!v)
		return err_set(err, -ENOMEM, "out of memory for a view of a snapshot");
	v->dev = (struct block_dev){
	    .ops = &view_ops, .size = reader->info.size, .flags = BLOCK_DEV_READ_ONLY};
	v->reader = reader;
	list_init(&v->idle);
	list_init(&v->waiting);
	for (int i = 0; i < SLOTS; i++) {
		v->slots[i].view = v;
		list_add_tail(&v->idle, &v->slots[i].link);
	}
	*ret_view = v;
	return 0;
}

struct block_dev *snap_view_dev(struct snap_view *view)
{
	return &view->dev;
}

void snap_view_free(struct snap_view *view)
{
	if (!view)
		return;
	for (int i = 0; i < SLOTS; i++)
		CHECK(!view->slots[i].req);
	mem_free(view);
}

static void slot_end(struct view_slot *slot, int error)
{
	struct block_req *req = slot->req;
	struct snap_view *v = slot->view;
	struct list *node;

	slot->req = NULL;
	list_add_tail(&v->idle, &slot->link);
	node = list_pop(&v->waiting);
	if (node)
		view_submit(&v->dev, container_of(node, struct block_req, link));
	block_done(req, error);
}

static void nothing_to_do(struct io_op *defer)
{
	slot_end(container_of(defer, struct view_slot, defer), 0);
}

static void view_submit(struct block_dev *dev, struct block_req *req)
{
	struct snap_view *v = container_of(dev, struct snap_view, dev);
	struct list *node = list_pop(&v->idle);
	struct view_slot *slot;

	if (!node) {
		list_add_tail(&v->waiting, &req->link);
		return;
	}
	slot = container_of(node, struct view_slot, link);
	slot->req = req;
	view_start(slot);
}

static void status_more(struct view_slot *slot)
{
	slot->walk.done = status_done;
	slot->walk.blocks = slot->blocks;
	slot->walk.max = STATUS_BLOCKS;
	snap_list_blocks(slot->view->reader, &slot->walk);
}

static void view_start(struct view_slot *slot)
{
	struct block_req *req = slot->req;

	switch (req->op) {
	case BLOCK_READ:
		slot->read.done = read_done;
		snap_read(slot->view->reader, &slot->read, req->buf, req->offset, req->length);
		return;
	case BLOCK_STATUS:
		req->n_extents = 0;
		slot->at = req->offset;
		slot->walk.next = req->offset / SNAP_BLOCK;
		status_more(slot);
		return;
	case BLOCK_FLUSH:
	case BLOCK_CACHE:
	case BLOCK_WRITE:
	case BLOCK_TRIM:
	case BLOCK_WRITE_ZEROES: /* block_check has refused the writing ones */
		slot->defer.done = nothing_to_do;
		io_defer(slot->view->reader->loop, &slot->defer, 0);
		return;
	}
}

static void read_done(struct snap_read *read)
{
	slot_end(container_of(read, struct view_slot, read), read->error);
}

/* ---- Status -----------------------------------------------------------------------------------
 */

/* From slot->at up to `end`. False: no more is wanted. */
static bool status_extend(struct view_slot *slot, uint64_t end, uint32_t flags)
{
	struct block_req *req = slot->req;
	struct block_extent *last = req->n_extents ? &req->extents[req->n_extents - 1] : NULL;

	end = min_u64(end, req->offset + req->length);
	if (end <= slot->at)
		return slot->at < req->offset + req->length;
	if (last && last->flags == flags) {
		last->length += end - slot->at;
	} else {
		if (req->n_extents == req->max_extents || (last && req->flags & BLOCK_REQ_ONE))
			return false;
		req->extents[req->n_extents++] = (struct block_extent){end - slot->at, flags};
	}
	slot->at = end;
	return end < req->offset + req->length;
}

static void status_done(struct snap_walk *walk)
{
	struct view_slot *slot = container_of(walk, struct view_slot, walk);
	const uint32_t hole = BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO;
	bool more = true;

	if (walk->error) {
		slot_end(slot, walk->error);
		return;
	}
	for (uint32_t i = 0; i < walk->n && more; i++) {
		const struct snap_block *b = &walk->blocks[i];
		bool zero = memcmp(b->second_hash, codec_zero_hash, SNAP_HASH) == 0;

		more = status_extend(slot, b->block * SNAP_BLOCK, hole);
		if (more)
			more = status_extend(slot, (b->block + 1) * SNAP_BLOCK, zero ? hole : 0);
	}
	if (more)
		more = status_extend(
		    slot, walk->next == UINT64_MAX ? UINT64_MAX : walk->next * SNAP_BLOCK, hole);
	if (more)
		status_more(slot);
	else
		slot_end(slot, 0);
}
