/* SPDX-License-Identifier: Apache-2.0
 *
 * Small things that the machine's own tests share: one operation, started and waited for.
 */
#ifndef TESTS_SIM_PROBE_H
#define TESTS_SIM_PROBE_H

#include "base/util.h"
#include "tests/sim/machine/sim.h"

#define PATH  "/disk"
#define STEPS 1000000

struct probe {
	struct io_op op;
	bool done;
	unsigned order; /* the how-manieth to be done */
};

extern unsigned probes_done;

void probe_init(struct probe *p);
/* Steps until it is done; returns its result. */
int64_t wait_for(struct sim *sim, struct probe *p);

struct io_loop *make_loop(const char *name);
struct io_file *open_file(void); /* PATH */
int64_t do_write(struct sim *sim, struct io_loop *loop, struct io_file *file, const void *buf,
		 size_t len, uint64_t offset);
int64_t do_read(struct sim *sim, struct io_loop *loop, struct io_file *file, void *buf, size_t len,
		uint64_t offset);
int64_t do_sync(struct sim *sim, struct io_loop *loop, struct io_file *file);

/* Pages that hold this byte. */
uint8_t *filled(size_t len, uint8_t byte);
bool is_all(const uint8_t *buf, size_t len, uint8_t byte);

#endif
