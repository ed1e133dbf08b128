/* SPDX-License-Identifier: Apache-2.0
 *
 * A checkpoint moves what changed from the overlay into the map on disk, so that replay stays
 * short:
 *
 *   freeze: the active overlay becomes the frozen one; the log position of this moment is noted
 *   (or: the oldest cut that waits, which froze when it was published)
 *   sort (worker) -> leaves and index pages merged and written anew -> usage pages, root
 *   -> sync -> swap of the superblock -> the frozen overlay goes, dead segments are freed
 *
 * I/O goes on all the while. Until the swap is durable the old root and the log after it say
 * everything. Merging is in merge.c.
 */
#include "engine/checkpoint.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

/* All volumes of a loop replay at most so many times what one of them may. */
#define LOOP_LOG        2
#define COUNTS_PER_TURN 8192

static void checkpoint_start(struct volume *v);
static void checkpoint_begin(struct volume *v);
static void checkpoint_next(struct engine *e);
static void checkpoint_step(struct checkpoint *c);
static void sort_run(struct io_work *work);
static void sort_done(struct io_work *work);
static int count_some(struct checkpoint *c);
static int write_usage_pages(struct checkpoint *c);
static int write_root(struct checkpoint *c);
static void on_sync(struct device_io *io);
static void swap_start(struct checkpoint *c);
static void on_swap(struct store_ctl *ctl);
static void checkpoint_end(struct checkpoint *c);

/* ---- When ---------------------------------------------------------------------------------------
 */

static bool is_full(const struct volume *v, uint64_t times)
{
	const struct engine_config *config = &v->engine->config;

	return v->active.n_blocks > config->checkpoint_blocks * times ||
	       v->active.n_ranges > RANGES_MAX * times ||
	       v->log_bytes > config->checkpoint_log * times;
}

bool checkpoint_must_wait(const struct volume *v)
{
	return (v->checkpoint || v->holds > 0 || !list_empty(&v->checkpoint_queue)) &&
	       is_full(v, 2);
}

bool checkpoint_is_needed(const struct volume *v)
{
	return v->published > v->sb.sequence || v->reap_later;
}

/* A checkpoint of the volume that takes most: of the memory for overlays, or of the log that would
 * be replayed. */
static void relieve(struct engine *e, bool by_log)
{
	struct volume *most = NULL;
	uint64_t its = 0;

	if (e->n_checkpoints >= e->config.checkpoints_max)
		return;
	list_for_each (&e->volumes, node) {
		struct volume *v = list_entry(node, struct volume, of_engine);
		uint64_t size = by_log ? v->log_bytes : overlay_bytes(&v->active);

		if (size <= its || v->checkpoint || v->failed || v->read_only || v->opening ||
		    (!by_log && overlay_is_empty(&v->active)))
			continue;
		most = v;
		its = size;
	}
	if (most)
		checkpoint_start(most);
}

bool checkpoint_make_room(struct volume *v, bool must)
{
	struct engine *e = v->engine;
	uint32_t n = v->entries_in_flight + RECORD_ENTRIES_MAX;
	uint64_t more = overlay_growth(&v->active, n);

	if (more > 0 && e->overlay_bytes + more > e->overlay_limit / 2) {
		relieve(e, false);
		more = overlay_growth(&v->active, n);
	}
	/* Whatever keeps a checkpoint from beginning wakes us when it ends. */
	if (!must && more > 0 &&
	    (e->overlay_bytes + more > e->overlay_limit ||
	     v->overlay_bytes + more > fair_overlay(v)) &&
	    (e->n_checkpoints > 0 || v->holds > 0 || v->moving)) {
		if (list_empty(&v->no_overlay))
			list_add_tail(&e->no_overlay, &v->no_overlay);
		return false;
	}
	if (overlay_reserve(&v->active, n, (v->n_in_flight + 1) * 2) < 0)
		return false;
	checkpoint_count_overlays(v);
	return true;
}

void checkpoint_count_overlays(struct volume *v)
{
	uint64_t now = overlay_bytes(&v->active) + overlay_bytes(&v->frozen);

	list_for_each (&v->cuts, node)
		now += overlay_bytes(&list_entry(node, struct cut, link)->overlay);
	if (v->failed)
		now = 0;
	v->engine->overlay_bytes += now - v->overlay_bytes;
	v->overlay_bytes = now;
}

void checkpoint_count_log(struct volume *v, uint64_t bytes)
{
	v->log_bytes += bytes;
	v->engine->log_bytes += bytes;
}

