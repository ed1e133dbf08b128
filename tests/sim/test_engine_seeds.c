/* SPDX-License-Identifier: Apache-2.0
 *
 * Random lives of a daemon with random clients, by seed: docs/durability.md's promises under power
 * cuts, kills, clean closes, errors, lies and rot of the disk, and without space.
 *
 * SIM_SEED=123 replays one seed in every test, SIM_SEEDS=5000 runs many (tests/sim/seeds.h).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/drill.h"
#include "tests/sim/seeds.h"

static enum oracle_crash choose_crash(struct sim *sim)
{
	return sim_below(sim, 2) ? ORACLE_POWER_CUT : ORACLE_KILL;
}

/* The life will end by itself, soon or late. */
static void set_end(struct drill *d, uint64_t longest)
{
	drill_end_after(d, choose_crash(d->sim),
			1 + sim_below(d->sim, 1 + sim_below(d->sim, longest)));
}

static uint64_t grown(struct drill *d, unsigned i)
{
	return d->volumes[i].size + (1 + sim_below(d->sim, 512)) * BLOCK_SIZE;
}

/* An operator does something while clients are at work. False: dead. */
static bool disturb(struct drill *d, unsigned i)
{
	struct sim *sim = d->sim;

	switch (sim_below(sim, 8)) {
	case 0:
		return drill_checkpoint(d, i);
	case 1:
		return d->volumes[i].size > 80 * MiB || drill_resize(d, i, grown(d, i));
	case 2:
		return drill_pin(d, i, (unsigned)sim_below(sim, 7), false);
	case 3:
	case 4:
		return drill_pin(d, i, (unsigned)sim_below(sim, 7), true);
	case 5:
		if (!drill_close(d, i) || !drill_reopen(d, i) || !drill_verify_live(d, i))
			return false;
		drill_load(d, i, 20 + sim_below(sim, 100));
		return true;
	case 6:
		if (!drill_rest(d, i) || !drill_verify_live(d, i) || !drill_walk(d, i))
			return false;
		drill_load(d, i, 20 + sim_below(sim, 100));
		return true;
	default:
		return drill_run(d, 1 + sim_below(sim, 5000));
	}
}

/* False: it ended early. */
static bool live(struct drill *d)
{
	drill_load_all(d, 10 + sim_below(d->sim, 150));
	if (sim_below(d->sim, 2) == 0)
		set_end(d, 1500);
	for (uint64_t n = sim_below(d->sim, 6); n > 0; n--)
		if (!disturb(d, (unsigned)sim_below(d->sim, d->n_volumes)))
			return false;
	return drill_run(d, sim_below(d->sim, 2) ? 1 + sim_below(d->sim, 10000) : 10000000);
}

static bool opened_once(const struct drill *d)
{
	for (unsigned i = 0; i < d->n_volumes; i++)
		if (!d->volumes[i].size)
			return false;
	return true;
}

static void one_life(struct drill *d)
{
	/* Somebody checks the store before it is started again. */
	if (d->lives > 0 && sim_below(d->sim, 8) == 0 && opened_once(d))
		drill_look(d);
	/* Some do not get far: death while recovering. */
	if (sim_below(d->sim, 4) == 0)
		set_end(d, 100);
	if (drill_up(d)) {
		drill_end_after(d, ORACLE_KILL, 0);
		if (live(d) && sim_below(d->sim, 4) == 0 && drill_down(d) && sim_below(d->sim, 2))
			return;
	}
	drill_crash(d, choose_crash(d->sim));
}

static uint64_t run_lives(uint64_t seed)
{
	struct drill d;
	uint64_t digest;

	drill_init(&d, seed, 0);
	for (uint64_t n = 2 + sim_below(d.sim, 4); n > 0; n--)
		one_life(&d);
	sim_cut_after(d.sim, 0);
	sim_kill_after(d.sim, 0);
	if (!drill_up(&d) || !drill_down(&d))
		sim_fail(d.sim, "the last life ended early");
	digest = sim_digest(d.sim);
	drill_free(&d);
	return digest;
}

/* E1, E2, E3, E4, E5, E8: whatever the clients do, and whenever the power goes or the process dies,
 * recovery included. */
static void lives_keep_promises(void **state)
{
	struct seeds seeds = seeds_to_run(40);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		run_lives(seed);
}

/* ---- Errors ----------------------------------------------------------------------------------
 */

/* Chances in a million, and what has happened. */
struct faults {
	struct sim *sim;
	uint32_t chance[4]; /* of reads, writes, syncs to fail; of anything to stall */
	uint32_t lie;       /* of writes to be lost, or to land elsewhere */
	bool sync_failed;
};

static enum sim_fate choose_fate(void *arg, struct sim_disk_op *op)
{
	struct faults *f = arg;
	unsigned kind = op->kind == SIM_READ ? 0 : op->kind == SIM_SYNC ? 2 : 1;

