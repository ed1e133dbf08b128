/* SPDX-License-Identifier: Apache-2.0
 *
 * The local store on a real file, through the real io/.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "store/format.h"
#include "store/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENT (4 * MiB)
#define NAME    ((struct id){.hi = 5, .lo = 6})
#define VOLUME  ((struct id){.hi = 1, .lo = 2})
#define OTHER   ((struct id){.hi = 1, .lo = 3})

/* ---- Help -------------------------------------------------------------------------------------
 */

static char dir[64];
static char path[96];
static struct io_loop *loop;
static struct store *store;
static struct store_open opening;
static struct store_ctl ctl;
static struct store_io sio;
static uint8_t *buffer; /* 1 MiB, page-aligned */
static char said[8][200];
static unsigned n_said;

static struct io_loop *make_loop(const char *name)
{
	struct io_loop_config config = {.name = name, .cpu = -1};
	struct io_loop *made = NULL;
	struct err err;

	assert_int_equal(io_loop_new(&config, &made, &err), 0);
	return made;
}

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test_store.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/store", dir);
	loop = make_loop("test");
	buffer = mem_alloc_pages(1 * MiB);
	return buffer ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	io_loop_free(loop);
	mem_free_pages(buffer, 1 * MiB);
	unlink(path);
	return rmdir(dir);
}

static void run(void)
{
	assert_int_equal(io_loop_run(loop), 0);
}

static void open_done(struct store_open *open)
{
	(void)open;
	io_loop_stop(loop);
}

/* Returns the error's code; the store is set if it is 0. */
static int open_with(struct store_local_config config)
{
	config.path = path;
	config.segment_size = config.segment_size ? config.segment_size : SEGMENT;
	opening = (struct store_open){.loop = loop, .config = config, .done = open_done};
	store_local_open(&opening);
	run();
	if (opening.err.code == 0)
		store = opening.store;
	return opening.err.code;
}

static void open_store(void)
{
	int r = open_with((struct store_local_config){.create = true});

	if (r)
		fail_msg("%s", opening.err.text);
}

static void ctl_done(struct store_ctl *c)
{
	(void)c;
	io_loop_stop(loop);
}

static int call(void (*op)(struct store *store, struct store_ctl *ctl))
{
	ctl.loop = loop;
	ctl.done = ctl_done;
	op(store, &ctl);
	run();
	return ctl.error;
}

static void close_store(void)
{
	assert_int_equal(call(store->ops->close), 0);
	store = NULL;
}

static void reopen(void)
{
	close_store();
	open_store();
}

static int lend(struct id volume, uint32_t n)
{
	ctl.volume = volume;
	ctl.incarnation = 9;
	ctl.stream = STORE_STREAM_MAP;
	ctl.n = n;
	return call(store->ops->lend);
}

static int free_one(struct id volume, struct store_segment segment)
{
	ctl.volume = volume;
	ctl.n = 1;
	ctl.segments[0] = segment;
	return call(store->ops->free);
}

static unsigned list(struct id volume)
{
	ctl.volume = volume;
	ctl.private[0] = 0;
	assert_int_equal(call(store->ops->list), 0);
	return ctl.n;
}

static int get(struct id name)
{
	ctl.volume = name;
	return call(store->ops->object_get);
}

static int swap(struct id name, uint64_t version, const char *text)
{
	ctl.volume = name;
	ctl.version = version;
	ctl.length = (uint32_t)strlen(text);
	memcpy(ctl.data, text, ctl.length);
	return call(store->ops->object_swap);
}

static void assert_object(struct id name, uint64_t version, const char *text)
{
	assert_int_equal(get(name), 0);
	assert_true(ctl.version == version);
	assert_int_equal(ctl.length, strlen(text));
	assert_memory_equal(ctl.data, text, ctl.length);
}

static void io_done(struct store_io *io)
{
	(void)io;
	io_loop_stop(loop);
}

static int64_t append(uint64_t segment, uint32_t offset, uint8_t fill, size_t len)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = len};

	memset(buffer, fill, len);
	sio.done = io_done;
	store_append(store, loop, &sio, segment, offset, &iov, 1);
	run();
	return sio.result;
}

