/* SPDX-License-Identifier: Apache-2.0
 *
 * Many volumes on one loop: a volume with queue depth 1 keeps at least half of its lone IOPS
 * divided by the number of busy volumes, whatever the others do. Time is the machine's: its disk
 * has a queue, works on five requests at a time, and serves them as they come.
 */
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOLUMES_MAX 64
#define SIZE        (8 * GiB)
#define DATA        (4 * MiB) /* written at the start of each, that reads find something */
#define STEPS_MAX   50000000
#define WARM_UP     (40 * NSEC_PER_MSEC)
#define MEASURED    (200 * NSEC_PER_MSEC)

struct load {
	enum block_op op;
	uint32_t flags;
	uint64_t length;
	unsigned depth;
};

struct client;

struct slot {
	struct block_req req;
	struct client *client;
	uint64_t asked_at;
};

struct client {
	struct volume *volume;
	struct load load;
	struct slot *slots;
	uint8_t *memory;
	uint64_t answered;
	uint64_t slowest; /* ns */
	unsigned in_flight;
	bool stopped;
};

static struct world world;
static struct client clients[VOLUMES_MAX];
static unsigned n_clients;
static struct engine_load *world_loads; /* of two loops; NULL: there is one */
static uint64_t reads_room = DATA;
static uint64_t map_memory; /* of the next world; 0: the default */

struct call {
	struct volume_op op;
	bool done;
};

static void on_call(struct volume_op *op)
{
	container_of(op, struct call, op)->done = true;
}

static void wait_for(bool *flag)
{
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, flag, STEPS_MAX), SIM_DONE);
}

/* Any operation of a volume, to its end. */
static struct volume *volume_do(void (*start)(struct volume_op *op), unsigned i, struct volume *v,
				bool *ret_more)
{
	struct call call = {.op = {.engine = world.engine,
				   .id = world_volume_id(i),
				   .size = SIZE,
				   .volume = v,
				   .done = on_call}};

	start(&call.op);
	wait_for(&call.done);
	if (call.op.err.code)
		fail_msg("volume %u: %s", i, call.op.err.text);
	if (ret_more)
		*ret_more = call.op.more;
	return call.op.volume;
}

static void slot_start(struct slot *slot);

static void on_answer(struct block_req *req)
{
	struct slot *slot = container_of(req, struct slot, req);
	struct client *c = slot->client;

	assert_int_equal(req->error, 0);
	c->answered++;
	c->in_flight--;
	c->slowest = max_u64(c->slowest, sim_time(world.sim) - slot->asked_at);
	if (!c->stopped)
		slot_start(slot);
}

static void slot_start(struct slot *slot)
{
	struct client *c = slot->client;
	uint64_t room = c->load.op == BLOCK_READ ? reads_room : SIZE / 2;

	slot->req.op = c->load.op;
	slot->req.flags = c->load.flags;
	slot->req.length = c->load.length;
	slot->req.offset = 0;
	if (c->load.length < room)
		slot->req.offset =
		    round_down(sim_below(world.sim, room - c->load.length), BLOCK_SIZE);
	slot->req.done = on_answer;
	slot->asked_at = sim_time(world.sim);
	c->in_flight++;
	block_submit(volume_dev(c->volume), &slot->req);
}

static bool has_data(const struct load *load)
{
	return load->op == BLOCK_READ || load->op == BLOCK_WRITE;
}

/* Requests of reads have memory of their own, writes may share it. */
static size_t memory_size(const struct load *load)
{
	if (!has_data(load))
		return BLOCK_SIZE;
	return load->length * (load->op == BLOCK_READ ? load->depth : 1);
}

static void client_start(struct client *c, const struct load *load)
{
	c->load = *load;
	c->stopped = false;
	c->answered = 0;
	c->slowest = 0;
	c->slots = calloc(load->depth, sizeof(*c->slots));
	assert_int_equal(posix_memalign((void **)&c->memory, 4096, memory_size(load)), 0);
	memset(c->memory, 7, memory_size(load));
	for (unsigned i = 0; i < load->depth; i++) {
		struct slot *slot = &c->slots[i];

		slot->client = c;
		slot->req.buf = has_data(load)
				    ? c->memory + (load->op == BLOCK_READ ? i * load->length : 0)
				    : NULL;
		slot_start(slot);
	}
}

