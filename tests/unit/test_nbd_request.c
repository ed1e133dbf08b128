/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests: what each becomes for the device, and the NBD error for each rule that can be broken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "nbd/errno.h"
#include "nbd/limits.h"
#include "nbd/protocol.h"
#include "nbd/reply.h"
#include "nbd/request.h"

#include <errno.h>
#include <stdio.h>

#define SIZE (8 * GiB)
#define ALL                                                                                        \
	(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |       \
	 NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF | NBD_FLAG_SEND_CACHE |                     \
	 NBD_FLAG_SEND_FAST_ZERO)

static const struct nbd_terms full = {.flags = ALL, .structured = true, .allocation = true};

struct row {
	uint32_t type;
	uint32_t flags;
	uint64_t offset;
	uint64_t length;
	uint32_t error;
};

static uint32_t check(const struct row *row, const struct nbd_terms *terms, uint32_t dev_flags,
		      struct block_req *req)
{
	struct block_dev dev = {.size = SIZE, .flags = dev_flags};
	struct nbd_request_header header = {.flags = (uint16_t)row->flags,
					    .type = (uint16_t)row->type,
					    .offset = row->offset,
					    .length = (uint32_t)row->length};
	const char *why = NULL;
	uint32_t error = nbd_request_check(&header, terms, &dev, req, &why);

	assert_int_equal(error != 0, why != NULL);
	return error;
}

static void check_table(const struct row *rows, size_t n, const struct nbd_terms *terms,
			uint32_t dev_flags)
{
	for (size_t i = 0; i < n; i++) {
		struct block_req req = {0};
		uint32_t error = check(&rows[i], terms, dev_flags, &req);

		if (error != rows[i].error)
			print_error("row %zu: command %u\n", i, rows[i].type);
		assert_int_equal(error, rows[i].error);
	}
}

#define CHECK_TABLE(rows, terms, dev_flags) check_table(rows, ARRAY_SIZE(rows), terms, dev_flags)

/* 28 bytes, big-endian; any other magic is no request. */
static void header_bytes(void **state)
{
	uint8_t bytes[NBD_REQUEST_SIZE] = {0x25, 0x60, 0x95, 0x13, 0x00, 0x05, 0x00, 0x01, 1, 2,
					   3,    4,    5,    6,    7,    8,    0,    0,    1, 0,
					   0,    0,    0x20, 0,    0x80, 0,    0x02, 0};
	struct nbd_request_header header;

	(void)state;
	assert_true(nbd_request_parse(bytes, &header));
	assert_int_equal(header.flags, 5);
	assert_int_equal(header.type, NBD_CMD_WRITE);
	assert_int_equal(header.cookie, 0x0102030405060708);
	assert_int_equal(header.offset, UINT64_C(0x10000002000));
	assert_int_equal(header.length, 0x80000200);
	assert_int_equal(nbd_request_payload(&header), 0x80000200);
	header.type = NBD_CMD_WRITE_ZEROES;
	assert_int_equal(nbd_request_payload(&header), 0);
	for (int i = 0; i < 4; i++) {
		bytes[i] ^= 0x80;
		assert_false(nbd_request_parse(bytes, &header));
		bytes[i] ^= 0x80;
	}
}

