/* SPDX-License-Identifier: Apache-2.0
 *
 * One loop for each operation on snapshots, over catalog, log and repository on one machine: the
 * power goes (or the process dies) after the 1st, 2nd, 3rd ... point of it, of the upload behind it
 * included; the next life starts, comes to rest and is judged. A snapshot that was answered becomes
 * completed and holds what the volume held then, whatever was written after; one that was deleted
 * stays gone; none is half there; and no pin is left, which is to say that the volume, deleted,
 * gives all of its segments back.
 *
 * SIM_TEST=delete runs one loop; SIM_K=17 only its 17th cut, SIM_STRIDE=5 each fifth.
 */
#include "base/mem.h"
#include "base/util.h"
#include "snapshots/reader.h"
#include "tests/sim/control_world.h"
#include "tests/sim/seeds.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define K_MAX  20000
#define SIZE   (8 * MiB)
#define PLACES 4 /* each 8 KiB, in blocks of their own */
#define STEPS  400000

/* What a volume or a snapshot holds: a seed for each place; 0: zeroes. */
struct content {
	unsigned seed[PLACES];
};

struct model {
	struct cw world;
	char disk[CW_ID];
	char twin[CW_ID];     /* attached to the same instance; "": none */
	char group[2][CW_ID]; /* that the operation answered */
	char old[CW_ID];      /* a snapshot of before; "": none */
	char new[CW_ID];      /* that the operation answered; "": none */
	char made[CW_ID];  /* a volume that the operation made of the old one; "": not answered */
	bool made_written; /* place 1 of it, with seed 7; durable */
	struct content at_old;
	struct content at_new;
	struct content now;
	struct content at_twin;
	int answer;     /* of the taking; -ESHUTDOWN: none, -1: it was not asked for */
	uint64_t pause; /* steps between two operations */
	int deleted;    /* of the deletion, likewise */
};

struct loop {
	bool has_old;
	bool attached;
	void (*act)(struct model *m);
	bool deletes_old;
	bool deletes_new;
	bool deletes_disk;
	bool restores;
	bool in_full;
	bool has_twin;
	bool sweeps; /* and all space comes back */
};

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : 0;
}

static void must(struct model *m, int r, const char *what)
{
	if (r != 0)
		sim_fail(m->world.sim, "%s: %d %s", what, r, m->world.err.text);
}

/* ---- Data ---------------------------------------------------------------------------- */

static const uint8_t *filled(unsigned seed)
{
	static uint8_t pattern[8192];

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = seed ? (uint8_t)hash_u64(seed * 100000 + i) : 0;
	return pattern;
}

static uint64_t place(unsigned i)
{
	return i * 2 * MiB + i * 4096;
}

/* 0 or -ESHUTDOWN. */
static int write_place(struct model *m, const char *volume, unsigned i, unsigned seed)
{
	struct export_op *client = NULL;
	int r = cw_resolve(&m->world, volume, true, true, &client);

	if (r == 0)
		r = cw_io(&m->world, &client->info, BLOCK_WRITE, place(i), 8192,
			  (void *)(uintptr_t)filled(seed));
	if (r == 0)
		r = cw_io(&m->world, &client->info, BLOCK_FLUSH, 0, 0, NULL);
	if (r == -ESHUTDOWN)
		return r;
	must(m, r, "writing");
	cw_release(&m->world, client);
	if (volume == m->disk)
		m->now.seed[i] = seed;
	return sim_is_dead(m->world.sim) ? -ESHUTDOWN : 0;
}

struct reading {
	struct snap_reader_op open;
	struct snap_read read;
	bool done;
};

static void on_reader(struct snap_reader_op *op)
{
	container_of(op, struct reading, open)->done = true;
}

static void on_read(struct snap_read *read)
{
	container_of(read, struct reading, read)->done = true;
}

static void until(struct model *m, bool *flag)
{
	if (sim_run_until(m->world.sim, sim_flag_is_set, flag, STEPS) != SIM_DONE)
		sim_fail(m->world.sim, "the repository stands still");
	*flag = false;
}

