/* SPDX-License-Identifier: Apache-2.0
 *
 * A read goes block by block; for each:
 *
 *   LOCATE   down the tree, page by page, to the block's entry (pages.c)
 *   FETCH    one ranged read of the frames that are wanted
 *   UNPACK   on a worker: checksums, inflate, hash, into the caller's buffer; a lone frame that
 *            is not compressed at once
 */
#include "snapshots/reader.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/internal.h"

#include <errno.h>
#include <string.h>

#define READS_DFLT 8
#define READS_MAX  64

struct snap_reading {
	struct list link; /* reader->idle */
	struct snap_reader *reader;
	struct snap_read *read;
	uint64_t offset; /* what is left of the read */
	uint64_t length;
	uint8_t *buf;
	/* The block at hand. */
	uint64_t block;
	uint32_t from; /* bytes in it */
	uint32_t n;
	uint32_t first_frame;
	uint32_t n_frames;
	struct snap_entry entry;
	struct page_wait page;
	struct blob_op blob;
	struct io_work work;
	struct io_op defer;
	int check;
	uint8_t *stored; /* BLOCK_STORED_MAX */
	uint8_t *out;    /* SNAP_BLOCK */
};

static void reading_deferred(struct io_op *defer);
static void reading_next(struct snap_reading *r);
static void locate(struct snap_reading *r, const uint8_t *page, unsigned level);
static void locate_on_page(struct page_wait *wait, const uint8_t *page, int error);
static void fetch(struct snap_reading *r);
static void fetch_on_blob(struct blob_op *blob);
static void unpack_run(struct io_work *work);
static void unpack_done(struct io_work *work);

/* ---- Opening ----------------------------------------------------------------------------------
 */

static size_t buffers_stride(void)
{
	return round_up(BLOCK_STORED_MAX, 4096) + SNAP_BLOCK;
}

struct snap_reader *reader_new(struct repository *repository, struct io_loop *loop,
			       const struct snap_info *info, uint32_t cache_bytes, uint32_t reads)
{
	struct snap_reader *r = mem_alloc(sizeof(*r));

	if (!r)
		return NULL;
	r->repository = repository;
	r->loop = loop;
	r->info = *info;
	r->n_readings = reads;
	list_init(&r->idle);
	list_init(&r->waiting);
	r->pages = pages_new(repository, loop, cache_bytes);
	if (reads > 0) {
		r->readings = mem_calloc(reads, sizeof(*r->readings));
		r->buffers = mem_alloc_pages(reads * buffers_stride());
	}
	if (!r->pages || (reads > 0 && (!r->readings || !r->buffers))) {
		snap_reader_close(r);
		return NULL;
	}
	for (uint32_t i = 0; i < reads; i++) {
		struct snap_reading *reading = &r->readings[i];

		reading->reader = r;
		reading->defer.done = reading_deferred;
		reading->stored = r->buffers + i * buffers_stride();
		reading->out = reading->stored + round_up(BLOCK_STORED_MAX, 4096);
		list_add_tail(&r->idle, &reading->link);
	}
	return r;
}

void snap_reader_close(struct snap_reader *reader)
{
	uint32_t idle = 0;

	if (!reader)
		return;
	list_for_each (&reader->idle, node)
		idle++;
	CHECK(!reader->buffers || idle == 0 || idle == reader->n_readings);
	pages_free(reader->pages);
	mem_free_pages(reader->buffers, reader->n_readings * buffers_stride());
	mem_free(reader->readings);
	mem_free(reader);
}

const struct snap_info *snap_reader_info(const struct snap_reader *reader)
{
	return &reader->info;
}

static void open_on_info(struct repository_op *get)
{
	struct snap_reader_op *op = container_of(get, struct snap_reader_op, get);
	struct snap_reader *r = op->reader;

	op->error = get->error;
	op->err = get->err;
	if (op->error == 0 && r->info.state == SNAP_PENDING)
		op->error = err_set(&op->err, -EAGAIN, "the snapshot is not completed yet");
	if (op->error) {
		snap_reader_close(r);
		op->reader = NULL;
	}
	op->done(op);
}

