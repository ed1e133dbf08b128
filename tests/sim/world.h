/* SPDX-License-Identifier: Apache-2.0
 *
 * A storage daemon without protocols on the simulated machine: one loop, a store, an engine,
 * volumes. Each life is begun by world_begin and ends with the machine's (sim_cut, sim_kill) or by
 * world_end.
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "engine/engine.h"
#include "store/local.h"
#include "tests/sim/machine/sim.h"

#define WORLD_VOLUMES 4

struct world {
	struct sim *sim;
	struct engine_config config;
	struct store_local_config store_config;
	struct io_loop *loop;
	struct store *store;
	struct engine *engine;
	struct volume *volumes[WORLD_VOLUMES];
	struct volume_base *bases[WORLD_VOLUMES]; /* given at open; NULL: none */
	struct id base_ids[WORLD_VOLUMES];        /* given at create, with base_sizes */
	uint64_t base_sizes[WORLD_VOLUMES];
	struct volume_stall stalls[WORLD_VOLUMES];
	bool deleted[WORLD_VOLUMES]; /* opened for their pins */
	struct err err;              /* of the step that failed last */
	uint64_t bad_blocks;
	/* What the engine told in this life of I/O that is stuck, if config.stuck_after_ns says
	 * when. */
	uint64_t n_stuck;
	uint64_t n_stuck_over;
	enum volume_io stuck_kind; /* the newest, */
	uint64_t stuck_age_ns;     /* and its age; once it is over, how long it took */
	struct id stuck_volume;
};

void world_init(struct world *w, struct sim *sim);
struct id world_volume_id(unsigned i);
/* Loop, store (formatted at first) and engine. 0; a negative errno (world.err); -ESHUTDOWN: the
 * machine died meanwhile. */
int world_begin(struct world *w);
int world_create(struct world *w, unsigned i, uint64_t size);
int world_open(struct world *w, unsigned i);
int world_close(struct world *w, unsigned i);
/* One call. *ret_pins snapshots keep its segments, *ret_more: call again. */
int world_delete(struct world *w, unsigned i, uint32_t *ret_pins, bool *ret_more);
int world_checkpoint(struct world *w, unsigned i);
int world_resize(struct world *w, unsigned i, uint64_t size);
struct id world_snapshot_id(unsigned number);
/* Takes snapshot `number` of volume i, or lets it go. ret_sequence may be NULL. */
int world_pin(struct world *w, unsigned i, unsigned number, bool unpin, uint64_t *ret_sequence);
/* Walks the volume: what it finds wrong goes to the trace. Returns how many, or a negative errno.
 */
int64_t world_check(struct world *w, unsigned i);
/* Closes volumes and store cleanly and frees everything. */
int world_end(struct world *w);

/* One request, to its end. `buf` needs no alignment. 0 or what the request got. */
int world_io(struct world *w, unsigned i, enum block_op op, uint32_t flags, uint64_t offset,
	     uint64_t length, void *buf);

#endif
