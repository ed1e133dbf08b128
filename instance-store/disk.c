/* SPDX-License-Identifier: Apache-2.0
 *
 * A request becomes an op, which holds the blocks that it touches: ops that overlap wait for each
 * other in order of arrival, unless all read. An op is carried out in pieces of at most 128 KiB,
 * each with a buffer of its own for what is encrypted; several pieces of an op are in flight.
 *
 * The map is changed where a crash between two lines is harmless: a bit is set after the block is
 * written and before the answer; cleared before anything below is given back.
 */
#include "instance-store/disk.h"

#include "base/check.h"
#include "base/mem.h"
#include "instance-store/map.h"
#include "instance-store/xts.h"

#include <errno.h>
#include <string.h>

#define PIECE        ((uint64_t)128 * KiB)
#define N_PIECES     128 /* 16 MiB of buffers, resident as they are used */
#define N_OPS        128 /* what a connection may have in flight */
#define PIECES_OF_OP 8
/* Bytes that are encrypted or decrypted in a turn of the loop: some 20 us. Then what was started
 * goes to the device, and what was finished to its owner, so that disk, cipher and client work at
 * the same time. */
#define TURN_BYTES    ((uint64_t)128 * KiB)
#define BLOCK_OF(off) ((off) / BLOCK_SIZE)
#define BLOCK_END(at) (round_up(at, BLOCK_SIZE) / BLOCK_SIZE)

struct op {
	struct list node; /* disk->ops in order of arrival; or disk->free_ops, disk->finished */
	struct block_req *req;          /* or */
	struct istore_discard *discard; /* this */
	uint64_t first;                 /* blocks that it holds */
	uint64_t end;
	uint64_t at; /* bytes of the disk: where the next piece begins */
	uint64_t stop;
	unsigned in_flight;
	bool reads;
	bool waiting; /* for an earlier one */
	bool starved; /* wants a piece, or room in the turn */
	int error;
};

enum piece_state {
	PIECE_WAIT_READ,
	PIECE_WAIT_TURN, /* read, to be decrypted */
	PIECE_WAIT_HEAD,
	PIECE_WAIT_TAIL,
	PIECE_WAIT_WRITE,
	PIECE_WAIT_PUNCH,
};

struct piece {
	struct io_op io;
	struct list node; /* disk->free_pieces or to_decrypt */
	struct istore_disk *disk;
	struct op *op;
	enum piece_state state;
	uint64_t offset; /* bytes of the disk */
	uint64_t length;
	uint64_t lo; /* read: blocks that are read */
	uint64_t hi;
	uint8_t *to; /* read: where block `lo` goes */
	uint8_t *buf;
};

struct istore_disk {
	struct block_dev dev;
	struct istore_disk_config config;
	struct xts *xts;
	uint64_t *map;
	uint64_t n_written; /* blocks */
	int failed;         /* a sync failed: nobody knows what the disk has */

	struct list ops;
	unsigned n_waiting;
	unsigned n_starved;
	struct list free_ops;
	struct list free_pieces;
	struct list backlog; /* requests without an op */

	uint64_t turn_bytes; /* that went through the cipher in this turn */
	struct list to_decrypt;
	struct io_op turn;
	bool turn_runs;

	struct list finished;
	struct io_op finish;
	bool finish_runs;

	struct list to_sync; /* requests that wait for the next sync */
	struct list syncing;
	struct io_op sync;
	bool sync_runs;

	struct op all_ops[N_OPS + 1]; /* the last is for discards */
	struct piece all_pieces[N_PIECES];
	uint8_t *buffers;
};

static void disk_submit(struct block_dev *dev, struct block_req *req);
static void op_start(struct istore_disk *d, struct op *op);
static void op_go_on(struct istore_disk *d, struct op *op);
static bool op_is_over(const struct op *op);
static void op_finish_later(struct istore_disk *d, struct op *op);
static void disk_on_finish(struct io_op *io);
static void op_end(struct istore_disk *d, struct op *op);
static void piece_on_io(struct io_op *io);
static void disk_on_turn(struct io_op *io);
static void read_finish(struct istore_disk *d, struct piece *p);
static void piece_end(struct piece *p, int error);
static void feed_starved(struct istore_disk *d);
static void disk_on_sync(struct io_op *io);

