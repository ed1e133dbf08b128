/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the control plane know of each other. All of it runs on control's loop, but for
 * functions marked "job": those run on the catalog's thread, inside a transaction.
 *
 *   control.c    submit, dispatch, ends     start.c   adopting, resuming, the first volume
 *   task.c       operations under way       stop.c    coming to rest
 *   disk.c       volumes in memory          port.c    attachments being served, exports
 *   create.c delete.c resize.c attach.c detach.c      the step machines
 *   instance.c   register, deregister       describe.c  list and show
 *   check.c      the full walk              status.c  status, ping
 *   scrub.c      reading all that lives, behind I/O
 *   hydrator.c   volumes made of a snapshot are copied to their end
 *   snapshot.c   snapshots: create, delete  snapshot_list.c  list and show
 *   uploader.c   a volume's pending snapshots, one after the other
 *   upload.c     one pinned root into the repository
 *   stall.c      volumes whose I/O does not complete
 *   sweeper.c    gives the space of deleted snapshots back
 *   snapdev.c    completed snapshots as read-only exports
 *   args.c       what callers pass          filter.c  filters, pages
 *
 * An operation on a volume is a task. It takes the volume's disk (the thing in memory), one task at
 * a time and the others in line; changes the catalog from what is to what shall be (intent), makes
 * it so in the engine (act), and says so in the catalog (confirm). The state in the catalog is
 * enough to go on: start.c starts the same machine on a row that some crash left half done.
 */
#ifndef CONTROL_INTERNAL_H
#define CONTROL_INTERNAL_H

#include "base/list.h"
#include "base/log.h"
#include "block/export.h"
#include "block/gate.h"
#include "control/control.h"
#include "engine/engine.h"
#include "metadata/worker.h"
#include "snapshots/sweep.h"

struct disk;
struct port;
struct uploader;
struct scrubbing;
struct checking;
struct hydrator;
struct task;

#define DISK_BUCKETS       1024
#define EXPORT_SECRET      16 /* random bytes of an export name */
#define DETACH_WAIT        (10 * NSEC_PER_SEC)
#define TOKEN_LIFE         (24 * 3600 * NSEC_PER_SEC)
#define EVENTS_KEPT        100000
#define VOLUME_BYTES_MAX   (64 * TiB) /* the engine's */
#define START_TASKS_MAX    16         /* volumes that are opened at a time while starting */
#define UPLOADS_MAX        4          /* at a time: each takes about 55 MiB */
#define HYDRATORS_MAX      8          /* volumes that are held open for it, at a time */
#define UPLOAD_RETRY       (10 * NSEC_PER_SEC) /* after what may pass: a full repository ... */
#define OWN_INSTANCE       "own-instance"      /* settings of the catalog */
#define STORE_UUID         "store"
#define FIRST_VOLUME_STATE "first-volume"

/* A loop on which volumes live. */
struct home {
	struct io_loop *loop;
	struct engine *engine;
	unsigned n_open;
};

/* sweeper.c's own. */
struct sweeper {
	struct snap_sweep sweep;
	struct snap_sweep_memory memory;
	struct io_op timer;
	bool is_on;
	bool waits;           /* the timer runs */
	bool woken;           /* it was cancelled */
	bool runs;            /* the sweep does */
	bool asked;           /* something was deleted since the last one began */
	bool wanted;          /* the same, since one went through */
	bool elsewhere;       /* another daemon has the lease */
	uint64_t due;         /* io_now */
	uint64_t rests_until; /* io_now */
	uint64_t began;       /* io_now */
	struct control_sweep_result last;
	char error[ERR_TEXT_MAX]; /* of the last one */
};

struct control {
	struct control_config config;
	struct home *homes;
	struct io_loop *loop;
	struct exports exports;
	struct id own_instance;
	uint64_t start_time;
	bool started;
	bool stopping;
	struct control_stop *stop;
	bool resting;
	struct io_op stopped;

