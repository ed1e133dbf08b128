/* SPDX-License-Identifier: Apache-2.0
 *
 * What a volume does about each error of the disk below: the table in docs/durability.md, row by
 * row. Which requests fail and which go on, what the volume's health becomes, and that opening it
 * anew shows everything that was acknowledged.
 */
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME_BYTES (64 * MiB)
#define BUF_BYTES    (1 * MiB)

static struct world world;
static uint8_t *buf;
static uint8_t *expected;

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	world_init(&world, sim_new(11, &options));
	buf = sim_alloc(BUF_BYTES);
	expected = sim_alloc(BUF_BYTES);
	assert_int_equal(world_begin(&world), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(world_create(&world, i, VOLUME_BYTES), 0);
		assert_int_equal(world_open(&world, i), 0);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim_free(world.sim);
	sim_release(buf);
	sim_release(expected);
	return 0;
}

static void fill(uint8_t *p, uint64_t len, uint64_t tag)
{
	for (uint64_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = hash_u64(tag * 1000003 + i);

		memcpy(p + i, &v, 8);
	}
}

static int write_of(unsigned i, uint64_t offset, uint64_t length, uint64_t tag, uint32_t flags)
{
	fill(buf, length, tag);
	return world_io(&world, i, BLOCK_WRITE, flags, offset, length, buf);
}

static int read_of(unsigned i, uint64_t offset, uint64_t length)
{
	return world_io(&world, i, BLOCK_READ, 0, offset, length, buf);
}

static void read_is(unsigned i, uint64_t offset, uint64_t length, uint64_t tag)
{
	fill(expected, length, tag);
	assert_int_equal(read_of(i, offset, length), 0);
	assert_memory_equal(buf, expected, length);
}

static int flush_of(unsigned i)
{
	return world_io(&world, i, BLOCK_FLUSH, 0, 0, 0, NULL);
}

static void health_is(unsigned i, enum volume_health health, uint64_t bad_reads)
{
	struct volume_stats stats;

	volume_stats(world.volumes[i], &stats);
	assert_int_equal(stats.health, health);
	assert_int_equal(stats.bad_reads, bad_reads);
}

/* Until nothing runs in the background any more; the checkpoint of an idle volume is made, too. */
static void quiet(void)
{
	sim_run_until(world.sim, NULL, NULL, 1000000);
}

static void fail_next(unsigned kinds)
{
	sim_disk_nth(world.sim, kinds, 1, SIM_FAIL, -EIO);
}

static void open_again(unsigned i)
{
	world_close(&world, i);
	if (world_open(&world, i) != 0)
		fail_msg("open: %s", world.err.text);
}

static void kill_and_open(void)
{
	sim_kill(world.sim);
	sim_reboot(world.sim);
	assert_int_equal(world_begin(&world), 0);
	for (unsigned i = 0; i < 2; i++)
		if (world_open(&world, i) != 0)
			fail_msg("open: %s", world.err.text);
}

/* The log of volume 0 has stopped: nothing is written any more, all is read. */
static void has_failed(uint64_t tag)
{
	health_is(0, VOLUME_FAILED, 0);
	assert_int_equal(write_of(0, 8 * MiB, 4096, 1, 0), -EIO);
	assert_int_equal(write_of(0, 512, 512, 1, 0), -EIO);
	assert_int_equal(flush_of(0), -EIO);
	assert_int_equal(world_io(&world, 0, BLOCK_TRIM, 0, 0, MiB, NULL), -EIO);
	assert_int_equal(world_checkpoint(&world, 0), -EIO);
	read_is(0, 0, 256 * KiB, tag);
}

/* ---- Reads -----------------------------------------------------------------------------------
 */

/* E4: a data read that fails is -EIO for its reader and for whoever would write a part of the
 * block; it is counted, and the volume is impaired. Nothing else suffers; a write of the whole
 * block needs no read. */
