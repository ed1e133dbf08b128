/* SPDX-License-Identifier: Apache-2.0
 *
 * The map in bounded memory: volumes up to 64 TiB, of whose map only a few pages are in memory.
 * What is read is what was written (E4), counters are exact (E8), and neither opening nor a
 * checkpoint takes more than what has changed.
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

#include "base/util.h"
#include "engine/volume.h"
#include "tests/sim/seeds.h"
#include "tests/sim/world.h"

#include <errno.h>

#define SPOTS 600

/* Blocks all over a volume, each with what was written to it last. */
struct spots {
	struct world world;
	uint64_t size; /* of the volume, bytes */
	uint64_t lba[SPOTS];
	uint32_t tag[SPOTS];
	uint32_t durable[SPOTS]; /* the tag at the last flush or clean close */
	uint8_t *buf;
	uint64_t reads; /* of the disk */
};

static void begin(struct spots *s)
{
	struct world *w = &s->world;
	int r = world_begin(w);

	if (r == 0)
		r = world_open(w, 0);
	if (r < 0)
		sim_fail(w->sim, "open: %s", w->err.text);
}

static bool is_taken(const struct spots *s, unsigned i)
{
	for (unsigned j = 0; j < i; j++)
		if (s->lba[j] == s->lba[i])
			return true;
	return false;
}

static void start(struct spots *s, uint64_t seed, uint64_t size, uint64_t budget)
{
	struct world *w = &s->world;
	struct sim_options options = {.alignment = seed % 2 ? 4096 : 512};

	memset(s, 0, sizeof(*s));
	world_init(w, sim_new(seed, &options));
	w->config.map_memory = budget;
	w->config.checkpoint_blocks = 100000;
	w->config.checkpoint_log = 64 * MiB;
	w->store_config.segment_size = 8 * MiB;
	s->size = size;
	s->buf = sim_alloc(BLOCK_SIZE);
	if (world_begin(w) < 0 || world_create(w, 0, size) < 0 || world_open(w, 0) < 0)
		sim_fail(w->sim, "create: %s", w->err.text);
	for (unsigned i = 0; i < SPOTS; i++) {
		/* Some share a leaf, some an index page, the others lie all over. */
		uint64_t near = i % 3 == 0 ? size : i % 3 == 1 ? 8 * MiB : 3 * GiB;
		uint64_t from = i % 3 == 0 || size < 4 * GiB ? 0 : i % 2 ? size - near : size / 2;

		s->lba[i] = (from + sim_below(w->sim, min_u64(near, size))) % size / BLOCK_SIZE;
		s->lba[i] = i == 0 ? 0 : i == 1 ? size / BLOCK_SIZE - 1 : s->lba[i];
		while (is_taken(s, i))
			s->lba[i] = (s->lba[i] + 1) % (size / BLOCK_SIZE);
	}
}

static void end(struct spots *s)
{
	sim_free(s->world.sim);
	sim_release(s->buf);
}

static void fill(uint8_t *p, uint64_t lba, uint32_t tag)
{
	for (uint64_t i = 0; i < BLOCK_SIZE / 8; i++) {
		uint64_t word = tag ? hash_u64(lba * 1000003 + tag * UINT64_C(77777777777) + i) : 0;

		memcpy(p + i * 8, &word, 8);
	}
}

static void write_spot(struct spots *s, unsigned i, uint32_t tag)
{
	struct world *w = &s->world;

	fill(s->buf, s->lba[i], tag);
	if (world_io(w, 0, BLOCK_WRITE, 0, s->lba[i] * BLOCK_SIZE, BLOCK_SIZE, s->buf) < 0)
		sim_fail(w->sim, "a write fails");
	s->tag[i] = tag;
}

static void trim_spot(struct spots *s, unsigned i)
{
	struct world *w = &s->world;

	if (world_io(w, 0, BLOCK_TRIM, 0, s->lba[i] * BLOCK_SIZE, BLOCK_SIZE, NULL) < 0)
		sim_fail(w->sim, "a trim fails");
	s->tag[i] = 0;
}

static int read_spot(struct spots *s, unsigned i)
{
	return world_io(&s->world, 0, BLOCK_READ, 0, s->lba[i] * BLOCK_SIZE, BLOCK_SIZE, s->buf);
}

