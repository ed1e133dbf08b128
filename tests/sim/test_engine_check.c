/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of a volume in use (E8): counters that are right are called right whoever works
 * meanwhile, and one that is wrong is found.
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

#include <errno.h>

#include "base/mem.h"
#include "base/util.h"
#include "engine/volume.h"
#include "store/format.h"
#include "tests/sim/drill.h"
#include "tests/sim/seeds.h"

#define STEPS UINT64_C(100000000)

struct checking {
	struct volume_op op;
	bool done;
};

static void on_check(struct volume_op *op)
{
	container_of(op, struct checking, op)->done = true;
}

static void on_say(void *arg, const char *text)
{
	sim_trace(arg, "check: %s", text);
}

/* In memory that ends with the life. */
static struct checking *check_start(struct drill *d, unsigned i, uint64_t rate)
{
	struct checking *c = mem_alloc(sizeof(*c));

	c->op.engine = d->world.engine;
	c->op.volume = d->world.volumes[i];
	c->op.in_use = true;
	c->op.rate = rate;
	c->op.say = on_say;
	c->op.arg = d->sim;
	c->op.done = on_check;
	volume_check(&c->op);
	return c;
}

/* False: dead. */
static bool check_wait(struct drill *d, struct checking *c)
{
	enum sim_end end = sim_run_until(d->sim, sim_flag_is_set, &c->done, STEPS);

	if (end != SIM_DONE && end != SIM_DEAD)
		sim_fail(d->sim, "a check never ends");
	return end == SIM_DONE;
}

struct moment {
	struct io_loop *loop;
	uint64_t at;
};

static bool has_come(void *arg)
{
	const struct moment *m = arg;

	return io_now(m->loop) >= m->at;
}

static void run_for(struct drill *d, uint64_t ns)
{
	struct moment m = {.loop = d->world.loop, .at = io_now(d->world.loop) + ns};

	sim_run_until(d->sim, has_come, &m, STEPS);
}

/* ---- Right ----------------------------------------------------------------------------- */

static bool disturb(struct drill *d, unsigned i)
{
	switch (sim_below(d->sim, 5)) {
	case 0:
		return drill_checkpoint(d, i);
	case 1:
		return drill_resize(d, i, d->volumes[i].size + sim_below(d->sim, 3) * MiB);
	case 2:
		return drill_pin(d, i, (unsigned)sim_below(d->sim, 7), sim_below(d->sim, 2));
	default:
		return drill_run(d, 1 + sim_below(d->sim, 2000));
	}
}

/* It ends as the walk of a whole volume, unless a full store needs what it keeps. */
static void judge(struct drill *d, unsigned i, struct checking *c, unsigned *n_whole)
{
	if (c->op.n_wrong)
		sim_fail(d->sim, "volume %u: counters are called wrong that are not", i);
	if (c->op.err.code && c->op.err.code != -EAGAIN)
		sim_fail(d->sim, "a check fails: %s", c->op.err.text);
	*n_whole += c->op.err.code == 0;
	mem_free(c);
}

static bool check_among_others(struct drill *d, unsigned *n_checks, unsigned *n_whole)
{
	drill_load_all(d, 100 + sim_below(d->sim, 1000));
	for (unsigned n = 0; n < 6; n++) {
		unsigned i = (unsigned)sim_below(d->sim, d->n_volumes);
		uint64_t rate =
		    sim_below(d->sim, 2) ? UINT64_MAX : 64 * KiB << sim_below(d->sim, 9);
		struct checking *c = check_start(d, i, rate);

		for (uint64_t k = 1 + sim_below(d->sim, 4); k > 0; k--)
			if (!disturb(d, (unsigned)sim_below(d->sim, d->n_volumes)))
				return false;
		if (!check_wait(d, c))
			return false;
		++*n_checks;
		judge(d, i, c, n_whole);
	}
	return true;
}

/* Whoever writes, trims, resizes, takes snapshots, checkpoints or collects garbage meanwhile, and
 * whenever the power goes: of what was held nothing is left. */
