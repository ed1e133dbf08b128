/* SPDX-License-Identifier: Apache-2.0
 *
 * What garbage collection could gain: which segment is the best to empty, and how urgent that is.
 * See gc.c for the collecting.
 */
#include "base/util.h"
#include "engine/volume.h"

#include <string.h>

#define LIVE_SHARE 7 /* tenths of the space held that live: with less there is too much garbage */

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

/* Little to copy and long unchanged: what is young may yet die by itself. */
static uint64_t score_of(const struct volume *v, const struct segment *seg)
{
	uint64_t size = v->store->info.segment_size;
	uint64_t live = live_in(v, seg);
	uint64_t age = v->sb.sequence - seg->newest + 1;
	uint64_t weight = 1;

	for (; age > 1; age /= 4)
		weight++;
	return (size - live) * 1024 / (size + live) * weight;
}

void gc_look(const struct volume *v, struct gc_view *view)
{
	memset(view, 0, sizeof(*view));
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);
		uint64_t score;

		if (seg->state != SEGMENT_CLOSED || seg->stream == STORE_STREAM_MAP ||
		    seg->moved_out || seg->pending > 0 || live_in(v, seg) == 0 || is_pinned(v, seg))
			continue;
		view->held += v->store->info.segment_size;
		view->live += live_in(v, seg);
		if (seg->newest == 0 || seg->newest > v->sb.sequence)
			continue; /* its counters are still in motion */
		score = score_of(v, seg);
		if (score > view->best_score) {
			view->best_score = score;
			view->best = seg;
		}
	}
}

/* How short the store is of space: 0, up to 1000 when nothing is left. */
static uint64_t shortage(const struct volume *v)
{
	uint64_t capacity = 0;
	uint64_t left = 0;

	v->store->ops->space(v->store, &capacity, &left);
	if (segments_out_of_space(v, STORE_STREAM_USER))
		return 1000;
	return left >= capacity / 8 ? 0 : 1000 - left * 1000 / (capacity / 8 + 1);
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
	if (garbage >= 2 * (uint64_t)v->store->info.segment_size)
		much = max_u64(much, shortage(v));
	return much;
}

bool gc_can_help(const struct volume *v)
{
	uint64_t size = v->store->info.segment_size;
	uint64_t garbage = 0;

	if (v->closing || v->failed)
		return false;

	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_FREEING)
			return true;
		if (seg->state != SEGMENT_CLOSED || seg->stream == STORE_STREAM_MAP || seg->stuck ||
		    seg->doubtful || is_pinned(v, seg))
			continue;
		if (seg->moved_out || live_in(v, seg) == 0)
			return true; /* free in a checkpoint or two */
		garbage += size - live_in(v, seg);
	}
	return garbage >= 2 * size && !segments_out_of_space(v, STORE_STREAM_MOVED);
}
