/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that does not answer: each kind of I/O that a volume waits for is seen when it does not
 * complete, named, and told to be over when it does. Nothing is answered meanwhile that was not
 * done, and the watch costs an idle volume nothing.
 */
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOLUME_BYTES (64 * MiB)
#define AFTER        (30 * NSEC_PER_SEC)
#define BUF_BYTES    MiB

static struct world world;
static uint8_t *buf;
static uint8_t *data; /* of writes that wait: nobody changes it */

/* ---- The disk that hangs ------------------------------------------------------------- */

static struct {
	unsigned kinds;   /* of these, */
	uint64_t passed;  /* after so many, */
	uint64_t min_len; /* that are as long, */
	uint64_t n_stuck; /* so many are held so far */
	bool one;         /* only the first */
} hanging;

static enum sim_fate hang(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	if (!(op->kind & hanging.kinds) || op->len < hanging.min_len)
		return SIM_PROCEED;
	if (hanging.passed > 0) {
		hanging.passed--;
		return SIM_PROCEED;
	}
	if (hanging.one && hanging.n_stuck > 0)
		return SIM_PROCEED;
	hanging.n_stuck++;
	return SIM_STALL;
}

static void hang_one(unsigned kinds, uint64_t passed)
{
	memset(&hanging, 0, sizeof(hanging));
	hanging.kinds = kinds;
	hanging.passed = passed;
	hanging.one = true;
	sim_disk_hook(world.sim, hang, NULL);
}

static void answer(void)
{
	sim_disk_hook(world.sim, NULL, NULL);
	sim_release_stalled(world.sim);
}

/* ---- Time, and what is asked --------------------------------------------------------- */

struct pause {
	struct io_op timer;
	bool over;
};

static void on_pause(struct io_op *op)
{
	container_of(op, struct pause, timer)->over = true;
}

static void pass(uint64_t ns)
{
	static struct pause p;

	memset(&p, 0, sizeof(p));
	p.timer.done = on_pause;
	io_timer(world.loop, &p.timer, ns);
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &p.over, 10000000), SIM_DONE);
}

/* Nothing is left to happen: no timer runs. */
static void is_idle(void)
{
	uint64_t before = sim_time(world.sim);

	assert_int_equal(sim_run_until(world.sim, NULL, NULL, 1000000), SIM_IDLE);
	/* A watch that was armed looks once more, and that was the last time. */
	assert_true(sim_time(world.sim) < before + 2 * AFTER);
}

struct pending {
	struct block_req req;
	bool done;
};

static void on_pending(struct block_req *req)
{
	container_of(req, struct pending, req)->done = true;
}

static void ask(struct pending *p, unsigned i, enum block_op op, uint64_t offset, uint64_t length)
{
	memset(p, 0, sizeof(*p));
	p->req =
	    (struct block_req){.op = op, .offset = offset, .length = length, .done = on_pending};
	p->req.buf = op == BLOCK_WRITE ? data : buf;
	block_submit(volume_dev(world.volumes[i]), &p->req);
}

static int write_of(unsigned i, uint64_t offset, uint64_t length, uint32_t flags)
{
	memset(buf, 0x5a, length);
	return world_io(&world, i, BLOCK_WRITE, flags, offset, length, buf);
}

static void buffers_new(void)
{
	buf = mem_alloc_pages(BUF_BYTES);
	data = mem_alloc_pages(BUF_BYTES);
	memset(data, 0xa5, BUF_BYTES);
}

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	world_init(&world, sim_new(12, &options));
	world.config.stuck_after_ns = AFTER;
	buffers_new();
	assert_int_equal(world_begin(&world), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(world_create(&world, i, VOLUME_BYTES), 0);
		assert_int_equal(world_open(&world, i), 0);
	}
	assert_int_equal(write_of(0, 0, MiB, BLOCK_FUA), 0);
	assert_int_equal(write_of(1, 0, MiB, BLOCK_FUA), 0);
	is_idle();
	for (unsigned i = 0; i < 2; i++) /* the map is in memory */
		assert_int_equal(world_io(&world, i, BLOCK_READ, 0, 0, 4096, buf), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim_free(world.sim);
	return 0;
}

/* ---- What is seen -------------------------------------------------------------------- */

