/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate: E7, an attachment that was fenced can write nothing; and the table of exports.
 */
#include "tests/unit/test_io_common.h"

#include "block/export_table.h"
#include "block/gate.h"
#include "block/ram.h"

#define SIZE (4 * MiB)

static struct ram *ram;
static struct gate gate;
static uint8_t *buf;
static int n_drained;
static int n_done;
static int done_before_drained;

static int setup(void **state)
{
	struct err err;

	n_drained = 0;
	n_done = 0;
	done_before_drained = -1;
	buf = mem_alloc_pages(BLOCK_SIZE);
	if (!buf || test_loop_setup(state) < 0)
		return -1;
	if (ram_new(test_loop, SIZE, 0, &ram, &err) < 0)
		return -1;
	gate_init(&gate, ram_dev(ram), test_loop, 7);
	return 0;
}

static int teardown(void **state)
{
	ram_free(ram);
	mem_free_pages(buf, BLOCK_SIZE);
	return test_loop_teardown(state);
}

static void finish_one(void)
{
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

static void on_done(struct block_req *req)
{
	(void)req;
	n_done++;
	finish_one();
}

static void on_drained(struct gate *g)
{
	assert_ptr_equal(g, &gate);
	assert_int_equal(g->in_flight, 0);
	n_drained++;
	done_before_drained = n_done;
	finish_one();
}

static void start(struct block_req *req, enum block_op op)
{
	*req = (struct block_req){.op = op, .buf = buf, .done = on_done};
	req->length = op == BLOCK_FLUSH ? 0 : BLOCK_SIZE;
	test_pending++;
	block_submit(&gate.dev, req);
}

static void close_gate(void)
{
	test_pending++;
	gate_close(&gate, on_drained);
}

/* An open gate passes requests and their errors, and counts them. */
static void open_passes(void **state)
{
	struct block_req write;
	struct block_req read;

	(void)state;
	assert_int_equal(gate.generation, 7);
	assert_int_equal(block_size(&gate.dev), SIZE);
	start(&write, BLOCK_WRITE);
	start(&read, BLOCK_READ);
	assert_int_equal(gate.in_flight, 2);
	test_run();
	assert_int_equal(gate.in_flight, 0);
	assert_int_equal(write.error | read.error, 0);
	assert_ptr_equal(write.done, on_done);
}

/* What was inside when the gate closed completes; drained comes after it, once. */
static void close_drains(void **state)
{
	struct block_req reqs[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		start(&reqs[i], BLOCK_WRITE);
	close_gate();
	assert_int_equal(n_drained, 0);
	test_run();
	for (int i = 0; i < 3; i++)
		assert_int_equal(reqs[i].error, 0);
	assert_int_equal(n_drained, 1);
	assert_int_equal(done_before_drained, 3);
}

static struct block_req *held;

static void hold(struct block_dev *dev, struct block_req *req)
{
	(void)dev;
	held = req;
}

static void release(struct io_op *op)
{
	(void)op;
	assert_int_equal(n_drained, 0);
	block_done(held, 0);
	finish_one();
}

/* E7: a gate is not drained as long as the device below keeps a request. */
static void close_waits_for_what_is_inside(void **state)
{
	static const struct block_ops ops = {.name = "holds", .submit = hold};
	struct block_dev holder = {.ops = &ops};
	struct io_op timer = {.done = release};
	struct block_req req;

	(void)state;
	block_set_size(&holder, SIZE);
	gate_init(&gate, &holder, test_loop, 8);
	start(&req, BLOCK_WRITE);
	close_gate();
	test_pending++;
	io_timer(test_loop, &timer, 5000000);
	test_run();
	assert_int_equal(n_drained, 1);
	assert_int_equal(done_before_drained, 1);
}

/* E7: what comes after the gate closed is refused and reaches nothing below. */
static void closed_refuses(void **state)
{
	struct block_req inside;
	struct block_req late;

	(void)state;
	memset(buf, 1, BLOCK_SIZE);
	start(&inside, BLOCK_READ);
	close_gate();
	start(&late, BLOCK_WRITE);
	assert_int_equal(n_done, 0); /* not inside submit */
	test_run();
	assert_int_equal(inside.error, 0);
	assert_int_equal(late.error, -ESHUTDOWN);
	assert_int_equal(n_drained, 1);
	assert_int_equal(ram_allocated(ram), 0);

	start(&late, BLOCK_FLUSH);
	test_run();
	assert_int_equal(late.error, -ESHUTDOWN);
	assert_int_equal(n_drained, 1);
}

/* An empty gate drains at once, but not inside gate_close. */
static void close_empty(void **state)
{
	(void)state;
	close_gate();
	assert_int_equal(n_drained, 0);
	test_run();
	assert_int_equal(n_drained, 1);
}

/* The gate shows the new size when it is told. */
static void size_follows(void **state)
{
	(void)state;
	assert_int_equal(ram_grow(ram, 2 * SIZE), 0);
	gate_update_size(&gate);
	assert_int_equal(block_size(&gate.dev), 2 * SIZE);
}

/* ---- The export table ---- */

static struct export_table table;
static struct export_op op;

static void on_resolved(struct export_op *o)
{
	(void)o;
	finish_one();
}

static int resolve(const char *name, bool claim)
{
	op = (struct export_op){.loop = test_loop, .done = on_resolved, .claim = claim};
	snprintf(op.name, sizeof(op.name), "%s", name);
	test_pending++;
	table.exports.resolve(&table.exports, &op);
	assert_int_equal(test_pending, 1); /* never inside the call */
	test_run();
	return op.error;
}

static void fill_table(void)
{
	export_table_init(&table);
	assert_int_equal(export_table_add(&table, "one", "first", ram_dev(ram), test_loop, true),
			 0);
	assert_int_equal(export_table_add(&table, "two", "", &gate.dev, test_loop, false), 0);
}

/* Names find their devices; "" finds the first one. */
static void table_resolves(void **state)
{
	(void)state;
	fill_table();
	assert_int_equal(resolve("two", false), 0);
	assert_ptr_equal(op.info.dev, &gate.dev);
	assert_false(op.info.multi_conn);
	assert_int_equal(resolve("", false), 0);
	assert_string_equal(op.info.name, "one");
	assert_string_equal(op.info.description, "first");
	assert_ptr_equal(op.info.dev, ram_dev(ram));
	assert_ptr_equal(op.info.loop, test_loop);
	assert_int_equal(op.info.size, SIZE);
	assert_true(op.info.multi_conn);
	assert_false(op.info.read_only);
	assert_int_equal(resolve("three", false), -ENOENT);
}

/* An empty table has no default. */
static void table_empty(void **state)
{
	(void)state;
	export_table_init(&table);
	assert_int_equal(resolve("", true), -ENOENT);
}

/* Claims are counted, and only those that were asked for. */
static void table_claims(void **state)
{
	void *first;

	(void)state;
	fill_table();
	resolve("one", false);
	assert_int_equal(export_table_claims(&table, 0), 0);
	resolve("one", true);
	first = op.claim_handle;
	resolve("", true);
	assert_int_equal(export_table_claims(&table, 0), 2);
	assert_int_equal(export_table_claims(&table, 1), 0);
	table.exports.release(&table.exports, first);
	table.exports.release(&table.exports, op.claim_handle);
	assert_int_equal(export_table_claims(&table, 0), 0);
}

/* Listing goes page by page and ends. */
static void table_lists(void **state)
{
	char names[2][EXPORT_DESCRIPTION_MAX];

	(void)state;
	fill_table();
	assert_int_equal(table.exports.list(&table.exports, true, 0, 1, names), 1);
	assert_string_equal(names[0], "one");
	assert_int_equal(table.exports.list(&table.exports, true, 1, 2, names), 1);
	assert_string_equal(names[0], "two");
	assert_int_equal(table.exports.list(&table.exports, true, 2, 2, names), 0);
}

/* Names are unique and bounded, and so is the table. */
static void table_refuses(void **state)
{
	char name[EXPORT_TABLE_NAME_MAX + 2];

	(void)state;
	fill_table();
	assert_int_equal(export_table_add(&table, "one", "", &gate.dev, test_loop, false), -EEXIST);
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(export_table_add(&table, name, "", &gate.dev, test_loop, false),
			 -ENAMETOOLONG);
	for (int i = 2; i < EXPORT_TABLE_MAX; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(export_table_add(&table, name, "", &gate.dev, test_loop, false),
				 0);
	}
	assert_int_equal(export_table_add(&table, "more", "", &gate.dev, test_loop, false),
			 -ENOSPC);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(open_passes),    TEST(close_drains),   TEST(close_waits_for_what_is_inside),
	    TEST(closed_refuses), TEST(close_empty),    TEST(size_follows),
	    TEST(table_empty),    TEST(table_resolves), TEST(table_claims),
	    TEST(table_lists),    TEST(table_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
