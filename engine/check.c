/* SPDX-License-Identifier: Apache-2.0
 *
 * The full walk (E8, E4): every leaf is loaded, what leaves and overlays refer to is counted for
 * each segment and held against the counters, and every stored block is read and held against its
 * checksum; then what the pins refer to (check_pins.c). Nobody writes to the volume meanwhile, and
 * no checkpoint starts. A volume in use is walked by check_in_use.c.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WALK_BLOCKS     64
#define WALK_READS      16 /* in flight */
#define CHECKPOINT_REST (10 * NSEC_PER_MSEC)

struct walk;

/* A read under way. */
struct walk_read {
	struct walk *walk;
	struct device_io io;
	struct segment *segment; /* NULL: not under way */
	uint64_t lba;
	uint32_t blocks;
	uint8_t *buf;
	uint32_t sums[WALK_BLOCKS];
};

struct walk {
	struct volume *volume;
	struct volume_op *op;
	struct leaf_wait wait;
	struct io_op turn;
	bool counting;      /* the first pass: leaves; the second: blocks */
	bool asleep;        /* a leaf or an index page is being loaded */
	bool index_counted; /* the page that begins at lba */
	uint64_t lba;       /* the next block to look at */
	uint64_t end;
	uint64_t *live; /* bytes by slot, of leaves and frozen overlay */
	uint64_t *live_active;
	uint32_t n_slots;
	uint8_t *buf;
	uint32_t n_reads;
	struct walk_read reads[WALK_READS];
};

static void walk_step(struct walk *w);
static void walk_end(struct walk *w);

void check_say(struct volume_op *op, const char *format, ...)
{
	char text[200];
	va_list args;

	op->n_wrong++;
	if (!op->say)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	op->say(op->arg, text);
}

bool check_is_stopped(const struct volume_op *op)
{
	return __atomic_load_n(&op->stop, __ATOMIC_RELAXED);
}

/* ---- Counting -----------------------------------------------------------------------------------
 */

static void count(struct walk *w, uint64_t *counters, uint64_t id, uint64_t bytes, const char *what)
{
	struct segment *seg = segments_find(w->volume, id);

	if (!seg || seg->slot >= w->n_slots)
		check_say(w->op, "%s refers to segment %" PRIu64 ", which is not the volume's",
			  what, id);
	else
		counters[seg->slot] += bytes;
}

static void count_overlay(struct walk *w, const struct overlay *o, uint64_t *counters)
{
	for (uint32_t i = 0; i < o->n_slots; i++)
		if (o->blocks[i].lba != 0 && o->blocks[i].state == ENTRY_DATA)
			count(w, counters, o->blocks[i].segment, BLOCK_SIZE,
			      "a block of the overlay");
}

static void count_map(struct walk *w)
{
	struct volume *v = w->volume;

	if (v->sb.root.length)
		count(w, w->live, v->sb.root.segment, v->sb.root.length, "the superblock");
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		if (v->segments.pages[i]->ref.length)
			count(w, w->live, v->segments.pages[i]->ref.segment,
			      v->segments.pages[i]->ref.length, "the root");
	for (uint32_t p = 0; p < v->map.n_index; p++)
		if (v->map.index[p].length)
			count(w, w->live, v->map.index[p].segment, v->map.index[p].length,
			      "the root");
}

static void count_index(struct walk *w, struct map_page *index)
{
	for (uint32_t i = 0; i < INDEX_LEAVES; i++) {
		const struct blob_ref *ref = map_index_ref(w->volume->engine->map_cache, index, i);

		if (ref->length)
			count(w, w->live, ref->segment, ref->length, "an index page");
	}
}

static void compare(struct walk *w, const uint64_t *counted, bool active)
{
	for (uint32_t slot = 0; slot < w->n_slots; slot++) {
		struct segment *seg = segments_at(w->volume, slot);
		uint32_t live = active ? seg->live_active : seg->live;

		if (seg->state != SEGMENT_EMPTY && live != counted[slot])
			check_say(w->op,
				  "segment %" PRIu64 ": %" PRIu32
				  " bytes are counted as live%s, %" PRIu64 " are",
				  seg->id, live, active ? " in the overlay" : "", counted[slot]);
	}
}

