/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a store: what was written is read, and nothing else is ever taken for it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "store/format.h"

static const struct id uuid = {.hi = 0x1122334455667788, .lo = 0x99aabbccddeeff00};
static const struct id other_uuid = {.hi = 0x1122334455667788, .lo = 0x99aabbccddeeff01};

static uint8_t page[FORMAT_PAGE];

static struct format_super sample_super(void)
{
	return (struct format_super){
	    .uuid = uuid,
	    .features_ignorable = 0xf000000000000001,
	    .sequence = 9,
	    .owner_term = 4,
	    .groups = 3,
	    .segment_size = 8 * MiB,
	    .alignment = 512,
	    .made_at = 1234567890123456789,
	};
}

static struct format_table sample_table(void)
{
	struct format_table table = {.version = 77};

	table.entries[0] = (struct format_entry){
	    .state = FORMAT_SEGMENT_LENT,
	    .stream = STORE_STREAM_MAP,
	    .generation = 5,
	    .volume = {.hi = 1, .lo = 2},
	    .incarnation = 3,
	    .owner_term = 4,
	    .order = UINT64_MAX,
	};
	table.entries[62] = (struct format_entry){
	    .state = FORMAT_SEGMENT_FREE,
	    .flags = FORMAT_SEGMENT_WRITTEN,
	    .generation = UINT32_MAX,
	    .order = 1,
	};
	return table;
}

static struct format_slot sample_slot(void)
{
	return (struct format_slot){
	    .name = {.hi = 7, .lo = 8},
	    .version = 12,
	    .sequence = 33,
	    .length = STORE_OBJECT_MAX,
	};
}

static struct format_slot_place sample_place(void)
{
	return (struct format_slot_place){
	    .store = uuid,
	    .segment = 1234567,
	    .generation = 2,
	    .pair = 500,
	    .slot = 1,
	};
}

static void slot_data(uint8_t *data)
{
	for (unsigned i = 0; i < STORE_OBJECT_MAX; i++)
		data[i] = (uint8_t)(i * 7 + 3);
}

static int decode_super(void)
{
	struct format_super s;

	return format_super_decode(page, &s);
}

static int decode_table(void)
{
	struct format_table t;

	return format_table_decode(page, uuid, 6, 1, &t);
}

static int decode_slot(void)
{
	struct format_slot_place place = sample_place();
	struct format_slot slot;
	const uint8_t *data;

	return format_slot_decode(page, &place, &slot, &data);
}

