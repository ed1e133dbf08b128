/* SPDX-License-Identifier: Apache-2.0
 *
 * Where each block is: the active overlay, else the frozen one, else the leaf. Index pages stay in
 * memory while the volume is open. Leaves are loaded when asked for and kept in a cache that all
 * volumes of the loop share; a leaf in memory is always as clean as its reference says, so that any
 * may go that nobody pins.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static void leaf_read(struct leaf *leaf, struct leaf_wait *wait);
static void leaf_on_read(struct store_io *io);
static void leaf_wake(struct leaf *leaf, int error);

/* ---- Index pages --------------------------------------------------------------------------------
 */

static uint32_t index_pages_for(uint64_t size)
{
	uint64_t leaves = round_up(size, LEAF_BLOCKS * BLOCK_SIZE) / (LEAF_BLOCKS * BLOCK_SIZE);

	return (uint32_t)(round_up(leaves, INDEX_LEAVES) / INDEX_LEAVES);
}

int map_init(struct volume *v, uint64_t size)
{
	return map_resize(v, size);
}

int map_resize(struct volume *v, uint64_t size)
{
	uint32_t n = index_pages_for(size);
	struct index_page **index;

	if (n <= v->n_index)
		return 0;
	index = mem_realloc(v->index, n * sizeof(index[0]));
	if (!index)
		return -ENOMEM;
	memset(&index[v->n_index], 0, (n - v->n_index) * sizeof(index[0]));
	v->index = index;
	v->n_index = n;
	return 0;
}

void map_free(struct volume *v)
{
	for (uint32_t i = 0; i < v->n_index; i++) {
		if (!v->index[i])
			continue;
		for (int j = 0; j < INDEX_LEAVES; j++)
			if (v->index[i]->leaves[j])
				leaf_drop(v->index[i]->leaves[j]);
		mem_free(v->index[i]);
	}
	mem_free(v->index);
	v->index = NULL;
	v->n_index = 0;
}

struct index_page *map_index_page(struct volume *v, uint64_t leaf_number)
{
	uint64_t page = leaf_number / INDEX_LEAVES;

	return page < v->n_index ? v->index[page] : NULL;
}

struct index_page *map_index_page_make(struct volume *v, uint64_t leaf_number)
{
	uint64_t page = leaf_number / INDEX_LEAVES;

	CHECK(page < v->n_index);
	if (!v->index[page])
		v->index[page] = mem_alloc(sizeof(struct index_page));
	return v->index[page];
}

/* ---- Looking up ---------------------------------------------------------------------------------
 */

int map_get(struct volume *v, uint64_t lba, struct entry *ret_entry)
{
	struct index_page *page;
	struct leaf *leaf;
	uint64_t number = lba / LEAF_BLOCKS;

	if (!overlay_is_empty(&v->active) && overlay_get(&v->active, lba, ret_entry))
		return 0;
	if (!list_empty(&v->cuts) && cut_overlay_get(v, lba, ret_entry))
		return 0;
	if (!overlay_is_empty(&v->frozen) && overlay_get(&v->frozen, lba, ret_entry))
		return 0;
	page = map_index_page(v, number);
	if (!page || page->refs[number % INDEX_LEAVES].length == 0) {
		memset(ret_entry, 0, sizeof(*ret_entry));
		return 0;
	}
	leaf = leaf_resident(v, number);
	if (!leaf)
		return -EAGAIN;
	*ret_entry = leaf->content.entries[lba % LEAF_BLOCKS];
	return 0;
}

int map_get_run(struct volume *v, uint64_t lba, uint64_t n, struct entry *ret_entry,
		uint64_t *ret_n)
{
	uint64_t number = lba / LEAF_BLOCKS;
	struct index_page *page = map_index_page(v, number);
	uint64_t unit = page ? LEAF_BLOCKS : LEAF_BLOCKS * INDEX_LEAVES;

	*ret_n = 1;
	if (!overlay_is_empty(&v->active) || !overlay_is_empty(&v->frozen) || !list_empty(&v->cuts))
		return map_get(v, lba, ret_entry);
	if (page && page->refs[number % INDEX_LEAVES].length != 0)
		return map_get(v, lba, ret_entry);
	memset(ret_entry, 0, sizeof(*ret_entry));
	*ret_n = min_u64(n, round_down(lba, unit) + unit - lba);
	return 0;
}

/* ---- Leaves -------------------------------------------------------------------------------------
 */

struct leaf *leaf_resident(struct volume *v, uint64_t number)
{
	struct index_page *page = map_index_page(v, number);
	struct leaf *leaf = page ? page->leaves[number % INDEX_LEAVES] : NULL;

	if (!leaf || leaf->state != LEAF_READY)
		return NULL;
	list_remove(&leaf->lru);
	list_add_tail(&v->engine->leaf_lru, &leaf->lru);
	return leaf;
}

void leaf_drop(struct leaf *leaf)
{
	struct volume *v = leaf->volume;
	struct index_page *page = map_index_page(v, leaf->number);

	CHECK(leaf->pins == 0);
	CHECK(list_empty(&leaf->waiters));
	page->leaves[leaf->number % INDEX_LEAVES] = NULL;
	list_remove(&leaf->lru);
	pool_put(v->engine->leaves, leaf);
}

