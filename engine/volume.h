/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of engine/ share. A volume's parts, each with the file that owns it:
 *
 *   engine.c      pools, the turn hook, submit
 *   fair.c        shares of the loop and its disk, by volume
 *   log.c         records: build, append, publish, sync
 *   write.c       write, zero, trim; sub-block edges
 *   read.c        reads, block status
 *   map.c         looking up blocks, loading the map's pages
 *   map_cache.c   the map's pages in memory
 *   overlay.c     changes since the last checkpoint
 *   segments.c    lending, accounting, freeing
 *   checkpoint.c  overlay -> leaves (merge.c) -> superblock
 *   recover.c     open: superblock, map, replay
 *   gc.c          copies what lives out of segments that are nearly dead
 *   confirm.c     looks into segments once more before they are given back
 *   cut.c         snapshots as points in the log, pins; cut_group.c: of several volumes
 *   view.c        reads pinned roots
 *   hydrate.c     the base snapshot: reading it, copying it in
 *   scrub.c       reads all that lives, and tells what is bad
 *   flight.c      what is in flight with the store, and whether it comes back
 *   bad.c         what is known to be bad, and the volume's health
 *   volume.c      create, close, resize
 *   check.c       the full walk; check_in_use.c while I/O goes on, check_pins.c of pinned roots
 */
#ifndef ENGINE_VOLUME_H
#define ENGINE_VOLUME_H

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/flight.h"
#include "engine/map_cache.h"
#include "engine/overlay.h"

/* ---- Bounds -------------------------------------------------------------------------------------
 */

/* Of a volume: enough to keep a disk busy, few enough to let groups form. */
#define RECORDS_IN_FLIGHT 4
#define READ_IO_BLOCKS    64    /* one read of the store: 256 KiB */
#define READ_GAP_MAX      16384 /* bytes between two blocks that are read together */
#define READ_IO_RUNS      16    /* pieces of it that lie near each other */
#define SPARES_USER       2     /* segments lent ahead, so that the log seldom waits */
#define SPARES_USER_MAX   32    /* when it did wait */
#define SPARES_MAP        1
#define TRIM_RESERVE      (512 * 1024) /* of the head, for trims in a full store */
#define RANGES_MAX        2048         /* large trims in an overlay before a checkpoint must come */
#define RANGE_BLOCKS_MIN  16           /* smaller trims are entries */
/* The most entries that one record of ours puts into an overlay. */
#define RECORD_ENTRIES_MAX 512
#define GC_CREDIT          3 /* bytes that may be copied for each that users log */
/* Bytes that users may have logged ahead of the collector. */
#define PACE_DEBT     ((int64_t)(256 * KiB))
#define OVERLAYS_MIN  (1024 * 1024) /* bytes for the overlays of a loop */
#define MAP_OUT_MIN   (96 * 1024)   /* a buffer of blobs on their way to the map stream */
#define MAP_OUT_MAX   (512 * 1024)
#define MAP_LOADS_MIN 2 /* at a time */
#define MAP_LOADS_MAX 64

/* ---- The loop's engine --------------------------------------------------------------------------
 */

struct engine {
	struct io_loop *loop;
	struct store *store;
	struct engine_config config;
	struct pool *ops;      /* struct op */
	struct pool *records;  /* struct record */
	struct pool *read_ios; /* struct read_io */
	struct pool *blocks;   /* 4 KiB: edges and bounces */
	struct map_cache *map_cache;
	struct pool *loads;    /* struct map_load */
	struct pool *blobs;    /* BLOB_BUFFER: one for each load */
	struct list map_loads; /* under way */
	struct map_scratch *scratch;
	uint8_t *gap; /* READ_GAP_MAX: what lies between the blocks of a read; nobody looks at it */
	struct list kicked;           /* volumes with something to do */
	struct list no_record;        /* volumes that wait for a record */
	struct list leaf_starving;    /* volumes with waits for a load, or for room in the cache */
	struct list resizes;          /* volumes whose resize waits for an op */
	struct list checkpoint_queue; /* volumes whose checkpoint waits for others to end */
	uint32_t n_checkpoints;       /* under way */
	struct list openings;         /* those that wait for others to be opened */
	uint32_t n_openings;
	struct list volumes;
	struct list no_overlay; /* volumes that wait for a checkpoint to give memory back */
	uint64_t overlay_limit; /* bytes */
	uint64_t overlay_bytes; /* of the overlays of all volumes that have not failed */
	uint64_t log_bytes;     /* that they would replay */
	struct list gc_queue;   /* volumes whose garbage is to be collected */
	struct gc *gc;          /* at work on one of them, or NULL */
	struct confirm *confirm;
	struct io_hook hook;
	struct io_op wake;
	bool waking;
	struct flight_watch watch;

