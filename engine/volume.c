/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes as a whole: create, close, checkpoint, resize.
 */
#include "engine/volume.h"
#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

static const struct block_ops engine_ops = {.name = "engine", .submit = engine_submit};

struct volume *volume_alloc(struct engine *e, struct id id)
{
	struct volume *v = mem_alloc(sizeof(*v));

	if (!v)
		return NULL;
	v->dev.ops = &engine_ops;
	v->engine = e;
	v->store = e->store;
	v->loop = e->loop;
	v->id = id;
	list_init(&v->kick);
	list_init(&v->no_record);
	list_init(&v->gc_queue);
	v->gc_share = 1000;
	list_init(&v->confirm_queue);
	list_init(&v->resize);
	list_init(&v->write_queue);
	list_init(&v->blocked);
	list_init(&v->locks);
	list_init(&v->in_flight);
	list_init(&v->sync_waiters);
	list_init(&v->checkpoint_waiters);
	list_init(&v->checkpoint_queue);
	list_init(&v->no_overlay);
	list_init(&v->of_engine);
	flights_init(v);
	list_init(&v->map.pages);
	v->map.volume = v;
	list_init(&v->cuts);
	fair_join(v);
	list_init(&v->cuts_asked);
	list_init(&v->views);
	list_init(&v->views_waiting);
	if (segments_init(v) < 0) {
		mem_free(v);
		return NULL;
	}
	e->n_volumes++;
	list_add_tail(&e->volumes, &v->of_engine);
	return v;
}

void volume_free(struct volume *v)
{
	if (!v)
		return;
	fair_leave(v);
	v->engine->n_volumes--;
	flights_free(v);
	list_remove(&v->of_engine);
	list_remove(&v->no_overlay);
	list_remove(&v->kick);
	list_remove(&v->no_record);
	list_remove(&v->gc_queue);
	list_remove(&v->confirm_queue);
	list_remove(&v->checkpoint_queue);
	map_free(v);
	overlay_free(&v->active);
	overlay_free(&v->frozen);
	list_for_each_safe (&v->cuts, node)
		cut_free(list_entry(node, struct cut, link));
	checkpoint_leave(v);
	segments_free(v);
	mem_free(v);
}

struct block_dev *volume_dev(struct volume *v)
{
	return &v->dev;
}

struct id volume_id(const struct volume *v)
{
	return v->id;
}

void volume_stats(const struct volume *v, struct volume_stats *ret_stats)
{
	*ret_stats = v->stats;
	ret_stats->size = block_size(&v->dev);
	ret_stats->sequence = v->published;
	ret_stats->durable_sequence = v->durable;
	ret_stats->incarnation = v->incarnation;
	ret_stats->overlay_blocks = v->active.n_blocks;
	ret_stats->base = v->sb.base;
	ret_stats->base_size = v->sb.base_size;
	ret_stats->hydrated = hydrate_cursor(v);
	scrub_stats(v, ret_stats);
	flights_stats(v, ret_stats);
	ret_stats->live_bytes = 0;
	ret_stats->spares = v->segments.n_spare[STORE_STREAM_USER] +
			    v->segments.n_spare[STORE_STREAM_MAP] +
			    v->segments.n_spare[STORE_STREAM_MOVED];
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		const struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_EMPTY && seg->stream != STORE_STREAM_MAP)
			ret_stats->live_bytes += (uint64_t)seg->live + seg->live_active;
	}
}

static void superblock_on_swap(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, object);

	flight_end(v, &v->flights.object);
	v->object_done(ctl);
}

void superblock_swap(struct volume *v, const struct superblock *sb,
		     void (*done)(struct store_ctl *ctl))
{
	struct store_ctl *ctl = &v->object;

	superblock_encode(ctl->data, sb);
	ctl->loop = v->loop;
	ctl->done = superblock_on_swap;
	v->object_done = done;
	ctl->volume = v->id;
	ctl->version = v->sb_version + 1;
	ctl->length = SUPERBLOCK_BYTES;
	flight_begin(v, &v->flights.object, VOLUME_IO_SUPERBLOCK);
	v->store->ops->object_swap(v->store, ctl);
}

/* ---- Create -------------------------------------------------------------------------------------
 */

static void create_done(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, object);
	struct volume_op *op = v->close_op;
	char text[ID_TEXT_MAX];

	op->err.code = 0;
	if (ctl->error == -ESTALE)
		err_set(&op->err, -EEXIST, "volume %s exists already",
			id_format(v->id, "vol", text));
	else if (ctl->error)
		err_set(&op->err, ctl->error, "volume %s: can't write its superblock: %s",
			id_format(v->id, "vol", text), strerror(-ctl->error));
	volume_free(v);
	op->done(op);
}

void volume_create(struct volume_op *op)
{
	struct volume *v = volume_alloc(op->engine, op->id);
	struct superblock sb = {.volume = op->id,
				.flags = SUPERBLOCK_CLEAN,
				.size = op->size,
				.replay_segment = REPLAY_NOWHERE,
				.base = op->snapshot,
				.base_size = op->base_size};

	CHECK(v); /* a few hundred bytes at set-up */
	CHECK(op->size > 0);
	CHECK(op->size % BLOCK_SIZE == 0);
	CHECK(op->size <= VOLUME_SIZE_MAX);
	CHECK(op->base_size <= op->size);
	CHECK(op->base_size % BLOCK_SIZE == 0);
	CHECK(id_is_zero(op->snapshot) == (op->base_size == 0));
	v->close_op = op;
	superblock_swap(v, &sb, create_done);
}

