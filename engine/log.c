/* SPDX-License-Identifier: Apache-2.0
 *
 * The log. Ops that wait together share a record: that is the group commit. Records are appended
 * several at a time, complete in any order, and are published in log order (E2); a FUA or FLUSH
 * then waits for a sync.
 *
 *   write_queue -> record (sequence given) -> append -> published in order -> answered
 *                                                              \-> sync_waiters -> synced ->
 * answered
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static bool record_begin(struct volume *v);
static void record_on_append(struct device_io *io);
static void log_publish(struct volume *v);
static void log_sync(struct volume *v);
static void log_on_sync(struct device_io *io);

void log_run(struct volume *v)
{
	if (v->failed)
		checkpoint_space_kick(v);
	if (v->released) {
		v->released = false;
		log_publish(v);
	}
	if (!list_empty(&v->blocked))
		write_retry_blocked(v);
	while (!list_empty(&v->write_queue) && v->n_in_flight < RECORDS_IN_FLIGHT)
		if (!record_begin(v))
			break;
	if (!list_empty(&v->sync_waiters))
		log_sync(v);
	if (v->closing)
		volume_close_kick(v);
}

/* ---- Building a record --------------------------------------------------------------------------
 */

struct fill {
	const struct volume *volume;
	struct record *rec;
	bool closed;   /* nothing may follow in this record */
	uint32_t room; /* bytes left in the segment */
	uint32_t entries;
	uint32_t payload;
	uint32_t alignment;
};

static uint32_t fill_header(const struct fill *f, uint32_t more_runs, uint32_t more_sums)
{
	size_t bytes =
	    record_header_bytes(f->rec->h.n_runs + more_runs, f->rec->h.n_sums + more_sums);

	return (uint32_t)round_up(bytes, f->alignment);
}

/* What the op's next part brings to a record. */
struct part {
	bool alone; /* in its record */
	uint32_t runs;
	uint32_t sums;
	uint32_t entries; /* of the overlay */
	uint32_t payload; /* bytes */
};

/* One of up to 1 MiB is whole (E3). A larger one may be cut smaller, so that others have their turn
 * in between. */
static uint32_t write_part(const struct op *op)
{
	uint32_t most = op->end - op->first > RECORD_BLOCKS_MAX
			    ? fair_blocks(op->volume, RECORD_BLOCKS_MAX)
			    : RECORD_BLOCKS_MAX;

	return (uint32_t)min_u64(op->end - op->next, most);
}

static void part_size(const struct op *op, struct part *ret_part)
{
	*ret_part = (struct part){.runs = 1, .alone = op->kind == OP_SNAPSHOT};
	switch (op->kind) {
	case OP_WRITE:
		ret_part->sums = write_part(op);
		ret_part->payload = ret_part->sums * BLOCK_SIZE;
		ret_part->entries = ret_part->sums;
		return;
	case OP_ZERO:
	case OP_TRIM:
		ret_part->sums = (op->head != NULL) + (op->tail != NULL);
		ret_part->payload = ret_part->sums * BLOCK_SIZE;
		ret_part->runs += ret_part->sums;
		ret_part->entries = RANGE_BLOCKS_MIN + ret_part->sums;
		return;
	case OP_MOVE:
		ret_part->runs = gc_move_size(op->gc, &ret_part->sums);
		ret_part->entries = ret_part->sums;
		return;
	case OP_HYDRATE:
		ret_part->runs = hydrate_size(op->unit, &ret_part->sums);
		ret_part->payload = ret_part->sums * BLOCK_SIZE;
		ret_part->entries = ret_part->sums;
		return;
	case OP_RESIZE:
	case OP_SNAPSHOT:
	case OP_READ:
	case OP_FLUSH:
	case OP_STATUS:
		return;
	}
}

/* With no segment at hand to follow it, the last of the head is kept for trims and moves, which
 * make room (E6). */
