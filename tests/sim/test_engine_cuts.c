/* SPDX-License-Identifier: Apache-2.0
 *
 * One loop for each operation that changes what is stored: the power goes (or the process dies)
 * after the 1st, 2nd, 3rd ... point of it, until it completes uncut; each time everything is opened
 * again and judged (tests/sim/drill.h): E1 to E5, E8, pins.
 *
 * SIM_TEST=write_one_block runs one loop; SIM_K=17 only its 17th cut, SIM_STRIDE=5 each fifth. Long
 * loops take strides, but for SOAK=1.
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
#include "tests/sim/cut_loop.h"

/* ---- Requests -----------------------------------------------------------------------------------
 */

static bool act_write_one(struct drill *d)
{
	return write_at(d, 0, 96 * KiB, 4096);
}

static bool act_write_mib(struct drill *d)
{
	return write_at(d, 0, 32 * KiB, MiB);
}

/* Its edges are read, it is longer than a record, and ends in the middle of a block. */
static bool act_write_unaligned(struct drill *d)
{
	return write_at(d, 0, 32 * KiB + 512, MiB + 512);
}

static bool act_write_large(struct drill *d)
{
	return write_at(d, 0, 512, 3 * MiB + 1024) && flush(d);
}

static bool act_write_sub_block(struct drill *d)
{
	return write_at(d, 0, 20480 + 1024, 512) && write_at(d, 0, 128 * KiB - 512, 1024) &&
	       write_at(d, BLOCK_FUA, 5 * MiB + 512, 512);
}

static bool act_flush(struct drill *d)
{
	return flush(d) && write_at(d, 0, 0, 8192) && flush(d) && flush(d);
}

static bool act_fua(struct drill *d)
{
	return write_at(d, 0, 8192, 8192) && write_at(d, BLOCK_FUA, 0, 4096) &&
	       drill_io(d, 0, BLOCK_TRIM, BLOCK_FUA, 64 * KiB, 64 * KiB, NULL);
}

static bool act_trim(struct drill *d)
{
	return drill_io(d, 0, BLOCK_TRIM, 0, 512, 12 * KiB, NULL) &&
	       drill_io(d, 0, BLOCK_TRIM, 0, 16 * KiB, 2 * MiB, NULL) &&
	       write_at(d, 0, 32 * KiB, 8192) &&
	       drill_io(d, 0, BLOCK_TRIM, 0, 0, VOLUME_BYTES, NULL) && flush(d);
}

static bool act_zero(struct drill *d)
{
	return drill_io(d, 0, BLOCK_WRITE_ZEROES, 0, 3584, 1024, NULL) &&
	       drill_io(d, 0, BLOCK_WRITE_ZEROES, 0, 64 * KiB + 512, 512 * KiB, NULL) &&
	       drill_io(d, 0, BLOCK_WRITE_ZEROES, BLOCK_NO_HOLE | BLOCK_FUA, 0, 2 * MiB, NULL);
}

/* Requests of all kinds, many in flight. */
static bool act_load(struct drill *d)
{
	drill_load(d, 0, 40);
	return drill_run(d, 10000000);
}

/* E1, E3. */
LOOP(write_one_block, .before = some_history, .act = act_write_one)
LOOP(write_mib, .before = some_history, .act = act_write_mib)
LOOP(write_unaligned, .before = some_history, .act = act_write_unaligned)
/* E1, E2: several records. */
LOOP(write_large, .before = some_history, .act = act_write_large)
/* E3, E4: the rest of the block stays. */
LOOP(write_sub_block, .before = some_history, .act = act_write_sub_block)
/* E1. */
LOOP(flush_keeps, .before = some_history, .act = act_flush)
LOOP(fua_keeps, .before = some_history, .act = act_fua)
/* E5. */
LOOP(trim_zeroes_blocks, .before = some_history, .act = act_trim)
LOOP(write_zeroes, .before = some_history, .act = act_zero)
/* E2. */
LOOP(load_of_all_kinds, .before = some_history, .act = act_load, .stride = 3)

/* ---- Volumes ------------------------------------------------------------------------------------
 */

static bool act_create(struct drill *d)
{
	d->n_volumes = 2;
	return drill_open(d, 1) == 0;
}

/* A volume is there, and empty, or it is not there; the other one does not care. */
LOOP(create, .before = some_history, .act = act_create)

