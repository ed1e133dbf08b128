/* SPDX-License-Identifier: Apache-2.0
 *
 * Fairness between the volumes of a loop. A volume with queue depth 1 keeps at least half of its
 * lone IOPS divided by the number of busy volumes, whatever queue depth and request size the others
 * use.
 *
 * It takes three things. A turn's work is bounded: volumes with requests take turns, each by a
 * quantum. No volume has more I/O with the disk than FAIR_IO: where the disk works on C requests at
 * a time, n volumes with 2C there each let a lone request wait for 2n of its own times, and no
 * more. And a write of up to 1 MiB, which is one record and can't be cut (E3), goes through the
 * lane: one at a time on the loop, and behind it a rest of half its time, which is the others'.
 *
 * All that only while a volume with little to do is busy beside one with much (is "deep"). A lone
 * volume, or one among its like, is bound by nothing here; nor do the pools end for others: a
 * volume may take one more object only while more are free than it has.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <stdatomic.h>

#define FAIR_QUANTUM  8  /* requests of a turn */
#define FAIR_IO       32 /* cost of a volume's reads with the disk, and of its records */
#define FAIR_IO_LEAST 8  /* of it, where many loops share the disk */
#define FAIR_IO_BASE  4  /* cost of one, to which each block adds 1 */
/* A volume without a request for so long is not busy. */
#define FAIR_LINGER (10 * NSEC_PER_MSEC)
/* A record in the lane that takes longer is not waited for. */
#define FAIR_LANE_MAX (100 * NSEC_PER_MSEC)
/* The longest rest behind one. */
#define FAIR_REST_MAX (20 * NSEC_PER_MSEC)

static bool lane_is_free(const struct volume *v);
static uint64_t lane_tag(const struct volume *v);
static void lane_wait(struct volume *v);
static void lane_kick(struct engine *e);
static void lane_wake(struct engine *e, uint64_t at);

void fair_init(struct engine *e)
{
	list_init(&e->asking);
	list_init(&e->busy);
	list_init(&e->starving);
	list_init(&e->lane_waiting);
	e->busy_loops = 1;
}

void fair_join(struct volume *v)
{
	list_init(&v->asked);
	list_init(&v->asking);
	list_init(&v->busy);
	list_init(&v->starved);
	list_init(&v->starving);
	list_init(&v->lane_waiting);
	list_init(&v->leaf_starved);
	list_init(&v->leaf_starving);
}

/* ---- Who is busy --------------------------------------------------------------------------------
 */

/* Somebody is to be protected from somebody. */
static bool is_contended(const struct engine *e)
{
	return e->n_busy + e->others_busy > 1 && e->n_busy - e->n_deep + e->others_light > 0;
}

/* Tells other loops, and hears from them: once in each pass. */
static void tell_others(struct engine *e)
{
	struct engine_config *config = &e->config;
	uint64_t now = io_now(e->loop);

	e->others_busy = 0;
	e->others_light = 0;
	e->busy_loops = 1;
	for (uint32_t i = 0; i < config->n_loads; i++) {
		struct engine_load *load = &config->loads[i];
		uint32_t n_busy;
		uint32_t n_deep;

		if (i == config->load) {
			atomic_store_explicit(&load->n_busy, e->n_busy, memory_order_relaxed);
			atomic_store_explicit(&load->n_deep, e->n_deep, memory_order_relaxed);
			atomic_store_explicit(&load->until, now + FAIR_LINGER,
					      memory_order_relaxed);
			continue;
		}
		n_busy = atomic_load_explicit(&load->n_busy, memory_order_relaxed);
		n_deep = atomic_load_explicit(&load->n_deep, memory_order_relaxed);
		if (n_busy == 0 || atomic_load_explicit(&load->until, memory_order_relaxed) <= now)
			continue;
		e->others_busy += n_busy;
		e->others_light += n_busy - (uint32_t)min_u64(n_busy, n_deep);
		e->busy_loops++;
	}
}

