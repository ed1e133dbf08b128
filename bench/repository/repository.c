/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast is a snapshot repository in a directory? By turns, and then medians: cp and fsync of a
 * file that does not compress; an upload of the same bytes; reading it back; small cold reads
 * against direct reads of as many bytes as a frame has.
 *
 *   repository DIR MIB ROUNDS
 *
 * What it prints is a number a line, behind its name: MiB/s and microseconds.
 */
#include "base/mem.h"
#include "base/util.h"
#include "snapshots/blobs_dir.h"
#include "snapshots/format.h"
#include "snapshots/reader.h"
#include "snapshots/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEPTH       8
#define ROUNDS_MAX  15
#define SMALL_READS 300

static struct io_loop *loop;
static struct repository *repository;
static char path[4096];
static uint64_t n_blocks;
static int source;

static void check(int error, const char *what)
{
	if (!error)
		return;
	fprintf(stderr, "repository: %s: %s\n", what, strerror(abs(error)));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void run(void)
{
	check(io_loop_run(loop), "the loop");
}

/* ---- cp ----------------------------------------------------------------------------------------
 */

static void make_source(void)
{
	uint64_t *buf = mem_alloc_pages(SNAP_BLOCK), x = 1;

	snprintf(path + strlen(path), 16, "/source");
	source = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(source < 0 ? errno : 0, path);
	for (uint64_t b = 0; b < n_blocks; b++) {
		for (uint32_t i = 0; i < SNAP_BLOCK / 8; i++)
			buf[i] = hash_u64(x += 0x9e3779b97f4a7c15);
		if (write(source, buf, SNAP_BLOCK) != SNAP_BLOCK)
			check(errno, path);
	}
	fsync(source);
	*strrchr(path, '/') = '\0';
	mem_free_pages(buf, SNAP_BLOCK);
}

static double copy_file(void)
{
	char *buf = mem_alloc_pages(MiB);
	char name[4200];
	double start = now();
	int fd;

	snprintf(name, sizeof(name), "%s/copy", path);
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(fd < 0 ? errno : 0, name);
	for (uint64_t at = 0; at < n_blocks * SNAP_BLOCK;) {
		ssize_t n = pread(source, buf, MiB, (off_t)at);

		if (n <= 0 || write(fd, buf, (size_t)n) != n)
			check(errno, name);
		at += (uint64_t)n;
	}
	check(fsync(fd) < 0 ? errno : 0, name);
	start = now() - start;
	close(fd);
	unlink(name);
	mem_free_pages(buf, MiB);
	return start;
}

/* ---- Upload ------------------------------------------------------------------------------------
 */

struct carrier {
	struct snap_put put;
	struct snap_read read;
	uint8_t *buf;
};

static struct carrier carriers[DEPTH];
static struct snap_writer *writer;
static struct snap_reader *reader;
static struct snap_info info;
static uint64_t next_block;
static unsigned n_busy;

static void on_writer(struct snap_writer_op *op)
{
	check(op->error, op->err.text);
	writer = op->writer;
	io_loop_stop(loop);
}

static void put_next(struct snap_put *put)
{
	struct carrier *c = container_of(put, struct carrier, put);

	check(put->error, "put");
	if (next_block == n_blocks) {
		if (--n_busy == 0)
			io_loop_stop(loop);
		return;
	}
	put->block = next_block++;
	put->buf = c->buf;
	if (pread(source, c->buf, SNAP_BLOCK, (off_t)(put->block * SNAP_BLOCK)) != SNAP_BLOCK)
		check(EIO, "source");
	snap_writer_put(writer, put);
}

static double upload(unsigned n)
{
	struct snap_writer_config config = {.id = {1, n + 1}, .size = n_blocks * SNAP_BLOCK};
	struct snap_writer_op op = {.done = on_writer};
	double start = now();

	snap_writer_start(repository, loop, &config, &op);
	run();
	next_block = 0;
	n_busy = DEPTH;
	for (int i = 0; i < DEPTH; i++) {
		carriers[i].put.done = put_next;
		put_next(&carriers[i].put);
	}
	run();
	op.info = &info;
	snap_writer_seal(writer, &op);
	run();
	return now() - start;
}

/* ---- Reading -----------------------------------------------------------------------------------
 */

static void on_reader(struct snap_reader_op *op)
{
	check(op->error, op->err.text);
	reader = op->reader;
	io_loop_stop(loop);
}

static void open_reader(unsigned n)
{
	struct snap_reader_config config = {.id = {1, n + 1}};
	struct snap_reader_op op = {.done = on_reader};

	snap_reader_open(repository, loop, &config, &op);
	run();
}

static void read_next(struct snap_read *read)
{
	struct carrier *c = container_of(read, struct carrier, read);

	check(read->error, read->err.text);
	if (next_block == n_blocks) {
		if (--n_busy == 0)
			io_loop_stop(loop);
		return;
	}
	snap_read(reader, read, c->buf, next_block++ * SNAP_BLOCK, SNAP_BLOCK);
}

static double read_back(void)
{
	double start = now();

	next_block = 0;
	n_busy = DEPTH;
	for (int i = 0; i < DEPTH; i++) {
		carriers[i].read.done = read_next;
		read_next(&carriers[i].read);
	}
	run();
	return now() - start;
}

static void read_one(struct snap_read *read)
{
	check(read->error, read->err.text);
	io_loop_stop(loop);
}

/* Medians in us of a cold 4-KiB read, and of a direct read of a frame's 32 KiB. */
static void small_reads(double *ret_ours, double *ret_direct)
{
	static double ours[SMALL_READS], direct[SMALL_READS];
	char name[4200];
	int fd;

	snprintf(name, sizeof(name), "%s/source", path);
	fd = open(name, O_RDONLY | O_DIRECT);
	check(fd < 0 ? errno : 0, name);
	for (unsigned i = 0; i < SMALL_READS; i++) {
		uint64_t at = hash_u64(i + 1) % (n_blocks * FRAMES) * FRAME_SIZE;
		double start = now();

		if (pread(fd, carriers[0].buf, FRAME_SIZE, (off_t)at) != FRAME_SIZE)
			check(errno, name);
		direct[i] = now() - start;
		carriers[0].read.done = read_one;
		start = now();
		snap_read(reader, &carriers[0].read, carriers[0].buf, at + 4096, 4096);
		run();
		ours[i] = now() - start;
	}
	close(fd);
	*ret_ours = median(ours, SMALL_READS) * 1e6;
	*ret_direct = median(direct, SMALL_READS) * 1e6;
}

/* The packs' pages in memory are given up as they are written (blobs_dir.c); what read_back has
 * brought in is dropped here. */
static void drop_caches(void)
{
	struct snap_pack pack = {.snapshot = info.id, .attempt = info.attempt};
	char name[BLOB_NAME_MAX], file[4200];

	for (;; pack.number++) {
		int fd;

		snprintf(file, sizeof(file), "%s/repository/%s", path,
			 pack_name(&pack, false, name));
		fd = open(file, O_RDONLY);
		if (fd < 0)
			return;
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
	}
}

static void on_open(struct repository_op *op)
{
	check(op->error, op->err.text);
	repository = op->repository;
	io_loop_stop(loop);
}

int main(int argc, char **argv)
{
	double cp[ROUNDS_MAX], up[ROUNDS_MAX], back[ROUNDS_MAX], mib, ours = 0, direct = 0;
	unsigned rounds = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	struct io_loop_config config = {.name = "bench", .cpu = -1};
	struct repository_op op = {.done = on_open};
	struct blobs *blobs;
	char place[4200];
	struct err err;

	if (argc != 4 || rounds == 0 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: %s DIR MIB ROUNDS (1 to %d)\n", argv[0], ROUNDS_MAX);
		return 2;
	}
	mib = (double)strtoul(argv[2], NULL, 10);
	n_blocks = (uint64_t)mib * 2;
	snprintf(path, sizeof(path) - 16, "%s", argv[1]);
	check(io_loop_new(&config, &loop, &err), "loop");
	make_source();
	snprintf(place, sizeof(place), "%s/repository", path);
	if (blobs_dir_open(place, true, &blobs, &err) < 0)
		check(err.code, err.text);
	repository_open(blobs, loop, true, &op);
	run();
	for (int i = 0; i < DEPTH; i++)
		carriers[i].buf = mem_alloc_pages(SNAP_BLOCK);
	for (unsigned i = 0; i < rounds; i++) {
		cp[i] = copy_file();
		up[i] = upload(i);
		drop_caches();
		open_reader(i);
		back[i] = read_back();
		drop_caches();
		if (i == rounds - 1)
			small_reads(&ours, &direct);
		snap_reader_close(reader);
	}
	printf("cp %.1f\n", mib / median(cp, rounds));
	printf("upload %.1f\n", mib / median(up, rounds));
	printf("read_back %.1f\n", mib / median(back, rounds));
	printf("cold_read %.1f\n", ours);
	printf("direct_read %.1f\n", direct);
	repository_close(repository);
	io_loop_free(loop);
	return 0;
}