	/* Fairness (fair.c). */
	struct list asking;   /* volumes with requests that have no op yet */
	struct list starving; /* volumes with ops that wait for their share, or a pooled object */
	struct list busy;     /* volumes with requests, now or a moment ago */
	uint32_t n_busy;
	uint32_t n_deep;        /* of them, those that want more than a share */
	uint32_t others_busy;   /* on other loops, as of this turn */
	uint32_t others_light;  /* of them, those that are not deep */
	uint32_t busy_loops;    /* with this one */
	uint64_t n_light_asked; /* requests of the others, ever */
	struct io_op next_turn;
	bool turning;
	struct record *lane_owner; /* the large record that is with the disk */
	struct list lane_waiting;  /* volumes, by lane_tag */
	uint64_t lane_since;
	uint64_t lane_light; /* n_light_asked then */
	uint64_t lane_time;  /* its tag */
	uint64_t lane_free_at;
	uint64_t lane_rest_tag; /* for those below it, at once */
	struct io_op lane_timer;
	uint64_t lane_wake_at;
	bool lane_timing;
	bool lane_hurried; /* its timer was cancelled */
	bool lane_awaited; /* its timer, by a volume that closes */

	bool short_of_ops; /* somebody waits for an op */
	uint32_t n_volumes;
};

#define BLOB_BUFFER (40 * 1024)
_Static_assert(LEAF_BYTES_MAX + 2 * 4096 <= BLOB_BUFFER, "a leaf and the rest of its sectors fit");
_Static_assert(INDEX_BYTES_MAX + 2 * 4096 <= BLOB_BUFFER, "an index page, too");

/* ---- Segments (segments.c)
 * ------------------------------------------------------------------------ */

enum segment_state { SEGMENT_EMPTY, SEGMENT_SPARE, SEGMENT_HEAD, SEGMENT_CLOSED, SEGMENT_FREEING };

struct segment {
	uint64_t id;
	uint32_t generation;
	uint8_t stream;
	uint8_t state;
	uint32_t tail; /* bytes reserved so far */
	uint32_t live; /* bytes that leaves, the frozen overlay or, for the map stream, references
			  hold */
	uint32_t own;  /* of them, the root and the usage pages: the next usage pages can't know */
	uint32_t live_active; /* bytes that the active overlay holds */
	uint32_t users;       /* reads and appends in flight */
	uint32_t pending;     /* copies in it that no MOVE in the log speaks of yet */
	bool moved_out;       /* what lived in it was moved: not again */
	bool stuck;           /* but for what could not be */
	bool condemned;       /* it may be freed once its records were looked at (confirm.c) */
	bool confirmed;       /* they were: nothing in it lives */
	bool doubtful;        /* something does, against its counters: never to be freed */
	bool kept;            /* lent from the store's last: for records that make room */
	uint32_t slot;
	uint64_t newest;  /* sequence of the newest record in it */
	uint64_t lent_at; /* number of the checkpoint that was newest when it was lent */
	uint64_t
	    dead_at; /* number of the first checkpoint that refers to nothing in it; 0: alive */
};

struct segment_page {
	struct segment segments[USAGE_SEGMENTS];
	struct blob_ref ref; /* of the usage page on disk */
	bool dirty;
};

struct segments {
	struct segment_page **pages;
	uint32_t n_pages;
	uint32_t n_used;
	uint32_t *hash; /* slot + 1, open addressing by id */
	uint32_t hash_size;
	uint32_t n_spare[5];  /* by stream */
	uint32_t spares_user; /* how many to hold ready */
	struct store_ctl lend;
	bool lending;
	bool lend_failed[5]; /* by stream: the last answer was -ENOSPC */
	bool last_failed;    /* not even from the store's last, until it is asked again */
	struct store_ctl freeing;
	bool free_busy;
	uint32_t n_condemned;
	uint32_t condemned_from; /* slot at which to look for the next of them */
	struct io_op retry;
	bool retrying;
	bool woken; /* the retry was told to come early */
};

/* ---- The map (map.c)
 * ------------------------------------------------------------------------------ */

/* A tree of leaves: a volume's own. */
struct map {
	struct volume *volume;
	struct blob_ref *index; /* references to index pages, by number; length 0: there is none */
	uint32_t n_index;
	struct list pages; /* in the engine's map_cache */
};

