/* SPDX-License-Identifier: Apache-2.0
 *
 * Long work on whole snapshots, behind the answer. Verifying: all that one needs is read and held
 * against its hashes. Copying: to another repository, under the same id; the same command goes on
 * with what was cut short.
 *
 *     HOLD -> READER -> VERIFY -> RELEASE -> over
 *     HOLD -> READER -> PLACE -> [PARENT] -> COPY -> RELEASE -> over
 *
 * What came of it is kept in memory, for the newest WORKS_MAX, and written to the log and to the
 * events. All of it is control's loop; each that runs counts as a task, so control stops after it.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/snapshot.h"
#include "snapshots/blobs_dir.h"
#include "snapshots/copy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WORKS_MAX     32
#define WORK_RUN_MAX  4 /* at a time */
#define WORK_HOLD     (7 * 24 * 3600 * NSEC_PER_SEC)
#define WORK_RATE_MIN MiB

struct damage {
	uint64_t block; /* of 512 KiB */
	uint64_t blocks;
	char why[ERR_TEXT_MAX];
};

struct snapshot_work {
	struct list link; /* control->snapshot_works, newest first */
	struct control *control;
	struct id id;
	char holder[SNAP_HOLDER_MAX];
	bool runs;
	bool stopped;
	uint64_t ended; /* ns since 1970 */
	struct repository_op op;
	struct snap_info info;
	struct snap_reader_config config;
	struct snap_reader_op open;
	struct snap_reader *reader;
	struct snap_verify verify;
	struct snap_copy copy;
	struct repository *to; /* open while it copies */
	struct snap_writer_config target;
	struct snap_info parent;
	char place[CONTROL_PLACE_MAX + 1]; /* "": it verifies */
	struct err err;                    /* it could not be looked at */
	bool is_gone;                      /* there is no such snapshot */
	unsigned n_places;
	struct damage places[CONTROL_DAMAGE_MAX];
	struct catalog_job job;
	char who[CONTROL_WHO_MAX + 1];
};

static void on_hold(struct repository_op *op);
static void on_reader(struct snap_reader_op *op);
static void on_verified(struct snap_verify *verify);
static void on_release(struct repository_op *op);
static void copy_begin(struct snapshot_work *v);
static int event_job(struct catalog *c, struct catalog_job *job);
static void on_event(struct catalog_job *job);

/* Copies are one kind, verifications the other. */
static struct snapshot_work *find(struct control *c, struct id id, bool copies)
{
	list_for_each (&c->snapshot_works, node) {
		struct snapshot_work *v = list_entry(node, struct snapshot_work, link);

		if (id_equal(v->id, id) && (v->place[0] != '\0') == copies)
			return v;
	}
	return NULL;
}

static void forget(struct snapshot_work *v)
{
	list_remove(&v->link);
	mem_free(v);
}

void snapshot_works_free(struct control *c)
{
	list_for_each_safe (&c->snapshot_works, node)
		forget(list_entry(node, struct snapshot_work, link));
}

/* ---- One ------------------------------------------------------------------------------------- */

static void on_bad(struct snap_verify *verify, uint64_t block, uint64_t blocks, const char *text)
{
	struct snapshot_work *v = container_of(verify, struct snapshot_work, verify);
	struct damage *d;
	char id[ID_TEXT_MAX];

	log_error("%s: %s", id_format(v->id, CATALOG_SNAPSHOT_PREFIX, id), text);
	if (v->n_places == CONTROL_DAMAGE_MAX)
		return; /* it is counted */
	d = &v->places[v->n_places++];
	d->block = block;
	d->blocks = blocks;
	snprintf(d->why, sizeof(d->why), "%s", text);
}

