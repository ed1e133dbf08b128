/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots (S1 to S4) and volumes made of them (B1 to B3): engine/engine.h.
 *
 * SIM_SEED=123 replays one seed, SIM_SEEDS=5000 runs many (tests/sim/seeds.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "engine/volume.h"
#include "tests/sim/drill.h"
#include "tests/sim/seeds.h"

#include <errno.h>

static void start(struct drill *d, uint64_t seed, unsigned n_volumes, uint64_t volume)
{
	struct engine_config *c = &d->world.config;

	drill_init(d, seed, GiB);
	*sim_options(d->sim) = (struct sim_options){.alignment = 4096};
	if (sim_file_exists(d->sim, d->world.store_config.path))
		sim_file_remove(d->sim, d->world.store_config.path);
	d->n_volumes = n_volumes;
	for (unsigned i = 0; i < WORLD_VOLUMES; i++)
		d->sizes[i] = volume;
	c->gc_slack = 1;
	c->checkpoint_log = 2 * MiB;
	c->checkpoint_blocks = 100000;
	c->checkpoint_idle_ns = 10 * NSEC_PER_MSEC;
	c->hydrate_retry_ns = 50 * NSEC_PER_MSEC;
}

static void up(struct drill *d)
{
	if (!drill_up(d))
		sim_fail(d->sim, "a life ended early");
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static bool come_to_rest(struct drill *d)
{
	return sim_run_until(d->sim, never, NULL, UINT64_MAX) == SIM_IDLE;
}

/* So many steps, and it does not matter whose. */
static void drill_run_steps(struct drill *d, uint64_t steps)
{
	sim_run_until(d->sim, never, NULL, steps);
}

static struct volume_stats stats_of(const struct drill *d, unsigned i)
{
	struct volume_stats stats;

	volume_stats(d->world.volumes[i], &stats);
	return stats;
}

static bool write_at(struct drill *d, unsigned i, uint64_t offset, uint64_t length)
{
	return drill_io(d, i, BLOCK_WRITE, 0, offset, length, NULL);
}

/* ---- Lives -------------------------------------------------------------------------------------
 */

static bool some_snapshot(struct drill *d, unsigned i)
{
	unsigned number = (unsigned)sim_below(d->sim, SNAPS_MAX);

	switch (sim_below(d->sim, 4)) {
	case 0:
		snap_ask(d, i, number);
		return true;
	case 1:
		return drill_pin(d, i, number, false);
	case 2:
		return drill_pin(d, i, number, true);
	default:
		return snaps_judge(d, i);
	}
}

static void snapshot_life(struct drill *d)
{
	enum oracle_crash kind = sim_below(d->sim, 2) ? ORACLE_KILL : ORACLE_POWER_CUT;
	bool alive = true;

	up(d);
	drill_load_all(d, 100 + sim_below(d->sim, 400));
	drill_end_after(d, kind, 200 + sim_below(d->sim, 6000));
	for (int n = 0; n < 12 && alive; n++)
		alive = some_snapshot(d, (unsigned)sim_below(d->sim, d->n_volumes)) &&
			drill_run(d, 1 + sim_below(d->sim, 3000));
	drill_crash(d, kind);
}

/* S1, S3: snapshots asked for under load, while garbage is collected and checkpoints run; whatever
 * crashes follow, each is what the volume held at its point, or was never answered. */
static void snapshots_hold_their_point(void **state)
{
	struct seeds seeds = seeds_to_run(12);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 1 + seed % 2, 4 * MiB + seed % 3 * 4 * MiB);
		d.world.config.checkpoint_log = (128 * KiB) << sim_below(d.sim, 6);
		for (int life = 0; life < 4; life++)
			snapshot_life(&d);
		sim_cut_after(d.sim, 0);
		sim_kill_after(d.sim, 0);
		up(&d);
		drill_down(&d);
		drill_free(&d);
	}
}

