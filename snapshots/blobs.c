/* SPDX-License-Identifier: Apache-2.0
 *
 * Starting operations, whatever keeps the objects.
 */
#include "snapshots/blobs.h"

#include "base/check.h"

#include <string.h>

static void start(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, int kind,
		  const char *name)
{
	size_t n = strlen(name);

	CHECK(n > 0);
	CHECK(n < BLOB_NAME_MAX);
	memmove(op->name, name, n + 1);
	op->blobs = blobs;
	op->loop = loop;
	op->kind = kind;
	op->result = 0;
	blobs->ops->start(blobs, op);
}

void blob_put(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	      struct iovec *iov, int n)
{
	op->iov = iov;
	op->n_iov = n;
	start(blobs, loop, op, BLOB_PUT, name);
}

void blob_read(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	       void *buf, uint64_t offset, uint64_t len)
{
	op->buf = buf;
	op->offset = offset;
	op->len = len;
	start(blobs, loop, op, BLOB_READ, name);
}

void blob_list(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *prefix,
	       const char *after, struct blob_entry *entries, uint32_t max)
{
	size_t n = strlen(after);

	CHECK(max > 0);
	CHECK(max <= BLOB_LIST_MAX);
	CHECK(n < BLOB_NAME_MAX);
	memmove(op->after, after, n + 1);
	op->buf = entries;
	op->len = max;
	start(blobs, loop, op, BLOB_LIST, prefix);
}

void blob_remove(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name)
{
	start(blobs, loop, op, BLOB_REMOVE, name);
}

void blob_swap(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
	       const void *expected, uint64_t expected_len, const void *wanted, uint64_t wanted_len)
{
	CHECK(expected || wanted);
	CHECK(wanted_len <= BLOB_SWAP_MAX);
	op->expected = expected;
	op->expected_len = expected_len;
	op->wanted = wanted;
	op->wanted_len = wanted_len;
	start(blobs, loop, op, BLOB_SWAP, name);
}

void blob_punch(struct blobs *blobs, struct io_loop *loop, struct blob_op *op, const char *name,
		uint64_t offset, uint64_t len)
{
	op->offset = offset;
	op->len = len;
	start(blobs, loop, op, BLOB_PUNCH, name);
}

void blobs_close(struct blobs *blobs)
{
	if (blobs)
		blobs->ops->close(blobs);
}
