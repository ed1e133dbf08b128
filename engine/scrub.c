/* SPDX-License-Identifier: Apache-2.0
 *
 * Scrubbing: everything that lives in a volume is read from disk and held against its checksum,
 * while I/O goes on: root, usage pages, index pages and leaves, also those that are in memory, and
 * blocks, the overlays' included. One piece at a time, no faster than the rate.
 *
 *   WAIT_CHECKPOINT (after it, no record's header is needed for opening) -> NEXT
 *   NEXT -> WAIT_PAGE -> NEXT, or WAIT_CHECKPOINT (it mends root and usage pages)
 *        -> WAIT_LOAD (of the leaf that says where its blocks are) -> NEXT
 *        -> WAIT_DATA -> NEXT
 *        -> REST, then NEXT; at last END
 *
 * A piece that is read is held in its segment, so that the bytes stay what they are; one that was
 * written elsewhere meanwhile is looked at again. So what is called bad is bad, and lives.
 *
 * Pinned roots are not walked: what they share with the volume is, and `volume_check` does the
 * rest.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

#define SCRUB_BLOCKS  64   /* one read: 256 KiB */
#define SCRUB_LOOKUPS 1024 /* in a turn */
#define RATE_DEFAULT  (64 * 1024 * 1024)

enum scrub_state {
	SCRUB_NEXT,
	SCRUB_WAIT_CHECKPOINT,
	SCRUB_WAIT_PAGE,
	SCRUB_WAIT_LOAD,
	SCRUB_WAIT_DATA,
	SCRUB_REST,
};

enum scrub_page { PAGE_ROOT, PAGE_USAGE, PAGE_INDEX, PAGE_LEAF };

struct scrub {
	struct volume *volume;
	struct volume_op *op;
	enum scrub_state state;
	bool stop;
	bool more; /* bad places that the list had no room for, before this pass */
	uint64_t began;
	uint64_t read;    /* bytes */
	uint64_t lba;     /* blocks below it were looked at */
	uint64_t end;     /* of the volume, as it was at the beginning */
	uint32_t roots;   /* how many of root and usage pages were looked at */
	uint32_t mended;  /* of them; once is enough */
	uint64_t indexes; /* blocks below it have their index page looked at */
	uint64_t leaves;
	uint64_t singly;    /* blocks below it are read one by one: all at once gave an error */
	uint64_t load_unit; /* blocks that the page leads to which is being loaded */
	bool page_was_bad;  /* the newest page of the map that was looked at */
	struct checkpoint_wait checkpoint;
	struct leaf_wait wait;
	struct io_op rest;
	bool resting; /* by a timer */

	/* The piece that is being read. */
	struct device_io io;
	struct segment *segment;
	uint8_t *buf;
	size_t buf_size;
	enum scrub_page kind;
	struct blob_ref ref;
	uint32_t skip;
	struct entry entries[SCRUB_BLOCKS];
	uint32_t blocks;
};
_Static_assert(BLOB_BUFFER <= SCRUB_BLOCKS * BLOCK_SIZE, "a page of the map fits into the buffer");

static void scrub_step(struct scrub *s);
static void scrub_end(struct scrub *s, int error);
static void load(struct scrub *s);

/* ---- Pages of the map ---------------------------------------------------------------------------
 */

static bool is_of_map(enum scrub_page kind)
{
	return kind == PAGE_INDEX || kind == PAGE_LEAF;
}

static uint64_t page_unit(enum scrub_page kind)
{
	return kind == PAGE_LEAF ? LEAF_BLOCKS : LEAF_BLOCKS * INDEX_LEAVES;
}

static uint64_t page_number(const struct scrub *s)
{
	return is_of_map(s->kind) ? s->lba / page_unit(s->kind) : s->roots;
}

/* What leads to the page that is to be looked at, now. -EAGAIN: an index page must be loaded. */
static int page_ref(const struct scrub *s, struct blob_ref *ret_ref)
{
	const struct volume *v = s->volume;
	struct map_page *index = NULL;
	uint64_t number = s->lba / LEAF_BLOCKS;
	int r = 0;

	*ret_ref = (struct blob_ref){0};
	switch (s->kind) {
	case PAGE_ROOT:
		*ret_ref = v->sb.root;
		break;
	case PAGE_USAGE:
		*ret_ref = v->segments.pages[s->roots - 1]->ref;
		break;
	case PAGE_INDEX:
		if (number / INDEX_LEAVES < v->map.n_index)
			*ret_ref = v->map.index[number / INDEX_LEAVES];
		break;
	case PAGE_LEAF:
		r = map_index(&s->volume->map, number / INDEX_LEAVES, &index);
		if (r == 0 && index)
			*ret_ref = *map_index_ref(v->engine->map_cache, index,
						  (uint32_t)(number % INDEX_LEAVES));
		break;
	}
	return r;
}

