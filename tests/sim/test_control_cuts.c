/* SPDX-License-Identifier: Apache-2.0
 *
 * One loop for each operation of the control plane, over catalog and log on one disk: the power
 * goes (or the process dies) after the 1st, 2nd, 3rd ... point of it, until it completes uncut;
 * each time the next life starts and is judged. No volume is lost, leaked or attached twice; the
 * full check is clean; what was answered is so; what was written is there; and the operation, asked
 * for again, succeeds. Every third start is cut as well, somewhere.
 *
 * SIM_TEST=detach runs one loop; SIM_K=17 only its 17th cut, SIM_STRIDE=5 each fifth.
 */
#include "base/util.h"
#include "tests/sim/control_world.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define K_MAX 5000
#define SIZE  (64 * MiB)
#define GROWN (96 * MiB)
#define TOKEN "the only one"

/* What the clients know. */
struct model {
	struct cw world;
	char disk[CW_ID];  /* the volume that the operation is about */
	char other[CW_ID]; /* one that nothing happens to: attached to a guest, written */
	char guest[CW_ID];
	char disk_export[64]; /* of the attachment before the operation; "": none */
	char other_export[64];
	char new_export[64];      /* that the operation answered */
	struct export_op *client; /* of the disk, holding on; NULL: none */
	int answer;               /* -ESHUTDOWN: there was none */
};

struct loop {
	bool attached; /* the disk is, when it begins */
	bool client;   /* and somebody is connected to it */
	bool has_disk; /* there is one before */
	int (*act)(struct model *m);
	void (*judge)(struct model *m, const struct control_volume *disk); /* NULL: it is gone */
};

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : 0;
}

/* ---- The state before -------------------------------------------------------------- */

static const uint8_t *filled(unsigned seed)
{
	static uint8_t pattern[8192];

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)hash_u64(seed * 100000 + i);
	return pattern;
}

static void must(struct model *m, int r, const char *what)
{
	if (r != 0)
		sim_fail(m->world.sim, "%s: %d %s", what, r, m->world.err.text);
}

static void write_by_name(struct model *m, const char *name, unsigned seed)
{
	struct export_op *client = NULL;

	must(m, cw_resolve(&m->world, name, true, true, &client), "resolving");
	must(m,
	     cw_io(&m->world, &client->info, BLOCK_WRITE, 4096, 8192,
		   (void *)(uintptr_t)filled(seed)),
	     "writing");
	cw_release(&m->world, client);
}

static void read_by_name(struct model *m, const char *name, unsigned seed)
{
	struct export_op *client = NULL;
	uint8_t got[8192];

	must(m, cw_resolve(&m->world, name, true, true, &client), "resolving");
	must(m, cw_io(&m->world, &client->info, BLOCK_READ, 4096, sizeof(got), got), "reading");
	if (memcmp(got, filled(seed), sizeof(got)) != 0)
		sim_fail(m->world.sim, "what was written durably is not there");
	cw_release(&m->world, client);
}

/* The same for each k, so that the operation has the same points. */
static void prepare(struct model *m, const struct loop *loop, uint64_t seed)
{
	const struct sim_options options = {.alignment = seed % 2 ? 4096 : 512};

	memset(m, 0, sizeof(*m));
	cw_init(&m->world, sim_new(seed, &options));
	must(m, cw_begin(&m->world), "the first start");
	must(m, cw_register(&m->world, m->guest), "register");
	must(m, cw_create(&m->world, SIZE, NULL, m->other), "create");
	must(m, cw_attach(&m->world, m->other, m->guest, m->other_export), "attach");
	write_by_name(m, m->other_export, 1);
	if (!loop->has_disk)
		return;
	must(m, cw_create(&m->world, SIZE, TOKEN, m->disk), "create");
	must(m, cw_attach(&m->world, m->disk, NULL, m->disk_export), "attach");
	write_by_name(m, m->disk_export, 2);
	if (loop->client)
		must(m, cw_resolve(&m->world, m->disk_export, true, true, &m->client), "resolving");
	if (loop->attached)
		return;
	must(m, cw_detach(&m->world, m->disk, false), "detach");
}

/* ---- The judge --------------------------------------------------------------------- */

/* Nothing is half done any more. */
static void come_to_rest(struct model *m)
{
	struct cw_list list;
	bool busy = true;

	for (unsigned i = 0; busy && i < 1000; i++) {
		busy = false;
		must(m, cw_list(&m->world, &list, false), "list");
		for (unsigned k = 0; k < list.n; k++)
			busy |= strcmp(list.volumes[k].state, "deleting") == 0 ||
				strcmp(list.volumes[k].state, "creating") == 0;
		control_op_release(&list.op);
		sim_run_until(m->world.sim, NULL, NULL, 300);
	}
	if (busy)
		sim_fail(m->world.sim, "a volume stays half made, or half deleted");
}

