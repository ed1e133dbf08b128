/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of a volume in use (E8). Its map and counters never stand still, but those of a
 * checkpoint do: so it is checkpointed, and at that moment
 *
 *   checkpoint -> the counters in memory are noted, its root is held -> root -> usage pages
 *              -> index pages and leaves, one after the other -> compared, let go
 *
 * while everything goes on. What the overlay counted became the map's with the checkpoint, so that
 * all counters are looked at.
 *
 * Held is: what the root refers to is not reused (v->check_pin; segments.c). That is in memory
 * only: a crash leaves nothing behind. When the space that it keeps is needed, the walk gives up.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define RATE_DEFAULT (32 * 1024 * 1024)
#define REST_MIN     NSEC_PER_MSEC
#define REST_MAX     (20 * NSEC_PER_MSEC)
#define SPACE_LOOKS  16 /* whether to stop, for one at the store's space */
#define SPACE_SHARE  32 /* of the store that must be left, beside its reserve */
#define PAGE_LEAVES  INDEX_LEAVES
#define LEAF_UNITS   (LEAF_BLOCKS / VOLUME_UNIT_BLOCKS)

/* What is known of a segment as of the checkpoint. */
struct tally {
	uint64_t id;
	bool used;       /* the slot was */
	bool unread;     /* its usage page can't be read */
	uint32_t memory; /* bytes that live, as memory counts them */
	uint32_t disk;   /* as the usage page does */
	uint64_t counted;
};

struct live_walk {
	struct volume *volume;
	struct volume_op *op;
	struct checkpoint_wait checkpoint;
	struct io_op turn;
	struct volume_op opening;
	struct volume_view_req req;
	struct tally *tally; /* by slot */
	uint32_t n_slots;
	bool damaged;   /* what a page refers to could not be counted */
	uint64_t page;  /* index pages below it are counted */
	uint32_t usage; /* usage pages that were asked for */
	uint32_t looks;
	uint64_t debt; /* nanoseconds to rest */
	void (*next)(struct live_walk *w);
	struct usage_entry entries[USAGE_SEGMENTS];
};

static void on_rest(struct io_op *turn);
static void on_checkpoint(struct checkpoint_wait *wait, int error);
static void hold(struct live_walk *w);
static void on_root(struct volume_op *op);
static void next_usage(struct live_walk *w);
static void on_usage(struct volume_view_req *req);
static void on_leaf(struct volume_view_req *req);
static void compare(struct live_walk *w);
static void walk_end(struct live_walk *w, int error, const char *why);

/* ---- When to stop ------------------------------------------------------------------------------
 */

/* Something waits for us to be given back. */
static bool keeps_anything(const struct volume *v)
{
	for (uint32_t slot = 0; slot < v->segments.n_pages * USAGE_SEGMENTS; slot++) {
		const struct segment *seg = segments_at(v, slot);

		if (seg->state == SEGMENT_CLOSED && seg->lent_at < v->check_pin &&
		    seg->dead_at > v->check_pin)
			return true;
	}
	return false;
}

static bool space_is_short(struct live_walk *w)
{
	const struct volume *v = w->volume;
	uint64_t capacity;
	uint64_t left;

	if (segments_out_of_space(v, STORE_STREAM_USER) ||
	    segments_out_of_space(v, STORE_STREAM_MAP))
		return true;
	if (w->looks++ % SPACE_LOOKS != 0)
		return false;
	v->store->ops->space(v->store, &capacity, &left);
	return left < v->store->info.reserve + capacity / SPACE_SHARE;
}

/* True: it has ended. */
static bool is_over(struct live_walk *w)
{
	int error = check_is_stopped(w->op) ? -ECANCELED : w->volume->closing ? -ESHUTDOWN : 0;

	if (error)
		walk_end(w, error, error == -ECANCELED ? "its check was stopped" : "it was closed");
	else if (space_is_short(w) && keeps_anything(w->volume))
		walk_end(w, error = -EAGAIN, "the store needs the space that its check kept");
	return error != 0;
}

