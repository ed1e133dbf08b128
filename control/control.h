/* SPDX-License-Identifier: Apache-2.0
 *
 * The control plane: volumes, instances and attachments as people name them, over the catalog
 * (metadata/) and the engine. Whoever speaks a wire format (api/) fills a struct control_op,
 * submits it and renders what comes back; the rules are all in here.
 *
 * Threads: control_submit may be called from any thread. `done` runs on op->loop, or, if that is
 * NULL, on control's own loop, where it may do no more than wake its owner (resume a connection,
 * signal a condition) and must not block. `done` never runs inside control_submit.
 *
 * Ownership: an op, and all that its arguments point at, belongs to control from control_submit
 * until `done`. What the results point at lives in op->memory: control_op_release gives it back,
 * and must be called once after `done`, whatever the error.
 *
 * Units: sizes in bytes, times in ns since 1970. Ids are text as people write it: "vol-", "i-",
 * "vol-attach-" and 17 hex digits, of which the first two name the zone.
 *
 * Volume states:     creating -> available <-> in-use; available, error -> deleting -> deleted;
 *                    creating -> error. A deleted volume is gone: InvalidVolume.NotFound.
 * Attachment states: attaching -> attached -> detaching -> detached (gone).
 */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include "base/arena.h"
#include "base/err.h"
#include "io/io.h"

#include <stdbool.h>
#include <stdint.h>

struct control;
struct catalog_worker;
struct engine;
struct exports;
struct repository;
struct store;

/* ---- Limits ------------------------------------------------------------------------ */

#define CONTROL_TAGS_MAX         50   /* of one resource, as in EC2 */
#define CONTROL_TAG_KEY_MAX      128  /* characters (up to 4 bytes each) */
#define CONTROL_TAG_VALUE_MAX    256  /* characters */
#define CONTROL_TOKEN_MAX        64   /* bytes of a client token */
#define CONTROL_PAGE_MAX         1000 /* items of one page */
#define CONTROL_FILTERS_MAX      50
#define CONTROL_FILTER_VALUES    200 /* over all filters of one call */
#define CONTROL_NAME_MAX         255 /* bytes of an instance's name, a host, a filter value */
#define CONTROL_WHO_MAX          127 /* bytes */
#define CONTROL_CHECK_FINDINGS   1000
#define CONTROL_VOLUME_SIZE_MIN  ((uint64_t)1 << 20)
#define CONTROL_VOLUME_SIZE_UNIT 4096 /* a size is rounded up to this */

/* ---- Errors -----------------------------------------------------------------------------------
 * A code of EC2's, which programs compare, and a text that names the thing, the cause and the
 * remedy. These are all that control/ gives:
 *
 *   InvalidVolume.NotFound         no such volume (or it is deleted)
 *   InvalidVolumeID.Malformed      not "vol-" and 17 hex digits
 *   InvalidSnapshot.NotFound       no such snapshot (or it is deleted)
 *   InvalidSnapshotID.Malformed    not "snap-" and 17 hex digits
 *   InvalidInstanceID.NotFound     no such instance
 *   InvalidInstanceID.Malformed    not "i-" and 17 hex digits
 *   InvalidAttachment.NotFound     the volume is not attached to that instance (as that device)
 *   InvalidParameterValue          a value out of range, an illegal or taken device name, ...
 *   InvalidParameterCombination    arguments that exclude each other
 *   MissingParameter               an argument that must be there
 *   VolumeInUse                    it is attached
 *   IncorrectState                 the volume's state does not allow it
 *   IncorrectInstanceState         the instance's state does not allow it
 *   DependencyViolation            the instance still has volumes attached
 *   OperationNotPermitted          not to this one (this machine's own instance stays registered)
 *   AttachmentLimitExceeded        no device name is free
 *   ConcurrentSnapshotLimitExceeded  five snapshots of the volume are pending already
 *   IdempotentParameterMismatch    the client token came with other parameters before
 *   InsufficientVolumeCapacity     the overcommit limit, or a full store
 *   TagLimitExceeded               more than CONTROL_TAGS_MAX
 *   FilterLimitExceeded            more than CONTROL_FILTER_VALUES
 *   InternalError                  disk, catalog or engine failed; `err` says more
 *   Unavailable                    control stops, or has not started yet
 */
struct control_error {
	const char *code; /* NULL: success. A static string */
	int err;          /* the negative errno that fits best, for exit codes and logs */
	char text[ERR_TEXT_MAX];
};

/* ---- What there is ----------------------------------------------------------------- */

