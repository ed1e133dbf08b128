/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-store/format.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>

/* Byte offsets. A field ends where the next begins; what is not listed is written as zeroes, and
 * must be zero when it is read. Magic, version and the place of the CRC never change. */

enum page_offset {
	PAGE_MAGIC = 0,
	PAGE_VERSION = 8,
	PAGE_CRC = 12,
	PAGE_BODY = 16,
};

enum super_offset {
	SUPER_UUID_HI = 16,
	SUPER_UUID_LO = 24,
	SUPER_FEATURES = 32, /* a bit that is not known: refuse. None is, yet */
	SUPER_SEQUENCE = 40,
	SUPER_HOST_HI = 48,
	SUPER_HOST_LO = 56,
	SUPER_SLICE_SIZE = 64,
	SUPER_N_SLICES = 72,
	SUPER_MADE_AT = 80,
	SUPER_SLOTS = 88,
	SUPER_BLOCK_SIZE = 92,
	SUPER_END = 96,
};
_Static_assert(SUPER_END <= 512, "it fits in the smallest sector, which a disk writes whole");

enum slot_offset {
	SLOT_VERSION = 16,
	SLOT_INDEX = 24,
	SLOT_STATE = 28,
	SLOT_GENERATION = 32,
	SLOT_INSTANCE_HI = 40,
	SLOT_INSTANCE_LO = 48,
	SLOT_NUMBER = 56,
	SLOT_FLAGS = 60,
	SLOT_SIZE = 64,
	SLOT_BOOT_HI = 72,
	SLOT_BOOT_LO = 80,
	SLOT_N_EXTENTS = 88,
	SLOT_RESERVED = 92,
	SLOT_EXTENTS = 512,
	SLOT_EXTENT_SIZE = 8,
};
_Static_assert(SLOT_EXTENTS + ISTORE_EXTENTS_MAX * SLOT_EXTENT_SIZE == ISTORE_PAGE, "a full page");

enum slot_flag {
	SLOT_DISCARD = 1,
};

enum key_offset {
	KEY_STORE_HI = 16,
	KEY_STORE_LO = 24,
	KEY_BOOT_HI = 32,
	KEY_BOOT_LO = 40,
	KEY_SLOT = 48,
	KEY_RESERVED = 52,
	KEY_GENERATION = 56,
	KEY_N_BLOCKS = 64,
	KEY_KEY = ISTORE_KEY_AT,
	KEY_END = 136,
};
_Static_assert(KEY_KEY + ISTORE_KEY_SIZE == KEY_END, "the key is last");

static const uint8_t super_magic[8] = {'v', 'o', 'l', 'i', 'n', 's', 't', '1'};
static const uint8_t slot_magic[8] = {'v', 'o', 'l', 'i', 's', 'l', 't', '1'};
static const uint8_t key_magic[8] = {'v', 'o', 'l', 'i', 'k', 'e', 'y', '1'};
static const uint8_t map_magic[8] = {'v', 'o', 'l', 'i', 'm', 'a', 'p', '1'};

/* ---- Pages ------------------------------------------------------------------------------------
 */

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static void put_id(uint8_t *p, struct id id)
{
	put_le64(p, id.hi);
	put_le64(p + 8, id.lo);
}

static struct id get_id(const uint8_t *p)
{
	return (struct id){.hi = get_le64(p), .lo = get_le64(p + 8)};
}

/* The store's UUID seeds the checksums of its table: what an earlier store left on the device is
 * never taken for ours. */
static uint32_t page_seed(struct id store)
{
	uint8_t bytes[16];

	put_id(bytes, store);
	return crc32c(UINT32_MAX, bytes, sizeof(bytes));
}

static uint32_t page_crc(const uint8_t *page, uint32_t seed)
{
	uint32_t crc = crc32c(seed, page, PAGE_CRC);

	return crc32c(crc, page + PAGE_BODY, ISTORE_PAGE - PAGE_BODY);
}

static void page_begin(uint8_t *page, const uint8_t magic[8])
{
	memset(page, 0, ISTORE_PAGE);
	memcpy(page + PAGE_MAGIC, magic, 8);
	put_le32(page + PAGE_VERSION, ISTORE_VERSION);
}

static void page_end(uint8_t *page, uint32_t seed)
{
	put_le32(page + PAGE_CRC, page_crc(page, seed));
}

