/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a volume: superblock -> map (recover_map.c) -> log (replay.c) -> sync -> the new
 * incarnation in the superblock -> ready. The sync comes first since what replay
 * could read may still be in the disk's cache: nothing may be built on it before it is durable.
 */
#include "engine/recover.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Unfinished incarnations after which open does not end before a checkpoint. */
#define ENDED_HIGH   (SUPERBLOCK_ENDED / 2)
#define OPENINGS_MAX 4 /* at a time, of a loop */

static void opening_begin(struct opening *o);
static void opening_step(struct opening *o);
static void on_superblock(struct store_ctl *ctl);
static void on_sync(struct device_io *io);
static void on_swap(struct store_ctl *ctl);
static void opening_end(struct opening *o);

void volume_open(struct volume_op *op)
{
	struct opening *o = mem_alloc(sizeof(*o));
	struct volume *v = o ? volume_alloc(op->engine, op->id) : NULL;

	CHECK(v); /* set-up memory: without a few KiB there is nothing to go on with */
	o->volume = v;
	o->op = op;
	op->err.code = 0;
	op->volume = NULL;
	v->read_only = op->read_only;
	v->opening = true;
	v->flights.shown = op->stall;
	v->object.loop = v->loop;
	v->object.volume = v->id;
	v->object.done = on_superblock;
	v->close_op = (struct volume_op *)(void *)o; /* the way back for callbacks until the end */
	o->state = OPENING_SUPERBLOCK;
	list_init(&o->queue);
	if (op->engine->n_openings < OPENINGS_MAX)
		opening_begin(o);
	else
		list_add_tail(&op->engine->openings, &o->queue);
}

/* A few at a time are as fast as many, and need less memory. */
static void opening_begin(struct opening *o)
{
	struct volume *v = o->volume;

	v->engine->n_openings++;
	flight_begin(v, &v->flights.object, VOLUME_IO_RECOVERY);
	v->store->ops->object_get(v->store, &v->object);
}

static struct opening *opening_of(struct volume *v)
{
	return (struct opening *)(void *)v->close_op;
}

int open_error(struct opening *o, int code, const char *what)
{
	char text[ID_TEXT_MAX];

	return err_set(&o->op->err, code, "volume %s: %s", id_format(o->volume->id, "vol", text),
		       what);
}

static int superblock_take(struct opening *o, struct store_ctl *ctl)
{
	struct volume *v = o->volume;
	int r = ctl->error;

	if (r == -ENOENT)
		return open_error(o, r, "there is no such volume in this store");
	if (r < 0)
		return open_error(o, r, "its superblock can't be read");
	r = superblock_decode(ctl->data, ctl->length, v->id, &v->sb);
	if (r == -ENOTSUP)
		return open_error(
		    o, r,
		    "it was written by a newer volumed, or uses a feature that this one "
		    "lacks; upgrade volumed");
	if (r < 0)
		return open_error(o, -EUCLEAN, "its superblock is damaged");
	if ((v->sb.flags & SUPERBLOCK_DELETED) && !o->op->deleted && !v->read_only)
		return open_error(o, -ENOENT, "it is deleted; snapshots of it are pending");
	if (!(v->sb.flags & SUPERBLOCK_DELETED) && o->op->deleted)
		return open_error(o, -ENOENT, "it is not deleted");
	if (o->op->base && !id_is_zero(v->sb.base) && !id_equal(o->op->base->snapshot, v->sb.base))
		return open_error(o, -EINVAL, "it was made of another snapshot than that");
	v->sb_version = ctl->version;
	v->incarnation = v->sb.incarnation;
	block_set_size(&v->dev, v->sb.size);
	if (v->read_only || o->op->deleted)
		v->dev.flags |= BLOCK_DEV_READ_ONLY;
	return 0;
}

static void on_superblock(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, object);
	struct opening *o = opening_of(v);
	int r = superblock_take(o, ctl);

	flight_end(v, &v->flights.object);
	if (r == 0 && map_init(v, v->sb.size) < 0)
		r = open_error(o, -ENOMEM, "no memory for its map");
	o->error = r;
	o->state = v->sb.root.length ? OPENING_ROOT : OPENING_LIST;
	opening_step(o);
}

/* ---- Reading, one piece at a time
 * ---------------------------------------------------------------- */

static void on_read(struct device_io *io)
{
	struct opening *o = container_of(io, struct opening, io);

	if (io->result < 0)
		o->error =
		    open_error(o, (int)io->result, "the store can't read its metadata or log");
	open_wake(o);
}

/* Reads [offset, offset + length) of the segment to o->buf + o->skip; wakes the machine. */
int open_read(struct opening *o, uint64_t segment, uint32_t offset, uint32_t length)
{
	struct volume *v = o->volume;
	uint32_t alignment = v->store->info.alignment;
	uint32_t from = (uint32_t)round_down(offset, alignment);
	uint32_t to = (uint32_t)round_up((uint64_t)offset + length, alignment);

	if (to > v->store->info.segment_size)
		return open_error(o, -EUCLEAN, "a reference leads past the end of a segment");
	if (to - from > o->buf_size) {
		mem_free_pages(o->buf, o->buf_size);
		o->buf_size = to - from;
		o->buf = mem_alloc_pages(o->buf_size);
		if (!o->buf) {
			o->buf_size = 0;
			return open_error(o, -ENOMEM, "no memory for reading its log");
		}
	}
	o->skip = offset - from;
	o->want = to - from;
	o->io.done = on_read;
	device_read(v, &o->io, VOLUME_IO_RECOVERY, segment, from, o->buf, to - from);
	return 1;
}