struct control_tag {
	const char *key;
	const char *value;
};

struct control_attachment {
	const char *id;
	const char *volume;
	const char *instance;
	const char *device; /* "/dev/sdf" */
	const char *state;  /* "attaching", "attached", "detaching" */
	uint64_t generation;
	uint64_t attach_time;
	bool delete_on_termination;
	const char *export_name; /* a secret: whoever knows it can use the disk */
	const char *uri;         /* NBD on the unix socket; NULL: there is none */
	const char *tcp_uri;     /* the same over TCP; NULL: no TCP listener */
	uint64_t connections;    /* NBD clients now */
	const char *error_text;  /* why attaching or detaching takes so long; "" if it does not */
};

/* Counters since the volume was opened (attached). */
struct control_counters {
	uint64_t live_bytes;      /* in blocks that hold something */
	uint64_t allocated_bytes; /* of the store, lent to the volume */
	uint64_t records;         /* appended to the log */
	uint64_t syncs;
	uint64_t checkpoints;
	uint64_t bad_reads; /* blocks that failed their checksum */
	uint64_t sequence;  /* newest write */
	uint64_t durable_sequence;
	uint64_t replayed;      /* records that opening it replayed */
	uint64_t written_bytes; /* by users, in whole blocks */
	uint64_t logged_bytes;  /* appended to the log, headers included */
	uint64_t moved_bytes;   /* copied by garbage collection */
	uint64_t map_bytes;     /* written by checkpoints */
};

struct control_volume {
	const char *id;
	const char *name;  /* the tag "Name", or "" */
	const char *state; /* "creating", "available", "in-use", "deleting", "error" */
	const char *zone;
	uint64_t size;
	uint64_t create_time;
	const char *error_text; /* why the state is "error", or what is wrong; "" if nothing */
	unsigned n_tags;
	struct control_tag *tags; /* by key */
	unsigned n_attachments;
	struct control_attachment *attachments;
	const char *snapshot; /* that it still needs blocks of; "": none */
	uint64_t scrub_time;  /* when the newest whole scrub ended; 0: never */
	uint64_t scrub_bad;   /* places that it found */
	/* As EBS says it: "normal", "stalled": I/O to the disk below does not complete,
	 * "not-applicable": it is not open. */
	const char *io_performance;
	const char *stalled_io;   /* which; NULL: none */
	uint64_t stalled_ns;      /* for how long */
	const char *stalled_text; /* the same as a sentence */
	/* VOLUME_SHOW of an open volume only. */
	uint64_t base_bytes;       /* of the volume, that the snapshot covers */
	uint64_t hydrated_bytes;   /* of these, copied or passed by */
	uint64_t unreadable_bytes; /* of these, that the snapshot could not give lately */
	bool is_open;
	const char *health; /* "ok", "impaired", "failed" */
	struct control_counters counters;
	bool scrubbing;
	uint64_t scrub_bytes; /* of the volume, that the scrub under way has passed */
	uint64_t scrub_found; /* bad places so far */
	unsigned n_bad;       /* known to be bad */
	const struct control_bad *bad;
	bool more_bad; /* than are listed */
};

struct control_bad {
	uint64_t offset; /* bytes; of a "root": a number */
	uint64_t length;
	const char *what; /* "blocks", "leaf", "index", "root" */
	const char *why;
};

#define CONTROL_PLACE_MAX  1023 /* bytes of a path */
#define CONTROL_DAMAGE_MAX 32

/* A piece of a snapshot that can't be read. */
struct control_damage {
	uint64_t offset;
	uint64_t length;
	const char *why; /* names the object */
};

struct control_snapshot {
	const char *id;
	const char *name;   /* the tag "Name", or "" */
	const char *volume; /* "": made from outside */
	const char *parent; /* whose blocks it shares; "": none. It may be gone by now */
	const char *state;  /* "pending", "completed", "error", "deleting" */
	uint64_t size;      /* of the volume at that point */
	uint64_t start_time;
	uint64_t completion_time; /* 0: not yet */
	unsigned progress;        /* percent */
	uint64_t full_bytes;      /* blocks of 512 KiB that hold something: what a restore reads */
	uint64_t stored_bytes;    /* that it added to the repository */
	const char *description;
	const char *error_text; /* why the state is "error", or why it takes so long */
	unsigned n_tags;
	struct control_tag *tags; /* by key */
	/* The newest verification of it that this daemon knows of. */
	bool verifying;
	uint64_t verified_bytes;  /* looked at */
	uint64_t verified;        /* when it ended; 0: it did not */
	uint64_t bad_bytes;       /* found; all of them, while damage has the first */
	const char *verify_error; /* why it came to nothing, or "" */
	unsigned n_damage;
	struct control_damage *damage;
	/* Its newest copy to another repository, likewise. */
	bool copying;
	uint64_t copied_bytes; /* of the volume's size */
	uint64_t copied;       /* when it ended; 0: it did not */
	uint64_t copy_stored;  /* bytes that it added there */
	const char *copy_to;
	const char *copy_error;
};

