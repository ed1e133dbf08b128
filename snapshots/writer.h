/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes one snapshot: from a volume's pinned root, from outside, from another repository.
 *
 *   snap_writer_start -> [ put, put_zero, drop: in any order, several at a time ] -> seal | abort
 *
 * A block that is never mentioned is the parent's at that place (without a parent: absent). Memory
 * is bounded, whatever the size: when packs wait to be stored, puts wait (config.packs_in_flight).
 * Hashing and compressing run on the loop's workers.
 *
 * After a crash, start again with the same id: the attempt goes up, the old writer (if it still
 * lives) is fenced, and blocks that are stored already are found by place and hash and not stored
 * again (stats.reused). Until the seal the snapshot is `pending`; it keeps what it needs for
 * config.ttl_ns from the last renewal; the writer renews by itself while it is open.
 *
 * Threads: all calls and every `done` on the loop that start named.
 */
#ifndef SNAPSHOTS_WRITER_H
#define SNAPSHOTS_WRITER_H

#include "snapshots/repository.h"

struct snap_writer;

struct snap_writer_config {
	struct id id;     /* the snapshot's; the caller makes it (id_in_zone) */
	struct id volume; /* may be zero */
	struct id parent; /* zero: none. It must be completed, of this repository, and not larger */
	uint64_t size;    /* bytes, a multiple of 512, at most SNAP_SIZE_MAX */
	uint64_t started; /* the point in time, wall clock; 0: now */
	const char *labels; /* as in snap_info; copied */
	uint32_t labels_len;
	/* 0: the default in parentheses. */
	uint64_t ttl_ns;          /* given up after so long without a renewal (24 hours) */
	uint32_t pack_blocks;     /* blocks in a pack (32, at most 128) */
	uint32_t packs_in_flight; /* being stored while the next is filled (2, at most 8). A writer
				   * takes about (packs_in_flight + 1) * pack_blocks * 513 KiB */
	uint32_t leaves;          /* tree pages kept in memory (32, 52 KiB each) */
	bool no_compression;      /* store blocks as they are */
};

struct snap_writer_stats {
	uint64_t put;    /* blocks given, by put */
	uint64_t zero;   /* of these, and put_zero: all zeroes */
	uint64_t same;   /* of these: as the parent's */
	uint64_t reused; /* of these: stored by an earlier attempt */
	uint64_t stored_blocks;
	uint64_t stored;  /* bytes in packs, durable or not, pages included */
	uint64_t durable; /* of these: stored for good */
};

struct snap_writer_op {
	void (*done)(struct snap_writer_op *op);
	int error; /* 0; -ESTALE: deleted or taken over by another writer; -EEXIST (start): it is
		    * completed already; -ENOENT, -EAGAIN (start): the parent is gone or not
		    * completed; -EINVAL (start): the parent is larger */
	struct err err;
	struct snap_writer *writer; /* start: the result */
	struct snap_info *info;     /* seal: filled, if not NULL */

	/* snapshots/' own. */
	struct io_op defer;
	struct list link;
};

/* One block's way. The buffer is the caller's, and does not change until done. */
struct snap_put {
	void (*done)(struct snap_put *put);
	int error; /* 0, or why the whole upload failed: nothing but abort makes sense then */
	uint64_t block;
	const void *buf; /* SNAP_BLOCK bytes; the last block of a volume: padded with zeroes */
	uint8_t hash[SNAP_HASH]; /* out: SHA-256 of the bytes */

	/* snapshots/' own. */
	struct snap_writer *writer;
	struct list link;
	struct io_work work;
	struct io_op defer;
	struct snap_buffer *out;
	bool all_zero;
	int kind;
};

void snap_writer_start(struct repository *repository, struct io_loop *loop,
		       const struct snap_writer_config *config, struct snap_writer_op *op);
/* Block `put->block` is these bytes. Done: the buffer may be used again; durable by seal. Of puts
 * of one block, the one submitted last counts, if the one before was done by then. */
void snap_writer_put(struct snap_writer *writer, struct snap_put *put);
/* The same for a block of zeroes that counts as written (EBS lists it). `buf` is not looked at. */
void snap_writer_put_zero(struct snap_writer *writer, struct snap_put *put);
/* The block is absent: never written, or trimmed. It reads as zeroes and is not listed. */
void snap_writer_drop(struct snap_writer *writer, struct snap_put *put);

void snap_writer_stats(const struct snap_writer *writer, struct snap_writer_stats *ret_stats);

/* All puts are done. Stores what is left, then completes the snapshot: durable when done. The
 * writer is gone after `done`, whatever the error; after one the snapshot stays pending, and may be
 * started again. */
void snap_writer_seal(struct snap_writer *writer, struct snap_writer_op *op);
/* Puts may be under way: they end with -ECANCELED first. With `keep` the snapshot stays pending,
 * for a later start; without, it is deleted. The writer is gone after `done`. */
void snap_writer_abort(struct snap_writer *writer, bool keep, struct snap_writer_op *op);

#endif