/* Somebody who waits for a page of a map. `wake` runs from the loop, with 0 (look again) or -EIO.
 */
struct leaf_wait {
	void (*wake)(struct leaf_wait *wait, int error);
	/* In place of `wake`, for leaves: whoever wants the contents for himself. They need not be
	 * put into the cache. */
	void (*take)(struct leaf_wait *wait, const struct leaf_content *content, int error);
	struct list link;
	struct map *map;
	uint64_t number; /* of the leaf */
};

/* A page on its way into memory. */
struct map_load {
	struct map *map;
	uint32_t number;
	uint8_t kind;
	bool stale; /* a checkpoint has written the page anew meanwhile */
	struct list link;
	struct list waiters; /* struct leaf_wait */
	struct blob_ref ref;
	uint8_t *buffer;
	uint32_t skip;
	struct segment *segment;
	struct device_io io;
	struct io_op turn;
};

/* Contents of a page, between two looks at it. */
struct map_scratch {
	struct leaf_content leaf;
	struct blob_ref refs[INDEX_LEAVES];
};

/* ---- Requests
 * ------------------------------------------------------------------------------------- */

enum op_kind {
	OP_READ,
	OP_WRITE,
	OP_ZERO,
	OP_TRIM,
	OP_RESIZE,
	OP_FLUSH,
	OP_STATUS,
	OP_MOVE,
	OP_SNAPSHOT,
	OP_HYDRATE
};

struct op {
	struct volume *volume;
	struct block_req *req; /* NULL: RESIZE, MOVE, SNAPSHOT, HYDRATE */
	struct volume_op *volume_op;
	struct gc *gc;             /* MOVE */
	struct hydrate_unit *unit; /* HYDRATE */
	enum op_kind kind;
	int error;
	struct list link; /* whichever queue it is on */
	struct list lock; /* volume's locks */
	struct leaf_wait wait;
	uint64_t first; /* blocks, outward from the request's bytes (TRIM: inward) */
	uint64_t end;
	uint64_t next;     /* first block not yet started */
	uint32_t parts;    /* records or reads not yet done, plus one while starting */
	uint64_t sequence; /* newest record that holds a part; FLUSH: what must be durable */
	/* Edges: blocks of a WRITE or ZERO that the request covers in part. */
	uint8_t *head;
	uint8_t *tail;
	bool locked;
	bool parked; /* on the volume's starved list */
};

/* One read of the store on behalf of an op. */
/* Blocks of a read that lie one after the other in the segment. */
struct read_run {
	uint32_t first;  /* block of the read */
	uint32_t offset; /* in the segment, BLOCK_SECTOR */
};

struct read_io {
	struct op *op;
	struct device_io io;
	struct segment *segment;
	uint64_t lba;
	uint32_t blocks;
	uint8_t *buf;       /* where the bytes go */
	uint8_t *bounce;    /* from the pool, or NULL */
	uint32_t copy_from; /* bounce: bytes [copy_from, copy_from + copy_len) go to copy_to */
	uint32_t copy_len;
	uint8_t *copy_to;
	struct volume_base_req base; /* instead of io: INHERIT */
	struct read_run runs[READ_IO_RUNS];
	uint32_t n_runs;
	bool alone;          /* the whole failed: each block is read alone, */
	uint32_t alone_next; /* this one now */
	uint32_t n_errors;   /* of them */
	int error;
	struct iovec iov[2 * READ_IO_RUNS]; /* runs and the gaps between them */
	uint32_t sums[READ_IO_BLOCKS];
};

/* ---- The log (log.c)
 * ------------------------------------------------------------------------------ */

struct record {
	struct volume *volume;
	struct list link; /* in flight, in log order */
	struct device_io io;
	bool completed;
	int error;
	struct segment *segment;
	uint32_t cost; /* fair.c */
	struct record_header h;
	uint32_t n_entries; /* that it puts into an overlay */
	uint32_t n_ops;
	uint32_t n_iov;
	struct run runs[RECORD_RUNS_MAX];
	struct op *ops[RECORD_RUNS_MAX]; /* each op once */
	uint32_t sums[RECORD_BLOCKS_MAX];
	struct iovec iov[RECORD_BLOCKS_MAX + 1];
	/* Page-aligned by the pool's stride: see engine_new. */
	uint8_t header[RECORD_HEADER_MAX] __attribute__((aligned(4096)));
};