static int page_check(const uint8_t *page, const uint8_t magic[8], uint32_t seed)
{
	if (memcmp(page + PAGE_MAGIC, magic, 8) != 0)
		return is_zero(page, ISTORE_PAGE) ? -ENODATA : -EMEDIUMTYPE;
	if (get_le32(page + PAGE_CRC) != page_crc(page, seed))
		return -EUCLEAN;
	return get_le32(page + PAGE_VERSION) == ISTORE_VERSION ? 0 : -ENOTSUP;
}

/* ---- Superblock -------------------------------------------------------------------------------
 */

void istore_super_encode(const struct istore_super *super, uint8_t page[ISTORE_PAGE])
{
	page_begin(page, super_magic);
	put_id(page + SUPER_UUID_HI, super->uuid);
	put_le64(page + SUPER_SEQUENCE, super->sequence);
	put_id(page + SUPER_HOST_HI, super->host);
	put_le64(page + SUPER_SLICE_SIZE, super->slice_size);
	put_le64(page + SUPER_N_SLICES, super->n_slices);
	put_le64(page + SUPER_MADE_AT, super->made_at);
	put_le32(page + SUPER_SLOTS, ISTORE_SLOTS);
	put_le32(page + SUPER_BLOCK_SIZE, ISTORE_PAGE);
	page_end(page, UINT32_MAX);
}

static bool super_is_sane(const struct istore_super *s)
{
	uint64_t size = s->slice_size;

	if (size < ISTORE_SLICE_SIZE_MIN || size > ISTORE_SLICE_SIZE_MAX || (size & (size - 1)))
		return false;
	if (s->n_slices == 0 || s->n_slices > ISTORE_SLICES_MAX)
		return false;
	return s->sequence > 0 && !id_is_zero(s->uuid);
}

int istore_super_decode(const uint8_t page[ISTORE_PAGE], struct istore_super *ret_super)
{
	struct istore_super s;
	int r = page_check(page, super_magic, UINT32_MAX);

	if (r < 0)
		return r;
	if (get_le64(page + SUPER_FEATURES) != 0)
		return -ENOTSUP;
	s = (struct istore_super){
	    .uuid = get_id(page + SUPER_UUID_HI),
	    .host = get_id(page + SUPER_HOST_HI),
	    .sequence = get_le64(page + SUPER_SEQUENCE),
	    .slice_size = get_le64(page + SUPER_SLICE_SIZE),
	    .n_slices = get_le64(page + SUPER_N_SLICES),
	    .made_at = get_le64(page + SUPER_MADE_AT),
	};
	if (!super_is_sane(&s) || get_le32(page + SUPER_SLOTS) != ISTORE_SLOTS ||
	    get_le32(page + SUPER_BLOCK_SIZE) != ISTORE_PAGE)
		return -EUCLEAN;
	*ret_super = s;
	return 0;
}

/* ---- Disk table -------------------------------------------------------------------------------
 */

void istore_slot_encode(const struct istore_slot *slot, struct id store, unsigned index,
			uint8_t page[ISTORE_PAGE])
{
	page_begin(page, slot_magic);
	put_le64(page + SLOT_VERSION, slot->version);
	put_le32(page + SLOT_INDEX, index);
	put_le32(page + SLOT_STATE, slot->state);
	put_le64(page + SLOT_GENERATION, slot->generation);
	put_id(page + SLOT_INSTANCE_HI, slot->instance);
	put_le32(page + SLOT_NUMBER, slot->number);
	put_le32(page + SLOT_FLAGS, slot->discard ? SLOT_DISCARD : 0);
	put_le64(page + SLOT_SIZE, slot->size);
	put_id(page + SLOT_BOOT_HI, slot->boot);
	put_le32(page + SLOT_N_EXTENTS, slot->n_extents);
	for (uint32_t i = 0; i < slot->n_extents; i++) {
		uint8_t *at = page + SLOT_EXTENTS + (size_t)i * SLOT_EXTENT_SIZE;

		put_le32(at, slot->extents[i].first);
		put_le32(at + 4, slot->extents[i].count);
	}
	page_end(page, page_seed(store));
}

static bool extents_are_sane(const struct istore_slot *s, const struct istore_super *super)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->n_extents; i++) {
		const struct istore_extent *e = &s->extents[i];

		if (e->count == 0 || e->first >= super->n_slices ||
		    e->count > super->n_slices - e->first)
			return false;
		n += e->count;
	}
	return n == round_up(s->size, super->slice_size) / super->slice_size;
}

