/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads, block status, and the reading of a write's edges. An op walks its blocks: where the map
 * knows them it starts reads of the store, as long as they are contiguous there; where a leaf is
 * missing it waits for it. Every block that comes back is held against its checksum (E4).
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static int read_one(struct op *op);
static void read_data(struct op *op, struct read_io *io, const struct entry *e);
static int read_base(struct op *op);
static void status_step(struct op *op);
static void read_on_io(struct device_io *device_io);
static void read_part_done(struct op *op);

static struct read_io *read_io_get(struct volume *v)
{
	struct read_io *io = fair_may_read_io(v) ? pool_get(v->engine->read_ios) : NULL;

	v->n_read_ios += io != NULL;
	return io;
}

static void read_io_put(struct volume *v, struct read_io *io)
{
	v->n_read_ios--;
	pool_put(v->engine->read_ios, io);
}

static bool op_is_edges(const struct op *op)
{
	return op->kind != OP_READ;
}

void read_start(struct op *op)
{
	op->parts = 1;
	if (op_is_edges(op)) {
		op->next = op->head ? op->first : op->end - 1;
	} else {
		op->first = op->req->offset / BLOCK_SIZE;
		op->end = round_up(op->req->offset + op->req->length, BLOCK_SIZE) / BLOCK_SIZE;
		op->next = op->first;
	}
	read_step(op);
}

static void read_on_leaf(struct leaf_wait *wait, int error)
{
	struct op *op = container_of(wait, struct op, wait);

	if (error && !op->error)
		op->error = error;
	read_step(op);
}

/* Starts what can be started; waits for a leaf or a pooled object, or ends. */
void read_step(struct op *op)
{
	if (op->kind == OP_STATUS) {
		status_step(op);
		return;
	}
	while (op->next < op->end && !op->error) {
		int r = read_one(op);

		if (r == -EAGAIN) {
			op->wait.wake = read_on_leaf;
			leaf_load(op->volume, op->next / LEAF_BLOCKS, &op->wait);
			return;
		}
		if (r == -ENOBUFS) {
			op_starve(op);
			return;
		}
		if (r < 0)
			op->error = r;
	}
	read_part_done(op);
}

static uint64_t next_block(const struct op *op, uint64_t lba, uint64_t n)
{
	if (!op_is_edges(op))
		return lba + n;
	return lba == op->first && op->head && op->tail ? op->end - 1 : op->end;
}

/* Where the bytes of block lba belong: all of the block, or only a part of it at *ret_from. */
static uint8_t *read_target(const struct op *op, uint64_t lba, uint32_t *ret_from,
			    uint32_t *ret_len)
{
	uint64_t start = lba * BLOCK_SIZE;
	uint64_t from;
	uint64_t to;

	*ret_from = 0;
	*ret_len = BLOCK_SIZE;
	if (op_is_edges(op))
		return lba == op->first && op->head ? op->head : op->tail;
	from = max_u64(start, op->req->offset);
	to = min_u64(start + BLOCK_SIZE, op->req->offset + op->req->length);
	*ret_from = (uint32_t)(from - start);
	*ret_len = (uint32_t)(to - from);
	return (uint8_t *)op->req->buf + (from - op->req->offset);
}

/* A leaf's checksum was right, but what it says came from a disk all the same. */
static bool place_is_ours(const struct volume *v, const struct entry *e)
{
	uint64_t end = (uint64_t)e->offset * BLOCK_SECTOR + BLOCK_SIZE;

	return segments_find(v, e->segment) && end <= v->store->info.segment_size;
}

/* Deals with the block at op->next, and those after it that share its fate. -EAGAIN: its leaf is
 * missing; -ENOBUFS: no read_io; -EIO. */
