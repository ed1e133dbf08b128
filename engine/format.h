/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a volume on disk; docs/on-disk-format.md explains them. Numbers are little-endian.
 * Only format.c touches raw bytes, through a cursor that can't leave its buffer; its functions are
 * pure.
 *
 * Every structure begins with a common prologue and is valid if and only if magic, version, length,
 * volume and checksum are right, and it says that it stands where it was read:
 *
 *   0  u64 magic
 *   8  u32 crc32c of bytes [12, length), seeded by volume
 *  12  u16 version (1)
 *  14  u16 must-understand feature bits of this structure (none are defined: 0)
 *  16  u32 length in bytes of what the checksum covers
 *  20  u32 reserved (0)
 *  24  u64 volume id hi
 *  32  u64 volume id lo
 *  40      (the structure's own)
 */
#ifndef ENGINE_FORMAT_H
#define ENGINE_FORMAT_H

#include "base/id.h"
#include "block/block.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT_VERSION  1
#define FORMAT_PROLOGUE 40

#define MAGIC_RECORD     UINT64_C(0x3144524345524456) /* "VDRECRD1" */
#define MAGIC_LEAF       UINT64_C(0x314641454c504d56) /* "VMPLEAF1" */
#define MAGIC_INDEX      UINT64_C(0x315844495f504d56) /* "VMP_IDX1" */
#define MAGIC_USAGE      UINT64_C(0x3147535f504d56)   /* "VMP_SG1" */
#define MAGIC_ROOT       UINT64_C(0x31544f4f52504d56) /* "VMPROOT1" */
#define MAGIC_SUPERBLOCK UINT64_C(0x3153454d554c4f56) /* "VOLUMES1" */

#define VOLUME_SIZE_MAX (UINT64_C(64) << 40)

/* ---- Records: the log
 * ----------------------------------------------------------------------------
 *
 *  40  u64 incarnation		of the log; grows at each open, before the first append
 *  48  u64 sequence		1, 2, 3 ... without a gap over the volume's whole life
 *  56  u64 durable		newest sequence known durable when this was written
 *  64  u32 previous		the checksum (bytes 8..11) of the record before; 0 for sequence 1
 *  68  u32 segment generation
 *  72  u64 segment
 *  80  u32 offset		of this header in the segment, in 512-byte units
 *  84  u32 header length	in 512-byte units: the padded header; the payload follows it
 *  88  u32 payload length	in 512-byte units
 *  92  u32 number of runs
 *  96  u32 number of block checksums
 * 100  u32 reserved
 * 104  u64 owner term
 * 112  16 bytes reserved
 * 128  runs, 48 bytes each; then the block checksums of WRITE runs, u32 each, in their order
 *
 * A run:
 *   0  u64 first block
 *   8  u64 blocks
 *  16  u8  type; u8 flags; u8 key slot (0: none); u8 codec (0: stored as it is)
 *  20  u32 offset of its bytes in the payload, 512-byte units
 *  24  u32 stored length, 512-byte units
 *  28  u32 reserved
 *  32  u64 nonce (for encryption: unique in the volume's life)
 *  40  u64 argument (RESIZE: the new size in bytes; else 0)
 *
 * MOVE has no payload. It says where blocks were and where their copies are: nonce and `stored` are
 * the old segment and offset in it, argument and `offset` the new ones. It has checksums as WRITE.
 * It counts for each block only where the map still names the old place. The copies stand in
 * records of the moved stream, which have sequence 0 and keep the nonces; they are durable before
 * the MOVE is logged.
 *
 * HYDRATE looks like WRITE, and counts for each block only where the map still says INHERIT.
 *
 * SNAPSHOT is alone in its record. Its nonce and argument are the snapshot's id (hi, lo); first
 * block and blocks are 0.
 */
#define RECORD_FIXED    128
#define RUN_BYTES       48
#define RECORD_RUNS_MAX 256
/* One more block than BLOCK_ATOMIC_MAX, for a write of that size that is not aligned to blocks. */
#define RECORD_BLOCKS_MAX  (BLOCK_ATOMIC_MAX / BLOCK_SIZE + 1)
#define RECORD_PAYLOAD_MAX (RECORD_BLOCKS_MAX * BLOCK_SIZE)
#define RECORD_HEADER_MAX  16384

_Static_assert(RECORD_FIXED + RECORD_RUNS_MAX * RUN_BYTES + RECORD_BLOCKS_MAX * 4 <=
		   RECORD_HEADER_MAX,
	       "the largest header fits");

enum run_type {
	RUN_WRITE = 1,
	RUN_ZERO = 2, /* WRITE_ZEROES */
	RUN_TRIM = 3,
	RUN_MOVE = 4,     /* garbage collection has copied these blocks */
	RUN_HYDRATE = 5,  /* data of the base snapshot */
	RUN_SNAPSHOT = 6, /* all up to here is in it */
	RUN_RESIZE = 7,
	RUN_FENCE = 8, /* reserved */
	RUN_PAD = 9,   /* nothing */
};

#define RUN_MUST_UNDERSTAND                                                                        \
	1 /* flags: a reader that does not know the type must refuse the volume */
#define RUN_RESERVED_SPACE 2 /* flags, ZERO: the space stays reserved (NO_HOLE) */

struct run {
	uint64_t lba; /* in blocks */
	uint64_t blocks;
	uint8_t type;
	uint8_t flags;
	uint32_t payload_offset; /* 512-byte units */
	uint32_t stored;         /* 512-byte units */
	uint64_t nonce;
	uint64_t argument;
};

/* The blocks of the run stand in the record's payload, with a checksum each. */
static inline bool run_has_payload(const struct run *run)
{
	return run->type == RUN_WRITE || run->type == RUN_HYDRATE;
}

struct record_header {
	struct id volume;
	uint64_t incarnation;
	uint64_t sequence;
	uint64_t durable;
	uint32_t previous;
	uint32_t generation;
	uint64_t segment;
	uint32_t offset;         /* bytes */
	uint32_t header_length;  /* bytes, padded */
	uint32_t payload_length; /* bytes */
	uint32_t n_runs;
	uint32_t n_sums;
	uint64_t owner_term;
	uint32_t checksum; /* out: the header's own */
};

/* Bytes of a header before padding. */
size_t record_header_bytes(uint32_t n_runs, uint32_t n_sums);
/* Writes header, runs and sums at buf (h->header_length bytes, zero-padded) and sets h->checksum.
 */
void record_encode(uint8_t *buf, struct record_header *h, const struct run *runs,
		   const uint32_t *sums);
/* 0, -ENOENT (no record of this volume starts here), -EBADMSG (it starts here and is damaged),
 * -ENOTSUP (newer than we are). `len` bytes are at hand; -ENODATA: more are needed, *ret_h has
 * header_length. */
int record_decode(const uint8_t *buf, size_t len, struct id volume, struct record_header *ret_h);
/* Of a header that record_decode took. */
void record_run(const uint8_t *buf, uint32_t i, struct run *ret_run);
uint32_t record_sum(const uint8_t *buf, uint32_t n_runs, uint32_t i);

/* Checksum of one 4-KiB block as stored at `lba` of `volume`. */
uint32_t block_sum(struct id volume, uint64_t lba, const void *block);

/* ---- The map
 * -------------------------------------------------------------------------------------
 *
 * A tree of fixed height: root -> index pages (256 leaves, 1 GiB) -> leaves (1024 blocks, 4 MiB).
 * All blobs go to segments of the map stream, 64-byte aligned. A reference holds its target's
 * checksum.
 *
 * A reference, 32 bytes:
 *   0 u64 segment; 8 u32 offset in bytes; 12 u32 length in bytes; 16 u32 checksum (bytes 8..11 of
 * the target); 20 u32 reserved; 24 u64 birth: the newest sequence of a user's change below it
 *
 * A leaf:
 *  40 u64 leaf number; 48 u64 checkpoint sequence; 56 u32 number of runs; 60 u32 reserved;
 *  64 u64 birth[8], one for each 512 KiB; 128 runs. A run is contiguous on disk:
 *   0 u16 first block in the leaf; 2 u16 blocks; 4 u8 state; 5 u8 stored length of a block in
 * 512-byte units (8); 6 u8 key slot; 7 u8 codec; 8 u64 segment; 16 u32 offset in 512-byte units; 20
 * u32 reserved; then for DATA a u32 checksum for each block.
 * State 5 (on disk alone): DATA that is not contiguous. `segment` is the lowest of its blocks',
 * offset is 0, and each block has u32 segment less that one, u16 offset in 512-byte units, u32
 * checksum.
 *
 * An index page: 40 u64 page number; 48 u64 checkpoint sequence; 56 u32 number of references; 60
 * u32 0; then for each: u32 slot, u32 0, the reference. A usage page: 40 u64 page number; 48 u64
 * checkpoint sequence; 56 u32 number of entries; 60 u32 0; then for each: u32 slot, u32 generation,
 * u64 segment, u32 live bytes, u32 written bytes, u64 newest sequence, u64 number of the checkpoint
 * in whose time it was lent, u8 stream, 7 bytes 0. The root: 40 u64 checkpoint number; 48 u64
 * checkpoint sequence; 56 u64 size in bytes; 64 u32 index references; 68 u32 usage references; 72
 * u64 live bytes; then for each of both: u32 number, u32 0, the reference.
 */
#define LEAF_BLOCKS    1024
#define LEAF_BIRTHS    8
#define BIRTH_BLOCKS   (LEAF_BLOCKS / LEAF_BIRTHS)
#define INDEX_LEAVES   256
#define USAGE_SEGMENTS 128
#define BLOB_ALIGN     64

#define LEAF_BYTES_MAX  (128 + LEAF_BLOCKS * 28)
#define INDEX_BYTES_MAX (64 + INDEX_LEAVES * 40)
#define USAGE_BYTES_MAX (64 + USAGE_SEGMENTS * 48)

enum entry_state {
	ENTRY_INHERIT = 0, /* as the base snapshot; zeroes if there is none */
	ENTRY_ZERO = 1,
	ENTRY_DATA = 2,
	ENTRY_BAD = 3,           /* known to be lost: reads fail */
	ENTRY_ZERO_RESERVED = 4, /* zeroes that keep their space */
};

/* Where a block is: in memory 16 bytes a block. */
struct entry {
	uint64_t segment : 48;
	uint64_t state : 8;
	uint64_t unused : 8;
	uint32_t offset; /* 512-byte units in the segment */
	uint32_t sum;
};
_Static_assert(sizeof(struct entry) == 16, "as small as planned");

struct blob_ref {
	uint64_t segment;
	uint32_t offset; /* bytes */
	uint32_t length; /* bytes; 0: there is nothing */
	uint32_t sum;
	uint64_t birth;
};

struct leaf_content {
	uint64_t birth[LEAF_BIRTHS];
	struct entry entries[LEAF_BLOCKS];
};

struct usage_entry {
	uint64_t segment;
	uint32_t generation;
	uint32_t live;    /* bytes that the map of this checkpoint refers to */
	uint32_t written; /* bytes */
	uint64_t newest;  /* sequence of the newest record in it */
	uint64_t lent_at; /* checkpoint number */
	uint8_t stream;   /* 0: the slot is empty */
};

struct root_content {
	uint64_t checkpoint;
	uint64_t sequence;
	uint64_t size;
	uint64_t live;
	uint32_t n_index;
	uint32_t n_usage;
};

/* Encoders return the length; `ref_sum` gets what a reference to it must hold. */
size_t leaf_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		   const struct leaf_content *leaf, uint32_t *ref_sum);
size_t index_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		    const struct blob_ref refs[INDEX_LEAVES], uint32_t *ref_sum);
size_t usage_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		    const struct usage_entry entries[USAGE_SEGMENTS], uint32_t *ref_sum);
size_t root_bytes(uint32_t n_index, uint32_t n_usage);
/* The references are put by root_put_ref, then root_finish seals it. */
void root_begin(uint8_t *buf, struct id volume, const struct root_content *root);
void root_put_ref(uint8_t *buf, uint32_t i, uint32_t number, const struct blob_ref *ref);
void root_finish(uint8_t *buf, struct id volume, const struct root_content *root,
		 uint32_t *ref_sum);

