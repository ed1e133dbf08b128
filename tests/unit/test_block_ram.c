/* SPDX-License-Identifier: Apache-2.0
 *
 * The RAM disk, on the real loop: the promises of block/block.h.
 */
#include "tests/unit/test_io_common.h"

#include "block/ram.h"

#define SIZE (8 * MiB)

static struct ram *ram;
static uint8_t *buf; /* page-aligned, 2 MiB */

static int setup(void **state)
{
	struct err err;

	buf = mem_alloc_pages(2 * MiB);
	if (!buf || test_loop_setup(state) < 0)
		return -1;
	return ram_new(test_loop, SIZE, 0, &ram, &err);
}

static int teardown(void **state)
{
	ram_free(ram);
	mem_free_pages(buf, 2 * MiB);
	return test_loop_teardown(state);
}

static void on_done(struct block_req *req)
{
	(void)req;
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

static void start(struct block_req *req)
{
	req->done = on_done;
	test_pending++;
	block_submit(ram_dev(ram), req);
}

static int call(enum block_op op, uint32_t flags, uint64_t offset, uint64_t length)
{
	struct block_req req = {.op = op,
				.flags = flags,
				.offset = offset,
				.length = length,
				.buf = buf + offset % BLOCK_SIZE};

	start(&req);
	assert_int_equal(test_pending, 1); /* never done inside submit */
	test_run();
	return req.error;
}

static void fill(uint64_t offset, uint64_t length, int byte)
{
	memset(buf + offset % BLOCK_SIZE, byte, length);
	assert_int_equal(call(BLOCK_WRITE, 0, offset, length), 0);
}

static void expect(uint64_t offset, uint64_t length, int byte)
{
	const uint8_t *p = buf + offset % BLOCK_SIZE;

	memset(buf, 0xee, 2 * MiB);
	assert_int_equal(call(BLOCK_READ, 0, offset, length), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(p[i], byte);
}

/* A new disk reads as zeroes and takes no memory. */
static void fresh_reads_zero(void **state)
{
	(void)state;
	expect(0, 2 * MiB, 0);
	expect(SIZE - 512, 512, 0);
	assert_int_equal(ram_allocated(ram), 0);
}

/* What was written is read, to the sector, across blocks and chunks. */
static void write_then_read(void **state)
{
	(void)state;
	fill(MiB - 1024, 4096, 7);
	expect(MiB - 1536, 512, 0);
	expect(MiB - 1024, 4096, 7);
	expect(MiB + 3072, 512, 0);
	fill(MiB, 512, 8);
	expect(MiB - 512, 512, 7);
	expect(MiB, 512, 8);
	expect(MiB + 512, 512, 7);
}

/* A trim drops whole blocks; the edges of an unaligned one stay. */
static void trim_keeps_edges(void **state)
{
	(void)state;
	fill(0, 64 * KiB, 5);
	assert_int_equal(call(BLOCK_TRIM, 0, 512, 12288), 0);
	expect(0, 4096, 5);
	expect(4096, 8192, 0);
	expect(12288, 4096, 5);
	assert_int_equal(ram_allocated(ram), 64 * KiB - 8192);
	assert_int_equal(call(BLOCK_TRIM, BLOCK_FUA, 0, SIZE), 0);
	assert_int_equal(ram_allocated(ram), 0);
	expect(0, 64 * KiB, 0);
}

/* Zeroing reaches every byte, whole blocks or not; NO_HOLE keeps the space. */
static void zeroes_all(void **state)
{
	(void)state;
	fill(0, 64 * KiB, 5);
	assert_int_equal(call(BLOCK_WRITE_ZEROES, 0, 512, 12288), 0);
	expect(0, 512, 5);
	expect(512, 12288, 0);
	expect(12800, 512, 5);
	assert_int_equal(call(BLOCK_WRITE_ZEROES, BLOCK_NO_HOLE, 2 * MiB, MiB), 0);
	expect(2 * MiB, MiB, 0);
	assert_int_equal(ram_allocated(ram), 64 * KiB - 8192 + MiB);
}

/* STATUS tells holes from data, merges neighbours, stops at its room, and adds up. */
static void status_extents(void **state)
{
	struct block_extent extents[3] = {0};
	struct block_req req = {
	    .op = BLOCK_STATUS, .length = SIZE, .extents = extents, .max_extents = 3};

	(void)state;
	fill(MiB - 4096, 8192, 1);
	fill(4 * MiB, 512, 1);
	start(&req);
	test_run();
	assert_int_equal(req.n_extents, 3);
	assert_int_equal(extents[0].length, MiB - 4096);
	assert_int_equal(extents[0].flags, BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO);
	assert_int_equal(extents[1].length, 8192);
	assert_int_equal(extents[1].flags, 0);
	assert_int_equal(extents[2].length, 3 * MiB - 4096);

	req = (struct block_req){.op = BLOCK_STATUS,
				 .flags = BLOCK_REQ_ONE,
				 .offset = MiB,
				 .length = 512,
				 .extents = extents,
				 .max_extents = 3};
	start(&req);
	test_run();
	assert_int_equal(req.n_extents, 1);
	assert_int_equal(extents[0].length, 512);
	assert_int_equal(extents[0].flags, 0);
}

/* Requests in flight together are carried out in the order of submission. */
static void in_order(void **state)
{
	struct block_req write = {.op = BLOCK_WRITE, .length = 4096, .buf = buf};
	struct block_req read = {.op = BLOCK_READ, .length = 4096, .buf = buf + 4096};
	struct block_req trim = {.op = BLOCK_TRIM, .length = 4096};
	struct block_req again = {.op = BLOCK_READ, .length = 4096, .buf = buf + 8192};

	(void)state;
	memset(buf, 9, 4096);
	memset(buf + 8192, 9, 4096);
	start(&write);
	start(&read);
	start(&trim);
	start(&again);
	test_run();
	assert_int_equal(buf[4096], 9);
	assert_int_equal(buf[8192], 0);
}

/* It grows while it is served, and never shrinks. */
static void grows(void **state)
{
	(void)state;
	fill(SIZE - 512, 512, 3);
	assert_int_equal(ram_grow(ram, 3 * SIZE + 512), 0);
	assert_int_equal(block_size(ram_dev(ram)), 3 * SIZE + 512);
	expect(SIZE - 512, 512, 3);
	expect(SIZE, MiB, 0);
	fill(3 * SIZE, 512, 4);
	expect(3 * SIZE, 512, 4);
	assert_int_equal(ram_grow(ram, SIZE), -EINVAL);
	assert_int_equal(ram_grow(ram, 4 * SIZE + 1), -EINVAL);
}

/* Sizes that no disk has are refused with a reason. */
static void bad_sizes(void **state)
{
	static const uint64_t sizes[] = {0, 511, 513, UINT64_C(1) << 63};
	struct ram *none = NULL;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(ram_new(test_loop, sizes[i], 0, &none, &err), -EINVAL);
		assert_null(none);
		assert_non_null(strstr(err.text, "512"));
	}
}

/* A terabyte costs its table, not its size. */
static void sparse_and_large(void **state)
{
	struct ram *large;
	struct err err;

	(void)state;
	assert_int_equal(ram_new(test_loop, TiB, 0, &large, &err), 0);
	assert_int_equal(ram_allocated(large), 0);
	ram_free(large);
}

/* The world's mistakes are errors by block_check: ranges, overflow, read-only. */
static void check_ranges(void **state)
{
	struct block_dev dev = {.size = SIZE};
	struct block_req req = {.op = BLOCK_READ, .offset = SIZE - 512, .length = 512};

	(void)state;
	assert_int_equal(block_check(&dev, &req), 0);
	req.length = 1024;
	assert_int_equal(block_check(&dev, &req), -EINVAL);
	req.op = BLOCK_WRITE;
	assert_int_equal(block_check(&dev, &req), -ENOSPC);
	req.op = BLOCK_WRITE_ZEROES;
	assert_int_equal(block_check(&dev, &req), -ENOSPC);
	req.op = BLOCK_TRIM;
	assert_int_equal(block_check(&dev, &req), -EINVAL);
	req.offset = UINT64_MAX - 511;
	assert_int_equal(block_check(&dev, &req), -EINVAL);
	dev.flags = BLOCK_DEV_READ_ONLY;
	assert_int_equal(block_check(&dev, &req), -EROFS);
	req.op = BLOCK_FLUSH;
	assert_int_equal(block_check(&dev, &req), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(fresh_reads_zero),
	    TEST(write_then_read),
	    TEST(trim_keeps_edges),
	    TEST(zeroes_all),
	    TEST(status_extents),
	    TEST(in_order),
	    TEST(grows),
	    TEST(bad_sizes),
	    TEST(sparse_and_large),
	    TEST(check_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