static void killed(struct drill *d)
{
	some_history(d);
	drill_crash(d, ORACLE_KILL);
}

static void cut(struct drill *d)
{
	some_history(d);
	drill_crash(d, ORACLE_POWER_CUT);
}

static void closed(struct drill *d)
{
	some_history(d);
	drill_down(d);
}

/* Recovery may die at any point, its two superblock swaps included, and be begun again. What it
 * found, and whoever opened next has written to, stays. */
LOOP(open_after_kill, .before = killed, .act = drill_up)
LOOP(open_after_cut, .before = cut, .act = drill_up)
LOOP(open_after_close, .before = closed, .act = drill_up)

static bool act_open_and_write(struct drill *d)
{
	return drill_up(d) && write_at(d, 0, 40 * KiB, 64 * KiB) && flush(d) &&
	       write_at(d, 0, 48 * KiB, 8192);
}

/* E2: a suffix past a hole never comes back, whatever the new incarnation has written. */
static void many_in_flight(struct drill *d)
{
	some_history(d);
	drill_load(d, 0, 60);
	drill_run(d, 300);
	drill_crash(d, ORACLE_POWER_CUT);
}
LOOP(open_and_write, .before = many_in_flight, .act = act_open_and_write)

static bool act_resize(struct drill *d)
{
	return drill_resize(d, 0, VOLUME_BYTES + 4096) &&
	       write_at(d, 0, VOLUME_BYTES - 4096, 8192) && drill_resize(d, 0, 8 * MiB);
}

/* A size that was acknowledged stays; one that was not is the old or the new. */
LOOP(resize_grows, .before = some_history, .act = act_resize)

static bool act_checkpoint(struct drill *d)
{
	return drill_checkpoint(d, 0) && write_at(d, 0, 24 * KiB, 4096) && drill_checkpoint(d, 0);
}
LOOP(checkpoint, .before = some_history, .act = act_checkpoint)

static bool act_checkpoint_under_load(struct drill *d)
{
	drill_load(d, 0, 30);
	return drill_run(d, 50) && drill_checkpoint(d, 0) && drill_run(d, 10000000);
}
LOOP(checkpoint_under_load, .before = some_history, .act = act_checkpoint_under_load, .stride = 3)

static bool act_pin(struct drill *d)
{
	return drill_pin(d, 0, 0, false) && write_at(d, 0, 0, 256 * KiB) &&
	       drill_checkpoint(d, 0) && drill_pin(d, 0, 4, false) && drill_checkpoint(d, 0) &&
	       drill_checkpoint(d, 0);
}

/* A pinned root is whole, or it is not pinned. */
LOOP(pin, .before = some_history, .act = act_pin)

static void pinned(struct drill *d)
{
	some_history(d);
	act_pin(d);
}

static bool act_unpin(struct drill *d)
{
	return drill_pin(d, 0, 0, true) && drill_checkpoint(d, 0) && drill_checkpoint(d, 0) &&
	       drill_pin(d, 0, 4, true);
}
LOOP(unpin, .before = pinned, .act = act_unpin)

/* E1: a clean close, and what is opened after it. */
LOOP(close_cleanly, .before = some_history, .act = drill_down)

/* ---- Segments -----------------------------------------------------------------------------------
 */

/* A checkpoint runs nearly all the time, and segments end and die meanwhile. */
static void small_and_busy(struct drill *d)
{
	d->sizes[0] = 512 * KiB;
	d->world.config.checkpoint_log = MiB;
}

static bool act_overwrite(struct drill *d)
{
	for (int i = 0; i < 60; i++)
		if (!write_at(d, 0, 0, 256 * KiB) || (i % 8 == 7 && !flush(d)))
			return false;
	return true;
}

/* Segments die, are freed, lent again and written again: nothing that a recovery needs is. */
LOOP(segments_are_reused, .config = small_and_busy, .act = act_overwrite, .stride = 5)

/* Two segments of which a quarter lives. */
static void gather_garbage(struct drill *d)
{
	d->world.config.gc_slack = 1;
}

