/* SPDX-License-Identifier: Apache-2.0
 *
 * A walk gives the next blocks; a few slots carry one each:
 *
 *   copy     read -> put        (zero or absent: put_zero, drop)
 *   verify   read
 *
 * When the walk is at its end and all slots rest, a copy is sealed. After an error the slots come
 * to rest first.
 */
#include "snapshots/copy.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/internal.h"

#include <errno.h>
#include <string.h>

#define SLOTS       4
#define WALK_BLOCKS 256

struct copy_slot {
	struct list link; /* idle */
	struct snap_copying *owner;
	uint64_t block;
	uint8_t *buf;
	struct snap_read read;
	struct snap_put put;
};

struct snap_copying {
	struct snap_copy *copy; /* one of the two */
	struct snap_verify *verify;
	struct io_loop *loop;
	struct repository *to;
	struct snap_reader *from;
	struct snap_reader *parent; /* in `to`; NULL: none */
	struct snap_writer *writer;
	struct snap_writer_config config;
	struct snap_writer_op writer_op;
	struct snap_reader_op reader_op;
	bool cancelled;
	bool walking;
	bool walk_ended;
	int error;
	struct err err;
	struct snap_walk walk;
	uint32_t at; /* in walk.blocks */
	struct snap_block blocks[WALK_BLOCKS];
	struct list idle;
	uint32_t n_busy;
	struct copy_slot slots[SLOTS];
	uint8_t *buffers;
	struct io_op timer;
	bool timer_runs;
	uint64_t next_at; /* io_now: not earlier */
	struct io_op defer;
};

static void go_on(struct snap_copying *c);
static void walk_more(struct snap_copying *c);
static void finish(struct snap_copying *c);

/* ---- Ends -------------------------------------------------------------------------------------
 */

static void ended(struct io_op *defer)
{
	struct snap_copying *c = container_of(defer, struct snap_copying, defer);
	struct snap_copy *copy = c->copy;
	struct snap_verify *verify = c->verify;

	snap_reader_close(c->parent);
	mem_free_pages(c->buffers, SLOTS * (size_t)SNAP_BLOCK);
	if (copy) {
		copy->error = c->error;
		copy->err = c->err;
		copy->at_work = NULL;
	} else {
		verify->error = c->error;
		verify->err = c->err;
		verify->at_work = NULL;
	}
	mem_free(c);
	if (copy)
		copy->done(copy);
	else
		verify->done(verify);
}

static void end_later(struct snap_copying *c)
{
	c->defer.done = ended;
	io_defer(c->loop, &c->defer, 0);
}

static void fail(struct snap_copying *c, int error, const struct err *err)
{
	if (c->error)
		return;
	c->error = error;
	c->err = *err;
}

static void on_sealed(struct snap_writer_op *op)
{
	struct snap_copying *c = container_of(op, struct snap_copying, writer_op);

	if (op->error)
		fail(c, op->error, &op->err);
	end_later(c);
}

/* Nothing is busy. */
static void finish(struct snap_copying *c)
{
	if (!c->writer) {
		end_later(c);
		return;
	}
	snap_writer_stats(c->writer, &c->copy->stats);
	c->writer_op.done = on_sealed;
	if (c->error) {
		snap_writer_abort(c->writer, true, &c->writer_op);
		return;
	}
	c->writer_op.info = &c->copy->info;
	snap_writer_seal(c->writer, &c->writer_op);
}

/* ---- Blocks -----------------------------------------------------------------------------------
 */

static void slot_rest(struct copy_slot *slot)
{
	struct snap_copying *c = slot->owner;

	list_add_tail(&c->idle, &slot->link);
	c->n_busy--;
	if (c->verify)
		c->verify->blocks_done++;
	else if (c->writer)
		snap_writer_stats(c->writer, &c->copy->stats);
	go_on(c);
}

static void slot_on_put(struct snap_put *put)
{
	struct copy_slot *slot = container_of(put, struct copy_slot, put);
	struct err err;

	if (put->error) {
		err_set(&err, put->error, "block %llu can't be written to %s: %s",
			(unsigned long long)slot->block, repository_place(slot->owner->to),
			strerror(-put->error));
		fail(slot->owner, put->error, &err);
	}
	slot_rest(slot);
}