/* Somebody who waits for a checkpoint. `done` runs from the loop, with 0 or a negative errno. */
struct checkpoint_wait {
	struct list link;
	void (*done)(struct checkpoint_wait *wait, int error);
	bool clean;      /* mark the superblock as cleanly closed */
	bool detach;     /* the base is needed no more */
	struct id unpin; /* this snapshot's pin goes */
};

/* A cut that waits for its checkpoint. */
struct cut {
	struct list link; /* volume->cuts, oldest first, until the pin is durable */
	struct id snapshot;
	struct overlay overlay; /* what changed since the freeze before; empty: being merged */
	uint64_t sequence;      /* the position of the log, as a superblock names it */
	uint32_t sum;
	uint64_t segment;
	uint32_t end;
	uint64_t size;
	uint64_t hydrated;
};

enum cut_state { CUT_ASKED, CUT_QUEUED, CUT_SEQUENCED, CUT_PLACED };

struct bad_list {
	struct volume_bad places[VOLUME_BAD_MAX];
	unsigned n;
	bool more; /* than the list has room for, or known places of unknown number */
};

enum close_state {
	CLOSE_NOT,
	CLOSE_WAIT_LOG,        /* what is in flight ends */
	CLOSE_WAIT_CHECKPOINT, /* the last one, which marks the superblock clean */
	CLOSE_WAIT_REST,       /* timers, lending and freeing come to rest */
};

struct volume {
	struct block_dev dev;
	struct engine *engine;
	struct store *store;
	struct io_loop *loop;
	struct id id;
	bool read_only;
	bool opening;
	bool closing;
	int failed;     /* 0, or the error that stopped the log */
	bool log_ended; /* a record failed: none after it is published */
	struct list kick;
	struct list no_record;
	struct list no_overlay;
	struct list of_engine;
	struct list gc_queue;
	int64_t gc_credit; /* bytes that may be copied, earned by bytes logged */
	uint32_t gc_share; /* thousandths of what the collector makes that users may log; 1000: all
			      they want */
	int64_t gc_pace;   /* bytes that users may log while the collector is behind */
	struct segment *moved_heads[2]; /* for blocks that are moved for the first time; again */
	struct list confirm_queue;
	uint32_t confirmed_closing; /* segments, since it began to close */
	uint64_t pending_size;      /* newest size in the log */

	/* Log. */
	struct list write_queue; /* ops that wait for a record */
	struct list blocked;     /* writes that wait for an edge's lock, first come first */
	struct list locks;       /* ops whose edges are locked */
	struct list in_flight;   /* records */
	uint32_t n_in_flight;
	struct segment *head;
	uint64_t incarnation;
	uint64_t reserved;  /* newest sequence given to a record */
	uint64_t published; /* newest sequence published */
	uint64_t durable;   /* newest sequence known durable */
	uint32_t last_sum;  /* of the newest reserved header */
	uint32_t published_sum;
	uint64_t published_segment; /* where the newest published record ends */
	uint32_t published_end;
	uint64_t log_bytes;       /* since the last freeze */
	struct list sync_waiters; /* ops */
	struct device_io sync_io;
	uint64_t syncing; /* sequence that the running sync will make durable */
	bool sync_running;

	/* Map. */
	struct overlay active;
	struct overlay frozen;
	uint64_t overlay_bytes;     /* of both, as they are counted in the engine's */
	uint32_t entries_in_flight; /* that records in flight will put into the active one */
	struct map map;
	struct segments segments;
	struct segment *map_head;

	/* Checkpoint. */
	struct checkpoint *checkpoint;  /* under way, or NULL */
	struct superblock sb;           /* as it is on disk */
	uint64_t sb_version;            /* of the store's object */
	struct list checkpoint_waiters; /* struct checkpoint_wait */
	struct list checkpoint_queue;   /* others have the engine's checkpoints */
	struct io_op idle;
	bool idle_armed;
	uint64_t last_write; /* io_now */
	uint32_t holds;      /* of checkpoints */
	uint32_t n_walks;    /* checks under way */
	bool moving;         /* a MOVE is on its way into the log: no checkpoint begins */
	bool reap_later;     /* dead segments wait for the next checkpoint */
	struct volume_op *close_op;