/* Decoders verify everything, `sum` (the reference's) included: 0, -EBADMSG or -ENOTSUP. */
int leaf_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		struct leaf_content *ret_leaf);
int index_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		 struct blob_ref ret_refs[INDEX_LEAVES]);
int usage_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		 struct usage_entry ret_entries[USAGE_SEGMENTS]);
int root_decode(const uint8_t *buf, size_t len, struct id volume, uint32_t sum,
		struct root_content *ret_root);
/* What its first BLOB_HEAD bytes say of a blob of the map, unverified: which kind (its magic) and
 * number, and its length. False: none of this volume's begins here. */
#define BLOB_HEAD 48
bool blob_peek(const uint8_t *buf, struct id volume, uint64_t *ret_magic, uint64_t *ret_number,
	       uint32_t *ret_length);
void root_get_ref(const uint8_t *buf, uint32_t i, uint32_t *ret_number, struct blob_ref *ret_ref);

/* ---- The superblock
 * ------------------------------------------------------------------------------
 *
 * One object of the store a volume, swapped whole; the store keeps it twice.
 *  40  u32 feature bits: must understand; 44 u32 read-only without; 48 u32 ignorable; 52 u32 flags
 *  56  u64 size in bytes (the root's; RESIZE records after it count)
 *  64  u32 block size (4096); 68 u16 tree height (3); 70 u16 checksum id (1: CRC32C)
 *  72  u64 incarnation of the log
 *  80  u64 checkpoint number; 88 u64 checkpoint sequence; 96 u32 checksum of that record; 100 u32 0
 * 104  u64 replay segment (all ones: none); 112 u32 replay offset, bytes; 116 u32 0
 * 120  reference to the root (length 0: no checkpoint yet, the volume is empty)
 * 152  u64 base snapshot hi, lo (0: none); 168 u64 bytes that it covers; 176 u64 hydration cursor:
 *      below it every block is the volume's own or zero in the base, bytes
 * 192  5 pins: u64 checkpoint number (0: none), u64 sequence, reference to the root
 * 432  u32 ended incarnations; 436 u32 0; 440 each: u64 incarnation, u64 last sequence
 * 1464 key table: 16 slots of 64 bytes (reserved, 0)
 * 2488 label, 64 bytes (reserved, 0)
 * 2552 of each pin: u64 snapshot id hi, lo, u64 size of the volume in bytes; 2672 end
 */
