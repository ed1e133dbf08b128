/* SPDX-License-Identifier: Apache-2.0
 *
 * Small objects, names, packs. Pages are in format_page.c.
 */
#include "snapshots/format.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* ---- Sealed structures ------------------------------------------------------------------------
 */

static struct cursor sealed_begin(uint8_t *buf, size_t max, uint64_t magic)
{
	struct cursor c = cursor_over(buf, max);

	cursor_put_le64(&c, magic);
	cursor_put_le32(&c, 0); /* checksum */
	cursor_put_le16(&c, SNAP_VERSION);
	cursor_put_le16(&c, 0);
	cursor_put_le32(&c, 0); /* length */
	cursor_put_le32(&c, 0);
	return c;
}

static size_t sealed_end(uint8_t *buf, const struct cursor *c)
{
	size_t len = (size_t)(c->p - buf);

	CHECK(!c->bad);
	put_le32(buf + 16, (uint32_t)len);
	put_le32(buf + 8, crc32c(0, buf + 12, len - 12));
	return len;
}

static int sealed_check(const uint8_t *buf, size_t len, uint64_t magic, size_t min,
			struct cursor *ret)
{
	uint32_t length;

	if (len < SNAP_PROLOGUE || get_le64(buf) != magic)
		return -EBADMSG;
	length = get_le32(buf + 16);
	if (length < SNAP_PROLOGUE || length > len)
		return -EBADMSG;
	if (crc32c(0, buf + 12, length - 12) != get_le32(buf + 8))
		return -EBADMSG;
	/* Only a sound structure can be trusted to say that it is newer. */
	if (get_le16(buf + 12) != SNAP_VERSION || get_le16(buf + 14) != 0)
		return -ENOTSUP;
	if (length < min)
		return -EBADMSG;
	*ret = cursor_over(buf + SNAP_PROLOGUE, length - SNAP_PROLOGUE);
	return 0;
}

static void put_id(struct cursor *c, struct id id)
{
	cursor_put_le64(c, id.hi);
	cursor_put_le64(c, id.lo);
}

static struct id get_id(struct cursor *c)
{
	struct id id;

	id.hi = cursor_get_le64(c);
	id.lo = cursor_get_le64(c);
	return id;
}

static void put_bytes(struct cursor *c, const void *bytes, size_t n)
{
	uint8_t *p = cursor_take(c, n);

	if (p && n)
		memcpy(p, bytes, n);
}

static void get_bytes(struct cursor *c, void *bytes, size_t n)
{
	const uint8_t *p = cursor_take(c, n);

	if (p && n)
		memcpy(bytes, p, n);
}

static void put_zeroes(struct cursor *c, size_t n)
{
	uint8_t *p = cursor_take(c, n);

	if (p)
		memset(p, 0, n);
}

static void put_item(struct cursor *c, const struct snap_item *item)
{
	put_id(c, item->pack.snapshot);
	cursor_put_le32(c, item->pack.attempt);
	cursor_put_le32(c, item->pack.number);
	cursor_put_le32(c, item->offset);
	cursor_put_le32(c, item->length);
	cursor_put_le16(c, item->slot);
	cursor_put_le16(c, 0);
	put_bytes(c, item->hash, SNAP_HASH);
}

static void get_item(struct cursor *c, struct snap_item *item)
{
	item->pack.snapshot = get_id(c);
	item->pack.attempt = cursor_get_le32(c);
	item->pack.number = cursor_get_le32(c);
	item->offset = cursor_get_le32(c);
	item->length = cursor_get_le32(c);
	item->slot = cursor_get_le16(c);
	cursor_get_le16(c);
	get_bytes(c, item->hash, SNAP_HASH);
}

/* ---- Small objects ----------------------------------------------------------------------------
 */

size_t repository_encode(uint8_t *buf, struct id uuid)
{
	struct cursor c = sealed_begin(buf, REPOSITORY_BYTES, MAGIC_REPOSITORY);

	put_id(&c, uuid);
	cursor_put_le32(&c, SNAP_BLOCK);
	cursor_put_le32(&c, FRAME_SIZE);
	put_zeroes(&c, 16);
	return sealed_end(buf, &c);
}

