/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a repository's objects; docs/repository-format.md explains them. Numbers are
 * little-endian. Only format.c and format_page.c touch raw bytes, through a cursor that can't leave
 * its buffer; their functions are pure.
 *
 * Small objects and a pack's directory are "sealed": they begin with a prologue, and are valid if
 * and only if magic, length, checksum and version are right:
 *
 *   0  u64 magic
 *   8  u32 crc32c of bytes [12, length)
 *  12  u16 version (1)
 *  14  u16 must-understand feature bits (none are defined: 0)
 *  16  u32 length in bytes, the prologue included
 *  20  u32 reserved (0)
 *
 * Pages of a tree are valid if their SHA-256 is what the page above, or the manifest, says.
 */
#ifndef SNAPSHOTS_FORMAT_H
#define SNAPSHOTS_FORMAT_H

#include "snapshots/repository.h"

#define SNAP_VERSION  1
#define SNAP_PROLOGUE 24

#define MAGIC_REPOSITORY UINT64_C(0x314f504552534456) /* "VDSREPO1" */
#define MAGIC_MANIFEST   UINT64_C(0x31464e4d53534456) /* "VDSSMNF1" */
#define MAGIC_HOLD       UINT64_C(0x31444c4f48534456) /* "VDSHOLD1" */
#define MAGIC_LEASE      UINT64_C(0x315341454c534456) /* "VDSLEAS1" */
#define MAGIC_PACK       UINT64_C(0x314b434150534456) /* "VDSPACK1" */
#define MAGIC_DIRECTORY  UINT64_C(0x3152494450534456) /* "VDSPDIR1" */
#define MAGIC_PAGE       UINT32_C(0x31475056)         /* "VPG1" */

/* ---- Small objects ----------------------------------------------------------------------------
 *
 * repository:  24 u64 uuid hi, lo; 40 u32 block size (524288); 44 u32 frame size (32768);
 *              48 u64 may-read-not-write feature bits (0); 56 u64 ignorable feature bits
 *
 * snapshots/<id>:
 *  24  u64 snapshot id hi, lo		 40  u64 volume id hi, lo	 56  u64 parent id hi, lo
 *  72  u32 state (enum snap_state)	 76  u32 attempt
 *  80  u64 size in bytes		 88  u64 started	 96  u64 completed	104  u64
 * expires 112  u64 allocated blocks		120  u64 stored bytes
 * 128  u64 renewals			136  u32 length of the labels	140  u32 reserved
 * 144  the root page: an item of 68 bytes (below); 212  12 bytes reserved; 224  the labels
 *
 * An item: u64 snapshot id hi, lo; u32 attempt; u32 number; u32 offset; u32 length; u16 slot; u16
 * 0; 32 bytes of hash. All zeroes: none.
 *
 * holds/<holder>: 24 u64 expires; 32 u64 renewals; 40 the manifest as it was, whole
 * lease/sweep:    24 u64 number; 32 u64 owner hi, lo (zero: given back); 48 u64 renewals
 */
#define MANIFEST_FIXED   224
#define MANIFEST_MAX     (MANIFEST_FIXED + SNAP_LABELS_MAX)
#define HOLD_FIXED       40
#define LEASE_BYTES      56
#define REPOSITORY_BYTES 64

struct repository_head {
	struct id uuid;
	uint64_t read_only_features;
};

struct hold {
	uint64_t expires;
	uint64_t renewals;
	struct snap_info *info;
};

struct lease {
	uint64_t number;
	struct id owner;
	uint64_t renewals;
};

size_t repository_encode(uint8_t *buf, struct id uuid);
int repository_decode(const uint8_t *buf, size_t len, struct repository_head *ret);
/* `renewals` makes each version of a pending one different. Returns the length. */
size_t manifest_encode(uint8_t *buf, const struct snap_info *info, uint64_t renewals);
/* `id`: whose it must be. 0, -EBADMSG, -ENOTSUP. */
int manifest_decode(const uint8_t *buf, size_t len, struct id id, struct snap_info *ret_info,
		    uint64_t *ret_renewals);
