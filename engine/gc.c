/* SPDX-License-Identifier: Apache-2.0
 *
 * Garbage collection. A segment in which little lives is emptied, so that it can be freed:
 *
 *   pick -> read it -> copy what lives to the moved stream -> sync -> MOVE into the log -> next
 *
 * The copies are durable before the log speaks of them. A MOVE counts only where the map still
 * names the old place: it is looked up once more before the MOVE is queued, and from then until it
 * is published no checkpoint begins, so that whatever changes the block meanwhile is in the active
 * overlay, which apply_move asks. The old segment is freed by the reuse rule as any other
 * (segments.c).
 *
 * A loop collects one segment at a time, in small units with rests in between: the more garbage,
 * the shorter. What may be copied is earned by what users write, so that a bulk discard starts no
 * storm; beyond that there is a trickle.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BLOCKS 128 /* copied by one append */
#define UNIT_BYTES  (UNIT_BLOCKS * BLOCK_SIZE)
#define MOVE_BLOCKS 250 /* of one MOVE record */
#define REST_MAX    (25 * NSEC_PER_MSEC)
#define CREDIT_MAX  ((int64_t)(64 * MiB))
#define LOOKS       4096 /* at blocks, before others have their turn */

_Static_assert(RECORD_FIXED + MOVE_BLOCKS * (RUN_BYTES + 4) <= RECORD_HEADER_MAX, "a MOVE fits");

enum gc_state {
	GC_PICK,
	GC_READ,
	GC_WAIT_READ,
	GC_COPY,
	GC_WAIT_APPEND,
	GC_SYNC,
	GC_WAIT_SYNC,
	GC_MOVE,
	GC_WAIT_MOVE,
	GC_END,
};

/* A block of the victim that lived when it was looked at. */
struct gc_block {
	uint64_t lba;
	uint64_t nonce;
	uint32_t from; /* 512-byte units */
	uint32_t sum;
	struct segment *to; /* NULL: not copied, or dropped */
	uint32_t to_offset; /* 512-byte units */
};

struct gc {
	struct engine *engine;
	struct volume *volume; /* whose victim it is; NULL in GC_PICK */
	struct segment *victim;
	struct gc_view view; /* as it was when the victim was picked */
	enum gc_state state;
	uint8_t *buf; /* the victim */
	uint32_t at;  /* of it is read */
	struct gc_block *blocks;
	uint32_t n_blocks;
	uint32_t next;    /* block to look at */
	uint32_t moved;   /* blocks below it are in a MOVE or dropped */
	uint64_t started; /* io_now: of the unit */
	bool unpaid;      /* a unit was moved since the last rest */
	bool wants_space; /* a segment for copies */
	bool resting;     /* `turn` is under way */
	bool by_timer;    /* a timer that nobody has cancelled */
	bool broken;      /* something failed: leave the victim */
	bool whole;       /* its records were found, one after the other to its end */

	/* The unit that is being filled or written. */
	struct record_header h;
	struct run runs[UNIT_BLOCKS];
	uint32_t sums[UNIT_BLOCKS];
	uint32_t unit[UNIT_BLOCKS]; /* indexes of blocks */
	struct iovec iov[UNIT_BLOCKS + 1];
	uint32_t n_iov;
	struct store_io io;
	struct leaf_wait wait;
	struct io_op turn;
	uint8_t header[RECORD_HEADER_MAX] __attribute__((aligned(4096)));
};

static void gc_step(struct gc *g);
static bool gc_pick(struct gc *g);
static int gc_read(struct gc *g);
static void gc_parse(struct gc *g);
static int gc_copy(struct gc *g);
static int gc_append(struct gc *g);
static int gc_sync(struct gc *g);
static int gc_move(struct gc *g);
static void gc_leave(struct gc *g);

/* ---- The machine --------------------------------------------------------------------------------
 */

static struct gc *gc_new(struct engine *e)
{
	uint32_t size = e->store->info.segment_size;
	struct gc *g = mem_alloc_pages(sizeof(*g));