static const struct block_ops disk_ops = {.name = "instance-store", .submit = disk_submit};

/* ---- Life -------------------------------------------------------------------------- */

static void init_parts(struct istore_disk *d)
{
	list_init(&d->ops);
	list_init(&d->free_ops);
	list_init(&d->free_pieces);
	list_init(&d->backlog);
	list_init(&d->finished);
	list_init(&d->to_decrypt);
	list_init(&d->to_sync);
	list_init(&d->syncing);
	d->finish.done = disk_on_finish;
	d->sync.done = disk_on_sync;
	d->turn.done = disk_on_turn;
	for (unsigned i = 0; i < N_OPS; i++)
		list_add_tail(&d->free_ops, &d->all_ops[i].node);
	list_init(&d->all_ops[N_OPS].node);
	for (unsigned i = 0; i < N_PIECES; i++) {
		struct piece *p = &d->all_pieces[i];

		p->disk = d;
		p->io.done = piece_on_io;
		p->buf = d->buffers + i * PIECE;
		list_add_tail(&d->free_pieces, &p->node);
	}
}

int istore_disk_new(const struct istore_disk_config *config, struct istore_disk **ret_disk,
		    struct err *err)
{
	struct istore_disk *d = mem_alloc(sizeof(*d));
	int r = 0;

	if (!d) {
		mem_free(config->slices);
		return err_set(err, -ENOMEM, "out of memory for a disk");
	}
	d->config = *config;
	d->dev = (struct block_dev){.ops = &disk_ops, .size = config->size};
	d->map = config->item->map;
	d->n_written = map_count(d->map, 0, BLOCK_OF(config->size));
	d->buffers = mem_alloc_pages(N_PIECES * PIECE);
	if (!d->buffers)
		r = err_set(err, -ENOMEM, "out of memory for the buffers of a disk");
	if (r == 0)
		r = xts_new(config->item->key, &d->xts, err);
	if (r < 0) {
		istore_disk_free(d);
		return r;
	}
	init_parts(d);
	*ret_disk = d;
	return 0;
}

void istore_disk_free(struct istore_disk *d)
{
	if (!d)
		return;
	CHECK(!d->ops.next || list_empty(&d->ops));
	CHECK(!d->sync_runs);
	xts_free(d->xts);
	if (d->buffers)
		mem_free_pages(d->buffers, N_PIECES * PIECE);
	mem_free(d->config.slices);
	mem_free(d);
}

struct block_dev *istore_disk_dev(struct istore_disk *d)
{
	return &d->dev;
}

uint64_t istore_disk_written(const struct istore_disk *d)
{
	return __atomic_load_n(&d->n_written, __ATOMIC_RELAXED) * BLOCK_SIZE;
}

/* ---- The map, and where things are ------------------------------------------------- */

static void count_written(struct istore_disk *d, uint64_t before, uint64_t after)
{
	__atomic_store_n(&d->n_written, d->n_written + after - before, __ATOMIC_RELAXED);
}

static void set_written(struct istore_disk *d, uint64_t first, uint64_t end)
{
	count_written(d, map_count(d->map, first, end), end - first);
	map_set(d->map, first, end);
}

static void clear_written(struct istore_disk *d, uint64_t first, uint64_t end)
{
	count_written(d, map_count(d->map, first, end), 0);
	map_clear(d->map, first, end);
}

static uint64_t place_of(const struct istore_disk *d, uint64_t offset)
{
	uint64_t size = d->config.slice_size;

	return istore_slice_offset(size, d->config.slices[offset / size]) + offset % size;
}

/* How far from `at` the store goes on without a gap, at most to `stop`. */
static uint64_t slice_end(const struct istore_disk *d, uint64_t at, uint64_t stop)
{
	return min_u64(stop, round_down(at, d->config.slice_size) + d->config.slice_size);
}

