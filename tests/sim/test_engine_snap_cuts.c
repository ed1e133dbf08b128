/* SPDX-License-Identifier: Apache-2.0
 *
 * Cut loops (tests/sim/cut_loop.h) of what snapshots and volumes made of them change: S1, S3, B1,
 * B2, B3. The judgement after each cut reads every snapshot, too (tests/sim/snaps.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/cut_loop.h"

#include <errno.h>

/* ---- Snapshots ---------------------------------------------------------------------------------
 */

/* S1: the first while a checkpoint runs, the second behind it. */
static bool act_snapshot(struct drill *d)
{
	drill_load(d, 0, 40);
	if (!drill_run(d, 60))
		return false;
	snap_ask(d, 0, 0);
	if (!drill_run(d, 40))
		return false;
	snap_ask(d, 0, 1);
	return snap_wait(d, 0, 0) && snap_wait(d, 0, 1) && drill_run(d, 10000000);
}
LOOP(snapshots_under_load, .before = some_history, .act = act_snapshot, .stride = 3)

static void with_snapshots(struct drill *d)
{
	some_history(d);
	drill_pin(d, 0, 0, false);
	write_at(d, 0, 0, 256 * KiB);
	drill_pin(d, 0, 1, false);
	write_at(d, 0, 64 * KiB, 256 * KiB);
}

static bool act_let_go(struct drill *d)
{
	return drill_pin(d, 0, 0, true) && drill_checkpoint(d, 0) && write_at(d, 0, 0, 8192) &&
	       drill_pin(d, 0, 1, true) && drill_pin(d, 0, 0, false) && drill_pin(d, 0, 0, true);
}

/* S3: a pin is there until it is let go, and then its number can be used again. */
LOOP(snapshots_are_let_go, .before = with_snapshots, .act = act_let_go, .stride = 2)

static bool act_view(struct drill *d)
{
	drill_load(d, 0, 20);
	return snaps_judge(d, 0) && drill_run(d, 10000000);
}
LOOP(views_while_it_goes_on, .before = with_snapshots, .act = act_view, .stride = 3)

static void gather_garbage(struct drill *d)
{
	d->world.config.gc_slack = 1;
}

static void leave_a_quarter(struct drill *d)
{
	for (uint64_t at = 0; at < VOLUME_BYTES; at += 2 * MiB)
		write_at(d, 0, at, 2 * MiB);
	for (uint64_t at = 0; at < VOLUME_BYTES; at += 256 * KiB)
		write_at(d, 0, at, 192 * KiB);
}

/* S1: cuts while what lives is copied, and clients write where it moves. */
static bool act_cut_among_moves(struct drill *d)
{
	if (!drill_checkpoint(d, 0))
		return false;
	for (unsigned n = 0; n < 5; n++) {
		snap_ask(d, 0, n);
		if (!write_at(d, 0, 192 * KiB + n * 256 * KiB, 64 * KiB) || !drill_run(d, 20))
			return false;
	}
	for (unsigned n = 0; n < 5; n++)
		if (!snap_wait(d, 0, n))
			return false;
	return true;
}
LOOP(cuts_among_moves, .config = gather_garbage, .before = leave_a_quarter,
     .act = act_cut_among_moves, .stride = 2)

/* ---- Deleting ----------------------------------------------------------------------------------
 */

static bool delete_all(struct drill *d)
{
	uint32_t pins;
	bool more = true;
	int r = 0;

	while (more && r == 0)
		r = world_delete(&d->world, 0, &pins, &more);
	return r == 0;
}

/* S3: whenever the power goes while a volume with a pin is deleted, the volume is there, or its pin
 * alone is. */
