/* SPDX-License-Identifier: Apache-2.0
 *
 * Checks of volumes in use (E8), by the control plane: they are walked and read, what is wrong is
 * named, and whatever happens to the volume or the daemon meanwhile, nobody is in the way.
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

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/control_world.h"

#define STEPS   UINT64_C(10000000)
#define MESSAGE "HERE IT IS, AND NOWHERE ELSE"

static struct cw world;

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	cw_init(&world, sim_new(11, &options));
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(cw_end(&world), 0);
	assert_int_equal(sim_mem_in_use(world.sim), 0);
	sim_free(world.sim);
	return 0;
}

/* An attached volume with a few blocks. */
static void make(char id[CW_ID], char name[64])
{
	struct export_op *client = NULL;
	uint8_t block[4096] = MESSAGE;

	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	for (uint64_t at = 0; at < 64 * MiB; at += 3 * MiB) {
		block[100] = (uint8_t)(at / MiB);
		assert_int_equal(
		    cw_io(&world, &client->info, BLOCK_WRITE, at, sizeof(block), block), 0);
	}
	cw_release(&world, client);
}

/* ---- A check under way ----------------------------------------------------------------- */

struct checking {
	struct control_op op;
	bool done;
};

static void on_check(struct control_op *op)
{
	container_of(op, struct checking, op)->done = true;
}

static struct checking *begin(bool deep)
{
	struct checking *c = mem_alloc(sizeof(*c));

	CHECK(c);
	c->op =
	    (struct control_op){.kind = CONTROL_CHECK, .check = {.deep = deep}, .done = on_check};
	control_submit(world.control, &c->op);
	return c;
}

static void wait_for(struct checking *c)
{
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &c->done, STEPS), SIM_DONE);
}

static void end(struct checking *c)
{
	control_op_release(&c->op);
	mem_free(c);
}

/* To its end; what it found, in words. */
static struct control_check check(bool deep, char ret_finding[200])
{
	struct checking *c = begin(deep);
	struct control_check result;

	wait_for(c);
	assert_null(c->op.error.code);
	result = *c->op.result.checked;
	ret_finding[0] = '\0';
	if (result.n_findings)
		snprintf(ret_finding, 200, "%s", result.findings[0]);
	end(c);
	return result;
}

/* ---- Tests ----------------------------------------------------------------------------- */

static void attached_is_walked(void **state)
{
	struct control_check result;
	char finding[200];
	char other[CW_ID];
	char id[CW_ID];
	char name[64];

	(void)state;
	make(id, name);
	assert_int_equal(cw_create(&world, 16 * MiB, NULL, other), 0);
	for (unsigned deep = 0; deep < 2; deep++) {
		result = check(deep, finding);
		if (result.n_wrong)
			fail_msg("%s", finding);
		assert_int_equal(result.n_volumes, 2);
		assert_int_equal(result.n_in_use, 1);
		assert_int_equal(result.n_skipped, 0);
	}
	assert_int_equal(cw_detach(&world, id, false), 0);
	result = check(true, finding);
	assert_int_equal(result.n_in_use, 0);
	assert_int_equal(result.n_wrong, 0);
}

/* Rots what the blocks' first page holds on disk, of each place. */
static unsigned rot(uint8_t tag)
{
	const char *path = "store";
	uint8_t block[4096];
	unsigned n = 0;

	for (uint64_t at = 0; at < sim_file_size(world.sim, path); at += sizeof(block)) {
		sim_file_peek(world.sim, path, at, block, sizeof(block));
		if (memcmp(block, MESSAGE, strlen(MESSAGE)) != 0 || block[100] != tag)
			continue;
		sim_file_rot(world.sim, path, at, sizeof(block));
		n++;
	}
	return n;
}

/* A block that nobody reads, by volume and LBA; not deep, only the counters are looked at. */
static void damage_is_named(void **state)
{
	struct control_check result;
	char finding[200];
	char id[CW_ID];
	char name[64];

	(void)state;
	make(id, name);
	assert_int_equal(check(true, finding).n_wrong, 0);
	assert_int_equal(rot(6), 1);
	result = check(false, finding);
	assert_int_equal(result.n_wrong, 0);
	result = check(true, finding);
	assert_int_equal(result.n_wrong, 1);
	if (!strstr(finding, id) || !strstr(finding, "blocks 1536 to 1536: its checksum is wrong"))
		fail_msg("%s", finding);
}

