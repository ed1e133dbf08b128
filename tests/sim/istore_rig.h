/* SPDX-License-Identifier: Apache-2.0
 *
 * An instance store on the simulated machine, with a keep that is memory of the test's: it outlives
 * the death of the process, and is emptied when the host loses its power.
 */
#ifndef TESTS_SIM_ISTORE_RIG_H
#define TESTS_SIM_ISTORE_RIG_H

#include "instance-store/istore.h"
#include "tests/sim/machine/sim.h"
#include "tests/sim/oracle.h"

#define RIG_PATH  "instance-store"
#define RIG_STEPS 4000000

/* ---- The keep ------------------------------------------------------------------------ */

struct keep_sim {
	struct keep_source source; /* first */
	struct list items;
	unsigned n_boots;
	uint64_t kill_after; /* the process dies after so many calls that change it; 0: never */
	struct sim *sim;
};

/* ---- The rig ------------------------------------------------------------------------- */

enum rig_end {
	RIG_KILL,  /* the process dies */
	RIG_CUT,   /* the host loses its power: a new boot, the keep is empty */
	RIG_SHELF, /* the device alone loses its power: the keep is as it was */
	RIG_N_ENDS,
};

struct rig {
	struct sim *sim;
	struct keep_sim keep;
	struct io_loop *loop; /* the main one; there is a second */
	struct io_loop *other;
	struct io_loop *dev_loop; /* of the device that was resolved last */
	struct istore *store;
	struct istore_open open;
	struct istore_config config; /* of the next rig_open */
	bool opened;
};

struct rig *istore_rig_new(uint64_t seed, const struct sim_options *options);
void istore_rig_free(struct rig *r);
/* The store is open, or it has said no (r->open.err), or the machine died: false. */
bool istore_rig_open(struct rig *r);
/* Arms an end after the k-th point. */
void istore_rig_arm(struct rig *r, enum rig_end end, uint64_t k);
/* The life ends, if it has not, and another begins; nothing is open. */
void istore_rig_reboot(struct rig *r, enum rig_end end);
void istore_rig_close(struct rig *r);

/* Runs an operation; false: the machine died, or it failed (op->error). The op is the test's and
 * outlives lives. */
bool istore_rig_do(struct rig *r, struct istore_op *op);
bool istore_rig_create(struct rig *r, uint64_t instance, uint32_t number, uint64_t size);
bool istore_rig_end(struct rig *r, enum istore_op_kind kind, uint64_t instance, uint32_t number);

/* Resolves an export; NULL: there is none, or the machine died. */
struct block_dev *istore_rig_dev(struct rig *r, uint64_t instance, uint32_t number);
/* One request; false: it failed or the machine died. */
bool istore_rig_io(struct rig *r, struct block_dev *dev, enum block_op op, uint32_t flags,
		   uint64_t offset, uint64_t length, void *buf);
/* All of it reads as zeroes. */
bool istore_rig_is_zero(struct rig *r, struct block_dev *dev);
/* Bytes of an oracle are in the file as they were written. */
bool istore_rig_has_plaintext(struct rig *r);

#endif
