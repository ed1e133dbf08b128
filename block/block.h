/* SPDX-License-Identifier: Apache-2.0
 *
 * WAIST 1: what a disk looks like to whoever serves it. A device is a function table and a size; a
 * request is a struct that its owner embeds. The log engine, the RAM disk, the instance store and
 * the wrappers (gate, later QoS) all stand behind these two.
 *
 * Threads: a device belongs to one loop. block_submit, and `done`, run on that loop's thread only.
 * block_size() may be called from any thread.
 *
 * Order: requests that overlap and are in flight together are carried out in an order that the
 * device chooses, each one whole (up to 1 MiB). What completed before another was submitted is seen
 * by it.
 *
 * Durability: completed means that it survives the death of the process. FLUSH makes durable all
 * that completed before it was submitted, on whatever connection. FUA makes durable the request
 * itself and everything that was completed or published before it.
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_SECTOR 512  /* unit of offsets and lengths */
#define BLOCK_SIZE   4096 /* unit of mapping: the disk's physical block */
#define BLOCK_ATOMIC_MAX                                                                           \
	1048576 /* a write up to this is all there or not there after a crash (E3) */

enum block_op {
	BLOCK_READ,         /* length bytes into buf */
	BLOCK_WRITE,        /* length bytes from buf */
	BLOCK_FLUSH,        /* offset and length are 0 */
	BLOCK_TRIM,         /* hint: the whole blocks inside read as zeroes after, the edges stay */
	BLOCK_WRITE_ZEROES, /* all of it reads as zeroes after */
	BLOCK_CACHE,        /* hint: will be read soon */
	BLOCK_STATUS,       /* fills extents */
};

enum block_flag {
	BLOCK_FUA = 1,       /* any writing op: done means durable */
	BLOCK_NO_HOLE = 2,   /* WRITE_ZEROES: the space stays reserved */
	BLOCK_FAST_ZERO = 4, /* WRITE_ZEROES: -ENOTSUP rather than slow */
	BLOCK_REQ_ONE = 8,   /* STATUS: one extent is enough */
};

enum block_extent_flag {
	BLOCK_EXTENT_HOLE = 1, /* no space is taken (NBD_STATE_HOLE) */
	BLOCK_EXTENT_ZERO = 2, /* reads as zeroes (NBD_STATE_ZERO) */
};

struct block_extent {
	uint64_t length; /* bytes, > 0 */
	uint32_t flags;
};

struct block_dev;

/* Belongs to the device from block_submit until `done`. */
struct block_req {
	/* The owner sets these. */
	enum block_op op;
	uint32_t flags;
	uint64_t offset; /* bytes, a multiple of BLOCK_SECTOR */
	uint64_t length; /* bytes, a multiple of BLOCK_SECTOR; READ and WRITE: at most 32 MiB */
	/* READ, WRITE: buf and offset are equal modulo BLOCK_SIZE, so that whole blocks are
	 * page-aligned. The bytes of a WRITE do not change until done. */
	void *buf;
	struct block_extent *extents; /* STATUS: room for max_extents */
	uint32_t max_extents;         /* STATUS: at least 1 */
	void (*done)(struct block_req *req);

	/* The device sets these before `done`. 0, or a negative errno: -EIO, -ENOSPC, -EROFS,
	 * -ESHUTDOWN (fenced), -ENOTSUP. After an error in READ, buf holds rubbish. */
	int error;
	uint32_t n_extents; /* STATUS: contiguous from offset; their sum is at most length */

	/* Whoever holds the request at the moment: the device's queue, and each wrapper's saved
	 * `done`. */
	struct list link;
	void *device_private;
	void *gate_private;
	void (*gate_done)(struct block_req *req);
};

struct block_ops {
	const char *name; /* "engine", "ram", "gate" */
	/* Starts req. `done` may not run before submit returns. Never fails by itself: errors are
	 * the request's. Called with a request that passed block_submit's CHECKs. */
	void (*submit)(struct block_dev *dev, struct block_req *req);
};

enum block_dev_flag {
	BLOCK_DEV_READ_ONLY = 1,
};

struct block_dev {
	const struct block_ops *ops;
	uint64_t
	    size; /* bytes, a multiple of BLOCK_SECTOR; by block_size() and block_set_size() only */
	uint32_t flags;
};

/* Any thread: the size as it is now. Devices only grow while they are served. */
static inline uint64_t block_size(const struct block_dev *dev)
{
	return __atomic_load_n(&dev->size, __ATOMIC_ACQUIRE);
}

static inline void block_set_size(struct block_dev *dev, uint64_t size)
{
	__atomic_store_n(&dev->size, size, __ATOMIC_RELEASE);
}

/* The error that the range or a read-only device gives this request, or 0: -EINVAL (READ, TRIM,
 * CACHE, STATUS) or -ENOSPC (WRITE, WRITE_ZEROES) past the current size, -EROFS. Whoever serves a
 * device asks first and answers at once. */
int block_check(const struct block_dev *dev, const struct block_req *req);

/* CHECKs what only a bug of ours can get wrong (block_check passed, alignment, flags that fit the
 * op, room for extents, buf), then hands the request to the device. */
void block_submit(struct block_dev *dev, struct block_req *req);

static inline bool block_op_writes(enum block_op op)
{
	return op == BLOCK_WRITE || op == BLOCK_TRIM || op == BLOCK_WRITE_ZEROES;
}

/* Completes a request; each device calls it exactly once for each. */
static inline void block_done(struct block_req *req, int error)
{
	req->error = error;
	req->done(req);
}

#endif