static void log_is_frozen(struct volume *v)
{
	v->engine->log_bytes -= v->log_bytes;
	v->log_bytes = 0;
}

void checkpoint_count_cut(struct volume *v)
{
	log_is_frozen(v);
	checkpoint_count_overlays(v);
}

static void kick_those_without_overlay(struct engine *e)
{
	for (struct list *node; (node = list_pop(&e->no_overlay));)
		volume_kick(list_entry(node, struct volume, no_overlay));
}

void checkpoint_leave(struct volume *v)
{
	checkpoint_count_cut(v);
	kick_those_without_overlay(v->engine);
}

void checkpoint_consider(struct volume *v)
{
	struct engine *e = v->engine;

	v->last_write = io_now(v->loop);
	if (!v->checkpoint && !v->failed && !v->read_only &&
	    (is_full(v, 1) || !list_empty(&v->cuts)))
		checkpoint_start(v);
	if (e->log_bytes > e->config.checkpoint_log * LOOP_LOG)
		relieve(e, true);
	checkpoint_idle_arm(v);
}

static void on_idle(struct io_op *op)
{
	struct volume *v = container_of(op, struct volume, idle);

	v->idle_armed = false;
	if (v->closing) {
		volume_close_kick(v);
		return;
	}
	if (v->failed || !checkpoint_is_needed(v))
		return;
	if (!v->checkpoint &&
	    io_now(v->loop) >= v->last_write + v->engine->config.checkpoint_idle_ns)
		checkpoint_start(v);
	else
		checkpoint_idle_arm(v);
}

void checkpoint_idle_arm(struct volume *v)
{
	if (v->idle_armed || v->closing || v->failed || v->read_only || !checkpoint_is_needed(v))
		return;
	v->idle_armed = true;
	v->idle.done = on_idle;
	io_timer(v->loop, &v->idle, v->engine->config.checkpoint_idle_ns);
}

void checkpoint_for_space(struct volume *v)
{
	if (!v->checkpoint && !v->failed && checkpoint_is_needed(v))
		checkpoint_start(v);
}

void checkpoint_request(struct volume *v, struct checkpoint_wait *wait)
{
	list_add_tail(&v->checkpoint_waiters, &wait->link);
	if (!v->checkpoint)
		checkpoint_start(v);
}

/* ---- The machine --------------------------------------------------------------------------------
 */

static void checkpoint_fail_waiters(struct list *waits, int error)
{
	for (struct list *node; (node = list_pop(waits));) {
		struct checkpoint_wait *wait = list_entry(node, struct checkpoint_wait, link);

		wait->done(wait, error);
	}
}

/* While it is being written to, the next overlay will be as large as this one: growing takes time.
 */
static uint32_t next_overlay_size(const struct volume *v)
{
	const struct engine *e = v->engine;

	if (list_empty(&v->write_queue) && v->n_in_flight == 0)
		return 0;
	return e->overlay_bytes + overlay_bytes(&v->active) <= e->overlay_limit ? v->active.n_blocks
										: 0;
}

/* The active overlay becomes the frozen one. 0 or -ENOMEM. */
static int freeze(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct overlay fresh;
	int r = overlay_init(&fresh, v->published, next_overlay_size(v));

	if (r == 0)
		r = overlay_reserve(&fresh, v->entries_in_flight, v->n_in_flight * 2);
	if (r < 0) {
		overlay_free(&fresh);
		return r;
	}
	CHECK(overlay_is_empty(&v->frozen));
	overlay_free(&v->frozen);
	v->frozen = v->active;
	v->active = fresh;
	checkpoint_count_overlays(v);
	segments_freeze(v);
	log_is_frozen(v);
	c->sb.sequence = v->published;
	c->sb.sequence_sum = v->published_sum;
	c->sb.replay_segment = v->published_segment;
	c->sb.replay_offset = v->published_end;
	c->sb.size = block_size(&v->dev);
	c->sb.hydrated = hydrate_cursor(v);
	return 0;
}

/* The oldest cut's overlay becomes the frozen one. */
static void freeze_cut(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct cut *cut = list_first(&v->cuts, struct cut, link);

	CHECK(overlay_is_empty(&v->frozen));
	overlay_free(&v->frozen);
	v->frozen = cut->overlay;
	memset(&cut->overlay, 0, sizeof(cut->overlay));
	c->cut = cut;
	c->sb.sequence = cut->sequence;
	c->sb.sequence_sum = cut->sum;
	c->sb.replay_segment = cut->segment;
	c->sb.replay_offset = cut->end;
	c->sb.size = cut->size;
	c->sb.hydrated = cut->hydrated;
}