static int read_one(struct op *op)
{
	struct volume *v = op->volume;
	struct read_io *io;
	struct entry e;
	uint64_t n;
	uint32_t from;
	uint32_t len;
	uint8_t *to;
	int r = map_get_run(v, op->next, op->end - op->next, &e, &n);

	if (r < 0)
		return r;
	switch ((enum entry_state)e.state) {
	case ENTRY_INHERIT:
		if (hydrate_has(v, op->next))
			return read_base(op);
		/* fallthrough */
	case ENTRY_ZERO:
	case ENTRY_ZERO_RESERVED:
		if (op_is_edges(op))
			n = 1;
		for (uint64_t i = 0; i < n; i++) {
			to = read_target(op, op->next + i, &from, &len);
			memset(to, 0, len);
		}
		op->next = next_block(op, op->next, n);
		return 0;
	case ENTRY_BAD:
		volume_bad_block(v, op->next, "known to be lost");
		return -EIO;
	case ENTRY_DATA:
		if (!place_is_ours(v, &e)) {
			volume_bad_block(v, op->next, "its map entry leads nowhere");
			return -EIO;
		}
		io = fair_may_read(v) ? read_io_get(v) : NULL;
		if (!io)
			return -ENOBUFS;
		read_data(op, io, &e);
		return 0;
	}
	return -EIO;
}

static void read_on_base(struct volume_base_req *req)
{
	struct read_io *io = container_of(req, struct read_io, base);
	struct op *op = io->op;
	struct volume *v = op->volume;

	flight_end(v, &io->io.flight);
	if (req->error) {
		volume_bad_block(v, req->lba, "its base snapshot can't be read");
		op->error = op->error ? op->error : -EIO;
	} else {
		if (io->bounce)
			memcpy(io->copy_to, io->bounce + io->copy_from, io->copy_len);
		bad_good(v, req->lba, req->blocks);
	}
	if (io->bounce)
		block_put(v->engine, io->bounce);
	read_io_put(v, io);
	hydrate_user(v, -1);
	read_part_done(op);
}

/* How many blocks from op->next on are whole, and the base's; within one of its units. */
static uint32_t base_gather(const struct op *op)
{
	uint64_t unit_end = round_down(op->next, VOLUME_UNIT_BLOCKS) + VOLUME_UNIT_BLOCKS;
	uint64_t end = min_u64(op->end, unit_end);
	uint32_t n = 1;

	while (op->next + n < end && hydrate_has(op->volume, op->next + n)) {
		struct entry more;
		uint32_t from;
		uint32_t len;

		read_target(op, op->next + n, &from, &len);
		if (len != BLOCK_SIZE || map_get(op->volume, op->next + n, &more) < 0 ||
		    more.state != ENTRY_INHERIT)
			break;
		n++;
	}
	return n;
}

static int read_base(struct op *op)
{
	struct volume *v = op->volume;
	struct read_io *io;
	uint32_t from;
	uint32_t len;
	uint8_t *to = read_target(op, op->next, &from, &len);

	if (!v->base) {
		volume_bad_block(v, op->next, "its base snapshot is not at hand");
		return -EIO;
	}
	io = read_io_get(v);
	if (!io)
		return -ENOBUFS;
	io->op = op;
	io->bounce = NULL;
	if (len != BLOCK_SIZE) {
		io->bounce = block_get(v->engine);
		io->copy_from = from;
		io->copy_len = len;
		io->copy_to = to;
	}
	io->base =
	    (struct volume_base_req){.lba = op->next,
				     .blocks = io->bounce || op_is_edges(op) ? 1 : base_gather(op),
				     .buf = io->bounce ? io->bounce : to,
				     .demand = true,
				     .done = read_on_base};
	op->parts++;
	op->next = next_block(op, op->next, io->base.blocks);
	v->stats.base_bytes += (uint64_t)io->base.blocks * BLOCK_SIZE;
	hydrate_user(v, 1);
	flight_begin(v, &io->io.flight, VOLUME_IO_BASE);
	v->base->ops->read(v->base, &io->base);
	return 0;
}

