/* SPDX-License-Identifier: Apache-2.0
 *
 * The snapshots of a drill's volumes, judged. Each has a copy of its volume's oracle, made when its
 * cut got its place: what a view shows must be a state that a crash at that moment could have left,
 * with all that had been answered before the snapshot was asked for (S1, E2, E3). What a view has
 * shown once it shows ever after, over crashes and restarts (S3).
 *
 * And volumes that are made of such a snapshot: their base gives its bytes, late, or not at all.
 */
#ifndef TESTS_SIM_SNAPS_H
#define TESTS_SIM_SNAPS_H

#include "engine/engine.h"
#include "tests/sim/machine/sim.h"
#include "tests/sim/oracle.h"

#define SNAPS_MAX 8 /* of one volume, by number */

struct drill;

enum snap_state {
	SNAP_NONE,
	SNAP_ASKED,
	SNAP_PLACED,
	SNAP_DONE,
	SNAP_UNSURE, /* asked or let go, and a crash decides */
};

struct snap {
	enum snap_state state;
	unsigned volume;
	struct drill *drill;
	struct volume_op op;
	bool over;             /* op is */
	uint64_t asked;        /* the oracle's time */
	uint64_t sequence;     /* once placed */
	struct oracle *oracle; /* as of the cut */
	uint8_t *bytes;        /* what a view has shown; NULL: none has */
	uint64_t size;
};

/* Asks for snapshot `number` of volume i, and does not wait. */
void snap_ask(struct drill *d, unsigned i, unsigned number);
/* Until it is durable, or refused. False: dead. */
bool snap_wait(struct drill *d, unsigned i, unsigned number);
bool snap_let_go(struct drill *d, unsigned i, unsigned number);
/* The pins are those that must or may be there, and each view is right. False: dead. */
bool snaps_judge(struct drill *d, unsigned i);
void snaps_crash(struct drill *d, unsigned i); /* before the oracle is told */
void snaps_free(struct drill *d, unsigned i);

/* All bytes of the snapshot, sim_release them; NULL: dead. */
uint8_t *snap_bytes(struct drill *d, unsigned i, unsigned number, uint64_t *ret_size);
/* The units of which snapshot `number` says that they have changed since `since` (a sequence; all:
 * everything in the map), as a map of bytes, sim_release it. NULL: dead. */
uint8_t *snap_changes(struct drill *d, unsigned i, unsigned number, uint64_t since, bool all,
		      uint64_t *ret_units);

/* ---- Bases --------------------------------------------------------------------------------- */

/* Gives bytes that it keeps, after a while. */
struct snap_base {
	struct volume_base base;
	struct sim *sim;
	struct io_loop **loop; /* of this life */
	const uint8_t *bytes;
	uint64_t size;
	uint64_t bad_from; /* blocks that it can't give */
	uint64_t bad_to;
	uint64_t delay; /* ns at most */
	uint64_t bytes_read;
	const struct snap *of;
	bool released;
	bool hydrated;
};

/* Takes snapshot `number` of volume i, as the base of volume 1. */
void snaps_make_base(struct drill *d, unsigned i, unsigned number);
/* Makes volume `made` of it and opens it; its oracle knows what it holds. It is `more` bytes
 * longer. */
int snaps_make_volume(struct drill *d, unsigned made, uint64_t more);

#endif
