/* SPDX-License-Identifier: Apache-2.0
 *
 * The base: the snapshot that a volume was made of. Blocks that are INHERIT in the map are read
 * there (read.c) until they are here. Hydration copies them in, a unit of 512 KiB at a time:
 *
 *   status: zeroes are passed by -> LOOK: is anything INHERIT? -> FETCH -> READY
 *     -> look again, queue a HYDRATE with what is INHERIT still and not zero -> LOGGED -> done
 *
 * From the second look to the publishing no overlay freezes, as with a MOVE (gc.c): whatever a user
 * changes meanwhile is in the active overlay, which apply_hydrate asks. What can't be fetched stays
 * INHERIT, and the next pass, after a rest, asks for it again. After a pass without such a hole all
 * that is INHERIT is zero in the base: the base is detached by a checkpoint.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define UNITS     4 /* in flight */
#define RUNS_MAX  (VOLUME_UNIT_BLOCKS / 2)
#define RETRY     NSEC_PER_MSEC
#define CATCH_UP  (100 * NSEC_PER_MSEC) /* of a rate that could not be kept */
#define PINS_REST (100 * NSEC_PER_MSEC)

enum unit_state {
	UNIT_FREE,
	UNIT_LOOK,   /* waits for the first look, or for a leaf in it */
	UNIT_FETCH,  /* the base reads */
	UNIT_READY,  /* waits for the second look, or for a leaf in it */
	UNIT_QUEUED, /* its HYDRATE waits for a record */
	UNIT_LOGGED, /* its HYDRATE has a sequence */
};

struct unit_run {
	uint8_t first;
	uint8_t blocks;
};

struct hydrate_unit {
	struct hydrate *hydrate;
	enum unit_state state;
	bool asleep; /* a leaf is being loaded */
	uint64_t number;
	uint32_t blocks;
	uint32_t next;   /* block to look at */
	uint32_t needed; /* blocks that the look found to be INHERIT */
	uint32_t n_runs;
	struct unit_run runs[RUNS_MAX];
	struct op *op; /* QUEUED */
	uint8_t *buf;
	struct volume_base_req req;
	struct flight flight; /* of req */
	struct leaf_wait wait;
};

struct hydrate {
	struct volume *volume;
	uint64_t rate;         /* bytes per second; 0: not now */
	uint64_t due;          /* io_now: of the next fetch, by the rate */
	uint64_t rest_until;   /* io_now: before the next pass */
	uint64_t next;         /* unit to begin next */
	uint64_t n_units;      /* of the base */
	uint64_t data_until;   /* units below it are known to hold data */
	uint64_t first_failed; /* in this pass; UINT64_MAX: none */
	uint64_t failed;       /* bytes, in this pass */
	uint64_t done_at;      /* sequence at which nothing was missing; 0: not yet */
	uint32_t n_users;      /* base requests in flight for others */
	uint32_t n_logged;     /* units in LOGGED */
	bool asking;           /* status is under way */
	bool barred;           /* a checkpoint waits until nothing is LOGGED */
	bool detaching;
	bool detached;
	bool turning; /* `turn` is under way */
	bool timing;  /* `timer` is */
	bool cancelled;
	uint64_t timer_at;
	struct io_op turn;
	struct io_op timer;
	struct volume_base_req status;
	struct flight flight; /* of status */
	struct checkpoint_wait wait;
	struct hydrate_unit units[UNITS];
};

static void hydrate_step(struct hydrate *h);

/* ---- Waking ------------------------------------------------------------------------------------
 */

static void on_turn(struct io_op *op)
{
	struct hydrate *h = container_of(op, struct hydrate, turn);

	h->turning = false;
	hydrate_step(h);
}

static void timer_cancel(struct hydrate *h)
{
	if (!h->timing || h->cancelled)
		return;
	h->cancelled = true;
	io_timer_cancel(h->volume->loop, &h->timer);
}