	/* Fairness. */
	struct list asked; /* struct block_req: have no op yet */
	struct list asking;
	struct list busy;
	uint64_t asked_at;   /* io_now of the newest */
	uint64_t busy_until; /* looked at then */
	uint64_t turn_at;    /* io_now of the turn in which `taken` requests were taken up */
	uint32_t taken;
	bool is_deep;
	uint64_t deep_at;   /* when it wanted more last */
	bool starved_again; /* by the step under way */
	uint32_t n_ops;     /* from the pools */
	uint32_t n_read_ios;
	uint32_t read_cost; /* with the disk */
	uint32_t write_cost;
	struct list starved; /* ops */
	struct list starving;
	struct list lane_waiting;
	uint64_t lane_tag;
	uint32_t n_loads;
	struct list leaf_starved; /* struct leaf_wait */
	struct list leaf_starving;

	/* Snapshots. */
	struct list cuts;          /* struct cut */
	struct list cuts_asked;    /* struct volume_op, not yet published */
	uint32_t n_cutting;        /* of them, in a record */
	uint64_t hold;             /* nothing behind this sequence is published; 0: no hold */
	struct volume_op *hold_op; /* whose cut is to begin a hold */
	struct io_op hold_timer;
	bool hold_armed;
	bool released; /* a hold has ended: publish what waited */
	struct list views;
	struct list views_waiting; /* struct volume_op */

	/* The base. */
	struct volume_base *base;
	struct hydrate *hydrate; /* NULL: there is no base */

	/* Integrity. */
	struct bad_list bad;
	struct scrub *scrub; /* under way, or NULL */
	uint64_t check_pin;  /* number of the checkpoint whose root a check walks; 0: none */
	bool is_checked;     /* in use, now */

	struct volume_op *resize_op; /* waits for an op, or NULL */
	struct list resize;
	enum close_state close_state;
	struct checkpoint_wait close_wait;

	struct store_ctl object;
	void (*object_done)(struct store_ctl *ctl);
	struct flights flights;
	struct volume_stats stats;
};

/* engine.c */
void engine_submit(struct block_dev *dev, struct block_req *req);
void volume_kick(struct volume *v); /* its work is looked at in this turn */
struct op *op_get(struct volume *v, enum op_kind kind);
void op_done(struct op *op); /* answers with op->error and frees */
void op_put(struct op *op);  /* only frees */
uint8_t *block_get(struct engine *e);
void block_put(struct engine *e, uint8_t *block);
/* The op goes on by read_step when a pooled object is back. */
void op_starve(struct op *op);
void volume_fail(struct volume *v, int error);

/* fair.c */
void fair_init(struct engine *e);
void fair_join(struct volume *v);
void fair_leave(struct volume *v); /* it has no op any more */
void fair_ask(struct volume *v, struct block_req *req);
/* Starts what has its turn. */
void fair_take(struct engine *e, void (*start)(struct volume *v, struct block_req *req));
void fair_op_ended(struct volume *v);
/* Whether the volume may take a read_io, and read with it. When that changes there is a turn. */
bool fair_may_read_io(const struct volume *v);
bool fair_may_read(struct volume *v);
bool fair_may_load(const struct volume *v); /* a page of its map */
/* Bytes that its overlay may have, that others find room. */
uint64_t fair_overlay(const struct volume *v);
void fair_read_started(struct volume *v, uint32_t blocks);
void fair_read_ended(struct volume *v, uint32_t blocks);
/* Whether a record that begins with so many blocks may be appended; else the volume is kicked. */
bool fair_may_write(struct volume *v, uint32_t blocks);
void fair_write_started(struct volume *v, struct record *rec, uint32_t blocks);
void fair_write_ended(struct volume *v, const struct record *rec);
/* How many blocks to put into one I/O: at most that. */
uint32_t fair_blocks(const struct volume *v, uint32_t most);
bool fair_is_at_rest(const struct volume *v);

/* write.c */
void write_start(struct op *op);
void write_edges_read(struct op *op); /* both edges are there: merge and queue */
/* The op is in a record now: its edges are free for others. */
void write_sequenced(struct op *op);
void write_retry_blocked(struct volume *v);

/* read.c */
void read_start(struct op *op);
void read_step(struct op *op);
void status_start(struct op *op);