/* ---- Requests ---------------------------------------------------------------------- */

static void status(const struct istore_disk *d, struct block_req *req)
{
	uint64_t end = req->offset + req->length;
	uint64_t at = req->offset;
	uint32_t max = req->flags & BLOCK_REQ_ONE ? 1 : req->max_extents;

	while (at < end && req->n_extents < max) {
		bool set = map_get(d->map, BLOCK_OF(at));
		uint64_t stop = map_run_end(d->map, BLOCK_OF(at), BLOCK_END(end), set);

		stop = min_u64(stop * BLOCK_SIZE, end);
		req->extents[req->n_extents++] = (struct block_extent){
		    .length = stop - at,
		    .flags = set ? 0 : BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO,
		};
		at = stop;
	}
}

static void sync_start(struct istore_disk *d)
{
	if (d->sync_runs || list_empty(&d->to_sync))
		return;
	list_splice_tail(&d->syncing, &d->to_sync);
	d->sync_runs = true;
	io_sync(d->config.loop, &d->sync, d->config.file);
}

static void sync_add(struct istore_disk *d, struct block_req *req)
{
	list_add_tail(&d->to_sync, &req->link);
	sync_start(d);
}

/* The kernel forgets what a failed sync did not write: what was written since the last good one is
 * unsure, and nothing is acknowledged any more. */
static void disk_on_sync(struct io_op *io)
{
	struct istore_disk *d = container_of(io, struct istore_disk, sync);
	struct list batch;
	struct list *node;

	d->sync_runs = false;
	list_init(&batch);
	list_splice_tail(&batch, &d->syncing);
	if (io->result < 0) {
		d->failed = -EIO;
		list_splice_tail(&batch, &d->to_sync);
	}
	sync_start(d);
	while ((node = list_pop(&batch)))
		block_done(list_entry(node, struct block_req, link), d->failed);
}

static void set_range(struct op *op, uint64_t offset, uint64_t length)
{
	op->at = offset;
	op->stop = offset + length;
	op->first = BLOCK_OF(op->at);
	op->end = BLOCK_END(op->stop);
}

static void op_init(struct istore_disk *d, struct op *op, struct block_req *req)
{
	*op = (struct op){.req = req};
	set_range(op, req->offset, req->length);
	switch (req->op) {
	case BLOCK_READ:
		op->reads = true;
		return;
	case BLOCK_TRIM: /* its edges stay */
		op->at = round_up(op->at, BLOCK_SIZE);
		op->stop = max_u64(op->at, round_down(op->stop, BLOCK_SIZE));
		break;
	case BLOCK_STATUS:
		status(d, req);
		op->stop = op->at;
		return;
	case BLOCK_CACHE:
		op->stop = op->at;
		return;
	case BLOCK_WRITE:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_FLUSH:
		break;
	}
	if (d->failed)
		op->error = d->failed;
}

static void disk_submit(struct block_dev *dev, struct block_req *req)
{
	struct istore_disk *d = container_of(dev, struct istore_disk, dev);
	struct list *node;

	if (req->op == BLOCK_FLUSH && !d->failed) {
		sync_add(d, req);
		return;
	}
	node = list_pop(&d->free_ops);
	if (!node) {
		list_add_tail(&d->backlog, &req->link);
		return;
	}
	op_init(d, list_entry(node, struct op, node), req);
	op_start(d, list_entry(node, struct op, node));
}

void istore_disk_discard(struct istore_disk *d, struct istore_discard *discard)
{
	struct op *op = &d->all_ops[N_OPS];

	CHECK(!op->discard);
	CHECK(discard->offset + discard->length <= d->config.size);
	*op = (struct op){.discard = discard};
	discard->error = 0;
	set_range(op, discard->offset, discard->length);
	op_start(d, op);
}

/* ---- Ops --------------------------------------------------------------------------- */

