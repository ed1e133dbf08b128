/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/map_cache.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"

#include <string.h>

#define FIRST_BYTES   (MAP_CHUNK - (uint32_t)sizeof(struct map_page))
#define DENSE_BYTES   (LEAF_BLOCKS * (uint32_t)sizeof(struct entry))
#define INDEX_BYTES   (INDEX_LEAVES * (uint32_t)sizeof(struct blob_ref))
#define BLOCK_SECTORS (BLOCK_SIZE / BLOCK_SECTOR)
#define NO_CHUNK      UINT32_MAX

/* Blocks of a leaf that share a state and, for data, lie one after the other. Their checksums
 * follow the runs. */
struct leaf_run {
	uint64_t segment : 48;
	uint64_t state : 6;
	uint64_t sum_at : 10; /* of its first block's checksum */
	uint32_t offset;
	uint16_t first;
	uint16_t n;
};
_Static_assert(sizeof(struct leaf_run) == 16, "as small as planned");
_Static_assert(FIRST_BYTES % sizeof(struct blob_ref) == 0, "nothing lies across two chunks");
_Static_assert(MAP_CHUNK % sizeof(struct blob_ref) == 0, "nor later on");
_Static_assert(FIRST_BYTES + MAP_PAGE_CHUNKS * MAP_CHUNK >= DENSE_BYTES, "the largest page fits");

struct map_cache {
	uint8_t *area;
	uint64_t size;
	uint32_t n_chunks;
	uint32_t n_used;
	uint32_t n_fresh; /* chunks below it were used before */
	uint32_t free;    /* the first of those that are free; each holds the next */
	uint32_t *hash;   /* first chunk of the first page */
	uint32_t hash_size;
	struct list lru; /* the least recently used first */
};

struct map_cache *map_cache_new(uint64_t bytes)
{
	struct map_cache *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	list_init(&c->lru);
	bytes = max_u64(bytes, MAP_CACHE_MIN);
	/* Each page that is small as can be costs a chunk and half an entry of the hash table. */
	c->n_chunks = (uint32_t)min_u64(bytes / (MAP_CHUNK + sizeof(c->hash[0])), NO_CHUNK - 1);
	c->hash_size = 64;
	while (c->hash_size < c->n_chunks / 2)
		c->hash_size *= 2;
	c->size = (uint64_t)c->n_chunks * MAP_CHUNK;
	c->free = NO_CHUNK;
	c->area = mem_alloc_pages(c->size);
	c->hash = mem_alloc_pages(c->hash_size * sizeof(c->hash[0]));
	if (!c->area || !c->hash) {
		map_cache_free(c);
		return NULL;
	}
	return c;
}

void map_cache_free(struct map_cache *c)
{
	if (!c)
		return;
	CHECK(list_empty(&c->lru));
	mem_free_pages(c->area, c->size);
	mem_free_pages(c->hash, c->hash_size * sizeof(c->hash[0]));
	mem_free(c);
}

uint64_t map_cache_bytes(const struct map_cache *c)
{
	return (uint64_t)c->n_used * MAP_CHUNK;
}

/* ---- Chunks -------------------------------------------------------------------------------------
 */

static void *chunk_at(const struct map_cache *c, uint32_t chunk)
{
	return c->area + (uint64_t)chunk * MAP_CHUNK;
}

static uint32_t chunk_of(const struct map_cache *c, const struct map_page *page)
{
	return (uint32_t)(((const uint8_t *)page - c->area) / MAP_CHUNK);
}

static uint32_t chunk_get(struct map_cache *c)
{
	uint32_t chunk = c->free;

	CHECK(c->n_used < c->n_chunks);
	c->n_used++;
	if (chunk == NO_CHUNK)
		return c->n_fresh++;
	memcpy(&c->free, chunk_at(c, chunk), sizeof(c->free));
	return chunk;
}

static void chunk_put(struct map_cache *c, uint32_t chunk)
{
	memcpy(chunk_at(c, chunk), &c->free, sizeof(c->free));
	c->free = chunk;
	c->n_used--;
}

/* Contents [at, ...) of a page: what is a divisor of FIRST_BYTES long lies in one piece. */
static void *page_at(const struct map_cache *c, const struct map_page *page, uint32_t at)
{
	if (at < FIRST_BYTES)
		return (uint8_t *)(page + 1) + at;
	at -= FIRST_BYTES;
	return (uint8_t *)chunk_at(c, page->chunks[at / MAP_CHUNK]) + at % MAP_CHUNK;
}

static void page_write(struct map_cache *c, struct map_page *page, uint32_t at, const void *from,
		       uint32_t len)
{
	for (uint32_t n; len > 0; at += n, len -= n, from = (const uint8_t *)from + n) {
		n = at < FIRST_BYTES ? FIRST_BYTES - at
				     : MAP_CHUNK - (at - FIRST_BYTES) % MAP_CHUNK;
		n = n < len ? n : len;
		memcpy(page_at(c, page, at), from, n);
	}
}

