/* SPDX-License-Identifier: Apache-2.0
 *
 * The instance store on the simulated machine: promises I1 to I6 of instance-store/istore.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/util.h"
#include "instance-store/format.h"
#include "tests/sim/istore_rig.h"
#include "tests/sim/seeds.h"
#include "tests/sim/workload.h"

#define SIZE    (4 * MiB)
#define SECTORS (SIZE / BLOCK_SECTOR)
#define A       1 /* instances */
#define B       2

static struct rig *rig_with(uint64_t seed, const struct sim_options *options)
{
	struct rig *r = istore_rig_new(seed, options);

	assert_true(istore_rig_open(r));
	return r;
}

/* ---- Random lives -------------------------------------------------------------------- */

struct tenant {
	struct oracle *oracle; /* NULL: there is no disk */
	struct workload *load;
	uint64_t salt;
};

static void tenant_start(struct rig *r, struct tenant *t, unsigned i)
{
	struct workload_options options = {.max_bytes = sim_chance(r->sim, 500000) ? 64 * KiB : 0};
	struct block_dev *dev = istore_rig_dev(r, A, i);

	assert_non_null(dev);
	t->load = workload_start(r->sim, r->dev_loop, dev, t->oracle, &options);
}

static void tenant_new(struct rig *r, struct tenant *t, unsigned i)
{
	assert_true(istore_rig_create(r, A, i, SIZE));
	t->oracle = oracle_new(SECTORS, sim_random(r->sim));
	oracle_in_place(t->oracle);
	tenant_start(r, t, i);
}

static void tenant_end(struct tenant *t)
{
	workload_free(t->load);
	oracle_free(t->oracle);
	t->load = NULL;
	t->oracle = NULL;
}

static void judge_load(const struct tenant *t)
{
	const char *text = t->load ? workload_failure(t->load) : NULL;

	if (text)
		sim_fail(sim_current(), "%s", text);
}

/* A disk is ended, with requests under way, or made anew: not one byte of an earlier tenant. */
static void change_tenant(struct rig *r, struct tenant *t, unsigned i)
{
	struct istore_op op = {.kind = ISTORE_DELETE, .instance.lo = A, .number = i};

	if (!t->oracle) {
		tenant_new(r, t, i);
		return;
	}
	workload_stop(t->load);
	assert_int_equal(sim_run_until(r->sim, workload_is_over, t->load, RIG_STEPS), SIM_DONE);
	judge_load(t);
	tenant_end(t);
	assert_true(istore_rig_do(r, &op));
	if (sim_chance(r->sim, 700000))
		tenant_new(r, t, i);
}

static void after_kill(struct rig *r, struct tenant *t, unsigned i)
{
	const char *text = NULL;
	struct block_dev *dev;

	if (!t->oracle)
		return;
	oracle_crash_begin(t->oracle, ORACLE_KILL);
	dev = istore_rig_dev(r, A, i);
	if (workload_verify_crash(r->sim, r->dev_loop, dev, t->oracle, &text) != VERIFY_OK)
		sim_fail(r->sim, "disk %u after a kill: %s", i, text);
	tenant_start(r, t, i);
}

/* Three disks of random clients, in a store with room for five and a slow discard behind. The
 * process dies any number of times; then the host. What was answered is there as long as the host
 * is (I1), nobody sees anything of another (I3, I5), and the store has no plaintext (I4). */
