/* SPDX-License-Identifier: Apache-2.0
 *
 * A bit flipped in each kind of object, objects that are gone, operations that fail: noticed,
 * named, contained (S1, S4).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/sim/depot.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct model empty;

static struct depot depot;
static struct model model;
static uint8_t *buf, *want;

/* Two snapshots; the second shares most of the first's blocks. */
static void begin(uint64_t seed)
{
	struct id id = depot_id(0);
	struct model first;

	buf = sim_alloc(SNAP_BLOCK);
	want = sim_alloc(SNAP_BLOCK);
	depot_init(&depot, seed);
	for (unsigned i = 0; i < DEPOT_PLACES; i++)
		model.seed[i] = 50 + i;
	first = model;
	first.seed[3] = 7;
	first.seed[12] = 8;
	assert_true(depot_up(&depot));
	assert_true(depot_upload(&depot, 0, depot_id(0), NULL, &empty, &first));
	assert_true(depot_upload(&depot, 0, depot_id(1), &id, &first, &model));
}

static void end(void)
{
	depot_free(&depot);
	sim_release(buf);
	sim_release(want);
}

/* Reads all places of snapshot 1. Those that fail must tell of `name`; the rest must be right.
 * Returns how many failed. */
static unsigned read_all(const char *name)
{
	struct snap_reader *reader;
	unsigned bad = 0;
	struct err err;
	int error;

	assert_true(depot_open(&depot, 0, depot_id(1), NULL, &reader, &error));
	assert_int_equal(error, 0);
	for (unsigned i = 0; i < DEPOT_PLACES; i++) {
		assert_true(depot_read(&depot, reader, buf, depot_place(i) * SNAP_BLOCK, SNAP_BLOCK,
				       &error, &err));
		model_bytes(model.seed[i], want);
		if (error) {
			assert_int_equal(error, -EIO);
			assert_non_null(strstr(err.text, name));
			assert_non_null(strstr(err.text, "snap-"));
			bad++;
		} else {
			assert_memory_equal(buf, want, SNAP_BLOCK);
		}
	}
	snap_reader_close(reader);
	return bad;
}

static const char *copy_of(const char *name, char copy[BLOB_NAME_MAX + 8])
{
	snprintf(copy, BLOB_NAME_MAX + 8, "%s-copy", name);
	return copy;
}

static bool is_page_pack(const char *name)
{
	char copy[BLOB_NAME_MAX + 8];

	return blobs_sim_exists(depot.objects, copy_of(name, copy));
}

/* The i-th pack of blocks (or of pages), by its name. */
static const char *pack(bool pages, uint64_t i)
{
	for (uint64_t n = 0;; n++) {
		const char *name = blobs_sim_name(depot.objects, PREFIX_PACKS, n);

		assert_non_null(name);
		if (!strstr(name, "-copy") && is_page_pack(name) == pages && i-- == 0)
			return name;
	}
}

static void flip_anywhere(const char *name, uint64_t from, uint64_t end_at)
{
	blobs_sim_flip(depot.objects, name, from + sim_below(depot.sim, end_at - from),
		       (unsigned)sim_below(depot.sim, 8));
}

/* Anywhere in the stored blocks of a pack: one block is bad, by name, and the others read. */
static void a_flipped_bit_in_a_block(void **state)
{
	struct seeds seeds = seeds_to_run(30);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		const char *name;

		begin(seed);
		name = pack(false, 0);
		flip_anywhere(name, PACK_HEAD,
			      blobs_sim_size(depot.objects, name) - 600); /* the directory */
		assert_true(read_all(name) <= 1);
		end();
	}
}

/* A part of a block is checked by its frames alone, and still never wrong. */
static void a_flipped_bit_under_a_small_read(void **state)
{
	struct seeds seeds = seeds_to_run(30);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct snap_reader *reader;
		const char *name;
		unsigned bad = 0;
		int error;

		begin(seed);
		name = pack(false, 0);
		flip_anywhere(name, PACK_HEAD, blobs_sim_size(depot.objects, name) - 600);
		assert_true(depot_open(&depot, 0, depot_id(1), NULL, &reader, &error));
		for (unsigned i = 0; i < DEPOT_PLACES; i++) {
			model_bytes(model.seed[i], want);
			for (uint32_t at = 0; at < SNAP_BLOCK; at += FRAME_SIZE) {
				assert_true(depot_read(&depot, reader, buf,
						       depot_place(i) * SNAP_BLOCK + at + 4096,
						       4096, &error, NULL));
				if (error)
					bad++;
				else
					assert_memory_equal(buf, want + at + 4096, 4096);
			}
		}
		assert_true(bad <= 1);
		snap_reader_close(reader);
		end();
	}
}

