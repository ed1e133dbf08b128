/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects of a store on a real file: versions, deletion, damage.
 */
#include "tests/unit/test_store_common.h"

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

/* T2: one damaged copy, either of them, costs nothing; it is told, and the next opening mends it.
 */
static void object_one_copy_damaged(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 2, "two"), 0);
	for (unsigned slot = 0; slot < 2; slot++) {
		file_flip(object_slot(slot) + 100);
		assert_object(NAME, 2, "two");
		assert_true(ctl.degraded);
		reopen();
		assert_int_equal(check(), 1);
		reopen();
		assert_int_equal(check(), 0);
		assert_object(NAME, 2, "two");
		assert_false(ctl.degraded);
	}
	close_store();
}

/* Damage while the store is open is noticed, too, and the next swap mends it. */
static void object_damaged_while_open(void **state)
{
	(void)state;
	open_store();
	assert_int_equal(swap(NAME, 1, "one"), 0);
	assert_int_equal(swap(NAME, 2, "two"), 0);
	file_flip(object_slot(1) + 100);
	assert_object(NAME, 2, "two");
	assert_true(ctl.degraded);
	assert_int_equal(swap(NAME, 3, "three"), 0);
	assert_object(NAME, 3, "three");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    STORE_TEST(object_versions),
	    STORE_TEST(object_delete),
	    STORE_TEST(object_many),
	    STORE_TEST(object_one_copy_damaged),
	    STORE_TEST(object_damaged_while_open),
	    STORE_TEST(object_both_copies_damaged),
	    STORE_TEST(object_deleted_stays_deleted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
