/* SPDX-License-Identifier: Apache-2.0
 *
 * A put: [to_pack] -> packed on a worker -> [to_settle] -> its leaf is there, its pack has room ->
 * done. Settling is done by one at a time, out of writer_step.
 *
 * The steps of a start, a seal and an abort are those of enum writer_step, in its order; those of a
 * start follow each other by their callbacks, the rest by writer_kick, which brings writer_step.
 */
#include "snapshots/writer_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define TTL_DFLT         (24 * 3600 * NSEC_PER_SEC)
#define PACK_BLOCKS_DFLT 32
#define PACK_BLOCKS_MAX  128
#define IN_FLIGHT_DFLT   2
#define IN_FLIGHT_MAX    8
#define LEAVES_DFLT      32
#define LEAVES_MIN       2

enum { PUT, PUT_ZERO, DROP };

static void writer_step(struct io_op *settle);
static void writer_end(struct snap_writer *w, int error);

/* ---- Small pieces -----------------------------------------------------------------------------
 */

void writer_fail(struct snap_writer *w, int error, const struct err *err)
{
	if (w->failed)
		return;
	w->failed = error;
	w->failure = *err;
}

void writer_kick(struct snap_writer *w)
{
	if (w->settle_runs || w->step < WRITING)
		return;
	w->settle_runs = true;
	io_defer(w->loop, &w->settle, 0);
}

void writer_began(struct snap_writer *w)
{
	w->busy++;
}

void writer_ended(struct snap_writer *w)
{
	CHECK(w->busy > 0);
	w->busy--;
	if (w->step == START_ROOT && w->busy == 0) {
		w->settle_runs = true;
		io_defer(w->loop, &w->settle, 0);
	}
	writer_kick(w);
}

/* ---- The snapshot's object --------------------------------------------------------------------
 */

static void manifest_on_read(struct blob_op *blob)
{
	struct snap_writer *w = container_of(blob, struct snap_writer, blob);
	uint64_t n = blob->result < 0 ? 0 : (uint64_t)blob->result;
	int error = w->swap_error;

	/* Our swap, or an earlier one that was said to have failed, has worked after all. */
	if (n == w->new_len && memcmp(w->found, w->new, n) == 0)
		error = 0;
	else if (blob->result == -ENOENT && w->old_len > 0)
		error = -ESTALE;
	else if (n > 0 && (n != w->old_len || memcmp(w->found, w->old, n) != 0))
		error = -ESTALE;
	if (error == 0) {
		memcpy(w->old, w->new, w->new_len);
		w->old_len = w->new_len;
	}
	w->on_swap(w, error);
}

static void manifest_on_swap(struct blob_op *blob)
{
	struct snap_writer *w = container_of(blob, struct snap_writer, blob);
	char name[BLOB_NAME_MAX];

	w->swap_error = (int)blob->result;
	if (w->swap_error == 0) {
		memcpy(w->old, w->new, w->new_len);
		w->old_len = w->new_len;
		w->on_swap(w, 0);
		return;
	}
	w->blob.done = manifest_on_read;
	blob_read(w->repository->blobs, w->loop, &w->blob, manifest_name(w->config.id, name),
		  w->found, 0, MANIFEST_MAX);
}

/* w->info becomes what the object says. on_swap gets 0, -ESTALE or another error. */
static void manifest_swap(struct snap_writer *w, void (*on_swap)(struct snap_writer *w, int error))
{
	char name[BLOB_NAME_MAX];

	w->on_swap = on_swap;
	w->new_len = manifest_encode(w->new, &w->info, ++w->renewals);
	w->blob.done = manifest_on_swap;
	blob_swap(w->repository->blobs, w->loop, &w->blob, manifest_name(w->config.id, name),
		  w->old_len ? w->old : NULL, w->old_len, w->new, w->new_len);
}

static void stale(struct snap_writer *w, int error)
{
	char text[ID_TEXT_MAX];
	struct err err;

	id_format(w->config.id, SNAP_PREFIX, text);
	if (error == -ESTALE)
		err_set(&err, error, "snapshot %s was deleted, or another writer has taken it over",
			text);
	else
		err_set(&err, error, "%s: snapshots/%s can't be written: %s",
			w->repository->blobs->place, text, strerror(-error));
	writer_fail(w, error, &err);
}