/* Each command becomes its block operation, with the flags that mean something to it. */
static void becomes_block_request(void **state)
{
	static const struct {
		struct row row;
		enum block_op op;
		uint32_t flags;
	} table[] = {
	    {{NBD_CMD_READ, 0, 512, 4096, 0}, BLOCK_READ, 0},
	    {{NBD_CMD_READ, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF, 0, 512, 0}, BLOCK_READ, 0},
	    {{NBD_CMD_WRITE, 0, 0, 32 * MiB, 0}, BLOCK_WRITE, 0},
	    {{NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512, 0}, BLOCK_WRITE, BLOCK_FUA},
	    {{NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA, 0, 0, 0}, BLOCK_FLUSH, 0},
	    {{NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, 0xfffffe00, 0}, BLOCK_TRIM, BLOCK_FUA},
	    {{NBD_CMD_CACHE, NBD_CMD_FLAG_FUA, 0, 512, 0}, BLOCK_CACHE, 0},
	    {{NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 0, 0xfffffe00, 0},
	     BLOCK_WRITE_ZEROES,
	     BLOCK_NO_HOLE},
	    {{NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_FUA, 512, 512, 0},
	     BLOCK_WRITE_ZEROES,
	     BLOCK_FAST_ZERO | BLOCK_FUA},
	    {{NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, 0xfffffe00, 0},
	     BLOCK_STATUS,
	     BLOCK_REQ_ONE},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct block_req req = {0};

		assert_int_equal(check(&table[i].row, &full, 0, &req), 0);
		assert_int_equal(req.op, table[i].op);
		assert_int_equal(req.flags, table[i].flags);
		assert_int_equal(req.offset, table[i].row.offset);
		assert_int_equal(req.length, table[i].row.length);
	}
}

/* Past the end: EINVAL, but ENOSPC for what would need the space. Sums that overflow, too. */
static void past_the_end(void **state)
{
	static const struct row rows[] = {
	    {NBD_CMD_READ, 0, SIZE - 512, 512, 0},
	    {NBD_CMD_READ, 0, SIZE - 512, 1024, NBD_EINVAL},
	    {NBD_CMD_READ, 0, SIZE, 512, NBD_EINVAL},
	    {NBD_CMD_READ, 0, UINT64_MAX - 511, 512, NBD_EINVAL},
	    {NBD_CMD_READ, 0, UINT64_MAX - 511, 1024, NBD_EINVAL},
	    {NBD_CMD_TRIM, 0, SIZE - 512, 1024, NBD_EINVAL},
	    {NBD_CMD_CACHE, 0, SIZE, 512, NBD_EINVAL},
	    {NBD_CMD_BLOCK_STATUS, 0, SIZE, 512, NBD_EINVAL},
	    {NBD_CMD_BLOCK_STATUS, 0, UINT64_MAX - 511, 1024, NBD_EINVAL},
	    {NBD_CMD_WRITE, 0, SIZE - 512, 512, 0},
	    {NBD_CMD_WRITE, 0, SIZE - 512, 1024, NBD_ENOSPC},
	    {NBD_CMD_WRITE, 0, UINT64_MAX - 511, 1024, NBD_ENOSPC},
	    {NBD_CMD_WRITE_ZEROES, 0, SIZE - 512, 1024, NBD_ENOSPC},
	    {NBD_CMD_WRITE_ZEROES, 0, INT64_MAX - 511, 512, NBD_ENOSPC},
	};

	(void)state;
	CHECK_TABLE(rows, &full, 0);
}

/* Alignment, emptiness, too much at once. */
static void bad_ranges(void **state)
{
	static const struct row rows[] = {
	    {NBD_CMD_READ, 0, 0, 0, NBD_EINVAL},
	    {NBD_CMD_WRITE, 0, 0, 0, NBD_EINVAL},
	    {NBD_CMD_TRIM, 0, 0, 0, NBD_EINVAL},
	    {NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL},
	    {NBD_CMD_READ, 0, 1, 512, NBD_EINVAL},
	    {NBD_CMD_READ, 0, 0, 513, NBD_EINVAL},
	    {NBD_CMD_WRITE, 0, 256, 512, NBD_EINVAL},
	    {NBD_CMD_WRITE_ZEROES, 0, 0, 0xffffffff, NBD_EINVAL},
	    {NBD_CMD_WRITE, 0, 0, 32 * MiB + 512, NBD_EINVAL},
	    {NBD_CMD_READ, 0, 0, 32 * MiB, 0},
	    {NBD_CMD_READ, 0, 0, 32 * MiB + 512, NBD_EOVERFLOW},
	    {NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 32 * MiB + 512, NBD_EOVERFLOW},
	    {NBD_CMD_FLUSH, 0, 0, 512, NBD_EINVAL},
	    {NBD_CMD_FLUSH, 0, 512, 0, NBD_EINVAL},
	};
	static const struct row simple[] = {{NBD_CMD_READ, 0, 0, 32 * MiB + 512, NBD_EINVAL}};
	static const struct nbd_terms terms = {.flags = ALL & ~NBD_FLAG_SEND_DF};

	(void)state;
	CHECK_TABLE(rows, &full, 0);
	CHECK_TABLE(simple, &terms, 0);
}

