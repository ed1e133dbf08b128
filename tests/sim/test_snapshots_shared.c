/* SPDX-License-Identifier: Apache-2.0
 *
 * Two daemons share a repository: S3, holds, the lease. The interleavings are the seeds'.
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

/* ---- One sweeps while the other uploads and deletes -------------------------------------------
 */

#define CHAIN 5

/* Daemon 0: uploads a line of snapshots, deleting each parent as soon as its child is there (or
 * even while it is being made). Daemon 1 sweeps all the time. */
struct race {
	struct depot depot;
	struct model models[CHAIN];
	struct upload uploads[CHAIN];
	struct repository_op delete;
	bool chain_done;
	bool delete_done;
	struct snap_sweep sweep;
	bool sweeping;
	bool stop;
	uint64_t sweeps;
	struct io_op timer;
};

static struct race *race;

static void race_sweep(void);

static void race_sweep_again(struct io_op *timer)
{
	(void)timer;
	race_sweep();
}

static void race_swept(struct snap_sweep *sweep)
{
	if (sweep->error)
		sim_fail(race->depot.sim, "sweep: %d %s", sweep->error, sweep->err.text);
	snap_sweep_clear(sweep);
	race->sweeps++;
	race->sweeping = false;
	if (race->stop)
		return;
	race->sweeping = true;
	race->timer.done = race_sweep_again;
	io_timer(race->depot.loop[1], &race->timer, sim_below(race->depot.sim, 2000000));
}

static void race_sweep(void)
{
	race->sweeping = true;
	race->sweep = (struct snap_sweep){.config = depot_sweep_config(), .done = race_swept};
	snap_sweep_start(race->depot.repository[1], race->depot.loop[1], &race->depot.memory[1],
			 &race->sweep);
}

static void race_deleted(struct repository_op *op)
{
	(void)op;
	race->delete_done = true;
}

static void race_delete(unsigned i)
{
	race->delete_done = false;
	race->delete.done = race_deleted;
	snap_delete(race->depot.repository[0], race->depot.loop[0], &race->delete, depot_id(i));
}

static void swept_while_others_upload(void **state)
{
	struct seeds seeds = seeds_to_run(60);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct id id;
		bool early;

		race = sim_alloc(sizeof(*race));
		depot_init(&race->depot, seed);
		assert_true(depot_up(&race->depot));
		blobs_sim_slow(race->depot.objects, 100000);
		race_sweep();
		for (unsigned i = 0; i < CHAIN; i++) {
			struct id parent = depot_id(i - 1);
			struct upload *u = &race->uploads[i];

			if (i > 0)
				race->models[i] = race->models[i - 1];
			model_change(&race->depot, &race->models[i], i == 0 ? 8 : 3);
			upload_start(u, &race->depot, 0, depot_id(i), i ? &parent : NULL,
				     i ? &race->models[i - 1] : &empty, &race->models[i]);
			u->pause = sim_below(race->depot.sim, 2) * 4000000;
			early = i > 0 && sim_below(race->depot.sim, 2);
			for (uint64_t n = sim_below(race->depot.sim, 200); early && n > 0; n--)
				sim_step(race->depot.sim);
			if (early)
				race_delete(i - 1);
			assert_true(depot_wait(&race->depot, &u->done));
			if (early)
				assert_true(depot_wait(&race->depot, &race->delete_done));
			if (u->error == -ENOENT && early) { /* its parent went too early */
				upload_free(u);
				race->models[i] = (struct model){{0}};
				model_change(&race->depot, &race->models[i], 8);
				upload_start(u, &race->depot, 0, depot_id(i), NULL, &empty,
					     &race->models[i]);
				assert_true(depot_wait(&race->depot, &u->done));
			}
			if (u->error)
				sim_fail(race->depot.sim, "upload: %d %s", u->error, u->err.text);
			if (i > 0 && !early) {
				race_delete(i - 1);
				assert_true(depot_wait(&race->depot, &race->delete_done));
			}
			upload_free(u);
		}
		race->stop = true;
		while (race->sweeping)
			assert_true(sim_step(race->depot.sim));
		assert_true(depot_sweep_clean(&race->depot, 1));
		assert_true(depot_verify(&race->depot, 1, depot_id(CHAIN - 1), NULL,
					 &race->models[CHAIN - 1]));
		id = depot_id(CHAIN - 1);
		assert_true(race->sweeps > 0);
		assert_true(depot_nothing_leaks(&race->depot, &id, 1));
		depot_free(&race->depot);
		sim_release(race);
	}
}

/* ---- Holds ------------------------------------------------------------------------------------
 */

