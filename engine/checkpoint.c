/* SPDX-License-Identifier: Apache-2.0
 *
 * A checkpoint moves what changed from the overlay into the map on disk, so that replay stays
 * short:
 *
 *   freeze: the active overlay becomes the frozen one; the log position of this moment is noted
 *   (or: the oldest cut that waits, which froze when it was published)
 *   sort (worker) -> merge leaf by leaf, each written anew -> index pages, usage pages, root
 *   -> sync -> swap of the superblock -> the frozen overlay goes, dead segments are freed
 *
 * I/O goes on all the while. Until the swap is durable the old root and the log after it say
 * everything. A leaf in memory takes its new content at once: the frozen overlay over the old leaf
 * says the same. It is pinned until its bytes are on disk.
 */
#include "engine/checkpoint.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define LEAVES_PER_TURN 16
#define COUNTS_PER_TURN 8192
#define MEMORY_RETRY    NSEC_PER_MSEC

static void checkpoint_start(struct volume *v);
static void checkpoint_begin(struct volume *v);
static void checkpoint_step(struct checkpoint *c);
static void sort_run(struct io_work *work);
static void sort_done(struct io_work *work);
static uint64_t range_leaf_search(struct checkpoint *c);
static int count_some(struct checkpoint *c);
static int merge_some(struct checkpoint *c);
static int write_index_pages(struct checkpoint *c);
static int write_usage_pages(struct checkpoint *c);
static int write_root(struct checkpoint *c);
static void on_sync(struct store_io *io);
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
	return (v->checkpoint || v->holds > 0) && is_full(v, 2);
}

bool checkpoint_is_needed(const struct volume *v)
{
	return v->published > v->sb.sequence || v->reap_later;
}

