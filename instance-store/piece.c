/* SPDX-License-Identifier: Apache-2.0
 *
 * How an op of a disk is carried out, piece by piece.
 *
 * The map is changed where a crash between two lines is harmless: a bit is set after the block is
 * written and before the answer; cleared before anything below is given back.
 */
#include "instance-store/disk_internal.h"

#include <errno.h>
#include <string.h>

static void read_finish(struct istore_disk *d, struct piece *p);
static void piece_end(struct piece *p, int error);
static void feed_starved(struct istore_disk *d);

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

/* ---- Turns ------------------------------------------------------------------------- */

/* False: the turn has had enough; istore_disk_on_turn goes on in the next one. It is under way only
 * while a piece or an op waits for it, so nobody frees the disk before it is back. */
static bool turn_has_room(struct istore_disk *d, uint64_t bytes)
{
	uint64_t now = io_now(d->config.loop);

	if (d->turn_runs)
		return false;
	if (d->turn_at != now) {
		d->turn_at = now;
		d->turn_bytes = 0;
	}
	if (d->turn_bytes >= TURN_BYTES) {
		d->turn_runs = true;
		io_defer(d->config.loop, &d->turn, 0);
		return false;
	}
	d->turn_bytes += bytes;
	return true;
}

void istore_disk_on_turn(struct io_op *io)
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

void istore_op_go_on(struct istore_disk *d, struct op *op)
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
		istore_op_go_on(d, op);
		if (istore_op_is_over(op))
			istore_op_finish_later(d, op);
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
		istore_op_go_on(d, op);
	if (istore_op_is_over(op))
		istore_op_end(d, op);
}

static void edge_read(struct piece *p, uint64_t block, uint8_t *at)
{
	xts_decrypt(p->disk->xts, block, 1, at, at);
}

void istore_piece_on_io(struct io_op *io)
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
	case PIECE_WAIT_TURN: /* istore_disk_on_turn */
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