	if (op->kind == SIM_WRITE && sim_chance(f->sim, f->lie))
		return sim_below(f->sim, 2) ? SIM_LOSE : SIM_MISDIRECT;
	if (sim_chance(f->sim, f->chance[3]))
		return SIM_STALL;
	if (!sim_chance(f->sim, f->chance[kind]))
		return SIM_PROCEED;
	f->sync_failed |= op->kind == SIM_SYNC;
	return SIM_FAIL;
}

static void faults_begin(struct drill *d, struct faults *f)
{
	static const uint32_t chances[] = {0, 0, 500, 5000, 50000};

	memset(f, 0, sizeof(*f));
	f->sim = d->sim;
	for (unsigned i = 0; i < ARRAY_SIZE(f->chance); i++)
		f->chance[i] = chances[sim_below(d->sim, ARRAY_SIZE(chances))];
	d->errors_ok = true;
	sim_disk_hook(d->sim, choose_fate, f);
}

static void faults_end(struct drill *d)
{
	sim_disk_hook(d->sim, NULL, NULL);
	sim_release_stalled(d->sim);
}

static bool is_well(const struct drill *d, unsigned i)
{
	struct volume_stats stats;

	volume_stats(d->world.volumes[i], &stats);
	return stats.health == VOLUME_OK;
}

static bool all_well(const struct drill *d)
{
	for (unsigned i = 0; i < d->n_volumes; i++)
		if (!is_well(d, i))
			return false;
	return true;
}

static bool nothing_is_written(void *arg)
{
	return sim_disk_in_flight(arg, SIM_WRITE | SIM_SYNC) == 0;
}

/* What was told to be stuck is, or was told to be over. */
static void check_watch(const struct drill *d)
{
	uint64_t n_stuck = 0;

	for (unsigned i = 0; i < d->n_volumes; i++) {
		struct volume_stats stats;

		volume_stats(d->world.volumes[i], &stats);
		n_stuck += stats.is_stuck;
	}
	sim_assert(d->sim, d->world.n_stuck == d->world.n_stuck_over + n_stuck);
}

/* All requests have ended; reads work, whatever has failed, and tell the truth. What is under way
 * behind them may have been chosen to fail, and counters mean nothing after that. */
static bool settle(struct drill *d)
{
	if (sim_run_until(d->sim, nothing_is_written, d->sim, UINT64_MAX) == SIM_DEAD)
		return false;
	check_watch(d);
	for (unsigned i = 0; i < d->n_volumes; i++) {
		if (!drill_rest(d, i) || !drill_verify_live(d, i))
			return false;
		if (is_well(d, i) && !drill_walk(d, i))
			return false;
	}
	return true;
}

/* Nobody knows what a failed sync has dropped before the power goes. */
static void end_in_error(struct drill *d, const struct faults *f)
{
	bool well = all_well(d);

	/* What was answered with an error may yet show when the log is read again. */
	if (!f->sync_failed && sim_below(d->sim, 3) == 0 && drill_down(d) && well &&
	    sim_below(d->sim, 2) == 0) {
		d->in_crash = false;
		return;
	}
	drill_crash(d, f->sync_failed ? ORACLE_POWER_CUT : choose_crash(d->sim));
}

static bool disturb_with_errors(struct drill *d, unsigned i)
{
	switch (sim_below(d->sim, 4)) {
	case 0:
		return drill_checkpoint(d, i);
	case 1:
		return !is_well(d, i) || drill_resize(d, i, grown(d, i));
	case 2:
		return drill_pin(d, i, (unsigned)sim_below(d->sim, 7), sim_below(d->sim, 2));
	default:
		return drill_run(d, 1 + sim_below(d->sim, 5000));
	}
}

static bool live_with_errors(struct drill *d, struct faults *f)
{
	faults_begin(d, f);
	drill_load_all(d, 10 + sim_below(d->sim, 150));
	f->chance[3] /= 10;
	drill_run(d, 1 + sim_below(d->sim, 10000));
	/* Operations on a volume as a whole are waited for. */
	f->chance[3] = 0;
	sim_release_stalled(d->sim);
	for (uint64_t n = sim_below(d->sim, 4); n > 0; n--)
		if (!disturb_with_errors(d, (unsigned)sim_below(d->sim, d->n_volumes)))
			return false;
	faults_end(d);
	return settle(d);
}

static void life_with_errors(struct drill *d)
{
	struct faults f = {0};

	/* Errors while recovering: it opens, or says so and opens later. */
	if (sim_below(d->sim, 3) == 0) {
		faults_begin(d, &f);
		f.chance[3] = 0;
		drill_open_all(d);
		faults_end(d);
		drill_crash(d, f.sync_failed ? ORACLE_POWER_CUT : choose_crash(d->sim));
	}
	d->errors_ok = false;
	if (!drill_up(d))
		sim_fail(d->sim, "a life without errors ended");
	if (live_with_errors(d, &f))
		end_in_error(d, &f);
}

