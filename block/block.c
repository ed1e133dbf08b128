/* SPDX-License-Identifier: Apache-2.0
 *
 * The gatekeeper of waist 1: what the world may get wrong is an error, what only we may get wrong
 * is a CHECK.
 */
#include "block/block.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <stddef.h>

#define PAYLOAD_MAX (32 * MiB)

static bool flags_fit_op(enum block_op op, uint32_t flags)
{
	uint32_t legal = 0;

	switch (op) {
	case BLOCK_WRITE:
	case BLOCK_TRIM:
		legal = BLOCK_FUA;
		break;
	case BLOCK_WRITE_ZEROES:
		legal = BLOCK_FUA | BLOCK_NO_HOLE | BLOCK_FAST_ZERO;
		break;
	case BLOCK_STATUS:
		legal = BLOCK_REQ_ONE;
		break;
	case BLOCK_READ:
	case BLOCK_FLUSH:
	case BLOCK_CACHE:
		break;
	}
	return (flags & ~legal) == 0;
}

static bool buffer_fits(const struct block_req *req)
{
	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return req->buf && req->length <= PAYLOAD_MAX &&
		       is_aligned((uintptr_t)req->buf ^ req->offset, BLOCK_SIZE);
	case BLOCK_STATUS:
		return req->extents && req->max_extents > 0;
	case BLOCK_FLUSH:
	case BLOCK_TRIM:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_CACHE:
		break;
	}
	return true;
}

int block_check(const struct block_dev *dev, const struct block_req *req)
{
	uint64_t size = block_size(dev);

	if (req->op == BLOCK_FLUSH)
		return 0;
	if (block_op_writes(req->op) && (dev->flags & BLOCK_DEV_READ_ONLY))
		return -EROFS;
	if (req->offset > size || req->length > size - req->offset) {
		bool needs_space = req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES;

		return needs_space ? -ENOSPC : -EINVAL;
	}
	return 0;
}

void block_submit(struct block_dev *dev, struct block_req *req)
{
	CHECK(req->done);
	CHECK(block_check(dev, req) == 0);
	CHECK(is_aligned(req->offset, BLOCK_SECTOR));
	CHECK(is_aligned(req->length, BLOCK_SECTOR));
	CHECK((req->op == BLOCK_FLUSH) == (req->length == 0));
	CHECK(flags_fit_op(req->op, req->flags));
	CHECK(buffer_fits(req));
	req->error = 0;
	req->n_extents = 0;
	dev->ops->submit(dev, req);
}