/* It could have gone on with more at a time. One request alone is never much, however large. */
static void mark_deep(struct volume *v)
{
	if (list_empty(&v->busy) || (v->n_ops <= 1 && list_empty(&v->asked)))
		return;
	v->deep_at = io_now(v->loop);
	v->engine->n_deep += !v->is_deep;
	v->is_deep = true;
}

static void unmark_deep(struct volume *v)
{
	if (!v->is_deep)
		return;
	v->is_deep = false;
	v->engine->n_deep--;
}

void fair_leave(struct volume *v)
{
	struct engine *e = v->engine;

	CHECK(v->n_ops == 0 && list_empty(&v->asked) && list_empty(&v->starved));
	unmark_deep(v);
	if (!list_empty(&v->busy))
		e->n_busy--;
	list_remove(&v->busy);
	list_remove(&v->asking);
	list_remove(&v->starving);
	list_remove(&v->leaf_starving);
	list_remove(&v->lane_waiting);
}

/* The list is in the order in which they were last looked at. */
static void expire(struct engine *e)
{
	uint64_t now = io_now(e->loop);

	while (!list_empty(&e->busy)) {
		struct volume *v = list_first(&e->busy, struct volume, busy);

		if (v->busy_until > now)
			return;
		list_remove(&v->busy);
		if (v->deep_at + FAIR_LINGER <= now)
			unmark_deep(v);
		if (v->n_ops > 0 || !list_empty(&v->asked)) {
			v->busy_until = now + FAIR_LINGER;
		} else if (v->asked_at + FAIR_LINGER > now) {
			v->busy_until = v->asked_at + FAIR_LINGER;
		} else {
			e->n_busy--;
			unmark_deep(v);
			continue;
		}
		list_add_tail(&e->busy, &v->busy);
	}
}

/* ---- Requests -----------------------------------------------------------------------------------
 */

void fair_ask(struct volume *v, struct block_req *req)
{
	struct engine *e = v->engine;

	list_add_tail(&v->asked, &req->link);
	if (list_empty(&v->asking))
		list_add_tail(&e->asking, &v->asking);
	v->asked_at = io_now(e->loop);
	if (!v->is_deep)
		e->n_light_asked++;
	if (!list_empty(&v->busy))
		return;
	v->busy_until = v->asked_at + FAIR_LINGER;
	list_add_tail(&e->busy, &v->busy);
	e->n_busy++;
}

/* So many are left for others as it has. */
static bool may_have(struct pool *pool, uint32_t its)
{
	return pool_available(pool) > its;
}

bool fair_may_read_io(const struct volume *v)
{
	return may_have(v->engine->read_ios, v->n_read_ios);
}

bool fair_may_load(const struct volume *v)
{
	return may_have(v->engine->loads, v->n_loads);
}

/* Four times what is free: with n that want all of it each has nearly an nth, and there is room for
 * one more. */
uint64_t fair_overlay(const struct volume *v)
{
	const struct engine *e = v->engine;

	if (e->n_busy <= 1)
		return UINT64_MAX;
	return 4 * (e->overlay_limit - min_u64(e->overlay_bytes, e->overlay_limit));
}

static void on_turn(struct io_op *op)
{
	container_of(op, struct engine, next_turn)->turning = false;
}

/* What is left is looked at in a turn of its own, behind what comes in meanwhile. */
static void ask_for_turn(struct engine *e)
{
	if (e->turning)
		return;
	e->turning = true;
	e->next_turn.done = on_turn;
	io_timer(e->loop, &e->next_turn, 0);
}

/* The hook may run several times in a turn; a quantum is a turn's. */
static bool has_quantum(struct volume *v)
{
	struct engine *e = v->engine;
	uint64_t now = io_now(e->loop);

	if (v->turn_at != now) {
		v->turn_at = now;
		v->taken = 0;
	}
	if (v->taken < FAIR_QUANTUM)
		return true;
	mark_deep(v);
	if (e->n_busy == e->n_deep)
		return true;
	ask_for_turn(e);
	return false;
}