/* ---- Renewal ----------------------------------------------------------------------------------
 */

static void renew_on_timer(struct io_op *timer);

static void renew_later(struct snap_writer *w)
{
	w->timer_runs = true;
	w->timer.done = renew_on_timer;
	io_timer(w->loop, &w->timer, w->config.ttl_ns / 4);
}

static void renew_on_swap(struct snap_writer *w, int error)
{
	/* Other errors may pass: there are more tries before the time is over. */
	if (error == -ESTALE)
		stale(w, error);
	renew_later(w);
	writer_ended(w);
}

static void renew_on_timer(struct io_op *timer)
{
	struct snap_writer *w = container_of(timer, struct snap_writer, timer);

	w->timer_runs = false;
	if (w->ended) {
		writer_end(w, w->end_error);
		return;
	}
	if (w->step == SEAL_SWAP || w->step >= ABORT_REST || w->failed)
		return;
	w->info.expires = io_wall_clock(w->loop) + w->config.ttl_ns;
	writer_began(w);
	manifest_swap(w, renew_on_swap);
}

/* ---- Life -------------------------------------------------------------------------------------
 */

static void writer_free(struct snap_writer *w)
{
	packs_close(w);
	tree_close(w);
	reuse_close(w);
	mem_free_pages(w->buffer_bytes, w->n_buffers * round_up(BLOCK_STORED_MAX, 4096));
	mem_free(w->buffers);
	mem_free(w->old);
	mem_free(w->new);
	mem_free(w->found);
	mem_free(w->parent);
	mem_free(w);
}

/* Nothing is busy. Ends the writer and tells the owner of w->op, as soon as timer and step rest. */
static void writer_end(struct snap_writer *w, int error)
{
	struct snap_writer_op *op = w->op;

	w->step = END;
	w->end_error = error;
	if (w->timer_runs && !w->ended)
		io_timer_cancel(w->loop, &w->timer);
	w->ended = true;
	if (w->timer_runs || w->settle_runs)
		return;
	op->error = error;
	if (error)
		op->err = w->failure;
	if (op->info && !error)
		*op->info = w->info;
	op->writer = NULL;
	writer_free(w);
	op->done(op);
}

static int writer_open(struct snap_writer *w)
{
	size_t stride = round_up(BLOCK_STORED_MAX, 4096);

	w->old = mem_alloc(MANIFEST_MAX);
	w->new = mem_alloc(MANIFEST_MAX);
	w->found = mem_alloc(MANIFEST_MAX);
	w->parent = mem_alloc(sizeof(*w->parent));
	w->n_buffers = (w->config.packs_in_flight + 1) * w->config.pack_blocks;
	w->buffers = mem_calloc(w->n_buffers, sizeof(*w->buffers));
	w->buffer_bytes = mem_alloc_pages(w->n_buffers * stride);
	if (!w->old || !w->new || !w->found || !w->parent || !w->buffers || !w->buffer_bytes)
		return -ENOMEM;
	for (uint32_t i = 0; i < w->n_buffers; i++) {
		w->buffers[i].bytes = w->buffer_bytes + i * stride;
		list_add_tail(&w->free_buffers, &w->buffers[i].link);
	}
	return packs_open(w) < 0 || tree_open(w) < 0 ? -ENOMEM : 0;
}

static uint32_t number_or(uint32_t n, uint32_t otherwise)
{
	return n ? n : otherwise;
}