struct control_instance {
	const char *id;
	const char *name; /* or "" */
	const char *host;
	const char *state; /* "running" */
	uint64_t create_time;
	bool own; /* this machine's */
	unsigned n_attachments;
	struct control_attachment *attachments;
};

struct control_event {
	uint64_t sequence; /* grows by one from event to event */
	uint64_t time;
	const char *who;      /* op->who, or "volumed" */
	const char *what;     /* "createVolume", "attachVolume", "adoptVolume", ... */
	const char *resource; /* an id, or "" */
	const char *detail;
};

/* What the last sweep of the snapshot repository by this daemon came to. */
struct control_sweep_result {
	uint64_t time; /* when it ended; 0: there was none */
	uint64_t took_ns;
	uint64_t freed;    /* bytes given back */
	uint64_t removed;  /* objects */
	uint64_t given_up; /* abandoned uploads and holds */
	uint64_t stored;   /* bytes that the repository took when it began */
	uint64_t live;     /* bytes of these that are needed */
};

struct control_sweep {
	const char *state; /* "off", "waiting", "sweeping", "elsewhere": another daemon does */
	/* So far, while this daemon sweeps. */
	uint64_t objects; /* looked at */
	uint64_t pages;   /* of snapshots' trees */
	uint64_t removed; /* objects */
	uint64_t freed;   /* bytes */
	struct control_sweep_result last;
	const char *error_text; /* why the last one gave nothing back; "": it did its work */
};

struct control_status {
	bool healthy; /* no warning at all */
	unsigned n_warnings;
	const char **warnings; /* sentences */
	const char *version;
	const char *zone;
	unsigned zone_number;
	const char *instance; /* this machine's own */
	uint64_t start_time;
	uint64_t now;
	const char *nbd_socket; /* or NULL */
	const char *nbd_tcp;    /* "127.0.0.1:10809", or NULL */
	/* Space. */
	uint64_t store_capacity;
	uint64_t store_free;
	uint64_t store_used;
	uint64_t provisioned;     /* sum of the volumes' sizes */
	uint64_t provision_limit; /* by the overcommit; 0: none */
	double overcommit;        /* provisioned / capacity */
	double overcommit_limit;  /* 0: none */
	/* Counts. */
	unsigned volumes_creating;
	unsigned volumes_available;
	unsigned volumes_in_use;
	unsigned volumes_deleting;
	unsigned volumes_error;
	unsigned volumes_open;
	unsigned instances;
	unsigned attachments;
	uint64_t connections; /* NBD clients */
	struct control_sweep sweep;
};

struct control_check {
	uint64_t n_volumes; /* looked at */
	uint64_t n_in_use;  /* of them, walked while others used them */
	uint64_t n_skipped; /* of them, not walked to the end */
	uint64_t n_wrong;
	unsigned n_findings;   /* at most CONTROL_CHECK_FINDINGS of the n_wrong */
	const char **findings; /* sentences */
};

/* ---- Operations -------------------------------------------------------------------- */

/* AND between filters, OR between the values of one; `*` and `?` match any text and any character,
 * a backslash takes the next one as it is. Volumes: volume-id, status, size (GiB), create-time,
 * tag:KEY, tag-key, attachment.instance-id, attachment.device, attachment.status, attachment.id.
 * Snapshots: snapshot-id, status, volume-id, volume-size (GiB), start-time, description, tag:KEY,
 * tag-key.
 * Instances: instance-id, name, host, instance-state-name. Events: what, who, resource. */
struct control_filter {
	const char *name;
	const char *const *values;
	unsigned n_values;
};

struct control_list_args {
	const char *const *ids; /* only these; one that is unknown fails the call */
	unsigned n_ids;
	const struct control_filter *filters;
	unsigned n_filters;
	unsigned max_results;   /* 0: CONTROL_PAGE_MAX */
	const char *next_token; /* result.next_token of the page before; NULL: from the start */
};

