/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots of several volumes at one common point (volume_cut).
 *
 * SIM_SEED=123 replays one seed, SIM_SEEDS=5000 runs many (tests/sim/seeds.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/drill.h"
#include "tests/sim/seeds.h"

#include <errno.h>

#define CHAIN_BYTES (2 * MiB)

static void start(struct drill *d, uint64_t seed)
{
	drill_init(d, seed, GiB);
	d->n_volumes = 3;
	for (unsigned i = 0; i < d->n_volumes; i++)
		d->sizes[i] = CHAIN_BYTES;
	d->world.config.checkpoint_idle_ns = 10 * NSEC_PER_MSEC;
	if (!drill_up(d))
		sim_fail(d->sim, "the first life ended");
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void run_steps(struct drill *d, uint64_t steps)
{
	sim_run_until(d->sim, never, NULL, steps);
}

struct nap {
	struct io_op timer;
	bool over;
};

static void on_nap(struct io_op *op)
{
	container_of(op, struct nap, timer)->over = true;
}

/* Goes on for some virtual time, whether anything happens or not. */
static void run_for(struct drill *d, uint64_t ns)
{
	struct nap nap = {.timer.done = on_nap};

	io_timer(d->world.loop, &nap.timer, ns);
	sim_run_until(d->sim, sim_flag_is_set, &nap.over, UINT64_MAX);
}

static void ignore(struct volume_op *op)
{
	(void)op;
}

/* Volume i lives on a loop of its own, and so does its engine. */
struct loops {
	struct drill *drill;
	struct io_loop *loop[WORLD_VOLUMES];
	struct engine *engine[WORLD_VOLUMES];
};

static void loops_begin(struct loops *l, struct drill *d)
{
	struct io_loop_config config = {.name = "other", .cpu = -1};
	struct engine *first = d->world.engine;

	l->drill = d;
	l->loop[0] = d->world.loop;
	l->engine[0] = first;
	for (unsigned i = 1; i < d->n_volumes; i++) {
		if (io_loop_new(&config, &l->loop[i], &d->world.err) < 0 ||
		    engine_new(l->loop[i], d->world.store, &d->world.config, &l->engine[i],
			       &d->world.err) < 0 ||
		    world_close(&d->world, i) < 0)
			sim_fail(d->sim, "%s", d->world.err.text);
		d->world.engine = l->engine[i];
		if (world_open(&d->world, i) < 0)
			sim_fail(d->sim, "%s", d->world.err.text);
	}
	d->world.engine = first;
}

static void loops_end(struct loops *l)
{
	struct drill *d = l->drill;

	for (unsigned i = 1; i < d->n_volumes; i++) {
		world_close(&d->world, i);
		engine_free(l->engine[i]);
		io_loop_free(l->loop[i]);
	}
	world_end(&d->world);
}

/* Write k goes to volume k % n, and is issued when write k - 1 was answered. */
struct chain {
	struct loops *loops;
	struct block_req req;
	struct io_msg msg;
	uint64_t written; /* the newest number that was answered */
	bool stop;
	bool stopped;
	uint8_t *page;
};

static unsigned chain_volume(const struct chain *c, uint64_t k)
{
	return (unsigned)(k % c->loops->drill->n_volumes);
}

static uint64_t chain_place(unsigned n_volumes, uint64_t k)
{
	return k / n_volumes * 4096 % CHAIN_BYTES;
}

static void on_link(struct block_req *req);

/* On the loop of the volume that is next. */
static void chain_write(struct io_msg *msg)
{
	struct chain *c = container_of(msg, struct chain, msg);
	struct drill *d = c->loops->drill;
	uint64_t k = c->written + 1;

	memcpy(c->page, &k, sizeof(k));
	c->req = (struct block_req){.op = BLOCK_WRITE,
				    .offset = chain_place(d->n_volumes, k),
				    .length = 4096,
				    .buf = c->page,
				    .done = on_link};
	block_submit(volume_dev(d->world.volumes[chain_volume(c, k)]), &c->req);
}

static void chain_next(struct chain *c)
{
	c->msg.run = chain_write;
	io_post(c->loops->loop[chain_volume(c, c->written + 1)], &c->msg);
}

static void on_link(struct block_req *req)
{
	struct chain *c = container_of(req, struct chain, req);

	c->written++;
	if (c->stop)
		c->stopped = true;
	else
		chain_next(c);
}

struct group {
	struct volume_cut cut;
	struct volume_cut_part parts[WORLD_VOLUMES];
	bool done;
};

static void on_group(struct volume_cut *cut)
{
	container_of(cut, struct group, cut)->done = true;
}

static void group_start(const struct loops *l, struct group *g, unsigned number)
{
	struct drill *d = l->drill;

	memset(g, 0, sizeof(*g));
	g->cut.loop = d->world.loop;
	g->cut.parts = g->parts;
	g->cut.n = d->n_volumes;
	g->cut.done = on_group;
	for (unsigned i = 0; i < d->n_volumes; i++) {
		g->parts[i].volume = d->world.volumes[i];
		g->parts[i].loop = l->loop[i];
		g->parts[i].snapshot = world_snapshot_id(number);
	}
	volume_cut(&g->cut);
}

/* The newest link in the snapshot, of all volumes; every one before it must be there. */
static void chain_is_whole(struct drill *d, unsigned number)
{
	uint64_t newest = 0;
	uint64_t blocks = CHAIN_BYTES / 4096;

	for (unsigned i = 0; i < d->n_volumes; i++)
		for (uint64_t b = 0; b < blocks; b++) {
			uint64_t k;

			memcpy(&k, d->snaps[i][number].bytes + b * 4096, sizeof(k));
			newest = max_u64(newest, k);
		}
	for (uint64_t k = newest > blocks ? newest - blocks : 1; k <= newest; k++) {
		const struct snap *s = &d->snaps[k % d->n_volumes][number];
		uint64_t found;

		memcpy(&found, s->bytes + chain_place(d->n_volumes, k), sizeof(found));
		if (found < k)
			sim_fail(d->sim, "link %llu is in the snapshot, and %llu is not",
				 (unsigned long long)newest, (unsigned long long)k);
	}
	if (newest == 0)
		sim_fail(d->sim, "the snapshots are empty");
}

static void view_group(struct drill *d, unsigned number)
{
	for (unsigned i = 0; i < d->n_volumes; i++) {
		struct snap *s = &d->snaps[i][number];

		s->bytes = snap_bytes(d, i, number, &s->size);
		if (!s->bytes)
			sim_fail(d->sim, "dead");
	}
	chain_is_whole(d, number);
	for (unsigned i = 0; i < d->n_volumes; i++) {
		sim_release(d->snaps[i][number].bytes);
		d->snaps[i][number].bytes = NULL;
		world_pin(&d->world, i, number, true, NULL);
	}
}

/* A client writes to volumes of three loops in turn, each time after the answer. A snapshot of all
 * holds a prefix of that chain. */
static void groups_have_one_point(void **state)
{
	struct seeds seeds = seeds_to_run(8);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;
		struct loops l;
		struct chain c = {.loops = &l};

		start(&d, seed);
		loops_begin(&l, &d);
		c.page = mem_alloc_pages(4096);
		chain_next(&c);
		for (unsigned n = 0; n < 8; n++) {
			struct group *g = sim_alloc(sizeof(*g));

			run_steps(&d, 200 + sim_below(d.sim, 500));
			group_start(&l, g, n);
			if (sim_run_until(d.sim, sim_flag_is_set, &g->done, 1000000) != SIM_DONE)
				sim_fail(d.sim, "a snapshot of all never ends");
			if (g->cut.err.code)
				sim_fail(d.sim, "%s", g->cut.err.text);
			view_group(&d, n);
			sim_release(g);
		}
		c.stop = true;
		sim_run_until(d.sim, sim_flag_is_set, &c.stopped, 1000000);
		mem_free_pages(c.page, 4096);
		loops_end(&l);
		drill_free(&d);
	}
}

struct part {
	struct volume_op op;
	bool placed;
	bool done;
};

static void on_part_placed(struct volume_op *op)
{
	container_of(op, struct part, op)->placed = true;
}

static void on_part_done(struct volume_op *op)
{
	container_of(op, struct part, op)->done = true;
}

/* What a group rests on: however late the cut of the last volume comes, nothing behind the first
 * one's was shown before. */
static void holds_make_one_point(void **state)
{
	struct seeds seeds = seeds_to_run(4);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;
		struct loops l;
		struct chain c = {.loops = &l};
		struct part parts[WORLD_VOLUMES] = {0};

		start(&d, seed);
		loops_begin(&l, &d);
		c.page = mem_alloc_pages(4096);
		chain_next(&c);
		run_steps(&d, 200 + sim_below(d.sim, 500));
		for (unsigned i = 0; i < d.n_volumes; i++) {
			parts[i].op = (struct volume_op){.volume = d.world.volumes[i],
							 .snapshot = world_snapshot_id(0),
							 .hold_ns = 10 * NSEC_PER_SEC,
							 .placed = on_part_placed,
							 .done = on_part_done};
			volume_snapshot(&parts[i].op);
			sim_run_until(d.sim, sim_flag_is_set, &parts[i].placed, 100000);
			run_for(&d, sim_below(d.sim, 5 * NSEC_PER_MSEC));
		}
		for (unsigned i = 0; i < d.n_volumes; i++)
			assert_true(volume_release(d.world.volumes[i]));
		for (unsigned i = 0; i < d.n_volumes; i++)
			sim_run_until(d.sim, sim_flag_is_set, &parts[i].done, 100000);
		view_group(&d, 0);
		c.stop = true;
		sim_run_until(d.sim, sim_flag_is_set, &c.stopped, 1000000);
		mem_free_pages(c.page, 4096);
		loops_end(&l);
		drill_free(&d);
	}
}

