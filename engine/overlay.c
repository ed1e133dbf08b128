/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/overlay.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define SLOTS_MIN 256

int overlay_init(struct overlay *o, uint64_t base, uint32_t n_blocks)
{
	memset(o, 0, sizeof(*o));
	o->base = base;
	o->newest = base;
	return n_blocks ? overlay_reserve(o, n_blocks, 0) : 0;
}

void overlay_free(struct overlay *o)
{
	mem_free_pages(o->blocks, (size_t)o->n_slots * sizeof(o->blocks[0]));
	mem_free(o->ranges);
	memset(o, 0, sizeof(*o));
}

/* The slot of lba, or the empty one where it would go. */
static struct overlay_block *overlay_slot(const struct overlay *o, uint64_t lba)
{
	uint32_t mask = o->n_slots - 1;
	uint32_t i = (uint32_t)hash_u64(lba) & mask;

	while (o->blocks[i].lba != 0 && overlay_lba(&o->blocks[i]) != lba)
		i = (i + 1) & mask;
	return &o->blocks[i];
}

static int overlay_grow(struct overlay *o, uint32_t n_slots)
{
	struct overlay old = *o;

	o->blocks = mem_alloc_pages((size_t)n_slots * sizeof(o->blocks[0]));
	if (!o->blocks) {
		o->blocks = old.blocks;
		return -ENOMEM;
	}
	mem_use_huge_pages(o->blocks, (size_t)n_slots * sizeof(o->blocks[0]));
	o->n_slots = n_slots;
	for (uint32_t i = 0; i < old.n_slots; i++)
		if (old.blocks[i].lba != 0)
			*overlay_slot(o, overlay_lba(&old.blocks[i])) = old.blocks[i];
	mem_free_pages(old.blocks, (size_t)old.n_slots * sizeof(old.blocks[0]));
	return 0;
}

int overlay_reserve(struct overlay *o, uint32_t n_blocks, uint32_t n_ranges)
{
	uint64_t slots = o->n_slots ? o->n_slots : SLOTS_MIN;

	while (slots / 3 * 2 < (uint64_t)o->n_blocks + n_blocks)
		slots *= 2;
	if (slots != o->n_slots && overlay_grow(o, (uint32_t)slots) < 0)
		return -ENOMEM;
	if (o->n_ranges + n_ranges > o->ranges_room) {
		uint32_t room = (o->n_ranges + n_ranges) * 2;
		void *p = mem_realloc(o->ranges, room * sizeof(o->ranges[0]));

		if (!p)
			return -ENOMEM;
		o->ranges = p;
		o->ranges_room = room;
	}
	return 0;
}

static uint32_t overlay_distance(struct overlay *o, uint64_t seq)
{
	CHECK(seq > o->base);
	CHECK(seq - o->base <= UINT32_MAX);
	if (seq > o->newest)
		o->newest = seq;
	return (uint32_t)(seq - o->base);
}

static void entry_of(const struct overlay_block *b, struct entry *e)
{
	e->segment = b->segment;
	e->state = b->state;
	e->unused = 0;
	e->offset = b->offset;
	e->sum = b->sum;
}

void overlay_put(struct overlay *o, uint64_t lba, const struct entry *e, uint64_t seq,
		 struct entry *ret_old)
{
	struct overlay_block *b = overlay_slot(o, lba);

	memset(ret_old, 0, sizeof(*ret_old));
	if (b->lba != 0) {
		entry_of(b, ret_old);
	} else {
		o->n_blocks++;
		CHECK(o->n_blocks < o->n_slots);
	}
	b->lba = (lba + 1) & ((UINT64_C(1) << 48) - 1);
	b->state = e->state;
	b->moved = 0;
	b->segment = e->segment;
	b->offset = e->offset;
	b->sum = e->sum;
	b->seq = overlay_distance(o, seq);
}

void overlay_put_moved(struct overlay *o, uint64_t lba, const struct entry *e, uint64_t seq,
		       struct entry *ret_old)
{
	struct overlay_block *b = overlay_slot(o, lba);
	bool by_user = b->lba != 0 && !b->moved;

	overlay_put(o, lba, e, seq, ret_old);
	b->moved = !by_user;
}