void hydrate_kick(struct volume *v)
{
	struct hydrate *h = v->hydrate;

	if (!h)
		return;
	if (v->closing)
		timer_cancel(h);
	if (h->turning)
		return;
	h->turning = true;
	h->turn.done = on_turn;
	io_defer(v->loop, &h->turn, 0);
}

static void on_timer(struct io_op *op)
{
	struct hydrate *h = container_of(op, struct hydrate, timer);

	h->timing = h->cancelled = false;
	hydrate_kick(h->volume);
}

/* Looks again after a rest; an earlier look does no harm, and asks for a rest once more. */
static void hydrate_rest(struct hydrate *h, uint64_t delay)
{
	uint64_t at = io_now(h->volume->loop) + delay;

	if (h->timing && at < h->timer_at)
		timer_cancel(h);
	if (h->timing || h->volume->closing)
		return;
	h->timer_at = at;
	h->timing = true;
	h->timer.done = on_timer;
	io_timer(h->volume->loop, &h->timer, delay);
}

/* ---- A unit ------------------------------------------------------------------------------------
 */

static void unit_end(struct hydrate_unit *u, bool failed)
{
	struct hydrate *h = u->hydrate;

	if (failed) {
		h->first_failed = min_u64(h->first_failed, u->number);
		h->failed += (uint64_t)u->blocks * BLOCK_SIZE;
		h->volume->stats.hydrate_failed =
		    max_u64(h->volume->stats.hydrate_failed, h->failed);
	}
	u->state = UNIT_FREE;
	hydrate_kick(h->volume);
}

static void on_leaf(struct leaf_wait *wait, int error)
{
	struct hydrate_unit *u = container_of(wait, struct hydrate_unit, wait);

	u->asleep = false;
	if (error)
		unit_end(u, true);
	else
		hydrate_kick(u->hydrate->volume);
}

static bool is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_SIZE - 1) == 0;
}

static void unit_need(struct hydrate_unit *u, uint32_t i)
{
	struct unit_run *last = u->n_runs ? &u->runs[u->n_runs - 1] : NULL;

	u->needed++;
	if (last && last->first + last->blocks == i)
		last->blocks++;
	else
		u->runs[u->n_runs++] = (struct unit_run){.first = (uint8_t)i, .blocks = 1};
}

/* Walks the unit's blocks; with `fetched` those that are zeroes are not needed. False: asleep. */
static bool unit_look(struct hydrate_unit *u, bool fetched)
{
	struct volume *v = u->hydrate->volume;

	if (u->next == 0)
		u->needed = u->n_runs = 0;
	for (; u->next < u->blocks; u->next++) {
		uint64_t lba = u->number * VOLUME_UNIT_BLOCKS + u->next;
		struct entry e;

		if (map_get(v, lba, &e) == -EAGAIN) {
			u->asleep = true;
			u->wait.wake = on_leaf;
			leaf_load(v, lba / LEAF_BLOCKS, &u->wait);
			return false;
		}
		if (e.state != ENTRY_INHERIT)
			continue;
		if (!fetched)
			u->needed++;
		else if (!is_zero(u->buf + (size_t)u->next * BLOCK_SIZE))
			unit_need(u, u->next);
	}
	u->next = 0;
	return true;
}

static void on_fetched(struct volume_base_req *req)
{
	struct hydrate_unit *u = container_of(req, struct hydrate_unit, req);
	struct volume *v = u->hydrate->volume;

	flight_end(v, &u->flight);
	if (req->error) {
		volume_bad_block(v, req->lba, "its base snapshot can't be read");
		unit_end(u, true);
		return;
	}
	u->state = UNIT_READY;
	hydrate_kick(v);
}

