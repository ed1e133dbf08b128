/* SPDX-License-Identifier: Apache-2.0 */
#include "control/origin.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/reader.h"

#include <errno.h>
#include <string.h>

#define SLOTS  32 /* requests at work; the others wait */
#define BLOCKS 16 /* of a status: how far it looks ahead */

struct origin_slot {
	struct list link; /* idle */
	struct origin *origin;
	struct volume_base_req *req;
	struct snap_read read;
	struct snap_walk walk;
	struct snap_block blocks[BLOCKS];
};

struct origin {
	struct volume_base base;
	struct control *control;
	struct io_loop *loop;
	struct id volume;
	uint64_t rate;
	struct volume_op *op; /* the opening */
	void (*opened)(struct volume_op *op);
	struct repository_op hold;
	struct snap_reader_op open;
	struct snap_reader_config config;
	struct snap_reader *reader;
	struct snap_info info;
	struct err why_not; /* there is no reader */
	char holder[ID_TEXT_MAX];
	struct list idle;
	struct list demand;
	struct list behind;
	struct io_msg msg;
	struct origin_slot slots[SLOTS];
};

static void origin_read(struct volume_base *base, struct volume_base_req *req);
static void origin_status(struct volume_base *base, struct volume_base_req *req);
static void origin_release(struct volume_base *base, bool hydrated);
static void origin_on_hold(struct repository_op *op);
static void origin_on_reader(struct snap_reader_op *op);
static void origin_on_opened(struct volume_op *op);
static void slot_on_read(struct snap_read *read);
static void slot_on_walk(struct snap_walk *walk);
static void hydrated_on_control(struct io_msg *msg);

static const struct volume_base_ops ops = {
    .read = origin_read,
    .status = origin_status,
    .release = origin_release,
};

/* ---- Opening ---------------------------------------------------------------------------------
 */

void origin_open(struct volume_op *op)
{
	struct task *t = container_of(op, struct task, volume_op);
	struct origin *o = mem_alloc(sizeof(*o));

	if (!o) {
		err_set(&op->err, -ENOMEM, "out of memory");
		op->done(op);
		return;
	}
	o->base = (struct volume_base){.ops = &ops, .snapshot = t->volume.base};
	o->control = t->control;
	o->loop = t->home->loop;
	o->rate = t->volume.hydration_rate;
	o->volume = op->id;
	o->op = op;
	id_format(op->id, CATALOG_VOLUME_PREFIX, o->holder);
	list_init(&o->idle);
	list_init(&o->demand);
	list_init(&o->behind);
	for (unsigned i = 0; i < SLOTS; i++) {
		o->slots[i].origin = o;
		list_add_tail(&o->idle, &o->slots[i].link);
	}
	o->hold.done = origin_on_hold;
	snap_hold(o->control->config.repository, o->loop, &o->hold, o->base.snapshot, o->holder,
		  HOLD_TIME, &o->info);
}

static void cant(struct origin *o)
{
	char id[ID_TEXT_MAX];

	log_error("volume %s: the snapshot %s that it is made of can't be read, so what is not "
		  "copied yet reads as an error: %s",
		  o->holder, id_format(o->base.snapshot, CATALOG_SNAPSHOT_PREFIX, id),
		  o->why_not.text);
}

static void open_volume(struct origin *o)
{
	struct volume_op *op = o->op;

	o->opened = op->done;
	op->done = origin_on_opened;
	op->base = o->reader ? &o->base : NULL;
	op->arg = o;
	volume_open(op);
}

static void origin_on_hold(struct repository_op *op)
{
	struct origin *o = container_of(op, struct origin, hold);

	if (op->error) {
		o->why_not = op->err;
		open_volume(o);
		return;
	}
	o->config = (struct snap_reader_config){
	    .id = o->base.snapshot,
	    .holder = o->holder,
	    .reads = SLOTS,
	};
	o->open.done = origin_on_reader;
	snap_reader_open(o->control->config.repository, o->loop, &o->config, &o->open);
}

static void origin_on_reader(struct snap_reader_op *op)
{
	struct origin *o = container_of(op, struct origin, open);

	o->why_not = op->err;
	o->reader = op->error ? NULL : op->reader;
	open_volume(o);
}

/* The engine needs no base any more; who else knew of it is to forget it. */
static void hydrated(struct origin *o)
{
	o->msg.run = hydrated_on_control;
	io_post(o->control->loop, &o->msg);
}

/* It was hydrated before, and a crash came between that and the row. */
static bool needs_none(const struct volume *v)
{
	struct volume_stats stats;

	volume_stats(v, &stats);
	return id_is_zero(stats.base);
}

static void origin_on_opened(struct volume_op *op)
{
	struct origin *o = op->arg;
	bool with_base = op->base != NULL;
	uint64_t rate = o->rate ? o->rate : o->control->config.hydration_rate;

	op->done = o->opened;
	if (op->err.code == 0 && with_base && !op->read_only && !op->deleted)
		volume_hydrate(op->volume, rate ? rate : UINT64_MAX);
	if (op->err.code) {
		snap_reader_close(o->reader);
		mem_free(o);
	} else if (!with_base && needs_none(op->volume)) {
		hydrated(o);
	} else if (!with_base) {
		cant(o);
		mem_free(o);
	}
	op->done(op);
}

/* ---- Blocks ----------------------------------------------------------------------------------
 */

static void slot_start(struct origin_slot *s, struct volume_base_req *req)
{
	struct snap_reader *reader = s->origin->reader;

	s->req = req;
	if (req->private) {
		s->walk = (struct snap_walk){
		    .done = slot_on_walk,
		    .next = req->lba / VOLUME_UNIT_BLOCKS,
		    .blocks = s->blocks,
		    .max = BLOCKS,
		};
		snap_list_blocks(reader, &s->walk);
		return;
	}
	s->read = (struct snap_read){.done = slot_on_read};
	snap_read(reader, &s->read, req->buf, req->lba * BLOCK_SIZE,
		  (uint64_t)req->blocks * BLOCK_SIZE);
}

