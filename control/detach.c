/* SPDX-License-Identifier: Apache-2.0
 *
 * Detaching a volume:
 *
 *     BEGIN -> WAIT_BEGIN -> LEAVE -> WAIT_CLAIMS -> [WAIT_TIMER] -> GATE -> WAIT_DRAINED
 *           -> CLOSE -> WAIT_CLOSE -> CONFIRM -> WAIT_CONFIRM -> END
 *
 * From WAIT_BEGIN's end on the attachment is `detaching` in the catalog and has no name any more:
 * no client can come in, nor come back after a restart. The clients that are there answer what they
 * have received and go; one that does not take its replies is waited for so long, no longer. Then
 * the gate closes, and what is inside drains into the log; from there on nothing of this attachment
 * can reach the volume, whatever is on the wire (E7). With `force` the gate closes at once, and the
 * clients are dropped; a forced detach that comes while another waits hurries that one up.
 *
 * Where what is inside waits for a disk that does not answer, nobody may have the volume before it
 * does: what is on its way could still land. Whoever asked for the detach gets the attachment as it
 * is, `detaching`, with the reason; the machine goes on.
 *
 * A start finds nobody inside: it goes on from CONFIRM.
 */
#include "base/check.h"
#include "control/internal.h"

#include <errno.h>
#include <string.h>

enum detach_state {
	DETACH_BEGIN,
	DETACH_WAIT_BEGIN,
	DETACH_LEAVE,
	DETACH_WAIT_CLAIMS,
	DETACH_WAIT_TIMER,
	DETACH_GATE,
	DETACH_WAIT_DRAINED,
	DETACH_CLOSE,
	DETACH_WAIT_CLOSE,
	DETACH_CONFIRM,
	DETACH_WAIT_CONFIRM,
	DETACH_END,
};

static void detach_step(struct task *t);
static bool detach_join(struct control *c, struct control_op *op, struct id volume);
static void detach_on_timer(struct io_op *op);
static int detach_begin(struct catalog *c, struct catalog_job *job);
static int detach_confirm(struct catalog *c, struct catalog_job *job);

void control_detach(struct control *c, struct control_op *op)
{
	struct id volume;
	struct id instance;
	struct task *t = NULL;
	int r = args_volume_id(op->detach.volume, &volume, &op->error);

	if (r == 0 && op->detach.instance)
		r = args_instance_id(op->detach.instance, &instance, &op->error);
	if (r == 0 && detach_join(c, op, volume))
		return;
	if (r == 0) {
		t = task_new(c, op, detach_step);
		if (!t)
			control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	}
	if (!t) {
		control_finish(c, op);
		return;
	}
	t->force = t->forced = op->detach.force;
	task_take(t, volume);
}

int detach_resume(struct control *c, const struct resume *r)
{
	struct task *t = task_new(c, NULL, detach_step);

	if (!t)
		return -ENOMEM;
	t->volume = *r->volume;
	t->attachment = *r->attachment;
	t->ended = r->ended;
	t->ended_arg = r->arg;
	t->state = DETACH_WAIT_BEGIN;
	task_take(t, r->volume->id);
	return 0;
}

/* ---- A second detach while one is under way ---------------------------------------- */

/* True if `op` ends together with the detach that is under way. */
static bool detach_join(struct control *c, struct control_op *op, struct id volume)
{
	struct disk *d = disk_find(c, volume);
	struct task *t = d ? d->task : NULL;
	char instance[ID_TEXT_MAX];

	if (!t || t->step != detach_step || t->state <= DETACH_WAIT_BEGIN ||
	    t->state >= DETACH_WAIT_CONFIRM)
		return false;
	id_format(t->attachment.instance, CATALOG_INSTANCE_PREFIX, instance);
	if ((op->detach.instance && strcmp(op->detach.instance, instance) != 0) ||
	    (op->detach.device && strcmp(op->detach.device, t->attachment.device) != 0))
		return false;
	list_add_tail(&t->joined, &op->node);
	t->forced |= op->detach.force;
	detach_on_stall(t);
	if (op->detach.force && !t->force) {
		t->force = true;
		if (t->state == DETACH_WAIT_CLAIMS)
			t->step(t);
	}
	return true;
}

/* ---- Steps ------------------------------------------------------------------------- */

static void ask_clients_to_leave(struct task *t)
{
	struct port *p = t->disk->port;

	t->state = DETACH_WAIT_CLAIMS;
	p->closer = t;
	port_ask_to_leave(p, t->force);
	if (t->force || p->n_claims == 0)
		return;
	t->timer.done = detach_on_timer;
	t->timer_runs = true;
	io_timer(t->control->loop, &t->timer, t->control->config.detach_wait_ns);
}

static void detach_on_timer(struct io_op *op)
{
	struct task *t = container_of(op, struct task, timer);

	t->timer_runs = false;
	/* It has had its time; or all have left, and then it makes no difference. */
	t->force = true;
	t->step(t);
}

/* True: asleep. */
static bool wait_for_claims(struct task *t)
{
	if (t->disk->port->n_claims > 0 && !t->force)
		return true;
	t->state = DETACH_WAIT_TIMER;
	if (t->timer_runs)
		io_timer_cancel(t->control->loop, &t->timer);
	return false;
}

static void close_gate(struct task *t)
{
	struct port *p = t->disk->port;

	t->state = DETACH_WAIT_DRAINED;
	port_ask_to_leave(p, true);
	port_close(p);
}

