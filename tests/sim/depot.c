/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/depot.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define STEPS_MAX UINT64_C(20000000)
#define PUTS      3 /* in flight */

void depot_init(struct depot *depot, uint64_t seed)
{
	memset(depot, 0, sizeof(*depot));
	depot->sim = sim_new(seed, NULL);
	depot->objects = blobs_sim_new(depot->sim);
	depot->writer.pack_blocks = 3;
	depot->writer.packs_in_flight = 2;
	depot->writer.leaves = 2;
}

void depot_init_second(struct depot *second, struct depot *first)
{
	memset(second, 0, sizeof(*second));
	second->sim = first->sim;
	second->objects = blobs_sim_new(first->sim);
	second->writer = first->writer;
	first->second = second;
}

void depot_free_second(struct depot *second)
{
	blobs_sim_free(second->objects);
}

void depot_free(struct depot *depot)
{
	blobs_sim_free(depot->objects);
	sim_free(depot->sim);
}

bool depot_wait(struct depot *depot, bool *flag)
{
	switch (sim_run_until(depot->sim, sim_flag_is_set, flag, STEPS_MAX)) {
	case SIM_DONE:
		return true;
	case SIM_DEAD:
		return false;
	case SIM_IDLE:
	case SIM_STEPS:
		sim_fail(depot->sim, "the world stands still");
	}
	return false;
}

/* ---- Lives ------------------------------------------------------------------------------------
 */

struct wait_op {
	struct repository_op op;
	bool done;
};

static void wait_done(struct repository_op *op)
{
	container_of(op, struct wait_op, op)->done = true;
}

bool depot_up(struct depot *depot)
{
	memset(depot->memory, 0, sizeof(depot->memory));
	for (unsigned i = 0; i < DEPOT_DAEMONS; i++) {
		struct wait_op *w = sim_alloc(sizeof(*w));
		bool alive;

		w->op.done = wait_done;
		CHECK(io_loop_new(NULL, &depot->loop[i], NULL) == 0);
		repository_open(blobs_sim_open(depot->objects), depot->loop[i], i == 0, &w->op);
		alive = depot_wait(depot, &w->done);
		if (alive && w->op.error)
			sim_fail(depot->sim, "open: %s", w->op.err.text);
		depot->repository[i] = w->op.repository;
		if (!alive)
			return false; /* w is in use for ever */
		sim_release(w);
	}
	return true;
}

void depot_reboot(struct depot *depot)
{
	sim_reboot(depot->sim);
	blobs_sim_settle(depot->objects);
	if (depot->second)
		blobs_sim_settle(depot->second->objects);
}

/* ---- Models -----------------------------------------------------------------------------------
 */

struct id depot_id(unsigned n)
{
	return (struct id){.hi = n % 16, .lo = hash_u64(n + 1)};
}

uint64_t depot_place(unsigned i)
{
	static const uint64_t places[DEPOT_PLACES] = {
	    0, 1, 2, 3, 510, 511, 512, 513, 1025, 262143, 262144, 300000, 2097150, 2097151,
	};

	return places[i];
}

void model_bytes(uint32_t seed, uint8_t *buf)
{
	uint64_t x = seed;

	if (seed <= SEED_ZERO) {
		memset(buf, 0, SNAP_BLOCK);
		return;
	}
	/* A third does not compress, a third does, the rest in part. */
	for (uint32_t i = 0; i < SNAP_BLOCK / 8; i++) {
		bool dull = seed % 3 == 1 || (seed % 3 == 2 && i / 8192 % 2);
		uint64_t v =
		    dull ? (uint64_t)seed << 32 | i / 512 : hash_u64(x += 0x9e3779b97f4a7c15);

		memcpy(buf + (size_t)i * 8, &v, 8);
	}
}

void model_change(struct depot *depot, struct model *model, unsigned n)
{
	while (n--) {
		uint32_t *seed = &model->seed[sim_below(depot->sim, DEPOT_PLACES)];
		uint64_t what = sim_below(depot->sim, 8);

		*seed = what == 0   ? SEED_ABSENT
			: what == 1 ? SEED_ZERO
				    : 2 + (uint32_t)sim_below(depot->sim, 1000000);
	}
}

/* ---- Uploads ----------------------------------------------------------------------------------
 */

static void upload_more(struct upload *u);