static void take(struct origin *o, struct volume_base_req *req)
{
	struct list *node = list_pop(&o->idle);

	if (node)
		slot_start(list_entry(node, struct origin_slot, link), req);
	else
		list_add_tail(req->demand ? &o->demand : &o->behind, &req->link);
}

/* What somebody waits for comes first. */
static void slot_end(struct origin_slot *s)
{
	struct origin *o = s->origin;
	struct volume_base_req *req = s->req;
	struct list *next = list_pop(&o->demand);

	if (!next)
		next = list_pop(&o->behind);
	if (next)
		slot_start(s, list_entry(next, struct volume_base_req, link));
	else
		list_add_tail(&o->idle, &s->link);
	req->done(req);
}

static void origin_read(struct volume_base *base, struct volume_base_req *req)
{
	req->private = NULL;
	take(container_of(base, struct origin, base), req);
}

static void origin_status(struct volume_base *base, struct volume_base_req *req)
{
	req->private = base; /* a status */
	take(container_of(base, struct origin, base), req);
}

static void slot_on_read(struct snap_read *read)
{
	struct origin_slot *s = container_of(read, struct origin_slot, read);
	s->req->error = read->error;
	slot_end(s);
}

/* Zeroes up to the first block that is there; data as far as blocks follow each other. */
static void slot_on_walk(struct snap_walk *walk)
{
	struct origin_slot *s = container_of(walk, struct origin_slot, walk);
	struct volume_base_req *req = s->req;
	uint64_t unit = req->lba / VOLUME_UNIT_BLOCKS;
	uint64_t end = req->lba + req->blocks;
	uint64_t n = 0;

	req->error = walk->error;
	req->zero = walk->n == 0 || s->blocks[0].block > unit;
	while (n < walk->n && s->blocks[n].block == unit + n)
		n++;
	if (!req->zero)
		end = min_u64(end, (unit + n) * VOLUME_UNIT_BLOCKS);
	else if (walk->n > 0)
		end = min_u64(end, s->blocks[0].block * VOLUME_UNIT_BLOCKS);
	else if (walk->next != UINT64_MAX)
		end = min_u64(end, walk->next * VOLUME_UNIT_BLOCKS);
	req->n = (uint32_t)(end - req->lba);
	slot_end(s);
}

/* ---- The end ---------------------------------------------------------------------------------
 */

static void origin_release(struct volume_base *base, bool is_hydrated)
{
	struct origin *o = container_of(base, struct origin, base);

	snap_reader_close(o->reader);
	o->reader = NULL;
	if (is_hydrated)
		hydrated(o);
	else
		mem_free(o);
}

/* The hold goes, then the row forgets the base; so a crash leaves no hold that nobody knows.
 *
 *     BEGIN -> WAIT_HOLD -> WAIT_ROW -> END
 */
enum hydrated_state { HYDRATED_BEGIN, HYDRATED_WAIT_HOLD, HYDRATED_WAIT_ROW };

static int hydrated_job(struct catalog *c, struct catalog_job *job)
{
	struct task *t = task_of_job(job);
	struct id base = {0};
	char id[ID_TEXT_MAX];
	int r = task_read_volume(c, t);

	if (r < 0)
		return r;
	if (t->volume.state == CATALOG_CREATING)
		t->volume.state = CATALOG_AVAILABLE;
	t->volume.lineage = t->volume.base;
	t->volume.base = base;
	r = catalog_volume_put(c, &t->volume, &job->err);
	return r == 0 ? task_event(c, t, "volumeHydrated",
				   id_format(t->volume.id, CATALOG_VOLUME_PREFIX, id),
				   "it needs its snapshot no longer")
		      : r;
}

static void hydrated_step(struct task *t)
{
	if (t->state == HYDRATED_BEGIN && origin_forget(t, HYDRATED_WAIT_HOLD))
		return;
	/* If either fails, the next opening finds it again. */
	if (t->state == HYDRATED_WAIT_HOLD && t->forget_error == 0)
		task_job(t, HYDRATED_WAIT_ROW, hydrated_job);
	else {
		hydrator_over(t->disk);
		task_end(t);
	}
}

static void hydrated_on_control(struct io_msg *msg)
{
	struct origin *o = container_of(msg, struct origin, msg);
	struct task *t = task_new(o->control, NULL, hydrated_step);

	if (t)
		task_take(t, o->volume);
	mem_free(o);
}

/* ---- Holds -----------------------------------------------------------------------------------
 */

struct forgetting {
	struct task *task;
	struct repository_op op;
};

static void forgot(struct repository_op *op)
{
	struct forgetting *f = container_of(op, struct forgetting, op);
	struct task *t = f->task;

	if (op->error)
		log_warning("a hold in the repository stays until its time is over: %s",
			    op->err.text);
	t->forget_error = op->error;
	mem_free(f);
	t->step(t);
}

bool origin_forget(struct task *t, int state)
{
	struct control *c = t->control;
	struct forgetting *f = c->config.repository ? mem_alloc(sizeof(*f)) : NULL;
	char holder[ID_TEXT_MAX];

	t->state = state;
	t->forget_error = 0;
	if (!f)
		return false;
	f->task = t;
	f->op.done = forgot;
	snap_release(c->config.repository, c->loop, &f->op,
		     id_format(t->volume.id, CATALOG_VOLUME_PREFIX, holder));
	return true;
}
