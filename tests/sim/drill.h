/* SPDX-License-Identifier: Apache-2.0
 *
 * A daemon's lives, judged. A drill is a simulated machine with a world on it (tests/sim/world.h),
 * up to four volumes, and for each an oracle that lasts as long as the machine:
 *
 *   drill_init -> [ drill_up -> load, single operations ... -> drill_crash ] again and again ->
 * drill_free
 *
 * drill_up opens everything and judges what a crash has left: E1, E2, E3, E5 by the oracles, E4 by
 * reading every byte, E8 by the full walk, and that pinned roots are whole. What is wrong goes to
 * sim_fail, which prints seed and trace and ends the program.
 *
 * Functions that step the machine return false when it died meanwhile: then comes drill_crash.
 */
#ifndef TESTS_SIM_DRILL_H
#define TESTS_SIM_DRILL_H

#include "tests/sim/oracle.h"
#include "tests/sim/snaps.h"
#include "tests/sim/workload.h"
#include "tests/sim/world.h"

struct drill_volume {
	struct oracle *oracle; /* NULL: there is no such volume, or a crash may have undone it */
	uint64_t size;         /* bytes, as promised; 0: it has not been created yet */
	uint64_t asked;        /* of a creation or growth that was not answered; 0: none */
	struct workload *load;
};

struct drill {
	struct sim *sim;
	struct world world;
	unsigned n_volumes;
	struct drill_volume volumes[WORLD_VOLUMES];
	uint64_t sizes[WORLD_VOLUMES]; /* with which they are created */
	struct snap snaps[WORLD_VOLUMES][SNAPS_MAX];
	struct snap_base bases[WORLD_VOLUMES]; /* of those that were made of a snapshot */
	bool errors_ok;                        /* operations may fail: the test injects faults */
	int only_error;                        /* requests of a load: only with this one; 0: any */
	enum oracle_crash end;                 /* how the life will end by itself */
	bool in_crash;                         /* nobody has looked yet at what it left */
	uint64_t lives;
};

/* A machine with options by seed: sectors of 512 or 4096 bytes, a file or a device; segments of 4
 * MiB, a leaf cache and checkpoints so small that they matter; one to three volumes of 1 to 64 MiB.
 * Fields may be changed before the first drill_up. `max_size` is the store's; 0: 2 GiB. */
void drill_init(struct drill *d, uint64_t seed, uint64_t max_size);
void drill_free(struct drill *d);

/* Starts the world, creates volumes that are not there, opens all, and judges. */
bool drill_up(struct drill *d);
/* `volumed --check`, in a life of its own: opens all read-only, finds nothing wrong, writes
 * nothing, closes. After at least one life in which all volumes were opened. */
bool drill_look(struct drill *d);
/* Only starts and opens. 0, -ESHUTDOWN: the machine died, or an error. Volumes that were never
 * created are. */
int drill_open_all(struct drill *d);
int drill_open(struct drill *d, unsigned i); /* the same, for one */
/* Shows what is there to the oracles, walks everything. After drill_open_all. */
bool drill_judge(struct drill *d);
/* The life ends after the k-th point from now (tests/sim/machine/sim.h); 0: not by itself. */
void drill_end_after(struct drill *d, enum oracle_crash kind, uint64_t k);
/* Ends the life, by `kind` if it has not ended by itself; the next begins. */
void drill_crash(struct drill *d, enum oracle_crash kind);
/* Closes everything in peace. The next drill_up expects all that was acknowledged. */
bool drill_down(struct drill *d);

/* Starts clients on volume i; they end after n_ops requests. */
void drill_load(struct drill *d, unsigned i, uint64_t n_ops);
void drill_load_all(struct drill *d, uint64_t n_ops);
/* Nobody issues anything more, what is in flight ends, and the clients had nothing to complain of.
 */
bool drill_rest(struct drill *d, unsigned i);
/* Steps until every load is over, or steps are used up. */
bool drill_run(struct drill *d, uint64_t max_steps);

/* One operation, told to the oracle. An error is a failure, unless errors_ok; it is in *ret_error,
 * which may be NULL. */
bool drill_io(struct drill *d, unsigned i, enum block_op op, uint32_t flags, uint64_t offset,
	      uint64_t length, int *ret_error);
bool drill_checkpoint(struct drill *d, unsigned i);
bool drill_resize(struct drill *d, unsigned i, uint64_t size);
/* Snapshot `number`; one that is there already, or is not there, stays so. */
bool drill_pin(struct drill *d, unsigned i, unsigned number, bool unpin);
bool drill_close(struct drill *d, unsigned i);  /* its load rests */
bool drill_reopen(struct drill *d, unsigned i); /* after drill_close */
/* Reads the volume and holds it against what its clients were told. */
bool drill_verify_live(struct drill *d, unsigned i);
/* The full walk finds nothing wrong (E8). */
bool drill_walk(struct drill *d, unsigned i);

#endif