static void leave_a_quarter(struct drill *d)
{
	write_at(d, 0, 0, 2 * MiB);
	write_at(d, 0, 2 * MiB, 2 * MiB);
	write_at(d, 0, 4 * MiB, 2 * MiB);
	for (uint64_t at = 0; at < VOLUME_BYTES; at += 256 * KiB)
		write_at(d, 0, at, 192 * KiB);
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

/* Copies, a MOVE, and the checkpoints after which the old segments are freed; and clients write
 * where something moves. */
static bool act_collect(struct drill *d)
{
	struct volume_stats stats;

	if (!drill_checkpoint(d, 0) || !write_at(d, 0, 448 * KiB, 12 * KiB) || !flush(d) ||
	    !write_at(d, 0, 5 * MiB - 8 * KiB, 16 * KiB) ||
	    sim_run_until(d->sim, never, NULL, UINT64_MAX) == SIM_DEAD)
		return false;
	volume_stats(d->world.volumes[0], &stats);
	if (stats.moved_bytes == 0)
		sim_fail(d->sim, "nothing was collected");
	return true;
}

/* E1, E4, E8: what moves is at its old place or at its new one. */
LOOP(garbage_is_collected, .config = gather_garbage, .before = leave_a_quarter, .act = act_collect)
struct behind {
	struct volume_op op;
	bool done;
};

static void behind_on_done(struct volume_op *op)
{
	container_of(op, struct behind, op)->done = true;
}

static enum sim_fate slow_syncs(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	return op->kind == SIM_SYNC ? SIM_SLOW : SIM_PROCEED;
}

/* A checkpoint that refers to nothing; while its syncs take their time a segment is begun, written
 * full and overwritten. It is dead, but the log after the checkpoint is in it. */
static bool overwrite_behind_checkpoint(struct drill *d)
{
	struct behind *b = mem_alloc(sizeof(*b)); /* ends with the life, if that comes first */
	bool alive = drill_io(d, 0, BLOCK_TRIM, 0, 0, 512 * KiB, NULL);

	b->op.volume = d->world.volumes[0];
	b->op.done = behind_on_done;
	sim_disk_hook(d->sim, slow_syncs, NULL);
	if (alive)
		volume_checkpoint(&b->op);
	for (int i = 0; alive && i < 40; i++)
		alive = write_at(d, 0, 0, 256 * KiB);
	alive = alive && sim_run_until(d->sim, sim_flag_is_set, &b->done, 10000000) == SIM_DONE;
	sim_disk_hook(d->sim, NULL, NULL);
	if (alive)
		mem_free(b);
	return alive;
}

static bool act_overwrite_behind(struct drill *d)
{
	bool alive = overwrite_behind_checkpoint(d) && write_at(d, 0, 0, 8192) &&
		     overwrite_behind_checkpoint(d);

	/* Time to look into what is dead, and to give it back. */
	for (int i = 0; alive && i < 12; i++)
		alive = write_at(d, BLOCK_FUA, 0, 4096);
	return alive;
}

static void small(struct drill *d)
{
	d->sizes[0] = 512 * KiB;
}

/* E1: a dead segment is not freed as long as a replay needs the log in it. */
LOOP(dead_segments_wait_for_replay, .config = small, .act = act_overwrite_behind, .stride = 5)

static bool act_first_life(struct drill *d)
{
	return write_at(d, BLOCK_FUA, 0, 4096);
}

/* The store's first segments. */
LOOP(first_write, .act = act_first_life)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(write_one_block),
	    cmocka_unit_test(write_mib),
	    cmocka_unit_test(write_unaligned),
	    cmocka_unit_test(write_large),
	    cmocka_unit_test(write_sub_block),
	    cmocka_unit_test(flush_keeps),
	    cmocka_unit_test(fua_keeps),
	    cmocka_unit_test(trim_zeroes_blocks),
	    cmocka_unit_test(write_zeroes),
	    cmocka_unit_test(load_of_all_kinds),
	    cmocka_unit_test(create),
	    cmocka_unit_test(open_after_kill),
	    cmocka_unit_test(open_after_cut),
	    cmocka_unit_test(open_after_close),
	    cmocka_unit_test(open_and_write),
	    cmocka_unit_test(resize_grows),
	    cmocka_unit_test(checkpoint),
	    cmocka_unit_test(checkpoint_under_load),
	    cmocka_unit_test(pin),
	    cmocka_unit_test(unpin),
	    cmocka_unit_test(close_cleanly),
	    cmocka_unit_test(segments_are_reused),
	    cmocka_unit_test(garbage_is_collected),
	    cmocka_unit_test(dead_segments_wait_for_replay),
	    cmocka_unit_test(first_write),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