static void unit_fetch(struct hydrate_unit *u)
{
	struct hydrate *h = u->hydrate;
	struct volume *v = h->volume;
	uint64_t bytes = (uint64_t)u->blocks * BLOCK_SIZE;

	if (u->needed == 0) {
		unit_end(u, false);
		return;
	}
	if (h->rate && h->rate != UINT64_MAX)
		h->due += bytes * NSEC_PER_SEC / h->rate;
	v->stats.base_bytes += bytes;
	u->state = UNIT_FETCH;
	u->req = (struct volume_base_req){.lba = u->number * VOLUME_UNIT_BLOCKS,
					  .blocks = u->blocks,
					  .buf = u->buf,
					  .done = on_fetched};
	flight_begin(v, &u->flight, VOLUME_IO_BASE);
	v->base->ops->read(v->base, &u->req);
}

static void unit_log(struct hydrate_unit *u)
{
	struct volume *v = u->hydrate->volume;

	if (u->n_runs == 0) {
		unit_end(u, false);
		return;
	}
	u->op = op_get(v, OP_HYDRATE);
	if (!u->op) { /* requests have them all */
		hydrate_rest(u->hydrate, RETRY);
		return;
	}
	u->op->unit = u;
	u->state = UNIT_QUEUED;
	list_add_tail(&v->write_queue, &u->op->link);
	volume_kick(v);
}

static bool may_look(const struct hydrate *h)
{
	return !h->barred && h->volume->n_cutting == 0;
}

static void unit_step(struct hydrate_unit *u)
{
	struct hydrate *h = u->hydrate;
	struct volume *v = h->volume;

	if (u->asleep)
		return;
	if ((v->closing || v->failed) && (u->state == UNIT_LOOK || u->state == UNIT_READY)) {
		u->state = UNIT_FREE;
	} else if (u->state == UNIT_LOOK) {
		if (unit_look(u, false))
			unit_fetch(u);
	} else if (u->state == UNIT_READY && !may_look(h)) {
		hydrate_rest(h, RETRY);
	} else if (u->state == UNIT_READY) {
		if (unit_look(u, true))
			unit_log(u);
	}
}

/* ---- What a HYDRATE holds, and its way through the log -----------------------------------------
 */

uint32_t hydrate_size(const struct hydrate_unit *u, uint32_t *ret_blocks)
{
	*ret_blocks = u->needed;
	return u->n_runs;
}

uint8_t *hydrate_run(const struct hydrate_unit *u, uint32_t n, uint64_t *ret_lba,
		     uint32_t *ret_blocks)
{
	*ret_lba = u->number * VOLUME_UNIT_BLOCKS + u->runs[n].first;
	*ret_blocks = u->runs[n].blocks;
	return u->buf + (size_t)u->runs[n].first * BLOCK_SIZE;
}

void hydrate_sequenced(struct hydrate_unit *u)
{
	u->state = UNIT_LOGGED;
	u->hydrate->n_logged++;
}

void hydrate_on_logged(struct hydrate_unit *u, int error)
{
	struct hydrate *h = u->hydrate;
	struct volume *v = h->volume;

	if (u->state == UNIT_LOGGED && --h->n_logged == 0 && h->barred) {
		h->barred = false;
		checkpoint_resume(v);
	}
	unit_end(u, error != 0);
	if (v->closing)
		volume_close_kick(v);
}

/* Looks that are not in the log begin anew. */
static void hydrate_look_again(struct hydrate *h)
{
	for (int i = 0; i < UNITS; i++) {
		struct hydrate_unit *u = &h->units[i];

		if (u->state == UNIT_QUEUED) {
			list_remove(&u->op->link);
			op_put(u->op);
			u->state = UNIT_READY;
		}
		if (u->state == UNIT_READY)
			u->next = 0;
	}
	hydrate_kick(h->volume);
}

void hydrate_bar(struct volume *v)
{
	if (v->hydrate)
		hydrate_look_again(v->hydrate);
}

bool hydrate_retract(struct volume *v)
{
	struct hydrate *h = v->hydrate;

	if (!h)
		return true;
	hydrate_look_again(h);
	h->barred = h->n_logged > 0;
	return !h->barred;
}

/* ---- The pass ----------------------------------------------------------------------------------
 */

