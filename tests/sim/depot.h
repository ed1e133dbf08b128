/* SPDX-License-Identifier: Apache-2.0
 *
 * Daemons that share a snapshot repository on the simulated machine, and what each snapshot must
 * read as. Each daemon is a loop with a repository of its own over the same objects.
 *
 * Functions that step the machine return false when it died meanwhile; errors that a test does not
 * expect go to sim_fail.
 */
#ifndef TESTS_SIM_DEPOT_H
#define TESTS_SIM_DEPOT_H

#include "snapshots/copy.h"
#include "snapshots/format.h"
#include "snapshots/reader.h"
#include "snapshots/sweep.h"
#include "snapshots/writer.h"
#include "tests/sim/blobs_sim.h"
#include "tests/sim/machine/sim.h"

#define DEPOT_DAEMONS 2
#define DEPOT_PLACES  14 /* blocks that tests write, all over a volume of 1 TiB */
#define DEPOT_SIZE    TiB
#define SEED_ABSENT   0
#define SEED_ZERO     1

/* What a snapshot holds: a seed for the bytes of each place. */
struct model {
	uint32_t seed[DEPOT_PLACES];
};

struct depot {
	struct sim *sim;
	struct blobs_sim *objects;
	struct io_loop *loop[DEPOT_DAEMONS];
	struct repository *repository[DEPOT_DAEMONS];
	struct snap_sweep_memory memory[DEPOT_DAEMONS];
	struct depot *second;
	struct snap_writer_config writer; /* id, parent, size are set by upload_start */
};

/* An upload on its way: the places in which `to` differs from `from`. Lives in the test's memory
 * and may be abandoned at a crash. */
struct upload {
	struct depot *depot;
	unsigned daemon;
	struct id id;
	struct id parent;
	struct model from;
	struct model to;
	bool abort;     /* rather than seal */
	uint64_t pause; /* ns, at most so long after each put; 0: none */
	bool done;
	int error;
	struct err err;
	struct snap_writer_stats stats;
	struct snap_info info;
	/* Its own. */
	struct snap_writer *writer;
	struct snap_writer_op op;
	unsigned at;
	unsigned in_flight;
	bool pausing;
	struct io_op timer;
	struct snap_put puts[DEPOT_PLACES];
	uint8_t *buf[DEPOT_PLACES];
};

void depot_init(struct depot *depot, uint64_t seed);
/* A second place on the same machine (its reboot settles both). */
void depot_init_second(struct depot *second, struct depot *first);
void depot_free(struct depot *depot);
void depot_free_second(struct depot *second);
/* Begins a life: loops, and the repository opened by each (made by the first). */
bool depot_up(struct depot *depot);
/* Ends it (by a power cut if nothing else did), and begins the next. */
void depot_reboot(struct depot *depot);

struct id depot_id(unsigned n);
uint64_t depot_place(unsigned i); /* block number */
/* A random change of some places. */
void model_change(struct depot *depot, struct model *model, unsigned n);
void model_bytes(uint32_t seed, uint8_t *buf);

/* NULL parent: none, and `from` is empty. */
void upload_start(struct upload *u, struct depot *depot, unsigned daemon, struct id id,
		  const struct id *parent, const struct model *from, const struct model *to);
void upload_free(struct upload *u);
/* An upload to its end, which must be good. */
bool depot_upload(struct depot *depot, unsigned daemon, struct id id, const struct id *parent,
		  const struct model *from, const struct model *to);

bool depot_delete(struct depot *depot, unsigned daemon, struct id id);
bool depot_hold(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		uint64_t ttl_ns, int *ret_error);
bool depot_release(struct depot *depot, unsigned daemon, const char *holder);
/* *sweep has its config set (depot_sweep_config). */
bool depot_sweep(struct depot *depot, unsigned daemon, struct snap_sweep *sweep);
struct snap_sweep_config depot_sweep_config(void);
bool depot_get(struct depot *depot, unsigned daemon, struct id id, struct snap_info *info,
	       int *ret_error);
/* Every place, whole and in part, the neighbours, the list of blocks. `holder` may be NULL. */
bool depot_verify(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		  const struct model *model);
bool depot_open(struct depot *depot, unsigned daemon, struct id id, const char *holder,
		struct snap_reader **ret_reader, int *ret_error);
/* One read; *ret_error is its error, text in *err if not NULL. */
bool depot_read(struct depot *depot, struct snap_reader *reader, void *buf, uint64_t offset,
		uint64_t len, int *ret_error, struct err *err);
bool depot_wait(struct depot *depot, bool *flag);
bool depot_sleep(struct depot *depot, uint64_t ns);
/* Sweeps until it succeeds: a dead daemon's lease has to run out first. */
bool depot_sweep_clean(struct depot *depot, unsigned daemon);
/* S2: with every snapshot in ids deleted and a sweep, nothing is left but the head and the lease.
 */
bool depot_nothing_leaks(struct depot *depot, const struct id *ids, unsigned n);

#endif
