/* SPDX-License-Identifier: Apache-2.0
 *
 * Garbage collection: a volume that is overwritten again and again fits into little more than what
 * lives in it, in a store that is nearly full, whatever happens meanwhile (E4, E6, E8).
 *
 * SIM_SEED=123 replays one seed, SIM_SEEDS=5000 runs many (tests/sim/seeds.h).
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
#include "engine/volume.h"
#include "tests/sim/drill.h"
#include "tests/sim/seeds.h"

#define SEGMENT (4 * MiB)

static void start(struct drill *d, uint64_t seed, uint64_t volume, uint64_t store)
{
	struct engine_config *c = &d->world.config;

	drill_init(d, seed, store);
	*sim_options(d->sim) = (struct sim_options){.alignment = 4096};
	if (sim_file_exists(d->sim, d->world.store_config.path))
		sim_file_remove(d->sim, d->world.store_config.path);
	d->n_volumes = 1;
	d->sizes[0] = volume;
	c->gc_slack = 1;
	c->checkpoint_log = 2 * MiB;
	c->checkpoint_blocks = 100000;
	c->checkpoint_idle_ns = 10 * NSEC_PER_MSEC;
	if (!drill_up(d))
		sim_fail(d->sim, "the first life ended");
}

static struct volume_stats stats_of(const struct drill *d)
{
	struct volume_stats stats;

	volume_stats(d->world.volumes[0], &stats);
	return stats;
}

/* Writes all over the volume in random order, `bytes` in all, in pieces of `piece`. */
static bool overwrite(struct drill *d, uint64_t bytes, uint64_t piece)
{
	uint64_t pieces = d->volumes[0].size / piece;

	for (uint64_t done = 0; done < bytes; done += piece)
		if (!drill_io(d, 0, BLOCK_WRITE, 0, sim_below(d->sim, pieces) * piece, piece, NULL))
			return false;
	return true;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

/* Without a client, until nothing changes any more. */
static bool come_to_rest(struct drill *d)
{
	return sim_run_until(d->sim, never, NULL, UINT64_MAX) == SIM_IDLE;
}

static void check(struct drill *d)
{
	if (!drill_verify_live(d, 0) || !drill_walk(d, 0))
		sim_fail(d->sim, "a life without an end ended");
}

/* E6: a store of 96 MiB with a volume of 48 MiB takes eight times its size in random overwrites,
 * and not one of them fails. */
static void overwrites_never_fill_the_store(void **state)
{
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 48 * MiB, 96 * MiB);
		if (!overwrite(&d, 400 * MiB, 64 * KiB))
			sim_fail(d.sim, "the life ended");
		if (stats_of(&d).moved_bytes == 0)
			sim_fail(d.sim, "nothing was collected");
		check(&d);
		drill_down(&d);
		drill_free(&d);
	}
}

/* Left alone, a volume gives back what it does not need: three tenths of what it holds may be
 * garbage, and it has its heads and spares. */
static void an_idle_volume_gives_space_back(void **state)
{
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;
		struct volume_stats stats;
		uint64_t most;

		start(&d, seed, 32 * MiB, GiB);
		d.world.config.gc_slack = 1;
		if (!overwrite(&d, 96 * MiB, 16 * KiB) || !come_to_rest(&d))
			sim_fail(d.sim, "the life ended");
		stats = stats_of(&d);
		most = stats.live_bytes * 10 / 7 / SEGMENT + 10;
		if (stats.segments - stats.spares > most)
			sim_fail(d.sim, "%llu segments hold %llu MiB",
				 (unsigned long long)(stats.segments - stats.spares),
				 (unsigned long long)(stats.live_bytes / MiB));
		check(&d);
		drill_down(&d);
		drill_free(&d);
	}
}

/* What was copied is what it was, after a restart, too; and the copies of a life that ended before
 * the log spoke of them are given back. */
static void copies_survive_lives(void **state)
{
	struct seeds seeds = seeds_to_run(6);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, 16 * MiB, 256 * MiB);
		for (int life = 0; life < 4; life++) {
			enum oracle_crash kind = life % 2 ? ORACLE_KILL : ORACLE_POWER_CUT;

			drill_end_after(&d, kind, 500 + sim_below(d.sim, 8000));
			while (overwrite(&d, 4 * MiB, 32 * KiB))
				continue;
			drill_crash(&d, kind);
			if (!drill_up(&d))
				sim_fail(d.sim, "a life ended early");
		}
		drill_down(&d);
		drill_free(&d);
	}
}

/* A usage page whose segments have all been given back stays in the root: the volume opens. */
static void many_segments_are_given_back(void **state)
{
	const uint64_t volume = 544 * MiB; /* more than USAGE_SEGMENTS segments */
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		start(&d, seed, volume, GiB);
		/* What comes after the first trim goes to slots of the first page. */
		for (uint64_t end = volume; end >= 32 * MiB; end = end == volume ? 32 * MiB : 0) {
			for (uint64_t at = 0; at < end; at += MiB)
				if (!drill_io(&d, 0, BLOCK_WRITE, 0, at, MiB, NULL))
					sim_fail(d.sim, "the life ended");
			if (!drill_io(&d, 0, BLOCK_TRIM, 0, 0, volume, NULL) || !come_to_rest(&d))
				sim_fail(d.sim, "the life ended");
		}
		if (stats_of(&d).segments - stats_of(&d).spares > 16)
			sim_fail(d.sim, "nothing was given back");
		drill_down(&d);
		if (!drill_up(&d))
			sim_fail(d.sim, "it does not open");
		check(&d);
		drill_down(&d);
		drill_free(&d);
	}
}

