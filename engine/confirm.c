/* SPDX-License-Identifier: Apache-2.0
 *
 * The last look before a segment is given back. Its counters say that nothing in it lives; here its
 * own records (its directory) say what was put into it, and the map is asked of each block and each
 * page whether it is still there. If one is, the counters have drifted: the segment stays for good,
 * is counted and told, and the volume is impaired.
 *
 * It reads, and writes nothing: it needs no space, and waits for nobody who waits for space. One
 * segment at a time and one read at a time, headers only, beside all I/O. Pages of the map that are
 * not in memory are loaded up to LOADS_MAX a segment; of blocks in others, and where a record or a
 * page can't be read, the counters' word stands.
 *
 * At most one segment in CONFIRM_REST is looked at: a log that goes round fast would be read back
 * whole otherwise, which cost a third of its rate. The others go by the counters' word.
 *
 * What garbage collection has emptied it has asked the map of already, block by block (gc.c).
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>

#define GLANCE       RECORD_HEADER_MAX      /* read at a time where records are large */
#define WINDOW       ((uint32_t)128 * 1024) /* where they are small */
#define LOADS_MAX    64
#define LOOKS        2048 /* at blocks, before others have their turn */
#define AT_CLOSING   64   /* segments that a closing volume waits for */
#define CONFIRM_REST (100 * NSEC_PER_MSEC)

struct confirm {
	struct engine *engine;
	struct list queue; /* volumes with condemned segments */
	uint64_t rest_until;
	struct volume *volume;   /* whose segment it is; NULL: idle, or `turn` is under way */
	struct segment *segment; /* NULL: the next is to be found */
	bool turning;
	uint32_t at;   /* in the segment: the header to look at */
	uint32_t from; /* in the segment: of what was read, */
	uint32_t have; /* so much */
	bool small;    /* the newest record or page was */
	bool inside;   /* the record `h` at `at` */
	uint32_t run;  /* of it, */
	uint32_t next; /* block of the run */
	uint32_t loads;
	uint32_t looks;
	uint32_t released; /* since the last free */
	struct record_header h;
	struct leaf_wait wait;
	struct device_io io;
	struct io_op turn;
	uint8_t *buf; /* WINDOW */
};

static void confirm_step(struct confirm *c);

int confirm_new(struct engine *e)
{
	struct confirm *c = mem_alloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->engine = e;
	list_init(&c->queue);
	list_init(&c->wait.link);
	e->confirm = c;
	c->buf = mem_alloc_pages(WINDOW);
	return c->buf ? 0 : -ENOMEM;
}

void confirm_free(struct engine *e)
{
	if (!e->confirm)
		return;
	mem_free_pages(e->confirm->buf, WINDOW);
	mem_free(e->confirm);
	e->confirm = NULL;
}

int confirm_is_live(struct volume *v, const struct segment *seg, uint64_t lba, uint32_t offset)
{
	struct entry e;

	if (lba >= block_size(&v->dev) / BLOCK_SIZE)
		return 0;
	if (map_get(v, lba, &e) == -EAGAIN)
		return -EAGAIN;
	return e.state == ENTRY_DATA && e.segment == seg->id && e.offset == offset;
}

bool confirm_is_at_rest(const struct volume *v)
{
	return v->engine->confirm->volume != v && list_empty(&v->confirm_queue);
}

/* ---- Turns --------------------------------------------------------------------------------------
 */

static void on_turn(struct io_op *op)
{
	struct confirm *c = container_of(op, struct confirm, turn);

	c->turning = false;
	c->looks = 0;
	confirm_step(c);
}

static void yield(struct confirm *c)
{
	if (c->turning)
		return;
	c->turning = true;
	c->turn.done = on_turn;
	io_defer(c->engine->loop, &c->turn, 0);
}

void confirm_condemn(struct volume *v, struct segment *seg)
{
	struct confirm *c = v->engine->confirm;
	uint64_t rest = v->engine->config.confirm_rest_ns;
	uint64_t now = io_now(v->loop);

	if (seg->confirmed || now < c->rest_until) {
		segments_release(v, seg);
		return;
	}
	c->rest_until = now + (rest ? rest : CONFIRM_REST) - 1;
	seg->condemned = true;
	v->segments.n_condemned++;
	if (list_empty(&v->confirm_queue) && c->volume != v)
		list_add_tail(&c->queue, &v->confirm_queue);
	if (!c->volume)
		yield(c);
}

/* ---- From segment to segment --------------------------------------------------------------------
 */

static struct segment *next_condemned(struct volume *v)
{
	uint32_t n = v->segments.n_pages * USAGE_SEGMENTS;