/* What is held reads after its deletion and any number of sweeps, until it is released. */
static void what_is_held_stays(void **state)
{
	struct depot depot;
	struct model model = {.seed = {10, 11, 12, 13}};
	struct id id = depot_id(0);
	int error;

	(void)state;
	depot_init(&depot, 3);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, id, NULL, &empty, &model));
	assert_true(depot_hold(&depot, 0, id, "vol-1", 1000 * NSEC_PER_SEC, &error));
	assert_int_equal(error, 0);
	assert_true(depot_delete(&depot, 1, id));
	for (int i = 0; i < 3; i++)
		assert_true(depot_sweep_clean(&depot, 1));
	assert_int_equal(blobs_sim_count(depot.objects, PREFIX_SNAPSHOTS), 0);
	assert_true(depot_verify(&depot, 0, id, "vol-1", &model));
	/* It can be renewed, though the snapshot has gone; not be made anew. */
	assert_true(depot_hold(&depot, 0, id, "vol-1", 1000 * NSEC_PER_SEC, &error));
	assert_int_equal(error, 0);
	assert_true(depot_hold(&depot, 0, id, "vol-2", 1000 * NSEC_PER_SEC, &error));
	assert_int_equal(error, -ENOENT);
	/* It runs out. */
	assert_true(depot_sleep(&depot, 900 * NSEC_PER_SEC));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_true(depot_verify(&depot, 0, id, "vol-1", &model));
	assert_true(depot_sleep(&depot, 200 * NSEC_PER_SEC));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_int_equal(blobs_sim_count(depot.objects, PREFIX_HOLDS), 0);
	assert_int_equal(blobs_sim_count(depot.objects, PREFIX_PACKS), 0);
	depot_free(&depot);
}

/* A hold that races a deletion and a sweep either fails, or keeps everything. */
static void holds_race_deletions(void **state)
{
	struct seeds seeds = seeds_to_run(80);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct model model = {.seed = {4}};
		struct id id = depot_id(0);
		int error;

		race = sim_alloc(sizeof(*race));
		depot_init(&race->depot, seed);
		assert_true(depot_up(&race->depot));
		assert_true(depot_upload(&race->depot, 0, id, NULL, &empty, &model));
		blobs_sim_slow(race->depot.objects, 200000);
		race_sweep();
		for (uint64_t n = sim_below(race->depot.sim, 30); n > 0; n--)
			sim_step(race->depot.sim);
		race_delete(0);
		for (uint64_t n = sim_below(race->depot.sim, 60); n > 0; n--)
			sim_step(race->depot.sim);
		assert_true(depot_hold(&race->depot, 0, id, "vol-1", 1000 * NSEC_PER_SEC, &error));
		assert_true(error == 0 || error == -ENOENT);
		race->stop = true;
		while (race->sweeping || !race->delete_done)
			assert_true(sim_step(race->depot.sim));
		assert_true(depot_sweep_clean(&race->depot, 1));
		assert_true(depot_sweep_clean(&race->depot, 1));
		if (error == 0)
			assert_true(depot_verify(&race->depot, 0, id, "vol-1", &model));
		else
			assert_int_equal(blobs_sim_count(race->depot.objects, PREFIX_PACKS), 0);
		depot_free(&race->depot);
		sim_release(race);
	}
}

/* ---- The three moments that S3 hangs on -------------------------------------------------------
 */

struct asking {
	struct repository_op op;
	bool done;
};

static void asked(struct repository_op *op)
{
	container_of(op, struct asking, op)->done = true;
}

static void a_snapshot(struct depot *depot, unsigned n, struct model *model)
{
	depot_init(depot, 9);
	assert_true(depot_up(depot));
	*model = (struct model){.seed = {10, 11, 12, 13}};
	assert_true(depot_upload(depot, 0, depot_id(n), NULL, &empty, model));
}

/* A hold that is written when its snapshot is deleted and swept already is none. */
static void a_late_hold_is_refused(void **state)
{
	struct asking *hold = sim_alloc(sizeof(*hold));
	struct depot depot;
	struct model model;

	(void)state;
	a_snapshot(&depot, 0, &model);
	blobs_sim_nth(depot.objects, BLOB_SWAP, 1, 0, true);
	hold->op.done = asked;
	snap_hold(depot.repository[0], depot.loop[0], &hold->op, depot_id(0), "vol-1",
		  1000 * NSEC_PER_SEC, NULL);
	assert_true(depot_sleep(&depot, NSEC_PER_SEC));
	assert_true(depot_delete(&depot, 1, depot_id(0)));
	assert_true(depot_sweep_clean(&depot, 1));
	blobs_sim_release(depot.objects);
	assert_true(depot_wait(&depot, &hold->done));
	assert_int_equal(hold->op.error, -ENOENT);
	assert_int_equal(blobs_sim_count(depot.objects, PREFIX_HOLDS), 0);
	sim_release(hold);
	depot_free(&depot);
}