static bool is_in_the_way(const struct op *earlier, const struct op *op)
{
	return earlier->first < op->end && op->first < earlier->end &&
	       !(earlier->reads && op->reads);
}

/* Whether an op that arrived earlier holds, or waits for, one of its blocks. */
static bool has_to_wait(const struct istore_disk *d, const struct op *op)
{
	if (op->at == op->stop)
		return false;
	list_for_each (&d->ops, node) {
		const struct op *earlier = list_entry(node, struct op, node);

		if (earlier == op)
			return false;
		if (is_in_the_way(earlier, op))
			return true;
	}
	return false;
}

static void op_start(struct istore_disk *d, struct op *op)
{
	list_add_tail(&d->ops, &op->node);
	op->waiting = has_to_wait(d, op);
	if (op->waiting) {
		d->n_waiting++;
		return;
	}
	op_go_on(d, op);
	if (op_is_over(op))
		op_finish_later(d, op);
}

static bool op_is_over(const struct op *op)
{
	return op->in_flight == 0 && (op->at == op->stop || op->error);
}

/* Off the list of ops, so that what waits for it can start; answered on a later turn. */
static void op_finish_later(struct istore_disk *d, struct op *op)
{
	list_remove(&op->node);
	list_add_tail(&d->finished, &op->node);
	if (d->finish_runs)
		return;
	d->finish_runs = true;
	io_defer(d->config.loop, &d->finish, 0);
}

static void disk_on_finish(struct io_op *io)
{
	struct istore_disk *d = container_of(io, struct istore_disk, finish);
	struct list batch;
	struct list *node;

	d->finish_runs = false;
	list_init(&batch);
	list_splice_tail(&batch, &d->finished);
	while ((node = list_pop(&batch)))
		op_end(d, list_entry(node, struct op, node));
}

static void wake_waiting(struct istore_disk *d)
{
	list_for_each_safe (&d->ops, node) {
		struct op *op = list_entry(node, struct op, node);

		if (d->n_waiting == 0)
			return;
		if (!op->waiting || has_to_wait(d, op))
			continue;
		op->waiting = false;
		d->n_waiting--;
		if (d->failed && !op->reads)
			op->error = d->failed;
		op_go_on(d, op);
		if (op_is_over(op))
			op_finish_later(d, op);
	}
}

/* The op is free before its owner hears of it, who may come again at once. */
static void op_end(struct istore_disk *d, struct op *op)
{
	struct block_req *req = op->req;
	struct istore_discard *discard = op->discard;
	int error = op->error;
	struct list *node;

	CHECK(!op->starved);
	list_remove(&op->node);
	op->discard = NULL;
	if (req)
		list_add_head(&d->free_ops, &op->node);
	wake_waiting(d);
	if (req && (node = list_pop(&d->backlog)))
		disk_submit(&d->dev, list_entry(node, struct block_req, link));
	if (discard)
		discard->done(discard);
	else if (!error && !d->failed && req->flags & BLOCK_FUA)
		sync_add(d, req);
	else
		block_done(req, error ? error : req->flags & BLOCK_FUA ? d->failed : 0);
}

/* ---- Turns ------------------------------------------------------------------------- */

/* False: the turn has had enough; disk_on_turn goes on in the next one. */
static bool turn_has_room(struct istore_disk *d, uint64_t bytes)
{
	if (!d->turn_runs) {
		d->turn_runs = true;
		io_defer(d->config.loop, &d->turn, 0);
	}
	if (d->turn_bytes >= TURN_BYTES)
		return false;
	d->turn_bytes += bytes;
	return true;
}

static void disk_on_turn(struct io_op *io)
{
	struct istore_disk *d = container_of(io, struct istore_disk, turn);

	d->turn_runs = false;
	d->turn_bytes = 0;
	while (!list_empty(&d->to_decrypt)) {
		struct piece *p = list_first(&d->to_decrypt, struct piece, node);

		if (!turn_has_room(d, p->length))
			return;
		list_remove(&p->node);
		read_finish(d, p);
		piece_end(p, 0);
	}
	if (d->n_starved)
		feed_starved(d);
}

