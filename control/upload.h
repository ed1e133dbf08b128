/* SPDX-License-Identifier: Apache-2.0
 *
 * The copying of one pinned root to the repository: reads what changed by views, gives it to a
 * writer, seals. Runs on the volume's loop; the volume stays open until `done`. Memory is bounded:
 * UPLOAD_SLOTS blocks and what a writer takes (about 55 MiB).
 *
 * Threads: upload_begin and upload_stop on control's loop, `done` too.
 */
#ifndef CONTROL_UPLOAD_H
#define CONTROL_UPLOAD_H

#include "control/internal.h"
#include "snapshots/writer.h"

#define UPLOAD_SLOTS 4

enum upload_end {
	UPLOAD_SEALED,  /* it is completed in the repository, now or since an earlier attempt */
	UPLOAD_STOPPED, /* by upload_stop, or by what may pass (err): it stays pending */
	UPLOAD_FAILED,  /* it never can be: err says why */
};

/* One block on its way. */
struct upload_slot {
	struct upload *upload;
	struct volume_view *view;
	struct volume_view_req req;
	struct snap_put put;
	uint8_t *buf;
	bool busy;
};

struct upload {
	/* The caller sets these. */
	struct control *control;
	struct home *home; /* the volume's */
	struct volume *volume;
	struct snap_writer_config config; /* id, volume, parent, size, started, labels */
	uint64_t since; /* the parent's place in the volume's log; 0: all that users changed */
	uint64_t every; /* bytes from the start of which each block is read (a base's) */
	bool all;       /* there is no parent: hydrated blocks, too */
	uint64_t bytes_per_second; /* 0: as fast as it goes */
	void (*done)(struct upload *upload);
	void *arg;

	/* Results. */
	enum upload_end end;
	struct err err;
	struct snap_info *info; /* the caller's; filled if it was sealed by this attempt */
	bool sealed_before;
	bool parent_gone; /* UPLOAD_STOPPED: try again without it */

	/* Progress; any thread. */
	uint64_t units_done; /* the first of which nothing is known to be left */
	uint64_t units;

	/* Its own, on the volume's loop. */
	int state;
	bool stopping;
	bool scanned; /* there are no more units */
	struct io_msg msg;
	struct io_msg stop_msg;
	bool stop_posted;
	struct volume_op op;
	struct snap_writer_op writer_op;
	struct snap_writer *writer;
	struct volume_view *scan_view;
	struct volume_view_req scan;
	bool scanning;
	bool found; /* scan.unit waits for a slot */
	uint64_t next;
	uint64_t due; /* io_now, of the next block by the rate */
	struct io_op timer;
	bool timer_runs;
	unsigned n_views;
	struct upload_slot slots[UPLOAD_SLOTS];
};

void upload_begin(struct upload *u);
/* It ends soon. */
void upload_stop(struct upload *u);

#endif