static void work_end(struct snapshot_work *v)
{
	struct control *c = v->control;
	int error = v->place[0] ? v->copy.error : v->verify.error;
	char id[ID_TEXT_MAX];

	id_format(v->id, CATALOG_SNAPSHOT_PREFIX, id);
	v->ended = control_now(c);
	v->stopped = error == -ECANCELED;
	if (error && !v->stopped)
		v->err = v->place[0] ? v->copy.err : v->verify.err;
	if (v->err.code)
		log_error("%s can't be %s: %s", id, v->place[0] ? "copied" : "verified",
			  v->err.text);
	else if (!v->stopped && v->place[0])
		log_info("%s is copied to %s", id, v->place);
	else if (!v->stopped)
		log_info("%s is verified: %" PRIu64 " of its blocks are bad", id,
			 v->verify.bad_blocks);
	v->job.run = event_job;
	v->job.done = on_event;
	v->job.loop = c->loop;
	catalog_submit(c->config.catalog, &v->job);
}

static void over(struct snapshot_work *v)
{
	struct control *c = v->control;

	v->runs = false;
	if (v->is_gone)
		forget(v);
	c->n_tasks--;
	stop_kick(c);
}

static int event_job(struct catalog *c, struct catalog_job *job)
{
	const struct snapshot_work *v = container_of(job, struct snapshot_work, job);
	struct catalog_event e = {.time = v->ended};

	if (v->is_gone)
		return 0;
	snprintf(e.who, sizeof(e.who), "%s", v->who);
	snprintf(e.what, sizeof(e.what), v->place[0] ? "copySnapshot" : "verifySnapshot");
	id_format(v->id, CATALOG_SNAPSHOT_PREFIX, e.resource);
	if (v->err.code)
		snprintf(e.detail, sizeof(e.detail), "%s", v->err.text);
	else if (v->place[0])
		snprintf(e.detail, sizeof(e.detail), "%sto %.300s", v->stopped ? "stopped; " : "",
			 v->place);
	else
		snprintf(e.detail, sizeof(e.detail), "%s%" PRIu64 " bad blocks",
			 v->stopped ? "stopped; " : "", v->verify.bad_blocks);
	return catalog_event_add(c, &e, v->control->config.event_keep, &job->err);
}

static void on_event(struct catalog_job *job)
{
	over(container_of(job, struct snapshot_work, job));
}

static void release(struct snapshot_work *v)
{
	struct control *c = v->control;

	snap_reader_close(v->reader);
	v->reader = NULL;
	repository_close(v->to);
	v->to = NULL;
	v->op = (struct repository_op){.done = on_release};
	snap_release(c->config.repository, c->loop, &v->op, v->holder);
}

static void on_release(struct repository_op *op)
{
	struct snapshot_work *v = container_of(op, struct snapshot_work, op);

	if (op->error)
		log_warning("a hold in the repository stays until its time is over: %s",
			    op->err.text);
	work_end(v);
}

static void on_hold(struct repository_op *op)
{
	struct snapshot_work *v = container_of(op, struct snapshot_work, op);
	struct control *c = v->control;

	if (op->error) {
		v->err = op->err;
		v->is_gone = op->error == -ENOENT || op->error == -EAGAIN;
		work_end(v);
		return;
	}
	v->config = (struct snap_reader_config){.id = v->id, .holder = v->holder};
	v->open.done = on_reader;
	snap_reader_open(c->config.repository, c->loop, &v->config, &v->open);
}

static void on_reader(struct snap_reader_op *op)
{
	struct snapshot_work *v = container_of(op, struct snapshot_work, open);

	v->reader = op->reader;
	if (op->error) {
		v->reader = NULL;
		v->err = op->err;
		release(v);
		return;
	}
	if (v->place[0]) {
		copy_begin(v);
		return;
	}
	v->verify.done = on_verified;
	v->verify.bad = on_bad;
	snap_verify_start(v->reader, &v->verify);
	if (v->control->stopping || v->stopped)
		snap_verify_cancel(&v->verify);
}

static void on_verified(struct snap_verify *verify)
{
	release(container_of(verify, struct snapshot_work, verify));
}

/* ---- Copying --------------------------------------------------------------------------------- */

static void on_copied(struct snap_copy *copy)
{
	if (copy->error == -EEXIST) /* it was copied before */
		copy->error = 0;
	release(container_of(copy, struct snapshot_work, copy));
}

