/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of the tree.
 */
#include "snapshots/format.h"

#include "base/bytes.h"
#include "base/check.h"

#include <errno.h>

struct layout {
	uint32_t packs;
	uint32_t entries;
	uint32_t tables;
	const uint8_t *pack;
	const uint8_t *entry;
	const uint8_t *table;
};

static struct layout layout_of(const uint8_t *buf)
{
	struct layout l = {
	    .packs = get_le16(buf + 12),
	    .entries = get_le16(buf + 14),
	    .tables = get_le16(buf + 16),
	    .pack = buf + PAGE_FIXED,
	};

	l.entry = l.pack + (size_t)l.packs * PAGE_PACK;
	l.table = l.entry + (size_t)l.entries * PAGE_ENTRY;
	return l;
}

/* ---- Writing ----------------------------------------------------------------------------------
 */

/* The pack's place in the table, in which neighbours mostly share one. */
static uint32_t pack_place(struct snap_pack *packs, uint32_t *n, const struct snap_pack *pack)
{
	for (uint32_t i = *n; i-- > 0;)
		if (pack_equal(&packs[i], pack))
			return i;
	packs[*n] = *pack;
	return (*n)++;
}

static bool has_item(const struct snap_entry *e)
{
	return e->state != ENTRY_ABSENT && e->state != ENTRY_ZERO;
}

static void put_entry(struct cursor *c, uint32_t place, const struct snap_entry *e, uint32_t pack,
		      uint32_t extra)
{
	bool item = has_item(e);
	uint8_t *hash;

	cursor_put_le16(c, (uint16_t)place);
	cursor_put_u8(c, (uint8_t)e->state);
	cursor_put_u8(c, 0);
	cursor_put_le16(c, (uint16_t)pack);
	cursor_put_le16(c, item ? e->item.slot : 0);
	cursor_put_le32(c, item ? e->item.offset : 0);
	cursor_put_le32(c, item ? e->item.length : 0);
	cursor_put_le32(c, extra);
	cursor_put_le32(c, 0);
	hash = cursor_take(c, SNAP_HASH);
	if (hash)
		memcpy(hash, e->item.hash, SNAP_HASH);
}

size_t page_encode(const struct snap_page *page, uint8_t *buf)
{
	static _Thread_local struct snap_pack packs[PAGE_FANOUT];
	static _Thread_local uint16_t place_of[PAGE_FANOUT];
	uint32_t n_packs = 0, n = 0, tables = 0;
	struct cursor c = cursor_over(buf, PAGE_MAX);

	for (uint32_t i = 0; i < PAGE_FANOUT; i++) {
		const struct snap_entry *e = &page->entries[i];

		n += e->state != ENTRY_ABSENT;
		tables += e->state == ENTRY_FRAMES;
		if (has_item(e))
			place_of[i] = (uint16_t)pack_place(packs, &n_packs, &e->item.pack);
	}
	if (n == 0)
		return 0;
	cursor_put_le32(&c, MAGIC_PAGE);
	cursor_put_le16(&c, SNAP_VERSION);
	cursor_put_le16(&c, page->level);
	cursor_put_le32(&c, page->number);
	cursor_put_le16(&c, (uint16_t)n_packs);
	cursor_put_le16(&c, (uint16_t)n);
	cursor_put_le16(&c, (uint16_t)tables);
	cursor_put_le16(&c, 0);
	cursor_put_le32(&c, 0);
	for (uint32_t i = 0; i < n_packs; i++) {
		cursor_put_le64(&c, packs[i].snapshot.hi);
		cursor_put_le64(&c, packs[i].snapshot.lo);
		cursor_put_le32(&c, packs[i].attempt);
		cursor_put_le32(&c, packs[i].number);
	}
	tables = 0;
	for (uint32_t i = 0; i < PAGE_FANOUT; i++) {
		const struct snap_entry *e = &page->entries[i];

		if (e->state == ENTRY_ABSENT)
			continue;
		put_entry(&c, i, e, has_item(e) ? place_of[i] : 0,
			  e->state == ENTRY_FRAMES ? tables++ : e->blocks);
	}
	for (uint32_t i = 0; i < PAGE_FANOUT; i++)
		for (uint32_t f = 0; f < FRAMES && page->entries[i].state == ENTRY_FRAMES; f++)
			cursor_put_le16(&c, page->entries[i].frames[f]);
	CHECK(!c.bad);
	return PAGE_MAX - c.left;
}

/* ---- Reading ----------------------------------------------------------------------------------
 */

