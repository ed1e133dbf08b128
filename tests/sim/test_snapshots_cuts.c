/* SPDX-License-Identifier: Apache-2.0
 *
 * Power cuts after each point of whatever changes a repository: S1, S2, S3.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/depot.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct model empty;

/* A line of n snapshots, each a change of the one before. */
static void history(struct depot *depot, struct model *models, unsigned n)
{
	assert_true(depot_up(depot));
	for (unsigned i = 0; i < n; i++) {
		struct id parent = depot_id(i - 1);

		if (i > 0)
			models[i] = models[i - 1];
		model_change(depot, &models[i], i == 0 ? 10 : 5);
		assert_true(depot_upload(depot, 0, depot_id(i), i ? &parent : NULL,
					 i ? &models[i - 1] : &empty, &models[i]));
	}
}

/* ---- Upload -----------------------------------------------------------------------------------
 */

/* Either it is completed, and whole; or it can be started again, and nothing is lost of the rest.
 */
static void look_after_upload(struct depot *depot, struct upload *u, struct model *models,
			      bool again)
{
	struct snap_info *info = sim_alloc(sizeof(*info));
	struct id id = depot_id(0), ids[2] = {depot_id(0), depot_id(1)};
	int error;

	assert_true(depot_up(depot));
	assert_true(depot_get(depot, 0, depot_id(1), info, &error));
	if (error && error != -ENOENT)
		sim_fail(depot->sim, "the snapshot's object can't be read: %d", error);
	if (u->done && u->error == 0 && (error || info->state != SNAP_COMPLETED))
		sim_fail(depot->sim, "a completed snapshot has gone");
	if ((error || info->state != SNAP_COMPLETED) && again)
		assert_true(depot_upload(depot, 1, depot_id(1), &id, &models[0], &models[1]));
	if (again || (!error && info->state == SNAP_COMPLETED))
		assert_true(depot_verify(depot, 1, depot_id(1), NULL, &models[1]));
	assert_true(depot_sweep_clean(depot, 1));
	assert_true(depot_verify(depot, 0, depot_id(0), NULL, &models[0]));
	if (again || (!error && info->state == SNAP_COMPLETED))
		assert_true(depot_verify(depot, 1, depot_id(1), NULL, &models[1]));
	assert_true(depot_nothing_leaks(depot, ids, 2));
	sim_release(info);
}

static void upload_cut_anywhere(void **state)
{
	bool uncut = false;

	(void)state;
	for (uint64_t k = 1; !uncut; k += seeds_stride()) {
		struct upload *u = sim_alloc(sizeof(*u));
		struct model models[2] = {{{0}}};
		struct id id = depot_id(0);
		struct depot depot;

		depot_init(&depot, k);
		history(&depot, models, 1);
		models[1] = models[0];
		model_change(&depot, &models[1], 9);
		sim_cut_after(depot.sim, k);
		upload_start(u, &depot, 0, depot_id(1), &id, &models[0], &models[1]);
		uncut = depot_wait(&depot, &u->done);
		depot_reboot(&depot);
		look_after_upload(&depot, u, models, k % 2);
		upload_free(u);
		sim_release(u);
		depot_free(&depot);
	}
}

/* What was stored before the cut is found again and not stored twice. */
static void upload_goes_on_after_a_crash(void **state)
{
	struct depot depot;
	struct upload *u = sim_alloc(sizeof(*u));
	struct model model = {{0}};

	(void)state;
	for (unsigned i = 0; i < DEPOT_PLACES; i++)
		model.seed[i] = 100 + i;
	depot_init(&depot, 7);
	assert_true(depot_up(&depot));
	upload_start(u, &depot, 0, depot_id(0), NULL, &empty, &model);
	while (blobs_sim_count(depot.objects, PREFIX_PACKS) < 3)
		assert_true(sim_step(depot.sim));
	depot_reboot(&depot);
	upload_free(u);
	assert_true(depot_up(&depot));
	upload_start(u, &depot, 1, depot_id(0), NULL, &empty, &model);
	assert_true(depot_wait(&depot, &u->done));
	assert_int_equal(u->error, 0);
	assert_true(u->stats.reused >= 9);
	assert_int_equal(u->stats.reused + u->stats.stored_blocks, DEPOT_PLACES);
	assert_true(depot_verify(&depot, 0, depot_id(0), NULL, &model));
	upload_free(u);
	sim_release(u);
	depot_free(&depot);
}

/* The parent may be deleted, and swept, while nobody works on the upload. */
static void upload_goes_on_though_its_parent_is_gone(void **state)
{
	struct depot depot;
	struct upload *u = sim_alloc(sizeof(*u));
	struct model models[2] = {{{0}}};
	struct id ids[2] = {depot_id(0), depot_id(1)};

	(void)state;
	depot_init(&depot, 3);
	history(&depot, models, 1);
	models[1] = models[0];
	for (unsigned i = 0; i < 8; i++)
		models[1].seed[i] = 500 + i;
	upload_start(u, &depot, 0, ids[1], &ids[0], &models[0], &models[1]);
	while (blobs_sim_count(depot.objects, "packs/snap-1dbd238973a2b148a/") < 1)
		assert_true(sim_step(depot.sim));
	depot_reboot(&depot);
	upload_free(u);
	sim_release(u);
	assert_true(depot_up(&depot));
	assert_true(depot_delete(&depot, 0, ids[0]));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_int_equal(blobs_sim_count(depot.objects, PREFIX_SNAPSHOTS), 1);
	assert_true(depot_upload(&depot, 1, ids[1], &ids[0], &models[0], &models[1]));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_true(depot_verify(&depot, 0, ids[1], NULL, &models[1]));
	assert_true(depot_nothing_leaks(&depot, &ids[1], 1));
	depot_free(&depot);
}