static void right_counters_are_right(void **state)
{
	struct seeds seeds = seeds_to_run(30);
	unsigned n_checks = 0;
	unsigned n_whole = 0;

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		drill_init(&d, seed, 0);
		d.world.config.gc_slack = 1;
		for (unsigned life = 0; life < 2; life++) {
			if (!drill_up(&d))
				sim_fail(d.sim, "a life without an end ended");
			if (sim_below(d.sim, 3) == 0)
				drill_end_after(&d, ORACLE_POWER_CUT, 1 + sim_below(d.sim, 4000));
			check_among_others(&d, &n_checks, &n_whole);
			drill_crash(&d, sim_below(d.sim, 2) ? ORACLE_KILL : ORACLE_POWER_CUT);
			sim_cut_after(d.sim, 0);
		}
		if (!drill_up(&d) || !drill_down(&d))
			sim_fail(d.sim, "the last life ended early");
		drill_free(&d);
	}
	if (n_whole < n_checks - n_checks / 10)
		fail_msg("of %u checks only %u came to their end", n_checks, n_whole);
}

/* ---- Wrong ----------------------------------------------------------------------------- */

static struct segment *with_live_blocks(struct volume *v)
{
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_EMPTY && seg->stream != STORE_STREAM_MAP && seg->live > 0)
			return seg;
	}
	return NULL;
}

static uint64_t n_wrong(struct drill *d)
{
	struct checking *c = check_start(d, 0, UINT64_MAX);
	uint64_t n;

	assert_true(check_wait(d, c));
	assert_int_equal(c->op.err.code, 0);
	n = c->op.n_wrong;
	mem_free(c);
	return n;
}

static void begin(struct drill *d, uint64_t max_size)
{
	drill_init(d, 1, max_size);
	d->n_volumes = 1;
	assert_true(drill_up(d));
}

static void write_all(struct drill *d)
{
	for (uint64_t at = 0; at < d->volumes[0].size; at += 64 * KiB)
		assert_true(drill_io(d, 0, BLOCK_WRITE, 0, at,
				     min_u64(64 * KiB, d->volumes[0].size - at), NULL));
}

/* What a bug, or a bit of memory, may do to a counter: while the volume is written to. */
static void a_wrong_counter_is_found(void **state)
{
	struct segment *seg;
	struct drill d;

	(void)state;
	begin(&d, 0);
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	seg = with_live_blocks(d.world.volumes[0]);
	assert_non_null(seg);
	assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL));
	assert_int_equal(n_wrong(&d), 0);
	seg->live += BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	seg->live -= BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 0);
	/* Of the overlay, with something in it, and without. */
	assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL));
	seg->live_active += BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	seg->live -= BLOCK_SIZE;
	segments_mark_dirty(d.world.volumes[0], seg);
	assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL));
	assert_int_equal(n_wrong(&d), 0);
	seg->live_active += BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	seg->live_active -= BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 0);
	/* Root and usage pages. */
	seg = segments_find(d.world.volumes[0], d.world.volumes[0]->sb.root.segment);
	seg->own -= BLOB_ALIGN;
	assert_true(n_wrong(&d) > 0);
	seg->own += BLOB_ALIGN;
	assert_int_equal(n_wrong(&d), 0);
	drill_down(&d);
	drill_free(&d);
}

/* No other walk looks here: a bug in the counting is found by a check of the volume in use. */
static void all_changes_are_counted(void **state)
{
	static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_TRIM, BLOCK_WRITE_ZEROES};
	struct drill d;

	(void)state;
	begin(&d, 0);
	for (unsigned i = 0; i < 30; i++) {
		assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL));
		assert_true(drill_io(&d, 0, ops[i % 3], 0, i % 7 * BLOCK_SIZE,
				     (1 + i % 5) * BLOCK_SIZE, NULL));
		if (i % 4 == 0)
			assert_true(drill_checkpoint(&d, 0));
		assert_int_equal(n_wrong(&d), 0);
	}
	drill_crash(&d, ORACLE_POWER_CUT);
	drill_free(&d);
}