void checkpoint_hold(struct volume *v)
{
	v->holds++;
}

void checkpoint_resume(struct volume *v)
{
	if (!v->checkpoint && (!list_empty(&v->checkpoint_waiters) || !list_empty(&v->cuts)))
		checkpoint_start(v);
	volume_kick(v);
}

void checkpoint_release(struct volume *v)
{
	CHECK(v->holds > 0);
	v->holds--;
	checkpoint_resume(v);
	checkpoint_idle_arm(v);
}

/* Each takes memory, so that only a few run at a time; ahead are those that somebody waits for. */
static void checkpoint_start(struct volume *v)
{
	struct engine *e = v->engine;
	bool first = !list_empty(&v->checkpoint_waiters) || !list_empty(&v->cuts);

	if (v->read_only)
		return; /* cuts that replay has found stay in the log */
	if (v->holds > 0)
		return; /* checkpoint_resume sees to those who wait */
	/* A cut has frozen already: what is being looked up now was looked up behind it. */
	if (list_empty(&v->cuts) && ((v->moving && !gc_retract(v)) || !hydrate_retract(v)))
		return;
	if (e->n_checkpoints < e->config.checkpoints_max) {
		list_remove(&v->checkpoint_queue);
		checkpoint_begin(v);
	} else if (first) {
		list_remove(&v->checkpoint_queue);
		list_add_head(&e->checkpoint_queue, &v->checkpoint_queue);
	} else if (list_empty(&v->checkpoint_queue)) {
		list_add_tail(&e->checkpoint_queue, &v->checkpoint_queue);
	}
}

/* One has ended: others have their turn. */
static void checkpoint_next(struct engine *e)
{
	struct list *node;

	e->n_checkpoints--;
	while (e->n_checkpoints < e->config.checkpoints_max &&
	       (node = list_pop(&e->checkpoint_queue)))
		checkpoint_start(list_entry(node, struct volume, checkpoint_queue));
}

static void checkpoint_begin(struct volume *v)
{
	struct checkpoint *c = v->failed ? NULL : checkpoint_new(v);
	int r = c ? 0 : -ENOMEM;

	if (c) {
		c->sb = v->sb;
		c->sb.checkpoint = v->sb.checkpoint + 1;
		c->sb.incarnation = v->incarnation;
	}
	if (c && !list_empty(&v->cuts))
		freeze_cut(c);
	else if (c)
		r = freeze(c);
	if (r < 0) {
		if (c)
			checkpoint_free(c);
		checkpoint_fail_waiters(&v->checkpoint_waiters, v->failed ? -EIO : r);
		return;
	}
	v->checkpoint = c;
	v->engine->n_checkpoints++;
	v->reap_later = false;
	if (!c->cut) /* theirs is the next one */
		list_splice_tail(&c->waits, &v->checkpoint_waiters);
	segments_want(v, STORE_STREAM_MAP);
	c->state = CHECKPOINT_WAIT_SORT;
	c->work.run = sort_run;
	c->work.done = sort_done;
	io_work(v->loop, &c->work);
}

static void sort_run(struct io_work *work)
{
	struct checkpoint *c = container_of(work, struct checkpoint, work);

	c->sorted = overlay_sort(&c->volume->frozen);
}

static void sort_done(struct io_work *work)
{
	struct checkpoint *c = container_of(work, struct checkpoint, work);

	if (!c->sorted)
		volume_fail(c->volume, -ENOMEM);
	c->state = c->cut ? CHECKPOINT_COUNT : CHECKPOINT_MERGE;
	checkpoint_step(c);
}

void checkpoint_space_kick(struct volume *v)
{
	if (v->checkpoint && v->checkpoint->wants_space) {
		v->checkpoint->wants_space = false;
		checkpoint_step(v->checkpoint);
	}
}

static void on_turn(struct io_op *op)
{
	struct checkpoint *c = container_of(op, struct checkpoint, turn);

	c->turning = false;
	checkpoint_step(c);
}

void checkpoint_yield(struct checkpoint *c, uint64_t delay)
{
	if (c->turning)
		return;
	c->turning = true;
	c->turn.done = on_turn;
	if (delay)
		io_timer(c->volume->loop, &c->turn, delay);
	else
		io_defer(c->volume->loop, &c->turn, 0);
}

