/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects as files (snapshots/blobs_dir.h), and a repository on them with the real machine's
 * threads.
 */
#include "tests/unit/test_io_common.h"

#include "snapshots/blobs_dir.h"
#include "snapshots/copy.h"
#include "snapshots/format.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static char folder[64];
static struct blobs *blobs;

static int setup(void **state)
{
	struct err err;

	snprintf(folder, sizeof(folder), "/tmp/test-snapshots-XXXXXX");
	if (!mkdtemp(folder) || test_loop_setup(state) < 0)
		return -1;
	return blobs_dir_open(folder, true, &blobs, &err);
}

static void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	char name[1024];

	while (dir && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		if (unlink(name) < 0)
			remove_tree(name);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

static int teardown(void **state)
{
	blobs_close(blobs);
	blobs = NULL;
	remove_tree(folder);
	return test_loop_teardown(state);
}

static void blob_done(struct blob_op *op)
{
	(void)op;
	io_loop_stop(test_loop);
}

static int64_t finish(struct blob_op *op)
{
	assert_int_equal(io_loop_run(test_loop), 0);
	return op->result;
}

static int64_t put(const char *name, const char *text)
{
	struct blob_op op = {.done = blob_done};
	struct iovec iov[2] = {{(void *)(uintptr_t)text, 1},
			       {(void *)(uintptr_t)(text + 1), strlen(text) - 1}};

	blob_put(blobs, test_loop, &op, name, iov, 2);
	return finish(&op);
}

static int64_t get(const char *name, char *buf, uint64_t offset, uint64_t len)
{
	struct blob_op op = {.done = blob_done};

	blob_read(blobs, test_loop, &op, name, buf, offset, len);
	return finish(&op);
}

static int64_t swap(const char *name, const char *expected, const char *wanted)
{
	struct blob_op op = {.done = blob_done};

	blob_swap(blobs, test_loop, &op, name, expected, expected ? strlen(expected) : 0, wanted,
		  wanted ? strlen(wanted) : 0);
	return finish(&op);
}

static int64_t drop(const char *name)
{
	struct blob_op op = {.done = blob_done};

	blob_remove(blobs, test_loop, &op, name);
	return finish(&op);
}

static unsigned temporaries(void)
{
	char path[128];
	struct dirent *e;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/.tmp", folder);
	dir = opendir(path);
	assert_non_null(dir);
	while ((e = readdir(dir)))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* B1, B2: what is put is there, whole; a second put changes nothing. */
static void put_makes_and_never_replaces(void **state)
{
	char buf[16] = "";

	(void)state;
	assert_int_equal(put("packs/a/b", "hello"), 0);
	assert_int_equal(put("packs/a/b", "other"), -EEXIST);
	assert_int_equal(get("packs/a/b", buf, 0, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(get("packs/a/b", buf, 3, 10), 2);
	assert_memory_equal(buf, "lo", 2);
	assert_int_equal(get("packs/a/b", buf, 7, 10), 0);
	assert_int_equal(get("packs/a/c", buf, 0, 10), -ENOENT);
	assert_int_equal(temporaries(), 0);
	assert_int_equal(drop("packs/a/b"), 0);
	assert_int_equal(drop("packs/a/b"), 0);
	assert_int_equal(get("packs/a/b", buf, 0, 10), -ENOENT);
	/* Its folders went with it, and come again. */
	assert_int_equal(put("packs/a/b", "again"), 0);
}

/* B3 */
static void swap_acts_on_what_is_expected(void **state)
{
	char buf[16];

	(void)state;
	assert_int_equal(swap("lease/sweep", "x", "y"), -ESTALE);
	assert_int_equal(swap("lease/sweep", NULL, "one"), 0);
	assert_int_equal(swap("lease/sweep", NULL, "two"), -ESTALE);
	assert_int_equal(swap("lease/sweep", "on", "two"), -ESTALE);
	assert_int_equal(swap("lease/sweep", "ones", "two"), -ESTALE);
	assert_int_equal(swap("lease/sweep", "one", "two"), 0);
	assert_int_equal(get("lease/sweep", buf, 0, sizeof(buf)), 3);
	assert_memory_equal(buf, "two", 3);
	assert_int_equal(swap("lease/sweep", "two", NULL), 0);
	assert_int_equal(get("lease/sweep", buf, 0, sizeof(buf)), -ENOENT);
	assert_int_equal(temporaries(), 0);
}

#define RACERS 16

static unsigned n_racing, n_won;

static void raced(struct blob_op *op)
{
	n_won += op->result == 0;
	assert_true(op->result == 0 || op->result == -ESTALE);
	if (--n_racing == 0)
		io_loop_stop(test_loop);
}

/* Of many that swap at a time, one wins. */
static void one_of_many_swaps_wins(void **state)
{
	struct blob_op ops[RACERS];
	char wanted[RACERS][8];

	(void)state;
	n_racing = RACERS;
	n_won = 0;
	for (int i = 0; i < RACERS; i++) {
		ops[i] = (struct blob_op){.done = raced};
		snprintf(wanted[i], sizeof(wanted[i]), "no %d", i);
		blob_swap(blobs, test_loop, &ops[i], "lease/sweep", NULL, 0, wanted[i],
			  strlen(wanted[i]));
	}
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(n_won, 1);
}

/* B4: in the order of strcmp, page by page, by prefix, with sizes. */
static void lists_come_in_order(void **state)
{
	static const char *const names[] = {
	    "packs/a-b/1", "packs/a/1", "packs/a/2-copy", "packs/a/2/3", "packs/b", "packs/c/d/e",
	};
	struct blob_entry entries[4];
	char after[BLOB_NAME_MAX] = "";
	unsigned n = 0;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		assert_int_equal(put(names[(i * 5 + 2) % ARRAY_SIZE(names)], "hello"), 0);
	assert_int_equal(put("other/x", "hello"), 0);
	for (;;) {
		struct blob_op op = {.done = blob_done};
		int64_t got;

		blob_list(blobs, test_loop, &op, "packs/", after, entries, 4);
		got = finish(&op);
		assert_true(got >= 0);
		if (got == 0)
			break;
		for (int64_t i = 0; i < got; i++, n++) {
			assert_string_equal(entries[i].name, names[n]);
			assert_int_equal(entries[i].size, 5);
			assert_true(entries[i].stored > 0 && entries[i].modified > 0);
		}
		memcpy(after, entries[got - 1].name, BLOB_NAME_MAX);
	}
	assert_int_equal(n, ARRAY_SIZE(names));
}

/* What a writer that died long ago left half written is removed, what is new stays. */
static void old_temporaries_go(void **state)
{
	struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	struct blobs *again;
	char path[128];
	struct err err;

	(void)state;
	for (int i = 0; i < 2; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/.tmp/left-%d", folder, i);
		fd = open(path, O_CREAT | O_WRONLY, 0600);
		assert_true(fd >= 0);
		close(fd);
	}
	assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
	assert_int_equal(blobs_dir_open(folder, false, &again, &err), 0);
	assert_int_equal(temporaries(), 1);
	blobs_close(again);
}

static void a_missing_directory_is_named(void **state)
{
	struct blobs *none;
	struct err err;

	(void)state;
	assert_int_equal(blobs_dir_open("/nonexistent/x", false, &none, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/x"));
	assert_int_equal(blobs_dir_open("/nonexistent/x", true, &none, &err), -ENOENT);
}

/* ---- A repository, on threads -----------------------------------------------------------------
 */

#define N_BLOCKS 48

static struct repository *repository;

static void opened(struct repository_op *op)
{
	assert_int_equal(op->error, 0);
	repository = op->repository;
	io_loop_stop(test_loop);
}

static struct snap_writer *writer;

static void wrote(struct snap_writer_op *op)
{
	if (op->error)
		fail_msg("%s", op->err.text);
	writer = op->writer;
	io_loop_stop(test_loop);
}

static void put_done(struct snap_put *p)
{
	assert_int_equal(p->error, 0);
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

static struct snap_reader *reader;

static void reader_opened(struct snap_reader_op *op)
{
	assert_int_equal(op->error, 0);
	reader = op->reader;
	io_loop_stop(test_loop);
}

static void read_done(struct snap_read *r)
{
	if (r->error)
		fail_msg("%s", r->err.text);
	if (--test_pending == 0)
		io_loop_stop(test_loop);
}

static void fill(uint8_t *buf, uint32_t block)
{
	uint64_t x = block;

	for (uint32_t i = 0; i < SNAP_BLOCK / 8; i++) {
		uint64_t v = block % 2 ? hash_u64(x += 0x9e3779b97f4a7c15) : block * 1000 + i / 64;

		memcpy(buf + (size_t)i * 8, &v, 8);
	}
}

/* Many puts at a time, then many reads, of a snapshot on a real directory. */
static void a_repository_in_a_directory(void **state)
{
	static struct repository_op op;
	static struct snap_writer_op writer_op;
	static struct snap_put puts[N_BLOCKS];
	static struct snap_read reads[N_BLOCKS];
	static struct snap_reader_op reader_op;
	struct snap_writer_config config = {
	    .id = {1, 2}, .size = N_BLOCKS * (uint64_t)SNAP_BLOCK, .pack_blocks = 8};
	struct snap_reader_config reader_config = {.id = {1, 2}};
	uint8_t *bytes = mem_alloc_pages(N_BLOCKS * (size_t)SNAP_BLOCK);
	uint8_t *want = mem_alloc_pages(SNAP_BLOCK);

	(void)state;
	op.done = opened;
	repository_open(blobs, test_loop, true, &op);
	blobs = NULL; /* the repository's now */
	assert_int_equal(io_loop_run(test_loop), 0);
	writer_op.done = wrote;
	snap_writer_start(repository, test_loop, &config, &writer_op);
	assert_int_equal(io_loop_run(test_loop), 0);
	test_pending = N_BLOCKS;
	for (uint32_t i = 0; i < N_BLOCKS; i++) {
		fill(bytes + (size_t)i * SNAP_BLOCK, i);
		puts[i] = (struct snap_put){
		    .done = put_done, .block = i, .buf = bytes + (size_t)i * SNAP_BLOCK};
		snap_writer_put(writer, &puts[i]);
	}
	assert_int_equal(io_loop_run(test_loop), 0);
	snap_writer_seal(writer, &writer_op);
	assert_int_equal(io_loop_run(test_loop), 0);
	reader_op.done = reader_opened;
	snap_reader_open(repository, test_loop, &reader_config, &reader_op);
	assert_int_equal(io_loop_run(test_loop), 0);
	assert_int_equal(snap_reader_info(reader)->blocks, N_BLOCKS);
	memset(bytes, 0xee, N_BLOCKS * (size_t)SNAP_BLOCK);
	test_pending = N_BLOCKS;
	for (uint32_t i = 0; i < N_BLOCKS; i++) {
		reads[i].done = read_done;
		snap_read(reader, &reads[i], bytes + (size_t)i * SNAP_BLOCK,
			  i * (uint64_t)SNAP_BLOCK, SNAP_BLOCK);
	}
	assert_int_equal(io_loop_run(test_loop), 0);
	for (uint32_t i = 0; i < N_BLOCKS; i++) {
		fill(want, i);
		assert_memory_equal(bytes + (size_t)i * SNAP_BLOCK, want, SNAP_BLOCK);
	}
	snap_reader_close(reader);
	repository_close(repository);
	mem_free_pages(bytes, N_BLOCKS * (size_t)SNAP_BLOCK);
	mem_free_pages(want, SNAP_BLOCK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(put_makes_and_never_replaces), TEST(swap_acts_on_what_is_expected),
	    TEST(one_of_many_swaps_wins),       TEST(lists_come_in_order),
	    TEST(old_temporaries_go),           TEST(a_missing_directory_is_named),
	    TEST(a_repository_in_a_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
