/* SPDX-License-Identifier: Apache-2.0
 *
 * What all step machines share: taking a volume's disk, jobs of the catalog, operations of the
 * engine on the volume's own loop, answering, ending.
 */
#include "base/check.h"
#include "base/mem.h"
#include "base/size.h"
#include "control/internal.h"
#include "control/origin.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void task_on_job(struct catalog_job *job);
static void task_on_home(struct io_msg *msg);
static void task_on_engine(struct volume_op *op);
static void task_on_return(struct io_msg *msg);

struct task *task_new(struct control *c, struct control_op *op, void (*step)(struct task *task))
{
	struct task *t = mem_alloc(sizeof(*t));
	const char *who = op ? op->who : "volumed";

	if (!t)
		return NULL;
	t->control = c;
	t->op = op;
	t->step = step;
	t->now = control_now(c);
	snprintf(t->who, sizeof(t->who), "%s", who ? who : "api");
	list_init(&t->node);
	list_init(&t->joined);
	c->n_tasks++;
	return t;
}

void task_take(struct task *t, struct id volume)
{
	struct disk *d = disk_find_or_make(t->control, volume);

	if (!d) {
		control_fail(&t->error, "InternalError", -ENOMEM, "out of memory");
		task_end(t);
		return;
	}
	t->disk = d;
	t->volume.id = volume;
	if (d->task && stall_refuses(t)) {
		task_end(t);
		return;
	}
	if (d->task) {
		list_add_tail(&d->waiting, &t->node);
		return;
	}
	d->task = t;
	t->step(t);
}

void task_release(struct task *t)
{
	struct disk *d = t->disk;
	struct list *next;

	CHECK(d->task == t);
	d->task = NULL;
	next = list_pop(&d->waiting);
	if (!next)
		return;
	d->task = list_entry(next, struct task, node);
	d->task->step(d->task);
}

void task_retake(struct task *t, int state)
{
	t->state = state;
	task_take(t, t->disk->id);
}

void task_answer(struct task *t)
{
	struct control_op *op = t->op;
	struct list *node;

	t->op = NULL;
	while ((node = list_pop(&t->joined))) {
		struct control_op *also = list_entry(node, struct control_op, node);

		also->error = t->error;
		control_finish(t->control, also);
	}
	if (!op)
		return;
	op->error = t->error;
	control_finish(t->control, op);
}

void task_end(struct task *t)
{
	struct control *c = t->control;
	struct disk *d = t->disk;
	struct list *next = NULL;

	CHECK(!t->timer_runs);
	task_answer(t);
	if (d && d->task == t) {
		d->task = NULL;
		next = list_pop(&d->waiting);
	}
	if (t->ended)
		t->ended(t, t->ended_arg);
	mem_free(t);
	CHECK(c->n_tasks > 0);
	c->n_tasks--;
	if (next) {
		d->task = list_entry(next, struct task, node);
		d->task->step(d->task);
	} else if (d) {
		disk_drop_if_idle(d);
	}
	stop_kick(c);
}

/* ---- Jobs -------------------------------------------------------------------------- */

static void submit(struct task *t, int state, bool essential,
		   int (*run)(struct catalog *c, struct catalog_job *job))
{
	t->state = state;
	t->error = (struct control_error){0};
	t->job.run = run;
	t->job.done = task_on_job;
	t->job.loop = t->control->loop;
	t->job.essential = essential;
	catalog_submit(t->control->config.catalog, &t->job);
}

void task_job(struct task *t, int state, int (*run)(struct catalog *c, struct catalog_job *job))
{
	submit(t, state, false, run);
}

void task_job_essential(struct task *t, int state,
			int (*run)(struct catalog *c, struct catalog_job *job))
{
	submit(t, state, true, run);
}

static void task_on_job(struct catalog_job *job)
{
	struct task *t = task_of_job(job);

	t->step(t);
}

bool task_job_ok(struct task *t)
{
	if (t->job.err.code == 0)
		return true;
	if (!t->error.code)
		control_fail_from(&t->error, &t->job.err);
	return false;
}

int task_event(struct catalog *c, struct task *t, const char *what, const char *resource,
	       const char *format, ...)
{
	struct catalog_event e = {.time = t->now};
	va_list args;

	va_start(args, format);
	vsnprintf(e.detail, sizeof(e.detail), format, args);
	va_end(args);
	snprintf(e.who, sizeof(e.who), "%s", t->who);
	snprintf(e.what, sizeof(e.what), "%s", what);
	snprintf(e.resource, sizeof(e.resource), "%s", resource);
	return catalog_event_add(c, &e, t->control->config.event_keep, &t->job.err);
}

