/* SPDX-License-Identifier: Apache-2.0
 *
 * A table of 1-MiB chunks, each with a bitmap of the 4-KiB blocks in it that hold something. A
 * block whose bit is clear is a hole and all zeroes; a chunk without any bit set has no memory.
 */
#include "block/ram.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define CHUNK_SIZE   MiB
#define CHUNK_BLOCKS (CHUNK_SIZE / BLOCK_SIZE)

struct chunk {
	uint64_t used[CHUNK_BLOCKS / 64];
	uint32_t n_used;
	uint8_t *data; /* CHUNK_SIZE */
};

struct ram {
	struct block_dev dev;
	struct io_loop *loop;
	struct list queue;
	struct io_op run;
	bool running;
	uint64_t n_used; /* blocks */
	uint64_t n_chunks;
	struct chunk *chunks;
};

static void ram_submit(struct block_dev *dev, struct block_req *req);
static void ram_run(struct io_op *op);
static int ram_carry_out(struct ram *ram, struct block_req *req);
static int ram_read(struct ram *ram, uint64_t offset, uint64_t length, uint8_t *buf);
static int ram_write(struct ram *ram, uint64_t offset, uint64_t length, const uint8_t *buf);
static int ram_trim(struct ram *ram, uint64_t offset, uint64_t length);
static int ram_zero(struct ram *ram, const struct block_req *req);
static void ram_status(struct ram *ram, struct block_req *req);

static const struct block_ops ram_ops = {.name = "ram", .submit = ram_submit};

/* ---- Chunks ---- */

static bool block_used(const struct ram *ram, uint64_t block)
{
	const struct chunk *c = &ram->chunks[block / CHUNK_BLOCKS];
	uint64_t bit = block % CHUNK_BLOCKS;

	return c->used[bit / 64] >> (bit % 64) & 1;
}

static int block_use(struct ram *ram, uint64_t block)
{
	struct chunk *c = &ram->chunks[block / CHUNK_BLOCKS];
	uint64_t bit = block % CHUNK_BLOCKS;

	if (block_used(ram, block))
		return 0;
	if (!c->data)
		c->data = mem_alloc_pages(CHUNK_SIZE);
	if (!c->data)
		return -ENOSPC;
	c->used[bit / 64] |= (uint64_t)1 << (bit % 64);
	c->n_used++;
	ram->n_used++;
	return 0;
}

static void block_drop(struct ram *ram, uint64_t block)
{
	struct chunk *c = &ram->chunks[block / CHUNK_BLOCKS];
	uint64_t bit = block % CHUNK_BLOCKS;

	if (!block_used(ram, block))
		return;
	memset(c->data + bit * BLOCK_SIZE, 0, BLOCK_SIZE);
	c->used[bit / 64] &= ~((uint64_t)1 << (bit % 64));
	c->n_used--;
	ram->n_used--;
	if (c->n_used > 0)
		return;
	mem_free_pages(c->data, CHUNK_SIZE);
	c->data = NULL;
}

/* ---- Set-up ---- */

static uint64_t chunks_for(uint64_t size)
{
	return round_up(size, CHUNK_SIZE) / CHUNK_SIZE;
}

int ram_new(struct io_loop *loop, uint64_t size, uint32_t flags, struct ram **ret_ram,
	    struct err *err)
{
	struct ram *ram;

	if (size == 0 || !is_aligned(size, BLOCK_SECTOR) || size > INT64_MAX)
		return err_set(err, -EINVAL,
			       "a RAM disk of %llu bytes: the size must be a multiple of %d",
			       (unsigned long long)size, BLOCK_SECTOR);
	ram = mem_alloc(sizeof(*ram));
	if (!ram)
		return err_set(err, -ENOMEM, "no memory for a RAM disk");
	ram->dev = (struct block_dev){.ops = &ram_ops, .size = size, .flags = flags};
	ram->loop = loop;
	ram->run.done = ram_run;
	list_init(&ram->queue);
	ram->n_chunks = chunks_for(size);
	ram->chunks = mem_calloc(ram->n_chunks, sizeof(*ram->chunks));
	if (!ram->chunks) {
		mem_free(ram);
		return err_set(err, -ENOMEM, "no memory for the table of a RAM disk");
	}
	*ret_ram = ram;
	return 0;
}

void ram_free(struct ram *ram)
{
	if (!ram)
		return;
	CHECK(!ram->running);
	for (uint64_t i = 0; i < ram->n_chunks; i++)
		mem_free_pages(ram->chunks[i].data, CHUNK_SIZE);
	mem_free(ram->chunks);
	mem_free(ram);
}

struct block_dev *ram_dev(struct ram *ram)
{
	return &ram->dev;
}

int ram_grow(struct ram *ram, uint64_t size)
{
	uint64_t n = chunks_for(size);
	struct chunk *chunks;

	if (size < ram->dev.size || !is_aligned(size, BLOCK_SECTOR) || size > INT64_MAX)
		return -EINVAL;
	chunks = mem_realloc(ram->chunks, n * sizeof(*chunks));
	if (!chunks)
		return -ENOMEM;
	memset(chunks + ram->n_chunks, 0, (n - ram->n_chunks) * sizeof(*chunks));
	ram->chunks = chunks;
	ram->n_chunks = n;
	block_set_size(&ram->dev, size);
	return 0;
}

uint64_t ram_allocated(const struct ram *ram)
{
	return ram->n_used * BLOCK_SIZE;
}

/* ---- Requests ---- */

