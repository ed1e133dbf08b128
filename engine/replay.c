/* SPDX-License-Identifier: Apache-2.0
 *
 * The second half of opening: the log is followed from the checkpoint to its end, and applied as it
 * is read. From the first record whose payload is not whole they are kept, until it is known
 * whether the log goes so far.
 *
 * A record belongs to the log if it stands where the one before it ended, or at the start of a
 * segment; bears the next sequence, the checksum of the record before, the incarnation that wrote
 * this part, and its own place. The log ends at the first that does not. If its payload is not
 * whole the log ends there too, unless a later header knows it to have been durable: then it is
 * rot, and reads of it will say so.
 *
 * Acknowledged data must never be cut off quietly: when a header past the end calls the missing
 * record durable, or an ended incarnation is known to have gone further, the volume does not open.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WINDOW_FIRST (64 * 1024)
#define WINDOW_MAX   (4 * 1024 * 1024)
/* A record is at most this long, so that the next one is found within. */
#define SCAN_BYTES (RECORD_HEADER_MAX + RECORD_PAYLOAD_MAX + 64 * 1024)

static int replay_begin(struct opening *o);
static int replay_find_next(struct opening *o);
static int replay_take(struct opening *o, const struct record_header *h);

static uint64_t incarnation_of(const struct volume *v, uint64_t sequence)
{
	for (uint32_t i = 0; i < v->sb.n_ended; i++)
		if (sequence <= v->sb.ended[i].last)
			return v->sb.ended[i].incarnation;
	return v->sb.incarnation;
}

/* ---- The first record of each candidate
 * ---------------------------------------------------------- */

static void head_take(struct opening *o, struct candidate *c)
{
	struct record_header h;

	if (record_decode(o->buf, o->want, o->volume->id, &h) == 0 && h.segment == c->segment->id &&
	    h.offset == 0 && h.generation == c->segment->generation) {
		c->valid = true;
		c->first = h;
	}
}

int open_heads(struct opening *o)
{
	struct volume *v = o->volume;

	if ((v->sb.flags & SUPERBLOCK_CLEAN) || o->i == o->n_candidates) {
		o->at = v->sb.replay_segment == REPLAY_NOWHERE
			    ? NULL
			    : segments_find(v, v->sb.replay_segment);
		o->offset = v->sb.replay_offset;
		o->expected = v->sb.sequence + 1;
		o->previous = v->sb.sequence_sum;
		o->window = 0;
		o->window_size = WINDOW_FIRST;
		o->state = v->sb.flags & SUPERBLOCK_CLEAN ? OPENING_APPLY : OPENING_REPLAY;
		return replay_begin(o);
	}
	if (!o->reading) {
		o->reading = o->candidates[o->i].segment;
		return open_read(o, o->reading->id, 0, RECORD_HEADER_MAX);
	}
	o->reading = NULL;
	head_take(o, &o->candidates[o->i++]);
	return 0;
}

/* ---- Applying -----------------------------------------------------------------------------------
 */

static bool move_is_possible(const struct volume *v, const struct run *run)
{
	const struct segment *to = segments_find(v, run->argument);
	uint64_t end = (uint64_t)run->payload_offset * BLOCK_SECTOR + run->blocks * BLOCK_SIZE;

	return to && to->stream == STORE_STREAM_MOVED && end <= v->store->info.segment_size;
}

static int apply_one(struct opening *o, const struct record_header *h, struct segment *segment,
		     const uint8_t *header, bool payload_good)
{
	struct volume *v = o->volume;
	struct run runs[RECORD_RUNS_MAX];
	uint32_t sums[RECORD_BLOCKS_MAX];

	for (uint32_t i = 0; i < h->n_runs; i++) {
		record_run(header, i, &runs[i]);
		if (runs[i].type == RUN_MOVE && !move_is_possible(v, &runs[i]))
			return open_error(
			    o, -EUCLEAN,
			    "its log has moved blocks to a segment that is not its own");
	}
	if (overlay_reserve(&v->active, log_entries(runs, h->n_runs), 2 * h->n_runs) < 0)
		return open_error(o, -ENOMEM, "no memory for replaying its log");
	for (uint32_t i = 0; i < h->n_sums; i++)
		sums[i] = record_sum(header, h->n_runs, i);
	log_apply(v, h, runs, sums, segment);
	segment->newest = h->sequence;
	segment->tail = h->offset + h->header_length + h->payload_length;
	segments_mark_dirty(v, segment);
	v->published = h->sequence;
	v->published_sum = h->checksum;
	v->published_segment = h->segment;
	v->published_end = segment->tail;
	checkpoint_count_log(v, h->header_length + h->payload_length);
	checkpoint_count_overlays(v);
	v->stats.replayed++;
	if (runs[0].type == RUN_SNAPSHOT && h->n_runs == 1 && cut_place(v, &runs[0]) < 0)
		return open_error(o, -ENOMEM, "no memory for replaying its log");
	if (!payload_good)
		bad_end_anew(v, true); /* which block it is, its reader or a scrub finds out */
	return 0;
}

