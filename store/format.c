/* SPDX-License-Identifier: Apache-2.0 */
#include "store/format.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"

#include <errno.h>

/* Byte offsets. A field ends where the next begins; what is not listed is written as zeroes. The
 * magic, the version of the superblock and the place of the CRC never change, so that every later
 * format can be told from damage. */

enum page_offset {
	PAGE_MAGIC = 0,
	PAGE_WORD = 8, /* superblock: version; table: page index; slot: length and flags */
	PAGE_CRC = 12,
	PAGE_BODY = 16,
};

enum super_offset {
	SUPER_UUID_HI = 16,
	SUPER_UUID_LO = 24,
	SUPER_FEATURES_MUST = 32,
	SUPER_FEATURES_READ_ONLY = 40,
	SUPER_FEATURES_IGNORABLE = 48,
	SUPER_SEQUENCE = 56,
	SUPER_OWNER_TERM = 64,
	SUPER_GROUPS = 72,
	SUPER_BLOCK_SIZE = 80,
	SUPER_SEGMENT_SIZE = 84,
	SUPER_ALIGNMENT = 88,
	SUPER_CHECKSUM = 92,
	SUPER_GROUP_SEGMENTS = 96,
	SUPER_GROUP_HEAD = 100,
	SUPER_MADE_AT = 104,
	SUPER_END = 112,
};
_Static_assert(SUPER_END <= 512, "it fits in the smallest sector, which a disk writes whole");

enum table_offset {
	TABLE_GROUP = 16,
	TABLE_VERSION = 24,
	TABLE_RESERVED = 32,
	TABLE_ENTRIES = 64,
};

enum entry_offset {
	ENTRY_STATE = 0,
	ENTRY_STREAM = 1,
	ENTRY_SIZE_CLASS = 2, /* reserved: 0 is the store's segment size */
	ENTRY_CODEC = 3,      /* reserved: 0 is none */
	ENTRY_GENERATION = 4,
	ENTRY_VOLUME_HI = 8,
	ENTRY_VOLUME_LO = 16,
	ENTRY_INCARNATION = 24,
	ENTRY_OWNER_TERM = 32,
	ENTRY_ORDER = 40,
	ENTRY_FLAGS = 48,
	ENTRY_KEY_SLOT = 52, /* reserved: 0 is none */
	ENTRY_ERASURE = 54,  /* reserved: 0 is none */
	ENTRY_RESERVED = 56,
	ENTRY_SIZE = 64,
};
_Static_assert(TABLE_ENTRIES + FORMAT_ENTRIES_PER_PAGE * ENTRY_SIZE == FORMAT_PAGE, "a full page");
_Static_assert(2 * FORMAT_TABLE_DISTANCE <= FORMAT_GROUP_HEAD, "both tables are in the head");
_Static_assert(FORMAT_TABLE_SIZE <= FORMAT_TABLE_DISTANCE, "the tables are apart");

enum slot_offset {
	SLOT_LENGTH = 8,
	SLOT_FLAGS = 10,
	SLOT_NAME_HI = 16,
	SLOT_NAME_LO = 24,
	SLOT_VERSION = 32,
	SLOT_SEQUENCE = 40,
	SLOT_SEGMENT = 48,
	SLOT_GENERATION = 56,
	SLOT_PLACE = 60, /* pair * 2 + slot */
	SLOT_DATA = 64,
};
_Static_assert(SLOT_DATA + STORE_OBJECT_MAX == FORMAT_PAGE, "an object fills a slot");

enum slot_flag {
	SLOT_DELETED = 1,
};

static const uint8_t super_magic[8] = {'v', 'o', 'l', 'u', 'm', 'e', 'd', '1'};
static const uint8_t table_magic[8] = {'v', 'o', 'l', 's', 'e', 'g', 't', '1'};
static const uint8_t slot_magic[8] = {'v', 'o', 'l', 'o', 'b', 'j', 't', '1'};

/* ---- Pages ------------------------------------------------------------------------------------
 */