static void ram_submit(struct block_dev *dev, struct block_req *req)
{
	struct ram *ram = container_of(dev, struct ram, dev);

	list_add_tail(&ram->queue, &req->link);
	if (ram->running)
		return;
	ram->running = true;
	io_defer(ram->loop, &ram->run, 0);
}

/* What a `done` submits in turn waits for the next turn. */
static void ram_run(struct io_op *op)
{
	struct ram *ram = container_of(op, struct ram, run);
	struct list batch;
	struct list *node;

	ram->running = false;
	list_init(&batch);
	list_splice_tail(&batch, &ram->queue);
	while ((node = list_pop(&batch))) {
		struct block_req *req = list_entry(node, struct block_req, link);

		block_done(req, ram_carry_out(ram, req));
	}
}

static int ram_carry_out(struct ram *ram, struct block_req *req)
{
	switch (req->op) {
	case BLOCK_READ:
		return ram_read(ram, req->offset, req->length, req->buf);
	case BLOCK_WRITE:
		return ram_write(ram, req->offset, req->length, req->buf);
	case BLOCK_TRIM:
		return ram_trim(ram, req->offset, req->length);
	case BLOCK_WRITE_ZEROES:
		return ram_zero(ram, req);
	case BLOCK_STATUS:
		ram_status(ram, req);
		return 0;
	case BLOCK_FLUSH:
	case BLOCK_CACHE:
		break;
	}
	return 0;
}

/* The part of the range that lies in the block at its start. */
static uint64_t bytes_in_block(uint64_t offset, uint64_t length)
{
	return min_u64(length, BLOCK_SIZE - offset % BLOCK_SIZE);
}

static uint8_t *data_at(struct ram *ram, uint64_t offset)
{
	return ram->chunks[offset / CHUNK_SIZE].data + offset % CHUNK_SIZE;
}

static int ram_read(struct ram *ram, uint64_t offset, uint64_t length, uint8_t *buf)
{
	while (length > 0) {
		uint64_t n = bytes_in_block(offset, length);

		if (block_used(ram, offset / BLOCK_SIZE))
			memcpy(buf, data_at(ram, offset), n);
		else
			memset(buf, 0, n);
		offset += n;
		length -= n;
		buf += n;
	}
	return 0;
}

/* Takes all the memory first, so that a write without room changes nothing that can be read. */
static int ram_use(struct ram *ram, uint64_t offset, uint64_t length)
{
	uint64_t end = round_up(offset + length, BLOCK_SIZE) / BLOCK_SIZE;
	int error = 0;

	for (uint64_t block = offset / BLOCK_SIZE; block < end && !error; block++)
		error = block_use(ram, block);
	return error;
}

static int ram_write(struct ram *ram, uint64_t offset, uint64_t length, const uint8_t *buf)
{
	int error = ram_use(ram, offset, length);

	if (error)
		return error;
	while (length > 0) {
		uint64_t n = bytes_in_block(offset, length);

		memcpy(data_at(ram, offset), buf, n);
		offset += n;
		length -= n;
		buf += n;
	}
	return 0;
}

/* Drops the whole blocks inside; the last block of a disk that ends within it counts as whole. */
static int ram_trim(struct ram *ram, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + length;
	uint64_t first = round_up(offset, BLOCK_SIZE) / BLOCK_SIZE;
	uint64_t last =
	    end == ram->dev.size ? round_up(end, BLOCK_SIZE) / BLOCK_SIZE : end / BLOCK_SIZE;

	for (uint64_t block = first; block < last; block++) {
		if (!ram->chunks[block / CHUNK_BLOCKS].data)
			block |= CHUNK_BLOCKS - 1; /* nothing in this chunk */
		else
			block_drop(ram, block);
	}
	return 0;
}

static int ram_zero(struct ram *ram, const struct block_req *req)
{
	uint64_t offset = req->offset;
	uint64_t length = req->length;

	if (req->flags & BLOCK_NO_HOLE) {
		int error = ram_use(ram, offset, length);

		if (error)
			return error;
	} else {
		ram_trim(ram, offset, length);
	}
	while (length > 0) {
		uint64_t n = bytes_in_block(offset, length);

		if (!ram->chunks[offset / CHUNK_SIZE].data)
			n = min_u64(length, CHUNK_SIZE - offset % CHUNK_SIZE);
		else if (block_used(ram, offset / BLOCK_SIZE))
			memset(data_at(ram, offset), 0, n);
		offset += n;
		length -= n;
	}
	return 0;
}

static void ram_status(struct ram *ram, struct block_req *req)
{
	uint64_t end = req->offset + req->length;
	uint64_t offset = req->offset;
	uint32_t max = req->flags & BLOCK_REQ_ONE ? 1 : req->max_extents;

	CHECK(req->extents);
	while (offset < end) {
		uint64_t n = bytes_in_block(offset, end - offset);
		uint32_t flags = BLOCK_EXTENT_HOLE | BLOCK_EXTENT_ZERO;
		struct block_extent *last;

		if (!ram->chunks[offset / CHUNK_SIZE].data)
			n = min_u64(end - offset, CHUNK_SIZE - offset % CHUNK_SIZE);
		else if (block_used(ram, offset / BLOCK_SIZE))
			flags = 0;
		last = req->n_extents ? &req->extents[req->n_extents - 1] : NULL;
		if (last && last->flags == flags) {
			last->length += n;
		} else {
			if (req->n_extents == max)
				return;
			req->extents[req->n_extents++] = (struct block_extent){n, flags};
		}
		offset += n;
	}
}
