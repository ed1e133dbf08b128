/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of a store on a real file share: a store in a directory that is gone afterwards,
 * calls that wait for their answers, and a way to the file behind the store's back.
 */
#ifndef TESTS_UNIT_TEST_STORE_COMMON_H
#define TESTS_UNIT_TEST_STORE_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/util.h"
#include "store/format.h"
#include "store/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENT (4 * MiB)
#define NAME    ((struct id){.hi = 5, .lo = 6})
#define VOLUME  ((struct id){.hi = 1, .lo = 2})
#define OTHER   ((struct id){.hi = 1, .lo = 3})

/* With a fresh directory around it. */
#define STORE_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static char dir[64];
static char path[96];
static struct io_loop *loop;
static struct store *store;
static struct store_open opening;
static struct store_ctl ctl;
static struct store_io sio;
static uint8_t *buffer; /* 1 MiB, page-aligned */
static char said[8][200];
static unsigned n_said;

static inline struct io_loop *make_loop(const char *name)
{
	struct io_loop_config config = {.name = name, .cpu = -1};
	struct io_loop *made = NULL;
	struct err err;

	assert_int_equal(io_loop_new(&config, &made, &err), 0);
	return made;
}

static inline int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test_store.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/store", dir);
	loop = make_loop("test");
	buffer = mem_alloc_pages(1 * MiB);
	return buffer ? 0 : -1;
}

static inline int tear_down(void **state)
{
	(void)state;
	io_loop_free(loop);
	mem_free_pages(buffer, 1 * MiB);
	unlink(path);
	return rmdir(dir);
}

static inline void run(void)
{
	assert_int_equal(io_loop_run(loop), 0);
}

static inline void open_done(struct store_open *open)
{
	(void)open;
	io_loop_stop(loop);
}

/* Returns the error's code; the store is set if it is 0. */
static inline int open_with(struct store_local_config config)
{
	config.path = path;
	config.segment_size = config.segment_size ? config.segment_size : SEGMENT;
	opening = (struct store_open){.loop = loop, .config = config, .done = open_done};
	store_local_open(&opening);
	run();
	if (opening.err.code == 0)
		store = opening.store;
	return opening.err.code;
}

static inline void open_store(void)
{
	int r = open_with((struct store_local_config){.create = true});

	if (r)
		fail_msg("%s", opening.err.text);
}

static inline void ctl_done(struct store_ctl *c)
{
	(void)c;
	io_loop_stop(loop);
}

static inline int call(void (*op)(struct store *store, struct store_ctl *ctl))
{
	ctl.loop = loop;
	ctl.done = ctl_done;
	op(store, &ctl);
	run();
	return ctl.error;
}

static inline void close_store(void)
{
	assert_int_equal(call(store->ops->close), 0);
	store = NULL;
}

static inline void reopen(void)
{
	close_store();
	open_store();
}

static inline int lend(struct id volume, uint32_t n)
{
	ctl.volume = volume;
	ctl.incarnation = 9;
	ctl.stream = STORE_STREAM_MAP;
	ctl.n = n;
	return call(store->ops->lend);
}

static inline int free_one(struct id volume, struct store_segment segment)
{
	ctl.volume = volume;
	ctl.n = 1;
	ctl.segments[0] = segment;
	return call(store->ops->free);
}

static inline unsigned list(struct id volume)
{
	ctl.volume = volume;
	ctl.private[0] = 0;
	assert_int_equal(call(store->ops->list), 0);
	return ctl.n;
}

static inline int get(struct id name)
{
	ctl.volume = name;
	return call(store->ops->object_get);
}

static inline int swap(struct id name, uint64_t version, const char *text)
{
	ctl.volume = name;
	ctl.version = version;
	ctl.length = (uint32_t)strlen(text);
	memcpy(ctl.data, text, ctl.length);
	return call(store->ops->object_swap);
}

static inline void assert_object(struct id name, uint64_t version, const char *text)
{
	assert_int_equal(get(name), 0);
	assert_true(ctl.version == version);
	assert_int_equal(ctl.length, strlen(text));
	assert_memory_equal(ctl.data, text, ctl.length);
}

static inline void io_done(struct store_io *io)
{
	(void)io;
	io_loop_stop(loop);
}

static inline int64_t append(uint64_t segment, uint32_t offset, uint8_t fill, size_t len)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = len};

	memset(buffer, fill, len);
	sio.done = io_done;
	store_append(store, loop, &sio, segment, offset, &iov, 1);
	run();
	return sio.result;
}

static inline int64_t read_back(uint64_t segment, uint32_t offset, size_t len)
{
	memset(buffer, 0xee, len);
	sio.done = io_done;
	store_read(store, loop, &sio, segment, offset, buffer, (uint32_t)len);
	run();
	return sio.result;
}

static inline int64_t sync_store(void)
{
	sio.done = io_done;
	store_sync(store, loop, &sio);
	run();
	return sio.result;
}

static inline void say(void *arg, const char *text)
{
	(void)arg;
	if (n_said < ARRAY_SIZE(said))
		snprintf(said[n_said], sizeof(said[0]), "%s", text);
	n_said++;
}

static inline unsigned check(void)
{
	n_said = 0;
	return store_local_check(store, say, NULL);
}

/* The file behind the store's back. */
static inline void file_write(uint64_t offset, const void *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)offset), len);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static inline void file_read(uint64_t offset, void *bytes, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, bytes, len, (off_t)offset), len);
	close(fd);
}

static inline void file_flip(uint64_t offset)
{
	uint8_t byte;

	file_read(offset, &byte, 1);
	byte ^= 0x10;
	file_write(offset, &byte, 1);
}

static inline uint64_t file_size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static inline uint64_t file_used(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

#endif
