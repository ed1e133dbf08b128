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
	mem_free(o->touched);
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

/* ---- What was touched ---------------------------------------------------------------------------
 */

enum { TOUCHED_LEAF, TOUCHED_INDEX };

static const uint64_t touched_blocks[] = {LEAF_BLOCKS, LEAF_BLOCKS *INDEX_LEAVES};

static uint32_t touched_bit(const struct overlay *o, uint64_t lba, int what)
{
	uint64_t key = lba / touched_blocks[what] * 2 + (uint64_t)what;

	return (uint32_t)hash_u64(key) & (o->n_slots - 1);
}

static bool was_touched(const struct overlay *o, uint64_t lba, int what)
{
	uint32_t bit = touched_bit(o, lba, what);

	return o->touched[bit / 64] >> (bit % 64) & 1;
}

static void touch(struct overlay *o, uint64_t lba)
{
	for (int what = TOUCHED_LEAF; what <= TOUCHED_INDEX; what++) {
		uint32_t bit = touched_bit(o, lba, what);

		o->touched[bit / 64] |= UINT64_C(1) << (bit % 64);
	}
}

uint64_t overlay_quiet(const struct overlay *o, uint64_t lba, uint64_t n)
{
	if (o->n_blocks == 0)
		return n;
	for (int what = TOUCHED_INDEX; what >= TOUCHED_LEAF; what--) {
		uint64_t unit = touched_blocks[what];

		if (!was_touched(o, lba, what))
			return min_u64(n, round_down(lba, unit) + unit - lba);
	}
	return 0;
}

/* ---- Blocks -------------------------------------------------------------------------------------
 */

static int overlay_grow(struct overlay *o, uint32_t n_slots)
{
	struct overlay old = *o;

	o->blocks = mem_alloc_pages((size_t)n_slots * sizeof(o->blocks[0]));
	o->touched = mem_calloc(n_slots / 64, sizeof(o->touched[0]));
	if (!o->blocks || !o->touched) {
		mem_free_pages(o->blocks, (size_t)n_slots * sizeof(o->blocks[0]));
		mem_free(o->touched);
		o->blocks = old.blocks;
		o->touched = old.touched;
		return -ENOMEM;
	}
	mem_use_huge_pages(o->blocks, (size_t)n_slots * sizeof(o->blocks[0]));
	o->n_slots = n_slots;
	for (uint32_t i = 0; i < old.n_slots; i++) {
		if (old.blocks[i].lba == 0)
			continue;
		*overlay_slot(o, overlay_lba(&old.blocks[i])) = old.blocks[i];
		touch(o, overlay_lba(&old.blocks[i]));
	}
	mem_free(old.touched);
	mem_free_pages(old.blocks, (size_t)old.n_slots * sizeof(old.blocks[0]));
	return 0;
}

static uint64_t slots_for(const struct overlay *o, uint32_t n_blocks)
{
	uint64_t slots = o->n_slots ? o->n_slots : SLOTS_MIN;

	while (slots / 3 * 2 < (uint64_t)o->n_blocks + n_blocks)
		slots *= 2;
	return slots;
}

uint64_t overlay_bytes(const struct overlay *o)
{
	return o->n_slots * sizeof(o->blocks[0]) + o->ranges_room * sizeof(o->ranges[0]);
}

uint64_t overlay_growth(const struct overlay *o, uint32_t n_blocks)
{
	return (slots_for(o, n_blocks) - o->n_slots) * sizeof(o->blocks[0]);
}

int overlay_reserve(struct overlay *o, uint32_t n_blocks, uint32_t n_ranges)
{
	uint64_t slots = slots_for(o, n_blocks);

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
		touch(o, lba);
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

/* ---- Sorting: radix, 12 bits a pass over slot numbers -------------------------------------------
 */

#define RADIX_BITS 12
#define RADIX      (1u << RADIX_BITS)
#define PASSES     3
_Static_assert((VOLUME_SIZE_MAX / BLOCK_SIZE) >> (RADIX_BITS * PASSES) == 0, "all bits count");

static void radix_pass(const struct overlay *o, const uint32_t *from, uint32_t *to, unsigned shift)
{
	uint32_t count[RADIX] = {0};
	uint32_t at = 0;

	for (uint32_t i = 0; i < o->n_blocks; i++)
		count[(overlay_lba(&o->blocks[from[i]]) >> shift) & (RADIX - 1)]++;
	for (uint32_t i = 0; i < RADIX; i++) {
		uint32_t here = count[i];

		count[i] = at;
		at += here;
	}
	for (uint32_t i = 0; i < o->n_blocks; i++)
		to[count[(overlay_lba(&o->blocks[from[i]]) >> shift) & (RADIX - 1)]++] = from[i];
}

uint32_t *overlay_sort(const struct overlay *o)
{
	uint32_t *slots = mem_calloc((size_t)o->n_blocks + 1, sizeof(*slots));
	uint32_t *spare = mem_calloc((size_t)o->n_blocks + 1, sizeof(*spare));
	uint32_t used = 0;

	if (!slots || !spare) {
		mem_free(slots);
		mem_free(spare);
		return NULL;
	}
	for (uint32_t i = 0; i < o->n_slots; i++)
		if (o->blocks[i].lba != 0)
			spare[used++] = i;
	CHECK(used == o->n_blocks);
	radix_pass(o, spare, slots, 0);
	radix_pass(o, slots, spare, RADIX_BITS);
	radix_pass(o, spare, slots, 2 * RADIX_BITS);
	mem_free(spare);
	return slots;
}