/* One of them can't: nobody is held, and the caller learns it. A hold ends by itself. */
static void a_failed_group_holds_nobody(void **state)
{
	struct drill d;
	struct loops l;
	struct group g;
	struct volume_op op = {0};
	uint64_t before;

	(void)state;
	start(&d, 1);
	loops_begin(&l, &d);
	world_pin(&d.world, 1, 7, false, NULL);
	group_start(&l, &g, 7);
	sim_run_until(d.sim, sim_flag_is_set, &g.done, 1000000);
	assert_int_equal(g.cut.err.code, -EEXIST);
	assert_int_equal(g.parts[0].err.code, 0);
	for (unsigned i = 0; i < 3; i++)
		drill_io(&d, i, BLOCK_WRITE, 0, 0, 8192, NULL);
	assert_int_equal(world_pin(&d.world, 0, 7, true, NULL), 0);
	op.volume = d.world.volumes[0];
	op.snapshot = world_snapshot_id(1);
	op.hold_ns = 20 * NSEC_PER_MSEC;
	op.done = ignore;
	volume_snapshot(&op);
	before = io_now(d.world.loop);
	run_steps(&d, 30);
	drill_io(&d, 0, BLOCK_WRITE, 0, 0, 4096, NULL);
	assert_true(io_now(d.world.loop) - before >= 19 * NSEC_PER_MSEC);
	assert_false(volume_release(d.world.volumes[0]));
	sim_run_until(d.sim, never, NULL, UINT64_MAX);
	loops_end(&l);
	drill_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(groups_have_one_point),
	    cmocka_unit_test(holds_make_one_point),
	    cmocka_unit_test(a_failed_group_holds_nobody),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