bool format_is_zero(const void *buf, size_t len)
{
	const uint8_t *p = buf;

	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* The store's UUID seeds the checksums of what it holds: what an earlier store left on the device
 * is never taken for ours. */
static uint32_t page_seed(struct id store)
{
	uint8_t bytes[16];

	put_le64(bytes, store.hi);
	put_le64(bytes + 8, store.lo);
	return crc32c(UINT32_MAX, bytes, sizeof(bytes));
}

static uint32_t page_crc(const uint8_t *page, uint32_t seed)
{
	uint32_t crc = crc32c(seed, page, PAGE_CRC);

	return crc32c(crc, page + PAGE_BODY, FORMAT_PAGE - PAGE_BODY);
}

static void page_begin(uint8_t *page, const uint8_t magic[8])
{
	memset(page, 0, FORMAT_PAGE);
	memcpy(page + PAGE_MAGIC, magic, 8);
}

static void page_end(uint8_t *page, uint32_t seed)
{
	put_le32(page + PAGE_CRC, page_crc(page, seed));
}

static int page_check(const uint8_t *page, const uint8_t magic[8], uint32_t seed)
{
	if (memcmp(page + PAGE_MAGIC, magic, 8) != 0)
		return format_is_zero(page, FORMAT_PAGE) ? -ENODATA : -EMEDIUMTYPE;
	if (get_le32(page + PAGE_CRC) != page_crc(page, seed))
		return -EUCLEAN;
	return 0;
}

/* ---- Geometry ---------------------------------------------------------------------------------
 */

uint64_t format_segments_in(uint32_t segment_size, uint64_t size)
{
	uint64_t stride = format_group_offset(segment_size, 1) - FORMAT_HEAD_SIZE;
	uint64_t groups, rest, in_rest;

	if (size < FORMAT_HEAD_SIZE)
		return 0;
	groups = (size - FORMAT_HEAD_SIZE) / stride;
	rest = (size - FORMAT_HEAD_SIZE) % stride;
	if (groups >= FORMAT_GROUPS_MAX)
		return FORMAT_GROUPS_MAX * FORMAT_SEGMENTS;
	in_rest = rest < FORMAT_GROUP_HEAD ? 0 : (rest - FORMAT_GROUP_HEAD) / segment_size;
	return groups * FORMAT_SEGMENTS + in_rest;
}

/* ---- Superblock -------------------------------------------------------------------------------
 */

void format_super_encode(const struct format_super *super, uint8_t page[FORMAT_PAGE])
{
	page_begin(page, super_magic);
	put_le32(page + PAGE_WORD, FORMAT_VERSION);
	put_le64(page + SUPER_UUID_HI, super->uuid.hi);
	put_le64(page + SUPER_UUID_LO, super->uuid.lo);
	put_le64(page + SUPER_FEATURES_MUST, super->features_must);
	put_le64(page + SUPER_FEATURES_READ_ONLY, super->features_read_only);
	put_le64(page + SUPER_FEATURES_IGNORABLE, super->features_ignorable);
	put_le64(page + SUPER_SEQUENCE, super->sequence);
	put_le64(page + SUPER_OWNER_TERM, super->owner_term);
	put_le64(page + SUPER_GROUPS, super->groups);
	put_le32(page + SUPER_BLOCK_SIZE, FORMAT_PAGE);
	put_le32(page + SUPER_SEGMENT_SIZE, super->segment_size);
	put_le32(page + SUPER_ALIGNMENT, super->alignment);
	put_le32(page + SUPER_CHECKSUM, FORMAT_CHECKSUM_CRC32C);
	put_le32(page + SUPER_GROUP_SEGMENTS, FORMAT_SEGMENTS);
	put_le32(page + SUPER_GROUP_HEAD, FORMAT_GROUP_HEAD);
	put_le64(page + SUPER_MADE_AT, super->made_at);
	page_end(page, UINT32_MAX);
}

static bool super_is_sane(const struct format_super *s)
{
	if (s->segment_size < FORMAT_SEGMENT_SIZE_MIN || s->segment_size > FORMAT_SEGMENT_SIZE_MAX)
		return false;
	if (s->segment_size % FORMAT_SEGMENT_SIZE_UNIT != 0)
		return false;
	if (s->alignment != 512 && s->alignment != 4096)
		return false;
	return s->groups <= FORMAT_GROUPS_MAX && s->sequence > 0 && !id_is_zero(s->uuid);
}

int format_super_decode(const uint8_t page[FORMAT_PAGE], struct format_super *ret_super)
{
	struct format_super s;
	int r = page_check(page, super_magic, UINT32_MAX);

	if (r < 0)
		return r;
	if (get_le32(page + PAGE_WORD) != FORMAT_VERSION)
		return -ENOTSUP;
	s = (struct format_super){
	    .uuid.hi = get_le64(page + SUPER_UUID_HI),
	    .uuid.lo = get_le64(page + SUPER_UUID_LO),
	    .features_must = get_le64(page + SUPER_FEATURES_MUST),
	    .features_read_only = get_le64(page + SUPER_FEATURES_READ_ONLY),
	    .features_ignorable = get_le64(page + SUPER_FEATURES_IGNORABLE),
	    .sequence = get_le64(page + SUPER_SEQUENCE),
	    .owner_term = get_le64(page + SUPER_OWNER_TERM),
	    .groups = get_le64(page + SUPER_GROUPS),
	    .segment_size = get_le32(page + SUPER_SEGMENT_SIZE),
	    .alignment = get_le32(page + SUPER_ALIGNMENT),
	    .made_at = get_le64(page + SUPER_MADE_AT),
	};
	if (s.features_must & ~(uint64_t)FORMAT_FEATURES_MUST)
		return -ENOTSUP;
	/* Numbers that this version has no choice of. */
	if (get_le32(page + SUPER_BLOCK_SIZE) != FORMAT_PAGE ||
	    get_le32(page + SUPER_CHECKSUM) != FORMAT_CHECKSUM_CRC32C ||
	    get_le32(page + SUPER_GROUP_SEGMENTS) != FORMAT_SEGMENTS ||
	    get_le32(page + SUPER_GROUP_HEAD) != FORMAT_GROUP_HEAD)
		return -ENOTSUP;
	if (!super_is_sane(&s))
		return -EUCLEAN;
	*ret_super = s;
	return 0;
}

/* ---- Segment table ----------------------------------------------------------------------------
 */

static void entry_encode(const struct format_entry *e, uint8_t *p)
{
	p[ENTRY_STATE] = e->state;
	p[ENTRY_STREAM] = e->stream;
	put_le32(p + ENTRY_GENERATION, e->generation);
	put_le64(p + ENTRY_VOLUME_HI, e->volume.hi);
	put_le64(p + ENTRY_VOLUME_LO, e->volume.lo);
	put_le64(p + ENTRY_INCARNATION, e->incarnation);
	put_le64(p + ENTRY_OWNER_TERM, e->owner_term);
	put_le64(p + ENTRY_ORDER, e->order);
	put_le32(p + ENTRY_FLAGS, e->flags);
}

/* False for an entry that no store writes. */
static bool entry_decode(const uint8_t *p, struct format_entry *ret)
{
	*ret = (struct format_entry){
	    .state = p[ENTRY_STATE],
	    .stream = p[ENTRY_STREAM],
	    .generation = get_le32(p + ENTRY_GENERATION),
	    .volume.hi = get_le64(p + ENTRY_VOLUME_HI),
	    .volume.lo = get_le64(p + ENTRY_VOLUME_LO),
	    .incarnation = get_le64(p + ENTRY_INCARNATION),
	    .owner_term = get_le64(p + ENTRY_OWNER_TERM),
	    .order = get_le64(p + ENTRY_ORDER),
	    .flags = get_le32(p + ENTRY_FLAGS),
	};
	switch (ret->state) {
	case FORMAT_SEGMENT_UNUSED:
		return format_is_zero(p, ENTRY_SIZE);
	case FORMAT_SEGMENT_LENT:
		return ret->generation > 0 && ret->stream >= STORE_STREAM_USER &&
		       ret->stream <= STORE_STREAM_OBJECTS;
	case FORMAT_SEGMENT_FREE:
		return ret->generation > 0;
	}
	return false;
}

void format_table_encode(const struct format_table *table, struct id store, uint64_t group,
			 unsigned index, uint8_t page[FORMAT_PAGE])
{
	page_begin(page, table_magic);
	put_le32(page + PAGE_WORD, index);
	put_le64(page + TABLE_GROUP, group);
	put_le64(page + TABLE_VERSION, table->version);
	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++)
		entry_encode(&table->entries[i], page + TABLE_ENTRIES + i * ENTRY_SIZE);
	page_end(page, page_seed(store));
}