/* The same for an upload and its parent. */
static void a_late_child_is_refused(void **state)
{
	struct upload *u = sim_alloc(sizeof(*u));
	struct id id = depot_id(0);
	struct depot depot;
	struct model model, next;

	(void)state;
	a_snapshot(&depot, 0, &model);
	next = model;
	next.seed[0] = 99;
	blobs_sim_nth(depot.objects, BLOB_SWAP, 1, 0, true);
	upload_start(u, &depot, 0, depot_id(1), &id, &model, &next);
	assert_true(depot_sleep(&depot, NSEC_PER_SEC));
	assert_true(depot_delete(&depot, 1, id));
	assert_true(depot_sweep_clean(&depot, 1));
	blobs_sim_release(depot.objects);
	assert_true(depot_wait(&depot, &u->done));
	assert_int_equal(u->error, -ENOENT);
	id = depot_id(1);
	assert_true(depot_nothing_leaks(&depot, &id, 1));
	upload_free(u);
	sim_release(u);
	depot_free(&depot);
}

static void sweep_ended(struct snap_sweep *sweep)
{
	(void)sweep;
	race->sweeping = false;
}

/* The sweep has its list of snapshots; a child is begun, which is not in it, and then its parent is
 * deleted, before the sweep looks at that. */
static void a_fresh_tombstone_counts(void **state)
{
	struct upload *u = sim_alloc(sizeof(*u));
	struct id id = depot_id(1); /* behind its child's, in a list */
	struct model model, next;
	struct depot depot;

	(void)state;
	race = sim_alloc(sizeof(*race));
	a_snapshot(&depot, 1, &model);
	next = model;
	next.seed[0] = 99;
	/* Reads: the lease, the snapshot as a tombstone, the snapshot as a root. */
	blobs_sim_nth(depot.objects, BLOB_READ, 3, 0, true);
	race->sweeping = true;
	race->sweep = (struct snap_sweep){.config = depot_sweep_config(), .done = sweep_ended};
	snap_sweep_start(depot.repository[1], depot.loop[1], &depot.memory[1], &race->sweep);
	assert_true(depot_sleep(&depot, NSEC_PER_SEC));
	upload_start(u, &depot, 0, depot_id(0), &id, &model, &next);
	assert_true(depot_wait(&depot, &u->done));
	assert_int_equal(u->error, 0);
	assert_true(depot_delete(&depot, 0, id));
	blobs_sim_release(depot.objects);
	while (race->sweeping)
		assert_true(sim_step(depot.sim));
	assert_int_equal(race->sweep.error, 0);
	snap_sweep_clear(&race->sweep);
	assert_true(depot_verify(&depot, 0, depot_id(0), NULL, &next));
	assert_true(depot_sweep_clean(&depot, 1));
	assert_true(depot_verify(&depot, 0, depot_id(0), NULL, &next));
	upload_free(u);
	sim_release(u);
	sim_release(race);
	depot_free(&depot);
}

/* ---- Who is given up --------------------------------------------------------------------------
 */

/* An upload that nobody renews is given up, and its writer, should it live, learns of it; one that
 * renews is not, however long it takes. */
static void uploads_are_given_up_when_nobody_renews(void **state)
{
	struct depot depot;
	struct upload *u = sim_alloc(sizeof(*u));
	struct model model = {.seed = {21, 22, 23}};
	struct id id = depot_id(0);
	struct snap_info *info = sim_alloc(sizeof(*info));
	int error;

	(void)state;
	depot_init(&depot, 5);
	depot.writer.ttl_ns = 100 * NSEC_PER_SEC;
	assert_true(depot_up(&depot));
	blobs_sim_nth(depot.objects, BLOB_PUT, 1, 0, true); /* the first pack hangs */
	upload_start(u, &depot, 0, id, NULL, &empty, &model);
	for (int i = 0; i < 5; i++) {
		assert_true(depot_sleep(&depot, 80 * NSEC_PER_SEC));
		assert_true(depot_sweep_clean(&depot, 1));
	}
	assert_true(depot_get(&depot, 1, id, info, &error));
	assert_int_equal(error, 0);
	assert_int_equal(info->state, SNAP_PENDING);
	/* The daemon dies. */
	depot_reboot(&depot);
	assert_true(depot_up(&depot));
	assert_true(depot_sleep(&depot, 101 * NSEC_PER_SEC));
	assert_true(depot_nothing_leaks(&depot, NULL, 0));
	upload_free(u);
	sim_release(u);
	sim_release(info);
	depot_free(&depot);
}