static void snapshot_reads(struct model *m, const char *id, const struct content *content)
{
	struct snap_reader_config config = {0};
	struct reading *g = mem_alloc(sizeof(*g));
	uint8_t *got = mem_alloc_pages(SIZE);

	sim_assert(m->world.sim, id_parse(id, SNAP_PREFIX, &config.id) == 0);
	g->open.done = on_reader;
	snap_reader_open(m->world.repository, m->world.homes[0].loop, &config, &g->open);
	until(m, &g->done);
	if (g->open.error)
		sim_fail(m->world.sim, "%s: %s", id, g->open.err.text);
	sim_assert(m->world.sim, snap_reader_info(g->open.reader)->size == SIZE);
	g->read.done = on_read;
	snap_read(g->open.reader, &g->read, got, 0, SIZE);
	until(m, &g->done);
	if (g->read.error)
		sim_fail(m->world.sim, "%s: %s", id, g->read.err.text);
	for (unsigned i = 0; i < PLACES; i++)
		if (memcmp(got + place(i), filled(content->seed[i]), 8192) != 0)
			sim_fail(m->world.sim, "%s does not hold what was there at its point", id);
	snap_reader_close(g->open.reader);
	mem_free_pages(got, SIZE);
	mem_free(g);
}

/* ---- Rest ---------------------------------------------------------------------------- */

static int list(struct model *m, struct control_op *op)
{
	*op = (struct control_op){.kind = CONTROL_SNAPSHOT_LIST};
	return cw_op(&m->world, op);
}

/* Until no snapshot is pending or being deleted, and no volume. 0 or -ESHUTDOWN. */
static int come_to_rest(struct model *m)
{
	struct control_op op;
	struct cw_list volumes;
	bool busy = true;
	int r;

	for (unsigned i = 0; busy && i < 2000; i++) {
		busy = false;
		r = list(m, &op);
		if (r == -ESHUTDOWN)
			return r;
		must(m, r, "listing snapshots");
		for (unsigned k = 0; k < op.n_items; k++)
			busy |= strcmp(op.result.snapshots[k].state, "pending") == 0 ||
				strcmp(op.result.snapshots[k].state, "deleting") == 0;
		control_op_release(&op);
		r = cw_list(&m->world, &volumes, false);
		if (r == -ESHUTDOWN)
			return r;
		must(m, r, "listing volumes");
		for (unsigned k = 0; k < volumes.n; k++)
			busy |= strcmp(volumes.volumes[k].state, "deleting") == 0;
		control_op_release(&volumes.op);
		if (busy && sim_run_until(m->world.sim, NULL, NULL, 300) == SIM_DEAD)
			return -ESHUTDOWN;
	}
	if (busy)
		sim_fail(m->world.sim, "a snapshot stays pending, or something half deleted");
	return 0;
}

struct swept {
	struct model *m;
	uint64_t snapshots; /* that are left */
	uint64_t end;
};

static bool is_swept(void *arg)
{
	struct swept *s = arg;
	struct blobs_sim *objects = s->m->world.objects;

	if (io_now(s->m->world.homes[0].loop) > s->end)
		return true;
	return blobs_sim_count(objects, "snapshots/") == s->snapshots &&
	       (s->snapshots > 0 || blobs_sim_count(objects, "packs/") == 0);
}

/* Until the repository has no tombstone any more, and nothing at all if no snapshot is left: after
 * some waiting, for the lease of a dead one at most, but not for the next hour. 0 or -ESHUTDOWN. */
static int come_to_be_swept(struct model *m, uint64_t snapshots)
{
	uint64_t now = io_now(m->world.homes[0].loop);
	struct swept s = {m, snapshots, now + 300 * NSEC_PER_SEC};

	blobs_sim_age(m->world.objects, 700 * NSEC_PER_SEC); /* nothing is too young */
	if (sim_run_until(m->world.sim, is_swept, &s, STEPS) == SIM_DEAD)
		return -ESHUTDOWN;
	s.end = UINT64_MAX;
	if (!is_swept(&s))
		sim_fail(m->world.sim, "the space of what was deleted does not come back");
	return 0;
}

/* ---- The state before ---------------------------------------------------------------- */

