/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a repository keeps its objects: named, whole, immutable but for a few small ones. A
 * directory today (blobs_dir.h); an S3 endpoint can keep the same contract. A function table, since
 * several kinds live in one process.
 *
 * Names are parts of [a-z0-9.-], joined by '/', at most BLOB_NAME_MAX bytes. A name that is the
 * folder of another ("a" and "a/b") does not occur.
 *
 * Threads: any loop may use a `struct blobs`; an operation runs for the loop that it names, and its
 * `done` runs there, never inside the call. A blob_op lives in the caller's object and belongs to
 * the implementation from the call until `done`. Starting can't fail: errors come by `result`.
 *
 * Several processes, on several machines, may use one place at a time.
 *
 * Promises:
 *  B1  put and swap are atomic: whoever reads, lists or swaps sees all of an object or none of it,
 *      after a power cut too. Done means durable, name included.
 *  B2  put never replaces: -EEXIST, and the object that is there is as it was.
 *  B3  swap acts only while the object holds just the bytes that the caller expects: of several
 *      that race, one wins, the others get -ESTALE.
 *  B4  What exists from the start to the end of a whole listing is in it. Listings come in order.
 *  B5  read, list and swap see every put, swap and remove that completed before they started, on
 *      whatever machine.
 * After an error of put, swap or remove (-EIO, -ENOSPC) it may or may not have happened.
 */
#ifndef SNAPSHOTS_BLOBS_H
#define SNAPSHOTS_BLOBS_H

#include "base/util.h"
#include "io/io.h"

#include <stdint.h>

#define BLOB_NAME_MAX 96         /* with the NUL */
#define BLOB_SWAP_MAX (64 * KiB) /* bytes of an object that swap may touch */
#define BLOB_LIST_MAX 256        /* entries in one page of a list */
#define BLOB_SIZE_MAX (64 * MiB)

struct blobs;

struct blob_entry {
	char name[BLOB_NAME_MAX];
	uint64_t size;     /* bytes */
	uint64_t stored;   /* bytes that it takes below, holes left out; at least 1 if not empty */
	uint64_t modified; /* wall clock of whoever keeps it, ns since 1970 */
};

struct blob_op {
	void (*done)(struct blob_op *op); /* set by the caller before each start */
	int64_t result;                   /* see each operation; or a negative errno */

	/* The implementation's own from here on. The caller's buffers stay until `done`. */
	struct blobs *blobs;
	struct io_loop *loop;
	char name[BLOB_NAME_MAX];
	char after[BLOB_NAME_MAX];
	int kind;
	struct iovec *iov;
	int n_iov;
	void *buf;
	const void *expected;
	const void *wanted;
	uint64_t offset;
	uint64_t len;
	uint64_t expected_len;
	uint64_t wanted_len;
	struct io_work work;
	struct io_op op;
	struct list link;
	uint64_t private[2];
};

struct blobs_ops {
	const char *name; /* "directory" */
	void (*start)(struct blobs *blobs, struct blob_op *op);
	void (*close)(struct blobs *blobs);
};

struct blobs {
	const struct blobs_ops *ops;
	const char *place; /* for messages: the directory, the URL */
};

/* The object `name` becomes these bytes (at most BLOB_SIZE_MAX), if there is none. Result 0;
 * -EEXIST, -ENOSPC, -EIO. The iovecs are not altered. */
void blob_put(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	      struct iovec *iov, int n);
/* Result: bytes read, fewer than `len` only at the end of the object. -ENOENT, -EIO. */
void blob_read(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	       void *buf, uint64_t offset, uint64_t len);
/* The next objects whose names begin with `prefix` (its last '/' included) and come after `after`
 * ("": from the first), in the order of strcmp, at most `max` (up to BLOB_LIST_MAX). Result: how
 * many; 0: there are no more. */
void blob_list(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *prefix,
	       const char *after, struct blob_entry *entries, uint32_t max);
/* Result 0, also when there is no such object. Durable when done. */
void blob_remove(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name);
/* The object becomes `wanted` if it is now just `expected`. NULL stands for "no object": expected
 * NULL creates, wanted NULL removes. Result 0; -ESTALE: it is something else (or is not there). */
void blob_swap(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	       const void *expected, uint64_t expected_len, const void *wanted,
	       uint64_t wanted_len);
/* Gives the space of a range that nobody will read again back, as far as that is possible; it then
 * reads as zeroes or as before. Result 0, or -EOPNOTSUPP where there is no such thing. */
void blob_punch(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
		uint64_t offset, uint64_t len);

/* No operation is in flight. NULL is legal. */
void blobs_close(struct blobs *blobs);

/* ---- For implementations: what `start` finds in a blob_op -------------------------------------
 */

enum blob_kind {
	BLOB_PUT,    /* name, iov, n_iov */
	BLOB_READ,   /* name, buf, offset, len */
	BLOB_LIST,   /* name (the prefix), after, buf (entries), len (max) */
	BLOB_REMOVE, /* name */
	BLOB_SWAP,   /* name, expected, expected_len, wanted, wanted_len */
	BLOB_PUNCH,  /* name, offset, len */
};

#endif
