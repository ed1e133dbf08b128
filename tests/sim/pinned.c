/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/pinned.h"

#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STEPS_MAX 1000000

struct walk {
	struct world *world;
	struct volume *volume;
	struct store_io io;
	bool done;
	int pin;
};

static char text[200];

static void on_read(struct store_io *io)
{
	container_of(io, struct walk, io)->done = true;
}

static int wrong(const struct walk *w, const char *what, uint64_t number)
{
	snprintf(text, sizeof(text), "pin %d (checkpoint %llu): %s %llu", w->pin,
		 (unsigned long long)w->volume->sb.pins[w->pin].checkpoint, what,
		 (unsigned long long)number);
	return -EUCLEAN;
}

/* Reads bytes [offset, offset + len) of a segment; *ret_buf is freed with `pages` bytes by the
 * caller. */
static int read_bytes(struct walk *w, uint64_t segment, uint32_t offset, uint32_t len,
		      uint8_t **ret_pages, size_t *ret_size)
{
	struct store *store = w->volume->store;
	uint32_t from = (uint32_t)round_down(offset, store->info.alignment);
	uint32_t to = (uint32_t)round_up((uint64_t)offset + len, store->info.alignment);
	enum sim_end end;

	if (!segments_find(w->volume, segment))
		return wrong(w, "refers to a segment that is not the volume's:", segment);
	*ret_size = to - from;
	*ret_pages = mem_alloc_pages(*ret_size);
	CHECK(*ret_pages);
	w->done = false;
	w->io.done = on_read;
	store_read(store, w->volume->loop, &w->io, segment, from, *ret_pages, to - from);
	end = sim_run_until(w->world->sim, sim_flag_is_set, &w->done, STEPS_MAX);
	if (end == SIM_DEAD)
		return -ESHUTDOWN;
	if (end != SIM_DONE)
		return wrong(w, "reading never ends of segment", segment);
	return w->io.result < 0 ? wrong(w, "can't read segment", segment) : 0;
}

static int check_block(struct walk *w, uint64_t lba, const struct entry *e)
{
	uint8_t *pages = NULL;
	size_t size = 0;
	int r;

	if (e->state != ENTRY_DATA)
		return 0;
	r = read_bytes(w, e->segment, e->offset * BLOCK_SECTOR, BLOCK_SIZE, &pages, &size);
	if (r == 0 && block_sum(w->volume->id, lba, pages) != e->sum)
		r = wrong(w, "has lost block", lba);
	if (r != -ESHUTDOWN)
		mem_free_pages(pages, size);
	return r;
}

static int check_leaf(struct walk *w, uint64_t number, const struct blob_ref *ref)
{
	struct leaf_content *leaf = mem_alloc(sizeof(*leaf));
	uint8_t *pages = NULL;
	size_t size = 0;
	int r = read_bytes(w, ref->segment, ref->offset, ref->length, &pages, &size);

	CHECK(leaf);
	if (r == 0 && leaf_decode(pages + ref->offset % w->volume->store->info.alignment,
				  ref->length, w->volume->id, number, ref->sum, leaf) < 0)
		r = wrong(w, "has lost leaf", number);
	for (uint64_t i = 0; r == 0 && i < LEAF_BLOCKS; i++)
		r = check_block(w, number * LEAF_BLOCKS + i, &leaf->entries[i]);
	if (r != -ESHUTDOWN) {
		mem_free_pages(pages, size);
		mem_free(leaf);
	}
	return r;
}

static int check_index(struct walk *w, uint32_t number, const struct blob_ref *ref)
{
	struct blob_ref *refs = mem_calloc(INDEX_LEAVES, sizeof(*refs));
	uint8_t *pages = NULL;
	size_t size = 0;
	int r = read_bytes(w, ref->segment, ref->offset, ref->length, &pages, &size);

	CHECK(refs);
	if (r == 0 && index_decode(pages + ref->offset % w->volume->store->info.alignment,
				   ref->length, w->volume->id, number, ref->sum, refs) < 0)
		r = wrong(w, "has lost index page", number);
	for (uint64_t i = 0; r == 0 && i < INDEX_LEAVES; i++)
		if (refs[i].length)
			r = check_leaf(w, (uint64_t)number * INDEX_LEAVES + i, &refs[i]);
	if (r != -ESHUTDOWN) {
		mem_free_pages(pages, size);
		mem_free(refs);
	}
	return r;
}

static int check_root(struct walk *w)
{
	const struct blob_ref ref = w->volume->sb.pins[w->pin].root;
	struct root_content root = {0};
	uint8_t *pages = NULL;
	uint8_t *bytes = NULL;
	size_t size = 0;
	int r;

	if (ref.length == 0)
		return wrong(w, "has no root of checkpoint", w->volume->sb.pins[w->pin].checkpoint);
	r = read_bytes(w, ref.segment, ref.offset, ref.length, &pages, &size);
	if (r == 0) {
		bytes = pages + ref.offset % w->volume->store->info.alignment;
		if (root_decode(bytes, ref.length, w->volume->id, ref.sum, &root) < 0)
			r = wrong(w, "has lost its root of", ref.length);
	}
	for (uint32_t i = 0; r == 0 && i < root.n_index; i++) {
		struct blob_ref index;
		uint32_t number;

		root_get_ref(bytes, i, &number, &index);
		r = check_index(w, number, &index);
	}
	if (r != -ESHUTDOWN)
		mem_free_pages(pages, size);
	return r;
}

int pinned_check(struct world *w, unsigned i, const char **ret_text)
{
	struct walk *walk = mem_alloc(sizeof(*walk));
	int r = 0;

	CHECK(walk);
	*ret_text = text;
	walk->world = w;
	walk->volume = w->volumes[i];
	for (walk->pin = 0; r == 0 && walk->pin < SUPERBLOCK_PINS; walk->pin++)
		if (walk->volume->sb.pins[walk->pin].checkpoint != 0)
			r = check_root(walk);
	if (r != -ESHUTDOWN)
		mem_free(walk);
	return r;
}
