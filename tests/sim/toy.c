/* SPDX-License-Identifier: Apache-2.0
 *
 * A write is published at a random moment (it enters the log, and reads see it) and answered at a
 * later one. A power cut keeps the log up to a random record, not before the last durable one.
 */
#include "tests/sim/toy.h"

#include "base/check.h"
#include "base/util.h"

#include <string.h>

struct record {
	struct list node;
	uint64_t offset;
	uint64_t len;
	uint8_t *data; /* NULL: zeroes */
	bool durable;  /* TOY_FUA_ALONE: by itself */
};

struct toy {
	struct block_dev dev;
	struct sim *sim;
	struct io_loop *loop;
	enum toy_flaw flaw;
	uint8_t *base; /* at the last power cut */
	uint8_t *now;
	struct list log; /* since then */
	unsigned n_log;
	unsigned n_durable;
	struct list dropped;  /* TOY_SUFFIX_RETURNS */
	struct list requests; /* under way */
};

/* One request under way. */
struct task {
	struct io_op op;
	struct list node;
	struct toy *toy;
	struct block_req *req;
	bool answered;
};

static void task_publish(struct io_op *op);
static void task_answer(struct io_op *op);
static void task_finish_late(struct io_op *op);

const char *toy_flaw_name(enum toy_flaw flaw)
{
	static const char *const name[] = {
	    [TOY_HONEST] = "honest",
	    [TOY_FLUSH_LIES] = "flush lies",
	    [TOY_FUA_LIES] = "fua lies",
	    [TOY_FUA_ALONE] = "fua alone",
	    [TOY_KILL_LOSES] = "kill loses",
	    [TOY_HOLE] = "hole",
	    [TOY_SUFFIX_RETURNS] = "suffix returns",
	    [TOY_TEARS] = "tears",
	    [TOY_INTERLEAVES] = "interleaves",
	    [TOY_STALE_READS] = "stale reads",
	    [TOY_EARLY_ANSWER] = "early answer",
	    [TOY_LOSES_WRITES] = "loses writes",
	    [TOY_MISPLACES_WRITES] = "misplaces writes",
	    [TOY_ROTS] = "rots",
	    [TOY_ANSWER_ORDER] = "answer order",
	    [TOY_TRIM_EDGES] = "trim edges",
	    [TOY_TRIM_NOTHING] = "trim nothing",
	    [TOY_STATUS_LIES] = "status lies",
	};

	return flaw < TOY_N_FLAWS ? name[flaw] : "?";
}

/* ---- The log ------------------------------------------------------------------------- */

static void record_free(struct record *r)
{
	list_remove(&r->node);
	sim_release(r->data);
	sim_release(r);
}

static void empty(struct list *records)
{
	while (!list_empty(records))
		record_free(list_first(records, struct record, node));
}

static void apply_part(uint8_t *image, const struct record *r, uint64_t from, uint64_t end)
{
	if (r->data)
		memcpy(image + r->offset + from, r->data + from, end - from);
	else
		memset(image + r->offset + from, 0, end - from);
}

static void apply(uint8_t *image, const struct record *r)
{
	apply_part(image, r, 0, r->len);
}

static struct record *record_new(const struct block_req *req, uint64_t from, uint64_t end)
{
	struct record *r = sim_alloc(sizeof(*r));

	list_init(&r->node);
	r->offset = req->offset + from;
	r->len = end - from;
	if (req->op == BLOCK_WRITE) {
		r->data = sim_alloc(r->len);
		memcpy(r->data, (uint8_t *)req->buf + from, r->len);
	}
	return r;
}

/* What the live state takes of a record as it is published, and as it is answered. */
static void apply_now(struct toy *toy, const struct record *r, bool at_answer)
{
	uint64_t half = round_down(r->len / 2, BLOCK_SECTOR);

	if (toy->flaw == TOY_INTERLEAVES)
		apply_part(toy->now, r, at_answer ? half : 0, at_answer ? r->len : half);
	else if (at_answer == (toy->flaw == TOY_ANSWER_ORDER))
		apply(toy->now, r);
}

static void publish_record(struct toy *toy, struct record *r, bool fua)
{
	list_add_tail(&toy->log, &r->node);
	toy->n_log++;
	r->durable = fua;
	apply_now(toy, r, false);
}