static bool waits_for_log(const struct volume *v, enum op_kind kind)
{
	list_for_each (&v->write_queue, node)
		if (list_entry(node, struct op, link)->kind == kind)
			return v->n_in_flight > 0;
	return false;
}

/* A MOVE was looked up and waits, behind writes that are on their way, for its place in the log. */
static bool move_waits(void *arg)
{
	return waits_for_log(((struct drill *)arg)->world.volumes[0], OP_MOVE);
}

/* Records take long, so that four are in flight and what comes next waits. */
static enum sim_fate slow_writes(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	return op->kind == SIM_WRITE ? SIM_SLOW : SIM_PROCEED;
}

static bool hydrate_waits(void *arg)
{
	return waits_for_log(((struct drill *)arg)->world.volumes[1], OP_HYDRATE);
}

/* S1, E4: cuts at just the moments when garbage collection has looked and not yet logged, in front
 * of writes that change what it looked at. */
static void cuts_meet_moves(void **state)
{
	struct seeds seeds = seeds_to_run(6);
	uint64_t met = 0;

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 1, 4 * MiB);
		d.world.config.checkpoint_log = 512 * KiB;
		up(&d);
		sim_disk_hook(d.sim, slow_writes, NULL);
		drill_load(&d, 0, 4000);
		for (int n = 0; n < 30; n++) {
			if (sim_run_until(d.sim, move_waits, &d, 40000) == SIM_DONE)
				met++;
			snap_ask(&d, 0, 0);
			if (!snap_wait(&d, 0, 0) || !snaps_judge(&d, 0) ||
			    !drill_pin(&d, 0, 0, true))
				sim_fail(d.sim, "a life without an end ended");
		}
		sim_disk_hook(d.sim, NULL, NULL);
		drill_rest(&d, 0);
		if (!drill_verify_live(&d, 0))
			sim_fail(d.sim, "a life without an end ended");
		drill_crash(&d, ORACLE_KILL);
		up(&d);
		drill_down(&d);
		drill_free(&d);
	}
	if (getenv("SIM_VERBOSE"))
		fprintf(stderr, "met %llu\n", (unsigned long long)met);
}

/* Chains of cuts: five at once, under load, each with its own point. */
static void five_cuts_in_a_row(void **state)
{
	struct seeds seeds = seeds_to_run(4);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 1, 8 * MiB);
		up(&d);
		drill_load(&d, 0, 3000);
		drill_run(&d, 2000);
		for (unsigned n = 0; n < 7; n++) {
			snap_ask(&d, 0, n);
			drill_run(&d, 40);
		}
		for (unsigned n = 0; n < 7; n++)
			snap_wait(&d, 0, n);
		for (unsigned n = 0; n < 7; n++)
			if ((d.snaps[0][n].state == SNAP_DONE) != (n < 5))
				sim_fail(d.sim, "not five snapshots are pending");
		if (!snaps_judge(&d, 0))
			sim_fail(d.sim, "dead");
		if (seed % 2)
			drill_crash(&d, ORACLE_POWER_CUT);
		else
			drill_down(&d);
		d.in_crash = true;
		if (seed % 2 == 0)
			oracle_crash_begin(d.volumes[0].oracle, ORACLE_KILL);
		up(&d);
		for (unsigned n = 0; n < 5; n++)
			drill_pin(&d, 0, n, true);
		drill_down(&d);
		drill_free(&d);
	}
}

/* What was let go is in neither version of the superblock: rot in one brings no pin back, whose
 * segments may belong to somebody else by now. */
static void rot_brings_no_pin_back(void **state)
{
	const uint64_t pair = 2 * MiB; /* of the first object */

	(void)state;
	for (unsigned slot = 0; slot < 2; slot++) {
		struct volume_pin pins[VOLUME_PINS];
		struct drill d;

		start(&d, 1 + slot, 1, 8 * MiB);
		up(&d);
		write_at(&d, 0, 0, MiB);
		drill_pin(&d, 0, 0, false);
		assert_int_equal(volume_pins(d.world.volumes[0], pins), 1);
		drill_pin(&d, 0, 0, true);
		drill_crash(&d, ORACLE_POWER_CUT);
		sim_file_rot(d.sim, d.world.store_config.path, pair + slot * 4096, 128);
		up(&d);
		assert_int_equal(volume_pins(d.world.volumes[0], pins), 0);
		drill_down(&d);
		drill_free(&d);
	}
}

