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
 * A loop collects one segment at a time, in small units with rests in between: the more garbage and
 * the less space, the shorter. What may be copied is earned by what users write, so that a bulk
 * discard starts no storm; beyond that there is a trickle. Where so little space is left that users
 * would soon have to wait for a segment, they log only as much as each unit makes free: many short
 * waits, and not a long one. gc_pick.c says when.
 */
#include "engine/gc.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES (UNIT_BLOCKS * BLOCK_SIZE)
#define UNIT_LEAST 16 /* blocks: less is not worth a header at the end of a segment */
#define REST_MAX   (25 * NSEC_PER_MSEC)
#define CREDIT_MAX ((int64_t)(64 * MiB))
#define PACE_MAX   ((int64_t)(2 * MiB))

static void gc_step(struct gc *g);
static bool gc_pick(struct gc *g);
static int gc_read(struct gc *g);
static void gc_parse(struct gc *g);
static int gc_copy(struct gc *g);
static int gc_append(struct gc *g);
static int gc_sync(struct gc *g);
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

void gc_rest(struct gc *g, uint64_t delay)
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
	if (v->gc_share < 1000) /* somebody waits for it */
		return 0;
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
		g->live = (uint64_t)g->victim->live + g->victim->live_active;
		g->gain = gc_gain(v, g->victim);
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
	gc_watch(v);
	if (!g->broken)
		gc_consider(v);
	volume_kick(v);
	volume_close_kick(v);
}

/* ---- Reading the victim, and what is in it ------------------------------------------------------
 */

void gc_pace(struct gc *g, uint64_t part, uint64_t whole)
{
	struct volume *v = g->volume;
	uint64_t gain = g->gain * v->gc_share / 1000;

	v->gc_pace += (int64_t)(gain * part / max_u64(whole, BLOCK_SIZE) / 3);
	v->gc_pace = v->gc_pace < PACE_MAX ? v->gc_pace : PACE_MAX;
	if (!list_empty(&v->write_queue))
		volume_kick(v);
}

static void on_read(struct device_io *io)
{
	struct gc_read *r = container_of(io, struct gc_read, io);
	struct gc *g = r->gc;

	/* What can't be read stays where it is: nothing below takes zeroes for data. */
	if (io->result < 0)
		memset(r->buf, 0, r->len);
	gc_pace(g, r->len, g->victim->tail);
	if (--g->n_reads > 0)
		return;
	g->state = GC_READ;
	gc_step(g);
}

static int gc_read(struct gc *g)
{
	struct volume *v = g->volume;

	if (g->at == g->victim->tail) {
		gc_parse(g);
		g->state = GC_COPY;
		return 0;
	}
	g->state = GC_WAIT_READ;
	while (g->at < g->victim->tail && g->n_reads < GC_READS) {
		struct gc_read *r = &g->reads[g->n_reads++];

		r->gc = g;
		r->buf = g->buf + g->at;
		r->len = (uint32_t)min_u64(UNIT_BYTES, g->victim->tail - g->at);
		r->io.done = on_read;
		device_read(v, &r->io, VOLUME_IO_GC, g->victim->id, g->at, r->buf,
			    (uint32_t)round_up(r->len, v->store->info.alignment));
		g->at += r->len;
	}
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
int gc_is_live(struct gc *g, const struct gc_block *b)
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

/* What has been moved before is old, and will live long: it is not mixed with what has not, unless
 * space is short. */
static struct segment **moved_head_of(struct gc *g)
{
	struct volume *v = g->volume;

	return &v->moved_heads[g->victim->stream == STORE_STREAM_MOVED && !gc_is_cramped(v)];
}

/* How many blocks the next unit may have: the last one of a segment fills it. */
static uint32_t unit_most(struct gc *g)
{
	const struct segment *head = *moved_head_of(g);
	uint32_t room = head ? g->volume->store->info.segment_size - head->tail : 0;
	uint32_t most = room > UNIT_HEADER_MAX ? (room - UNIT_HEADER_MAX) / BLOCK_SIZE : 0;

	return most < UNIT_LEAST ? UNIT_BLOCKS : (uint32_t)min_u64(most, UNIT_BLOCKS);
}

/* Fills a unit with what lives, and writes it. */
static int gc_copy(struct gc *g)
{
	uint32_t most = unit_most(g);

	if (g->n_iov == 0)
		unit_begin(g);
	for (uint32_t looks = 0; g->next < g->n_blocks && g->h.n_sums < most; g->next++) {
		struct gc_block *b = &g->blocks[g->next];
		int r;

		if (++looks > LOOKS) {
			gc_rest(g, 0);
			return 1;
		}
		r = gc_is_live(g, b);
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

/* Users need not wait for a collector that waits for space. */
static void hold_back_no_more(struct gc *g)
{
	g->wants_space = true;
	gc_watch(g->volume);
	volume_kick(g->volume);
}

static bool has_room(const struct volume *v, const struct segment *head, uint32_t bytes)
{
	return head && head->tail + bytes <= v->store->info.segment_size;
}

/* A head of the moved stream, with room for so much; NULL: asleep until there is one. */
static struct segment *moved_head(struct gc *g, uint32_t bytes)
{
	struct volume *v = g->volume;
	struct segment **head = moved_head_of(g);
	struct segment *other = v->moved_heads[head == &v->moved_heads[0]];

	if (*head && !has_room(v, *head, bytes)) {
		(*head)->state = SEGMENT_CLOSED;
		segments_mark_dirty(v, *head);
		*head = NULL;
	}
	if (!*head)
		*head = segments_take(v, STORE_STREAM_MOVED);
	if (!*head && segments_out_of_space(v, STORE_STREAM_MOVED) && has_room(v, other, bytes))
		return other;
	if (!*head)
		hold_back_no_more(g);
	return *head;
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

bool gc_holds_back(const struct volume *v)
{
	return v->gc_pace <= 0 && v->gc_share < 1000 && !v->closing && gc_is_making_room(v);
}

bool gc_is_making_room(const struct volume *v)
{
	const struct gc *g = v->engine->gc;

	return g && (g->volume == v || !list_empty(&v->gc_queue)) && !g->wants_space;
}

static void on_append(struct device_io *io)
{
	struct gc *g = container_of(io, struct gc, io);
	struct volume *v = g->volume;

	g->head->users--;
	if (io->result < 0) { /* what was copied here is left, the head with it */
		g->head->state = SEGMENT_CLOSED;
		for (int i = 0; i < 2; i++)
			if (v->moved_heads[i] == g->head)
				v->moved_heads[i] = NULL;
		g->broken = true;
	}
	gc_pace(g, (uint64_t)g->h.n_sums * BLOCK_SIZE, g->live);
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
	g->head = head;
	head->users++;
	v->stats.moved_bytes += bytes;
	v->gc_credit -= bytes;
	device_append(v, &g->io, VOLUME_IO_GC, head->id, head->tail, g->iov, (int)g->n_iov);
	head->tail += bytes;
	segments_mark_dirty(v, head);
	return 1;
}

static void on_sync(struct device_io *io)
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
	device_sync(v, &g->io, VOLUME_IO_GC);
	return 1;
}