int format_table_decode(const uint8_t page[FORMAT_PAGE], struct id store, uint64_t group,
			unsigned index, struct format_table *ret_table)
{
	struct format_table table;
	int r = page_check(page, table_magic, page_seed(store));

	if (r < 0)
		return r;
	if (get_le32(page + PAGE_WORD) != index || get_le64(page + TABLE_GROUP) != group)
		return -EUCLEAN;
	table.version = get_le64(page + TABLE_VERSION);
	if (table.version == 0)
		return -EUCLEAN;
	for (unsigned i = 0; i < FORMAT_ENTRIES_PER_PAGE; i++) {
		if (!entry_decode(page + TABLE_ENTRIES + i * ENTRY_SIZE, &table.entries[i]))
			return -EUCLEAN;
	}
	*ret_table = table;
	return 0;
}

/* ---- Objects ----------------------------------------------------------------------------------
 */

void format_slot_encode(const struct format_slot *slot, const struct format_slot_place *place,
			const void *data, uint8_t page[FORMAT_PAGE])
{
	CHECK(slot->length <= STORE_OBJECT_MAX);
	CHECK(slot->sequence % 2 == place->slot);

	page_begin(page, slot_magic);
	put_le16(page + SLOT_LENGTH, (uint16_t)slot->length);
	put_le16(page + SLOT_FLAGS, slot->deleted ? SLOT_DELETED : 0);
	put_le64(page + SLOT_NAME_HI, slot->name.hi);
	put_le64(page + SLOT_NAME_LO, slot->name.lo);
	put_le64(page + SLOT_VERSION, slot->version);
	put_le64(page + SLOT_SEQUENCE, slot->sequence);
	put_le64(page + SLOT_SEGMENT, place->segment);
	put_le32(page + SLOT_GENERATION, place->generation);
	put_le32(page + SLOT_PLACE, place->pair * 2 + place->slot);
	if (slot->length > 0)
		memcpy(page + SLOT_DATA, data, slot->length);
	page_end(page, page_seed(place->store));
}