/* Flags that nobody knows, flags of other commands, commands that nobody knows. */
static void bad_flags_and_commands(void **state)
{
	static const uint16_t legal[] = {
	    [NBD_CMD_READ] = NBD_CMD_FLAG_DF,
	    [NBD_CMD_WRITE] = 0,
	    [NBD_CMD_FLUSH] = 0,
	    [NBD_CMD_TRIM] = 0,
	    [NBD_CMD_CACHE] = 0,
	    [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
	    [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
	};

	(void)state;
	for (uint32_t type = 0; type < ARRAY_SIZE(legal); type++) {
		if (type == NBD_CMD_DISC)
			continue;
		for (int bit = 0; bit < 16; bit++) {
			uint16_t flag = (uint16_t)(1 << bit);
			bool ok = flag & (legal[type] | NBD_CMD_FLAG_FUA);
			struct row row = {type, flag, 0, type == NBD_CMD_FLUSH ? 0 : 512,
					  ok ? 0 : NBD_EINVAL};

			check_table(&row, 1, &full, 0);
		}
	}
	for (uint32_t type = 8; type < 0x10000; type++) {
		struct row row = {type, 0, 0, 512, NBD_EINVAL};

		check_table(&row, 1, &full, 0);
	}
}

/* What was not negotiated can't be used. */
static void not_negotiated(void **state)
{
	static const struct nbd_terms bare = {.flags = NBD_FLAG_HAS_FLAGS};
	static const struct row rows[] = {
	    {NBD_CMD_READ, 0, 0, 512, 0},
	    {NBD_CMD_WRITE, 0, 0, 512, 0},
	    {NBD_CMD_FLUSH, 0, 0, 0, NBD_EINVAL},
	    {NBD_CMD_TRIM, 0, 0, 512, NBD_EINVAL},
	    {NBD_CMD_CACHE, 0, 0, 512, NBD_EINVAL},
	    {NBD_CMD_WRITE_ZEROES, 0, 0, 512, NBD_EINVAL},
	    {NBD_CMD_BLOCK_STATUS, 0, 0, 512, NBD_EINVAL},
	    {NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512, NBD_EINVAL},
	    {NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, NBD_EINVAL},
	};
	static const struct nbd_terms slow = {.flags = ALL & ~NBD_FLAG_SEND_FAST_ZERO};
	static const struct row fast[] = {
	    {NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 512, NBD_EINVAL}};

	(void)state;
	CHECK_TABLE(rows, &bare, 0);
	CHECK_TABLE(fast, &slow, 0);
}

/* A read-only device or export: EPERM for writers, even past its end. */
static void read_only(void **state)
{
	static const struct row rows[] = {
	    {NBD_CMD_READ, 0, 0, 512, 0},          {NBD_CMD_FLUSH, 0, 0, 0, 0},
	    {NBD_CMD_CACHE, 0, 0, 512, 0},         {NBD_CMD_BLOCK_STATUS, 0, 0, 512, 0},
	    {NBD_CMD_WRITE, 0, 0, 512, NBD_EPERM}, {NBD_CMD_WRITE, 0, SIZE, 512, NBD_EPERM},
	    {NBD_CMD_TRIM, 0, 0, 512, NBD_EPERM},  {NBD_CMD_WRITE_ZEROES, 0, 0, 512, NBD_EPERM},
	};
	static const struct nbd_terms by_name = {
	    .flags = ALL | NBD_FLAG_READ_ONLY, .structured = true, .allocation = true};

	(void)state;
	CHECK_TABLE(rows, &full, BLOCK_DEV_READ_ONLY);
	CHECK_TABLE(rows, &by_name, 0);
}

/* Errors of the device become one of NBD's; never ESHUTDOWN, which QEMU hands to its guest. */
static void errnos(void **state)
{
	(void)state;
	assert_int_equal(nbd_error(0), 0);
	assert_int_equal(nbd_error(-EIO), NBD_EIO);
	assert_int_equal(nbd_error(-EROFS), NBD_EPERM);
	assert_int_equal(nbd_error(-ENOSPC), NBD_ENOSPC);
	assert_int_equal(nbd_error(-EDQUOT), NBD_ENOSPC);
	assert_int_equal(nbd_error(-EFBIG), NBD_ENOSPC);
	assert_int_equal(nbd_error(-ENOTSUP), NBD_ENOTSUP);
	assert_int_equal(nbd_error(-EINVAL), NBD_EINVAL);
	assert_int_equal(nbd_error(-ESHUTDOWN), NBD_EIO);
	assert_int_equal(nbd_error(-ENOMEM), NBD_EIO);
	assert_int_equal(nbd_error(-ECHILD), NBD_EIO);
	for (int error = 1; error < 200; error++) {
		assert_int_not_equal(nbd_error(-error), 108);
		assert_non_null(nbd_error_text(-error));
	}
}

/* Headers of replies, byte by byte. */
static void reply_headers(void **state)
{
	static const uint8_t simple[] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5,
					 0,    0,    0,    0,    0, 0, 1, 2};
	static const uint8_t data[] = {0x66, 0x8e, 0x33, 0xef, 0,    1,    0, 1, 0, 0, 0, 0, 0, 0,
				       1,    2,    0,    0,    0x02, 0x08, 0, 0, 0, 0, 0, 0, 4, 0};
	static const uint8_t status[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5,  0, 0, 0, 0,
					 0,    0,    1,    2,    0, 0, 0, 20, 0, 0, 0, 1};
	static const uint8_t error[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0,  0, 0,
					0,    1,    2,    0,    0, 0, 9,    0, 0, 0, 22, 0, 3};
	uint8_t out[NBD_REPLY_HEADER_MAX];

	(void)state;
	assert_int_equal(nbd_reply_simple(out, 0x102, 5), sizeof(simple));
	assert_memory_equal(out, simple, sizeof(simple));
	assert_int_equal(nbd_reply_data(out, 0x102, 1024, 512), sizeof(data));
	assert_memory_equal(out, data, sizeof(data));
	assert_int_equal(nbd_reply_status(out, 0x102, 1, 2), sizeof(status));
	assert_memory_equal(out, status, sizeof(status));
	assert_int_equal(nbd_reply_error(out, 0x102, NBD_EINVAL, 3), sizeof(error));
	assert_memory_equal(out, error, sizeof(error));
}

/* Extents shrink to the wire's form where they stand. */
static void extents_in_place(void **state)
{
	struct block_extent extents[100];
	const uint8_t *wire = (const uint8_t *)extents;

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		extents[i] = (struct block_extent){(uint64_t)(i + 1) * 512, i % 4};
	assert_int_equal(nbd_extents_to_wire(extents, 100), 800);
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(get_be32(wire + (size_t)i * 8), (i + 1) * 512);
		assert_int_equal(get_be32(wire + (size_t)i * 8 + 4), i % 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(header_bytes),   cmocka_unit_test(becomes_block_request),
	    cmocka_unit_test(past_the_end),   cmocka_unit_test(bad_ranges),
	    cmocka_unit_test(read_only),      cmocka_unit_test(bad_flags_and_commands),
	    cmocka_unit_test(not_negotiated), cmocka_unit_test(errnos),
	    cmocka_unit_test(reply_headers),  cmocka_unit_test(extents_in_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
