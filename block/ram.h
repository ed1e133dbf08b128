/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk in memory: the smallest complete example of a block device, and the oracle that tests
 * compare others with. Sparse: memory is taken, 1 MiB at a time, when something is written.
 *
 * Threads: as any device. A request is carried out in one piece on a later turn of the loop, in the
 * order of submission. Errors: -ENOSPC when the machine has no more memory.
 */
#ifndef BLOCK_RAM_H
#define BLOCK_RAM_H

#include "base/err.h"
#include "block/block.h"
#include "io/io.h"

struct ram;

/* A disk of `size` bytes, a multiple of BLOCK_SECTOR, that reads as zeroes. */
int ram_new(struct io_loop *loop, uint64_t size, uint32_t flags, struct ram **ret_ram,
	    struct err *err);
void ram_free(struct ram *ram); /* nothing is in flight; NULL is legal */
struct block_dev *ram_dev(struct ram *ram);
/* Makes it bigger. -EINVAL if it would shrink, -ENOMEM. */
int ram_grow(struct ram *ram, uint64_t size);
/* Bytes in blocks that hold something. */
uint64_t ram_allocated(const struct ram *ram);

#endif