static void upload_ended(struct snap_writer_op *op)
{
	struct upload *u = container_of(op, struct upload, op);

	if (!u->error) { /* an abort succeeds after what a put has failed with */
		u->error = op->error;
		u->err = op->err;
	}
	u->writer = NULL;
	u->done = true;
}

static void upload_go_on(struct io_op *timer)
{
	struct upload *u = container_of(timer, struct upload, timer);

	u->pausing = false;
	upload_more(u);
}

static void put_done(struct snap_put *put)
{
	/* The array tells whose it is: puts[i] of an upload, i by the block. */
	struct upload *u = NULL;

	for (unsigned i = 0; i < DEPOT_PLACES; i++)
		if (depot_place(i) == put->block)
			u = container_of(put - i, struct upload, puts[0]);
	if (put->error && !u->error) {
		u->error = put->error;
		u->err.text[0] = '\0';
	}
	u->in_flight--;
	if (u->pausing)
		return;
	if (!u->pause) {
		upload_more(u);
		return;
	}
	u->pausing = true;
	u->timer.done = upload_go_on;
	io_timer(u->depot->loop[u->daemon], &u->timer, sim_below(u->depot->sim, u->pause));
}

static void upload_more(struct upload *u)
{
	for (; u->at < DEPOT_PLACES && u->in_flight < PUTS && !u->error; u->at++) {
		struct snap_put *put = &u->puts[u->at];
		uint32_t seed = u->to.seed[u->at];

		if (seed == u->from.seed[u->at])
			continue;
		*put = (struct snap_put){.done = put_done, .block = depot_place(u->at)};
		put->buf = u->buf[u->at];
		u->in_flight++;
		if (seed == SEED_ABSENT) {
			snap_writer_drop(u->writer, put);
		} else if (seed == SEED_ZERO && u->at % 2) {
			snap_writer_put_zero(u->writer, put);
		} else {
			model_bytes(seed, u->buf[u->at]);
			snap_writer_put(u->writer, put);
		}
	}
	if (u->in_flight > 0)
		return;
	snap_writer_stats(u->writer, &u->stats);
	u->op.done = upload_ended;
	u->op.info = &u->info;
	if (u->abort || u->error)
		snap_writer_abort(u->writer, !u->abort, &u->op);
	else
		snap_writer_seal(u->writer, &u->op);
}

static void upload_started(struct snap_writer_op *op)
{
	struct upload *u = container_of(op, struct upload, op);

	u->writer = op->writer;
	if (op->error)
		upload_ended(op);
	else
		upload_more(u);
}

void upload_start(struct upload *u, struct depot *depot, unsigned daemon, struct id id,
		  const struct id *parent, const struct model *from, const struct model *to)
{
	struct snap_writer_config config = depot->writer;

	memset(u, 0, sizeof(*u));
	u->depot = depot;
	u->daemon = daemon;
	u->id = id;
	u->to = *to;
	if (parent) {
		u->parent = *parent;
		u->from = *from;
	}
	for (unsigned i = 0; i < DEPOT_PLACES; i++)
		u->buf[i] = sim_alloc(SNAP_BLOCK);
	config.id = id;
	config.parent = u->parent;
	config.size = DEPOT_SIZE;
	u->op.done = upload_started;
	snap_writer_start(depot->repository[daemon], depot->loop[daemon], &config, &u->op);
}

void upload_free(struct upload *u)
{
	for (unsigned i = 0; i < DEPOT_PLACES; i++)
		sim_release(u->buf[i]);
}

bool depot_upload(struct depot *depot, unsigned daemon, struct id id, const struct id *parent,
		  const struct model *from, const struct model *to)
{
	struct upload *u = sim_alloc(sizeof(*u));
	bool alive;

	upload_start(u, depot, daemon, id, parent, from, to);
	alive = depot_wait(depot, &u->done);
	if (alive && u->error)
		sim_fail(depot->sim, "upload: %d %s", u->error, u->err.text);
	upload_free(u);
	sim_release(u);
	return alive;
}

/* ---- Single operations ------------------------------------------------------------------------
 */

bool depot_delete(struct depot *depot, unsigned daemon, struct id id)
{
	struct wait_op *w = sim_alloc(sizeof(*w));
	bool alive;

	w->op.done = wait_done;
	snap_delete(depot->repository[daemon], depot->loop[daemon], &w->op, id);
	alive = depot_wait(depot, &w->done);
	if (alive && w->op.error)
		sim_fail(depot->sim, "delete: %s", w->op.err.text);
	sim_release(w);
	return alive;
}