static void add_record(struct toy *toy, struct record *r, bool fua, bool at_answer)
{
	bool lost = toy->flaw == TOY_LOSES_WRITES && sim_below(toy->sim, 20) == 0;

	if (toy->flaw == TOY_MISPLACES_WRITES && sim_below(toy->sim, 20) == 0 &&
	    r->offset + r->len < toy->dev.size)
		r->offset += BLOCK_SECTOR;
	if (!at_answer && !lost) {
		publish_record(toy, r, fua);
		return;
	}
	if (at_answer)
		apply_now(toy, r, true);
	record_free(r);
}

static void publish(struct toy *toy, const struct block_req *req, bool at_answer)
{
	uint64_t from = 0;
	uint64_t end = req->length;

	if (req->op == BLOCK_TRIM && toy->flaw == TOY_TRIM_NOTHING)
		return;
	if (req->op == BLOCK_TRIM && toy->flaw != TOY_TRIM_EDGES) {
		from = round_up(req->offset, BLOCK_SIZE) - req->offset;
		end = round_down(req->offset + req->length, BLOCK_SIZE);
		end = end > req->offset + from ? end - req->offset : from;
	}
	while (from < end) {
		uint64_t part = min_u64(end - from, BLOCK_ATOMIC_MAX);

		add_record(toy, record_new(req, from, from + part), req->flags & BLOCK_FUA,
			   at_answer);
		from += part;
	}
	/* Also for a trim that was too small to do anything: what came before it is covered. */
	if (!at_answer && (req->flags & BLOCK_FUA) && toy->flaw != TOY_FUA_LIES &&
	    toy->flaw != TOY_FUA_ALONE)
		toy->n_durable = toy->n_log;
}

/* ---- Requests ------------------------------------------------------------------------ */

static void wait_then(struct task *t, void (*next)(struct io_op *op))
{
	t->op.done = next;
	io_timer(t->toy->loop, &t->op, sim_below(t->toy->sim, 200000));
}

static void toy_submit(struct block_dev *dev, struct block_req *req)
{
	struct toy *toy = container_of(dev, struct toy, dev);
	struct task *t = sim_alloc(sizeof(*t));

	t->toy = toy;
	t->req = req;
	list_add_tail(&toy->requests, &t->node);
	wait_then(t, task_publish);
}

