/* SPDX-License-Identifier: Apache-2.0
 *
 * Deleting a volume:
 *
 *     GET -> WAIT_GET -+-> SWAP -> WAIT_SWAP -+-> LIST -> WAIT_LIST -+-> FREE -> WAIT_FREE -> LIST
 *                      '----------------------'                      '-> END
 *
 * The superblock goes first: a volume that has lost some of its segments must never be opened. A
 * cut after that leaves segments that are lent to nobody's volume; the next call lists and frees
 * them. With pins it only gets a mark, and the segments stay for them.
 */
#include "engine/volume.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

enum delete_state {
	DELETE_GET,
	DELETE_WAIT_GET,
	DELETE_SWAP,
	DELETE_WAIT_SWAP,
	DELETE_LIST,
	DELETE_WAIT_LIST,
	DELETE_FREE,
	DELETE_WAIT_FREE,
	DELETE_END,
};

struct deletion {
	struct volume_op *op;
	struct store *store;
	enum delete_state state;
	uint64_t position; /* of the list */
	bool pinned;
	struct store_ctl ctl;
};

static void delete_step(struct deletion *d);
static void delete_on_ctl(struct store_ctl *ctl);

void volume_delete(struct volume_op *op)
{
	struct deletion *d = mem_alloc(sizeof(*d));

	CHECK(d); /* a few KiB of control memory */
	d->op = op;
	d->store = op->engine->store;
	d->ctl.loop = op->engine->loop;
	d->ctl.done = delete_on_ctl;
	d->ctl.volume = op->id;
	op->err = (struct err){0};
	op->more = false;
	op->freed = 0;
	op->pins = 0;
	d->state = DELETE_GET;
	delete_step(d);
}

static void delete_on_ctl(struct store_ctl *ctl)
{
	delete_step(container_of(ctl, struct deletion, ctl));
}

static void delete_enter(struct deletion *d, enum delete_state state)
{
	d->state = state;
}

static void delete_fail(struct deletion *d, const char *doing)
{
	char id[ID_TEXT_MAX];

	err_set(&d->op->err, d->ctl.error, "volume %s: %s failed: %s",
		id_format(d->op->id, "vol", id), doing, strerror(-d->ctl.error));
	delete_enter(d, DELETE_END);
}

/* ctl->version is what get found; the tombstone is the next. */
static void swap(struct deletion *d)
{
	d->ctl.version++;
	d->ctl.length = d->pinned ? SUPERBLOCK_BYTES : 0;
	d->store->ops->object_swap(d->store, &d->ctl);
}

/* What comes after reading the superblock. One that can't be understood pins nothing. */
static enum delete_state look(struct deletion *d)
{
	struct superblock sb;
	bool marked;

	if (superblock_decode(d->ctl.data, d->ctl.length, d->op->id, &sb) < 0)
		return DELETE_SWAP;
	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		d->op->pins += sb.pins[i].checkpoint != 0;
	if (d->op->pins == 0)
		return DELETE_SWAP;
	d->pinned = true;
	marked = sb.flags & SUPERBLOCK_DELETED;
	sb.flags |= SUPERBLOCK_DELETED;
	superblock_encode(d->ctl.data, &sb);
	return marked ? DELETE_END : DELETE_SWAP;
}

static void delete_step(struct deletion *d)
{
	const struct store_ops *ops = d->store->ops;
	struct volume_op *op = d->op;

	for (;;) {
		switch (d->state) {
		case DELETE_GET:
			delete_enter(d, DELETE_WAIT_GET);
			ops->object_get(d->store, &d->ctl);
			return;
		case DELETE_WAIT_GET:
			if (d->ctl.error == -ENOENT)
				delete_enter(d, DELETE_LIST);
			else if (d->ctl.error)
				delete_fail(d, "reading its superblock");
			else
				delete_enter(d, look(d));
			continue;
		case DELETE_SWAP:
			delete_enter(d, DELETE_WAIT_SWAP);
			swap(d);
			return;
		case DELETE_WAIT_SWAP:
			delete_enter(d, d->pinned ? DELETE_END : DELETE_LIST);
			if (d->ctl.error)
				delete_fail(d, "deleting its superblock");
			continue;
		case DELETE_LIST:
			delete_enter(d, DELETE_WAIT_LIST);
			d->ctl.private[0] = d->position;
			ops->list(d->store, &d->ctl);
			return;
		case DELETE_WAIT_LIST:
			d->position = d->ctl.private[0];
			op->more = d->ctl.n > 0 && op->freed >= VOLUME_DELETE_BATCH;
			delete_enter(d, d->ctl.n == 0 || op->more ? DELETE_END : DELETE_FREE);
			if (d->ctl.error)
				delete_fail(d, "listing its segments");
			continue;
		case DELETE_FREE:
			delete_enter(d, DELETE_WAIT_FREE);
			op->freed += d->ctl.n;
			ops->free(d->store, &d->ctl);
			return;
		case DELETE_WAIT_FREE:
			delete_enter(d, DELETE_LIST);
			if (d->ctl.error)
				delete_fail(d, "freeing its segments");
			continue;
		case DELETE_END:
			mem_free(d);
			op->done(op);
			return;
		}
	}
}
