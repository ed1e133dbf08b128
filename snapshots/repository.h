/* SPDX-License-Identifier: Apache-2.0
 *
 * A region's snapshots, kept as objects (snapshots/blobs.h; docs/repository-format.md has the
 * bytes). Several daemons may share one repository; nothing here needs them to know each other.
 *
 *   repository   the place itself           snapshots/<id>             one small object a snapshot
 *   holds/<x>    what a volume still needs  packs/<id>/<attempt>-<n>   blocks and tree pages
 *   lease/sweep  who sweeps
 *
 * Promises:
 *  S1  A snapshot that is `completed` reads as what was put, verified, or gives an error that names
 *      snapshot, block and object; never other bytes. Everything that it needs was durable before
 *      it became `completed`.
 *  S2  Whatever a crash leaves behind (half-done uploads, deletions, sweeps, copies) costs space at
 *      most, and the next sweep gives it back.
 *  S3  Nothing that a completed or pending snapshot or a hold needs is ever swept, whatever
 *      clocks say and however long a daemon was stopped. Clocks decide only when what was left
 *      behind counts as given up.
 *  S4  A damaged object spoils the blocks in it alone. A sweep that can't read all that it must
 *      know deletes nothing.
 *  S5  A block of 512 KiB that equals the parent's at that place, or is all zeroes, takes no room.
 *
 * How S3 is kept: a snapshot's object is there, `pending`, before its first pack; it changes only
 * by swap: to `completed`, or to `deleted` (a tombstone). Only a sweep removes tombstones. An
 * upload looks at its parent after its own object is there; a hold, likewise. A sweep lists packs,
 * then tombstones, then holds and snapshots, and marks from all but the tombstones that it listed
 * first.
 *
 * Threads: a `struct repository` does not change once open, and any loop may use it. An operation
 * runs on the loop that it names; its struct lives in the caller's object and belongs to
 * snapshots/ until `done`, which never runs inside the call. These are control-path calls: they
 * may allocate. -ENOMEM, -EIO and what blobs.h lists can come from each.
 */
#ifndef SNAPSHOTS_REPOSITORY_H
#define SNAPSHOTS_REPOSITORY_H

#include "base/err.h"
#include "base/id.h"
#include "snapshots/blobs.h"

#include <stdint.h>

#define SNAP_BLOCK      ((uint32_t)524288) /* bytes: unit of storing, sharing and comparing */
#define SNAP_SIZE_MAX   (64 * TiB)
#define SNAP_HASH       32    /* bytes of a SHA-256 */
#define SNAP_LABELS_MAX 24576 /* bytes of description and tags */
#define SNAP_HOLDER_MAX 48    /* bytes of a holder's name, with the NUL */
#define SNAP_PREFIX     "snap"

struct repository;

enum snap_state {
	SNAP_PENDING = 1,   /* being uploaded */
	SNAP_COMPLETED = 2, /* for good */
	SNAP_DELETED = 3,   /* a tombstone, which the next sweep removes: nobody need see it */
};

/* Where an item (a block, a page of a tree) is. */
struct snap_pack {
	struct id snapshot; /* whose upload wrote it */
	uint32_t attempt;
	uint32_t number;
};

struct snap_item {
	struct snap_pack pack;
	uint32_t offset;         /* bytes in the pack */
	uint32_t length;         /* bytes as stored; 0: no item */
	uint16_t slot;           /* its number in the pack's directory */
	uint8_t hash[SNAP_HASH]; /* page: of its bytes. Block: of its 524288 bytes, unpacked */
};

/* What a snapshot's object says. */
struct snap_info {
	struct id id;     /* "snap-..." (base/id.h) */
	struct id volume; /* zero: made from outside, or a copy */
	struct id parent; /* zero: none. It may be gone by now: nothing depends on it */
	enum snap_state state;
	uint64_t size;      /* bytes of the volume, a multiple of 512 */
	uint64_t started;   /* the point in time: wall clock, ns since 1970 */
	uint64_t completed; /* 0 while pending */
	uint64_t expires;   /* pending: given up after that, unless renewed */
	uint32_t attempt;   /* 1, 2 ...: how often the upload was begun */
	uint64_t blocks;    /* allocated blocks of 512 KiB: what a restore needs */
	uint64_t stored;    /* bytes that this upload added to the repository */
	struct snap_item root;
	/* NUL-terminated strings one behind the other: the description, then key, value, key, value
	 * of each tag. Its length counts the NULs. 0: an empty description and no tags. */
	uint32_t labels_len;
	char labels[SNAP_LABELS_MAX];
};