/* The step's answer: 0 go on, 1 asleep (whoever wakes it calls checkpoint_step), negative errno. */
static void checkpoint_step(struct checkpoint *c)
{
	struct volume *v = c->volume;
	int r = 0;

	while (r == 0) {
		if (v->failed && c->state != CHECKPOINT_WAIT_SORT &&
		    c->state < CHECKPOINT_WAIT_APPENDS)
			c->state = CHECKPOINT_WAIT_APPENDS;
		switch (c->state) {
		case CHECKPOINT_WAIT_SORT:
		case CHECKPOINT_WAIT_SYNC:
		case CHECKPOINT_WAIT_SWAP:
			r = 1;
			break;
		case CHECKPOINT_COUNT:
			r = count_some(c);
			break;
		case CHECKPOINT_MERGE:
			r = merge_some(c);
			break;
		case CHECKPOINT_USAGE:
			r = write_usage_pages(c);
			break;
		case CHECKPOINT_ROOT:
			r = write_root(c);
			break;
		case CHECKPOINT_WAIT_APPENDS:
			if (c->n_appends > 0 || c->turning || merge_is_loading(c)) {
				r = 1;
				break;
			}
			if (v->failed) {
				c->state = CHECKPOINT_END;
				break;
			}
			c->written = true;
			c->state = CHECKPOINT_WAIT_SYNC;
			c->sync.done = on_sync;
			v->stats.syncs++;
			device_sync(v, &c->sync, VOLUME_IO_CHECKPOINT);
			break;
		case CHECKPOINT_END:
			checkpoint_end(c);
			return;
		}
	}
	if (r < 0) {
		volume_fail(v, r);
		checkpoint_yield(c, 0);
	}
}

/* What waits for its turn does not jump the queue; else it looks whether what it waits for is
 * there. */
void checkpoint_kick(struct checkpoint *c)
{
	if (!c->turning)
		checkpoint_step(c);
}

/* ---- Usage, root --------------------------------------------------------------------------------
 */

/* segments_freeze, of one overlay among several. */
static int count_some(struct checkpoint *c)
{
	struct volume *v = c->volume;

	for (uint32_t n = 0; c->counted < v->frozen.n_blocks; c->counted++) {
		const struct overlay_block *b = &v->frozen.blocks[c->sorted[c->counted]];

		if (b->state != ENTRY_DATA)
			continue;
		if (++n > COUNTS_PER_TURN) {
			checkpoint_yield(c, 0);
			return 1;
		}
		segments_live_active(v, b->segment, -BLOCK_SIZE);
		segments_live(v, b->segment, BLOCK_SIZE);
	}
	c->state = CHECKPOINT_MERGE;
	return 0;
}

static void usage_of(const struct segment *seg, struct usage_entry *u)
{
	memset(u, 0, sizeof(*u));
	if (seg->state != SEGMENT_HEAD && seg->state != SEGMENT_CLOSED)
		return;
	if (seg->stream != STORE_STREAM_MAP && seg->newest == 0)
		return;
	u->segment = seg->id;
	u->generation = seg->generation;
	u->live = seg->live - seg->own;
	u->written = seg->tail;
	u->newest = seg->newest;
	u->lent_at = seg->lent_at;
	u->stream = seg->stream;
}

static int write_usage_pages(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct usage_entry entries[USAGE_SEGMENTS];

	for (; c->usage_page < v->segments.n_pages; c->usage_page++) {
		struct segment_page *page = v->segments.pages[c->usage_page];
		struct blob_ref ref = {0};
		uint8_t *buf;

		if (!page->dirty)
			continue;
		buf = checkpoint_out(c, USAGE_BYTES_MAX);
		if (!buf)
			return 1;
		page->dirty = false;
		for (int i = 0; i < USAGE_SEGMENTS; i++)
			usage_of(&page->segments[i], &entries[i]);
		ref.length = (uint32_t)usage_encode(buf, v->id, c->usage_page, c->sb.sequence,
						    entries, &ref.sum);
		checkpoint_out_done(c, &ref, &page->ref, true);
	}
	c->state = CHECKPOINT_ROOT;
	return 0;
}

static void root_count(const struct volume *v, struct root_content *root)
{
	for (uint32_t i = 0; i < v->map.n_index; i++)
		if (v->map.index[i].length)
			root->n_index++;
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		if (v->segments.pages[i]->ref.length)
			root->n_usage++;
}

static void root_fill(const struct volume *v, uint8_t *buf)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < v->map.n_index; i++)
		if (v->map.index[i].length)
			root_put_ref(buf, n++, i, &v->map.index[i]);
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		if (v->segments.pages[i]->ref.length)
			root_put_ref(buf, n++, i, &v->segments.pages[i]->ref);
}