static bool entry_is_sane(const struct layout *l, const uint8_t *e, unsigned level)
{
	uint32_t state = e[2], pack = get_le16(e + 4), offset = get_le32(e + 8);
	uint32_t length = get_le32(e + 12), extra = get_le32(e + 16);
	uint64_t stored = 0;

	if ((state == ENTRY_PAGE) != (level > 0))
		return false;
	if (state == ENTRY_ZERO)
		return true;
	if (pack >= l->packs || length == 0 || (uint64_t)offset + length > BLOB_SIZE_MAX)
		return false;
	switch (state) {
	case ENTRY_PAGE:
		return length <= PAGE_MAX && extra <= UINT32_C(1) << page_shift(level);
	case ENTRY_RAW:
		return length == BLOCK_STORED_MAX;
	case ENTRY_FRAMES:
		if (extra >= l->tables)
			return false;
		for (uint32_t f = 0; f < FRAMES; f++) {
			uint16_t n = get_le16(l->table + (size_t)extra * PAGE_FRAMES + 2 * f);

			if (n > FRAME_SIZE)
				return false;
			stored += frame_stored(n);
		}
		return stored == length;
	default:
		return false;
	}
}

int page_check(const uint8_t *buf, size_t len, unsigned level, uint32_t number)
{
	struct layout l;
	int last = -1;

	if (len < PAGE_FIXED || get_le32(buf) != MAGIC_PAGE)
		return -EBADMSG;
	if (get_le16(buf + 4) != SNAP_VERSION)
		return -ENOTSUP;
	if (get_le16(buf + 6) != level || get_le32(buf + 8) != number)
		return -EBADMSG;
	l = layout_of(buf);
	if (l.packs > PAGE_FANOUT || l.entries > PAGE_FANOUT || l.tables > PAGE_FANOUT)
		return -EBADMSG;
	if (len != PAGE_FIXED + (size_t)l.packs * PAGE_PACK + (size_t)l.entries * PAGE_ENTRY +
		       (size_t)l.tables * PAGE_FRAMES)
		return -EBADMSG;
	for (uint32_t i = 0; i < l.entries; i++) {
		const uint8_t *e = l.entry + (size_t)i * PAGE_ENTRY;
		int place = get_le16(e);

		if (place <= last || place >= PAGE_FANOUT || !entry_is_sane(&l, e, level))
			return -EBADMSG;
		last = place;
	}
	return 0;
}

uint32_t page_count(const uint8_t *buf)
{
	return get_le16(buf + 14);
}

uint32_t page_get(const uint8_t *buf, uint32_t i, struct snap_entry *ret)
{
	struct layout l = layout_of(buf);
	const uint8_t *e = l.entry + (size_t)i * PAGE_ENTRY;
	uint32_t extra = get_le32(e + 16);
	const uint8_t *p;

	CHECK(i < l.entries);
	*ret = (struct snap_entry){.state = (enum entry_state)e[2]};
	memcpy(ret->item.hash, e + 24, SNAP_HASH);
	if (!has_item(ret))
		return get_le16(e);
	p = l.pack + (size_t)get_le16(e + 4) * PAGE_PACK;
	ret->item.pack = (struct snap_pack){
	    .snapshot = {.hi = get_le64(p), .lo = get_le64(p + 8)},
	    .attempt = get_le32(p + 16),
	    .number = get_le32(p + 20),
	};
	ret->item.slot = get_le16(e + 6);
	ret->item.offset = get_le32(e + 8);
	ret->item.length = get_le32(e + 12);
	if (ret->state == ENTRY_PAGE)
		ret->blocks = extra;
	for (uint32_t f = 0; f < FRAMES && ret->state == ENTRY_FRAMES; f++)
		ret->frames[f] = get_le16(l.table + (size_t)extra * PAGE_FRAMES + 2 * f);
	return get_le16(e);
}

uint32_t page_search(const uint8_t *buf, uint32_t place)
{
	struct layout l = layout_of(buf);
	uint32_t low = 0, high = l.entries;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (get_le16(l.entry + (size_t)middle * PAGE_ENTRY) < place)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void page_find(const uint8_t *buf, uint32_t place, struct snap_entry *ret)
{
	uint32_t i = page_search(buf, place);

	if (i == page_count(buf) || page_get(buf, i, ret) != place)
		*ret = (struct snap_entry){.state = ENTRY_ABSENT};
}

void page_decode(const uint8_t *buf, struct snap_page *ret)
{
	struct snap_entry e;

	memset(ret->entries, 0, sizeof(ret->entries));
	ret->level = (uint8_t)get_le16(buf + 6);
	ret->number = get_le32(buf + 8);
	for (uint32_t i = 0; i < page_count(buf); i++) {
		uint32_t place = page_get(buf, i, &e);

		ret->entries[place] = e;
	}
}
