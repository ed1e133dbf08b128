/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/seeds.h"

#include <stdlib.h>

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

struct seeds seeds_to_run(uint64_t usual)
{
	uint64_t most = number("SIM_SEEDS_MAX", UINT64_MAX);
	uint64_t one = number("SIM_SEED", 0);
	uint64_t first = number("SIM_FIRST", 1);

	if (one)
		return (struct seeds){one, one};
	return (struct seeds){first, first + number("SIM_SEEDS", usual < most ? usual : most) - 1};
}

uint64_t seeds_stride(void)
{
	uint64_t stride = number("SIM_STRIDE", 1);

	return stride ? stride : 1;
}