/* ---- Finding, making, dropping ------------------------------------------------------------------
 */

static uint32_t *bucket_of(const struct map_cache *c, const struct map *map,
			   enum map_page_kind kind, uint64_t number)
{
	uint64_t key = hash_u64((uint64_t)(uintptr_t)map ^ (uint64_t)kind) + number;

	return &c->hash[hash_u64(key) & (c->hash_size - 1)];
}

struct map_page *map_cache_find(struct map_cache *c, const struct map *map, enum map_page_kind kind,
				uint64_t number)
{
	uint32_t chunk = *bucket_of(c, map, kind, number);

	while (chunk) {
		struct map_page *page = chunk_at(c, chunk - 1);

		if (page->number == number && page->map == map && page->kind == kind) {
			list_remove(&page->lru);
			list_add_tail(&c->lru, &page->lru);
			return page;
		}
		chunk = page->hash_next;
	}
	return NULL;
}

void map_cache_drop(struct map_cache *c, struct map_page *page)
{
	uint32_t me = chunk_of(c, page) + 1;
	uint32_t *at = bucket_of(c, page->map, (enum map_page_kind)page->kind, page->number);

	CHECK(page->pins == 0);
	while (*at != me)
		at = &((struct map_page *)chunk_at(c, *at - 1))->hash_next;
	*at = page->hash_next;
	list_remove(&page->lru);
	list_remove(&page->of_map);
	for (uint32_t i = 0; i < page->n_chunks; i++)
		chunk_put(c, page->chunks[i]);
	chunk_put(c, me - 1);
}

void map_cache_drop_all(struct map_cache *c, struct list *pages)
{
	while (!list_empty(pages))
		map_cache_drop(c, list_first(pages, struct map_page, of_map));
}

/* Drops pages until `n` chunks are free. */
static bool make_room(struct map_cache *c, uint32_t n)
{
	list_for_each_safe (&c->lru, node) {
		struct map_page *page = list_entry(node, struct map_page, lru);

		if (c->n_chunks - c->n_used >= n)
			return true;
		if (page->pins == 0)
			map_cache_drop(c, page);
	}
	return c->n_chunks - c->n_used >= n;
}

/* A new page with room for `bytes` of contents, which are undefined. */
static struct map_page *page_make(struct map_cache *c, struct map *map, struct list *pages,
				  enum map_page_kind kind, uint64_t number, uint32_t bytes)
{
	uint32_t n = bytes <= FIRST_BYTES ? 0 : (bytes - FIRST_BYTES + MAP_CHUNK - 1) / MAP_CHUNK;
	struct map_page *page = map_cache_find(c, map, kind, number);
	uint32_t *bucket = bucket_of(c, map, kind, number);

	if (page)
		map_cache_drop(c, page);
	if (!make_room(c, n + 1))
		return NULL;
	page = chunk_at(c, chunk_get(c));
	memset(page, 0, sizeof(*page));
	page->map = map;
	page->kind = (uint8_t)kind;
	page->number = (uint32_t)number;
	page->n_chunks = n;
	for (uint32_t i = 0; i < n; i++)
		page->chunks[i] = chunk_get(c);
	page->hash_next = *bucket;
	*bucket = chunk_of(c, page) + 1;
	list_init(&page->lru);
	list_add_tail(&c->lru, &page->lru);
	list_init(&page->of_map);
	list_add_tail(pages, &page->of_map);
	return page;
}

/* ---- Leaves -------------------------------------------------------------------------------------
 */

static uint32_t run_length(const struct entry *e, uint32_t first)
{
	uint32_t n = 1;

	while (first + n < LEAF_BLOCKS && e[first + n].state == e[first].state) {
		if (e[first].state == ENTRY_DATA &&
		    (e[first + n].segment != e[first].segment ||
		     e[first + n].offset != e[first].offset + n * BLOCK_SECTORS))
			break;
		n++;
	}
	return n;
}

/* The runs of a leaf; what is INHERIT is not there. Returns how many; *ret_sums blocks have
 * checksums. */
static uint32_t runs_of(const struct leaf_content *leaf, struct leaf_run *runs, uint32_t *ret_sums)
{
	const struct entry *e = leaf->entries;
	uint32_t n_runs = 0;
	uint32_t n_sums = 0;

	for (uint32_t first = 0, n; first < LEAF_BLOCKS; first += n) {
		n = run_length(e, first);
		if (e[first].state == ENTRY_INHERIT)
			continue;
		runs[n_runs++] = (struct leaf_run){.segment = e[first].segment,
						   .state = e[first].state & 0x3f,
						   .sum_at = n_sums & (LEAF_BLOCKS - 1),
						   .offset = e[first].offset,
						   .first = (uint16_t)first,
						   .n = (uint16_t)n};
		if (e[first].state == ENTRY_DATA)
			n_sums += n;
	}
	*ret_sums = n_sums;
	return n_runs;
}

