/* SPDX-License-Identifier: Apache-2.0
 *
 * What a snapshot costs the clients of a busy volume: random 4-KiB writes, 32 in flight, on a
 * volume whose checkpoints run nearly all the time. In every other second a snapshot is cut; its
 * latency, and the clients' in these seconds and in the others, are told.
 *
 * Usage: cutload FILE [SECONDS]. FILE is made, and must not exist.
 */
#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"
#include "bench/hist.h"
#include "engine/engine.h"
#include "store/local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH  32
#define SIZE   (8 * GiB)
#define BLOCKS (SIZE / 4096)

struct client {
	struct block_req req;
	uint64_t began;
	uint8_t *page;
};

static struct io_loop *loop;
static struct engine *engine;
static struct volume *volume;
static struct store_open opening;
static struct volume_op op;
static struct volume_op snapshot;
static struct client clients[DEPTH];
static struct hist writes[2]; /* without and with a cut in that second */
static struct hist cuts;
static struct io_op second;
static uint64_t cut_began;
static unsigned now_at;
static unsigned seconds;
static uint64_t chance = 88172645463325252;

/* ---- Clients ----------------------------------------------------------------------------------
 */

static void client_next(struct client *c)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	c->req.offset = chance % BLOCKS * 4096;
	c->began = io_now(loop);
	block_submit(volume_dev(volume), &c->req);
}

static void on_write(struct block_req *req)
{
	struct client *c = container_of(req, struct client, req);

	CHECK(req->error == 0);
	/* The first second warms up. */
	if (now_at > 0)
		hist_add(&writes[now_at % 2], io_now(loop) - c->began);
	if (now_at < seconds)
		client_next(c);
}

static void clients_start(void)
{
	for (int i = 0; i < DEPTH; i++) {
		clients[i].page = mem_alloc_pages(4096);
		CHECK(clients[i].page);
		memset(clients[i].page, i + 1, 4096);
		clients[i].req = (struct block_req){
		    .op = BLOCK_WRITE, .length = 4096, .buf = clients[i].page, .done = on_write};
		client_next(&clients[i]);
	}
}

/* ---- Snapshots, and the end -------------------------------------------------------------------
 */

static void report(void)
{
	const double ms = 1e6;

	printf("cuts: %llu, median %.2f ms, longest %.2f ms\n", (unsigned long long)cuts.count,
	       (double)hist_quantile(&cuts, 0.5) / ms, (double)cuts.max / ms);
	for (int i = 0; i < 2; i++)
		printf("writes in seconds %s a cut: %llu, median %.3f ms, p99 %.3f ms, "
		       "longest %.2f ms\n",
		       i ? "with" : "without", (unsigned long long)writes[i].count,
		       (double)hist_quantile(&writes[i], 0.5) / ms,
		       (double)hist_quantile(&writes[i], 0.99) / ms, (double)writes[i].max / ms);
	printf("p99 with / without: %.2f\n",
	       (double)hist_quantile(&writes[1], 0.99) / (double)hist_quantile(&writes[0], 0.99));
}

static void on_unpinned(struct volume_op *done)
{
	CHECK(done->err.code == 0);
}

static void on_cut(struct volume_op *done)
{
	CHECK(done->err.code == 0);
	hist_add(&cuts, io_now(loop) - cut_began);
	done->done = on_unpinned;
	volume_unpin(done);
}

static void on_second(struct io_op *timer)
{
	struct volume_stats stats;

	now_at++;
	if (now_at == seconds) {
		report();
		volume_stats(volume, &stats);
		printf("checkpoints: %llu\n", (unsigned long long)stats.checkpoints);
		io_loop_stop(loop);
		return;
	}
	if (now_at % 2) {
		snapshot = (struct volume_op){
		    .volume = volume, .snapshot = {.hi = 1, .lo = now_at}, .done = on_cut};
		cut_began = io_now(loop);
		volume_snapshot(&snapshot);
	}
	io_timer(loop, timer, NSEC_PER_SEC);
}

/* ---- The beginning ----------------------------------------------------------------------------
 */

static void on_open(struct volume_op *done)
{
	if (done->err.code)
		fprintf(stderr, "%s\n", done->err.text);
	CHECK(done->err.code == 0);
	volume = done->volume;
	clients_start();
	second.done = on_second;
	io_timer(loop, &second, NSEC_PER_SEC);
}

static void on_create(struct volume_op *done)
{
	CHECK(done->err.code == 0);
	done->done = on_open;
	volume_open(done);
}

static void on_store(struct store_open *done)
{
	struct engine_config config = {.checkpoint_log = 32 * MiB};
	struct err err;

	if (done->err.code)
		fprintf(stderr, "%s\n", done->err.text);
	CHECK(done->err.code == 0);
	CHECK(engine_new(loop, done->store, &config, &engine, &err) == 0);
	op = (struct volume_op){
	    .engine = engine, .id = {.hi = 1, .lo = 1}, .size = SIZE, .done = on_create};
	volume_create(&op);
}

int main(int argc, char **argv)
{
	struct io_loop_config config = {.name = "cutload", .cpu = -1};
	struct err err;

	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE [SECONDS]\n", argv[0]);
		return 2;
	}
	seconds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 20;
	CHECK(io_loop_new(&config, &loop, &err) == 0);
	opening.loop = loop;
	opening.config = (struct store_local_config){.path = argv[1], .create = true};
	opening.done = on_store;
	store_local_open(&opening);
	return io_loop_run(loop) == 0 ? 0 : 1;
}