/* Rests for what was read, and looks up now and then. */
static void rest(struct live_walk *w)
{
	uint64_t nap = w->debt < REST_MIN ? 0 : min_u64(w->debt, REST_MAX);

	w->debt -= nap;
	w->turn.done = on_rest;
	if (nap)
		io_timer(w->volume->loop, &w->turn, nap);
	else
		io_defer(w->volume->loop, &w->turn, 0);
}

static void on_rest(struct io_op *turn)
{
	struct live_walk *w = container_of(turn, struct live_walk, turn);

	if (is_over(w))
		return;
	if (w->debt >= REST_MIN)
		rest(w);
	else
		w->next(w);
}

/* A page was read: `next` comes when it is time. */
static void go_on(struct live_walk *w, uint32_t bytes, void (*next)(struct live_walk *w))
{
	uint64_t rate = w->op->rate ? w->op->rate : RATE_DEFAULT;

	w->debt += bytes * NSEC_PER_SEC / rate;
	w->next = next;
	rest(w);
}

/* ---- The checkpoint ----------------------------------------------------------------------------
 */

static void walk_begin(struct io_op *turn)
{
	struct live_walk *w = container_of(turn, struct live_walk, turn);
	struct volume *v = w->volume;

	if (v->failed) { /* its counters are those of no checkpoint */
		on_checkpoint(&w->checkpoint, -EIO);
		return;
	}
	if (is_over(w))
		return;
	/* Of a volume at rest the newest will do. */
	if (!v->checkpoint && v->sb.root.length && overlay_is_empty(&v->active) &&
	    list_empty(&v->cuts)) {
		hold(w);
		return;
	}
	w->checkpoint.done = on_checkpoint;
	checkpoint_request(v, &w->checkpoint);
}

/* Between two checkpoints, both inside this call: counters of the map change in them only. */
static void on_checkpoint(struct checkpoint_wait *wait, int error)
{
	struct live_walk *w = container_of(wait, struct live_walk, checkpoint);

	if (error)
		walk_end(w, error, "its log has stopped; open it anew");
	else if (!is_over(w))
		hold(w);
}

static struct tally *tally_find(struct live_walk *w, uint64_t id)
{
	const struct segment *seg = segments_find(w->volume, id);
	struct tally *t = seg && seg->slot < w->n_slots ? &w->tally[seg->slot] : NULL;

	return t && t->used && t->id == id ? t : NULL;
}

static void count(struct live_walk *w, const struct blob_ref *ref, const char *what)
{
	struct tally *t = ref->length ? tally_find(w, ref->segment) : NULL;

	if (t)
		t->counted += ref->length;
	else if (ref->length)
		check_say(w->op, "%s refers to segment %" PRIu64 ", which is not the volume's",
			  what, ref->segment);
}

static void compare_own(struct live_walk *w)
{
	const struct volume *v = w->volume;

	count(w, &v->sb.root, "the superblock");
	for (uint32_t i = 0; i < v->segments.n_pages; i++)
		count(w, &v->segments.pages[i]->ref, "the root");
	for (uint32_t slot = 0; slot < w->n_slots; slot++) {
		struct tally *t = &w->tally[slot];
		const struct segment *seg = segments_at(v, slot);

		if (t->used && seg->own != t->counted)
			check_say(w->op,
				  "segment %" PRIu64 ": %" PRIu32
				  " bytes are counted as root and usage pages, %" PRIu64 " are",
				  t->id, seg->own, t->counted);
		t->counted = 0;
	}
}

static void hold(struct live_walk *w)
{
	struct volume *v = w->volume;
	struct superblock_pin root = {.size = v->sb.size,
				      .checkpoint = v->sb.checkpoint,
				      .sequence = v->sb.sequence,
				      .root = v->sb.root};
	bool at_rest = overlay_is_empty(&v->active) && list_empty(&v->cuts);

	w->n_slots = v->segments.n_pages * USAGE_SEGMENTS;
	w->tally = mem_calloc(w->n_slots + 1, sizeof(w->tally[0]));
	if (!w->tally) {
		walk_end(w, -ENOMEM, "no memory for checking it");
		return;
	}
	for (uint32_t slot = 0; slot < w->n_slots; slot++) {
		const struct segment *seg = segments_at(v, slot);

		w->tally[slot] = (struct tally){.id = seg->id,
						.used = seg->state != SEGMENT_EMPTY,
						.memory = seg->live - seg->own};
		if (at_rest && seg->live_active)
			check_say(w->op,
				  "segment %" PRIu64 ": %" PRIu32
				  " bytes are counted as live in the overlay, 0 are",
				  seg->id, seg->live_active);
	}
	compare_own(w);
	v->check_pin = v->sb.checkpoint;
	w->opening = (struct volume_op){.volume = v, .done = on_root};
	view_start(&w->opening, &root);
}

