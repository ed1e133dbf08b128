/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog: which volumes, instances and attachments there are, in an SQLite file. No SQL is
 * written anywhere else. Control puts its rules together from the functions below; they run in jobs
 * (metadata/worker.h), each of which is one transaction.
 *
 * Threads: a struct catalog belongs to one thread, its worker's loop.
 * Errors: 0 or a negative errno, and `err` says what and why: -ENOENT (no such row; err is set,
 * too), -EEXIST (a row, name or place is taken), -ENOSPC, -EIO, -EUCLEAN (the file is damaged).
 * `ret_x` is untouched on failure. Units: times in ns since 1970, sizes in bytes.
 *
 * Invariants, which catalog_check walks:
 *  M1  Each volume has a state that exists, a size > 0 (but in state error) that is a multiple of
 *      4096, and an intent that fits its state.
 *  M2  Each attachment's volume and instance exist.
 *  M3  A volume has at most one attachment; it has one if and only if its state is in-use.
 *  M4  An attachment's generation is its volume's, which grows with each attachment.
 *  M5  An instance has each device name once; each export name exists once.
 *  M6  Tags belong to a volume, an instance or a snapshot that exists.
 *  M7  There is one own instance, and it exists.
 *  M8  The file itself is sound (SQLite's own check, foreign keys included).
 *  M9  A pending snapshot's volume exists, and has at most five of them; a completed one has its
 *      place in the volume's log.
 */
#ifndef METADATA_CATALOG_H
#define METADATA_CATALOG_H

#include "base/err.h"
#include "base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct catalog;

/* ---- Rows -------------------------------------------------------------------------- */

#define CATALOG_NAME_MAX      255  /* bytes */
#define CATALOG_DEVICE_MAX    31   /* bytes */
#define CATALOG_EXPORT_MAX    63   /* bytes */
#define CATALOG_TAG_KEY_MAX   512  /* bytes */
#define CATALOG_TAG_VALUE_MAX 1024 /* bytes */
#define CATALOG_TOKEN_MAX     64   /* bytes */
#define CATALOG_ZONE_MAX      63   /* bytes */
#define CATALOG_ERROR_MAX     399  /* bytes */

enum catalog_volume_state {
	CATALOG_CREATING,
	CATALOG_AVAILABLE,
	CATALOG_IN_USE,
	CATALOG_DELETING,
	CATALOG_ERROR,
};
#define CATALOG_VOLUME_STATES (CATALOG_ERROR + 1)

enum catalog_snapshot_state {
	CATALOG_SNAPSHOT_PENDING,
	CATALOG_SNAPSHOT_COMPLETED,
	CATALOG_SNAPSHOT_ERROR,
	CATALOG_SNAPSHOT_DELETING,
};
#define CATALOG_SNAPSHOT_STATES (CATALOG_SNAPSHOT_DELETING + 1)

enum catalog_attachment_state {
	CATALOG_ATTACHING,
	CATALOG_ATTACHED,
	CATALOG_DETACHING,
};
#define CATALOG_ATTACHMENT_STATES (CATALOG_DETACHING + 1)

/* "in-use", "attaching", ... */
const char *catalog_volume_state_name(enum catalog_volume_state state);
const char *catalog_snapshot_state_name(enum catalog_snapshot_state state);
const char *catalog_attachment_state_name(enum catalog_attachment_state state);

/* A volume that is creating until all of its snapshot is copied. */
enum catalog_full {
	CATALOG_FULL_NO,
	CATALOG_FULL_WANTED,  /* not made yet */
	CATALOG_FULL_COPYING, /* made, and creating; or it was that once */
};

struct catalog_volume {
	struct id id;
	enum catalog_volume_state state;
	uint64_t size;
	uint64_t resize_to; /* the intent of a resize under way; 0: none */
	uint64_t created;
	uint64_t generation; /* of its newest attachment */
	struct id base;      /* the snapshot that it still needs blocks of; all 0: none */
	struct id lineage;   /* the snapshot that it was made of, once base has gone */
	enum catalog_full full;
	uint64_t hydration_rate; /* bytes a second at which those are copied; 0: the default */
	uint64_t scrubbed;       /* when the newest whole scrub ended; 0: never */
	uint64_t scrub_bad;      /* places that it found */
	char zone[CATALOG_ZONE_MAX + 1];
	char error[CATALOG_ERROR_MAX + 1]; /* why the state is error */
};

/* A snapshot of a volume of this zone. The repository has all that others need to know. */
struct catalog_snapshot {
	struct id id;
	struct id volume; /* may be gone, once it is completed */
	struct id parent; /* whose blocks it shares; all 0: none, or not chosen yet */
	enum catalog_snapshot_state state;
	uint64_t size;     /* of the volume at the cut */
	uint64_t sequence; /* of the cut in the volume's log; 0: it is not known to be made */
	uint64_t started;
	uint64_t completed; /* 0: not yet */
	uint64_t stored;    /* bytes that it added to the repository */
	bool cutting;       /* one of several, which are not all cut yet: nobody knows of it */
	char description[CATALOG_NAME_MAX + 1];
	char error[CATALOG_ERROR_MAX + 1]; /* why the state is error, or why it takes so long */
};

struct catalog_instance {
	struct id id;
	uint64_t created;
	char name[CATALOG_NAME_MAX + 1];
	char host[CATALOG_NAME_MAX + 1];
	char state[CATALOG_DEVICE_MAX + 1];
};

struct catalog_attachment {
	struct id id;
	struct id volume;
	struct id instance;
	enum catalog_attachment_state state;
	uint64_t generation;
	uint64_t created;
	bool delete_on_termination;
	char device[CATALOG_DEVICE_MAX + 1];
	char export_name[CATALOG_EXPORT_MAX + 1];
};

/* An idempotency token, and what it once made. */
struct catalog_token {
	char token[CATALOG_TOKEN_MAX + 1];
	uint64_t request[2]; /* a hash of the request's arguments */
	struct id volume;
	uint64_t expires;
};

struct catalog_tag {
	char key[CATALOG_TAG_KEY_MAX + 1];
	char value[CATALOG_TAG_VALUE_MAX + 1];
};

struct catalog_event {
	uint64_t sequence;
	uint64_t time;
	char who[CATALOG_NAME_MAX + 1];
	char what[CATALOG_NAME_MAX + 1];
	char resource[CATALOG_NAME_MAX + 1];
	char detail[CATALOG_ERROR_MAX + 1];
};

/* What a resource of tags is called: "vol-..." or "i-...". */
#define CATALOG_VOLUME_PREFIX     "vol"
#define CATALOG_INSTANCE_PREFIX   "i"
#define CATALOG_ATTACHMENT_PREFIX "vol-attach"
#define CATALOG_SNAPSHOT_PREFIX   "snap"

/* ---- Opening ----------------------------------------------------------------------- */

struct catalog_config {
	const char *path;
	const char *vfs;       /* SQLite's name of it; NULL: the machine's */
	uint64_t ballast_size; /* of PATH-ballast, which is given up when the disk is full so that a
				* delete or detach can commit; 0: none */
	bool read_only;        /* for the checker: nothing is written; there is no ballast */
};

/* Makes or opens the catalog, and brings an older one up to date. Blocks; any one thread. Errors
 * name file, cause and remedy: -EUCLEAN damaged, -EMEDIUMTYPE no catalog of ours, -ENOTSUP written
 * by a newer volumed, -EBUSY another process has it. */
int catalog_open(const struct catalog_config *config, struct catalog **ret_catalog,
		 struct err *err);
void catalog_close(struct catalog *catalog); /* NULL is legal */
/* True if catalog_open made it. */
bool catalog_is_new(const struct catalog *catalog);
const char *catalog_path(const struct catalog *catalog);

/* ---- Transactions (metadata/worker.c calls these) ---------------------------------- */

int catalog_begin(struct catalog *catalog, struct err *err);
int catalog_commit(struct catalog *catalog, struct err *err);
void catalog_rollback(struct catalog *catalog);
/* Frees a piece of the ballast, little enough that the store can't take it first: true if there was
 * some. And makes it whole again: false if there is no room. */
bool catalog_ballast_release(struct catalog *catalog);
bool catalog_ballast_restore(struct catalog *catalog);

/* ---- Volumes ----------------------------------------------------------------------- */

int catalog_volume_add(struct catalog *c, const struct catalog_volume *v, struct err *err);
int catalog_volume_get(struct catalog *c, struct id id, struct catalog_volume *ret_v,
		       struct err *err);
/* Replaces all columns of the row. */
int catalog_volume_put(struct catalog *c, const struct catalog_volume *v, struct err *err);
/* With its tags. */
int catalog_volume_remove(struct catalog *c, struct id id, struct err *err);
/* The first one whose id is greater; 0 is less than any. -ENOENT at the end (err untouched). */
int catalog_volume_after(struct catalog *c, struct id after, struct catalog_volume *ret_v,
			 struct err *err);
struct catalog_counts {
	uint64_t volumes[CATALOG_VOLUME_STATES];
	uint64_t instances;
	uint64_t attachments;
};
int catalog_count(struct catalog *c, struct catalog_counts *ret_counts, struct err *err);
/* The sizes of all volumes that are not being deleted; a resize under way counts with its aim. */
int catalog_provisioned(struct catalog *c, uint64_t *ret_bytes, struct err *err);

/* ---- Instances --------------------------------------------------------------------- */

int catalog_instance_add(struct catalog *c, const struct catalog_instance *i, struct err *err);
int catalog_instance_get(struct catalog *c, struct id id, struct catalog_instance *ret_i,
			 struct err *err);
int catalog_instance_remove(struct catalog *c, struct id id, struct err *err);
int catalog_instance_after(struct catalog *c, struct id after, struct catalog_instance *ret_i,
			   struct err *err);

/* ---- Attachments ------------------------------------------------------------------- */

int catalog_attachment_add(struct catalog *c, const struct catalog_attachment *a, struct err *err);
/* The volume's. */
int catalog_attachment_get(struct catalog *c, struct id volume, struct catalog_attachment *ret_a,
			   struct err *err);
int catalog_attachment_set_state(struct catalog *c, struct id id,
				 enum catalog_attachment_state state, struct err *err);
int catalog_attachment_remove(struct catalog *c, struct id id, struct err *err);
/* Of an instance, by device; "" is before any. -ENOENT at the end (err untouched). */
int catalog_attachment_after(struct catalog *c, struct id instance, const char *device,
			     struct catalog_attachment *ret_a, struct err *err);
int catalog_device_is_taken(struct catalog *c, struct id instance, const char *device,
			    bool *ret_taken, struct err *err);

/* ---- Snapshots --------------------------------------------------------------------- */

int catalog_snapshot_add(struct catalog *c, const struct catalog_snapshot *s, struct err *err);
int catalog_snapshot_get(struct catalog *c, struct id id, struct catalog_snapshot *ret_s,
			 struct err *err);
/* Replaces all columns of the row. */
int catalog_snapshot_put(struct catalog *c, const struct catalog_snapshot *s, struct err *err);
/* With its tags. No error if it is gone. */
int catalog_snapshot_remove(struct catalog *c, struct id id, struct err *err);
/* By id, as catalog_volume_after; and the same for those that are pending or deleting. */
int catalog_snapshot_after(struct catalog *c, struct id after, struct catalog_snapshot *ret_s,
			   struct err *err);
int catalog_snapshot_unfinished_after(struct catalog *c, struct id after,
				      struct catalog_snapshot *ret_s, struct err *err);
/* The volume's pending one that was cut first; those whose cut is not known come last. -ENOENT:
 * none is pending (err untouched). */
int catalog_snapshot_next_pending(struct catalog *c, struct id volume,
				  struct catalog_snapshot *ret_s, struct err *err);
/* The volume's newest completed one of before `sequence`. -ENOENT: there is none (err untouched).
 */
int catalog_snapshot_parent(struct catalog *c, struct id volume, uint64_t sequence,
			    struct catalog_snapshot *ret_s, struct err *err);
int catalog_snapshots_pending(struct catalog *c, struct id volume, uint64_t *ret_n,
			      struct err *err);

/* ---- The rest ---------------------------------------------------------------------- */

int catalog_token_add(struct catalog *c, const struct catalog_token *t, struct err *err);
int catalog_token_get(struct catalog *c, const char *token, struct catalog_token *ret_t,
		      struct err *err);
int catalog_token_remove(struct catalog *c, const char *token, struct err *err);
int catalog_token_expire(struct catalog *c, uint64_t now, struct err *err);

/* Sets the tag, old or new. */
int catalog_tag_put(struct catalog *c, const char *resource, const struct catalog_tag *tag,
		    struct err *err);
/* By key; "" is before any. -ENOENT at the end (err untouched). */
int catalog_tag_after(struct catalog *c, const char *resource, const char *key,
		      struct catalog_tag *ret_tag, struct err *err);

/* Appends; gives it its sequence. Keeps the newest `keep` events. */
int catalog_event_add(struct catalog *c, const struct catalog_event *e, uint64_t keep,
		      struct err *err);
/* The newest one whose sequence is less; UINT64_MAX: the newest. -ENOENT at the end (err
 * untouched).
 */
int catalog_event_before(struct catalog *c, uint64_t sequence, struct catalog_event *ret_e,
			 struct err *err);

/* Single settings: "store" (its UUID), "own-instance". -ENOENT: not set (err untouched). */
int catalog_meta_get(struct catalog *c, const char *key, char *ret_value, size_t size,
		     struct err *err);
int catalog_meta_set(struct catalog *c, const char *key, const char *value, struct err *err);

/* M1 to M9. Calls `say` for each thing that is wrong; *ret_wrong counts them. */
int catalog_check(struct catalog *c, void (*say)(void *arg, const char *text), void *arg,
		  uint64_t *ret_wrong, struct err *err);

#endif