void checkpoint_consider(struct volume *v)
{
	v->last_write = io_now(v->loop);
	if (!v->checkpoint && !v->failed && !v->read_only &&
	    (is_full(v, 1) || !list_empty(&v->cuts)))
		checkpoint_start(v);
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

/* The active overlay becomes the frozen one. 0 or -ENOMEM. */
static int freeze(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct overlay fresh;
	int r = overlay_init(&fresh, v->published, 0);

	if (r == 0)
		r = log_reserve_overlay(v, &fresh);
	if (r < 0) {
		overlay_free(&fresh);
		return r;
	}
	CHECK(overlay_is_empty(&v->frozen));
	overlay_free(&v->frozen);
	v->frozen = v->active;
	v->active = fresh;
	segments_freeze(v);
	v->log_bytes = 0;
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

static void checkpoint_start(struct volume *v)
{
	if (v->holds > 0 || v->read_only)
		return; /* checkpoint_resume sees to those who wait */
	/* A cut has frozen already: what is being looked up now was looked up behind it. */
	if (list_empty(&v->cuts) && ((v->moving && !gc_retract(v)) || !hydrate_retract(v)))
		return;
	checkpoint_begin(v);
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
	v->reap_later = false;
	if (!c->cut) /* theirs is the next one */
		list_splice_tail(&c->waits, &v->checkpoint_waiters);
	segments_want(v, STORE_STREAM_MAP);
	c->range_next = v->frozen.n_ranges ? range_leaf_search(c) : UINT64_MAX;
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

/* Goes on at a later turn, at once or after a rest. */
static void checkpoint_yield(struct checkpoint *c, uint64_t delay)
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
		case CHECKPOINT_INDEX:
			r = write_index_pages(c);
			break;
		case CHECKPOINT_USAGE:
			r = write_usage_pages(c);
			break;
		case CHECKPOINT_ROOT:
			r = write_root(c);
			break;
		case CHECKPOINT_WAIT_APPENDS:
			if (c->n_appends > 0 || c->turning || c->loading) {
				r = 1;
				break;
			}
			if (v->failed) {
				c->state = CHECKPOINT_END;
				break;
			}
			c->state = CHECKPOINT_WAIT_SYNC;
			c->sync.done = on_sync;
			v->stats.syncs++;
			store_sync(v->store, v->loop, &c->sync);
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

void checkpoint_on_append(struct checkpoint *c)
{
	checkpoint_step(c);
}

/* ---- Merging ------------------------------------------------------------------------------------
 */

static const struct overlay_block *sorted_block(const struct checkpoint *c, uint32_t i)
{
	return &c->volume->frozen.blocks[c->sorted[i]];
}

/* segments_freeze, of one overlay among several. */
static int count_some(struct checkpoint *c)
{
	struct volume *v = c->volume;

	for (uint32_t n = 0; c->counted < v->frozen.n_blocks; c->counted++) {
		const struct overlay_block *b = sorted_block(c, c->counted);

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

static uint64_t range_leaf_search(struct checkpoint *c)
{
	struct volume *v = c->volume;

	for (; c->range < v->frozen.n_ranges; c->range++) {
		const struct overlay_range *range = &v->frozen.ranges[c->range];
		uint64_t n = max_u64(range->first / LEAF_BLOCKS, c->range_leaf);

		while (n <= (range->end - 1) / LEAF_BLOCKS) {
			struct index_page *page = map_index_page(v, n);

			/* Over a base, zeroes must be said. */
			if (range->state == ENTRY_ZERO_RESERVED ||
			    n * LEAF_BLOCKS * BLOCK_SIZE < v->sb.base_size ||
			    (page && page->refs[n % INDEX_LEAVES].length != 0))
				return n;
			n = page ? n + 1 : round_down(n, INDEX_LEAVES) + INDEX_LEAVES;
		}
	}
	return UINT64_MAX;
}

/* The first leaf from c->range_leaf on that a range changes; UINT64_MAX: none. Leaves that were
 * never written need no zeroes, unless they are to be reserved. */
static uint64_t next_range_leaf(struct checkpoint *c)
{
	if (c->range_next < c->range_leaf)
		c->range_next = range_leaf_search(c);
	return c->range_next;
}

static void entry_replace(struct volume *v, struct entry *old, const struct entry *with)
{
	if (old->state == ENTRY_DATA)
		segments_live(v, old->segment, -BLOCK_SIZE);
	*old = *with;
}

static void merge_ranges(struct checkpoint *c, struct leaf *leaf)
{
	struct overlay *o = &c->volume->frozen;
	uint64_t first = leaf->number * LEAF_BLOCKS;
	uint64_t end = first + LEAF_BLOCKS;

	for (uint64_t lba = overlay_next_range(o, first, end); lba < end;
	     lba = overlay_next_range(o, lba, end)) {
		const struct overlay_range *range = overlay_range_at(o, lba);
		struct entry zero = {.state = range->state & 0xff};

		for (; lba < end && lba < range->end; lba++) {
			leaf->content.birth[(lba - first) / BIRTH_BLOCKS] = c->sb.sequence;
			entry_replace(c->volume, &leaf->content.entries[lba - first], &zero);
		}
	}
}

/* Merges the blocks of this leaf from c->at on. */
static void merge_blocks(struct checkpoint *c, struct leaf *leaf)
{
	struct volume *v = c->volume;
	uint64_t first = leaf->number * LEAF_BLOCKS;

	for (; c->at < v->frozen.n_blocks; c->at++) {
		const struct overlay_block *b = sorted_block(c, c->at);
		uint64_t i = overlay_lba(b) - first;
		const struct overlay_range *range;
		struct entry e = {
		    .segment = b->segment, .state = b->state, .offset = b->offset, .sum = b->sum};

		if (overlay_lba(b) >= first + LEAF_BLOCKS)
			break;
		range = overlay_range_at(&v->frozen, overlay_lba(b));
		if (range && range->seq >= b->seq) {
			if (b->state == ENTRY_DATA)
				segments_live(v, b->segment, -BLOCK_SIZE);
			continue;
		}
		if (!b->moved)
			leaf->content.birth[i / BIRTH_BLOCKS] = c->sb.sequence;
		entry_replace(v, &leaf->content.entries[i], &e);
	}
}

static void on_leaf(struct leaf_wait *wait, int error)
{
	struct checkpoint *c = container_of(wait, struct checkpoint, leaf_wait);

	c->loading = false;
	if (error) /* what the leaf said of other blocks is lost: never write over that */
		volume_fail(c->volume, error);
	checkpoint_step(c);
}

/* The leaf, resident; NULL: asleep until it is. */
static struct leaf *merge_leaf(struct checkpoint *c, uint64_t number)
{
	struct volume *v = c->volume;
	struct index_page *page = map_index_page_make(v, number);
	struct leaf *leaf = leaf_resident(v, number);

	if (!page) {
		volume_fail(v, -ENOMEM);
		checkpoint_yield(c, 0);
		return NULL;
	}
	if (leaf)
		return leaf;
	if (page->refs[number % INDEX_LEAVES].length != 0) {
		c->loading = true;
		c->leaf_wait.wake = on_leaf;
		leaf_load(v, number, &c->leaf_wait);
		return NULL;
	}
	leaf = leaf_make(v, number);
	if (leaf)
		leaf->pins = 0;
	else
		checkpoint_yield(c, MEMORY_RETRY);
	return leaf;
}

/* One leaf: 0, or 1: asleep. */
static int merge_one(struct checkpoint *c, uint64_t number)
{
	struct volume *v = c->volume;
	struct blob_ref ref = {0};
	struct leaf *leaf = merge_leaf(c, number);
	struct index_page *page;
	uint8_t *buf;

	if (!leaf)
		return 1;
	buf = checkpoint_out(c, LEAF_BYTES_MAX);
	if (!buf)
		return 1;
	page = map_index_page(v, number);
	merge_ranges(c, leaf);
	merge_blocks(c, leaf);
	for (int i = 0; i < LEAF_BIRTHS; i++)
		ref.birth = max_u64(ref.birth, leaf->content.birth[i]);
	ref.length =
	    (uint32_t)leaf_encode(buf, v->id, number, c->sb.sequence, &leaf->content, &ref.sum);
	checkpoint_out_done(c, &ref, &page->refs[number % INDEX_LEAVES], leaf);
	page->dirty = true;
	c->range_leaf = max_u64(c->range_leaf, number + 1);
	return 0;
}

static int merge_some(struct checkpoint *c)
{
	struct volume *v = c->volume;

	for (int n = 0; n < LEAVES_PER_TURN; n++) {
		uint64_t by_range = next_range_leaf(c);
		uint64_t by_block = c->at < v->frozen.n_blocks
					? overlay_lba(sorted_block(c, c->at)) / LEAF_BLOCKS
					: UINT64_MAX;
		uint64_t number = min_u64(by_range, by_block);

		if (number == UINT64_MAX) {
			c->state = CHECKPOINT_INDEX;
			return 0;
		}
		if (merge_one(c, number))
			return 1;
	}
	checkpoint_yield(c, 0);
	return 1;
}

/* ---- Index, usage, root -------------------------------------------------------------------------
 */

static int write_index_pages(struct checkpoint *c)
{
	struct volume *v = c->volume;

	for (; c->page < v->n_index; c->page++) {
		struct index_page *page = v->index[c->page];
		struct blob_ref ref = {0};
		uint8_t *buf;

		if (!page || !page->dirty)
			continue;
		buf = checkpoint_out(c, INDEX_BYTES_MAX);
		if (!buf)
			return 1;
		for (int i = 0; i < INDEX_LEAVES; i++)
			ref.birth = max_u64(ref.birth, page->refs[i].birth);
		ref.length = (uint32_t)index_encode(buf, v->id, c->page, c->sb.sequence, page->refs,
						    &ref.sum);
		checkpoint_out_done(c, &ref, &page->self, NULL);
		page->dirty = false;
	}
	c->page = 0;
	c->state = CHECKPOINT_USAGE;
	return 0;
}

static void usage_of(const struct segment *seg, struct usage_entry *u)
{
	memset(u, 0, sizeof(*u));
	if (seg->state != SEGMENT_HEAD && seg->state != SEGMENT_CLOSED)
		return;
	if (seg->stream == STORE_STREAM_MAP || seg->newest == 0)
		return;
	u->segment = seg->id;
	u->generation = seg->generation;
	u->live = seg->live;
	u->written = seg->tail;
	u->newest = seg->newest;
	u->lent_at = seg->lent_at;
	u->stream = seg->stream;
}

static int write_usage_pages(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct usage_entry entries[USAGE_SEGMENTS];

	for (; v->n_old_usage > 0; v->n_old_usage--)
		segments_live(v, v->old_usage[v->n_old_usage - 1].segment,
			      -(int64_t)v->old_usage[v->n_old_usage - 1].length);
	for (; c->page < v->segments.n_pages; c->page++) {
		struct segment_page *page = v->segments.pages[c->page];
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
		ref.length =
		    (uint32_t)usage_encode(buf, v->id, c->page, c->sb.sequence, entries, &ref.sum);
		checkpoint_out_done(c, &ref, &page->ref, NULL);
	}
	c->state = CHECKPOINT_ROOT;
	return 0;
}

static void root_count(const struct volume *v, struct root_content *root)
{
	for (uint32_t i = 0; i < v->n_index; i++)
		if (v->index[i] && v->index[i]->self.length)
			root->n_index++;
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		if (v->segments.pages[i]->ref.length)
			root->n_usage++;
}

static void root_fill(const struct volume *v, uint8_t *buf)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < v->n_index; i++)
		if (v->index[i] && v->index[i]->self.length)
			root_put_ref(buf, n++, i, &v->index[i]->self);
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
	checkpoint_out_done(c, &ref, &c->sb.root, NULL);
	checkpoint_out_flush(c);
	c->state = CHECKPOINT_WAIT_APPENDS;
	return 0;
}

/* ---- Durable ------------------------------------------------------------------------------------
 */

static void on_sync(struct store_io *io)
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
		v->sb = c->sb;
		v->sb_version++;
		v->stats.checkpoints++;
		overlay_free(&v->frozen);
		if (c->cut)
			cut_free(c->cut);
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
	checkpoint_free(c);
	v->checkpoint = NULL;
	checkpoint_fail_waiters(&waits, error);
	views_feed(v);
	if ((!list_empty(&v->checkpoint_waiters) || !list_empty(&v->cuts)) && !v->checkpoint)
		checkpoint_start(v);
	volume_kick(v);
	checkpoint_idle_arm(v);
	if (!error)
		gc_consider(v);
	/* Somebody waits for what becomes free one checkpoint later. */
	if (v->reap_later && segments_out_of_space(v, STORE_STREAM_USER))
		checkpoint_for_space(v);
	volume_close_kick(v);
}