static uint32_t room_kept(const struct volume *v, const struct part *part)
{
	if (part->payload == 0 || v->segments.n_spare[STORE_STREAM_USER] > 0)
		return 0;
	return v->head->kept ? v->store->info.segment_size : TRIM_RESERVE;
}

static bool part_fits(const struct fill *f, const struct part *part)
{
	const struct record_header *h = &f->rec->h;
	uint32_t kept = room_kept(f->volume, part);

	if (f->closed || h->n_runs + part->runs > RECORD_RUNS_MAX ||
	    h->n_sums + part->sums > RECORD_BLOCKS_MAX ||
	    f->entries + part->entries > RECORD_ENTRIES_MAX)
		return false;
	if (h->n_runs > 0 &&
	    (part->alone || h->n_sums + part->sums > fair_blocks(f->volume, RECORD_BLOCKS_MAX)))
		return false;
	return fill_header(f, part->runs, part->sums) + f->payload + part->payload + kept <=
	       f->room;
}

static struct run *fill_run(struct fill *f, uint8_t type, uint64_t lba, uint64_t blocks)
{
	struct run *run = &f->rec->runs[f->rec->h.n_runs++];

	memset(run, 0, sizeof(*run));
	run->type = type;
	run->flags = RUN_MUST_UNDERSTAND;
	run->lba = lba;
	run->blocks = blocks;
	run->nonce = f->rec->h.sequence;
	run->payload_offset = f->payload / BLOCK_SECTOR;
	return run;
}

/* Adds n blocks at p to the payload of the run that was begun last. */
static void fill_data(struct fill *f, struct run *run, uint64_t lba, uint8_t *p, uint32_t n)
{
	struct record *rec = f->rec;
	struct iovec *last = &rec->iov[rec->n_iov - 1];

	for (uint32_t i = 0; i < n; i++)
		rec->sums[rec->h.n_sums++] =
		    block_sum(rec->volume->id, lba + i, p + (size_t)i * BLOCK_SIZE);
	if (rec->n_iov > 1 && (uint8_t *)last->iov_base + last->iov_len == p) {
		last->iov_len += (size_t)n * BLOCK_SIZE;
	} else {
		rec->iov[rec->n_iov].iov_base = p;
		rec->iov[rec->n_iov++].iov_len = (size_t)n * BLOCK_SIZE;
	}
	f->payload += n * BLOCK_SIZE;
	run->stored += n * (BLOCK_SIZE / BLOCK_SECTOR);
}

static uint8_t *op_block(const struct op *op, uint64_t lba)
{
	return (uint8_t *)op->req->buf + (lba * BLOCK_SIZE - op->req->offset);
}

static void fill_write(struct fill *f, struct op *op, uint32_t n)
{
	struct run *run = fill_run(f, RUN_WRITE, op->next, n);
	uint64_t lba = op->next;
	uint64_t end = lba + n;

	if (op->head && lba == op->first) {
		fill_data(f, run, lba, op->head, 1);
		lba++;
	}
	if (op->tail && end == op->end)
		end--;
	if (lba < end)
		fill_data(f, run, lba, op_block(op, lba), (uint32_t)(end - lba));
	if (op->tail && end < op->next + n)
		fill_data(f, run, end, op->tail, 1);
	op->next += n;
}

static void fill_zero(struct fill *f, struct op *op)
{
	uint64_t first = op->first + (op->head != NULL);
	uint64_t end = op->end - (op->tail != NULL);
	struct run *run;

	if (op->head)
		fill_data(f, fill_run(f, RUN_WRITE, op->first, 1), op->first, op->head, 1);
	if (op->tail)
		fill_data(f, fill_run(f, RUN_WRITE, end, 1), end, op->tail, 1);
	if (first < end) {
		run = fill_run(f, op->kind == OP_ZERO ? RUN_ZERO : RUN_TRIM, first, end - first);
		if (op->kind == OP_ZERO && (op->req->flags & BLOCK_NO_HOLE))
			run->flags |= RUN_RESERVED_SPACE;
		/* Within a record the sequence can't say whether a block or a range over it is
		 * newer. The range wins, so it must be the last. */
		f->closed = true;
	}
	op->next = op->end;
}

