/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a local store (docs/store-format.md draws them). Pure functions over buffers: no
 * I/O, no state, any thread. Only store/format.c touches the raw bytes. All numbers are
 * little-endian. Every structure is one 4-KiB page with a magic number and a CRC32C over all of the
 * page but the CRC itself, and exists twice.
 *
 * Decoders return 0 and fill the result, or leave it untouched:
 *  -ENODATA      all zeroes: never written
 *  -EMEDIUMTYPE  no magic: not ours
 *  -EUCLEAN      ours, and damaged: the CRC or a value is wrong, or it belongs elsewhere
 *  -ENOTSUP      whole, but of a newer format (superblock only)
 */
#ifndef STORE_FORMAT_H
#define STORE_FORMAT_H

#include "base/id.h"
#include "base/util.h"
#include "store/store.h"

#define FORMAT_PAGE    4096
#define FORMAT_VERSION 1

/* Features that this code understands; none yet. */
#define FORMAT_FEATURES_MUST      0 /* unknown bit: refuse */
#define FORMAT_FEATURES_READ_ONLY 0 /* unknown bit: open read-only */

enum format_checksum {
	FORMAT_CHECKSUM_CRC32C = 1,
};

/* ---- Geometry: where things are ---------------------------------------------------------------
 *
 * The first MiB holds the two superblocks. Groups follow: a MiB with the segment table of the
 * group, twice, and then its segments. Segments have the ids 1, 2, 3 ... in file order: 0 is none.
 */

#define FORMAT_HEAD_SIZE         (1 * MiB)
#define FORMAT_SUPER_DISTANCE    (512 * KiB) /* copy 0 is at 0, copy 1 here */
#define FORMAT_GROUP_HEAD        (1 * MiB)
#define FORMAT_TABLE_DISTANCE    (512 * KiB) /* between the two copies of a group's table */
#define FORMAT_PAGES_PER_GROUP   2
#define FORMAT_ENTRIES_PER_PAGE  63
#define FORMAT_SEGMENTS          126 /* in a group */
#define FORMAT_GROUPS_MAX        ((uint64_t)1 << 20)
#define FORMAT_SEGMENT_SIZE_MIN  (4 * MiB)
#define FORMAT_SEGMENT_SIZE_MAX  (1 * GiB)
#define FORMAT_SEGMENT_SIZE_UNIT (1 * MiB)
#define FORMAT_TABLE_SIZE        (FORMAT_PAGES_PER_GROUP * FORMAT_PAGE) /* one copy */

_Static_assert(FORMAT_SEGMENTS == FORMAT_PAGES_PER_GROUP * FORMAT_ENTRIES_PER_PAGE, "a full table");

static inline uint64_t format_group_offset(uint32_t segment_size, uint64_t group)
{
	return FORMAT_HEAD_SIZE +
	       group * (FORMAT_GROUP_HEAD + (uint64_t)FORMAT_SEGMENTS * segment_size);
}

static inline uint64_t format_table_offset(uint32_t segment_size, uint64_t group, unsigned copy)
{
	return format_group_offset(segment_size, group) + copy * FORMAT_TABLE_DISTANCE;
}

static inline uint64_t format_segment_group(uint64_t id)
{
	return (id - 1) / FORMAT_SEGMENTS;
}

static inline unsigned format_segment_index(uint64_t id)
{
	return (unsigned)((id - 1) % FORMAT_SEGMENTS);
}

static inline uint64_t format_segment_id(uint64_t group, unsigned index)
{
	return group * FORMAT_SEGMENTS + index + 1;
}

static inline uint64_t format_segment_offset(uint32_t segment_size, uint64_t id)
{
	return format_group_offset(segment_size, format_segment_group(id)) + FORMAT_GROUP_HEAD +
	       (uint64_t)format_segment_index(id) * segment_size;
}

/* How many whole segments fit in `size` bytes of file. */
uint64_t format_segments_in(uint32_t segment_size, uint64_t size);

/* ---- Superblock -------------------------------------------------------------------------------
 */