void open_wake(struct opening *o)
{
	opening_step(o);
}

/* ---- The machine --------------------------------------------------------------------------------
 */

static int sync_start(struct opening *o)
{
	struct volume *v = o->volume;

	if (v->read_only) {
		o->state = OPENING_END;
		return 0;
	}
	o->io.done = on_sync;
	device_sync(v, &o->io, VOLUME_IO_RECOVERY);
	return 1;
}

static void on_sync(struct device_io *io)
{
	struct opening *o = container_of(io, struct opening, io);

	if (io->result < 0)
		o->error =
		    open_error(o, (int)io->result, "what its log holds can't be made durable");
	else
		o->volume->durable = o->volume->published;
	o->state = OPENING_SWAP;
	opening_step(o);
}

static int swap_start(struct opening *o)
{
	struct volume *v = o->volume;
	uint64_t last = v->sb.n_ended ? v->sb.ended[v->sb.n_ended - 1].last : v->sb.sequence;

	if (v->published > last) {
		CHECK(v->sb.n_ended < SUPERBLOCK_ENDED);
		v->sb.ended[v->sb.n_ended].incarnation = v->sb.incarnation;
		v->sb.ended[v->sb.n_ended++].last = v->published;
	}
	v->sb.incarnation++;
	v->sb.flags &= ~(uint32_t)SUPERBLOCK_CLEAN;
	v->incarnation = v->sb.incarnation;
	superblock_swap(v, &v->sb, on_swap);
	return 1;
}

static void on_swap(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, object);
	struct opening *o = opening_of(v);

	if (ctl->error)
		o->error = open_error(o, ctl->error, "its superblock can't be written");
	v->sb_version++;
	o->state = OPENING_CHECKPOINT;
	opening_step(o);
}

static void on_checkpoint(struct checkpoint_wait *wait, int error)
{
	struct opening *o = container_of(wait, struct opening, wait);

	(void)error; /* the volume is open all the same, for reading; its health says that its log
			stopped */
	o->state = OPENING_END;
	opening_step(o);
}

static int checkpoint_maybe(struct opening *o)
{
	open_release_unused(o);
	o->state = OPENING_END;
	if (o->volume->sb.n_ended < ENDED_HIGH)
		return 0;
	o->volume->opening = false;
	o->wait.done = on_checkpoint;
	checkpoint_request(o->volume, &o->wait);
	return 1;
}

static void opening_step(struct opening *o)
{
	int r = 0;

	while (r == 0) {
		if (o->error)
			o->state = OPENING_END;
		switch (o->state) {
		case OPENING_SUPERBLOCK:
			return;
		case OPENING_ROOT:
			r = open_root(o);
			break;
		case OPENING_USAGE:
			r = open_usage(o);
			break;
		case OPENING_LIST:
			r = open_list(o);
			break;
		case OPENING_HEADS:
			r = open_heads(o);
			break;
		case OPENING_REPLAY:
			r = open_replay(o);
			break;
		case OPENING_SCAN:
			r = open_scan(o);
			break;
		case OPENING_APPLY:
			r = open_apply(o);
			break;
		case OPENING_SYNC:
			r = sync_start(o);
			break;
		case OPENING_SWAP:
			r = swap_start(o);
			break;
		case OPENING_CHECKPOINT:
			r = checkpoint_maybe(o);
			break;
		case OPENING_END:
			opening_end(o);
			return;
		}
		if (r < 0) {
			o->error = r;
			r = 0;
		}
	}
}

static void opening_end(struct opening *o)
{
	struct volume *v = o->volume;
	struct volume_op *op = o->op;
	struct engine *e = v->engine;
	struct list *next = list_pop(&e->openings);
	struct volume_base *base = NULL;

	e->n_openings--;
	if (next)
		opening_begin(list_entry(next, struct opening, queue));
	if (!o->error && hydrate_init(v, op->base) < 0)
		o->error = open_error(o, -ENOMEM, "no memory for reading its base snapshot");
	mem_free_pages(o->buf, o->buf_size);
	mem_free(o->root);
	mem_free(o->candidates);
	mem_free(o->found);
	mem_free(o->headers);
	v->close_op = NULL;
	v->opening = false;
	if (o->error) {
		volume_free(v);
		op->err.code = o->error;
	} else {
		op->volume = v;
		base = v->base ? NULL : op->base;
		if (!v->read_only)
			checkpoint_resume(v); /* cuts that replay has found become pins */
		checkpoint_idle_arm(v);
	}
	mem_free(o);
	op->done(op);
	if (base) /* it was detached before */
		base->ops->release(base, true);
}
