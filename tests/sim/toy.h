/* SPDX-License-Identifier: Apache-2.0
 *
 * A toy of a block device in memory, with a log and crashes, that keeps every promise of block.h
 * and engine.h, or, as asked, breaks just one. It shows that the oracle tells one from the other.
 * The toy lives outside the machine's lives: after sim_reboot call toy_crash, then toy_open on a
 * new loop.
 */
#ifndef TESTS_SIM_TOY_H
#define TESTS_SIM_TOY_H

#include "block/block.h"
#include "tests/sim/machine/sim.h"

enum toy_flaw {
	TOY_HONEST,
	TOY_FLUSH_LIES,       /* E1: FLUSH makes nothing durable */
	TOY_FUA_LIES,         /* E1: nor does FUA */
	TOY_FUA_ALONE,        /* E2: FUA makes its own write durable, over a hole */
	TOY_KILL_LOSES,       /* E1: the newest answered write goes with the process */
	TOY_HOLE,             /* E2: a write is missing from the prefix */
	TOY_SUFFIX_RETURNS,   /* E2: what was dropped at one crash is back after the next */
	TOY_TEARS,            /* E3: half of the last write is there */
	TOY_INTERLEAVES,      /* E3: writes that overlap in flight mix */
	TOY_STALE_READS,      /* E4: some reads see an old state */
	TOY_EARLY_ANSWER,     /* E4: answers writes before reads can see them */
	TOY_LOSES_WRITES,     /* E4 */
	TOY_MISPLACES_WRITES, /* E4 */
	TOY_ROTS,             /* E4: a bit flips in some reads */
	TOY_ANSWER_ORDER,     /* E2: live state in one order, the log in another */
	TOY_TRIM_EDGES,       /* E5: trims too much */
	TOY_TRIM_NOTHING,     /* E5: trims nothing */
	TOY_STATUS_LIES,      /* E5: says that data is zeroes */
	TOY_N_FLAWS,
};

struct toy;

struct toy *toy_new(struct sim *sim, uint64_t size, enum toy_flaw flaw);
void toy_free(struct toy *toy);
/* The device, on this loop, until the next toy_crash. */
struct block_dev *toy_open(struct toy *toy, struct io_loop *loop);
void toy_crash(struct toy *toy, bool power_cut);
const char *toy_flaw_name(enum toy_flaw flaw);

#endif