static void on_parent(struct repository_op *op)
{
	struct snapshot_work *v = container_of(op, struct snapshot_work, op);

	/* A parent that was copied there before is shared; else all is copied. */
	v->target = (struct snap_writer_config){.id = v->id, .volume = v->info.volume};
	if (!op->error && v->parent.state == SNAP_COMPLETED && v->parent.size <= v->info.size)
		v->target.parent = v->parent.id;
	v->copy.done = on_copied;
	snap_copy_start(v->reader, v->to, v->control->loop, &v->target, &v->copy);
	if (v->control->stopping || v->stopped)
		snap_copy_cancel(&v->copy);
}

static void on_place(struct repository_op *op)
{
	struct snapshot_work *v = container_of(op, struct snapshot_work, op);
	const struct repository *own = v->control->config.repository;

	v->to = op->repository;
	if (op->error) {
		v->to = NULL;
		v->err = op->err;
	} else if (id_equal(repository_uuid(v->to), repository_uuid(own))) {
		err_set(&v->err, -EINVAL, "%s is the repository that it is in", v->place);
	}
	if (v->err.code) {
		release(v);
		return;
	}
	v->op = (struct repository_op){.done = on_parent};
	if (id_is_zero(v->info.parent)) {
		v->op.error = -ENOENT;
		on_parent(&v->op);
		return;
	}
	snap_get(v->to, v->control->loop, &v->op, v->info.parent, &v->parent);
}

static void copy_begin(struct snapshot_work *v)
{
	struct blobs *blobs = NULL;

	if (blobs_dir_open(v->place, true, &blobs, &v->err) < 0) {
		release(v);
		return;
	}
	v->op = (struct repository_op){.done = on_place};
	repository_open(blobs, v->control->loop, true, &v->op);
}

/* ---- From outside ---------------------------------------------------------------------------- */

static void make_room(struct control *c)
{
	struct snapshot_work *oldest = NULL;
	unsigned n = 0;

	list_for_each (&c->snapshot_works, node) {
		struct snapshot_work *v = list_entry(node, struct snapshot_work, link);

		n++;
		if (!v->runs)
			oldest = v;
	}
	if (n >= WORKS_MAX && oldest)
		forget(oldest);
}

static unsigned n_running(struct control *c)
{
	unsigned n = 0;

	list_for_each (&c->snapshot_works, node)
		n += list_entry(node, struct snapshot_work, link)->runs;
	return n;
}

static int check_args(struct control_op *op)
{
	const char *to = op->snapshot_work.to;

	if (op->snapshot_work.rate && op->snapshot_work.rate < WORK_RATE_MIN)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "rate: at least 1 MiB a second");
	if (op->kind != CONTROL_SNAPSHOT_COPY)
		return 0;
	if (!to || to[0] != '/' || strlen(to) > CONTROL_PLACE_MAX)
		return control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				    "to: give the absolute path of a folder, of at most %d bytes",
				    CONTROL_PLACE_MAX);
	return 0;
}

static int begin(struct control *c, struct control_op *op, struct id id)
{
	bool copies = op->kind == CONTROL_SNAPSHOT_COPY;
	struct snapshot_work *v = find(c, id, copies);
	char own[ID_TEXT_MAX];
	char snap[ID_TEXT_MAX];

	if (check_args(op) < 0)
		return op->error.err;
	if (v && v->runs && copies && strcmp(v->place, op->snapshot_work.to) != 0)
		return control_fail(&op->error, "IncorrectState", -EBUSY,
				    "it is being copied to %s: wait for that", v->place);
	if (v && v->runs)
		return 0; /* that one will do */
	if (n_running(c) == WORK_RUN_MAX)
		return control_fail(&op->error, "RequestLimitExceeded", -EBUSY,
				    "%d snapshots are being verified or copied: wait for one of "
				    "them",
				    WORK_RUN_MAX);
	if (v)
		forget(v);
	make_room(c);
	v = mem_alloc(sizeof(*v));
	if (!v)
		return control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	v->control = c;
	v->id = id;
	v->runs = true;
	v->verify.bytes_per_second = v->copy.bytes_per_second = op->snapshot_work.rate;
	if (copies)
		snprintf(v->place, sizeof(v->place), "%s", op->snapshot_work.to);
	snprintf(v->who, sizeof(v->who), "%s", op->who ? op->who : "api");
	snprintf(v->holder, sizeof(v->holder), "%c%s%s", copies ? 'c' : 'v',
		 id_format(c->own_instance, "", own), id_format(id, "", snap));
	list_add_head(&c->snapshot_works, &v->link);
	c->n_tasks++;
	v->op.done = on_hold;
	snap_hold(c->config.repository, c->loop, &v->op, id, v->holder, WORK_HOLD, &v->info);
	return 0;
}

