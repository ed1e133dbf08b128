/* SPDX-License-Identifier: Apache-2.0
 *
 * The overlay against a plain array that does the same.
 */
#include "base/mem.h"
#include "base/util.h"
#include "engine/overlay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 4096

struct model {
	struct entry entries[N];
	bool known[N];
};

static uint64_t rng_state;

static uint64_t rng(uint64_t n)
{
	rng_state += UINT64_C(0x9e3779b97f4a7c15);
	return hash_u64(rng_state) % n;
}

static void put_block(struct overlay *o, struct model *m, uint64_t lba, uint64_t seq)
{
	struct entry e = {
	    .segment = rng(1000), .state = ENTRY_DATA, .offset = (uint32_t)rng(16384)};
	struct entry old;

	e.sum = (uint32_t)rng(UINT32_MAX);
	assert_int_equal(overlay_reserve(o, 1, 0), 0);
	overlay_put(o, lba, &e, seq, &old);
	m->entries[lba] = e;
	m->known[lba] = true;
}

static void put_range(struct overlay *o, struct model *m, uint64_t seq)
{
	uint64_t first = rng(N);
	uint64_t blocks = 1 + rng(N - first);
	enum entry_state state = rng(2) ? ENTRY_ZERO : ENTRY_ZERO_RESERVED;

	assert_int_equal(overlay_reserve(o, 0, 2), 0);
	overlay_put_range(o, first, blocks, state, seq);
	for (uint64_t i = first; i < first + blocks; i++) {
		memset(&m->entries[i], 0, sizeof(m->entries[i]));
		m->entries[i].state = state;
		m->known[i] = true;
	}
}

static void compare(const struct overlay *o, const struct model *m)
{
	for (uint64_t lba = 0; lba < N; lba++) {
		struct entry e;

		assert_int_equal(overlay_get(o, lba, &e), m->known[lba]);
		if (!m->known[lba])
			continue;
		assert_int_equal(e.state, m->entries[lba].state);
		if (e.state != ENTRY_DATA)
			continue;
		assert_int_equal(e.segment, m->entries[lba].segment);
		assert_int_equal(e.offset, m->entries[lba].offset);
		assert_int_equal(e.sum, m->entries[lba].sum);
	}
}

/* Whatever the order of blocks and ranges, the newest wins everywhere, and ranges stay disjoint and
 * sorted. */
static void overlay_newest_wins(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct model *m = calloc(1, sizeof(*m));
		struct overlay o;
		uint64_t seq = 1000;

		rng_state = seed;
		assert_int_equal(overlay_init(&o, seq, 0), 0);
		for (int i = 0; i < 400; i++) {
			if (rng(10) == 0)
				put_range(&o, m, ++seq);
			else
				put_block(&o, m, rng(N), ++seq);
		}
		compare(&o, m);
		for (uint32_t i = 1; i < o.n_ranges; i++)
			assert_true(o.ranges[i - 1].end <= o.ranges[i].first);
		assert_true(o.newest == seq);
		overlay_free(&o);
		free(m);
	}
}

/* A block that was put before tells what it was, for the accounting. */
static void overlay_put_tells_the_old(void **state)
{
	struct overlay o;
	struct entry a = {.segment = 7, .state = ENTRY_DATA, .offset = 8};
	struct entry old;

	(void)state;
	assert_int_equal(overlay_init(&o, 0, 4), 0);
	overlay_put(&o, 5, &a, 1, &old);
	assert_int_equal(old.state, ENTRY_INHERIT);
	a.segment = 9;
	overlay_put(&o, 5, &a, 2, &old);
	assert_int_equal(old.state, ENTRY_DATA);
	assert_int_equal(old.segment, 7);
	assert_int_equal(o.n_blocks, 1);
	overlay_free(&o);
}

/* The sorted slots are all the blocks, by LBA, up to the largest volume's last. */
static void overlay_sorts_by_lba(void **state)
{
	static const uint64_t far[] = {0, 65535, 65536, UINT64_C(1) << 32,
				       VOLUME_SIZE_MAX / BLOCK_SIZE - 1};
	struct entry e = {.state = ENTRY_ZERO};
	struct entry old;
	struct overlay o;
	uint32_t *slots;
	uint64_t last = 0;

	(void)state;
	rng_state = 3;
	assert_int_equal(overlay_init(&o, 0, 0), 0);
	for (uint32_t i = 0; i < 3000; i++) {
		uint64_t lba = i < ARRAY_SIZE(far) ? far[i] : rng(VOLUME_SIZE_MAX / BLOCK_SIZE);

		assert_int_equal(overlay_reserve(&o, 1, 0), 0);
		overlay_put(&o, lba, &e, i + 1, &old);
	}
	slots = overlay_sort(&o);
	for (uint32_t i = 0; i < o.n_blocks; i++) {
		uint64_t lba = overlay_lba(&o.blocks[slots[i]]);

		assert_true(i == 0 || lba > last);
		last = lba;
	}
	assert_true(last == VOLUME_SIZE_MAX / BLOCK_SIZE - 1);
	mem_free(slots);
	overlay_free(&o);
}

/* overlay_next_range and overlay_range_at find the edges exactly. */
static void overlay_range_edges(void **state)
{
	struct overlay o;

	(void)state;
	assert_int_equal(overlay_init(&o, 0, 0), 0);
	assert_int_equal(overlay_reserve(&o, 0, 4), 0);
	overlay_put_range(&o, 100, 50, ENTRY_ZERO, 1);
	overlay_put_range(&o, 120, 10, ENTRY_ZERO_RESERVED, 2);
	assert_int_equal(o.n_ranges, 3);
	assert_null(overlay_range_at(&o, 99));
	assert_int_equal(overlay_range_at(&o, 100)->seq, 1);
	assert_int_equal(overlay_range_at(&o, 120)->seq, 2);
	assert_int_equal(overlay_range_at(&o, 130)->seq, 1);
	assert_null(overlay_range_at(&o, 150));
	assert_int_equal(overlay_next_range(&o, 0, 1000), 100);
	assert_int_equal(overlay_next_range(&o, 125, 1000), 125);
	assert_int_equal(overlay_next_range(&o, 150, 1000), 1000);
	overlay_free(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(overlay_newest_wins),
	    cmocka_unit_test(overlay_put_tells_the_old),
	    cmocka_unit_test(overlay_sorts_by_lba),
	    cmocka_unit_test(overlay_range_edges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
