/* SPDX-License-Identifier: Apache-2.0
 *
 * The segments lent to a volume: spares lent ahead, what lives in each, and when one may be given
 * back.
 *
 * The reuse rule. A segment is freed when the newest checkpoint, which both copies of the
 * superblock name, refers to nothing in it; when the log in it is older, so that no replay needs
 * it; when no root that is pinned, or being checked, can refer to it; when nothing reads it; and
 * when its own records agree (confirm.c). `dead_at` is the first checkpoint that refers to nothing.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

#define HASH_MIN   64
#define LEND_RETRY (NSEC_PER_SEC / 2)

static void lend_start(struct volume *v, enum store_stream stream, uint32_t n, bool last);
static void lend_done(struct store_ctl *ctl);
static void free_done(struct store_ctl *ctl);

/* ---- The table ----------------------------------------------------------------------------------
 */

int segments_init(struct volume *v)
{
	v->segments.hash_size = HASH_MIN;
	v->segments.spares_user = SPARES_USER;
	v->segments.hash = mem_calloc(HASH_MIN, sizeof(v->segments.hash[0]));
	return v->segments.hash ? 0 : -ENOMEM;
}

void segments_free(struct volume *v)
{
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		mem_free(v->segments.pages[i]);
	mem_free(v->segments.pages);
	mem_free(v->segments.hash);
}

struct segment *segments_at(const struct volume *v, uint32_t slot)
{
	return &v->segments.pages[slot / USAGE_SEGMENTS]->segments[slot % USAGE_SEGMENTS];
}

static uint32_t *hash_slot(const struct volume *v, uint64_t id)
{
	const struct segments *s = &v->segments;
	uint32_t i = (uint32_t)hash_u64(id) & (s->hash_size - 1);

	while (s->hash[i] != 0 && segments_at(v, s->hash[i] - 1)->id != id)
		i = (i + 1) & (s->hash_size - 1);
	return &s->hash[i];
}

struct segment *segments_find(const struct volume *v, uint64_t id)
{
	uint32_t slot = *hash_slot(v, id);

	return slot ? segments_at(v, slot - 1) : NULL;
}

static int hash_rebuild(struct volume *v, uint32_t size)
{
	struct segments *s = &v->segments;
	uint32_t *old = s->hash;

	s->hash = mem_calloc(size, sizeof(s->hash[0]));
	if (!s->hash) {
		s->hash = old;
		return -ENOMEM;
	}
	s->hash_size = size;
	for (uint32_t slot = 0; slot < s->n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_EMPTY)
			*hash_slot(v, seg->id) = slot + 1;
	}
	mem_free(old);
	return 0;
}

static bool page_add(struct volume *v)
{
	struct segments *s = &v->segments;
	void *pages = mem_realloc(s->pages, (s->n_pages + 1) * sizeof(s->pages[0]));

	if (!pages)
		return false;
	s->pages = pages;
	s->pages[s->n_pages] = mem_alloc(sizeof(struct segment_page));
	if (!s->pages[s->n_pages])
		return false;
	s->n_pages++;
	return true;
}

int segments_make_pages(struct volume *v, uint32_t n)
{
	while (v->segments.n_pages < n)
		if (!page_add(v))
			return -ENOMEM;
	return 0;
}

static struct segment *free_slot(struct volume *v)
{
	struct segments *s = &v->segments;
	uint32_t n = s->n_pages * USAGE_SEGMENTS;

	for (uint32_t slot = 0; s->n_used < n && slot < n; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_EMPTY) {
			seg->slot = slot;
			return seg;
		}
	}
	if (!page_add(v))
		return NULL;
	segments_at(v, n)->slot = n;
	return segments_at(v, n);
}

static struct segment *slot_fill(struct volume *v, struct segment *seg,
				 const struct store_segment *from, enum segment_state state)
{
	struct segments *s = &v->segments;
	uint32_t slot = seg->slot;

	memset(seg, 0, sizeof(*seg));
	seg->slot = slot;
	seg->id = from->id;
	seg->generation = from->generation;
	seg->stream = from->stream;
	seg->state = (uint8_t)state;
	seg->lent_at = v->sb.checkpoint;
	*hash_slot(v, seg->id) = slot + 1;
	s->n_used++;
	v->stats.segments++;
	if (state == SEGMENT_SPARE)
		s->n_spare[seg->stream]++;
	segments_mark_dirty(v, seg);
	return seg;
}

