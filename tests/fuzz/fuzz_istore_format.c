/* SPDX-License-Identifier: Apache-2.0
 *
 * A page of an instance store: the first byte says what it is taken for (0 superblock, 1 entry of
 * the disk table, 2 key, 3 map), and whether its checksum is put right first, so that what lies
 * behind the checksum is reached. What is taken must be in range, and come out the same when it is
 * written again.
 */
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "instance-store/format.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CRC_AT     12
#define FIX_CRC    0x80
#define WHAT(byte) ((byte) % 4)

static const struct istore_super super = {
    .uuid = {1, 2}, .host = {3, 4}, .sequence = 1, .slice_size = MiB, .n_slices = 1000};

static uint32_t page_crc(const uint8_t *page, bool of_slot)
{
	uint8_t uuid[16] = {[0] = 1, [8] = 2};
	uint32_t seed = of_slot ? crc32c(UINT32_MAX, uuid, sizeof(uuid)) : UINT32_MAX;

	return crc32c(crc32c(seed, page, CRC_AT), page + CRC_AT + 4, ISTORE_PAGE - CRC_AT - 4);
}

static void try_super(const uint8_t *page)
{
	struct istore_super s, again;
	uint8_t out[ISTORE_PAGE];

	if (istore_super_decode(page, &s) < 0)
		return;
	CHECK(s.n_slices <= ISTORE_SLICES_MAX);
	CHECK(s.slice_size <= ISTORE_SLICE_SIZE_MAX);
	istore_super_encode(&s, out);
	CHECK(istore_super_decode(out, &again) == 0);
	CHECK(memcmp(&s, &again, sizeof(s)) == 0);
}

static void try_slot(const uint8_t *page)
{
	static struct istore_slot s, again;
	uint8_t out[ISTORE_PAGE];

	if (istore_slot_decode(page, &super, 7, &s) < 0)
		return;
	CHECK(s.n_extents <= ISTORE_EXTENTS_MAX);
	for (uint32_t i = 0; i < s.n_extents; i++)
		CHECK((uint64_t)s.extents[i].first + s.extents[i].count <= super.n_slices);
	istore_slot_encode(&s, super.uuid, 7, out);
	CHECK(istore_slot_decode(out, &super, 7, &again) == 0);
	CHECK(s.generation == again.generation && s.size == again.size);
}

static void try_key(const uint8_t *page, enum istore_key_kind kind)
{
	struct istore_key k, again;
	uint8_t out[ISTORE_PAGE];

	if (istore_key_decode(page, kind, &k) < 0)
		return;
	CHECK(k.slot < ISTORE_SLOTS);
	CHECK(k.n_blocks > 0);
	istore_key_encode(&k, kind, out);
	CHECK(istore_key_decode(out, kind, &again) == 0);
	CHECK(memcmp(k.key, again.key, sizeof(k.key)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t page[ISTORE_PAGE] = {0};

	if (size < 1)
		return 0;
	memcpy(page, data + 1, min_u64(size - 1, sizeof(page)));
	if (data[0] & FIX_CRC)
		put_le32(page + CRC_AT, page_crc(page, WHAT(data[0]) == 1));
	switch (WHAT(data[0])) {
	case 0:
		try_super(page);
		return 0;
	case 1:
		try_slot(page);
		return 0;
	case 2:
		try_key(page, ISTORE_KEY);
		return 0;
	default:
		try_key(page, ISTORE_MAP);
		return 0;
	}
}