static void fill_move(struct fill *f, const struct op *op, const struct part *part)
{
	struct record *rec = f->rec;

	gc_move_fill(op->gc, rec->runs + rec->h.n_runs, rec->sums + rec->h.n_sums);
	rec->h.n_runs += part->runs;
	rec->h.n_sums += part->sums;
}

static void fill_hydrate(struct fill *f, const struct op *op, const struct part *part)
{
	for (uint32_t i = 0; i < part->runs; i++) {
		uint64_t lba;
		uint32_t blocks;
		uint8_t *p = hydrate_run(op->unit, i, &lba, &blocks);

		fill_data(f, fill_run(f, RUN_HYDRATE, lba, blocks), lba, p, blocks);
	}
	hydrate_sequenced(op->unit);
}

static void fill_snapshot(struct fill *f, const struct op *op)
{
	struct run *run = fill_run(f, RUN_SNAPSHOT, 0, 0);

	run->nonce = op->volume_op->snapshot.hi;
	run->argument = op->volume_op->snapshot.lo;
	f->closed = true;
	cut_sequenced(op->volume, op->volume_op, f->rec->h.sequence);
}

static void fill_op(struct fill *f, struct op *op, const struct part *part)
{
	struct record *rec = f->rec;

	switch (op->kind) {
	case OP_WRITE:
		fill_write(f, op, part->sums);
		break;
	case OP_ZERO:
	case OP_TRIM:
		fill_zero(f, op);
		break;
	case OP_MOVE:
		fill_move(f, op, part);
		break;
	case OP_HYDRATE:
		fill_hydrate(f, op, part);
		break;
	case OP_SNAPSHOT:
		fill_snapshot(f, op);
		break;
	case OP_RESIZE:
		fill_run(f, RUN_RESIZE, 0, 0)->argument = op->volume_op->size;
		op->volume->pending_size = op->volume_op->size;
		op->next = op->end;
		break;
	case OP_READ:
	case OP_FLUSH:
	case OP_STATUS:
		CHECK(false);
	}
	f->entries += part->entries;
	op->sequence = rec->h.sequence;
	op->parts++;
	rec->ops[rec->n_ops++] = op;
}

/* Takes ops off the queue while their next part fits. */
static void record_fill(struct fill *f, struct volume *v)
{
	while (!list_empty(&v->write_queue)) {
		struct op *op = list_first(&v->write_queue, struct op, link);
		struct part part;

		part_size(op, &part);
		if (!part_fits(f, &part))
			return;
		fill_op(f, op, &part);
		if (op->next < op->end)
			return; /* the rest of a large request goes into records of its own */
		list_remove(&op->link);
		write_sequenced(op);
	}
}

/* ---- Placing and appending it -------------------------------------------------------------------
 */

/* Writes wait for the collector where it can help, and fail where it can't (E6). */
static void log_no_space(struct volume *v)
{
	gc_consider(v);
	if (!gc_can_help(v))
		log_fail_queued(v, -ENOSPC);
}

/* The head, with room for the op at the front of the queue; NULL: not now. */
static struct segment *log_head(struct volume *v, struct record *rec)
{
	struct fill f = {.volume = v, .rec = rec, .alignment = v->store->info.alignment};
	struct op *op = list_first(&v->write_queue, struct op, link);
	struct segment *next;
	struct part part;

	part_size(op, &part);
	if (v->head) {
		f.room = v->store->info.segment_size - v->head->tail;
		if (part_fits(&f, &part))
			return v->head;
	}
	next = segments_take(v, STORE_STREAM_USER);
	if (!next && segments_out_of_space(v, STORE_STREAM_USER)) {
		if (part.payload == 0)
			next = segments_take_kept(v);
		else
			log_no_space(v);
	}
	if (!next)
		return NULL;
	if (v->head) {
		v->head->state = SEGMENT_CLOSED;
		segments_mark_dirty(v, v->head);
	}
	v->head = next;
	return next;
}