static void one_run(uint64_t seed)
{
	struct sim_options options = {.alignment = seed % 2 ? 4096 : 512};
	struct rig *r = istore_rig_new(seed, &options);
	struct tenant tenants[3] = {{0}};
	unsigned lives = 1 + (unsigned)sim_below(r->sim, 4);

	r->config.discard_rate = seed % 3 ? 200 * MiB : 0;
	assert_true(istore_rig_open(r));
	for (unsigned life = 0; life < lives; life++) {
		for (unsigned n = 0; n < 12; n++) {
			unsigned i = (unsigned)sim_below(r->sim, 3);

			if (sim_chance(r->sim, 300000))
				change_tenant(r, &tenants[i], i);
			sim_run_until(r->sim, NULL, NULL, sim_below(r->sim, 3000));
			judge_load(&tenants[i]);
		}
		istore_rig_reboot(r, RIG_KILL);
		for (unsigned i = 0; i < 3; i++) {
			workload_free(tenants[i].load);
			tenants[i].load = NULL;
		}
		assert_true(istore_rig_open(r));
		for (unsigned i = 0; i < 3; i++)
			after_kill(r, &tenants[i], i);
	}
	istore_rig_reboot(r, RIG_CUT);
	for (unsigned i = 0; i < 3; i++)
		tenant_end(&tenants[i]);
	assert_true(istore_rig_open(r));
	for (unsigned i = 0; i < 3; i++)
		assert_null(istore_rig_dev(r, A, i));
	assert_false(istore_rig_has_plaintext(r));
	istore_rig_close(r);
	istore_rig_free(r);
}

static void lives_keep_promises(void **state)
{
	struct seeds seeds = seeds_to_run(25);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++)
		one_run(seed);
}

/* ---- Cut loops ----------------------------------------------------------------------- */

#define SECRET_SALT 77

struct secret {
	struct rig *r;
	struct oracle *oracle; /* the first tenant's */
	uint8_t *memory;
	uint8_t *buf;
};

static void secret_init(struct secret *x, struct rig *r)
{
	x->r = r;
	x->oracle = oracle_new(SECTORS, SECRET_SALT);
	x->memory = sim_alloc(MiB + BLOCK_SIZE);
	x->buf = (uint8_t *)(uintptr_t)round_up((uintptr_t)x->memory, BLOCK_SIZE);
}

static void secret_free(struct secret *x)
{
	oracle_free(x->oracle);
	sim_release(x->memory);
}

static bool secret_write(struct secret *x, struct block_dev *dev, uint64_t at, uint64_t n)
{
	uint8_t *buf = x->buf + at % BLOCK_SIZE;
	uint32_t number = oracle_write_begin(x->oracle, BLOCK_WRITE, false, at / BLOCK_SECTOR,
					     n / BLOCK_SECTOR, buf);

	if (!istore_rig_io(x->r, dev, BLOCK_WRITE, 0, at, n, buf))
		return false;
	oracle_write_end(x->oracle, number, 0);
	return true;
}

static bool secret_flush(struct secret *x, struct block_dev *dev)
{
	uint64_t token = oracle_flush_begin(x->oracle);

	if (!istore_rig_io(x->r, dev, BLOCK_FLUSH, 0, 0, 0, NULL))
		return false;
	oracle_flush_end(x->oracle, token, 0);
	return true;
}

/* What the flushes cover is there. */
static bool secret_is_there(struct secret *x, struct block_dev *dev, uint64_t n)
{
	uint64_t token = oracle_read_begin(x->oracle);

	return istore_rig_io(x->r, dev, BLOCK_READ, 0, 0, n, x->buf) &&
	       oracle_read_end(x->oracle, token, 0, n / BLOCK_SECTOR, x->buf);
}

/* Of the disk of this instance no byte can be read but zeroes. */
static bool nothing_is_there(struct rig *r, uint64_t instance)
{
	struct block_dev *dev = istore_rig_dev(r, instance, 0);

	return !dev || istore_rig_is_zero(r, dev);
}

/* After whatever ended the life: it opens, nothing secret is to be had once the wipe has begun, by
 * the same tenant or the next one, and the store can be used. */
static void judge_after_wipe(struct rig *r, enum rig_end end, bool wiping)
{
	istore_rig_reboot(r, end);
	sim_assert(r->sim, istore_rig_open(r));
	if (wiping || end == RIG_CUT)
		sim_assert(r->sim, nothing_is_there(r, A));
	sim_assert(r->sim, nothing_is_there(r, B));
	istore_rig_end(r, ISTORE_DELETE, A, 0);
	sim_assert(r->sim, istore_rig_create(r, B, 0, SIZE));
	sim_assert(r->sim, nothing_is_there(r, B));
	sim_assert(r->sim, istore_rig_create(r, A, 0, SIZE));
	sim_assert(r->sim, nothing_is_there(r, A));
	sim_assert(r->sim, !istore_rig_has_plaintext(r));
}

