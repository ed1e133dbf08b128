/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments of a store on a real file: lending, freeing, writing, growing.
 */
#include "tests/unit/test_store_common.h"

/* T1: what was lent is listed for its volume, with stream and incarnation, after reopening too. */
static void lend_is_listed(void **state)
{
	struct store_segment lent[3];

	(void)state;
	open_store();
	assert_int_equal(lend(VOLUME, 3), 0);
	assert_int_equal(ctl.n, 3);
	memcpy(lent, ctl.segments, sizeof(lent));
	assert_int_equal(lend(OTHER, 1), 0);
	reopen();
	assert_int_equal(list(VOLUME), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(ctl.segments[i].id == lent[i].id);
		assert_int_equal(ctl.segments[i].generation, 1);
		assert_int_equal(ctl.segments[i].stream, STORE_STREAM_MAP);
		assert_true(ctl.segments[i].incarnation == 9);
	}
	assert_int_equal(call(store->ops->list), 0);
	assert_int_equal(ctl.n, 0);
	assert_int_equal(list(OTHER), 1);
	assert_int_equal(list(NAME), 0);
	close_store();
}

/* Lists of more than one answer go on where they stopped. */
static void list_in_parts(void **state)
{
	unsigned n = 0;

	(void)state;
	open_store();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(lend(VOLUME, 50), 0);
	ctl.volume = VOLUME;
	ctl.private[0] = 0;
	do {
		assert_int_equal(call(store->ops->list), 0);
		n += ctl.n;
	} while (ctl.n > 0);
	assert_int_equal(n, 50 + 50 + 26); /* a group has 126: the third got what was left */
	close_store();
}

/* Appended, synced, read: the same bytes, also after reopening, at the first and the last place of
 * a segment. */
static void append_and_read(void **state)
{
	uint64_t segment;

	(void)state;
	open_store();
	assert_int_equal(lend(VOLUME, 2), 0);
	segment = ctl.segments[1].id;
	assert_int_equal(append(segment, 0, 0x11, 512 * KiB), 512 * KiB);
	assert_int_equal(append(segment, SEGMENT - 4096, 0x22, 4096), 4096);
	assert_int_equal(append(segment - 1, SEGMENT - 4096, 0x33, 4096), 4096);
	assert_int_equal(sync_store(), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(read_back(segment, 508 * KiB, 8192), 8192);
		assert_int_equal(buffer[0], 0x11);
		assert_int_equal(buffer[4095], 0x11);
		assert_int_equal(buffer[4096], 0);
		assert_int_equal(read_back(segment, SEGMENT - 4096, 4096), 4096);
		assert_int_equal(buffer[4095], 0x22);
		assert_int_equal(read_back(segment - 1, SEGMENT - 4096, 4096), 4096);
		assert_int_equal(buffer[4095], 0x33);
		reopen();
	}
	close_store();
}

/* T3: a freed segment comes back with a higher generation. Freeing what is not lent, or not any
 * more, or not to that volume, is refused. */
static void free_and_lend_again(void **state)
{
	struct store_segment segment, again;
	uint64_t before;

	(void)state;
	open_store();
	before = store->info.free;
	assert_int_equal(lend(VOLUME, 1), 0);
	assert_true(store->info.free == before - SEGMENT);
	segment = ctl.segments[0];
	assert_int_equal(free_one(OTHER, segment), -ESTALE);
	assert_int_equal(free_one(VOLUME, segment), 0);
	assert_true(store->info.free == before);
	assert_int_equal(free_one(VOLUME, segment), -ESTALE);
	assert_int_equal(list(VOLUME), 0);
	reopen();
	assert_int_equal(list(VOLUME), 0);
	assert_true(store->info.free == before);
	assert_int_equal(lend(OTHER, 1), 0);
	again = ctl.segments[0];
	assert_true(again.id == segment.id);
	assert_int_equal(again.generation, segment.generation + 1);
	assert_int_equal(free_one(OTHER, segment), -ESTALE);
	segment.id = 1 << 20;
	assert_int_equal(free_one(OTHER, segment), -ESTALE);
	close_store();
}

/* At the size limit: -ENOSPC, and what is freed can be lent. Nothing grows past it. */
static void lend_until_full(void **state)
{
	const struct store_local_config config = {.create = true,
						  .max_size = 2 * MiB + 20 * SEGMENT + 100};
	struct store_segment segment;

	(void)state;
	assert_int_equal(open_with(config), 0);
	assert_true(store->info.capacity == 20 * SEGMENT);
	assert_true(store->info.free == 20 * SEGMENT);
	assert_int_equal(lend(VOLUME, 64), 0);
	assert_int_equal(ctl.n, 20);
	segment = ctl.segments[7];
	assert_true(store->info.free == 0);
	assert_int_equal(lend(VOLUME, 1), -ENOSPC);
	assert_int_equal(ctl.n, 0);
	assert_int_equal(swap(NAME, 1, "no room"), -ENOSPC);
	assert_int_equal(get(NAME), -ENOENT);
	assert_int_equal(append(segment.id, 0, 1, 4096), 4096);
	assert_int_equal(free_one(VOLUME, segment), 0);
	assert_int_equal(lend(OTHER, 5), 0);
	assert_int_equal(ctl.n, 1);
	assert_true(ctl.segments[0].id == segment.id);
	close_store();
	assert_true(file_size() <= config.max_size);
	assert_int_equal(open_with(config), 0);
	assert_int_equal(list(VOLUME), 19);
	close_store();
}