/* A lost pack costs the blocks in it. */
static void a_lost_pack(void **state)
{
	char name[BLOB_NAME_MAX];
	unsigned bad;

	(void)state;
	begin(1);
	memcpy(name, pack(false, 0), BLOB_NAME_MAX);
	blobs_sim_lose(depot.objects, name);
	bad = read_all(name);
	assert_true(bad > 0 && bad <= depot.writer.pack_blocks);
	end();
}

/* Each page is there twice. With both spoilt, the blocks below it are bad, and the others read. */
static void a_flipped_bit_in_a_page(void **state)
{
	struct seeds seeds = seeds_to_run(20);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		char name[BLOB_NAME_MAX + 8];
		uint64_t at;

		begin(seed);
		memcpy(name, pack(true, 0), BLOB_NAME_MAX);
		at = PACK_HEAD + sim_below(depot.sim, 100);
		blobs_sim_flip(depot.objects, name, at, 3);
		assert_int_equal(read_all(name), 0);
		snprintf(name, sizeof(name), "%.*s-copy", BLOB_NAME_MAX, pack(true, 0));
		blobs_sim_flip(depot.objects, name, at, 3);
		assert_true(read_all("packs/") < DEPOT_PLACES);
		end();
	}
}

static bool flag;
static unsigned n_bad;

static void verify_done(struct snap_verify *verify)
{
	(void)verify;
	flag = true;
}

static void verify_bad(struct snap_verify *verify, uint64_t block, uint64_t blocks,
		       const char *text)
{
	(void)verify;
	(void)block;
	assert_non_null(strstr(text, "packs/"));
	n_bad += (unsigned)blocks;
}

static uint64_t verify(void)
{
	struct snap_verify v = {.done = verify_done, .bad = verify_bad};
	struct snap_reader *reader;
	int error;

	assert_true(depot_open(&depot, 0, depot_id(1), NULL, &reader, &error));
	assert_int_equal(error, 0);
	flag = false;
	n_bad = 0;
	snap_verify_start(reader, &v);
	assert_true(depot_wait(&depot, &flag));
	assert_int_equal(v.error, 0);
	assert_int_equal(v.bad_blocks, n_bad);
	snap_reader_close(reader);
	return v.bad_blocks;
}

/* Verify names each bad block, and goes on. */
static void verify_names_what_is_bad(void **state)
{
	uint64_t bad;

	(void)state;
	begin(2);
	assert_int_equal(verify(), 0);
	flip_anywhere(pack(false, 0), PACK_HEAD, PACK_HEAD + 1);
	flip_anywhere(pack(false, 1), PACK_HEAD, PACK_HEAD + 1);
	/* The second snapshot may have changed the first block of a pack. */
	bad = verify();
	assert_in_range(bad, 1, 2);
	blobs_sim_lose(depot.objects, pack(false, 1));
	assert_in_range(verify(), bad, bad + 2);
	end();
}

/* One bad page at the top: all that it leads to is bad, and is counted. */
static void verify_counts_what_a_page_leads_to(void **state)
{
	const char *name;
	uint64_t n = 0;

	(void)state;
	begin(3);
	while ((name = blobs_sim_name(depot.objects, PREFIX_PACKS, n)))
		if (strstr(name, "-copy") || is_page_pack(name))
			blobs_sim_lose(depot.objects, name);
		else
			n++;
	assert_int_equal(verify(), DEPOT_SIZE / SNAP_BLOCK);
	end();
}

/* A snapshot whose object is damaged can't be opened, is listed as such, and stops sweeps: they
 * would not know what it needs. Deleting it helps. */
static void a_damaged_snapshot_object(void **state)
{
	struct seeds seeds = seeds_to_run(20);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		struct snap_sweep sweep = {.config = depot_sweep_config()};
		struct snap_reader *reader;
		char name[BLOB_NAME_MAX];
		uint64_t packs;
		int error;

		begin(seed);
		packs = blobs_sim_count(depot.objects, PREFIX_PACKS);
		manifest_name(depot_id(0), name);
		flip_anywhere(name, 0, blobs_sim_size(depot.objects, name));
		assert_true(depot_open(&depot, 0, depot_id(0), NULL, &reader, &error));
		assert_true(error == -EBADMSG || error == -ENOTSUP);
		assert_null(reader);
		assert_true(depot_sweep(&depot, 0, &sweep));
		assert_int_equal(sweep.error, -EBADMSG);
		assert_non_null(strstr(sweep.err.text, name));
		assert_int_equal(blobs_sim_count(depot.objects, PREFIX_PACKS), packs);
		assert_int_equal(read_all(""), 0);
		assert_true(depot_delete(&depot, 0, depot_id(0)));
		assert_true(depot_sweep_clean(&depot, 0));
		assert_int_equal(read_all(""), 0);
		end();
	}
}