/* Every single bit of the page matters. */
static void flip_every_bit(int (*decode)(void))
{
	assert_int_equal(decode(), 0);
	for (unsigned bit = 0; bit < 8 * FORMAT_PAGE; bit++) {
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_true(decode() < 0);
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(decode(), 0);
}

/* Every field of a superblock survives the way to disk and back. */
static void super_round_trip(void **state)
{
	struct format_super in = sample_super();
	struct format_super out;

	(void)state;
	format_super_encode(&in, page);
	assert_int_equal(format_super_decode(page, &out), 0);
	assert_true(id_equal(in.uuid, out.uuid));
	assert_true(in.features_ignorable == out.features_ignorable);
	assert_true(in.sequence == out.sequence);
	assert_true(in.owner_term == out.owner_term);
	assert_true(in.groups == out.groups);
	assert_int_equal(in.segment_size, out.segment_size);
	assert_int_equal(in.alignment, out.alignment);
	assert_true(in.made_at == out.made_at);
}

/* No flipped bit passes in a superblock. */
static void super_any_bit_is_refused(void **state)
{
	struct format_super in = sample_super();

	(void)state;
	format_super_encode(&in, page);
	flip_every_bit(decode_super);
}

/* A superblock's bytes other than the first sector are zero, so that a power cut can't tear it. */
static void super_fits_in_a_sector(void **state)
{
	struct format_super in = sample_super();

	(void)state;
	format_super_encode(&in, page);
	assert_true(format_is_zero(page + 512, FORMAT_PAGE - 512));
}

/* Zeroes are "never written", and bytes without our magic are "not ours". */
static void super_blank_and_foreign(void **state)
{
	(void)state;
	memset(page, 0, sizeof(page));
	assert_int_equal(decode_super(), -ENODATA);
	page[4095] = 1;
	assert_int_equal(decode_super(), -EMEDIUMTYPE);
}

static void super_seal(void)
{
	uint32_t crc = crc32c(UINT32_MAX, page, 12);

	put_le32(page + 12, crc32c(crc, page + 16, FORMAT_PAGE - 16));
}

/* A whole superblock of a newer format is told from damage: by its version, or by a feature bit
 * that must be understood. */
static void super_newer_is_not_supported(void **state)
{
	struct format_super in = sample_super();

	(void)state;
	format_super_encode(&in, page);
	put_le32(page + 8, FORMAT_VERSION + 1);
	super_seal();
	assert_int_equal(decode_super(), -ENOTSUP);

	in.features_must = UINT64_C(1) << 63;
	format_super_encode(&in, page);
	assert_int_equal(decode_super(), -ENOTSUP);
}

/* Unknown features of the two weaker strengths are handed up for the opener to judge. */
static void super_weaker_features_pass(void **state)
{
	struct format_super in = sample_super();
	struct format_super out;

	(void)state;
	in.features_read_only = 2;
	format_super_encode(&in, page);
	assert_int_equal(format_super_decode(page, &out), 0);
	assert_true(out.features_read_only == 2);
}

/* Values that no store writes are damage, whatever the checksum says. */
static void super_impossible_values_are_refused(void **state)
{
	const struct {
		unsigned offset;
		uint32_t value;
	} cases[] = {
	    {84, 0},          {84, 1 * MiB}, {84, 8 * MiB + 512},
	    {84, UINT32_MAX}, {88, 0},       {88, 1024},
	    {56, 0},          {76, 1},       {72, 1u << 21},
	    {92, 2},          {96, 128},     {100, 2 * MiB},
	    {80, 512},
	};
	struct format_super in = sample_super();

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		format_super_encode(&in, page);
		put_le32(page + cases[i].offset, cases[i].value);
		super_seal();
		assert_true(decode_super() < 0);
	}
}

/* Every field of a table page survives. */
static void table_round_trip(void **state)
{
	struct format_table in = sample_table();
	struct format_table out;

	(void)state;
	format_table_encode(&in, uuid, 6, 1, page);
	assert_int_equal(format_table_decode(page, uuid, 6, 1, &out), 0);
	assert_true(out.version == 77);
	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++) {
		const struct format_entry *a = &in.entries[i];
		const struct format_entry *b = &out.entries[i];

		assert_int_equal(a->state, b->state);
		assert_int_equal(a->stream, b->stream);
		assert_true(a->generation == b->generation);
		assert_true(id_equal(a->volume, b->volume));
		assert_true(a->incarnation == b->incarnation);
		assert_true(a->owner_term == b->owner_term);
		assert_true(a->order == b->order);
		assert_true(a->flags == b->flags);
	}
}

/* No flipped bit passes in a table page. */
static void table_any_bit_is_refused(void **state)
{
	struct format_table in = sample_table();

	(void)state;
	format_table_encode(&in, uuid, 6, 1, page);
	flip_every_bit(decode_table);
}

/* A page that landed elsewhere, or that another store left, is refused. */
static void table_elsewhere_is_refused(void **state)
{
	struct format_table in = sample_table();
	struct format_table out;

	(void)state;
	format_table_encode(&in, uuid, 6, 1, page);
	assert_int_equal(format_table_decode(page, uuid, 7, 1, &out), -EUCLEAN);
	assert_int_equal(format_table_decode(page, uuid, 6, 0, &out), -EUCLEAN);
	assert_int_equal(format_table_decode(page, other_uuid, 6, 1, &out), -EUCLEAN);
}