static void nothing_is_stuck(unsigned i, uint64_t told)
{
	enum volume_io kind;
	uint64_t age;
	struct volume_stats stats;

	volume_stats(world.volumes[i], &stats);
	assert_false(stats.is_stuck);
	assert_false(volume_stall_now(&world.stalls[i], sim_time(world.sim), &kind, &age));
	assert_int_equal(world.n_stuck, told);
	assert_int_equal(world.n_stuck_over, told);
}

static void is_stuck(unsigned i, enum volume_io kind)
{
	enum volume_io seen;
	uint64_t age;
	struct volume_stats stats;

	if (world.n_stuck != 1 || world.stuck_kind != kind)
		fail_msg("told %llu times, the last time of %s", (unsigned long long)world.n_stuck,
			 volume_io_name(world.stuck_kind));
	assert_int_equal(world.n_stuck_over, 0);
	assert_true(id_equal(world.stuck_volume, world_volume_id(i)));
	volume_stats(world.volumes[i], &stats);
	assert_true(stats.is_stuck);
	assert_int_equal(stats.oldest_io, kind);
	assert_true(stats.oldest_io_ns >= AFTER);
	assert_true(volume_stall_now(&world.stalls[i], sim_time(world.sim), &seen, &age));
	assert_int_equal(seen, kind);
	assert_true(age >= AFTER && age < sim_time(world.sim));
}

/* From the moment at which it hangs to the end of it. */
static void story(unsigned i, enum volume_io kind, bool *done)
{
	pass(AFTER - 2 * NSEC_PER_SEC);
	nothing_is_stuck(i, 0);
	pass(3 * NSEC_PER_SEC);
	is_stuck(i, kind);
	assert_true(world.stuck_age_ns < AFTER + 2 * NSEC_PER_SEC); /* in time */
	pass(5 * AFTER);
	is_stuck(i, kind); /* told once */
	assert_false(done && *done);
	answer();
	if (done)
		assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, done, 10000000),
				 SIM_DONE);
	pass(NSEC_PER_SEC);
	nothing_is_stuck(i, 1);
	assert_true(world.stuck_age_ns >= 6 * AFTER); /* how long it took */
	is_idle();
	nothing_is_stuck(i, 1);
}

/* Writes that wait behind the one that hangs are not answered either; the other volume is. */
static void appends(void **state)
{
	struct pending first;
	struct pending second;

	(void)state;
	hang_one(SIM_WRITE, 0);
	ask(&first, 0, BLOCK_WRITE, 0, 64 * KiB);
	pass(NSEC_PER_SEC);
	ask(&second, 0, BLOCK_WRITE, MiB, 4096);
	assert_int_equal(write_of(1, 0, 4096, BLOCK_FUA), 0);
	pass(AFTER - 3 * NSEC_PER_SEC);
	nothing_is_stuck(0, 0);
	assert_int_equal(write_of(1, 0, 4096, BLOCK_FUA), 0);
	pass(4 * NSEC_PER_SEC);
	is_stuck(0, VOLUME_IO_APPEND);
	assert_false(first.done || second.done);
	assert_int_equal(write_of(1, 0, 4096, BLOCK_FUA), 0);
	assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, 0, 4096, buf), 0);
	is_stuck(0, VOLUME_IO_APPEND);
	answer();
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &second.done, 10000000),
			 SIM_DONE);
	assert_true(first.done);
	assert_int_equal(first.req.error | second.req.error, 0);
	nothing_is_stuck(0, 1);
	is_idle();
}

/* A sync is that of all volumes of the loop: whoever waits for it is told of. A flush is not
 * answered before it, plain writes are. */
static void syncs(void **state)
{
	struct pending flush;

	(void)state;
	assert_int_equal(write_of(0, 0, 4096, 0), 0);
	hang_one(SIM_SYNC, 0);
	ask(&flush, 0, BLOCK_FLUSH, 0, 0);
	story(0, VOLUME_IO_SYNC, &flush.done);
	assert_int_equal(flush.req.error, 0);
}

static void reads(void **state)
{
	struct pending read;

	(void)state;
	hang_one(SIM_READ, 0);
	ask(&read, 0, BLOCK_READ, 0, 64 * KiB);
	story(0, VOLUME_IO_READ, &read.done);
	assert_int_equal(read.req.error, 0);
	assert_int_equal(buf[0], 0x5a);
}