int repository_decode(const uint8_t *buf, size_t len, struct repository_head *ret)
{
	struct cursor c;
	int r = sealed_check(buf, len, MAGIC_REPOSITORY, REPOSITORY_BYTES, &c);

	if (r < 0)
		return r;
	ret->uuid = get_id(&c);
	if (cursor_get_le32(&c) != SNAP_BLOCK || cursor_get_le32(&c) != FRAME_SIZE)
		return -ENOTSUP;
	ret->read_only_features = cursor_get_le64(&c);
	return 0;
}

size_t manifest_encode(uint8_t *buf, const struct snap_info *info, uint64_t renewals)
{
	struct cursor c = sealed_begin(buf, MANIFEST_MAX, MAGIC_MANIFEST);

	CHECK(info->labels_len <= SNAP_LABELS_MAX);
	put_id(&c, info->id);
	put_id(&c, info->volume);
	put_id(&c, info->parent);
	cursor_put_le32(&c, (uint32_t)info->state);
	cursor_put_le32(&c, info->attempt);
	cursor_put_le64(&c, info->size);
	cursor_put_le64(&c, info->started);
	cursor_put_le64(&c, info->completed);
	cursor_put_le64(&c, info->expires);
	cursor_put_le64(&c, info->blocks);
	cursor_put_le64(&c, info->stored);
	cursor_put_le64(&c, renewals);
	cursor_put_le32(&c, info->labels_len);
	cursor_put_le32(&c, 0);
	put_item(&c, &info->root);
	put_zeroes(&c, 12);
	put_bytes(&c, info->labels, info->labels_len);
	return sealed_end(buf, &c);
}

/* Fields that only a bug or a malicious hand makes wrong, under a right checksum. */
static bool info_is_sane(const struct snap_info *info)
{
	if (info->state < SNAP_PENDING || info->state > SNAP_DELETED)
		return false;
	if (info->size > SNAP_SIZE_MAX || !is_aligned(info->size, 512))
		return false;
	if (info->labels_len > 0 && info->labels[info->labels_len - 1] != '\0')
		return false;
	return info->root.length <= PAGE_MAX;
}

int manifest_decode(const uint8_t *buf, size_t len, struct id id, struct snap_info *ret_info,
		    uint64_t *ret_renewals)
{
	struct snap_info *info = ret_info;
	uint64_t renewals;
	struct cursor c;
	int r = sealed_check(buf, len, MAGIC_MANIFEST, MANIFEST_FIXED, &c);

	if (r < 0)
		return r;
	info->id = get_id(&c);
	info->volume = get_id(&c);
	info->parent = get_id(&c);
	info->state = (enum snap_state)cursor_get_le32(&c);
	info->attempt = cursor_get_le32(&c);
	info->size = cursor_get_le64(&c);
	info->started = cursor_get_le64(&c);
	info->completed = cursor_get_le64(&c);
	info->expires = cursor_get_le64(&c);
	info->blocks = cursor_get_le64(&c);
	info->stored = cursor_get_le64(&c);
	renewals = cursor_get_le64(&c);
	info->labels_len = cursor_get_le32(&c);
	cursor_get_le32(&c);
	get_item(&c, &info->root);
	cursor_take(&c, 12);
	if (info->labels_len > SNAP_LABELS_MAX)
		return -EBADMSG;
	get_bytes(&c, info->labels, info->labels_len);
	if (c.bad || !id_equal(info->id, id) || !info_is_sane(info))
		return -EBADMSG;
	if (ret_renewals)
		*ret_renewals = renewals;
	return 0;
}

size_t hold_encode(uint8_t *buf, const struct hold *hold)
{
	struct cursor c = sealed_begin(buf, HOLD_FIXED + MANIFEST_MAX, MAGIC_HOLD);
	size_t n;

	cursor_put_le64(&c, hold->expires);
	cursor_put_le64(&c, hold->renewals);
	n = manifest_encode(buf + HOLD_FIXED, hold->info, 0);
	cursor_take(&c, n);
	return sealed_end(buf, &c);
}

