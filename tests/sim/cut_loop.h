/* SPDX-License-Identifier: Apache-2.0
 *
 * The power goes (or the process dies) after the 1st, 2nd, 3rd ... point of an operation, until it
 * completes uncut; each time everything is opened again and judged (tests/sim/drill.h).
 *
 * SIM_TEST=write_one_block runs one loop; SIM_K=17 only its 17th cut, SIM_STRIDE=5 each fifth. Long
 * loops take strides, but for SOAK=1.
 */
#ifndef TESTS_SIM_CUT_LOOP_H
#define TESTS_SIM_CUT_LOOP_H

#include "tests/sim/drill.h"

#define VOLUME_BYTES (6 * MiB)

struct loop {
	void (*config)(struct drill *d); /* before the first life; NULL: as it is */
	void (*before)(struct drill *d); /* the history */
	bool (*act)(struct drill *d);    /* the operation; false: the machine died */
	uint64_t stride;                 /* 0: 1 */
};

/* A power cut on a device, the death of the process on a file; and the other way round. */
void cut_anywhere(const struct loop *loop);

#define LOOP(name, ...)                                                                            \
	static void name(void **state)                                                             \
	{                                                                                          \
		static const struct loop loop = {__VA_ARGS__};                                     \
                                                                                                   \
		(void)state;                                                                       \
		cut_anywhere(&loop);                                                               \
	}

/* ---- For histories and operations, on volume 0 -------------------------------------------------
 */

bool write_at(struct drill *d, uint32_t flags, uint64_t offset, uint64_t length);
bool flush(struct drill *d);
/* Some of it in the map, some in the log and durable, some in the log. */
void some_history(struct drill *d);

#endif
