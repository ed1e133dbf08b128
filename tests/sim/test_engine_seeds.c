/* SPDX-License-Identifier: Apache-2.0
 *
 * Random lives of a daemon with random clients, by seed: docs/durability.md's promises under power
 * cuts, kills, clean closes, errors, lies and rot of the disk, and without space.
 *
 * SIM_SEED=123 replays one seed in every test, SIM_SEEDS=5000 runs many (tests/sim/seeds.h).
 */
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
		return drill_pin(d, i, (int)sim_below(sim, 5), false);
	case 3:
	case 4:
		return drill_pin(d, i, (int)sim_below(sim, 5), true);
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

static void one_life(struct drill *d)
{
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
	struct seeds seeds = seeds_to_run(100);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		run_lives(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lives_keep_promises),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
