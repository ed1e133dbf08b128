/* SPDX-License-Identifier: Apache-2.0
 *
 * Stopping: what is under way comes to rest, then each open volume's gate closes and the volume
 * after it. Attachments stay in the catalog: the next start serves them again.
 *
 *     BEGIN -> WAIT_DRAINED -> WAIT_CLOSE -> END        for each open volume
 */
#include "base/check.h"
#include "control/internal.h"

#include <errno.h>
#include <string.h>

enum rest_state { REST_BEGIN, REST_WAIT_DRAINED, REST_CLOSE, REST_WAIT_CLOSE, REST_END };

static void rest_step(struct task *t);
static void stop_on_op(struct io_op *op);

static bool needs_rest(const struct disk *d)
{
	return d->volume || d->port;
}

static void put_to_rest(struct control *c)
{
	for (unsigned i = 0; i < DISK_BUCKETS; i++) {
		list_for_each_safe (&c->disks[i], node) {
			struct disk *d = list_entry(node, struct disk, node);
			struct task *t = needs_rest(d) ? task_new(c, NULL, rest_step) : NULL;

			if (t)
				task_take(t, d->id);
			else if (needs_rest(d))
				err_set(
				    &c->stop->err, -ENOMEM,
				    "no memory for closing a volume; the next start recovers it");
		}
	}
}

void control_stop(struct control *control, struct control_stop *stop)
{
	CHECK(!control->stopping);
	CHECK(!control->starting);
	control->stopping = true;
	control->stop = stop;
	stop->err = (struct err){0};
	control->n_tasks++; /* none of them is the last while others are being stopped */
	uploaders_stop(control);
	scrubs_stop(control);
	checks_stop(control);
	hydrators_stop(control);
	sweeper_stop(control);
	snapshot_works_stop(control);
	control->n_tasks--;
	stop_kick(control);
}

void stop_kick(struct control *c)
{
	if (!c->stopping || c->n_tasks > 0)
		return;
	if (!c->resting) {
		c->resting = true;
		c->n_tasks++; /* none of them is the last while more are being started */
		put_to_rest(c);
		c->n_tasks--;
	}
	if (c->n_tasks > 0)
		return;
	c->stopped.done = stop_on_op;
	io_defer(c->loop, &c->stopped, 0);
}

static void stop_on_op(struct io_op *op)
{
	struct control *c = container_of(op, struct control, stopped);

	c->stop->done(c->stop);
}

static void rest_step(struct task *t)
{
	struct disk *d = t->disk;

	for (;;) {
		switch ((enum rest_state)t->state) {
		case REST_BEGIN:
			t->state = d->port ? REST_WAIT_DRAINED : REST_CLOSE;
			if (!d->port)
				continue;
			d->port->closer = t;
			port_close(d->port);
			return;
		case REST_WAIT_DRAINED:
			if (d->port->state != PORT_CLOSED)
				return;
			port_retire(d->port);
			d->port = NULL;
			t->state = REST_CLOSE;
			continue;
		case REST_CLOSE:
			task_close(t, REST_WAIT_CLOSE);
			return;
		case REST_WAIT_CLOSE:
			task_closed(t);
			if (t->act.code)
				t->control->stop->err = t->act;
			t->state = REST_END;
			continue;
		case REST_END:
			task_end(t);
			return;
		}
	}
}