/* ---- What has changed --------------------------------------------------------------------------
 */

static void differ(struct drill *d, unsigned older, unsigned newer)
{
	struct snap *a = &d->snaps[0][older];
	struct snap *b = &d->snaps[0][newer];
	uint64_t units;
	uint8_t *map = snap_changes(d, 0, newer, a->sequence, false, &units);

	for (uint64_t u = 0; u < units; u++) {
		uint64_t at = u * VOLUME_UNIT;
		uint64_t n = min_u64(VOLUME_UNIT, a->size - at);

		if (!map[u] && memcmp(a->bytes + at, b->bytes + at, n) != 0)
			sim_fail(d->sim, "unit %llu has changed and is not listed",
				 (unsigned long long)u);
	}
	sim_release(map);
}

/* S4: what differs between two snapshots is listed; what nobody touched is not, moved or not. */
static void changes_are_listed(void **state)
{
	struct drill d;
	uint64_t units;
	uint8_t *map;

	(void)state;
	start(&d, 1, 1, 64 * MiB);
	up(&d);
	for (uint64_t at = 0; at < 48 * MiB; at += MiB)
		write_at(&d, 0, at, MiB);
	drill_pin(&d, 0, 0, false);
	write_at(&d, 0, 3 * VOLUME_UNIT + 8192, 4096);
	drill_checkpoint(&d, 0);
	write_at(&d, 0, 20 * VOLUME_UNIT - 4096, 8192);
	drill_io(&d, 0, BLOCK_TRIM, 0, 40 * VOLUME_UNIT, 2 * VOLUME_UNIT, NULL);
	drill_pin(&d, 0, 1, false);
	write_at(&d, 0, 0, 4096);
	drill_pin(&d, 0, 2, false);
	if (!snaps_judge(&d, 0))
		sim_fail(d.sim, "dead");
	differ(&d, 0, 1);
	differ(&d, 1, 2);
	differ(&d, 0, 2);
	map = snap_changes(&d, 0, 1, d.snaps[0][0].sequence, false, &units);
	for (uint64_t u = 0; u < units; u++)
		assert_int_equal(map[u], u == 3 || u == 19 || u == 20 || u == 40 || u == 41);
	sim_release(map);
	map = snap_changes(&d, 0, 0, 0, false, &units);
	for (uint64_t u = 0; u < units; u++)
		assert_int_equal(map[u], u < 96);
	sim_release(map);
	drill_down(&d);
	drill_free(&d);
}

/* ---- What it costs -----------------------------------------------------------------------------
 */

static uint64_t points_of(struct drill *d)
{
	uint64_t before;

	drill_checkpoint(d, 0);
	drill_checkpoint(d, 0);
	come_to_rest(d);
	before = sim_points(d->sim);
	for (int i = 0; i < 50; i++) {
		write_at(d, 0, (uint64_t)i * 64 * KiB, 32 * KiB);
		drill_io(d, 0, BLOCK_READ, 0, (uint64_t)i * 64 * KiB, 64 * KiB, NULL);
	}
	return sim_points(d->sim) - before;
}

