/* SPDX-License-Identifier: Apache-2.0
 *
 * The log-structured virtual disk. A volume is a block device whose every write goes to the end of
 * a log of segments in a store. ARCHITECTURE.md draws it, docs/on-disk-format.md has the bytes,
 * docs/durability.md the tests that hold these promises:
 *
 *  - E1: A write that FLUSH or FUA has acknowledged survives power loss. Any acknowledged write
 *    survives the death of the process.
 *  - E2: Writes are published in log order, and after any crash the volume holds a prefix of that
 *    order, at least up to the last acknowledged FLUSH. A suffix past a hole never comes back.
 *  - E3: A write request up to 1 MiB is atomic: after a crash all of it is there, or none.
 *  - E4: A read returns what was last written, verified, or an error: never other bytes.
 *  - E5: What was never written, or was trimmed, reads as zeroes, and its space comes back.
 *  - E6: When the store is full, writes that need new space get -ENOSPC; nothing stored is harmed.
 *  - E7: An attachment that was fenced can write nothing (block/gate.h is the fence).
 *  - E8: Accounting is exact: counters equal a full walk.
 *
 * Threads: a volume belongs to one loop for its whole open life; every function here is called on
 * it.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "base/id.h"
#include "block/block.h"
#include "store/store.h"

struct volume;

/* Kinds of I/O that a volume waits for, by what stands still without it. */
enum volume_io {
	VOLUME_IO_APPEND,     /* to the log: writes, trims */
	VOLUME_IO_SYNC,       /* of the log: flushes, FUA writes */
	VOLUME_IO_READ,       /* of data */
	VOLUME_IO_MAP,        /* a leaf or an index page is read: reads */
	VOLUME_IO_BASE,       /* the base snapshot is read, for reads or hydration */
	VOLUME_IO_SPACE,      /* segments are lent or freed: soon, writes */
	VOLUME_IO_SUPERBLOCK, /* checkpoints; soon, writes */
	VOLUME_IO_CHECKPOINT, /* the map is written */
	VOLUME_IO_GC,         /* garbage collection reads, copies and syncs */
	VOLUME_IO_RECOVERY,   /* the volume is opened */
	VOLUME_IO_INSPECTION, /* scrubs, checks, uploads of snapshots */
};
/* "an append to the log" */
const char *volume_io_name(enum volume_io kind);
/* "the store", or what else it is with. */
const char *volume_io_with(enum volume_io kind);

/* Shows other threads that I/O is stuck. Zeroed at first; belongs to whoever opens the volume, from
 * volume_open until it is closed, or could not be opened. */
struct volume_stall {
	_Atomic uint64_t since; /* io_now; 0: nothing is */
	_Atomic uint32_t kind;  /* enum volume_io */
	/* It began or is over: on the volume's loop, ahead of the end of volume_open or
	 * volume_close. May be NULL. */
	void (*changed)(struct volume_stall *stall);
};

/* The one per-loop object: pools of requests and record buffers that the loop's volumes share. */
struct engine;
/* How busy a loop is, told to the others whose volumes are on the same disk. Zeroed at first;
 * belongs to whoever makes the engines, and outlives them. */
struct engine_load {
	_Atomic uint64_t until; /* io_now; what follows counts until then */
	_Atomic uint32_t n_busy;
	_Atomic uint32_t n_deep; /* of them, those that want more than a share of the disk */
} __attribute__((aligned(64)));