static bool has_ended(void *arg)
{
	return ((struct client *)arg)->in_flight == 0;
}

static void client_stop(struct client *c)
{
	c->stopped = true;
	assert_int_equal(sim_run_until(world.sim, has_ended, c, STEPS_MAX), SIM_DONE);
	free(c->slots);
	free(c->memory);
	c->slots = NULL;
	c->memory = NULL;
}

static bool is_time(void *arg)
{
	return sim_time(world.sim) >= *(uint64_t *)arg;
}

static void run_for(uint64_t ns)
{
	uint64_t until = sim_time(world.sim) + ns;

	assert_int_equal(sim_run_until(world.sim, is_time, &until, STEPS_MAX), SIM_DONE);
}

/* What the client is answered in the time that is measured. */
static uint64_t measure(struct client *c)
{
	uint64_t before;

	run_for(WARM_UP);
	before = c->answered;
	c->slowest = 0;
	run_for(MEASURED);
	return c->answered - before;
}

static void begin(unsigned n)
{
	struct sim_options options = {
	    .alignment = 4096, .channels = 5, .op_ns = 80000, .page_ns = 4000};
	struct load fill = {BLOCK_WRITE, 0, DATA, 1};

	world_init(&world, sim_new(11, &options));
	world.store_config.segment_size = 8 * MiB;
	world.config.map_memory = map_memory;
	world.config.loads = world_loads;
	world.config.n_loads = world_loads ? 2 : 0;
	assert_int_equal(world_begin(&world), 0);
	n_clients = n;
	for (unsigned i = 0; i < n; i++) {
		struct client *c = &clients[i];
		memset(c, 0, sizeof(*c));
		volume_do(volume_create, i, NULL, NULL);
		c->volume = volume_do(volume_open, i, NULL, NULL);
		client_start(c, &fill);
		c->slots->req.offset = 0;
		client_stop(c);
	}
}

static void end(void)
{
	for (unsigned i = 0; i < n_clients; i++)
		if (clients[i].volume)
			volume_do(volume_close, i, clients[i].volume, NULL);
	assert_int_equal(world_end(&world), 0);
	sim_free(world.sim);
	map_memory = 0;
}

/* Volume 0 with queue depth 1, alone, and beside `others` with that load. */
static void keeps_its_share(const char *what, const struct load *its, unsigned others,
			    const struct load *theirs)
{
	uint64_t alone;
	uint64_t beside;
	uint64_t done = 0;

	begin(others + 1);
	client_start(&clients[0], its);
	alone = measure(&clients[0]);
	for (unsigned i = 1; i <= others; i++)
		client_start(&clients[i], theirs);
	beside = measure(&clients[0]);
	for (unsigned i = 1; i <= others; i++)
		done += clients[i].answered;
	print_message("# %s: alone %llu, beside %u others %llu (%.2f of its share), theirs %llu\n",
		      what, (unsigned long long)alone, others, (unsigned long long)beside,
		      (double)beside * (others + 1) / (double)alone, (unsigned long long)done);
	assert_true(alone > 100);
	assert_true(done > 0);
	assert_true(beside * 2 * (others + 1) >= alone);
	for (unsigned i = 0; i <= others; i++)
		client_stop(&clients[i]);
	end();
}

static const struct load read_one = {BLOCK_READ, 0, 4096, 1};
static const struct load write_one = {BLOCK_WRITE, 0, 4096, 1};
static const struct load reads_32 = {BLOCK_READ, 0, 4096, 32};
static const struct load reads_128 = {BLOCK_READ, 0, 4096, 128};
static const struct load reads_6000 = {BLOCK_READ, 0, 4096, 6000};
static const struct load reads_mib = {BLOCK_READ, 0, MiB, 8};
static const struct load reads_large = {BLOCK_READ, 0, DATA, 8};
static const struct load writes_32 = {BLOCK_WRITE, 0, 4096, 32};
static const struct load writes_128 = {BLOCK_WRITE, 0, 4096, 128};
static const struct load writes_mib = {BLOCK_WRITE, 0, MiB, 32};
static const struct load writes_large = {BLOCK_WRITE, 0, 32 * MiB, 4};
static const struct load trims = {BLOCK_TRIM, 0, 4 * GiB - MiB, 32};