int hold_decode(const uint8_t *buf, size_t len, struct hold *hold)
{
	struct cursor c, inner;
	int r = sealed_check(buf, len, MAGIC_HOLD, HOLD_FIXED + MANIFEST_FIXED, &c);
	struct id id;

	if (r < 0)
		return r;
	hold->expires = cursor_get_le64(&c);
	hold->renewals = cursor_get_le64(&c);
	inner = cursor_over(c.p + SNAP_PROLOGUE, c.left - SNAP_PROLOGUE);
	id = get_id(&inner);
	return manifest_decode(c.p, c.left, id, hold->info, NULL);
}

size_t lease_encode(uint8_t *buf, const struct lease *lease)
{
	struct cursor c = sealed_begin(buf, LEASE_BYTES, MAGIC_LEASE);

	cursor_put_le64(&c, lease->number);
	put_id(&c, lease->owner);
	cursor_put_le64(&c, lease->renewals);
	return sealed_end(buf, &c);
}

int lease_decode(const uint8_t *buf, size_t len, struct lease *ret)
{
	struct cursor c;
	int r = sealed_check(buf, len, MAGIC_LEASE, LEASE_BYTES, &c);

	if (r < 0)
		return r;
	ret->number = cursor_get_le64(&c);
	ret->owner = get_id(&c);
	ret->renewals = cursor_get_le64(&c);
	return 0;
}

/* ---- Names ------------------------------------------------------------------------------------
 */

const char *manifest_name(struct id id, char name[BLOB_NAME_MAX])
{
	char text[ID_TEXT_MAX];

	snprintf(name, BLOB_NAME_MAX, PREFIX_SNAPSHOTS "%s", id_format(id, SNAP_PREFIX, text));
	return name;
}

const char *hold_name(const char *holder, char name[BLOB_NAME_MAX])
{
	snprintf(name, BLOB_NAME_MAX, PREFIX_HOLDS "%s", holder);
	return name;
}

const char *pack_name(const struct snap_pack *pack, bool copy, char name[BLOB_NAME_MAX])
{
	char text[ID_TEXT_MAX];

	snprintf(name, BLOB_NAME_MAX, PREFIX_PACKS "%s/%08" PRIx32 "-%05" PRIx32 "/%03" PRIx32 "%s",
		 id_format(pack->snapshot, SNAP_PREFIX, text), pack->attempt, pack->number >> 12,
		 pack->number & 0xfff, copy ? "-copy" : "");
	return name;
}

int manifest_name_parse(const char *name, struct id *ret_id)
{
	size_t n = strlen(PREFIX_SNAPSHOTS);

	if (strncmp(name, PREFIX_SNAPSHOTS, n) != 0)
		return -EINVAL;
	return id_parse(name + n, SNAP_PREFIX, ret_id);
}

/* Just what pack_name makes. */
int pack_name_parse(const char *name, struct snap_pack *ret_pack, bool *ret_copy)
{
	char again[BLOB_NAME_MAX], text[ID_TEXT_MAX];
	const char *p;
	struct snap_pack pack;
	uint32_t high, low;
	size_t n;

	if (strncmp(name, PREFIX_PACKS, strlen(PREFIX_PACKS)) != 0)
		return -EINVAL;
	p = name + strlen(PREFIX_PACKS);
	n = strcspn(p, "/");
	if (n >= sizeof(text) || !p[n])
		return -EINVAL;
	memcpy(text, p, n);
	text[n] = '\0';
	if (id_parse(text, SNAP_PREFIX, &pack.snapshot) < 0 ||
	    sscanf(p + n + 1, "%8" SCNx32 "-%5" SCNx32 "/%3" SCNx32, &pack.attempt, &high, &low) !=
		3)
		return -EINVAL;
	pack.number = high << 12 | low;
	for (int copy = 0; copy < 2; copy++) {
		if (strcmp(pack_name(&pack, copy, again), name) != 0)
			continue;
		*ret_pack = pack;
		*ret_copy = copy;
		return 0;
	}
	return -EINVAL;
}

/* ---- Packs ------------------------------------------------------------------------------------
 */

static void put_pack(struct cursor *c, const struct snap_pack *pack)
{
	put_id(c, pack->snapshot);
	cursor_put_le32(c, pack->attempt);
	cursor_put_le32(c, pack->number);
}

