/* SPDX-License-Identifier: Apache-2.0
 *
 * The first half of opening: root, index pages, usage pages, and what the store says it has lent to
 * us.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/recover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The map's blobs are read before the store's list was asked for: their segments are noted as they
 * appear. */
static struct segment *map_segment(struct opening *o, uint64_t id)
{
	struct store_segment s = {.id = id, .stream = STORE_STREAM_MAP};
	struct segment *seg = segments_find(o->volume, id);

	return seg ? seg : segments_add(o->volume, &s, SEGMENT_CLOSED);
}

static int ref_note(struct opening *o, const struct blob_ref *ref)
{
	struct segment *seg = map_segment(o, ref->segment);

	if (!seg)
		return open_error(o, -ENOMEM, "no memory for its segments");
	if (seg->stream != STORE_STREAM_MAP || ref->length == 0 ||
	    (uint64_t)ref->offset + ref->length > o->volume->store->info.segment_size)
		return open_error(o, -EUCLEAN, "its map refers to a place that can't be");
	seg->live += ref->length;
	return 0;
}

/* Each of these states reads a blob and comes back to take it: o->reading tells the two apart. */
static int blob_read(struct opening *o, const struct blob_ref *ref)
{
	int r = ref_note(o, ref);

	if (r < 0)
		return r;
	o->reading = segments_find(o->volume, ref->segment);
	return open_read(o, o->reading, ref->offset, ref->length);
}

int open_root(struct opening *o)
{
	struct volume *v = o->volume;
	const struct blob_ref *ref = &v->sb.root;
	int r;

	if (!o->reading)
		return blob_read(o, ref);
	o->reading = NULL;
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
	o->state = OPENING_INDEX;
	return 0;
}

static int index_note_leaves(struct opening *o, const struct index_page *page)
{
	int r = 0;

	for (int i = 0; i < INDEX_LEAVES && r == 0; i++)
		if (page->refs[i].length)
			r = ref_note(o, &page->refs[i]);
	return r;
}

int open_index(struct opening *o)
{
	struct volume *v = o->volume;
	struct index_page *page;
	struct blob_ref ref;
	uint32_t number;

	if (o->i == o->root_content.n_index) {
		o->state = OPENING_USAGE;
		return 0;
	}
	root_get_ref(o->root, o->i, &number, &ref);
	if (number >= v->n_index || ref.length > INDEX_BYTES_MAX)
		return open_error(o, -EUCLEAN, "the root of its map refers past its size");
	if (!o->reading)
		return blob_read(o, &ref);
	o->reading = NULL;
	page = map_index_page_make(v, (uint64_t)number * INDEX_LEAVES);
	if (!page)
		return open_error(o, -ENOMEM, "no memory for its map");
	page->self = ref;
	if (index_decode(o->buf + o->skip, ref.length, v->id, number, ref.sum, page->refs) < 0)
		return open_error(o, -EUCLEAN, "an index page of its map is damaged");
	o->i++;
	return index_note_leaves(o, page);
}

static int usage_take(struct opening *o, uint32_t number, const struct blob_ref *ref)
{
	struct volume *v = o->volume;
	struct usage_entry entries[USAGE_SEGMENTS];

	if (usage_decode(o->buf + o->skip, ref->length, v->id, number, ref->sum, entries) < 0)
		return open_error(o, -EUCLEAN, "a usage page of its map is damaged");
	for (int i = 0; i < USAGE_SEGMENTS; i++) {
		const struct usage_entry *u = &entries[i];
		struct store_segment s = {
		    .id = u->segment, .generation = u->generation, .stream = u->stream};
		struct segment *seg;

		if (u->stream == 0)
			continue;
		if (segments_find(v, u->segment))
			return open_error(o, -EUCLEAN, "its usage pages name a segment twice");
		seg = segments_add(v, &s, SEGMENT_CLOSED);
		if (!seg)
			return open_error(o, -ENOMEM, "no memory for its segments");
		seg->live = u->live;
		seg->tail = u->written;
		seg->newest = u->newest;
		seg->lent_at = u->lent_at;
	}
	return 0;
}

/* Segments get new slots, so that the next checkpoint writes every usage page anew; until then the
 * old ones hold their place. */
static int usage_keep(struct opening *o, const struct blob_ref *ref)
{
	struct volume *v = o->volume;
	struct blob_ref *p = mem_realloc(v->old_usage, (v->n_old_usage + 1) * sizeof(*p));

	if (!p)
		return open_error(o, -ENOMEM, "no memory for its segments");
	v->old_usage = p;
	v->old_usage[v->n_old_usage++] = *ref;
	return 0;
}

int open_usage(struct opening *o)
{
	struct blob_ref ref;
	uint32_t number;
	int r;

	if (o->i == o->root_content.n_index + o->root_content.n_usage) {
		o->state = OPENING_LIST;
		return 0;
	}
	root_get_ref(o->root, o->i, &number, &ref);
	if (ref.length > USAGE_BYTES_MAX)
		return open_error(o, -EUCLEAN, "the root of its map refers to an impossible page");
	if (!o->reading)
		return blob_read(o, &ref);
	o->reading = NULL;
	r = usage_take(o, number, &ref);
	if (r == 0)
		r = usage_keep(o, &ref);
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
	return seg->stream != STORE_STREAM_MAP && seg->generation != s->generation &&
	       seg->live == 0 && seg->newest <= v->sb.sequence;
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
	/* What the map's blobs are in is known by references alone, without a generation. */
	if (known && (seg->stream != s->stream ||
		      (s->stream != STORE_STREAM_MAP && seg->generation != s->generation))) {
		if (seg->live > 0)
			return open_error(o, -EUCLEAN,
					  "a segment that its map needs was lent anew");
		seg->newest = 0; /* freed after this checkpoint, and lent to us again */
		seg->lent_at = v->sb.checkpoint;
		seg->stream = s->stream;
		known = false;
	}
	/* Usage pages say nothing of map segments: any pinned root may be older than this one. */
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
			segments_release(v, seg);
	}
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		struct segment *seg = segments_at(v, slot);

		if (seg->state != SEGMENT_CLOSED || seg->live != 0)
			continue;
		if (seg->stream == STORE_STREAM_MAP && !pinned)
			segments_release(v, seg);
		else if (seg->stream == STORE_STREAM_MOVED && seg->newest == 0)
			segments_release(v, seg); /* copies that no MOVE speaks of */
		else
			v->reap_later = true;
	}
	segments_free_kick(v);
}
