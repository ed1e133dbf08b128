/* SPDX-License-Identifier: Apache-2.0
 *
 * What the log has changed since the last checkpoint, in memory: block entries in a hash table, and
 * large trims and zeroes as ranges. Every change bears its sequence (as a distance from the
 * overlay's base), and the newest wins, so that a 4-GiB trim is one range and touches no entry.
 *
 * A volume has an active overlay, and while a checkpoint merges it a frozen one, which never
 * changes. One thread; a frozen overlay may be read by a worker, too.
 */
#ifndef ENGINE_OVERLAY_H
#define ENGINE_OVERLAY_H

#include "engine/format.h"

struct overlay_block {
	uint64_t lba : 48; /* + 1; 0: the slot is empty */
	uint64_t state : 8;
	uint64_t moved : 8; /* 1: only garbage collection has changed it, no user */
	uint64_t segment : 48;
	uint64_t unused2 : 16;
	uint32_t offset;
	uint32_t sum;
	uint32_t seq; /* from the overlay's base */
};

struct overlay_range {
	uint64_t first; /* blocks */
	uint64_t end;
	uint32_t seq;
	uint32_t state; /* ENTRY_ZERO or ENTRY_ZERO_RESERVED */
};

struct overlay {
	struct overlay_block *blocks;
	uint64_t
	    *touched; /* a bit for each slot, by hash of leaf and index page: see overlay_quiet */
	uint32_t n_slots; /* a power of two, 0 before the first change */
	uint32_t n_blocks;
	struct overlay_range *ranges; /* disjoint, sorted */
	uint32_t n_ranges;
	uint32_t ranges_room;
	uint64_t base;   /* sequences count from here */
	uint64_t newest; /* sequence of the newest change; base if there is none */
};

/* An overlay for changes after sequence `base`. `n_blocks` is a guess of its size; 0: start small.
 */
int overlay_init(struct overlay *o, uint64_t base, uint32_t n_blocks);
void overlay_free(struct overlay *o);
/* Makes room for so many more blocks, and more ranges (putting one into the middle of another makes
 * two). 0 or -ENOMEM. Called ahead of publishing, so that publishing can't fail. */
int overlay_reserve(struct overlay *o, uint32_t n_blocks, uint32_t n_ranges);
/* Bytes that it takes, and how many more it would take with room for so many more blocks. */
uint64_t overlay_bytes(const struct overlay *o);
uint64_t overlay_growth(const struct overlay *o, uint32_t n_blocks);

/* Puts a block's entry; *ret_old is what this overlay held for it before (state INHERIT: nothing).
 */
void overlay_put(struct overlay *o, uint64_t lba, const struct entry *e, uint64_t seq,
		 struct entry *ret_old);
/* As overlay_put, for a block that moved and is what it was. */
void overlay_put_moved(struct overlay *o, uint64_t lba, const struct entry *e, uint64_t seq,
		       struct entry *ret_old);
/* Puts a range; entries below it stay and are outlived by its sequence. */
void overlay_put_range(struct overlay *o, uint64_t lba, uint64_t blocks, enum entry_state state,
		       uint64_t seq);
/* True if the overlay says what the block is. */
bool overlay_get(const struct overlay *o, uint64_t lba, struct entry *ret_entry);
/* The first block at or after `lba`, before `end`, of which a range says something; else `end`. For
 * skipping. */
uint64_t overlay_next_range(const struct overlay *o, uint64_t lba, uint64_t end);
/* How many blocks from lba on, at most n, surely have no entry, without a look at each: to the end
 * of the leaf, or of the index page. 0: that one, or another of its leaf, may have one. Ranges do
 * not count. */
uint64_t overlay_quiet(const struct overlay *o, uint64_t lba, uint64_t n);
/* The range that covers lba, or NULL. */
const struct overlay_range *overlay_range_at(const struct overlay *o, uint64_t lba);

static inline bool overlay_is_empty(const struct overlay *o)
{
	return o->n_blocks == 0 && o->n_ranges == 0;
}

static inline uint64_t overlay_lba(const struct overlay_block *b)
{
	return (uint64_t)b->lba - 1;
}

/* The blocks in the order of their LBA: an array of n_blocks slot numbers, mem_free it. NULL: no
 * memory. Takes a while: for a worker. */
uint32_t *overlay_sort(const struct overlay *o);

#endif