static void config_take(struct snap_writer *w, const struct snap_writer_config *config)
{
	struct snap_writer_config *c = &w->config;

	*c = *config;
	c->ttl_ns = c->ttl_ns ? c->ttl_ns : TTL_DFLT;
	c->pack_blocks = number_or(c->pack_blocks, PACK_BLOCKS_DFLT);
	c->packs_in_flight = number_or(c->packs_in_flight, IN_FLIGHT_DFLT);
	c->leaves = number_or(c->leaves, LEAVES_DFLT);
	c->leaves = c->leaves < LEAVES_MIN ? LEAVES_MIN : c->leaves;
	CHECK(c->pack_blocks <= PACK_BLOCKS_MAX);
	CHECK(c->packs_in_flight <= IN_FLIGHT_MAX);
	CHECK(c->size <= SNAP_SIZE_MAX);
	CHECK(is_aligned(c->size, 512));
	CHECK(c->labels_len <= SNAP_LABELS_MAX);
	w->info = (struct snap_info){
	    .id = c->id,
	    .volume = c->volume,
	    .parent = c->parent,
	    .state = SNAP_PENDING,
	    .size = c->size,
	    .started = c->started ? c->started : io_wall_clock(w->loop),
	    .labels_len = c->labels_len,
	};
	if (c->labels_len)
		memcpy(w->info.labels, c->labels, c->labels_len);
	c->labels = NULL;
}

/* ---- Start ------------------------------------------------------------------------------------
 */

static void start_read(struct snap_writer *w);
static void start_on_read(struct blob_op *blob);
static void start_parent(struct snap_writer *w, enum writer_step step);
static void start_on_parent(struct repository_op *get);
static void start_swap(struct snap_writer *w);
static void start_on_swap(struct snap_writer *w, int error);
static void start_root(struct snap_writer *w);

static void start_failed(struct io_op *settle)
{
	struct snap_writer *w = container_of(settle, struct snap_writer, settle);

	w->settle_runs = false;
	writer_end(w, w->failed);
}

static void start_without_memory(struct io_op *defer)
{
	struct snap_writer_op *op = container_of(defer, struct snap_writer_op, defer);

	op->error = err_set(&op->err, -ENOMEM, "out of memory for writing a snapshot");
	op->done(op);
}

void snap_writer_start(struct repository *repository, struct io_loop *loop,
		       const struct snap_writer_config *config, struct snap_writer_op *op)
{
	struct snap_writer *w = mem_alloc(sizeof(*w));
	struct err err;

	op->writer = NULL;
	op->error = 0;
	if (!w) {
		op->defer.done = start_without_memory;
		io_defer(loop, &op->defer, 0);
		return;
	}
	w->repository = repository;
	w->loop = loop;
	w->op = op;
	op->info = NULL;
	list_init(&w->free_buffers);
	list_init(&w->to_pack);
	list_init(&w->to_settle);
	w->settle.done = writer_step;
	config_take(w, config);
	if (writer_open(w) == 0) {
		start_read(w);
		return;
	}
	err_set(&err, -ENOMEM, "out of memory for writing a snapshot");
	writer_fail(w, -ENOMEM, &err);
	w->settle.done = start_failed;
	w->settle_runs = true;
	io_defer(loop, &w->settle, 0);
}

static void start_read(struct snap_writer *w)
{
	char name[BLOB_NAME_MAX];

	w->step = START_READ;
	w->blob.done = start_on_read;
	blob_read(w->repository->blobs, w->loop, &w->blob, manifest_name(w->config.id, name),
		  w->old, 0, MANIFEST_MAX);
}

/* While the snapshot is pending, its object keeps the parent's tree. */
static void parent_is(struct snap_writer *w, const struct snap_info *parent)
{
	w->info.root = w->new_root = parent->root;
	w->info.blocks = w->new_blocks = parent->blocks;
}

