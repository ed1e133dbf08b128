/* SPDX-License-Identifier: Apache-2.0
 *
 * One virtual disk of an instance store as a block device: blocks are encrypted on their way to the
 * slices of the store that the disk has, and a block that was not written under the disk's key
 * reads as zeroes. It keeps the promises of block/block.h but one: as with a physical disk, what is
 * in flight when the process dies may be there in part, by sectors of 512 bytes.
 *
 * Threads: the loop of its configuration, but for new and free.
 */
#ifndef INSTANCE_STORE_DISK_H
#define INSTANCE_STORE_DISK_H

#include "block/block.h"
#include "instance-store/keep.h"
#include "io/io.h"

struct istore_disk;

struct istore_disk_config {
	struct io_loop *loop;
	struct io_file *file;
	struct keep_item *item; /* has size / 4 KiB blocks; outlives the disk */
	uint64_t size;          /* bytes, a multiple of 4 KiB */
	uint64_t slice_size;
	uint32_t *slices; /* the disk's from here on (mem_free), even if this fails */
};

int istore_disk_new(const struct istore_disk_config *config, struct istore_disk **ret_disk,
		    struct err *err);
/* Nothing is in flight. NULL is legal. */
void istore_disk_free(struct istore_disk *disk);
struct block_dev *istore_disk_dev(struct istore_disk *disk);
/* Any thread, about: bytes that are written and not trimmed. */
uint64_t istore_disk_written(const struct istore_disk *disk);

/* Gives back to what is below whatever in this range of the disk is not written. One at a time. */
struct istore_discard {
	uint64_t offset; /* bytes, multiples of 4 KiB */
	uint64_t length;
	void (*done)(struct istore_discard *discard);
	int error; /* of the first punch that failed, or 0 */
};
void istore_disk_discard(struct istore_disk *disk, struct istore_discard *discard);

#endif