/* S3: 500 snapshots, each let go, and nothing is kept for them: neither space nor I/Os. */
static void snapshots_cost_nothing_afterwards(void **state)
{
	struct drill d;
	uint64_t before;
	uint64_t after;
	uint64_t segments;
	size_t memory;

	(void)state;
	start(&d, 1, 1, 8 * MiB);
	d.world.config.gc_slack = 64 * MiB;
	up(&d);
	points_of(&d);
	before = points_of(&d);
	segments = stats_of(&d, 0).segments;
	memory = sim_mem_in_use(d.sim);
	for (unsigned n = 0; n < 500; n++) {
		write_at(&d, 0, n % 64 * 64 * KiB, 8192);
		if (!drill_pin(&d, 0, n % SNAPS_MAX, false))
			sim_fail(d.sim, "dead");
		write_at(&d, 0, n % 64 * 64 * KiB, 8192);
		if (n >= 3 && !drill_pin(&d, 0, (n - 3) % SNAPS_MAX, true))
			sim_fail(d.sim, "dead");
	}
	for (unsigned n = 0; n < SNAPS_MAX; n++)
		drill_pin(&d, 0, n, true);
	after = points_of(&d);
	if (after > before + before / 10)
		sim_fail(d.sim, "%llu points before, %llu after", (unsigned long long)before,
			 (unsigned long long)after);
	if (stats_of(&d, 0).segments > segments + 2 || sim_mem_in_use(d.sim) > memory + 4)
		sim_fail(d.sim, "segments: %llu before, %llu after; allocations: %zu, %zu",
			 (unsigned long long)segments, (unsigned long long)stats_of(&d, 0).segments,
			 memory, sim_mem_in_use(d.sim));
	drill_down(&d);
	drill_free(&d);
}

/* ---- Pins outlive their volume -----------------------------------------------------------------
 */

static void delete_until(struct drill *d, uint32_t pins)
{
	uint32_t found;
	bool more = true;

	while (more)
		if (world_delete(&d->world, 0, &found, &more) < 0)
			sim_fail(d->sim, "deleting: %s", d->world.err.text);
	assert_int_equal(found, pins);
}

static void a_pin_outlives_its_volume(void **state)
{
	struct drill d;

	(void)state;
	start(&d, 1, 1, 8 * MiB);
	up(&d);
	write_at(&d, 0, 0, 4 * MiB);
	drill_pin(&d, 0, 3, false);
	write_at(&d, 0, MiB, 2 * MiB);
	if (!snaps_judge(&d, 0) || !drill_close(&d, 0))
		sim_fail(d.sim, "dead");
	delete_until(&d, 1);
	assert_int_equal(world_open(&d.world, 0), -ENOENT);
	delete_until(&d, 1);
	for (int life = 0; life < 2; life++) {
		d.world.deleted[0] = true;
		assert_int_equal(world_open(&d.world, 0), 0);
		if (!snaps_judge(&d, 0))
			sim_fail(d.sim, "dead");
		if (life == 1)
			drill_pin(&d, 0, 3, true);
		world_close(&d.world, 0);
	}
	delete_until(&d, 0);
	assert_int_equal(world_open(&d.world, 0), -ENOENT);
	world_end(&d.world);
	drill_free(&d);
}

/* ---- Volumes made of a snapshot ----------------------------------------------------------------
 */

static void make_of_snapshot(struct drill *d, uint64_t more)
{
	snaps_make_base(d, 0, 0);
	if (snaps_make_volume(d, 1, more) != 0)
		sim_fail(d->sim, "a volume can't be made: %s", d->world.err.text);
}

static void fill_volume_0(struct drill *d)
{
	uint64_t size = d->sizes[0];

	for (int n = 0; n < 40; n++)
		write_at(d, 0, sim_below(d->sim, size / 8192) * 8192,
			 min_u64(8192u << sim_below(d->sim, 5), 8192));
	write_at(d, 0, size / 2, min_u64(MiB, size / 2));
	drill_io(d, 0, BLOCK_TRIM, 0, size / 2 + 64 * KiB, 128 * KiB, NULL);
}

static bool is_hydrated(void *arg)
{
	struct drill *d = arg;

	return d->bases[1].hydrated;
}