static void start_on_read(struct blob_op *blob)
{
	struct snap_writer *w = container_of(blob, struct snap_writer, blob);
	struct snap_info *was = w->parent;
	char text[ID_TEXT_MAX];
	struct err err;
	int r = 0;

	w->old_len = 0;
	id_format(w->config.id, SNAP_PREFIX, text);
	if (blob->result >= 0) {
		w->old_len = (uint64_t)blob->result;
		r = manifest_decode(w->old, w->old_len, w->config.id, was, &w->renewals);
		if (r < 0)
			err_set(&err, r, "%s: %s is damaged: delete snapshot %s",
				w->repository->blobs->place, blob->name, text);
		else if (was->state == SNAP_COMPLETED)
			r = err_set(&err, -EEXIST, "snapshot %s is completed already", text);
	} else if (blob->result != -ENOENT) {
		r = blob_error(&err, w->repository, blob->name, "can't be read", blob->result);
	}
	if (r < 0) {
		writer_fail(w, r, &err);
		writer_end(w, r);
		return;
	}
	io_random(w->loop, &w->info.attempt, sizeof(w->info.attempt));
	w->resumed = w->old_len > 0 && was->state == SNAP_PENDING;
	if (w->resumed && !w->config.started)
		w->info.started = was->started;
	/* What the earlier attempt has held all the time, be the parent deleted or not. */
	w->parent_held =
	    w->resumed && id_equal(was->parent, w->config.parent) && was->size == w->config.size;
	if (w->parent_held)
		parent_is(w, was);
	if (w->parent_held || id_is_zero(w->config.parent))
		start_swap(w);
	else
		start_parent(w, START_PARENT);
}

static void start_parent(struct snap_writer *w, enum writer_step step)
{
	w->step = step;
	w->get.done = start_on_parent;
	snap_get(w->repository, w->loop, &w->get, w->config.parent, w->parent);
}

static void start_on_undo(struct repository_op *get)
{
	struct snap_writer *w = container_of(get, struct snap_writer, get);

	writer_end(w, w->failed);
}

static void start_on_parent(struct repository_op *get)
{
	struct snap_writer *w = container_of(get, struct snap_writer, get);
	struct err err = get->err;
	int r = get->error;

	if (r == 0 && w->parent->state == SNAP_PENDING)
		r = err_set(&err, -EAGAIN, "the parent snapshot is not completed yet");
	else if (r == 0 && w->parent->size > w->config.size)
		r = err_set(&err, -EINVAL, "the parent snapshot is larger than the volume");
	if (r < 0) {
		writer_fail(w, r, &err);
		if (w->step == START_PARENT) {
			writer_end(w, r);
			return;
		}
		/* Our own object is there, and counts on a parent that may be swept. */
		w->step = START_UNDO;
		w->get.done = start_on_undo;
		snap_delete(w->repository, w->loop, &w->get, w->config.id);
		return;
	}
	if (w->step == START_PARENT) {
		parent_is(w, w->parent);
		start_swap(w);
	} else {
		start_root(w);
	}
}

static void start_swap(struct snap_writer *w)
{
	w->step = START_SWAP;
	w->info.expires = io_wall_clock(w->loop) + w->config.ttl_ns;
	manifest_swap(w, start_on_swap);
}

static void start_on_swap(struct snap_writer *w, int error)
{
	if (error == -ESTALE) { /* somebody was faster: look again */
		start_read(w);
	} else if (error) {
		stale(w, error);
		writer_end(w, w->failed);
	} else if (w->parent_held || id_is_zero(w->config.parent)) {
		start_root(w);
	} else {
		start_parent(w, START_PARENT_AGAIN);
	}
}

/* Comes again when the root page is there. */
static void start_root(struct snap_writer *w)
{
	w->step = START_ROOT;
	if (w->failed) {
		writer_end(w, w->failed);
		return;
	}
	if (!tree_load_root(w))
		return;
	w->step = START_REUSE;
	if (w->resumed)
		reuse_begin(w);
	else
		writer_started(w);
}

void writer_started(struct snap_writer *w)
{
	struct snap_writer_op *op = w->op;

	w->step = WRITING;
	w->op = NULL;
	renew_later(w);
	op->writer = w;
	op->done(op);
}

/* ---- Puts -------------------------------------------------------------------------------------
 */

static void pack_run(struct io_work *work)
{
	struct snap_put *put = container_of(work, struct snap_put, work);

	codec_pack(put->buf, !put->writer->config.no_compression, put->out->bytes,
		   &put->out->block);
}

static void pack_done(struct io_work *work)
{
	struct snap_put *put = container_of(work, struct snap_put, work);
	struct snap_writer *w = put->writer;

	memcpy(put->hash, put->out->block.hash, SNAP_HASH);
	list_add_tail(&w->to_settle, &put->link);
	writer_ended(w);
}

