/* SPDX-License-Identifier: Apache-2.0
 *
 * The snapshot repository without crashes: S1, S3, S4, S5, and what is asked of each operation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "snapshots/base.h"
#include "tests/sim/depot.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct model empty;

static unsigned stored_bytes(struct depot *depot)
{
	return (unsigned)blobs_sim_stored(depot->objects, PREFIX_PACKS);
}

/* S1: a line of incremental snapshots; each reads as what its volume held. */
static void every_snapshot_reads_as_what_was_put(void **state)
{
	struct seeds seeds = seeds_to_run(6);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model models[5] = {{{0}}};

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		for (unsigned i = 0; i < 5; i++) {
			struct id parent = depot_id(i - 1);

			if (i > 0)
				models[i] = models[i - 1];
			model_change(&depot, &models[i], i == 0 ? 12 : 4);
			assert_true(depot_upload(&depot, i % 2, depot_id(i), i ? &parent : NULL,
						 i ? &models[i - 1] : &empty, &models[i]));
		}
		for (unsigned i = 0; i < 5; i++)
			assert_true(depot_verify(&depot, i % 2, depot_id(i), NULL, &models[i]));
		depot_free(&depot);
	}
}

/* S5: what is put again as the parent has it, and zeroes, take no room but for the tree. */
static void same_and_zero_blocks_take_no_room(void **state)
{
	struct depot depot;
	struct model a = {.seed = {5, 6, 7, 9}}, b, none = {{0}};
	struct id id = depot_id(0);
	struct upload u;
	unsigned before;

	(void)state;
	depot_init(&depot, 1);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &a));
	before = stored_bytes(&depot);
	b = a;
	b.seed[4] = SEED_ZERO;
	b.seed[5] = SEED_ZERO;
	/* All of it is put once more. */
	upload_start(&u, &depot, 0, depot_id(1), &id, &none, &b);
	assert_true(depot_wait(&depot, &u.done));
	assert_int_equal(u.error, 0);
	assert_int_equal(u.stats.same, 4);
	assert_int_equal(u.stats.zero, 2);
	assert_int_equal(u.stats.stored_blocks, 0);
	assert_true(stored_bytes(&depot) - before < 16 * KiB);
	assert_true(depot_verify(&depot, 1, depot_id(1), NULL, &b));
	upload_free(&u);
	depot_free(&depot);
}

static bool walk_flag;

static void walk_done(struct snap_walk *walk)
{
	(void)walk;
	walk_flag = true;
}

/* What differs between two snapshots is just what was changed, and no data is read for it. */
static void compare_tells_what_differs(void **state)
{
	struct seeds seeds = seeds_to_run(5);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model a = {{0}}, b;
		struct snap_reader *ra, *rb;
		struct snap_block blocks[3];
		struct snap_walk walk = {.done = walk_done, .blocks = blocks, .max = 3};
		struct id id = depot_id(0);
		unsigned n = 0;
		int error;

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		model_change(&depot, &a, 10);
		b = a;
		model_change(&depot, &b, 5);
		assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &a));
		assert_true(depot_upload(&depot, 0, depot_id(1), &id, &a, &b));
		assert_true(depot_open(&depot, 0, depot_id(0), NULL, &ra, &error));
		assert_true(depot_open(&depot, 0, depot_id(1), NULL, &rb, &error));
		while (walk.next != UINT64_MAX) {
			walk_flag = false;
			snap_compare(ra, rb, &walk);
			assert_true(depot_wait(&depot, &walk_flag));
			assert_int_equal(walk.error, 0);
			for (uint32_t i = 0; i < walk.n; i++, n++) {
				while (n < DEPOT_PLACES && a.seed[n] == b.seed[n])
					n++;
				assert_true(n < DEPOT_PLACES);
				assert_int_equal(blocks[i].block, depot_place(n));
				assert_int_equal(blocks[i].in_first, a.seed[n] != SEED_ABSENT);
				assert_int_equal(blocks[i].in_second, b.seed[n] != SEED_ABSENT);
			}
		}
		while (n < DEPOT_PLACES && a.seed[n] == b.seed[n])
			n++;
		assert_int_equal(n, DEPOT_PLACES);
		snap_reader_close(ra);
		snap_reader_close(rb);
		depot_free(&depot);
	}
}

