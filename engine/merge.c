/* SPDX-License-Identifier: Apache-2.0
 *
 * What a checkpoint does with the frozen overlay: index page by index page, in the order of blocks,
 *
 *   page loaded and pinned -> its changed leaves, read ahead -> each merged and written -> page
 * written, let go
 *
 * so that memory holds one page and a few leaves of it, however much has changed and whatever the
 * volume's size. A leaf that nobody reads goes past the cache; one that is there takes its new
 * content at once: the frozen overlay over the old leaf says the same. Until a blob is on disk it
 * is read from the buffer that it waits in (checkpoint_out_find).
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/checkpoint.h"

#include <errno.h>
#include <string.h>

#define LEAVES_PER_TURN 16
#define MEMORY_RETRY    NSEC_PER_MSEC
#define PAGE_BLOCKS     (LEAF_BLOCKS * INDEX_LEAVES)

static int open_page(struct checkpoint *c, uint64_t number);
static void ask_ahead(struct checkpoint *c);
static int merge_one(struct checkpoint *c, struct merge_leaf *l);
static int close_page(struct checkpoint *c);

static const struct overlay_block *sorted_block(const struct checkpoint *c, uint32_t i)
{
	return &c->volume->frozen.blocks[c->sorted[i]];
}

/* ---- What comes next ----------------------------------------------------------------------------
 */

/* Whether zeroes must be said even of what was never written: over a base, and to reserve space. */
static bool must_be_said(const struct checkpoint *c, uint64_t lba)
{
	return lba * BLOCK_SIZE < c->volume->sb.base_size ||
	       overlay_range_at(&c->volume->frozen, lba)->state == ENTRY_ZERO_RESERVED;
}

/* The first index page at or after `number` that a range changes. */
static uint64_t page_by_range(const struct checkpoint *c, uint64_t number)
{
	const struct overlay *o = &c->volume->frozen;
	const struct map *m = &c->volume->map;
	uint64_t end = (uint64_t)m->n_index * PAGE_BLOCKS;

	while (number < m->n_index) {
		uint64_t lba = overlay_next_range(o, number * PAGE_BLOCKS, end);

		if (lba >= end)
			break;
		number = lba / PAGE_BLOCKS;
		if (m->index[number].length || must_be_said(c, lba))
			return number;
		/* A later range of this page may be one of reserved zeroes. */
		for (uint64_t page_end = (number + 1) * PAGE_BLOCKS; lba < page_end;
		     lba = overlay_next_range(o, overlay_range_at(o, lba)->end, end))
			if (must_be_said(c, lba))
				return number;
		number++;
	}
	return UINT64_MAX;
}

/* The next index page with a change; UINT64_MAX: none. */
static uint64_t next_page(const struct checkpoint *c)
{
	uint64_t by_range = page_by_range(c, c->page_number);
	uint64_t by_block = c->at < c->volume->frozen.n_blocks
				? overlay_lba(sorted_block(c, c->at)) / PAGE_BLOCKS
				: UINT64_MAX;

	return min_u64(by_range, by_block);
}

static bool range_changes(const struct checkpoint *c, uint64_t leaf, uint64_t lba)
{
	struct volume *v = c->volume;

	return must_be_said(c, lba) ||
	       map_index_ref(v->engine->map_cache, c->page, leaf % INDEX_LEAVES)->length != 0;
}

/* The first leaf of the page at or after c->ahead that a range changes; `end`: none. */
static uint64_t leaf_by_range(const struct checkpoint *c, uint64_t end)
{
	const struct overlay *o = &c->volume->frozen;
	uint64_t lba = c->ahead * LEAF_BLOCKS;

	while ((lba = overlay_next_range(o, lba, end * LEAF_BLOCKS)) < end * LEAF_BLOCKS) {
		uint64_t leaf = lba / LEAF_BLOCKS;
		uint64_t range_end = overlay_range_at(o, lba)->end;

		if (range_changes(c, leaf, lba))
			return leaf;
		lba = min_u64(range_end, (leaf + 1) * LEAF_BLOCKS);
	}
	return end;
}

