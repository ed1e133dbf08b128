/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of io/ share: a loop that runs in the test's own thread until so many operations
 * have completed, and a directory that is gone afterwards.
 */
#ifndef TESTS_UNIT_TEST_IO_COMMON_H
#define TESTS_UNIT_TEST_IO_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "io/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct io_loop *test_loop;
static int test_pending; /* operations that have yet to complete; the last one stops the loop */

struct test_op {
	struct io_op op;
	int n_done;
};

static inline void test_op_done(struct io_op *op)
{
	container_of(op, struct test_op, op)->n_done++;
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

/* To be passed to a function that starts it. */
static inline struct io_op *test_op(struct test_op *t)
{
	*t = (struct test_op){.op.done = test_op_done};
	test_pending++;
	return &t->op;
}

/* Runs the loop until all operations have completed. */
static inline void test_run(void)
{
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(test_pending, 0);
}

/* Runs one operation that was started just now: it can't have completed yet. */
static inline int64_t test_result(struct test_op *t)
{
	assert_int_equal(t->n_done, 0);
	test_run();
	assert_int_equal(t->n_done, 1);
	return t->op.result;
}

static inline int test_loop_setup_entries(unsigned queue_entries)
{
	struct io_loop_config config = {.name = "test", .queue_entries = queue_entries, .cpu = -1};
	struct err err;

	test_pending = 0;
	if (io_loop_new(&config, &test_loop, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	return 0;
}

static inline int test_loop_setup(void **state)
{
	(void)state;
	return test_loop_setup_entries(0);
}

static inline int test_loop_teardown(void **state)
{
	(void)state;
	io_loop_free(test_loop);
	test_loop = NULL;
	return 0;
}

#endif