static void judge(struct model *m, const struct loop *loop)
{
	struct cw_list list;
	const struct control_volume *disk = NULL;
	unsigned n_unknown = 0;

	come_to_rest(m);
	must(m, cw_list(&m->world, &list, false), "list");
	for (unsigned i = 0; i < list.n; i++) {
		if (strcmp(list.volumes[i].id, m->other) == 0)
			continue;
		disk = &list.volumes[i];
		n_unknown += loop->has_disk && strcmp(disk->id, m->disk) != 0;
	}
	sim_assert(m->world.sim, n_unknown == 0);
	sim_assert(m->world.sim, list.n == 1 + (disk != NULL));
	sim_assert(m->world.sim, cw_find(&list, m->other));
	if (cw_objects(&m->world) != list.n)
		sim_fail(m->world.sim, "%u objects in the store, %u volumes in the catalog: %s %s",
			 cw_objects(&m->world), list.n, disk ? disk->state : "",
			 disk ? disk->error_text : "");
	if (loop->has_disk && !disk)
		sim_assert(m->world.sim, cw_segments(&m->world, m->disk) == 0);
	must(m, cw_check(&m->world), "check");
	read_by_name(m, m->other_export, 1);
	loop->judge(m, disk);
	control_op_release(&list.op);
	come_to_rest(m);
	must(m, cw_check(&m->world), "check");
}

/* A name of the disk is served if `served`. */
static void name_is(struct model *m, const char *name, bool served)
{
	int r = cw_resolve(&m->world, name, true, false, NULL);

	if (r != (served ? 0 : -ENOENT))
		sim_fail(m->world.sim, "the export is %s: %d", served ? "not served" : "served", r);
}

/* It is either available, and no name of it is served, or in use under `name`. False: not in use.
 */
static bool is_in_use(struct model *m, const struct control_volume *disk, const char *name)
{
	bool in_use = strcmp(disk->state, "in-use") == 0;

	sim_assert(m->world.sim, in_use || strcmp(disk->state, "available") == 0);
	sim_assert(m->world.sim, disk->n_attachments == (in_use ? 1 : 0));
	name_is(m, disk->id, in_use);
	if (name[0])
		name_is(m, name, in_use);
	return in_use;
}

/* Attaches the disk if need be: what was written is there. */
static void data_is_there(struct model *m, const struct control_volume *disk)
{
	char name[64];

	if (strcmp(disk->state, "in-use") != 0)
		must(m, cw_attach(&m->world, disk->id, NULL, name), "attach");
	read_by_name(m, disk->id, 2);
}

/* ---- The operations ---------------------------------------------------------------- */

static int act_create(struct model *m)
{
	return cw_create(&m->world, SIZE, TOKEN, m->disk);
}

static void judge_create(struct model *m, const struct control_volume *disk)
{
	char again[CW_ID];
	char name[64];

	if (m->answer == 0)
		sim_assert(m->world.sim, disk && strcmp(disk->id, m->disk) == 0);
	sim_assert(m->world.sim, !disk || strcmp(disk->state, "available") == 0);
	must(m, cw_create(&m->world, SIZE, TOKEN, again), "create with the same token");
	sim_assert(m->world.sim, !disk || strcmp(disk->id, again) == 0);
	sim_assert(m->world.sim, cw_objects(&m->world) == 2);
	must(m, cw_attach(&m->world, again, NULL, name), "attach");
	write_by_name(m, name, 2);
}

static int act_delete(struct model *m)
{
	int r = cw_delete(&m->world, m->disk);

	/* Its space comes back behind the answer. */
	if (r == 0 && sim_run_until(m->world.sim, NULL, NULL, 3000) == SIM_DEAD)
		return 0;
	return r;
}

static void judge_delete(struct model *m, const struct control_volume *disk)
{
	if (m->answer == 0)
		sim_assert(m->world.sim, !disk);
	if (!disk)
		return;
	data_is_there(m, disk);
	must(m, cw_detach(&m->world, m->disk, false), "detach");
	must(m, cw_delete(&m->world, m->disk), "delete");
	come_to_rest(m);
	sim_assert(m->world.sim, cw_segments(&m->world, m->disk) == 0);
	sim_assert(m->world.sim, cw_objects(&m->world) == 1);
}

static int act_resize(struct model *m)
{
	return cw_resize(&m->world, m->disk, GROWN);
}