static uint32_t unit_blocks(const struct hydrate *h, uint64_t number)
{
	uint64_t left = h->volume->sb.base_size - number * VOLUME_UNIT;

	return (uint32_t)(min_u64(left, VOLUME_UNIT) / BLOCK_SIZE);
}

static void on_status(struct volume_base_req *req)
{
	struct hydrate *h = container_of(req, struct hydrate, status);
	uint64_t end = req->lba + req->n;
	bool to_end = end * BLOCK_SIZE >= h->volume->sb.base_size;
	uint64_t units = to_end ? h->n_units : end / VOLUME_UNIT_BLOCKS;

	flight_end(h->volume, &h->flight);
	h->asking = false;
	/* Zeroes cost nothing; reading says more of what is in part zeroes, or can't be told. */
	if (!req->error && req->zero && units > h->next)
		h->next = units;
	else
		h->data_until = max_u64(h->next + 1, req->error || req->zero ? 0 : units);
	hydrate_kick(h->volume);
}

static void ask_status(struct hydrate *h)
{
	struct volume *v = h->volume;
	uint64_t lba = h->next * VOLUME_UNIT_BLOCKS;
	uint64_t blocks = v->sb.base_size / BLOCK_SIZE - lba;

	h->asking = true;
	h->status = (struct volume_base_req){
	    .lba = lba, .blocks = (uint32_t)min_u64(blocks, UINT32_MAX / 2), .done = on_status};
	flight_begin(v, &h->flight, VOLUME_IO_BASE);
	v->base->ops->status(v->base, &h->status);
}

static uint32_t units_busy(const struct hydrate *h)
{
	uint32_t n = 0;

	for (int i = 0; i < UNITS; i++)
		n += h->units[i].state != UNIT_FREE;
	return n;
}

static bool unit_begin(struct hydrate *h)
{
	struct hydrate_unit *u = h->units;

	while (u->state != UNIT_FREE)
		u++;
	if (!u->buf)
		u->buf = mem_alloc_pages(VOLUME_UNIT);
	if (!u->buf) {
		hydrate_rest(h, NSEC_PER_SEC);
		return false;
	}
	u->number = h->next++;
	u->blocks = unit_blocks(h, u->number);
	u->next = 0;
	u->state = UNIT_LOOK;
	unit_step(u);
	return true;
}

/* Who reads in earnest goes first: hydration keeps one fetch then. */
static void hydrate_begin(struct hydrate *h)
{
	uint64_t now = io_now(h->volume->loop);
	uint32_t most = h->n_users > 0 ? 1 : UNITS;

	if (h->rest_until > now) {
		hydrate_rest(h, h->rest_until - now);
		return;
	}
	h->due = max_u64(h->due, now > CATCH_UP ? now - CATCH_UP : 0);
	while (h->next < h->n_units && units_busy(h) < most && !h->asking) {
		if (h->rate != UINT64_MAX && h->due > now) {
			hydrate_rest(h, h->due - now);
			return;
		}
		if (h->next >= h->data_until)
			ask_status(h);
		else if (!unit_begin(h))
			return;
	}
}

static void on_detached(struct checkpoint_wait *wait, int error)
{
	struct hydrate *h = container_of(wait, struct hydrate, wait);

	h->detaching = false;
	h->detached = !error;
	hydrate_kick(h->volume);
}

/* An older pin's INHERIT blocks may be more than zeroes. */
static bool old_pin_needs_base(const struct hydrate *h)
{
	struct volume_pin pins[VOLUME_PINS];
	unsigned n = volume_pins(h->volume, pins);

	for (unsigned i = 0; i < n; i++)
		if (pins[i].sequence < h->done_at)
			return true;
	return false;
}