static int replay_begin(struct opening *o)
{
	struct volume *v = o->volume;

	if (overlay_init(&v->active, v->sb.sequence, 0) < 0 ||
	    overlay_init(&v->frozen, v->sb.sequence, 0) < 0)
		return open_error(o, -ENOMEM, "no memory for replaying its log");
	v->published = v->sb.sequence;
	v->published_sum = v->sb.sequence_sum;
	v->published_segment = v->sb.replay_segment;
	v->published_end = v->sb.replay_offset;
	return 0;
}

/* ---- Following the log --------------------------------------------------------------------------
 */

/* Makes [o->offset, + len) valid at o->buf: 0: it is; 1: asleep; -ENODATA: the segment ends before.
 */
static int window_need(struct opening *o, uint32_t len)
{
	uint32_t left = o->volume->store->info.segment_size - o->offset;

	if (len <= o->window)
		return 0;
	if (len > left)
		return -ENODATA;
	if (o->window_end) { /* just read: this much there is */
		o->window_end = false;
		o->window = o->want;
		o->skip = 0;
		return len <= o->window ? 0 : -EUCLEAN;
	}
	o->window_end = true;
	o->skip = 0;
	return open_read(o, o->at->id, o->offset,
			 (uint32_t)min_u64(left, max_u64(len, o->window_size)));
}

/* The bytes at o->offset: the window moves through what was read. */
static uint8_t *window_at(const struct opening *o)
{
	return o->buf + o->skip;
}

static void window_advance(struct opening *o, uint32_t len)
{
	o->offset += len;
	o->skip += len;
	o->window = o->window > len ? o->window - len : 0;
	o->window_size = (uint32_t)min_u64(WINDOW_MAX, (uint64_t)o->window_size * 2);
}

static void window_move(struct opening *o, struct segment *to)
{
	o->at = to;
	o->offset = 0;
	o->window = 0;
	o->window_end = false;
	o->window_size = WINDOW_FIRST;
}

static bool is_next(const struct opening *o, const struct record_header *h)
{
	return h->sequence == o->expected && h->previous == o->previous &&
	       h->segment == o->at->id && h->offset == o->offset &&
	       h->generation == o->at->generation &&
	       h->incarnation == incarnation_of(o->volume, h->sequence);
}

int open_replay(struct opening *o)
{
	struct record_header h;
	uint32_t left;
	int r;

	if (!o->at)
		return replay_find_next(o);
	left = o->volume->store->info.segment_size - o->offset;
	r = window_need(o, (uint32_t)min_u64(RECORD_HEADER_MAX, left));
	if (r == 1)
		return 1;
	if (r < 0 || left < RECORD_FIXED)
		return replay_find_next(o);
	r = record_decode(window_at(o), o->window, o->volume->id, &h);
	if (r == -ENOTSUP)
		return open_error(o, r, "its log has records of a newer volumed; upgrade volumed");
	if (r < 0 || !is_next(o, &h))
		return replay_find_next(o);
	r = window_need(o, h.header_length + h.payload_length);
	if (r == 1)
		return 1;
	if (r < 0)
		return replay_find_next(o);
	return replay_take(o, &h);
}

/* The log may go on at the start of another segment; else it ends here. */
static int replay_find_next(struct opening *o)
{
	for (uint32_t i = 0; i < o->n_candidates; i++) {
		struct candidate *c = &o->candidates[i];

		if (!c->valid || c->used || c->first.sequence != o->expected ||
		    c->first.previous != o->previous ||
		    c->first.incarnation != incarnation_of(o->volume, o->expected))
			continue;
		c->used = true;
		window_move(o, c->segment);
		return 0;
	}
	o->i = 0;
	o->state = OPENING_SCAN;
	o->window_end = false;
	o->window = 0;
	return 0;
}

static bool payload_is_good(const struct opening *o, const struct record_header *h)
{
	const uint8_t *header = window_at(o);
	const uint8_t *payload = header + h->header_length;
	uint32_t sum = 0;

	for (uint32_t i = 0; i < h->n_runs; i++) {
		struct run run;

		record_run(header, i, &run);
		if (run.type == RUN_MOVE) /* its copies were durable before it was logged */
			sum += (uint32_t)run.blocks;
		for (uint64_t b = 0; run_has_payload(&run) && b < run.blocks; b++) {
			const uint8_t *block =
			    payload + (size_t)run.payload_offset * BLOCK_SECTOR + b * BLOCK_SIZE;

			if (block_sum(h->volume, run.lba + b, block) !=
			    record_sum(header, h->n_runs, sum++))
				return false;
		}
	}
	return true;
}

