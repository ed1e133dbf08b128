/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshots/codec.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <openssl/evp.h>

/* Compressing costs far more than storing: only what gets smaller by an eighth is worth it. */
#define WORTH_IT (FRAME_SIZE - FRAME_SIZE / 8)

void codec_hash(const void *buf, size_t len, uint8_t hash[SNAP_HASH])
{
	CHECK(EVP_Digest(buf, len, hash, NULL, EVP_sha256(), NULL) == 1);
}

const uint8_t codec_zero_hash[SNAP_HASH] = {
    0x07, 0x85, 0x4d, 0x2f, 0xef, 0x29, 0x7a, 0x06, 0xba, 0x81, 0x68, 0x5e, 0x66, 0x0c, 0x33, 0x2d,
    0xe3, 0x6d, 0x5d, 0x18, 0xd5, 0x46, 0x92, 0x7d, 0x30, 0xda, 0xad, 0x6d, 0x7f, 0xda, 0x15, 0x41,
};

static uint32_t frame_seed(const uint8_t hash[SNAP_HASH], uint32_t frame)
{
	return get_le32(hash) ^ frame;
}

static bool is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, SNAP_BLOCK - 1) == 0;
}

/* Looks at 2 KiB in 32 places: are all byte values about equally frequent? Then it is most likely
 * compressed or encrypted already, and trying again would take ten times longer than storing it. */
static bool looks_random(const uint8_t *frame)
{
	uint32_t count[256] = {0};
	uint64_t squares = 0;

	for (uint32_t at = 0; at < FRAME_SIZE; at += FRAME_SIZE / 32)
		for (uint32_t i = 0; i < 64; i++)
			count[frame[at + i]]++;
	for (int i = 0; i < 256; i++)
		squares += (uint64_t)count[i] * count[i];
	/* Expected of 2048 random bytes: 2048 + 2048 * 2047 / 256, give or take 1 %. */
	return squares < 18424 + 18424 / 10;
}

/* The length, or 0 if that would not be worth it. */
static uint32_t deflate_frame(const uint8_t *frame, uint8_t *out)
{
	static _Thread_local uint8_t level_buf[ISAL_DEF_LVL1_DEFAULT];
	struct isal_zstream z;

	isal_deflate_stateless_init(&z);
	z.level = 1;
	z.level_buf = level_buf;
	z.level_buf_size = sizeof(level_buf);
	z.next_in = (uint8_t *)(uintptr_t)frame;
	z.avail_in = FRAME_SIZE;
	z.next_out = out;
	z.avail_out = WORTH_IT;
	z.end_of_stream = 1;
	z.flush = NO_FLUSH;
	return isal_deflate_stateless(&z) == COMP_OK ? z.total_out : 0;
}

void codec_pack(const uint8_t *block, bool compress, uint8_t *out, struct codec_block *ret)
{
	*ret = (struct codec_block){.state = ENTRY_RAW};
	if (is_zero(block)) {
		ret->state = ENTRY_ZERO;
		memcpy(ret->hash, codec_zero_hash, SNAP_HASH);
		return;
	}
	codec_hash(block, SNAP_BLOCK, ret->hash);
	for (uint32_t i = 0; i < FRAMES; i++) {
		const uint8_t *frame = block + (size_t)i * FRAME_SIZE;
		uint8_t *to = out + ret->length;
		uint32_t n = 0;

		if (compress && !looks_random(frame))
			n = deflate_frame(frame, to);
		if (n == 0)
			memcpy(to, frame, FRAME_SIZE);
		else
			ret->state = ENTRY_FRAMES;
		ret->frames[i] = (uint16_t)n;
		n = frame_stored((uint16_t)n);
		put_le32(to + n - 4, crc32c(frame_seed(ret->hash, i), to, n - 4));
		ret->length += n;
	}
}

static int inflate_frame(const uint8_t *stored, uint32_t len, uint8_t *out)
{
	struct inflate_state z;

	isal_inflate_init(&z);
	z.next_in = (uint8_t *)(uintptr_t)stored;
	z.avail_in = len;
	z.next_out = out;
	z.avail_out = FRAME_SIZE;
	if (isal_inflate_stateless(&z) != ISAL_DECOMP_OK || z.total_out != FRAME_SIZE)
		return -EBADMSG;
	return 0;
}

int codec_unpack(const struct snap_entry *entry, uint32_t first, uint32_t n, const uint8_t *stored,
		 uint8_t *out)
{
	for (uint32_t i = first; i < first + n; i++) {
		uint32_t len = frame_stored(entry->frames[i]) - 4;

		if (crc32c(frame_seed(entry->item.hash, i), stored, len) != get_le32(stored + len))
			return -EBADMSG;
		if (entry->frames[i] == 0)
			memcpy(out, stored, FRAME_SIZE);
		else if (inflate_frame(stored, len, out) < 0)
			return -EBADMSG;
		stored += len + 4;
		out += FRAME_SIZE;
	}
	return 0;
}

uint32_t codec_frame_offset(const struct snap_entry *entry, uint32_t i)
{
	uint32_t offset = 0;

	while (i > 0)
		offset += frame_stored(entry->frames[--i]);
	return offset;
}