/* ---- Resize, checkpoint -------------------------------------------------------------------------
 */

void volume_resize(struct volume_op *op)
{
	struct volume *v = op->volume;

	CHECK(!v->resize_op);
	CHECK(op->size % BLOCK_SIZE == 0);
	CHECK(op->size <= VOLUME_SIZE_MAX);
	CHECK(op->size >= max_u64(block_size(&v->dev), v->pending_size));
	op->err.code = 0;
	CHECK(map_resize(v, op->size) == 0);
	v->resize_op = op;
	if (!volume_ops_start(v) && list_empty(&v->resize))
		list_add_tail(&v->engine->resizes, &v->resize);
}

bool volume_ops_start(struct volume *v)
{
	struct op *op;

	if (!cuts_start(v))
		return false;
	if (!v->resize_op)
		return true;
	op = op_get(v, OP_RESIZE);
	if (!op) /* requests have them all */
		return false;
	op->volume_op = v->resize_op;
	v->resize_op = NULL;
	write_start(op);
	return true;
}

struct checkpoint_op {
	struct checkpoint_wait wait;
	struct volume_op *op;
};

static void checkpoint_op_done(struct checkpoint_wait *wait, int error)
{
	struct checkpoint_op *c = container_of(wait, struct checkpoint_op, wait);
	struct volume_op *op = c->op;

	mem_free(c);
	op->err.code = 0;
	if (error)
		err_set(&op->err, error,
			"the volume could not be checkpointed: its log has stopped");
	op->done(op);
}

void volume_checkpoint(struct volume_op *op)
{
	struct checkpoint_op *c = mem_alloc(sizeof(*c));

	CHECK(c);
	c->op = op;
	c->wait.done = checkpoint_op_done;
	checkpoint_request(op->volume, &c->wait);
}

/* ---- Close --------------------------------------------------------------------------------------
 */

/* Spares hold nothing: back to the store. */
static void close_release_spares(struct volume *v)
{
	if (v->failed)
		return;
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++)
		if (segments_at(v, slot)->state == SEGMENT_SPARE)
			segments_release(v, segments_at(v, slot));
	segments_free_kick(v);
}

static void close_on_checkpoint(struct checkpoint_wait *wait, int error)
{
	struct volume *v = container_of(wait, struct volume, close_wait);
	char text[ID_TEXT_MAX];

	if (error)
		err_set(&v->close_op->err, error,
			"volume %s: its last checkpoint failed; what was "
			"acknowledged is in its log",
			id_format(v->id, "vol", text));
	v->close_state = CLOSE_WAIT_REST;
	if (v->idle_armed)
		io_timer_cancel(v->loop, &v->idle);
	if (v->segments.retrying && !v->segments.woken) {
		v->segments.woken = true;
		io_timer_cancel(v->loop, &v->segments.retry);
	}
	volume_close_kick(v);
}

void volume_close(struct volume_op *op)
{
	struct volume *v = op->volume;

	CHECK(!v->closing);
	CHECK(list_empty(&v->blocked));
	CHECK(list_empty(&v->views) && list_empty(&v->views_waiting));
	v->closing = true;
	gc_kick(v);
	hydrate_kick(v);
	volume_scrub_stop(v);
	v->close_op = op;
	op->err.code = 0;
	v->close_state = CLOSE_WAIT_LOG;
	volume_kick(v);
	volume_close_kick(v);
}

static void close_finish(struct io_op *io)
{
	struct volume *v = container_of(io, struct volume, idle);
	struct volume_op *op = v->close_op;

	hydrate_free(v, false);
	volume_free(v);
	op->done(op);
}

static bool is_at_rest(const struct volume *v)
{
	return !v->idle_armed && !v->hold_armed && fair_is_at_rest(v) && hydrate_is_at_rest(v) &&
	       !gc_is_at_work(v) && !v->segments.retrying && !v->segments.lending &&
	       !v->segments.free_busy && !v->checkpoint && confirm_is_at_rest(v);
}

void volume_close_kick(struct volume *v)
{
	if (!v->closing)
		return;
	switch (v->close_state) {
	case CLOSE_NOT:
	case CLOSE_WAIT_CHECKPOINT:
		return;
	case CLOSE_WAIT_LOG:
		if (!log_is_quiet(v) || !hydrate_is_at_rest(v) || v->scrub || v->n_walks > 0)
			return;
		v->close_state = CLOSE_WAIT_CHECKPOINT;
		v->close_wait.done = close_on_checkpoint;
		v->close_wait.clean = true;
		if (v->read_only || v->failed)
			close_on_checkpoint(&v->close_wait, v->failed);
		else
			checkpoint_request(v, &v->close_wait);
		return;
	case CLOSE_WAIT_REST:
		close_release_spares(v);
		if (!is_at_rest(v))
			return;
		v->close_state = CLOSE_NOT;
		v->idle.done = close_finish;
		io_defer(v->loop, &v->idle, 0);
		return;
	}
}
