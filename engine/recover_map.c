/* SPDX-License-Identifier: Apache-2.0
 *
 * The first half of opening: root, usage pages, and what the store says it has lent to us. Index
 * pages are read when they are asked for: how much of the map lives in which segment the usage
 * pages say, but for the root and themselves.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/recover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Each of these states reads a blob and comes back to take it: o->blob_asked tells the two apart.
 * Whether the segment is ours is known when the store has listed what it has lent to us. */
static int blob_read(struct opening *o, const struct blob_ref *ref)
{
	if (ref->length == 0 ||
	    (uint64_t)ref->offset + ref->length > o->volume->store->info.segment_size)
		return open_error(o, -EUCLEAN, "its map refers to a place that can't be");
	o->blob_asked = true;
	return open_read(o, ref->segment, ref->offset, ref->length);
}

static int root_take(struct opening *o)
{
	struct map *m = &o->volume->map;

	for (uint32_t i = 0; i < o->root_content.n_index; i++) {
		struct blob_ref ref;
		uint32_t number;

		root_get_ref(o->root, i, &number, &ref);
		if (number >= m->n_index || ref.length == 0 || ref.length > INDEX_BYTES_MAX)
			return open_error(o, -EUCLEAN, "the root of its map refers past its size");
		m->index[number] = ref;
	}
	return 0;
}

int open_root(struct opening *o)
{
	struct volume *v = o->volume;
	const struct blob_ref *ref = &v->sb.root;
	int r;

	if (!o->blob_asked)
		return blob_read(o, ref);
	o->blob_asked = false;
	r = root_decode(o->buf + o->skip, ref->length, v->id, ref->sum, &o->root_content);
	if (r == -ENOTSUP)
		return open_error(o, r, "its map was written by a newer volumed; upgrade volumed");
	if (r < 0)
		return open_error(o, -EUCLEAN, "the root of its map is damaged");
	o->root = mem_alloc(ref->length);
	if (!o->root)
		return open_error(o, -ENOMEM, "no memory for its map");
	memcpy(o->root, o->buf + o->skip, ref->length);
	o->i = 0;
	o->state = OPENING_USAGE;
	return root_take(o);
}

static int usage_take(struct opening *o, uint32_t number, const struct blob_ref *ref)
{
	struct volume *v = o->volume;
	struct usage_entry entries[USAGE_SEGMENTS];

	if (usage_decode(o->buf + o->skip, ref->length, v->id, number, ref->sum, entries) < 0)
		return open_error(o, -EUCLEAN, "a usage page of its map is damaged");
	/* It may be empty: what was on it has been given back. */
	if (segments_make_pages(v, number + 1) < 0)
		return open_error(o, -ENOMEM, "no memory for its segments");
	for (int i = 0; i < USAGE_SEGMENTS; i++) {
		const struct usage_entry *u = &entries[i];
		struct store_segment s = {
		    .id = u->segment, .generation = u->generation, .stream = u->stream};
		struct segment *seg;

		if (u->stream == 0)
			continue;
		seg = segments_find(v, u->segment);
		if (seg)
			return open_error(o, -EUCLEAN, "its usage pages name a segment twice");
		seg = segments_add_at(v, number * USAGE_SEGMENTS + (uint32_t)i, &s, SEGMENT_CLOSED);
		if (!seg)
			return open_error(o, -ENOMEM, "no memory for its segments");
		seg->live = u->live;
		if (u->stream == STORE_STREAM_MAP)
			o->map_live += u->live;
		seg->tail = u->written;
		seg->newest = u->newest;
		seg->lent_at = u->lent_at;
	}
	v->segments.pages[number]->ref = *ref;
	v->segments.pages[number]->dirty = false;
	return 0;
}

/* The root and the usage pages may be in a segment that was begun after the usage pages were
 * written. */
static int own_note(struct opening *o, const struct blob_ref *ref)
{
	struct store_segment s = {.id = ref->segment, .stream = STORE_STREAM_MAP};
	struct segment *seg = segments_find(o->volume, ref->segment);

	if (!seg)
		seg = segments_add(o->volume, &s, SEGMENT_CLOSED);
	if (!seg)
		return open_error(o, -ENOMEM, "no memory for its segments");
	if (seg->stream != STORE_STREAM_MAP)
		return open_error(o, -EUCLEAN, "its map refers to a place that can't be");
	seg->live += ref->length;
	seg->own += ref->length;
	return 0;
}

static int open_own(struct opening *o)
{
	struct volume *v = o->volume;
	int r = own_note(o, &v->sb.root);

	for (uint32_t i = 0; r == 0 && i < o->root_content.n_usage; i++)
		r = own_note(o, &v->segments.pages[i]->ref);
	if (r == 0 && o->root_content.n_index > 0 && o->map_live == 0)
		r = open_error(o, -EUCLEAN, "its usage pages do not count its map");
	o->i = 0;
	o->state = OPENING_LIST;
	return r;
}

/* Each page's segments keep their slots, so that a page is written anew only when something in it
 * changes. */