static int hash_make_room(struct volume *v)
{
	struct segments *s = &v->segments;

	return (s->n_used + 1) * 2 > s->hash_size ? hash_rebuild(v, s->hash_size * 2) : 0;
}

struct segment *segments_add(struct volume *v, const struct store_segment *from,
			     enum segment_state state)
{
	struct segment *seg = hash_make_room(v) < 0 ? NULL : free_slot(v);

	return seg ? slot_fill(v, seg, from, state) : NULL;
}

struct segment *segments_add_at(struct volume *v, uint32_t slot, const struct store_segment *from,
				enum segment_state state)
{
	struct segment *seg;

	if (hash_make_room(v) < 0)
		return NULL;
	seg = segments_at(v, slot);
	CHECK(seg->state == SEGMENT_EMPTY);
	seg->slot = slot;
	return slot_fill(v, seg, from, state);
}

void segments_remove(struct volume *v, struct segment *seg)
{
	if (seg->state == SEGMENT_SPARE && !seg->kept)
		v->segments.n_spare[seg->stream]--;
	segments_mark_dirty(v, seg);
	seg->state = SEGMENT_EMPTY;
	v->segments.n_used--;
	v->stats.segments--;
}

/* Taking away from open addressing means building anew: once for many. */
void segments_rehash(struct volume *v)
{
	CHECK(hash_rebuild(v, v->segments.hash_size) == 0);
}

void segments_mark_dirty(struct volume *v, struct segment *seg)
{
	v->segments.pages[seg->slot / USAGE_SEGMENTS]->dirty = true;
}

/* ---- Lending ------------------------------------------------------------------------------------
 */

static uint32_t spares_wanted(const struct volume *v, enum store_stream stream)
{
	return stream == STORE_STREAM_USER ? v->segments.spares_user : SPARES_MAP;
}

static void lend_start(struct volume *v, enum store_stream stream, uint32_t n, bool last)
{
	struct store_ctl *ctl = &v->segments.lend;

	v->segments.lending = true;
	ctl->loop = v->loop;
	ctl->done = lend_done;
	ctl->volume = v->id;
	ctl->incarnation = v->incarnation;
	ctl->stream = (uint8_t)stream;
	ctl->last = last;
	ctl->n = n;
	flight_begin(v, &v->flights.lend, VOLUME_IO_SPACE);
	v->store->ops->lend(v->store, ctl);
}

/* The log had to wait for a segment: from now on more are lent at a time, until a checkpoint finds
 * rest. */
static void spares_more(struct volume *v)
{
	uint64_t capacity;
	uint64_t left;
	uint64_t most;

	v->store->ops->space(v->store, &capacity, &left);
	most = min_u64(left / v->store->info.segment_size / 8, SPARES_USER_MAX);
	v->segments.spares_user =
	    (uint32_t)max_u64(SPARES_USER, min_u64(v->segments.spares_user * 2, most));
}

void segments_rest(struct volume *v)
{
	v->segments.spares_user = SPARES_USER;
}

static struct segment *find_spare(const struct volume *v, enum store_stream stream, bool kept)
{
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_SPARE && seg->stream == stream && seg->kept == kept)
			return seg;
	}
	return NULL;
}

struct segment *segments_take_kept(struct volume *v)
{
	struct segment *taken = find_spare(v, STORE_STREAM_USER, true);

	if (taken) {
		taken->state = SEGMENT_HEAD;
		segments_mark_dirty(v, taken);
	} else if (!v->segments.lending && !v->segments.last_failed && !v->failed) {
		lend_start(v, STORE_STREAM_USER, 1, true);
	}
	return taken;
}

struct segment *segments_take(struct volume *v, enum store_stream stream)
{
	struct segment *taken = NULL;

