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
	/* Progress, while it runs: places of 512 KiB in the volume. */
	uint64_t blocks_total;
	uint64_t blocks_done;
	uint64_t bytes_per_second; /* in: at most so fast; 0: as fast as it goes; may be changed */
	struct snap_writer_stats stats;
	struct snap_info info; /* of the copy, once done */

	/* snapshots/' own. */
	struct snap_copying *at_work;
	struct io_op defer;
};

/* Copies what `from` reads to `to`, as config->id. What config leaves 0 or NULL is taken over:
 * size, started, labels; volume and parent are as config says (zero: none). With a parent, which is
 * a snapshot of `to`, the copy shares what is equal: blocks that differ from it alone are read. The
 * reader stays open until done. */
void snap_copy_start(struct snap_reader *from, struct repository *to, struct io_loop *loop,
		     const struct snap_writer_config *config, struct snap_copy *copy);
void snap_copy_cancel(struct snap_copy *copy);

struct snap_verify {
	void (*done)(struct snap_verify *verify);
	int error; /* 0: it ran to its end, see bad_blocks; -ECANCELED */
	struct err err;
	/* Called for each bad block, with a text that names it and its object, and once for each
	 * bad page of the tree, with all the places below it. NULL: none. */
	void (*bad)(struct snap_verify *verify, uint64_t block, uint64_t blocks, const char *text);
	uint64_t bytes_per_second; /* in: as in snap_copy */
	uint64_t blocks_total;
	uint64_t blocks_done;
	uint64_t bad_blocks; /* places, below bad pages too */

	/* snapshots/' own. */
	struct snap_copying *at_work;
	struct io_op defer;
};

/* Reads every block and page, and checks all hashes. On the reader's loop. */
void snap_verify_start(struct snap_reader *reader, struct snap_verify *verify);
void snap_verify_cancel(struct snap_verify *verify);

#endif