static void restored_life(struct drill *d)
{
	enum oracle_crash kind = sim_below(d->sim, 2) ? ORACLE_KILL : ORACLE_POWER_CUT;
	bool alive = true;

	up(d);
	drill_load_all(d, 100 + sim_below(d->sim, 300));
	drill_end_after(d, kind, 200 + sim_below(d->sim, 4000));
	if (sim_below(d->sim, 3))
		volume_hydrate(d->world.volumes[1],
			       sim_below(d->sim, 2) ? UINT64_MAX : 1 + sim_below(d->sim, 64 * MiB));
	for (int n = 0; n < 6 && alive; n++)
		alive = drill_run(d, 1 + sim_below(d->sim, 3000)) && some_snapshot(d, 1);
	drill_crash(d, kind);
}

/* B1, B2, B3: reads, sub-block writes and trims over what is not here yet, snapshots of it, copying
 * it in meanwhile, and crashes. In the end all is here, and the base is let go. */
static void restored_volumes_live(void **state)
{
	struct seeds seeds = seeds_to_run(12);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 1, 3 * MiB + seed % 3 * 256 * KiB + seed % 5 * 4096);
		d.world.config.checkpoint_log = (128 * KiB) << sim_below(d.sim, 6);
		d.world.bases[1] = NULL;
		up(&d);
		fill_volume_0(&d);
		make_of_snapshot(&d, seed % 4 * 8192);
		drill_crash(&d, ORACLE_KILL);
		for (int life = 0; life < 4; life++)
			restored_life(&d);
		sim_cut_after(d.sim, 0);
		sim_kill_after(d.sim, 0);
		up(&d);
		for (unsigned n = 0; n < SNAPS_MAX; n++)
			drill_pin(&d, 1, n, true);
		volume_hydrate(d.world.volumes[1], UINT64_MAX);
		if (sim_run_until(d.sim, is_hydrated, &d, 10000000) != SIM_DONE)
			sim_fail(d.sim, "it is never hydrated");
		if (!drill_verify_live(&d, 1) || !drill_walk(&d, 1))
			sim_fail(d.sim, "dead");
		drill_crash(&d, ORACLE_POWER_CUT);
		d.world.bases[1] = NULL;
		up(&d);
		assert_true(id_is_zero(stats_of(&d, 1).base));
		drill_down(&d);
		drill_free(&d);
	}
}

/* B2: cuts and checkpoints at just the moments when hydration has looked and not yet logged. */
static void cuts_meet_hydration(void **state)
{
	struct seeds seeds = seeds_to_run(6);
	uint64_t met = 0;

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 1, 8 * MiB);
		up(&d);
		for (uint64_t at = 0; at < 8 * MiB; at += MiB)
			write_at(&d, 0, at, MiB);
		make_of_snapshot(&d, 0);
		d.bases[1].delay = NSEC_PER_MSEC;
		sim_disk_hook(d.sim, slow_writes, NULL);
		drill_load(&d, 1, 4000);
		volume_hydrate(d.world.volumes[1], UINT64_MAX);
		for (unsigned n = 1; sim_run_until(d.sim, hydrate_waits, &d, 40000) == SIM_DONE;
		     n++) {
			bool cut = n % 2;

			met++;
			if (cut)
				snap_ask(&d, 1, 1);
			if (cut ? !snap_wait(&d, 1, 1) || !drill_pin(&d, 1, 1, true)
				: !drill_checkpoint(&d, 1))
				sim_fail(d.sim, "a life without an end ended");
		}
		sim_disk_hook(d.sim, NULL, NULL);
		drill_rest(&d, 1);
		if (!drill_verify_live(&d, 1))
			sim_fail(d.sim, "a life without an end ended");
		drill_crash(&d, ORACLE_KILL);
		up(&d);
		drill_down(&d);
		drill_free(&d);
	}
	if (getenv("SIM_VERBOSE"))
		fprintf(stderr, "met %llu\n", (unsigned long long)met);
}

