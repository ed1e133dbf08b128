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
static struct checking *check_start(struct drill *d, unsigned i)
{
	struct checking *c = mem_alloc(sizeof(*c));

	c->op.engine = d->world.engine;
	c->op.volume = d->world.volumes[i];
	c->op.in_use = true;
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

static bool check_among_others(struct drill *d, unsigned *n_whole)
{
	drill_load_all(d, 100 + sim_below(d->sim, 1000));
	for (unsigned n = 0; n < 6; n++) {
		unsigned i = (unsigned)sim_below(d->sim, d->n_volumes);
		struct checking *c = check_start(d, i);

		if (!disturb(d, (unsigned)sim_below(d->sim, d->n_volumes)) || !check_wait(d, c))
			return false;
		if (c->op.n_wrong)
			sim_fail(d->sim, "volume %u: counters are called wrong that are not", i);
		if (c->op.err.code && c->op.err.code != -EAGAIN)
			sim_fail(d->sim, "a check fails: %s", c->op.err.text);
		*n_whole += c->op.err.code == 0;
		mem_free(c);
	}
	return true;
}

static void right_counters_are_right(void **state)
{
	struct seeds seeds = seeds_to_run(30);
	unsigned n_whole = 0;

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		drill_init(&d, seed, 0);
		d.world.config.gc_slack = 1;
		if (!drill_up(&d))
			sim_fail(d.sim, "a life without an end ended");
		if (sim_below(d.sim, 3) == 0)
			drill_end_after(&d, ORACLE_POWER_CUT, 1 + sim_below(d.sim, 4000));
		check_among_others(&d, &n_whole);
		drill_crash(&d, ORACLE_POWER_CUT);
		sim_cut_after(d.sim, 0);
		if (!drill_up(&d) || !drill_down(&d))
			sim_fail(d.sim, "the last life ended early");
		drill_free(&d);
	}
	assert_true(n_whole > 0);
}

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
	struct checking *c = check_start(d, 0);
	uint64_t n;

	assert_true(check_wait(d, c));
	assert_int_equal(c->op.err.code, 0);
	n = c->op.n_wrong;
	mem_free(c);
	return n;
}

/* What a bug, or a bit of memory, may do to a counter: while the volume is written to. */
static void a_wrong_counter_is_found(void **state)
{
	struct segment *seg;
	struct drill d;

	(void)state;
	drill_init(&d, 1, 0);
	d.n_volumes = 1;
	assert_true(drill_up(&d));
	for (uint64_t at = 0; at < MiB; at += 64 * KiB)
		assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, at, 64 * KiB, NULL));
	assert_true(drill_checkpoint(&d, 0));
	seg = with_live_blocks(d.world.volumes[0]);
	assert_non_null(seg);
	assert_true(drill_io(&d, 0, BLOCK_WRITE, 0, 0, 64 * KiB, NULL));
	assert_int_equal(n_wrong(&d), 0);
	seg->live += BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	seg->live -= BLOCK_SIZE;
	seg->live_active += BLOCK_SIZE;
	assert_int_equal(n_wrong(&d), 1);
	seg->live_active -= BLOCK_SIZE;
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
	c = check_start(&d, 0);
	assert_true(drill_close(&d, 0));
	assert_true(c->done);
	assert_int_equal(c->op.n_wrong, 0);
	mem_free(c);
	assert_true(drill_reopen(&d, 0));
	drill_down(&d);
	drill_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(right_counters_are_right),
	    cmocka_unit_test(a_wrong_counter_is_found),
	    cmocka_unit_test(a_close_comes_first),
	};

	/* SIM_TEST=a_close_comes_first runs that one only. */
	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
