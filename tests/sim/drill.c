/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/drill.h"

#include "base/check.h"
#include "base/util.h"
#include "tests/sim/pinned.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX   5000000
#define BYTES_MAX   (4 * MiB) /* of one operation */
#define DEVICE_SIZE (512 * MiB)

static uint64_t one_of(struct sim *sim, const uint64_t *choices, size_t n)
{
	return choices[sim_below(sim, n)];
}
#define ONE_OF(sim, ...)                                                                           \
	one_of(sim, (const uint64_t[]){__VA_ARGS__},                                               \
	       sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* ---- Set-up -------------------------------------------------------------------------- */

/* cmocka would only say that there was one. */
static void on_bad_access(int signal_number)
{
	(void)signal_number;
	abort(); /* the machine prints seed and trace */
}

static void choose_config(struct drill *d)
{
	struct sim *sim = d->sim;
	struct engine_config *c = &d->world.config;

	c->n_ops = (uint32_t)ONE_OF(sim, 64, 256);
	c->n_buffers = (uint32_t)ONE_OF(sim, 5, 16);
	c->map_memory = ONE_OF(sim, 1, 256, 1024, 4096) * KiB;
	c->checkpoint_log = ONE_OF(sim, 64 * KiB, 512 * KiB, 4 * MiB, 64 * MiB);
	c->checkpoint_blocks = (uint32_t)ONE_OF(sim, 16, 256, 100000);
	c->gc_slack = ONE_OF(sim, 0, 1, 1, 8 * MiB);
	c->checkpoint_idle_ns = ONE_OF(sim, 100000, 10 * NSEC_PER_MSEC, 5 * NSEC_PER_SEC);
}

static uint64_t choose_size(struct sim *sim)
{
	uint64_t most = ONE_OF(sim, 1, 2, 2, 4, 4, 8, 16, 64) * MiB;

	return round_up(most / 2 + 1 + sim_below(sim, most / 2), BLOCK_SIZE);
}

void drill_init(struct drill *d, uint64_t seed, uint64_t max_size)
{
	static const struct sim_options kinds[] = {
	    {.alignment = 512}, {.alignment = 4096}, {.alignment = 512, .is_device = true}};
	struct sim *sim = sim_new(seed, NULL);

	memset(d, 0, sizeof(*d));
	d->sim = sim;
	/* Big buffers come and go all the time: giving them back costs more than all the rest. */
	mallopt(M_MMAP_THRESHOLD, 32 * MiB);
	mallopt(M_TRIM_THRESHOLD, 512 * MiB);
	signal(SIGSEGV, on_bad_access);
	signal(SIGBUS, on_bad_access);
	*sim_options(sim) = kinds[sim_below(sim, ARRAY_SIZE(kinds))];
	world_init(&d->world, sim);
	choose_config(d);
	d->world.store_config.segment_size = 4 * MiB;
	d->world.store_config.pool_segments = (uint32_t)ONE_OF(sim, 2, 32, 64, 64, 64, 64);
	d->world.store_config.max_size = max_size ? max_size : 2 * GiB;
	if (sim_options(sim)->is_device)
		sim_file_plant(sim, d->world.store_config.path,
			       (max_size ? max_size : DEVICE_SIZE) - 1, "", 1);
	d->n_volumes = 1 + (unsigned)sim_below(sim, 3);
	for (unsigned i = 0; i < WORLD_VOLUMES; i++)
		d->sizes[i] = choose_size(sim);
}

static void load_end(struct drill *d, unsigned i)
{
	workload_free(d->volumes[i].load);
	d->volumes[i].load = NULL;
}

void drill_free(struct drill *d)
{
	for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
		load_end(d, i);
		snaps_free(d, i);
		oracle_free(d->volumes[i].oracle);
	}
	sim_free(d->sim);
	memset(d, 0, sizeof(*d));
}

/* ---- Up ------------------------------------------------------------------------------ */

/* What a call of the world gave. True: go on; false: the machine is dead. */
static bool went_well(struct drill *d, int r, const char *what, unsigned i)
{
	if (r == -ESHUTDOWN)
		return false;
	if (r < 0)
		sim_fail(d->sim, "%s volume %u: error %d: %s", what, i, r, d->world.err.text);
	return true;
}

static int create(struct drill *d, unsigned i)
{
	struct drill_volume *v = &d->volumes[i];
	int r;

	v->asked = d->sizes[i];
	r = world_create(&d->world, i, v->asked);
	if (r == 0) {
		v->size = v->asked;
		v->asked = 0;
	}
	return r;
}

