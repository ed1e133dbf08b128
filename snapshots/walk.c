/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists and comparisons. A walk has no state but the next block: it looks for the pages on the way
 * to it, loads the first that is not at hand, and looks again. What both trees share is passed
 * over at the highest page that is the same.
 */
#include "snapshots/reader.h"

#include "base/check.h"
#include "base/mem.h"
#include "snapshots/internal.h"

#include <errno.h>
#include <string.h>

/* One side of the walk at a block: the entry at the lowest level that was reached. */
struct side {
	struct snap_reader *reader; /* NULL: there is no first */
	struct snap_entry entry;
	const uint8_t *page; /* the page that the entry is in; NULL: the root's own entry */
	unsigned level;      /* of what the entry names, if it is a page */
};

struct snap_page_wait {
	struct page_wait page;
	struct snap_walk *walk;
};

static void walk_step(struct snap_walk *walk);

static void walk_ended(struct io_op *defer)
{
	struct snap_walk *walk = container_of(defer, struct snap_walk, defer);

	mem_free(walk->wait);
	walk->wait = NULL;
	walk->done(walk); /* may close the readers */
}

static void walk_end(struct snap_walk *walk, int error)
{
	walk->error = error;
	walk->defer.done = walk_ended;
	io_defer(walk->second->loop, &walk->defer, 0);
}

static void walk_on_page(struct page_wait *wait, const uint8_t *page, int error)
{
	struct snap_page_wait *w = container_of(wait, struct snap_page_wait, page);

	(void)page;
	if (error) {
		uint64_t covers = UINT64_C(1) << page_shift(wait->level + 1);

		w->walk->bad_end = round_down(w->walk->next, covers) + covers;
		walk_end(w->walk, error);
	} else {
		walk_step(w->walk);
	}
}

/* False: the page that the side's entry names is being loaded. */
static bool side_down(struct snap_walk *walk, struct side *side)
{
	struct page_wait *wait = &walk->wait->page;
	uint64_t block = walk->next;
	const uint8_t *page;

	if (side->entry.state != ENTRY_PAGE)
		return true; /* absent: and so is all below */
	page = pages_find(side->reader->pages, &side->entry.item);
	if (!page) {
		wait->done = walk_on_page;
		wait->err = &walk->err;
		wait->item = side->entry.item;
		wait->level = side->level;
		wait->number = (uint32_t)(block >> page_shift(side->level + 1));
		pages_load(side->reader->pages, wait);
		return false;
	}
	side->page = page;
	page_find(page, (uint32_t)(block >> page_shift(side->level)) % PAGE_FANOUT, &side->entry);
	return true;
}

static void side_begin(struct side *side, struct snap_reader *reader)
{
	*side = (struct side){.reader = reader, .level = PAGE_LEVELS - 1};
	if (!reader || reader->info.root.length == 0)
		return;
	side->entry.state = ENTRY_PAGE;
	side->entry.item = reader->info.root;
}

static bool is_there(const struct side *side)
{
	return side->entry.state != ENTRY_ABSENT;
}

/* Hashes are of what is in them: the same hash, the same content. */
static bool is_same(const struct side *a, const struct side *b)
{
	if (!is_there(a) || !is_there(b))
		return is_there(a) == is_there(b);
	return memcmp(a->entry.item.hash, b->entry.item.hash, SNAP_HASH) == 0;
}

static void emit(struct snap_walk *walk, const struct side *first, const struct side *second)
{
	struct snap_block *b = &walk->blocks[walk->n++];

	*b = (struct snap_block){
	    .block = walk->next,
	    .in_first = is_there(first),
	    .in_second = is_there(second),
	};
	memcpy(b->first_hash, first->entry.item.hash, SNAP_HASH);
	memcpy(b->second_hash, second->entry.item.hash, SNAP_HASH);
}

/* Both sides are at entries of one leaf. The next block of it at which either has something. */
static uint64_t next_in_leaf(const struct side *first, const struct side *second, uint64_t block)
{
	uint32_t place = (uint32_t)(block % PAGE_FANOUT) + 1, best = PAGE_FANOUT;
	const struct side *sides[2] = {first, second};

	for (int i = 0; i < 2; i++) {
		struct snap_entry e;
		uint32_t at;

		if (!sides[i]->page)
			continue;
		at = page_search(sides[i]->page, place);
		if (at < page_count(sides[i]->page))
			best = (uint32_t)min_u64(best, page_get(sides[i]->page, at, &e));
	}
	return block - block % PAGE_FANOUT + best;
}

/* Goes down at walk->next. False: a page is on its way. */
static bool walk_down(struct snap_walk *walk)
{
	struct side first, second;

	side_begin(&first, walk->first);
	side_begin(&second, walk->second);
	for (unsigned level = PAGE_LEVELS; level-- > 0;) {
		uint64_t covers = UINT64_C(1) << page_shift(level + 1);

		if (is_same(&first, &second)) {
			walk->next = round_down(walk->next, covers) + covers;
			return true;
		}
		first.level = second.level = level;
		first.page = second.page = NULL;
		if (!side_down(walk, &first) || !side_down(walk, &second))
			return false;
	}
	/* The pages are there until the next load: all of the leaf in one go. */
	for (;;) {
		uint64_t next = next_in_leaf(&first, &second, walk->next);
		uint32_t place;

		if (!is_same(&first, &second))
			emit(walk, &first, &second);
		walk->next = next;
		place = (uint32_t)(next % PAGE_FANOUT);
		if (place == 0 || walk->n == walk->max)
			return true;
		first.entry.state = second.entry.state = ENTRY_ABSENT;
		if (first.page)
			page_find(first.page, place, &first.entry);
		if (second.page)
			page_find(second.page, place, &second.entry);
	}
}

static void walk_step(struct snap_walk *walk)
{
	uint64_t end = blocks_of(walk->second->info.size);

	if (walk->first)
		end = max_u64(end, blocks_of(walk->first->info.size));
	while (walk->n < walk->max && walk->next < end)
		if (!walk_down(walk))
			return;
	if (walk->next >= end)
		walk->next = UINT64_MAX;
	walk_end(walk, 0);
}

static void walk_begin(struct io_op *defer)
{
	struct snap_walk *walk = container_of(defer, struct snap_walk, defer);

	walk->wait = mem_alloc(sizeof(*walk->wait));
	if (!walk->wait) {
		walk_end(walk, err_set(&walk->err, -ENOMEM, "out of memory for a list of blocks"));
		return;
	}
	walk->wait->walk = walk;
	walk_step(walk);
}

static void walk_start(struct snap_reader *first, struct snap_reader *second,
		       struct snap_walk *walk)
{
	CHECK(walk->max > 0);
	walk->first = first;
	walk->second = second;
	walk->n = 0;
	walk->error = 0;
	walk->err.code = 0;
	walk->err.text[0] = '\0';
	walk->defer.done = walk_begin;
	io_defer(second->loop, &walk->defer, 0);
}

void snap_list_blocks(struct snap_reader *reader, struct snap_walk *walk)
{
	walk_start(NULL, reader, walk);
}

void snap_compare(struct snap_reader *first, struct snap_reader *second, struct snap_walk *walk)
{
	CHECK(first->loop == second->loop);
	walk_start(first, second, walk);
}