enum control_kind {
	CONTROL_PING,
	CONTROL_STATUS,
	CONTROL_CHECK, /* every volume's maps (and, with deep, every stored block); the catalog;
			  both against the store. Takes long: see control_progress */
	CONTROL_VOLUME_CREATE,   /* done when it is available */
	CONTROL_VOLUME_LIST,     /* by id */
	CONTROL_VOLUME_SHOW,     /* one, with its counters */
	CONTROL_VOLUME_RESIZE,   /* grows it, attached or not; result: the volume */
	CONTROL_VOLUME_DELETE,   /* done when it is sure to go; its space comes back behind it */
	CONTROL_SCRUB,           /* done when it has begun; VOLUME_SHOW tells how far it is */
	CONTROL_SCRUB_STOP,      /* done when it is told to */
	CONTROL_ATTACH,          /* done when it is served */
	CONTROL_DETACH,          /* done when no client of it can do anything more */
	CONTROL_SNAPSHOT_CREATE, /* done when its point is durable; uploaded behind it */
	CONTROL_SNAPSHOT_GROUP,  /* the same of all volumes of an instance; result as of a list */
	CONTROL_SNAPSHOT_LIST,   /* by id: the region's, and this zone's pending ones */
	CONTROL_SNAPSHOT_DELETE,
	CONTROL_SNAPSHOT_VERIFY, /* done when it has begun; result as of a list */
	CONTROL_SNAPSHOT_VERIFY_STOP,
	CONTROL_SNAPSHOT_COPY, /* to another repository; as VERIFY */
	CONTROL_SNAPSHOT_COPY_STOP,
	CONTROL_INSTANCE_REGISTER,
	CONTROL_INSTANCE_LIST,
	CONTROL_INSTANCE_DEREGISTER, /* one without volumes */
	CONTROL_EVENT_LIST,          /* the newest first */
};
#define CONTROL_KINDS (CONTROL_EVENT_LIST + 1)

struct control_op {
	/* The caller sets these. Unused arguments are zero. */
	enum control_kind kind;
	struct io_loop *loop; /* where done runs; NULL: control's own */
	void (*done)(struct control_op *op);
	const char *who; /* for the events: "volumectl, user root"; NULL: "api" */
	union {
		struct {
			uint64_t size;
			const char *name; /* NULL or "": none. Becomes the tag "Name" */
			const struct control_tag *tags;
			unsigned n_tags;
			const char *client_token; /* NULL or "": none */
			const char *snapshot; /* NULL or "": none. Then size may be 0: as that */
			uint64_t initialization_rate; /* bytes a second; 0: the default */
			bool full; /* it is creating until its snapshot is copied */
		} create;
		struct {
			const char *volume;
		} show, delete;
		struct {
			const char *volume;      /* create */
			const char *instance;    /* group */
			bool exclude_boot;       /* group: not /dev/sda1, /dev/xvda */
			const char *description; /* NULL: none */
			const struct control_tag *tags;
			unsigned n_tags;
		} snapshot_create;
		struct {
			const char *snapshot;
		} snapshot_delete;
		struct {
			const char *snapshot;
			const char *to; /* copy: a folder, by its absolute path */
			uint64_t rate;  /* bytes a second; 0: as fast as it goes */
		} snapshot_work;
		struct {
			const char *volume;
			uint64_t size; /* the new one, not less than the old */
		} resize;
		struct {
			const char *volume;
			uint64_t rate; /* bytes read a second; 0: the default */
		} scrub;               /* and SCRUB_STOP */
		struct {
			const char *volume;
			const char *instance; /* NULL: this machine's own */
			const char *device;   /* NULL: the next one that is free */
			bool delete_on_termination;
		} attach;
		struct {
			const char *volume;
			const char *instance; /* NULL: whichever it is attached to */
			const char *device;   /* NULL: whichever */
			bool force;           /* do not wait for the client: fence it */
		} detach;
		struct {
			const char *name; /* NULL: none */
			const char *host; /* NULL: this machine */
		} instance_register;
		struct {
			const char *instance;
		} deregister;
		struct {
			bool deep; /* read every stored block, too */
		} check;
		struct control_list_args list; /* VOLUME_, SNAPSHOT_, INSTANCE_, EVENT_LIST */
	};