/* A crash decides between the size that was promised and the one that was asked for. */
static void take_size(struct drill *d, unsigned i)
{
	struct drill_volume *v = &d->volumes[i];
	uint64_t size = block_size(volume_dev(d->world.volumes[i]));

	if (size != v->size && size != v->asked)
		sim_fail(d->sim, "volume %u has %llu bytes, not %llu as promised", i,
			 (unsigned long long)size, (unsigned long long)v->size);
	v->size = size;
	v->asked = 0;
	if (!v->oracle) {
		v->oracle = oracle_new(size / BLOCK_SECTOR, world_volume_id(i).lo);
		if (d->in_crash)
			oracle_crash_begin(v->oracle, ORACLE_KILL);
	}
	if (size / BLOCK_SECTOR > oracle_sectors(v->oracle))
		oracle_grow(v->oracle, size / BLOCK_SECTOR);
}

int drill_open(struct drill *d, unsigned i)
{
	struct drill_volume *v = &d->volumes[i];
	int r = world_open(&d->world, i);

	if (r == -ENOENT) {
		if (v->size)
			sim_fail(d->sim, "volume %u is gone: %s", i, d->world.err.text);
		r = create(d, i);
		if (r == 0)
			r = world_open(&d->world, i);
	}
	if (r == 0)
		take_size(d, i);
	return r;
}

int drill_open_all(struct drill *d)
{
	int r = world_begin(&d->world);

	d->lives++;
	for (unsigned i = 0; i < WORLD_VOLUMES; i++)
		d->bases[i].released = d->bases[i].hydrated = false;
	for (unsigned i = 0; i < d->n_volumes && r == 0; i++)
		r = drill_open(d, i);
	return r;
}

static bool see(struct drill *d, unsigned i)
{
	const char *text;

	switch (workload_verify_crash(d->sim, d->world.loop, volume_dev(d->world.volumes[i]),
				      d->volumes[i].oracle, &text)) {
	case VERIFY_OK:
		return true;
	case VERIFY_DEAD:
		return false;
	case VERIFY_STUCK:
		text = "a read never ends";
		break;
	case VERIFY_WRONG:
		break;
	}
	sim_fail(d->sim, "volume %u after a crash: %s", i, text);
	return true;
}

static bool check_pins(struct drill *d, unsigned i)
{
	const char *text;
	int r = pinned_check(&d->world, i, &text);

	if (r < 0 && r != -ESHUTDOWN)
		sim_fail(d->sim, "volume %u: %s", i, text);
	return r != -ESHUTDOWN;
}

static void check_health(struct drill *d, unsigned i)
{
	struct volume_stats stats;

	volume_stats(d->world.volumes[i], &stats);
	if (stats.health != VOLUME_OK || stats.bad_reads)
		sim_fail(d->sim, "volume %u is not well: health %d, %llu bad reads", i,
			 stats.health, (unsigned long long)stats.bad_reads);
}

bool drill_judge(struct drill *d)
{
	for (unsigned i = 0; i < d->n_volumes; i++) {
		bool ok = d->in_crash ? see(d, i) : drill_verify_live(d, i);

		if (!ok || !check_pins(d, i) || !snaps_judge(d, i) || !drill_walk(d, i))
			return false;
		check_health(d, i);
	}
	d->in_crash = false;
	return true;
}

bool drill_up(struct drill *d)
{
	int r = drill_open_all(d);

	if (r == -ESHUTDOWN)
		return false;
	if (r < 0)
		sim_fail(d->sim, "life %llu does not begin: %s", (unsigned long long)d->lives,
			 d->world.err.text);
	return drill_judge(d);
}

bool drill_look(struct drill *d)
{
	uint64_t points = sim_points(d->sim);
	int r;

	d->world.store_config.read_only = true;
	r = world_begin(&d->world);
	for (unsigned i = 0; i < d->n_volumes && r == 0; i++) {
		r = world_open(&d->world, i);
		if (r == 0 && !drill_walk(d, i))
			return false;
	}
	if (r == 0)
		r = world_end(&d->world);
	d->world.store_config.read_only = false;
	if (sim_points(d->sim) != points)
		sim_fail(d->sim, "a look at a store has changed it");
	return went_well(d, r, "looking at", 0);
}

/* ---- Down ---------------------------------------------------------------------------- */