static void prepare(struct model *m, const struct loop *loop, uint64_t seed)
{
	const struct sim_options options = {.alignment = seed % 2 ? 4096 : 512};

	memset(m, 0, sizeof(*m));
	m->answer = -1;
	m->deleted = -1;
	cw_init(&m->world, sim_new(seed, &options));
	m->world.objects = blobs_sim_new(m->world.sim);
	if (loop->sweeps)
		m->world.config.sweep_interval_ns = 3600 * NSEC_PER_SEC;
	must(m, cw_begin(&m->world), "the first start");
	must(m, cw_create(&m->world, SIZE, NULL, m->disk), "create");
	must(m, cw_attach(&m->world, m->disk, NULL, NULL), "attach");
	must(m, write_place(m, m->disk, 0, 1), "write");
	must(m, write_place(m, m->disk, 2, 2), "write");
	if (loop->has_old) {
		must(m, cw_snapshot(&m->world, m->disk, m->old), "the old snapshot");
		m->at_old = m->now;
		must(m, come_to_rest(m), "rest");
		must(m, write_place(m, m->disk, 2, 3), "write");
		must(m, write_place(m, m->disk, 3, 4), "write");
	}
	m->at_new = m->now;
	if (loop->has_twin) {
		must(m, cw_create(&m->world, SIZE, "twin", m->twin), "create");
		must(m, cw_attach(&m->world, m->twin, NULL, NULL), "attach");
		must(m, write_place(m, m->twin, 1, 21), "write");
		m->at_twin.seed[1] = 21;
	}
	if (!loop->attached)
		must(m, cw_detach(&m->world, m->disk, false), "detach");
}

/* ---- The operations ------------------------------------------------------------------ */

static void take(struct model *m)
{
	m->answer = cw_snapshot(&m->world, m->disk, m->new);
}

/* What is written once it is answered is not in it. */
static void act_create(struct model *m)
{
	take(m);
	if (m->answer == 0 && write_place(m, m->disk, 0, 9) == 0)
		come_to_rest(m);
}

static void act_group(struct model *m)
{
	m->answer = cw_snapshot_group(&m->world, m->group);
	if (m->answer == 0 && write_place(m, m->twin, 1, 9) == 0 &&
	    write_place(m, m->disk, 0, 9) == 0)
		come_to_rest(m);
}

static void act_create_detached(struct model *m)
{
	take(m);
	if (m->answer == 0)
		come_to_rest(m);
}

static void act_delete(struct model *m)
{
	m->deleted = cw_snapshot_delete(&m->world, m->old);
	if (m->deleted == 0)
		come_to_rest(m);
}

static void act_delete_pending(struct model *m)
{
	take(m);
	if (m->answer != 0 || sim_run_until(m->world.sim, NULL, NULL, m->pause) == SIM_DEAD)
		return;
	m->deleted = cw_snapshot_delete(&m->world, m->new);
	if (m->deleted == 0)
		come_to_rest(m);
}

static void act_delete_disk(struct model *m)
{
	take(m);
	if (m->answer != 0 || sim_run_until(m->world.sim, NULL, NULL, m->pause) == SIM_DEAD)
		return;
	m->deleted = cw_delete(&m->world, m->disk);
	if (m->deleted == 0)
		come_to_rest(m);
}

/* What the old one alone needs goes; the new one shares the rest. */
static void act_sweep(struct model *m)
{
	uint64_t before;

	take(m);
	if (m->answer != 0 || come_to_rest(m) != 0)
		return;
	before = blobs_sim_stored(m->world.objects, "packs/");
	m->deleted = cw_snapshot_delete(&m->world, m->old);
	if (m->deleted != 0 || come_to_be_swept(m, 1) != 0)
		return;
	if (blobs_sim_stored(m->world.objects, "packs/") >= before)
		sim_fail(m->world.sim, "it was swept, and nothing came back");
}

/* It is used at once, while it is hydrated; its snapshot is deleted meanwhile. */
static void act_restore(struct model *m)
{
	if (cw_restore(&m->world, m->old, false, m->made) != 0 ||
	    cw_attach(&m->world, m->made, NULL, NULL) != 0 || write_place(m, m->made, 1, 7) != 0)
		return;
	m->made_written = true;
	if (sim_run_until(m->world.sim, NULL, NULL, m->pause) == SIM_DEAD)
		return;
	m->deleted = cw_snapshot_delete(&m->world, m->old);
	if (m->deleted == 0)
		come_to_rest(m);
}

/* Nobody can use it before it is copied. */
static void act_restore_full(struct model *m)
{
	if (cw_restore(&m->world, m->old, true, m->made) != 0)
		return;
	if (cw_attach(&m->world, m->made, NULL, NULL) == 0 &&
	    blobs_sim_count(m->world.objects, "holds/") > 0)
		sim_fail(m->world.sim, "it was attached before it was copied");
	if (sim_run_until(m->world.sim, NULL, NULL, m->pause) == SIM_DEAD)
		return;
	m->deleted = cw_snapshot_delete(&m->world, m->old);
	if (m->deleted == 0)
		come_to_rest(m);
}

/* ---- The judge ----------------------------------------------------------------------- */

