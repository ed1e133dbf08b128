/* SPDX-License-Identifier: Apache-2.0
 *
 * The log-structured virtual disk. A volume is a block device whose every write goes to the end of
 * a log of segments in a store. ARCHITECTURE.md draws it, docs/on-disk-format.md has the bytes,
 * docs/durability.md the tests that hold these promises:
 *
 *  E1  A write that FLUSH or FUA has acknowledged survives power loss. Any acknowledged write
 * survives the death of the process. E2  Writes are published in log order, and after any crash the
 * volume holds a prefix of that order, at least up to the last acknowledged FLUSH. A suffix past a
 * hole never comes back. E3  A write request up to 1 MiB is atomic: after a crash all of it is
 * there, or none. E4  A read returns what was last written, verified, or an error: never other
 * bytes. E5  What was never written, or was trimmed, reads as zeroes, and its space comes back. E6
 * When the store is full, writes that need new space get -ENOSPC; nothing stored is harmed. E7  An
 * attachment that was fenced can write nothing (block/gate.h is the fence). E8  Accounting is
 * exact: counters equal a full walk.
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

/* The one per-loop object: pools of requests and record buffers that the loop's volumes share. */
struct engine;
struct engine_config {
	uint32_t n_ops;          /* requests under way on this loop; 0: the default */
	uint32_t n_buffers;      /* record buffers (1 MiB and a header); 0: the default */
	uint32_t n_leaves;       /* map leaves of 16 KiB in memory; 0: the default */
	uint64_t checkpoint_log; /* bytes of log after which a checkpoint starts; 0: the default */
	uint32_t checkpoint_blocks; /* changed blocks after which one starts; 0: the default */
	uint64_t gc_slack; /* bytes of garbage that are never worth collecting; 0: the default */
	uint64_t checkpoint_idle_ns; /* a changed volume that rests this long is checkpointed; 0:
					default */
	/* Told of each block that can't be read as it was written; on the loop. May be NULL. */
	void (*bad_block)(void *arg, struct id volume, uint64_t lba, const char *why);
	void *bad_block_arg;
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
	uint64_t replayed;       /* records that open replayed */
	uint64_t overlay_blocks; /* changed since the last checkpoint */
	uint64_t written_bytes;  /* of it what users wrote, whole blocks, since open */
	uint64_t logged_bytes;   /* appended to the log since open, headers included */
	uint64_t moved_bytes;    /* copied by garbage collection since open, headers included */
	uint64_t map_bytes;      /* leaves and the rest of the map, written since open */
};

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

	bool more;      /* delete: out, segments are left */
	uint64_t freed; /* delete: out, segments that this call freed */

	void *private;
};

/* Makes a volume of zeroes. Durable when done. -EEXIST, -ENOSPC. */
void volume_create(struct volume_op *op);
/* Recovers the volume and opens it: -ENOENT; -EUCLEAN for damage that would make it lie (err says
 * what). */
void volume_open(struct volume_op *op);
/* Ends cleanly: everything published becomes durable and checkpointed. No request is in flight. The
 * volume is gone after done, whatever the error. */
void volume_close(struct volume_op *op);
/* Makes everything published durable and checkpointed now. */
void volume_checkpoint(struct volume_op *op);
/* As volume_checkpoint, and pins its root: what it refers to is kept until volume_unpin. At most
 * five roots at a time, slots 0 to 4; pins last over restarts. */
void volume_pin(struct volume_op *op, int slot);
void volume_unpin(struct volume_op *op, int slot);
/* Grows the volume by a RESIZE record; durable when done. One at a time; never to less than it has.
 */
void volume_resize(struct volume_op *op);
/* Deletes a volume that is not open. First its superblock goes, durably: from then on there is no
 * such volume. Then its segments, at most VOLUME_DELETE_BATCH in one call: op->more says that some
 * are left, and the caller calls again, now or after the next start. Deleting what is gone already
 * is no error. */
void volume_delete(struct volume_op *op);
#define VOLUME_DELETE_BATCH                                                                        \
	512 /* segments; a call takes milliseconds, and stopping waits for one */
/* Walks everything: counters against maps, and with `say` every stored block against its checksum.
 */
void volume_check(struct volume_op *op);

struct block_dev *volume_dev(struct volume *volume);
struct id volume_id(const struct volume *volume);
void volume_stats(const struct volume *volume, struct volume_stats *ret_stats);

#endif