#define BOTH(name, others, theirs)                                                                 \
	static void name(void **state)                                                             \
	{                                                                                          \
		(void)state;                                                                       \
		keeps_its_share("reads", &read_one, others, &theirs);                              \
		keeps_its_share("writes", &write_one, others, &theirs);                            \
	}

static void large_requests_count_too(void **state)
{
	static const struct load its[] = {{BLOCK_READ, 0, 128 * KiB, 1},
					  {BLOCK_WRITE, 0, 128 * KiB, 1},
					  {BLOCK_READ, 0, MiB, 1},
					  {BLOCK_WRITE, 0, MiB, 1}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(its); i++) {
		keeps_its_share("large against reads", &its[i], 1, &reads_128);
		keeps_its_share("large against many reads", &its[i], 15, &reads_128);
		keeps_its_share("large against writes", &its[i], 1, &writes_128);
		keeps_its_share("large against large writes", &its[i], 3, &writes_mib);
	}
}

BOTH(one_reads_at_32, 1, reads_32)
BOTH(one_reads_at_128, 1, reads_128)
BOTH(seven_read_at_128, 7, reads_128)
BOTH(many_read_at_32, 63, reads_32)
BOTH(many_read_at_128, 63, reads_128)
BOTH(one_writes_at_32, 1, writes_32)
BOTH(one_writes_at_128, 1, writes_128)
BOTH(seven_write_at_128, 7, writes_128)
BOTH(many_write_at_128, 63, writes_128)
BOTH(one_reads_mib, 1, reads_mib)
BOTH(seven_read_mib, 7, reads_mib)
BOTH(one_reads_large, 1, reads_large)
BOTH(one_writes_mib, 1, writes_mib)
BOTH(seven_write_mib, 7, writes_mib)
BOTH(one_writes_large, 1, writes_large)
BOTH(seven_trim, 7, trims)
BOTH(one_takes_all_ops, 1, reads_6000)

/* The memory of overlays is all in use, and checkpoints make room for it. */
static void overlays_are_shared(void **state)
{
	(void)state;
	map_memory = 4 * MiB;
	keeps_its_share("writes, small memory", &write_one, 1, &writes_128);
	if (!getenv("SOAK"))
		return;
	map_memory = 4 * MiB;
	keeps_its_share("writes, small memory", &write_one, 7, &writes_128);
}

/* Every read needs a page of the map that is not in memory. */
static void map_loads_are_shared(void **state)
{
	struct load far = {BLOCK_READ, 0, 4096, 1};
	struct load far_128 = {BLOCK_READ, 0, 4096, 128};
	uint64_t alone;
	uint64_t beside;

	(void)state;
	map_memory = MiB;
	begin(2);
	for (unsigned i = 0; i < 2; i++) {
		struct load fill = {BLOCK_WRITE, 0, 4096, 128};

		client_start(&clients[i], &fill);
		measure(&clients[i]);
		client_stop(&clients[i]);
		volume_do(volume_checkpoint, i, clients[i].volume, NULL);
	}
	reads_room = SIZE / 2;
	client_start(&clients[0], &far);
	alone = measure(&clients[0]);
	client_start(&clients[1], &far_128);
	beside = measure(&clients[0]);
	print_message("# cold reads: alone %llu, beside %llu\n", (unsigned long long)alone,
		      (unsigned long long)beside);
	assert_true(alone > 100 && beside * 4 >= alone);
	client_stop(&clients[0]);
	client_stop(&clients[1]);
	reads_room = DATA;
	end();
}

/* A lone volume is bound by nothing: as many requests are with the disk as it has. */
static unsigned most_reads;

static enum sim_fate count_reads(void *arg, struct sim_disk_op *op)
{
	(void)arg;
	if (op->kind == SIM_READ)
		most_reads =
		    (unsigned)max_u64(most_reads, sim_disk_in_flight(world.sim, SIM_READ) + 1);
	return SIM_PROCEED;
}