struct map_page *map_cache_put_leaf(struct map_cache *c, struct map *map, struct list *pages,
				    uint64_t number, const struct leaf_content *leaf)
{
	struct leaf_run runs[LEAF_BLOCKS];
	uint32_t n_sums;
	uint32_t n_runs = runs_of(leaf, runs, &n_sums);
	uint32_t run_bytes = n_runs * (uint32_t)sizeof(runs[0]);
	uint32_t bytes = run_bytes + n_sums * (uint32_t)sizeof(uint32_t);
	struct map_page *page =
	    page_make(c, map, pages, MAP_LEAF, number, bytes < DENSE_BYTES ? bytes : DENSE_BYTES);

	if (!page)
		return NULL;
	memcpy(page->birth, leaf->birth, sizeof(page->birth));
	if (bytes >= DENSE_BYTES) {
		page->dense = true;
		page_write(c, page, 0, leaf->entries, DENSE_BYTES);
		return page;
	}
	page->n_runs = (uint16_t)n_runs;
	page->n_sums = (uint16_t)n_sums;
	page_write(c, page, 0, runs, run_bytes);
	for (uint32_t i = 0, at = run_bytes; i < LEAF_BLOCKS; i++) {
		if (leaf->entries[i].state != ENTRY_DATA)
			continue;
		*(uint32_t *)page_at(c, page, at) = leaf->entries[i].sum;
		at += (uint32_t)sizeof(uint32_t);
	}
	return page;
}

static void run_entry(const struct map_cache *c, const struct map_page *leaf,
		      const struct leaf_run *run, uint32_t i, struct entry *e)
{
	uint32_t at = leaf->n_runs * (uint32_t)sizeof(*run);

	*e = (struct entry){.segment = run->segment, .state = run->state};
	if (run->state != ENTRY_DATA)
		return;
	e->offset = run->offset + (i - run->first) * BLOCK_SECTORS;
	at += (run->sum_at + i - run->first) * (uint32_t)sizeof(uint32_t);
	e->sum = *(const uint32_t *)page_at(c, leaf, at);
}

void map_leaf_entry(const struct map_cache *c, const struct map_page *leaf, uint32_t i,
		    struct entry *ret_entry)
{
	uint32_t low = 0;
	uint32_t high = leaf->n_runs;
	const struct leaf_run *run;

	if (leaf->dense) {
		*ret_entry =
		    *(const struct entry *)page_at(c, leaf, i * (uint32_t)sizeof(*ret_entry));
		return;
	}
	while (low < high) { /* the last run that begins at i or before */
		uint32_t middle = low + (high - low) / 2;

		run = page_at(c, leaf, middle * (uint32_t)sizeof(*run));
		if (run->first <= i)
			low = middle + 1;
		else
			high = middle;
	}
	run = low ? page_at(c, leaf, (low - 1) * (uint32_t)sizeof(*run)) : NULL;
	if (run && i < (uint32_t)run->first + run->n)
		run_entry(c, leaf, run, i, ret_entry);
	else
		memset(ret_entry, 0, sizeof(*ret_entry));
}

void map_leaf_content(const struct map_cache *c, const struct map_page *leaf,
		      struct leaf_content *ret_content)
{
	memcpy(ret_content->birth, leaf->birth, sizeof(leaf->birth));
	if (leaf->dense) {
		for (uint32_t i = 0; i < LEAF_BLOCKS; i++)
			map_leaf_entry(c, leaf, i, &ret_content->entries[i]);
		return;
	}
	memset(ret_content->entries, 0, sizeof(ret_content->entries));
	for (uint32_t r = 0; r < leaf->n_runs; r++) {
		const struct leaf_run *run = page_at(c, leaf, r * (uint32_t)sizeof(*run));

		for (uint32_t i = run->first; i < (uint32_t)run->first + run->n; i++)
			run_entry(c, leaf, run, i, &ret_content->entries[i]);
	}
}

/* ---- Index pages --------------------------------------------------------------------------------
 */

struct map_page *map_cache_put_index(struct map_cache *c, struct map *map, struct list *pages,
				     uint64_t number, const struct blob_ref refs[INDEX_LEAVES])
{
	struct map_page *page = page_make(c, map, pages, MAP_INDEX, number, INDEX_BYTES);

	if (page)
		page_write(c, page, 0, refs, INDEX_BYTES);
	return page;
}

struct blob_ref *map_index_ref(const struct map_cache *c, struct map_page *index, uint32_t slot)
{
	return page_at(c, index, slot * (uint32_t)sizeof(struct blob_ref));
}