/* A leaf's own entries count, whatever the overlays say over them. */
static void count_leaf(struct walk *w, const struct map_page *leaf)
{
	for (uint32_t i = 0; i < LEAF_BLOCKS; i++) {
		struct entry e;

		map_leaf_entry(w->volume->engine->map_cache, leaf, i, &e);
		if (e.state == ENTRY_DATA)
			count(w, w->live, e.segment, BLOCK_SIZE, "a leaf");
	}
}

/* ---- Walking ------------------------------------------------------------------------------------
 */

static void on_turn(struct io_op *op)
{
	walk_step(container_of(op, struct walk, turn));
}

static void on_leaf(struct leaf_wait *wait, int error)
{
	struct walk *w = container_of(wait, struct walk, wait);
	struct map_page *index = NULL;
	uint64_t n = LEAF_BLOCKS;

	/* What can't be read is the index page, if that is still missing. */
	if (error && map_index(&w->volume->map, w->lba / LEAF_BLOCKS / INDEX_LEAVES, &index) < 0)
		n = LEAF_BLOCKS * INDEX_LEAVES;
	if (error && w->counting)
		check_say(w->op, "the map %s of blocks %" PRIu64 " to %" PRIu64 " can't be read",
			  n == LEAF_BLOCKS ? "leaf" : "index page", round_down(w->lba, n),
			  round_down(w->lba, n) + n - 1);
	if (error) {
		w->lba = round_down(w->lba, n) + n;
		w->index_counted = false;
	}
	/* Not from inside the waking: the walk may load the next leaf at once. */
	w->turn.done = on_turn;
	io_defer(w->volume->loop, &w->turn, 0);
}

static void on_blocks(struct device_io *io)
{
	struct walk_read *r = container_of(io, struct walk_read, io);
	struct walk *w = r->walk;

	r->segment->users--;
	r->segment = NULL;
	w->n_reads--;
	for (uint32_t i = 0; i < r->blocks; i++) {
		if (io->result < 0)
			check_say(w->op, "block %" PRIu64 " can't be read: %s", r->lba + i,
				  strerror((int)-io->result));
		else if (block_sum(w->volume->id, r->lba + i, r->buf + (size_t)i * BLOCK_SIZE) !=
			 r->sums[i])
			check_say(w->op,
				  "block %" PRIu64
				  " is not what was written: its checksum is wrong",
				  r->lba + i);
	}
	if (!w->asleep)
		walk_step(w);
}

/* Reads the blocks from w->lba on, of which the first has data, that lie one after the other. */
static void walk_read(struct walk *w)
{
	struct volume *v = w->volume;
	struct walk_read *r = w->reads;
	struct entry first = {0};
	struct entry more;
	uint32_t n = 0;

	while (r->segment)
		r++;
	CHECK(map_get(v, w->lba, &first) == 0);
	while (n < WALK_BLOCKS && w->lba + n < w->end && map_get(v, w->lba + n, &more) == 0 &&
	       more.state == ENTRY_DATA && more.segment == first.segment &&
	       more.offset == first.offset + n * (BLOCK_SIZE / BLOCK_SECTOR))
		r->sums[n++] = more.sum;
	r->segment = segments_find(v, first.segment);
	r->lba = w->lba;
	r->blocks = n;
	w->lba += n;
	if (!r->segment) {
		check_say(w->op, "block %" PRIu64 " is in a segment that is not the volume's",
			  r->lba);
		return;
	}
	r->segment->users++;
	w->n_reads++;
	r->io.done = on_blocks;
	device_read(v, &r->io, VOLUME_IO_INSPECTION, first.segment, first.offset * BLOCK_SECTOR,
		    r->buf, n * BLOCK_SIZE);
}

/* The page that leads to w->lba is being loaded. */
static void walk_load(struct walk *w)
{
	w->asleep = true;
	w->wait.wake = on_leaf;
	leaf_load(w->volume, w->lba / LEAF_BLOCKS, &w->wait);
}

static void give_up(struct walk *w)
{
	char text[ID_TEXT_MAX];

	err_set(&w->op->err, -ECANCELED, "volume %s: its check was stopped",
		id_format(w->volume->id, "vol", text));
	if (w->counting)
		checkpoint_release(w->volume);
	w->counting = false;
	w->lba = w->end;
}