bool depot_get(struct depot *depot, unsigned daemon, struct id id, struct snap_info *info,
	       int *ret_error)
{
	struct wait_op *w = sim_alloc(sizeof(*w));
	bool alive;

	w->op.done = wait_done;
	snap_get(depot->repository[daemon], depot->loop[daemon], &w->op, id, info);
	alive = depot_wait(depot, &w->done);
	*ret_error = w->op.error;
	sim_release(w);
	return alive;
}

bool depot_hold(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		uint64_t ttl_ns, int *ret_error)
{
	struct wait_op *w = sim_alloc(sizeof(*w));
	bool alive;

	w->op.done = wait_done;
	snap_hold(depot->repository[daemon], depot->loop[daemon], &w->op, id, holder, ttl_ns, NULL);
	alive = depot_wait(depot, &w->done);
	*ret_error = w->op.error;
	sim_release(w);
	return alive;
}

bool depot_release(struct depot *depot, unsigned daemon, const char *holder)
{
	struct wait_op *w = sim_alloc(sizeof(*w));
	bool alive;

	w->op.done = wait_done;
	snap_release(depot->repository[daemon], depot->loop[daemon], &w->op, holder);
	alive = depot_wait(depot, &w->done);
	sim_release(w);
	return alive;
}

struct snap_sweep_config depot_sweep_config(void)
{
	return (struct snap_sweep_config){
	    .grace_ns = 1,
	    .margin_ns = 1,
	    .removes_per_second = 10000,
	};
}

static bool sweep_flag;

static void sweep_done(struct snap_sweep *sweep)
{
	(void)sweep;
	sweep_flag = true;
}

bool depot_sweep(struct depot *depot, unsigned daemon, struct snap_sweep *sweep)
{
	bool alive;

	sweep_flag = false;
	sweep->done = sweep_done;
	snap_sweep_start(depot->repository[daemon], depot->loop[daemon], &depot->memory[daemon],
			 sweep);
	alive = depot_wait(depot, &sweep_flag);
	return alive;
}

static bool slept;

static void sleep_done(struct io_op *timer)
{
	(void)timer;
	slept = true;
}

bool depot_sleep(struct depot *depot, uint64_t ns)
{
	struct io_op *timer = sim_alloc(sizeof(*timer));
	bool alive;

	slept = false;
	timer->done = sleep_done;
	io_timer(depot->loop[0], timer, ns);
	alive = depot_wait(depot, &slept);
	sim_release(timer);
	return alive;
}

bool depot_sweep_clean(struct depot *depot, unsigned daemon)
{
	for (int tries = 0;; tries++) {
		struct snap_sweep sweep = {.config = depot_sweep_config()};

		if (!depot_sweep(depot, daemon, &sweep))
			return false;
		snap_sweep_clear(&sweep);
		if (sweep.error == 0)
			return true;
		if (sweep.error != -EBUSY || tries == 3)
			sim_fail(depot->sim, "sweep: %d %s", sweep.error, sweep.err.text);
		if (!depot_sleep(depot, 61 * NSEC_PER_SEC))
			return false;
	}
}

bool depot_nothing_leaks(struct depot *depot, const struct id *ids, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!depot_delete(depot, 0, ids[i]))
			return false;
	if (!depot_sweep_clean(depot, 1))
		return false;
	for (uint64_t i = 0; i < blobs_sim_count(depot->objects, ""); i++) {
		const char *name = blobs_sim_name(depot->objects, "", i);

		if (strcmp(name, NAME_REPOSITORY) != 0 && strcmp(name, NAME_LEASE) != 0)
			sim_fail(depot->sim, "%s is left behind", name);
	}
	return true;
}

/* ---- Reading ----------------------------------------------------------------------------------
 */

struct wait_reader {
	struct snap_reader_op op;
	struct snap_read read;
	struct snap_walk walk;
	struct snap_block blocks[DEPOT_PLACES + 1];
	bool done;
};

static void reader_opened(struct snap_reader_op *op)
{
	container_of(op, struct wait_reader, op)->done = true;
}

static void read_ended(struct snap_read *read)
{
	container_of(read, struct wait_reader, read)->done = true;
}

static void walk_ended(struct snap_walk *walk)
{
	container_of(walk, struct wait_reader, walk)->done = true;
}

