/* SPDX-License-Identifier: Apache-2.0
 *
 * Files on the real machine.
 */
#include "tests/unit/test_io_common.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BUF_SIZE 65536
#define BLOCK    4096

static char dir[] = "/tmp/test-io-file-XXXXXX";
static char path[64];
static struct io_file *file;
static uint8_t *out;
static uint8_t *in;

static int group_setup(void **state)
{
	(void)state;
	out = mem_alloc_pages(BUF_SIZE);
	in = mem_alloc_pages(BUF_SIZE);
	if (!mkdtemp(dir) || !out || !in)
		return -1;
	snprintf(path, sizeof(path), "%s/data", dir);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	mem_free_pages(out, BUF_SIZE);
	mem_free_pages(in, BUF_SIZE);
	return rmdir(dir);
}

static void fill(uint8_t seed)
{
	for (size_t i = 0; i < BUF_SIZE; i++)
		out[i] = (uint8_t)(seed + i + i / 256);
	memset(in, 0xee, BUF_SIZE);
}

static int setup(void **state)
{
	struct err err;

	if (test_loop_setup(state) < 0)
		return -1;
	fill(1);
	return io_file_open(path, IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE, &file, &err);
}

static int teardown(void **state)
{
	io_file_close(file);
	unlink(path);
	return test_loop_teardown(state);
}

static int64_t write_all(size_t len, uint64_t offset)
{
	struct test_op t;

	io_write(test_loop, test_op(&t), file, out, len, offset);
	return test_result(&t);
}

static int64_t read_all(size_t len, uint64_t offset)
{
	struct test_op t;

	io_read(test_loop, test_op(&t), file, in, len, offset);
	return test_result(&t);
}

static uint64_t size_now(void)
{
	struct io_file_info info;

	io_file_info(file, &info);
	return info.size;
}

/* What was written is read back, and the file has grown to hold it. */
static void write_read_round_trip(void **state)
{
	(void)state;
	assert_int_equal(write_all(BUF_SIZE, BLOCK), BUF_SIZE);
	assert_int_equal(read_all(BUF_SIZE, BLOCK), BUF_SIZE);
	assert_memory_equal(in, out, BUF_SIZE);
	assert_int_equal(size_now(), BUF_SIZE + BLOCK);
	assert_int_equal(read_all(BLOCK, 0), BLOCK);
	for (int i = 0; i < BLOCK; i++)
		assert_int_equal(in[i], 0);
}

/* Vectors of any number of parts carry the bytes in order: also more than one system call takes. */
static void writev_readv_round_trip(void **state)
{
	enum { N = 3000 };
	struct iovec *iov = mem_calloc(N, sizeof(*iov));
	uint8_t *many = mem_alloc_pages(N * BLOCK);
	struct test_op t;

	(void)state;
	for (int i = 0; i < N; i++) {
		memset(many + (size_t)i * BLOCK, i % 251 + 1, BLOCK);
		iov[i] = (struct iovec){many + (size_t)i * BLOCK, BLOCK};
	}
	io_writev(test_loop, test_op(&t), file, iov, N, 0);
	assert_int_equal(test_result(&t), N * BLOCK);
	memset(many, 0, N * BLOCK);
	for (int i = 0; i < N; i++)
		iov[i] = (struct iovec){many + (size_t)i * BLOCK, BLOCK};
	io_readv(test_loop, test_op(&t), file, iov, N, 0);
	assert_int_equal(test_result(&t), N * BLOCK);
	for (int i = 0; i < N; i++) {
		assert_int_equal(many[(size_t)i * BLOCK], i % 251 + 1);
		assert_int_equal(many[(size_t)i * BLOCK + BLOCK - 1], i % 251 + 1);
	}
	mem_free_pages(many, N * BLOCK);
	mem_free(iov);
}

/* A read that reaches past the end of the file is -EIO: short reads are never passed on. */
static void read_past_end_is_eio(void **state)
{
	(void)state;
	assert_int_equal(write_all(2 * BLOCK, 0), 2 * BLOCK);
	assert_int_equal(read_all(4 * BLOCK, 0), -EIO);
	assert_int_equal(read_all(BLOCK, 2 * BLOCK), -EIO);
	assert_int_equal(read_all(BLOCK, 100 * BLOCK), -EIO);
	assert_int_equal(read_all(2 * BLOCK, 0), 2 * BLOCK);
}

