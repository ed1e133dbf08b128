/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to checkpoint.c, merge.c and checkpoint_out.c.
 */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include "engine/volume.h"

enum checkpoint_state {
	CHECKPOINT_WAIT_SORT,
	CHECKPOINT_COUNT, /* of a cut: its bytes, from the active overlays' to the map's */
	CHECKPOINT_MERGE,
	CHECKPOINT_USAGE,
	CHECKPOINT_ROOT,
	CHECKPOINT_WAIT_APPENDS,
	CHECKPOINT_WAIT_SYNC,
	CHECKPOINT_WAIT_SWAP,
	CHECKPOINT_END,
};

#define OUT_BUFFERS 2
#define MERGE_AHEAD 8 /* leaves that are read ahead of the merging */

/* A buffer of blobs on its way to the map stream. */
struct map_out {
	struct checkpoint *checkpoint;
	uint8_t *buf;
	size_t size;
	uint32_t used;
	struct segment *segment;
	uint32_t offset; /* of buf in the segment */
	bool busy;       /* being appended */
	struct device_io io;
	struct iovec iov;
};

/* A leaf that is to be merged. */
struct merge_leaf {
	struct checkpoint *checkpoint;
	struct leaf_wait wait;
	uint64_t number;
	bool ready; /* `content` is what it was */
	struct leaf_content content;
};

/* What referred to an index page before this checkpoint. */
struct merge_before {
	uint32_t number;
	struct blob_ref ref;
};

struct checkpoint {
	struct volume *volume;
	enum checkpoint_state state;
	struct superblock sb; /* what this checkpoint will make of it */
	struct cut *cut;      /* whose root this makes, or NULL */
	struct list waits;
	uint32_t *sorted;
	uint32_t counted;    /* in sorted */
	uint32_t usage_page; /* the next to look at */
	bool wants_space;    /* a segment for the map, or a buffer */
	bool turning;        /* `turn` is under way */
	bool written;        /* all of it: what is in memory is on disk, durable or not */

	/* Merging (merge.c): index page by index page, leaf by leaf. */
	uint32_t at;           /* in sorted: blocks below it are merged */
	uint64_t page_number;  /* of `page`; between pages, the first that was not looked at */
	struct map_page *page; /* the index page whose leaves are merged, pinned; or NULL */
	bool page_loading;
	struct leaf_wait page_wait;
	uint32_t ahead_at; /* in sorted: blocks below it are in leaves that were asked for */
	uint64_t ahead;    /* leaves below it were asked for */
	struct merge_leaf *leaves; /* a ring of MERGE_AHEAD */
	uint32_t first_leaf;       /* of those asked for */
	uint32_t n_leaves;
	uint32_t n_loading; /* of them */
	struct merge_before *before;
	uint32_t n_before;
	uint32_t before_room;

	uint32_t n_appends;
	struct map_out outs[OUT_BUFFERS];
	struct map_out *out; /* being filled, or NULL */
	struct io_work work;
	struct io_op turn;
	struct device_io sync;
};

struct checkpoint *checkpoint_new(struct volume *v);
void checkpoint_free(struct checkpoint *c);

/* Room for a blob of at most `len` bytes, in the order of the map stream; NULL: asleep until there
 * is. */
uint8_t *checkpoint_out(struct checkpoint *c, size_t len);
/* The blob at the place that checkpoint_out gave is encoded: *ref has its length and sum, and gets
 * its place; it replaces *old in the accounting, and *old = *ref. `own`: a usage page or the root.
 */
void checkpoint_out_done(struct checkpoint *c, struct blob_ref *ref, struct blob_ref *old,
			 bool own);
void checkpoint_out_flush(struct checkpoint *c);
/* Whoever kept it asleep has news. */
void checkpoint_kick(struct checkpoint *c);
/* Goes on at a later turn, at once or after a rest. */
void checkpoint_yield(struct checkpoint *c, uint64_t delay);

/* Merges some leaves: 0: goes on; 1: asleep. When all are done the state is CHECKPOINT_USAGE. */
int merge_some(struct checkpoint *c);
bool merge_is_loading(const struct checkpoint *c);
/* The checkpoint has failed: the map is once more what it was. What is new the frozen overlay says,
 * too. */
void merge_revert(struct checkpoint *c);

#endif
