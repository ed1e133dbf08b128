/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests wait in two queues, and take a slot each.
 */
#include "snapshots/base.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define UNIT_BLOCKS (SNAP_BLOCK / BLOCK_SIZE)

_Static_assert(SNAP_BLOCK == VOLUME_UNIT, "the engine and the repository share the unit");

struct base_slot {
	struct list link;
	struct snap_base *owner;
	struct volume_base_req *req;
	struct snap_read read;
	struct snap_walk walk;
	struct snap_block found;
};

struct snap_base {
	struct volume_base base;
	struct snap_reader *reader;
	void (*released)(void *arg, bool hydrated);
	void *arg;
	struct list demand;
	struct list background;
	struct list idle;
	uint32_t n_slots;
	uint32_t n_idle;
	char error[ERR_TEXT_MAX];
	struct base_slot slots[];
};

static void base_read(struct volume_base *base, struct volume_base_req *req);
static void base_status(struct volume_base *base, struct volume_base_req *req);
static void base_release(struct volume_base *base, bool hydrated);
static void read_done(struct snap_read *read);
static void status_done(struct snap_walk *walk);

static const struct volume_base_ops base_ops = {
    .read = base_read,
    .status = base_status,
    .release = base_release,
};

int snap_base_new(struct snap_reader *reader, void (*released)(void *arg, bool hydrated), void *arg,
		  struct snap_base **ret_base, struct err *err)
{
	uint32_t n = reader->n_readings;
	struct snap_base *b = mem_alloc(sizeof(*b) + n * sizeof(b->slots[0]));

	if (!b)
		return err_set(err, -ENOMEM, "out of memory for a volume's snapshot");
	b->base = (struct volume_base){.ops = &base_ops, .snapshot = reader->info.id};
	b->reader = reader;
	b->released = released;
	b->arg = arg;
	list_init(&b->demand);
	list_init(&b->background);
	list_init(&b->idle);
	b->n_slots = b->n_idle = n;
	for (uint32_t i = 0; i < n; i++) {
		b->slots[i].owner = b;
		list_add_tail(&b->idle, &b->slots[i].link);
	}
	*ret_base = b;
	return 0;
}

struct volume_base *snap_base_volume_base(struct snap_base *base)
{
	return &base->base;
}

void snap_base_free(struct snap_base *base)
{
	if (base)
		CHECK(base->n_idle == base->n_slots);
	mem_free(base);
}

const char *snap_base_error(const struct snap_base *base)
{
	return base->error;
}

/* ---- Slots ------------------------------------------------------------------------------------
 */

static void slot_start(struct base_slot *slot, struct volume_base_req *req)
{
	struct snap_base *b = slot->owner;

	slot->req = req;
	if (req->private) {
		slot->read.done = read_done;
		snap_read(b->reader, &slot->read, req->buf, req->lba * BLOCK_SIZE,
			  (uint64_t)req->blocks * BLOCK_SIZE);
		return;
	}
	slot->walk.done = status_done;
	slot->walk.next = req->lba / UNIT_BLOCKS;
	slot->walk.blocks = &slot->found;
	slot->walk.max = 1;
	snap_list_blocks(b->reader, &slot->walk);
}

static void base_go_on(struct snap_base *b)
{
	while (b->n_idle > 0) {
		struct list *node = list_pop(&b->demand);

		if (!node && (b->n_idle > b->n_slots / 4 || b->n_slots < 4))
			node = list_pop(&b->background);
		if (!node)
			return;
		b->n_idle--;
		slot_start(container_of(list_pop(&b->idle), struct base_slot, link),
			   container_of(node, struct volume_base_req, link));
	}
}

static void slot_end(struct base_slot *slot, int error, const struct err *err)
{
	struct snap_base *b = slot->owner;
	struct volume_base_req *req = slot->req;

	if (error)
		snprintf(b->error, sizeof(b->error), "%s", err->text);
	list_add_tail(&b->idle, &slot->link);
	b->n_idle++;
	base_go_on(b);
	req->error = error;
	req->done(req); /* the last one may end the base */
}

static void read_done(struct snap_read *read)
{
	slot_end(container_of(read, struct base_slot, read), read->error, &read->err);
}

/* Up to where what is at lba goes on, as far as one look can tell. */
static void status_done(struct snap_walk *walk)
{
	struct base_slot *slot = container_of(walk, struct base_slot, walk);
	struct volume_base_req *req = slot->req;
	uint64_t found = walk->n ? slot->found.block * UNIT_BLOCKS : UINT64_MAX;
	uint64_t end = found;

	req->zero = true;
	if (walk->n && found <= req->lba) {
		req->zero = memcmp(slot->found.second_hash, codec_zero_hash, SNAP_HASH) == 0;
		end = found + UNIT_BLOCKS;
	}
	req->n = (uint32_t)min_u64(req->blocks, end - req->lba);
	slot_end(slot, walk->error, &walk->err);
}

/* ---- What the engine calls --------------------------------------------------------------------
 */

static void base_queue(struct volume_base *base, struct volume_base_req *req)
{
	struct snap_base *b = container_of(base, struct snap_base, base);

	list_add_tail(req->demand ? &b->demand : &b->background, &req->link);
	base_go_on(b);
}

static void base_read(struct volume_base *base, struct volume_base_req *req)
{
	req->private = req; /* not a status */
	base_queue(base, req);
}

static void base_status(struct volume_base *base, struct volume_base_req *req)
{
	req->private = NULL;
	base_queue(base, req);
}

static void base_release(struct volume_base *base, bool hydrated)
{
	struct snap_base *b = container_of(base, struct snap_base, base);

	b->released(b->arg, hydrated);
}