static void reads_of_the_map(void **state)
{
	struct pending read;

	(void)state;
	world_close(&world, 0);
	assert_int_equal(world_open(&world, 0), 0);
	hang_one(SIM_READ, 0);
	ask(&read, 0, BLOCK_READ, 0, 4096);
	story(0, VOLUME_IO_MAP, &read.done);
	assert_int_equal(read.req.error, 0);
}

/* The store's table is not written: no segment comes, the log has spares for a while, and then
 * writes wait. */
static void lending(void **state)
{
	static struct pending writes[40];
	bool all = true;

	(void)state;
	hang_one(SIM_RESERVE, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
		ask(&writes[i], 0, BLOCK_WRITE, i * MiB, MiB);
	pass(NSEC_PER_SEC);
	assert_int_equal(hanging.n_stuck, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
		all = all && writes[i].done;
	assert_false(all);
	story(0, VOLUME_IO_SPACE, &writes[ARRAY_SIZE(writes) - 1].done);
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
		assert_int_equal(writes[i].req.error, 0);
}

struct call {
	struct volume_op op;
	bool done;
};

static void on_call(struct volume_op *op)
{
	container_of(op, struct call, op)->done = true;
}

static void call(struct call *c, unsigned i, void (*start)(struct volume_op *op))
{
	memset(c, 0, sizeof(*c));
	c->op.engine = world.engine;
	c->op.id = world_volume_id(i);
	c->op.volume = world.volumes[i];
	c->op.done = on_call;
	c->op.stall = &world.stalls[i];
	start(&c->op);
}

static void checkpoints(void **state)
{
	struct call c;

	(void)state;
	assert_int_equal(write_of(0, 0, 4096, 0), 0);
	hang_one(SIM_WRITE, 0);
	call(&c, 0, volume_checkpoint);
	story(0, VOLUME_IO_CHECKPOINT, &c.done);
	assert_int_equal(c.op.err.code, 0);
}

static void superblocks(void **state)
{
	struct call c;

	(void)state;
	assert_int_equal(write_of(0, 0, 4096, 0), 0);
	hang_one(SIM_WRITE, 1);
	call(&c, 0, volume_checkpoint);
	story(0, VOLUME_IO_SUPERBLOCK, &c.done);
	assert_int_equal(c.op.err.code, 0);
}

static void scrubs(void **state)
{
	struct call c;

	(void)state;
	hang_one(SIM_READ, 1);
	call(&c, 0, volume_scrub);
	story(0, VOLUME_IO_INSPECTION, &c.done);
	assert_int_equal(c.op.err.code, 0);
	assert_int_equal(c.op.n_wrong, 0);
}

/* A volume that is being opened has nobody yet who could ask for its stats. */
static void opening(void **state)
{
	enum volume_io kind;
	uint64_t age;
	struct call c;

	(void)state;
	world_close(&world, 0);
	hang_one(SIM_READ, 1);
	call(&c, 0, volume_open);
	pass(AFTER + NSEC_PER_SEC);
	assert_int_equal(world.n_stuck, 1);
	assert_int_equal(world.stuck_kind, VOLUME_IO_RECOVERY);
	assert_true(volume_stall_now(&world.stalls[0], sim_time(world.sim), &kind, &age));
	assert_int_equal(kind, VOLUME_IO_RECOVERY);
	assert_false(c.done);
	answer();
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &c.done, 10000000), SIM_DONE);
	assert_int_equal(c.op.err.code, 0);
	world.volumes[0] = c.op.volume;
	nothing_is_stuck(0, 1);
}

/* What is closed while its I/O hangs waits for it: nothing of it may land later, in somebody
 * else's segment (E7). It is told of all the same, and then goes. */