static bool delete_cut_at(uint64_t seed, uint64_t k)
{
	struct drill d;
	bool cut;

	drill_init(&d, seed, 256 * MiB);
	d.n_volumes = 1;
	d.sizes[0] = VOLUME_BYTES;
	if (!drill_up(&d))
		sim_fail(d.sim, "the first life ended");
	with_snapshots(&d);
	if (!snaps_judge(&d, 0) || !drill_close(&d, 0))
		sim_fail(d.sim, "the first life ended");
	drill_end_after(&d, ORACLE_POWER_CUT, k);
	delete_all(&d);
	cut = sim_is_dead(d.sim);
	drill_crash(&d, ORACLE_POWER_CUT);
	if (world_begin(&d.world) < 0)
		sim_fail(d.sim, "no store");
	if (world_open(&d.world, 0) == -ENOENT) {
		d.world.deleted[0] = true;
		if (world_open(&d.world, 0) < 0)
			sim_fail(d.sim, "the pins are gone: %s", d.world.err.text);
	} else if (!cut) {
		sim_fail(d.sim, "a volume was deleted and is there");
	}
	if (!snaps_judge(&d, 0))
		sim_fail(d.sim, "a life without an end ended");
	for (unsigned n = 0; n < 2; n++)
		drill_pin(&d, 0, n, true);
	world_close(&d.world, 0);
	if (!delete_all(&d) || world_open(&d.world, 0) != -ENOENT)
		sim_fail(d.sim, "a volume without pins is not deleted");
	world_end(&d.world);
	drill_free(&d);
	return cut;
}

static void a_volume_with_pins_is_deleted(void **state)
{
	uint64_t k = 1;

	(void)state;
	while (delete_cut_at(1 + k % 3, k))
		k++;
	assert_true(k > 4);
}

/* ---- Volumes made of a snapshot ----------------------------------------------------------------
 */

static void snapshot_of_0(struct drill *d)
{
	some_history(d);
	write_at(d, 0, 5 * MiB, 512 * KiB);
	snaps_make_base(d, 0, 0);
}

static bool act_make(struct drill *d)
{
	return snaps_make_volume(d, 1, 8192) == 0;
}

/* The volume is there and holds its base, or it is not there. */
LOOP(create_of_a_snapshot, .before = snapshot_of_0, .act = act_make)

static void volume_of_a_snapshot(struct drill *d)
{
	snapshot_of_0(d);
	act_make(d);
}

/* B1, B2: clients write, in part of blocks, too, where the base is being copied in. */
static bool act_hydrate(struct drill *d)
{
	volume_hydrate(d->world.volumes[1], UINT64_MAX);
	for (uint64_t at = 0; at < VOLUME_BYTES; at += 700 * KiB)
		if (!drill_io(d, 1, BLOCK_WRITE, 0, at + 512, 5120, NULL))
			return false;
	return drill_pin(d, 1, 0, false) && drill_checkpoint(d, 1) && drill_pin(d, 1, 0, true) &&
	       sim_run_until(d->sim, sim_flag_is_set, &d->bases[1].hydrated, 10000000) == SIM_DONE;
}
LOOP(hydrate, .before = volume_of_a_snapshot, .act = act_hydrate, .stride = 3)

/* E5, B1: what was trimmed stays zeroes, and the base does not show through. */
static bool act_trim_base(struct drill *d)
{
	return drill_io(d, 1, BLOCK_TRIM, 0, 4096, 20 * KiB, NULL) &&
	       drill_io(d, 1, BLOCK_TRIM, 0, 5 * MiB - 512, 300 * KiB, NULL) &&
	       drill_io(d, 1, BLOCK_WRITE_ZEROES, 0, 64 * KiB + 512, 128 * KiB, NULL) &&
	       drill_checkpoint(d, 1) && drill_io(d, 1, BLOCK_TRIM, 0, 0, VOLUME_BYTES, NULL) &&
	       drill_checkpoint(d, 1);
}
LOOP(trim_over_a_base, .before = volume_of_a_snapshot, .act = act_trim_base)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(snapshots_under_load),
	    cmocka_unit_test(snapshots_are_let_go),
	    cmocka_unit_test(views_while_it_goes_on),
	    cmocka_unit_test(cuts_among_moves),
	    cmocka_unit_test(a_volume_with_pins_is_deleted),
	    cmocka_unit_test(create_of_a_snapshot),
	    cmocka_unit_test(hydrate),
	    cmocka_unit_test(trim_over_a_base),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
