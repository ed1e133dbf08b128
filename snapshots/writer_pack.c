/* SPDX-License-Identifier: Apache-2.0
 *
 * A pack of blocks is a list of buffers, a pack of pages one piece of memory. Page packs are stored
 * twice, since one spoilt page would spoil all the blocks below it.
 */
#include "snapshots/writer_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

static int pack_open(struct snap_writer *w, struct pack_out *p, uint32_t items, bool pages)
{
	p->writer = w;
	list_init(&p->buffers);
	p->items = mem_calloc(items, sizeof(*p->items));
	p->iov = mem_calloc(items + 2, sizeof(*p->iov));
	p->end = mem_alloc(PACK_END_MAX);
	if (pages)
		p->pages = mem_alloc_pages(PAGE_PACK_BYTES);
	return p->items && p->iov && p->end && (p->pages || !pages) ? 0 : -ENOMEM;
}

int packs_open(struct snap_writer *w)
{
	int r = 0;

	w->n_packs = w->config.packs_in_flight + 1;
	w->packs = mem_calloc(w->n_packs, sizeof(*w->packs));
	if (!w->packs)
		return -ENOMEM;
	for (uint32_t i = 0; i < w->n_packs && r == 0; i++)
		r = pack_open(w, &w->packs[i], w->config.pack_blocks, false);
	for (uint32_t i = 0; i < PAGE_PACKS && r == 0; i++)
		r = pack_open(w, &w->page_packs[i], PACK_ITEMS_MAX, true);
	return r;
}

static void pack_close(struct pack_out *p)
{
	mem_free(p->items);
	mem_free(p->iov);
	mem_free(p->end);
	mem_free_pages(p->pages, PAGE_PACK_BYTES);
}

void packs_close(struct snap_writer *w)
{
	for (uint32_t i = 0; w->packs && i < w->n_packs; i++)
		pack_close(&w->packs[i]);
	for (uint32_t i = 0; i < PAGE_PACKS; i++)
		pack_close(&w->page_packs[i]);
	mem_free(w->packs);
}

/* ---- Filling ----------------------------------------------------------------------------------
 */

/* The pack that is being filled, or a free one; NULL: all are being stored. */
static struct pack_out *pack_to_fill(struct snap_writer *w, struct pack_out *packs, uint32_t n)
{
	struct pack_out *free = NULL;

	for (uint32_t i = 0; i < n; i++) {
		if (packs[i].state == PACK_FILLING)
			return &packs[i];
		if (packs[i].state == PACK_FREE)
			free = &packs[i];
	}
	if (!free)
		return NULL;
	free->state = PACK_FILLING;
	free->id = (struct snap_pack){w->config.id, w->info.attempt, w->next_pack++};
	free->n = 0;
	free->length = PACK_HEAD;
	return free;
}

static void item_set(struct pack_out *p, struct snap_item *ret, uint32_t length,
		     const uint8_t hash[SNAP_HASH])
{
	*ret = (struct snap_item){
	    .pack = p->id,
	    .offset = p->length,
	    .length = length,
	    .slot = (uint16_t)p->n,
	};
	memcpy(ret->hash, hash, SNAP_HASH);
	memcpy(p->items[p->n].hash, hash, SNAP_HASH);
	p->items[p->n].offset = p->length;
	p->items[p->n].length = length;
	p->n++;
	p->length += length;
	p->writer->stats.stored += length;
}

static void pack_store(struct pack_out *p);

bool pack_add_block(struct snap_writer *w, uint32_t block, struct snap_buffer *buffer,
		    struct snap_entry *ret)
{
	struct pack_out *p = pack_to_fill(w, w->packs, w->n_packs);
	struct pack_item *item;

	if (!p)
		return false;
	item = &p->items[p->n];
	item->kind = ITEM_BLOCK;
	item->state = (uint8_t)buffer->block.state;
	item->number = block;
	memcpy(item->frames, buffer->block.frames, sizeof(item->frames));
	*ret = (struct snap_entry){.state = buffer->block.state};
	memcpy(ret->frames, buffer->block.frames, sizeof(ret->frames));
	item_set(p, &ret->item, buffer->block.length, buffer->block.hash);
	list_add_tail(&p->buffers, &buffer->link);
	w->stats.stored_blocks++;
	if (p->n == w->config.pack_blocks)
		pack_store(p);
	return true;
}

