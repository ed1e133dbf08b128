/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the local store share. All of it belongs to the owner loop but what is marked
 * "any loop".
 *
 *   local.c         ops table, the way to the owner loop and back, close, check
 *   local_open.c    open and format; local_load.c: reading tables and objects
 *   local_super.c   superblock changes
 *   local_table.c   segment table: lend, free, list, rounds of table writes
 *   local_space.c   growth by groups, punching
 *   local_object.c  objects; local_object_index.c: their names and segments
 *   local_sync.c    append, read, sync: any loop
 *
 * Rule for all that exists twice (superblock, table page): a change is written to the copy that
 * does not hold the newest durable version, then synced, and only then to the other. So a write
 * that power cuts short never hits the only good copy.
 */
#ifndef STORE_LOCAL_INTERNAL_H
#define STORE_LOCAL_INTERNAL_H

#include "base/list.h"
#include "store/format.h"
#include "store/local.h"
#include "store/store.h"

#define LOCAL_LOOPS_MAX     64   /* loops that use one store; a loop is a core */
#define LOCAL_RESERVE_MIN   16   /* segments, but at most one in eight; */
#define LOCAL_RESERVE_MAX   128  /* of a large store one in 256, as it is backed by space below */
#define LOCAL_POOL_SEGMENTS 64   /* default of store_local_config.pool_segments: 512 MiB */
#define FILE_SYSTEM_BLOCK   4096 /* the alignment of a store in a file */
#define LOCAL_PAGE_WRITERS  8    /* table pages on their way at a time */
#define LOCAL_OBJECT_OPS    16   /* object operations under way at a time */
#define LOCAL_ZERO_CHUNK    (1 * MiB)
#define LOCAL_FINDINGS_MAX  1000 /* of those that are kept in words; all are counted */

struct local;

/* ---- Segments ---------------------------------------------------------------------------------
 */

enum segment_place {
	SEGMENT_OUTSIDE, /* beyond the size limit: not to be lent */
	SEGMENT_BARE,    /* free and without space below: never lent, or punched. On l->bare */
	SEGMENT_POOL,    /* free and written. On l->pool */
	SEGMENT_LENT,
	SEGMENT_FREEING,  /* free in memory, not yet in the table. On l->freed or l->freeing */
	SEGMENT_BACKING,  /* by l->back */
	SEGMENT_PUNCHING, /* by l->punch */
	SEGMENT_RESERVED, /* being zeroed for objects */
	SEGMENT_WORN,     /* its generations are used up: never lent again */
	SEGMENT_UNKNOWN,  /* both copies of its page are damaged (read-only opening) */
};

struct segment {
	struct list link;
	uint64_t id;
	struct format_entry entry;
	enum segment_place place;
};

/* A page of the table: 63 segments. */
struct table_page {
	struct list dirty_link; /* on l->dirty: memory is ahead of the disk */
	struct list round_link; /* on a list of the round */
	uint64_t group;
	unsigned index;
	uint64_t version; /* of the newest durable copy */
	unsigned newest;  /* which copy that is */
	uint64_t other;   /* opening: version of the other copy; 0: it is damaged */
};

struct group {
	/* A bit for each volume that may have segments here, by hash: `list` skips the rest. */
	uint64_t volumes;
	struct table_page pages[FORMAT_PAGES_PER_GROUP];
	struct segment segments[FORMAT_SEGMENTS];
};

/* One page on its way to one copy. */
struct page_writer {
	struct io_op op;
	struct local *local;
	struct table_page *page; /* NULL: idle */
	uint8_t *buffer;
};

/* A round writes all dirty pages and syncs, brings the other copies up to date and syncs, and
 * completes who waited. */
enum round_state {
	ROUND_IDLE,
	ROUND_WAIT_WRITES,
	ROUND_WAIT_SYNC,
	ROUND_WAIT_MIRRORS,
	ROUND_WAIT_MIRRORS_SYNC,
};