/* ---- Root and usage pages ----------------------------------------------------------------------
 */

static void on_root(struct volume_op *op)
{
	struct live_walk *w = container_of(op, struct live_walk, opening);
	struct blob_ref ref;
	uint32_t number;

	if (op->err.code == -ENOMEM) {
		walk_end(w, op->err.code, "no memory for checking it");
		return;
	}
	if (op->err.code) {
		check_say(w->op, "the root of the map can't be read");
		walk_end(w, 0, NULL);
		return;
	}
	w->req.view = op->view;
	for (uint32_t i = 0; view_root_ref(op->view, i, &number, &ref); i++)
		if (!view_root_is_usage(op->view, i))
			count(w, &ref, "the root");
	w->req.done = on_usage;
	w->req.buf = w->entries;
	next_usage(w);
}

/* What opening the volume would find. */
static void take_usage(struct live_walk *w)
{
	for (uint32_t i = 0; i < USAGE_SEGMENTS; i++) {
		const struct usage_entry *u = &w->entries[i];
		uint64_t slot = w->req.unit * USAGE_SEGMENTS + i;
		struct tally *t = slot < w->n_slots ? &w->tally[slot] : NULL;

		if (u->stream == 0 || u->live == 0)
			continue; /* one that was given back may still be named */
		if (t && t->used && t->id == u->segment)
			t->disk = u->live;
		else
			check_say(w->op,
				  "usage page %" PRIu64 " names segment %" PRIu64
				  ", which is not the volume's",
				  w->req.unit, u->segment);
	}
}

static void usage_is_lost(struct live_walk *w)
{
	uint64_t first = w->req.unit * USAGE_SEGMENTS;

	check_say(w->op, "usage page %" PRIu64 " of the map can't be read", w->req.unit);
	for (uint64_t slot = first; slot < min_u64(first + USAGE_SEGMENTS, w->n_slots); slot++)
		w->tally[slot].unread = true;
}

static void next_usage(struct live_walk *w)
{
	w->req.unit = w->usage++;
	view_usage(&w->req);
}

static void next_leaf(struct live_walk *w)
{
	volume_view_next(&w->req);
}

static void on_usage(struct volume_view_req *req)
{
	struct live_walk *w = container_of(req, struct live_walk, req);

	if (req->error == -ENOENT) {
		req->done = on_leaf;
		req->all = true;
		req->unit = 0;
		go_on(w, 0, next_leaf);
		return;
	}
	if (req->error)
		usage_is_lost(w);
	else
		take_usage(w);
	go_on(w, USAGE_BYTES_MAX, next_usage);
}

/* ---- Index pages and leaves --------------------------------------------------------------------
 */

static void count_leaf(struct live_walk *w, uint64_t number, const struct leaf_content *leaf)
{
	struct tally *t = NULL;

	for (uint32_t i = 0; i < LEAF_BLOCKS; i++) {
		const struct entry *e = &leaf->entries[i];

		if (e->state != ENTRY_DATA)
			continue;
		if (!t || t->id != e->segment)
			t = tally_find(w, e->segment);
		if (t)
			t->counted += BLOCK_SIZE;
		else
			check_say(w->op,
				  "block %" PRIu64 " is in segment %" PRIu64
				  ", which is not the volume's",
				  number * LEAF_BLOCKS + i, (uint64_t)e->segment);
	}
}

static void say_unreadable(struct live_walk *w, const char *what, uint64_t first, uint64_t blocks)
{
	w->damaged = true;
	check_say(w->op, "the map %s of blocks %" PRIu64 " to %" PRIu64 " can't be read", what,
		  first, first + blocks - 1);
}