static void take_from(struct volume *v, void (*start)(struct volume *v, struct block_req *req))
{
	struct engine *e = v->engine;

	while (!list_empty(&v->asked)) {
		if (e->n_busy > 1 && !has_quantum(v))
			return;
		if (!may_have(e->ops, v->n_ops)) { /* a full pool is backpressure */
			e->short_of_ops = true;
			return;
		}
		v->taken++;
		start(v, list_entry(list_pop(&v->asked), struct block_req, link));
	}
}

void fair_take(struct engine *e, void (*start)(struct volume *v, struct block_req *req))
{
	struct list now;

	expire(e);
	tell_others(e);
	list_init(&now);
	list_splice_tail(&now, &e->asking);
	for (struct list *node; (node = list_pop(&now));) {
		struct volume *v = list_entry(node, struct volume, asking);

		take_from(v, start);
		if (!list_empty(&v->asked) && list_empty(&v->asking))
			list_add_tail(&e->asking, &v->asking);
	}
}

void fair_op_ended(struct volume *v)
{
	CHECK(v->n_ops > 0);
	v->n_ops--;
}

/* ---- I/O with the disk --------------------------------------------------------------------------
 */

/* A large read of a volume that has little to do would be behind a large record with each of its
 * parts: fewer, then. */
static uint32_t share_of(const struct volume *v)
{
	return !v->is_deep && v->engine->lane_owner ? 2 * FAIR_IO : FAIR_IO;
}

/* The promise speaks of a loop's volumes, the disk is that of all loops. */
static uint32_t share_with_loops(const struct volume *v)
{
	return (uint32_t)max_u64(share_of(v) / v->engine->busy_loops, FAIR_IO_LEAST);
}

static bool may_start(struct volume *v, uint32_t under_way, uint32_t blocks)
{
	if (v->engine->n_busy + v->engine->others_busy <= 1 || under_way == 0)
		return true;
	if (under_way + blocks + FAIR_IO_BASE <= share_with_loops(v))
		return true;
	mark_deep(v);
	return !is_contended(v->engine);
}

uint32_t fair_blocks(const struct volume *v, uint32_t most)
{
	return is_contended(v->engine) ? share_with_loops(v) - FAIR_IO_BASE : most;
}

bool fair_may_read(struct volume *v)
{
	return may_start(v, v->read_cost, 1);
}

void fair_read_started(struct volume *v, uint32_t blocks)
{
	v->read_cost += blocks + FAIR_IO_BASE;
}

void fair_read_ended(struct volume *v, uint32_t blocks)
{
	v->read_cost -= blocks + FAIR_IO_BASE;
}

static bool is_large(const struct engine *e, uint32_t blocks)
{
	return is_contended(e) && blocks + FAIR_IO_BASE > FAIR_IO;
}

bool fair_may_write(struct volume *v, uint32_t blocks)
{
	struct engine *e = v->engine;

	if (e->n_busy + e->others_busy > 1 && blocks + FAIR_IO_BASE > FAIR_IO)
		mark_deep(v);
	if (!may_start(v, v->write_cost, blocks))
		return false; /* the end of what is under way kicks the volume */
	if (!is_large(e, blocks) || lane_is_free(v))
		return true;
	lane_wait(v);
	return false;
}

void fair_write_started(struct volume *v, struct record *rec, uint32_t blocks)
{
	struct engine *e = v->engine;

	rec->cost = blocks + FAIR_IO_BASE;
	v->write_cost += rec->cost;
	if (!is_large(e, blocks) || e->lane_owner)
		return;
	list_remove(&v->lane_waiting);
	e->lane_owner = rec;
	e->lane_since = io_now(e->loop);
	e->lane_time = lane_tag(v);
	e->lane_light = e->n_light_asked;
}

static bool light_waits(const struct engine *e)
{
	list_for_each (&e->lane_waiting, node)
		if (!list_entry(node, struct volume, lane_waiting)->is_deep)
			return true;
	return false;
}