static int64_t read_back(uint64_t segment, uint32_t offset, size_t len)
{
	memset(buffer, 0xee, len);
	sio.done = io_done;
	store_read(store, loop, &sio, segment, offset, buffer, (uint32_t)len);
	run();
	return sio.result;
}

static int64_t sync_store(void)
{
	sio.done = io_done;
	store_sync(store, loop, &sio);
	run();
	return sio.result;
}

static void say(void *arg, const char *text)
{
	(void)arg;
	if (n_said < ARRAY_SIZE(said))
		snprintf(said[n_said], sizeof(said[0]), "%s", text);
	n_said++;
}

static unsigned check(void)
{
	n_said = 0;
	return store_local_check(store, say, NULL);
}

/* The file behind the store's back. */
static void file_write(uint64_t offset, const void *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)offset), len);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static void file_read(uint64_t offset, void *bytes, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, bytes, len, (off_t)offset), len);
	close(fd);
}

static void file_flip(uint64_t offset)
{
	uint8_t byte;

	file_read(offset, &byte, 1);
	byte ^= 0x10;
	file_write(offset, &byte, 1);
}

static uint64_t file_size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static uint64_t file_used(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* ---- Opening ----------------------------------------------------------------------------------
 */

/* A new store is small, knows itself again, and raises its owner term at each opening (T5). */
static void open_new_and_again(void **state)
{
	struct id uuid;

	(void)state;
	open_store();
	uuid = store->info.uuid;
	assert_false(id_is_zero(uuid));
	assert_true(store->info.owner_term == 1);
	assert_int_equal(store->info.segment_size, SEGMENT);
	assert_true(store->info.alignment == 512 || store->info.alignment == 4096);
	assert_true(store->info.free > 0);
	assert_true(file_size() <= 2 * MiB);
	reopen();
	assert_true(id_equal(uuid, store->info.uuid));
	assert_true(store->info.owner_term == 2);
	assert_int_equal(check(), 0);
	close_store();
}

/* A missing file is made only when that was asked for. */
static void open_missing_is_refused(void **state)
{
	(void)state;
	assert_int_equal(open_with((struct store_local_config){0}), -ENOENT);
	assert_non_null(strstr(opening.err.text, path));
	assert_int_equal(access(path, F_OK), -1);
	file_write(0, "", 0);
	assert_int_equal(open_with((struct store_local_config){0}), -EMEDIUMTYPE);
	assert_non_null(strstr(opening.err.text, "blank"));
}

/* A second daemon on the same store is refused. */
static void open_twice_is_refused(void **state)
{
	struct store *first;

	(void)state;
	open_store();
	first = store;
	assert_int_equal(open_with((struct store_local_config){.create = true}), -EBUSY);
	assert_non_null(strstr(opening.err.text, path));
	store = first;
	close_store();
	open_store();
	close_store();
}

/* Bytes of something else are never overwritten, wherever in the file they are. */
static void open_foreign_is_refused(void **state)
{
	const uint64_t places[][2] = {
	    /* where the bytes are, how long the file is */
	    {0, 100},
	    {0, 8 * MiB},
	    {1080, 8 * MiB},
	    {64 * KiB, 8 * MiB},
	    {1023 * KiB, 8 * MiB},
	    {8 * MiB - 512, 8 * MiB},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		char text[5] = {0};

		file_write(places[i][0], "hello", 5);
		assert_int_equal(truncate(path, (off_t)places[i][1]), 0);
		assert_int_equal(open_with((struct store_local_config){.create = true}),
				 -EMEDIUMTYPE);
		assert_non_null(strstr(opening.err.text, "not a volumed store"));
		file_read(places[i][0], text, 5);
		assert_memory_equal(text, "hello", 5);
		assert_true(file_size() == places[i][1]);
		unlink(path);
	}
}

/* A blank file of any length becomes a store. */
static void open_blank_is_formatted(void **state)
{
	(void)state;
	file_write(0, "", 0);
	assert_int_equal(truncate(path, 64 * MiB), 0);
	open_store();
	assert_int_equal(lend(VOLUME, 1), 0);
	close_store();
	assert_true(file_size() > 64 * MiB);
}

static void super_change(void (*change)(struct format_super *super))
{
	uint8_t page[FORMAT_PAGE];
	struct format_super super;

	for (unsigned copy = 0; copy < 2; copy++) {
		file_read(copy * FORMAT_SUPER_DISTANCE, page, sizeof(page));
		assert_int_equal(format_super_decode(page, &super), 0);
		change(&super);
		format_super_encode(&super, page);
		file_write(copy * FORMAT_SUPER_DISTANCE, page, sizeof(page));
	}
}

static void change_must(struct format_super *super)
{
	super->features_must = 1;
}

static void change_read_only(struct format_super *super)
{
	super->features_must = 0;
	super->features_read_only = 1;
}

static void change_ignorable(struct format_super *super)
{
	super->features_read_only = 0;
	super->features_ignorable = 1;
}

/* Feature bits in three strengths: refuse, read only, go on. */
static void open_unknown_features(void **state)
{
	const struct store_local_config read_only = {.read_only = true};

	(void)state;
	open_store();
	close_store();
	super_change(change_must);
	assert_int_equal(open_with((struct store_local_config){0}), -ENOTSUP);
	assert_int_equal(open_with(read_only), -ENOTSUP);
}

static void open_unknown_features_weaker(void **state)
{
	const struct store_local_config read_only = {.read_only = true};

	(void)state;
	open_store();
	close_store();
	super_change(change_read_only);
	assert_int_equal(open_with((struct store_local_config){0}), -ENOTSUP);
	assert_non_null(strstr(opening.err.text, "read"));
	assert_int_equal(open_with(read_only), 0);
	close_store();
	super_change(change_ignorable);
	open_store();
	close_store();
}

/* One damaged superblock costs nothing and is told; the next opening has mended it. */
static void open_one_superblock_damaged(void **state)
{
	(void)state;
	for (unsigned copy = 0; copy < 2; copy++) {
		open_store();
		assert_int_equal(check(), 0);
		if (list(VOLUME) == 0)
			assert_int_equal(lend(VOLUME, 2), 0);
		close_store();
		file_flip(copy * FORMAT_SUPER_DISTANCE + 70);
		open_store();
		assert_int_equal(check(), 1);
		assert_non_null(strstr(said[0], "superblock"));
		assert_int_equal(list(VOLUME), 2);
		close_store();
	}
}

/* With both damaged nothing is guessed. */
static void open_both_superblocks_damaged(void **state)
{
	(void)state;
	open_store();
	close_store();
	file_flip(70);
	file_flip(FORMAT_SUPER_DISTANCE + 4000);
	assert_int_equal(open_with((struct store_local_config){.create = true}), -EUCLEAN);
	assert_non_null(strstr(opening.err.text, path));
	assert_int_equal(open_with((struct store_local_config){.read_only = true}), -EUCLEAN);
}

/* A file that lost its end is refused, since its table says more than it holds. */
static void open_truncated_is_refused(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(lend(VOLUME, 1), 0);
	close_store();
	assert_int_equal(truncate(path, 1 * MiB), 0);
	assert_int_equal(open_with((struct store_local_config){0}), -EUCLEAN);
	assert_non_null(strstr(opening.err.text, "cut off"));
}

/* Sizes that make no store are refused before anything is made. */
static void open_bad_config_is_refused(void **state)
{
	const uint32_t sizes[] = {1, 1 * MiB, 4 * MiB + 4096, 4 * MiB + 1, UINT32_MAX};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(open_with((struct store_local_config){.create = true,
								       .segment_size = sizes[i]}),
				 -EINVAL);
		assert_int_equal(access(path, F_OK), -1);
	}
	assert_int_equal(
	    open_with((struct store_local_config){.create = true, .max_size = 5 * MiB}), -EINVAL);
	assert_non_null(strstr(opening.err.text, "too small"));
}