static void closing(void **state)
{
	enum volume_io kind;
	uint64_t age;
	struct pending write;
	struct call c;

	(void)state;
	assert_int_equal(write_of(0, 0, 4096, 0), 0);
	hang_one(SIM_WRITE, 0);
	call(&c, 0, volume_close);
	pass(AFTER + NSEC_PER_SEC);
	is_stuck(0, VOLUME_IO_CHECKPOINT);
	assert_false(c.done);
	answer();
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &c.done, 10000000), SIM_DONE);
	assert_int_equal(world.n_stuck_over, 1);
	assert_false(volume_stall_now(&world.stalls[0], sim_time(world.sim), &kind, &age));
	world.volumes[0] = NULL;
	/* The last volume takes the watch with it. */
	ask(&write, 1, BLOCK_WRITE, 0, 4096);
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &write.done, 10000000),
			 SIM_DONE);
	assert_int_equal(world_end(&world), 0);
	assert_int_equal(sim_run_until(world.sim, NULL, NULL, 1000000), SIM_IDLE);
}

/* ---- Garbage collection, the base ---------------------------------------------------- */

static void collection(void **state)
{
	(void)state;
	sim_free(world.sim);
	world_init(&world, sim_new(13, &(struct sim_options){.alignment = 4096}));
	world.config.stuck_after_ns = AFTER;
	world.config.gc_slack = 1;
	world.config.checkpoint_log = 2 * MiB;
	world.config.checkpoint_idle_ns = 10 * NSEC_PER_MSEC;
	world.store_config.max_size = 256 * MiB;
	buffers_new();
	assert_int_equal(world_begin(&world), 0);
	assert_int_equal(world_create(&world, 0, VOLUME_BYTES), 0);
	assert_int_equal(world_open(&world, 0), 0);
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(write_of(0, i * MiB, MiB, 0), 0);
	hang_one(SIM_READ, 0);
	hanging.min_len = 64 * KiB; /* no page of the map */
	for (uint64_t n = 0; hanging.n_stuck == 0; n++) {
		assert_true(n < 100000);
		assert_int_equal(write_of(0, sim_below(world.sim, 64) * MiB, 64 * KiB, 0), 0);
	}
	story(0, VOLUME_IO_GC, NULL);
}

/* A base that answers when it is told to. */
struct slow_base {
	struct volume_base base;
	struct volume_base_req *waiting;
};

static void base_read(struct volume_base *base, struct volume_base_req *req)
{
	container_of(base, struct slow_base, base)->waiting = req;
}

static void base_status(struct volume_base *base, struct volume_base_req *req)
{
	base_read(base, req);
}

static void base_release(struct volume_base *base, bool hydrated)
{
	(void)base;
	(void)hydrated;
}

static struct slow_base slow;

/* Volume 2. */
static void open_with_base(void)
{
	static const struct volume_base_ops ops = {
	    .read = base_read, .status = base_status, .release = base_release};

	slow = (struct slow_base){.base = {.ops = &ops, .snapshot = {.hi = 9, .lo = 9}}};
	world.bases[2] = &slow.base;
	world.base_ids[2] = slow.base.snapshot;
	world.base_sizes[2] = 8 * MiB;
	assert_int_equal(world_create(&world, 2, VOLUME_BYTES), 0);
	assert_int_equal(world_open(&world, 2), 0);
}

static void base_answers(void)
{
	assert_non_null(slow.waiting);
	memset(slow.waiting->buf, 7, 4096);
	slow.waiting->done(slow.waiting);
}

static void bases(void **state)
{
	struct pending read;

	(void)state;
	open_with_base();
	ask(&read, 2, BLOCK_READ, 0, 4096);
	pass(AFTER + NSEC_PER_SEC);
	is_stuck(2, VOLUME_IO_BASE);
	assert_false(read.done);
	base_answers();
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &read.done, 10000000), SIM_DONE);
	assert_int_equal(read.req.error, 0);
	nothing_is_stuck(2, 1);
}

/* ---- The watch itself ---------------------------------------------------------------- */

/* Of many that hang each is named as the oldest in its turn; it is over when none is left. */
static void one_after_the_other(void **state)
{
	struct pending first;
	struct pending second;

	(void)state;
	memset(&hanging, 0, sizeof(hanging));
	hanging.kinds = SIM_READ;
	sim_disk_hook(world.sim, hang, NULL);
	ask(&first, 0, BLOCK_READ, 0, 4096);
	pass(20 * NSEC_PER_SEC);
	ask(&second, 1, BLOCK_READ, 0, 4096);
	pass(11 * NSEC_PER_SEC);
	is_stuck(0, VOLUME_IO_READ); /* the other is younger */
	pass(20 * NSEC_PER_SEC);
	assert_int_equal(world.n_stuck, 2);
	assert_true(id_equal(world.stuck_volume, world_volume_id(1)));
	answer();
	pass(NSEC_PER_SEC);
	assert_true(first.done && second.done);
	nothing_is_stuck(0, 2);
	nothing_is_stuck(1, 2);
	/* And again. */
	hang_one(SIM_READ, 0);
	ask(&first, 1, BLOCK_READ, 0, 4096);
	pass(AFTER + NSEC_PER_SEC);
	assert_int_equal(world.n_stuck, 3);
	answer();
	pass(NSEC_PER_SEC);
	nothing_is_stuck(1, 3);
	is_idle();
}

