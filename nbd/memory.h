/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of one loop's requests: slots, and payload buffers in size classes, all in pools that
 * are set aside at start and become resident as they are used. When a class is empty, connections
 * wait for it in line.
 */
#ifndef NBD_MEMORY_H
#define NBD_MEMORY_H

#include "base/list.h"
#include "base/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What there is to wait for: buffers by size, and slots. */
enum nbd_class {
	NBD_CLASS_4K,
	NBD_CLASS_16K,
	NBD_CLASS_64K,
	NBD_CLASS_256K,
	NBD_CLASS_1M,
	NBD_CLASS_4M,
	NBD_CLASS_32M,
	NBD_CLASS_SLOT,
	NBD_N_CLASSES,
};

struct nbd_memory {
	struct pool *pools[NBD_N_CLASSES];
	struct list waiting[NBD_N_CLASSES]; /* connections, first come first served */
};

int nbd_memory_init(struct nbd_memory *memory, uint64_t budget, size_t slot_size);
void nbd_memory_free(struct nbd_memory *memory); /* half built is legal */
/* The class for a payload of `length` bytes that begins at `skew` in its first page. */
enum nbd_class nbd_memory_class(uint64_t skew, uint64_t length);
/* Somebody waits for something: somebody else than `except` (a connection's turn_node), or anybody
 * when that is NULL. */
bool nbd_memory_wanted(const struct nbd_memory *memory, const struct list *except);
/* Gives back what rested since the last call; false when there is nothing left to give back. */
bool nbd_memory_trim(struct nbd_memory *memory);

#endif