	for (uint32_t i = 0; v->segments.n_condemned > 0 && i < n; i++) {
		uint32_t slot = (v->segments.condemned_from + i) % n;

		if (segments_at(v, slot)->condemned) {
			v->segments.condemned_from = slot;
			return segments_at(v, slot);
		}
	}
	return NULL;
}

static bool may_go_on(const struct volume *v)
{
	return !v->failed && (!v->closing || v->confirmed_closing < AT_CLOSING);
}

/* The volume whose turn it is; each has one segment at a time. False: there is none. */
static bool begin_next(struct confirm *c)
{
	struct list *node;

	while ((node = list_pop(&c->queue))) {
		struct volume *v = list_entry(node, struct volume, confirm_queue);
		struct segment *seg = may_go_on(v) ? next_condemned(v) : NULL;

		if (!seg) {
			segments_free_kick(v);
			volume_close_kick(v);
			continue;
		}
		c->volume = v;
		c->segment = seg;
		seg->users++;
		c->at = c->from = c->have = 0;
		c->loads = 0;
		c->small = c->inside = false;
		v->confirmed_closing += v->closing;
		return true;
	}
	return false;
}

static void doubt(struct volume *v, struct segment *seg, uint64_t lba)
{
	const struct engine_config *config = &v->engine->config;

	seg->doubtful = true;
	v->stats.doubtful++;
	if (v->stats.health == VOLUME_OK)
		v->stats.health = VOLUME_IMPAIRED;
	if (config->doubtful)
		config->doubtful(config->bad_block_arg, v->id, seg->id, lba);
}

/* Done with the segment; `live`: not to be freed. */
static void end_segment(struct confirm *c, bool live, uint64_t lba)
{
	struct volume *v = c->volume;
	struct segment *seg = c->segment;

	c->segment = NULL;
	c->volume = NULL;
	seg->users--;
	seg->condemned = false;
	v->segments.n_condemned--;
	if (live)
		doubt(v, seg, lba);
	else if (seg->users == 0)
		segments_release(v, seg);
	else
		v->reap_later = true;
	if (++c->released % STORE_LEND_MAX == 0 || v->segments.n_condemned == 0 ||
	    segments_out_of_space(v, STORE_STREAM_USER))
		segments_free_kick(v);
	if (v->segments.n_condemned > 0)
		list_add_tail(&c->queue, &v->confirm_queue);
	volume_close_kick(v);
}

/* The volume stops: its segments stay as they are, for the next open. */
static void give_up(struct confirm *c)
{
	struct volume *v = c->volume;

	c->segment->users--;
	c->segment = NULL;
	c->volume = NULL;
	segments_free_kick(v);
	volume_close_kick(v);
}

/* ---- Within a segment ---------------------------------------------------------------------------
 */

static void on_read(struct device_io *io)
{
	struct confirm *c = container_of(io, struct confirm, io);

	if (io->result < 0) { /* not there: the counters' word stands */
		c->at = c->from + c->have;
		c->have = 0;
	}
	confirm_step(c);
}

static void read_on(struct confirm *c, uint32_t len)
{
	struct volume *v = c->volume;
	uint32_t alignment = v->store->info.alignment;

	c->from = (uint32_t)round_down(c->at, alignment);
	c->have = (uint32_t)min_u64(len, v->store->info.segment_size - c->from);
	c->io.done = on_read;
	device_read(v, &c->io, VOLUME_IO_GC, c->segment->id, c->from, c->buf, c->have);
}

static void on_page(struct leaf_wait *wait, int error)
{
	struct confirm *c = container_of(wait, struct confirm, wait);

	if (error)
		c->loads = LOADS_MAX; /* the next look passes by what is not in memory */
	yield(c);
}

/* 0: asleep until the page is there; 1: it does without. */
static int load(struct confirm *c, uint64_t leaf)
{
	if (c->loads == LOADS_MAX)
		return 1;
	c->loads++;
	c->wait.wake = on_page;
	leaf_load(c->volume, leaf, &c->wait);
	return 0;
}

static uint32_t segment_end(const struct confirm *c)
{
	return (uint32_t)min_u64(c->segment->tail, c->volume->store->info.segment_size);
}

/* The next header is in the segment but not among what was read. True: reading, asleep. */
static bool header_is_missing(struct confirm *c, uint32_t bytes)
{
	if (c->at >= c->from && c->at + bytes <= c->from + c->have)
		return false;
	read_on(c, c->small ? WINDOW : GLANCE);
	return true;
}

/* What a look at one thing came to. */
enum look { LOOK_ON, LOOK_ASLEEP, LOOK_DEAD, LOOK_LIVE };

/* The blocks of the record that was decoded. */
static enum look look_inside(struct confirm *c, uint64_t *ret_lba)
{
	const uint8_t *header = c->buf + (c->at - c->from);