typedef bool (*act)(struct secret *x);

static bool act_create(struct secret *x)
{
	return istore_rig_create(x->r, A, 0, SIZE);
}

static bool act_wipe(struct secret *x)
{
	return istore_rig_end(x->r, ISTORE_WIPE, A, 0) && nothing_is_there(x->r, A);
}

static bool act_delete(struct secret *x)
{
	return istore_rig_end(x->r, ISTORE_DELETE, A, ISTORE_ALL) && !istore_rig_dev(x->r, A, 0);
}

static bool act_wipe_and_recreate(struct secret *x)
{
	return act_delete(x) && istore_rig_create(x->r, B, 0, SIZE) && nothing_is_there(x->r, B) &&
	       istore_rig_create(x->r, A, 0, SIZE) && nothing_is_there(x->r, A);
}

static void set_up_secret(struct secret *x)
{
	struct block_dev *dev;

	assert_true(istore_rig_create(x->r, A, 0, SIZE));
	dev = istore_rig_dev(x->r, A, 0);
	assert_true(secret_write(x, dev, 0, MiB));
	assert_true(secret_write(x, dev, 3 * MiB + 512, 3072));
	assert_true(secret_flush(x, dev));
}

/* The life ends after the k-th point of the act, for all k; or, after `points` of them, after the
 * k-th call of the keep. */
static void cut_everywhere(act a, bool secret, bool by_keep)
{
	for (enum rig_end end = 0; end < (by_keep ? 1 : RIG_N_ENDS); end++) {
		bool dead = true;

		for (uint64_t k = 1; dead; k += by_keep ? 1 : seeds_stride()) {
			struct rig *r = rig_with(k * 10 + end, NULL);
			struct secret x;

			secret_init(&x, r);
			if (secret)
				set_up_secret(&x);
			if (by_keep)
				r->keep.kill_after = k;
			else
				istore_rig_arm(r, end, k);
			if (!a(&x))
				sim_assert(r->sim, sim_is_dead(r->sim));
			dead = sim_is_dead(r->sim);
			judge_after_wipe(r, end, secret);
			secret_free(&x);
			istore_rig_free(r);
		}
	}
}

/* I2, I3: a cut anywhere in the making of a disk leaves none, or an empty one. */
static void create_is_cut(void **state)
{
	(void)state;
	cut_everywhere(act_create, false, false);
	cut_everywhere(act_create, false, true);
}

/* I2: ... of a wipe. */
static void wipe_is_cut(void **state)
{
	(void)state;
	cut_everywhere(act_wipe, true, false);
	cut_everywhere(act_wipe, true, true);
}

static void delete_is_cut(void **state)
{
	(void)state;
	cut_everywhere(act_delete, true, false);
	cut_everywhere(act_delete, true, true);
}

static void next_tenants_are_cut(void **state)
{
	(void)state;
	cut_everywhere(act_wipe_and_recreate, true, false);
	cut_everywhere(act_wipe_and_recreate, true, true);
}

/* I1: what FLUSH has acknowledged survives the death of the process, and a power cut of the device,
 * at each point of what comes after; the death of the host it does not. */