/* The counter in memory is right, and the one that the next opening will take is not. */
static void a_wrong_counter_on_disk_is_found(void **state)
{
	struct segment *seg;
	struct drill d;

	(void)state;
	begin(&d, 0);
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	seg = with_live_blocks(d.world.volumes[0]);
	seg->live += BLOCK_SIZE;
	segments_mark_dirty(d.world.volumes[0], seg);
	d.world.volumes[0]->reap_later = true;
	assert_true(drill_checkpoint(&d, 0));
	seg->live -= BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	drill_crash(&d, ORACLE_POWER_CUT);
	drill_free(&d);
}

/* ---- Damage ---------------------------------------------------------------------------- */

static char said[200];

static void on_finding(void *arg, const char *text)
{
	(void)arg;
	strncpy(said, text, sizeof(said) - 1);
}

/* Rots the page, and puts it back. */
static void damage_is_named(struct drill *d, const struct blob_ref *ref, const char *name)
{
	uint64_t at =
	    format_segment_offset(d->world.store->info.segment_size, ref->segment) + ref->offset;
	const char *path = d->world.store_config.path;
	uint8_t *old = sim_alloc(ref->length);
	struct checking *c;

	sim_file_peek(d->sim, path, at, old, ref->length);
	assert_true(sim_file_rot(d->sim, path, at, ref->length) < UINT64_MAX);
	c = check_start(d, 0, UINT64_MAX);
	c->op.say = on_finding;
	assert_true(check_wait(d, c));
	assert_int_equal(c->op.err.code, 0);
	if (c->op.n_wrong != 1 || !strstr(said, name))
		fail_msg("%s: %llu wrong, the last: %s", name, (unsigned long long)c->op.n_wrong,
			 said);
	mem_free(c);
	sim_file_plant(d->sim, path, at, old, ref->length);
	sim_release(old);
	assert_int_equal(n_wrong(d), 0);
}

/* By blocks, and nothing else is called wrong for it. */
static void damaged_pages_are_named(void **state)
{
	struct map_page *index;
	struct volume *v;
	struct drill d;

	(void)state;
	drill_init(&d, 1, 0);
	d.n_volumes = 1;
	d.world.config.map_memory = 4 * MiB;
	d.sizes[0] = 16 * MiB;
	assert_true(drill_up(&d));
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	assert_true(drill_verify_live(&d, 0));
	v = d.world.volumes[0];
	damage_is_named(&d, &v->sb.root, "the root of the map can't be read");
	damage_is_named(&d, &v->segments.pages[0]->ref, "usage page 0 of the map");
	damage_is_named(&d, &v->map.index[0], "index page of blocks 0 to 262143");
	assert_int_equal(map_index(&v->map, 0, &index), 0);
	damage_is_named(&d, map_index_ref(v->engine->map_cache, index, 2),
			"leaf of blocks 2048 to 3071");
	drill_down(&d);
	drill_free(&d);
}

/* ---- What it costs others --------------------------------------------------------------- */

/* What it has kept is given back behind it. */
static void nothing_is_kept_afterwards(void **state)
{
	struct volume_stats before;
	struct volume_stats stats;
	struct checking *c;
	struct drill d;

	(void)state;
	drill_init(&d, 1, 0);
	d.n_volumes = 1;
	d.sizes[0] = 32 * MiB;
	assert_true(drill_up(&d));
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	volume_stats(d.world.volumes[0], &before);
	c = check_start(&d, 0, 16 * KiB);
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	assert_false(c->done);
	volume_stats(d.world.volumes[0], &stats);
	if (stats.segments < before.segments * 3 / 2)
		fail_msg("%llu segments, %llu before: nothing is held",
			 (unsigned long long)stats.segments, (unsigned long long)before.segments);
	assert_true(check_wait(&d, c));
	assert_int_equal(c->op.err.code, 0);
	assert_int_equal(c->op.n_wrong, 0);
	mem_free(c);
	/* Nobody has to ask for it. */
	run_for(&d, 60 * NSEC_PER_SEC);
	volume_stats(d.world.volumes[0], &stats);
	if (stats.segments > before.segments + 4)
		fail_msg("%llu segments, %llu before", (unsigned long long)stats.segments,
			 (unsigned long long)before.segments);
	assert_true(drill_walk(&d, 0));
	drill_down(&d);
	drill_free(&d);
}