/* bad.c: counted, told, kept in the list, and shown as the volume's health */
void volume_bad_block(struct volume *v, uint64_t lba, const char *why);
/* Which of those from lba on it is nobody knows: a scrub finds out. */
void bad_some(struct volume *v, uint64_t lba, const char *why);
void bad_page(struct volume *v, enum map_page_kind kind, uint64_t number);
bool bad_is_any(const struct volume *v);
/* These were read and are good. Cheap when nothing is bad. */
void bad_good(struct volume *v, uint64_t lba, uint64_t blocks);
void bad_page_good(struct volume *v, enum map_page_kind kind, uint64_t number);
/* The root (0), or a usage page (1 and up). */
void bad_root(struct volume *v, uint32_t number);
void bad_root_good(struct volume *v, uint32_t number);
/* What a record has overwritten is bad no more. */
void bad_published(struct volume *v, const struct record_header *h, const struct run *runs);
/* A scrub finds all anew that the list had no room for: true if there was any. At its end: whether
 * there is still. */
bool bad_begin_anew(struct volume *v);
void bad_end_anew(struct volume *v, bool more);

/* scrub.c */
void scrub_stats(const struct volume *v, struct volume_stats *stats);

/* cut.c */
struct superblock_pin *pin_find(struct superblock *sb, struct id snapshot);
bool cut_is_waiting(const struct volume *v, struct id snapshot);
/* Those who were asked for get ops. False: it waits on engine.resizes until there is one. */
bool cuts_start(struct volume *v);
/* Its SNAPSHOT has a sequence. */
void cut_sequenced(struct volume *v, struct volume_op *op, uint64_t sequence);
/* The SNAPSHOT at v->published is published, or replayed: the active overlay freezes. 0 or
 * -ENOMEM: there is no such cut. */
int cut_place(struct volume *v, const struct run *run);
void cut_done(struct volume_op *op, int error); /* durable, or lost */
void cut_free(struct cut *cut);
/* As overlay_get, over the cuts that wait, the newest first. */
bool cut_overlay_get(const struct volume *v, uint64_t lba, struct entry *ret_entry);
/* op->err is set and op->done runs, on a later turn. */
void volume_op_refuse(struct volume_op *op, int error, const char *what);