static void do_read(struct toy *toy, const struct block_req *req)
{
	bool stale = toy->flaw == TOY_STALE_READS && sim_below(toy->sim, 10) == 0;
	uint8_t *buf = req->buf;

	memcpy(buf, (stale ? toy->base : toy->now) + req->offset, req->length);
	if (toy->flaw == TOY_ROTS && sim_below(toy->sim, 20) == 0)
		buf[sim_below(toy->sim, req->length)] ^= 4;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* One extent: as far as all is zeroes, or all is not. */
static void do_status(struct toy *toy, struct block_req *req)
{
	const uint8_t *p = toy->now + req->offset;
	bool zero = is_zero(p, BLOCK_SECTOR);
	uint64_t len = BLOCK_SECTOR;

	while (len < req->length && is_zero(p + len, BLOCK_SECTOR) == zero)
		len += BLOCK_SECTOR;
	zero |= toy->flaw == TOY_STATUS_LIES;
	req->extents[0] = (struct block_extent){len, zero ? BLOCK_EXTENT_ZERO : 0};
	req->n_extents = 1;
}

static void do_op(struct task *t)
{
	struct toy *toy = t->toy;

	switch (t->req->op) {
	case BLOCK_READ:
		do_read(toy, t->req);
		break;
	case BLOCK_WRITE:
	case BLOCK_TRIM:
	case BLOCK_WRITE_ZEROES:
		publish(toy, t->req, false);
		break;
	case BLOCK_FLUSH:
		if (toy->flaw != TOY_FLUSH_LIES)
			toy->n_durable = toy->n_log;
		break;
	case BLOCK_STATUS:
		do_status(toy, t->req);
		break;
	case BLOCK_CACHE:
		break;
	}
}

/* The memory of a request that was answered early is its owner's: work on a copy. */
static void keep_copy(struct task *t)
{
	struct block_req *copy = sim_alloc(sizeof(*copy) + t->req->length);

	*copy = *t->req;
	if (copy->buf)
		memcpy(copy + 1, copy->buf, copy->length);
	copy->buf = copy + 1;
	t->req = copy;
}

static void task_publish(struct io_op *op)
{
	struct task *t = container_of(op, struct task, op);
	struct block_req *req = t->req;

	if (t->toy->flaw == TOY_EARLY_ANSWER && req->op == BLOCK_WRITE) {
		keep_copy(t);
		wait_then(t, task_finish_late);
		block_done(req, 0);
		return;
	}
	do_op(t);
	wait_then(t, task_answer);
}

static void task_end(struct task *t)
{
	list_remove(&t->node);
	sim_release(t);
}

static void task_finish_late(struct io_op *op)
{
	struct task *t = container_of(op, struct task, op);

	do_op(t);
	sim_release(t->req);
	task_end(t);
}

static void task_answer(struct io_op *op)
{
	struct task *t = container_of(op, struct task, op);
	struct toy *toy = t->toy;
	struct block_req *req = t->req;

	if (block_op_writes(req->op) &&
	    (toy->flaw == TOY_ANSWER_ORDER || toy->flaw == TOY_INTERLEAVES))
		publish(toy, req, true);
	task_end(t);
	block_done(req, 0);
}

/* ---- Lives --------------------------------------------------------------------------- */

static const struct block_ops toy_ops = {.name = "toy", .submit = toy_submit};

struct toy *toy_new(struct sim *sim, uint64_t size, enum toy_flaw flaw)
{
	struct toy *toy = sim_alloc(sizeof(*toy));

	toy->sim = sim;
	toy->flaw = flaw;
	toy->dev.ops = &toy_ops;
	block_set_size(&toy->dev, size);
	toy->base = sim_alloc(size);
	toy->now = sim_alloc(size);
	list_init(&toy->log);
	list_init(&toy->dropped);
	list_init(&toy->requests);
	return toy;
}

static void drop_requests(struct toy *toy)
{
	list_for_each_safe (&toy->requests, node) {
		struct task *t = container_of(node, struct task, node);

		if (t->op.done == task_finish_late)
			sim_release(t->req);
		task_end(t);
	}
}

void toy_free(struct toy *toy)
{
	drop_requests(toy);
	empty(&toy->log);
	empty(&toy->dropped);
	sim_release(toy->base);
	sim_release(toy->now);
	sim_release(toy);
}

struct block_dev *toy_open(struct toy *toy, struct io_loop *loop)
{
	toy->loop = loop;
	return &toy->dev;
}

/* Replays `keep` records onto the base; the rest is dropped. */
static void replay(struct toy *toy, unsigned keep, bool power_cut)
{
	unsigned hole = toy->n_durable + (unsigned)sim_below(toy->sim, keep - toy->n_durable + 1);
	unsigned i = 0;

	memcpy(toy->now, toy->base, toy->dev.size);
	list_for_each (&toy->log, node) {
		const struct record *r = container_of(node, struct record, node);
		bool there = i < keep;

		if (toy->flaw == TOY_HOLE && power_cut && i == hole)
			there = false;
		if (toy->flaw == TOY_FUA_ALONE && r->durable)
			there = true;
		if (there)
			apply(toy->now, r);
		else if (toy->flaw == TOY_TEARS && i == keep)
			apply_part(toy->now, r, 0, round_down(r->len / 2, BLOCK_SECTOR));
		i++;
	}
}

static void settle(struct toy *toy, unsigned keep)
{
	unsigned i = 0;

	list_for_each (&toy->dropped, node)
		apply(toy->now, container_of(node, struct record, node));
	empty(&toy->dropped);
	list_for_each_safe (&toy->log, node) {
		struct record *r = container_of(node, struct record, node);

		if (i++ >= keep && toy->flaw == TOY_SUFFIX_RETURNS) {
			list_remove(&r->node);
			list_add_tail(&toy->dropped, &r->node);
		}
	}
	empty(&toy->log);
	memcpy(toy->base, toy->now, toy->dev.size);
	toy->n_log = 0;
	toy->n_durable = 0;
}

void toy_crash(struct toy *toy, bool power_cut)
{
	unsigned keep = toy->n_log;

	drop_requests(toy);
	if (power_cut)
		keep =
		    toy->n_durable + (unsigned)sim_below(toy->sim, toy->n_log - toy->n_durable + 1);
	if (!power_cut && toy->flaw == TOY_KILL_LOSES && keep > toy->n_durable)
		keep--;
	replay(toy, keep, power_cut);
	if (power_cut)
		settle(toy, keep);
}