void pack_head_encode(uint8_t buf[PACK_HEAD], const struct snap_pack *pack)
{
	struct cursor c = cursor_over(buf, PACK_HEAD);

	cursor_put_le64(&c, MAGIC_PACK);
	put_pack(&c, pack);
	put_zeroes(&c, 32);
}

size_t pack_end_encode(uint8_t *buf, const struct snap_pack *pack, uint32_t offset,
		       const struct pack_item *items, uint32_t n)
{
	struct cursor c = sealed_begin(buf, DIRECTORY_MAX, MAGIC_DIRECTORY);
	size_t len;

	CHECK(n <= PACK_ITEMS_MAX);
	put_pack(&c, pack);
	cursor_put_le32(&c, n);
	cursor_put_le32(&c, 0);
	for (uint32_t i = 0; i < n; i++) {
		cursor_put_u8(&c, (uint8_t)items[i].kind);
		cursor_put_u8(&c, items[i].state);
		cursor_put_le16(&c, 0);
		cursor_put_le32(&c, items[i].offset);
		cursor_put_le32(&c, items[i].length);
		cursor_put_le32(&c, items[i].number);
		put_bytes(&c, items[i].hash, SNAP_HASH);
		for (int f = 0; f < (int)FRAMES; f++)
			cursor_put_le16(&c, items[i].frames[f]);
	}
	len = sealed_end(buf, &c);
	put_le64(buf + len, MAGIC_DIRECTORY);
	put_le32(buf + len + 8, offset);
	put_le32(buf + len + 12, crc32c(0, buf + len, 12));
	return len + PACK_TAIL;
}

static int item_decode(struct cursor *c, uint64_t size, struct pack_item *item)
{
	uint64_t stored = 0;

	item->kind = (enum item_kind)cursor_get_u8(c);
	item->state = cursor_get_u8(c);
	cursor_get_le16(c);
	item->offset = cursor_get_le32(c);
	item->length = cursor_get_le32(c);
	item->number = cursor_get_le32(c);
	get_bytes(c, item->hash, SNAP_HASH);
	for (int f = 0; f < (int)FRAMES; f++) {
		item->frames[f] = cursor_get_le16(c);
		stored += frame_stored(item->frames[f]);
	}
	if (c->bad || (uint64_t)item->offset + item->length > size)
		return -EBADMSG;
	if (item->kind == ITEM_PAGE)
		return item->state < PAGE_LEVELS && item->length <= PAGE_MAX ? 0 : -EBADMSG;
	if (item->kind != ITEM_BLOCK || stored != item->length)
		return -EBADMSG;
	return item->state == ENTRY_RAW || item->state == ENTRY_FRAMES ? 0 : -EBADMSG;
}

int pack_end_decode(const uint8_t *buf, size_t len, uint64_t size, const struct snap_pack *pack,
		    struct pack_item *items, uint32_t *ret_n)
{
	const uint8_t *tail;
	struct snap_pack named;
	struct cursor c;
	uint32_t offset, n;

	if (len < PACK_TAIL || len > size)
		return -EBADMSG;
	tail = buf + len - PACK_TAIL;
	if (get_le64(tail) != MAGIC_DIRECTORY || get_le32(tail + 12) != crc32c(0, tail, 12))
		return -EBADMSG;
	offset = get_le32(tail + 8);
	if (offset < size - len || offset > size - PACK_TAIL)
		return -EBADMSG;
	offset -= (uint32_t)(size - len);
	if (sealed_check(buf + offset, len - PACK_TAIL - offset, MAGIC_DIRECTORY, DIRECTORY_HEAD,
			 &c) < 0)
		return -EBADMSG;
	named.snapshot = get_id(&c);
	named.attempt = cursor_get_le32(&c);
	named.number = cursor_get_le32(&c);
	n = cursor_get_le32(&c);
	cursor_get_le32(&c);
	if (!pack_equal(&named, pack) || n > PACK_ITEMS_MAX)
		return -EBADMSG;
	for (uint32_t i = 0; i < n; i++)
		if (item_decode(&c, size, &items[i]) < 0)
			return -EBADMSG;
	*ret_n = n;
	return 0;
}