/* check.c */
void check_say(struct volume_op *op, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whoever asked for the check wants it to end. */
bool check_is_stopped(const struct volume_op *op);
/* check_pins.c: the rest of volume_check; ends with op->done. */
void check_pins(struct volume_op *op);
/* check_in_use.c: volume_check of a volume in use. */
void check_in_use(struct volume_op *op);

/* view.c */
bool view_is_open(const struct volume *v, struct id snapshot);
/* As volume_view_open, of a root that is there; a snapshot of all 0: v->check_pin holds it. */
void view_start(struct volume_op *op, const struct superblock_pin *pin);
/* The i-th reference of the root: to index pages, then to usage pages. False: there is none. */
bool view_root_ref(const struct volume_view *view, uint32_t i, uint32_t *ret_number,
		   struct blob_ref *ret_ref);
bool view_root_is_usage(const struct volume_view *view, uint32_t i);
/* The page that was read last, if it is this one; else NULL. */
const struct blob_ref *view_index(const struct volume_view *view, uint64_t number);
const struct leaf_content *view_leaf(const struct volume_view *view, uint64_t number);
/* Reads the root's usage page req->unit, which becomes its number, to req->buf, which has
 * USAGE_SEGMENTS of struct usage_entry. -ENOENT: there are no more. */
void view_usage(struct volume_view_req *req);
void views_feed(struct volume *v); /* a pin may be ready, or the volume has failed */

/* log.c */
void log_run(struct volume *v); /* builds and appends what it may */
void log_fail_queued(struct volume *v, int error);
void log_wait_durable(struct op *op); /* op->sequence */
/* Somebody's sync made everything up to `sequence` durable. */
void log_durable(struct volume *v, uint64_t sequence);
/* How many entries the runs put into an overlay. */
uint32_t log_entries(const struct run *runs, uint32_t n_runs);
bool log_is_quiet(const struct volume *v);
/* Applies one record to the overlay: by publishing, and by replay. */
void log_apply(struct volume *v, const struct record_header *h, const struct run *runs,
	       const uint32_t *sums, struct segment *segment);

/* map.c */
int map_init(struct volume *v, uint64_t size);
void map_free(struct volume *v);
int map_resize(struct volume *v, uint64_t size);
/* What the block is now: 0, or -EAGAIN: its leaf must be loaded first. */
int map_get(struct volume *v, uint64_t lba, struct entry *ret_entry);
/* As map_get, and how many blocks from lba on, at most n, surely share a ZERO or INHERIT state
 * without a look at each (at least 1). */
int map_get_run(struct volume *v, uint64_t lba, uint64_t n, struct entry *ret_entry,
		uint64_t *ret_n);
/* The same by the map alone, without what the log has changed since the last checkpoint. */
int map_lookup(struct map *m, uint64_t lba, struct entry *ret_entry);
/* The leaf, or NULL: nothing was written there. -EAGAIN: it must be loaded first. */
int map_leaf(struct map *m, uint64_t number, struct map_page **ret_leaf);
/* The same for an index page. */
int map_index(struct map *m, uint64_t number, struct map_page **ret_index);
/* Loads the leaf, or the index page that leads to it; the caller has seen -EAGAIN, and looks again
 * when it is woken. */
void map_load(struct map *m, uint64_t number, struct leaf_wait *wait);
void leaf_load(struct volume *v, uint64_t number, struct leaf_wait *wait);
/* Whether the reference can lead to a blob; its parent's checksum was right, but it came from a
 * disk all the same. */
bool blob_ref_is_possible(const struct volume *v, enum map_page_kind kind,
			  const struct blob_ref *ref);
/* The leaf has been written anew: what is being loaded of it is old. */
void map_leaf_changed(struct map *m, uint64_t number);
/* Nothing in memory of this map can be trusted any more. No page is pinned. */
void map_forget(struct map *m);
void leaf_feed_starved(struct engine *e);

/* segments.c */
int segments_init(struct volume *v);
void segments_free(struct volume *v);
struct segment *segments_add(struct volume *v, const struct store_segment *s,
			     enum segment_state state);
int segments_make_pages(struct volume *v, uint32_t n); /* at least so many */
/* The same as segments_add, into an empty slot of a page that is there; recovery. */
struct segment *segments_add_at(struct volume *v, uint32_t slot, const struct store_segment *s,
				enum segment_state state);
void segments_remove(struct volume *v, struct segment *s);
struct segment *segments_find(const struct volume *v, uint64_t id);
struct segment *segments_at(const struct volume *v, uint32_t slot);
/* A spare of that stream becomes a head; NULL: none yet (more are asked for; volume_kick follows).
 */
struct segment *segments_take(struct volume *v, enum store_stream stream);
/* The same of the user stream in a full store, for records that make room: from the store's last.
 */
struct segment *segments_take_kept(struct volume *v);
/* Sees to it that spares are there or asked for. */
void segments_want(struct volume *v, enum store_stream stream);
bool segments_out_of_space(const struct volume *v, enum store_stream stream);
/* Bytes appear or vanish in an entry's segment. */
void segments_live(struct volume *v, uint64_t id, int64_t bytes);
void segments_live_active(struct volume *v, uint64_t id, int64_t bytes);
/* The same for blobs of the map; `own`: usage pages and the root. */
void segments_live_map(struct volume *v, uint64_t id, int64_t bytes, bool own);
void segments_mark_dirty(struct volume *v, struct segment *s);
/* The freeze: what the active overlay held is now the frozen one's. */
void segments_freeze(struct volume *v);
/* After checkpoint `number` (whose sequence is `sequence`) is durable: marks the dead, frees what
 * no durable root, pin or reader needs. True if some must wait for its readers. */
bool segments_reap(struct volume *v, uint64_t number, uint64_t sequence);
/* Frees by hand what recovery found to be nobody's. */
void segments_release(struct volume *v, struct segment *s);
void segments_free_kick(struct volume *v);
/* The volume was idle for a while: few spares will do. */
void segments_rest(struct volume *v);
void segments_rehash(struct volume *v); /* after segments_remove */

/* gc_pick.c */
/* Users were lent a segment, or the collector has emptied one: whether there is something to do. */
void gc_watch(struct volume *v);
/* More space than it needs itself can be made by copying. */
bool gc_can_help(const struct volume *v);

/* gc.c */
/* Looks whether there is garbage to collect: after a checkpoint, and when space is short. */
void gc_consider(struct volume *v);
/* Its MOVE is in the log, or lost. */
void gc_on_moved(struct gc *gc, int error);
/* A checkpoint is about to begin: a MOVE that has no place in the log yet is taken back, for it was
 * looked up before. False: it has one, or is being looked up. */
bool gc_retract(struct volume *v);
/* It is at work here, or will be, and has the space for it. */
bool gc_is_making_room(const struct volume *v);
/* What would write to the log waits for the collector, which kicks the volume. */
bool gc_holds_back(const struct volume *v);
/* A segment for copies may be there; the volume closes or has failed. */
void gc_kick(struct volume *v);
bool gc_is_at_work(const struct volume *v);
void gc_free(struct engine *e);
/* A cut has its place in the log: what was looked up for a MOVE and has none yet is looked up
 * again.
 */
void gc_bar(struct volume *v);
/* What a MOVE brings to a record. Its sums have no payload. */
uint32_t gc_move_size(const struct gc *gc, uint32_t *ret_sums);
void gc_move_fill(const struct gc *gc, struct run *runs, uint32_t *sums);

/* confirm.c */
int confirm_new(struct engine *e); /* 0 or -ENOMEM */
void confirm_free(struct engine *e);
/* The reuse rule allows to free it: that follows, unless its own records speak against it. */
void confirm_condemn(struct volume *v, struct segment *seg);
/* Whether the map says that the block lives at this place (512-byte units): 1, 0; -EAGAIN: its leaf
 * must be loaded first. */
int confirm_is_live(struct volume *v, const struct segment *seg, uint64_t lba, uint32_t offset);
bool confirm_is_at_rest(const struct volume *v);

/* checkpoint.c */
/* A checkpoint that covers all that is published now; joins none that is under way, but follows it.
 */
void checkpoint_request(struct volume *v, struct checkpoint_wait *wait);
/* Starts one if it is time: called each time something was published, and by the idle timer. */
void checkpoint_consider(struct volume *v);
/* No checkpoint begins until as many releases as holds; none is under way now. */
void checkpoint_hold(struct volume *v);
void checkpoint_release(struct volume *v);
/* What kept checkpoints from beginning is over. */
void checkpoint_resume(struct volume *v);
bool checkpoint_must_wait(const struct volume *v); /* writes wait: the overlay is too far ahead */
/* Makes sure that publishing what is in flight, and one more record, can't fail, within the memory
 * that the overlays of a loop may take, or beyond it if it `must`. False: that must wait for a
 * checkpoint; volume_kick follows. */
bool checkpoint_make_room(struct volume *v, bool must);
/* The overlays have grown, shrunk or gone. */
void checkpoint_count_overlays(struct volume *v);
/* The active overlay has been put aside: the log begins anew. */
void checkpoint_count_cut(struct volume *v);
void checkpoint_count_log(struct volume *v, uint64_t bytes); /* appended or replayed */
/* The volume has failed, or goes: others may have its share. */
void checkpoint_leave(struct volume *v);
void checkpoint_idle_arm(struct volume *v);
bool checkpoint_is_needed(const struct volume *v);

/* The store is full: what trims have made free must come back soon. */
void checkpoint_for_space(struct volume *v);
/* The page is not on disk yet: its bytes, on their way. Else NULL. */
const uint8_t *checkpoint_out_find(const struct volume *v, const struct blob_ref *ref);
/* Somebody who slept for space may look again. */
void checkpoint_space_kick(struct volume *v);

/* hydrate.c */
int hydrate_init(struct volume *v, struct volume_base *base); /* 0 or -ENOMEM */
void hydrate_free(struct volume *v, bool hydrated);           /* lets the base go */
/* Bytes of the base below which nothing is missing in what is published. */
uint64_t hydrate_cursor(const struct volume *v);
/* Whether a block that the map calls INHERIT comes from a base. */
bool hydrate_has(const struct volume *v, uint64_t lba);
bool hydrate_retract(struct volume *v); /* as gc_retract */
void hydrate_bar(struct volume *v);     /* as gc_bar */
void hydrate_sequenced(struct hydrate_unit *unit);
void hydrate_on_logged(struct hydrate_unit *unit, int error);
uint32_t hydrate_size(const struct hydrate_unit *unit, uint32_t *ret_blocks);
/* The n-th run: its blocks and their bytes. */
uint8_t *hydrate_run(const struct hydrate_unit *unit, uint32_t n, uint64_t *ret_lba,
		     uint32_t *ret_blocks);
/* Somebody begins or ends to wait for the base: 1 or -1. */
void hydrate_user(struct volume *v, int more);
bool hydrate_is_at_rest(const struct volume *v); /* and begins nothing, once the volume closes */
void hydrate_kick(struct volume *v);

/* volume.c */
/* Swaps the superblock for the next version; `done` gets &v->object. */
void superblock_swap(struct volume *v, const struct superblock *sb,
		     void (*done)(struct store_ctl *ctl));
/* Resize and snapshots. False: it waits on engine.resizes until there is an op. */
bool volume_ops_start(struct volume *v);
/* If the volume is closing, looks whether all has come to rest. */
void volume_close_kick(struct volume *v);
void volume_free(struct volume *v);
struct volume *volume_alloc(struct engine *e, struct id id);

#endif