	/* Results, valid from done to control_op_release. */
	struct control_error error;
	struct arena memory;
	union {
		/* CREATE, SHOW, RESIZE, DELETE: one. LIST: n_items of them. */
		struct control_volume *volumes;
		struct control_attachment *attachment; /* ATTACH, DETACH */
		struct control_snapshot *snapshots;    /* CREATE, DELETE: one. LIST */
		struct control_instance *instances;    /* REGISTER, DEREGISTER: one. LIST */
		struct control_event *events;
		struct control_status *status;
		struct control_check *checked;
	} result;
	unsigned n_items;
	const char *next_token; /* LIST: NULL at the end */

	/* Progress of what takes long; any thread may read it by control_progress. */
	uint64_t steps_done;
	uint64_t steps;

	/* control's own. */
	struct io_msg msg;
	struct list node;
	struct control *control;
	void *machine;
};

/* Any thread. */
void control_submit(struct control *control, struct control_op *op);
/* Any thread, while the op is under way. steps is 0 until it is known. */
static inline void control_progress(const struct control_op *op, uint64_t *ret_done,
				    uint64_t *ret_steps)
{
	*ret_done = __atomic_load_n(&op->steps_done, __ATOMIC_RELAXED);
	*ret_steps = __atomic_load_n(&op->steps, __ATOMIC_RELAXED);
}
/* Frees what the results point at. */
void control_op_release(struct control_op *op);

/* ---- Life -------------------------------------------------------------------------- */

/* A loop on which volumes live. */
struct control_home {
	struct io_loop *loop;
	struct engine *engine;
};

struct control_config {
	struct io_loop *loop; /* control's own */
	struct store *store;
	struct catalog_worker *catalog;
	const struct control_home *homes; /* copied */
	unsigned n_homes;
	const char *version;
	const char *zone;       /* NULL: "zone-a" */
	unsigned zone_number;   /* 1 to 255, the first digits of ids; 0: 1 */
	const char *host;       /* this machine's name; NULL: "localhost" */
	const char *nbd_socket; /* absolute path; NULL: none */
	const char *nbd_tcp;    /* "ADDR:PORT"; NULL: none */
	/* A store that has no volume gets one of this size, attached to this machine's own
	 * instance; 0: it does not. */
	uint64_t first_volume_size;
	double overcommit_limit;       /* provisioned bytes / capacity; 0: no limit */
	struct repository *repository; /* of snapshots; NULL: there is none */
	const char *no_repository;     /* why; NULL: none was configured */
	uint64_t hydration_rate;       /* bytes a second of each volume; 0: as fast as it goes */
	uint64_t upload_rate;          /* bytes a second of each upload; 0: as fast as it goes */
	uint64_t sweep_interval_ns;    /* between sweeps of the repository; 0: none are made */
	uint32_t sweep_rate;           /* objects that one removes a second; 0: 100 */
	uint64_t detach_wait_ns;       /* for clients to take their last replies; 0: 10 s */
	uint64_t token_life_ns;        /* of client tokens; 0: a day */
	uint64_t event_keep;           /* events that are kept; 0: 100,000 */
};

/* Set-up, before the loops run or on config->loop. */
int control_new(const struct control_config *config, struct control **ret_control, struct err *err);
/* On control's loop: reads the catalog, adopts what only the store knows, resumes each half-done
 * operation, opens what is attached, makes the first volume. `done` gets err; an attached volume
 * that can't be opened is logged and shown by status, and is no error here. */
struct control_start {
	void (*done)(struct control_start *start);
	struct err err;
	unsigned n_volumes;
	unsigned n_attached;
	unsigned n_served; /* attached and open */
	void *private;
};
void control_start(struct control *control, struct control_start *start);
/* On control's loop, once: refuses new operations, waits for those under way to come to rest,
 * closes every volume. No NBD client is left. err: what could not be closed cleanly. */
struct control_stop {
	void (*done)(struct control_stop *stop);
	struct err err;
	void *private;
};
void control_stop(struct control *control, struct control_stop *stop);
/* On control's loop: how many volumes wait for I/O that does not complete, while it stops, too; one
 * of them, and what it waits for, as a sentence in ret_text. */
#define CONTROL_STALL_TEXT 256
unsigned control_stalled(const struct control *control, char ret_text[CONTROL_STALL_TEXT]);
/* It is stopped, or was never started. NULL is legal. */
void control_free(struct control *control);

/* Export names to devices, for nbd/. An attachment is resolved by its own export name; on the unix
 * socket also by its volume's id, if it is this machine's own, and "" is the one attachment that
 * this machine's own instance has. On the unix socket a completed snapshot, too, goes by its id, to
 * be read. Resolving waits while the volume is being opened. */
struct exports *control_exports(struct control *control);

#endif
