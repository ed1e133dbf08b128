/* SPDX-License-Identifier: Apache-2.0
 *
 * How things stand: counts from the catalog, space from the store, health from each loop's volumes.
 */
#include "base/mem.h"
#include "base/size.h"
#include "control/internal.h"

#include <errno.h>
#include <inttypes.h>

#define WARNINGS_MAX 32
#define SLOW_TASK    (60 * NSEC_PER_SEC)

enum status_state { STATUS_WAIT_JOB, STATUS_WAIT_HEALTH, STATUS_END };

struct health_item {
	struct volume *volume;
	struct id id;
	struct volume_stats stats;
};

/* One message to each loop, with the volumes that live there. */
struct health_query {
	struct io_msg msg;
	struct gathering *owner;
	struct io_loop *home;
	unsigned n;
	struct health_item *items;
};

struct gathering {
	struct task *task;
	struct catalog_counts counts;
	uint64_t provisioned;
	unsigned n_queries;
	unsigned n_pending;
	struct health_query *queries;
};

static void status_step(struct task *t);
static int status_job(struct catalog *c, struct catalog_job *job);
static void health_on_home(struct io_msg *msg);
static void health_on_return(struct io_msg *msg);

void control_ping(struct control *c, struct control_op *op)
{
	control_finish(c, op);
}

void control_status(struct control *c, struct control_op *op)
{
	struct task *t = task_new(c, op, status_step);
	struct gathering *g = t ? arena_alloc(&op->memory, sizeof(*g)) : NULL;

	op->result.status = g ? arena_alloc(&op->memory, sizeof(*op->result.status)) : NULL;
	if (op->result.status)
		op->result.status->warnings =
		    arena_calloc(&op->memory, WARNINGS_MAX, sizeof(char *));
	if (!op->result.status || !op->result.status->warnings) {
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
		if (t)
			task_end(t);
		else
			control_finish(c, op);
		return;
	}
	g->task = t;
	t->private = g;
	task_job(t, STATUS_WAIT_JOB, status_job);
}

static int status_job(struct catalog *c, struct catalog_job *job)
{
	struct gathering *g = task_of_job(job)->private;
	int r = catalog_count(c, &g->counts, &job->err);

	return r == 0 ? catalog_provisioned(c, &g->provisioned, &job->err) : r;
}

/* ---- Health ------------------------------------------------------------------------ */

static unsigned count_on(struct control *c, const struct home *home)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DISK_BUCKETS; i++)
		list_for_each (&c->disks[i], node) {
			struct disk *d = list_entry(node, struct disk, node);

			n += d->volume && !d->closing && d->home == home;
		}
	return n;
}

static void fill_query(struct control *c, const struct home *home, struct health_query *q)
{
	for (unsigned i = 0; i < DISK_BUCKETS; i++)
		list_for_each (&c->disks[i], node) {
			struct disk *d = list_entry(node, struct disk, node);

			if (d->volume && !d->closing && d->home == home)
				q->items[q->n++] =
				    (struct health_item){.volume = d->volume, .id = d->id};
		}
}

/* As with one volume's counters: who closes one does it by a later message to the same loop. */
static bool ask_for_health(struct task *t)
{
	struct control *c = t->control;
	struct gathering *g = t->private;
	struct arena *memory = &t->op->memory;

	g->queries = arena_calloc(memory, c->config.n_homes, sizeof(*g->queries));
	for (unsigned i = 0; g->queries && i < c->config.n_homes; i++) {
		struct health_query *q = &g->queries[g->n_queries];

		q->items = arena_calloc(memory, count_on(c, &c->homes[i]) + 1, sizeof(*q->items));
		if (!q->items)
			return false;
		fill_query(c, &c->homes[i], q);
		q->owner = g;
		q->home = c->homes[i].loop;
		q->msg.run = health_on_home;
		g->n_queries++;
	}
	g->n_pending = g->n_queries;
	t->state = STATUS_WAIT_HEALTH;
	for (unsigned i = 0; i < g->n_queries; i++)
		io_post(g->queries[i].home, &g->queries[i].msg);
	return g->n_pending > 0;
}

