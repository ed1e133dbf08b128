/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engines find damaged, said in the log: at most a few lines a second from each loop. And
 * I/O that does not complete.
 */
#ifndef VOLUMED_BAD_BLOCKS_H
#define VOLUMED_BAD_BLOCKS_H

#include "base/id.h"
#include "base/log.h"
#include "engine/engine.h"

struct io_loop;

/* How many lines a loop has written. */
struct bad_blocks {
	struct io_loop *loop;
	struct log_limit limit;
};

/* engine_config's; `arg` is a struct bad_blocks. */
void bad_blocks_on_block(void *arg, struct id volume, uint64_t lba, const char *why);
/* One line when it begins, one when it is over, of each volume. */
void bad_blocks_on_stuck(void *arg, struct id volume, enum volume_io oldest, uint64_t age_ns,
			 bool over);
void bad_blocks_on_segment(void *arg, struct id volume, uint64_t segment, uint64_t lba);

#endif