/* A leaf's memory: a free one, or that of the clean leaf that was not asked for the longest. */
static struct leaf *leaf_get(struct engine *e)
{
	struct leaf *leaf = pool_get(e->leaves);

	if (leaf)
		return leaf;
	list_for_each (&e->leaf_lru, node) {
		struct leaf *old = list_entry(node, struct leaf, lru);

		if (old->pins > 0 || old->state != LEAF_READY)
			continue;
		leaf_drop(old);
		return pool_get(e->leaves);
	}
	return NULL;
}

static void leaf_init(struct leaf *leaf, struct volume *v, uint64_t number, enum leaf_state state)
{
	leaf->volume = v;
	leaf->number = number;
	leaf->state = state;
	leaf->pins = 0;
	leaf->buffer = NULL;
	list_init(&leaf->waiters);
	list_add_tail(&v->engine->leaf_lru, &leaf->lru);
	map_index_page(v, number)->leaves[number % INDEX_LEAVES] = leaf;
}

struct leaf *leaf_make(struct volume *v, uint64_t number)
{
	struct leaf *leaf = leaf_get(v->engine);

	if (!leaf)
		return NULL;
	leaf_init(leaf, v, number, LEAF_READY);
	memset(&leaf->content, 0, sizeof(leaf->content));
	leaf->pins = 1;
	return leaf;
}

void leaf_load(struct volume *v, uint64_t number, struct leaf_wait *wait)
{
	struct index_page *page = map_index_page(v, number);
	struct leaf *leaf = page->leaves[number % INDEX_LEAVES];
	uint8_t *buffer;

	wait->volume = v;
	wait->number = number;
	if (leaf) {
		CHECK(leaf->state == LEAF_LOADING);
		list_add_tail(&leaf->waiters, &wait->link);
		return;
	}
	buffer = pool_get(v->engine->blobs);
	leaf = buffer ? leaf_get(v->engine) : NULL;
	if (!leaf) {
		if (buffer)
			pool_put(v->engine->blobs, buffer);
		list_add_tail(&v->engine->leaf_starved, &wait->link);
		return;
	}
	leaf_init(leaf, v, number, LEAF_LOADING);
	leaf->buffer = buffer;
	leaf_read(leaf, wait);
}

static void leaf_read(struct leaf *leaf, struct leaf_wait *wait)
{
	struct volume *v = leaf->volume;
	struct blob_ref *ref = &map_index_page(v, leaf->number)->refs[leaf->number % INDEX_LEAVES];
	uint32_t alignment = v->store->info.alignment;
	uint32_t from = (uint32_t)round_down(ref->offset, alignment);
	uint32_t to = (uint32_t)round_up(ref->offset + ref->length, alignment);

	list_add_tail(&leaf->waiters, &wait->link);
	leaf->skip = ref->offset - from;
	leaf->segment = segments_find(v, ref->segment);
	CHECK(leaf->segment); /* recovery looked at every reference */
	leaf->segment->users++;
	leaf->io.done = leaf_on_read;
	store_read(v->store, v->loop, &leaf->io, ref->segment, from, leaf->buffer, to - from);
}

static void leaf_on_read(struct store_io *io)
{
	struct leaf *leaf = container_of(io, struct leaf, io);
	struct volume *v = leaf->volume;
	struct blob_ref *ref = &map_index_page(v, leaf->number)->refs[leaf->number % INDEX_LEAVES];
	int r = io->result < 0 ? -EIO : 0;

	leaf->segment->users--;
	/* A checkpoint never writes a leaf that is being loaded, so the reference is still the one
	 * we read. */
	if (r == 0 && leaf_decode(leaf->buffer + leaf->skip, ref->length, v->id, leaf->number,
				  ref->sum, &leaf->content) < 0)
		r = -EIO;
	pool_put(v->engine->blobs, leaf->buffer);
	leaf->buffer = NULL;
	leaf->state = LEAF_READY;
	leaf_wake(leaf, r);
}

static void leaf_wake(struct leaf *leaf, int error)
{
	struct volume *v = leaf->volume;
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &leaf->waiters);
	if (error) {
		struct engine_config *config = &v->engine->config;

		v->stats.bad_reads++;
		if (v->stats.health == VOLUME_OK)
			v->stats.health = VOLUME_IMPAIRED;
		if (config->bad_block)
			config->bad_block(config->bad_block_arg, v->id, leaf->number * LEAF_BLOCKS,
					  "its map leaf can't be read");
		leaf_drop(leaf);
	} else {
		leaf->pins++;
	}
	for (struct list *node; (node = list_pop(&now));) {
		struct leaf_wait *wait = list_entry(node, struct leaf_wait, link);

		wait->wake(wait, error);
	}
	if (!error)
		leaf->pins--;
}

void leaf_feed_starved(struct engine *e)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &e->leaf_starved);
	for (struct list *node; (node = list_pop(&now));) {
		struct leaf_wait *wait = list_entry(node, struct leaf_wait, link);

		if (leaf_resident(wait->volume, wait->number))
			wait->wake(wait, 0);
		else
			leaf_load(wait->volume, wait->number, wait);
	}
}
