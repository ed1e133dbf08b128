/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's bytes: what is encoded decodes to the same, and no flipped bit is ever taken for
 * sound.
 */
#include "base/bytes.h"
#include "base/util.h"
#include "engine/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct id volume = {.hi = 3, .lo = 0x123456789abcdef};
static const struct id stranger = {.hi = 3, .lo = 0x123456789abcdee};

static uint8_t buf[65536];

/* Flips every bit in turn; `decode` must refuse each. Padding that no checksum covers is not `len`.
 */
static void every_flip_is_refused(size_t len, int (*decode)(void))
{
	assert_int_equal(decode(), 0);
	for (size_t i = 0; i < len * 8; i++) {
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_true(decode() < 0);
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_int_equal(decode(), 0);
}

static int decode_record(void)
{
	struct record_header h;

	return record_decode(buf, 4096, volume, &h);
}

/* A record's header, runs and sums survive; every flip is refused; another volume's is not ours. */
static void record_round_trip(void **state)
{
	struct run runs[2] = {
	    {.lba = 77, .blocks = 2, .type = RUN_WRITE, .flags = 1, .stored = 16, .nonce = 5},
	    {.lba = 1 << 30, .blocks = 1 << 20, .type = RUN_TRIM, .flags = 1}};
	uint32_t sums[2] = {0xdeadbeef, 0x1234567};
	struct record_header h = {.volume = volume,
				  .incarnation = 4,
				  .sequence = 99,
				  .durable = 90,
				  .previous = 0xabcdef,
				  .generation = 6,
				  .segment = 1234567,
				  .offset = 8192,
				  .header_length = 4096,
				  .payload_length = 8192,
				  .n_runs = 2,
				  .n_sums = 2,
				  .owner_term = 8};
	struct record_header got;
	struct run run = {0};

	(void)state;
	record_encode(buf, &h, runs, sums);
	assert_int_equal(record_decode(buf, 4096, volume, &got), 0);
	record_encode(buf + 8192, &got, runs, sums);
	assert_memory_equal(buf, buf + 8192, 4096);
	record_run(buf, 1, &run);
	assert_memory_equal(&run, &runs[1], sizeof(run));
	assert_int_equal(record_sum(buf, 2, 1), 0x1234567);
	assert_int_equal(record_decode(buf, 4096, stranger, &got), -ENOENT);
	assert_int_equal(record_decode(buf, 100, volume, &got), -ENODATA);
	every_flip_is_refused(record_header_bytes(2, 2), decode_record);
}

/* A run that a bug could write, under a right checksum, is refused all the same. */
static void record_nonsense_is_refused(void **state)
{
	struct run run = {.lba = 77, .blocks = 2, .type = RUN_WRITE, .flags = 1, .stored = 16};
	uint32_t sums[2] = {0};
	struct record_header h = {.volume = volume,
				  .sequence = 1,
				  .header_length = 4096,
				  .payload_length = 8192,
				  .n_runs = 1,
				  .n_sums = 2};
	struct record_header got;

	(void)state;
	run.payload_offset = 1; /* its bytes would end past the payload */
	record_encode(buf, &h, &run, sums);
	assert_int_equal(record_decode(buf, 4096, volume, &got), -EBADMSG);
	run.payload_offset = 0;
	run.lba = VOLUME_SIZE_MAX;
	record_encode(buf, &h, &run, sums);
	assert_int_equal(record_decode(buf, 4096, volume, &got), -EBADMSG);
	run.lba = 77;
	run.type = 200;
	record_encode(buf, &h, &run, sums);
	assert_int_equal(record_decode(buf, 4096, volume, &got), -ENOTSUP);
	run.flags = 0; /* one that may be ignored, but then its sums belong to nobody */
	record_encode(buf, &h, &run, sums);
	assert_int_equal(record_decode(buf, 4096, volume, &got), -EBADMSG);
}

static uint32_t blob_sum;
static size_t blob_len;

static int decode_leaf(void)
{
	static struct leaf_content leaf;

	return leaf_decode(buf, blob_len, volume, 42, blob_sum, &leaf);
}

/* A leaf of every state survives, in the least and in the most bytes it can take. */
static void leaf_round_trip(void **state)
{
	static struct leaf_content leaf;
	static struct leaf_content got;

	(void)state;
	for (int i = 0; i < LEAF_BLOCKS; i++) {
		struct entry *e = &leaf.entries[i];

		e->state = i % 3 == 0 ? ENTRY_DATA : (unsigned)(i % 5);
		if (e->state != ENTRY_DATA)
			continue;
		e->segment = (uint64_t)i << 30;
		e->offset = (uint32_t)i * 8;
		e->sum = (uint32_t)i * 7919;
	}
	leaf.birth[3] = 12345;
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	assert_int_equal(leaf_decode(buf, blob_len, volume, 42, blob_sum, &got), 0);
	assert_memory_equal(&got, &leaf, sizeof(leaf));
	assert_true(leaf_decode(buf, blob_len, volume, 43, blob_sum, &got) < 0);
	assert_true(leaf_decode(buf, blob_len, volume, 42, blob_sum + 1, &got) < 0);
	for (int i = 0; i < LEAF_BLOCKS; i++)
		leaf.entries[i] = (struct entry){.state = ENTRY_DATA,
						 .segment = 5,
						 .offset = 65536 + (LEAF_BLOCKS - (uint32_t)i) * 8};
	assert_true(leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum) == LEAF_BYTES_MAX);
	for (int i = 0; i < LEAF_BLOCKS; i++)
		leaf.entries[i].offset = (uint32_t)i * 8;
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	assert_true(blob_len == 128 + 24 + LEAF_BLOCKS * 4);
	memset(&leaf.entries[8], 0, sizeof(leaf.entries) - 8 * sizeof(leaf.entries[0]));
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	every_flip_is_refused(blob_len, decode_leaf);
}

