/* SPDX-License-Identifier: Apache-2.0
 *
 * A request's header against all kinds of terms and devices (chosen by the bytes that follow it).
 * Whatever is accepted must pass the CHECKs of block_submit.
 */
#include "base/bytes.h"
#include "base/check.h"
#include "nbd/limits.h"
#include "nbd/protocol.h"
#include "nbd/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void swallow(struct block_dev *dev, struct block_req *req)
{
	(void)dev;
	block_done(req, 0);
}

static void on_done(struct block_req *req)
{
	(void)req;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct block_ops ops = {.name = "fuzz", .submit = swallow};
	static uint8_t page[2 * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
	struct block_extent extent;
	struct block_dev dev = {.ops = &ops};
	struct nbd_request_header header;
	struct nbd_terms terms = {0};
	struct block_req req = {.done = on_done, .extents = &extent, .max_extents = 1};
	const char *why = NULL;
	uint32_t error;

	if (size < NBD_REQUEST_SIZE + 8)
		return 0;
	terms.flags = get_be16(data + NBD_REQUEST_SIZE);
	terms.structured = data[NBD_REQUEST_SIZE + 2] & 1;
	terms.allocation = data[NBD_REQUEST_SIZE + 2] & 2;
	dev.flags = data[NBD_REQUEST_SIZE + 2] & 4 ? BLOCK_DEV_READ_ONLY : 0;
	block_set_size(&dev, (uint64_t)get_be32(data + NBD_REQUEST_SIZE + 4) * BLOCK_SECTOR);
	if (!nbd_request_parse(data, &header) || header.type == NBD_CMD_DISC)
		return 0;
	CHECK(header.type == NBD_CMD_WRITE || nbd_request_payload(&header) == 0);
	error = nbd_request_check(&header, &terms, &dev, &req, &why);
	if (error) {
		CHECK(why);
		return 0;
	}
	CHECK(req.length <= NBD_MAX_PAYLOAD || (req.op != BLOCK_READ && req.op != BLOCK_WRITE));
	req.buf = page + req.offset % BLOCK_SIZE;
	block_submit(&dev, &req);
	return 0;
}