/* The same where the end of the file is not at a multiple of the alignment. */
static void read_past_odd_end_is_eio(void **state)
{
	(void)state;
	assert_int_equal(write_all(2 * BLOCK, 0), 2 * BLOCK);
	assert_int_equal(truncate(path, BLOCK + 100), 0);
	assert_int_equal(read_all(2 * BLOCK, 0), -EIO);
	assert_int_equal(read_all(BLOCK, BLOCK), -EIO);
	assert_int_equal(read_all(BLOCK, 0), BLOCK);
}

/* Nothing to move is a result like any other. */
static void zero_length_completes(void **state)
{
	(void)state;
	assert_int_equal(write_all(0, 0), 0);
	assert_int_equal(read_all(0, 0), 0);
}

/* A sync completes with 0, on an empty file as well. */
static void sync_completes(void **state)
{
	struct test_op t;

	(void)state;
	io_sync(test_loop, test_op(&t), file);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(write_all(BLOCK, 0), BLOCK);
	io_sync(test_loop, test_op(&t), file);
	assert_int_equal(test_result(&t), 0);
}

/* Growing never shrinks, never harms what is there, and the new bytes are zeroes. */
static void grow_keeps_and_zeroes(void **state)
{
	struct test_op t;

	(void)state;
	assert_int_equal(write_all(BLOCK, 0), BLOCK);
	io_grow(test_loop, test_op(&t), file, 16 * BLOCK);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(size_now(), 16 * BLOCK);
	assert_int_equal(read_all(16 * BLOCK, 0), 16 * BLOCK);
	assert_memory_equal(in, out, BLOCK);
	for (int i = BLOCK; i < 16 * BLOCK; i++)
		assert_int_equal(in[i], 0);
	io_grow(test_loop, test_op(&t), file, BLOCK);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(size_now(), 16 * BLOCK);
}

/* Many growths and writes beyond the end at once: the file ends where the furthest of them does,
 * and no written byte is cut off. */
static void grow_beside_writes_loses_nothing(void **state)
{
	enum { N = 64 };
	struct test_op grow[N], write[N];

	(void)state;
	for (uint64_t i = 0; i < N; i++) {
		io_write(test_loop, test_op(&write[i]), file, out, BLOCK, (2 * i + 1) * BLOCK);
		io_grow(test_loop, test_op(&grow[i]), file, (N - i) * BLOCK);
	}
	test_run();
	assert_int_equal(size_now(), 2 * N * BLOCK);
	for (uint64_t i = 0; i < N; i++) {
		assert_int_equal(grow[i].op.result, 0);
		assert_int_equal(write[i].op.result, BLOCK);
		assert_int_equal(read_all(BLOCK, (2 * i + 1) * BLOCK), BLOCK);
		assert_memory_equal(in, out, BLOCK);
	}
}

/* A punched range reads as zeroes, its neighbours and the size stay, and the space comes back. */
static void punch_frees_and_zeroes(void **state)
{
	struct stat before, after;
	struct test_op t;

	(void)state;
	assert_int_equal(write_all(16 * BLOCK, 0), 16 * BLOCK);
	io_sync(test_loop, test_op(&t), file);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(stat(path, &before), 0);
	io_punch(test_loop, test_op(&t), file, 4 * BLOCK, 8 * BLOCK);
	if (test_result(&t) == -EOPNOTSUPP)
		skip();
	assert_int_equal(t.op.result, 0);
	assert_int_equal(read_all(16 * BLOCK, 0), 16 * BLOCK);
	assert_memory_equal(in, out, 4 * BLOCK);
	for (int i = 4 * BLOCK; i < 12 * BLOCK; i++)
		assert_int_equal(in[i], 0);
	assert_memory_equal(in + 12 * BLOCK, out + 12 * BLOCK, 4 * BLOCK);
	assert_int_equal(size_now(), 16 * BLOCK);
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
}

