/* SPDX-License-Identifier: Apache-2.0
 *
 * What each block of the disk must hold, for runs that check every byte. A block is claimed while a
 * request for it is in flight, so that what it holds is never a matter of order. One thread.
 */
#ifndef BENCH_VERIFY_H
#define BENCH_VERIFY_H

#include "bench/stamp.h"

struct verify;

/* For blocks of `block_size` (a multiple of 512) in [0, size). NULL: no memory. */
struct verify *verify_new(uint64_t size, uint32_t block_size, uint64_t seed);
void verify_free(struct verify *v);

/* Offsets and lengths are multiples of the block size. */

/* False, and nothing happens, if a part of the range is claimed. */
bool verify_claim(struct verify *v, uint64_t offset, uint64_t length);
/* Puts the next version of the claimed range into `buf`. */
void verify_stamp(struct verify *v, uint64_t offset, uint64_t length, void *buf);
/* Ends a write's claim. After a failed one nobody knows what is there. */
void verify_written(struct verify *v, uint64_t offset, uint64_t length, bool failed);
/* Ends a read's claim; `buf` is NULL after a failed read. False and a text if what was read is not
 * what was written. */
bool verify_read(struct verify *v, uint64_t offset, uint64_t length, const void *buf,
		 char text[STAMP_TEXT_MAX]);
/* Blocks that were compared so far. */
uint64_t verify_compared(const struct verify *v);
/* True if the block was written in this run, and nothing went wrong. */
bool verify_known(const struct verify *v, uint64_t offset);

#endif
