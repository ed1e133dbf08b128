/* SPDX-License-Identifier: Apache-2.0
 *
 * Where each block is: the active overlay, else the frozen one, else the leaf. Of the tree on disk
 * only the references to index pages are always in memory (32 KiB a TiB); index pages and leaves
 * are loaded when they are asked for, into a cache that all volumes of the loop share
 * (map_cache.c).
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static void load_start(struct map *m, enum map_page_kind kind, uint64_t number,
		       const struct blob_ref *ref, struct leaf_wait *wait);
static void load_read(struct map_load *load);
static void load_on_read(struct device_io *io);
static void load_on_turn(struct io_op *op);
static void load_end(struct map_load *load, const uint8_t *blob, int error);

static struct map_cache *cache_of(const struct map *m)
{
	return m->volume->engine->map_cache;
}

/* ---- The table of index pages -------------------------------------------------------------------
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

/* What was never written of a large volume costs no memory: pages of zeroes are not touched. */
int map_resize(struct volume *v, uint64_t size)
{
	struct map *m = &v->map;
	uint32_t n = index_pages_for(size);
	struct blob_ref *index;

	if (n <= m->n_index)
		return 0;
	index = mem_alloc_pages(n * sizeof(index[0]));
	if (!index)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->n_index; i++)
		if (m->index[i].length)
			index[i] = m->index[i];
	mem_free_pages(m->index, m->n_index * sizeof(index[0]));
	m->index = index;
	m->n_index = n;
	return 0;
}

void map_free(struct volume *v)
{
	struct map *m = &v->map;

	map_cache_drop_all(v->engine->map_cache, &m->pages);
	mem_free_pages(m->index, m->n_index * sizeof(m->index[0]));
	m->index = NULL;
	m->n_index = 0;
}

/* ---- Looking up ---------------------------------------------------------------------------------
 */

int map_index(struct map *m, uint64_t number, struct map_page **ret_index)
{
	*ret_index = NULL;
	if (number >= m->n_index || m->index[number].length == 0)
		return 0;
	*ret_index = map_cache_find(cache_of(m), m, MAP_INDEX, number);
	return *ret_index ? 0 : -EAGAIN;
}

int map_leaf(struct map *m, uint64_t number, struct map_page **ret_leaf)
{
	uint64_t page = number / INDEX_LEAVES;
	struct map_page *index;

	*ret_leaf = NULL;
	if (page >= m->n_index || m->index[page].length == 0)
		return 0;
	*ret_leaf = map_cache_find(cache_of(m), m, MAP_LEAF, number);
	if (*ret_leaf)
		return 0;
	index = map_cache_find(cache_of(m), m, MAP_INDEX, page);
	if (index && map_index_ref(cache_of(m), index, number % INDEX_LEAVES)->length == 0)
		return 0;
	return -EAGAIN;
}

int map_lookup(struct map *m, uint64_t lba, struct entry *ret_entry)
{
	struct map_page *leaf;
	int r = map_leaf(m, lba / LEAF_BLOCKS, &leaf);

	if (r < 0)
		return r;
	if (leaf)
		map_leaf_entry(cache_of(m), leaf, lba % LEAF_BLOCKS, ret_entry);
	else
		memset(ret_entry, 0, sizeof(*ret_entry));
	return 0;
}

int map_get(struct volume *v, uint64_t lba, struct entry *ret_entry)
{
	if (!overlay_is_empty(&v->active) && overlay_get(&v->active, lba, ret_entry))
		return 0;
	if (!list_empty(&v->cuts) && cut_overlay_get(v, lba, ret_entry))
		return 0;
	if (!overlay_is_empty(&v->frozen) && overlay_get(&v->frozen, lba, ret_entry))
		return 0;
	return map_lookup(&v->map, lba, ret_entry);
}

/* Clips *n to what the overlay says the same of. 1: it says what lba is; 0: nothing; -EAGAIN: only
 * a look at each block can tell. */
static int overlay_run(const struct overlay *o, uint64_t lba, uint64_t *n, struct entry *ret_entry)
{
	const struct overlay_range *range = overlay_range_at(o, lba);
	uint64_t quiet = overlay_quiet(o, lba, *n);

	if (quiet == 0)
		return -EAGAIN;
	*n = quiet;
	if (range) {
		*n = min_u64(*n, range->end - lba);
		*ret_entry = (struct entry){.state = range->state & 0xff};
		return 1;
	}
	*n = overlay_next_range(o, lba, lba + *n) - lba;
	return 0;
}