/* Blocks that were written at random, here and there two in a row, take ten bytes each, whatever
 * segments they are in; and no leaf takes more than as plain runs. */
static void scattered_leaf_round_trip(void **state)
{
	static struct leaf_content leaf;
	static struct leaf_content got;

	(void)state;
	for (uint32_t i = 0; i < LEAF_BLOCKS; i++)
		leaf.entries[i] = (struct entry){.state = ENTRY_DATA,
						 .segment = 7 + (i / 2 * 2654435761u) % 100000,
						 .offset = 65528 - i / 2 * 64 + i % 2 * 8,
						 .sum = i * 7919};
	leaf.entries[0].offset -= 8; /* the largest is not passed over */
	leaf.entries[1].offset -= 8;
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	assert_true(blob_len == 128 + 24 + LEAF_BLOCKS * 10);
	assert_int_equal(decode_leaf(), 0);
	assert_int_equal(leaf_decode(buf, blob_len, volume, 42, blob_sum, &got), 0);
	assert_memory_equal(&got, &leaf, sizeof(leaf));
	/* Segments that are too far apart are in runs of their own. */
	for (uint32_t i = 0; i < LEAF_BLOCKS; i++)
		leaf.entries[i].segment = (uint64_t)(i / 256) << 40;
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	assert_true(blob_len == 128 + 4 * 24 + LEAF_BLOCKS * 10);
	assert_int_equal(leaf_decode(buf, blob_len, volume, 42, blob_sum, &got), 0);
	assert_memory_equal(&got, &leaf, sizeof(leaf));
	memset(&leaf.entries[8], 0, sizeof(leaf.entries) - 8 * sizeof(leaf.entries[0]));
	blob_len = leaf_encode(buf, volume, 42, 9, &leaf, &blob_sum);
	every_flip_is_refused(blob_len, decode_leaf);
}

static int decode_index(void)
{
	static struct blob_ref refs[INDEX_LEAVES];

	return index_decode(buf, blob_len, volume, 3, blob_sum, refs);
}

static int decode_usage(void)
{
	static struct usage_entry entries[USAGE_SEGMENTS];

	return usage_decode(buf, blob_len, volume, 3, blob_sum, entries);
}

static int decode_root(void)
{
	struct root_content root;

	return root_decode(buf, blob_len, volume, blob_sum, &root);
}

