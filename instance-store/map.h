/* SPDX-License-Identifier: Apache-2.0
 *
 * The map of written blocks: a bit for each 4-KiB block of a disk. Set: the store has the block,
 * encrypted under the disk's key. Clear: it reads as zeroes, whatever the store has there. Pure
 * functions over words; one thread.
 */
#ifndef INSTANCE_STORE_MAP_H
#define INSTANCE_STORE_MAP_H

#include "base/util.h"

static inline uint64_t map_words(uint64_t n_blocks)
{
	return (n_blocks + 63) / 64;
}

static inline bool map_get(const uint64_t *map, uint64_t block)
{
	return map[block / 64] >> (block % 64) & 1;
}

void map_set(uint64_t *map, uint64_t first, uint64_t end);
void map_clear(uint64_t *map, uint64_t first, uint64_t end);
/* The first block of [first, end) whose bit is not `set`; `end` if there is none. */
uint64_t map_run_end(const uint64_t *map, uint64_t first, uint64_t end, bool set);
/* Bits set in [first, end). */
uint64_t map_count(const uint64_t *map, uint64_t first, uint64_t end);

#endif
