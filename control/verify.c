/* SPDX-License-Identifier: Apache-2.0
 *
 * Verifying snapshots in the repository: all that one needs is read and held against its hashes,
 * behind the answer.
 *
 *     HOLD -> OPEN -> VERIFY -> RELEASE -> over
 *
 * What came of it is kept in memory, for the newest VERIFIED_MAX, and written to the log and to the
 * events. All of it is control's loop; each that runs counts as a task, so control stops after it.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/snapshot.h"
#include "snapshots/copy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERIFIED_MAX    32
#define VERIFY_RUN_MAX  4 /* at a time */
#define VERIFY_HOLD     (24 * 3600 * NSEC_PER_SEC)
#define VERIFY_RATE_MIN MiB

struct damage {
	uint64_t block; /* of 512 KiB */
	uint64_t blocks;
	char why[ERR_TEXT_MAX];
};

struct verification {
	struct list link; /* control->verifications, newest first */
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
	struct err err; /* it could not be looked at */
	bool is_gone;   /* there is no such snapshot */
	unsigned n_places;
	struct damage places[CONTROL_DAMAGE_MAX];
	struct catalog_job job;
	char who[CONTROL_WHO_MAX + 1];
};

static void on_hold(struct repository_op *op);
static void on_reader(struct snap_reader_op *op);
static void on_verified(struct snap_verify *verify);
static void on_release(struct repository_op *op);
static int event_job(struct catalog *c, struct catalog_job *job);
static void on_event(struct catalog_job *job);

static struct verification *find(struct control *c, struct id id)
{
	list_for_each (&c->verifications, node) {
		struct verification *v = list_entry(node, struct verification, link);

		if (id_equal(v->id, id))
			return v;
	}
	return NULL;
}

static void forget(struct verification *v)
{
	list_remove(&v->link);
	mem_free(v);
}

void verifications_free(struct control *c)
{
	list_for_each_safe (&c->verifications, node)
		forget(list_entry(node, struct verification, link));
}

/* ---- One ------------------------------------------------------------------------------------- */

static void on_bad(struct snap_verify *verify, uint64_t block, uint64_t blocks, const char *text)
{
	struct verification *v = container_of(verify, struct verification, verify);
	struct damage *d = v->n_places > 0 ? &v->places[v->n_places - 1] : NULL;
	char id[ID_TEXT_MAX];

	log_error("%s: %s", id_format(v->id, CATALOG_SNAPSHOT_PREFIX, id), text);
	if (v->n_places == CONTROL_DAMAGE_MAX)
		return; /* it is counted */
	d = &v->places[v->n_places++];
	d->block = block;
	d->blocks = blocks;
	snprintf(d->why, sizeof(d->why), "%s", text);
}

static void verify_end(struct verification *v)
{
	struct control *c = v->control;
	char id[ID_TEXT_MAX];

	id_format(v->id, CATALOG_SNAPSHOT_PREFIX, id);
	v->ended = control_now(c);
	v->stopped = v->verify.error == -ECANCELED;
	if (v->verify.error && !v->stopped)
		v->err = v->verify.err;
	if (v->err.code)
		log_error("%s can't be verified: %s", id, v->err.text);
	else if (!v->stopped)
		log_info("%s is verified: %" PRIu64 " of its blocks are bad", id,
			 v->verify.bad_blocks);
	v->job.run = event_job;
	v->job.done = on_event;
	v->job.loop = c->loop;
	catalog_submit(c->config.catalog, &v->job);
}

static void over(struct verification *v)
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
	const struct verification *v = container_of(job, struct verification, job);
	struct catalog_event e = {.time = v->ended};

	if (v->is_gone)
		return 0;
	snprintf(e.who, sizeof(e.who), "%s", v->who);
	snprintf(e.what, sizeof(e.what), "verifySnapshot");
	id_format(v->id, CATALOG_SNAPSHOT_PREFIX, e.resource);
	if (v->err.code)
		snprintf(e.detail, sizeof(e.detail), "%s", v->err.text);
	else
		snprintf(e.detail, sizeof(e.detail), "%s%" PRIu64 " bad blocks",
			 v->stopped ? "stopped; " : "", v->verify.bad_blocks);
	return catalog_event_add(c, &e, v->control->config.event_keep, &job->err);
}

static void on_event(struct catalog_job *job)
{
	over(container_of(job, struct verification, job));
}

static void release(struct verification *v)
{
	struct control *c = v->control;

	snap_reader_close(v->reader);
	v->reader = NULL;
	v->op = (struct repository_op){.done = on_release};
	snap_release(c->config.repository, c->loop, &v->op, v->holder);
}

