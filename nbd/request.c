/* SPDX-License-Identifier: Apache-2.0 */
#include "nbd/request.h"

#include "base/bytes.h"
#include "nbd/errno.h"
#include "nbd/limits.h"
#include "nbd/protocol.h"

#include <errno.h>

/* What each command may bring along. */
struct command {
	enum block_op op;
	uint16_t flags; /* command flags besides FUA, which is legal on all */
	uint16_t needs; /* transmission flag that must have been advertised, or 0 */
	bool known;
	bool has_no_range; /* offset and length must be zero */
};

static const struct command commands[] = {
    [NBD_CMD_READ] = {.known = true, .op = BLOCK_READ, .flags = NBD_CMD_FLAG_DF},
    [NBD_CMD_WRITE] = {.known = true, .op = BLOCK_WRITE},
    [NBD_CMD_FLUSH] = {.known = true,
		       .op = BLOCK_FLUSH,
		       .needs = NBD_FLAG_SEND_FLUSH,
		       .has_no_range = true},
    [NBD_CMD_TRIM] = {.known = true, .op = BLOCK_TRIM, .needs = NBD_FLAG_SEND_TRIM},
    [NBD_CMD_CACHE] = {.known = true, .op = BLOCK_CACHE, .needs = NBD_FLAG_SEND_CACHE},
    [NBD_CMD_WRITE_ZEROES] = {.known = true,
			      .op = BLOCK_WRITE_ZEROES,
			      .flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
			      .needs = NBD_FLAG_SEND_WRITE_ZEROES},
    [NBD_CMD_BLOCK_STATUS] = {.known = true, .op = BLOCK_STATUS, .flags = NBD_CMD_FLAG_REQ_ONE},
};

bool nbd_request_parse(const uint8_t bytes[], struct nbd_request_header *ret_header)
{
	if (get_be32(bytes) != NBD_REQUEST_MAGIC)
		return false;
	ret_header->flags = get_be16(bytes + 4);
	ret_header->type = get_be16(bytes + 6);
	ret_header->cookie = get_be64(bytes + 8);
	ret_header->offset = get_be64(bytes + 16);
	ret_header->length = get_be32(bytes + 24);
	return true;
}

uint32_t nbd_request_payload(const struct nbd_request_header *header)
{
	return header->type == NBD_CMD_WRITE ? header->length : 0;
}

static uint32_t refuse(const char **ret_why, uint32_t error, const char *why)
{
	*ret_why = why;
	return error;
}

static uint32_t check_flags(const struct nbd_request_header *header, const struct command *command,
			    const struct nbd_terms *terms, const char **ret_why)
{
	uint16_t flags = header->flags;

	if (flags & ~(command->flags | NBD_CMD_FLAG_FUA))
		return refuse(ret_why, NBD_EINVAL, "a flag is unknown or not for this command");
	if ((flags & NBD_CMD_FLAG_FUA) && !(terms->flags & NBD_FLAG_SEND_FUA))
		return refuse(ret_why, NBD_EINVAL, "FUA was not offered");
	if ((flags & NBD_CMD_FLAG_DF) && !(terms->flags & NBD_FLAG_SEND_DF))
		return refuse(ret_why, NBD_EINVAL, "DF needs structured replies");
	if ((flags & NBD_CMD_FLAG_FAST_ZERO) && !(terms->flags & NBD_FLAG_SEND_FAST_ZERO))
		return refuse(ret_why, NBD_EINVAL, "FAST_ZERO was not offered");
	return 0;
}

static uint32_t check_range(const struct nbd_request_header *header, const struct command *command,
			    const struct nbd_terms *terms, const char **ret_why)
{
	if (command->has_no_range) {
		if (header->offset != 0 || header->length != 0)
			return refuse(ret_why, NBD_EINVAL, "FLUSH takes no offset and no length");
		return 0;
	}
	if (header->length == 0)
		return refuse(ret_why, NBD_EINVAL, "the length is zero");
	if (!is_aligned(header->offset | header->length, NBD_MIN_BLOCK))
		return refuse(ret_why, NBD_EINVAL,
			      "offset and length must be multiples of 512 bytes");
	if (command->op == BLOCK_WRITE && header->length > NBD_MAX_PAYLOAD)
		return refuse(ret_why, NBD_EINVAL, "more than 32 MiB to write at once");
	/* The spec has EOVERFLOW for clients that can ask for unfragmented reads only. */
	if (command->op == BLOCK_READ && header->length > NBD_MAX_PAYLOAD)
		return refuse(ret_why, terms->structured ? NBD_EOVERFLOW : NBD_EINVAL,
			      "more than 32 MiB to read at once");
	return 0;
}

static uint32_t check_device(const struct block_dev *dev, const struct block_req *req,
			     const struct nbd_terms *terms, const char **ret_why)
{
	int error = block_check(dev, req);

	/* The export may be read-only where its device is not. */
	if ((terms->flags & NBD_FLAG_READ_ONLY) && block_op_writes(req->op))
		error = -EROFS;
	if (error == -EROFS)
		return refuse(ret_why, NBD_EPERM, "the export is read-only");
	if (error)
		return refuse(ret_why, nbd_error(error), "the range goes past the end");
	return 0;
}

static uint32_t block_flags(const struct command *command, uint16_t flags)
{
	uint32_t block = 0;

	if ((flags & NBD_CMD_FLAG_FUA) && block_op_writes(command->op))
		block |= BLOCK_FUA; /* elsewhere it is legal and says nothing */
	if (flags & NBD_CMD_FLAG_NO_HOLE)
		block |= BLOCK_NO_HOLE;
	if (flags & NBD_CMD_FLAG_FAST_ZERO)
		block |= BLOCK_FAST_ZERO;
	if (flags & NBD_CMD_FLAG_REQ_ONE)
		block |= BLOCK_REQ_ONE;
	return block;
}

uint32_t nbd_request_check(const struct nbd_request_header *header, const struct nbd_terms *terms,
			   const struct block_dev *dev, struct block_req *req, const char **ret_why)
{
	const struct command *command;
	uint32_t error;

	if (header->type >= ARRAY_SIZE(commands) || !commands[header->type].known)
		return refuse(ret_why, NBD_EINVAL, "the command is unknown");
	command = &commands[header->type];
	if (command->needs && !(terms->flags & command->needs))
		return refuse(ret_why, NBD_EINVAL, "the command was not offered");
	if (command->op == BLOCK_STATUS && !terms->allocation)
		return refuse(ret_why, NBD_EINVAL,
			      "BLOCK_STATUS needs base:allocation for this export");
	error = check_flags(header, command, terms, ret_why);
	if (error)
		return error;
	error = check_range(header, command, terms, ret_why);
	if (error)
		return error;
	req->op = command->op;
	req->flags = block_flags(command, header->flags);
	req->offset = header->offset;
	req->length = header->length;
	return check_device(dev, req, terms, ret_why);
}