static void data_read_fails(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, 0), 0);
	fail_next(SIM_READ);
	assert_int_equal(read_of(0, 8192, 4096), -EIO);
	health_is(0, VOLUME_IMPAIRED, 1);
	assert_int_equal(world.bad_blocks, 1);
	read_is(0, 0, 256 * KiB, 1); /* the disk can read again */
	fail_next(SIM_READ);
	assert_int_equal(write_of(0, 8192 + 512, 512, 2, 0), -EIO);
	read_is(0, 0, 256 * KiB, 1);
	assert_int_equal(write_of(0, 0, 4096, 3, 0), 0);
	read_is(0, 0, 4096, 3);
	assert_int_equal(flush_of(0), 0);
	open_again(0);
	health_is(0, VOLUME_OK, 0);
}

/* The map is on disk, and no leaf of it in memory. */
static void forget_leaves(void)
{
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, 0), 0);
	assert_int_equal(world_checkpoint(&world, 0), 0);
	open_again(0);
}

/* E4: so is a leaf of the map that can't be read. */
static void leaf_read_fails(void **state)
{
	(void)state;
	forget_leaves();
	fail_next(SIM_READ);
	assert_int_equal(read_of(0, 0, 4096), -EIO);
	health_is(0, VOLUME_IMPAIRED, 1);
	read_is(0, 0, 256 * KiB, 1);
}

/* A checkpoint that needs a leaf which can't be read stops the log: it would have to write over
 * what the leaf says of other blocks. What was acknowledged is in the log. */
static void leaf_read_fails_in_checkpoint(void **state)
{
	(void)state;
	forget_leaves();
	assert_int_equal(write_of(0, 0, 4096, 2, 0), 0);
	fail_next(SIM_READ);
	assert_int_equal(world_checkpoint(&world, 0), -EIO);
	health_is(0, VOLUME_FAILED, 1);
	open_again(0);
	health_is(0, VOLUME_OK, 0);
	read_is(0, 0, 4096, 2);
	assert_int_equal(world_checkpoint(&world, 0), 0);
}

/* A volume whose metadata or log can't be read while it is opened is not opened, and nothing is cut
 * off: once the disk reads again, all is there. */
static void read_fails_in_open(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, 0), 0);
	assert_int_equal(write_of(0, MiB, 4096, 2, 0), 0);
	sim_kill(world.sim);
	sim_reboot(world.sim);
	assert_int_equal(world_begin(&world), 0);
	for (uint64_t n = 3;; n++) { /* the first two are the superblock's copies */
		sim_disk_nth(world.sim, SIM_READ, n, SIM_FAIL, -EIO);
		if (world_open(&world, 0) == 0)
			break;
		assert_true(world.err.code == -EIO);
	}
	sim_disk_nth(world.sim, 0, 0, SIM_PROCEED, 0);
	read_is(0, 0, 256 * KiB, 1);
	read_is(0, MiB, 4096, 2);
}

/* E4: rot in the newest block is noticed by each reader, and heals by being overwritten. */
static void checksum_is_wrong(void **state)
{
	uint64_t size = sim_file_size(world.sim, world.store_config.path);
	uint8_t *image = sim_alloc(MiB);
	uint64_t at = 0;

	(void)state;
	assert_int_equal(write_of(0, 0, 4096, 77, BLOCK_FUA), 0);
	fill(expected, 4096, 77);
	for (uint64_t chunk = 0; chunk < size && !at; chunk += MiB) {
		sim_file_peek(world.sim, world.store_config.path, chunk, image,
			      min_u64(MiB, size - chunk));
		for (uint64_t i = 0; i + 4096 <= MiB && !at; i += 4096)
			if (memcmp(image + i, expected, 4096) == 0)
				at = chunk + i;
	}
	sim_release(image);
	assert_true(at > 0);
	sim_file_rot(world.sim, world.store_config.path, at, 4096);
	assert_int_equal(read_of(0, 0, 4096), -EIO);
	assert_int_equal(read_of(0, 512, 512), -EIO);
	health_is(0, VOLUME_IMPAIRED, 2);
	assert_int_equal(write_of(0, 512, 512, 1, 0), -EIO);
	assert_true(world_check(&world, 0) > 0);
	assert_int_equal(write_of(0, 0, 4096, 78, 0), 0);
	read_is(0, 0, 4096, 78);
	assert_int_equal(world_check(&world, 0), 0);
}

