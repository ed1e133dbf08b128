/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of an instance store (docs/instance-store-format.md draws them): the superblock and the
 * disk table on the store's file or device, and the pages that name a disk's key and map in the
 * key folder. Pure functions over buffers: no I/O, no state, any thread. Numbers are little-endian;
 * every structure is one 4-KiB page with a magic number and a CRC32C over all of the page but the
 * CRC itself.
 *
 * Decoders return 0 and fill the result, or leave it untouched:
 *  -ENODATA      all zeroes: never written
 *  -EMEDIUMTYPE  no magic: not ours
 *  -EUCLEAN      ours, and damaged: the CRC or a value is wrong, or it belongs elsewhere
 *  -ENOTSUP      whole, but of a newer format
 */
#ifndef INSTANCE_STORE_FORMAT_H
#define INSTANCE_STORE_FORMAT_H

#include "base/id.h"
#include "base/util.h"

#define ISTORE_PAGE    4096
#define ISTORE_VERSION 1

/* ---- Where things are --------------------------------------------------------------------------
 *
 * The head is two halves, each with a superblock and then the disk table, a page for each slot.
 * Slices follow.
 */
#define ISTORE_HEAD_SIZE      (8 * MiB)
#define ISTORE_COPY_DISTANCE  (4 * MiB)
#define ISTORE_SLOTS          512
#define ISTORE_TABLE_SIZE     (ISTORE_SLOTS * ISTORE_PAGE) /* one copy */
#define ISTORE_EXTENTS_MAX    448
#define ISTORE_SLICE_SIZE_MIN (1 * MiB)
#define ISTORE_SLICE_SIZE_MAX (16 * GiB)
#define ISTORE_SLICES_MAX     ((uint64_t)1 << 20)
#define ISTORE_DISKS_MAX      24 /* of an instance: no EC2 type has more */
#define ISTORE_KEY_SIZE       64 /* of AES-256-XTS */

_Static_assert(ISTORE_PAGE + ISTORE_TABLE_SIZE <= ISTORE_COPY_DISTANCE, "the copies are apart");
_Static_assert(2 * ISTORE_COPY_DISTANCE <= ISTORE_HEAD_SIZE, "both are in the head");

static inline uint64_t istore_super_offset(unsigned copy)
{
	return copy * ISTORE_COPY_DISTANCE;
}

static inline uint64_t istore_slot_offset(unsigned slot, unsigned copy)
{
	return copy * ISTORE_COPY_DISTANCE + ISTORE_PAGE + (uint64_t)slot * ISTORE_PAGE;
}

static inline uint64_t istore_slice_offset(uint64_t slice_size, uint64_t slice)
{
	return ISTORE_HEAD_SIZE + slice * slice_size;
}

/* ---- Superblock -------------------------------------------------------------------------------
 */

struct istore_super {
	struct id uuid;
	struct id host;      /* the machine that it was made on, or adopted by */
	uint64_t sequence;   /* grows by one with each change; both copies get each */
	uint64_t slice_size; /* bytes; a power of two */
	uint64_t n_slices;
	uint64_t made_at; /* wall clock, ns since 1970 */
};

void istore_super_encode(const struct istore_super *super, uint8_t page[ISTORE_PAGE]);
int istore_super_decode(const uint8_t page[ISTORE_PAGE], struct istore_super *ret_super);

/* ---- Disk table -------------------------------------------------------------------------------
 */

enum istore_slot_state {
	ISTORE_SLOT_FREE = 0, /* generation alone means something */
	ISTORE_SLOT_USED = 1,
	ISTORE_SLOT_ENDED = 2, /* no disk any more; its extents are still to be discarded */
};

struct istore_extent {
	uint32_t first; /* slice */
	uint32_t count;
};

struct istore_slot {
	uint64_t version; /* of the page; a change gets an odd one in copy 0, the next in copy 1 */
	enum istore_slot_state state;
	uint64_t generation; /* of the key: grows with each creation and wipe, store-wide */
	struct id instance;
	uint32_t number; /* of the disk in the instance, from 0 */
	uint64_t size;   /* bytes, a multiple of 4 KiB */
	struct id boot;  /* of the host, in which the key was made */
	bool discard;    /* used: what an earlier generation left is still to be discarded */
	uint32_t n_extents;
	struct istore_extent extents[ISTORE_EXTENTS_MAX];
};

void istore_slot_encode(const struct istore_slot *slot, struct id store, unsigned index,
			uint8_t page[ISTORE_PAGE]);
/* Extents are within n_slices and hold `size`; that they overlap no other's is for the caller. */
int istore_slot_decode(const uint8_t page[ISTORE_PAGE], const struct istore_super *super,
		       unsigned index, struct istore_slot *ret_slot);

/* Which copy of a slot counts. */
struct istore_judgement {
	int copy;     /* 0 or 1; -1: neither is whole, and not both were never written */
	bool repair;  /* the other copy does not say the same */
	bool damaged; /* a copy is neither whole nor untouched */
};

/* `errors` are the results of istore_slot_decode of copy 0 and 1; one that could not be read counts
 * as -EUCLEAN. Both -ENODATA: a slot that was never used (copy 0, whose content is all zeroes). */
struct istore_judgement istore_slot_judge(const int errors[2], const uint64_t versions[2]);

/* ---- Key folder -------------------------------------------------------------------------------
 *
 * What a key and a map are of. The page of a key holds it; a map's is followed by its bits.
 */

struct istore_key {
	struct id store;
	struct id boot;
	uint32_t slot;
	uint64_t generation;
	uint64_t n_blocks;
	uint8_t key[ISTORE_KEY_SIZE]; /* a map's: all zeroes */
};

#define ISTORE_KEY_AT 72 /* of the key itself in its page */

enum istore_key_kind {
	ISTORE_KEY,
	ISTORE_MAP,
};

void istore_key_encode(const struct istore_key *key, enum istore_key_kind kind,
		       uint8_t page[ISTORE_PAGE]);
int istore_key_decode(const uint8_t page[ISTORE_PAGE], enum istore_key_kind kind,
		      struct istore_key *ret_key);

#endif
