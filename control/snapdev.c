/* SPDX-License-Identifier: Apache-2.0
 *
 *     OPENING -> OPEN -> CLOSING -> freed
 *        ^                  |
 *        '------------------'  somebody asked meanwhile
 *
 * Control's loop has the state, the claims and who waits; the home's loop opens and closes. The
 * hold goes before the next one by the same name is taken, so that it can't take that one away.
 * Each counts as a task, so control stops after it.
 */
#include "control/snapdev.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/size.h"
#include "snapshots/reader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SNAPDEV_HOLD  (7 * 24 * 3600 * NSEC_PER_SEC) /* renewed at each opening */
#define SNAPDEV_READS 16                             /* about 1.1 MiB each */
#define SNAPDEV_MAX   16                             /* open at a time */

enum snapdev_state { SNAPDEV_OPENING, SNAPDEV_OPEN, SNAPDEV_CLOSING };

struct snapdev {
	struct list node; /* control->snapdevs */
	struct control *control;
	struct home *home;
	enum snapdev_state state;
	struct id id;
	char holder[SNAP_HOLDER_MAX];
	unsigned n_claims;
	struct export_op *resolvers; /* linked by ->private */
	struct io_msg msg;
	/* The home's loop. */
	struct snap_info info;
	struct repository_op op;
	struct snap_reader_config config;
	struct snap_reader_op open;
	struct snap_reader *reader;
	struct snap_view *view;
	struct err err;
};

struct snapdev_claim {
	struct export_claim claim; /* first */
	struct snapdev *dev;
	struct io_msg msg;
};

static void open_begin(struct snapdev *d);
static void open_on_home(struct io_msg *msg);
static void open_on_hold(struct repository_op *op);
static void open_on_reader(struct snap_reader_op *op);
static void open_on_return(struct io_msg *msg);
static void close_begin(struct snapdev *d);
static void close_on_home(struct io_msg *msg);
static void close_on_release(struct repository_op *op);
static void close_on_return(struct io_msg *msg);
static void claim_release(struct control *c, struct export_claim *claim);
static void claim_release_on_control(struct io_msg *msg);

/* ---- Answers ----------------------------------------------------------------------------------
 */

static void answer_on_loop(struct io_msg *msg)
{
	struct export_op *op = container_of(msg, struct export_op, msg);

	op->done(op);
}

static void answer(struct export_op *op, int error)
{
	op->error = error;
	op->msg.run = answer_on_loop;
	io_post(op->loop, &op->msg);
}

static void describe(struct snapdev *d, struct export_op *op)
{
	struct export_info *info = &op->info;
	char size[SIZE_TEXT_MAX];
	char id[ID_TEXT_MAX];

	info->dev = snap_view_dev(d->view);
	info->loop = d->home->loop;
	info->size = block_size(info->dev);
	info->read_only = true;
	info->multi_conn = true;
	id_format(d->id, CATALOG_SNAPSHOT_PREFIX, id);
	snprintf(info->name, sizeof(info->name), "%s", id);
	snprintf(info->description, sizeof(info->description), "%s of %s, read-only", id,
		 size_format(info->size, size));
}

static void answer_open(struct snapdev *d, struct export_op *op)
{
	struct snapdev_claim *claim;

	describe(d, op);
	if (op->claim) {
		claim = mem_alloc(sizeof(*claim));
		if (!claim) {
			answer(op, -ENOMEM);
			return;
		}
		claim->claim.release = claim_release;
		claim->dev = d;
		d->n_claims++;
		op->claim_handle = claim;
	}
	answer(op, 0);
}

static struct export_op *take_resolver(struct snapdev *d)
{
	struct export_op *op = d->resolvers;

	if (op)
		d->resolvers = op->private;
	return op;
}

static void snapdev_free(struct snapdev *d)
{
	struct control *c = d->control;

	list_remove(&d->node);
	mem_free(d);
	c->n_tasks--;
	stop_kick(c);
}

/* ---- Resolving --------------------------------------------------------------------------------
 */

static struct snapdev *snapdev_new(struct control *c, struct id id)
{
	char own[ID_TEXT_MAX], snap[ID_TEXT_MAX];
	struct snapdev *d = mem_alloc(sizeof(*d));

	if (!d)
		return NULL;
	d->control = c;
	d->home = disk_choose_home(c);
	d->id = id;
	snprintf(d->holder, sizeof(d->holder), "%s-%s",
		 id_format(c->own_instance, CATALOG_INSTANCE_PREFIX, own),
		 id_format(id, CATALOG_SNAPSHOT_PREFIX, snap));
	list_add_tail(&c->snapdevs, &d->node);
	c->n_tasks++;
	return d;
}

static struct snapdev *snapdev_find(struct control *c, struct id id, unsigned *ret_n)
{
	struct snapdev *found = NULL;

	*ret_n = 0;
	list_for_each (&c->snapdevs, node) {
		struct snapdev *d = list_entry(node, struct snapdev, node);

		++*ret_n;
		if (id_equal(d->id, id))
			found = d;
	}
	return found;
}