static void hydrate_end(struct hydrate *h)
{
	struct volume *v = h->volume;

	if (h->detaching)
		return;
	v->stats.hydrate_failed = h->failed;
	h->failed = 0;
	if (h->first_failed != UINT64_MAX) { /* another pass, later */
		h->next = h->first_failed;
		h->data_until = h->next;
		h->first_failed = UINT64_MAX;
		h->rest_until = io_now(v->loop) + v->engine->config.hydrate_retry_ns;
		hydrate_rest(h, v->engine->config.hydrate_retry_ns);
		return;
	}
	if (!h->done_at)
		h->done_at = v->published + 1;
	if (old_pin_needs_base(h)) {
		hydrate_rest(h, PINS_REST);
		return;
	}
	h->detaching = true;
	h->wait.done = on_detached;
	h->wait.detach = true;
	checkpoint_request(v, &h->wait);
}

static void hydrate_step(struct hydrate *h)
{
	struct volume *v = h->volume;

	for (int i = 0; i < UNITS; i++)
		if (h->units[i].state != UNIT_FREE)
			unit_step(&h->units[i]);
	if (v->closing) {
		volume_close_kick(v);
		return;
	}
	if (h->detached) {
		timer_cancel(h);
		if (h->n_users == 0 && !h->timing && !h->turning)
			hydrate_free(v, true);
		return;
	}
	if (h->rate == 0 || v->failed)
		return;
	hydrate_begin(h);
	if (h->next == h->n_units && units_busy(h) == 0 && !h->asking)
		hydrate_end(h);
}

/* ---- As a whole --------------------------------------------------------------------------------
 */

int hydrate_init(struct volume *v, struct volume_base *base)
{
	struct hydrate *h;

	if (id_is_zero(v->sb.base) || !base)
		return 0;
	h = mem_alloc(sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->volume = v;
	h->n_units = round_up(v->sb.base_size, VOLUME_UNIT) / VOLUME_UNIT;
	h->next = v->sb.hydrated / VOLUME_UNIT;
	if (v->sb.hydrated == v->sb.base_size)
		h->next = h->n_units;
	h->first_failed = UINT64_MAX;
	for (int i = 0; i < UNITS; i++) {
		h->units[i].hydrate = h;
		list_init(&h->units[i].wait.link);
	}
	v->hydrate = h;
	v->base = base;
	return 0;
}

void hydrate_free(struct volume *v, bool hydrated)
{
	struct hydrate *h = v->hydrate;
	struct volume_base *base = v->base;

	if (!h)
		return;
	CHECK(h->n_users == 0);
	hydrated |= h->detached;
	for (int i = 0; i < UNITS; i++)
		mem_free_pages(h->units[i].buf, VOLUME_UNIT);
	mem_free(h);
	v->hydrate = NULL;
	v->base = NULL;
	base->ops->release(base, hydrated);
}

bool hydrate_is_at_rest(const struct volume *v)
{
	const struct hydrate *h = v->hydrate;

	return !h ||
	       (!h->turning && !h->timing && !h->asking && !h->detaching && units_busy(h) == 0);
}

uint64_t hydrate_cursor(const struct volume *v)
{
	const struct hydrate *h = v->hydrate;
	uint64_t unit;

	if (!h)
		return v->sb.hydrated;
	unit = min_u64(h->next, h->first_failed);
	for (int i = 0; i < UNITS; i++)
		if (h->units[i].state != UNIT_FREE)
			unit = min_u64(unit, h->units[i].number);
	return min_u64(unit * VOLUME_UNIT, v->sb.base_size);
}

bool hydrate_has(const struct volume *v, uint64_t lba)
{
	return lba * BLOCK_SIZE < v->sb.base_size;
}

void hydrate_user(struct volume *v, int more)
{
	CHECK(v->hydrate);
	v->hydrate->n_users += (uint32_t)more;
	if (v->hydrate->n_users == 0)
		hydrate_kick(v);
}

void volume_hydrate(struct volume *v, uint64_t bytes_per_second)
{
	if (!v->hydrate || v->read_only || (v->sb.flags & SUPERBLOCK_DELETED))
		return;
	v->hydrate->rate = bytes_per_second;
	v->hydrate->due = io_now(v->loop);
	hydrate_kick(v);
}