size_t hold_encode(uint8_t *buf, const struct hold *hold);
/* hold->info is set before the call, and filled. */
int hold_decode(const uint8_t *buf, size_t len, struct hold *hold);
size_t lease_encode(uint8_t *buf, const struct lease *lease);
int lease_decode(const uint8_t *buf, size_t len, struct lease *ret);

/* ---- Names ------------------------------------------------------------------------------------
 */

#define PREFIX_SNAPSHOTS "snapshots/"
#define PREFIX_HOLDS     "holds/"
#define PREFIX_PACKS     "packs/"
#define NAME_REPOSITORY  "repository"
#define NAME_LEASE       "lease/sweep"

/* Each returns `name`. */
const char *manifest_name(struct id id, char name[BLOB_NAME_MAX]);
const char *hold_name(const char *holder, char name[BLOB_NAME_MAX]);
/* packs/snap-<17 hex>/<attempt, 8 hex>-<number, 8 hex>, and "-copy" for the second of a page pack.
 */
const char *pack_name(const struct snap_pack *pack, bool copy, char name[BLOB_NAME_MAX]);
int manifest_name_parse(const char *name, struct id *ret_id);
int pack_name_parse(const char *name, struct snap_pack *ret_pack, bool *ret_copy);

static inline bool pack_equal(const struct snap_pack *a, const struct snap_pack *b)
{
	return id_equal(a->snapshot, b->snapshot) && a->attempt == b->attempt &&
	       a->number == b->number;
}

/* ---- Frames: how a block is stored ------------------------------------------------------------
 *
 * 16 frames of 32 KiB, each by itself: its bytes (deflate, or as they are where that is not larger)
 * and behind them a u32 crc32c of these, seeded by the block's hash and the frame's number. How
 * long each one is stands in the leaf and in the pack's directory; 0 means 32768 bytes, as they
 * are.
 */
#define FRAME_SIZE       32768
#define FRAMES           (SNAP_BLOCK / FRAME_SIZE)
#define BLOCK_STORED_MAX (FRAMES * (FRAME_SIZE + 4))

static inline uint32_t frame_stored(uint16_t length)
{
	return (length ? length : FRAME_SIZE) + 4;
}

/* ---- Pages of the tree ------------------------------------------------------------------------
 *
 * Three levels, 512 ways each: a leaf (level 0) covers 512 blocks (256 MiB), a page of level 1 512
 * leaves, the root (level 2) 512 of these: 64 TiB. What is absent is not in its page.
 *
 *   0  u32 magic; u16 version; u16 level
 *   8  u32 number of this page in its level (first block / what it covers)
 *  12  u16 packs; u16 entries; u16 frame tables; u16 reserved; u32 reserved
 *  24  packs, 24 bytes each: u64 snapshot id hi, lo; u32 attempt; u32 number
 *      entries, 56 bytes each, by place: u16 place; u8 state; u8 0; u16 pack (its place in the
 * table above); u16 slot; u32 offset; u32 length; u32 leaf: frame table, else: allocated blocks
 * below; u32 reserved; 32 bytes of hash frame tables, 32 bytes each: 16 x u16
 */
#define PAGE_FANOUT 512
#define PAGE_LEVELS 3
#define PAGE_FIXED  24
#define PAGE_PACK   24
#define PAGE_ENTRY  56
#define PAGE_FRAMES 32
#define PAGE_MAX    (PAGE_FIXED + PAGE_FANOUT * (PAGE_PACK + PAGE_ENTRY + PAGE_FRAMES))

enum entry_state {
	ENTRY_ABSENT = 0,
	ENTRY_ZERO = 1,   /* leaf: allocated, all zeroes; no item */
	ENTRY_RAW = 2,    /* leaf: every frame as it is */
	ENTRY_FRAMES = 3, /* leaf: with a frame table */
	ENTRY_PAGE = 4,   /* above: a page */
};