static void spot_is(struct spots *s, unsigned i)
{
	uint8_t expected[BLOCK_SIZE];
	int r = read_spot(s, i);

	fill(expected, s->lba[i], s->tag[i]);
	if (r < 0)
		sim_fail(s->world.sim, "spot %u at block %llu can't be read: %d", i,
			 (unsigned long long)s->lba[i], r);
	if (memcmp(s->buf, expected, BLOCK_SIZE) != 0)
		sim_fail(s->world.sim, "spot %u at block %llu is not what was written (%u)", i,
			 (unsigned long long)s->lba[i], s->tag[i]);
}

static void all_is_well(struct spots *s)
{
	struct map_cache *cache = s->world.volumes[0]->engine->map_cache;

	for (unsigned i = 0; i < SPOTS; i++)
		spot_is(s, i);
	if (map_cache_bytes(cache) > max_u64(s->world.config.map_memory / 2, MAP_CACHE_MIN))
		sim_fail(s->world.sim, "the map takes %llu bytes",
			 (unsigned long long)map_cache_bytes(cache));
	if (world_check(&s->world, 0) != 0)
		sim_fail(s->world.sim, "the walk finds something wrong");
}

static void checkpoint(struct spots *s)
{
	if (world_checkpoint(&s->world, 0) < 0)
		sim_fail(s->world.sim, "the checkpoint fails");
}

static void kill_and_open(struct spots *s)
{
	sim_kill(s->world.sim);
	sim_reboot(s->world.sim);
	begin(s);
}

static void close_and_open(struct spots *s)
{
	world_close(&s->world, 0);
	if (world_open(&s->world, 0) < 0)
		sim_fail(s->world.sim, "open: %s", s->world.err.text);
}

static struct volume_stats stats_of(const struct spots *s)
{
	struct volume_stats stats;

	volume_stats(s->world.volumes[0], &stats);
	return stats;
}

/* ---- Size -------------------------------------------------------------------------------------
 */

/* E4, E5, E8: the largest volume works at both ends and in between; trims of terabytes are nothing.
 */
static void the_largest_volume(void **state)
{
	struct spots s;

	(void)state;
	start(&s, 1, VOLUME_SIZE_MAX, MiB);
	for (unsigned i = 0; i < SPOTS; i++)
		write_spot(&s, i, 1 + i);
	checkpoint(&s);
	all_is_well(&s);
	kill_and_open(&s);
	all_is_well(&s);
	for (uint64_t at = 16 * TiB; at < 48 * TiB; at += 2 * GiB)
		assert_int_equal(world_io(&s.world, 0, BLOCK_TRIM, 0, at, 2 * GiB, NULL), 0);
	for (unsigned i = 0; i < SPOTS; i++)
		if (s.lba[i] >= 16 * TiB / BLOCK_SIZE && s.lba[i] < 48 * TiB / BLOCK_SIZE)
			s.tag[i] = 0;
	all_is_well(&s);
	kill_and_open(&s);
	all_is_well(&s);
	checkpoint(&s);
	all_is_well(&s);
	end(&s);
}

/* A small volume grows to the largest, in the log and by a checkpoint. */
static void grows_to_the_largest(void **state)
{
	struct spots s;

	(void)state;
	start(&s, 2, 8 * MiB, MiB);
	write_spot(&s, 0, 7);
	checkpoint(&s);
	assert_int_equal(world_resize(&s.world, 0, VOLUME_SIZE_MAX), 0);
	s.size = VOLUME_SIZE_MAX;
	s.lba[2] = VOLUME_SIZE_MAX / BLOCK_SIZE - 1;
	s.lba[3] = VOLUME_SIZE_MAX / 2 / BLOCK_SIZE;
	write_spot(&s, 2, 8);
	kill_and_open(&s);
	write_spot(&s, 3, 9);
	checkpoint(&s);
	close_and_open(&s);
	for (unsigned i = 0; i < 4; i++)
		spot_is(&s, i);
	assert_int_equal(stats_of(&s).size, VOLUME_SIZE_MAX);
	assert_int_equal(world_check(&s.world, 0), 0);
	end(&s);
}

/* ---- Lives ------------------------------------------------------------------------------------
 */

/* A kill loses nothing that was acknowledged; a cut, nothing that was flushed. A spot that was not
 * has the old or the new contents. */