static bool slot_is_sane(const struct istore_slot *s, const struct istore_super *super)
{
	if (s->version == 0 || s->state > ISTORE_SLOT_ENDED)
		return false;
	if (s->state == ISTORE_SLOT_FREE)
		return s->size == 0 && s->n_extents == 0;
	if (s->size == 0 || !is_aligned(s->size, ISTORE_PAGE) || s->generation == 0 ||
	    s->size > super->n_slices * super->slice_size)
		return false;
	return s->number < ISTORE_DISKS_MAX && !id_is_zero(s->instance) &&
	       extents_are_sane(s, super);
}

int istore_slot_decode(const uint8_t page[ISTORE_PAGE], const struct istore_super *super,
		       unsigned index, struct istore_slot *ret_slot)
{
	struct istore_slot s;
	int r = page_check(page, slot_magic, page_seed(super->uuid));

	if (r < 0)
		return r;
	s = (struct istore_slot){
	    .version = get_le64(page + SLOT_VERSION),
	    .state = get_le32(page + SLOT_STATE),
	    .generation = get_le64(page + SLOT_GENERATION),
	    .instance = get_id(page + SLOT_INSTANCE_HI),
	    .number = get_le32(page + SLOT_NUMBER),
	    .size = get_le64(page + SLOT_SIZE),
	    .boot = get_id(page + SLOT_BOOT_HI),
	    .discard = get_le32(page + SLOT_FLAGS) & SLOT_DISCARD,
	    .n_extents = get_le32(page + SLOT_N_EXTENTS),
	};
	if (get_le32(page + SLOT_INDEX) != index || s.n_extents > ISTORE_EXTENTS_MAX)
		return -EUCLEAN;
	for (uint32_t i = 0; i < s.n_extents; i++) {
		const uint8_t *at = page + SLOT_EXTENTS + (size_t)i * SLOT_EXTENT_SIZE;

		s.extents[i].first = get_le32(at);
		s.extents[i].count = get_le32(at + 4);
	}
	if (!slot_is_sane(&s, super))
		return -EUCLEAN;
	*ret_slot = s;
	return 0;
}

struct istore_judgement istore_slot_judge(const int errors[2], const uint64_t versions[2])
{
	struct istore_judgement j = {.copy = -1};

	for (int i = 0; i < 2; i++)
		j.damaged |= errors[i] != 0 && errors[i] != -ENODATA;
	if (errors[0] == -ENODATA && errors[1] == -ENODATA) {
		j.copy = 0;
	} else if (errors[0] == 0 && errors[1] == 0) {
		j.copy = versions[1] > versions[0] ? 1 : 0;
		j.repair = versions[1] != versions[0] + 1;
	} else if (errors[0] == 0 || errors[1] == 0) {
		j.copy = errors[0] == 0 ? 0 : 1;
		j.repair = true;
	} else if (errors[1] == -ENODATA && errors[0] != -ENOTSUP) {
		/* The first change of the slot, torn: it was never acknowledged. */
		j.copy = 1;
		j.repair = true;
	}
	return j;
}

/* ---- Key folder -------------------------------------------------------------------------------
 */

void istore_key_encode(const struct istore_key *key, enum istore_key_kind kind,
		       uint8_t page[ISTORE_PAGE])
{
	page_begin(page, kind == ISTORE_KEY ? key_magic : map_magic);
	put_id(page + KEY_STORE_HI, key->store);
	put_id(page + KEY_BOOT_HI, key->boot);
	put_le32(page + KEY_SLOT, key->slot);
	put_le64(page + KEY_GENERATION, key->generation);
	put_le64(page + KEY_N_BLOCKS, key->n_blocks);
	memcpy(page + KEY_KEY, key->key, ISTORE_KEY_SIZE);
	page_end(page, UINT32_MAX);
}

int istore_key_decode(const uint8_t page[ISTORE_PAGE], enum istore_key_kind kind,
		      struct istore_key *ret_key)
{
	int r = page_check(page, kind == ISTORE_KEY ? key_magic : map_magic, UINT32_MAX);
	struct istore_key k;

	if (r < 0)
		return r;
	k = (struct istore_key){
	    .store = get_id(page + KEY_STORE_HI),
	    .boot = get_id(page + KEY_BOOT_HI),
	    .slot = get_le32(page + KEY_SLOT),
	    .generation = get_le64(page + KEY_GENERATION),
	    .n_blocks = get_le64(page + KEY_N_BLOCKS),
	};
	memcpy(k.key, page + KEY_KEY, ISTORE_KEY_SIZE);
	if (k.slot >= ISTORE_SLOTS || k.generation == 0 || k.n_blocks == 0 ||
	    is_zero(k.key, ISTORE_KEY_SIZE) != (kind == ISTORE_MAP))
		return -EUCLEAN;
	*ret_key = k;
	return 0;
}