	for (; c->run < c->h.n_runs; c->run++, c->next = 0) {
		struct run run;

		record_run(header, c->run, &run);
		if (!run_has_payload(&run))
			continue;
		for (; c->next < run.blocks; c->next++) {
			uint64_t lba = run.lba + c->next;
			uint32_t offset = (c->at + c->h.header_length) / BLOCK_SECTOR +
					  run.payload_offset +
					  c->next * (BLOCK_SIZE / BLOCK_SECTOR);
			int r;

			if (++c->looks > LOOKS) {
				yield(c);
				return LOOK_ASLEEP;
			}
			r = confirm_is_live(c->volume, c->segment, lba, offset);
			if (r < 0 && load(c, lba / LEAF_BLOCKS) == 0)
				return LOOK_ASLEEP;
			if (r == 1) {
				*ret_lba = lba;
				return LOOK_LIVE;
			}
		}
	}
	c->inside = false;
	c->at += c->h.header_length + c->h.payload_length;
	return LOOK_ON;
}

static enum look look_at_record(struct confirm *c, uint64_t *ret_lba)
{
	const struct segment *seg = c->segment;
	uint32_t at_hand;
	int r;

	if (c->inside)
		return look_inside(c, ret_lba);
	if (c->at + RECORD_FIXED > segment_end(c))
		return LOOK_DEAD;
	if (header_is_missing(c, RECORD_FIXED))
		return LOOK_ASLEEP;
	at_hand = c->from + c->have - c->at;
	r = record_decode(c->buf + (c->at - c->from), at_hand, c->volume->id, &c->h);
	if (r == -ENODATA && c->from < c->at && c->at % c->volume->store->info.alignment == 0) {
		read_on(c, c->small ? WINDOW : GLANCE);
		return LOOK_ASLEEP;
	}
	if (r < 0 || c->h.segment != seg->id || c->h.offset != c->at ||
	    c->h.generation != seg->generation) {
		c->at += c->volume->store->info.alignment;
		return LOOK_ON;
	}
	c->small = c->h.payload_length < WINDOW / 4;
	c->inside = true;
	c->run = c->next = 0;
	return LOOK_ON;
}

static bool is_at(const struct blob_ref *ref, const struct confirm *c)
{
	return ref->length && ref->segment == c->segment->id && ref->offset == c->at;
}

/* 1, 0; -EAGAIN: the index page that knows is not in memory. */
static int blob_is_live(struct confirm *c, uint64_t magic, uint64_t number)
{
	struct volume *v = c->volume;
	struct map_page *page;

	switch (magic) {
	case MAGIC_LEAF:
		if (map_index(&v->map, number / INDEX_LEAVES, &page) < 0)
			return -EAGAIN;
		return page &&
		       is_at(map_index_ref(v->engine->map_cache, page, number % INDEX_LEAVES), c);
	case MAGIC_INDEX:
		return number < v->map.n_index && is_at(&v->map.index[number], c);
	case MAGIC_USAGE:
		return number < v->segments.n_pages && is_at(&v->segments.pages[number]->ref, c);
	default:
		return is_at(&v->sb.root, c);
	}
}

static enum look look_at_blob(struct confirm *c, uint64_t *ret_lba)
{
	uint64_t magic;
	uint64_t number;
	uint32_t length;

	if (c->at + BLOB_HEAD > segment_end(c))
		return LOOK_DEAD;
	if (header_is_missing(c, BLOB_HEAD))
		return LOOK_ASLEEP;
	if (!blob_peek(c->buf + (c->at - c->from), c->volume->id, &magic, &number, &length)) {
		c->at += BLOB_ALIGN;
	} else {
		int r = blob_is_live(c, magic, number);

		if (r < 0 && load(c, number) == 0)
			return LOOK_ASLEEP;
		*ret_lba = number * LEAF_BLOCKS;
		if (r == 1)
			return LOOK_LIVE;
		c->small = length < WINDOW / 4;
		c->at += (uint32_t)round_up(length, BLOB_ALIGN);
	}
	return LOOK_ON;
}

static void confirm_step(struct confirm *c)
{
	for (;;) {
		uint64_t lba = 0;
		enum look look;

		if (!c->segment && !begin_next(c))
			return;
		if (c->volume->failed) {
			give_up(c);
			continue;
		}
		if (++c->looks > LOOKS) {
			yield(c);
			return;
		}
		look = c->segment->stream == STORE_STREAM_MAP ? look_at_blob(c, &lba)
							      : look_at_record(c, &lba);
		switch (look) {
		case LOOK_ON:
			break;
		case LOOK_ASLEEP:
			return;
		case LOOK_DEAD:
		case LOOK_LIVE:
			end_segment(c, look == LOOK_LIVE, lba);
			break;
		}
	}
}
