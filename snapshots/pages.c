/* SPDX-License-Identifier: Apache-2.0
 *
 * A fixed number of slots. A slot is empty, loading (whoever wants the page waits with it), or has
 * a page. The one that was used least recently makes room; while all are loading, the rest waits.
 */
#include "snapshots/internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define BYTES_DFLT (1 * MiB)
#define SLOTS_MIN  8

enum slot_state { EMPTY, LOADING, READY };

struct slot {
	enum slot_state state;
	struct pages *pages;
	struct snap_item item;
	unsigned level;
	uint32_t number;
	uint64_t used; /* tick */
	bool pinned;   /* it is being handed out */
	uint8_t *bytes;
	struct list waiters;
	bool copy; /* the second of the pack is being tried */
	int check; /* what the worker found */
	struct blob_op blob;
	struct io_work work;
};

struct pages {
	struct repository *repository;
	struct io_loop *loop;
	uint64_t tick;
	uint32_t n;
	uint8_t *bytes;
	struct list starved; /* page_waits that found no slot */
	struct slot slots[];
};

static void slot_read(struct slot *slot);

static size_t slot_stride(void)
{
	return round_up(PAGE_MAX, 4096);
}

struct pages *pages_new(struct repository *repository, struct io_loop *loop, uint32_t bytes)
{
	uint32_t n = (uint32_t)((bytes ? bytes : BYTES_DFLT) / slot_stride());
	struct pages *p;

	n = n < SLOTS_MIN ? SLOTS_MIN : n;
	p = mem_alloc(sizeof(*p) + n * sizeof(p->slots[0]));
	if (!p)
		return NULL;
	p->bytes = mem_alloc_pages(n * slot_stride());
	if (!p->bytes) {
		mem_free(p);
		return NULL;
	}
	p->repository = repository;
	p->loop = loop;
	p->n = n;
	list_init(&p->starved);
	for (uint32_t i = 0; i < n; i++) {
		p->slots[i].pages = p;
		p->slots[i].bytes = p->bytes + i * slot_stride();
		list_init(&p->slots[i].waiters);
	}
	return p;
}

void pages_free(struct pages *pages)
{
	if (!pages)
		return;
	for (uint32_t i = 0; i < pages->n; i++)
		CHECK(pages->slots[i].state != LOADING);
	mem_free_pages(pages->bytes, pages->n * slot_stride());
	mem_free(pages);
}

static bool is_page(const struct slot *slot, const struct snap_item *item)
{
	return slot->state != EMPTY && slot->item.offset == item->offset &&
	       pack_equal(&slot->item.pack, &item->pack) &&
	       memcmp(slot->item.hash, item->hash, SNAP_HASH) == 0;
}

static struct slot *slot_of(struct pages *pages, const struct snap_item *item)
{
	for (uint32_t i = 0; i < pages->n; i++)
		if (is_page(&pages->slots[i], item))
			return &pages->slots[i];
	return NULL;
}

const uint8_t *pages_find(struct pages *pages, const struct snap_item *item)
{
	struct slot *slot = slot_of(pages, item);

	if (!slot || slot->state != READY)
		return NULL;
	slot->used = ++pages->tick;
	return slot->bytes;
}

static struct slot *victim(struct pages *pages)
{
	struct slot *best = NULL;

	for (uint32_t i = 0; i < pages->n; i++) {
		struct slot *slot = &pages->slots[i];

		if (slot->state != LOADING && !slot->pinned && (!best || slot->used < best->used))
			best = slot;
	}
	return best;
}

/* ---- Loading ----------------------------------------------------------------------------------
 */

static void slot_error(struct slot *slot, struct err *err, int64_t result)
{
	unsigned shift = page_shift(slot->level + 1);
	const char *why = "its hash is wrong";

	if (result == -ENOENT)
		why = "it is missing";
	else if (result < 0)
		why = strerror((int)-result);
	else if (result != slot->item.length)
		why = "it is too short";
	err_set(err, -EIO,
		"%s: %s, and its copy: the page of blocks %llu to %llu can't be read: %s",
		slot->pages->repository->blobs->place, slot->blob.name,
		(unsigned long long)slot->number << shift,
		(((unsigned long long)slot->number + 1) << shift) - 1, why);
}