/* Whoever deletes a pending snapshot ends its upload. */
static void deleting_ends_an_upload(void **state)
{
	struct seeds seeds = seeds_to_run(20);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct depot depot;
		struct upload *u = sim_alloc(sizeof(*u));
		struct model model = {.seed = {21, 22, 23, 24, 25}};
		struct id id = depot_id(0);

		depot_init(&depot, seed);
		assert_true(depot_up(&depot));
		upload_start(u, &depot, 0, id, NULL, &empty, &model);
		for (uint64_t n = sim_below(depot.sim, 100); n > 0; n--)
			sim_step(depot.sim);
		assert_true(depot_delete(&depot, 1, id));
		assert_true(depot_wait(&depot, &u->done));
		/* It was completed before, or not there yet, or it has failed. */
		if (u->error && u->error != -ESTALE)
			sim_fail(depot.sim, "upload: %d %s", u->error, u->err.text);
		assert_true(depot_nothing_leaks(&depot, &id, 1));
		upload_free(u);
		sim_release(u);
		depot_free(&depot);
	}
}

/* ---- The lease --------------------------------------------------------------------------------
 */

static bool swept[2];

static void first_swept(struct snap_sweep *sweep)
{
	(void)sweep;
	swept[0] = true;
}

/* One sweeps at a time; who hangs loses the lease after its time, and notices. */
static void one_sweeps_at_a_time(void **state)
{
	struct depot depot;
	struct model model = {.seed = {21, 22, 23}};
	struct snap_sweep first = {.config = depot_sweep_config(), .done = first_swept};
	struct snap_sweep second = {.config = depot_sweep_config()};

	(void)state;
	depot_init(&depot, 5);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &model));
	first.config.removes_per_second = 1; /* packs go one a second: it takes a while */
	assert_true(depot_delete(&depot, 0, depot_id(0)));
	swept[0] = false;
	snap_sweep_start(depot.repository[0], depot.loop[0], &depot.memory[0], &first);
	while (first.removed == 0)
		assert_true(sim_step(depot.sim));
	assert_true(depot_sweep(&depot, 1, &second));
	assert_int_equal(second.error, -EBUSY);
	assert_true(depot_wait(&depot, &swept[0]));
	assert_int_equal(first.error, 0);
	snap_sweep_clear(&first);
	/* It was given back. */
	second = (struct snap_sweep){.config = depot_sweep_config()};
	assert_true(depot_sweep(&depot, 1, &second));
	assert_int_equal(second.error, 0);
	snap_sweep_clear(&second);
	depot_free(&depot);
}

static void a_hung_sweep_loses_its_lease(void **state)
{
	struct depot depot;
	struct model model = {.seed = {21, 22, 23}};
	struct snap_sweep *first = sim_alloc(sizeof(*first));
	struct snap_sweep second = {.config = depot_sweep_config()};

	(void)state;
	depot_init(&depot, 5);
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &model));
	first->config = depot_sweep_config();
	first->done = first_swept;
	blobs_sim_nth(depot.objects, BLOB_LIST, 2, 0, true);
	snap_sweep_start(depot.repository[0], depot.loop[0], &depot.memory[0], first);
	assert_true(depot_sleep(&depot, NSEC_PER_SEC));
	assert_true(depot_sweep(&depot, 1, &second));
	assert_int_equal(second.error, -EBUSY); /* now it watches */
	assert_true(depot_sleep(&depot, 50 * NSEC_PER_SEC));
	assert_true(depot_sweep(&depot, 1, &second));
	assert_int_equal(second.error, -EBUSY);
	assert_true(depot_sleep(&depot, 12 * NSEC_PER_SEC));
	assert_true(depot_sweep(&depot, 1, &second));
	assert_int_equal(second.error, 0);
	snap_sweep_clear(&second);
	sim_release(first);
	depot_free(&depot);
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(swept_while_others_upload),
	    TEST(what_is_held_stays),
	    TEST(holds_race_deletions),
	    TEST(a_late_hold_is_refused),
	    TEST(a_late_child_is_refused),
	    TEST(a_fresh_tombstone_counts),
	    TEST(uploads_are_given_up_when_nobody_renews),
	    TEST(deleting_ends_an_upload),
	    TEST(one_sweeps_at_a_time),
	    TEST(a_hung_sweep_loses_its_lease),
	};
	const char *only = getenv("SIM_TEST");

	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