/* Opened read-only, a store is read and not changed by a byte. */
static void open_read_only_changes_nothing(void **state)
{
	uint8_t before[2][FORMAT_PAGE], after[2][FORMAT_PAGE];

	(void)state;
	open_store();
	assert_int_equal(lend(VOLUME, 3), 0);
	assert_int_equal(swap(NAME, 1, "one"), 0);
	close_store();
	file_read(0, before[0], FORMAT_PAGE);
	file_read(FORMAT_SUPER_DISTANCE, before[1], FORMAT_PAGE);

	assert_int_equal(open_with((struct store_local_config){.read_only = true}), 0);
	assert_int_equal(list(VOLUME), 3);
	assert_object(NAME, 1, "one");
	assert_int_equal(lend(VOLUME, 1), -EROFS);
	assert_int_equal(swap(NAME, 2, "two"), -EROFS);
	assert_int_equal(append(1, 0, 1, 4096), -EROFS);
	assert_int_equal(sync_store(), 0);
	assert_int_equal(check(), 0);
	close_store();
	file_read(0, after[0], FORMAT_PAGE);
	file_read(FORMAT_SUPER_DISTANCE, after[1], FORMAT_PAGE);
	assert_memory_equal(before, after, sizeof(before));
}

/* ---- Segments ---------------------------------------------------------------------------------
 */

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
	const struct store_local_config config = {.create = true, .pool_segments = 2};
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

