/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared by format.c and format_map.c alone.
 */
#ifndef ENGINE_FORMAT_PRIVATE_H
#define ENGINE_FORMAT_PRIVATE_H

#include "base/bytes.h"
#include "engine/format.h"

/* Fields that one byte could flip must not lead to lengths beyond these. */
#define STRUCTURE_MAX ((uint32_t)8 << 20)

void prologue_put(struct cursor *c, uint64_t magic, struct id volume);
/* Fills in length and checksum; returns the checksum. */
uint32_t prologue_seal(uint8_t *buf, size_t len, struct id volume);
/* 0, -ENOENT (not that structure, or another volume's), -ENODATA (*ret_len bytes are needed),
 * -EBADMSG, -ENOTSUP. */
int prologue_check(const uint8_t *buf, size_t len, uint64_t magic, struct id volume,
		   size_t *ret_len);

void blob_ref_put(struct cursor *c, const struct blob_ref *ref);
void blob_ref_get(struct cursor *c, struct blob_ref *ref);

#endif