static void judge_resize(struct model *m, const struct control_volume *disk)
{
	struct export_op *client = NULL;

	sim_assert(m->world.sim, disk && (disk->size == SIZE || disk->size == GROWN));
	if (m->answer == 0)
		sim_assert(m->world.sim, disk->size == GROWN);
	data_is_there(m, disk);
	must(m, cw_resolve(&m->world, m->disk, true, true, &client), "resolving");
	sim_assert(m->world.sim, client->info.size == disk->size);
	cw_release(&m->world, client);
	must(m, cw_resize(&m->world, m->disk, GROWN), "resize");
}

static int act_attach(struct model *m)
{
	return cw_attach(&m->world, m->disk, NULL, m->new_export);
}

static void judge_attach(struct model *m, const struct control_volume *disk)
{
	bool in_use;

	sim_assert(m->world.sim, disk);
	in_use = is_in_use(m, disk, m->new_export);
	if (m->answer == 0)
		sim_assert(m->world.sim, in_use);
	name_is(m, m->disk_export, false); /* the one before */
	data_is_there(m, disk);
	must(m, cw_detach(&m->world, m->disk, false), "detach");
	name_is(m, m->disk, false);
}

static int act_detach(struct model *m)
{
	return cw_detach(&m->world, m->disk, false);
}

static int act_force_detach(struct model *m)
{
	return cw_detach(&m->world, m->disk, true);
}

static void judge_detach(struct model *m, const struct control_volume *disk)
{
	bool in_use;

	sim_assert(m->world.sim, disk);
	in_use = is_in_use(m, disk, m->disk_export);
	if (m->answer == 0)
		sim_assert(m->world.sim, !in_use);
	data_is_there(m, disk);
	if (!in_use)
		name_is(m, m->disk_export, false);
	must(m, cw_detach(&m->world, m->disk, true), "detach");
	must(m, cw_attach(&m->world, m->disk, m->guest, m->new_export), "attach elsewhere");
	name_is(m, m->disk_export, false);
	read_by_name(m, m->new_export, 2);
}

/* ---- The loop ---------------------------------------------------------------------- */

static void end_life(struct model *m, bool kill)
{
	if (!sim_is_dead(m->world.sim)) {
		if (kill)
			sim_kill(m->world.sim);
		else
			sim_cut(m->world.sim);
	}
	cw_reboot(&m->world);
	m->client = NULL;
}

/* The next life; its start may be cut short, and then comes another. */
static void start_again(struct model *m, bool kill, uint64_t k)
{
	int r;

	if (k > 0)
		sim_cut_after(m->world.sim, k);
	r = cw_begin(&m->world);
	if (k > 0 && r == -ESHUTDOWN) {
		end_life(m, kill);
		r = cw_begin(&m->world);
	}
	sim_cut_after(m->world.sim, 0);
	must(m, r, "the start after it");
}

/* False: k was past the end of the operation. */
static bool cut_once(const struct loop *loop, uint64_t seed, bool kill, uint64_t k)
{
	struct model m;
	bool cut;

	prepare(&m, loop, seed);
	if (number("SIM_VERBOSE") > 1)
		fprintf(stderr, "seed %llu, k %llu\n", (unsigned long long)seed,
			(unsigned long long)k);
	if (kill)
		sim_kill_after(m.world.sim, k);
	else
		sim_cut_after(m.world.sim, k);
	m.answer = loop->act(&m);
	cut = sim_is_dead(m.world.sim);
	if (!cut)
		must(&m, m.answer, "the operation");
	end_life(&m, kill);
	start_again(&m, kill, k % 3 == 0 ? 1 + sim_below(m.world.sim, 60) : 0);
	judge(&m, loop);
	must(&m, cw_end(&m.world), "the clean stop");
	must(&m, cw_begin(&m.world), "the start after the clean stop");
	must(&m, cw_check(&m.world), "check");
	must(&m, cw_end(&m.world), "the last stop");
	assert_int_equal(sim_mem_in_use(m.world.sim), 0);
	sim_free(m.world.sim);
	return cut;
}

/* Of ends of the process, and of starts, `make check` looks at each second point. */
static uint64_t stride_of(bool half)
{
	return (half && !number("SOAK") ? 2 : 1) * seeds_stride();
}

static void run_loop(const struct loop *loop, uint64_t seed, bool kill)
{
	uint64_t stride = stride_of(kill);
	uint64_t k = number("SIM_K") ? number("SIM_K") : 1 + seed / 2 % stride;

	while (k < K_MAX && cut_once(loop, seed, kill, k) && !number("SIM_K"))
		k += stride;
	if (number("SIM_VERBOSE"))
		fprintf(stderr, "seed %llu, %s: %llu points\n", (unsigned long long)seed,
			kill ? "kill" : "cut", (unsigned long long)k - 1);
	assert_true(k < K_MAX);
}