static void bad_blocks(struct snap_copying *c, uint64_t block, uint64_t n, const char *text)
{
	struct snap_verify *v = c->verify;

	v->bad_blocks += n;
	if (v->bad)
		v->bad(v, block, n, text);
}

static void slot_on_read(struct snap_read *read)
{
	struct copy_slot *slot = container_of(read, struct copy_slot, read);
	struct snap_copying *c = slot->owner;

	if (read->error && c->verify) {
		bad_blocks(c, slot->block, 1, read->err.text);
	} else if (read->error) {
		fail(c, read->error, &read->err);
	} else if (c->copy) {
		snap_writer_put(c->writer, &slot->put);
		return;
	}
	slot_rest(slot);
}

static void slot_start(struct snap_copying *c, const struct snap_block *b)
{
	struct list *node = list_pop(&c->idle);
	struct copy_slot *slot = container_of(node, struct copy_slot, link);
	bool zero = memcmp(b->second_hash, codec_zero_hash, SNAP_HASH) == 0;

	c->n_busy++;
	slot->block = b->block;
	slot->put = (struct snap_put){.done = slot_on_put, .block = b->block, .buf = slot->buf};
	slot->read.done = slot_on_read;
	if (c->copy && !b->in_second)
		snap_writer_drop(c->writer, &slot->put);
	else if (c->copy && zero)
		snap_writer_put_zero(c->writer, &slot->put);
	else
		snap_read(c->from, &slot->read, slot->buf, b->block * SNAP_BLOCK, SNAP_BLOCK);
}

static void on_timer(struct io_op *timer)
{
	struct snap_copying *c = container_of(timer, struct snap_copying, timer);

	c->timer_runs = false;
	go_on(c);
}

/* True: it is too early for another block, and the timer runs. */
static bool too_fast(struct snap_copying *c)
{
	uint64_t rate = c->copy ? c->copy->bytes_per_second : c->verify->bytes_per_second;
	uint64_t now = io_now(c->loop);

	if (rate == 0)
		return false;
	if (now < c->next_at) {
		c->timer_runs = true;
		c->timer.done = on_timer;
		io_timer(c->loop, &c->timer, c->next_at - now);
		return true;
	}
	/* A pause is made up for by at most one block. */
	c->next_at = max_u64(c->next_at, now - min_u64(now, NSEC_PER_SEC * SNAP_BLOCK / rate)) +
		     NSEC_PER_SEC * SNAP_BLOCK / rate;
	return false;
}

static void go_on(struct snap_copying *c)
{
	struct err err;

	if (c->cancelled && !c->error) {
		err_set(&err, -ECANCELED, "it was cancelled");
		fail(c, -ECANCELED, &err);
	}
	while (!c->error && !c->timer_runs && !list_empty(&c->idle) && c->at < c->walk.n) {
		if (too_fast(c))
			return;
		slot_start(c, &c->blocks[c->at++]);
	}
	if (c->timer_runs || c->walking)
		return;
	if (!c->error && c->at < c->walk.n)
		return; /* a slot will come */
	if (!c->error && !c->walk_ended)
		walk_more(c);
	else if (c->n_busy == 0)
		finish(c);
}

static void on_walk(struct snap_walk *walk)
{
	struct snap_copying *c = container_of(walk, struct snap_copying, walk);
	uint64_t n_blocks = blocks_of(c->from->info.size);

	c->walking = false;
	if (walk->error == -EIO && c->verify) {
		/* What is below the page can't be looked at; on with what is not. */
		uint64_t next = min_u64(walk->bad_end, n_blocks);

		bad_blocks(c, walk->next, next - walk->next, walk->err.text);
		walk->next = next;
	} else if (walk->error) {
		fail(c, walk->error, &walk->err);
		walk->n = 0;
	}
	c->at = 0;
	c->walk_ended = walk->next >= n_blocks;
	if (c->copy)
		c->copy->blocks_done = min_u64(walk->next, n_blocks);
	go_on(c);
}

static void walk_more(struct snap_copying *c)
{
	c->walking = true;
	c->walk.done = on_walk;
	c->walk.blocks = c->blocks;
	c->walk.max = WALK_BLOCKS;
	if (c->parent)
		snap_compare(c->parent, c->from, &c->walk);
	else
		snap_list_blocks(c->from, &c->walk);
}