static void judge_crash(struct spots *s, bool cut)
{
	for (unsigned i = 0; i < SPOTS; i++) {
		uint8_t expected[BLOCK_SIZE];

		if (!cut || s->durable[i] == s->tag[i])
			continue;
		if (read_spot(s, i) < 0)
			sim_fail(s->world.sim, "spot %u can't be read after a cut", i);
		fill(expected, s->lba[i], s->tag[i]);
		if (memcmp(s->buf, expected, BLOCK_SIZE) != 0)
			s->tag[i] = s->durable[i];
	}
	memcpy(s->durable, s->tag, sizeof(s->durable));
}

static void one_step(struct spots *s, uint32_t *tag)
{
	struct sim *sim = s->world.sim;
	unsigned i = (unsigned)sim_below(sim, SPOTS);

	switch (sim_below(sim, 20)) {
	case 0:
		checkpoint(s);
		memcpy(s->durable, s->tag, sizeof(s->durable));
		break;
	case 1:
		world_io(&s->world, 0, BLOCK_FLUSH, 0, 0, 0, NULL);
		memcpy(s->durable, s->tag, sizeof(s->durable));
		break;
	case 2:
		trim_spot(s, i);
		s->durable[i] = s->durable[i] == 0 ? 0 : s->durable[i];
		break;
	case 3:
	case 4:
	case 5:
		spot_is(s, i);
		break;
	default:
		/* One change of a spot between flushes, so that there are two values it may have.
		 */
		if (s->durable[i] == s->tag[i])
			write_spot(s, i, ++*tag);
		break;
	}
}

/* E1, E4, E8, with memory for a few pages of the map: all the time they come and go. */
static void pages_come_and_go(void **state)
{
	static const uint64_t sizes[] = {64 * GiB, 3 * TiB, 5 * GiB + 4096, 64 * TiB};
	struct seeds seeds = seeds_to_run(8);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		uint32_t tag = 0;
		struct spots s;

		start(&s, seed, sizes[seed % ARRAY_SIZE(sizes)], KiB);
		for (unsigned life = 0; life < 6; life++) {
			bool cut = sim_below(s.world.sim, 2);

			for (uint64_t n = sim_below(s.world.sim, 1500); n > 0; n--)
				one_step(&s, &tag);
			if (sim_below(s.world.sim, 4) == 0) {
				close_and_open(&s);
				memcpy(s.durable, s.tag, sizeof(s.durable));
			} else {
				if (cut)
					sim_cut(s.world.sim);
				else
					sim_kill(s.world.sim);
				sim_reboot(s.world.sim);
				begin(&s);
				judge_crash(&s, cut);
			}
			all_is_well(&s);
		}
		end(&s);
	}
}

/* ---- Work is in proportion ----------------------------------------------------------------------
 */

static enum sim_fate count_reads(void *arg, struct sim_disk_op *op)
{
	struct spots *s = arg;

	if (op->kind == SIM_READ)
		s->reads++;
	return SIM_PROCEED;
}

/* What was written all over 64 TiB has hundreds of index pages: opening reads none of them, and the
 * first checkpoint writes what has changed since. */
static void opening_is_short(void **state)
{
	uint64_t first;
	struct spots s;

	(void)state;
	start(&s, 4, 64 * TiB, MiB);
	for (unsigned i = 0; i < SPOTS; i++)
		write_spot(&s, i, 1 + i);
	checkpoint(&s);
	first = stats_of(&s).map_bytes;
	world_close(&s.world, 0);
	sim_disk_hook(s.world.sim, count_reads, &s);
	assert_int_equal(world_open(&s.world, 0), 0);
	sim_disk_hook(s.world.sim, NULL, NULL);
	assert_in_range(s.reads, 1, 8);
	assert_int_equal(stats_of(&s).map_reads, 0);
	write_spot(&s, 7, 9999);
	checkpoint(&s);
	/* A leaf, an index page, a usage page or two, and the root, which names all pages. */
	assert_in_range(stats_of(&s).map_bytes, 1, first / 4);
	assert_in_range(stats_of(&s).map_reads, 1, 2);
	all_is_well(&s);
	end(&s);
}

/* ---- Errors -----------------------------------------------------------------------------------
 */

