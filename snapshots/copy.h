/* SPDX-License-Identifier: Apache-2.0
 *
 * Long work on whole snapshots: to copy one to another repository, and to verify one.
 */
#ifndef SNAPSHOTS_COPY_H
#define SNAPSHOTS_COPY_H

#include "snapshots/reader.h"
#include "snapshots/writer.h"

struct snap_copy {
	void (*done)(struct snap_copy *copy);
	int error; /* of reading or writing; -ECANCELED. The copy then stays pending: start it again
		    * to go on, or snap_delete it */
	struct err err;
	/* Progress, while it runs. */
	uint64_t blocks_total; /* to be looked at */
	uint64_t blocks_done;
	uint64_t bytes_per_second; /* in: at most so fast; 0: as fast as it goes; may be changed */
	struct snap_writer_stats stats;
	struct snap_info info; /* of the copy, once done */

	struct snap_copying *at_work; /* snapshots/' own */
};

/* Copies what `from` reads to `to`, as config->id (with config->size 0: the size, started, labels
 * are taken over; config->parent is a snapshot of `to` with which blocks may be shared, or zero).
 * With `base` (NULL: none), a reader of the snapshot that config->parent is a copy of, only blocks
 * that differ from it are read. The readers stay open until done. */
void snap_copy_start(struct snap_reader *from, struct snap_reader *base, struct repository *to,
		     struct io_loop *loop, const struct snap_writer_config *config,
		     struct snap_copy *copy);
void snap_copy_cancel(struct snap_copy *copy);

struct snap_verify {
	void (*done)(struct snap_verify *verify);
	int error; /* 0: it ran to its end, see bad_blocks; -ECANCELED; -EIO: a page of the tree */
	struct err err;
	/* Called for each bad block, with a text that names it and its object. NULL: none. */
	void (*bad)(struct snap_verify *verify, uint64_t block, const char *text);
	uint64_t bytes_per_second; /* in: as in snap_copy */
	uint64_t blocks_total;
	uint64_t blocks_done;
	uint64_t bad_blocks;

	struct snap_copying *at_work; /* snapshots/' own */
};

/* Reads every block and page, and checks all hashes. */
void snap_verify_start(struct snap_reader *reader, struct io_loop *loop,
		       struct snap_verify *verify);
void snap_verify_cancel(struct snap_verify *verify);

#endif