/* Reading what lies between two blocks is cheaper than a second read, up to about here. */
#define READ_GAP_SECTORS (READ_GAP_MAX / BLOCK_SECTOR)
#define BLOCK_SECTORS    (BLOCK_SIZE / BLOCK_SECTOR)

/* How many blocks from op->next on are whole, and lie near each other in the store, in order; their
 * runs and sums. */
static uint32_t read_gather(struct op *op, struct read_io *io, const struct entry *e)
{
	uint32_t most = fair_blocks(op->volume, READ_IO_BLOCKS);
	uint64_t end = e->offset + BLOCK_SECTORS;
	uint32_t n = 1;

	while (n < most && op->next + n < op->end) {
		struct entry more;
		uint32_t from;
		uint32_t len;

		read_target(op, op->next + n, &from, &len);
		if (len != BLOCK_SIZE || map_get(op->volume, op->next + n, &more) < 0)
			break;
		if (more.state != ENTRY_DATA || more.segment != e->segment || more.offset < end ||
		    more.offset > end + READ_GAP_SECTORS || !place_is_ours(op->volume, &more))
			break;
		if (more.offset != end) {
			if (io->n_runs == READ_IO_RUNS)
				break;
			io->runs[io->n_runs++] =
			    (struct read_run){.first = n, .offset = more.offset};
		}
		io->sums[n++] = more.sum;
		end = more.offset + BLOCK_SECTORS;
	}
	return n;
}

static uint32_t run_blocks(const struct read_io *io, uint32_t run)
{
	uint32_t end = run + 1 < io->n_runs ? io->runs[run + 1].first : io->blocks;

	return end - io->runs[run].first;
}

static void read_send(struct volume *v, struct read_io *io)
{
	uint64_t segment = io->segment->id;
	uint32_t at = io->runs[0].offset;
	int n = 0;

	io->io.done = read_on_io;
	if (io->n_runs == 1) {
		device_read(v, &io->io, VOLUME_IO_READ, segment, at * BLOCK_SECTOR, io->buf,
			    io->blocks * BLOCK_SIZE);
		return;
	}
	for (uint32_t r = 0; r < io->n_runs; r++) {
		const struct read_run *run = &io->runs[r];

		if (run->offset != at)
			io->iov[n++] = (struct iovec){
			    .iov_base = v->engine->gap,
			    .iov_len = (size_t)(run->offset - at) * BLOCK_SECTOR,
			};
		io->iov[n++] = (struct iovec){
		    .iov_base = io->buf + (size_t)run->first * BLOCK_SIZE,
		    .iov_len = (size_t)run_blocks(io, r) * BLOCK_SIZE,
		};
		at = run->offset + run_blocks(io, r) * BLOCK_SECTORS;
	}
	device_readv(v, &io->io, VOLUME_IO_READ, segment, io->runs[0].offset * BLOCK_SECTOR,
		     io->iov, n);
}

static void read_data(struct op *op, struct read_io *io, const struct entry *e)
{
	struct volume *v = op->volume;
	uint32_t from;
	uint32_t len;
	uint8_t *to = read_target(op, op->next, &from, &len);

	io->op = op;
	io->lba = op->next;
	io->bounce = NULL;
	io->blocks = 1;
	io->buf = to;
	io->runs[0] = (struct read_run){.first = 0, .offset = e->offset};
	io->n_runs = 1;
	io->sums[0] = e->sum;
	io->alone = false;
	io->error = 0;
	if (len != BLOCK_SIZE) {
		io->bounce = io->buf = block_get(v->engine);
		io->copy_from = from;
		io->copy_len = len;
		io->copy_to = to;
	} else if (!op_is_edges(op)) {
		io->blocks = read_gather(op, io, e);
	}
	io->segment = segments_find(v, e->segment);
	CHECK(io->segment);
	io->segment->users++;
	fair_read_started(v, io->blocks);
	op->parts++;
	op->next = next_block(op, op->next, io->blocks);
	read_send(v, io);
}