/* Entries that no store writes spoil the page. */
static void table_impossible_entries_are_refused(void **state)
{
	struct format_table out;

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		struct format_table in = sample_table();

		switch (i) {
		case 0:
			in.entries[5].state = 3;
			break;
		case 1:
			in.entries[0].stream = 0;
			break;
		case 2:
			in.entries[0].stream = 5;
			break;
		case 3:
			in.entries[0].generation = 0;
			break;
		case 4:
			in.entries[9].volume.lo = 1; /* of a segment that was never lent */
			break;
		}
		format_table_encode(&in, uuid, 6, 1, page);
		assert_int_equal(format_table_decode(page, uuid, 6, 1, &out), -EUCLEAN);
	}
}

/* An object of the greatest size survives, and so does a tombstone. */
static void slot_round_trip(void **state)
{
	struct format_slot in = sample_slot();
	struct format_slot_place place = sample_place();
	struct format_slot out;
	uint8_t data[STORE_OBJECT_MAX];
	const uint8_t *got;

	(void)state;
	slot_data(data);
	format_slot_encode(&in, &place, data, page);
	assert_int_equal(format_slot_decode(page, &place, &out, &got), 0);
	assert_true(id_equal(in.name, out.name));
	assert_true(out.version == 12);
	assert_true(out.sequence == 33);
	assert_int_equal(out.length, STORE_OBJECT_MAX);
	assert_false(out.deleted);
	assert_memory_equal(got, data, STORE_OBJECT_MAX);

	in.deleted = true;
	in.length = 0;
	format_slot_encode(&in, &place, NULL, page);
	assert_int_equal(format_slot_decode(page, &place, &out, &got), 0);
	assert_true(out.deleted);
}

/* No flipped bit passes in a slot. */
static void slot_any_bit_is_refused(void **state)
{
	struct format_slot in = sample_slot();
	struct format_slot_place place = sample_place();
	uint8_t data[STORE_OBJECT_MAX];

	(void)state;
	slot_data(data);
	format_slot_encode(&in, &place, data, page);
	flip_every_bit(decode_slot);
}

/* A slot counts only in its own place, generation and store. */
static void slot_elsewhere_is_refused(void **state)
{
	struct format_slot in = sample_slot();
	struct format_slot out;
	uint8_t data[STORE_OBJECT_MAX];
	const uint8_t *got;

	(void)state;
	slot_data(data);
	for (unsigned i = 0; i < 5; i++) {
		struct format_slot_place place = sample_place();

		format_slot_encode(&in, &place, data, page);
		place.segment += i == 0;
		place.generation += i == 1;
		place.pair += i == 2;
		place.slot = i == 3 ? 0 : 1;
		place.store = i == 4 ? other_uuid : uuid;
		assert_int_equal(format_slot_decode(page, &place, &out, &got), -EUCLEAN);
	}
}

static struct format_slot slot_of(uint64_t name, uint64_t version, uint64_t sequence, bool deleted)
{
	return (struct format_slot){
	    .name.lo = name,
	    .version = version,
	    .sequence = sequence,
	    .length = !deleted,
	    .deleted = deleted,
	};
}