	if (!g)
		return NULL;
	g->engine = e;
	g->buf = mem_alloc_pages(size);
	g->blocks = mem_calloc(size / BLOCK_SIZE, sizeof(g->blocks[0]));
	list_init(&g->wait.link);
	e->gc = g;
	if (!g->buf || !g->blocks)
		gc_free(e);
	return e->gc;
}

void gc_free(struct engine *e)
{
	struct gc *g = e->gc;

	if (!g)
		return;
	mem_free_pages(g->buf, e->store->info.segment_size);
	mem_free(g->blocks);
	mem_free_pages(g, sizeof(*g));
	e->gc = NULL;
}

static void on_turn(struct io_op *op)
{
	struct gc *g = container_of(op, struct gc, turn);

	g->resting = g->by_timer = false;
	gc_step(g);
}

static void gc_rest(struct gc *g, uint64_t delay)
{
	CHECK(!g->resting);
	g->resting = true;
	g->turn.done = on_turn;
	g->by_timer = delay > 0;
	if (delay)
		io_timer(g->engine->loop, &g->turn, delay);
	else
		io_defer(g->engine->loop, &g->turn, 0);
}

void gc_consider(struct volume *v)
{
	struct engine *e = v->engine;
	struct gc_view view;

	if (v->read_only || v->failed || v->closing || !list_empty(&v->gc_queue) ||
	    gc_is_at_work(v))
		return;
	gc_look(v, &view);
	if (gc_urgency(v, &view) == 0)
		return;
	list_add_tail(&e->gc_queue, &v->gc_queue);
	if (e->gc)
		return;
	if (gc_new(e))
		gc_rest(e->gc, 0);
	else
		list_remove(&v->gc_queue); /* no memory: the next checkpoint asks again */
}

bool gc_is_at_work(const struct volume *v)
{
	return v->engine->gc && v->engine->gc->volume == v;
}

void gc_kick(struct volume *v)
{
	struct gc *g = v->engine->gc;

	if (v->closing)
		list_remove(&v->gc_queue);
	if (!g || g->volume != v)
		return;
	if (g->wants_space && !g->resting) {
		g->wants_space = false;
		gc_rest(g, 0);
	} else if (v->closing && g->by_timer) {
		g->by_timer = false;
		io_timer_cancel(g->engine->loop, &g->turn);
	}
}

/* The rest that is due after a unit; 0: none. */
static uint64_t rest_due(struct gc *g)
{
	struct volume *v = g->volume;
	uint64_t much;

	if (!g->unpaid)
		return 0;
	g->unpaid = false;
	much = max_u64(gc_urgency(v, &g->view), 1);
	if (v->gc_credit <= 0 && !segments_out_of_space(v, STORE_STREAM_USER))
		return REST_MAX;
	return REST_MAX * (1000 - much) / 1000;
}

/* Each step's answer: 0: go on; 1: asleep, and whoever wakes it calls gc_step. */
static void gc_step(struct gc *g)
{
	int r = 0;

	while (r == 0) {
		struct volume *v = g->volume;
		uint64_t rest;

		if (v && (v->closing || v->failed || g->broken))
			g->state = GC_END;
		rest = v && g->state != GC_END ? rest_due(g) : 0;
		if (rest > 0) {
			gc_rest(g, rest);
			return;
		}
		switch (g->state) {
		case GC_PICK:
			if (!gc_pick(g)) {
				gc_free(g->engine);
				return;
			}
			break;
		case GC_READ:
			r = gc_read(g);
			break;
		case GC_COPY:
			r = gc_copy(g);
			break;
		case GC_SYNC:
			r = gc_sync(g);
			break;
		case GC_MOVE:
			r = gc_move(g);
			break;
		case GC_END:
			gc_leave(g);
			break;
		case GC_WAIT_READ:
		case GC_WAIT_APPEND:
		case GC_WAIT_SYNC:
		case GC_WAIT_MOVE:
			CHECK(false);
		}
	}
}

