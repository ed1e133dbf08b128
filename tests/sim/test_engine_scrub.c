/* SPDX-License-Identifier: Apache-2.0
 *
 * Scrubbing (E4): whatever is damaged on disk and lives is found, what is well is not called bad
 * whoever works meanwhile, and what was bad is forgotten when it is so no more.
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

#define STEPS  UINT64_C(100000000)
#define FLIPS  24
#define BLOCKS 4096 /* of the volume whose bits are flipped */

/* ---- One scrub ------------------------------------------------------------------------- */

struct scrubbing {
	struct volume_op op;
	bool done;
};

static void on_scrub(struct volume_op *op)
{
	container_of(op, struct scrubbing, op)->done = true;
}

/* In memory that ends with the life. */
static struct scrubbing *scrub_start(struct world *w, unsigned i, uint64_t rate)
{
	struct scrubbing *s = mem_alloc(sizeof(*s));

	s->op.engine = w->engine;
	s->op.volume = w->volumes[i];
	s->op.rate = rate;
	s->op.done = on_scrub;
	volume_scrub(&s->op);
	return s;
}

/* False: dead. */
static bool scrub_wait(struct world *w, struct scrubbing *s)
{
	enum sim_end end = sim_run_until(w->sim, sim_flag_is_set, &s->done, STEPS);

	if (end != SIM_DONE && end != SIM_DEAD)
		sim_fail(w->sim, "a scrub never ends");
	return end == SIM_DONE;
}

/* A whole scrub; returns how many bad places it found. */
static uint64_t scrub(struct world *w, unsigned i)
{
	struct scrubbing *s = scrub_start(w, i, UINT64_MAX);
	uint64_t n;

	assert_true(scrub_wait(w, s));
	assert_int_equal(s->op.err.code, 0);
	n = s->op.n_wrong;
	mem_free(s);
	return n;
}

static struct volume_stats stats_of(const struct world *w, unsigned i)
{
	struct volume_stats stats;

	volume_stats(w->volumes[i], &stats);
	return stats;
}

static unsigned n_bad(const struct world *w, unsigned i)
{
	struct volume_bad places[VOLUME_BAD_MAX];
	bool more;

	return volume_bad(w->volumes[i], places, &more) + more;
}

/* ---- No false alarm -------------------------------------------------------------------- */

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
		return drill_run(d, 1 + sim_below(d->sim, 3000));
	}
}

static bool scrub_among_others(struct drill *d)
{
	struct scrubbing *scrubs[WORLD_VOLUMES];

	drill_load_all(d, 100 + sim_below(d->sim, 1000));
	for (unsigned i = 0; i < d->n_volumes; i++)
		scrubs[i] = scrub_start(
		    &d->world, i, sim_below(d->sim, 2) ? UINT64_MAX : MiB << sim_below(d->sim, 9));
	for (uint64_t n = sim_below(d->sim, 10); n > 0; n--)
		if (!disturb(d, (unsigned)sim_below(d->sim, d->n_volumes)))
			return false;
	for (unsigned i = 0; i < d->n_volumes; i++) {
		if (sim_below(d->sim, 4) == 0)
			volume_scrub_stop(d->world.volumes[i]);
		if (!scrub_wait(&d->world, scrubs[i]))
			return false;
		if (scrubs[i]->op.n_wrong || stats_of(&d->world, i).health != VOLUME_OK)
			sim_fail(d->sim, "volume %u is called bad, and is not", i);
		if (scrubs[i]->op.err.code && scrubs[i]->op.err.code != -ECANCELED)
			sim_fail(d->sim, "a scrub fails: %s", scrubs[i]->op.err.text);
		mem_free(scrubs[i]);
	}
	return true;
}

/* Whoever writes, trims, resizes, takes snapshots, checkpoints or collects garbage, and whenever
 * the power goes. */
static void nothing_good_is_called_bad(void **state)
{
	struct seeds seeds = seeds_to_run(30);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct drill d;

		drill_init(&d, seed, 0);
		d.world.config.gc_slack = 1;
		for (unsigned life = 0; life < 3; life++) {
			if (!drill_up(&d))
				sim_fail(d.sim, "a life without an end ended");
			if (sim_below(d.sim, 3) == 0)
				drill_end_after(&d, ORACLE_POWER_CUT, 1 + sim_below(d.sim, 4000));
			scrub_among_others(&d);
			drill_crash(&d, sim_below(d.sim, 2) ? ORACLE_KILL : ORACLE_POWER_CUT);
		}
		sim_cut_after(d.sim, 0);
		if (!drill_up(&d) || !drill_down(&d))
			sim_fail(d.sim, "the last life ended early");
		drill_free(&d);
	}
}