static void record_seal(struct volume *v, struct record *rec, struct fill *f)
{
	struct record_header *h = &rec->h;

	h->header_length = fill_header(f, 0, 0);
	h->payload_length = f->payload;
	rec->iov[0].iov_base = rec->header;
	rec->iov[0].iov_len = h->header_length;
	record_encode(rec->header, h, rec->runs, rec->sums);
	v->last_sum = h->checksum;
	v->reserved = h->sequence;
	checkpoint_count_log(v, h->header_length + h->payload_length);
	rec->n_entries = log_entries(rec->runs, h->n_runs);
	CHECK(rec->n_entries <= RECORD_ENTRIES_MAX);
	v->entries_in_flight += rec->n_entries;
	v->head->tail += h->header_length + h->payload_length;
	v->head->newest = h->sequence;
	v->head->users++;
	v->stats.records++;
	v->stats.logged_bytes += h->header_length + h->payload_length;
	v->stats.written_bytes += h->payload_length;
	v->gc_credit += (int64_t)h->payload_length * GC_CREDIT;
	v->gc_pace -= h->header_length + h->payload_length;
	if (v->gc_pace < -PACE_DEBT)
		v->gc_pace = -PACE_DEBT;
	segments_mark_dirty(v, v->head);
}

static void record_init(struct volume *v, struct record *rec)
{
	rec->volume = v;
	rec->completed = false;
	rec->error = 0;
	rec->segment = v->head;
	rec->n_ops = 0;
	rec->n_iov = 1;
	rec->h.volume = v->id;
	rec->h.incarnation = v->incarnation;
	rec->h.sequence = v->reserved + 1;
	rec->h.durable = v->durable;
	rec->h.previous = v->last_sum;
	rec->h.generation = v->head->generation;
	rec->h.segment = v->head->id;
	rec->h.offset = v->head->tail;
	rec->h.owner_term = v->store->info.owner_term;
}

uint32_t log_entries(const struct run *runs, uint32_t n_runs)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < n_runs; i++) {
		uint64_t blocks = runs[i].blocks;

		if (runs[i].type == RUN_ZERO || runs[i].type == RUN_TRIM)
			n += blocks < RANGE_BLOCKS_MIN ? blocks : 0;
		else if (runs[i].type == RUN_WRITE || runs[i].type == RUN_MOVE ||
			 runs[i].type == RUN_HYDRATE)
			n += blocks;
	}
	return (uint32_t)n;
}

/* NULL: other volumes have them all; this one is kicked when one comes back. */
static struct record *record_get(struct volume *v)
{
	struct record *rec = pool_get(v->engine->records);

	if (!rec && list_empty(&v->no_record))
		list_add_tail(&v->engine->no_record, &v->no_record);
	return rec;
}

static void record_put(struct engine *e, struct record *rec)
{
	struct list *node = list_pop(&e->no_record);

	pool_put(e->records, rec);
	if (node)
		volume_kick(list_entry(node, struct volume, no_record));
}