/* The next volume's next victim; false: there is none. */
static bool gc_pick(struct gc *g)
{
	struct list *node;

	while ((node = list_pop(&g->engine->gc_queue))) {
		struct volume *v = list_entry(node, struct volume, gc_queue);

		if (v->closing || v->failed)
			continue;
		gc_look(v, &g->view);
		if (gc_urgency(v, &g->view) == 0)
			continue;
		g->volume = v;
		g->victim = g->view.best;
		g->victim->users++;
		g->at = 0;
		g->n_blocks = g->next = g->moved = 0;
		g->n_iov = 0;
		g->broken = false;
		if (v->gc_credit > CREDIT_MAX)
			v->gc_credit = CREDIT_MAX;
		g->state = GC_READ;
		return true;
	}
	return false;
}

/* The victim is done with, or left. */
static void gc_leave(struct gc *g)
{
	struct volume *v = g->volume;

	for (uint32_t i = 0; i < g->n_blocks; i++)
		if (g->blocks[i].to)
			g->blocks[i].to->pending--;
	g->n_blocks = 0;
	g->victim->users--;
	g->victim = NULL;
	g->volume = NULL;
	g->wants_space = false;
	g->unpaid = false;
	g->state = GC_PICK;
	if (v->moving) {
		v->moving = false;
		checkpoint_resume(v);
	}
	v->reap_later |= g->moved > 0;
	checkpoint_idle_arm(v);
	if (segments_out_of_space(v, STORE_STREAM_USER))
		checkpoint_for_space(v);
	if (!g->broken)
		gc_consider(v);
	volume_close_kick(v);
}

/* ---- Reading the victim, and what is in it ------------------------------------------------------
 */

static void on_read(struct store_io *io)
{
	struct gc *g = container_of(io, struct gc, io);
	uint32_t len = (uint32_t)min_u64(UNIT_BYTES, g->victim->tail - g->at);

	/* What can't be read stays where it is: nothing below takes zeroes for data. */
	if (io->result < 0)
		memset(g->buf + g->at, 0, len);
	g->at += len;
	g->state = GC_READ;
	gc_step(g);
}

static int gc_read(struct gc *g)
{
	struct volume *v = g->volume;
	uint32_t len = (uint32_t)min_u64(UNIT_BYTES, g->victim->tail - g->at);

	if (len == 0) {
		gc_parse(g);
		g->state = GC_COPY;
		return 0;
	}
	g->state = GC_WAIT_READ;
	g->io.done = on_read;
	store_read(v->store, v->loop, &g->io, g->victim->id, g->at, g->buf + g->at,
		   (uint32_t)round_up(len, v->store->info.alignment));
	return 1;
}

static void parse_record(struct gc *g, uint32_t at, const struct record_header *h)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < h->n_runs; i++) {
		struct run run;

		record_run(g->buf + at, i, &run);
		if (run.type == RUN_MOVE)
			sum += (uint32_t)run.blocks;
		for (uint32_t b = 0; run_has_payload(&run) && b < run.blocks; b++) {
			if (g->n_blocks == g->engine->store->info.segment_size / BLOCK_SIZE)
				return;
			g->blocks[g->n_blocks++] = (struct gc_block){
			    .lba = run.lba + b,
			    .nonce = run.nonce,
			    .from = (at + h->header_length) / BLOCK_SECTOR + run.payload_offset +
				    b * (BLOCK_SIZE / BLOCK_SECTOR),
			    .sum = record_sum(g->buf + at, h->n_runs, sum++),
			};
		}
	}
}

static int by_lba(const void *a, const void *b)
{
	const struct gc_block *x = a;
	const struct gc_block *y = b;

	return x->lba < y->lba ? -1 : x->lba > y->lba;
}

/* Records stand one after the other; after a damaged header the next one is looked for. */
static void gc_parse(struct gc *g)
{
	const struct segment *seg = g->victim;
	uint32_t at = 0;

	g->whole = true;
	while (at + RECORD_FIXED <= seg->tail) {
		struct record_header h;

		if (record_decode(g->buf + at, seg->tail - at, g->volume->id, &h) == 0 &&
		    h.segment == seg->id && h.offset == at && h.generation == seg->generation &&
		    h.header_length + h.payload_length <= seg->tail - at) {
			parse_record(g, at, &h);
			at += h.header_length + h.payload_length;
		} else {
			at += g->engine->store->info.alignment;
			g->whole = false;
		}
	}
	qsort(g->blocks, g->n_blocks, sizeof(g->blocks[0]), by_lba);
}