/* An abort leaves nothing that a sweep does not take. */
static void abort_cut_anywhere(void **state)
{
	bool uncut = false;

	(void)state;
	for (uint64_t k = 1; !uncut; k += seeds_stride()) {
		struct upload *u = sim_alloc(sizeof(*u));
		struct model model = {{0}};
		struct id id = depot_id(0);
		struct depot depot;

		depot_init(&depot, k);
		assert_true(depot_up(&depot));
		model_change(&depot, &model, 9);
		sim_cut_after(depot.sim, k);
		upload_start(u, &depot, 0, id, NULL, &empty, &model);
		u->abort = true;
		uncut = depot_wait(&depot, &u->done);
		depot_reboot(&depot);
		assert_true(depot_up(&depot));
		assert_true(depot_nothing_leaks(&depot, &id, 1));
		upload_free(u);
		sim_release(u);
		depot_free(&depot);
	}
}

/* ---- Delete and sweep -------------------------------------------------------------------------
 */

static void delete_and_sweep_cut_anywhere(void **state)
{
	bool uncut = false;

	(void)state;
	for (uint64_t k = 1; !uncut; k += seeds_stride()) {
		struct snap_info *info = sim_alloc(sizeof(*info));
		struct snap_sweep *sweep = sim_alloc(sizeof(*sweep));
		struct model models[3] = {{{0}}};
		struct id ids[3] = {depot_id(0), depot_id(1), depot_id(2)};
		struct depot depot;
		bool deleted;
		unsigned victim;
		int error;

		depot_init(&depot, k);
		history(&depot, models, 3);
		victim = (unsigned)sim_below(depot.sim, 3);
		sweep->config = depot_sweep_config();
		sim_cut_after(depot.sim, k);
		deleted = depot_delete(&depot, 0, ids[victim]);
		uncut = deleted && depot_sweep(&depot, 0, sweep);
		if (uncut)
			assert_int_equal(sweep->error, 0);
		depot_reboot(&depot);
		assert_true(depot_up(&depot));
		assert_true(depot_get(&depot, 1, ids[victim], info, &error));
		if (error && error != -ENOENT)
			sim_fail(depot.sim, "the snapshot's object can't be read: %d", error);
		if (deleted && error != -ENOENT)
			sim_fail(depot.sim, "a deleted snapshot has come back");
		for (int round = 0; round < 2; round++) {
			for (unsigned i = 0; i < 3; i++)
				if (i != victim || error == 0)
					assert_true(
					    depot_verify(&depot, 1, ids[i], NULL, &models[i]));
			assert_true(depot_sweep_clean(&depot, 1));
		}
		assert_true(depot_nothing_leaks(&depot, ids, 3));
		sim_release(sweep);
		sim_release(info);
		depot_free(&depot);
	}
}

/* ---- Copy -------------------------------------------------------------------------------------
 */

static bool copy_flag;

static void copy_done(struct snap_copy *copy)
{
	(void)copy;
	copy_flag = true;
}

/* Copies snapshot n, with the copy of the one before as its parent. */
static bool copy(struct depot *depot, struct depot *second, unsigned n, struct snap_copy *c)
{
	struct snap_writer_config config = second->writer;
	struct snap_reader *reader;
	bool alive;
	int error;

	if (!depot_open(depot, 0, depot_id(n), NULL, &reader, &error))
		return false;
	assert_int_equal(error, 0);
	config.id = depot_id(10 + n);
	if (n > 0)
		config.parent = depot_id(10 + n - 1);
	copy_flag = false;
	c->done = copy_done;
	snap_copy_start(reader, second->repository[0], depot->loop[0], &config, c);
	alive = depot_wait(depot, &copy_flag);
	if (alive)
		snap_reader_close(reader);
	return alive;
}

static void copy_cut_anywhere(void **state)
{
	bool uncut = false;

	(void)state;
	for (uint64_t k = 1; !uncut; k += seeds_stride()) {
		struct snap_copy *c = sim_alloc(sizeof(*c));
		struct model models[2] = {{{0}}};
		struct id ids[2] = {depot_id(10), depot_id(11)};
		struct depot depot, second;

		depot_init(&depot, k);
		depot_init_second(&second, &depot);
		history(&depot, models, 2);
		assert_true(depot_up(&second));
		assert_true(copy(&depot, &second, 0, c));
		assert_int_equal(c->error, 0);
		sim_cut_after(depot.sim, k);
		uncut = copy(&depot, &second, 1, c);
		if (uncut)
			assert_int_equal(c->error, 0);
		depot_reboot(&depot);
		assert_true(depot_up(&depot));
		assert_true(depot_up(&second));
		assert_true(depot_verify(&second, 1, ids[0], NULL, &models[0]));
		assert_true(copy(&depot, &second, 1, c));
		if (c->error && c->error != -EEXIST) /* that is: it was completed */
			sim_fail(depot.sim, "copy: %d %s", c->error, c->err.text);
		assert_true(depot_verify(&second, 1, ids[1], NULL, &models[1]));
		assert_true(depot_nothing_leaks(&second, ids, 2));
		sim_release(c);
		depot_free_second(&second);
		depot_free(&depot);
	}
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(upload_cut_anywhere),
	    TEST(upload_goes_on_after_a_crash),
	    TEST(upload_goes_on_though_its_parent_is_gone),
	    TEST(abort_cut_anywhere),
	    TEST(delete_and_sweep_cut_anywhere),
	    TEST(copy_cut_anywhere),
	};
	const char *only = getenv("SIM_TEST");

	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