struct format_super {
	struct id uuid;
	uint64_t features_must;
	uint64_t features_read_only;
	uint64_t features_ignorable;
	uint64_t sequence; /* grows by one with each change; both copies get each */
	uint64_t owner_term;
	uint64_t groups;       /* that have a table */
	uint32_t segment_size; /* bytes */
	uint32_t alignment;    /* 512 or 4096: what offsets in segments are multiples of */
	uint64_t made_at;      /* wall clock, ns since 1970 */
};

void format_super_encode(const struct format_super *super, uint8_t page[FORMAT_PAGE]);
int format_super_decode(const uint8_t page[FORMAT_PAGE], struct format_super *ret_super);

/* ---- Segment table ----------------------------------------------------------------------------
 */

enum format_segment_state {
	FORMAT_SEGMENT_UNUSED = 0, /* never lent; the entry is all zeroes */
	FORMAT_SEGMENT_LENT = 1,
	FORMAT_SEGMENT_FREE = 2, /* was lent before */
};

enum format_segment_flag {
	FORMAT_SEGMENT_WRITTEN = 1, /* free, and not punched since it was lent */
};

struct format_entry {
	struct id volume;     /* lent: whose */
	uint64_t incarnation; /* lent: of the volume's log */
	uint64_t owner_term;  /* under which it was lent or freed */
	uint64_t order;       /* the how-manieth lending of the store the last one was */
	uint32_t generation;  /* how often it was lent */
	uint32_t flags;       /* enum format_segment_flag */
	uint8_t state;        /* enum format_segment_state */
	uint8_t stream;       /* lent: enum store_stream */
};

struct format_table {
	uint64_t version; /* the greater of two whole copies is the newer; 1 at least. A change
			     gets an odd one in the first copy and the next in the second */
	struct format_entry entries[FORMAT_ENTRIES_PER_PAGE];
};

void format_table_encode(const struct format_table *table, struct id store, uint64_t group,
			 unsigned index, uint8_t page[FORMAT_PAGE]);
/* The version of the first copy of a change to what is of `version`. */
static inline uint64_t format_table_first(uint64_t version)
{
	return (version + 1) | 1;
}
int format_table_decode(const uint8_t page[FORMAT_PAGE], struct id store, uint64_t group,
			unsigned index, struct format_table *ret_table);

/* ---- Objects ----------------------------------------------------------------------------------
 *
 * A segment of objects is an array of pairs of slots. A slot holds one version of one object, or a
 * tombstone. Slot writes of a pair are numbered; number n goes to slot n % 2.
 */

#define FORMAT_PAIR_SIZE (2 * FORMAT_PAGE)

struct format_slot {
	struct id name;
	uint64_t version;  /* of the object; 1 at least */
	uint64_t sequence; /* of the pair; 1 at least */
	uint32_t length;   /* of the data */
	bool deleted;      /* a tombstone: length is 0 */
};

/* Where a slot is, so that right bytes in a wrong place are refused. */
struct format_slot_place {
	struct id store;
	uint64_t segment;
	uint32_t generation; /* of the segment */
	uint32_t pair;       /* in the segment */
	unsigned slot;       /* 0 or 1 */
};

void format_slot_encode(const struct format_slot *slot, const struct format_slot_place *place,
			const void *data, uint8_t page[FORMAT_PAGE]);
/* *ret_data points into `page`. */
int format_slot_decode(const uint8_t page[FORMAT_PAGE], const struct format_slot_place *place,
		       struct format_slot *ret_slot, const uint8_t **ret_data);

/* What the two slots of a pair mean together. */
struct format_pair {
	enum {
		FORMAT_PAIR_FREE, /* never used, or its object was deleted */
		FORMAT_PAIR_LIVE,
		FORMAT_PAIR_LOST, /* both slots are damaged: what was here is unknown */
	} state;
	bool damaged;            /* one slot is neither whole nor untouched */
	bool half;               /* what is newest is in one slot only */
	struct format_slot slot; /* the newest whole one; all zeroes when there is none */
};

/* `errors` and `slots` are the results of format_slot_decode of slot 0 and 1; a slot that could not
 * be read counts as -EUCLEAN. */
struct format_pair format_pair_judge(const int errors[2], const struct format_slot slots[2]);

bool format_is_zero(const void *buf, size_t len);

#endif