/* An operation on the repository or on a snapshot's object. */
struct repository_op {
	void (*done)(struct repository_op *op);
	int error; /* 0 or a negative errno; `err` says more */
	struct err err;

	/* Results. */
	struct repository *repository; /* repository_open */
	struct snap_info *info;        /* get, hold: into the caller's */

	/* snapshots/' own. */
	struct io_loop *loop;
	int kind;
	int step;
	bool create;
	uint64_t ttl;
	char name[BLOB_NAME_MAX];
	char holder[SNAP_HOLDER_MAX];
	uint8_t *old; /* BLOB_SWAP_MAX, as the next */
	uint8_t *new;
	uint64_t old_len;
	uint64_t new_len;
	struct id id;
	const char *labels;
	uint32_t labels_len;
	struct snap_info *found; /* of its own, when the caller wants none */
	struct blob_op blob;
};

/* ---- The place --------------------------------------------------------------------------------
 */

/* Looks at what is there; with `create`, makes a repository of an empty place. The blobs are the
 * repository's from then on, also after an error (they are closed). -ENOENT: there is none, and
 * `create` is not set; -EBADMSG: damaged; -ENOTSUP: it needs a newer version. */
void repository_open(struct blobs *blobs, struct io_loop *loop, bool create,
		     struct repository_op *op);
/* Every writer, reader and operation on it has ended. NULL is legal. */
void repository_close(struct repository *repository);
struct id repository_uuid(const struct repository *repository);
/* For messages: the directory, the URL. */
const char *repository_place(const struct repository *repository);

/* ---- Snapshots --------------------------------------------------------------------------------
 */

/* Reads a snapshot's object into *info. -ENOENT: there is none, or it is deleted; -EBADMSG: it is
 * damaged (its blocks are not touched, but can't be found). */
void snap_get(struct repository *repository, struct io_loop *loop, struct repository_op *op,
	      struct id id, struct snap_info *info);
/* New description and tags. -ENOENT; -E2BIG. */
void snap_set_labels(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		     struct id id, const char *labels, uint32_t labels_len);
/* Drops the root: one small write, whatever the size; a sweep gives the space back. A pending one
 * is aborted: its writer gets -ESTALE. 0 also when it is gone already. Works on damaged ones, too.
 */
void snap_delete(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		 struct id id);

/* Lists snapshots in the order of their ids, a page at a time. */
struct snap_list {
	void (*done)(struct snap_list *list);
	int error;
	struct err err;
	/* In: from behind which id on (zero: from the start); out: to go on with. */
	struct id after;
	/* Room for `max`, at most BLOB_LIST_MAX. Damaged ones are in the list with their id alone,
	 * and state 0. Deleted ones are left out. */
	struct snap_info *infos;
	uint32_t max;
	uint32_t n; /* out; 0 with error 0: that was all */

	/* snapshots/' own. */
	struct repository *repository;
	struct io_loop *loop;
	struct blob_entry *entries;
	uint32_t n_entries;
	uint32_t at;
	uint8_t *bytes;
	struct blob_op blob;
};
void snap_list_page(struct repository *repository, struct io_loop *loop, struct snap_list *list);

/* ---- Holds ------------------------------------------------------------------------------------
 *
 * Whoever needs a snapshot's blocks while somebody may delete it (a volume that hydrates, an
 * export) holds it, by a name of his own, such as "vol-...": [a-z0-9-]. A hold ends when it is
 * released, or when it was not renewed for its time: a volume's should last for weeks, as its
 * daemon may be down for that long.
 */

/* Makes or renews the hold on `id` for `ttl_ns` from now; *info is what the snapshot's object said
 * when it was first held (so the holder can open it after its deletion). -ENOENT: there is no such
 * snapshot (any more), and no hold on it; -EAGAIN: it is still pending; -EBUSY: the holder's name
 * holds another snapshot. */
void snap_hold(struct repository *repository, struct io_loop *loop, struct repository_op *op,
	       struct id id, const char *holder, uint64_t ttl_ns, struct snap_info *info);
/* 0 also when there is no such hold. */
void snap_release(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		  const char *holder);

#endif