/* ---- Writes ----------------------------------------------------------------------------------
 */

/* A failed append stops that volume's log: -EIO for it and for every later change, reads go on, and
 * so does the other volume. Opening the volume anew shows all that was acknowledged. */
static void append_fails(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, 0), 0);
	quiet();
	fail_next(SIM_WRITE);
	assert_int_equal(write_of(0, MiB, 4096, 2, 0), -EIO);
	has_failed(1);
	assert_int_equal(write_of(1, 0, 4096, 5, BLOCK_FUA), 0);
	read_is(1, 0, 4096, 5);
	health_is(1, VOLUME_OK, 0);
	open_again(0);
	health_is(0, VOLUME_OK, 0);
	read_is(0, 0, 256 * KiB, 1);
	assert_int_equal(write_of(0, MiB, 4096, 3, BLOCK_FUA), 0);
	assert_int_equal(world_check(&world, 0), 0);
}

/* The same for what a checkpoint writes: leaves and the root, or the superblock. */
static void checkpoint_write_fails(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, BLOCK_FUA), 0);
	quiet();
	fail_next(SIM_WRITE);
	assert_int_equal(world_checkpoint(&world, 0), -EIO);
	has_failed(1);
	assert_int_equal(write_of(1, 0, 4096, 5, BLOCK_FUA), 0);
	open_again(0);
	read_is(0, 0, 256 * KiB, 1);
}

/* A superblock that can't be written stops its volume, and from then on the store lends, frees and
 * swaps nothing: other volumes go on as long as their segments last. */
static void superblock_write_fails(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, BLOCK_FUA), 0);
	assert_int_equal(write_of(1, 0, 4096, 5, 0), 0);
	quiet();
	sim_disk_nth(world.sim, SIM_WRITE, 2, SIM_FAIL, -EIO);
	assert_int_equal(world_checkpoint(&world, 0), -EIO);
	has_failed(1);
	assert_int_equal(write_of(1, 0, 4096, 6, BLOCK_FUA), 0);
	assert_int_equal(world_checkpoint(&world, 1), -EIO);
	health_is(1, VOLUME_FAILED, 0);
	kill_and_open();
	for (unsigned i = 0; i < 2; i++)
		health_is(i, VOLUME_OK, 0);
	read_is(0, 0, 256 * KiB, 1);
	read_is(1, 0, 4096, 6);
}

/* E1: a failed sync answers nothing that waits for it, and stops every volume of the store, since
 * nobody knows what it has dropped. A new start finds all that an earlier sync had made durable. */
static void sync_fails(void **state)
{
	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, BLOCK_FUA), 0);
	assert_int_equal(write_of(1, 0, 4096, 5, BLOCK_FUA), 0);
	quiet();
	assert_int_equal(write_of(0, MiB, 4096, 2, 0), 0);
	fail_next(SIM_SYNC);
	assert_int_equal(flush_of(0), -EIO);
	has_failed(1);
	assert_int_equal(write_of(1, 4096, 4096, 6, 0), -EIO);
	health_is(1, VOLUME_FAILED, 0);
	read_is(1, 0, 4096, 5);
	/* Not even a new opening helps before the store is opened anew. */
	world_close(&world, 0);
	assert_int_equal(world_open(&world, 0), -EIO);
	sim_cut(world.sim);
	sim_reboot(world.sim);
	kill_and_open();
	read_is(0, 0, 256 * KiB, 1);
	read_is(1, 0, 4096, 5);
}

/* ---- Never -----------------------------------------------------------------------------------
 */

