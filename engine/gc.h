/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to gc.c, gc_move.c and gc_pick.c.
 */
#ifndef ENGINE_GC_H
#define ENGINE_GC_H

#include "engine/volume.h"

/* gc_pick.c */
struct gc_view {
	uint64_t held;   /* bytes of closed segments that could be emptied */
	uint64_t live;   /* of them */
	uint64_t gain;   /* what emptying them all would make free */
	uint32_t dead;   /* segments that are free after a checkpoint */
	uint32_t coming; /* those that are being given back */
	uint64_t best_score;
	struct segment *best; /* the one to empty first; NULL: none */
};

void gc_look(const struct volume *v, struct gc_view *view);
/* How much too much garbage there is: 0, up to 1000. */
uint64_t gc_urgency(const struct volume *v, const struct gc_view *view);
/* Bytes that emptying a segment makes free: moved blocks need headers, and leave gaps. */
uint64_t gc_gain(const struct volume *v, const struct segment *seg);
/* The store is so small that each open segment counts. */
bool gc_is_cramped(const struct volume *v);

#define GC_READS        4         /* of the victim at a time */
#define UNIT_BLOCKS     128       /* copied by one append */
#define UNIT_HEADER_MAX (8 * KiB) /* with a run for each of them */
_Static_assert(RECORD_FIXED + UNIT_BLOCKS * (RUN_BYTES + 4) <= UNIT_HEADER_MAX, "");
#define MOVE_BLOCKS 250  /* of one MOVE record */
#define LOOKS       4096 /* at blocks, before others have their turn */

_Static_assert(RECORD_FIXED + MOVE_BLOCKS * (RUN_BYTES + 4) <= RECORD_HEADER_MAX, "a MOVE fits");

enum gc_state {
	GC_PICK,
	GC_READ,
	GC_WAIT_READ,
	GC_COPY,
	GC_WAIT_APPEND,
	GC_SYNC,
	GC_WAIT_SYNC,
	GC_MOVE,
	GC_WAIT_MOVE,
	GC_END,
};

/* A block of the victim that lived when it was looked at. */
struct gc_block {
	uint64_t lba;
	uint64_t nonce;
	uint32_t from; /* 512-byte units */
	uint32_t sum;
	struct segment *to; /* NULL: not copied, or dropped */
	uint32_t to_offset; /* 512-byte units */
};

/* A read of the victim. */
struct gc_read {
	struct gc *gc;
	struct device_io io;
	uint8_t *buf;
	uint32_t len;
};

struct gc {
	struct engine *engine;
	struct volume *volume; /* whose victim it is; NULL in GC_PICK */
	struct segment *victim;
	struct gc_view view; /* as it was when the victim was picked */
	enum gc_state state;
	struct segment *head; /* that is being appended to */
	uint64_t live;        /* bytes of the victim, when it was picked */
	uint64_t gain;        /* gc_gain of it then */
	uint8_t *buf;         /* the victim */
	uint32_t at;          /* of it is read, or being read */
	struct gc_read reads[GC_READS];
	uint32_t n_reads; /* in flight */
	struct gc_block *blocks;
	uint32_t n_blocks;
	uint32_t next;    /* block to look at */
	uint32_t moved;   /* blocks below it are in a MOVE or dropped */
	uint64_t started; /* io_now: of the unit */
	bool unpaid;      /* a unit was moved since the last rest */
	bool wants_space; /* a segment for copies */
	bool resting;     /* `turn` is under way */
	bool by_timer;    /* a timer that nobody has cancelled */
	bool broken;      /* something failed: leave the victim */
	bool whole;       /* its records were found, one after the other to its end */

	/* The unit that is being filled or written. */
	struct record_header h;
	struct run runs[UNIT_BLOCKS];
	uint32_t sums[UNIT_BLOCKS];
	uint32_t unit[UNIT_BLOCKS]; /* indexes of blocks */
	struct iovec iov[UNIT_BLOCKS + 1];
	uint32_t n_iov;
	struct device_io io;
	struct leaf_wait wait;
	struct io_op turn;
	uint8_t header[RECORD_HEADER_MAX] __attribute__((aligned(4096)));
};

/* The next step comes after so long; 0: at a later turn. */
void gc_rest(struct gc *g, uint64_t delay);
/* Whether the map names this place for the block: 1, 0; -EAGAIN: asleep until its leaf is there. */
int gc_is_live(struct gc *g, const struct gc_block *b);
/* A part of one of the three things to do to a victim is done: reading, copying, moving. Users may
 * log what its share makes free. */
void gc_pace(struct gc *g, uint64_t part, uint64_t whole);
/* The step GC_MOVE. */
int gc_move(struct gc *g);

#endif
