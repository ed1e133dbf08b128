/* SPDX-License-Identifier: Apache-2.0
 *
 * What garbage collection could gain: which segment is the best to empty, and how urgent that is.
 * See gc.c for the collecting.
 */
#include "engine/gc.h"

#include "base/util.h"

#include <string.h>

/* Of a segment of moved blocks, what is not blocks at most: headers, and the gap at its end. */
#define MOVED_WASTE(size) ((size) / 32 + 64 * KiB)
#define LIVE_SHARE        7  /* tenths of what is held; with less that lives there is garbage */
#define LOW_SHARE         20 /* segments with which the collector begins: one in so many, */
#define LOW_MORE          8  /* and these, which are on their way back all the time */
#define LOW_MAX           128

/* A pinned root keeps what is older than it, moved or not. */
static bool is_pinned(const struct volume *v, const struct segment *seg)
{
	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		if (v->sb.pins[i].checkpoint != 0 && seg->lent_at < v->sb.pins[i].checkpoint)
			return true;
	return false;
}

static uint64_t live_in(const struct volume *v, const struct segment *seg)
{
	return min_u64((uint64_t)seg->live + seg->live_active, v->store->info.segment_size);
}

uint64_t gc_gain(const struct volume *v, const struct segment *seg)
{
	uint64_t size = v->store->info.segment_size;
	uint64_t cost = live_in(v, seg) * size / (size - MOVED_WASTE(size));

	return size - min_u64(cost, size);
}

/* Near enough, for any age, and quick. */
static uint64_t square_root(uint64_t x)
{
	unsigned bits = 63 - (unsigned)__builtin_clzll(x | 1);
	uint64_t sixteenths = bits >= 4 ? (x >> (bits - 4)) & 15 : (x << (4 - bits)) & 15;
	uint64_t root = (128 + sixteenths * 53 / 16) << (bits / 2);

	return (bits % 2 ? root * 181 / 128 : root) / 16;
}

/* Little to copy and long unchanged: what is young may yet die by itself. The root of the age does
 * best: it costs uniform writes little, and gives those with hot blocks the time they need. */
static uint64_t score_of(const struct volume *v, const struct segment *seg)
{
	uint64_t size = v->store->info.segment_size;
	uint64_t live = live_in(v, seg);
	uint64_t age = v->sb.sequence - seg->newest + 1;

	return (size - live) * 1024 / (size + live) * square_root(age);
}

/* Not to be emptied, but perhaps on its way back. */
static bool is_dead(const struct volume *v, const struct segment *seg, struct gc_view *view)
{
	bool coming = seg->state == SEGMENT_FREEING || seg->condemned;
	bool dead = seg->state == SEGMENT_CLOSED && !seg->doubtful && !seg->stuck && !coming &&
		    (seg->moved_out || live_in(v, seg) == 0) && seg->pending == 0;

	view->coming += coming;
	view->dead += dead;
	return coming || dead;
}

void gc_look(const struct volume *v, struct gc_view *view)
{
	memset(view, 0, sizeof(*view));
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);
		uint64_t score;

		if (seg->state == SEGMENT_EMPTY || is_pinned(v, seg) || is_dead(v, seg, view) ||
		    seg->state != SEGMENT_CLOSED || seg->stream == STORE_STREAM_MAP ||
		    seg->moved_out || seg->pending > 0 || live_in(v, seg) == 0)
			continue;
		view->gain += gc_gain(v, seg);
		view->held += v->store->info.segment_size;
		view->live += live_in(v, seg);
		if (seg->newest == 0 || seg->newest > v->sb.sequence)
			continue; /* its counters are still in motion */
		if (gc_gain(v, seg) == 0)
			continue;
		score = score_of(v, seg);
		if (score > view->best_score) {
			view->best_score = score;
			view->best = seg;
		}
	}
}

/* Segments that users can still be lent; below 0: so many of the reserve are out. */
static int64_t room_of(const struct volume *v)
{
	const struct store_info *info = &v->store->info;
	uint64_t capacity = 0;
	uint64_t left = 0;

	v->store->ops->space(v->store, &capacity, &left);
	return ((int64_t)left - (int64_t)info->reserve) / (int64_t)info->segment_size +
	       v->segments.n_spare[STORE_STREAM_USER];
}

/* With fewer than so many segments left the collector works. The more, the fewer checkpoints it
 * takes to give them back; the fewer, the longer blocks have had to die. */
static int64_t low_of(const struct volume *v)
{
	uint64_t capacity = 0;
	uint64_t left = 0;

	v->store->ops->space(v->store, &capacity, &left);
	return LOW_MORE +
	       (int64_t)min_u64(capacity / v->store->info.segment_size / LOW_SHARE, LOW_MAX);
}

bool gc_is_cramped(const struct volume *v)
{
	return low_of(v) < LOW_MORE + 64 / LOW_SHARE;
}

/* How short the store is of space: 0, up to 1000 from half of that on. */
static uint64_t shortage(const struct volume *v, const struct gc_view *view)
{
	int64_t low = low_of(v);
	int64_t room = room_of(v) + view->dead + view->coming;

	if (segments_out_of_space(v, STORE_STREAM_USER))
		return 1000;
	return room >= low ? 0 : min_u64(1000, 1 + (uint64_t)(low - room) * 2000 / (uint64_t)low);
}

uint64_t gc_urgency(const struct volume *v, const struct gc_view *view)
{
	uint64_t garbage = view->held - view->live;
	uint64_t allowed = view->live * (10 - LIVE_SHARE) / LIVE_SHARE + v->engine->config.gc_slack;
	uint64_t much = 0;

	if (!view->best)
		return 0;
	if (garbage > allowed)
		much = min_u64(1000, 1 + (garbage - allowed) * 2000 / (allowed + 1));
	if (view->gain >= 2 * (uint64_t)v->store->info.segment_size)
		much = max_u64(much, shortage(v, view));
	return much;
}

void gc_watch(struct volume *v)
{
	int64_t low = low_of(v);
	int64_t room = room_of(v);
	int64_t all;
	struct gc_view view;

	v->gc_share = 1000;
	if (room >= low)
		return;
	gc_look(v, &view);
	all = room + view.dead + view.coming;
	v->gc_share = all >= low / 2 ? 1000 : all <= 0 ? 0 : (uint32_t)(all * 2000 / low);
	gc_consider(v);
	/* Many at a time, as each checkpoint writes much of the map anew: but not if nobody makes
	 * more. */
	if (room < low / 3 && (view.dead >= low / 3 || (view.dead > 0 && !gc_is_making_room(v))))
		checkpoint_for_space(v);
}

bool gc_can_help(const struct volume *v)
{
	uint64_t size = v->store->info.segment_size;
	uint64_t gain = 0;

	if (v->closing || v->failed)
		return false;
	if (v->checkpoint)
		return true; /* who knows what it makes free; its end is heard */
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_FREEING || seg->condemned)
			return true;
		if (seg->state != SEGMENT_CLOSED || seg->stuck || seg->doubtful ||
		    is_pinned(v, seg) || (seg->stream == STORE_STREAM_MAP && live_in(v, seg) > 0))
			continue;
		if (seg->moved_out || live_in(v, seg) == 0)
			return true; /* free in a checkpoint or two */
		gain += gc_gain(v, seg);
	}
	return gain >= 2 * size && !segments_out_of_space(v, STORE_STREAM_MOVED);
}