/* ---- Pieces ------------------------------------------------------------------------ */

static void starve(struct istore_disk *d, struct op *op)
{
	d->n_starved += !op->starved;
	op->starved = true;
}

static struct piece *piece_new(struct istore_disk *d, struct op *op, uint64_t stop)
{
	struct list *node = list_pop(&d->free_pieces);
	struct piece *p;

	if (!node) {
		starve(d, op);
		return NULL;
	}
	p = list_entry(node, struct piece, node);
	p->op = op;
	p->offset = op->at;
	p->length = stop - op->at;
	op->at = stop;
	op->in_flight++;
	return p;
}

static uint8_t *user_buf(const struct piece *p)
{
	return (uint8_t *)p->op->req->buf + (p->offset - p->op->req->offset);
}

/* ---- Reading */

/* What lies between the blocks that were read is zeroes. */
static void read_nothing(const struct op *op, uint64_t stop)
{
	memset((uint8_t *)op->req->buf + (op->at - op->req->offset), 0, stop - op->at);
}

/* One read from the first to the last block that was ever written, into the user's buffer if it has
 * room for them whole. */
static void read_start(struct istore_disk *d, struct piece *p, uint64_t lo)
{
	uint64_t hi = BLOCK_END(p->offset + p->length);

	while (!map_get(d->map, hi - 1))
		hi--;
	p->lo = lo;
	p->hi = hi;
	p->state = PIECE_WAIT_READ;
	if (lo * BLOCK_SIZE >= p->offset && hi * BLOCK_SIZE <= p->offset + p->length)
		p->to = user_buf(p) + (lo * BLOCK_SIZE - p->offset);
	else
		p->to = p->buf;
	io_read(d->config.loop, &p->io, d->config.file, p->to, (hi - lo) * BLOCK_SIZE,
		place_of(d, lo * BLOCK_SIZE));
}

static void read_finish(struct istore_disk *d, struct piece *p)
{
	uint64_t from = max_u64(p->offset, p->lo * BLOCK_SIZE);
	uint64_t to = min_u64(p->offset + p->length, p->hi * BLOCK_SIZE);
	uint8_t *user = user_buf(p);

	for (uint64_t b = p->lo; b < p->hi;) {
		bool set = map_get(d->map, b);
		uint64_t end = map_run_end(d->map, b, p->hi, set);
		uint8_t *data = p->to + (b - p->lo) * BLOCK_SIZE;

		if (set)
			xts_decrypt(d->xts, b, end - b, data, data);
		else
			memset(data, 0, (end - b) * BLOCK_SIZE);
		b = end;
	}
	if (p->to == p->buf)
		memcpy(user + (from - p->offset), p->buf + (from - p->lo * BLOCK_SIZE), to - from);
	memset(user, 0, from - p->offset);
	memset(user + (to - p->offset), 0, p->offset + p->length - to);
}

/* ---- Writing */

/* True if a read of the old block was started; else the block is in `at`: zeroes. */
static bool edge_start(struct istore_disk *d, struct piece *p, uint64_t block, uint8_t *at,
		       enum piece_state state)
{
	if (!map_get(d->map, block)) {
		memset(at, 0, BLOCK_SIZE);
		return false;
	}
	p->state = state;
	io_read(d->config.loop, &p->io, d->config.file, at, BLOCK_SIZE,
		place_of(d, block * BLOCK_SIZE));
	return true;
}

static bool head_start(struct istore_disk *d, struct piece *p)
{
	uint64_t end = p->offset + p->length;
	uint64_t block = BLOCK_OF(p->offset);

	if (is_aligned(p->offset, BLOCK_SIZE) && end >= (block + 1) * BLOCK_SIZE)
		return false;
	return edge_start(d, p, block, p->buf, PIECE_WAIT_HEAD);
}

