/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-store/map.h"

/* The bits of word `w` that are in [first, end). */
static uint64_t mask_of(uint64_t w, uint64_t first, uint64_t end)
{
	uint64_t low = first > w * 64 ? first - w * 64 : 0;
	uint64_t high = end < (w + 1) * 64 ? end - w * 64 : 64;
	uint64_t below_high = high == 64 ? UINT64_MAX : ((uint64_t)1 << high) - 1;

	return below_high & ~(((uint64_t)1 << low) - 1);
}

void map_set(uint64_t *map, uint64_t first, uint64_t end)
{
	for (uint64_t w = first / 64; w * 64 < end; w++)
		map[w] |= mask_of(w, first, end);
}

void map_clear(uint64_t *map, uint64_t first, uint64_t end)
{
	for (uint64_t w = first / 64; w * 64 < end; w++)
		map[w] &= ~mask_of(w, first, end);
}

uint64_t map_run_end(const uint64_t *map, uint64_t first, uint64_t end, bool set)
{
	for (uint64_t w = first / 64; w * 64 < end; w++) {
		uint64_t others = (set ? ~map[w] : map[w]) & mask_of(w, first, end);

		if (others)
			return w * 64 + (unsigned)__builtin_ctzll(others);
	}
	return end;
}

uint64_t map_count(const uint64_t *map, uint64_t first, uint64_t end)
{
	uint64_t n = 0;

	for (uint64_t w = first / 64; w * 64 < end; w++)
		n += (unsigned)__builtin_popcountll(map[w] & mask_of(w, first, end));
	return n;
}