/* ---- Starts -----------------------------------------------------------------------------------
 */

static struct snap_copying *copying_new(struct snap_reader *from, struct io_loop *loop)
{
	struct snap_copying *c = mem_alloc(sizeof(*c));

	CHECK(from->loop == loop);
	if (!c)
		return NULL;
	c->loop = loop;
	c->from = from;
	list_init(&c->idle);
	c->buffers = mem_alloc_pages(SLOTS * (size_t)SNAP_BLOCK);
	for (int i = 0; c->buffers && i < SLOTS; i++) {
		c->slots[i].owner = c;
		c->slots[i].buf = c->buffers + (size_t)i * SNAP_BLOCK;
		list_add_tail(&c->idle, &c->slots[i].link);
	}
	if (!c->buffers)
		c->error = err_set(&c->err, -ENOMEM, "out of memory for a copy");
	return c;
}

static void on_parent(struct snap_reader_op *op)
{
	struct snap_copying *c = container_of(op, struct snap_copying, reader_op);

	c->parent = op->reader;
	if (op->error)
		fail(c, op->error, &op->err);
	go_on(c);
}

static void on_writer(struct snap_writer_op *op)
{
	struct snap_copying *c = container_of(op, struct snap_copying, writer_op);
	struct snap_reader_config config = {.id = c->config.parent, .reads = 1};

	c->writer = op->writer;
	if (op->error) {
		fail(c, op->error, &op->err);
		finish(c);
		return;
	}
	if (id_is_zero(c->config.parent)) {
		go_on(c);
		return;
	}
	c->reader_op.done = on_parent;
	snap_reader_open(c->to, c->loop, &config, &c->reader_op);
}

static void copy_never(struct io_op *defer)
{
	struct snap_copy *copy = container_of(defer, struct snap_copy, defer);

	copy->done(copy);
}

void snap_copy_start(struct snap_reader *from, struct repository *to, struct io_loop *loop,
		     const struct snap_writer_config *config, struct snap_copy *copy)
{
	struct snap_copying *c = copying_new(from, loop);
	const struct snap_info *info = &from->info;

	if (!c) {
		copy->error = err_set(&copy->err, -ENOMEM, "out of memory for a copy");
		copy->defer.done = copy_never;
		io_defer(loop, &copy->defer, 0);
		return;
	}
	c->copy = copy;
	c->to = to;
	copy->at_work = c;
	copy->error = 0;
	copy->stats = (struct snap_writer_stats){0};
	copy->blocks_total = blocks_of(info->size);
	copy->blocks_done = 0;
	c->config = *config;
	if (!config->size)
		c->config.size = info->size;
	if (!config->started)
		c->config.started = info->started;
	if (!config->labels) {
		c->config.labels = info->labels;
		c->config.labels_len = info->labels_len;
	}
	if (c->error) {
		end_later(c);
		return;
	}
	c->writer_op.done = on_writer;
	snap_writer_start(to, loop, &c->config, &c->writer_op);
}

void snap_copy_cancel(struct snap_copy *copy)
{
	if (copy->at_work)
		copy->at_work->cancelled = true;
}

static void verify_never(struct io_op *defer)
{
	struct snap_verify *verify = container_of(defer, struct snap_verify, defer);

	verify->done(verify);
}

static void verify_begin(struct io_op *defer)
{
	go_on(container_of(defer, struct snap_copying, defer));
}

void snap_verify_start(struct snap_reader *reader, struct snap_verify *verify)
{
	struct snap_copying *c = copying_new(reader, reader->loop);

	if (!c) {
		verify->error = err_set(&verify->err, -ENOMEM, "out of memory for verifying");
		verify->defer.done = verify_never;
		io_defer(reader->loop, &verify->defer, 0);
		return;
	}
	c->verify = verify;
	verify->at_work = c;
	verify->error = 0;
	verify->bad_blocks = 0;
	verify->blocks_done = 0;
	verify->blocks_total = reader->info.blocks;
	c->defer.done = verify_begin;
	io_defer(c->loop, &c->defer, 0);
}

void snap_verify_cancel(struct snap_verify *verify)
{
	if (verify->at_work)
		verify->at_work->cancelled = true;
}