/* False: nothing can be appended now. */
static bool record_begin(struct volume *v)
{
	/* A cut takes the overlay that is too full out of the way. */
	bool is_cut = list_first(&v->write_queue, struct op, link)->kind == OP_SNAPSHOT;
	const struct segment *head = v->head;
	struct record *rec;
	struct fill f;
	struct part part;

	if (v->failed) {
		log_fail_queued(v, -EIO);
		return false;
	}
	if ((!is_cut && checkpoint_must_wait(v)) || !checkpoint_make_room(v, is_cut))
		return false;
	/* A checkpoint that began just now takes a MOVE or a HYDRATE off the queue. */
	if (list_empty(&v->write_queue))
		return false;
	part_size(list_first(&v->write_queue, struct op, link), &part);
	if (part.payload > 0 && gc_holds_back(v))
		return false;
	if (!fair_may_write(v, part.payload / BLOCK_SIZE))
		return false;
	rec = record_get(v);
	if (!rec)
		return false;
	rec->h.n_runs = 0;
	rec->h.n_sums = 0;
	if (!log_head(v, rec)) {
		record_put(v->engine, rec);
		return false;
	}
	record_init(v, rec);
	f = (struct fill){.volume = v,
			  .rec = rec,
			  .room = v->store->info.segment_size - v->head->tail,
			  .alignment = v->store->info.alignment};
	record_fill(&f, v);
	CHECK(rec->n_ops > 0);
	record_seal(v, rec, &f);
	list_add_tail(&v->in_flight, &rec->link);
	v->n_in_flight++;
	fair_write_started(v, rec, rec->h.payload_length / BLOCK_SIZE);
	rec->io.done = record_on_append;
	device_append(v, &rec->io, VOLUME_IO_APPEND, rec->h.segment, rec->h.offset, rec->iov,
		      (int)rec->n_iov);
	/* Not before: a checkpoint that it asks for may take a MOVE off the queue. */
	if (v->head != head)
		gc_watch(v);
	return true;
}

static void record_on_append(struct device_io *io)
{
	struct record *rec = container_of(io, struct record, io);
	struct volume *v = rec->volume;

	fair_write_ended(v, rec);
	rec->segment->users--;
	rec->completed = true;
	rec->error = io->result < 0 ? (int)io->result : 0;
	if (rec->error) /* nobody knows what the disk has: the log ends before this record */
		volume_fail(v, rec->error);
	log_publish(v);
	volume_kick(v);
}

/* ---- Publishing ---------------------------------------------------------------------------------
 */

static void apply_write(struct volume *v, const struct record_header *h, const struct run *run,
			const uint32_t *sums, struct segment *segment)
{
	struct entry e = {.segment = segment->id & ((UINT64_C(1) << 48) - 1), .state = ENTRY_DATA};
	uint32_t start = (h->offset + h->header_length) / BLOCK_SECTOR + run->payload_offset;

	for (uint32_t i = 0; i < run->blocks; i++) {
		struct entry old;

		e.offset = start + i * (BLOCK_SIZE / BLOCK_SECTOR);
		e.sum = sums[i];
		overlay_put(&v->active, run->lba + i, &e, h->sequence, &old);
		if (old.state == ENTRY_DATA)
			segments_live_active(v, old.segment, -BLOCK_SIZE);
	}
	segment->live_active += (uint32_t)run->blocks * BLOCK_SIZE;
}

static void apply_zero(struct volume *v, const struct record_header *h, const struct run *run)
{
	struct entry e = {.state =
			      run->flags & RUN_RESERVED_SPACE ? ENTRY_ZERO_RESERVED : ENTRY_ZERO};

	if (run->blocks >= RANGE_BLOCKS_MIN) {
		overlay_put_range(&v->active, run->lba, run->blocks, (enum entry_state)e.state,
				  h->sequence);
		return;
	}
	for (uint64_t i = 0; i < run->blocks; i++) {
		struct entry old;

		overlay_put(&v->active, run->lba + i, &e, h->sequence, &old);
		if (old.state == ENTRY_DATA)
			segments_live_active(v, old.segment, -BLOCK_SIZE);
	}
}

/* What the base gave counts only where nothing has changed the block since it was looked up: as
 * apply_move. */
static void apply_hydrate(struct volume *v, const struct record_header *h, const struct run *run,
			  const uint32_t *sums, struct segment *segment)
{
	struct entry e = {.segment = segment->id & ((UINT64_C(1) << 48) - 1), .state = ENTRY_DATA};
	uint32_t start = (h->offset + h->header_length) / BLOCK_SECTOR + run->payload_offset;

	for (uint32_t i = 0; i < run->blocks; i++) {
		struct entry old;

		if (overlay_get(&v->active, run->lba + i, &old))
			continue;
		e.offset = start + i * (BLOCK_SIZE / BLOCK_SECTOR);
		e.sum = sums[i];
		overlay_put_moved(&v->active, run->lba + i, &e, h->sequence, &old);
		segment->live_active += BLOCK_SIZE;
	}
}