void drill_end_after(struct drill *d, enum oracle_crash kind, uint64_t k)
{
	if (sim_is_dead(d->sim))
		return;
	d->end = kind;
	if (kind == ORACLE_KILL)
		sim_kill_after(d->sim, k);
	else
		sim_cut_after(d->sim, k);
}

void drill_crash(struct drill *d, enum oracle_crash kind)
{
	if (sim_is_dead(d->sim))
		kind = d->end;
	else if (kind == ORACLE_KILL)
		sim_kill(d->sim);
	else
		sim_cut(d->sim);
	sim_reboot(d->sim);
	for (unsigned i = 0; i < d->n_volumes; i++) {
		load_end(d, i);
		if (d->volumes[i].oracle)
			snaps_crash(d, i);
		if (d->volumes[i].oracle)
			oracle_crash_begin(d->volumes[i].oracle, kind);
	}
	d->in_crash = true;
}

bool drill_close(struct drill *d, unsigned i)
{
	int r;

	if (!drill_rest(d, i))
		return false;
	r = world_close(&d->world, i);
	if (r == 0)
		oracle_closed(d->volumes[i].oracle);
	return d->errors_ok ? r != -ESHUTDOWN : went_well(d, r, "closing", i);
}

bool drill_reopen(struct drill *d, unsigned i)
{
	return went_well(d, world_open(&d->world, i), "opening", i);
}

bool drill_down(struct drill *d)
{
	int r;

	for (unsigned i = 0; i < d->n_volumes; i++)
		if (!drill_close(d, i))
			return false;
	r = world_end(&d->world);
	if (r == -ESHUTDOWN)
		return false;
	if (r < 0 && !d->errors_ok)
		sim_fail(d->sim, "closing the store: error %d", r);
	if (r == 0 && sim_mem_in_use(d->sim))
		sim_fail(d->sim, "%zu allocations were not given back", sim_mem_in_use(d->sim));
	return true;
}

/* ---- Loads --------------------------------------------------------------------------- */

void drill_load(struct drill *d, unsigned i, uint64_t n_ops)
{
	struct workload_options options = {
	    .n_ops = n_ops, .errors_ok = d->errors_ok, .only_error = d->only_error};

	load_end(d, i);
	d->volumes[i].load = workload_start(d->sim, d->world.loop, volume_dev(d->world.volumes[i]),
					    d->volumes[i].oracle, &options);
}

void drill_load_all(struct drill *d, uint64_t n_ops)
{
	for (unsigned i = 0; i < d->n_volumes; i++)
		drill_load(d, i, n_ops);
}

static void check_load(struct drill *d, unsigned i)
{
	const struct workload *load = d->volumes[i].load;

	if (load && workload_failure(load))
		sim_fail(d->sim, "volume %u: %s", i, workload_failure(load));
}

static bool all_over(void *arg)
{
	struct drill *d = arg;

	for (unsigned i = 0; i < d->n_volumes; i++)
		if (d->volumes[i].load && !workload_is_over(d->volumes[i].load))
			return false;
	return true;
}

/* False: dead. */
static bool run(struct drill *d, bool (*cond)(void *arg), void *arg, uint64_t max_steps,
		enum sim_end *ret_end)
{
	*ret_end = sim_run_until(d->sim, cond, arg, max_steps);
	for (unsigned i = 0; i < d->n_volumes; i++)
		check_load(d, i);
	/* Unless the disk has stalled. */
	if (*ret_end == SIM_IDLE && sim_disk_in_flight(d->sim, UINT_MAX) == 0)
		sim_fail(d->sim, "requests never end: nothing is left to happen");
	return *ret_end != SIM_DEAD;
}

bool drill_run(struct drill *d, uint64_t max_steps)
{
	enum sim_end end;

	return run(d, all_over, d, max_steps, &end);
}

bool drill_rest(struct drill *d, unsigned i)
{
	struct workload *load = d->volumes[i].load;
	enum sim_end end;

	if (!load)
		return true;
	workload_stop(load);
	if (!run(d, workload_is_over, load, STEPS_MAX, &end))
		return false;
	if (end != SIM_DONE)
		sim_fail(d->sim, "volume %u: requests never end", i);
	load_end(d, i);
	return true;
}

/* ---- Single operations --------------------------------------------------------------- */

/* True: go on. */
static bool judge_io(struct drill *d, unsigned i, int r, int *ret_error)
{
	if (ret_error)
		*ret_error = r;
	return d->errors_ok || ret_error ? r != -ESHUTDOWN : went_well(d, r, "a request to", i);
}