/* ---- Flips ------------------------------------------------------------------------------ */

struct flips {
	struct world world;
	uint32_t tags[BLOCKS]; /* what each block holds; 0: zeroes */
};

static void fill(uint8_t *block, uint64_t lba, uint32_t tag)
{
	memset(block, 0, BLOCK_SIZE);
	for (unsigned i = 0; tag && i < BLOCK_SIZE; i += 8) {
		uint64_t v = hash_u64(lba * 7919 + tag * UINT64_C(1000003) + i);

		memcpy(block + i, &v, 8);
	}
}

static void flips_write(struct flips *f, uint64_t lba, uint64_t n, uint32_t tag)
{
	uint8_t *buf = sim_alloc(n * BLOCK_SIZE);

	for (uint64_t i = 0; i < n; i++) {
		f->tags[lba + i] = tag;
		fill(buf + i * BLOCK_SIZE, lba + i, tag);
	}
	assert_int_equal(
	    world_io(&f->world, 0, BLOCK_WRITE, 0, lba * BLOCK_SIZE, n * BLOCK_SIZE, buf), 0);
	sim_release(buf);
}

static void flips_trim(struct flips *f, uint64_t lba, uint64_t n)
{
	memset(&f->tags[lba], 0, n * sizeof(f->tags[0]));
	assert_int_equal(
	    world_io(&f->world, 0, BLOCK_TRIM, 0, lba * BLOCK_SIZE, n * BLOCK_SIZE, NULL), 0);
}