static void health_on_home(struct io_msg *msg)
{
	struct health_query *q = container_of(msg, struct health_query, msg);

	for (unsigned i = 0; i < q->n; i++)
		volume_stats(q->items[i].volume, &q->items[i].stats);
	q->msg.run = health_on_return;
	io_post(q->owner->task->control->loop, &q->msg);
}

static void health_on_return(struct io_msg *msg)
{
	struct gathering *g = container_of(msg, struct health_query, msg)->owner;

	g->n_pending--;
	g->task->step(g->task);
}

/* ---- Warnings ---------------------------------------------------------------------- */

static void warn(struct task *t, char *text)
{
	struct control_status *s = t->op->result.status;

	if (text && s->n_warnings < WARNINGS_MAX)
		s->warnings[s->n_warnings++] = text;
}

static void warn_of_space(struct task *t)
{
	struct control_status *s = t->op->result.status;
	struct arena *memory = &t->op->memory;
	char one[SIZE_TEXT_MAX];
	char two[SIZE_TEXT_MAX];
	uint64_t percent = s->store_capacity ? s->store_used * 100 / s->store_capacity : 0;

	if (percent >= 80)
		warn(t, arena_printf(
			    memory,
			    "the store is %" PRIu64 " %% full%s: %s of %s are free; delete "
			    "volumes, trim what is unused, or add space",
			    percent, percent >= 90 ? ", writes of new data will soon fail" : "",
			    size_format(s->store_free, one), size_format(s->store_capacity, two)));
	if (s->provision_limit == 0)
		return;
	percent = s->provisioned * 100 / s->provision_limit;
	if (percent >= 80)
		warn(t,
		     arena_printf(memory,
				  "%" PRIu64 " %% of what may be promised is: volumes of %s, the "
				  "limit is %s; raise the overcommit limit or add space",
				  percent, size_format(s->provisioned, one),
				  size_format(s->provision_limit, two)));
}

static void warn_of_disk(struct task *t, struct disk *d)
{
	struct stall stall;
	struct arena *memory = &t->op->memory;
	char id[ID_TEXT_MAX];

	id_format(d->id, CATALOG_VOLUME_PREFIX, id);
	if (d->open_error.code)
		warn(t, arena_printf(memory, "%s is attached and not served: %s", id,
				     d->open_error.text));
	if (stall_look(d, &stall))
		warn(t, arena_printf(memory,
				     "%s: %s; requests wait for it, nothing is lost; look at the "
				     "disk below",
				     id, stall.text));
	if (d->task && (!d->deleting || d->task->op) && t->now > d->task->now + SLOW_TASK)
		warn(t,
		     arena_printf(memory, "an operation on %s has been under way for %" PRIu64 " s",
				  id, (t->now - d->task->now) / NSEC_PER_SEC));
}

static void warn_of_health(struct task *t, const struct health_item *item)
{
	struct arena *memory = &t->op->memory;
	char id[ID_TEXT_MAX];

	id_format(item->id, CATALOG_VOLUME_PREFIX, id);
	if (item->stats.health == VOLUME_IMPAIRED)
		warn(t,
		     arena_printf(memory,
				  "%s is impaired: some of its blocks can't be read; restore them "
				  "from a copy",
				  id));
	if (item->stats.health == VOLUME_FAILED)
		warn(t, arena_printf(memory,
				     "%s has failed: its log can't be written, it takes no more "
				     "writes; look at the disk below and start volumed again",
				     id));
}

static void warn_of_sweep(struct task *t)
{
	struct control_status *s = t->op->result.status;

	if (s->sweep.error_text[0])
		warn(t, arena_printf(&t->op->memory,
				     "the space of deleted snapshots does not come back: %s",
				     s->sweep.error_text));
}