static void on_release(struct repository_op *op)
{
	struct verification *v = container_of(op, struct verification, op);

	if (op->error)
		log_warning("a hold in the repository stays until its time is over: %s",
			    op->err.text);
	verify_end(v);
}

static void on_hold(struct repository_op *op)
{
	struct verification *v = container_of(op, struct verification, op);
	struct control *c = v->control;

	if (op->error) {
		v->err = op->err;
		v->is_gone = op->error == -ENOENT || op->error == -EAGAIN;
		verify_end(v);
		return;
	}
	v->config = (struct snap_reader_config){.id = v->id, .holder = v->holder};
	v->open.done = on_reader;
	snap_reader_open(c->config.repository, c->loop, &v->config, &v->open);
}

static void on_reader(struct snap_reader_op *op)
{
	struct verification *v = container_of(op, struct verification, open);

	v->reader = op->reader;
	if (op->error) {
		v->reader = NULL;
		v->err = op->err;
		release(v);
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
	release(container_of(verify, struct verification, verify));
}

/* ---- From outside ---------------------------------------------------------------------------- */

static void make_room(struct control *c)
{
	struct verification *oldest = NULL;
	unsigned n = 0;

	list_for_each (&c->verifications, node) {
		struct verification *v = list_entry(node, struct verification, link);

		n++;
		if (!v->runs)
			oldest = v;
	}
	if (n >= VERIFIED_MAX && oldest)
		forget(oldest);
}

static unsigned n_running(struct control *c)
{
	unsigned n = 0;

	list_for_each (&c->verifications, node)
		n += list_entry(node, struct verification, link)->runs;
	return n;
}

static int begin(struct control *c, struct control_op *op, struct id id)
{
	struct verification *v = find(c, id);
	char own[ID_TEXT_MAX];
	char snap[ID_TEXT_MAX];

	if (v && v->runs)
		return 0; /* that one will do */
	if (n_running(c) == VERIFY_RUN_MAX)
		return control_fail(&op->error, "RequestLimitExceeded", -EBUSY,
				    "%d snapshots are being verified: wait for one of them",
				    VERIFY_RUN_MAX);
	if (v)
		forget(v);
	make_room(c);
	v = mem_alloc(sizeof(*v));
	if (!v)
		return control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	v->control = c;
	v->id = id;
	v->runs = true;
	v->verify.bytes_per_second = op->snapshot_verify.rate;
	snprintf(v->who, sizeof(v->who), "%s", op->who ? op->who : "api");
	snprintf(v->holder, sizeof(v->holder), "v%s%s", id_format(c->own_instance, "", own),
		 id_format(id, "", snap));
	list_add_head(&c->verifications, &v->link);
	c->n_tasks++;
	v->op.done = on_hold;
	snap_hold(c->config.repository, c->loop, &v->op, id, v->holder, VERIFY_HOLD, &v->info);
	return 0;
}

static void stop_one(struct verification *v)
{
	v->stopped = true;
	snap_verify_cancel(&v->verify);
}

/* It is answered by what a list says of it. */
void control_snapshot_verify(struct control *c, struct control_op *op)
{
	const char *text = op->snapshot_verify.snapshot;
	const char **ids = arena_calloc(&op->memory, 1, sizeof(*ids));
	struct verification *v;
	struct id id;

	if (!ids)
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	else if (snapshot_check_repository(c, &op->error) == 0 &&
		 args_snapshot_id(text, &id, &op->error) == 0) {
		v = find(c, id);
		if (op->kind == CONTROL_SNAPSHOT_VERIFY_STOP && v && v->runs)
			stop_one(v);
		else if (op->kind == CONTROL_SNAPSHOT_VERIFY_STOP)
			control_fail(&op->error, "IncorrectState", -EINVAL,
				     "Snapshot '%s' is not being verified.", text);
		else if (op->snapshot_verify.rate && op->snapshot_verify.rate < VERIFY_RATE_MIN)
			control_fail(&op->error, "InvalidParameterValue", -EINVAL,
				     "rate: at least 1 MiB a second");
		else
			begin(c, op, id);
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

void verifications_stop(struct control *c)
{
	list_for_each_safe (&c->verifications, node)
		stop_one(list_entry(node, struct verification, link));
}

int verify_describe(struct control *c, struct arena *memory, struct id id,
		    struct control_snapshot *s)
{
	const struct verification *v = find(c, id);

	if (!v)
		return 0;
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