/* A reserved range has its space, and changes neither bytes nor size. */
static void reserve_takes_space(void **state)
{
	struct stat before, after;
	struct test_op t;

	(void)state;
	assert_int_equal(write_all(BLOCK, 0), BLOCK);
	assert_int_equal(stat(path, &before), 0);
	io_reserve(test_loop, test_op(&t), file, 0, 64 * BLOCK);
	if (test_result(&t) == -EOPNOTSUPP)
		skip();
	assert_int_equal(t.op.result, 0);
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_blocks >= before.st_blocks + 62 * BLOCK / 512);
	assert_int_equal(size_now(), BLOCK);
	assert_int_equal(read_all(BLOCK, 0), BLOCK);
	assert_memory_equal(in, out, BLOCK);
}

/* More operations than the ring has entries, all started at once: each completes, once. */
static void more_ops_than_entries(void **state)
{
	enum { N = 5000 };
	struct test_op *ops = mem_calloc(N, sizeof(*ops));

	test_loop_teardown(state);
	assert_int_equal(test_loop_setup_entries(8), 0);
	assert_int_equal(write_all(BUF_SIZE, 0), BUF_SIZE);
	for (int i = 0; i < N; i++)
		io_read(test_loop, test_op(&ops[i]), file, in, BLOCK, (uint64_t)(i % 16) * BLOCK);
	test_run();
	for (int i = 0; i < N; i++) {
		assert_int_equal(ops[i].op.result, BLOCK);
		assert_int_equal(ops[i].n_done, 1);
	}
	mem_free(ops);
}

/* What was opened exclusively is refused to another open in this process, and to another process;
 * reading only is allowed, and so is all once it is closed. */
static void exclusive_refuses_others(void **state)
{
	struct io_file *other = NULL;
	struct err err;
	int status;
	pid_t child;

	(void)state;
	assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &other, &err), -EBUSY);
	assert_non_null(strstr(err.text, path));
	child = fork();
	if (child == 0)
		_exit(io_file_open(path, IO_OPEN_EXCLUSIVE, &other, &err) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(io_file_open(path, IO_OPEN_READ_ONLY, &other, &err), 0);
	io_file_close(other);
	io_file_close(file);
	assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &file, &err), 0);
}

static void write_again(struct io_op *op)
{
	io_write(test_loop, op, file, out, BUF_SIZE, op->offset);
}

/* This program run with the argument "hold": holds the file, and writes to it until it is killed.
 * Its standard output tells when it has begun. */
static int holder_main(const char *held_path)
{
	static struct io_op ops[64];
	struct err err;

	out = mem_alloc_pages(BUF_SIZE);
	if (test_loop_setup(NULL) < 0 ||
	    io_file_open(held_path, IO_OPEN_EXCLUSIVE, &file, &err) < 0)
		return 1;
	for (uint64_t i = 0; i < ARRAY_SIZE(ops); i++) {
		ops[i].done = write_again;
		io_write(test_loop, &ops[i], file, out, BUF_SIZE, i * BUF_SIZE);
	}
	if (io_loop_start(test_loop, &err) < 0 || write(STDOUT_FILENO, "x", 1) != 1)
		return 1;
	for (;;)
		pause();
}

/* The lock of a process that was killed with I/O in flight does not outlive it for long enough to
 * be noticed: whoever restarts it need not try twice. */
static void exclusive_is_free_after_kill(void **state)
{
	struct err err;

	(void)state;
	for (int i = 0; i < 5; i++) {
		int ready[2], status;
		char byte;
		pid_t holder;

		io_file_close(file);
		file = NULL;
		assert_int_equal(pipe(ready), 0);
		holder = fork();
		if (holder == 0) {
			dup2(ready[1], STDOUT_FILENO);
			execl("/proc/self/exe", "test_io_file", "hold", path, (char *)NULL);
			_exit(1);
		}
		close(ready[1]);
		assert_int_equal(read(ready[0], &byte, 1), 1);
		close(ready[0]);
		usleep(20000);
		kill(holder, SIGKILL);
		assert_int_equal(waitpid(holder, &status, 0), holder);
		assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &file, &err), 0);
	}
}

