/* SPDX-License-Identifier: Apache-2.0
 *
 * Gives back the space of what no snapshot needs, and tells what each one takes.
 *
 * One sweep at a time, by a lease (lease/sweep) with a number that grows with each owner. It is
 * there to save work: a sweep that was stopped for hours and goes on after another has taken over
 * does no harm (S3), and ends with -ESTALE as soon as it notices. A lease counts as dead when its
 * bytes have not changed for its time by the watcher's own monotonic clock, so a clock that is
 * wrong neither keeps nor takes it.
 */
#ifndef SNAPSHOTS_SWEEP_H
#define SNAPSHOTS_SWEEP_H

#include "snapshots/repository.h"

struct snap_sweep_config {
	/* 0: the default in parentheses. */
	uint64_t lease_ns;  /* the lease's time (60 s); it is renewed at a third of that */
	uint64_t grace_ns;  /* packs younger than that stay (10 minutes; 1: none) */
	uint64_t margin_ns; /* clocks may differ by that: expiry is later by it (10 minutes) */
	uint32_t removes_per_second; /* objects removed or punched (100) */
	bool dry_run;                /* only count: takes no lease, changes nothing */
};

struct snap_usage {
	struct id id;
	uint64_t unique; /* bytes that its deletion would give back */
};

struct snap_sweep {
	void (*done)(struct snap_sweep *sweep);
	int error; /* 0; -EBUSY: another sweeps, or its lease has yet to run out; -ESTALE: the lease
		    * was lost; -ECANCELED; -EIO, -EBADMSG: something could not be read, `err` names
		    * it, and nothing was removed for that reason */
	struct err err;
	struct snap_sweep_config config;

	/* Results, kept up to date while it runs. */
	uint64_t packs;      /* looked at */
	uint64_t stored;     /* bytes that they take */
	uint64_t live;       /* bytes of these that are needed */
	uint64_t removed;    /* packs */
	uint64_t freed;      /* bytes given back, holes included */
	uint64_t tombstones; /* removed */
	uint64_t given_up;   /* uploads and holds that had expired */
	bool clock_is_off;   /* nothing was given up: our clock and the repository's differ */
	uint64_t pages_done; /* tree pages marked: progress */
	struct snap_usage
	    *usage; /* after done: one each completed snapshot; snap_sweep_clear frees */
	uint32_t n_usage;

	/* snapshots/' own. */
	struct snap_sweeping *at_work;
	struct io_op defer;
};

/* What a daemon remembers of the lease between sweeps. All zeroes at first; one for each
 * repository. */
struct snap_sweep_memory {
	uint64_t seen_at; /* io_now, when these bytes were seen first; 0: never */
	uint32_t length;
	uint8_t lease[64];
};

void snap_sweep_start(struct repository *repository, struct io_loop *loop,
		      struct snap_sweep_memory *memory, struct snap_sweep *sweep);
/* It ends soon, with -ECANCELED, and gives the lease back. */
void snap_sweep_cancel(struct snap_sweep *sweep);
void snap_sweep_clear(struct snap_sweep *sweep);

#endif
