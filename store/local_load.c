/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: reads the segment table, then the objects, several reads in flight. What can't be read
 * in one go is read again page by page, so that one bad sector costs one page.
 */
#include "store/local_load.h"
#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>

static uint64_t chunks_per_segment(const struct local *l);
static bool reader_next(struct loader *ld, struct load_reader *reader);
static void reader_on_read(struct io_op *op);
static void reader_on_piece(struct io_op *op);
static void reader_take(struct loader *ld, struct load_reader *reader);
static void take_tables(struct local *l, struct load_reader *reader);
static void take_table(struct local *l, struct table_page *page, unsigned copy,
		       const uint8_t *bytes);
static int take_objects(struct local *l, struct load_reader *reader);

/* ---- Readers ----------------------------------------------------------------------------------
 */

int loader_init(struct loader *ld, struct local *l)
{
	ld->local = l;
	for (unsigned i = 0; i < LOAD_READERS; i++) {
		ld->readers[i].loader = ld;
		ld->readers[i].buffer = mem_alloc_pages(LOAD_CHUNK);
		if (!ld->readers[i].buffer)
			return -ENOMEM;
	}
	return 0;
}

void loader_destroy(struct loader *ld)
{
	for (unsigned i = 0; i < LOAD_READERS; i++)
		mem_free_pages(ld->readers[i].buffer, LOAD_CHUNK);
}

static uint64_t chunks_per_segment(const struct local *l)
{
	return l->super.segment_size / LOAD_CHUNK;
}

static void load_start(struct loader *ld, uint64_t n_items, void (*done)(struct loader *ld))
{
	ld->n_items = n_items;
	ld->next_item = 0;
	ld->error = 0;
	ld->done = done;
	ld->in_flight = 1;
	for (unsigned i = 0; i < LOAD_READERS; i++)
		ld->in_flight += reader_next(ld, &ld->readers[i]);
	if (--ld->in_flight == 0) {
		/* Nothing to read, and `done` may not run inside the call. */
		ld->readers[0].op.done = reader_on_piece;
		ld->readers[0].len = 0;
		ld->in_flight = 1;
		io_defer(ld->local->loop, &ld->readers[0].op, 0);
	}
}

void load_tables(struct loader *ld, void (*done)(struct loader *ld))
{
	ld->phase = LOAD_TABLES;
	load_start(ld, 2 * ld->local->n_groups, done);
}

void load_objects(struct loader *ld, void (*done)(struct loader *ld))
{
	ld->phase = LOAD_OBJECTS;
	load_start(ld, ld->local->objects.n_segments * chunks_per_segment(ld->local), done);
}

/* Starts the next read, or returns false: there is none. */
static bool reader_next(struct loader *ld, struct load_reader *reader)
{
	struct local *l = ld->local;
	uint64_t item = ld->next_item;

	if (item == ld->n_items || ld->error)
		return false;
	ld->next_item++;
	reader->item = item;
	switch (ld->phase) {
	case LOAD_TABLES:
		reader->offset = format_table_offset(l->super.segment_size, item / 2, item % 2);
		reader->len = FORMAT_TABLE_SIZE;
		break;
	case LOAD_OBJECTS:
		reader->offset =
		    format_segment_offset(l->super.segment_size,
					  l->objects.segments[item / chunks_per_segment(l)].id) +
		    item % chunks_per_segment(l) * LOAD_CHUNK;
		reader->len = LOAD_CHUNK;
		break;
	}
	reader->op.done = reader_on_read;
	io_read(l->loop, &reader->op, l->file, reader->buffer, reader->len, reader->offset);
	return true;
}

static void reader_on_read(struct io_op *op)
{
	struct load_reader *reader = container_of(op, struct load_reader, op);
	struct local *l = reader->loader->local;

	for (unsigned i = 0; i < LOAD_CHUNK / FORMAT_PAGE; i++)
		reader->unreadable[i] = false;
	if (op->result >= 0) {
		reader_take(reader->loader, reader);
		return;
	}
	reader->piece = 0;
	op->done = reader_on_piece;
	io_read(l->loop, op, l->file, reader->buffer, FORMAT_PAGE, reader->offset);
}

static void reader_on_piece(struct io_op *op)
{
	struct load_reader *reader = container_of(op, struct load_reader, op);
	struct local *l = reader->loader->local;

	if (reader->len > 0)
		reader->unreadable[reader->piece / FORMAT_PAGE] = op->result < 0;
	reader->piece += FORMAT_PAGE;
	if (reader->piece >= reader->len)
		reader_take(reader->loader, reader);
	else
		io_read(l->loop, op, l->file, reader->buffer + reader->piece, FORMAT_PAGE,
			reader->offset + reader->piece);
}

