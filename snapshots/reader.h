/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a completed snapshot, by ranges of bytes; lists its blocks; compares two.
 *
 * A reader belongs to one loop. Its memory is bounded: a cache of verified tree pages, and a fixed
 * number of reads at work (the rest waits its turn, first come first served).
 */
#ifndef SNAPSHOTS_READER_H
#define SNAPSHOTS_READER_H

#include "block/block.h"
#include "snapshots/repository.h"

struct snap_reader;

struct snap_reader_config {
	struct id id;
	/* Not NULL: a holder's name (snap_hold), by which a deleted snapshot still opens. */
	const char *holder;
	/* 0: the default in parentheses. */
	uint32_t cache_bytes; /* of tree pages (1 MiB; at least room for 8 pages is taken) */
	uint32_t reads;       /* at work at a time (8, at most 64): about 1.1 MiB each when used */
};

struct snap_reader_op {
	void (*done)(struct snap_reader_op *op);
	int error; /* 0; -ENOENT: no such snapshot; -EAGAIN: it is pending; -EBADMSG: damaged */
	struct err err;
	struct snap_reader *reader; /* the result */

	/* snapshots/' own. */
	struct repository_op get;
};

void snap_reader_open(struct repository *repository, struct io_loop *loop,
		      const struct snap_reader_config *config, struct snap_reader_op *op);
/* No operation on it is under way. NULL is legal. */
void snap_reader_close(struct snap_reader *reader);
/* Valid until the reader is closed. */
const struct snap_info *snap_reader_info(const struct snap_reader *reader);

/* ---- Bytes ------------------------------------------------------------------------------------
 */

struct snap_read {
	void (*done)(struct snap_read *read);
	int error; /* 0; -EIO: `err` names snapshot, block and object. The rest of buf is rubbish */
	struct err err;
	uint64_t bad_block; /* after -EIO: the first that could not be read */

	/* snapshots/' own. */
	struct snap_reader *reader;
	struct list link;
	uint8_t *buf;
	uint64_t offset;
	uint64_t length;
	struct snap_reading *at_work;
};

/* Any range within the volume's size, rounded up to a whole block of 512 KiB; what is absent reads
 * as zeroes. Whole blocks are verified by their SHA-256, parts by the checksums of the frames (32
 * KiB) that hold them. No malloc; the caller's thread inflates nothing, and checks one frame at
 * most. */
void snap_read(struct snap_reader *reader, struct snap_read *read, void *buf, uint64_t offset,
	       uint64_t length);

/* ---- Blocks -----------------------------------------------------------------------------------
 */

struct snap_block {
	uint64_t block;
	bool in_first;                 /* compare: the first snapshot has it; list: false */
	bool in_second;                /* the second (list: the only) snapshot has it */
	uint8_t first_hash[SNAP_HASH]; /* SHA-256 of its 524288 bytes, where it is there */
	uint8_t second_hash[SNAP_HASH];
};

struct snap_walk {
	void (*done)(struct snap_walk *walk);
	int error; /* 0 or -EIO: `err` names the page */
	struct err err;
	uint64_t bad_end; /* after -EIO: the first block to which that page does not lead */
	uint64_t
	    next; /* in: the first block to look at; out: where to go on; UINT64_MAX: the end */
	struct snap_block *blocks; /* room for `max` */
	uint32_t max;
	uint32_t n; /* out */

	/* snapshots/' own. */
	struct snap_reader *first;
	struct snap_reader *second;
	struct io_op defer;
	struct snap_page_wait *wait;
	struct list link;
};

/* The allocated blocks of a snapshot, in order, a page at a time. Reads no data. */
void snap_list_blocks(struct snap_reader *reader, struct snap_walk *walk);
/* The blocks in which two snapshots (of one repository; their readers on one loop) differ, by
 * content; what they share is skipped a subtree at a time. */
void snap_compare(struct snap_reader *first, struct snap_reader *second, struct snap_walk *walk);

/* ---- As a disk --------------------------------------------------------------------------------
 */

struct snap_view;

/* A read-only block device over the reader, which it does not own: for an export. -ENOMEM. It is
 * freed when no request is under way; then the reader may be closed. */
int snap_view_new(struct snap_reader *reader, struct snap_view **ret_view, struct err *err);
struct block_dev *snap_view_dev(struct snap_view *view);
void snap_view_free(struct snap_view *view); /* NULL is legal */

#endif