static bool write_io(struct drill *d, unsigned i, enum block_op op, uint32_t flags, uint64_t offset,
		     uint64_t length, int *ret_error)
{
	struct oracle *oracle = d->volumes[i].oracle;
	uint8_t *buf = op == BLOCK_WRITE ? sim_alloc(length) : NULL;
	uint32_t number = oracle_write_begin(oracle, op, flags & BLOCK_FUA, offset / BLOCK_SECTOR,
					     length / BLOCK_SECTOR, buf);
	int r = world_io(&d->world, i, op, flags, offset, length, buf);

	sim_release(buf);
	if (r != -ESHUTDOWN)
		oracle_write_end(oracle, number, r);
	return judge_io(d, i, r, ret_error);
}

static bool flush_io(struct drill *d, unsigned i, int *ret_error)
{
	uint64_t token = oracle_flush_begin(d->volumes[i].oracle);
	int r = world_io(&d->world, i, BLOCK_FLUSH, 0, 0, 0, NULL);

	if (r != -ESHUTDOWN)
		oracle_flush_end(d->volumes[i].oracle, token, r);
	return judge_io(d, i, r, ret_error);
}

static bool read_io(struct drill *d, unsigned i, uint64_t offset, uint64_t length, int *ret_error)
{
	struct oracle *oracle = d->volumes[i].oracle;
	uint8_t *buf = sim_alloc(length);
	uint64_t token = oracle_read_begin(oracle);
	int r = world_io(&d->world, i, BLOCK_READ, 0, offset, length, buf);

	if (r == 0 &&
	    !oracle_read_end(oracle, token, offset / BLOCK_SECTOR, length / BLOCK_SECTOR, buf))
		sim_fail(d->sim, "volume %u: %s", i, oracle_text(oracle));
	sim_release(buf);
	return judge_io(d, i, r, ret_error);
}

bool drill_io(struct drill *d, unsigned i, enum block_op op, uint32_t flags, uint64_t offset,
	      uint64_t length, int *ret_error)
{
	switch (op) {
	case BLOCK_WRITE:
	case BLOCK_TRIM:
	case BLOCK_WRITE_ZEROES:
		return write_io(d, i, op, flags, offset, length, ret_error);
	case BLOCK_FLUSH:
		return flush_io(d, i, ret_error);
	case BLOCK_READ:
		return read_io(d, i, offset, length, ret_error);
	case BLOCK_CACHE:
	case BLOCK_STATUS:
		break;
	}
	CHECK(!"an operation that a drill knows");
	return false;
}

bool drill_checkpoint(struct drill *d, unsigned i)
{
	int r = world_checkpoint(&d->world, i);

	return d->errors_ok ? r != -ESHUTDOWN : went_well(d, r, "checkpointing", i);
}

bool drill_resize(struct drill *d, unsigned i, uint64_t size)
{
	struct drill_volume *v = &d->volumes[i];
	int r;

	v->asked = size;
	r = world_resize(&d->world, i, size);
	if (r == 0) {
		v->size = size;
		v->asked = 0;
		oracle_grow(v->oracle, size / BLOCK_SECTOR);
	}
	return d->errors_ok ? r != -ESHUTDOWN : went_well(d, r, "resizing", i);
}

bool drill_pin(struct drill *d, unsigned i, unsigned number, bool unpin)
{
	if (unpin)
		return snap_let_go(d, i, number);
	snap_ask(d, i, number);
	return snap_wait(d, i, number);
}

bool drill_verify_live(struct drill *d, unsigned i)
{
	const char *text;

	switch (workload_verify_live(d->sim, d->world.loop, volume_dev(d->world.volumes[i]),
				     d->volumes[i].oracle, &text)) {
	case VERIFY_OK:
		return true;
	case VERIFY_DEAD:
		return false;
	case VERIFY_STUCK:
		text = "a read never ends";
		break;
	case VERIFY_WRONG:
		break;
	}
	sim_fail(d->sim, "volume %u: %s", i, text);
	return true;
}

bool drill_walk(struct drill *d, unsigned i)
{
	int64_t wrong = world_check(&d->world, i);

	if (wrong > 0)
		sim_fail(d->sim, "volume %u: the walk finds %lld things wrong", i,
			 (long long)wrong);
	return went_well(d, wrong < 0 ? (int)wrong : 0, "walking", i);
}