/* ---- Copying ------------------------------------------------------------------------------------
 */

static void on_leaf(struct leaf_wait *wait, int error)
{
	struct gc *g = container_of(wait, struct gc, wait);

	if (error) /* who knows what else lives there: the next open may try again */
		g->broken = g->victim->moved_out = g->victim->stuck = true;
	gc_rest(g, 0); /* not from inside the waking: the next leaf may be loaded at once */
}

/* Whether the map names this place for the block: 1, 0; -EAGAIN: asleep until its leaf is there. */
static int is_live(struct gc *g, const struct gc_block *b)
{
	struct volume *v = g->volume;
	int r = confirm_is_live(v, g->victim, b->lba, b->from);

	if (r == -EAGAIN) {
		g->wait.wake = on_leaf;
		leaf_load(v, b->lba / LEAF_BLOCKS, &g->wait);
	}
	return r;
}

static void unit_add(struct gc *g, uint32_t i)
{
	struct gc_block *b = &g->blocks[i];
	uint8_t *p = g->buf + (size_t)b->from * BLOCK_SECTOR;
	struct run *run = g->h.n_runs ? &g->runs[g->h.n_runs - 1] : NULL;
	struct iovec *last = &g->iov[g->n_iov - 1];

	if (!run || run->nonce != b->nonce || run->lba + run->blocks != b->lba) {
		run = &g->runs[g->h.n_runs++];
		*run = (struct run){.lba = b->lba,
				    .type = RUN_WRITE,
				    .flags = RUN_MUST_UNDERSTAND,
				    .payload_offset = g->h.n_sums * (BLOCK_SIZE / BLOCK_SECTOR),
				    .nonce = b->nonce};
	}
	run->blocks++;
	run->stored += BLOCK_SIZE / BLOCK_SECTOR;
	if (g->n_iov > 1 && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += BLOCK_SIZE;
	else
		g->iov[g->n_iov++] = (struct iovec){.iov_base = p, .iov_len = BLOCK_SIZE};
	g->sums[g->h.n_sums] = b->sum;
	g->unit[g->h.n_sums++] = i;
}

static void unit_begin(struct gc *g)
{
	g->h.n_runs = 0;
	g->h.n_sums = 0;
	g->n_iov = 1;
}

static void block_is_bad(struct gc *g, const struct gc_block *b)
{
	g->victim->stuck = true;
	volume_bad_block(g->volume, b->lba, "its checksum is wrong");
}

/* Fills a unit with what lives, and writes it. */
static int gc_copy(struct gc *g)
{
	if (g->n_iov == 0)
		unit_begin(g);
	for (uint32_t looks = 0; g->next < g->n_blocks && g->h.n_sums < UNIT_BLOCKS; g->next++) {
		struct gc_block *b = &g->blocks[g->next];
		int r;

		if (++looks > LOOKS) {
			gc_rest(g, 0);
			return 1;
		}
		r = is_live(g, b);
		if (r < 0)
			return 1;
		if (r == 0)
			continue;
		/* A bad block stays: never a fresh place for bad bytes. */
		if (block_sum(g->volume->id, b->lba, g->buf + (size_t)b->from * BLOCK_SECTOR) !=
		    b->sum)
			block_is_bad(g, b);
		else
			unit_add(g, g->next);
	}
	if (g->h.n_sums > 0)
		return gc_append(g);
	g->state = GC_SYNC;
	return 0;
}

/* The head of the moved stream, with room for so much; NULL: asleep until there is one. */
static struct segment *moved_head(struct gc *g, uint32_t bytes)
{
	struct volume *v = g->volume;

	if (v->moved_head && v->moved_head->tail + bytes > v->store->info.segment_size) {
		v->moved_head->state = SEGMENT_CLOSED;
		segments_mark_dirty(v, v->moved_head);
		v->moved_head = NULL;
	}
	if (!v->moved_head)
		v->moved_head = segments_take(v, STORE_STREAM_MOVED);
	if (!v->moved_head)
		g->wants_space = true;
	return v->moved_head;
}

static void unit_place(struct gc *g, struct segment *head)
{
	uint32_t start = (head->tail + g->h.header_length) / BLOCK_SECTOR;

	for (uint32_t i = 0; i < g->h.n_sums; i++) {
		struct gc_block *b = &g->blocks[g->unit[i]];

		b->to = head;
		b->to_offset = start + i * (BLOCK_SIZE / BLOCK_SECTOR);
	}
	head->pending += g->h.n_sums;
}

static void on_append(struct store_io *io)
{
	struct gc *g = container_of(io, struct gc, io);
	struct volume *v = g->volume;
	struct segment *head = v->moved_head;

	head->users--;
	if (io->result < 0) { /* what was copied here is left, the head with it */
		head->state = SEGMENT_CLOSED;
		v->moved_head = NULL;
		g->broken = true;
	}
	unit_begin(g);
	g->unpaid = true;
	g->state = GC_COPY;
	gc_step(g);
}

static int gc_append(struct gc *g)
{
	struct volume *v = g->volume;
	struct record_header *h = &g->h;
	uint32_t header =
	    (uint32_t)round_up(record_header_bytes(h->n_runs, h->n_sums), v->store->info.alignment);
	uint32_t bytes = header + h->n_sums * BLOCK_SIZE;
	struct segment *head = moved_head(g, bytes);

	if (!head)
		return 1;
	*h = (struct record_header){.volume = v->id,
				    .incarnation = v->incarnation,
				    .generation = head->generation,
				    .segment = head->id,
				    .offset = head->tail,
				    .header_length = header,
				    .payload_length = h->n_sums * BLOCK_SIZE,
				    .n_runs = h->n_runs,
				    .n_sums = h->n_sums,
				    .owner_term = v->store->info.owner_term};
	record_encode(g->header, h, g->runs, g->sums);
	g->iov[0] = (struct iovec){.iov_base = g->header, .iov_len = header};
	unit_place(g, head);
	g->state = GC_WAIT_APPEND;
	g->io.done = on_append;
	head->users++;
	v->stats.moved_bytes += bytes;
	v->gc_credit -= bytes;
	store_append(v->store, v->loop, &g->io, head->id, head->tail, g->iov, (int)g->n_iov);
	head->tail += bytes;
	segments_mark_dirty(v, head);
	return 1;
}

static void on_sync(struct store_io *io)
{
	struct gc *g = container_of(io, struct gc, io);

	if (io->result < 0)
		g->broken = true;
	g->state = GC_MOVE;
	gc_step(g);
}

static int gc_sync(struct gc *g)
{
	struct volume *v = g->volume;

	g->next = 0;
	g->state = GC_WAIT_SYNC;
	g->io.done = on_sync;
	v->stats.syncs++;
	store_sync(v->store, v->loop, &g->io);
	return 1;
}

/* ---- Saying so in the log -----------------------------------------------------------------------
 */

static void drop(struct gc_block *b)
{
	b->to->pending--;
	b->to = NULL;
}

/* Gathers [moved, next) for a MOVE: what lives still. The rest is dropped. */
static int gc_gather(struct gc *g, uint32_t *ret_n)
{
	*ret_n = 0;
	for (uint32_t i = g->moved; i < g->next; i++)
		*ret_n += g->blocks[i].to != NULL;
	for (uint32_t looks = 0; g->next < g->n_blocks && *ret_n < MOVE_BLOCKS; g->next++) {
		struct gc_block *b = &g->blocks[g->next];
		int r;

		if (!b->to)
			continue;
		if (++looks > LOOKS) {
			gc_rest(g, 0);
			return 1;
		}
		r = is_live(g, b);
		if (r < 0)
			return 1;
		if (r == 0)
			drop(b);
		else
			++*ret_n;
	}
	return 0;
}

static int gc_move(struct gc *g)
{
	struct volume *v = g->volume;
	struct op *op;
	uint32_t n;

	if (v->n_cutting > 0) { /* look behind the cut, not before it */
		gc_rest(g, NSEC_PER_MSEC);
		return 1;
	}
	v->moving = true;
	if (gc_gather(g, &n))
		return 1;
	if (n == 0) {
		g->victim->moved_out = true;
		g->victim->confirmed = g->whole && !g->victim->stuck;
		g->state = GC_END;
		return 0;
	}
	op = op_get(v, OP_MOVE);
	if (!op) {
		gc_rest(g, NSEC_PER_MSEC);
		return 1;
	}
	op->gc = g;
	g->state = GC_WAIT_MOVE;
	/* Ahead of writes, which may wait for the space that this makes. */
	list_add_head(&v->write_queue, &op->link);
	volume_kick(v);
	return 1;
}

bool gc_retract(struct volume *v)
{
	struct gc *g = v->engine->gc;

	list_for_each_safe (&v->write_queue, node) {
		struct op *op = list_entry(node, struct op, link);

		if (op->kind != OP_MOVE)
			continue;
		list_remove(&op->link);
		pool_put(v->engine->ops, op);
		g->next = g->moved;
		v->moving = false;
		g->state = GC_MOVE;
		gc_rest(g, NSEC_PER_MSEC);
		return true;
	}
	return false;
}

void gc_bar(struct volume *v)
{
	struct gc *g = v->engine->gc;

	if (v->moving && !gc_retract(v) && g->state == GC_MOVE)
		g->next = g->moved; /* it is being looked up, and asleep */
}

void gc_on_moved(struct gc *g, int error)
{
	struct volume *v = g->volume;

	if (error)
		g->broken = true;
	for (; g->moved < g->next; g->moved++)
		if (g->blocks[g->moved].to)
			drop(&g->blocks[g->moved]);
	v->moving = false;
	checkpoint_resume(v);
	g->state = GC_MOVE;
	gc_rest(g, 0);
}

/* Whether b goes on where the run ends, in all three places. */
static bool run_goes_on(const struct run *run, const struct gc_block *b)
{
	uint32_t sectors = (uint32_t)run->blocks * (BLOCK_SIZE / BLOCK_SECTOR);

	return run->lba + run->blocks == b->lba && run->stored + sectors == b->from &&
	       run->argument == b->to->id && run->payload_offset + sectors == b->to_offset;
}

static struct run run_of(const struct gc *g, const struct gc_block *b)
{
	return (struct run){.lba = b->lba,
			    .blocks = 1,
			    .type = RUN_MOVE,
			    .flags = RUN_MUST_UNDERSTAND,
			    .payload_offset = b->to_offset,
			    .stored = b->from,
			    .nonce = g->victim->id,
			    .argument = b->to->id};
}

/* Walks the runs of [moved, next); `runs` and `sums` may be NULL: only counted. */
static uint32_t move_walk(const struct gc *g, struct run *runs, uint32_t *sums, uint32_t *ret_sums)
{
	struct run run = {0};
	uint32_t n_runs = 0;

	*ret_sums = 0;
	for (uint32_t i = g->moved; i < g->next; i++) {
		const struct gc_block *b = &g->blocks[i];

		if (!b->to)
			continue;
		if (n_runs > 0 && run_goes_on(&run, b)) {
			run.blocks++;
		} else {
			run = run_of(g, b);
			n_runs++;
		}
		if (runs)
			runs[n_runs - 1] = run;
		if (sums)
			sums[*ret_sums] = b->sum;
		++*ret_sums;
	}
	return n_runs;
}

uint32_t gc_move_size(const struct gc *g, uint32_t *ret_sums)
{
	return move_walk(g, NULL, NULL, ret_sums);
}

void gc_move_fill(const struct gc *g, struct run *runs, uint32_t *sums)
{
	uint32_t n;

	move_walk(g, runs, sums, &n);
}