struct round {
	enum round_state state;
	struct list todo;    /* pages to write */
	struct list written; /* pages that were */
	struct list waiters; /* store_ctl: done when the round is durable */
	struct store_io sync;
	struct page_writer writers[LOCAL_PAGE_WRITERS];
	unsigned in_flight;
	int error;
};

/* ---- Superblock -------------------------------------------------------------------------------
 */

enum super_state {
	SUPER_IDLE,
	SUPER_WAIT_FIRST,
	SUPER_WAIT_FIRST_SYNC,
	SUPER_WAIT_SECOND,
	SUPER_WAIT_SECOND_SYNC,
};

struct super_writer {
	enum super_state state;
	struct io_op op;
	struct store_io sync;
	uint8_t *buffer;
	int error;
	void (*done)(struct local *l, int error);
};

/* ---- Growth and punching ----------------------------------------------------------------------
 */

enum grow_state {
	GROW_IDLE,
	GROW_WAIT_SIZE,
	GROW_WAIT_TABLES,
	GROW_WAIT_SYNC,
	GROW_WAIT_SUPER,
};

struct grow_op {
	struct io_op op;
	struct local *local;
};

struct grow {
	enum grow_state state;
	struct grow_op ops[2]; /* one for each copy of the table */
	struct store_io sync;
	struct group *group;
	uint8_t *buffer; /* one copy of a table */
	unsigned in_flight;
	int error;
};

/* A bare segment gets space below before it is lent: a sparse file on a full file system must not
 * fail the log's appends. */
struct back {
	struct io_op op;
	struct list segments; /* neighbours; empty: nothing is under way */
	bool careful;         /* there was no space for several: one by one */
	int error;            /* of the last, while those who wait for it are served */
	bool refused;         /* the file system can't: segments are lent bare */
};

struct punch {
	struct io_op op;
	struct segment *segment; /* NULL: idle */
	bool refused;            /* it failed once: not tried again */
};

/* ---- Objects ----------------------------------------------------------------------------------
 */

enum pair_state {
	PAIR_FREE,
	PAIR_LIVE,
	PAIR_CREATING,
	PAIR_LOST, /* both slots are damaged: never used again */
};

#define PAIR_NONE UINT32_MAX

struct pair {
	struct id name;
	uint64_t version;  /* of the newest whole slot */
	uint64_t sequence; /* of the newest whole slot; 0: none */
	uint32_t next;     /* in its hash chain, or in the list of free ones */
	uint8_t state;     /* enum pair_state */
	bool busy;         /* an operation is under way */
};

struct object_segment {
	uint64_t id;
	uint32_t generation;
	struct pair *pairs;
};

enum object_state {
	OBJECT_START,
	OBJECT_WAIT_READ,
	OBJECT_WAIT_FIRST,
	OBJECT_WAIT_FIRST_SYNC,
	OBJECT_WAIT_SECOND,
	OBJECT_WAIT_SECOND_SYNC,
	OBJECT_END,
};

struct object_op;

struct object_io {
	struct io_op op;
	struct object_op *owner;
};

/* One get or swap under way. */
struct object_op {
	struct list link;
	struct local *local;
	struct store_ctl *ctl; /* NULL: mends a half-done swap */
	enum object_state state;
	uint32_t pair;
	unsigned in_flight;
	int error;
	struct object_io io[2]; /* one for each slot */
	struct store_io sync;
	struct format_slot slot; /* what is written or was read */
	const uint8_t *data;     /* of it */
	uint8_t *buffer;         /* two slots */
};

/* A new segment for objects is zeroed before it is listed. */
enum object_grow_state {
	OBJECT_GROW_IDLE,
	OBJECT_GROW_WAIT_SEGMENT,
	OBJECT_GROW_WAIT_ZERO,
	OBJECT_GROW_WAIT_SYNC,
	OBJECT_GROW_WAIT_LISTED,
};