static void stop_one(struct snapshot_work *v)
{
	v->stopped = true;
	snap_verify_cancel(&v->verify);
	snap_copy_cancel(&v->copy);
}

static void stop(struct control *c, struct control_op *op, struct id id)
{
	bool copies = op->kind == CONTROL_SNAPSHOT_COPY_STOP;
	struct snapshot_work *v = find(c, id, copies);

	if (v && v->runs)
		stop_one(v);
	else
		control_fail(&op->error, "IncorrectState", -EINVAL,
			     "Snapshot '%s' is not being %s.", op->snapshot_work.snapshot,
			     copies ? "copied" : "verified");
}

/* It is answered by what a list says of it. */
void control_snapshot_work(struct control *c, struct control_op *op)
{
	const char *text = op->snapshot_work.snapshot;
	const char **ids = arena_calloc(&op->memory, 1, sizeof(*ids));
	struct id id;

	if (!ids)
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	else if (snapshot_check_repository(c, &op->error) == 0 &&
		 args_snapshot_id(text, &id, &op->error) == 0) {
		if (op->kind == CONTROL_SNAPSHOT_VERIFY || op->kind == CONTROL_SNAPSHOT_COPY)
			begin(c, op, id);
		else
			stop(c, op, id);
	}
	if (op->error.code) {
		control_finish(c, op);
		return;
	}
	ids[0] = text;
	memset(&op->list, 0, sizeof(op->list));
	op->list.ids = ids;
	op->list.n_ids = 1;
	control_snapshot_list(c, op);
}

void snapshot_works_stop(struct control *c)
{
	list_for_each_safe (&c->snapshot_works, node)
		stop_one(list_entry(node, struct snapshot_work, link));
}

static int describe_copy(const struct snapshot_work *v, struct arena *memory,
			 struct control_snapshot *s)
{
	s->copying = v->runs;
	s->copied_bytes = v->copy.blocks_done * SNAP_BLOCK;
	s->copied = v->runs || v->stopped ? 0 : v->ended;
	s->copy_stored = v->copy.stats.stored;
	s->copy_to = arena_text(memory, v->place);
	s->copy_error = arena_text(memory, v->runs ? "" : v->err.text);
	return s->copy_to && s->copy_error ? 0 : -ENOMEM;
}

static int describe_verify(const struct snapshot_work *v, struct arena *memory,
			   struct control_snapshot *s)
{
	s->verifying = v->runs;
	s->verified_bytes = v->verify.blocks_done * SNAP_BLOCK;
	s->verified = v->runs || v->stopped ? 0 : v->ended;
	s->bad_bytes = v->verify.bad_blocks * SNAP_BLOCK;
	s->verify_error = arena_text(memory, v->runs ? "" : v->err.text);
	s->damage = arena_calloc(memory, v->n_places + 1, sizeof(*s->damage));
	if (!s->damage || !s->verify_error)
		return -ENOMEM;
	for (unsigned i = 0; i < v->n_places; i++) {
		s->damage[i] = (struct control_damage){
		    .offset = v->places[i].block * SNAP_BLOCK,
		    .length = v->places[i].blocks * SNAP_BLOCK,
		    .why = arena_text(memory, v->places[i].why),
		};
		if (!s->damage[i].why)
			return -ENOMEM;
		s->n_damage++;
	}
	return 0;
}

int snapshot_work_describe(struct control *c, struct arena *memory, struct id id,
			   struct control_snapshot *s)
{
	const struct snapshot_work *verify = find(c, id, false);
	const struct snapshot_work *copy = find(c, id, true);
	int r = verify ? describe_verify(verify, memory, s) : 0;

	return r == 0 && copy ? describe_copy(copy, memory, s) : r;
}