/* B1: what the base can't give fails, by name, and nothing else does; it is asked for again. */
static void a_base_that_fails_is_named(void **state)
{
	struct drill d;
	int error;

	(void)state;
	start(&d, 1, 1, 4 * MiB);
	up(&d);
	write_at(&d, 0, 0, 4 * MiB);
	make_of_snapshot(&d, 0);
	d.bases[1].bad_from = 300;
	d.bases[1].bad_to = 301;
	drill_io(&d, 1, BLOCK_READ, 0, 300 * 4096, 4096, &error);
	assert_int_equal(error, -EIO);
	drill_io(&d, 1, BLOCK_WRITE, 0, 300 * 4096 + 512, 512, &error);
	assert_int_equal(error, -EIO);
	assert_int_equal(stats_of(&d, 1).health, VOLUME_IMPAIRED);
	assert_true(d.world.bad_blocks > 0);
	drill_io(&d, 1, BLOCK_READ, 0, 301 * 4096, 4096, NULL);
	volume_hydrate(d.world.volumes[1], UINT64_MAX);
	drill_run_steps(&d, 20000);
	assert_false(d.bases[1].hydrated);
	assert_int_equal(stats_of(&d, 1).hydrate_failed, VOLUME_UNIT);
	assert_true(stats_of(&d, 1).hydrated < 4 * MiB);
	d.bases[1].bad_to = 0;
	if (sim_run_until(d.sim, is_hydrated, &d, 10000000) != SIM_DONE)
		sim_fail(d.sim, "it is never hydrated");
	drill_verify_live(&d, 1);
	world_end(&d.world);
	drill_free(&d);
}

/* Zeroes of the base are not copied, what users wrote is not fetched, a hydrated volume's snapshot
 * has changed only where users wrote; and a rate is kept. */
static void hydration_is_thrifty(void **state)
{
	struct drill d;
	uint64_t units;
	uint64_t began;
	uint8_t *map;

	(void)state;
	start(&d, 1, 1, 64 * MiB);
	up(&d);
	write_at(&d, 0, 8 * MiB, 4 * MiB);
	write_at(&d, 0, 32 * MiB, 4 * MiB);
	make_of_snapshot(&d, 0);
	write_at(&d, 1, 8 * MiB, VOLUME_UNIT);
	write_at(&d, 1, 50 * MiB, 4096);
	volume_hydrate(d.world.volumes[1], 4 * MiB);
	began = io_now(d.world.loop);
	if (sim_run_until(d.sim, is_hydrated, &d, 10000000) != SIM_DONE)
		sim_fail(d.sim, "it is never hydrated");
	assert_int_equal(d.bases[1].bytes_read, 8 * MiB - VOLUME_UNIT);
	assert_in_range(io_now(d.world.loop) - began, 1700 * NSEC_PER_MSEC, 2000 * NSEC_PER_MSEC);
	assert_in_range(stats_of(&d, 1).live_bytes, 8 * MiB, 8 * MiB + 64 * KiB);
	drill_pin(&d, 1, 0, false);
	map = snap_changes(&d, 1, 0, 0, false, &units);
	for (uint64_t u = 0; u < units; u++)
		assert_int_equal(map[u], u == 16 || u == 100);
	sim_release(map);
	map = snap_changes(&d, 1, 0, 0, true, &units);
	assert_int_equal(map[17], 1);
	sim_release(map);
	if (!snaps_judge(&d, 1))
		sim_fail(d.sim, "dead");
	drill_down(&d);
	drill_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(snapshots_hold_their_point),
	    cmocka_unit_test(cuts_meet_moves),
	    cmocka_unit_test(five_cuts_in_a_row),
	    cmocka_unit_test(rot_brings_no_pin_back),
	    cmocka_unit_test(changes_are_listed),
	    cmocka_unit_test(snapshots_cost_nothing_afterwards),
	    cmocka_unit_test(a_pin_outlives_its_volume),
	    cmocka_unit_test(restored_volumes_live),
	    cmocka_unit_test(cuts_meet_hydration),
	    cmocka_unit_test(a_base_that_fails_is_named),
	    cmocka_unit_test(hydration_is_thrifty),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