void fair_write_ended(struct volume *v, const struct record *rec)
{
	struct engine *e = v->engine;
	uint64_t now = io_now(e->loop);
	uint64_t took = now - e->lane_since;
	uint64_t rest = 0;

	v->write_cost -= rec->cost;
	if (e->lane_owner != rec)
		return;
	e->lane_owner = NULL;
	v->lane_tag = e->lane_time + took;
	/* Next to nothing behind those that are hardly large. */
	if (e->n_light_asked != e->lane_light || e->others_light > 0 || light_waits(e))
		rest = min_u64(took * e->busy_loops / 2 * (rec->cost - FAIR_IO) / rec->cost,
			       FAIR_REST_MAX);
	if (now + rest > e->lane_free_at) {
		e->lane_free_at = now + rest;
		e->lane_rest_tag = v->lane_tag - took / 2;
	}
	lane_kick(e);
}

/* ---- The lane -----------------------------------------------------------------------------------
 *
 * Volumes share its time: who had least of it is next. Tags are in that time (ns): a volume's next
 * record begins at the tag where its last one ended, or at the lane's if that is later.
 */

static uint64_t lane_tag(const struct volume *v)
{
	return max_u64(v->lane_tag, v->engine->lane_time);
}

/* A rest is not for those who had clearly less than the one that it is behind. */
static bool lane_is_free(const struct volume *v)
{
	const struct engine *e = v->engine;

	return !e->lane_owner &&
	       (io_now(e->loop) >= e->lane_free_at || lane_tag(v) < e->lane_rest_tag);
}

static void lane_wait(struct volume *v)
{
	struct engine *e = v->engine;
	struct list *before = e->lane_waiting.prev;

	if (!list_empty(&v->lane_waiting))
		return;
	while (before != &e->lane_waiting &&
	       lane_tag(list_entry(before, struct volume, lane_waiting)) > lane_tag(v))
		before = before->prev;
	list_add_head(before, &v->lane_waiting);
	lane_wake(e, e->lane_owner ? e->lane_since + FAIR_LANE_MAX : e->lane_free_at);
}

/* All may look again; the first gets it. */
static void lane_kick(struct engine *e)
{
	for (struct list *node; (node = list_pop(&e->lane_waiting));)
		volume_kick(list_entry(node, struct volume, lane_waiting));
}

static void lane_on_timer(struct io_op *op)
{
	struct engine *e = container_of(op, struct engine, lane_timer);
	uint64_t now = io_now(e->loop);

	e->lane_timing = false;
	if (now < e->lane_wake_at && !list_empty(&e->lane_waiting)) {
		lane_wake(e, e->lane_wake_at);
		return;
	}
	if (e->lane_owner && now >= e->lane_since + FAIR_LANE_MAX)
		e->lane_owner = NULL;
	lane_kick(e);
	if (!e->lane_awaited)
		return;
	e->lane_awaited = false;
	list_for_each (&e->volumes, each)
		volume_close_kick(list_entry(each, struct volume, of_engine));
}

/* It ends soon, and then looks at everything; once is enough. */
static void lane_hurry(struct engine *e)
{
	if (!e->lane_hurried)
		io_timer_cancel(e->loop, &e->lane_timer);
	e->lane_hurried = true;
}

static void lane_wake(struct engine *e, uint64_t at)
{
	uint64_t now = io_now(e->loop);

	if (e->lane_timing && e->lane_wake_at <= at && e->lane_wake_at > now)
		return; /* early enough: who waits then waits on */
	e->lane_wake_at = at;
	if (e->lane_timing) {
		lane_hurry(e);
		return;
	}
	e->lane_timing = true;
	e->lane_hurried = false;
	e->lane_timer.done = lane_on_timer;
	io_timer(e->loop, &e->lane_timer, at > now ? at - now : 0);
}

/* A volume that closes asks, for behind the last the engine may go. */
bool fair_is_at_rest(const struct volume *v)
{
	struct engine *e = v->engine;

	if (!e->lane_timing)
		return true;
	e->lane_awaited = true;
	if (list_empty(&e->lane_waiting))
		lane_hurry(e);
	return false;
}