static void cut_anywhere(const struct loop *loop)
{
	uint64_t seeds = number("SOAK") ? 20 : 2;

	for (uint64_t seed = 1; seed <= seeds; seed++)
		run_loop(loop, seed, seed % 2 == 0);
}

/* A volume is either made or it is not, and the client token makes it once. */
static void create(void **state)
{
	const struct loop loop = {.act = act_create, .judge = judge_create};

	(void)state;
	cut_anywhere(&loop);
}

/* Once it was answered it goes, with all its space. */
static void delete (void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .act = act_delete,
	    .judge = judge_delete,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* The size is the old one or the new one, the same in catalog and log. */
static void resize(void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .act = act_resize,
	    .judge = judge_resize,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* The same while somebody uses it. */
static void resize_attached(void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .attached = true,
	    .client = true,
	    .act = act_resize,
	    .judge = judge_resize,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* It is attached once or not at all, and the name of an older attachment stays dead. */
static void attach(void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .act = act_attach,
	    .judge = judge_attach,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* Once it was answered the name is dead for ever. */
static void detach(void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .attached = true,
	    .act = act_detach,
	    .judge = judge_detach,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* The same with a client that does not go. */
static void force_detach(void **state)
{
	const struct loop loop = {
	    .has_disk = true,
	    .attached = true,
	    .client = true,
	    .act = act_force_detach,
	    .judge = judge_detach,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* ---- Starts ------------------------------------------------------------------------ */

/* A start that is cut anywhere: the store's first one (`lose_catalog` false: it formats, makes the
 * catalog, the first volume and its attachment), or one that has lost its catalog. */
static bool cut_start(uint64_t seed, bool lose_catalog, uint64_t k)
{
	struct model m = {0};
	struct cw_list list;
	bool cut;
	int r;

	cw_init(&m.world, sim_new(seed, NULL));
	m.world.config.first_volume_size = SIZE;
	if (lose_catalog) {
		must(&m, cw_begin(&m.world), "the first start");
		must(&m, cw_create(&m.world, GROWN, NULL, NULL), "create");
		must(&m, cw_end(&m.world), "the clean stop");
		sim_file_remove(m.world.sim, "catalog");
		if (sim_file_exists(m.world.sim, "catalog-wal"))
			sim_file_remove(m.world.sim, "catalog-wal");
	}
	sim_cut_after(m.world.sim, k);
	r = cw_begin(&m.world);
	cut = sim_is_dead(m.world.sim);
	if (!cut)
		must(&m, r, "the start");
	end_life(&m, false);
	start_again(&m, false, k % 3 == 0 ? 1 + sim_below(m.world.sim, 60) : 0);
	come_to_rest(&m);
	must(&m, cw_list(&m.world, &list, false), "list");
	sim_assert(m.world.sim, list.n == (lose_catalog ? 2 : 1));
	for (unsigned i = 0; i < list.n; i++)
		sim_assert(m.world.sim, strcmp(list.volumes[i].state,
					       lose_catalog ? "available" : "in-use") == 0);
	sim_assert(m.world.sim, cw_objects(&m.world) == list.n);
	control_op_release(&list.op);
	must(&m, cw_check(&m.world), "check");
	must(&m, cw_end(&m.world), "the last stop");
	assert_int_equal(sim_mem_in_use(m.world.sim), 0);
	sim_free(m.world.sim);
	return cut;
}

static void cut_starts(bool lose_catalog)
{
	uint64_t k = number("SIM_K") ? number("SIM_K") : 1;

	while (k < K_MAX && cut_start(3, lose_catalog, k) && !number("SIM_K"))
		k += stride_of(true);
	if (number("SIM_VERBOSE"))
		fprintf(stderr, "start: %llu points\n", (unsigned long long)k - 1);
	assert_true(k < K_MAX);
}

/* However often the first start is cut, in the end there is one volume, and it is attached. */
static void first_start(void **state)
{
	(void)state;
	cut_starts(false);
}

/* However often adopting is cut, each volume of the store is in the catalog once. */
static void adopting_start(void **state)
{
	(void)state;
	cut_starts(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(create),         cmocka_unit_test(delete),
	    cmocka_unit_test(resize),         cmocka_unit_test(resize_attached),
	    cmocka_unit_test(attach),         cmocka_unit_test(detach),
	    cmocka_unit_test(force_detach),   cmocka_unit_test(first_start),
	    cmocka_unit_test(adopting_start),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