static int found_add(struct opening *o, const struct record_header *h, size_t bytes)
{
	if (o->n_found == o->found_room) {
		uint32_t room = o->found_room ? o->found_room * 2 : 256;
		void *p = mem_realloc(o->found, room * sizeof(o->found[0]));

		if (!p)
			return -ENOMEM;
		o->found = p;
		o->found_room = room;
	}
	if (o->headers_used + bytes > o->headers_room) {
		size_t room = (o->headers_room + bytes) * 2;
		void *p = mem_realloc(o->headers, room);

		if (!p)
			return -ENOMEM;
		o->headers = p;
		o->headers_room = room;
	}
	o->found[o->n_found].h = *h;
	o->found[o->n_found].segment = o->at;
	o->found[o->n_found].header_at = o->headers_used;
	memcpy(o->headers + o->headers_used, window_at(o), bytes);
	o->headers_used += bytes;
	return 0;
}

static int replay_take(struct opening *o, const struct record_header *h)
{
	bool good = payload_is_good(o, h);
	int r = 0;

	if (o->n_found == 0 && good)
		r = apply_one(o, h, o->at, window_at(o), true);
	else if (found_add(o, h, record_header_bytes(h->n_runs, h->n_sums)) < 0)
		r = open_error(o, -ENOMEM, "no memory for replaying its log");
	else
		o->found[o->n_found++].payload_good = good;
	if (r < 0)
		return r;
	o->durable = max_u64(o->durable, h->durable);
	o->expected = h->sequence + 1;
	o->previous = h->checksum;
	window_advance(o, h->header_length + h->payload_length);
	return 0;
}

/* ---- Past the end: was anything durable lost?
 * ---------------------------------------------------- */

static int damaged(struct opening *o, uint64_t sequence)
{
	char what[160];

	snprintf(what, sizeof(what),
		 "its log is damaged: record %" PRIu64
		 " was acknowledged as durable and is gone; the volume "
		 "is not opened, for it would lie",
		 sequence);
	return open_error(o, -EUCLEAN, what);
}

/* Looks at every place in o->buf where a header could stand. */
static int scan_buffer(struct opening *o)
{
	uint32_t alignment = o->volume->store->info.alignment;

	for (uint32_t at = 0; at + RECORD_FIXED <= o->want; at += alignment) {
		struct record_header h;

		if (record_decode(o->buf + at, o->want - at, o->volume->id, &h) != 0)
			continue;
		if (h.incarnation != o->volume->sb.incarnation || h.sequence <= o->expected)
			continue;
		if (h.durable >= o->expected)
			return damaged(o, o->expected);
	}
	return 0;
}

/* Where the log ended, then each candidate that it did not reach. */
static struct segment *scan_place(const struct opening *o, uint32_t *ret_offset)
{
	*ret_offset = o->i == 0 ? o->offset : 0;
	if (o->i == 0)
		return o->at;
	return o->candidates[o->i - 1].used ? NULL : o->candidates[o->i - 1].segment;
}

int open_scan(struct opening *o)
{
	struct volume *v = o->volume;
	struct segment *seg;
	uint32_t offset;
	uint32_t n;
	int r;

	if (o->i > o->n_candidates) {
		o->state = OPENING_APPLY;
		if (v->sb.n_ended && v->sb.ended[v->sb.n_ended - 1].last >= o->expected)
			return damaged(o, o->expected);
		return 0;
	}
	seg = scan_place(o, &offset);
	n = (uint32_t)min_u64(SCAN_BYTES, v->store->info.segment_size - offset);
	if (!seg || n < RECORD_FIXED) {
		o->i++;
		return 0;
	}
	if (!o->reading) {
		o->reading = seg;
		return open_read(o, seg->id, offset, n);
	}
	o->reading = NULL;
	r = scan_buffer(o);
	o->i++;
	return r;
}

int open_apply(struct opening *o)
{
	struct volume *v = o->volume;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < o->n_found; i++) {
		struct found *f = &o->found[i];

		if (!f->payload_good && f->h.sequence > o->durable)
			break;
		r = apply_one(o, &f->h, f->segment, o->headers + f->header_at, f->payload_good);
	}
	if (r == 0 && v->sb.n_ended && v->sb.ended[v->sb.n_ended - 1].last > v->published)
		r = damaged(o, v->published + 1);
	if (r == 0 && map_resize(v, block_size(&v->dev)) < 0)
		r = open_error(o, -ENOMEM, "no memory for its map");
	v->reserved = v->published;
	v->last_sum = v->published_sum;
	v->durable = v->sb.sequence;
	v->pending_size = block_size(&v->dev);
	o->state = OPENING_SYNC;
	return r;
}