struct engine_config {
	uint32_t n_ops;          /* requests under way on this loop; 0: the default */
	uint32_t n_buffers;      /* record buffers (1 MiB and a header); 0: the default */
	uint64_t map_memory;     /* bytes for the maps of this loop's volumes; 0: the default */
	uint64_t checkpoint_log; /* bytes of log after which a checkpoint starts; 0: the default */
	uint32_t checkpoint_blocks; /* changed blocks after which one starts; 0: the default */
	uint64_t gc_slack; /* bytes of garbage that are never worth collecting; 0: the default */
	uint64_t checkpoint_idle_ns; /* a changed volume that rests this long is checkpointed; 0:
					default */
	uint32_t checkpoints_max;    /* at a time; 0: by map_memory */
	uint32_t map_out_bytes;      /* set by engine_new: of a buffer of blobs that are written, */
	uint32_t map_loads;          /* how many are read at a time */
	uint64_t confirm_rest_ns;    /* a dead segment is held against its records once in so long;
					0: default, 1: each */
	uint64_t hydrate_retry_ns;   /* rest before what the base could not give is asked for again;
					0: default */
	struct engine_load *loads;   /* of all loops of the store, or NULL: this is the only one */
	uint32_t n_loads;
	uint32_t load; /* which is this loop's */
	/* Told of each block that can't be read as it was written; on the loop. May be NULL. */
	void (*bad_block)(void *arg, struct id volume, uint64_t lba, const char *why);
	/* Told of each segment that its counters called dead while the map says that block `lba`
	 * lives in it: it is not given back, the volume is impaired. With bad_block_arg; may be
	 * NULL. */
	void (*doubtful)(void *arg, struct id volume, uint64_t segment, uint64_t lba);
	void *bad_block_arg;
	/* I/O of a volume that is in flight for longer is called stuck; 0: nobody watches. Told
	 * once, and once more when nothing of that volume is stuck any more (`over`, and how long
	 * that was), on the loop, with bad_block_arg. May be NULL. */
	uint64_t stuck_after_ns;
	void (*stuck)(void *arg, struct id volume, enum volume_io oldest, uint64_t age_ns,
		      bool over);
};
int engine_new(struct io_loop *loop, struct store *store, const struct engine_config *config,
	       struct engine **ret_engine, struct err *err);
/* All volumes are closed, and the loop has turned since, or has ended. NULL is legal. */
void engine_free(struct engine *engine);

enum volume_health {
	VOLUME_OK,
	VOLUME_IMPAIRED, /* some blocks are known bad; the rest is served */
	VOLUME_FAILED, /* the log can't go on (failed append or sync): reads only, until opened anew
			*/
};

struct volume_stats {
	enum volume_health health;
	uint64_t size;             /* bytes */
	uint64_t live_bytes;       /* referenced blocks */
	uint64_t segments;         /* lent to the volume */
	uint64_t spares;           /* of them, not yet used */
	uint64_t sequence;         /* newest published */
	uint64_t durable_sequence; /* known durable */
	uint64_t incarnation;
	uint64_t checkpoints;    /* since open */
	uint64_t records;        /* appended since open */
	uint64_t syncs;          /* since open */
	uint64_t bad_reads;      /* blocks that failed their checksum, since open */
	uint64_t doubtful;       /* segments that were counted as dead and are not, since open */
	uint64_t replayed;       /* records that open replayed */
	uint64_t overlay_blocks; /* changed since the last checkpoint */
	uint64_t written_bytes;  /* of it what users wrote, whole blocks, since open */
	uint64_t logged_bytes;   /* appended to the log since open, headers included */
	uint64_t moved_bytes;    /* copied by garbage collection since open, headers included */
	uint64_t map_bytes;      /* leaves and the rest of the map, written since open */
	uint64_t map_reads;      /* leaves and index pages, read since open */
	struct id base;          /* snapshot that unwritten blocks come from; all 0: none */
	uint64_t base_size;      /* bytes of the volume that it covers */
	uint64_t hydrated; /* of them, copied in or passed by; base_size: only to be detached */
	uint64_t hydrate_failed;  /* bytes in the newest pass that the base could not give */
	uint64_t base_bytes;      /* read from the base since open, for whatever reason */
	uint64_t oldest_io_ns;    /* age of the oldest I/O in flight; 0: none, or begun this turn */
	enum volume_io oldest_io; /* of which kind */
	bool is_stuck;            /* it takes longer than engine_config.stuck_after_ns */
	bool scrubbing;
	uint64_t scrub_bytes; /* of the volume, that the scrub under way has passed */
	uint64_t scrub_read;  /* that it has read */
	uint64_t scrub_bad;   /* places that it found */
};

enum volume_bad_kind {
	VOLUME_BAD_BLOCKS, /* they are not what was written, or can't be read */
	VOLUME_BAD_LEAF,   /* the piece of the map, on disk, that says where these blocks are */
	VOLUME_BAD_INDEX,  /* the same, a level higher */
	VOLUME_BAD_ROOT,   /* the root of the map, or a usage page: `lba` counts them */
};

/* Something known to be bad. */
struct volume_bad {
	uint64_t lba; /* blocks of 4 KiB */
	uint64_t blocks;
	enum volume_bad_kind kind;
	const char *why; /* a constant */
};
#define VOLUME_BAD_MAX 64 /* kept of a volume */

struct volume_base;
struct volume_view;