static void detach_step(struct task *t)
{
	struct disk *d = t->disk;

	for (;;) {
		switch ((enum detach_state)t->state) {
		case DETACH_BEGIN:
			task_job_essential(t, DETACH_WAIT_BEGIN, detach_begin);
			return;
		case DETACH_WAIT_BEGIN:
			t->state = DETACH_END;
			if (task_job_ok(t))
				t->state = d->port ? DETACH_LEAVE : DETACH_CONFIRM;
			continue;
		case DETACH_LEAVE:
			ask_clients_to_leave(t);
			continue;
		case DETACH_WAIT_CLAIMS:
			if (wait_for_claims(t))
				return;
			continue;
		case DETACH_WAIT_TIMER:
			if (t->timer_runs)
				return;
			t->state = DETACH_GATE;
			continue;
		case DETACH_GATE:
			close_gate(t);
			detach_on_stall(t);
			return;
		case DETACH_WAIT_DRAINED:
			if (d->port->state != PORT_CLOSED)
				return;
			port_retire(d->port);
			d->port = NULL;
			t->state = DETACH_CLOSE;
			continue;
		case DETACH_CLOSE:
			t->state = DETACH_CONFIRM;
			if (disk_is_needed(d)) /* by what closes it */
				continue;
			task_close(t, DETACH_WAIT_CLOSE);
			detach_on_stall(t);
			return;
		case DETACH_WAIT_CLOSE:
			task_closed(t);
			t->state = DETACH_CONFIRM;
			continue;
		case DETACH_CONFIRM:
			d->open_error = (struct err){0};
			task_job_essential(t, DETACH_WAIT_CONFIRM, detach_confirm);
			return;
		case DETACH_WAIT_CONFIRM:
			task_job_ok(t);
			t->state = DETACH_END;
			continue;
		case DETACH_END:
			if (!id_is_zero(t->volume.base) && !t->error.code)
				hydrator_kick(t->control, d->id);
			task_end(t);
			return;
		}
	}
}

/* ---- Jobs -------------------------------------------------------------------------- */

static int check_attachment(struct task *t)
{
	const struct control_op *op = t->op;
	const struct catalog_attachment *a = &t->attachment;
	char id[ID_TEXT_MAX];
	char instance[ID_TEXT_MAX];

	id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id);
	if (t->volume.state != CATALOG_IN_USE)
		return control_fail(&t->error, "IncorrectState", -EINVAL,
				    "Volume '%s' is in the '%s' state.", id,
				    catalog_volume_state_name(t->volume.state));
	id_format(a->instance, CATALOG_INSTANCE_PREFIX, instance);
	if (op->detach.instance && strcmp(op->detach.instance, instance) != 0)
		return control_fail(&t->error, "InvalidAttachment.NotFound", -ENOENT,
				    "The volume %s is not attached to instance %s", id,
				    op->detach.instance);
	if (op->detach.device && strcmp(op->detach.device, a->device) != 0)
		return control_fail(&t->error, "InvalidAttachment.NotFound", -ENOENT,
				    "The volume %s is not attached to instance %s as device %.64s",
				    id, instance, op->detach.device);
	return 0;
}

static int detach_begin(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	int r = task_read_volume(c, t);

	if (r == 0)
		r = check_attachment(t);
	if (r == 0)
		r = catalog_attachment_set_state(c, t->attachment.id, CATALOG_DETACHING, &job->err);
	if (r == 0)
		t->attachment.state = CATALOG_DETACHING;
	return r;
}

static int put_result(struct task *t, struct control_op *op, const char *state)
{
	int r = task_describe_attachment(t, op);

	if (r == 0 && op)
		op->result.attachment->state = state;
	return r;
}

static int put_results(struct task *t, const char *state)
{
	int r = put_result(t, t->op, state);

	/* Nobody joins while this runs. */
	list_for_each (&t->joined, node)
		r = r < 0 ? r : put_result(t, list_entry(node, struct control_op, node), state);
	return r;
}

/* ---- While the disk does not answer ------------------------------------------------ */

static bool is_inside(const struct task *t)
{
	return t->step == detach_step &&
	       (t->state == DETACH_WAIT_DRAINED || t->state == DETACH_WAIT_CLOSE);
}

void detach_on_stall(struct task *t)
{
	struct stall stall;

	if (!is_inside(t) || (!t->op && list_empty(&t->joined)) || !stall_look(t->disk, &stall) ||
	    put_results(t, "detaching") < 0)
		return;
	if (t->op)
		describe_live(t->control, &t->op->memory, t->op->result.attachment);
	list_for_each (&t->joined, node) {
		struct control_op *op = list_entry(node, struct control_op, node);

		describe_live(t->control, &op->memory, op->result.attachment);
	}
	task_answer(t);
}

static int detach_confirm(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	char instance[ID_TEXT_MAX];
	int r = catalog_attachment_remove(c, t->attachment.id, &job->err);

	t->volume.state = CATALOG_AVAILABLE;
	if (r == 0)
		r = catalog_volume_put(c, &t->volume, &job->err);
	if (r == 0)
		r = task_event(c, t, "detachVolume",
			       id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
			       "from %s as %s%s",
			       id_format(t->attachment.instance, CATALOG_INSTANCE_PREFIX, instance),
			       t->attachment.device, t->forced ? ", forced" : "");
	return r == 0 ? put_results(t, "detached") : r;
}