static void take_sweep(struct task *t)
{
	struct control_sweep *sweep = &t->op->result.status->sweep;
	const char *text;

	sweeper_describe(t->control, sweep);
	text = arena_text(&t->op->memory, sweep->error_text); /* the next sweep overwrites it */
	sweep->error_text = text ? text : "";
}

static void warn_of_all(struct task *t)
{
	struct control *c = t->control;
	struct gathering *g = t->private;
	struct control_status *s = t->op->result.status;

	warn_of_space(t);
	warn_of_sweep(t);
	for (unsigned i = 0; i < g->n_queries; i++)
		for (unsigned k = 0; k < g->queries[i].n; k++)
			warn_of_health(t, &g->queries[i].items[k]);
	for (unsigned i = 0; i < DISK_BUCKETS; i++)
		list_for_each (&c->disks[i], node)
			warn_of_disk(t, list_entry(node, struct disk, node));
	if (s->volumes_error > 0)
		warn(t, arena_printf(&t->op->memory,
				     "%u volumes are in state error: `volumectl volume list` and "
				     "`show` say why",
				     s->volumes_error));
	s->healthy = s->n_warnings == 0;
}

/* ---- All of it --------------------------------------------------------------------- */

static void take_counts(struct task *t)
{
	struct control *c = t->control;
	const struct gathering *g = t->private;
	struct control_status *s = t->op->result.status;

	s->volumes_creating = (unsigned)g->counts.volumes[CATALOG_CREATING];
	s->volumes_available = (unsigned)g->counts.volumes[CATALOG_AVAILABLE];
	s->volumes_in_use = (unsigned)g->counts.volumes[CATALOG_IN_USE];
	s->volumes_deleting = (unsigned)g->counts.volumes[CATALOG_DELETING];
	s->volumes_error = (unsigned)g->counts.volumes[CATALOG_ERROR];
	s->volumes_open = c->n_disks_open;
	s->instances = (unsigned)g->counts.instances;
	s->attachments = (unsigned)g->counts.attachments;
	list_for_each (&c->ports, node)
		s->connections += list_entry(node, struct port, node)->n_claims;
}

static void take_space(struct task *t)
{
	const struct control_config *config = &t->control->config;
	const struct store *store = config->store;
	const struct gathering *g = t->private;
	struct control_status *s = t->op->result.status;

	store->ops->space(store, &s->store_capacity, &s->store_free);
	s->store_used = s->store_capacity - min_u64(s->store_free, s->store_capacity);
	s->provisioned = g->provisioned;
	s->overcommit_limit = config->overcommit_limit;
	if (s->store_capacity)
		s->overcommit = (double)s->provisioned / (double)s->store_capacity;
	s->provision_limit = (uint64_t)(config->overcommit_limit * (double)s->store_capacity);
}

static void fill(struct task *t)
{
	struct control *c = t->control;
	struct control_status *s = t->op->result.status;
	char id[ID_TEXT_MAX];

	s->version = c->config.version;
	s->zone = c->config.zone;
	s->zone_number = c->config.zone_number;
	s->instance =
	    arena_text(&t->op->memory, id_format(c->own_instance, CATALOG_INSTANCE_PREFIX, id));
	s->start_time = c->start_time;
	s->now = t->now;
	s->nbd_socket = c->config.nbd_socket;
	s->nbd_tcp = c->config.nbd_tcp;
	take_counts(t);
	take_space(t);
	take_sweep(t);
	warn_of_all(t);
	if (!s->instance)
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
}

static void status_step(struct task *t)
{
	struct gathering *g = t->private;

	for (;;) {
		switch ((enum status_state)t->state) {
		case STATUS_WAIT_JOB:
			t->state = STATUS_END;
			if (task_job_ok(t) && ask_for_health(t))
				return;
			continue;
		case STATUS_WAIT_HEALTH:
			if (g->n_pending > 0)
				return;
			fill(t);
			t->state = STATUS_END;
			continue;
		case STATUS_END:
			task_end(t);
			return;
		}
	}
}
