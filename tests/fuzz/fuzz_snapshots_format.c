/* SPDX-License-Identifier: Apache-2.0
 *
 * The parsers of everything that is read from a snapshot repository. The first byte chooses one.
 * A fuzzer can't guess a checksum or a hash, so that these are made right before each try.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "snapshots/codec.h"
#include "snapshots/format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct snap_info info;

static void seal(uint8_t *buf, size_t len, uint64_t magic)
{
	if (len < SNAP_PROLOGUE)
		return;
	put_le64(buf, magic);
	put_le16(buf + 12, SNAP_VERSION);
	put_le16(buf + 14, 0);
	put_le32(buf + 16, (uint32_t)len);
	put_le32(buf + 8, crc32c(0, buf + 12, len - 12));
}

static void try_manifest(uint8_t *buf, size_t len)
{
	struct id id = {0};

	seal(buf, len, MAGIC_MANIFEST);
	if (len >= SNAP_PROLOGUE + 16)
		id = (struct id){get_le64(buf + 24), get_le64(buf + 32)};
	manifest_decode(buf, len, id, &info, NULL);
}

static void try_hold(uint8_t *buf, size_t len)
{
	struct hold hold = {.info = &info};

	if (len > HOLD_FIXED)
		seal(buf + HOLD_FIXED, len - HOLD_FIXED, MAGIC_MANIFEST);
	seal(buf, len, MAGIC_HOLD);
	hold_decode(buf, len, &hold);
}

/* A page that passes its check must be safe in all that is done with it. */
static void try_page(uint8_t *buf, size_t len)
{
	static struct snap_page page;
	static uint8_t again[PAGE_MAX];
	struct snap_entry e;

	if (len < PAGE_FIXED)
		return;
	put_le32(buf, MAGIC_PAGE);
	put_le16(buf + 4, SNAP_VERSION);
	if (get_le16(buf + 6) >= PAGE_LEVELS ||
	    page_check(buf, len, get_le16(buf + 6), get_le32(buf + 8)) < 0)
		return;
	for (uint32_t place = 0; place < PAGE_FANOUT; place++) {
		page_find(buf, place, &e);
		if (e.state == ENTRY_FRAMES || e.state == ENTRY_RAW)
			if (codec_frame_offset(&e, FRAMES) != e.item.length)
				abort();
	}
	page_decode(buf, &page);
	page_encode(&page, again);
}

static void try_pack(uint8_t *buf, size_t len)
{
	static struct pack_item items[PACK_ITEMS_MAX];
	struct snap_pack pack = {0};
	uint32_t n;

	if (len < DIRECTORY_HEAD + PACK_TAIL)
		return;
	pack.snapshot = (struct id){get_le64(buf + 24), get_le64(buf + 32)};
	pack.attempt = get_le32(buf + 40);
	pack.number = get_le32(buf + 44);
	seal(buf, len - PACK_TAIL, MAGIC_DIRECTORY);
	put_le64(buf + len - PACK_TAIL, MAGIC_DIRECTORY);
	put_le32(buf + len - 8, 0);
	put_le32(buf + len - 4, crc32c(0, buf + len - PACK_TAIL, 12));
	pack_end_decode(buf, len, len, &pack, items, &n);
}

/* One frame, with a right checksum: whatever inflates must stay within its 32 KiB. */
static void try_frame(uint8_t *buf, size_t len)
{
	static uint8_t out[FRAME_SIZE];
	struct snap_entry e = {.state = ENTRY_FRAMES};

	if (len < 5 || len > FRAME_SIZE)
		return;
	e.frames[0] = (uint16_t)(len - 4);
	put_le32(buf + len - 4, crc32c(0, buf, len - 4));
	codec_unpack(&e, 0, 1, buf, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct repository_head head;
	struct snap_pack pack;
	struct lease lease;
	uint8_t *buf;
	bool copy;

	if (size < 2)
		return 0;
	/* Of just that length, so that a sanitizer sees each step beyond it. */
	buf = malloc(size);
	memcpy(buf, data + 1, size - 1);
	buf[size - 1] = '\0';
	switch (data[0] % 7) {
	case 0:
		try_manifest(buf, size - 1);
		break;
	case 1:
		try_hold(buf, size - 1);
		break;
	case 2:
		try_page(buf, size - 1);
		break;
	case 3:
		try_pack(buf, size - 1);
		break;
	case 4:
		try_frame(buf, size - 1);
		break;
	case 5:
		pack_name_parse((char *)buf, &pack, &copy);
		manifest_name_parse((char *)buf, &pack.snapshot);
		break;
	default:
		seal(buf, size - 1, data[0] & 64 ? MAGIC_REPOSITORY : MAGIC_LEASE);
		repository_decode(buf, size - 1, &head);
		lease_decode(buf, size - 1, &lease);
	}
	free(buf);
	return 0;
}