/* Index of the first range that ends after lba. */
static uint32_t range_search(const struct overlay *o, uint64_t lba)
{
	uint32_t low = 0;
	uint32_t high = o->n_ranges;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (o->ranges[middle].end <= lba)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void ranges_replace(struct overlay *o, uint32_t at, uint32_t n_old,
			   const struct overlay_range *with, uint32_t n_new)
{
	CHECK(o->n_ranges - n_old + n_new <= o->ranges_room);
	memmove(&o->ranges[at + n_new], &o->ranges[at + n_old],
		(o->n_ranges - at - n_old) * sizeof(o->ranges[0]));
	memcpy(&o->ranges[at], with, n_new * sizeof(o->ranges[0]));
	o->n_ranges = o->n_ranges - n_old + n_new;
}

void overlay_put_range(struct overlay *o, uint64_t lba, uint64_t blocks, enum entry_state state,
		       uint64_t seq)
{
	struct overlay_range with[3];
	uint32_t n_new = 0;
	uint32_t at = range_search(o, lba);
	uint32_t past = at;
	uint64_t end = lba + blocks;

	while (past < o->n_ranges && o->ranges[past].first < end)
		past++;
	if (past > at && o->ranges[at].first < lba) {
		with[n_new] = o->ranges[at];
		with[n_new++].end = lba;
	}
	with[n_new].first = lba;
	with[n_new].end = end;
	with[n_new].state = state;
	with[n_new++].seq = overlay_distance(o, seq);
	if (past > at && o->ranges[past - 1].end > end) {
		with[n_new] = o->ranges[past - 1];
		with[n_new++].first = end;
	}
	ranges_replace(o, at, past - at, with, n_new);
}

const struct overlay_range *overlay_range_at(const struct overlay *o, uint64_t lba)
{
	uint32_t i;

	if (o->n_ranges == 0)
		return NULL;
	i = range_search(o, lba);
	return i < o->n_ranges && o->ranges[i].first <= lba ? &o->ranges[i] : NULL;
}

bool overlay_get(const struct overlay *o, uint64_t lba, struct entry *ret_entry)
{
	const struct overlay_range *range = overlay_range_at(o, lba);
	const struct overlay_block *b = o->n_blocks ? overlay_slot(o, lba) : NULL;

	if (b && b->lba == 0)
		b = NULL;
	if (b && (!range || b->seq > range->seq)) {
		entry_of(b, ret_entry);
		return true;
	}
	if (!range)
		return false;
	memset(ret_entry, 0, sizeof(*ret_entry));
	ret_entry->state = range->state & 0xff;
	return true;
}

uint64_t overlay_next_range(const struct overlay *o, uint64_t lba, uint64_t end)
{
	uint32_t i = range_search(o, lba);

	if (i == o->n_ranges || o->ranges[i].first >= end)
		return end;
	return max_u64(o->ranges[i].first, lba);
}

/* ---- Sorting: radix, 16 bits a pass over (lba, slot) pairs --------------------------------------
 */

struct sort_key {
	uint64_t lba;
	uint32_t slot;
};

#define RADIX 65536

static void radix_pass(const struct sort_key *from, struct sort_key *to, uint32_t n, unsigned shift,
		       uint32_t *count)
{
	uint32_t at = 0;

	memset(count, 0, RADIX * sizeof(count[0]));
	for (uint32_t i = 0; i < n; i++)
		count[(from[i].lba >> shift) & (RADIX - 1)]++;
	for (uint32_t i = 0; i < RADIX; i++) {
		uint32_t here = count[i];

		count[i] = at;
		at += here;
	}
	for (uint32_t i = 0; i < n; i++)
		to[count[(from[i].lba >> shift) & (RADIX - 1)]++] = from[i];
}

static void radix_sort(struct sort_key *keys, struct sort_key *spare, uint32_t n, uint32_t *count)
{
	/* 48 bits of lba are three passes; an even number would bring the result home, so copy it.
	 */
	radix_pass(keys, spare, n, 0, count);
	radix_pass(spare, keys, n, 16, count);
	radix_pass(keys, spare, n, 32, count);
	memcpy(keys, spare, n * sizeof(keys[0]));
}

uint32_t *overlay_sort(const struct overlay *o)
{
	uint32_t n = o->n_blocks;
	struct sort_key *keys = mem_calloc((size_t)n * 2 + 1, sizeof(*keys));
	uint32_t *count = mem_calloc(RADIX, sizeof(*count));
	uint32_t *slots = mem_calloc((size_t)n + 1, sizeof(*slots));
	uint32_t used = 0;

	if (keys && count && slots) {
		for (uint32_t i = 0; i < o->n_slots; i++) {
			if (o->blocks[i].lba == 0)
				continue;
			keys[used].lba = overlay_lba(&o->blocks[i]);
			keys[used++].slot = i;
		}
		CHECK(used == n);
		radix_sort(keys, keys + n, n, count);
		for (uint32_t i = 0; i < n; i++)
			slots[i] = keys[i].slot;
	} else {
		mem_free(slots);
		slots = NULL;
	}
	mem_free(keys);
	mem_free(count);
	return slots;
}