/* The snapshot is there, completed, or it is not there. */
static bool is_there(struct model *m, const struct control_op *op, const char *id)
{
	for (unsigned i = 0; i < op->n_items; i++) {
		const struct control_snapshot *s = &op->result.snapshots[i];

		if (strcmp(s->id, id) != 0)
			continue;
		if (strcmp(s->state, "completed") != 0)
			sim_fail(m->world.sim, "%s is %s: %s", id, s->state, s->error_text);
		return true;
	}
	return false;
}

static void volume_reads(struct model *m, const char *volume)
{
	struct export_op *client = NULL;
	uint8_t got[8192];

	must(m, cw_resolve(&m->world, volume, true, true, &client), "resolving");
	sim_assert(m->world.sim, client->info.size == SIZE);
	for (unsigned i = 0; i < PLACES; i++) {
		unsigned seed = m->at_old.seed[i];
		bool same;

		must(m, cw_io(&m->world, &client->info, BLOCK_READ, place(i), 8192, got),
		     "reading");
		same = memcmp(got, filled(seed), 8192) == 0;
		if (i == 1 && m->made_written)
			same = memcmp(got, filled(7), 8192) == 0;
		else if (i == 1) /* it may have been on its way */
			same |= memcmp(got, filled(7), 8192) == 0;
		if (!same)
			sim_fail(m->world.sim, "place %u is not as the snapshot says", i);
	}
	cw_release(&m->world, client);
}

/* The volume that is not m->disk: its state; "": there is none. */
static void find_made(struct model *m, char made[CW_ID], char state[16])
{
	struct cw_list volumes;

	made[0] = state[0] = '\0';
	must(m, cw_list(&m->world, &volumes, false), "list");
	sim_assert(m->world.sim, volumes.n <= 2);
	for (unsigned i = 0; i < volumes.n; i++) {
		if (strcmp(volumes.volumes[i].id, m->disk) == 0)
			continue;
		snprintf(made, CW_ID, "%s", volumes.volumes[i].id);
		snprintf(state, 16, "%s", volumes.volumes[i].state);
	}
	control_op_release(&volumes.op);
}

/* What was made is whole, before it is hydrated and after it; then it goes, and leaves no hold. */
static void judge_made(struct model *m, bool in_full)
{
	char made[CW_ID];
	char state[16];
	bool in_use;

	find_made(m, made, state);
	for (unsigned i = 0; in_full && i < 2000 && strcmp(state, "creating") == 0; i++) {
		sim_run_until(m->world.sim, NULL, NULL, 1000);
		find_made(m, made, state);
	}
	in_use = strcmp(state, "in-use") == 0;
	sim_assert(m->world.sim, !made[0] || in_use || strcmp(state, "available") == 0);
	if (in_full)
		sim_assert(m->world.sim, blobs_sim_count(m->world.objects, "holds/") == 0);
	if (m->made[0])
		sim_assert(m->world.sim, strcmp(made, m->made) == 0);
	if (!made[0]) {
		sim_assert(m->world.sim, blobs_sim_count(m->world.objects, "holds/") == 0);
		return;
	}
	if (!in_use)
		must(m, cw_attach(&m->world, made, NULL, NULL), "attach");
	volume_reads(m, made);
	for (unsigned i = 0; i < 2000 && blobs_sim_count(m->world.objects, "holds/") > 0; i++)
		sim_run_until(m->world.sim, NULL, NULL, 1000);
	sim_assert(m->world.sim, blobs_sim_count(m->world.objects, "holds/") == 0);
	volume_reads(m, made);
	must(m, cw_detach(&m->world, made, false), "detach");
	must(m, cw_check(&m->world), "check");
	must(m, cw_delete(&m->world, made), "delete");
	must(m, come_to_rest(m), "rest");
	sim_assert(m->world.sim, cw_segments(&m->world, made) == 0);
}

/* All of them, or none. */
static void judge_group(struct model *m, const struct control_op *op)
{
	sim_assert(m->world.sim, op->n_items == 0 || op->n_items == 2);
	for (unsigned i = 0; m->answer == 0 && i < 2; i++)
		sim_assert(m->world.sim, is_there(m, op, m->group[i]));
	for (unsigned i = 0; i < op->n_items; i++) {
		const struct control_snapshot *s = &op->result.snapshots[i];

		sim_assert(m->world.sim, is_there(m, op, s->id));
		snapshot_reads(m, s->id,
			       strcmp(s->volume, m->twin) == 0 ? &m->at_twin : &m->at_new);
	}
	must(m, cw_detach(&m->world, m->twin, true), "detach");
	must(m, cw_delete(&m->world, m->twin), "delete");
	must(m, come_to_rest(m), "rest");
	sim_assert(m->world.sim, cw_segments(&m->world, m->twin) == 0);
}

