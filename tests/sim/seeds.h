/* SPDX-License-Identifier: Apache-2.0
 *
 * Which seeds a test runs: 1 to `usual`, or what the environment says. SIM_SEED=123 replays one,
 * SIM_SEEDS=5000 runs so many, SIM_FIRST=777 starts there.
 */
#ifndef TESTS_SIM_SEEDS_H
#define TESTS_SIM_SEEDS_H

#include <stdint.h>

struct seeds {
	uint64_t first;
	uint64_t last;
};

struct seeds seeds_to_run(uint64_t usual);

#endif