/* An operation on a volume as a whole; belongs to the engine until `done`. */
struct volume_op {
	struct engine *engine;
	struct id id;   /* create, open */
	uint64_t size;  /* create, resize: bytes, a multiple of 4096, at most 64 TiB */
	bool read_only; /* open: for the checker; writes nothing to the store */
	void (*done)(struct volume_op *op);
	struct err err;        /* code 0 or a negative errno */
	struct volume *volume; /* open: out; close, checkpoint, resize, check: in */

	/* check: called for each thing that is wrong; n_wrong counts them. */
	void (*say)(void *arg, const char *text);
	void *arg;
	uint64_t n_wrong;
	bool counters_only; /* check: do not read the stored blocks */
	bool in_use;        /* check: I/O goes on meanwhile; see there */
	bool stop;     /* check: set by any thread, atomically: it ends soon, with -ECANCELED */
	uint64_t rate; /* scrub, check in use: bytes read a second; 0: the default */

	/* Snapshots and views, below. */
	struct id snapshot; /* snapshot, unpin, view_open: its id. create: the base; all 0: none */
	uint64_t sequence;  /* snapshot: out, the record at which it was cut */
	uint64_t hold_ns; /* snapshot: publish nothing behind the cut, at most so long; 0: go on */
	void (*placed)(struct volume_op *op); /* snapshot: see there; may be NULL */
	uint64_t base_size;       /* create: bytes of the base, a multiple of 4096, <= size */
	struct volume_base *base; /* open: where INHERIT blocks are read; NULL: they read as -EIO */
	struct volume_stall *stall; /* open: may be NULL */
	bool deleted;               /* open: a deleted volume, for the sake of its pins */
	struct volume_view *view;   /* view_open: out */
	uint32_t pins;              /* delete: out, snapshots that keep its segments */

	bool more;      /* delete: out, segments are left */
	uint64_t freed; /* delete: out, segments that this call freed */

	void *private;
	struct list link; /* from here on: the engine's own */
	struct io_op turn;
	uint8_t cut_state;
	bool telling;
	bool ended;
};

/* Makes a volume of zeroes, or of a snapshot's blocks (op->snapshot, op->base_size). Durable when
 * done. -EEXIST, -ENOSPC. */
void volume_create(struct volume_op *op);
/* Recovers the volume and opens it: -ENOENT; -EUCLEAN for damage that would make it lie (err says
 * what). */
void volume_open(struct volume_op *op);
/* Ends cleanly: everything published becomes durable and checkpointed. No request is in flight. The
 * volume is gone after done, whatever the error. */
void volume_close(struct volume_op *op);
/* Makes everything published durable and checkpointed now. */
void volume_checkpoint(struct volume_op *op);
/* Grows the volume by a RESIZE record; durable when done. One at a time; never to less than it has.
 */
void volume_resize(struct volume_op *op);
/* Deletes a volume that is not open. First its superblock goes, durably: from then on there is no
 * such volume. Then its segments, at most VOLUME_DELETE_BATCH in one call: op->more says that some
 * are left, and the caller calls again, now or after the next start. Deleting what is gone already
 * is no error.
 *
 * Pins outlive it: with some (op->pins) the superblock is only marked, volume_open says -ENOENT but
 * for op->deleted, and all segments stay. When the last pin has gone, the caller calls again. Of a
 * volume that was not closed cleanly only the superblock is looked at: if a snapshot of it is
 * pending, open and close it first, so that its cut becomes a pin. */
void volume_delete(struct volume_op *op);
#define VOLUME_DELETE_BATCH                                                                        \
	512 /* segments; a call takes milliseconds, and stopping waits for one */
/* Walks everything: counters against maps, and with `say` every stored block against its checksum.
 * Nobody uses the volume meanwhile, unless it is op->in_use: then it is checkpointed, and the map
 * of that checkpoint is walked, at most op->rate bytes a second, and held against the counters in
 * memory and on disk as of then; blocks are left to volume_scrub. -EAGAIN: it was given up, since
 * the space that it keeps from being reused was needed; -EBUSY: another one is under way;
 * -ESHUTDOWN: the volume was closed. */
void volume_check(struct volume_op *op);
/* Reads everything that lives in the volume from disk, its map too, and holds it against its
 * checksums, behind I/O. op->n_wrong: how many bad places it found, each told as a read would
 * (engine_config.bad_block) and listed. -EBUSY: it is being scrubbed; -ECANCELED: stopped, or the
 * volume is closed. volume_stats tells how far it is. */