static void open_without_memory(struct io_op *defer)
{
	struct blob_op *blob = container_of(defer, struct blob_op, op);
	struct repository_op *get = container_of(blob, struct repository_op, blob);
	struct snap_reader_op *op = container_of(get, struct snap_reader_op, get);

	op->error = err_set(&op->err, -ENOMEM, "out of memory for a reader");
	op->done(op);
}

void snap_reader_open(struct repository *repository, struct io_loop *loop,
		      const struct snap_reader_config *config, struct snap_reader_op *op)
{
	uint32_t reads = config->reads ? config->reads : READS_DFLT;
	struct snap_info *info = mem_alloc(sizeof(*info));

	CHECK(reads <= READS_MAX);
	op->reader = info ? reader_new(repository, loop, info, config->cache_bytes, reads) : NULL;
	mem_free(info);
	if (!op->reader) {
		op->get.blob.op.done = open_without_memory;
		io_defer(loop, &op->get.blob.op, 0);
		return;
	}
	op->get.done = open_on_info;
	if (config->holder)
		snap_get_held(repository, loop, &op->get, config->id, config->holder,
			      &op->reader->info);
	else
		snap_get(repository, loop, &op->get, config->id, &op->reader->info);
}

/* ---- Reads ------------------------------------------------------------------------------------
 */

static void reading_begin(struct snap_reader *reader)
{
	struct list *idle, *node;

	while (!list_empty(&reader->waiting) && !list_empty(&reader->idle)) {
		struct snap_reading *r;

		node = list_pop(&reader->waiting);
		idle = list_pop(&reader->idle);
		r = container_of(idle, struct snap_reading, link);
		r->read = container_of(node, struct snap_read, link);
		r->read->at_work = r;
		r->offset = r->read->offset;
		r->length = r->read->length;
		r->buf = r->read->buf;
		io_defer(reader->loop, &r->defer, 0);
	}
}

void snap_read(struct snap_reader *reader, struct snap_read *read, void *buf, uint64_t offset,
	       uint64_t length)
{
	uint64_t end = blocks_of(reader->info.size) * SNAP_BLOCK;

	CHECK(reader->n_readings > 0);
	CHECK(offset <= end);
	CHECK(length <= end - offset);
	read->reader = reader;
	read->buf = buf;
	read->offset = offset;
	read->length = length;
	read->error = 0;
	list_add_tail(&reader->waiting, &read->link);
	reading_begin(reader);
}

static void reading_deferred(struct io_op *defer)
{
	struct snap_reading *r = container_of(defer, struct snap_reading, defer);
	struct snap_reader *reader = r->reader;
	struct snap_read *read = r->read;

	if (r->length > 0 && !read->error) {
		reading_next(r);
		return;
	}
	r->read = NULL;
	list_add_tail(&reader->idle, &r->link);
	reading_begin(reader);
	read->done(read); /* may close the reader */
}

/* It ends on a later turn: nobody who is on the stack now may find the reader closed. */
static void reading_fail(struct snap_reading *r, int error)
{
	r->read->error = error;
	r->read->bad_block = r->block;
	io_defer(r->reader->loop, &r->defer, 0);
}

static void reading_bad(struct snap_reading *r, const char *why)
{
	char text[ID_TEXT_MAX], name[BLOB_NAME_MAX];

	err_set(&r->read->err, -EIO, "snapshot %s, block %llu: %s: %s: %s",
		id_format(r->reader->info.id, SNAP_PREFIX, text), (unsigned long long)r->block,
		r->reader->repository->blobs->place, pack_name(&r->entry.item.pack, false, name),
		why);
	reading_fail(r, -EIO);
}

/* The next block. */
static void reading_next(struct snap_reading *r)
{
	const uint8_t *root;

	r->block = r->offset / SNAP_BLOCK;
	r->from = (uint32_t)(r->offset % SNAP_BLOCK);
	r->n = (uint32_t)min_u64(r->length, SNAP_BLOCK - r->from);
	r->page = (struct page_wait){
	    .done = locate_on_page,
	    .err = &r->read->err,
	    .item = r->reader->info.root,
	    .level = PAGE_LEVELS - 1,
	};
	if (r->page.item.length == 0) {
		locate(r, NULL, 0);
		return;
	}
	root = pages_find(r->reader->pages, &r->page.item);
	if (root)
		locate(r, root, r->page.level);
	else
		pages_load(r->reader->pages, &r->page);
}