/* Index pages, usage pages and roots survive, and every flip is refused. */
static void pages_round_trip(void **state)
{
	static struct blob_ref refs[INDEX_LEAVES];
	static struct blob_ref got_refs[INDEX_LEAVES];
	static struct usage_entry usage[USAGE_SEGMENTS];
	static struct usage_entry got_usage[USAGE_SEGMENTS];
	struct root_content root = {
	    .checkpoint = 5, .sequence = 6, .size = 1 << 20, .n_index = 1, .n_usage = 1};
	struct blob_ref ref = {0};
	uint32_t number;

	(void)state;
	refs[0] =
	    (struct blob_ref){.segment = 8, .offset = 64, .length = 200, .sum = 1, .birth = 2};
	refs[255] =
	    (struct blob_ref){.segment = 9, .offset = 128, .length = LEAF_BYTES_MAX, .sum = 3};
	blob_len = index_encode(buf, volume, 3, 9, refs, &blob_sum);
	assert_int_equal(index_decode(buf, blob_len, volume, 3, blob_sum, got_refs), 0);
	assert_memory_equal(refs, got_refs, sizeof(refs));
	every_flip_is_refused(blob_len, decode_index);
	usage[7] = (struct usage_entry){.segment = 11,
					.generation = 2,
					.live = 4096,
					.written = 8192,
					.newest = 77,
					.lent_at = 3,
					.stream = 1};
	blob_len = usage_encode(buf, volume, 3, 9, usage, &blob_sum);
	assert_int_equal(usage_decode(buf, blob_len, volume, 3, blob_sum, got_usage), 0);
	assert_memory_equal(usage, got_usage, sizeof(usage));
	every_flip_is_refused(blob_len, decode_usage);
	root_begin(buf, volume, &root);
	root_put_ref(buf, 0, 17, &refs[0]);
	root_put_ref(buf, 1, 18, &refs[255]);
	root_finish(buf, volume, &root, &blob_sum);
	blob_len = root_bytes(1, 1);
	root_get_ref(buf, 1, &number, &ref);
	assert_int_equal(number, 18);
	assert_memory_equal(&ref, &refs[255], sizeof(ref));
	every_flip_is_refused(blob_len, decode_root);
}

static int decode_superblock(void)
{
	struct superblock sb;

	return superblock_decode(buf, SUPERBLOCK_BYTES, volume, &sb);
}

/* A superblock survives; every flip is refused; a feature that we do not know is named as such. */
static void superblock_round_trip(void **state)
{
	static struct superblock sb;
	static struct superblock got;

	(void)state;
	sb.volume = volume;
	sb.size = 1 << 30;
	sb.incarnation = 7;
	sb.checkpoint = 8;
	sb.sequence = 9;
	sb.replay_segment = REPLAY_NOWHERE;
	sb.pins[4].checkpoint = 3;
	sb.pins[4].snapshot = (struct id){.hi = 4, .lo = 5};
	sb.pins[4].size = 1 << 29;
	sb.pins[0].snapshot.lo = 6;
	sb.base = (struct id){.hi = 1, .lo = 2};
	sb.base_size = 1 << 20;
	sb.hydrated = 1 << 19;
	sb.n_ended = SUPERBLOCK_ENDED;
	sb.ended[63].last = 6;
	superblock_encode(buf, &sb);
	assert_int_equal(superblock_decode(buf, SUPERBLOCK_BYTES, volume, &got), 0);
	assert_memory_equal(&sb, &got, sizeof(sb));
	every_flip_is_refused(SUPERBLOCK_BYTES, decode_superblock);
}

/* The checksum of a block depends on its bytes, its place and its volume. */
static void block_sum_binds_place(void **state)
{
	static uint8_t block[BLOCK_SIZE];
	uint32_t sum = block_sum(volume, 5, block);

	(void)state;
	assert_int_equal(block_sum(volume, 5, block), sum);
	assert_int_not_equal(block_sum(volume, 6, block), sum);
	assert_int_not_equal(block_sum(stranger, 5, block), sum);
	block[100] ^= 1;
	assert_int_not_equal(block_sum(volume, 5, block), sum);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(record_round_trip),     cmocka_unit_test(record_nonsense_is_refused),
	    cmocka_unit_test(leaf_round_trip),       cmocka_unit_test(scattered_leaf_round_trip),
	    cmocka_unit_test(pages_round_trip),      cmocka_unit_test(superblock_round_trip),
	    cmocka_unit_test(block_sum_binds_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