	if (v->segments.n_spare[stream] > 0) {
		taken = find_spare(v, stream, false);
		CHECK(taken);
		v->segments.n_spare[stream]--;
		taken->state = SEGMENT_HEAD;
		segments_mark_dirty(v, taken);
	} else if (stream == STORE_STREAM_USER && v->segments.lending) {
		spares_more(v);
	}
	segments_want(v, stream);
	return taken;
}

/* It is closing, and all is written: what was lent too much goes back. */
static bool needs_no_more(const struct volume *v)
{
	return v->closing && !v->checkpoint && log_is_quiet(v);
}

void segments_want(struct volume *v, enum store_stream stream)
{
	struct segments *s = &v->segments;

	if (s->n_spare[stream] * 2 > spares_wanted(v, stream) || s->lending ||
	    (s->retrying && s->lend_failed[stream]) || v->failed || needs_no_more(v))
		return;
	lend_start(v, stream, spares_wanted(v, stream) - s->n_spare[stream],
		   stream == STORE_STREAM_MAP);
}

/* One stream is asked for at a time, in turn: none starves because another can't be had. */
static void segments_want_any(struct volume *v)
{
	unsigned last = v->segments.lend.stream;

	for (unsigned k = 0; k < 3; k++) {
		enum store_stream stream = (enum store_stream)(1 + (last + k) % 3);

		if (stream != STORE_STREAM_MOVED || gc_is_at_work(v))
			segments_want(v, stream);
	}
}

static void lend_on_retry(struct io_op *op)
{
	struct volume *v = container_of(op, struct volume, segments.retry);

	bool by_time = !v->segments.woken;

	v->segments.retrying = false;
	v->segments.woken = false;
	v->segments.last_failed = false;
	if (v->closing) {
		volume_close_kick(v);
		return;
	}
	if (by_time)
		checkpoint_for_space(v);
	gc_watch(v);
	gc_consider(v);
	gc_kick(v);
	segments_want_any(v);
	volume_kick(v);
}

static bool lend_take(struct volume *v, const struct store_ctl *ctl, uint32_t i)
{
	struct segment *seg = segments_add(v, &ctl->segments[i], SEGMENT_SPARE);

	if (seg && ctl->last && ctl->stream == STORE_STREAM_USER) {
		seg->kept = true;
		v->segments.n_spare[STORE_STREAM_USER]--;
	}
	return seg != NULL;
}

static void lend_done(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, segments.lend);
	struct segments *s = &v->segments;
	bool full = ctl->error == -ENOSPC;

	flight_end(v, &v->flights.lend);
	s->lending = false;
	if (ctl->last && ctl->stream == STORE_STREAM_USER)
		s->last_failed = full;
	else
		s->lend_failed[ctl->stream] = full;
	if (ctl->error && !full)
		volume_fail(v, ctl->error);
	for (uint32_t i = 0; !ctl->error && i < ctl->n; i++)
		if (!lend_take(v, ctl, i))
			volume_fail(v, -ENOMEM);
	/* Space may come back, by trims and by other volumes: ask again, in a while. */
	if (full && !s->retrying && !v->closing) {
		s->retrying = true;
		s->retry.done = lend_on_retry;
		io_timer(v->loop, &s->retry, LEND_RETRY);
	}
	/* Another stream may be lent what this one is not. From here on `ctl` may be in use. */
	segments_want_any(v);
	checkpoint_space_kick(v);
	if (full)
		gc_watch(v);
	gc_kick(v);
	volume_kick(v);
	volume_close_kick(v); /* last: what starts anew must be seen to be under way */
}

bool segments_out_of_space(const struct volume *v, enum store_stream stream)
{
	return v->segments.n_spare[stream] == 0 && v->segments.lend_failed[stream] &&
	       !v->segments.lending;
}

/* ---- Accounting ---------------------------------------------------------------------------------
 */

static void add_to(const struct segment *seg, uint32_t *counter, int64_t bytes)
{
	int64_t now = (int64_t)*counter + bytes;

	if (now < 0 && seg->doubtful) /* it is known to have drifted */
		now = 0;
	CHECK(now >= 0);
	*counter = (uint32_t)now;
}