static int map_run(struct volume *v, uint64_t lba, uint64_t *n, struct entry *ret_entry)
{
	uint64_t page = lba / LEAF_BLOCKS / INDEX_LEAVES;
	uint64_t unit = LEAF_BLOCKS;
	struct map_page *leaf;
	int r = map_leaf(&v->map, lba / LEAF_BLOCKS, &leaf);

	if (r < 0)
		return r;
	if (leaf) {
		*n = 1;
		map_leaf_entry(v->engine->map_cache, leaf, lba % LEAF_BLOCKS, ret_entry);
		return 0;
	}
	if (page >= v->map.n_index || v->map.index[page].length == 0)
		unit *= INDEX_LEAVES;
	memset(ret_entry, 0, sizeof(*ret_entry));
	*n = min_u64(*n, round_down(lba, unit) + unit - lba);
	return 0;
}

int map_get_run(struct volume *v, uint64_t lba, uint64_t n, struct entry *ret_entry,
		uint64_t *ret_n)
{
	int r = overlay_run(&v->active, lba, &n, ret_entry);

	*ret_n = 1;
	if (r == 0 && !list_empty(&v->cuts))
		r = -EAGAIN;
	if (r == 0)
		r = overlay_run(&v->frozen, lba, &n, ret_entry);
	if (r == -EAGAIN)
		return map_get(v, lba, ret_entry);
	if (r == 0)
		r = map_run(v, lba, &n, ret_entry);
	if (r >= 0)
		*ret_n = n;
	return r < 0 ? r : 0;
}

/* ---- Loading ------------------------------------------------------------------------------------
 */

void map_load(struct map *m, uint64_t number, struct leaf_wait *wait)
{
	uint64_t page = number / INDEX_LEAVES;
	struct map_page *index = map_cache_find(cache_of(m), m, MAP_INDEX, page);

	wait->map = m;
	wait->number = number;
	if (index)
		load_start(m, MAP_LEAF, number,
			   map_index_ref(cache_of(m), index, number % INDEX_LEAVES), wait);
	else
		load_start(m, MAP_INDEX, page, &m->index[page], wait);
}

void leaf_load(struct volume *v, uint64_t number, struct leaf_wait *wait)
{
	map_load(&v->map, number, wait);
}

static struct map_load *load_find(struct map *m, enum map_page_kind kind, uint64_t number)
{
	list_for_each (&m->volume->engine->map_loads, node) {
		struct map_load *load = list_entry(node, struct map_load, link);

		if (load->map == m && load->kind == kind && load->number == number && !load->stale)
			return load;
	}
	return NULL;
}

static void leaf_starve(struct leaf_wait *wait)
{
	struct volume *v = wait->map->volume;

	list_add_tail(&v->leaf_starved, &wait->link);
	if (list_empty(&v->leaf_starving))
		list_add_tail(&v->engine->leaf_starving, &v->leaf_starving);
}

static void load_start(struct map *m, enum map_page_kind kind, uint64_t number,
		       const struct blob_ref *ref, struct leaf_wait *wait)
{
	struct engine *e = m->volume->engine;
	struct map_load *load = load_find(m, kind, number);

	if (load) {
		list_add_tail(&load->waiters, &wait->link);
		return;
	}
	load = fair_may_load(m->volume) ? pool_get(e->loads) : NULL;
	if (!load) {
		leaf_starve(wait);
		return;
	}
	m->volume->n_loads++;
	CHECK(ref->length > 0);
	load->buffer = pool_get(e->blobs);
	CHECK(load->buffer); /* there are as many */
	load->map = m;
	load->kind = (uint8_t)kind;
	load->number = (uint32_t)number;
	load->stale = false;
	load->ref = *ref;
	list_init(&load->link);
	list_add_tail(&e->map_loads, &load->link);
	list_init(&load->waiters);
	list_add_tail(&load->waiters, &wait->link);
	load_read(load);
}

bool blob_ref_is_possible(const struct volume *v, enum map_page_kind kind,
			  const struct blob_ref *ref)
{
	const struct segment *seg = segments_find(v, ref->segment);
	uint32_t most = kind == MAP_LEAF ? LEAF_BYTES_MAX : INDEX_BYTES_MAX;

	return seg && seg->stream == STORE_STREAM_MAP && ref->length <= most &&
	       (uint64_t)ref->offset + ref->length <= v->store->info.segment_size;
}

static bool ref_is_possible(const struct volume *v, const struct map_load *load)
{
	return blob_ref_is_possible(v, load->kind, &load->ref);
}

static void load_read(struct map_load *load)
{
	struct volume *v = load->map->volume;
	const struct blob_ref *ref = &load->ref;
	uint32_t alignment = v->store->info.alignment;
	uint32_t from = (uint32_t)round_down(ref->offset, alignment);
	uint32_t to = (uint32_t)round_up((uint64_t)ref->offset + ref->length, alignment);

	if (!ref_is_possible(v, load) || checkpoint_out_find(v, ref)) {
		load->turn.done = load_on_turn;
		io_defer(v->loop, &load->turn, 0);
		return;
	}
	load->skip = ref->offset - from;
	load->segment = segments_find(v, ref->segment);
	load->segment->users++;
	load->io.done = load_on_read;
	v->stats.map_reads++;
	device_read(v, &load->io, VOLUME_IO_MAP, ref->segment, from, load->buffer, to - from);
}

