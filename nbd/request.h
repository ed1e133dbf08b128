/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests as pure functions: 28 bytes to a struct, and what the negotiated terms and the device as
 * it is now make of it: a block request, or an NBD error with the rule that was broken.
 */
#ifndef NBD_REQUEST_H
#define NBD_REQUEST_H

#include "block/block.h"

#include <stdbool.h>
#include <stdint.h>

struct nbd_request_header {
	uint16_t flags;
	uint16_t type; /* enum nbd_cmd, or one that we do not know */
	uint64_t cookie;
	uint64_t offset;
	uint32_t length;
};

/* What the handshake agreed on. */
struct nbd_terms {
	uint16_t flags;  /* the transmission flags that were advertised */
	bool structured; /* structured replies are on */
	bool allocation; /* base:allocation is selected */
};

/* False: the magic is wrong. */
bool nbd_request_parse(const uint8_t bytes[], struct nbd_request_header *ret_header);

/* Sets op, flags, offset and length of *req and returns 0; or returns an NBD error and sets
 * *ret_why to a static text that names the rule. NBD_CMD_DISC is not for this function. */
uint32_t nbd_request_check(const struct nbd_request_header *header, const struct nbd_terms *terms,
			   const struct block_dev *dev, struct block_req *req,
			   const char **ret_why);

/* Bytes that follow the header, whether the request is legal or not. */
uint32_t nbd_request_payload(const struct nbd_request_header *header);

#endif
