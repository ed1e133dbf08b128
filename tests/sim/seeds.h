/* SPDX-License-Identifier: Apache-2.0
 *
 * Which seeds a test runs: 1 to `usual`, or what the environment says. SIM_SEED=123 replays one,
 * SIM_SEEDS=5000 runs so many, SIM_SEEDS_MAX=5 at most so many of the usual, SIM_FIRST=777 starts
 * there.
 */
#ifndef TESTS_SIM_SEEDS_H
#define TESTS_SIM_SEEDS_H

#include <stdint.h>

struct seeds {
	uint64_t first;
	uint64_t last;
};

struct seeds seeds_to_run(uint64_t usual);
/* Power-cut loops look at each so-manieth point: SIM_STRIDE, usually 1. */
uint64_t seeds_stride(void);

#endif