/* The next leaf of the page to ask for; UINT64_MAX: none. */
static uint64_t next_leaf(struct checkpoint *c)
{
	const struct overlay *o = &c->volume->frozen;
	uint64_t end = (c->page_number + 1) * INDEX_LEAVES;
	uint64_t leaf = leaf_by_range(c, end);

	while (c->ahead_at < o->n_blocks &&
	       overlay_lba(sorted_block(c, c->ahead_at)) < c->ahead * LEAF_BLOCKS)
		c->ahead_at++;
	if (c->ahead_at < o->n_blocks)
		leaf = min_u64(leaf, overlay_lba(sorted_block(c, c->ahead_at)) / LEAF_BLOCKS);
	return leaf < end ? leaf : UINT64_MAX;
}

int merge_some(struct checkpoint *c)
{
	for (int n = 0; n < LEAVES_PER_TURN; n++) {
		struct merge_leaf *l = &c->leaves[c->first_leaf];
		uint64_t number = c->page ? c->page_number : next_page(c);
		int r;

		if (number == UINT64_MAX) {
			c->state = CHECKPOINT_USAGE;
			return 0;
		}
		if (!c->page) {
			r = open_page(c, number);
		} else {
			ask_ahead(c);
			if (c->n_leaves == 0)
				r = close_page(c);
			else
				r = l->ready ? merge_one(c, l) : 1;
		}
		if (r)
			return 1;
	}
	checkpoint_yield(c, 0);
	return 1;
}

/* ---- An index page ------------------------------------------------------------------------------
 */

static void on_page(struct leaf_wait *wait, int error)
{
	struct checkpoint *c = container_of(wait, struct checkpoint, page_wait);

	c->page_loading = false;
	if (error) /* what it said of other leaves is lost: never write over that */
		volume_fail(c->volume, error);
	checkpoint_yield(c, 0); /* not from inside the waking: it may forget the page */
}

static int open_page(struct checkpoint *c, uint64_t number)
{
	struct map *m = &c->volume->map;
	struct map_scratch *scratch = c->volume->engine->scratch;

	if (c->page_loading)
		return 1;
	if (map_index(m, number, &c->page) == -EAGAIN) {
		c->page_loading = true;
		c->page_wait.wake = on_page;
		map_load(m, number * INDEX_LEAVES, &c->page_wait);
		return 1;
	}
	if (!c->page) {
		memset(scratch->refs, 0, sizeof(scratch->refs));
		c->page = map_cache_put_index(c->volume->engine->map_cache, m, &m->pages, number,
					      scratch->refs);
	}
	if (!c->page) { /* all there is in the cache is pinned */
		checkpoint_yield(c, MEMORY_RETRY);
		return 1;
	}
	c->page->pins++;
	c->page_number = number;
	c->ahead = number * INDEX_LEAVES;
	c->ahead_at = c->at;
	return 0;
}

static bool note_before(struct checkpoint *c, uint32_t number, const struct blob_ref *ref)
{
	if (c->n_before == c->before_room) {
		uint32_t room = c->before_room ? c->before_room * 2 : 16;
		void *p = mem_realloc(c->before, room * sizeof(c->before[0]));

		if (!p)
			return false;
		c->before = p;
		c->before_room = room;
	}
	c->before[c->n_before++] = (struct merge_before){.number = number, .ref = *ref};
	return true;
}

/* All its leaves are merged: it is written, and may be dropped. */
static int close_page(struct checkpoint *c)
{
	struct volume *v = c->volume;
	struct blob_ref *refs = v->engine->scratch->refs;
	struct blob_ref ref = {0};
	uint8_t *buf = checkpoint_out(c, INDEX_BYTES_MAX);

	if (!buf)
		return 1;
	if (!note_before(c, (uint32_t)c->page_number, &v->map.index[c->page_number])) {
		volume_fail(v, -ENOMEM);
		return 1;
	}
	for (uint32_t i = 0; i < INDEX_LEAVES; i++) {
		refs[i] = *map_index_ref(v->engine->map_cache, c->page, i);
		ref.birth = max_u64(ref.birth, refs[i].birth);
	}
	ref.length =
	    (uint32_t)index_encode(buf, v->id, c->page_number, c->sb.sequence, refs, &ref.sum);
	checkpoint_out_done(c, &ref, &v->map.index[c->page_number], false);
	c->page->pins--;
	c->page = NULL;
	c->page_number++;
	return 0;
}

/* ---- Leaves -------------------------------------------------------------------------------------
 */