static bool slot_is_at(const uint8_t *page, const struct format_slot_place *place)
{
	return get_le64(page + SLOT_SEGMENT) == place->segment &&
	       get_le32(page + SLOT_GENERATION) == place->generation &&
	       get_le32(page + SLOT_PLACE) == place->pair * 2 + place->slot;
}

int format_slot_decode(const uint8_t page[FORMAT_PAGE], const struct format_slot_place *place,
		       struct format_slot *ret_slot, const uint8_t **ret_data)
{
	struct format_slot s;
	int r = page_check(page, slot_magic, page_seed(place->store));

	if (r < 0)
		return r;
	s = (struct format_slot){
	    .name.hi = get_le64(page + SLOT_NAME_HI),
	    .name.lo = get_le64(page + SLOT_NAME_LO),
	    .version = get_le64(page + SLOT_VERSION),
	    .sequence = get_le64(page + SLOT_SEQUENCE),
	    .length = get_le16(page + SLOT_LENGTH),
	    .deleted = get_le16(page + SLOT_FLAGS) & SLOT_DELETED,
	};
	if (!slot_is_at(page, place) || s.length > STORE_OBJECT_MAX)
		return -EUCLEAN;
	if (s.version == 0 || s.sequence == 0 || s.sequence % 2 != place->slot)
		return -EUCLEAN;
	if (s.deleted != (s.length == 0))
		return -EUCLEAN;
	*ret_slot = s;
	*ret_data = page + SLOT_DATA;
	return 0;
}

static bool slot_is_live(const struct format_slot *slot)
{
	return !slot->deleted;
}

struct format_pair format_pair_judge(const int errors[2], const struct format_slot slots[2])
{
	struct format_pair pair = {.state = FORMAT_PAIR_FREE};
	bool untouched[2] = {errors[0] == -ENODATA, errors[1] == -ENODATA};
	int newest = -1;
	const struct format_slot *other;

	pair.damaged = (errors[0] < 0 && !untouched[0]) || (errors[1] < 0 && !untouched[1]);
	for (int i = 0; i < 2; i++) {
		if (errors[i] == 0 && (newest < 0 || slots[i].sequence > slots[newest].sequence))
			newest = i;
	}
	if (newest < 0) {
		/* One untouched slot: the first write of a creation that was never done. */
		if (pair.damaged && !untouched[0] && !untouched[1])
			pair.state = FORMAT_PAIR_LOST;
		return pair;
	}
	pair.slot = slots[newest];
	if (slot_is_live(&pair.slot))
		pair.state = FORMAT_PAIR_LIVE;
	other = &slots[!newest];
	if (errors[!newest] == 0)
		pair.half = !id_equal(other->name, pair.slot.name) ||
			    other->version != pair.slot.version ||
			    slot_is_live(other) != slot_is_live(&pair.slot);
	else
		pair.half = true;
	return pair;
}