/* What began while something older was told of, and hangs on when that is over, is watched. */
static void the_next_is_watched_too(void **state)
{
	struct pending reads[2];
	struct pending last;

	(void)state;
	open_with_base();
	assert_int_equal(write_of(2, 16 * MiB, MiB, BLOCK_FUA), 0);
	assert_int_equal(world_io(&world, 2, BLOCK_READ, 0, 16 * MiB, 4096, buf), 0);
	memset(&hanging, 0, sizeof(hanging));
	hanging.kinds = SIM_READ;
	sim_disk_hook(world.sim, hang, NULL);
	ask(&reads[0], 2, BLOCK_READ, 16 * MiB, 4096);
	pass(AFTER + NSEC_PER_SEC);
	is_stuck(2, VOLUME_IO_READ);
	ask(&reads[1], 2, BLOCK_READ, 16 * MiB, 4096);
	pass(AFTER - 10 * NSEC_PER_SEC);
	ask(&last, 2, BLOCK_READ, 0, 4096);
	pass(15 * NSEC_PER_SEC);
	is_stuck(2, VOLUME_IO_READ);
	answer();
	pass(NSEC_PER_SEC);
	assert_true(reads[0].done && reads[1].done);
	nothing_is_stuck(2, 1);
	pass(AFTER - 17 * NSEC_PER_SEC);
	nothing_is_stuck(2, 1);
	pass(2 * NSEC_PER_SEC);
	assert_int_equal(world.n_stuck, 2);
	assert_int_equal(world.stuck_kind, VOLUME_IO_BASE);
	base_answers();
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &last.done, 10000000), SIM_DONE);
	nothing_is_stuck(2, 2);
}

/* A busy volume whose I/O all comes back is never told of, and the watch does not run ahead. */
static void a_busy_disk_is_not_stuck(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(write_of(0, i * 4096, 4096, BLOCK_FUA), 0);
		assert_int_equal(world_io(&world, 0, BLOCK_READ, 0, i * 4096, 4096, buf), 0);
		pass(AFTER / 7);
	}
	nothing_is_stuck(0, 0);
	is_idle();
}

/* Nobody wants to be told: no timer runs, the age is known all the same. */
static void without_a_watch(void **state)
{
	struct volume_stats stats;
	struct pending read;

	(void)state;
	sim_kill(world.sim);
	sim_reboot(world.sim);
	world.config.stuck_after_ns = 0;
	assert_int_equal(world_begin(&world), 0);
	assert_int_equal(world_open(&world, 0), 0);
	buffers_new();
	is_idle();
	hang_one(SIM_READ, 0);
	ask(&read, 0, BLOCK_READ, 0, 4096);
	assert_int_equal(sim_run_until(world.sim, NULL, NULL, 1000000), SIM_IDLE);
	pass(AFTER * 2);
	volume_stats(world.volumes[0], &stats);
	assert_true(stats.oldest_io_ns >= AFTER);
	assert_false(stats.is_stuck);
	assert_int_equal(world.n_stuck, 0);
	answer();
	pass(NSEC_PER_SEC);
	assert_true(read.done);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(appends),
	    TEST(syncs),
	    TEST(reads),
	    TEST(reads_of_the_map),
	    TEST(lending),
	    TEST(checkpoints),
	    TEST(superblocks),
	    TEST(scrubs),
	    TEST(opening),
	    TEST(closing),
	    TEST(collection),
	    TEST(bases),
	    TEST(one_after_the_other),
	    TEST(the_next_is_watched_too),
	    TEST(a_busy_disk_is_not_stuck),
	    TEST(without_a_watch),
	};

	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
