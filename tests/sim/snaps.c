/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/snaps.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/drill.h"

#include <errno.h>
#include <string.h>

#define STEPS_MAX 20000000

static struct snap *snap_of(struct drill *d, unsigned i, unsigned number)
{
	CHECK(number < SNAPS_MAX);
	return &d->snaps[i][number];
}

static struct oracle *oracle_of(struct snap *s)
{
	return s->drill->volumes[s->volume].oracle;
}

static void snap_end(struct snap *s)
{
	oracle_free(s->oracle);
	sim_release(s->bytes);
	s->oracle = NULL;
	s->bytes = NULL;
	s->state = SNAP_NONE;
}

/* ---- Taking ---------------------------------------------------------------------------- */

static void on_placed(struct volume_op *op)
{
	struct snap *s = container_of(op, struct snap, op);

	s->oracle = oracle_of_cut(oracle_of(s), s->asked);
	s->state = SNAP_PLACED;
}

static void on_done(struct volume_op *op)
{
	struct snap *s = container_of(op, struct snap, op);

	s->over = true;
	s->sequence = op->sequence;
	if (op->err.code == 0 && s->state != SNAP_PLACED)
		sim_fail(s->drill->sim, "a cut is durable that has no place");
	if (op->err.code == 0)
		s->state = SNAP_DONE;
	else if (s->state == SNAP_PLACED)
		s->state = SNAP_UNSURE;
	else if (op->err.code != -EIO)
		snap_end(s);
}

void snap_ask(struct drill *d, unsigned i, unsigned number)
{
	struct snap *s = snap_of(d, i, number);

	if (s->state != SNAP_NONE)
		return;
	memset(s, 0, sizeof(*s));
	s->drill = d;
	s->volume = i;
	s->state = SNAP_ASKED;
	s->asked = oracle_read_begin(d->volumes[i].oracle);
	s->op.engine = d->world.engine;
	s->op.volume = d->world.volumes[i];
	s->op.snapshot = world_snapshot_id(number);
	s->op.placed = on_placed;
	s->op.done = on_done;
	volume_snapshot(&s->op);
}

/* False: dead. */
static bool wait_for(struct drill *d, bool *flag)
{
	enum sim_end end = sim_run_until(d->sim, sim_flag_is_set, flag, STEPS_MAX);

	if (end != SIM_DONE && end != SIM_DEAD)
		sim_fail(d->sim, "an operation on a snapshot never ends");
	return end == SIM_DONE;
}

bool snap_wait(struct drill *d, unsigned i, unsigned number)
{
	struct snap *s = snap_of(d, i, number);

	if (s->state == SNAP_NONE || s->over)
		return !sim_is_dead(d->sim);
	if (!wait_for(d, &s->over))
		return false;
	if (s->op.err.code && s->op.err.code != -EAGAIN && !d->errors_ok)
		sim_fail(d->sim, "volume %u: %s", i, s->op.err.text);
	return true;
}

bool snap_let_go(struct drill *d, unsigned i, unsigned number)
{
	struct snap *s = snap_of(d, i, number);
	int r;

	if (!snap_wait(d, i, number))
		return false;
	if (s->state == SNAP_NONE) /* it was refused */
		return true;
	if (s->state == SNAP_DONE)
		s->state = SNAP_UNSURE;
	r = world_pin(&d->world, i, number, true, NULL);
	if (r == 0)
		snap_end(s);
	if (r < 0 && r != -ESHUTDOWN && !d->errors_ok)
		sim_fail(d->sim, "volume %u: letting a snapshot go: %s", i, d->world.err.text);
	return r != -ESHUTDOWN;
}

void snaps_crash(struct drill *d, unsigned i)
{
	for (unsigned n = 0; n < SNAPS_MAX; n++) {
		struct snap *s = snap_of(d, i, n);

		if (s->state == SNAP_ASKED)
			s->oracle = oracle_of_cut(d->volumes[i].oracle, s->asked);
		if (s->state == SNAP_ASKED || s->state == SNAP_PLACED)
			s->state = SNAP_UNSURE;
		s->over = true;
	}
}

void snaps_free(struct drill *d, unsigned i)
{
	for (unsigned n = 0; n < SNAPS_MAX; n++)
		snap_end(snap_of(d, i, n));
}

/* ---- Views ----------------------------------------------------------------------------- */

struct view_call {
	struct volume_op op;
	struct volume_view_req req;
	bool done;
};

static void on_open(struct volume_op *op)
{
	container_of(op, struct view_call, op)->done = true;
}

static void on_req(struct volume_view_req *req)
{
	container_of(req, struct view_call, req)->done = true;
}

/* NULL: dead. */
static struct view_call *view_open(struct drill *d, unsigned i, unsigned number)
{
	struct view_call *c = mem_alloc(sizeof(*c));

