/* SPDX-License-Identifier: Apache-2.0
 *
 * A page of a store: the first byte says what it is taken for (0 superblock, 1 table page, 2 slot
 * of an object), and whether its checksum is put right first, so that what lies behind the checksum
 * is reached. What is taken must be in range, and come out the same when it is written again.
 */
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "store/format.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CRC_AT     12
#define FIX_CRC    0x80
#define WHAT(byte) ((byte) % 3)

static const struct id store = {.hi = 1, .lo = 2};

static uint32_t page_crc(const uint8_t *page, bool of_super)
{
	uint8_t uuid[16] = {[0] = 1, [8] = 2};
	uint32_t seed = of_super ? UINT32_MAX : crc32c(UINT32_MAX, uuid, sizeof(uuid));

	return crc32c(crc32c(seed, page, CRC_AT), page + CRC_AT + 4, FORMAT_PAGE - CRC_AT - 4);
}

static void try_super(const uint8_t *page)
{
	struct format_super super, again;
	uint8_t out[FORMAT_PAGE];

	if (format_super_decode(page, &super) < 0)
		return;
	CHECK(super.groups <= FORMAT_GROUPS_MAX);
	CHECK(super.segment_size >= FORMAT_SEGMENT_SIZE_MIN);
	CHECK(super.segment_size <= FORMAT_SEGMENT_SIZE_MAX);
	format_super_encode(&super, out);
	CHECK(format_super_decode(out, &again) == 0);
	CHECK(id_equal(super.uuid, again.uuid));
	CHECK(super.sequence == again.sequence);
}

static void try_table(const uint8_t *page)
{
	static struct format_table table, again;
	uint8_t out[FORMAT_PAGE];

	if (format_table_decode(page, store, 3, 1, &table) < 0)
		return;
	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++) {
		const struct format_entry *e = &table.entries[i];

		CHECK(e->state == FORMAT_SEGMENT_UNUSED || e->generation > 0);
		CHECK(e->state != FORMAT_SEGMENT_LENT || e->stream <= STORE_STREAM_OBJECTS);
	}
	format_table_encode(&table, store, 3, 1, out);
	CHECK(format_table_decode(out, store, 3, 1, &again) == 0);
	CHECK(again.version == table.version);
}

static void try_slot(const uint8_t *page)
{
	const struct format_slot_place place = {
	    .store = store, .segment = 7, .generation = 1, .pair = 5, .slot = 1};
	struct format_slot slots[2] = {{.version = 1, .sequence = 2, .length = 1}};
	const int errors[2] = {0, 0};
	const uint8_t *data;
	uint8_t copy[STORE_OBJECT_MAX];
	struct format_pair pair;

	if (format_slot_decode(page, &place, &slots[1], &data) < 0)
		return;
	CHECK(slots[1].length <= STORE_OBJECT_MAX);
	CHECK(data + slots[1].length <= page + FORMAT_PAGE);
	memcpy(copy, data, slots[1].length);
	pair = format_pair_judge(errors, slots);
	CHECK(!pair.damaged);
	CHECK(pair.slot.sequence >= 2 || slots[1].sequence == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t page[FORMAT_PAGE] = {0};

	if (size < 1)
		return 0;
	memcpy(page, data + 1, min_u64(size - 1, sizeof(page)));
	if (data[0] & FIX_CRC)
		put_le32(page + CRC_AT, page_crc(page, WHAT(data[0]) == 0));
	switch (WHAT(data[0])) {
	case 0:
		try_super(page);
		return 0;
	case 1:
		try_table(page);
		return 0;
	default:
		try_slot(page);
		return 0;
	}
}