/* The store grows group by group, and a lower limit later takes nothing away. */
static void grow_by_groups(void **state)
{
	(void)state;
	open_store();
	for (unsigned i = 0; i < 7; i++) /* 60, 60, the 6 that are left, and so on */
		assert_int_equal(lend(VOLUME, 60), 0);
	assert_true(file_size() == format_group_offset(SEGMENT, 3));
	assert_int_equal(append(300, 0, 0x44, 4096), 4096);
	close_store();
	assert_int_equal(open_with((struct store_local_config){.max_size = 100 * MiB}), 0);
	assert_true(store->info.free == 0);
	assert_int_equal(lend(VOLUME, 1), -ENOSPC);
	assert_int_equal(read_back(300, 0, 4096), 4096);
	assert_int_equal(buffer[77], 0x44);
	close_store();
}

/* Freed space beyond the pool goes back to the file system, and the pool is kept. */
static void free_gives_space_back(void **state)
{
	/* small enough for a reserve of no more than two, which stays in the pool */
	const struct store_local_config config = {
	    .create = true,
	    .pool_segments = 2,
	    .max_size = format_segment_offset(SEGMENT, 17),
	};
	struct store_segment lent[6];
	uint64_t used;

	(void)state;
	assert_int_equal(open_with(config), 0);
	assert_int_equal(lend(VOLUME, 6), 0);
	memcpy(lent, ctl.segments, sizeof(lent));
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(append(lent[i].id, 0, 0x55, 1 * MiB), 1 * MiB);
	assert_int_equal(sync_store(), 0);
	used = file_used();
	if (used < 6 * MiB)
		skip(); /* a file system that does not tell */
	ctl.volume = VOLUME;
	ctl.n = 6;
	memcpy(ctl.segments, lent, sizeof(lent));
	assert_int_equal(call(store->ops->free), 0);
	/* Closing waits for one punch; opening again does the rest. */
	for (unsigned i = 0; i < 6; i++) {
		close_store();
		assert_int_equal(open_with(config), 0);
		assert_int_equal(sync_store(), 0);
	}
	close_store();
	assert_true(file_used() <= used - 4 * MiB);
	assert_true(file_used() >= 2 * MiB);
}

/* One damaged copy of a table page costs nothing and is told; both are refused, but for a check,
 * which tells. */
static void table_damaged(void **state)
{
	uint64_t table[2] = {format_table_offset(SEGMENT, 0, 0),
			     format_table_offset(SEGMENT, 0, 1)};

	(void)state;
	open_store();
	assert_int_equal(lend(VOLUME, 5), 0);
	for (unsigned copy = 0; copy < 2; copy++) {
		close_store();
		file_flip(table[copy] + 1000);
		open_store();
		assert_int_equal(list(VOLUME), 5);
		assert_int_equal(check(), 1);
		assert_non_null(strstr(said[0], "segment table"));
	}
	reopen();
	assert_int_equal(check(), 0); /* mended */
	close_store();

	file_flip(table[0] + 1000);
	file_flip(table[1] + 2000);
	assert_int_equal(open_with((struct store_local_config){0}), -EUCLEAN);
	assert_non_null(strstr(opening.err.text, "table"));
	assert_int_equal(open_with((struct store_local_config){.read_only = true}), 0);
	assert_int_equal(check(), 3);
	close_store();
}

static struct io_msg mail;

static void open_on_owner(struct io_msg *msg)
{
	(void)msg;
	store_local_open(&opening);
}

/* The store's owner is another thread: every answer comes back to the caller's loop, and appends,
 * reads and syncs run on the caller's own. */
static void another_loop_calls(void **state)
{
	struct io_loop *other = make_loop("owner");
	struct store_segment lent;
	struct err err;

	(void)state;
	opening = (struct store_open){
	    .loop = other,
	    .config = {.path = path, .create = true, .segment_size = SEGMENT},
	    .done = open_done,
	};
	mail.run = open_on_owner;
	io_post(other, &mail);
	assert_int_equal(io_loop_start(other, &err), 0);
	run();
	assert_int_equal(opening.err.code, 0);
	store = opening.store;
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(lend(VOLUME, 2), 0);
		lent = ctl.segments[1];
		assert_int_equal(append(lent.id, 0, (uint8_t)i, 4096), 4096);
		assert_int_equal(sync_store(), 0);
		assert_int_equal(swap(NAME, i, "text"), 0);
		assert_int_equal(free_one(VOLUME, lent), 0);
		assert_int_equal(list(VOLUME), i);
	}
	assert_object(NAME, 20, "text");
	close_store();
	io_loop_stop(other);
	assert_int_equal(io_loop_join(other), 0);
	io_loop_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    STORE_TEST(lend_is_listed),        STORE_TEST(list_in_parts),
	    STORE_TEST(append_and_read),       STORE_TEST(free_and_lend_again),
	    STORE_TEST(lend_until_full),       STORE_TEST(grow_by_groups),
	    STORE_TEST(free_gives_space_back), STORE_TEST(table_damaged),
	    STORE_TEST(another_loop_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