/* E6: nobody gets ENOSPC for it. */
static void a_full_store_comes_first(void **state)
{
	struct checking *c;
	struct drill d;

	(void)state;
	drill_init(&d, 1, 128 * MiB);
	d.n_volumes = 1;
	d.sizes[0] = 48 * MiB;
	assert_true(drill_up(&d));
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	c = check_start(&d, 0, 64);
	for (unsigned n = 0; n < 5; n++)
		write_all(&d); /* an error is a failure */
	assert_true(c->done);
	assert_int_equal(c->op.err.code, -EAGAIN);
	assert_int_equal(c->op.n_wrong, 0);
	mem_free(c);
	drill_down(&d);
	drill_free(&d);
}

/* One at a time, and it ends when it is told to. */
static void it_can_be_stopped(void **state)
{
	struct checking *c;
	struct checking *other;
	struct drill d;

	(void)state;
	begin(&d, 0);
	write_all(&d);
	assert_true(drill_checkpoint(&d, 0));
	c = check_start(&d, 0, 1);
	other = check_start(&d, 0, 1);
	assert_true(check_wait(&d, other));
	assert_int_equal(other->op.err.code, -EBUSY);
	mem_free(other);
	run_for(&d, NSEC_PER_SEC);
	assert_false(c->done);
	__atomic_store_n(&c->op.stop, true, __ATOMIC_RELAXED);
	run_for(&d, NSEC_PER_SEC);
	assert_true(c->done);
	assert_int_equal(c->op.err.code, -ECANCELED);
	mem_free(c);
	assert_int_equal(n_wrong(&d), 0);
	drill_down(&d);
	drill_free(&d);
}

/* It makes way: the checkpoint of a close is not waited for, and the volume stays until it is over.
 */
static void a_close_comes_first(void **state)
{
	struct checking *c;
	struct drill d;

	(void)state;
	drill_init(&d, 1, 0);
	d.n_volumes = 1;
	assert_true(drill_up(&d));
	assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, MiB, NULL));
	c = check_start(&d, 0, UINT64_MAX);
	assert_true(drill_close(&d, 0));
	assert_true(c->done);
	assert_int_equal(c->op.n_wrong, 0);
	mem_free(c);
	assert_true(drill_reopen(&d, 0));
	drill_down(&d);
	drill_free(&d);
}

/* Its counters are those of no checkpoint any more: that is said, and nothing is called wrong. */
static void a_stopped_log_is_said(void **state)
{
	struct checking *c;
	struct drill d;

	(void)state;
	begin(&d, 0);
	write_all(&d);
	volume_fail(d.world.volumes[0], -EIO);
	c = check_start(&d, 0, UINT64_MAX);
	assert_true(check_wait(&d, c));
	assert_int_equal(c->op.err.code, -EIO);
	assert_int_equal(c->op.n_wrong, 0);
	mem_free(c);
	drill_crash(&d, ORACLE_POWER_CUT);
	drill_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(right_counters_are_right),
	    cmocka_unit_test(a_wrong_counter_is_found),
	    cmocka_unit_test(all_changes_are_counted),
	    cmocka_unit_test(a_wrong_counter_on_disk_is_found),
	    cmocka_unit_test(damaged_pages_are_named),
	    cmocka_unit_test(nothing_is_kept_afterwards),
	    cmocka_unit_test(a_full_store_comes_first),
	    cmocka_unit_test(it_can_be_stopped),
	    cmocka_unit_test(a_close_comes_first),
	    cmocka_unit_test(a_stopped_log_is_said),
	};

	/* SIM_TEST=a_close_comes_first runs that one only. */
	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