static int write_root(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct root_content root = {
	    .checkpoint = c->sb.checkpoint, .sequence = c->sb.sequence, .size = c->sb.size};
	struct blob_ref ref = {.birth = c->sb.sequence};
	uint8_t *buf;

	root_count(v, &root);
	ref.length = (uint32_t)root_bytes(root.n_index, root.n_usage);
	buf = checkpoint_out(c, ref.length);
	if (!buf)
		return 1;
	root_begin(buf, v->id, &root);
	root_fill(v, buf);
	root_finish(buf, v->id, &root, &ref.sum);
	checkpoint_out_done(c, &ref, &c->sb.root, true);
	checkpoint_out_flush(c);
	c->state = CHECKPOINT_WAIT_APPENDS;
	return 0;
}

/* ---- Durable ------------------------------------------------------------------------------------
 */

static void on_sync(struct device_io *io)
{
	struct checkpoint *c = container_of(io, struct checkpoint, sync);
	struct volume *v = c->volume;

	if (io->result < 0)
		volume_fail(v, (int)io->result);
	if (v->failed) {
		c->state = CHECKPOINT_END;
		checkpoint_step(c);
		return;
	}
	/* The sync came after the freeze: the log up to it is durable, too. */
	log_durable(v, c->sb.sequence);
	c->state = CHECKPOINT_WAIT_SWAP;
	swap_start(c);
}

static void swap_pin(struct checkpoint *c)
{
	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		if (c->sb.pins[i].checkpoint != 0)
			continue;
		c->sb.pins[i] = (struct superblock_pin){.snapshot = c->cut->snapshot,
							.size = c->cut->size,
							.checkpoint = c->sb.checkpoint,
							.sequence = c->sb.sequence,
							.root = c->sb.root};
		return;
	}
}

static void swap_start(struct checkpoint *c)
{
	struct volume *v = c->volume;
	uint32_t n = 0;

	c->sb.flags &= SUPERBLOCK_DELETED;
	list_for_each (&c->waits, node) {
		struct checkpoint_wait *wait = list_entry(node, struct checkpoint_wait, link);

		struct superblock_pin *pin = pin_find(&c->sb, wait->unpin);

		if (wait->clean)
			c->sb.flags |= SUPERBLOCK_CLEAN;
		if (pin)
			*pin = (struct superblock_pin){0};
		if (wait->detach) {
			c->sb.base = (struct id){0};
			c->sb.base_size = c->sb.hydrated = 0;
		}
	}
	if (c->cut)
		swap_pin(c);
	/* Incarnations that ended inside this checkpoint are of no more interest. */
	for (uint32_t i = 0; i < c->sb.n_ended; i++)
		if (c->sb.ended[i].last > c->sb.sequence)
			c->sb.ended[n++] = c->sb.ended[i];
	c->sb.n_ended = n;
	superblock_swap(v, &c->sb, on_swap);
}

static void on_swap(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, object);
	struct checkpoint *c = v->checkpoint;

	if (ctl->error) {
		volume_fail(v, ctl->error);
	} else {
		v->stats.checkpoints++;
		v->sb = c->sb;
		v->sb_version++;
		overlay_free(&v->frozen);
		if (c->cut)
			cut_free(c->cut);
		c->cut = NULL;
		v->reap_later = segments_reap(v, c->sb.checkpoint, c->sb.sequence);
	}
	c->state = CHECKPOINT_END;
	checkpoint_step(c);
}

static void checkpoint_end(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct list waits;
	int error = v->failed ? -EIO : 0;

	list_init(&waits);
	list_splice_tail(&waits, &c->waits);
	if (!c->written)
		merge_revert(c);
	checkpoint_free(c);
	v->checkpoint = NULL;
	if (overlay_is_empty(&v->active) && v->n_in_flight == 0) { /* it was not needed after all */
		uint64_t base = v->active.base;

		overlay_free(&v->active);
		overlay_init(&v->active, base, 0);
	}
	checkpoint_count_overlays(v);
	checkpoint_next(v->engine);
	kick_those_without_overlay(v->engine);
	checkpoint_fail_waiters(&waits, error);
	views_feed(v);
	if ((!list_empty(&v->checkpoint_waiters) || !list_empty(&v->cuts)) && !v->checkpoint)
		checkpoint_start(v);
	volume_kick(v);
	checkpoint_idle_arm(v);
	if (!error)
		gc_consider(v);
	/* Somebody waits for what becomes free when its readers have gone. */
	if (v->reap_later && segments_out_of_space(v, STORE_STREAM_USER))
		checkpoint_for_space(v);
	volume_close_kick(v);
}