static bool page_is_whole(const struct scrub *s)
{
	struct volume *v = s->volume;
	struct map_scratch *scratch = v->engine->scratch;
	struct usage_entry entries[USAGE_SEGMENTS];
	const struct blob_ref *ref = &s->ref;
	const uint8_t *blob = s->buf + s->skip;
	struct root_content root;

	if (s->io.result < 0)
		return false;
	switch (s->kind) {
	case PAGE_ROOT:
		return root_decode(blob, ref->length, v->id, ref->sum, &root) == 0;
	case PAGE_USAGE:
		return usage_decode(blob, ref->length, v->id, s->roots - 1, ref->sum, entries) == 0;
	case PAGE_INDEX:
		return index_decode(blob, ref->length, v->id, page_number(s), ref->sum,
				    scratch->refs) == 0;
	case PAGE_LEAF:
		return leaf_decode(blob, ref->length, v->id, page_number(s), ref->sum,
				   &scratch->leaf) == 0;
	}
	return false;
}

static void page_done(struct scrub *s)
{
	uint64_t unit = page_unit(s->kind);

	if (!is_of_map(s->kind))
		s->roots++;
	else if (s->kind == PAGE_INDEX)
		s->indexes = round_down(s->lba, unit) + unit;
	else
		s->leaves = round_down(s->lba, unit) + unit;
}

static void page_good(struct scrub *s)
{
	s->page_was_bad = false;
	if (is_of_map(s->kind))
		bad_page_good(s->volume, s->kind == PAGE_LEAF ? MAP_LEAF : MAP_INDEX,
			      page_number(s));
	else
		bad_root_good(s->volume, s->roots);
	page_done(s);
}

static void on_checkpoint(struct checkpoint_wait *wait, int error)
{
	struct scrub *s = container_of(wait, struct scrub, checkpoint);

	(void)error; /* the volume has failed; what can be read is */
	s->state = SCRUB_NEXT;
	scrub_step(s);
}

static void checkpoint(struct scrub *s)
{
	s->state = SCRUB_WAIT_CHECKPOINT;
	s->checkpoint.done = on_checkpoint;
	checkpoint_request(s->volume, &s->checkpoint);
}

static bool can_checkpoint(const struct volume *v)
{
	return !v->read_only && !v->failed && !v->closing;
}

/* Root and usage pages are in memory, and written anew at once: then they are looked at again. */
static void page_bad(struct scrub *s)
{
	struct volume *v = s->volume;

	s->op->n_wrong++;
	s->page_was_bad = true;
	if (is_of_map(s->kind)) {
		bad_page(v, s->kind == PAGE_LEAF ? MAP_LEAF : MAP_INDEX, page_number(s));
		page_done(s);
		return;
	}
	bad_root(v, s->roots);
	if (!can_checkpoint(v) || s->mended > s->roots) {
		page_done(s);
		return;
	}
	s->mended = s->roots + 1;
	if (s->kind == PAGE_USAGE)
		v->segments.pages[s->roots - 1]->dirty = true;
	v->reap_later = true;
	checkpoint(s);
}

static void on_page(struct device_io *io)
{
	struct scrub *s = container_of(io, struct scrub, io);
	struct blob_ref now;

	s->segment->users--;
	s->state = SCRUB_NEXT;
	/* If it was written anew, that one is next. */
	if (page_ref(s, &now) == 0 && memcmp(&now, &s->ref, sizeof(now)) == 0) {
		if (page_is_whole(s))
			page_good(s);
		else
			page_bad(s);
	}
	if (s->state == SCRUB_NEXT)
		scrub_step(s);
}

/* A root may be larger than any other piece. */
static bool make_room(struct scrub *s, size_t len)
{
	uint8_t *buf;

	if (len <= s->buf_size)
		return true;
	buf = mem_alloc_pages(len);
	if (!buf)
		return false;
	mem_free_pages(s->buf, s->buf_size);
	s->buf = buf;
	s->buf_size = len;
	return true;
}

/* False: there is nothing to wait for. */
static bool page_read(struct scrub *s, enum scrub_page kind)
{
	struct volume *v = s->volume;
	uint32_t alignment = v->store->info.alignment;
	uint32_t from;
	uint32_t to;

	s->kind = kind;
	if (page_ref(s, &s->ref) < 0) {
		load(s);
		return true;
	}
	if (s->ref.length == 0 || checkpoint_out_find(v, &s->ref)) { /* on its way to the disk */
		page_done(s);
		return false;
	}
	if (is_of_map(kind) &&
	    !blob_ref_is_possible(v, kind == PAGE_LEAF ? MAP_LEAF : MAP_INDEX, &s->ref)) {
		page_bad(s);
		return false;
	}
	from = (uint32_t)round_down(s->ref.offset, alignment);
	to = (uint32_t)round_up((uint64_t)s->ref.offset + s->ref.length, alignment);
	if (!make_room(s, to - from)) {
		scrub_end(s, -ENOMEM);
		return true;
	}
	s->skip = s->ref.offset - from;
	s->segment = segments_find(v, s->ref.segment);
	CHECK(s->segment);
	s->segment->users++;
	s->read += to - from;
	s->state = SCRUB_WAIT_PAGE;
	s->io.done = on_page;
	device_read(v, &s->io, VOLUME_IO_INSPECTION, s->ref.segment, from, s->buf, to - from);
	return true;
}