	CHECK(c);
	c->op.engine = d->world.engine;
	c->op.volume = d->world.volumes[i];
	c->op.snapshot = world_snapshot_id(number);
	c->op.done = on_open;
	volume_view_open(&c->op);
	if (!wait_for(d, &c->done))
		return NULL;
	if (c->op.err.code)
		sim_fail(d->sim, "a view does not open: %s", c->op.err.text);
	c->req.view = c->op.view;
	c->req.done = on_req;
	return c;
}

static void view_close(struct view_call *c)
{
	volume_view_close(c->op.view);
	mem_free(c);
}

uint8_t *snap_bytes(struct drill *d, unsigned i, unsigned number, uint64_t *ret_size)
{
	struct view_call *c = view_open(d, i, number);
	struct volume_pin pin;
	uint64_t units;
	uint8_t *pages;
	uint8_t *bytes;

	if (!c)
		return NULL;
	volume_view_info(c->op.view, &pin);
	units = round_up(pin.size, VOLUME_UNIT) / VOLUME_UNIT;
	pages = mem_alloc_pages(VOLUME_UNIT);
	bytes = sim_alloc(units * VOLUME_UNIT);
	c->req.buf = pages;
	for (c->req.unit = 0; c->req.unit < units; c->req.unit++) {
		c->done = false;
		volume_view_read(&c->req);
		if (!wait_for(d, &c->done)) {
			sim_release(bytes);
			return NULL;
		}
		if (c->req.error || memchr(c->req.states, VOLUME_BLOCK_BAD, VOLUME_UNIT_BLOCKS))
			sim_fail(d->sim, "volume %u: unit %llu of snapshot %u is bad", i,
				 (unsigned long long)c->req.unit, number);
		memcpy(bytes + c->req.unit * VOLUME_UNIT, pages, VOLUME_UNIT);
	}
	mem_free_pages(pages, VOLUME_UNIT);
	view_close(c);
	*ret_size = pin.size;
	return bytes;
}

uint8_t *snap_changes(struct drill *d, unsigned i, unsigned number, uint64_t since, bool all,
		      uint64_t *ret_units)
{
	struct view_call *c = view_open(d, i, number);
	struct volume_pin pin;
	uint8_t *map;

	if (!c)
		return NULL;
	volume_view_info(c->op.view, &pin);
	*ret_units = round_up(pin.size, VOLUME_UNIT) / VOLUME_UNIT;
	map = sim_alloc(*ret_units + 1);
	memset(map, 0, *ret_units + 1);
	c->req.since = since;
	c->req.all = all;
	for (c->req.unit = 0;; c->req.unit++) {
		c->done = false;
		volume_view_next(&c->req);
		if (!wait_for(d, &c->done)) {
			sim_release(map);
			return NULL;
		}
		if (c->req.error)
			break;
		CHECK(c->req.unit < *ret_units);
		map[c->req.unit] = 1;
	}
	if (c->req.error != -ENOENT)
		sim_fail(d->sim, "changed units can't be told: %d", c->req.error);
	view_close(c);
	return map;
}

/* ---- Judging --------------------------------------------------------------------------- */

static void judge_bytes(struct drill *d, struct snap *s, unsigned number)
{
	struct oracle *oracle;
	bool ok;

	if (s->size / BLOCK_SECTOR > oracle_sectors(s->oracle))
		oracle_grow(s->oracle, s->size / BLOCK_SECTOR);
	oracle = oracle_of_cut(s->oracle, s->asked);
	oracle_crash_begin(oracle, ORACLE_POWER_CUT);
	ok = oracle_crash_see(oracle, 0, s->size / BLOCK_SECTOR, s->bytes) &&
	     oracle_crash_end(oracle);
	if (!ok)
		sim_fail(d->sim, "snapshot %u of volume %u: %s", number, s->volume,
			 oracle_text(oracle));
	oracle_free(oracle);
}

static bool judge_one(struct drill *d, unsigned i, unsigned number)
{
	struct snap *s = snap_of(d, i, number);
	uint64_t size;
	uint8_t *bytes = snap_bytes(d, i, number, &size);

	if (!bytes)
		return false;
	if (s->bytes && (size != s->size || memcmp(bytes, s->bytes, size)))
		sim_fail(d->sim, "snapshot %u of volume %u has changed", number, i);
	if (s->bytes) {
		sim_release(bytes);
		return true;
	}
	s->bytes = bytes;
	s->size = size;
	judge_bytes(d, s, number);
	return true;
}