static void start_packing(struct snap_writer *w)
{
	while (!list_empty(&w->to_pack) && !list_empty(&w->free_buffers)) {
		struct list *node = list_pop(&w->to_pack);
		struct list *buffer = list_pop(&w->free_buffers);
		struct snap_put *put = container_of(node, struct snap_put, link);

		put->out = container_of(buffer, struct snap_buffer, link);
		put->work.run = pack_run;
		put->work.done = pack_done;
		writer_began(w);
		io_work(w->loop, &put->work);
	}
}

static void put_start(struct snap_writer *w, struct snap_put *put, int kind)
{
	CHECK(w->step == WRITING);
	CHECK(put->block < blocks_of(w->config.size));
	put->writer = w;
	put->kind = kind;
	put->out = NULL;
	put->error = 0;
	list_add_tail(kind == PUT ? &w->to_pack : &w->to_settle, &put->link);
	writer_kick(w);
}

void snap_writer_put(struct snap_writer *writer, struct snap_put *put)
{
	put_start(writer, put, PUT);
}

void snap_writer_put_zero(struct snap_writer *writer, struct snap_put *put)
{
	memcpy(put->hash, codec_zero_hash, SNAP_HASH);
	put_start(writer, put, PUT_ZERO);
}

void snap_writer_drop(struct snap_writer *writer, struct snap_put *put)
{
	put_start(writer, put, DROP);
}

static bool is_data(const struct snap_entry *e)
{
	return e->state == ENTRY_RAW || e->state == ENTRY_FRAMES;
}

/* A block of bytes gets its entry. False: no pack is free. */
static bool settle_data(struct snap_writer *w, struct snap_put *put, struct leaf *leaf,
			struct snap_entry *e)
{
	struct snap_buffer *b = put->out;
	const struct snap_entry *stored;

	if (is_data(e) && memcmp(e->item.hash, b->block.hash, SNAP_HASH) == 0) {
		w->stats.same++;
		return true;
	}
	stored = reuse_find(w, put->block, b->block.hash);
	if (stored) {
		*e = *stored;
		w->stats.reused++;
	} else if (pack_add_block(w, (uint32_t)put->block, b, e)) {
		put->out = NULL;
	} else {
		return false;
	}
	leaf->dirty = true;
	return true;
}

/* False: something is on its way that brings writer_step again. */
static bool settle_one(struct snap_writer *w, struct snap_put *put)
{
	struct leaf *leaf = tree_leaf(w, put->block);
	struct snap_entry *e;
	bool zero;

	if (!leaf)
		return false;
	e = &leaf->page.entries[put->block % PAGE_FANOUT];
	zero = put->kind == PUT_ZERO || (put->out && put->out->block.state == ENTRY_ZERO);
	if (put->kind == DROP) {
		leaf->dirty |= e->state != ENTRY_ABSENT;
		*e = (struct snap_entry){.state = ENTRY_ABSENT};
	} else if (zero) {
		w->stats.zero++;
		leaf->dirty |= e->state != ENTRY_ZERO;
		*e = (struct snap_entry){.state = ENTRY_ZERO};
		memcpy(e->item.hash, codec_zero_hash, SNAP_HASH);
	} else if (!settle_data(w, put, leaf, e)) {
		return false;
	}
	w->stats.put += put->kind == PUT;
	return true;
}

static void put_end(struct snap_writer *w, struct snap_put *put, int error)
{
	list_remove(&put->link);
	if (put->out)
		list_add_tail(&w->free_buffers, &put->out->link);
	put->out = NULL;
	put->error = error;
	put->done(put);
}

static void puts_end(struct snap_writer *w, struct list *puts, int error)
{
	while (!list_empty(puts))
		put_end(w, list_first(puts, struct snap_put, link), error);
}

