/* SPDX-License-Identifier: Apache-2.0
 *
 * A leaf starts as the parent's, and is written when it has to make room or at the end. One that is
 * touched again after that is loaded again, from the pack in memory or from the repository. The
 * root and the pages of level 1 stay in memory: at most 512 of them.
 */
#include "snapshots/writer_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

int tree_open(struct snap_writer *w)
{
	list_init(&w->leaves);
	list_init(&w->free_leaves);
	w->root = mem_alloc(sizeof(*w->root));
	w->leaf_memory = mem_calloc(w->config.leaves, sizeof(*w->leaf_memory));
	w->pages = pages_new(w->repository, w->loop, 0);
	if (!w->root || !w->leaf_memory || !w->pages)
		return -ENOMEM;
	w->root->level = 2;
	for (uint32_t i = 0; i < w->config.leaves; i++)
		list_add_tail(&w->free_leaves, &w->leaf_memory[i].lru);
	return 0;
}

void tree_close(struct snap_writer *w)
{
	for (int i = 0; i < PAGE_FANOUT; i++)
		mem_free(w->inner[i]);
	mem_free(w->root);
	mem_free(w->leaf_memory);
	pages_free(w->pages);
}

/* ---- Loading ----------------------------------------------------------------------------------
 */

/* What `wait` asked for goes to its place; who wanted it asks again. */
static void tree_on_page(struct page_wait *wait, const uint8_t *bytes, int error)
{
	struct snap_writer *w = container_of(wait, struct snap_writer, wait);

	w->loading = false;
	if (error)
		writer_fail(w, error, &w->get.err);
	else if (wait->level == 2)
		page_decode(bytes, w->root);
	writer_ended(w);
}

/* The page into *ret, or NULL and it is on its way. */
static bool page_load(struct snap_writer *w, const struct snap_entry *e, unsigned level,
		      uint32_t number, struct snap_page *ret)
{
	const uint8_t *bytes = pack_page(w, &e->item);

	if (!bytes)
		bytes = pages_find(w->pages, &e->item);
	if (bytes) {
		page_decode(bytes, ret);
		return true;
	}
	w->wait = (struct page_wait){
	    .done = tree_on_page,
	    .err = &w->get.err,
	    .item = e->item,
	    .level = level,
	    .number = number,
	};
	w->loading = true;
	writer_began(w);
	pages_load(w->pages, &w->wait);
	return false;
}

bool tree_load_root(struct snap_writer *w)
{
	struct snap_entry e = {.state = ENTRY_PAGE, .item = w->info.root};

	return w->info.root.length == 0 || page_load(w, &e, 2, 0, w->root);
}

/* Level 1; NULL: on its way. */
static struct snap_page *tree_inner(struct snap_writer *w, uint32_t number)
{
	struct snap_page *page = w->inner[number];
	struct err err;

	if (page)
		return page;
	page = mem_alloc(sizeof(*page));
	if (!page) {
		err_set(&err, -ENOMEM, "out of memory for a snapshot's tree");
		writer_fail(w, -ENOMEM, &err);
		return NULL;
	}
	page->level = 1;
	page->number = number;
	if (w->root->entries[number].state == ENTRY_PAGE &&
	    !page_load(w, &w->root->entries[number], 1, number, page)) {
		mem_free(page);
		return NULL;
	}
	w->inner[number] = page;
	return page;
}

static bool leaf_write(struct snap_writer *w, struct leaf *leaf)
{
	uint32_t number = leaf->page.number;
	struct snap_page *inner = w->inner[number / PAGE_FANOUT];

	if (!leaf->dirty)
		return true;
	if (!pack_add_page(w, &leaf->page, &inner->entries[number % PAGE_FANOUT]))
		return false;
	w->inner_dirty[number / PAGE_FANOUT] = true;
	leaf->dirty = false;
	return true;
}

/* Memory for one more leaf; NULL: the one that should go can't be written yet. */
static struct leaf *leaf_room(struct snap_writer *w)
{
	struct leaf *oldest;

	if (list_empty(&w->free_leaves)) {
		oldest = container_of(w->leaves.prev, struct leaf, lru);
		if (!leaf_write(w, oldest))
			return NULL;
		list_remove(&oldest->lru);
		list_add_tail(&w->free_leaves, &oldest->lru);
	}
	return list_first(&w->free_leaves, struct leaf, lru);
}

struct leaf *tree_leaf(struct snap_writer *w, uint64_t block)
{
	uint32_t number = (uint32_t)(block / PAGE_FANOUT);
	struct snap_entry *e;
	struct snap_page *inner;
	struct leaf *leaf;

	list_for_each (&w->leaves, node) {
		leaf = container_of(node, struct leaf, lru);
		if (leaf->page.number != number)
			continue;
		list_remove(&leaf->lru);
		list_add_head(&w->leaves, &leaf->lru);
		return leaf;
	}
	if (w->loading)
		return NULL;
	inner = tree_inner(w, number / PAGE_FANOUT);
	leaf = inner ? leaf_room(w) : NULL;
	if (!leaf)
		return NULL;
	e = &inner->entries[number % PAGE_FANOUT];
	if (e->state == ENTRY_ABSENT)
		memset(&leaf->page, 0, sizeof(leaf->page));
	else if (!page_load(w, e, 0, number, &leaf->page))
		return NULL;
	leaf->page.level = 0;
	leaf->page.number = number;
	leaf->dirty = false;
	list_remove(&leaf->lru);
	list_add_head(&w->leaves, &leaf->lru);
	return leaf;
}

/* ---- Writing ----------------------------------------------------------------------------------
 */

bool tree_write_leaves(struct snap_writer *w)
{
	list_for_each (&w->leaves, node)
		if (!leaf_write(w, container_of(node, struct leaf, lru)))
			return false;
	return true;
}

bool tree_write_inner(struct snap_writer *w)
{
	for (uint32_t i = 0; i < PAGE_FANOUT; i++) {
		if (!w->inner_dirty[i])
			continue;
		if (!pack_add_page(w, w->inner[i], &w->root->entries[i]))
			return false;
		w->inner_dirty[i] = false;
		w->root_dirty = true;
	}
	return true;
}

bool tree_write_root(struct snap_writer *w)
{
	struct snap_entry e;

	if (!w->root_dirty)
		return true;
	w->new_blocks = 0;
	for (uint32_t i = 0; i < PAGE_FANOUT; i++)
		w->new_blocks += w->root->entries[i].blocks;
	if (!pack_add_page(w, w->root, &e))
		return false;
	w->root_dirty = false;
	w->new_root = e.item;
	return true;
}