static enum sim_fate stall_appends(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	return op->kind == SIM_WRITE && op->len >= 64 * KiB ? SIM_STALL : SIM_PROCEED;
}

struct pending {
	struct block_req req;
	bool done;
};

static void on_pending(struct block_req *req)
{
	container_of(req, struct pending, req)->done = true;
}

/* A write that the disk never completes waits, and with it what comes after it in the log: nothing
 * is answered out of order (E2). Reads go on, the other volume goes on. */
static void append_never_completes(void **state)
{
	uint8_t *data = mem_alloc_pages(64 * KiB);
	struct pending first = {.req = {.op = BLOCK_WRITE, .length = 64 * KiB, .buf = data}};
	struct pending second = {.req = {.op = BLOCK_WRITE, .offset = MiB, .length = 4096}};

	(void)state;
	assert_int_equal(write_of(0, 0, 256 * KiB, 1, BLOCK_FUA), 0);
	quiet();
	sim_disk_hook(world.sim, stall_appends, NULL);
	first.req.done = second.req.done = on_pending;
	second.req.buf = data;
	block_submit(volume_dev(world.volumes[0]), &first.req);
	sim_run_until(world.sim, NULL, NULL, 1000000);
	block_submit(volume_dev(world.volumes[0]), &second.req);
	sim_run_until(world.sim, NULL, NULL, 1000000);
	assert_false(first.done);
	assert_false(second.done);
	read_is(0, 0, 256 * KiB, 1);
	assert_int_equal(write_of(1, 0, 4096, 5, BLOCK_FUA), 0);
	health_is(0, VOLUME_OK, 0);
	sim_disk_hook(world.sim, NULL, NULL);
	sim_release_stalled(world.sim);
	sim_run_until(world.sim, sim_flag_is_set, &second.done, 1000000);
	assert_true(first.done);
	assert_int_equal(first.req.error | second.req.error, 0);
	mem_free_pages(data, 64 * KiB);
}

/* ---- No space --------------------------------------------------------------------------------
 */

static bool file_system_is_full;

static enum sim_fate nothing_left(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	op->error = -ENOSPC;
	return op->kind == SIM_RESERVE && file_system_is_full ? SIM_FAIL : SIM_PROCEED;
}

/* E6: without space below, writes get -ENOSPC; reads, flushes and trims go on, the volume is well,
 * and once there is space so do writes. */
static void file_system_full(void **state)
{
	uint64_t n = 0;
	int r;

	(void)state;
	assert_int_equal(write_of(0, 0, MiB, 0, 0), 0);
	quiet();
	sim_disk_hook(world.sim, nothing_left, NULL);
	file_system_is_full = true;
	while ((r = write_of(0, n * MiB, MiB, n, 0)) == 0)
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_true(n > 0 && n < 40);
	health_is(0, VOLUME_OK, 0);
	assert_int_equal(flush_of(0), 0);
	for (uint64_t i = 0; i < n; i++)
		read_is(0, i * MiB, MiB, i);
	assert_int_equal(world_io(&world, 0, BLOCK_TRIM, 0, 0, MiB, NULL), 0);
	file_system_is_full = false;
	/* The engine asks again after a while. */
	for (int i = 0; i < 100 && r; i++) {
		world_io(&world, 0, BLOCK_FLUSH, 0, 0, 0, NULL);
		quiet();
		r = write_of(0, 0, MiB, 9, 0);
	}
	assert_int_equal(r, 0);
	assert_int_equal(world_check(&world, 0), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(data_read_fails),
	    TEST(leaf_read_fails),
	    TEST(leaf_read_fails_in_checkpoint),
	    TEST(read_fails_in_open),
	    TEST(checksum_is_wrong),
	    TEST(append_fails),
	    TEST(checkpoint_write_fails),
	    TEST(superblock_write_fails),
	    TEST(sync_fails),
	    TEST(append_never_completes),
	    TEST(file_system_full),
	};

	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