static void a_damaged_hold_or_page_stops_sweeps(void **state)
{
	struct snap_sweep sweep = {.config = depot_sweep_config()};
	char name[BLOB_NAME_MAX], copy[BLOB_NAME_MAX + 8];
	uint64_t packs;
	int error;

	(void)state;
	begin(4);
	assert_true(depot_hold(&depot, 0, depot_id(0), "vol-1", NSEC_PER_SEC * 1000, &error));
	assert_true(depot_delete(&depot, 0, depot_id(0)));
	packs = blobs_sim_count(depot.objects, PREFIX_PACKS);
	blobs_sim_flip(depot.objects, "holds/vol-1", 60, 1);
	assert_true(depot_sweep(&depot, 0, &sweep));
	assert_int_equal(sweep.error, -EBADMSG);
	assert_non_null(strstr(sweep.err.text, "holds/vol-1"));
	blobs_sim_flip(depot.objects, "holds/vol-1", 60, 1);
	/* Spoilt in both copies. */
	memcpy(name, pack(true, 1), BLOB_NAME_MAX);
	blobs_sim_flip(depot.objects, name, PACK_HEAD + 20, 1);
	blobs_sim_lose(depot.objects, copy_of(name, copy));
	assert_true(depot_sweep(&depot, 0, &sweep));
	assert_int_equal(sweep.error, -EIO);
	assert_true(blobs_sim_count(depot.objects, PREFIX_PACKS) >= packs - 1);
	end();
}

/* A damaged head is told when the repository is opened. */
static void a_damaged_head(void **state)
{
	(void)state;
	begin(1);
	for (uint64_t byte = 0; byte < REPOSITORY_BYTES; byte++) {
		struct repository_head head;
		uint8_t bytes[REPOSITORY_BYTES];

		assert_int_equal(repository_encode(bytes, depot_id(1)), REPOSITORY_BYTES);
		assert_int_equal(repository_decode(bytes, sizeof(bytes), &head), 0);
		bytes[byte] ^= 4;
		assert_true(repository_decode(bytes, sizeof(bytes), &head) < 0);
	}
	end();
}

/* Whatever operation of an upload fails: it fails with that error, or passes over it; nothing that
 * was there is harmed, and the next try succeeds. */
static void an_upload_survives_errors(void **state)
{
	bool reached = true;

	(void)state;
	for (uint64_t n = 1; reached; n += seeds_stride()) {
		struct upload *u = sim_alloc(sizeof(*u));
		struct model next;
		struct id id = depot_id(1);
		uint64_t before;

		begin(n);
		next = model;
		model_change(&depot, &next, 6);
		before = blobs_sim_started(depot.objects);
		blobs_sim_nth(depot.objects, -1, n, -EIO, false);
		upload_start(u, &depot, 0, depot_id(2), &id, &model, &next);
		assert_true(depot_wait(&depot, &u->done));
		reached = blobs_sim_started(depot.objects) - before >= n;
		blobs_sim_nth(depot.objects, -1, 0, 0, false);
		if (u->error && u->error != -EIO)
			sim_fail(depot.sim, "upload: %d %s", u->error, u->err.text);
		if (u->error)
			assert_true(depot_upload(&depot, 1, depot_id(2), &id, &model, &next));
		assert_true(depot_verify(&depot, 1, depot_id(2), NULL, &next));
		assert_int_equal(read_all(""), 0);
		upload_free(u);
		sim_release(u);
		end();
	}
}

/* The same for a sweep. */
static void a_sweep_survives_errors(void **state)
{
	bool reached = true;

	(void)state;
	for (uint64_t n = 1; reached; n += seeds_stride()) {
		struct snap_sweep sweep = {.config = depot_sweep_config()};
		uint64_t before;

		begin(n);
		assert_true(depot_delete(&depot, 0, depot_id(0)));
		before = blobs_sim_started(depot.objects);
		blobs_sim_nth(depot.objects, -1, n, -EIO, false);
		assert_true(depot_sweep(&depot, 0, &sweep));
		snap_sweep_clear(&sweep);
		reached = blobs_sim_started(depot.objects) - before >= n;
		blobs_sim_nth(depot.objects, -1, 0, 0, false);
		assert_true(sweep.error == 0 || sweep.error == -EIO);
		assert_int_equal(read_all(""), 0);
		assert_true(depot_sweep_clean(&depot, 1));
		assert_int_equal(read_all(""), 0);
		end();
	}
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_flipped_bit_in_a_block),
	    TEST(a_flipped_bit_under_a_small_read),
	    TEST(a_lost_pack),
	    TEST(a_flipped_bit_in_a_page),
	    TEST(verify_names_what_is_bad),
	    TEST(verify_counts_what_a_page_leads_to),
	    TEST(a_damaged_snapshot_object),
	    TEST(a_damaged_hold_or_page_stops_sweeps),
	    TEST(a_damaged_head),
	    TEST(an_upload_survives_errors),
	    TEST(a_sweep_survives_errors),
	};
	const char *only = getenv("SIM_TEST");

	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