static void judge_snapshots(struct model *m, const struct loop *loop, const struct control_op *op)
{
	bool old = loop->has_old && is_there(m, op, m->old);
	unsigned others = op->n_items - old;

	sim_assert(m->world.sim, others <= 1);
	if (loop->has_old && !old)
		sim_assert(m->world.sim, loop->deletes_old && m->deleted != -1);
	if (loop->deletes_old && m->deleted == 0)
		sim_assert(m->world.sim, !old);
	if (loop->deletes_new && m->deleted == 0)
		sim_assert(m->world.sim, others == 0);
	/* Answered, and nobody was about to delete it. */
	if (m->answer == 0 && !(loop->deletes_new && m->deleted != -1))
		sim_assert(m->world.sim, is_there(m, op, m->new));
	if (loop->sweeps)
		must(m, come_to_be_swept(m, op->n_items), "sweeping");
	for (unsigned i = 0; i < op->n_items; i++) {
		const char *id = op->result.snapshots[i].id;

		sim_assert(m->world.sim, is_there(m, op, id));
		snapshot_reads(m, id, strcmp(id, m->old) == 0 ? &m->at_old : &m->at_new);
	}
}

static void judge_disk(struct model *m, const struct loop *loop)
{
	struct cw_list volumes;
	bool there;

	must(m, cw_list(&m->world, &volumes, false), "list");
	there = volumes.n > 0;
	sim_assert(m->world.sim, there || loop->deletes_disk);
	sim_assert(m->world.sim, !(there && loop->deletes_disk && m->deleted == 0));
	if (there && strcmp(volumes.volumes[0].state, "in-use") == 0)
		must(m, cw_detach(&m->world, m->disk, true), "detach");
	control_op_release(&volumes.op);
	must(m, cw_check(&m->world), "check");
	if (there)
		must(m, cw_delete(&m->world, m->disk), "delete");
	must(m, come_to_rest(m), "rest");
	sim_assert(m->world.sim, cw_segments(&m->world, m->disk) == 0);
	sim_assert(m->world.sim, cw_objects(&m->world) == 0);
}

static void judge(struct model *m, const struct loop *loop)
{
	struct control_op op;

	must(m, come_to_rest(m), "rest");
	must(m, cw_check(&m->world), "check");
	must(m, list(m, &op), "list");
	sim_assert(m->world.sim, blobs_sim_count(m->world.objects, "snapshots/") >= op.n_items);
	if (loop->has_twin)
		judge_group(m, &op);
	else
		judge_snapshots(m, loop, &op);
	if (loop->restores)
		judge_made(m, loop->in_full);
	judge_disk(m, loop);
	for (unsigned i = 0; i < op.n_items; i++)
		must(m, cw_snapshot_delete(&m->world, op.result.snapshots[i].id), "deleting it");
	control_op_release(&op);
	must(m, list(m, &op), "list");
	sim_assert(m->world.sim, op.n_items == 0);
	control_op_release(&op);
	if (loop->sweeps)
		must(m, come_to_be_swept(m, 0), "sweeping");
}

/* ---- The loop ------------------------------------------------------------------------ */

/* False: k was past the end of the operation. */
static bool cut_once(const struct loop *loop, uint64_t seed, bool kill, uint64_t k)
{
	struct model m;
	bool cut;
	int r;

	prepare(&m, loop, seed);
	m.pause = k * 37 % 700;
	if (kill)
		sim_kill_after(m.world.sim, k);
	else
		sim_cut_after(m.world.sim, k);
	loop->act(&m);
	cut = sim_is_dead(m.world.sim);
	if (!cut)
		sim_cut(m.world.sim);
	cw_reboot(&m.world);
	/* Every third start is cut as well. */
	if (k % 3 == 0)
		sim_cut_after(m.world.sim, 1 + sim_below(m.world.sim, 200));
	r = cw_begin(&m.world);
	if (r == 0 && k % 3 == 0)
		r = come_to_rest(&m);
	if (r == -ESHUTDOWN) {
		cw_reboot(&m.world);
		r = cw_begin(&m.world);
	}
	sim_cut_after(m.world.sim, 0);
	must(&m, r, "the start after it");
	judge(&m, loop);
	must(&m, cw_end(&m.world), "the clean stop");
	assert_int_equal(sim_mem_in_use(m.world.sim), 0);
	blobs_sim_free(m.world.objects);
	sim_free(m.world.sim);
	return cut;
}

