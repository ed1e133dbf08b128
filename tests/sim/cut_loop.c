/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/cut_loop.h"

#include "base/check.h"
#include "base/util.h"
#include "tests/sim/seeds.h"

#include <stdio.h>
#include <stdlib.h>

#define K_MAX 20000

/* The same for each k, so that the operation has the same points. */
static void prepare(struct drill *d, const struct loop *loop, uint64_t seed)
{
	static const struct sim_options machines[] = {{.alignment = 4096},
						      {.alignment = 512, .is_device = true}};
	struct engine_config *c = &d->world.config;

	drill_init(d, seed, 256 * MiB);
	*sim_options(d->sim) = machines[seed % ARRAY_SIZE(machines)];
	if (sim_options(d->sim)->is_device)
		sim_file_plant(d->sim, d->world.store_config.path, 256 * MiB - 1, "", 1);
	else if (sim_file_exists(d->sim, d->world.store_config.path))
		sim_file_remove(d->sim, d->world.store_config.path);
	d->world.store_config.pool_segments = 64;
	d->n_volumes = 1;
	d->sizes[0] = d->sizes[1] = VOLUME_BYTES;
	c->n_ops = 64;
	c->n_buffers = 8;
	c->map_memory = 64 * KiB;
	c->checkpoint_log = 64 * MiB;
	c->checkpoint_blocks = 100000;
	c->checkpoint_idle_ns = 5 * NSEC_PER_SEC;
	if (loop->config)
		loop->config(d);
	if (!drill_up(d))
		sim_fail(d->sim, "the first life ended");
	if (loop->before)
		loop->before(d);
}

/* False: k was past the end of the operation. */
static bool cut_once(const struct loop *loop, enum oracle_crash kind, uint64_t seed, uint64_t k)
{
	struct drill d;
	bool cut;

	prepare(&d, loop, seed);
	sim_trace(d.sim, "---- k = %llu ----", (unsigned long long)k);
	drill_end_after(&d, kind, k);
	loop->act(&d);
	cut = sim_is_dead(d.sim);
	drill_crash(&d, kind);
	if (!drill_up(&d) || !drill_down(&d))
		sim_fail(d.sim, "a life without an end ended");
	drill_free(&d);
	return cut;
}

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : 0;
}

static void run_loop(const struct loop *loop, uint64_t seed, enum oracle_crash kind)
{
	uint64_t stride = (loop->stride && !number("SOAK") ? loop->stride : 1) * seeds_stride();
	uint64_t k = number("SIM_K") ? number("SIM_K") : 1 + seed % stride;

	while (k < K_MAX && cut_once(loop, kind, seed, k) && !number("SIM_K"))
		k += stride;
	if (number("SIM_VERBOSE"))
		fprintf(stderr, "seed %llu, %s: %llu points\n", (unsigned long long)seed,
			kind == ORACLE_KILL ? "kill" : "cut", (unsigned long long)k - 1);
	CHECK(k < K_MAX);
}

void cut_anywhere(const struct loop *loop)
{
	uint64_t seeds = number("SOAK") ? 12 : 2;

	for (uint64_t seed = 1; seed <= seeds; seed++) {
		if (seed % 2 || number("SOAK"))
			run_loop(loop, seed, ORACLE_POWER_CUT);
		if (seed % 2 == 0 || number("SOAK"))
			run_loop(loop, seed, ORACLE_KILL);
	}
}

/* ---- History ------------------------------------------------------------------------------------
 */

bool write_at(struct drill *d, uint32_t flags, uint64_t offset, uint64_t length)
{
	return drill_io(d, 0, BLOCK_WRITE, flags, offset, length, NULL);
}

bool flush(struct drill *d)
{
	return drill_io(d, 0, BLOCK_FLUSH, 0, 0, 0, NULL);
}

void some_history(struct drill *d)
{
	write_at(d, 0, 0, 512 * KiB);
	write_at(d, 0, 4 * MiB - 64 * KiB, 256 * KiB);
	drill_checkpoint(d, 0);
	write_at(d, 0, 64 * KiB, 128 * KiB);
	drill_io(d, 0, BLOCK_TRIM, 0, 256 * KiB, 96 * KiB, NULL);
	flush(d);
	write_at(d, 0, 128 * KiB, 128 * KiB);
	write_at(d, 0, 20480 + 512, 1024);
}