/* Wakes those who wait: first for this page, then for a slot. */
static void slot_end(struct slot *slot, int64_t result)
{
	struct pages *pages = slot->pages;
	bool good = slot->check == 0 && result == slot->item.length;
	struct list waiters, *node;

	list_init(&waiters);
	list_splice_tail(&waiters, &slot->waiters);
	slot->state = good ? READY : EMPTY;
	slot->used = good ? ++pages->tick : 0;
	slot->pinned = true;
	while ((node = list_pop(&waiters))) {
		struct page_wait *wait = container_of(node, struct page_wait, link);

		if (!good)
			slot_error(slot, wait->err, result);
		wait->done(wait, good ? slot->bytes : NULL, good ? 0 : -EIO);
	}
	slot->pinned = false;
	list_splice_tail(&waiters, &pages->starved);
	while ((node = list_pop(&waiters)))
		pages_load(pages, container_of(node, struct page_wait, link));
}

static void slot_failed(struct slot *slot, int64_t result)
{
	if (slot->copy) {
		slot_end(slot, result);
		return;
	}
	slot->copy = true;
	slot_read(slot);
}

static void slot_verify(struct io_work *work)
{
	struct slot *slot = container_of(work, struct slot, work);
	uint8_t hash[SNAP_HASH];

	codec_hash(slot->bytes, slot->item.length, hash);
	slot->check = memcmp(hash, slot->item.hash, SNAP_HASH) == 0
			  ? page_check(slot->bytes, slot->item.length, slot->level, slot->number)
			  : -EBADMSG;
}

static void slot_verified(struct io_work *work)
{
	struct slot *slot = container_of(work, struct slot, work);

	if (slot->check < 0)
		slot_failed(slot, slot->item.length);
	else
		slot_end(slot, slot->item.length);
}

static void slot_on_read(struct blob_op *blob)
{
	struct slot *slot = container_of(blob, struct slot, blob);

	if (blob->result != slot->item.length) {
		slot_failed(slot, blob->result);
		return;
	}
	slot->work.run = slot_verify;
	slot->work.done = slot_verified;
	io_work(slot->pages->loop, &slot->work);
}

static void slot_read(struct slot *slot)
{
	char name[BLOB_NAME_MAX];

	slot->check = -EIO;
	slot->blob.done = slot_on_read;
	blob_read(slot->pages->repository->blobs, slot->pages->loop, &slot->blob,
		  pack_name(&slot->item.pack, slot->copy, name), slot->bytes, slot->item.offset,
		  slot->item.length);
}

/* The page is there: told on a later turn, by a work that does nothing. */
static void slot_nothing(struct io_work *work)
{
	(void)work;
}

static void slot_there(struct io_work *work)
{
	struct slot *slot = container_of(work, struct slot, work);

	slot->check = 0;
	slot_end(slot, slot->item.length);
}

void pages_load(struct pages *pages, struct page_wait *wait)
{
	struct slot *slot = slot_of(pages, &wait->item);

	CHECK(wait->item.length <= PAGE_MAX);
	if (slot && slot->state == LOADING) {
		list_add_tail(&slot->waiters, &wait->link);
		return;
	}
	if (slot) {
		list_add_tail(&slot->waiters, &wait->link);
		slot->state = LOADING;
		slot->work.run = slot_nothing;
		slot->work.done = slot_there;
		io_work(pages->loop, &slot->work);
		return;
	}
	slot = victim(pages);
	if (!slot) {
		list_add_tail(&pages->starved, &wait->link);
		return;
	}
	slot->state = LOADING;
	slot->item = wait->item;
	slot->level = wait->level;
	slot->number = wait->number;
	slot->copy = false;
	list_add_tail(&slot->waiters, &wait->link);
	slot_read(slot);
}