void volume_scrub(struct volume_op *op);
void volume_scrub_stop(struct volume *volume); /* it ends soon; none under way is legal */
/* What is known to be bad, in no order; returns how many. *ret_more: there is more than is kept. A
 * place goes when it is overwritten, trimmed or read well; with the last of them the health is OK
 * again. */
unsigned volume_bad(const struct volume *volume, struct volume_bad ret_places[VOLUME_BAD_MAX],
		    bool *ret_more);

/* ---- Snapshots ----------------------------------------------------------------------------------
 *
 *  S1  A snapshot holds exactly what the log says up to its SNAPSHOT record, at `sequence`. When
 *      volume_snapshot is done, the record is durable: whatever crash follows, the pin is there.
 *      If it was not done, the pin is there after the crash, or it is not.
 *  S2  Taking one waits for no checkpoint, merge or garbage collection, only for what is being
 *      appended and one sync. I/O goes on.
 *  S3  What a pin refers to stays, readable, until volume_unpin, even if the volume is deleted.
 *      After that nothing is kept for it, and nothing costs more than before.
 *  S4  Blocks have births: `volume_view_next` finds the 512-KiB units that users changed since an
 *      older snapshot's sequence without reading data or unchanged parts of the map.
 */
#define VOLUME_PINS        5            /* at a time: EBS's limit of pending snapshots */
#define VOLUME_UNIT        (512 * 1024) /* bytes: the unit of changes, as in the EBS direct APIs */
#define VOLUME_UNIT_BLOCKS (VOLUME_UNIT / BLOCK_SIZE)

/* Cuts a snapshot op->snapshot (not all 0). -EAGAIN: VOLUME_PINS are pinned or on their way;
 * -EEXIST: this one is; -EROFS, -EIO, -ENOSPC. On an error after the cut got its place (-EIO) it
 * may still be found after the next open: see volume_pins.
 *
 * op->placed runs once, on the loop, when all before the cut is published: what is issued from then
 * on is not in it. With op->hold_ns nothing behind the cut is published or answered until
 * volume_release or until that time has passed. `done` comes later, on an error without `placed`.
 */
void volume_snapshot(struct volume_op *op);
/* Ends a hold. False: it had ended by itself before, so that the common point is lost. */
bool volume_release(struct volume *volume);

/* Several volumes, each on whatever loop, at one common point: no volume's cut contains a write
 * that was issued after another volume's was answered, or that was issued by somebody who had read
 * such a write. Each volume holds its publishing from its own cut on, until all are placed. */
struct volume_cut_part {
	struct volume *volume; /* stays open until done */
	struct io_loop *loop;  /* the volume's */
	struct id snapshot;
	uint64_t sequence; /* out */
	struct err err;    /* out */
	/* The engine's own. */
	struct volume_cut *cut;
	struct io_msg msg;      /* to the volume's loop */
	struct io_msg msg_back; /* to the caller's */
	struct volume_op op;
	bool placed;
	bool over;
	bool released;
	bool lapsed;
};
struct volume_cut {
	struct io_loop *loop;          /* the caller's: done runs there */
	struct volume_cut_part *parts; /* each volume once */
	uint32_t n;
	uint64_t hold_ns; /* longest time that a volume holds; 0: the default of a second */
	void (*done)(struct volume_cut *cut);
	struct err err; /* out: the first part's that failed, or -ETIMEDOUT: a hold ended early. On
			   an error there is no common point: the caller unpins what was made. */
	/* The engine's own. */
	uint32_t left;
	bool releasing;
};
void volume_cut(struct volume_cut *cut);

struct volume_pin {
	struct id snapshot;
	uint64_t sequence;
	uint64_t size; /* bytes of the volume at that point */
	bool ready;    /* its root is on disk; until then it is merged, which needs nobody's help */
};
/* The pins, cuts on their way included; returns how many. Whoever opens a volume asks for them and
 * unpins what no snapshot needs. */
unsigned volume_pins(const struct volume *volume, struct volume_pin ret_pins[VOLUME_PINS]);
/* Lets a pin go (op->snapshot). Durable when done; what only it needed is free then. -ENOENT;
 * -EBUSY: a view of it is open. */
void volume_unpin(struct volume_op *op);

/* A read-only look at a pinned root, while the volume goes on. op->volume, op->snapshot ->
 * op->view. Waits until the pin is ready. -ENOENT; -EIO, -EUCLEAN: its root can't be read. A view
 * takes about 100 KiB and one operation at a time; a caller that wants more in flight opens
 * several. They end before their volume is closed. */