/* What goes on beside a check, from each of its steps on. */
static void beside(void (*what)(const char *id, struct checking *c), bool deep, uint64_t stride)
{
	bool done = false;

	for (uint64_t k = 1; !done; k += stride) {
		struct checking *c;
		char id[CW_ID];
		char name[64];

		make(id, name);
		c = begin(deep);
		done = sim_run_until(world.sim, sim_flag_is_set, &c->done, k) == SIM_DONE;
		what(id, c);
	}
}

static unsigned n_cut_short;

static void clean(struct checking *c)
{
	wait_for(c);
	assert_null(c->op.error.code);
	n_cut_short += c->op.result.checked->n_skipped > 0;
	if (c->op.result.checked->n_wrong)
		fail_msg("%s", c->op.result.checked->findings[0]);
	end(c);
}

/* The check ends, and nothing is left of the volume. */
static void detach_and_delete(const char *id, struct checking *c)
{
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_int_equal(cw_delete(&world, id), 0);
	clean(c);
	assert_int_equal(cw_settle(&world), 0);
	assert_int_equal(cw_objects(&world), 0);
}

static void a_volume_is_deleted_meanwhile(void **state)
{
	(void)state;
	n_cut_short = 0;
	beside(detach_and_delete, false, 1);
	assert_true(n_cut_short > 0);
	n_cut_short = 0;
	beside(detach_and_delete, true, 3);
	assert_true(n_cut_short > 0);
}

static void detach_and_attach(const char *id, struct checking *c)
{
	char name[64];

	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resize(&world, id, 96 * MiB), 0);
	clean(c);
	detach_and_delete(id, begin(false));
}

static void a_volume_is_detached_meanwhile(void **state)
{
	(void)state;
	beside(detach_and_attach, false, 11);
	beside(detach_and_attach, true, 31);
}

/* It is closed by the check, if nobody else needs it then. */
static void detach_alone(const char *id, struct checking *c)
{
	assert_int_equal(cw_detach(&world, id, false), 0);
	clean(c);
	assert_int_equal(cw_settle(&world), 0);
	assert_int_equal(check(false, (char[200]){0}).n_in_use, 0);
	assert_int_equal(cw_delete(&world, id), 0);
	assert_int_equal(cw_settle(&world), 0);
	assert_int_equal(cw_objects(&world), 0);
}

static void the_check_closes_what_is_left(void **state)
{
	(void)state;
	beside(detach_alone, false, 11);
	beside(detach_alone, true, 31);
}

/* Within a second, whatever there is to read. */
static void the_daemon_stops_meanwhile(void **state)
{
	n_cut_short = 0;
	for (unsigned deep = 0; deep < 2; deep++) {
		bool done = false;

		for (uint64_t k = 1; !done; k += 13) {
			struct checking *c;
			uint64_t began;
			char id[CW_ID];
			char name[64];

			setup(state);
			make(id, name);
			c = begin(deep);
			done = sim_run_until(world.sim, sim_flag_is_set, &c->done, k) == SIM_DONE;
			began = sim_time(world.sim);
			assert_int_equal(cw_end(&world), 0);
			assert_true(c->done);
			assert_true(sim_time(world.sim) - began < NSEC_PER_SEC);
			n_cut_short += c->op.error.code || c->op.result.checked->n_skipped > 0;
			end(c);
			assert_int_equal(cw_begin(&world), 0);
			assert_int_equal(check(true, (char[200]){0}).n_wrong, 0);
			teardown(state);
		}
	}
	assert_true(n_cut_short > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(attached_is_walked),
	    TEST(damage_is_named),
	    TEST(a_volume_is_deleted_meanwhile),
	    TEST(a_volume_is_detached_meanwhile),
	    TEST(the_check_closes_what_is_left),
	    cmocka_unit_test(the_daemon_stops_meanwhile),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
