/* SPDX-License-Identifier: Apache-2.0
 *
 * A local store on the simulated machine, and beside it a model of what it has promised (T1 to T5).
 * The rig outlives the store's lives. Functions that run the machine return false when the life
 * ended meanwhile.
 */
#ifndef TESTS_SIM_STORE_RIG_H
#define TESTS_SIM_STORE_RIG_H

#include "store/format.h"
#include "store/local.h"
#include "tests/sim/machine/sim.h"

#define PATH      "/store"
#define STEPS     10000000
#define SEGMENT   (4 * MiB)
#define GROUPS    3
#define SEGMENTS  (GROUPS * FORMAT_SEGMENTS)
#define VOLUMES   4
#define NAMES     6
#define OPS       6
#define IO_LENGTH 4096

/* ---- The model --------------------------------------------------------------------------------
 */

enum seg_state { SEG_FREE, SEG_LENT, SEG_FREEING };

struct seg_model {
	enum seg_state state;
	unsigned volume;
	uint32_t generation; /* the greatest that was seen */
	uint64_t stamp;      /* 0: nothing is known to be durable in it */
};

/* `fill` makes an object's bytes; version 0 is none. */
struct object_model {
	uint64_t version;
	uint64_t fill;
	bool pending; /* a swap was under way when the life ended */
	uint64_t pending_fill;
	bool pending_delete;
};

struct model {
	struct seg_model segs[SEGMENTS + 1];
	bool lending[VOLUMES];
	struct object_model objects[NAMES];
	uint64_t owner_term;
	bool has_objects; /* a swap was tried at least */
	bool damaged;     /* by the test */
};

enum op_kind { OP_NONE, OP_LEND, OP_FREE, OP_SWAP, OP_GET };

struct op {
	enum op_kind kind;
	struct rig *rig;
	bool done;
	unsigned volume; /* or name */
	uint64_t fill;
	struct store_ctl ctl;
};

struct rig {
	struct sim *sim;
	struct io_loop *owner;
	struct io_loop *other; /* a caller that is not the owner */
	struct store *store;
	struct store_open open;
	bool opened;
	uint64_t max_size;
	bool kill; /* instead of cutting the power */
	uint32_t pool;
	uint8_t stream; /* of what is lent; rig_new sets STORE_STREAM_USER */
	struct model m;
	struct op ops[OPS];
	struct store_io io;
	bool io_done;
	uint8_t *page;     /* IO_LENGTH, aligned */
	void *page_memory; /* which it is in */
	struct iovec iov;
};

/* Memory comes and goes by megabytes here; page faults would take most of the time. */
void rig_tune(void);
struct rig *rig_new(uint64_t seed, const struct sim_options *options);
void rig_free(struct rig *r);
/* Until *flag. */
bool rig_run(struct rig *r, bool *flag);
bool rig_open(struct rig *r);                    /* and fails if the store can't be opened */
bool rig_open_as(struct rig *r, bool read_only); /* r->open.err says how it went */
bool rig_close(struct rig *r);
/* The end of a life, and the beginning of the next. */
void rig_reboot(struct rig *r);
/* The store against the model. After it the model knows what became of things half done. */
void rig_check(struct rig *r);
/* After a crash: opens, checks, works on a bit, checks, closes. */
void rig_recover(struct rig *r);

/* These start something; r->ops has the answer. What they promise goes into the model as it is
 * answered. NULL: there is nothing to be done. */
struct op *rig_op(struct rig *r, enum op_kind kind, unsigned volume); /* OP_NONE: a blank one */
struct op *rig_lend(struct rig *r, unsigned volume, unsigned n);
struct op *rig_free_some(struct rig *r, unsigned volume, unsigned n);
struct op *rig_swap(struct rig *r, unsigned name, uint64_t fill, bool delete);
struct op *rig_get(struct rig *r, unsigned name);
bool rig_finish(struct rig *r, struct op *op); /* NULL is legal */
bool rig_finish_all(struct rig *r);

/* Data operations, waited for; r->io.result has the answer. */
bool rig_append(struct rig *r, uint64_t segment, uint64_t stamp);
bool rig_sync(struct rig *r);
/* Writes to every lent segment that has nothing yet, and syncs. */
bool rig_stamp_all(struct rig *r);

struct id rig_volume_name(unsigned volume);

#endif