static void locate_on_page(struct page_wait *wait, const uint8_t *page, int error)
{
	struct snap_reading *r = container_of(wait, struct snap_reading, page);
	char text[ID_TEXT_MAX];

	if (error) {
		err_wrap(&r->read->err, "snapshot %s, block %llu",
			 id_format(r->reader->info.id, SNAP_PREFIX, text),
			 (unsigned long long)r->block);
		reading_fail(r, error);
	} else {
		locate(r, page, wait->level);
	}
}

/* `page` NULL: the tree is empty. Goes down as far as pages are at hand. */
static void locate(struct snap_reading *r, const uint8_t *page, unsigned level)
{
	r->entry.state = ENTRY_ABSENT;
	while (page) {
		page_find(page, (uint32_t)(r->block >> page_shift(level)) % PAGE_FANOUT, &r->entry);
		if (r->entry.state != ENTRY_PAGE)
			break;
		level--;
		r->page.item = r->entry.item;
		r->page.level = level;
		r->page.number = (uint32_t)(r->block >> page_shift(level + 1));
		page = pages_find(r->reader->pages, &r->page.item);
		if (!page) {
			pages_load(r->reader->pages, &r->page);
			return;
		}
	}
	fetch(r);
}

static void reading_advance(struct snap_reading *r)
{
	r->offset += r->n;
	r->length -= r->n;
	r->buf += r->n;
	/* Not from here: many absent blocks would be as many calls deep. */
	io_defer(r->reader->loop, &r->defer, 0);
}

static void fetch(struct snap_reading *r)
{
	char name[BLOB_NAME_MAX];
	uint32_t offset, end;

	if (r->entry.state == ENTRY_ABSENT || r->entry.state == ENTRY_ZERO) {
		memset(r->buf, 0, r->n);
		reading_advance(r);
		return;
	}
	r->first_frame = r->from / FRAME_SIZE;
	r->n_frames = (r->from + r->n - 1) / FRAME_SIZE - r->first_frame + 1;
	offset = codec_frame_offset(&r->entry, r->first_frame);
	end = codec_frame_offset(&r->entry, r->first_frame + r->n_frames);
	r->blob.done = fetch_on_blob;
	blob_read(r->reader->repository->blobs, r->reader->loop, &r->blob,
		  pack_name(&r->entry.item.pack, false, name), r->stored,
		  r->entry.item.offset + offset, end - offset);
}

/* A lone frame that is stored as it is costs a few microseconds, much less than waking a worker. */
static bool unpacks_at_once(const struct snap_reading *r)
{
	return r->n_frames == 1 && r->entry.frames[r->first_frame] == 0;
}

static void fetch_on_blob(struct blob_op *blob)
{
	struct snap_reading *r = container_of(blob, struct snap_reading, blob);

	if (blob->result == -ENOENT) {
		reading_bad(r, "it is missing");
	} else if (blob->result < 0) {
		reading_bad(r, strerror((int)-blob->result));
	} else if ((uint64_t)blob->result != blob->len) {
		reading_bad(r, "it is too short");
	} else if (unpacks_at_once(r)) {
		unpack_run(&r->work);
		unpack_done(&r->work);
	} else {
		r->work.run = unpack_run;
		r->work.done = unpack_done;
		io_work(r->reader->loop, &r->work);
	}
}

static void unpack_run(struct io_work *work)
{
	struct snap_reading *r = container_of(work, struct snap_reading, work);
	bool whole = r->n == SNAP_BLOCK;
	uint8_t *out = whole ? r->buf : r->out;
	uint8_t hash[SNAP_HASH];

	r->check = codec_unpack(&r->entry, r->first_frame, r->n_frames, r->stored, out);
	if (r->check < 0)
		return;
	if (!whole) {
		memcpy(r->buf, r->out + (r->from - r->first_frame * FRAME_SIZE), r->n);
		return;
	}
	codec_hash(out, SNAP_BLOCK, hash);
	if (memcmp(hash, r->entry.item.hash, SNAP_HASH) != 0)
		r->check = -EBADMSG;
}

static void unpack_done(struct io_work *work)
{
	struct snap_reading *r = container_of(work, struct snap_reading, work);

	if (r->check < 0)
		reading_bad(r, "its checksum is wrong");
	else
		reading_advance(r);
}