/* ---- Objects ----------------------------------------------------------------------------------
 */

/* Versions go up one by one; a swap from another version is stale. */
static void object_versions(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(get(NAME), -ENOENT);
	assert_int_equal(swap(NAME, 2, "x"), -ESTALE);
	assert_int_equal(swap(NAME, 0, "x"), -ESTALE);
	assert_int_equal(swap(NAME, 1, ""), -ENOENT);
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 1, "again"), -ESTALE);
	assert_int_equal(swap(NAME, 3, "too far"), -ESTALE);
	assert_object(NAME, 1, "one");
	assert_int_equal(swap(NAME, 2, "two"), 0);
	assert_object(NAME, 2, "two");
	reopen();
	assert_object(NAME, 2, "two");
	assert_false(ctl.degraded);
	assert_int_equal(swap(NAME, 3, "three"), 0);
	reopen();
	assert_object(NAME, 3, "three");
	close_store();
}

/* A deleted object is gone, stays gone, and its name starts at version 1 again. */
static void object_delete(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 2, ""), 0);
	assert_int_equal(get(NAME), -ENOENT);
	reopen();
	assert_int_equal(get(NAME), -ENOENT);
	assert_int_equal(swap(NAME, 3, "no"), -ESTALE);
	assert_int_equal(swap(OTHER, 1, "other"), 0);
	assert_int_equal(swap(NAME, 1, "new"), 0);
	reopen();
	assert_object(NAME, 1, "new");
	assert_object(OTHER, 1, "other");
	close_store();
}

/* An object of the greatest size survives; there may be more than one answer's worth of them. */
static void object_many(void **state)
{
	unsigned n = 0;

	(void)state;
	open_store();
	for (unsigned i = 0; i < 600; i++) {
		ctl.volume = (struct id){.hi = 9, .lo = i};
		ctl.version = 1;
		ctl.length = i == 0 ? STORE_OBJECT_MAX : 1 + i;
		memset(ctl.data, (int)i, ctl.length);
		assert_int_equal(call(store->ops->object_swap), 0);
	}
	reopen();
	ctl.private[0] = 0;
	do {
		assert_int_equal(call(store->ops->object_list), 0);
		for (unsigned i = 0; i < ctl.n; i++)
			assert_true(ctl.segments[i].id == 9);
		n += ctl.n;
	} while (ctl.n > 0);
	assert_int_equal(n, 600);
	assert_int_equal(get((struct id){.hi = 9, .lo = 0}), 0);
	assert_int_equal(ctl.length, STORE_OBJECT_MAX);
	assert_int_equal(get((struct id){.hi = 9, .lo = 599}), 0);
	assert_int_equal(ctl.length, 600);
	assert_int_equal(ctl.data[599], (uint8_t)599);
	close_store();
}

/* Where the two slots of the only object are. */
static uint64_t object_slot(unsigned slot)
{
	return format_segment_offset(SEGMENT, 1) + slot * FORMAT_PAGE;
}

/* T2: with one damaged copy an object is the newest version or the one before, and says so; the
 * next two swaps have mended it. */