static void run_errors(uint64_t seed)
{
	struct drill d;

	drill_init(&d, seed, 0);
	d.world.config.stuck_after_ns = seed % 2 * 20 * NSEC_PER_MSEC;
	for (uint64_t n = 1 + sim_below(d.sim, 4); n > 0; n--)
		life_with_errors(&d);
	d.errors_ok = false;
	sim_cut_after(d.sim, 0);
	sim_kill_after(d.sim, 0);
	if (!drill_up(&d) || !drill_down(&d))
		sim_fail(d.sim, "the last life ended early");
	drill_free(&d);
}

/* E1, E2, E3: reads, writes and syncs that fail, and operations that take for ever, cost no
 * promise: what could not be done is answered with an error, and what was acknowledged is there. */
static void errors_keep_promises(void **state)
{
	struct seeds seeds = seeds_to_run(40);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		run_errors(seed);
}

/* ---- Lies ------------------------------------------------------------------------------------
 */

#define PIECE (64 * KiB)

/* A read gives an error or what was written. */
static void read_live(struct drill *d, unsigned i)
{
	for (uint64_t at = 0; at < d->volumes[i].size; at += PIECE) {
		int error;

		drill_io(d, i, BLOCK_READ, 0, at, min_u64(PIECE, d->volumes[i].size - at), &error);
	}
}

/* After a crash what was acknowledged may be gone with a write that the disk has lost, and older
 * bytes of the same place may show: they are never anybody else's. */
static void read_after(struct drill *d, unsigned i)
{
	struct oracle *oracle = d->volumes[i].oracle;
	uint64_t size = min_u64(block_size(volume_dev(d->world.volumes[i])),
				oracle_sectors(oracle) * BLOCK_SECTOR);
	uint8_t *buf = sim_alloc(PIECE);

	for (uint64_t at = 0; at < size; at += PIECE) {
		uint64_t n = min_u64(PIECE, size - at);

		if (world_io(&d->world, i, BLOCK_READ, 0, at, n, buf) == 0 &&
		    !oracle_crash_see(oracle, at / BLOCK_SECTOR, n / BLOCK_SECTOR, buf))
			sim_fail(d->sim, "volume %u: %s", i, oracle_text(oracle));
	}
	sim_release(buf);
}

static void rot(struct drill *d)
{
	uint64_t size = sim_file_size(d->sim, d->world.store_config.path);

	for (uint64_t n = sim_below(d->sim, 20); n > 0; n--)
		sim_file_rot(d->sim, d->world.store_config.path, 0,
			     min_u64(size, MiB << sim_below(d->sim, 8)));
}

static void live_among_lies(struct drill *d)
{
	struct faults f;

	faults_begin(d, &f);
	memset(f.chance, 0, sizeof(f.chance));
	f.lie = sim_below(d->sim, 2) ? 20000 : 0;
	drill_load_all(d, 10 + sim_below(d->sim, 150));
	drill_run(d, 1 + sim_below(d->sim, 10000));
	rot(d);
	for (unsigned i = 0; i < d->n_volumes; i++)
		drill_checkpoint(d, i);
	drill_run(d, 1 + sim_below(d->sim, 10000));
	for (unsigned i = 0; i < d->n_volumes; i++) {
		drill_rest(d, i);
		read_live(d, i);
	}
	faults_end(d);
}

static void run_lies(uint64_t seed)
{
	struct drill d;

	drill_init(&d, seed, 0);
	if (!drill_up(&d))
		sim_fail(d.sim, "a life without an end ended");
	drill_load_all(&d, 1 + sim_below(d.sim, 100)); /* 0 would be without an end */
	drill_run(&d, UINT64_MAX);
	live_among_lies(&d);
	drill_crash(&d, choose_crash(d.sim));
	if (world_begin(&d.world) == 0) {
		for (unsigned i = 0; i < d.n_volumes; i++) {
			if (world_open(&d.world, i) < 0)
				continue;
			read_after(&d, i);
			world_check(&d.world, i);
			world_checkpoint(&d.world, i);
			world_close(&d.world, i);
		}
	}
	drill_free(&d);
}

/* E4: over a disk that loses writes, puts them elsewhere, or lets bits rot, a read gives what was
 * written, or an error. */
static void lies_are_noticed(void **state)
{
	struct seeds seeds = seeds_to_run(40);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		run_lies(seed);
}

/* One seed is one run, bit for bit. */
static void same_seed_same_run(void **state)
{
	struct seeds seeds = seeds_to_run(3);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= min_u64(seeds.last, seeds.first + 20); seed++)
		assert_true(run_lives(seed) == run_lives(seed));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lives_keep_promises),
	    cmocka_unit_test(errors_keep_promises),
	    cmocka_unit_test(lies_are_noticed),
	    cmocka_unit_test(same_seed_same_run),
	};

	/* SIM_TEST=errors_keep_promises runs that one only. */
	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