/* T2: what the two slots of a pair mean, after everything that can happen to them. */
static void pair_judgements(void **state)
{
	const struct format_slot none = slot_of(0, 0, 0, false);
	const struct {
		int errors[2];
		struct format_slot slots[2];
		int state;
		bool damaged, half;
		uint64_t sequence;
	} cases[] = {
	    /* never used */
	    {{-ENODATA, -ENODATA}, {none, none}, FORMAT_PAIR_FREE, false, false, 0},
	    /* the first write of the first creation was torn */
	    {{-ENODATA, -EUCLEAN}, {none, none}, FORMAT_PAIR_FREE, true, false, 0},
	    /* it was not, and the second never came */
	    {{-ENODATA, 0}, {none, slot_of(1, 1, 1, false)}, FORMAT_PAIR_LIVE, false, true, 1},
	    /* created; changed */
	    {{0, 0},
	     {slot_of(1, 1, 2, false), slot_of(1, 1, 1, false)},
	     FORMAT_PAIR_LIVE,
	     false,
	     false,
	     2},
	    /* a swap that reached one slot; or whose first write was torn, or a slot has rotted */
	    {{0, 0},
	     {slot_of(1, 1, 2, false), slot_of(1, 2, 3, false)},
	     FORMAT_PAIR_LIVE,
	     false,
	     true,
	     3},
	    {{0, -EUCLEAN}, {slot_of(1, 1, 2, false), none}, FORMAT_PAIR_LIVE, true, true, 2},
	    /* a deletion that reached one slot; both; one, and the other was torn */
	    {{0, 0},
	     {slot_of(1, 3, 4, true), slot_of(1, 2, 3, false)},
	     FORMAT_PAIR_FREE,
	     false,
	     true,
	     4},
	    {{0, 0},
	     {slot_of(1, 3, 4, true), slot_of(1, 3, 5, true)},
	     FORMAT_PAIR_FREE,
	     false,
	     false,
	     5},
	    {{0, -EUCLEAN}, {slot_of(1, 3, 4, true), none}, FORMAT_PAIR_FREE, true, true, 4},
	    /* reused for another name */
	    {{0, 0},
	     {slot_of(2, 1, 6, false), slot_of(1, 3, 5, true)},
	     FORMAT_PAIR_LIVE,
	     false,
	     true,
	     6},
	    /* nothing is left */
	    {{-EUCLEAN, -EUCLEAN}, {none, none}, FORMAT_PAIR_LOST, true, false, 0},
	    {{-EMEDIUMTYPE, -EUCLEAN}, {none, none}, FORMAT_PAIR_LOST, true, false, 0},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct format_pair p = format_pair_judge(cases[i].errors, cases[i].slots);

		assert_int_equal(p.state, cases[i].state);
		assert_int_equal(p.damaged, cases[i].damaged);
		assert_int_equal(p.half, cases[i].half);
		assert_true(p.slot.sequence == cases[i].sequence);
	}
}

/* Segments lie one after the other, none over another's table, and as many fit as there is room
 * for. */
static void geometry_has_no_overlaps(void **state)
{
	const uint32_t size = 4 * MiB;
	uint64_t end = 0;

	(void)state;
	for (uint64_t id = 1; id <= 3 * FORMAT_SEGMENTS; id++) {
		uint64_t group = format_segment_group(id);
		uint64_t at = format_segment_offset(size, id);

		assert_true(format_segment_id(group, format_segment_index(id)) == id);
		if (format_segment_index(id) == 0) {
			assert_true(format_group_offset(size, group) == (end ? end : 1 * MiB));
			end = format_group_offset(size, group) + FORMAT_GROUP_HEAD;
		}
		assert_true(at == end);
		end = at + size;
		assert_true(format_segments_in(size, end) == id);
		assert_true(format_segments_in(size, end - 1) == id - 1);
	}
	assert_true(format_segments_in(size, 0) == 0);
	assert_true(format_segments_in(size, UINT64_MAX) == FORMAT_GROUPS_MAX * FORMAT_SEGMENTS);
	assert_true(format_segments_in(FORMAT_SEGMENT_SIZE_MAX, UINT64_MAX) ==
		    FORMAT_GROUPS_MAX * FORMAT_SEGMENTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(super_round_trip),
	    cmocka_unit_test(super_any_bit_is_refused),
	    cmocka_unit_test(super_fits_in_a_sector),
	    cmocka_unit_test(super_blank_and_foreign),
	    cmocka_unit_test(super_newer_is_not_supported),
	    cmocka_unit_test(super_weaker_features_pass),
	    cmocka_unit_test(super_impossible_values_are_refused),
	    cmocka_unit_test(table_round_trip),
	    cmocka_unit_test(table_any_bit_is_refused),
	    cmocka_unit_test(table_elsewhere_is_refused),
	    cmocka_unit_test(table_impossible_entries_are_refused),
	    cmocka_unit_test(slot_round_trip),
	    cmocka_unit_test(slot_any_bit_is_refused),
	    cmocka_unit_test(slot_elsewhere_is_refused),
	    cmocka_unit_test(pair_judgements),
	    cmocka_unit_test(geometry_has_no_overlaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