struct objects {
	struct object_segment *segments;
	uint32_t n_segments;
	uint32_t pairs_per_segment;
	uint32_t n_live;
	uint32_t *buckets; /* of pair numbers; PAIR_NONE ends a chain */
	uint32_t n_buckets;
	uint32_t free;  /* list of free pairs */
	uint32_t *half; /* pairs that need mending after opening */
	uint32_t n_half;
	struct list waiting; /* store_ctl: no op was free, or its pair was busy */
	struct list idle;    /* object_op */
	struct object_op ops[LOCAL_OBJECT_OPS];
	uint8_t *buffers;
	unsigned in_use;

	enum object_grow_state grow_state;
	struct segment *grow_segment;
	struct io_op grow_op;
	struct store_io grow_sync;
	uint64_t grow_zeroed; /* bytes */
	struct store_ctl grow_ctl;
	uint8_t *zeroes;
};

/* ---- The store --------------------------------------------------------------------------------
 */

/* Syncs of one loop: those that come while one runs share the next. Touched by that loop only. */
struct loop_sync {
	struct io_loop *loop; /* atomic; NULL: not yet taken */
	struct local *local;
	struct io_op op;
	bool running;
	struct list waiting; /* store_io */
	struct list sharing; /* store_io that the running sync will answer */
};

enum finding_kind {
	FINDING_SUPER,      /* a: copy */
	FINDING_TABLE,      /* a: group, b: page, c: copy */
	FINDING_TABLE_LOST, /* a: group, b: page */
	FINDING_SLOT,       /* a: segment, b: pair; an object's */
	FINDING_SLOT_LOST,  /* a: segment, b: pair */
	FINDING_SLOT_TWICE, /* a: segment, b: pair */
	FINDING_TERM,       /* a: segment */
};

struct finding {
	enum finding_kind kind;
	uint64_t a, b, c;
};

enum ctl_kind {
	CTL_LEND,
	CTL_FREE,
	CTL_OBJECT_GET,
	CTL_OBJECT_SWAP,
	CTL_LIST,
	CTL_OBJECT_LIST,
	CTL_CLOSE,
};

struct opening;

struct local {
	struct store store;
	struct io_loop *loop;
	struct io_file *file;
	struct io_file_info file_info;
	bool read_only;
	uint64_t n_possible; /* segments that fit under the size limit */
	uint32_t pool_segments;
	uint64_t reserve; /* segments that the user stream is never lent: see lend_one */

	/* Any loop. */
	bool failed;       /* atomic: a sync failed (T4) */
	uint64_t n_groups; /* atomic */
	struct loop_sync syncs[LOCAL_LOOPS_MAX];

	bool control_failed; /* a write of our own structures failed: no more lending, freeing,
			      * swapping */
	struct format_super super;
	unsigned super_newest; /* copy that holds `super` */
	struct super_writer super_writer;

	struct group **groups; /* room for groups_room */
	uint64_t groups_room;
	uint64_t next_order;
	struct list pool; /* segments: oldest free first */
	struct list bare;
	uint64_t n_pool;
	uint64_t n_bare;
	uint64_t n_freeing;  /* will be lendable after a round */
	uint64_t n_free;     /* all that are not lent, ungrown ones too */
	struct list lends;   /* store_ctl: not yet served */
	struct list dirty;   /* table_page */
	struct list waiting; /* store_ctl: for the next round */
	struct list freed;   /* segments: for the next round */
	struct list freeing; /* segments: of the running round */
	struct round round;
	struct grow grow;
	struct back back;
	struct punch punch;
	struct objects objects;

	struct finding *findings;
	unsigned n_findings; /* in words and not */

	struct opening *opening; /* NULL: it is open */
	struct store_ctl *closing;
	struct store_io close_sync;
	bool close_syncing;
};

static inline struct local *local_of(struct store *store)
{
	return container_of(store, struct local, store);
}