/* A copy counts only where nothing has changed the block since it was made. What changed since the
 * last checkpoint began is in the overlay, and no checkpoint begins while a MOVE is on its way
 * (gc.c). So what the overlay does not know is as it was, here and in replay. */
static void apply_move(struct volume *v, const struct record_header *h, const struct run *run,
		       const uint32_t *sums)
{
	struct segment *to = segments_find(v, run->argument);
	struct entry e = {.segment = to->id & ((UINT64_C(1) << 48) - 1), .state = ENTRY_DATA};

	for (uint32_t i = 0; i < run->blocks; i++) {
		struct entry old;
		uint32_t sectors = i * (BLOCK_SIZE / BLOCK_SECTOR);

		if (overlay_get(&v->active, run->lba + i, &old) &&
		    (old.state != ENTRY_DATA || old.segment != run->nonce ||
		     old.offset != run->stored + sectors))
			continue;
		e.offset = run->payload_offset + sectors;
		e.sum = sums[i];
		overlay_put_moved(&v->active, run->lba + i, &e, h->sequence, &old);
		if (old.state == ENTRY_DATA)
			segments_live_active(v, old.segment, -BLOCK_SIZE);
		to->live_active += BLOCK_SIZE;
	}
	to->newest = h->sequence;
	to->tail = (uint32_t)max_u64(to->tail, (uint64_t)run->payload_offset * BLOCK_SECTOR +
						   run->blocks * BLOCK_SIZE);
	segments_mark_dirty(v, to);
}

void log_apply(struct volume *v, const struct record_header *h, const struct run *runs,
	       const uint32_t *sums, struct segment *segment)
{
	for (uint32_t i = 0; i < h->n_runs; i++) {
		const struct run *run = &runs[i];

		switch ((enum run_type)run->type) {
		case RUN_WRITE:
			apply_write(v, h, run, sums, segment);
			sums += run->blocks;
			break;
		case RUN_ZERO:
		case RUN_TRIM:
			apply_zero(v, h, run);
			break;
		case RUN_RESIZE:
			v->pending_size = run->argument;
			block_set_size(&v->dev, run->argument);
			break;
		case RUN_MOVE:
			apply_move(v, h, run, sums);
			sums += run->blocks;
			break;
		case RUN_HYDRATE:
			apply_hydrate(v, h, run, sums, segment);
			sums += run->blocks;
			break;
		case RUN_SNAPSHOT: /* cut_place, once the record counts as published */
		case RUN_FENCE:
		case RUN_PAD:
			break;
		}
	}
}

static void record_publish(struct volume *v, struct record *rec)
{
	log_apply(v, &rec->h, rec->runs, rec->sums, rec->segment);
	v->published = rec->h.sequence;
	v->published_sum = rec->h.checksum;
	v->published_segment = rec->h.segment;
	v->published_end = rec->h.offset + rec->h.header_length + rec->h.payload_length;
	if (v->bad.n > 0)
		bad_published(v, &rec->h, rec->runs);
	if (rec->runs[0].type == RUN_SNAPSHOT)
		cut_place(v, &rec->runs[0]);
}

/* One of the op's records is published or lost. */
static void op_part_done(struct op *op, int error)
{
	if (error && !op->error)
		op->error = error;
	if (--op->parts > 0)
		return;
	if (op->next < op->end) /* failed with parts still queued: log_fail_queued ends it */
		return;
	if (!op->error && (op->kind == OP_RESIZE || op->kind == OP_SNAPSHOT ||
			   (op->req && (op->req->flags & BLOCK_FUA))))
		log_wait_durable(op);
	else
		op_done(op);
}