static bool tail_start(struct istore_disk *d, struct piece *p)
{
	uint64_t end = p->offset + p->length;
	uint64_t block = BLOCK_OF(end);

	if (is_aligned(end, BLOCK_SIZE) || block == BLOCK_OF(p->offset))
		return false;
	return edge_start(d, p, block, p->buf + (block - BLOCK_OF(p->offset)) * BLOCK_SIZE,
			  PIECE_WAIT_TAIL);
}

/* A part of one block, over what is there, and then that block encrypted. */
static void merge(struct istore_disk *d, const struct piece *p, uint64_t from, uint64_t to)
{
	uint64_t base = BLOCK_OF(p->offset) * BLOCK_SIZE;
	uint64_t block = BLOCK_OF(from);
	uint8_t *at = p->buf + (block * BLOCK_SIZE - base);

	if (p->op->req->op == BLOCK_WRITE)
		memcpy(p->buf + (from - base), user_buf(p) + (from - p->offset), to - from);
	else
		memset(p->buf + (from - base), 0, to - from);
	xts_encrypt(d->xts, block, 1, at, at);
}

static void write_start(struct istore_disk *d, struct piece *p)
{
	uint64_t base = round_down(p->offset, BLOCK_SIZE);
	uint64_t end = p->offset + p->length;
	uint64_t whole = round_up(p->offset, BLOCK_SIZE);
	uint64_t whole_end = round_down(end, BLOCK_SIZE);

	if (whole > p->offset)
		merge(d, p, p->offset, min_u64(whole, end));
	if (whole_end > whole)
		xts_encrypt(d->xts, BLOCK_OF(whole), BLOCK_OF(whole_end - whole),
			    user_buf(p) + (whole - p->offset), p->buf + (whole - base));
	if (end > whole_end && whole_end >= whole)
		merge(d, p, whole_end, end);
	p->state = PIECE_WAIT_WRITE;
	io_write(d->config.loop, &p->io, d->config.file, p->buf, round_up(end, BLOCK_SIZE) - base,
		 place_of(d, base));
}

static void write_begin(struct istore_disk *d, struct piece *p)
{
	if (!head_start(d, p) && !tail_start(d, p))
		write_start(d, p);
}

/* ---- Giving back */

static void punch_start(struct istore_disk *d, struct op *op, uint64_t stop)
{
	struct piece *p = piece_new(d, op, stop);

	if (!p)
		return;
	p->state = PIECE_WAIT_PUNCH;
	io_punch(d->config.loop, &p->io, d->config.file, place_of(d, p->offset), p->length);
}

/* The next part of a WRITE_ZEROES that is no whole block. */
static void zero_edge(struct istore_disk *d, struct op *op)
{
	uint64_t stop = min_u64(op->stop, round_down(op->at, BLOCK_SIZE) + BLOCK_SIZE);
	struct piece *p;

	if (!map_get(d->map, BLOCK_OF(op->at))) {
		op->at = stop;
		return;
	}
	p = piece_new(d, op, stop);
	if (p)
		write_begin(d, p);
}

static void zero_next(struct istore_disk *d, struct op *op)
{
	uint64_t stop = slice_end(d, op->at, round_down(op->stop, BLOCK_SIZE));

	if (!is_aligned(op->at, BLOCK_SIZE) || stop <= op->at) {
		zero_edge(d, op);
		return;
	}
	clear_written(d, BLOCK_OF(op->at), BLOCK_OF(stop));
	if (op->req->flags & BLOCK_NO_HOLE)
		op->at = stop;
	else
		punch_start(d, op, stop);
}

static void discard_next(struct istore_disk *d, struct op *op)
{
	uint64_t stop = slice_end(d, op->at, op->stop);
	uint64_t run = map_run_end(d->map, BLOCK_OF(op->at), BLOCK_OF(stop), true);

	op->at = run * BLOCK_SIZE;
	if (op->at == stop)
		return;
	stop = map_run_end(d->map, run, BLOCK_OF(stop), false) * BLOCK_SIZE;
	punch_start(d, op, stop);
}

/* ---- All of them */

