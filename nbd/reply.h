/* SPDX-License-Identifier: Apache-2.0
 *
 * Headers of replies as pure functions. Each writes to `out` (NBD_REPLY_HEADER_MAX bytes) and
 * returns how many bytes; payload, if any, follows in memory of its own.
 */
#ifndef NBD_REPLY_H
#define NBD_REPLY_H

#include "block/block.h"

#include <stddef.h>
#include <stdint.h>

#define NBD_REPLY_HEADER_MAX 28

/* After error 0 to a READ `length` bytes follow. */
size_t nbd_reply_simple(uint8_t *out, uint64_t cookie, uint32_t error);
/* All of a READ in one chunk; `length` bytes follow. */
size_t nbd_reply_data(uint8_t *out, uint64_t cookie, uint64_t offset, uint32_t length);
/* `n` extents in the form of nbd_extents_to_wire follow. */
size_t nbd_reply_status(uint8_t *out, uint64_t cookie, uint32_t context, uint32_t n);
/* `text_length` bytes of text follow. */
size_t nbd_reply_error(uint8_t *out, uint64_t cookie, uint32_t error, uint16_t text_length);

/* Turns extents into the protocol's form where they stand; returns its length in bytes. */
size_t nbd_extents_to_wire(struct block_extent *extents, uint32_t n);

#endif
