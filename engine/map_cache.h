/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of maps in memory: leaves and index pages, of all volumes of a loop, within a fixed number
 * of bytes. A page lies in chunks of 512 bytes of one area, so that nothing fragments and the bound
 * is exact. It is as small as what it says: a leaf holds its blocks as runs (4 KiB for 4 MiB of
 * sequential data, less than 512 bytes for a dozen scattered blocks), or one by one where that is
 * less (16 KiB).
 *
 * What is here is a copy of what is on disk: any page may be dropped that nobody has pinned. The
 * one that was not asked for the longest goes first.
 *
 * One thread. No I/O, no allocation after map_cache_new.
 */
#ifndef ENGINE_MAP_CACHE_H
#define ENGINE_MAP_CACHE_H

#include "base/list.h"
#include "engine/format.h"

struct map; /* whose pages they are: only its address and its list count here */
struct map_cache;

enum map_page_kind { MAP_LEAF, MAP_INDEX };

#define MAP_CHUNK       512
#define MAP_PAGE_CHUNKS 32 /* beside the first: a leaf of 1024 entries of 16 bytes */
/* The most that a page takes. */
#define MAP_PAGE_BYTES ((MAP_PAGE_CHUNKS + 1) * MAP_CHUNK)

struct map_page {
	struct map *map;
	uint32_t number; /* of the leaf or of the index page */
	uint8_t kind;
	bool dense;    /* a leaf of entries; else of runs */
	uint16_t pins; /* not to be dropped */
	uint16_t n_runs;
	uint16_t n_sums;
	uint32_t n_chunks; /* beside the first */
	uint32_t hash_next;
	uint32_t unused;
	struct list lru;
	struct list of_map;
	uint64_t birth[LEAF_BIRTHS];
	uint32_t chunks[MAP_PAGE_CHUNKS];
	/* The rest of the first chunk belongs to the contents. */
};
_Static_assert(sizeof(struct map_page) == MAP_CHUNK / 2, "half a chunk is left for contents");

/* NULL: no memory. At least MAP_CACHE_MIN bytes. Memory becomes resident as it is used. */
#define MAP_CACHE_MIN (UINT64_C(4) * MAP_PAGE_BYTES)
struct map_cache *map_cache_new(uint64_t bytes);
void map_cache_free(struct map_cache *c); /* NULL is legal */

/* The page, now the one that was asked for last; or NULL. */
struct map_page *map_cache_find(struct map_cache *c, const struct map *map, enum map_page_kind kind,
				uint64_t number);
/* Puts a page, in place of what was there of it; `pages` is the map's list. NULL: what is left is
 * pinned: nothing is there of it now. */
struct map_page *map_cache_put_leaf(struct map_cache *c, struct map *map, struct list *pages,
				    uint64_t number, const struct leaf_content *leaf);
struct map_page *map_cache_put_index(struct map_cache *c, struct map *map, struct list *pages,
				     uint64_t number, const struct blob_ref refs[INDEX_LEAVES]);
void map_cache_drop(struct map_cache *c, struct map_page *page); /* it is not pinned */
/* Drops all pages of a map's list. */
void map_cache_drop_all(struct map_cache *c, struct list *pages);

/* What a leaf says of its i-th block. */
void map_leaf_entry(const struct map_cache *c, const struct map_page *leaf, uint32_t i,
		    struct entry *ret_entry);
void map_leaf_content(const struct map_cache *c, const struct map_page *leaf,
		      struct leaf_content *ret_content);
/* A reference of an index page, in place. */
struct blob_ref *map_index_ref(const struct map_cache *c, struct map_page *index, uint32_t slot);

uint64_t map_cache_bytes(const struct map_cache *c); /* in use */

#endif