/* What was read is what a read would find now. */
static bool is_still_there(struct volume *v, const struct read_io *io, uint32_t i)
{
	struct entry now;

	return map_get(v, io->lba + i, &now) == 0 && now.state == ENTRY_DATA &&
	       now.segment == io->segment->id && now.sum == io->sums[i];
}

/* Blocks [from, to) came, or not. */
static void read_took(struct volume *v, struct read_io *io, uint32_t from, uint32_t to)
{
	if (io->io.result < 0) {
		volume_bad_block(v, io->lba + from, "the store can't read it");
		io->error = -EIO;
		io->n_errors++;
		return;
	}
	for (uint32_t i = from; i < to; i++) {
		const uint8_t *block = io->buf + (size_t)i * BLOCK_SIZE;

		if (block_sum(v->id, io->lba + i, block) != io->sums[i]) {
			volume_bad_block(v, io->lba + i, "its checksum is wrong");
			io->error = -EIO;
		} else if (v->bad.n > 0 && is_still_there(v, io, i)) {
			bad_good(v, io->lba + i, 1);
		}
	}
}

static void read_send_alone(struct volume *v, struct read_io *io)
{
	uint32_t i = io->alone_next;
	uint32_t r = io->n_runs - 1;

	while (io->runs[r].first > i)
		r--;
	device_read(v, &io->io, VOLUME_IO_READ, io->segment->id,
		    (io->runs[r].offset + (i - io->runs[r].first) * BLOCK_SECTORS) * BLOCK_SECTOR,
		    io->buf + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
}

/* Of blocks that could not be read at once, some may be good, or all: what is bad may lie between
 * them. So each is read alone. A disk may take long to find out that it can't read: after so many
 * errors the rest is not tried. */
#define READ_ALONE_ERRORS 4

/* True: a block is read alone now, the answer comes later. */
static bool read_alone(struct volume *v, struct read_io *io)
{
	if (!io->alone) {
		io->alone = true;
		io->alone_next = 0;
		io->n_errors = 0;
		read_send_alone(v, io);
		return true;
	}
	read_took(v, io, io->alone_next, io->alone_next + 1);
	if (++io->alone_next == io->blocks)
		return false;
	if (io->n_errors == READ_ALONE_ERRORS) {
		bad_some(v, io->lba + io->alone_next, "the store can't read those before it");
		return false;
	}
	read_send_alone(v, io);
	return true;
}

static void read_on_io(struct device_io *device_io)
{
	struct read_io *io = container_of(device_io, struct read_io, io);
	struct op *op = io->op;
	struct volume *v = op->volume;

	if (io->alone || (io->io.result < 0 && io->blocks > 1)) {
		if (read_alone(v, io))
			return;
	} else {
		read_took(v, io, 0, io->blocks);
	}
	io->segment->users--;
	fair_read_ended(v, io->blocks);
	if (io->error && !op->error)
		op->error = io->error;
	if (io->bounce) {
		if (!io->error)
			memcpy(io->copy_to, io->bounce + io->copy_from, io->copy_len);
		block_put(v->engine, io->bounce);
	}
	read_io_put(v, io);
	read_part_done(op);
}

static void read_part_done(struct op *op)
{
	if (--op->parts > 0)
		return;
	if (op_is_edges(op))
		write_edges_read(op);
	else
		op_done(op);
}

/* ---- Block status -------------------------------------------------------------------------------
 */

/* Blocks looked at one by one before the answer is cut short (the protocol allows that), so that a
 * question about 4 GiB never holds up the loop. */
#define STATUS_LOOKUPS 16384

static uint32_t status_flags(const struct entry *e)
{
	switch ((enum entry_state)e->state) {
	case ENTRY_INHERIT:
	case ENTRY_ZERO:
		return BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO;
	case ENTRY_ZERO_RESERVED:
		return BLOCK_EXTENT_ZERO;
	case ENTRY_DATA:
	case ENTRY_BAD:
		return 0;
	}
	return 0;
}

/* Adds n blocks from op->next to the extents, clipped to the request. False: there is no room. */
static bool status_add(struct op *op, uint64_t n, uint32_t flags)
{
	struct block_req *req = op->req;
	uint64_t from = max_u64(op->next * BLOCK_SIZE, req->offset);
	uint64_t to = min_u64((op->next + n) * BLOCK_SIZE, req->offset + req->length);
	struct block_extent *last = req->n_extents ? &req->extents[req->n_extents - 1] : NULL;

	if (last && last->flags == flags) {
		last->length += to - from;
		return true;
	}
	if (req->n_extents == req->max_extents || (last && (req->flags & BLOCK_REQ_ONE)))
		return false;
	req->extents[req->n_extents].length = to - from;
	req->extents[req->n_extents++].flags = flags;
	return true;
}

static void status_on_base(struct volume_base_req *req)
{
	struct read_io *io = container_of(req, struct read_io, base);
	struct op *op = io->op;
	struct volume *v = op->volume;
	uint32_t n = req->error ? req->blocks : req->n;
	uint32_t flags = !req->error && req->zero ? BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO : 0;

	flight_end(v, &io->io.flight);
	read_io_put(v, io);
	hydrate_user(v, -1);
	if (status_add(op, n, flags)) {
		op->next += n;
		status_step(op);
	} else {
		op_done(op);
	}
}

/* Asks the base what its blocks from op->next on are. False: there is no read_io, or no base: then
 * the block counts as data. */
static bool status_base(struct op *op)
{
	struct volume *v = op->volume;
	struct read_io *io = v->base ? read_io_get(v) : NULL;
	uint64_t end = min_u64(op->end, op->next + STATUS_LOOKUPS);
	uint64_t n = 1;

	if (!io)
		return false;
	while (op->next + n < end && hydrate_has(v, op->next + n)) {
		struct entry e;
		uint64_t more;

		if (map_get_run(v, op->next + n, end - op->next - n, &e, &more) < 0 ||
		    e.state != ENTRY_INHERIT)
			break;
		n += more;
	}
	n = min_u64(n, v->sb.base_size / BLOCK_SIZE - op->next);
	io->op = op;
	io->base = (struct volume_base_req){
	    .lba = op->next, .blocks = (uint32_t)n, .demand = true, .done = status_on_base};
	hydrate_user(v, 1);
	flight_begin(v, &io->io.flight, VOLUME_IO_BASE);
	v->base->ops->status(v->base, &io->base);
	return true;
}

static void status_on_leaf(struct leaf_wait *wait, int error)
{
	struct op *op = container_of(wait, struct op, wait);

	if (error)
		op->error = error;
	status_step(op);
}

static void status_step(struct op *op)
{
	for (uint32_t looked = 0; op->next < op->end && !op->error && looked < STATUS_LOOKUPS;
	     looked++) {
		struct entry e;
		uint64_t n;

		if (map_get_run(op->volume, op->next, op->end - op->next, &e, &n) == -EAGAIN) {
			op->wait.wake = status_on_leaf;
			leaf_load(op->volume, op->next / LEAF_BLOCKS, &op->wait);
			return;
		}
		if (e.state == ENTRY_INHERIT && hydrate_has(op->volume, op->next)) {
			if (status_base(op))
				return;
			if (op->volume->base) {
				op_starve(op);
				return;
			}
			n = 1;
			e.state = ENTRY_BAD; /* counts as data */
		}
		if (!status_add(op, n, status_flags(&e)))
			break;
		op->next += n;
	}
	if (op->error && op->req->n_extents > 0)
		op->error = 0; /* what came before the bad leaf is an answer */
	op_done(op);
}

void status_start(struct op *op)
{
	op->first = op->req->offset / BLOCK_SIZE;
	op->end = round_up(op->req->offset + op->req->length, BLOCK_SIZE) / BLOCK_SIZE;
	op->next = op->first;
	op->req->n_extents = 0;
	status_step(op);
}