/* False: asleep. */
static bool walk_counting(struct walk *w)
{
	struct map *m = &w->volume->map;

	while (w->lba < w->end) {
		uint64_t number = w->lba / LEAF_BLOCKS;
		struct map_page *page = NULL;

		if (number % INDEX_LEAVES == 0 && !w->index_counted) {
			if (map_index(m, number / INDEX_LEAVES, &page) < 0) {
				walk_load(w);
				return false;
			}
			if (!page) {
				w->lba += LEAF_BLOCKS * INDEX_LEAVES;
				continue;
			}
			count_index(w, page);
			w->index_counted = true;
		}
		if (map_leaf(m, number, &page) < 0) {
			walk_load(w);
			return false;
		}
		if (page)
			count_leaf(w, page);
		w->index_counted = false;
		w->lba += LEAF_BLOCKS;
	}
	compare(w, w->live, false);
	w->counting = false;
	checkpoint_release(w->volume);
	w->lba = 0;
	w->end = block_size(&w->volume->dev) / BLOCK_SIZE;
	return true;
}

static void walk_step(struct walk *w)
{
	w->asleep = false;
	if (check_is_stopped(w->op) && !w->op->err.code)
		give_up(w);
	if (w->counting && !walk_counting(w))
		return;
	if (w->op->counters_only)
		w->lba = w->end;
	while (w->lba < w->end && w->n_reads < WALK_READS) {
		struct entry e;
		uint64_t n;

		if (map_get_run(w->volume, w->lba, w->end - w->lba, &e, &n) < 0) {
			walk_load(w);
			return;
		}
		if (e.state == ENTRY_BAD)
			check_say(w->op, "block %" PRIu64 " is known to be lost", w->lba);
		if (e.state == ENTRY_DATA)
			walk_read(w);
		else
			w->lba += n;
	}
	if (w->lba >= w->end && w->n_reads == 0)
		walk_end(w);
}

static void walk_end(struct walk *w)
{
	struct volume_op *op = w->op;
	struct volume *v = w->volume;

	v->n_walks--;
	mem_free(w->live);
	mem_free(w->live_active);
	mem_free_pages(w->buf, WALK_READS * WALK_BLOCKS * BLOCK_SIZE);
	mem_free(w);
	if (op->counters_only || op->err.code)
		op->done(op);
	else
		check_pins(op);
	if (v->n_walks == 0)
		volume_close_kick(v);
}

static void walk_begin(struct io_op *turn)
{
	struct walk *w = container_of(turn, struct walk, turn);
	struct volume *v = w->volume;

	if (v->checkpoint) { /* it moves what is counted */
		io_timer(v->loop, &w->turn, CHECKPOINT_REST);
		return;
	}
	w->n_slots = v->segments.n_pages * USAGE_SEGMENTS;
	w->live = mem_calloc(w->n_slots + 1, sizeof(w->live[0]));
	w->live_active = mem_calloc(w->n_slots + 1, sizeof(w->live_active[0]));
	w->buf = mem_alloc_pages(WALK_READS * WALK_BLOCKS * BLOCK_SIZE);
	if (!w->live || !w->live_active || !w->buf) {
		err_set(&w->op->err, -ENOMEM, "no memory for checking a volume");
		walk_end(w);
		return;
	}
	for (uint32_t i = 0; i < WALK_READS; i++) {
		w->reads[i].walk = w;
		w->reads[i].buf = w->buf + (size_t)i * WALK_BLOCKS * BLOCK_SIZE;
	}
	count_map(w);
	count_overlay(w, &v->active, w->live_active);
	list_for_each (&v->cuts, node)
		count_overlay(w, &list_entry(node, struct cut, link)->overlay, w->live_active);
	compare(w, w->live_active, true);
	w->counting = true;
	checkpoint_hold(v);
	w->end = (uint64_t)v->map.n_index * INDEX_LEAVES * LEAF_BLOCKS;
	walk_step(w);
}

void volume_check(struct volume_op *op)
{
	struct walk *w;

	op->err.code = 0;
	op->n_wrong = 0;
	if (op->in_use) {
		check_in_use(op);
		return;
	}
	w = mem_alloc(sizeof(*w));
	CHECK(w);
	w->volume = op->volume;
	w->op = op;
	op->volume->n_walks++;
	w->turn.done = walk_begin;
	io_defer(op->volume->loop, &w->turn, 0);
}
