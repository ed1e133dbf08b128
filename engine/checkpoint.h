/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to checkpoint.c and checkpoint_out.c.
 */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include "engine/volume.h"

enum checkpoint_state {
	CHECKPOINT_WAIT_SORT,
	CHECKPOINT_COUNT, /* of a cut: its bytes, from the active overlays' to the map's */
	CHECKPOINT_MERGE,
	CHECKPOINT_INDEX,
	CHECKPOINT_USAGE,
	CHECKPOINT_ROOT,
	CHECKPOINT_WAIT_APPENDS,
	CHECKPOINT_WAIT_SYNC,
	CHECKPOINT_WAIT_SWAP,
	CHECKPOINT_END,
};

#define OUT_BUFFERS 2

/* A leaf that is pinned until it is on disk, and its reference before. */
struct out_leaf {
	struct leaf *leaf;
	struct blob_ref before;
};

/* A buffer of blobs on its way to the map stream. */
struct map_out {
	struct checkpoint *checkpoint;
	uint8_t *buf;
	size_t size;
	uint32_t used;
	struct segment *segment;
	uint32_t offset; /* of buf in the segment */
	bool busy;       /* being appended */
	uint32_t n_leaves;
	struct out_leaf *leaves;
	struct store_io io;
	struct iovec iov;
};

struct checkpoint {
	struct volume *volume;
	enum checkpoint_state state;
	struct superblock sb; /* what this checkpoint will make of it */
	struct cut *cut;      /* whose root this makes, or NULL */
	struct list waits;
	uint32_t *sorted;
	uint32_t counted;    /* in sorted */
	uint32_t at;         /* in sorted */
	uint32_t range;      /* ranges below it need no more leaves */
	uint64_t range_leaf; /* leaves below it have had their ranges */
	uint64_t range_next; /* the next leaf that a range changes */
	uint32_t page;
	bool loading;     /* a leaf */
	bool wants_space; /* a segment for the map, or a buffer */
	bool turning;     /* `turn` is under way */
	uint32_t n_appends;
	uint32_t out_leaves_max;
	struct map_out outs[OUT_BUFFERS];
	struct map_out *out; /* being filled, or NULL */
	struct leaf_wait leaf_wait;
	struct io_work work;
	struct io_op turn;
	struct store_io sync;
};

struct checkpoint *checkpoint_new(struct volume *v);
void checkpoint_free(struct checkpoint *c);

/* Room for a blob of at most `len` bytes, in the order of the map stream; NULL: asleep until there
 * is. */
uint8_t *checkpoint_out(struct checkpoint *c, size_t len);
/* The blob at the place that checkpoint_out gave is encoded: *ref has its length and sum, and gets
 * its place; it replaces *old in the accounting, and *old = *ref. `leaf` (or NULL) is pinned until
 * it is on disk. */
void checkpoint_out_done(struct checkpoint *c, struct blob_ref *ref, struct blob_ref *old,
			 struct leaf *leaf);
void checkpoint_out_flush(struct checkpoint *c);
/* An append ended (checkpoint.c goes on). */
void checkpoint_on_append(struct checkpoint *c);

#endif