static void spread(struct spots *s, uint64_t seed)
{
	start(s, seed, 64 * GiB, MiB);
	for (unsigned i = 0; i < SPOTS; i++)
		write_spot(s, i, 1 + i);
	checkpoint(s);
	close_and_open(s);
}

/* E4: an index page that can't be read is an error for whoever needs it; the next one tries anew.
 */
static void index_read_fails(void **state)
{
	struct spots s;

	(void)state;
	spread(&s, 5);
	sim_disk_nth(s.world.sim, SIM_READ, 1, SIM_FAIL, -EIO);
	assert_int_equal(read_spot(&s, 0), -EIO);
	assert_int_equal(stats_of(&s).health, VOLUME_IMPAIRED);
	assert_int_equal(stats_of(&s).bad_reads, 1);
	all_is_well(&s);
	end(&s);
}

/* A checkpoint that needs one stops the log, and the map stays what it was: nothing is lost. The
 * n-th read of the checkpoint fails, whatever it is of; so does the n-th write. */
static void a_failed_checkpoint_changes_nothing(void **state)
{
	static const unsigned kinds[] = {SIM_READ, SIM_WRITE};

	(void)state;
	for (unsigned kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		int error = -EIO;

		for (uint64_t n = 1; error; n = n * 3 + 1) {
			struct spots s;

			spread(&s, 6);
			for (unsigned i = 0; i < SPOTS; i += 2)
				write_spot(&s, i, 5000 + i);
			sim_disk_nth(s.world.sim, kinds[kind], n, SIM_FAIL, -EIO);
			error = world_checkpoint(&s.world, 0);
			sim_disk_nth(s.world.sim, 0, 0, SIM_PROCEED, 0);
			assert_true(error == 0 || error == -EIO);
			for (unsigned i = 0; i < SPOTS; i++)
				spot_is(&s, i);
			kill_and_open(&s); /* the store may have failed, too */
			all_is_well(&s);
			end(&s);
		}
	}
}

/* Where the newest index page `number` is in the store's file. */
static uint64_t find_index(struct spots *s, uint64_t number)
{
	const char *path = s->world.store_config.path;
	uint64_t size = sim_file_size(s->world.sim, path);
	uint8_t *image = sim_alloc(MiB);
	uint64_t newest = 0;
	uint64_t at = 0;

	for (uint64_t chunk = 0; chunk < size; chunk += MiB) {
		sim_file_peek(s->world.sim, path, chunk, image, min_u64(MiB, size - chunk));
		for (uint64_t i = 0; i + 64 <= min_u64(MiB, size - chunk); i += BLOB_ALIGN) {
			uint64_t word[8];

			memcpy(word, image + i, sizeof(word));
			if (word[0] != MAGIC_INDEX || word[5] != number || word[6] < newest)
				continue;
			newest = word[6];
			at = chunk + i;
		}
	}
	sim_release(image);
	assert_true(at > 0);
	return at;
}

/* E4: rot in an index page is an error in its GiB and nowhere else, and the walk names it. */
static void index_is_damaged(void **state)
{
	struct spots s;
	unsigned bad = 0;

	(void)state;
	spread(&s, 7);
	sim_file_rot(s.world.sim, s.world.store_config.path, find_index(&s, 0) + 64, 8);
	close_and_open(&s);
	for (unsigned i = 0; i < SPOTS; i++) {
		if (s.lba[i] >= GiB / BLOCK_SIZE) {
			spot_is(&s, i);
			continue;
		}
		assert_int_equal(read_spot(&s, i), -EIO);
		bad++;
	}
	assert_true(bad > 0);
	assert_int_equal(stats_of(&s).health, VOLUME_IMPAIRED);
	assert_true(world_check(&s.world, 0) > 0);
	write_spot(&s, 0, 77);
	spot_is(&s, 0); /* what the log says needs no map */
	assert_int_equal(world_checkpoint(&s.world, 0), -EIO);
	spot_is(&s, 0);
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_largest_volume),
	    cmocka_unit_test(grows_to_the_largest),
	    cmocka_unit_test(pages_come_and_go),
	    cmocka_unit_test(opening_is_short),
	    cmocka_unit_test(index_read_fails),
	    cmocka_unit_test(a_failed_checkpoint_changes_nothing),
	    cmocka_unit_test(index_is_damaged),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