/* What can't be opened is refused with a text that names it. */
static void open_refuses_what_is_no_file(void **state)
{
	struct io_file *other = NULL;
	char missing[80];
	struct err err;

	(void)state;
	snprintf(missing, sizeof(missing), "%s/missing", dir);
	assert_int_equal(io_file_open(missing, 0, &other, &err), -ENOENT);
	assert_non_null(strstr(err.text, missing));
	assert_int_equal(io_file_open(dir, 0, &other, &err), -EINVAL);
	assert_non_null(strstr(err.text, dir));
	assert_int_equal(io_file_open("/dev/null", 0, &other, &err), -EINVAL);
	assert_null(other);
}

/* What is opened for reading only can't be written. */
static void read_only_refuses_writes(void **state)
{
	struct test_op t;
	struct err err;

	(void)state;
	assert_int_equal(write_all(BLOCK, 0), BLOCK);
	io_file_close(file);
	assert_int_equal(io_file_open(path, IO_OPEN_READ_ONLY, &file, &err), 0);
	assert_int_equal(read_all(BLOCK, 0), BLOCK);
	io_write(test_loop, test_op(&t), file, out, BLOCK, 0);
	assert_int_equal(test_result(&t), -EBADF);
}

/* What the daemon is told about a file: an alignment that holds, and its size. */
static void info_tells_the_truth(void **state)
{
	struct io_file_info info;

	(void)state;
	io_file_info(file, &info);
	assert_true(info.alignment == 512 || info.alignment == 4096);
	assert_false(info.is_device);
	assert_int_equal(info.size, 0);
	assert_int_equal(write_all(info.alignment, 3 * info.alignment), info.alignment);
	assert_int_equal(size_now(), 4 * info.alignment);
	assert_int_equal(read_all(info.alignment, 3 * info.alignment), info.alignment);
}

/* A file system without direct I/O serves all the same, and says so. */
static void direct_falls_back(void **state)
{
	struct io_file_info info;
	char mount_path[64];
	struct err err;

	(void)state;
	snprintf(mount_path, sizeof(mount_path), "%s/ramfs", dir);
	assert_int_equal(mkdir(mount_path, 0700), 0);
	if (mount("none", mount_path, "ramfs", 0, NULL) < 0) {
		rmdir(mount_path);
		skip();
	}
	io_file_close(file);
	unlink(path);
	snprintf(path, sizeof(path), "%s/ramfs/data", dir);
	assert_int_equal(io_file_open(path, IO_OPEN_CREATE, &file, &err), 0);
	io_file_info(file, &info);
	assert_false(info.direct);
	assert_int_equal(info.alignment, 4096);
	assert_int_equal(write_all(BUF_SIZE, 0), BUF_SIZE);
	assert_int_equal(read_all(BUF_SIZE, 0), BUF_SIZE);
	assert_memory_equal(in, out, BUF_SIZE);
	assert_int_equal(read_all(BLOCK, BUF_SIZE), -EIO);
	io_file_close(file);
	file = NULL;
	assert_int_equal(umount(mount_path), 0);
	assert_int_equal(rmdir(mount_path), 0);
	snprintf(path, sizeof(path), "%s/data", dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    TEST(write_read_round_trip),
	    TEST(writev_readv_round_trip),
	    TEST(read_past_end_is_eio),
	    TEST(read_past_odd_end_is_eio),
	    TEST(zero_length_completes),
	    TEST(sync_completes),
	    TEST(grow_keeps_and_zeroes),
	    TEST(grow_beside_writes_loses_nothing),
	    TEST(reserve_takes_space),
	    TEST(punch_frees_and_zeroes),
	    TEST(more_ops_than_entries),
	    TEST(exclusive_refuses_others),
	    TEST(exclusive_is_free_after_kill),
	    TEST(open_refuses_what_is_no_file),
	    TEST(read_only_refuses_writes),
	    TEST(info_tells_the_truth),
	    TEST(direct_falls_back),
	};

	if (argc == 3 && strcmp(argv[1], "hold") == 0)
		return holder_main(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