static void flushed_data_survives(void **state)
{
	(void)state;
	for (enum rig_end end = 0; end < RIG_N_ENDS; end++) {
		bool dead = true;

		for (uint64_t k = 1; dead; k++) {
			struct rig *r = rig_with(k * 10 + end, NULL);
			struct block_dev *dev;
			struct secret x;
			bool flushed;

			secret_init(&x, r);
			assert_true(istore_rig_create(r, A, 0, SIZE));
			dev = istore_rig_dev(r, A, 0);
			istore_rig_arm(r, end, k);
			flushed = secret_write(&x, dev, 0, 64 * KiB) && secret_flush(&x, dev);
			if (flushed && secret_write(&x, dev, MiB, 256 * KiB))
				istore_rig_io(r, dev, BLOCK_TRIM, 0, 2 * MiB, MiB, NULL);
			dead = sim_is_dead(r->sim);
			istore_rig_reboot(r, end);
			sim_assert(r->sim, istore_rig_open(r));
			dev = istore_rig_dev(r, A, 0);
			sim_assert(r->sim, (dev != NULL) == (end != RIG_CUT));
			if (dev && flushed)
				sim_assert(r->sim, secret_is_there(&x, dev, 64 * KiB));
			secret_free(&x);
			istore_rig_free(r);
		}
	}
}

/* ---- Other hosts, other boots -------------------------------------------------------- */

/* I2: the store on another machine is refused, and left as it is; adopted, its disks have ended. */
static void another_host_is_refused(void **state)
{
	struct rig *r = rig_with(1, NULL);
	struct secret x;

	(void)state;
	secret_init(&x, r);
	set_up_secret(&x);
	istore_rig_reboot(r, RIG_KILL);
	r->keep.source.host.lo = 8;
	assert_false(istore_rig_open(r));
	assert_int_equal(r->open.err.code, -EXDEV);
	assert_non_null(strstr(r->open.err.text, "--adopt"));
	istore_rig_reboot(r, RIG_KILL);
	r->keep.source.host.lo = 7;
	assert_true(istore_rig_open(r));
	assert_true(secret_is_there(&x, istore_rig_dev(r, A, 0), MiB));
	istore_rig_reboot(r, RIG_KILL);
	r->keep.source.host.lo = 8;
	r->config.adopt = true; /* and the keys were brought along */
	assert_true(istore_rig_open(r));
	assert_int_equal(r->open.n_ended, 1);
	assert_null(istore_rig_dev(r, A, 0));
	istore_rig_reboot(r, RIG_KILL);
	r->keep.source.host.lo = 7; /* it does not come back */
	assert_true(istore_rig_open(r));
	assert_null(istore_rig_dev(r, A, 0));
	secret_free(&x);
	istore_rig_free(r);
}

/* I2: a key that outlasted its boot opens nothing. */
static void another_boot_ends_disks(void **state)
{
	struct rig *r = rig_with(1, NULL);
	struct secret x;

	(void)state;
	secret_init(&x, r);
	set_up_secret(&x);
	istore_rig_reboot(r, RIG_KILL);
	r->keep.source.boot.lo++;
	assert_true(istore_rig_open(r));
	assert_int_equal(r->open.n_disks, 0);
	assert_int_equal(r->open.n_ended, 1);
	assert_true(list_empty(&r->keep.items));
	secret_free(&x);
	istore_rig_free(r);
}

/* ---- Wiping -------------------------------------------------------------------------- */

static uint64_t points_of_wipe(uint64_t size)
{
	struct rig *r = istore_rig_new(5, NULL);
	uint64_t before;
	uint64_t n;

	r->config.size = 64 * GiB;
	r->config.slice_size = 16 * MiB;
	assert_true(istore_rig_open(r));
	assert_true(istore_rig_create(r, A, 0, size));
	before = sim_points(r->sim);
	assert_true(istore_rig_end(r, ISTORE_DELETE, A, 0));
	n = sim_points(r->sim) - before;
	istore_rig_free(r);
	return n;
}

/* A wipe is as short for a large disk as for a small one: two pages and their syncs, and
 * perhaps the first punch behind it. */
static void wipe_does_not_depend_on_size(void **state)
{
	(void)state;
	assert_int_equal(points_of_wipe(4 * MiB), points_of_wipe(60 * GiB));
	assert_true(points_of_wipe(60 * GiB) <= 10);
}

static enum sim_fate stall_writes(void *arg, struct sim_disk_op *op)
{
	bool *on = arg;

