/* SPDX-License-Identifier: Apache-2.0
 *
 * Before an upload goes on after a crash, the directories of the packs that are there are read:
 * what is put again is found by its number and hash. What does not fit into the table is stored
 * again, and what was there is swept one day.
 */
#include "snapshots/writer_internal.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REUSE_MAX ((uint32_t)262144) /* blocks (128 GiB); 40 MiB of memory */

static void reuse_list(struct snap_writer *w);
static void reuse_next(struct snap_writer *w);

static int by_block(const void *a, const void *b)
{
	const struct reuse_entry *x = a, *y = b;

	return x->block < y->block ? -1 : x->block > y->block;
}

static void reuse_end(struct snap_writer *w)
{
	mem_free(w->reuse_names);
	mem_free(w->reuse_items);
	mem_free(w->reuse_bytes);
	w->reuse_names = NULL;
	w->reuse_items = NULL;
	w->reuse_bytes = NULL;
	if (w->n_reuse > 1)
		qsort(w->reuse, w->n_reuse, sizeof(*w->reuse), by_block);
	writer_started(w);
}

static bool reuse_add(struct snap_writer *w, const struct pack_item *item, uint32_t slot)
{
	struct reuse_entry *e;

	if (w->n_reuse == REUSE_MAX)
		return false;
	if (w->n_reuse == w->reuse_room) {
		uint32_t room = w->reuse_room ? w->reuse_room * 2 : 1024;
		void *wider = mem_realloc(w->reuse, room * sizeof(*w->reuse));

		if (!wider)
			return false;
		w->reuse = wider;
		w->reuse_room = room;
	}
	e = &w->reuse[w->n_reuse++];
	*e = (struct reuse_entry){.block = item->number};
	e->entry.state = (enum entry_state)item->state;
	e->entry.item = (struct snap_item){
	    .pack = w->reuse_pack,
	    .offset = item->offset,
	    .length = item->length,
	    .slot = (uint16_t)slot,
	};
	memcpy(e->entry.item.hash, item->hash, SNAP_HASH);
	memcpy(e->entry.frames, item->frames, sizeof(item->frames));
	return true;
}

/* A pack whose directory can't be read is passed over: its blocks are stored again. */
static void reuse_on_pack(struct blob_op *blob)
{
	struct snap_writer *w = container_of(blob, struct snap_writer, blob);
	uint32_t n = 0;

	if (blob->result >= 0 &&
	    pack_end_decode(w->reuse_bytes, (size_t)blob->result, w->reuse_size, &w->reuse_pack,
			    w->reuse_items, &n) == 0) {
		for (uint32_t i = 0; i < n; i++)
			if (w->reuse_items[i].kind == ITEM_BLOCK &&
			    !reuse_add(w, &w->reuse_items[i], i))
				break;
	}
	writer_ended(w);
	reuse_next(w);
}

static void reuse_next(struct snap_writer *w)
{
	while (w->reuse_at < w->reuse_n_names && w->n_reuse < REUSE_MAX && !w->failed) {
		const struct blob_entry *e = &w->reuse_names[w->reuse_at++];
		uint64_t len = min_u64(e->size, PACK_END_MAX);
		bool copy;

		if (pack_name_parse(e->name, &w->reuse_pack, &copy) < 0 || copy ||
		    w->reuse_pack.attempt == w->info.attempt)
			continue;
		w->reuse_size = e->size;
		w->blob.done = reuse_on_pack;
		writer_began(w);
		blob_read(w->repository->blobs, w->loop, &w->blob, e->name, w->reuse_bytes,
			  e->size - len, len);
		return;
	}
	if (w->n_reuse == REUSE_MAX || w->failed)
		reuse_end(w);
	else
		reuse_list(w);
}

static void reuse_on_names(struct blob_op *blob)
{
	struct snap_writer *w = container_of(blob, struct snap_writer, blob);

	writer_ended(w);
	if (blob->result <= 0) { /* an error costs what could have been saved */
		reuse_end(w);
		return;
	}
	w->reuse_at = 0;
	w->reuse_n_names = (uint32_t)blob->result;
	memcpy(w->reuse_after, w->reuse_names[w->reuse_n_names - 1].name, BLOB_NAME_MAX);
	reuse_next(w);
}

static void reuse_list(struct snap_writer *w)
{
	char prefix[BLOB_NAME_MAX], text[ID_TEXT_MAX];
	size_t n = sizeof(PREFIX_PACKS) - 1;

	memcpy(prefix, PREFIX_PACKS, n);
	id_format(w->config.id, SNAP_PREFIX, text);
	memcpy(prefix + n, text, strlen(text));
	memcpy(prefix + n + strlen(text), "/", 2);
	w->blob.done = reuse_on_names;
	writer_began(w);
	blob_list(w->repository->blobs, w->loop, &w->blob, prefix, w->reuse_after, w->reuse_names,
		  BLOB_LIST_MAX);
}

void reuse_begin(struct snap_writer *w)
{
	w->reuse_names = mem_calloc(BLOB_LIST_MAX, sizeof(*w->reuse_names));
	w->reuse_items = mem_calloc(PACK_ITEMS_MAX, sizeof(*w->reuse_items));
	w->reuse_bytes = mem_alloc(PACK_END_MAX);
	if (w->reuse_names && w->reuse_items && w->reuse_bytes)
		reuse_list(w);
	else
		reuse_end(w);
}

const struct snap_entry *reuse_find(const struct snap_writer *w, uint64_t block,
				    const uint8_t hash[SNAP_HASH])
{
	uint32_t low = 0, high = w->n_reuse;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (w->reuse[middle].block < block)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < w->n_reuse && w->reuse[low].block == block; low++)
		if (memcmp(w->reuse[low].entry.item.hash, hash, SNAP_HASH) == 0)
			return &w->reuse[low].entry;
	return NULL;
}

void reuse_close(struct snap_writer *w)
{
	mem_free(w->reuse);
}