/* local.c */
extern const struct store_ops local_ops;
void ctl_finish(struct store_ctl *ctl, int error);
/* Something in the background came to its end: an open or a close may go on. */
void local_quiet(struct local *l);
void open_on_table(struct local *l);
void local_destroy(struct local *l); /* NULL and half-built are legal */
void local_find(struct local *l, enum finding_kind kind, uint64_t a, uint64_t b, uint64_t c);

/* local_super.c */
int super_init(struct local *l);
void super_destroy(struct local *l);
/* Makes l->super, as changed by the caller, durable in both copies. One at a time. */
void super_write(struct local *l, void (*done)(struct local *l, int error));

/* local_sync.c */
void sync_init(struct local *l);
bool sync_failed(struct local *l);
void local_append(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		  uint32_t offset, struct iovec *iov, int n);
void local_read(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		uint32_t offset, void *buf, uint32_t len);
void local_readv(struct store *store, struct io_loop *loop, struct store_io *io, uint64_t segment,
		 uint32_t offset, struct iovec *iov, int n);
void local_sync(struct store *store, struct io_loop *loop, struct store_io *io);

/* local_table.c */
int table_init(struct local *l);
void table_destroy(struct local *l);
struct group *group_new(uint64_t number);
/* Makes room for one more group; adding it then can't fail. */
int table_reserve_group(struct local *l);
void table_add_group(struct local *l, struct group *group);
struct segment *table_segment(struct local *l, uint64_t id); /* NULL: no such segment */
uint64_t table_volume_bit(struct id volume);                 /* in group->volumes */
/* Free or not, this segment counts as space. */
bool table_is_lendable(const struct local *l, const struct segment *segment);
/* Puts a segment that is not lent where it belongs. */
void table_place_free(struct local *l, struct segment *segment);
/* Memory is ahead of the disk now; the next round will write it. */
void table_mark(struct local *l, struct segment *segment);
void table_encode(struct local *l, struct table_page *page, uint64_t version, uint8_t *buffer);
void table_lend(struct local *l, struct store_ctl *ctl);
/* Lists a reserved segment as lent to the store itself; ctl is done when that is durable. */
void table_lend_reserved(struct local *l, struct store_ctl *ctl, struct segment *segment);
/* A reserved segment is not wanted after all. */
void table_give_back(struct local *l, struct segment *segment);
void table_free(struct local *l, struct store_ctl *ctl);
void table_list(struct local *l, struct store_ctl *ctl);
/* Serves who waits, and starts a round if one is wanted. */
void table_pump(struct local *l);
void table_refuse_lends(struct local *l, int error);
void table_kick(struct local *l); /* starts a round for dirty pages that nobody waits for */
void table_publish_free(struct local *l);
bool table_is_quiet(const struct local *l);

/* local_space.c */
int space_init(struct local *l);
void space_destroy(struct local *l);
bool space_can_grow(const struct local *l);
void space_grow(struct local *l);
/* False: bare segments may be lent as they are. */
bool space_needs_backing(const struct local *l);
/* Backs up to `n` bare segments, into the pool; table_pump follows. False: it can't. */
bool space_back(struct local *l, uint64_t n);
void space_punch(struct local *l);

/* local_object.c */
int object_init(struct local *l);
void object_destroy(struct local *l);
int object_add_segment(struct local *l, uint64_t id, uint32_t generation);
/* Opening: takes a pair as it was read, by its number: place in o->segments times pairs in a
 * segment, plus place in the segment. */
int object_load_pair(struct local *l, uint32_t number, const uint8_t *bytes,
		     const bool unreadable[2]);
void object_mend(struct local *l); /* of half-done swaps, in the background */
void object_got_segment(struct local *l, struct segment *segment);
void object_no_segment(struct local *l, int error);
void object_get(struct local *l, struct store_ctl *ctl);
void object_swap(struct local *l, struct store_ctl *ctl);
void object_list(struct local *l, struct store_ctl *ctl);
bool object_is_quiet(const struct local *l);

#endif