/* Deleting in any order gives back, at the next sweep, what no other needs, and nothing else. */
static void delete_gives_back_what_nobody_needs(void **state)
{
	struct seeds seeds = seeds_to_run(6);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct model models[4] = {{{0}}};
		bool gone[4] = {false};

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		for (unsigned i = 0; i < 4; i++) {
			struct id parent = depot_id(i - 1);

			if (i > 0)
				models[i] = models[i - 1];
			model_change(&depot, &models[i], i == 0 ? 14 : 5);
			assert_true(depot_upload(&depot, 0, depot_id(i), i ? &parent : NULL,
						 i ? &models[i - 1] : &empty, &models[i]));
		}
		for (unsigned n = 0; n < 4; n++) {
			struct snap_sweep sweep = {.config = depot_sweep_config()};
			unsigned i = (unsigned)sim_below(depot.sim, 4);

			while (gone[i])
				i = (i + 1) % 4;
			gone[i] = true;
			assert_true(depot_delete(&depot, 1, depot_id(i)));
			assert_true(depot_sweep(&depot, n % 2, &sweep));
			assert_int_equal(sweep.error, 0);
			assert_int_equal(sweep.tombstones, 1);
			assert_int_equal(sweep.n_usage, 3 - n);
			snap_sweep_clear(&sweep);
			for (unsigned j = 0; j < 4; j++)
				if (!gone[j])
					assert_true(
					    depot_verify(&depot, 0, depot_id(j), NULL, &models[j]));
		}
		assert_int_equal(blobs_sim_count(depot.objects, PREFIX_PACKS), 0);
		assert_int_equal(blobs_sim_count(depot.objects, PREFIX_SNAPSHOTS), 0);
		depot_free(&depot);
	}
}

static bool base_flag;

static void base_done(struct volume_base_req *req)
{
	(void)req;
	base_flag = true;
}

static void base_released(void *arg, bool hydrated)
{
	*(int *)arg += hydrated ? 10 : 1;
}

/* As the base of a volume it gives the same bytes, and tells zeroes from data without reading. */
static void a_base_gives_what_the_snapshot_holds(void **state)
{
	struct model model = {.seed = {5, SEED_ZERO, SEED_ABSENT, 9}};
	uint8_t *want = sim_alloc(SNAP_BLOCK);
	struct volume_base_req req = {.done = base_done, .buf = sim_alloc(SNAP_BLOCK)};
	struct snap_reader *reader;
	struct snap_base *base;
	struct volume_base *vb;
	struct depot depot;
	int released = 0;
	int error;

	(void)state;
	model.seed[13] = 77;
	depot_init(&depot, 1);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &model));
	assert_true(depot_open(&depot, 0, depot_id(0), NULL, &reader, &error));
	assert_int_equal(snap_base_new(reader, base_released, &released, &base, NULL), 0);
	vb = snap_base_volume_base(base);
	for (unsigned i = 0; i < DEPOT_PLACES; i++) {
		bool zero = model.seed[i] <= SEED_ZERO;

		req.lba = depot_place(i) * 128 + 100;
		req.blocks = 20;
		req.demand = i % 2;
		base_flag = false;
		vb->ops->read(vb, &req);
		assert_false(base_flag);
		assert_true(depot_wait(&depot, &base_flag));
		assert_int_equal(req.error, 0);
		model_bytes(model.seed[i], want);
		assert_memory_equal(req.buf, want + 100 * 4096, 20 * 4096);
		req.blocks = 1000;
		base_flag = false;
		vb->ops->status(vb, &req);
		assert_true(depot_wait(&depot, &base_flag));
		assert_int_equal(req.error, 0);
		assert_int_equal(req.zero, zero);
		assert_true(req.n >= 28 && req.n <= 1000);
		if (!zero)
			assert_int_equal(req.n, 28);
	}
	assert_string_equal(snap_base_error(base), "");
	while (blobs_sim_name(depot.objects, PREFIX_PACKS, 0))
		blobs_sim_lose(depot.objects, blobs_sim_name(depot.objects, PREFIX_PACKS, 0));
	req.lba = 0;
	req.blocks = 1;
	base_flag = false;
	vb->ops->read(vb, &req);
	assert_true(depot_wait(&depot, &base_flag));
	assert_int_equal(req.error, -EIO);
	assert_non_null(strstr(snap_base_error(base), "packs/"));
	vb->ops->release(vb, true);
	assert_int_equal(released, 10);
	snap_base_free(base);
	snap_reader_close(reader);
	sim_release(req.buf);
	sim_release(want);
	depot_free(&depot);
}

static uint8_t view_bytes[4096] __attribute__((aligned(4096)));

static void view_done(struct block_req *req)
{
	(void)req;
	base_flag = true;
}