bool snapdev_resolve(struct control *c, struct export_op *op)
{
	struct snapdev *d;
	struct id id;
	unsigned n;

	if (!op->local || !c->config.repository || c->stopping ||
	    id_parse(op->name, CATALOG_SNAPSHOT_PREFIX, &id) < 0)
		return false;
	d = snapdev_find(c, id, &n);
	if (d && d->state == SNAPDEV_OPEN) {
		answer_open(d, op);
		return true;
	}
	if (!d) {
		d = n < SNAPDEV_MAX ? snapdev_new(c, id) : NULL;
		if (!d) {
			log_warning("%s can't be exported: %s", op->name,
				    n < SNAPDEV_MAX ? "out of memory"
						    : "as many snapshots as can be are exported; "
						      "disconnect a client of another");
			answer(op, -EAGAIN);
			return true;
		}
		open_begin(d);
	}
	op->private = d->resolvers;
	d->resolvers = op;
	return true;
}

/* ---- Opening ----------------------------------------------------------------------------------
 */

static void open_begin(struct snapdev *d)
{
	d->state = SNAPDEV_OPENING;
	d->err = (struct err){0};
	d->msg.run = open_on_home;
	io_post(d->home->loop, &d->msg);
}

static void open_on_home(struct io_msg *msg)
{
	struct snapdev *d = container_of(msg, struct snapdev, msg);

	d->op.done = open_on_hold;
	snap_hold(d->control->config.repository, d->home->loop, &d->op, d->id, d->holder,
		  SNAPDEV_HOLD, &d->info);
}

static void open_end(struct snapdev *d)
{
	d->msg.run = open_on_return;
	io_post(d->control->loop, &d->msg);
}

static void open_on_hold(struct repository_op *op)
{
	struct snapdev *d = container_of(op, struct snapdev, op);

	if (op->error) {
		d->err = op->err;
		d->err.code = op->error;
		open_end(d);
		return;
	}
	d->config =
	    (struct snap_reader_config){.id = d->id, .holder = d->holder, .reads = SNAPDEV_READS};
	d->open.done = open_on_reader;
	snap_reader_open(d->control->config.repository, d->home->loop, &d->config, &d->open);
}

static void open_on_reader(struct snap_reader_op *op)
{
	struct snapdev *d = container_of(op, struct snapdev, open);

	if (op->error) {
		d->err = op->err;
		d->err.code = op->error;
	} else {
		d->reader = op->reader;
		snap_view_new(d->reader, &d->view, &d->err);
	}
	open_end(d);
}

/* Nobody claimed it, or it could not be opened: it goes again, and its hold with it. */
static void open_on_return(struct io_msg *msg)
{
	struct snapdev *d = container_of(msg, struct snapdev, msg);
	struct export_op *op;
	char id[ID_TEXT_MAX];

	if (d->err.code)
		log_warning("%s can't be exported: %s",
			    id_format(d->id, CATALOG_SNAPSHOT_PREFIX, id), d->err.text);
	d->state = SNAPDEV_OPEN;
	while ((op = take_resolver(d))) {
		if (d->err.code)
			answer(op, d->err.code);
		else
			answer_open(d, op);
	}
	if (d->n_claims == 0)
		close_begin(d);
}

/* ---- Closing ----------------------------------------------------------------------------------
 */

static void close_begin(struct snapdev *d)
{
	d->state = SNAPDEV_CLOSING;
	d->msg.run = close_on_home;
	io_post(d->home->loop, &d->msg);
}

static void close_on_home(struct io_msg *msg)
{
	struct snapdev *d = container_of(msg, struct snapdev, msg);

	snap_view_free(d->view);
	snap_reader_close(d->reader);
	d->view = NULL;
	d->reader = NULL;
	d->op.done = close_on_release;
	snap_release(d->control->config.repository, d->home->loop, &d->op, d->holder);
}

static void close_on_release(struct repository_op *op)
{
	struct snapdev *d = container_of(op, struct snapdev, op);

	if (op->error)
		log_warning("a hold in the repository stays until its time is over: %s",
			    op->err.text);
	d->msg.run = close_on_return;
	io_post(d->control->loop, &d->msg);
}

static void close_on_return(struct io_msg *msg)
{
	struct snapdev *d = container_of(msg, struct snapdev, msg);

	if (d->resolvers)
		open_begin(d);
	else
		snapdev_free(d);
}

/* ---- Claims -----------------------------------------------------------------------------------
 */

static void claim_release(struct control *c, struct export_claim *claim)
{
	struct snapdev_claim *s = container_of(claim, struct snapdev_claim, claim);

	s->msg.run = claim_release_on_control;
	io_post(c->loop, &s->msg);
}

static void claim_release_on_control(struct io_msg *msg)
{
	struct snapdev_claim *s = container_of(msg, struct snapdev_claim, msg);
	struct snapdev *d = s->dev;

	mem_free(s);
	CHECK(d->n_claims > 0);
	if (--d->n_claims == 0)
		close_begin(d);
}
