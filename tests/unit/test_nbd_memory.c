/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's memory: size classes, and pools that give rested pages back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "nbd/limits.h"
#include "nbd/memory.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

static bool resident(void *page)
{
	unsigned char in_core = 0;

	assert_int_equal(mincore(page, PAGE, &in_core), 0);
	return in_core & 1;
}

/* The class has room for the payload wherever in its page it begins. */
static void class_fits(void **state)
{
	(void)state;
	assert_int_equal(nbd_memory_class(0, 512), NBD_CLASS_4K);
	assert_int_equal(nbd_memory_class(0, 4096), NBD_CLASS_4K);
	assert_int_equal(nbd_memory_class(3584, 512), NBD_CLASS_4K);
	assert_int_equal(nbd_memory_class(512, 4096), NBD_CLASS_16K);
	assert_int_equal(nbd_memory_class(0, 64 * KiB), NBD_CLASS_64K);
	assert_int_equal(nbd_memory_class(0, 256 * KiB), NBD_CLASS_256K);
	assert_int_equal(nbd_memory_class(3584, 256 * KiB), NBD_CLASS_256K);
	assert_int_equal(nbd_memory_class(3584, MiB), NBD_CLASS_1M);
	assert_int_equal(nbd_memory_class(3584, 4 * MiB), NBD_CLASS_4M);
	assert_int_equal(nbd_memory_class(3584, NBD_MAX_PAYLOAD), NBD_CLASS_32M);
}

/* However small the budget, there is something of each class, so that nobody waits for ever. */
static void tiny_budget(void **state)
{
	struct nbd_memory memory;

	(void)state;
	assert_int_equal(nbd_memory_init(&memory, 1, 100), 0);
	for (int i = 0; i < NBD_N_CLASSES; i++)
		assert_true(pool_available(memory.pools[i]) > 0);
	assert_false(nbd_memory_wanted(&memory, NULL));
	nbd_memory_free(&memory);
}

/* A trim takes the pages of objects that rested since the one before, and of no others. */
static void trim_gives_back_what_rested(void **state)
{
	struct pool *pool = pool_new(PAGE, 4);
	void *a = pool_get(pool);
	void *b = pool_get(pool);

	(void)state;
	memset(a, 1, PAGE);
	memset(b, 2, PAGE);
	assert_int_equal(pool_available(pool), 2);
	pool_put(pool, b);
	assert_true(pool_trim(pool)); /* b was in use since the start */
	assert_true(resident(b));
	assert_true(pool_trim(pool)); /* b rested, a did not */
	assert_false(resident(b));
	assert_true(resident(a));
	assert_int_equal(((char *)a)[0], 1);
	pool_put(pool, a);
	assert_true(pool_trim(pool));
	assert_false(pool_trim(pool)); /* nothing is left to give back */
	assert_false(resident(a));
	assert_ptr_equal(pool_get(pool), a);
	assert_int_equal(((char *)a)[0], 0); /* fresh memory */
	pool_put(pool, a);
	pool_free(pool);
}

/* Objects that are used between trims keep their pages. */
static void trim_spares_the_busy(void **state)
{
	struct pool *pool = pool_new(PAGE, 3);
	void *a;

	(void)state;
	for (int i = 0; i < 5; i++) {
		a = pool_get(pool);
		memset(a, 1, PAGE);
		pool_put(pool, a);
		assert_true(pool_trim(pool));
		assert_true(resident(a));
	}
	pool_trim(pool);
	assert_false(resident(a));
	pool_free(pool);
}

/* A pool of huge pages gives them back when all has rested, and not in part. */
static void trim_of_huge_pages_is_whole(void **state)
{
	struct pool *pool = pool_new(64 * PAGE, 64);
	void *a = pool_get(pool);
	void *b = pool_get(pool);

	(void)state;
	pool_use_huge_pages(pool);
	memset(a, 1, 64 * PAGE);
	memset(b, 2, 64 * PAGE);
	pool_put(pool, b);
	assert_true(pool_trim(pool));
	assert_true(pool_trim(pool)); /* b rested, but a did not */
	assert_true(resident(a));
	assert_true(resident(b));
	pool_put(pool, a);
	assert_true(pool_trim(pool)); /* a was in use since the last trim */
	assert_true(resident(a));
	assert_false(pool_trim(pool));
	assert_false(resident(a));
	assert_false(resident(b));
	assert_ptr_equal(pool_get(pool), a);
	assert_int_equal(((char *)a)[0], 0); /* fresh memory */
	pool_put(pool, a);
	pool_free(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(class_fits),
	    cmocka_unit_test(tiny_budget),
	    cmocka_unit_test(trim_gives_back_what_rested),
	    cmocka_unit_test(trim_spares_the_busy),
	    cmocka_unit_test(trim_of_huge_pages_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
