/* SPDX-License-Identifier: Apache-2.0 */
#include "nbd/reply.h"

#include "base/bytes.h"
#include "nbd/protocol.h"

#define WIRE_EXTENT_SIZE 8

_Static_assert(sizeof(struct block_extent) >= WIRE_EXTENT_SIZE, "converted in place");
_Static_assert(BLOCK_EXTENT_HOLE == 1, "NBD_STATE_HOLE");
_Static_assert(BLOCK_EXTENT_ZERO == 2, "NBD_STATE_ZERO");

size_t nbd_reply_simple(uint8_t *out, uint64_t cookie, uint32_t error)
{
	put_be32(out, NBD_SIMPLE_MAGIC);
	put_be32(out + 4, error);
	put_be64(out + 8, cookie);
	return NBD_SIMPLE_REPLY_SIZE;
}

/* All our structured replies are one chunk, hence the last one. */
static uint8_t *put_chunk(uint8_t *out, uint64_t cookie, uint16_t type, uint32_t length)
{
	put_be32(out, NBD_STRUCTURED_MAGIC);
	put_be16(out + 4, NBD_CHUNK_DONE);
	put_be16(out + 6, type);
	put_be64(out + 8, cookie);
	put_be32(out + 16, length);
	return out + NBD_CHUNK_HEADER_SIZE;
}

size_t nbd_reply_data(uint8_t *out, uint64_t cookie, uint64_t offset, uint32_t length)
{
	uint8_t *p = put_chunk(out, cookie, NBD_CHUNK_OFFSET_DATA, 8 + length);

	put_be64(p, offset);
	return NBD_CHUNK_HEADER_SIZE + 8;
}

size_t nbd_reply_status(uint8_t *out, uint64_t cookie, uint32_t context, uint32_t n)
{
	uint8_t *p = put_chunk(out, cookie, NBD_CHUNK_BLOCK_STATUS, 4 + n * WIRE_EXTENT_SIZE);

	put_be32(p, context);
	return NBD_CHUNK_HEADER_SIZE + 4;
}

size_t nbd_reply_error(uint8_t *out, uint64_t cookie, uint32_t error, uint16_t text_length)
{
	uint8_t *p = put_chunk(out, cookie, NBD_CHUNK_ERROR, 6 + (uint32_t)text_length);

	put_be32(p, error);
	put_be16(p + 4, text_length);
	return NBD_CHUNK_HEADER_SIZE + 6;
}

size_t nbd_extents_to_wire(struct block_extent *extents, uint32_t n)
{
	uint8_t *out = (uint8_t *)extents;

	/* The wire form is the shorter one: writing never overtakes reading. */
	for (uint32_t i = 0; i < n; i++) {
		struct block_extent e = extents[i];

		put_be32(out + (size_t)i * WIRE_EXTENT_SIZE, (uint32_t)e.length);
		put_be32(out + (size_t)i * WIRE_EXTENT_SIZE + 4, e.flags);
	}
	return (size_t)n * WIRE_EXTENT_SIZE;
}
