/* SPDX-License-Identifier: Apache-2.0
 *
 * Contents that say where they belong. Each 512-byte sector begins with seed, offset and version
 * (how many times its block was written) and goes on with words mixed from those three, so a check
 * can tell a lost, old, misplaced or torn write from plain garbage.
 */
#ifndef BENCH_STAMP_H
#define BENCH_STAMP_H

#include "base/util.h"

#define STAMP_SECTOR   512
#define STAMP_TEXT_MAX 200

struct stamp {
	uint64_t seed;
	uint64_t offset; /* on the disk, of the buffer's first byte */
	uint64_t version;
};

/* `len` is a multiple of STAMP_SECTOR; `buf` is aligned to 8. */
void stamp_fill(void *buf, size_t len, struct stamp stamp);
/* True if `buf` is what stamp_fill() made; else `text` says what was found where. */
bool stamp_check(const void *buf, size_t len, struct stamp stamp, char text[STAMP_TEXT_MAX]);

#endif
