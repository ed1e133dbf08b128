/* SPDX-License-Identifier: Apache-2.0
 *
 * WAIST 2: where segments live. A store keeps segments (append-only pieces with a logical id, lent
 * to one volume at a time) and small versioned objects (superblocks). store/local.c keeps them in a
 * file or on a block device; RADOS can keep the same contract. A function table, since several
 * kinds live in one process.
 *
 * Threads: data operations (append, read, sync) run on the caller's loop, any loop. Lending,
 * freeing and objects are done by the store's owner loop; store/ carries them there and back, so
 * every `done` runs on the loop that the caller named.
 *
 * Promises:
 *  T1  A segment is listed durably, in two copies, as lent to its volume, and has its space below,
 *      before `lend` completes. No segment is lent twice.
 *
 *  T2  An object's swap is atomic: after a power cut it is the old or the new version, whole. Done
 *      means durable, in two copies: one that is damaged, or can't be read, costs nothing.
 *
 *  T3  A freed segment is lent again only after it was freed, with a higher generation. What it
 *      holds then is anything: the log finds its own records by volume, incarnation, generation
 *      and sequence.
 *
 *  T4  A sync that fails fails for ever: every later append and sync of this store is -EIO until it
 *      is opened anew, since nobody knows what the disk has dropped.
 *
 *  T5  Only the newest owner term may lend, free or swap.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/id.h"
#include "io/io.h"

#include <stdint.h>

enum store_stream {
	STORE_STREAM_USER = 1,    /* the log: what users write, as it comes */
	STORE_STREAM_MOVED = 2,   /* copies that garbage collection made */
	STORE_STREAM_MAP = 3,     /* leaves, index pages, roots */
	STORE_STREAM_OBJECTS = 4, /* the store's own */
};

struct store_info {
	struct id uuid;
	uint64_t owner_term;
	uint32_t alignment;    /* of offsets, lengths and addresses in segments: 512 or 4096 */
	uint32_t segment_size; /* bytes, a multiple of 1 MiB, at least 4 MiB */
	uint64_t capacity;     /* bytes of segments that could exist */
	uint64_t free;    /* bytes of segments that could be lent now; any thread, as of lately */
	uint64_t reserve; /* bytes, the last that users are not lent but for what makes room */
	bool direct;      /* O_DIRECT is in force; if not, whoever opened it warns */
};

/* One segment as the list gives it. */
struct store_segment {
	uint64_t id;
	uint32_t generation;  /* grows each time the id is lent */
	uint8_t stream;       /* enum store_stream */
	uint64_t incarnation; /* of the volume's log, when it was lent */
};

#define STORE_LEND_MAX   64
#define STORE_OBJECT_MAX 4032 /* bytes of one object: a 4-KiB copy less its header */

struct store;

/* A data operation. Belongs to the store until `done`. */
struct store_io {
	void (*done)(struct store_io *io);
	int64_t result; /* bytes, 0, or a negative errno */
	struct store *store;
	struct list link;
	struct io_op op;
};

/* A control operation: lend, free, or an object. Belongs to the store until `done`. */
struct store_ctl {
	struct io_loop *loop; /* the caller's: done runs there */
	void (*done)(struct store_ctl *ctl);
	int error; /* 0 or a negative errno */

	struct id volume;     /* lend, free: whose. Objects: the object's name */
	uint64_t incarnation; /* lend: recorded with the segments */
	uint8_t stream;       /* lend */
	bool last;            /* lend: for what makes room: the last segments, too */
	uint32_t n; /* lend: how many are wanted, and then how many came (at least 1, else -ENOSPC);
		     * free: how many */
	struct store_segment
	    segments[STORE_LEND_MAX]; /* lend: out. free: in (ids and generations) */

	/* Objects. get: out. swap: in; the store must hold `version` - 1 (0: there is none), else
	 * -ESTALE. */
	uint64_t version;
	uint32_t length; /* 0 with swap: delete */
	bool degraded;   /* get: one of the two copies is damaged; the next swap mends it */
	uint8_t data[STORE_OBJECT_MAX];

	/* The store's own. */
	struct store *store;
	struct io_msg msg;
	struct list link;
	int kind;
	uint64_t private[4];
};

struct store_ops {
	const char *name;
	/* Writes at `offset` of a lent segment. The volume keeps its own tail, and never writes
	 * twice at one place while the segment is lent, but for offset 0 of a segment in which
	 * nothing was acknowledged. */
	void (*append)(struct store *store, struct io_loop *loop, struct store_io *io,
		       uint64_t segment, uint32_t offset, struct iovec *iov, int n);
	void (*read)(struct store *store, struct io_loop *loop, struct store_io *io,
		     uint64_t segment, uint32_t offset, void *buf, uint32_t len);
	void (*readv)(struct store *store, struct io_loop *loop, struct store_io *io,
		      uint64_t segment, uint32_t offset, struct iovec *iov, int n);
	/* All appends that completed before this call are durable when it completes with 0. Calls
	 * that come while one runs share the next. */
	void (*sync)(struct store *store, struct io_loop *loop, struct store_io *io);
	void (*lend)(struct store *store, struct store_ctl *ctl);
	/* No read or append of them is in flight. The space may be given back to the file system.
	 */
	void (*free)(struct store *store, struct store_ctl *ctl);
	void (*object_get)(struct store *store, struct store_ctl *ctl);
	void (*object_swap)(struct store *store, struct store_ctl *ctl);
	/* What is lent to `volume`, from `first` on, at most STORE_LEND_MAX in ctl->segments;
	 * ctl->n = how many. Uses ctl->private[0] as the position: 0 at first, kept by the caller
	 * between calls; n = 0 at the end. */
	void (*list)(struct store *store, struct store_ctl *ctl);
	/* Names of all objects, in the same manner: ctl->segments[i].id = hi, .incarnation = lo. */
	void (*object_list)(struct store *store, struct store_ctl *ctl);
	void (*close)(struct store *store,
		      struct store_ctl *ctl); /* done, then the store is gone */
	/* What can be lent in all, and what of it is not: no more than what is below has room for.
	 * Bytes of whole segments. Any thread; an estimate. */
	void (*space)(const struct store *store, uint64_t *ret_capacity, uint64_t *ret_free);
};

struct store {
	const struct store_ops *ops;
	struct store_info info;
};

static inline void store_append(struct store *s, struct io_loop *loop, struct store_io *io,
				uint64_t segment, uint32_t offset, struct iovec *iov, int n)
{
	s->ops->append(s, loop, io, segment, offset, iov, n);
}

static inline void store_read(struct store *s, struct io_loop *loop, struct store_io *io,
			      uint64_t segment, uint32_t offset, void *buf, uint32_t len)
{
	s->ops->read(s, loop, io, segment, offset, buf, len);
}

static inline void store_readv(struct store *s, struct io_loop *loop, struct store_io *io,
			       uint64_t segment, uint32_t offset, struct iovec *iov, int n)
{
	s->ops->readv(s, loop, io, segment, offset, iov, n);
}

static inline void store_sync(struct store *s, struct io_loop *loop, struct store_io *io)
{
	s->ops->sync(s, loop, io);
}

#endif