bool depot_open(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		struct snap_reader **ret_reader, int *ret_error)
{
	struct wait_reader *w = sim_alloc(sizeof(*w));
	struct snap_reader_config config = {.id = id, .holder = holder};
	bool alive;

	w->op.done = reader_opened;
	snap_reader_open(depot->repository[daemon], depot->loop[daemon], &config, &w->op);
	alive = depot_wait(depot, &w->done);
	*ret_reader = w->op.reader;
	*ret_error = w->op.error;
	sim_release(w);
	return alive;
}

bool depot_read(struct depot *depot, struct snap_reader *reader, void *buf, uint64_t offset,
		uint64_t len, int *ret_error, struct err *err)
{
	struct wait_reader *w = sim_alloc(sizeof(*w));
	bool alive;

	w->read.done = read_ended;
	snap_read(reader, &w->read, buf, offset, len);
	alive = depot_wait(depot, &w->done);
	*ret_error = w->read.error;
	if (err)
		*err = w->read.err;
	sim_release(w);
	return alive;
}

static bool verify_place(struct depot *depot, struct snap_reader *reader, uint64_t block,
			 uint32_t seed, uint8_t *buf, uint8_t *want)
{
	uint64_t at = sim_below(depot->sim, SNAP_BLOCK / 512) * 512;
	uint64_t len = 512 * (1 + sim_below(depot->sim, min_u64(SNAP_BLOCK - at, 70000) / 512));
	int error;

	model_bytes(seed, want);
	if (!depot_read(depot, reader, buf, block * SNAP_BLOCK, SNAP_BLOCK, &error, NULL))
		return false;
	if (error || memcmp(buf, want, SNAP_BLOCK) != 0)
		sim_fail(depot->sim, "block %llu: error %d, or not what was put (seed %u)",
			 (unsigned long long)block, error, seed);
	memset(buf, 0xee, SNAP_BLOCK);
	if (!depot_read(depot, reader, buf, block * SNAP_BLOCK + at, len, &error, NULL))
		return false;
	if (error || memcmp(buf, want + at, len) != 0)
		sim_fail(depot->sim, "a part of block %llu: error %d, or not what was put",
			 (unsigned long long)block, error);
	return true;
}

static bool verify_list(struct depot *depot, struct snap_reader *reader, const struct model *model)
{
	struct wait_reader *w = sim_alloc(sizeof(*w));
	unsigned n = 0;
	bool alive;

	w->walk.done = walk_ended;
	w->walk.blocks = w->blocks;
	w->walk.max = DEPOT_PLACES + 1;
	snap_list_blocks(reader, &w->walk);
	alive = depot_wait(depot, &w->done);
	if (alive && w->walk.error)
		sim_fail(depot->sim, "list: %s", w->walk.err.text);
	for (unsigned i = 0; alive && i < DEPOT_PLACES; i++) {
		if (model->seed[i] == SEED_ABSENT)
			continue;
		if (n >= w->walk.n || w->blocks[n].block != depot_place(i))
			sim_fail(depot->sim, "block %llu is not listed",
				 (unsigned long long)depot_place(i));
		n++;
	}
	if (alive && (n != w->walk.n || w->walk.next != UINT64_MAX))
		sim_fail(depot->sim, "%u blocks are listed, %u are there", w->walk.n, n);
	if (alive && snap_reader_info(reader)->blocks != n)
		sim_fail(depot->sim, "%u blocks are there, the snapshot says otherwise", n);
	sim_release(w);
	return alive;
}

bool depot_verify(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		  const struct model *model)
{
	uint8_t *buf = sim_alloc(SNAP_BLOCK), *want = sim_alloc(SNAP_BLOCK);
	struct snap_reader *reader;
	int error;
	bool alive = depot_open(depot, daemon, id, holder, &reader, &error);

	if (alive && error)
		sim_fail(depot->sim, "a snapshot can't be opened: %d", error);
	for (unsigned i = 0; alive && i < DEPOT_PLACES; i++)
		alive = verify_place(depot, reader, depot_place(i), model->seed[i], buf, want);
	if (alive)
		alive = verify_place(depot, reader, 4, SEED_ABSENT, buf, want) &&
			verify_place(depot, reader, 1024 * 1024, SEED_ABSENT, buf, want) &&
			verify_list(depot, reader, model);
	if (alive)
		snap_reader_close(reader);
	sim_release(buf);
	sim_release(want);
	return alive;
}
