/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers of the NBD protocol (doc/proto.md of the NetworkBlockDevice project). All integers on
 * the wire are big-endian.
 */
#ifndef NBD_PROTOCOL_H
#define NBD_PROTOCOL_H

#include <stdint.h>

#define NBD_MAGIC            UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC     UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC        UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC    UINT32_C(0x25609513)
#define NBD_SIMPLE_MAGIC     UINT32_C(0x67446698)
#define NBD_STRUCTURED_MAGIC UINT32_C(0x668e33ef)

#define NBD_GREETING_SIZE          18
#define NBD_CLIENT_FLAGS_SIZE      4
#define NBD_OPTION_HEADER_SIZE     16
#define NBD_REP_HEADER_SIZE        20
#define NBD_EXPORT_NAME_REPLY_SIZE 10
#define NBD_EXPORT_NAME_ZEROES     124
#define NBD_REQUEST_SIZE           28
#define NBD_SIMPLE_REPLY_SIZE      16
#define NBD_CHUNK_HEADER_SIZE      20

#define NBD_STRING_MAX 4096 /* bytes of any name or text */

/* Handshake flags, and the client's answer to them. */
#define NBD_FIXED_NEWSTYLE   1
#define NBD_NO_ZEROES        2
#define NBD_C_FIXED_NEWSTYLE 1
#define NBD_C_NO_ZEROES      2

enum nbd_opt {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK          UINT32_C(1)
#define NBD_REP_SERVER       UINT32_C(2)
#define NBD_REP_INFO         UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)

#define NBD_REP_ERR          (UINT32_C(1) << 31)
#define NBD_REP_ERR_UNSUP    (NBD_REP_ERR + 1)
#define NBD_REP_ERR_POLICY   (NBD_REP_ERR + 2)
#define NBD_REP_ERR_INVALID  (NBD_REP_ERR + 3)
#define NBD_REP_ERR_UNKNOWN  (NBD_REP_ERR + 6)
#define NBD_REP_ERR_SHUTDOWN (NBD_REP_ERR + 7)
#define NBD_REP_ERR_TOO_BIG  (NBD_REP_ERR + 9)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS         (1 << 0)
#define NBD_FLAG_READ_ONLY         (1 << 1)
#define NBD_FLAG_SEND_FLUSH        (1 << 2)
#define NBD_FLAG_SEND_FUA          (1 << 3)
#define NBD_FLAG_SEND_TRIM         (1 << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1 << 6)
#define NBD_FLAG_SEND_DF           (1 << 7)
#define NBD_FLAG_CAN_MULTI_CONN    (1 << 8)
#define NBD_FLAG_SEND_CACHE        (1 << 10)
#define NBD_FLAG_SEND_FAST_ZERO    (1 << 11)

enum nbd_cmd {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA       (1 << 0)
#define NBD_CMD_FLAG_NO_HOLE   (1 << 1)
#define NBD_CMD_FLAG_DF        (1 << 2)
#define NBD_CMD_FLAG_REQ_ONE   (1 << 3)
#define NBD_CMD_FLAG_FAST_ZERO (1 << 4)

#define NBD_CHUNK_DONE 1 /* the flag of the last chunk of a reply */

#define NBD_CHUNK_NONE         0
#define NBD_CHUNK_OFFSET_DATA  1
#define NBD_CHUNK_BLOCK_STATUS 5
#define NBD_CHUNK_ERROR        ((1 << 15) + 1)

#define NBD_EPERM     UINT32_C(1)
#define NBD_EIO       UINT32_C(5)
#define NBD_ENOMEM    UINT32_C(12)
#define NBD_EINVAL    UINT32_C(22)
#define NBD_ENOSPC    UINT32_C(28)
#define NBD_EOVERFLOW UINT32_C(75)
#define NBD_ENOTSUP   UINT32_C(95)

/* The only metadata context that we know, and the id that we give it. */
#define NBD_BASE               "base:"
#define NBD_BASE_ALLOCATION    "base:allocation"
#define NBD_BASE_ALLOCATION_ID 1

#endif