static void a_lone_volume_is_not_bound(void **state)
{
	(void)state;
	begin(2);
	most_reads = 0;
	sim_disk_hook(world.sim, count_reads, NULL);
	client_start(&clients[0], &reads_128);
	measure(&clients[0]);
	client_stop(&clients[0]);
	assert_true(most_reads >= 120);
	end();
}

/* Other loops have the same disk: a volume of theirs with little to do counts as one of ours, as
 * long as they say so. */
static void other_loops_count(void **state)
{
	struct engine_load loads[2] = {{0}};

	(void)state;
	world_loads = loads;
	begin(1);
	sim_disk_hook(world.sim, count_reads, NULL);
	loads[1].until = UINT64_MAX;
	loads[1].n_busy = 1;
	client_start(&clients[0], &reads_128);
	run_for(WARM_UP);
	most_reads = 0;
	run_for(MEASURED);
	assert_in_range(most_reads, 2, 4);
	assert_int_equal(loads[0].n_busy, 1);
	assert_int_equal(loads[0].n_deep, 1);
	loads[1].n_deep = 1;
	run_for(MEASURED);
	assert_true(most_reads >= 120);
	loads[1].n_deep = 0;
	loads[1].until = 1;
	most_reads = 0;
	run_for(MEASURED);
	assert_true(most_reads >= 120);
	client_stop(&clients[0]);
	end();
	world_loads = NULL;
}

/* Nor are two that both want much, for there is nobody to be protected. */
static void equals_are_not_bound(void **state)
{
	uint64_t alone;
	uint64_t both;

	(void)state;
	begin(2);
	client_start(&clients[0], &reads_128);
	alone = measure(&clients[0]);
	client_start(&clients[1], &reads_128);
	both = measure(&clients[0]);
	print_message("# alone %llu, beside its like %llu\n", (unsigned long long)alone,
		      (unsigned long long)both);
	assert_true(both * 10 >= alone * 4);
	assert_true(both * 10 <= alone * 6);
	client_stop(&clients[0]);
	client_stop(&clients[1]);
	end();
}

static unsigned n_syncs;

static enum sim_fate count_syncs(void *arg, struct sim_disk_op *op)
{
	n_syncs += op->kind == SIM_SYNC;
	return op->kind == SIM_SYNC && arg ? SIM_STALL : SIM_PROCEED;
}

/* Group commit: those who wait while a sync runs share the next, those of other volumes too. */
static void flushes_share_a_sync(void **state)
{
	struct load writes = {BLOCK_WRITE, BLOCK_FUA, 4096, 32};
	uint64_t done = 0;

	(void)state;
	begin(4);
	n_syncs = 0;
	sim_disk_hook(world.sim, count_syncs, NULL);
	for (unsigned i = 0; i < 4; i++)
		client_start(&clients[i], &writes);
	measure(&clients[0]);
	for (unsigned i = 0; i < 4; i++) {
		done += clients[i].answered;
		assert_true(clients[i].answered > 32);
	}
	print_message("# %llu answers, %u syncs\n", (unsigned long long)done, n_syncs);
	assert_true(n_syncs * 16 <= done);
	for (unsigned i = 0; i < 4; i++)
		client_stop(&clients[i]);
	end();
}

/* While a sync takes its time, reads and plain writes go on, of the same volume too. */
static void a_flush_stalls_nobody(void **state)
{
	struct slot flush = {.client = &clients[0], .req = {.op = BLOCK_FLUSH, .done = on_answer}};
	struct client flusher = {.stopped = true, .in_flight = 1};

	(void)state;
	begin(2);
	flush.client = &flusher;
	client_start(&clients[1], &write_one);
	measure(&clients[1]);
	client_stop(&clients[1]);
	sim_disk_hook(world.sim, count_syncs, &world);
	n_syncs = 0;
	block_submit(volume_dev(clients[1].volume), &flush.req);
	client_start(&clients[0], &write_one);
	client_start(&clients[1], &read_one);
	run_for(20 * NSEC_PER_MSEC);
	assert_true(clients[0].answered > 100 && clients[1].answered > 100);
	client_stop(&clients[1]);
	client_start(&clients[1], &write_one);
	run_for(20 * NSEC_PER_MSEC);
	assert_true(clients[1].answered > 100);
	client_stop(&clients[0]);
	client_stop(&clients[1]);
	assert_true(n_syncs > 0);
	assert_int_equal(flusher.in_flight, 1);
	sim_disk_hook(world.sim, NULL, NULL);
	sim_release_stalled(world.sim);
	assert_int_equal(sim_run_until(world.sim, has_ended, &flusher, STEPS_MAX), SIM_DONE);
	end();
}