/* The view stands at the next leaf, or could not read it or the index page that leads there. */
static void on_leaf(struct volume_view_req *req)
{
	struct live_walk *w = container_of(req, struct live_walk, req);
	uint64_t number = req->unit / LEAF_UNITS;
	uint64_t page = number / PAGE_LEAVES;
	const struct blob_ref *refs = view_index(req->view, page);
	const struct leaf_content *leaf = view_leaf(req->view, number);
	uint32_t bytes = 0;

	if (req->error == -ENOENT) {
		compare(w);
		return;
	}
	if (!refs) {
		say_unreadable(w, "index page", page * PAGE_LEAVES * LEAF_BLOCKS,
			       PAGE_LEAVES * LEAF_BLOCKS);
		req->unit = (page + 1) * PAGE_LEAVES * LEAF_UNITS;
		go_on(w, INDEX_BYTES_MAX, next_leaf);
		return;
	}
	for (uint32_t i = 0; page >= w->page && i < PAGE_LEAVES; i++)
		count(w, &refs[i], "an index page");
	if (page >= w->page)
		bytes = INDEX_BYTES_MAX;
	w->page = page + 1;
	if (leaf && !req->error)
		count_leaf(w, number, leaf);
	else
		say_unreadable(w, "leaf", number * LEAF_BLOCKS, LEAF_BLOCKS);
	req->unit = (number + 1) * LEAF_UNITS;
	go_on(w, bytes + refs[number % PAGE_LEAVES].length, next_leaf);
}

/* ---- The end ------------------------------------------------------------------------------------
 */

static void compare_one(struct live_walk *w, const struct tally *t, uint32_t live,
			const char *where)
{
	/* Behind a page that can't be read there may be more. */
	if (w->damaged && t->counted <= live)
		return;
	check_say(w->op,
		  "segment %" PRIu64 ": %" PRIu32 " bytes are counted as live%s, %" PRIu64 " are",
		  t->id, live, where, t->counted);
}

static void compare(struct live_walk *w)
{
	for (uint32_t slot = 0; slot < w->n_slots; slot++) {
		const struct tally *t = &w->tally[slot];

		if (t->used && t->memory != t->counted)
			compare_one(w, t, t->memory, "");
		else if (t->used && !t->unread && t->disk != t->counted)
			compare_one(w, t, t->disk, " on disk");
	}
	walk_end(w, 0, NULL);
}

static void let_go(struct volume *v)
{
	bool keeps = keeps_anything(v);

	v->check_pin = 0;
	if (!keeps || v->closing) /* whose last checkpoint sees to it */
		return;
	v->reap_later = true;
	checkpoint_idle_arm(v);
	if (segments_out_of_space(v, STORE_STREAM_USER))
		checkpoint_for_space(v);
	gc_watch(v);
}

static void walk_end(struct live_walk *w, int error, const char *why)
{
	struct volume_op *op = w->op;
	struct volume *v = w->volume;
	char text[ID_TEXT_MAX];

	if (error)
		err_set(&op->err, error, "volume %s: %s", id_format(v->id, "vol", text), why);
	if (w->req.view)
		volume_view_close(w->req.view);
	if (v->check_pin)
		let_go(v);
	v->is_checked = false;
	v->n_walks--;
	mem_free(w->tally);
	mem_free(w);
	op->done(op);
	volume_close_kick(v);
}

void check_in_use(struct volume_op *op)
{
	struct volume *v = op->volume;
	struct live_walk *w;

	if (v->is_checked || v->read_only) {
		volume_op_refuse(op, v->is_checked ? -EBUSY : -EROFS,
				 v->is_checked ? "it is being checked already"
					       : "it is open for reading only");
		return;
	}
	w = mem_alloc(sizeof(*w));
	if (!w) {
		volume_op_refuse(op, -ENOMEM, "no memory for checking it");
		return;
	}
	w->volume = v;
	w->op = op;
	v->is_checked = true;
	v->n_walks++;
	w->turn.done = walk_begin;
	io_defer(v->loop, &w->turn, 0);
}