struct snap_entry {
	enum entry_state state;
	uint32_t blocks; /* PAGE: allocated ones below */
	struct snap_item item;
	uint16_t frames[FRAMES]; /* FRAMES, RAW (all 0) */
};

/* A page in memory, when it is being written. */
struct snap_page {
	uint8_t level;
	uint32_t number;
	struct snap_entry entries[PAGE_FANOUT];
};

/* Blocks that one entry of a page of this level covers, as a shift. */
static inline unsigned page_shift(unsigned level)
{
	return 9 * level;
}

/* Encodes into at most PAGE_MAX bytes; returns the length, 0 if no entry is there. */
size_t page_encode(const struct snap_page *page, uint8_t *buf);
/* Bytes of which the hash was right: are they a page of this level and number that can be used
 * without further looks? 0, -EBADMSG, -ENOTSUP. */
int page_check(const uint8_t *buf, size_t len, unsigned level, uint32_t number);
/* Of a checked page. */
uint32_t page_count(const uint8_t *buf);
/* The i-th entry; returns its place. */
uint32_t page_get(const uint8_t *buf, uint32_t i, struct snap_entry *ret);
/* The first entry whose place is `place` or higher; its number, page_count if there is none. */
uint32_t page_search(const uint8_t *buf, uint32_t place);
/* The entry at `place`; state ENTRY_ABSENT if there is none. */
void page_find(const uint8_t *buf, uint32_t place, struct snap_entry *ret);
void page_decode(const uint8_t *buf, struct snap_page *ret);

/* ---- Packs ------------------------------------------------------------------------------------
 *
 *   0  u64 magic; u64 snapshot id hi, lo; u32 attempt; u32 number; 32 bytes reserved
 *  64  the items, one behind the other
 *      the directory, sealed: 24 u64 snapshot id hi, lo; 40 u32 attempt; u32 number; 48 u32 items;
 *      u32 reserved; 56 items, 80 bytes each: u8 kind (1 block, 2 page); u8 state or level; u16 0;
 *      u32 offset; u32 length; u32 number (of the block or page); 32 bytes of hash; 32 of frames
 *      the last 16 bytes: u64 magic of the directory; u32 its offset; u32 crc32c of these 12
 */
#define PACK_HEAD      64
#define PACK_ITEMS_MAX 512
#define PACK_ITEM      80
#define PACK_TAIL      16
#define DIRECTORY_HEAD 56
#define DIRECTORY_MAX  (DIRECTORY_HEAD + PACK_ITEMS_MAX * PACK_ITEM)
/* Read so much of a pack's end, and the directory is in it. */
#define PACK_END_MAX (DIRECTORY_MAX + PACK_TAIL)

enum item_kind { ITEM_BLOCK = 1, ITEM_PAGE = 2 };

struct pack_item {
	enum item_kind kind;
	uint8_t state; /* block: enum entry_state. Page: its level */
	uint32_t offset;
	uint32_t length;
	uint32_t number;
	uint8_t hash[SNAP_HASH];
	uint16_t frames[FRAMES];
};

void pack_head_encode(uint8_t buf[PACK_HEAD], const struct snap_pack *pack);
/* Directory and tail; returns their length, at most PACK_END_MAX. `offset`: where they will stand.
 */
size_t pack_end_encode(uint8_t *buf, const struct snap_pack *pack, uint32_t offset,
		       const struct pack_item *items, uint32_t n);
/* `buf` holds the last `len` bytes of a pack of `size` bytes. Fills at most PACK_ITEMS_MAX items. 0
 * or -EBADMSG. */
int pack_end_decode(const uint8_t *buf, size_t len, uint64_t size, const struct snap_pack *pack,
		    struct pack_item *items, uint32_t *ret_n);

#endif