static void object_one_copy_damaged(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 2, "two"), 0); /* the third write of the pair: slot 1 */
	file_flip(object_slot(0) + 100);
	assert_object(NAME, 2, "two");
	assert_true(ctl.degraded);
	assert_int_equal(swap(NAME, 3, "three"), 0); /* slot 0 */
	assert_object(NAME, 3, "three");
	assert_false(ctl.degraded);

	close_store();
	file_flip(object_slot(0) + 100);
	open_store();
	assert_int_equal(check(), 1);
	assert_object(NAME, 2, "two");
	assert_true(ctl.degraded);
	assert_int_equal(swap(NAME, 4, "four"), -ESTALE);
	assert_int_equal(swap(NAME, 3, "other three"), 0);
	reopen();
	assert_object(NAME, 3, "other three");
	assert_false(ctl.degraded);
	close_store();
}

/* Damage while the store is open is noticed, too. */
static void object_damaged_while_open(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 2, "two"), 0);
	file_flip(object_slot(1) + 100);
	assert_object(NAME, 1, "one");
	assert_true(ctl.degraded);
	assert_int_equal(swap(NAME, 2, "other two"), 0);
	assert_object(NAME, 2, "other two");
	assert_false(ctl.degraded);
	file_flip(object_slot(0) + 100);
	file_flip(object_slot(1) + 100);
	assert_int_equal(get(NAME), -EUCLEAN);
	close_store();
}

/* Both copies damaged: the object is lost and told, its place is never used again, and the others
 * go on. */
static void object_both_copies_damaged(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(OTHER, 1, "other"), 0);
	close_store();
	file_flip(object_slot(0) + 100);
	file_flip(object_slot(1) + 100);
	open_store();
	assert_int_equal(check(), 1);
	assert_non_null(strstr(said[0], "lost"));
	assert_int_equal(get(NAME), -ENOENT);
	assert_object(OTHER, 1, "other");
	assert_int_equal(swap(NAME, 1, "new"), 0);
	reopen();
	assert_int_equal(check(), 1);
	assert_object(NAME, 1, "new");
	close_store();
}

/* A deleted object does not come back when a copy is damaged later. */
static void object_deleted_stays_deleted(void **state)
{
	(void)state;
	for (unsigned slot = 0; slot < 2; slot++) {
		open_store();
		assert_int_equal(swap(NAME, 1, "one"), 0);
		assert_int_equal(swap(NAME, 2, "two"), 0);
		assert_int_equal(swap(NAME, 3, ""), 0);
		close_store();
		file_flip(object_slot(slot) + 100);
		open_store();
		assert_int_equal(get(NAME), -ENOENT);
		close_store();
	}
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

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
#define STORE_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    STORE_TEST(open_new_and_again),
	    STORE_TEST(open_missing_is_refused),
	    STORE_TEST(open_twice_is_refused),
	    STORE_TEST(open_foreign_is_refused),
	    STORE_TEST(open_blank_is_formatted),
	    STORE_TEST(open_unknown_features),
	    STORE_TEST(open_unknown_features_weaker),
	    STORE_TEST(open_one_superblock_damaged),
	    STORE_TEST(open_both_superblocks_damaged),
	    STORE_TEST(open_truncated_is_refused),
	    STORE_TEST(open_bad_config_is_refused),
	    STORE_TEST(open_read_only_changes_nothing),
	    STORE_TEST(lend_is_listed),
	    STORE_TEST(list_in_parts),
	    STORE_TEST(append_and_read),
	    STORE_TEST(free_and_lend_again),
	    STORE_TEST(lend_until_full),
	    STORE_TEST(grow_by_groups),
	    STORE_TEST(free_gives_space_back),
	    STORE_TEST(table_damaged),
	    STORE_TEST(object_versions),
	    STORE_TEST(object_delete),
	    STORE_TEST(object_many),
	    STORE_TEST(object_one_copy_damaged),
	    STORE_TEST(object_damaged_while_open),
	    STORE_TEST(object_both_copies_damaged),
	    STORE_TEST(object_deleted_stays_deleted),
	    STORE_TEST(another_loop_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