static void start_next(struct istore_disk *d, struct op *op)
{
	uint64_t stop = min_u64(op->stop, round_down(op->at, PIECE) + PIECE);
	bool reads = op->req && op->req->op == BLOCK_READ;
	struct piece *p;
	uint64_t lo;

	if (op->discard) {
		discard_next(d, op);
		return;
	}
	if (!reads && op->req->op != BLOCK_WRITE) {
		zero_next(d, op);
		return;
	}
	lo = reads ? map_run_end(d->map, BLOCK_OF(op->at), BLOCK_END(stop), false) : 0;
	if (reads && lo == BLOCK_END(stop)) {
		read_nothing(op, stop);
		op->at = stop;
		return;
	}
	if (!reads && !turn_has_room(d, stop - op->at)) {
		starve(d, op);
		return;
	}
	p = piece_new(d, op, stop);
	if (p && reads)
		read_start(d, p, lo);
	else if (p)
		write_begin(d, p);
}

static void op_go_on(struct istore_disk *d, struct op *op)
{
	bool transfers = op->req && (op->req->op == BLOCK_READ || op->req->op == BLOCK_WRITE);
	unsigned max = transfers ? PIECES_OF_OP : 1;

	d->n_starved -= op->starved;
	op->starved = false;
	while (op->at < op->stop && !op->error && op->in_flight < max && !op->starved)
		start_next(d, op);
}

static void feed_starved(struct istore_disk *d)
{
	list_for_each_safe (&d->ops, node) {
		struct op *op = list_entry(node, struct op, node);

		if (d->n_starved == 0 || list_empty(&d->free_pieces))
			return;
		if (!op->starved)
			continue;
		op_go_on(d, op);
		if (op_is_over(op))
			op_finish_later(d, op);
	}
}

static void piece_end(struct piece *p, int error)
{
	struct istore_disk *d = p->disk;
	struct op *op = p->op;

	if (error && !op->error)
		op->error = error;
	op->in_flight--;
	list_add_head(&d->free_pieces, &p->node);
	if (d->n_starved)
		feed_starved(d);
	if (!op->starved || op->error)
		op_go_on(d, op);
	if (op_is_over(op))
		op_end(d, op);
}

static void edge_read(struct piece *p, uint64_t block, uint8_t *at)
{
	xts_decrypt(p->disk->xts, block, 1, at, at);
}

static void piece_on_io(struct io_op *io)
{
	struct piece *p = container_of(io, struct piece, io);
	struct istore_disk *d = p->disk;
	uint64_t first = BLOCK_OF(p->offset);
	uint64_t last = BLOCK_OF(p->offset + p->length);

	if (io->result < 0 && p->state != PIECE_WAIT_PUNCH) {
		piece_end(p, io->result == -ENOSPC ? -ENOSPC : -EIO);
		return;
	}
	switch (p->state) {
	case PIECE_WAIT_READ:
		if (list_empty(&d->to_decrypt) && turn_has_room(d, p->length)) {
			read_finish(d, p);
			piece_end(p, 0);
		} else {
			p->state = PIECE_WAIT_TURN;
			list_add_tail(&d->to_decrypt, &p->node);
		}
		return;
	case PIECE_WAIT_TURN: /* disk_on_turn */
		return;
	case PIECE_WAIT_HEAD:
		edge_read(p, first, p->buf);
		if (!tail_start(d, p))
			write_start(d, p);
		return;
	case PIECE_WAIT_TAIL:
		edge_read(p, last, p->buf + (last - first) * BLOCK_SIZE);
		write_start(d, p);
		return;
	case PIECE_WAIT_WRITE:
		set_written(d, first, BLOCK_END(p->offset + p->length));
		piece_end(p, 0);
		return;
	case PIECE_WAIT_PUNCH:
		/* The map says zeroes already; space that does not come back harms nobody. */
		if (io->result < 0 && p->op->discard && !p->op->discard->error)
			p->op->discard->error = (int)io->result;
		piece_end(p, 0);
		return;
	}
}