/* A lone reader beside volumes that are made, filled, deleted: no request waits long, and all space
 * comes back. */
static void making_and_deleting_disturb_nobody(void **state)
{
	struct load fill = {BLOCK_WRITE, 0, 32 * MiB, 2};
	uint64_t slowest;
	uint64_t capacity;
	uint64_t before = 0;
	uint64_t after;

	(void)state;
	begin(2);
	client_start(&clients[0], &read_one);
	measure(&clients[0]);
	slowest = clients[0].slowest;
	for (unsigned round = 0; round < 5; round++) {
		bool more = true;

		client_start(&clients[1], &fill);
		measure(&clients[1]);
		client_stop(&clients[1]);
		volume_do(volume_close, 1, clients[1].volume, NULL);
		clients[0].slowest = 0;
		while (more)
			volume_do(volume_delete, 1, NULL, &more);
		world.store->ops->space(world.store, &capacity, &after);
		assert_true(round == 0 || after == before);
		before = after;
		volume_do(volume_create, 1, NULL, NULL);
		clients[1].volume = volume_do(volume_open, 1, NULL, NULL);
		print_message("# slowest read: alone %llu ns, beside a deletion %llu ns\n",
			      (unsigned long long)slowest, (unsigned long long)clients[0].slowest);
		assert_true(clients[0].slowest < slowest * 5);
	}
	client_stop(&clients[0]);
	end();
}

int main(void)
{
	/* Under sanitizers (Makefile): what has each path once, and takes seconds. */
	const struct CMUnitTest few[] = {
	    cmocka_unit_test(one_reads_at_128),  cmocka_unit_test(one_writes_at_32),
	    cmocka_unit_test(one_writes_large),  cmocka_unit_test(map_loads_are_shared),
	    cmocka_unit_test(one_takes_all_ops), cmocka_unit_test(a_flush_stalls_nobody),
	    cmocka_unit_test(other_loops_count),
	};
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_reads_at_32),
	    cmocka_unit_test(one_reads_at_128),
	    cmocka_unit_test(seven_read_at_128),
	    cmocka_unit_test(many_read_at_32),
	    cmocka_unit_test(many_read_at_128),
	    cmocka_unit_test(one_writes_at_32),
	    cmocka_unit_test(one_writes_at_128),
	    cmocka_unit_test(seven_write_at_128),
	    cmocka_unit_test(many_write_at_128),
	    cmocka_unit_test(one_reads_mib),
	    cmocka_unit_test(seven_read_mib),
	    cmocka_unit_test(one_reads_large),
	    cmocka_unit_test(one_writes_mib),
	    cmocka_unit_test(seven_write_mib),
	    cmocka_unit_test(one_writes_large),
	    cmocka_unit_test(seven_trim),
	    cmocka_unit_test(large_requests_count_too),
	    cmocka_unit_test(overlays_are_shared),
	    cmocka_unit_test(map_loads_are_shared),
	    cmocka_unit_test(one_takes_all_ops),
	    cmocka_unit_test(flushes_share_a_sync),
	    cmocka_unit_test(a_flush_stalls_nobody),
	    cmocka_unit_test(making_and_deleting_disturb_nobody),
	    cmocka_unit_test(a_lone_volume_is_not_bound),
	    cmocka_unit_test(other_loops_count),
	    cmocka_unit_test(equals_are_not_bound),
	};

	if (getenv("SIM_STRIDE"))
		return cmocka_run_group_tests(few, NULL, NULL);
	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