/* As a read-only disk: bytes, and extents that cover what was asked. */
static void a_view_is_a_read_only_disk(void **state)
{
	struct model model = {.seed = {5, SEED_ZERO, SEED_ABSENT, 9, 10}};
	uint8_t *want = sim_alloc(SNAP_BLOCK);
	struct block_extent extents[8];
	struct block_req req = {.op = BLOCK_READ, .done = view_done};
	struct snap_reader *reader;
	struct snap_view *view;
	struct block_dev *dev;
	struct depot depot;
	int error;

	(void)state;
	depot_init(&depot, 1);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &model));
	assert_true(depot_open(&depot, 0, depot_id(0), NULL, &reader, &error));
	assert_int_equal(snap_view_new(reader, &view, NULL), 0);
	dev = snap_view_dev(view);
	assert_int_equal(block_size(dev), DEPOT_SIZE);
	req.offset = 3 * SNAP_BLOCK + 8192;
	req.length = 4096;
	req.buf = view_bytes;
	base_flag = false;
	assert_int_equal(block_check(dev, &req), 0);
	block_submit(dev, &req);
	assert_true(depot_wait(&depot, &base_flag));
	assert_int_equal(req.error, 0);
	model_bytes(9, want);
	assert_memory_equal(view_bytes, want + 8192, 4096);
	req = (struct block_req){.op = BLOCK_STATUS, .done = view_done, .extents = extents};
	req.length = DEPOT_SIZE;
	req.max_extents = 8;
	base_flag = false;
	block_submit(dev, &req);
	assert_true(depot_wait(&depot, &base_flag));
	assert_int_equal(req.error, 0);
	/* Data at 0 and 3, and 510 (the model's fifth place): holes between and after. */
	assert_int_equal(req.n_extents, 6);
	assert_int_equal(extents[0].length, SNAP_BLOCK);
	assert_int_equal(extents[0].flags, 0);
	assert_int_equal(extents[1].length, 2 * SNAP_BLOCK);
	assert_int_equal(extents[1].flags, BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO);
	assert_int_equal(extents[3].length, 506 * (uint64_t)SNAP_BLOCK);
	assert_int_equal(extents[5].length, DEPOT_SIZE - 511 * (uint64_t)SNAP_BLOCK);
	req = (struct block_req){.op = BLOCK_WRITE, .length = 4096, .buf = view_bytes};
	assert_int_equal(block_check(dev, &req), -EROFS);
	snap_view_free(view);
	snap_reader_close(reader);
	sim_release(want);
	depot_free(&depot);
}

/* Lists have all that is there, by pages, with the labels; deleted ones are not in them. */
static bool list_flag;

static void list_done(struct snap_list *list)
{
	(void)list;
	list_flag = true;
}

static void lists_have_what_is_there(void **state)
{
	struct snap_info *infos = sim_alloc(2 * sizeof(*infos));
	struct snap_list *list = sim_alloc(sizeof(*list));
	struct model model = {.seed = {5}};
	static const char labels[] = "nightly\0key\0value";
	struct depot depot;
	unsigned n = 0;

	(void)state;
	depot_init(&depot, 1);
	depot.writer.labels = labels;
	depot.writer.labels_len = sizeof(labels);
	assert_true(depot_up(&depot));
	for (unsigned i = 0; i < 5; i++)
		assert_true(depot_upload(&depot, 0, depot_id(i), NULL, &empty, &model));
	assert_true(depot_delete(&depot, 0, depot_id(2)));
	list->infos = infos;
	list->max = 2;
	list->done = list_done;
	do {
		list_flag = false;
		snap_list_page(depot.repository[1], depot.loop[1], list);
		assert_true(depot_wait(&depot, &list_flag));
		assert_int_equal(list->error, 0);
		for (uint32_t i = 0; i < list->n; i++, n++) {
			assert_int_equal(infos[i].state, SNAP_COMPLETED);
			assert_int_equal(infos[i].labels_len, sizeof(labels));
			assert_memory_equal(infos[i].labels, labels, sizeof(labels));
			assert_false(id_equal(infos[i].id, depot_id(2)));
		}
	} while (list->n > 0);
	assert_int_equal(n, 4);
	sim_release(list);
	sim_release(infos);
	depot_free(&depot);
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(every_snapshot_reads_as_what_was_put),
	    TEST(same_and_zero_blocks_take_no_room),
	    TEST(compare_tells_what_differs),
	    TEST(delete_gives_back_what_nobody_needs),
	    TEST(a_base_gives_what_the_snapshot_holds),
	    TEST(a_view_is_a_read_only_disk),
	    TEST(lists_have_what_is_there),
	};
	const char *only = getenv("SIM_TEST");

	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