static void record_end(struct volume *v, struct record *rec, int error)
{
	list_remove(&rec->link);
	v->n_in_flight--;
	v->entries_in_flight -= rec->n_entries;
	for (uint32_t i = 0; i < rec->n_ops; i++)
		op_part_done(rec->ops[i], error);
	record_put(v->engine, rec);
}

static void log_publish(struct volume *v)
{
	while (!list_empty(&v->in_flight)) {
		struct record *rec = list_first(&v->in_flight, struct record, link);

		if (!rec->completed || (v->hold && rec->h.sequence > v->hold))
			break;
		if (rec->error)
			v->log_ended = true;
		if (v->log_ended) {
			record_end(v, rec, -EIO);
			continue;
		}
		record_publish(v, rec);
		record_end(v, rec, 0);
	}
	if (!list_empty(&v->blocked))
		volume_kick(v);
	checkpoint_consider(v);
}

/* Ends what is queued and has no record yet. */
void log_fail_queued(struct volume *v, int error)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &v->write_queue);
	for (struct list *node; (node = list_pop(&now));) {
		struct op *op = list_entry(node, struct op, link);

		if (error == -ENOSPC &&
		    (op->kind == OP_TRIM || op->kind == OP_RESIZE || op->kind == OP_MOVE)) {
			list_add_tail(&v->write_queue, &op->link); /* a trim makes room: it waits */
			continue;
		}
		volume_kick(v); /* what stays may fit now */
		if (!op->error)
			op->error = error;
		write_sequenced(op);
		op->next = op->end;
		if (op->parts == 0)
			op_done(op);
	}
}

bool log_is_quiet(const struct volume *v)
{
	return list_empty(&v->write_queue) && list_empty(&v->in_flight) &&
	       list_empty(&v->blocked) && list_empty(&v->sync_waiters) && !v->sync_running &&
	       list_empty(&v->cuts_asked);
}

/* ---- Making durable -----------------------------------------------------------------------------
 */

void log_wait_durable(struct op *op)
{
	struct volume *v = op->volume;

	list_add_tail(&v->sync_waiters, &op->link);
	volume_kick(v);
}

/* Ends the waiters whose wish is fulfilled; all of them, with -EIO, when the log can't go on. */
static void log_end_waiters(struct volume *v)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &v->sync_waiters);
	for (struct list *node; (node = list_pop(&now));) {
		struct op *op = list_entry(node, struct op, link);

		if (op->sequence > v->durable && !v->failed) {
			list_add_tail(&v->sync_waiters, &op->link);
			continue;
		}
		if (op->sequence > v->durable || v->failed)
			op->error = -EIO;
		op_done(op);
	}
}

void log_durable(struct volume *v, uint64_t sequence)
{
	v->durable = max_u64(v->durable, sequence);
}

static void log_sync(struct volume *v)
{
	log_end_waiters(v);
	if (v->sync_running || list_empty(&v->sync_waiters))
		return;
	v->sync_running = true;
	v->syncing = v->published;
	v->sync_io.done = log_on_sync;
	v->stats.syncs++;
	device_sync(v, &v->sync_io, VOLUME_IO_SYNC);
}

static void log_on_sync(struct device_io *io)
{
	struct volume *v = container_of(io, struct volume, sync_io);

	v->sync_running = false;
	if (io->result < 0)
		volume_fail(v, (int)io->result);
	else
		log_durable(v, v->syncing);
	log_end_waiters(v);
	volume_kick(v);
}

/* The log can't go on: what has no answer yet gets -EIO, reads still work, and opening anew finds
 * out what the disk has (E1: nothing unsure is acknowledged). */
void volume_fail(struct volume *v, int error)
{
	if (!v->failed)
		v->failed = error;
	checkpoint_leave(v);
	v->stats.health = VOLUME_FAILED;
	v->hold = 0;
	v->released = true;
	volume_kick(v);
}