#define SUPERBLOCK_BYTES 2672
#define SUPERBLOCK_PINS  5 /* EBS's limit of pending snapshots */
#define SUPERBLOCK_ENDED 64
#define SUPERBLOCK_CLEAN 1 /* flags: closed cleanly, nothing to replay */
#define SUPERBLOCK_DELETED                                                                         \
	2 /* flags: there is no such volume any more; only its pins are of interest */
#define REPLAY_NOWHERE UINT64_MAX

struct superblock_pin {
	struct id snapshot;
	uint64_t size;
	uint64_t checkpoint; /* 0: the slot is free */
	uint64_t sequence;
	struct blob_ref root;
};

struct superblock {
	struct id volume;
	uint32_t flags;
	uint64_t size;
	uint64_t incarnation;
	uint64_t checkpoint;
	uint64_t sequence;
	uint32_t sequence_sum;
	uint64_t replay_segment;
	uint32_t replay_offset;
	struct blob_ref root;
	struct id base; /* all 0: none */
	uint64_t base_size;
	uint64_t hydrated;
	struct superblock_pin pins[SUPERBLOCK_PINS];
	uint32_t n_ended;
	struct {
		uint64_t incarnation;
		uint64_t last;
	} ended[SUPERBLOCK_ENDED];
};

void superblock_encode(uint8_t buf[SUPERBLOCK_BYTES], const struct superblock *sb);
/* 0, -EBADMSG or -ENOTSUP. */
int superblock_decode(const uint8_t *buf, size_t len, struct id volume, struct superblock *ret_sb);

#endif