static void on_leaf(struct leaf_wait *wait, const struct leaf_content *content, int error)
{
	struct merge_leaf *l = container_of(wait, struct merge_leaf, wait);
	struct checkpoint *c = l->checkpoint;

	c->n_loading--;
	if (error) /* what the leaf said of other blocks is lost: never write over that */
		volume_fail(c->volume, error);
	else
		l->content = *content;
	l->ready = !error;
	checkpoint_yield(c, 0);
}

static void ask(struct checkpoint *c, struct merge_leaf *l, uint64_t number)
{
	struct map *m = &c->volume->map;
	struct map_page *leaf;

	l->checkpoint = c;
	l->number = number;
	l->ready = true;
	if (map_leaf(m, number, &leaf) == -EAGAIN) {
		l->ready = false;
		c->n_loading++;
		l->wait.take = on_leaf;
		map_load(m, number, &l->wait);
	} else if (leaf) {
		map_leaf_content(c->volume->engine->map_cache, leaf, &l->content);
	} else {
		memset(&l->content, 0, sizeof(l->content));
	}
}

static void ask_ahead(struct checkpoint *c)
{
	while (c->n_leaves < MERGE_AHEAD) {
		uint64_t number = next_leaf(c);

		if (number == UINT64_MAX)
			return;
		ask(c, &c->leaves[(c->first_leaf + c->n_leaves++) % MERGE_AHEAD], number);
		c->ahead = number + 1;
	}
}

static void entry_replace(struct volume *v, struct entry *old, const struct entry *with)
{
	if (old->state == ENTRY_DATA)
		segments_live(v, old->segment, -BLOCK_SIZE);
	*old = *with;
}

static void merge_ranges(struct checkpoint *c, struct merge_leaf *l)
{
	struct overlay *o = &c->volume->frozen;
	uint64_t first = l->number * LEAF_BLOCKS;
	uint64_t end = first + LEAF_BLOCKS;

	for (uint64_t lba = overlay_next_range(o, first, end); lba < end;
	     lba = overlay_next_range(o, lba, end)) {
		const struct overlay_range *range = overlay_range_at(o, lba);
		struct entry zero = {.state = range->state & 0xff};

		for (; lba < end && lba < range->end; lba++) {
			l->content.birth[(lba - first) / BIRTH_BLOCKS] = c->sb.sequence;
			entry_replace(c->volume, &l->content.entries[lba - first], &zero);
		}
	}
}

/* Merges the blocks of this leaf from c->at on. */
static void merge_blocks(struct checkpoint *c, struct merge_leaf *l)
{
	struct volume *v = c->volume;
	uint64_t first = l->number * LEAF_BLOCKS;

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
			l->content.birth[i / BIRTH_BLOCKS] = c->sb.sequence;
		entry_replace(v, &l->content.entries[i], &e);
	}
}

/* 0, or 1: asleep. */
static int merge_one(struct checkpoint *c, struct merge_leaf *l)
{
	struct volume *v = c->volume;
	struct map_cache *cache = v->engine->map_cache;
	struct blob_ref ref = {0};
	uint8_t *buf = checkpoint_out(c, LEAF_BYTES_MAX);

	if (!buf)
		return 1;
	merge_ranges(c, l);
	merge_blocks(c, l);
	for (int i = 0; i < LEAF_BIRTHS; i++)
		ref.birth = max_u64(ref.birth, l->content.birth[i]);
	ref.length =
	    (uint32_t)leaf_encode(buf, v->id, l->number, c->sb.sequence, &l->content, &ref.sum);
	checkpoint_out_done(c, &ref, map_index_ref(cache, c->page, l->number % INDEX_LEAVES),
			    false);
	if (map_cache_find(cache, &v->map, MAP_LEAF, l->number))
		map_cache_put_leaf(cache, &v->map, &v->map.pages, l->number, &l->content);
	map_leaf_changed(&v->map, l->number);
	c->first_leaf = (c->first_leaf + 1) % MERGE_AHEAD;
	c->n_leaves--;
	return 0;
}

/* ---- Failure ------------------------------------------------------------------------------------
 */

bool merge_is_loading(const struct checkpoint *c)
{
	return c->page_loading || c->n_loading > 0;
}

void merge_revert(struct checkpoint *c)
{
	struct map *m = &c->volume->map;

	if (c->page)
		c->page->pins--;
	c->page = NULL;
	while (c->n_before > 0) {
		struct merge_before *b = &c->before[--c->n_before];

		m->index[b->number] = b->ref;
	}
	map_forget(m);
}