/* It need not be read, or can't be; or meanwhile it must be: then what was on its way is on disk
 * now. */
static void load_on_turn(struct io_op *op)
{
	struct map_load *load = container_of(op, struct map_load, turn);
	struct volume *v = load->map->volume;
	const uint8_t *blob = checkpoint_out_find(v, &load->ref);

	if (blob)
		load_end(load, blob, 0);
	else if (ref_is_possible(v, load))
		load_read(load);
	else
		load_end(load, NULL, -EIO);
}

static void load_on_read(struct device_io *io)
{
	struct map_load *load = container_of(io, struct map_load, io);

	load->segment->users--;
	load_end(load, load->buffer + load->skip, io->result < 0 ? -EIO : 0);
}

static int load_decode(const struct map_load *load, const uint8_t *blob)
{
	struct volume *v = load->map->volume;
	struct map_scratch *scratch = v->engine->scratch;
	const struct blob_ref *ref = &load->ref;
	int r = load->kind == MAP_LEAF
		    ? leaf_decode(blob, ref->length, v->id, load->number, ref->sum, &scratch->leaf)
		    : index_decode(blob, ref->length, v->id, load->number, ref->sum, scratch->refs);

	return r < 0 ? -EIO : 0;
}

static bool only_taken(const struct map_load *load)
{
	list_for_each (&load->waiters, node)
		if (!list_entry(node, struct leaf_wait, link)->take)
			return false;
	return true;
}

static struct map_page *load_put(const struct map_load *load)
{
	struct map *m = load->map;
	struct map_scratch *scratch = m->volume->engine->scratch;

	if (load->kind == MAP_INDEX)
		return map_cache_put_index(cache_of(m), m, &m->pages, load->number, scratch->refs);
	return map_cache_put_leaf(cache_of(m), m, &m->pages, load->number, &scratch->leaf);
}

static void wait_end(struct engine *e, struct leaf_wait *wait, bool there, int error)
{
	if (wait->take)
		wait->take(wait, &e->scratch->leaf, error);
	else if (there || error)
		wait->wake(wait, error);
	else /* all that is in the cache is pinned */
		leaf_starve(wait);
}

static void load_end(struct map_load *load, const uint8_t *blob, int error)
{
	struct volume *v = load->map->volume;
	struct engine *e = v->engine;
	struct map_page *page = NULL;
	bool stale = load->stale;
	struct list now;

	list_init(&now);
	if (!error)
		error = load_decode(load, blob);
	if (error && !stale)
		bad_page(v, load->kind, load->number);
	else if (!error && !stale)
		bad_page_good(v, load->kind, load->number);
	if (!error && !stale && !only_taken(load))
		page = load_put(load);
	list_splice_tail(&now, &load->waiters);
	list_remove(&load->link);
	pool_put(e->blobs, load->buffer);
	load->map->volume->n_loads--;
	pool_put(e->loads, load);
	if (page)
		page->pins++;
	for (struct list *node; (node = list_pop(&now));)
		wait_end(e, list_entry(node, struct leaf_wait, link), page || stale,
			 stale ? 0 : error);
	if (page)
		page->pins--;
}

void map_leaf_changed(struct map *m, uint64_t number)
{
	struct map_load *load = load_find(m, MAP_LEAF, number);

	if (load)
		load->stale = true;
}

void map_forget(struct map *m)
{
	list_for_each (&m->volume->engine->map_loads, node) {
		struct map_load *load = list_entry(node, struct map_load, link);

		if (load->map == m)
			load->stale = true;
	}
	map_cache_drop_all(cache_of(m), &m->pages);
}

/* First come, first served, as long as the volume has loads to be had. */
static void leaf_feed_volume(struct volume *v)
{
	struct list now;
	struct list *node;

	list_init(&now);
	list_splice_tail(&now, &v->leaf_starved);
	while ((v->failed || fair_may_load(v)) && (node = list_pop(&now))) {
		struct leaf_wait *wait = list_entry(node, struct leaf_wait, link);
		struct map_page *leaf;

		if (wait->take && v->failed)
			wait->take(wait, &v->engine->scratch->leaf, -EIO);
		else if (!wait->take && map_leaf(wait->map, wait->number, &leaf) == 0)
			wait->wake(wait, 0);
		else
			map_load(wait->map, wait->number, wait);
	}
	list_splice_tail(&now, &v->leaf_starved);
	list_splice_tail(&v->leaf_starved, &now);
	if (!list_empty(&v->leaf_starved) && list_empty(&v->leaf_starving))
		list_add_tail(&v->engine->leaf_starving, &v->leaf_starving);
}

void leaf_feed_starved(struct engine *e)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &e->leaf_starving);
	for (struct list *node; (node = list_pop(&now));)
		leaf_feed_volume(list_entry(node, struct volume, leaf_starving));
}
