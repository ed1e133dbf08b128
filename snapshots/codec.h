/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of blocks: hashing, packing, unpacking. Pure; for worker threads.
 */
#ifndef SNAPSHOTS_CODEC_H
#define SNAPSHOTS_CODEC_H

#include "snapshots/format.h"

struct codec_block {
	enum entry_state state; /* ZERO, RAW or FRAMES */
	uint32_t length;        /* of the stored bytes; 0 for ZERO */
	uint16_t frames[FRAMES];
	uint8_t hash[SNAP_HASH];
};

/* SHA-256 (FIPS 180-4), by libcrypto: it has the fastest of the packaged ones here. */
void codec_hash(const void *buf, size_t len, uint8_t hash[SNAP_HASH]);
/* Of a block of zeroes. */
extern const uint8_t codec_zero_hash[SNAP_HASH];
/* `block` is SNAP_BLOCK bytes; `out` has room for BLOCK_STORED_MAX. */
void codec_pack(const uint8_t *block, bool compress, uint8_t *out, struct codec_block *ret);
/* Unpacks frames [first, first + n) of a block from their stored bytes into n * FRAME_SIZE bytes,
 * and checks each. 0 or -EBADMSG. */
int codec_unpack(const struct snap_entry *entry, uint32_t first, uint32_t n, const uint8_t *stored,
		 uint8_t *out);
/* Where the stored bytes of frame `i` begin in the block's (i == FRAMES: their end). */
uint32_t codec_frame_offset(const struct snap_entry *entry, uint32_t i);

#endif
