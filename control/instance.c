/* SPDX-License-Identifier: Apache-2.0
 *
 * Instances come and go in one transaction each.
 */
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <stdio.h>

enum { INSTANCE_BEGIN, INSTANCE_WAIT };

static void register_step(struct task *t);
static int register_job(struct catalog *c, struct catalog_job *job);
static void deregister_step(struct task *t);
static int deregister_job(struct catalog *c, struct catalog_job *job);

static void refuse_or_step(struct control *c, struct control_op *op, struct task *t)
{
	if (t) {
		t->step(t);
		return;
	}
	if (!op->error.code)
		control_fail(&op->error, "InternalError", -ENOMEM, "out of memory");
	control_finish(c, op);
}

static int put_result(struct catalog *c, struct task *t)
{
	struct control_op *op = t->op;

	op->result.instances = arena_alloc(&op->memory, sizeof(*op->result.instances));
	op->n_items = 1;
	if (!op->result.instances)
		return err_set(&t->job.err, -ENOMEM, "out of memory");
	return describe_instance(c, t->control, &op->memory, &t->instance, op->result.instances,
				 &t->job.err);
}

/* ---- Register ---------------------------------------------------------------------- */

void control_register(struct control *c, struct control_op *op)
{
	const char *name = op->instance_register.name ? op->instance_register.name : "";
	const char *host = op->instance_register.host ? op->instance_register.host : c->config.host;
	struct task *t = NULL;

	if (args_text("the instance's name", name, CONTROL_NAME_MAX, &op->error) == 0 &&
	    args_text("the instance's host", host, CONTROL_NAME_MAX, &op->error) == 0)
		t = task_new(c, op, register_step);
	if (t) {
		t->instance.id = control_new_id(c);
		t->instance.created = t->now;
		snprintf(t->instance.name, sizeof(t->instance.name), "%s", name);
		snprintf(t->instance.host, sizeof(t->instance.host), "%s", host);
		snprintf(t->instance.state, sizeof(t->instance.state), "running");
	}
	refuse_or_step(c, op, t);
}

static void register_step(struct task *t)
{
	if (t->state == INSTANCE_BEGIN) {
		task_job(t, INSTANCE_WAIT, register_job);
		return;
	}
	task_job_ok(t);
	task_end(t);
}

static int register_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r = catalog_instance_add(c, &t->instance, &job->err);

	if (r == 0)
		r = task_event(c, t, "registerInstance",
			       id_format(t->instance.id, CATALOG_INSTANCE_PREFIX, id),
			       "'%s' on host %s", t->instance.name, t->instance.host);
	return r == 0 ? put_result(c, t) : r;
}

/* ---- Deregister -------------------------------------------------------------------- */

void control_deregister(struct control *c, struct control_op *op)
{
	struct task *t = NULL;
	struct id id;

	if (args_instance_id(op->deregister.instance, &id, &op->error) == 0)
		t = task_new(c, op, deregister_step);
	if (t)
		t->instance.id = id;
	refuse_or_step(c, op, t);
}

static void deregister_step(struct task *t)
{
	if (t->state == INSTANCE_BEGIN) {
		task_job_essential(t, INSTANCE_WAIT, deregister_job);
		return;
	}
	task_job_ok(t);
	task_end(t);
}

static int check_instance(struct catalog *c, struct task *t)
{
	struct catalog_attachment a;
	char id[ID_TEXT_MAX];
	char volume[ID_TEXT_MAX];
	int r = catalog_instance_get(c, t->instance.id, &t->instance, &t->job.err);

	id_format(t->instance.id, CATALOG_INSTANCE_PREFIX, id);
	if (r == -ENOENT)
		return control_fail(&t->error, "InvalidInstanceID.NotFound", r,
				    "The instance ID '%s' does not exist", id);
	if (r < 0)
		return r;
	if (id_equal(t->instance.id, t->control->own_instance))
		return control_fail(&t->error, "OperationNotPermitted", -EPERM,
				    "%s is this machine's own instance: it stays registered", id);
	r = catalog_attachment_after(c, t->instance.id, "", &a, &t->job.err);
	if (r == 0)
		return control_fail(&t->error, "DependencyViolation", -EBUSY,
				    "%s still has volume %s attached as %s: detach it first", id,
				    id_format(a.volume, CATALOG_VOLUME_PREFIX, volume), a.device);
	return r == -ENOENT ? 0 : r;
}

static int deregister_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	char id[ID_TEXT_MAX];
	int r = check_instance(c, t);

	if (r == 0)
		r = put_result(c, t);
	if (r == 0)
		r = catalog_instance_remove(c, t->instance.id, &job->err);
	return r == 0 ? task_event(c, t, "deregisterInstance",
				   id_format(t->instance.id, CATALOG_INSTANCE_PREFIX, id), "'%s'",
				   t->instance.name)
		      : r;
}