static void run_loop(const struct loop *loop, uint64_t seed, bool kill)
{
	uint64_t stride = (number("SOAK") ? 1 : 11) * seeds_stride();
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

/* S1 through the catalog: once answered it is there, with what was there then. */
static void create(void **state)
{
	const struct loop loop = {.attached = true, .act = act_create};

	(void)state;
	cut_anywhere(&loop);
}

/* The same as the second one, which holds only what changed. */
static void create_incremental(void **state)
{
	const struct loop loop = {.has_old = true, .attached = true, .act = act_create};

	(void)state;
	cut_anywhere(&loop);
}

/* The same of a volume that nobody has attached. */
static void create_detached(void **state)
{
	const struct loop loop = {.has_old = true, .act = act_create_detached};

	(void)state;
	cut_anywhere(&loop);
}

/* Once answered it is gone for good. */
static void delete (void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .attached = true,
	    .act = act_delete,
	    .deletes_old = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* The same in the middle of its upload; its pin goes. */
static void delete_pending(void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .attached = true,
	    .act = act_delete_pending,
	    .deletes_new = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* S3: a pending snapshot outlives its volume. */
static void delete_volume(void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .act = act_delete_disk,
	    .deletes_disk = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* All of an instance's, at one point: there are all of them or none. */
static void group(void **state)
{
	const struct loop loop = {.attached = true, .act = act_group, .has_twin = true};

	(void)state;
	cut_anywhere(&loop);
}

/* B1 to B3 through the catalog: usable at once, whole whatever happens, with its snapshot deleted
 * behind it; nothing is held once it is hydrated. */
static void restore(void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .attached = true,
	    .act = act_restore,
	    .deletes_old = true,
	    .restores = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* One that is wanted in full is creating until it needs its snapshot no more, over any cut. */
static void restore_full(void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .attached = true,
	    .act = act_restore_full,
	    .deletes_old = true,
	    .restores = true,
	    .in_full = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

/* S2, S3: what a deletion leaves goes behind it, whenever the daemon dies; what is needed stays. */
static void sweep(void **state)
{
	const struct loop loop = {
	    .has_old = true,
	    .attached = true,
	    .act = act_sweep,
	    .deletes_old = true,
	    .sweeps = true,
	};

	(void)state;
	cut_anywhere(&loop);
}

static bool is_sweeping(struct model *m)
{
	struct control_op op = {.kind = CONTROL_STATUS};
	bool sweeping;

	must(m, cw_op(&m->world, &op), "status");
	sweeping = strcmp(op.result.status->sweep.state, "sweeping") == 0;
	control_op_release(&op);
	return sweeping;
}

/* A daemon that stops ends its sweep, gives the lease back, and the next one goes on at once. */
static void sweep_stopped(void **state)
{
	const struct loop loop = {.has_old = true, .attached = true, .sweeps = true};
	struct model m;
	unsigned n = 0, n_begun = 0;

	(void)state;
	for (uint64_t k = 1; k < 40; k++) {
		prepare(&m, &loop, k);
		must(&m, cw_snapshot_delete(&m.world, m.old), "deleting it");
		blobs_sim_age(m.world.objects, 700 * NSEC_PER_SEC);
		sim_run_until(m.world.sim, NULL, NULL, k * 4);
		n += is_sweeping(&m);
		n_begun += blobs_sim_count(m.world.objects, "packs/") == 1;
		must(&m, cw_end(&m.world), "the clean stop");
		assert_int_equal(sim_mem_in_use(m.world.sim), 0);
		cw_reboot(&m.world);
		must(&m, cw_begin(&m.world), "the start after it");
		must(&m, come_to_be_swept(&m, 0), "sweeping");
		must(&m, cw_end(&m.world), "the clean stop");
		blobs_sim_free(m.world.objects);
		sim_free(m.world.sim);
	}
	assert_true(n > 5);
	assert_true(n_begun > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(create),          cmocka_unit_test(create_incremental),
	    cmocka_unit_test(create_detached), cmocka_unit_test(delete),
	    cmocka_unit_test(delete_pending),  cmocka_unit_test(delete_volume),
	    cmocka_unit_test(group),           cmocka_unit_test(restore_full),
	    cmocka_unit_test(restore),         cmocka_unit_test(sweep),
	    cmocka_unit_test(sweep_stopped),
	};

	if (getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