	struct list disks[DISK_BUCKETS];
	unsigned n_disks_open;
	struct list ports;    /* of attachments; closing ones are not on it */
	struct list snapdevs; /* snapshots that are exported */
	struct list uploaders;
	unsigned n_uploads; /* of them, not queued */
	struct list scrubs;
	struct list checks;
	struct list hydrators;
	struct list snapshot_works;
	unsigned n_hydrators; /* of them, at work */
	struct sweeper sweeper;
	unsigned n_tasks;
	struct starting *starting; /* start.c, while it runs */

	/* exports.list may be asked by any thread. */
	struct export_names *names;
};

/* ---- Errors ------------------------------------------------------------------------ */

/* Sets all three and returns `err`. */
int control_fail(struct control_error *error, const char *code, int err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* InternalError, or what fits the errno, with the text of `err`. */
int control_fail_from(struct control_error *error, const struct err *err);

/* ---- Disks (disk.c) ---------------------------------------------------------------------------
 * A volume in memory: there is one while it is open or a task is about it.
 */

struct disk {
	struct control *control;
	struct id id;
	struct list node;
	struct home *home;         /* while it is open, or being opened */
	struct volume *volume;     /* NULL: not open */
	struct volume_stall stall; /* its I/O, also while it is opened or closed */
	_Atomic bool stall_told;   /* stall_msg is on its way */
	struct io_msg stall_msg;
	struct port *port;          /* of the attachment that is served, or will be */
	struct err open_error;      /* attached, but it could not be opened */
	struct task *task;          /* that has it */
	struct list waiting;        /* tasks in line */
	bool deleting;              /* the task that has it deletes it */
	struct uploader *uploader;  /* of its pending snapshots; keeps the volume open */
	struct scrubbing *scrub;    /* under way; keeps the volume open */
	struct hydrator *hydrator;  /* it is not copied yet; keeps the volume open */
	struct checking *check;     /* walks it in use, and keeps it open meanwhile */
	struct task *upload_waiter; /* is stepped when no upload runs any more */
	struct task *scrub_waiter;  /* the same of a scrub; its `act` is how that ended */
	bool closing;               /* the message that closes it is on its way */
};

struct disk *disk_find(struct control *c, struct id id);
struct disk *disk_find_or_make(struct control *c, struct id id); /* NULL: out of memory */
/* Goes when nothing needs it any more. */
void disk_drop_if_idle(struct disk *d);
/* An attachment, or what goes on behind answers, needs the volume open. */
bool disk_is_needed(const struct disk *d);
/* The one on which the fewest volumes are open. */
struct home *disk_choose_home(struct control *c);

/* ---- Tasks (task.c) ---------------------------------------------------------------- */

struct task {
	struct control *control;
	struct control_op *op; /* NULL: of a start, or answered already */
	struct disk *disk;     /* NULL: it is about no volume */
	struct list node;      /* in disk->waiting */
	void (*step)(struct task *task);
	int state;                                   /* an enum of the machine's own */
	void (*ended)(struct task *task, void *arg); /* who started it without an op */
	void *ended_arg;

	/* What it waits for, one at a time. */
	struct catalog_job job;
	struct home *home; /* on whose loop volume_op runs */
	struct volume_op volume_op;
	void (*volume_start)(struct volume_op *op);
	struct io_msg msg;
	struct io_op timer;
	bool timer_runs;

	struct control_error error;
	struct err act;              /* what the engine said */
	int forget_error;            /* what the repository said (origin.h) */
	struct control_error undone; /* snapshot: what is said once it is undone */
	char who[CONTROL_WHO_MAX + 1];
	uint64_t now;

	/* Rows as the catalog has them, and arguments that were looked at. */
	struct catalog_volume volume;
	struct catalog_attachment attachment;
	struct catalog_instance instance;
	struct catalog_snapshot snapshot;
	bool force;        /* detach: at once */
	bool forced;       /* since somebody asked for that */
	bool was_whole;    /* attach: resumed, and attached already before */
	bool opened_twice; /* for its pins: as deleted, or not, and then the other way */
	bool opened_here;  /* the machine opened the volume, and closes it */
	bool replayed;     /* create: the token was known */
	bool for_check;    /* scrub: nobody asked for it but a check */
	uint64_t request[2];
	uint64_t wanted_size;   /* resize */
	uint64_t n_pending;     /* delete: snapshots of the volume */
	struct err grow_result; /* resize */
	struct list joined;     /* detach: ops that wait for the same end */
	void *private;          /* the machine's own */
};

/* `op` may be NULL. NULL: out of memory. */
struct task *task_new(struct control *c, struct control_op *op, void (*step)(struct task *task));
/* Steps once it has the volume's disk: now, or when it is its turn. */
void task_take(struct task *t, struct id volume);
/* Lets the disk go to the next in line, and comes back in line itself, in `state`. */
void task_release(struct task *t);
void task_retake(struct task *t, int state);
/* Answers the op with task->error (if there is one still), gives the disk to the next,
 * and frees. */
void task_end(struct task *t);
/* Answers the op and goes on without it. */
void task_answer(struct task *t);
/* Enters `state`, and steps when the job is done. */
void task_job(struct task *t, int state, int (*run)(struct catalog *c, struct catalog_job *job));
/* The same for what makes room or ends something. */
void task_job_essential(struct task *t, int state,
			int (*run)(struct catalog *c, struct catalog_job *job));
/* The same for an engine's operation, on the loop of the disk's home. task->volume_op has its
 * arguments but for engine and id. */
void task_engine(struct task *t, int state, void (*start)(struct volume_op *op));
/* True if the job did what it should; else task->error is set. */
bool task_job_ok(struct task *t);
static inline struct task *task_of_job(struct catalog_job *job)
{
	return container_of(job, struct task, job);
}
/* Opens and closes by task_engine. After it: task_opened, task_closed. */
void task_open(struct task *t, int state, bool read_only);
void task_open_as(struct task *t, int state, const struct volume_op *how);
void task_opened(struct task *t); /* act.code 0: disk->volume is set */
void task_close(struct task *t, int state);
void task_closed(struct task *t);

/* Job: an event about `resource`. */
int task_event(struct catalog *c, struct task *t, const char *what, const char *resource,
	       const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Job: reads task->volume; InvalidVolume.NotFound. And its attachment, if it has one. */
int task_read_volume(struct catalog *c, struct task *t);
/* Job: the op's result is this volume. */
int task_describe(struct catalog *c, struct task *t);
/* The op's result is this attachment. */
int task_describe_attachment(struct task *t, struct control_op *op);
/* Job: may so many bytes more be promised? */
int task_check_space(struct catalog *c, struct task *t, uint64_t more);

/* ---- Ports (port.c) ---------------------------------------------------------------------------
 * An attachment as clients see it: a gate in front of the volume, and the claims of connections.
 * It outlives its attachment until the last connection has let go.
 */

enum port_state {
	PORT_OPENING, /* who asks for it waits */
	PORT_OPEN,
	PORT_CLOSING, /* nobody new; `gate` closes or is closed */
	PORT_CLOSED,  /* drained: nothing of it can reach the volume */
};

struct port {
	struct control *control;
	struct list node; /* control->ports */
	enum port_state state;
	struct id volume;
	struct id instance;
	char export_name[CATALOG_EXPORT_MAX + 1];
	uint64_t generation;
	struct home *home;
	struct gate gate;
	struct list claims;
	unsigned n_claims;
	struct export_op *resolvers; /* who waits for it to open; linked by ->private */
	struct task *closer;         /* is stepped as claims go, and when the gate is closed */
	struct io_msg msg;
};

struct port *port_new(struct control *c, const struct catalog_attachment *a);
/* The volume is open: whoever waits gets it. */
void port_open(struct port *p, struct disk *d);
/* It never opened. */
void port_abandon(struct port *p, int error);
/* Nobody new gets in; asks the clients to go: after their last replies, or at once. */
void port_ask_to_leave(struct port *p, bool at_once);
/* Closes the gate; steps `closer` when the state is PORT_CLOSED. */
void port_close(struct port *p);
/* The attachment is over: frees it now, or when the last claim goes. NULL is legal. */
void port_retire(struct port *p);
int exports_init(struct control *c);
void exports_free(struct control *c);

/* ---- Snapshots (snapshot.c, uploader.c) -------------------------------------------------------
 */

/* Uploads the volume's pending snapshots, if there are any; looks at those that it has already, and
 * goes on with the volume's deletion if that has waited for them. Call it with the disk held, or
 * while starting. */
void uploader_kick(struct control *c, struct id volume);
/* Each ends soon: the daemon stops. */
void uploaders_stop(struct control *c);
/* Stops the upload that runs (of that snapshot; all 0: of any). True: t is stepped once it has
 * ended. */
bool uploader_interrupt(struct disk *d, struct id snapshot, struct task *t);
/* How far the snapshot is; false: it is not being uploaded. */
bool uploader_progress(struct disk *d, struct id snapshot, uint64_t *ret_done, uint64_t *ret_all);
/* Opens the volume for its pins, deleted or not; after it: task_opened_pinned. True of that: it is
 * open, or gone for good; false: it opens it another way. */
void task_open_pinned(struct task *t, int state);
bool task_opened_pinned(struct task *t, int state);
/* A start goes on with what is half done. */
int snapshot_delete_resume(struct control *c, const struct catalog_snapshot *s);

/* Copies the volume's snapshot to its end, if it has one. */
void hydrator_kick(struct control *c, struct id volume);
/* It needs it no more, or goes. */
void hydrator_over(struct disk *d);
/* Each ends soon: the daemon stops. */
void hydrators_stop(struct control *c);

/* ---- Stalled I/O (stall.c) --------------------------------------------------------------------
 */

struct stall {
	const char *io; /* a constant */
	uint64_t ns;
	char text[160]; /* a sentence */
};

void stall_init(struct disk *d);
/* False: nothing is stalled. */
bool stall_look(const struct disk *d, struct stall *ret_stall);
/* True: t, which would wait behind another one that the stall keeps, need not: its error says why.
 */
bool stall_refuses(struct task *t);
/* The volume of the task, whatever it is, is stalled. */
void detach_on_stall(struct task *t);
/* Completes what only memory knows. */
void stall_describe(struct control *c, struct arena *memory, struct control_volume *v);

/* Each ends soon: the daemon stops. And their results go. */
void snapshot_works_stop(struct control *c);
void snapshot_works_free(struct control *c);

/* ---- The sweeper (sweeper.c) -------------------------------------------------------------------
 */

void sweeper_start(struct control *c);
/* A snapshot was deleted: its space comes back soon. */
void sweeper_ask(struct control *c);
/* It ends soon: the daemon stops. */
void sweeper_stop(struct control *c);
/* The texts are the sweeper's. */
void sweeper_describe(const struct control *c, struct control_sweep *ret);

/* ---- Machines ---------------------------------------------------------------------- */

void control_create(struct control *c, struct control_op *op);
void control_delete(struct control *c, struct control_op *op);
void control_resize(struct control *c, struct control_op *op);
void control_attach(struct control *c, struct control_op *op);
void control_detach(struct control *c, struct control_op *op);
/* Go on from the row's state. `ended` gets `arg`. */
struct resume {
	const struct catalog_volume *volume;
	const struct catalog_attachment *attachment; /* or NULL */
	void (*ended)(struct task *task, void *arg);
	void *arg;
};
int create_resume(struct control *c, const struct resume *r);
int delete_resume(struct control *c, const struct resume *r);
int resize_resume(struct control *c, const struct resume *r);
int attach_resume(struct control *c, const struct resume *r);
int detach_resume(struct control *c, const struct resume *r);

void control_snapshot_create(struct control *c, struct control_op *op);
void control_snapshot_group(struct control *c, struct control_op *op);
void control_snapshot_delete(struct control *c, struct control_op *op);
void control_snapshot_work(struct control *c, struct control_op *op);
void control_snapshot_list(struct control *c, struct control_op *op);
void control_register(struct control *c, struct control_op *op);
void control_deregister(struct control *c, struct control_op *op);
void control_list(struct control *c, struct control_op *op);
void control_show(struct control *c, struct control_op *op);
void control_status(struct control *c, struct control_op *op);
void control_ping(struct control *c, struct control_op *op);
void control_check(struct control *c, struct control_op *op);
void control_scrub(struct control *c, struct control_op *op);
/* Each ends soon: the daemon stops. */
void scrubs_stop(struct control *c);
void checks_stop(struct control *c);
/* Steps `waiter`, which has the disk of an open volume and lets it go, when a scrub of it is over:
 * the one that runs, or else one that begins now. False: out of memory. */
bool scrub_join(struct task *waiter, int state);

/* control.c: the op is done, with op->error. */
void control_finish(struct control *c, struct control_op *op);
/* A task has ended: start.c and stop.c look whether that was the last. */
void stop_kick(struct control *c);
uint64_t control_now(struct control *c);
struct id control_new_id(struct control *c);

/* ---- Arguments (args.c) -----------------------------------------------------------------------
 * 0, or a negative errno with `error` set.
 */

int args_volume_id(const char *text, struct id *ret_id, struct control_error *error);
int args_instance_id(const char *text, struct id *ret_id, struct control_error *error);
int args_snapshot_id(const char *text, struct id *ret_id, struct control_error *error);
int args_snapshot_create(const struct control_op *op, struct control_error *error);
int args_size(uint64_t size, uint64_t *ret_size, struct control_error *error);
int args_create(const struct control_op *op, struct control_error *error);
int args_device(const char *device, struct control_error *error);
int args_text(const char *what, const char *text, size_t max, struct control_error *error);
/* A hash over what was asked for, whatever the order of the tags. */
void args_hash_create(const struct control_op *op, uint64_t ret_hash[2]);
/* Job: the first device name that the instance has free. -ENOSPC: there is none. */
int device_next_free(struct catalog *c, struct id instance, char ret_device[CATALOG_DEVICE_MAX + 1],
		     struct err *err);

/* ---- Describing (describe.c, filter.c) --------------------------------------------- */

/* Jobs: rows as results, in op->memory. */
int describe_volume(struct catalog *c, struct control *control, struct arena *memory,
		    const struct catalog_volume *v, struct control_volume *ret_v, struct err *err);
int describe_attachment(struct control *control, struct arena *memory,
			const struct catalog_attachment *a, struct control_attachment *ret_a);
int describe_instance(struct catalog *c, struct control *control, struct arena *memory,
		      const struct catalog_instance *i, struct control_instance *ret_i,
		      struct err *err);
/* The resource's tags: ret_tags has CONTROL_TAGS_MAX of them. *ret_name is untouched without one.
 */
int describe_tags(struct catalog *c, struct arena *memory, const char *resource,
		  struct control_tag **ret_tags, unsigned *ret_n, const char **ret_name,
		  struct err *err);
/* On control's loop: what only memory knows. */
void describe_live(struct control *c, struct arena *memory, struct control_attachment *a);

bool filter_match(const char *pattern, const char *text);
int filter_check(const struct control_op *op, struct control_error *error);
bool filter_volume(const struct control_list_args *list, const struct control_volume *v);
bool filter_snapshot(const struct control_list_args *list, const struct control_snapshot *s);
bool filter_instance(const struct control_list_args *list, const struct control_instance *i);
bool filter_event(const struct control_list_args *list, const struct control_event *e);

#endif