static void writing_step(struct snap_writer *w)
{
	while (!list_empty(&w->to_settle) && !w->failed && w->step == WRITING) {
		struct snap_put *put = list_first(&w->to_settle, struct snap_put, link);

		if (!settle_one(w, put))
			break;
		put_end(w, put, 0);
	}
	if (w->failed) {
		puts_end(w, &w->to_settle, w->failed);
		puts_end(w, &w->to_pack, w->failed);
	}
	start_packing(w);
}

void snap_writer_stats(const struct snap_writer *writer, struct snap_writer_stats *ret_stats)
{
	*ret_stats = writer->stats;
}

/* ---- Seal and abort ---------------------------------------------------------------------------
 */

static void seal_on_swap(struct snap_writer *w, int error)
{
	if (error)
		stale(w, error);
	w->busy--;
	writer_end(w, error);
}

/* What is stored is durable: only now may the snapshot say that it is complete (S1). */
static void seal_swap(struct snap_writer *w)
{
	w->step = SEAL_SWAP;
	w->info.state = SNAP_COMPLETED;
	w->info.completed = io_wall_clock(w->loop);
	w->info.expires = 0;
	w->info.root = w->new_root;
	w->info.blocks = w->new_blocks;
	w->info.stored = w->stats.stored;
	w->busy++;
	manifest_swap(w, seal_on_swap);
}

static void abort_on_swap(struct snap_writer *w, int error)
{
	if (error == -ESTALE) /* it is gone, or another's */
		error = 0;
	if (error)
		stale(w, error);
	w->busy--;
	writer_end(w, error);
}

static void abort_step(struct snap_writer *w)
{
	puts_end(w, &w->to_settle, -ECANCELED);
	puts_end(w, &w->to_pack, -ECANCELED);
	if (w->busy > 0)
		return;
	if (w->keep || w->failed == -ESTALE) {
		writer_end(w, 0);
		return;
	}
	w->step = ABORT_SWAP;
	w->info.state = SNAP_DELETED;
	w->busy++;
	manifest_swap(w, abort_on_swap);
}

static void seal_step(struct snap_writer *w)
{
	if (w->failed) {
		if (w->busy == 0)
			writer_end(w, w->failed);
		return;
	}
	if (w->step == SEAL_DATA) {
		packs_flush_data(w);
		w->step = SEAL_LEAVES;
	}
	if (w->step == SEAL_LEAVES && tree_write_leaves(w))
		w->step = SEAL_INNER;
	if (w->step == SEAL_INNER && tree_write_inner(w))
		w->step = SEAL_ROOT;
	if (w->step == SEAL_ROOT && tree_write_root(w)) {
		packs_flush_pages(w);
		w->step = SEAL_STORE;
	}
	if (w->step == SEAL_STORE && w->busy == 0)
		seal_swap(w);
}

static void writer_step(struct io_op *settle)
{
	struct snap_writer *w = container_of(settle, struct snap_writer, settle);

	w->settle_runs = false;
	switch (w->step) {
	case START_ROOT:
		start_root(w);
		return;
	case WRITING:
		writing_step(w);
		return;
	case SEAL_DATA:
	case SEAL_LEAVES:
	case SEAL_INNER:
	case SEAL_ROOT:
	case SEAL_STORE:
		seal_step(w);
		return;
	case ABORT_REST:
		abort_step(w);
		return;
	case END:
		writer_end(w, w->end_error);
		return;
	case START_READ:
	case START_PARENT:
	case START_SWAP:
	case START_PARENT_AGAIN:
	case START_REUSE:
	case START_UNDO:
	case SEAL_SWAP:
	case ABORT_SWAP:
		return;
	}
}

void snap_writer_seal(struct snap_writer *writer, struct snap_writer_op *op)
{
	CHECK(writer->step == WRITING);
	CHECK(list_empty(&writer->to_pack));
	CHECK(list_empty(&writer->to_settle));
	writer->op = op;
	writer->step = SEAL_DATA;
	writer_kick(writer);
}

void snap_writer_abort(struct snap_writer *writer, bool keep, struct snap_writer_op *op)
{
	CHECK(writer->step == WRITING);
	writer->op = op;
	op->info = NULL;
	writer->keep = keep;
	writer->step = ABORT_REST;
	writer_kick(writer);
}