void segments_live(struct volume *v, uint64_t id, int64_t bytes)
{
	struct segment *seg = segments_find(v, id);

	if (!seg) { /* a map entry that leads nowhere: nothing may be built on it */
		volume_fail(v, -EUCLEAN);
		return;
	}
	add_to(seg, &seg->live, bytes);
	segments_mark_dirty(v, seg);
}

void segments_live_map(struct volume *v, uint64_t id, int64_t bytes, bool own)
{
	struct segment *seg = segments_find(v, id);

	if (!own || !seg) {
		segments_live(v, id, bytes);
		return;
	}
	add_to(seg, &seg->live, bytes); /* not for the next usage page to say */
	add_to(seg, &seg->own, bytes);
}

void segments_live_active(struct volume *v, uint64_t id, int64_t bytes)
{
	struct segment *seg = segments_find(v, id);

	CHECK(seg);
	add_to(seg, &seg->live_active, bytes);
}

void segments_freeze(struct volume *v)
{
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_EMPTY || seg->live_active == 0)
			continue;
		seg->live += seg->live_active;
		seg->live_active = 0;
		segments_mark_dirty(v, seg);
	}
}

/* ---- Freeing ------------------------------------------------------------------------------------
 */

static bool pin_holds(const struct segment *seg, uint64_t pin)
{
	return pin != 0 && seg->lent_at < pin && seg->dead_at > pin;
}

static bool pin_needs(const struct volume *v, const struct segment *seg)
{
	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		if (pin_holds(seg, v->sb.pins[i].checkpoint))
			return true;
	return pin_holds(seg, v->check_pin);
}

static bool is_dead(const struct segment *seg, uint64_t sequence)
{
	return seg->state == SEGMENT_CLOSED && seg->live == 0 && seg->live_active == 0 &&
	       seg->pending == 0 && seg->newest <= sequence && !seg->condemned && !seg->doubtful;
}

bool segments_reap(struct volume *v, uint64_t number, uint64_t sequence)
{
	bool later = false;

	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (!is_dead(seg, sequence))
			continue;
		if (seg->dead_at == 0)
			seg->dead_at = number;
		if (pin_needs(v, seg))
			continue;
		if (seg->users == 0)
			confirm_condemn(v, seg);
		else
			later = true;
	}
	segments_free_kick(v);
	return later;
}

void segments_release(struct volume *v, struct segment *seg)
{
	CHECK(seg->users == 0);
	if (seg->state == SEGMENT_SPARE && !seg->kept)
		v->segments.n_spare[seg->stream]--;
	seg->state = SEGMENT_FREEING;
}

void segments_free_kick(struct volume *v)
{
	struct store_ctl *ctl = &v->segments.freeing;

	if (v->segments.free_busy || v->read_only)
		return;
	ctl->n = 0;
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_FREEING || ctl->n == STORE_LEND_MAX)
			continue;
		ctl->segments[ctl->n].id = seg->id;
		ctl->segments[ctl->n++].generation = seg->generation;
	}
	if (ctl->n == 0)
		return;
	v->segments.free_busy = true;
	ctl->loop = v->loop;
	ctl->done = free_done;
	ctl->volume = v->id;
	flight_begin(v, &v->flights.freeing, VOLUME_IO_SPACE);
	v->store->ops->free(v->store, ctl);
}

static void free_done(struct store_ctl *ctl)
{
	struct volume *v = container_of(ctl, struct volume, segments.freeing);

	flight_end(v, &v->flights.freeing);
	v->segments.free_busy = false;
	memset(v->segments.lend_failed, 0, sizeof(v->segments.lend_failed)); /* who knows */
	for (uint32_t i = 0; i < ctl->n; i++)
		segments_remove(v, segments_find(v, ctl->segments[i].id));
	segments_rehash(v);
	/* A store that can't free has failed: the segments stay its own, and the next open finds
	 * them. */
	if (ctl->error)
		volume_fail(v, ctl->error);
	segments_free_kick(v);
	volume_kick(v);
	if (v->segments.retrying && !v->segments.woken) {
		v->segments.woken = true; /* somebody waits for just this */
		io_timer_cancel(v->loop, &v->segments.retry);
	}
	volume_close_kick(v);
}