static uint32_t blocks_in(const struct snap_page *page)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < PAGE_FANOUT; i++) {
		const struct snap_entry *e = &page->entries[i];

		n += page->level > 0 ? e->blocks : e->state != ENTRY_ABSENT;
	}
	return n;
}

bool pack_add_page(struct snap_writer *w, const struct snap_page *page, struct snap_entry *ret)
{
	struct pack_out *p = pack_to_fill(w, w->page_packs, PAGE_PACKS);
	uint8_t hash[SNAP_HASH];
	struct pack_item *item;
	uint8_t *bytes;
	size_t n;

	if (!p)
		return false;
	bytes = p->pages + (p->length - PACK_HEAD);
	n = page_encode(page, bytes);
	*ret = (struct snap_entry){.state = ENTRY_ABSENT};
	if (n == 0)
		return true;
	codec_hash(bytes, n, hash);
	item = &p->items[p->n];
	*item = (struct pack_item){.kind = ITEM_PAGE, .state = page->level, .number = page->number};
	ret->state = ENTRY_PAGE;
	ret->blocks = blocks_in(page);
	item_set(p, &ret->item, (uint32_t)n, hash);
	if (p->n == PACK_ITEMS_MAX || p->length - PACK_HEAD + PAGE_MAX > PAGE_PACK_BYTES)
		pack_store(p);
	return true;
}

const uint8_t *pack_page(struct snap_writer *w, const struct snap_item *item)
{
	for (uint32_t i = 0; i < PAGE_PACKS; i++) {
		struct pack_out *p = &w->page_packs[i];

		if (p->state != PACK_FREE && pack_equal(&p->id, &item->pack))
			return p->pages + (item->offset - PACK_HEAD);
	}
	return NULL;
}

/* ---- Storing ----------------------------------------------------------------------------------
 */

static void pack_put(struct pack_out *p)
{
	struct snap_writer *w = p->writer;
	char name[BLOB_NAME_MAX];

	blob_put(w->repository->blobs, w->loop, &p->blob, pack_name(&p->id, p->copy, name), p->iov,
		 p->pages ? 3 : (int)p->n + 2);
}

static void pack_on_put(struct blob_op *blob)
{
	struct pack_out *p = container_of(blob, struct pack_out, blob);
	struct snap_writer *w = p->writer;
	struct list *node;
	struct err err;

	if (blob->result < 0) {
		blob_error(&err, w->repository, blob->name, "can't be stored", blob->result);
		writer_fail(w, (int)blob->result, &err);
	} else if (p->pages && !p->copy) {
		p->copy = true;
		pack_put(p);
		return;
	}
	if (blob->result == 0)
		w->stats.durable += p->length - PACK_HEAD;
	while ((node = list_pop(&p->buffers)))
		list_add_tail(&w->free_buffers, node);
	p->state = PACK_FREE;
	writer_ended(w);
}

static void pack_store(struct pack_out *p)
{
	struct snap_writer *w = p->writer;
	size_t end = pack_end_encode(p->end, &p->id, p->length, p->items, p->n);
	int n = 0;

	pack_head_encode(p->head, &p->id);
	p->iov[n++] = (struct iovec){p->head, PACK_HEAD};
	if (p->pages)
		p->iov[n++] = (struct iovec){p->pages, p->length - PACK_HEAD};
	list_for_each (&p->buffers, node) {
		struct snap_buffer *b = container_of(node, struct snap_buffer, link);

		p->iov[n++] = (struct iovec){b->bytes, b->block.length};
	}
	p->iov[n] = (struct iovec){p->end, end};
	p->state = PACK_STORING;
	p->copy = false;
	p->blob.done = pack_on_put;
	writer_began(w);
	pack_put(p);
}

static void flush(struct pack_out *packs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (packs[i].state == PACK_FILLING && packs[i].n > 0)
			pack_store(&packs[i]);
}

void packs_flush_data(struct snap_writer *w)
{
	flush(w->packs, w->n_packs);
}

void packs_flush_pages(struct snap_writer *w)
{
	flush(w->page_packs, PAGE_PACKS);
}