	return *on && op->kind == SIM_WRITE && op->offset >= ISTORE_HEAD_SIZE ? SIM_STALL
									      : SIM_PROCEED;
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

static void ignore_op(struct istore_op *op)
{
	(void)op;
}

static void ignore_req(struct block_req *req)
{
	(void)req;
}

/* I2, I5: the key is gone at once, though a write hangs in the device; but the slices are nobody
 * else's before that write has ended. */
static void wipe_waits_for_nothing_but_reuse(void **state)
{
	struct rig *r = rig_with(3, NULL);
	struct istore_op *op = sim_alloc(sizeof(*op));
	struct block_req *req = sim_alloc(sizeof(*req));
	struct block_dev *dev;
	struct secret x;
	bool on = true;

	(void)state;
	secret_init(&x, r);
	set_up_secret(&x);
	dev = istore_rig_dev(r, A, 0);
	sim_disk_hook(r->sim, stall_writes, &on);
	*req =
	    (struct block_req){.op = BLOCK_WRITE, .length = 8192, .buf = x.buf, .done = ignore_req};
	block_submit(dev, req);
	*op = (struct istore_op){.kind = ISTORE_DELETE, .instance.lo = A, .done = ignore_op};
	istore_submit(r->store, op);
	sim_run_until(r->sim, never, NULL, 2000);
	assert_int_equal(op->n_done, 0);
	assert_null(istore_rig_dev(r, A, 0));
	istore_rig_reboot(r, RIG_KILL);
	on = false;
	assert_true(istore_rig_open(r));
	assert_null(istore_rig_dev(r, A, 0));
	assert_int_equal(r->open.n_ended, 1);
	secret_free(&x);
	istore_rig_free(r);
	sim_release(op);
	sim_release(req);
}

/* I6: what ended is given back, but for what the next tenant has written; a start goes on with
 * what a crash interrupted. */
static void ended_disks_are_discarded(void **state)
{
	struct rig *r = istore_rig_new(4, NULL);
	struct istore_stats stats;
	struct block_dev *dev;
	struct secret x;

	(void)state;
	r->config.discard_rate = 1 * MiB;
	assert_true(istore_rig_open(r));
	secret_init(&x, r);
	set_up_secret(&x);
	assert_true(istore_rig_end(r, ISTORE_DELETE, A, 0));
	assert_true(istore_rig_create(r, B, 0, 12 * MiB));
	assert_true(istore_rig_create(r, B, 1, 4 * MiB)); /* all that is not clean */
	memset(x.buf, 7, MiB);
	dev = istore_rig_dev(r, B, 1);
	assert_true(istore_rig_io(r, dev, BLOCK_WRITE, 0, 512 * KiB, MiB, x.buf));
	istore_rig_reboot(r, RIG_KILL);
	r->config.discard_rate = 0;
	assert_true(istore_rig_open(r));
	istore_stats(r->store, &stats);
	assert_int_equal(stats.to_discard, 4 * MiB);
	sim_run_until(r->sim, NULL, NULL, RIG_STEPS);
	istore_stats(r->store, &stats);
	assert_int_equal(stats.to_discard, 0);
	memset(x.buf, 0, MiB);
	dev = istore_rig_dev(r, B, 1);
	assert_true(istore_rig_io(r, dev, BLOCK_READ, 0, 512 * KiB, MiB, x.buf));
	for (uint64_t i = 0; i < MiB; i++)
		assert_int_equal(x.buf[i], 7);
	istore_rig_close(r);
	assert_true(istore_rig_open(r));
	istore_stats(r->store, &stats);
	assert_int_equal(stats.to_discard, 0);
	secret_free(&x);
	istore_rig_free(r);
}

/* ---- Damage and errors --------------------------------------------------------------- */

static void rot_slot(struct rig *r, unsigned slot, unsigned copy)
{
	sim_file_rot(r->sim, RIG_PATH, istore_slot_offset(slot, copy), ISTORE_PAGE);
}

/* One copy of a page is enough, and is repaired from the other; without any the store says so, and
 * is left alone until it is told to go on. */
static void rot_in_the_table(void **state)
{
	(void)state;
	for (unsigned copy = 0; copy < 3; copy++) {
		struct rig *r = rig_with(copy + 1, NULL);
		struct secret x;

		secret_init(&x, r);
		set_up_secret(&x);
		istore_rig_reboot(r, RIG_KILL);
		for (unsigned c = 0; c < 2; c++)
			if (copy == c || copy == 2)
				rot_slot(r, 0, c);
		if (copy < 2) {
			sim_file_rot(r->sim, RIG_PATH, istore_super_offset(copy), 96);
			assert_true(istore_rig_open(r));
			assert_true(r->open.n_repaired >= 2);
			assert_true(secret_is_there(&x, istore_rig_dev(r, A, 0), MiB));
			istore_rig_close(r);
			assert_true(istore_rig_open(r));
			assert_int_equal(r->open.n_repaired, 0);
		} else {
			assert_false(istore_rig_open(r));
			assert_int_equal(r->open.err.code, -EUCLEAN);
			r->config.give_up_damaged = true;
			assert_true(istore_rig_open(r));
			assert_null(istore_rig_dev(r, A, 0));
			assert_true(istore_rig_create(r, A, 0, 16 * MiB));
			assert_true(nothing_is_there(r, A));
		}
		secret_free(&x);
		istore_rig_free(r);
	}
}

/* A table that can't be written: nothing is made any more, what was to end has lost its key, and
 * the other disks go on. */
static void table_write_fails(void **state)
{
	struct rig *r = rig_with(1, NULL);
	struct block_dev *dev;
	struct secret x;

	(void)state;
	secret_init(&x, r);
	set_up_secret(&x);
	assert_true(istore_rig_create(r, B, 0, SIZE));
	sim_disk_nth(r->sim, SIM_WRITE, 1, SIM_FAIL, -EIO);
	assert_false(istore_rig_end(r, ISTORE_DELETE, A, 0));
	assert_null(istore_rig_dev(r, A, 0));
	assert_false(istore_rig_create(r, A, 1, SIZE));
	dev = istore_rig_dev(r, B, 0);
	assert_true(istore_rig_io(r, dev, BLOCK_WRITE, BLOCK_FUA, 0, MiB, x.buf));
	istore_rig_reboot(r, RIG_KILL);
	assert_true(istore_rig_open(r));
	assert_null(istore_rig_dev(r, A, 0));
	assert_non_null(istore_rig_dev(r, B, 0));
	assert_true(istore_rig_create(r, A, 0, SIZE));
	assert_true(nothing_is_there(r, A));
	secret_free(&x);
	istore_rig_free(r);
}

/* After a failed sync nothing is acknowledged that needs one, and reads go on. */
static void sync_fails(void **state)
{
	struct rig *r = rig_with(1, NULL);
	struct block_dev *dev;
	struct secret x;

	(void)state;
	secret_init(&x, r);
	set_up_secret(&x);
	dev = istore_rig_dev(r, A, 0);
	sim_disk_nth(r->sim, SIM_SYNC, 1, SIM_FAIL, -EIO);
	assert_false(istore_rig_io(r, dev, BLOCK_FLUSH, 0, 0, 0, NULL));
	assert_false(istore_rig_io(r, dev, BLOCK_FLUSH, 0, 0, 0, NULL));
	assert_false(istore_rig_io(r, dev, BLOCK_WRITE, BLOCK_FUA, 0, 4096, x.buf));
	assert_true(secret_is_there(&x, dev, MiB));
	secret_free(&x);
	istore_rig_free(r);
}

/* A load among faults: what fails says so, what succeeds is there, also after the process has died;
 * and when the faults end, so do the errors. */
static void one_faulty_run(uint64_t seed, const struct sim_options *faults, int only_error)
{
	struct workload_options options = {
	    .n_ops = 300, .max_bytes = 256 * KiB, .errors_ok = true, .only_error = only_error};
	const struct sim_options none = {0};
	struct sim_options with = *faults;
	struct rig *r = istore_rig_new(seed, &none);
	struct tenant t = {0};
	const char *text = NULL;
	struct block_dev *dev;

	r->config.size = 32 * MiB;
	assert_true(istore_rig_open(r));
	assert_true(istore_rig_create(r, A, 0, SIZE));
	t.oracle = oracle_new(SECTORS, seed);
	oracle_in_place(t.oracle);
	with.alignment = sim_options(r->sim)->alignment;
	*sim_options(r->sim) = with;
	dev = istore_rig_dev(r, A, 0);
	t.load = workload_start(r->sim, r->dev_loop, dev, t.oracle, &options);
	assert_int_equal(sim_run_until(r->sim, workload_is_over, t.load, RIG_STEPS), SIM_DONE);
	judge_load(&t);
	*sim_options(r->sim) = none;
	sim_options(r->sim)->alignment = with.alignment;
	if (!faults->fail_sync &&
	    workload_verify_live(r->sim, r->dev_loop, dev, t.oracle, &text) != VERIFY_OK)
		sim_fail(r->sim, "after faults: %s", text);
	istore_rig_reboot(r, RIG_KILL);
	workload_free(t.load);
	assert_true(istore_rig_open(r));
	after_kill(r, &t, 0);
	istore_rig_reboot(r, RIG_KILL);
	tenant_end(&t);
	istore_rig_free(r);
}

static void errors_keep_promises(void **state)
{
	const struct sim_options reads = {.fail_read = 30000};
	const struct sim_options writes = {.fail_write = 30000, .slow = 10000};
	const struct sim_options syncs = {.fail_sync = 30000, .fail_write = 10000};
	struct seeds seeds = seeds_to_run(8);

	(void)state;
	for (uint64_t seed = seeds.first; seed <= seeds.last; seed++) {
		one_faulty_run(seed, &reads, -EIO);
		one_faulty_run(seed, &writes, -EIO);
		one_faulty_run(seed, &syncs, -EIO);
	}
}

/* Refusals name what is wrong, and change nothing. */
static void bad_requests_are_refused(void **state)
{
	struct rig *r = rig_with(1, NULL);
	struct istore_op op = {.kind = ISTORE_CREATE, .instance.lo = A, .size = 17 * MiB};

	(void)state;
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -ENOSPC);
	op = (struct istore_op){.kind = ISTORE_CREATE, .instance.lo = A};
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -EINVAL);
	op = (struct istore_op){.kind = ISTORE_CREATE, .instance.lo = A, .number = 24, .size = MiB};
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -EINVAL);
	assert_true(istore_rig_create(r, A, 0, 10 * MiB));
	assert_true(istore_rig_create(r, A, 0, 10 * MiB));
	op = (struct istore_op){.kind = ISTORE_CREATE, .instance.lo = A, .size = MiB};
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -EEXIST);
	op = (struct istore_op){.kind = ISTORE_CREATE, .instance.lo = B, .size = 7 * MiB};
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -ENOSPC);
	op = (struct istore_op){.kind = ISTORE_WIPE, .instance.lo = B, .number = ISTORE_ALL};
	assert_false(istore_rig_do(r, &op));
	assert_int_equal(op.error.code, -ENOENT);
	istore_rig_close(r);
	istore_rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lives_keep_promises),
	    cmocka_unit_test(create_is_cut),
	    cmocka_unit_test(wipe_is_cut),
	    cmocka_unit_test(delete_is_cut),
	    cmocka_unit_test(next_tenants_are_cut),
	    cmocka_unit_test(flushed_data_survives),
	    cmocka_unit_test(another_host_is_refused),
	    cmocka_unit_test(another_boot_ends_disks),
	    cmocka_unit_test(wipe_does_not_depend_on_size),
	    cmocka_unit_test(wipe_waits_for_nothing_but_reuse),
	    cmocka_unit_test(ended_disks_are_discarded),
	    cmocka_unit_test(rot_in_the_table),
	    cmocka_unit_test(table_write_fails),
	    cmocka_unit_test(sync_fails),
	    cmocka_unit_test(errors_keep_promises),
	    cmocka_unit_test(bad_requests_are_refused),
	};

	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
