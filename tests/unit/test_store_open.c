/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a store on a real file: what is taken for one, and what is refused.
 */
#include "tests/unit/test_store_common.h"

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

int main(void)
{
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