int open_usage(struct opening *o)
{
	uint32_t n = o->root_content.n_index;
	struct blob_ref ref;
	uint32_t number;
	int r;

	if (o->i == o->root_content.n_usage)
		return open_own(o);
	root_get_ref(o->root, n + o->i, &number, &ref);
	if (number != o->i || ref.length == 0 || ref.length > USAGE_BYTES_MAX)
		return open_error(o, -EUCLEAN, "the root of its map refers to an impossible page");
	if (!o->blob_asked)
		return blob_read(o, &ref);
	o->blob_asked = false;
	r = usage_take(o, number, &ref);
	o->i++;
	return r;
}

/* ---- What the store has lent to us
 * --------------------------------------------------------------- */

static int candidate_add(struct opening *o, struct segment *seg)
{
	struct candidate *c = mem_realloc(o->candidates, (o->n_candidates + 1) * sizeof(*c));

	if (!c)
		return open_error(o, -ENOMEM, "no memory for its log");
	o->candidates = c;
	memset(&c[o->n_candidates], 0, sizeof(*c));
	c[o->n_candidates++].segment = seg;
	return 0;
}

/* What the checkpoint still lists as dead was freed right after it, and lent to us once more. */
static bool is_lent_anew(const struct volume *v, const struct segment *seg,
			 const struct store_segment *s)
{
	return seg->generation != 0 && seg->generation != s->generation && seg->live == 0 &&
	       seg->newest <= v->sb.sequence;
}

static int list_take(struct opening *o, const struct store_segment *s)
{
	struct volume *v = o->volume;
	struct segment *seg = segments_find(v, s->id);
	bool known;

	if (seg && is_lent_anew(v, seg, s)) {
		segments_remove(v, seg);
		segments_rehash(v);
		seg = NULL;
	}
	known = seg != NULL;
	if (!seg)
		seg = segments_add(v, s, SEGMENT_CLOSED);
	if (!seg)
		return open_error(o, -ENOMEM, "no memory for its segments");
	/* A segment that only own_note knows has no generation. */
	if (known && (seg->stream != s->stream ||
		      (seg->generation != 0 && seg->generation != s->generation))) {
		if (seg->live > 0)
			return open_error(o, -EUCLEAN,
					  "a segment that its map needs was lent anew");
		seg->newest = 0; /* freed after this checkpoint, and lent to us again */
		seg->lent_at = v->sb.checkpoint;
		seg->stream = s->stream;
		known = false;
	}
	/* own_note knows nothing of when: any pinned root may be older than this one. */
	if (s->stream == STORE_STREAM_MAP)
		seg->lent_at = 0;
	seg->generation = s->generation;
	seg->users = 1; /* listed; open_list_end takes it away */
	if (s->stream == STORE_STREAM_USER && (!known || seg->newest > v->sb.sequence))
		return candidate_add(o, seg);
	return 0;
}

/* Everything that the map needs is lent to us, or the volume is not whole. */
static int list_end(struct opening *o)
{
	struct volume *v = o->volume;

	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_EMPTY)
			continue;
		if (seg->users == 0 && seg->live > 0)
			return open_error(o, -EUCLEAN,
					  "a segment that its map needs is not its own");
		if (seg->users == 0)
			segments_remove(v, seg); /* it was freed after this checkpoint */
		seg->users = 0;
	}
	segments_rehash(v);
	o->i = 0;
	o->state = OPENING_HEADS;
	return 0;
}

static void on_list(struct store_ctl *ctl)
{
	struct opening *o = container_of(ctl, struct opening, list);
	int r = ctl->error ? open_error(o, ctl->error, "the store can't list its segments") : 0;

	flight_end(o->volume, &o->volume->flights.object);
	for (uint32_t i = 0; r == 0 && i < ctl->n; i++)
		r = list_take(o, &ctl->segments[i]);
	if (r == 0 && ctl->n == 0)
		r = list_end(o);
	o->error = r;
	open_wake(o);
}

int open_list(struct opening *o)
{
	struct volume *v = o->volume;

	o->list.loop = v->loop;
	o->list.volume = v->id;
	o->list.done = on_list;
	flight_begin(v, &v->flights.object, VOLUME_IO_RECOVERY);
	v->store->ops->list(v->store, &o->list);
	return 1;
}

/* What is lent to us and neither the map nor the log has a use for. */
void open_release_unused(struct opening *o)
{
	struct volume *v = o->volume;
	bool pinned = false;

	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		pinned |= v->sb.pins[i].checkpoint != 0;
	for (uint32_t i = 0; i < o->n_candidates; i++) {
		struct segment *seg = o->candidates[i].segment;

		if (!o->candidates[i].used && seg->live == 0 && seg->newest == 0)
			confirm_condemn(v, seg);
	}
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_CLOSED || seg->live != 0 || seg->condemned)
			continue;
		if (seg->stream == STORE_STREAM_MAP && !pinned)
			confirm_condemn(v, seg);
		else if (seg->stream == STORE_STREAM_MOVED && seg->newest == 0)
			confirm_condemn(v, seg); /* copies that no MOVE speaks of */
		else
			v->reap_later = true;
	}
	segments_free_kick(v);
}