static void flips_begin(struct flips *f, uint64_t seed)
{
	struct sim_options options = {.alignment = 4096};
	struct sim *sim = sim_new(seed, &options);
	uint32_t tag = 1;

	memset(f, 0, sizeof(*f));
	world_init(&f->world, sim);
	assert_int_equal(world_begin(&f->world), 0);
	assert_int_equal(world_create(&f->world, 0, BLOCKS * BLOCK_SIZE), 0);
	assert_int_equal(world_open(&f->world, 0), 0);
	for (uint64_t lba = 0; lba < BLOCKS / 2; lba += 256)
		flips_write(f, lba, 256, tag++);
	assert_int_equal(world_checkpoint(&f->world, 0), 0);
	for (unsigned i = 0; i < 400; i++)
		flips_write(f, sim_below(sim, BLOCKS), 1, tag++);
	flips_trim(f, 1000, 200);
	/* Some of it is in the log alone. */
	if (sim_below(sim, 2))
		assert_int_equal(world_checkpoint(&f->world, 0), 0);
	assert_int_equal(world_io(&f->world, 0, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
}

static bool is_listed(const struct volume_bad *places, unsigned n, uint64_t lba)
{
	for (unsigned i = 0; i < n; i++)
		if (places[i].kind != VOLUME_BAD_ROOT && lba >= places[i].lba &&
		    lba - places[i].lba < places[i].blocks)
			return true;
	return false;
}

/* Every block reads as it was written, or as an error that the scrub has foretold. */
static void read_all(struct flips *f, const struct volume_bad *places, unsigned n, const char *when)
{
	uint8_t *got = sim_alloc(BLOCK_SIZE);
	uint8_t *expected = sim_alloc(BLOCK_SIZE);

	for (uint64_t lba = 0; lba < BLOCKS; lba++) {
		int r = world_io(&f->world, 0, BLOCK_READ, 0, lba * BLOCK_SIZE, BLOCK_SIZE, got);

		fill(expected, lba, f->tags[lba]);
		if (r == 0 && memcmp(got, expected, BLOCK_SIZE) != 0)
			sim_fail(f->world.sim, "%s block %llu reads as something else", when,
				 (unsigned long long)lba);
		if (r < 0 && !is_listed(places, n, lba))
			sim_fail(f->world.sim, "%s block %llu can't be read; the scrub missed it",
				 when, (unsigned long long)lba);
	}
	sim_release(got);
	sim_release(expected);
}

/* Anywhere, or where something was written: most of a store is empty. */
static void flip(struct flips *f, bool where_written)
{
	struct sim *sim = f->world.sim;
	const char *path = f->world.store_config.path;
	uint64_t pages = sim_file_size(sim, path) / BLOCK_SIZE;
	uint8_t page[BLOCK_SIZE];
	uint64_t at;

	do {
		at = sim_below(sim, pages) * BLOCK_SIZE;
		sim_file_peek(sim, path, at, page, sizeof(page));
	} while (where_written && format_is_zero(page, sizeof(page)));
	sim_file_rot(sim, path, at, BLOCK_SIZE);
}

/* E4: 24 bits flip anywhere in the store. No read gives wrong data; what can't be read was found by
 * the scrub, also what only shows when nothing is in memory any more. */
static void each_flip_that_matters_is_found(void **state)
{
	struct seeds seeds = seeds_to_run(40);
	uint64_t found = 0;

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct flips *f = sim_alloc(sizeof(*f));
		struct volume_bad places[VOLUME_BAD_MAX];
		bool more;
		unsigned n;
		int r;

		flips_begin(f, seed);
		for (unsigned i = 0; i < FLIPS; i++)
			flip(f, seed % 2);
		found += scrub(&f->world, 0);
		n = volume_bad(f->world.volumes[0], places, &more);
		assert_false(more);
		read_all(f, places, n, "at once");
		sim_cut(f->world.sim);
		sim_reboot(f->world.sim);
		r = world_begin(&f->world);
		if (r == 0)
			r = world_open(&f->world, 0);
		if (r < 0)
			sim_fail(f->world.sim, "it does not open: %s", f->world.err.text);
		read_all(f, places, n, "later");
		sim_free(f->world.sim);
		sim_release(f);
	}
	if (seeds.last > seeds.first)
		assert_true(found > 20);
}

/* ---- What is bad, and when it is not any more ------------------------------------------- */

/* The place in the store that holds the block. */
static uint64_t place_of(struct flips *f, uint64_t lba)
{
	const char *path = f->world.store_config.path;
	uint8_t *block = sim_alloc(BLOCK_SIZE);
	uint8_t *got = sim_alloc(MiB);
	uint64_t place = 0;

	fill(block, lba, f->tags[lba]);
	for (uint64_t at = 0; at < sim_file_size(f->world.sim, path); at += MiB) {
		sim_file_peek(f->world.sim, path, at, got, MiB);
		for (uint64_t i = 0; i < MiB; i += BLOCK_SIZE)
			if (memcmp(got + i, block, BLOCK_SIZE) == 0)
				place = at + i;
	}
	sim_release(got);
	sim_release(block);
	assert_true(place > 0);
	return place;
}

static void rot_block(struct flips *f, uint64_t lba)
{
	sim_file_rot(f->world.sim, f->world.store_config.path, place_of(f, lba), BLOCK_SIZE);
}

static void bad_blocks_heal(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	struct volume_bad places[VOLUME_BAD_MAX];
	bool more;

	(void)state;
	flips_begin(f, 1);
	for (uint64_t lba = 300; lba < 304; lba++)
		flips_write(f, lba, 1, 5000);
	assert_int_equal(world_checkpoint(&f->world, 0), 0);
	for (uint64_t lba = 300; lba < 304; lba++)
		rot_block(f, lba);
	assert_int_equal(scrub(&f->world, 0), 4);
	assert_int_equal(stats_of(&f->world, 0).health, VOLUME_IMPAIRED);
	assert_int_equal(volume_bad(f->world.volumes[0], places, &more), 1);
	assert_int_equal(places[0].lba, 300);
	assert_int_equal(places[0].blocks, 4);
	assert_int_equal(places[0].kind, VOLUME_BAD_BLOCKS);
	assert_int_equal(scrub(&f->world, 0), 4); /* again: no place twice */
	assert_int_equal(n_bad(&f->world, 0), 1);
	flips_write(f, 301, 1, 6000); /* of one place two are left */
	assert_int_equal(n_bad(&f->world, 0), 2);
	flips_trim(f, 300, 1);
	flips_write(f, 302, 1, 6001);
	assert_int_equal(n_bad(&f->world, 0), 1);
	assert_int_equal(stats_of(&f->world, 0).health, VOLUME_IMPAIRED);
	flips_trim(f, 296, 16);
	assert_int_equal(n_bad(&f->world, 0), 0);
	assert_int_equal(stats_of(&f->world, 0).health, VOLUME_OK);
	assert_int_equal(scrub(&f->world, 0), 0);
	sim_free(f->world.sim);
	sim_release(f);
}

static void rot_blob(struct flips *f, const struct blob_ref *ref)
{
	uint64_t at = format_segment_offset(f->world.store->info.segment_size, ref->segment);

	sim_file_rot(f->world.sim, f->world.store_config.path, at + ref->offset, ref->length);
}

/* The map is read from disk, though all of it is in memory. What opening needs is written anew at
 * once; a leaf or an index page when something in it changes. */
static void the_map_on_disk_is_read(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	struct map_page *index;
	struct volume *v;

	(void)state;
	flips_begin(f, 1);
	assert_int_equal(world_checkpoint(&f->world, 0), 0);
	v = f->world.volumes[0];
	rot_blob(f, &v->sb.root);
	assert_int_equal(scrub(&f->world, 0), 0); /* the checkpoint ahead wrote another */
	rot_blob(f, &v->segments.pages[0]->ref);
	assert_int_equal(scrub(&f->world, 0), 1);
	assert_int_equal(n_bad(&f->world, 0), 0);
	assert_int_equal(scrub(&f->world, 0), 0);

	for (unsigned leaf = 0; leaf < 2; leaf++) {
		assert_int_equal(map_index(&v->map, 0, &index), 0);
		rot_blob(f,
			 leaf ? map_index_ref(v->engine->map_cache, index, 1) : &v->map.index[0]);
		assert_int_equal(scrub(&f->world, 0), 1);
		assert_int_equal(scrub(&f->world, 0), 1);
		assert_int_equal(n_bad(&f->world, 0), 1);
		assert_int_equal(stats_of(&f->world, 0).health, VOLUME_IMPAIRED);
		flips_write(f, LEAF_BLOCKS + 5, 1, 7000 + leaf);
		assert_int_equal(scrub(&f->world, 0), 0); /* a checkpoint comes first */
		assert_int_equal(stats_of(&f->world, 0).health, VOLUME_OK);
	}
	sim_free(f->world.sim);
	sim_release(f);
}

/* An error that goes by, and that a read or a scrub finds gone. */
static void errors_that_pass_are_forgotten(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	uint8_t *buf = sim_alloc(BLOCK_SIZE);

	(void)state;
	flips_begin(f, 1);
	for (unsigned by_scrub = 0; by_scrub < 2; by_scrub++) {
		sim_disk_nth(f->world.sim, SIM_READ, 1, SIM_FAIL, -EIO);
		assert_int_equal(world_io(&f->world, 0, BLOCK_READ, 0, 0, BLOCK_SIZE, buf), -EIO);
		assert_int_equal(stats_of(&f->world, 0).health, VOLUME_IMPAIRED);
		if (by_scrub)
			assert_int_equal(scrub(&f->world, 0), 0);
		else
			assert_int_equal(world_io(&f->world, 0, BLOCK_READ, 0, 0, BLOCK_SIZE, buf),
					 0);
		assert_int_equal(stats_of(&f->world, 0).health, VOLUME_OK);
	}
	sim_free(f->world.sim);
	sim_release(buf);
	sim_release(f);
}

static enum sim_fate fail_reads_of(void *arg, struct sim_disk_op *op)
{
	uint64_t at = *(const uint64_t *)arg;

	return op->kind == SIM_READ && op->offset <= at && at - op->offset < op->len ? SIM_FAIL
										     : SIM_PROCEED;
}

/* An unreadable sector is one block, though many are read at once. A client's large read can't
 * tell which it was; the scrub can. */
static void an_error_is_of_one_block(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	struct volume_bad places[VOLUME_BAD_MAX];
	uint8_t *buf = sim_alloc(64 * BLOCK_SIZE);
	uint64_t at;
	bool more;

	(void)state;
	flips_begin(f, 1);
	flips_write(f, 512, 256, 9000);
	at = place_of(f, 600);
	sim_disk_hook(f->world.sim, fail_reads_of, &at);
	assert_int_equal(
	    world_io(&f->world, 0, BLOCK_READ, 0, 590 * BLOCK_SIZE, 32 * BLOCK_SIZE, buf), -EIO);
	assert_int_equal(stats_of(&f->world, 0).health, VOLUME_IMPAIRED);
	assert_int_equal(scrub(&f->world, 0), 1);
	assert_int_equal(volume_bad(f->world.volumes[0], places, &more), 1);
	assert_int_equal(places[0].lba, 600);
	assert_int_equal(places[0].blocks, 1);
	assert_false(more);
	sim_disk_hook(f->world.sim, NULL, NULL);
	assert_int_equal(scrub(&f->world, 0), 0);
	assert_int_equal(stats_of(&f->world, 0).health, VOLUME_OK);
	sim_free(f->world.sim);
	sim_release(buf);
	sim_release(f);
}

/* A leaf that can't be loaded hides 4 MiB, not a GiB, and is counted. */
static void an_unreadable_leaf_is_counted(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	const struct blob_ref *ref;
	struct map_page *index;
	struct volume *v;
	uint64_t at;

	(void)state;
	flips_begin(f, 1);
	assert_int_equal(world_checkpoint(&f->world, 0), 0);
	v = f->world.volumes[0];
	assert_int_equal(map_index(&v->map, 0, &index), 0);
	ref = map_index_ref(v->engine->map_cache, index, 1);
	at = format_segment_offset(f->world.store->info.segment_size, ref->segment) + ref->offset;
	map_forget(&v->map); /* nothing is in memory */
	sim_disk_hook(f->world.sim, fail_reads_of, &at);
	assert_in_range(scrub(&f->world, 0), 1, 4); /* others may lie in the same page */
	assert_in_range(n_bad(&f->world, 0), 1, 4);
	sim_disk_hook(f->world.sim, NULL, NULL);
	assert_int_equal(scrub(&f->world, 0), 0);
	assert_int_equal(n_bad(&f->world, 0), 0);
	sim_free(f->world.sim);
	sim_release(f);
}

/* ---- Rate, stopping, closing ------------------------------------------------------------- */

static void the_rate_is_kept(void **state)
{
	struct flips *f = sim_alloc(sizeof(*f));
	struct scrubbing *s;
	struct scrubbing *second;
	uint64_t began;
	uint64_t took;

	(void)state;
	flips_begin(f, 1);
	began = io_now(f->world.loop);
	s = scrub_start(&f->world, 0, 4 * MiB);
	second = scrub_start(&f->world, 0, 4 * MiB);
	assert_true(scrub_wait(&f->world, second));
	assert_int_equal(second->op.err.code, -EBUSY);
	sim_run_until(f->world.sim, NULL, NULL, 200);
	assert_true(stats_of(&f->world, 0).scrubbing);
	assert_in_range(stats_of(&f->world, 0).scrub_bytes, 1, BLOCKS * BLOCK_SIZE - 1);
	assert_true(scrub_wait(&f->world, s));
	took = io_now(f->world.loop) - began;
	assert_int_equal(s->op.err.code, 0);
	assert_false(stats_of(&f->world, 0).scrubbing);
	/* Something over 8 MiB live in it. */
	assert_in_range(took, 1900 * NSEC_PER_MSEC, 2500 * NSEC_PER_MSEC);

	s = scrub_start(&f->world, 0, MiB);
	sim_run_until(f->world.sim, NULL, NULL, 50);
	volume_scrub_stop(f->world.volumes[0]);
	assert_true(scrub_wait(&f->world, s));
	assert_int_equal(s->op.err.code, -ECANCELED);

	s = scrub_start(&f->world, 0, MiB);
	sim_run_until(f->world.sim, NULL, NULL, 50);
	assert_int_equal(world_close(&f->world, 0), 0);
	assert_true(s->done);
	assert_int_equal(s->op.err.code, -ECANCELED);
	sim_free(f->world.sim);
	sim_release(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_good_is_called_bad),
	    cmocka_unit_test(each_flip_that_matters_is_found),
	    cmocka_unit_test(bad_blocks_heal),
	    cmocka_unit_test(the_map_on_disk_is_read),
	    cmocka_unit_test(errors_that_pass_are_forgotten),
	    cmocka_unit_test(an_error_is_of_one_block),
	    cmocka_unit_test(an_unreadable_leaf_is_counted),
	    cmocka_unit_test(the_rate_is_kept),
	};

	/* SIM_TEST=bad_blocks_heal runs that one only. */
	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