bool snaps_judge(struct drill *d, unsigned i)
{
	struct volume_pin pins[VOLUME_PINS];
	unsigned n = volume_pins(d->world.volumes[i], pins);
	bool there[SNAPS_MAX] = {false};
	enum snap_state was[SNAPS_MAX]; /* reading views takes its time */

	for (unsigned number = 0; number < SNAPS_MAX; number++)
		was[number] = snap_of(d, i, number)->state;
	for (unsigned k = 0; k < n; k++) {
		uint64_t number64 = pins[k].snapshot.lo - 1;
		unsigned number = number64 % SNAPS_MAX;

		if (number64 >= SNAPS_MAX || was[number] == SNAP_NONE)
			sim_fail(d->sim, "volume %u has a pin that nobody asked for", i);
		there[number] = true;
		if (snap_of(d, i, number)->state == SNAP_ASKED)
			continue;
		if (snap_of(d, i, number)->state == SNAP_DONE &&
		    snap_of(d, i, number)->sequence != pins[k].sequence)
			sim_fail(d->sim, "volume %u: a pin has another sequence than its cut", i);
		snap_of(d, i, number)->sequence = pins[k].sequence;
		if (!judge_one(d, i, number))
			return false;
	}
	for (unsigned number = 0; number < SNAPS_MAX; number++) {
		struct snap *s = snap_of(d, i, number);

		if (was[number] == SNAP_DONE && !there[number])
			sim_fail(d->sim, "volume %u has lost snapshot %u", i, number);
		if (was[number] != SNAP_UNSURE || !s->over)
			continue;
		if (there[number])
			s->state = SNAP_DONE;
		else
			snap_end(s);
	}
	return true;
}

/* ---- Bases ----------------------------------------------------------------------------- */

struct base_call {
	struct snap_base *base;
	struct volume_base_req *req;
	struct io_op timer;
};

static bool is_bad(const struct snap_base *b, const struct volume_base_req *req)
{
	return req->lba < b->bad_to && b->bad_from < req->lba + req->blocks;
}

static void base_answer(struct io_op *op)
{
	struct base_call *c = container_of(op, struct base_call, timer);
	struct snap_base *b = c->base;
	struct volume_base_req *req = c->req;
	uint64_t n = 0;

	mem_free(c);
	req->error = is_bad(b, req) ? -EIO : 0;
	if (req->buf) {
		memcpy(req->buf, b->bytes + req->lba * BLOCK_SIZE,
		       (size_t)req->blocks * BLOCK_SIZE);
		b->bytes_read += (uint64_t)req->blocks * BLOCK_SIZE;
	}
	for (; !req->buf && n < req->blocks; n++) {
		const uint8_t *p = b->bytes + (req->lba + n) * BLOCK_SIZE;
		bool zero = p[0] == 0 && memcmp(p, p + 1, BLOCK_SIZE - 1) == 0;

		if (n == 0)
			req->zero = zero;
		else if (zero != req->zero)
			break;
	}
	req->n = (uint32_t)n;
	req->done(req);
}

static void base_start(struct volume_base *base, struct volume_base_req *req)
{
	struct snap_base *b = container_of(base, struct snap_base, base);
	struct base_call *c = mem_alloc(sizeof(*c));

	CHECK(c);
	CHECK(!b->released);
	CHECK((req->lba + req->blocks) * BLOCK_SIZE <= b->size);
	CHECK(!req->buf ||
	      req->lba / VOLUME_UNIT_BLOCKS == (req->lba + req->blocks - 1) / VOLUME_UNIT_BLOCKS);
	c->base = b;
	c->req = req;
	c->timer.done = base_answer;
	io_timer(*b->loop, &c->timer, 1 + sim_below(b->sim, b->delay));
}

static void base_release(struct volume_base *base, bool hydrated)
{
	struct snap_base *b = container_of(base, struct snap_base, base);

	CHECK(!b->released);
	b->released = true;
	b->hydrated = hydrated;
}

void snaps_make_base(struct drill *d, unsigned i, unsigned number)
{
	static const struct volume_base_ops ops = {
	    .read = base_start, .status = base_start, .release = base_release};
	struct snap *s = snap_of(d, i, number);

	if (!drill_pin(d, i, number, false) || !snaps_judge(d, i))
		sim_fail(d->sim, "the machine died early");
	d->bases[1] = (struct snap_base){
	    .base = {.ops = &ops, .snapshot = world_snapshot_id(number)},
	    .sim = d->sim,
	    .loop = &d->world.loop,
	    .bytes = s->bytes,
	    .size = s->size,
	    .delay = 3 * NSEC_PER_MSEC,
	    .of = s,
	};
}

int snaps_make_volume(struct drill *d, unsigned made, uint64_t more)
{
	const struct snap *s = d->bases[1].of;
	struct drill_volume *v = &d->volumes[made];

	v->oracle = oracle_of_cut(s->oracle, s->asked);
	oracle_crash_begin(v->oracle, ORACLE_POWER_CUT);
	if (!oracle_crash_see(v->oracle, 0, s->size / BLOCK_SECTOR, s->bytes) ||
	    !oracle_crash_end(v->oracle))
		sim_fail(d->sim, "%s", oracle_text(v->oracle));
	oracle_apart(v->oracle);
	d->sizes[made] = s->size + more;
	d->world.base_ids[made] = d->bases[1].base.snapshot;
	d->world.base_sizes[made] = s->size;
	d->world.bases[made] = &d->bases[1].base;
	d->n_volumes = made + 1;
	return drill_open(d, made);
}