static void on_load(struct leaf_wait *wait, int error)
{
	struct scrub *s = container_of(wait, struct scrub, wait);

	if (error) { /* it is listed already; what it leads to can't be found */
		s->op->n_wrong += !s->page_was_bad;
		s->lba = round_down(s->lba, s->load_unit) + s->load_unit;
	}
	/* Not from inside the waking: the next load may begin at once. */
	s->state = SCRUB_REST;
	io_defer(s->volume->loop, &s->rest, 0);
}

static void load(struct scrub *s)
{
	struct map_page *index;
	bool has_index =
	    map_index(&s->volume->map, s->lba / LEAF_BLOCKS / INDEX_LEAVES, &index) == 0;

	s->load_unit = page_unit(has_index ? PAGE_LEAF : PAGE_INDEX);
	s->state = SCRUB_WAIT_LOAD;
	s->wait.wake = on_load;
	leaf_load(s->volume, s->lba / LEAF_BLOCKS, &s->wait);
}

/* ---- Blocks -------------------------------------------------------------------------------------
 */

/* Whether the block is still where it was read. A leaf that is gone from memory: look again. */
static bool is_still_there(const struct scrub *s, uint32_t i)
{
	struct entry now;

	return map_get(s->volume, s->lba + i, &now) == 0 &&
	       memcmp(&now, &s->entries[i], sizeof(now)) == 0;
}

static void on_data(struct device_io *io)
{
	struct scrub *s = container_of(io, struct scrub, io);
	struct volume *v = s->volume;
	uint32_t n = s->blocks;

	s->segment->users--;
	s->state = SCRUB_NEXT;
	if (io->result < 0 && n > 1) {
		s->singly = s->lba + n;
		n = 0;
	}
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *block = s->buf + (size_t)i * BLOCK_SIZE;

		if (!is_still_there(s, i)) {
			n = i;
			break;
		}
		if (io->result >= 0 && block_sum(v->id, s->lba + i, block) == s->entries[i].sum) {
			bad_good(v, s->lba + i, 1);
			continue;
		}
		volume_bad_block(v, s->lba + i,
				 io->result < 0 ? "the store can't read it"
						: "its checksum is wrong");
		s->op->n_wrong++;
	}
	s->lba += n;
	scrub_step(s);
}

/* Reads the blocks from s->lba on that lie one after the other; the first is in entries[0]. */
static void data_read(struct scrub *s)
{
	struct volume *v = s->volume;
	const struct entry *first = &s->entries[0];
	uint64_t end = min_u64(s->end, round_down(s->lba, LEAF_BLOCKS) + LEAF_BLOCKS);
	struct entry *more = &s->entries[1];
	uint32_t n = 1;

	s->segment = segments_find(v, first->segment);
	if (!s->segment ||
	    (uint64_t)first->offset * BLOCK_SECTOR + BLOCK_SIZE > v->store->info.segment_size) {
		volume_bad_block(v, s->lba++, "its map entry leads nowhere");
		s->op->n_wrong++;
		return;
	}
	while (s->lba >= s->singly && n < SCRUB_BLOCKS && s->lba + n < end &&
	       map_get(v, s->lba + n, more) == 0 && more->state == ENTRY_DATA &&
	       more->segment == first->segment &&
	       more->offset == first->offset + n * (BLOCK_SIZE / BLOCK_SECTOR)) {
		n++;
		more++;
	}
	s->blocks = n;
	s->read += (uint64_t)n * BLOCK_SIZE;
	s->segment->users++;
	s->state = SCRUB_WAIT_DATA;
	s->io.done = on_data;
	device_read(v, &s->io, VOLUME_IO_INSPECTION, first->segment, first->offset * BLOCK_SECTOR,
		    s->buf, n * BLOCK_SIZE);
}

/* ---- The walk -----------------------------------------------------------------------------------
 */

static void on_rest(struct io_op *rest)
{
	struct scrub *s = container_of(rest, struct scrub, rest);

	s->resting = false;
	s->state = SCRUB_NEXT;
	scrub_step(s);
}

