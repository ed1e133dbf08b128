/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/flight.h"

#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <stdatomic.h>

/* A timer that is so late says more of us than of the disk: completions may wait behind it. */
#define LATE NSEC_PER_SEC

static void watch_arm(struct engine *e, uint64_t at);
static void watch_on_timer(struct io_op *op);

/* ---- Stuck or not -------------------------------------------------------------------------------
 */

static struct flight *oldest(const struct volume *v)
{
	return list_empty(&v->flights.list) ? NULL
					    : list_first(&v->flights.list, struct flight, link);
}

static bool is_stuck(const struct volume *v, const struct flight *f)
{
	const struct engine *e = v->engine;

	return f && io_now(e->loop) >= f->since + e->config.stuck_after_ns;
}

/* So that any thread may see it. */
static void show(struct volume *v, const struct flight *f)
{
	struct volume_stall *s = v->flights.shown;

	if (!s)
		return;
	atomic_store_explicit(&s->kind, f ? f->kind : 0, memory_order_relaxed);
	atomic_store_explicit(&s->since, f ? f->since : 0, memory_order_relaxed);
}

static void tell(struct volume *v, const struct flight *f, bool over)
{
	struct engine *e = v->engine;

	if (!over)
		v->flights.told_since = f->since;
	v->flights.told = !over;
	show(v, over ? NULL : f);
	if (v->flights.shown && v->flights.shown->changed)
		v->flights.shown->changed(v->flights.shown);
	if (e->config.stuck)
		e->config.stuck(e->config.bad_block_arg, v->id, f->kind,
				io_now(e->loop) - v->flights.told_since, over);
}

/* What was told of has ended: all that is stuck, or only the oldest of it. */
static void flight_ended_late(struct volume *v, const struct flight *f)
{
	struct flight *next = oldest(v);

	if (is_stuck(v, next)) {
		show(v, next);
		return;
	}
	tell(v, f, true);
	if (next)
		watch_arm(v->engine, next->since + v->engine->config.stuck_after_ns);
}

bool volume_stall_now(const struct volume_stall *s, uint64_t now, enum volume_io *ret_kind,
		      uint64_t *ret_age_ns)
{
	uint64_t since = atomic_load_explicit(&s->since, memory_order_relaxed);

	if (since == 0)
		return false;
	*ret_kind = (enum volume_io)atomic_load_explicit(&s->kind, memory_order_relaxed);
	*ret_age_ns = now > since ? now - since : 0;
	return true;
}

const char *volume_io_name(enum volume_io kind)
{
	switch (kind) {
	case VOLUME_IO_APPEND:
		return "an append to the log";
	case VOLUME_IO_SYNC:
		return "a sync";
	case VOLUME_IO_READ:
		return "a read of data";
	case VOLUME_IO_MAP:
		return "a read of the map";
	case VOLUME_IO_BASE:
		return "a read of the base snapshot";
	case VOLUME_IO_SPACE:
		return "lending or freeing segments";
	case VOLUME_IO_SUPERBLOCK:
		return "a write of the superblock";
	case VOLUME_IO_CHECKPOINT:
		return "a write of the map";
	case VOLUME_IO_GC:
		return "garbage collection";
	case VOLUME_IO_RECOVERY:
		return "recovery";
	case VOLUME_IO_INSPECTION:
		return "a read for a scrub, a check or a snapshot";
	}
	return "";
}

const char *volume_io_with(enum volume_io kind)
{
	return kind == VOLUME_IO_BASE ? "the snapshot repository" : "the store";
}

void flights_stats(const struct volume *v, struct volume_stats *stats)
{
	const struct flight *f = oldest(v);

	stats->is_stuck = v->flights.told;
	if (!f)
		return;
	stats->oldest_io = f->kind;
	stats->oldest_io_ns = io_now(v->loop) - f->since;
}

/* ---- Begin and end ------------------------------------------------------------------------------
 */

void flights_init(struct volume *v)
{
	list_init(&v->flights.list);
}

void flights_free(struct volume *v)
{
	struct engine *e = v->engine;

	CHECK(list_empty(&v->flights.list));
	/* Whoever frees the engine behind its last volume waits for a turn: in that the timer ends.
	 */
	if (e->n_volumes == 0 && e->watch.runs && !e->watch.ends) {
		e->watch.ends = true;
		io_timer_cancel(e->loop, &e->watch.timer);
	}
}

void flight_begin(struct volume *v, struct flight *f, enum volume_io kind)
{
	struct engine *e = v->engine;

	f->since = io_now(e->loop);
	f->kind = kind;
	list_add_tail(&v->flights.list, &f->link);
	if (!e->watch.runs && e->config.stuck_after_ns)
		watch_arm(e, f->since + e->config.stuck_after_ns);
}

void flight_end(struct volume *v, struct flight *f)
{
	list_remove(&f->link);
	if (v->flights.told)
		flight_ended_late(v, f);
}

static void device_on_done(struct store_io *store)
{
	struct device_io *io = container_of(store, struct device_io, store);

	io->result = store->result;
	flight_end(io->volume, &io->flight);
	io->done(io);
}

static void device_begin(struct volume *v, struct device_io *io, enum volume_io kind)
{
	io->volume = v;
	io->store.done = device_on_done;
	flight_begin(v, &io->flight, kind);
}

void device_append(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		   uint32_t offset, struct iovec *iov, int n)
{
	device_begin(v, io, kind);
	store_append(v->store, v->loop, &io->store, segment, offset, iov, n);
}

void device_read(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		 uint32_t offset, void *buf, uint32_t len)
{
	device_begin(v, io, kind);
	store_read(v->store, v->loop, &io->store, segment, offset, buf, len);
}

void device_readv(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		  uint32_t offset, struct iovec *iov, int n)
{
	device_begin(v, io, kind);
	store_readv(v->store, v->loop, &io->store, segment, offset, iov, n);
}

void device_sync(struct volume *v, struct device_io *io, enum volume_io kind)
{
	device_begin(v, io, kind);
	store_sync(v->store, v->loop, &io->store);
}

/* ---- The watch ----------------------------------------------------------------------------------
 */

static void watch_arm(struct engine *e, uint64_t at)
{
	uint64_t now = io_now(e->loop);

	if (e->watch.runs)
		return; /* for an older one, so it looks again in time */
	e->watch.runs = true;
	e->watch.at = max_u64(at, now);
	e->watch.timer.done = watch_on_timer;
	io_timer(e->loop, &e->watch.timer, e->watch.at - now);
}

/* The time at which the oldest of those that are not called stuck yet will be; 0: there is none. */
static uint64_t watch_look(struct engine *e)
{
	uint64_t next = 0;

	list_for_each (&e->volumes, node) {
		struct volume *v = list_entry(node, struct volume, of_engine);
		struct flight *f = oldest(v);

		if (!f || v->flights.told)
			continue;
		if (is_stuck(v, f)) {
			tell(v, f, false);
			continue;
		}
		if (next == 0 || f->since + e->config.stuck_after_ns < next)
			next = f->since + e->config.stuck_after_ns;
	}
	return next;
}

static void watch_on_timer(struct io_op *op)
{
	struct engine *e = container_of(op, struct engine, watch.timer);
	uint64_t now = io_now(e->loop);
	uint64_t next;

	e->watch.runs = false;
	e->watch.ends = false;
	if (now > e->watch.at + LATE) {
		watch_arm(e, now + LATE);
		return;
	}
	next = watch_look(e);
	if (next)
		watch_arm(e, next);
}
