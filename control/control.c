/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations come in, are given to who does them, and go back.
 */
#include "base/check.h"
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void control_on_op(struct io_msg *msg);
static void control_dispatch(struct control *c, struct control_op *op);
static void control_on_finished(struct io_msg *msg);

/* ---- Life -------------------------------------------------------------------------- */

static void fill_defaults(struct control_config *config)
{
	if (!config->version)
		config->version = "";
	if (!config->zone)
		config->zone = "zone-a";
	if (!config->host)
		config->host = "localhost";
	if (config->zone_number == 0)
		config->zone_number = 1;
	if (config->detach_wait_ns == 0)
		config->detach_wait_ns = DETACH_WAIT;
	if (config->token_life_ns == 0)
		config->token_life_ns = TOKEN_LIFE;
	if (config->event_keep == 0)
		config->event_keep = EVENTS_KEPT;
}

int control_new(const struct control_config *config, struct control **ret_control, struct err *err)
{
	struct control *c = mem_alloc(sizeof(*c));

	if (!c)
		return err_set(err, -ENOMEM, "no memory for the control plane");
	c->config = *config;
	c->loop = config->loop;
	fill_defaults(&c->config);
	for (unsigned i = 0; i < DISK_BUCKETS; i++)
		list_init(&c->disks[i]);
	list_init(&c->uploaders);
	list_init(&c->scrubs);
	list_init(&c->checks);
	list_init(&c->hydrators);
	list_init(&c->snapshot_works);
	c->homes = mem_calloc(config->n_homes, sizeof(*c->homes));
	if (exports_init(c) < 0 || !c->homes) {
		control_free(c);
		return err_set(err, -ENOMEM, "no memory for the control plane");
	}
	for (unsigned i = 0; i < config->n_homes; i++)
		c->homes[i] = (struct home){
		    .loop = config->homes[i].loop,
		    .engine = config->homes[i].engine,
		};
	*ret_control = c;
	return 0;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	for (unsigned i = 0; i < DISK_BUCKETS; i++) {
		list_for_each_safe (&control->disks[i], node) {
			struct disk *d = list_entry(node, struct disk, node);

			CHECK(!d->volume);
			mem_free(d);
		}
	}
	snapshot_works_free(control);
	exports_free(control);
	mem_free(control->homes);
	mem_free(control);
}

struct exports *control_exports(struct control *control)
{
	return &control->exports;
}

uint64_t control_now(struct control *c)
{
	return io_wall_clock(c->loop);
}

struct id control_new_id(struct control *c)
{
	uint8_t random[16];

	io_random(c->loop, random, sizeof(random));
	return id_in_zone(random, c->config.zone_number);
}

/* ---- Operations -------------------------------------------------------------------- */

void control_submit(struct control *control, struct control_op *op)
{
	op->control = control;
	op->error = (struct control_error){0};
	op->memory = (struct arena){0};
	op->n_items = 0;
	op->next_token = NULL;
	op->steps_done = 0;
	op->steps = 0;
	op->result.volumes = NULL;
	op->msg.run = control_on_op;
	io_post(control->loop, &op->msg);
}

static void control_on_op(struct io_msg *msg)
{
	struct control_op *op = container_of(msg, struct control_op, msg);
	struct control *c = op->control;

	if (c->stopping || !c->started)
		control_fail(&op->error, "Unavailable", -ESHUTDOWN, "volumed %s; try again later",
			     c->stopping ? "is stopping" : "has not started yet");
	else if (op->who)
		args_text("the caller's name", op->who, CONTROL_WHO_MAX, &op->error);
	if (op->error.code)
		control_finish(c, op);
	else
		control_dispatch(c, op);
}

static void control_dispatch(struct control *c, struct control_op *op)
{
	static void (*const start[CONTROL_KINDS])(struct control * c, struct control_op * op) = {
	    [CONTROL_PING] = control_ping,
	    [CONTROL_STATUS] = control_status,
	    [CONTROL_CHECK] = control_check,
	    [CONTROL_VOLUME_CREATE] = control_create,
	    [CONTROL_VOLUME_LIST] = control_list,
	    [CONTROL_VOLUME_SHOW] = control_show,
	    [CONTROL_VOLUME_RESIZE] = control_resize,
	    [CONTROL_VOLUME_DELETE] = control_delete,
	    [CONTROL_SCRUB] = control_scrub,
	    [CONTROL_SCRUB_STOP] = control_scrub,
	    [CONTROL_ATTACH] = control_attach,
	    [CONTROL_DETACH] = control_detach,
	    [CONTROL_SNAPSHOT_CREATE] = control_snapshot_create,
	    [CONTROL_SNAPSHOT_GROUP] = control_snapshot_group,
	    [CONTROL_SNAPSHOT_LIST] = control_snapshot_list,
	    [CONTROL_SNAPSHOT_DELETE] = control_snapshot_delete,
	    [CONTROL_SNAPSHOT_VERIFY] = control_snapshot_work,
	    [CONTROL_SNAPSHOT_VERIFY_STOP] = control_snapshot_work,
	    [CONTROL_SNAPSHOT_COPY] = control_snapshot_work,
	    [CONTROL_SNAPSHOT_COPY_STOP] = control_snapshot_work,
	    [CONTROL_INSTANCE_REGISTER] = control_register,
	    [CONTROL_INSTANCE_LIST] = control_list,
	    [CONTROL_INSTANCE_DEREGISTER] = control_deregister,
	    [CONTROL_EVENT_LIST] = control_list,
	};

	CHECK((unsigned)op->kind < CONTROL_KINDS);
	start[op->kind](c, op);
}

/* By a message in any case: nothing of the caller's runs inside what finished. */
void control_finish(struct control *c, struct control_op *op)
{
	op->msg.run = control_on_finished;
	io_post(op->loop ? op->loop : c->loop, &op->msg);
}

static void control_on_finished(struct io_msg *msg)
{
	struct control_op *op = container_of(msg, struct control_op, msg);

	op->done(op);
}

void control_op_release(struct control_op *op)
{
	arena_free(&op->memory);
}

/* ---- Errors ------------------------------------------------------------------------ */

int control_fail(struct control_error *error, const char *code, int err, const char *format, ...)
{
	va_list args;

	error->code = code;
	error->err = err;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return err;
}

int control_fail_from(struct control_error *error, const struct err *err)
{
	const char *code = err->code == -ENOSPC ? "InsufficientVolumeCapacity" : "InternalError";

	return control_fail(error, code, err->code, "%s", err->text);
}