static void on_begin(struct io_op *rest)
{
	struct scrub *s = container_of(rest, struct scrub, rest);

	s->rest.done = on_rest;
	if (!s->stop && can_checkpoint(s->volume))
		checkpoint(s);
	else
		on_rest(rest);
}

/* True: it has read more than the rate allows by now, and rests. */
static bool rests(struct scrub *s)
{
	uint64_t rate = s->op->rate ? s->op->rate : RATE_DEFAULT;
	uint64_t due = (uint64_t)((double)s->read / (double)rate * (double)NSEC_PER_SEC);
	uint64_t passed = io_now(s->volume->loop) - s->began;

	if (due <= passed) {
		/* What was not used for a while is lost, but for a tenth of a second. */
		if (passed - due > NSEC_PER_SEC / 10)
			s->began += passed - due - NSEC_PER_SEC / 10;
		return false;
	}
	s->state = SCRUB_REST;
	s->resting = true;
	io_timer(s->volume->loop, &s->rest, due - passed);
	return true;
}

/* Looks at what s->lba stands at. False: wait. */
static bool scrub_look(struct scrub *s)
{
	uint64_t n;
	int r;

	if (s->roots < 1 + s->volume->segments.n_pages)
		return !page_read(s, s->roots == 0 ? PAGE_ROOT : PAGE_USAGE);
	if (s->lba >= s->indexes)
		return !page_read(s, PAGE_INDEX);
	if (s->lba >= s->leaves)
		return !page_read(s, PAGE_LEAF);
	r = map_get_run(s->volume, s->lba, s->leaves - s->lba, &s->entries[0], &n);
	if (r < 0) {
		load(s);
		return false;
	}
	if (s->entries[0].state == ENTRY_DATA) {
		data_read(s);
		return s->state == SCRUB_NEXT;
	}
	if (s->entries[0].state == ENTRY_BAD) {
		volume_bad_block(s->volume, s->lba, "known to be lost");
		s->op->n_wrong++;
	}
	s->lba += n;
	return true;
}

static void scrub_step(struct scrub *s)
{
	for (unsigned looked = 0; s->lba < s->end; looked++) {
		if (s->stop) {
			scrub_end(s, -ECANCELED);
			return;
		}
		if (rests(s))
			return;
		if (looked == SCRUB_LOOKUPS) {
			s->state = SCRUB_REST;
			io_defer(s->volume->loop, &s->rest, 0);
			return;
		}
		if (!scrub_look(s))
			return;
	}
	scrub_end(s, 0);
}

static void scrub_end(struct scrub *s, int error)
{
	struct volume *v = s->volume;
	struct volume_op *op = s->op;
	char text[ID_TEXT_MAX];

	bad_end_anew(v, error && s->more);
	if (error)
		err_set(&op->err, error, "volume %s: its scrub was stopped",
			id_format(v->id, "vol", text));
	v->scrub = NULL;
	mem_free_pages(s->buf, s->buf_size);
	mem_free(s);
	op->done(op);
	volume_close_kick(v);
}

void volume_scrub(struct volume_op *op)
{
	struct volume *v = op->volume;
	struct scrub *s;

	op->err.code = 0;
	op->n_wrong = 0;
	if (v->scrub || v->closing) {
		volume_op_refuse(op, v->scrub ? -EBUSY : -ESHUTDOWN,
				 v->scrub ? "it is being scrubbed already" : "it is being closed");
		return;
	}
	s = mem_alloc(sizeof(*s));
	if (s)
		s->buf = mem_alloc_pages(SCRUB_BLOCKS * BLOCK_SIZE);
	if (!s || !s->buf) {
		mem_free(s);
		volume_op_refuse(op, -ENOMEM, "there is no memory for scrubbing it");
		return;
	}
	v->scrub = s;
	s->volume = v;
	s->op = op;
	s->buf_size = SCRUB_BLOCKS * BLOCK_SIZE;
	s->more = bad_begin_anew(v);
	s->began = io_now(v->loop);
	s->end = block_size(&v->dev) / BLOCK_SIZE;
	s->state = SCRUB_REST;
	s->rest.done = on_begin;
	io_defer(v->loop, &s->rest, 0);
}

void volume_scrub_stop(struct volume *v)
{
	struct scrub *s = v->scrub;

	if (s && !s->stop) {
		s->stop = true;
		if (s->resting)
			io_timer_cancel(v->loop, &s->rest);
	}
}

void scrub_stats(const struct volume *v, struct volume_stats *stats)
{
	const struct scrub *s = v->scrub;

	if (!s)
		return;
	stats->scrubbing = true;
	stats->scrub_bytes = min_u64(s->lba, s->end) * BLOCK_SIZE;
	stats->scrub_read = s->read;
	stats->scrub_bad = s->op->n_wrong;
}