/* The closed segment of that stream in which most lives, or NULL. */
static struct segment *closed_segment(const struct drill *d, enum store_stream stream)
{
	const struct volume *v = d->world.volumes[0];
	struct segment *most = NULL;

	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_CLOSED && seg->stream == stream &&
		    seg->live > (most ? most->live : 0))
			most = seg;
	}
	return most;
}

/* Checkpoints after small writes at the volume's start, `n` times. */
static void checkpoint_often(struct drill *d, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (uint64_t at = 0; at < MiB; at += MiB / 4)
			if (!drill_io(d, 0, BLOCK_WRITE, 0, at, 4 * KiB, NULL) ||
			    (at == 0 && !drill_checkpoint(d, 0)))
				sim_fail(d->sim, "the life ended");
}

static void doubt(uint64_t seed, enum store_stream stream)
{
	const uint64_t volume = 64 * MiB;
	struct drill d;
	struct segment *seg;

	start(&d, seed, volume, GiB);
	d.world.config.gc_slack = GiB;
	for (uint64_t at = 0; at < volume; at += 32 * KiB)
		if (!drill_io(&d, 0, BLOCK_WRITE, 0, at, 32 * KiB, NULL))
			sim_fail(d.sim, "the life ended");
	for (int i = 0; !closed_segment(&d, stream) && i < 100; i++)
		checkpoint_often(&d, 10);
	checkpoint_often(&d, 3); /* what they change is not in it */
	seg = closed_segment(&d, stream);
	if (!seg)
		sim_fail(d.sim, "there is no such segment");
	segments_live(d.world.volumes[0], seg->id, -(int64_t)seg->live); /* drifts */
	checkpoint_often(&d, 3);
	if (!come_to_rest(&d) || stats_of(&d).doubtful != 1)
		sim_fail(d.sim, "%llu segments are in doubt",
			 (unsigned long long)stats_of(&d).doubtful);
	if (stats_of(&d).health != VOLUME_IMPAIRED || seg->state != SEGMENT_CLOSED)
		sim_fail(d.sim, "nobody would know");
	if (world_check(&d.world, 0) <= 0)
		sim_fail(d.sim, "the check does not name it");
	if (!drill_verify_live(&d, 0) || !overwrite(&d, 2 * volume, 64 * KiB) ||
	    !drill_verify_live(&d, 0) || seg->state != SEGMENT_CLOSED)
		sim_fail(d.sim, "the volume did not go on");
	drill_free(&d);
}

/* E4, E8: a segment that is counted as dead, but is not, is not given back: what lives in it stays
 * readable, the volume is impaired, and goes on. */
static void drifted_counters_free_nothing(void **state)
{
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		doubt(seed, STORE_STREAM_USER);
		doubt(seed, STORE_STREAM_MAP);
	}
}

/* E6: a store that is filled until nothing fits finds its way back by a trim, again and again. */
static void a_full_store_takes_trims(void **state)
{
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		const uint64_t volume = 160 * MiB;
		struct drill d;

		start(&d, seed, volume, 96 * MiB);
		for (int round = 0; round < 3; round++) {
			uint64_t piece = 64 * KiB << sim_below(d.sim, 4);
			uint64_t at = 0;
			int error = 0;

			d.errors_ok = true;
			while (error == 0 && at < volume) {
				if (!drill_io(&d, 0, BLOCK_WRITE, 0, at, piece, &error))
					sim_fail(d.sim, "the life ended");
				at += piece;
			}
			d.errors_ok = false;
			if (error != -ENOSPC || at < 32 * MiB)
				sim_fail(d.sim, "error %d after %llu MiB", error,
					 (unsigned long long)(at / MiB));
			check(&d);
			if (!drill_io(&d, 0, BLOCK_TRIM, 0, 0, volume, NULL) || !come_to_rest(&d) ||
			    !drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL))
				sim_fail(d.sim, "the life ended");
		}
		drill_down(&d);
		drill_free(&d);
	}
}

/* E6: what the collector can't gain, since moved blocks need headers too, and leave gaps, is no
 * reason to let writes wait for it: in a store that is full of fresh data they end. */
static void a_store_full_of_fresh_data_answers(void **state)
{
	struct seeds seeds = seeds_to_run(1);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		const uint64_t volume = 512 * MiB;
		struct volume_stats stats;
		struct drill d;
		uint64_t at = 0;
		int error = 0;

		start(&d, seed, volume, 512 * MiB);
		d.errors_ok = true;
		while (error == 0 && at < volume) {
			if (!drill_io(&d, 0, BLOCK_WRITE, 0, at, 256 * KiB, &error))
				sim_fail(d.sim, "the life ended");
			at += 256 * KiB;
			stats = stats_of(&d);
			if (stats.moved_bytes > 2 * volume)
				sim_fail(d.sim, "the collector turns in circles");
		}
		if (error != -ENOSPC || at < 400 * MiB)
			sim_fail(d.sim, "error %d after %llu MiB", error,
				 (unsigned long long)(at / MiB));
		d.errors_ok = false;
		check(&d);
		drill_down(&d);
		drill_free(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(overwrites_never_fill_the_store),
	    cmocka_unit_test(an_idle_volume_gives_space_back),
	    cmocka_unit_test(copies_survive_lives),
	    cmocka_unit_test(many_segments_are_given_back),
	    cmocka_unit_test(a_full_store_takes_trims),
	    cmocka_unit_test(a_store_full_of_fresh_data_answers),
	    cmocka_unit_test(drifted_counters_free_nothing),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