static void reader_take(struct loader *ld, struct load_reader *reader)
{
	if (reader->len > 0) {
		switch (ld->phase) {
		case LOAD_TABLES:
			take_tables(ld->local, reader);
			break;
		case LOAD_OBJECTS:
			ld->error = ld->error ? ld->error : take_objects(ld->local, reader);
			break;
		}
		if (reader_next(ld, reader))
			return;
	}
	if (--ld->in_flight == 0)
		ld->done(ld);
}

/* ---- Tables -----------------------------------------------------------------------------------
 */

static void take_tables(struct local *l, struct load_reader *reader)
{
	struct group *g = l->groups[reader->item / 2];

	for (unsigned i = 0; i < FORMAT_PAGES_PER_GROUP; i++)
		take_table(l, &g->pages[i], reader->item % 2,
			   reader->unreadable[i] ? NULL : reader->buffer + i * FORMAT_PAGE);
}

/* The newer of two whole copies counts. */
static void take_table(struct local *l, struct table_page *page, unsigned copy,
		       const uint8_t *bytes)
{
	struct segment *segments =
	    &l->groups[page->group]->segments[page->index * FORMAT_ENTRIES_PER_PAGE];
	struct format_table table;

	if (!bytes ||
	    format_table_decode(bytes, l->super.uuid, page->group, page->index, &table) < 0) {
		local_find(l, FINDING_TABLE, page->group, page->index, copy);
		return;
	}
	if (table.version <= page->version) {
		page->other = table.version;
		return;
	}
	page->other = page->version;
	page->version = table.version;
	page->newest = copy;
	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++)
		segments[i].entry = table.entries[i];
}

static int segment_loaded(struct local *l, struct group *g, struct segment *segment)
{
	const struct format_entry *e = &segment->entry;

	if (e->order >= l->next_order)
		l->next_order = e->order + 1;
	if (e->owner_term > l->super.owner_term)
		local_find(l, FINDING_TERM, segment->id, 0, 0);
	if (e->state == FORMAT_SEGMENT_LENT) {
		segment->place = SEGMENT_LENT;
		g->volumes |= table_volume_bit(e->volume);
		if (e->stream == STORE_STREAM_OBJECTS)
			return object_add_segment(l, segment->id, e->generation);
		return 0;
	}
	table_place_free(l, segment);
	if (table_is_lendable(l, segment))
		l->n_free++;
	return 0;
}

/* The newest change has reached both copies. */
static bool is_in_both(const struct table_page *page)
{
	return page->other == page->version ||
	       (page->version % 2 == 0 && page->other == page->version - 1);
}

int load_settle_tables(struct local *l, const char *path, struct err *err)
{
	uint64_t grown = l->n_groups * FORMAT_SEGMENTS;

	l->next_order = 1;
	l->n_free = l->n_possible > grown ? l->n_possible - grown : 0;
	for (uint64_t i = 0; i < l->n_groups * FORMAT_SEGMENTS; i++) {
		struct group *g = l->groups[i / FORMAT_SEGMENTS];
		struct segment *segment = &g->segments[i % FORMAT_SEGMENTS];
		struct table_page *page = &g->pages[i % FORMAT_SEGMENTS / FORMAT_ENTRIES_PER_PAGE];

		if (i % FORMAT_ENTRIES_PER_PAGE == 0 && page->version && !is_in_both(page) &&
		    !l->read_only)
			list_add_tail(&l->dirty, &page->dirty_link);
		if (!page->version && !l->read_only)
			return err_set(err, -EUCLEAN,
				       "store %s: both copies of page %u of the segment table of "
				       "group %" PRIu64 " are damaged, so it is unknown which "
				       "volumes the segments there belong to; look at the disk's "
				       "health, and bring the file back from a copy",
				       path, page->index, page->group);
		if (!page->version) {
			segment->place = SEGMENT_UNKNOWN;
			if (i % FORMAT_ENTRIES_PER_PAGE == 0)
				local_find(l, FINDING_TABLE_LOST, page->group, page->index, 0);
		} else if (segment_loaded(l, g, segment) < 0) {
			return err_set(err, -ENOMEM, "store %s: out of memory", path);
		}
	}
	table_publish_free(l);
	return 0;
}

/* ---- Objects ----------------------------------------------------------------------------------
 */

static int take_objects(struct local *l, struct load_reader *reader)
{
	uint64_t pairs = LOAD_CHUNK / FORMAT_PAIR_SIZE;

	for (unsigned i = 0; i < pairs; i++) {
		/* Chunks, and so items, are numbered through all segments, just as pairs are. */
		int r = object_load_pair(l, (uint32_t)(reader->item * pairs + i),
					 reader->buffer + i * FORMAT_PAIR_SIZE,
					 &reader->unreadable[2 * i]);

		if (r < 0)
			return r;
	}
	return 0;
}
