/* SPDX-License-Identifier: Apache-2.0
 *
 * Block devices on the real machine: a loop device over a temporary file. Skipped where none can
 * be made.
 */
#include "tests/unit/test_io_common.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define BLOCK       4096
#define DEVICE_SIZE (4 * MiB)

static char path[32]; /* of the device; empty: there is none */
static int device_fd = -1;
static int backing_fd = -1;
static struct io_file *file;
static uint8_t *buf;

/* Binds a free loop device to the backing file, until the last descriptor of it is closed. */
static void device_make(uint32_t sector)
{
	struct loop_config config = {
	    .fd = (uint32_t)backing_fd,
	    .block_size = sector,
	    .info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);

	if (control >= 0)
		close(control);
	path[0] = 0;
	if (number < 0)
		return;
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	device_fd = open(path, O_RDWR | O_CLOEXEC);
	if (device_fd < 0 || ioctl(device_fd, LOOP_CONFIGURE, &config) < 0)
		path[0] = 0;
}

static int setup_sector(void **state, uint32_t sector)
{
	char backing[] = "/tmp/test-io-device-XXXXXX";

	backing_fd = mkstemp(backing);
	buf = mem_alloc_pages(DEVICE_SIZE);
	if (backing_fd < 0 || !buf)
		return -1;
	unlink(backing);
	if (ftruncate(backing_fd, DEVICE_SIZE) < 0 || test_loop_setup(state) < 0)
		return -1;
	device_make(sector);
	return 0;
}

static int setup_512(void **state)
{
	return setup_sector(state, 512);
}

static int setup_4096(void **state)
{
	return setup_sector(state, 4096);
}

static int teardown(void **state)
{
	io_file_close(file);
	file = NULL;
	close(device_fd);
	close(backing_fd);
	device_fd = -1;
	mem_free_pages(buf, DEVICE_SIZE);
	return test_loop_teardown(state);
}

static void open_exclusively(void)
{
	struct err err;

	if (!path[0])
		skip();
	assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &file, &err), 0);
}

static void info_is(uint32_t alignment)
{
	struct io_file_info info;

	io_file_info(file, &info);
	assert_true(info.is_device);
	assert_int_equal(info.size, DEVICE_SIZE);
	assert_int_equal(info.alignment, alignment);
}

/* A device's size and sector are what the kernel says, and its last sector can be written. */
static void device_of_512(void **state)
{
	struct test_op t;

	(void)state;
	open_exclusively();
	info_is(512);
	io_write(test_loop, test_op(&t), file, buf, 512, DEVICE_SIZE - 512);
	assert_int_equal(test_result(&t), 512);
	io_sync(test_loop, test_op(&t), file);
	assert_int_equal(test_result(&t), 0);
}

static void device_of_4096(void **state)
{
	struct test_op t;

	(void)state;
	open_exclusively();
	info_is(4096);
	io_write(test_loop, test_op(&t), file, buf, BLOCK, DEVICE_SIZE - BLOCK);
	assert_int_equal(test_result(&t), BLOCK);
}

/* Past the end of a device, reads are -EIO and writes an error: it does not grow. */
static void device_does_not_grow(void **state)
{
	struct test_op t;

	(void)state;
	open_exclusively();
	io_read(test_loop, test_op(&t), file, buf, 2 * BLOCK, DEVICE_SIZE - BLOCK);
	assert_int_equal(test_result(&t), -EIO);
	io_write(test_loop, test_op(&t), file, buf, BLOCK, DEVICE_SIZE);
	assert_int_equal(test_result(&t), -ENOSPC);
	io_grow(test_loop, test_op(&t), file, DEVICE_SIZE);
	assert_int_equal(test_result(&t), 0);
	io_grow(test_loop, test_op(&t), file, DEVICE_SIZE + BLOCK);
	assert_int_equal(test_result(&t), -ENOSPC);
}

/* Discarding gives the space back to what is below, and leaves the neighbours alone. */
static void device_punch_discards(void **state)
{
	struct stat before, after;
	struct test_op t;

	(void)state;
	open_exclusively();
	memset(buf, 0xaa, DEVICE_SIZE);
	io_write(test_loop, test_op(&t), file, buf, DEVICE_SIZE, 0);
	assert_int_equal(test_result(&t), DEVICE_SIZE);
	io_sync(test_loop, test_op(&t), file);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(fstat(backing_fd, &before), 0);
	io_punch(test_loop, test_op(&t), file, MiB, MiB);
	if (test_result(&t) == -EOPNOTSUPP)
		skip();
	assert_int_equal(t.op.result, 0);
	assert_int_equal(fstat(backing_fd, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	io_read(test_loop, test_op(&t), file, buf, BLOCK, MiB - BLOCK);
	assert_int_equal(test_result(&t), BLOCK);
	for (int i = 0; i < BLOCK; i++)
		assert_int_equal(buf[i], 0xaa);
	io_read(test_loop, test_op(&t), file, buf, BLOCK, 2 * MiB);
	assert_int_equal(test_result(&t), BLOCK);
	for (int i = 0; i < BLOCK; i++)
		assert_int_equal(buf[i], 0xaa);
}

/* A device that is open exclusively is refused under every name that it has. */
static void device_exclusive_by_any_name(void **state)
{
	char alias[] = "/tmp/test-io-device-node-XXXXXX";
	struct io_file *other = NULL;
	struct stat st;
	struct err err;
	int ret;

	(void)state;
	open_exclusively();
	assert_int_equal(io_file_open(path, IO_OPEN_EXCLUSIVE, &other, &err), -EBUSY);
	assert_int_equal(stat(path, &st), 0);
	assert_non_null(mkdtemp(alias));
	assert_int_equal(rmdir(alias), 0);
	if (mknod(alias, S_IFBLK | 0600, st.st_rdev) < 0)
		skip();
	ret = io_file_open(alias, IO_OPEN_EXCLUSIVE, &other, &err);
	unlink(alias);
	if (ret == -EACCES) /* a mount without devices */
		skip();
	assert_int_equal(ret, -EBUSY);
}

#define TEST(name, setup) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(device_of_512, setup_512),
	    TEST(device_of_4096, setup_4096),
	    TEST(device_does_not_grow, setup_512),
	    TEST(device_punch_discards, setup_512),
	    TEST(device_exclusive_by_any_name, setup_512),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