int task_read_volume(struct catalog *c, struct task *t)
{
	char id[ID_TEXT_MAX];
	int r = catalog_volume_get(c, t->volume.id, &t->volume, &t->job.err);

	if (r == -ENOENT)
		return control_fail(&t->error, "InvalidVolume.NotFound", r,
				    "The volume '%s' does not exist.",
				    id_format(t->volume.id, "vol", id));
	if (r == 0 && t->volume.state == CATALOG_IN_USE)
		r = catalog_attachment_get(c, t->volume.id, &t->attachment, &t->job.err);
	return r;
}

int task_describe(struct catalog *c, struct task *t)
{
	struct control_op *op = t->op;

	if (!op)
		return 0;
	op->result.volumes = arena_alloc(&op->memory, sizeof(*op->result.volumes));
	op->n_items = 1;
	if (!op->result.volumes)
		return err_set(&t->job.err, -ENOMEM, "out of memory");
	return describe_volume(c, t->control, &op->memory, &t->volume, op->result.volumes,
			       &t->job.err);
}

int task_describe_attachment(struct task *t, struct control_op *op)
{
	struct control_attachment *a;

	if (!op)
		return 0;
	a = arena_alloc(&op->memory, sizeof(*a));
	op->result.attachment = a;
	op->n_items = 1;
	if (a && describe_attachment(t->control, &op->memory, &t->attachment, a) == 0)
		return 0;
	return err_set(&t->job.err, -ENOMEM, "out of memory");
}

int task_check_space(struct catalog *c, struct task *t, uint64_t more)
{
	const struct control_config *config = &t->control->config;
	uint64_t capacity;
	uint64_t free_bytes;
	double limit;
	uint64_t provisioned = 0;
	char asked[SIZE_TEXT_MAX];
	char had[SIZE_TEXT_MAX];
	char most[SIZE_TEXT_MAX];
	int r;

	if (config->overcommit_limit <= 0)
		return 0;
	config->store->ops->space(config->store, &capacity, &free_bytes);
	limit = config->overcommit_limit * (double)capacity;
	r = catalog_provisioned(c, &provisioned, &t->job.err);
	if (r < 0 || (double)provisioned + (double)more <= limit)
		return r;
	return control_fail(&t->error, "InsufficientVolumeCapacity", -ENOSPC,
			    "%s more would exceed the overcommit limit: %s of %s are promised "
			    "already; delete volumes, add space or raise the limit",
			    size_format(more, asked), size_format(provisioned, had),
			    size_format((uint64_t)limit, most));
}

/* ---- The engine -------------------------------------------------------------------- */

void task_engine(struct task *t, int state, void (*start)(struct volume_op *op))
{
	CHECK(t->home);
	t->state = state;
	t->volume_op.engine = t->home->engine;
	t->volume_op.id = t->disk->id;
	t->volume_op.done = task_on_engine;
	t->volume_start = start;
	t->msg.run = task_on_home;
	io_post(t->home->loop, &t->msg);
}

static void task_on_home(struct io_msg *msg)
{
	struct task *t = container_of(msg, struct task, msg);

	t->volume_start(&t->volume_op);
}

static void task_on_engine(struct volume_op *op)
{
	struct task *t = container_of(op, struct task, volume_op);

	t->msg.run = task_on_return;
	io_post(t->control->loop, &t->msg);
}

static void task_on_return(struct io_msg *msg)
{
	struct task *t = container_of(msg, struct task, msg);

	t->act = t->volume_op.err;
	t->step(t);
}

void task_open(struct task *t, int state, bool read_only)
{
	task_open_as(t, state, &(struct volume_op){.read_only = read_only});
}

void task_open_as(struct task *t, int state, const struct volume_op *how)
{
	struct disk *d = t->disk;

	CHECK(!d->volume);
	d->home = disk_choose_home(t->control);
	d->home->n_open++;
	t->home = d->home;
	t->control->n_disks_open++;
	t->volume_op = *how;
	t->volume_op.stall = &d->stall;
	task_engine(t, state,
		    id_is_zero(t->volume.base) || !t->control->config.repository ? volume_open
										 : origin_open);
}

void task_opened(struct task *t)
{
	struct disk *d = t->disk;

	if (t->act.code == 0) {
		d->volume = t->volume_op.volume;
		return;
	}
	d->home->n_open--;
	d->home = NULL;
	t->control->n_disks_open--;
}

void task_close(struct task *t, int state)
{
	t->home = t->disk->home;
	t->disk->closing = true;
	t->volume_op = (struct volume_op){.volume = t->disk->volume};
	task_engine(t, state, volume_close);
}

void task_closed(struct task *t)
{
	char id[ID_TEXT_MAX];

	t->disk->volume = NULL;
	t->disk->closing = false;
	t->disk->home->n_open--;
	t->disk->home = NULL;
	t->control->n_disks_open--;
	if (t->act.code)
		log_error("volume %s: closing it: %s", id_format(t->disk->id, "vol", id),
			  t->act.text);
}