void volume_view_open(struct volume_op *op);
void volume_view_close(struct volume_view *view); /* nothing is in flight */
void volume_view_info(const struct volume_view *view, struct volume_pin *ret_pin);

enum volume_block {
	VOLUME_BLOCK_ZERO,
	VOLUME_BLOCK_DATA,
	VOLUME_BLOCK_BASE, /* not written since the volume was made: the base's byte, given here */
	VOLUME_BLOCK_BAD,  /* lost, here or in the base; its bytes are zeroes here */
};

/* An operation on a view; belongs to it until `done`, which never runs inside the call. */
struct volume_view_req {
	struct volume_view *view;
	void (*done)(struct volume_view_req *req);
	bool skip_base; /* read: blocks of the base stay zeroes here, and are VOLUME_BLOCK_BASE */
	bool all;       /* next: each unit of which the map says something, hydrated ones too */
	uint64_t since; /* next: else only units with a birth above this; 0: all that users changed
			 */
	uint64_t unit;  /* next: in, where to start; out, the one found. read: which */
	uint64_t birth; /* next: out */
	void *buf; /* read: VOLUME_UNIT bytes, page-aligned; past the end of the volume: zeroes */
	uint8_t states[VOLUME_UNIT_BLOCKS]; /* read: out, enum volume_block */
	int error; /* next: -ENOENT: there are no more. Both: -EIO: the map there is damaged (read:
		      all blocks are BAD) */
};
void volume_view_next(struct volume_view_req *req);
void volume_view_read(struct volume_view_req *req);

/* ---- Volumes made of a snapshot -----------------------------------------------------------------
 *
 *  B1  A block that was never written nor trimmed reads as the base says, up to base_size; after
 *      that it is zeroes. If the base can't say, the read fails, that block is named, and the
 *      volume's health is impaired.
 *  B2  Hydration never overwrites what a user wrote, live or in replay, and is no change to an
 *      incremental snapshot.
 *  B3  The base is let go when every block of it is here or zero, durably; not before.
 */
struct volume_base_req {
	uint64_t lba;    /* blocks of 4 KiB */
	uint32_t blocks; /* read: all within one VOLUME_UNIT. status: how many are asked about */
	void *buf;       /* read: page-aligned */
	bool demand;     /* somebody waits for it: ahead of what hydration asks */
	void (*done)(struct volume_base_req *req); /* on the volume's loop, never inside the call */
	int error;     /* out: 0 or a negative errno: none of it can be had */
	bool zero;     /* status: out, the first `n` of the blocks are zeroes; else there is data */
	uint32_t n;    /* status: out, 1 to blocks */
	void *private; /* the base's own, with link */
	struct list link;
};

struct volume_base_ops {
	/* Fills buf with verified bytes. */
	void (*read)(struct volume_base *base, struct volume_base_req *req);
	/* Zeroes or data, without reading data. */
	void (*status)(struct volume_base *base, struct volume_base_req *req);
	/* The volume asks no more: it is closed, or (hydrated) needs the base no longer, durably.
	 * Nothing is in flight. Runs once for each volume_open that succeeded. */
	void (*release)(struct volume_base *base, bool hydrated);
};

/* Whoever opens the volume embeds one; it lives until `release`, or until an open failed. */
struct volume_base {
	const struct volume_base_ops *ops;
	struct id snapshot; /* must be the volume's base: else volume_open says -EINVAL */
};

/* Copies the base in behind reads and writes, at most so many bytes per second (zeroes are free);
 * 0: not now, as after open; UINT64_MAX: as fast as it goes. Goes on where it was after a restart.
 * What the base can't give stays the base's, is named, and is asked for again later
 * (engine_config.hydrate_retry_ns). volume_stats tells how far it is. */
void volume_hydrate(struct volume *volume, uint64_t bytes_per_second);

struct block_dev *volume_dev(struct volume *volume);
struct id volume_id(const struct volume *volume);
void volume_stats(const struct volume *volume, struct volume_stats *ret_stats);
/* Any thread: whether I/O is stuck now (io_now of any loop), of which kind the oldest is, and its
 * age. */
bool volume_stall_now(const struct volume_stall *stall, uint64_t now, enum volume_io *ret_kind,
		      uint64_t *ret_age_ns);

#endif
