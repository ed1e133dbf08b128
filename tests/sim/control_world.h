/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon without its protocols on the simulated machine: store, engines on two loops, the
 * catalog on a third (over the same fake disk), control. Each life is begun by cw_begin, and ends
 * by cw_end, or with the machine's and cw_reboot.
 */
#ifndef TESTS_SIM_CONTROL_WORLD_H
#define TESTS_SIM_CONTROL_WORLD_H

#include "block/export.h"
#include "control/control.h"
#include "engine/engine.h"
#include "metadata/worker.h"
#include "store/local.h"
#include "tests/sim/blobs_sim.h"
#include "tests/sim/machine/sim.h"

#define CW_HOMES 2
#define CW_ID    40 /* bytes of an id's text */

struct cw {
	struct sim *sim;
	struct control_config config; /* what tests change: overcommit, first volume, ... */
	struct blobs_sim *objects;    /* of the repository; the test's. NULL: there is none */
	struct repository *repository;
	uint64_t ballast_size;
	uint64_t store_max_size;
	uint64_t stuck_after_ns; /* of the engines; 0: nobody watches */
	struct control_home homes[CW_HOMES];
	struct io_loop *catalog_loop;
	struct store *store;
	struct catalog *catalog;
	struct catalog_worker *worker;
	struct control *control;
	struct control_start started;
	char own[48];   /* instance to which the last volume was attached */
	struct err err; /* of the step that failed last */
};

void cw_init(struct cw *w, struct sim *sim);
/* A life, to the end of control_start. 0; a negative errno (w->err); -ESHUTDOWN: the machine died
 * meanwhile. */
int cw_begin(struct cw *w);
/* Stops cleanly and frees everything. */
int cw_end(struct cw *w);
/* After the life has ended: the next one may begin. */
void cw_reboot(struct cw *w);
/* Steps until nothing is left to happen: what goes on behind an answer ends. 0 or -ESHUTDOWN. */
int cw_settle(struct cw *w);

/* One operation to its end: 0, what it failed with, or -ESHUTDOWN: the machine died. The results
 * are the caller's to release, but for -ESHUTDOWN. */
int cw_op(struct cw *w, struct control_op *op);
/* The same, in one line each. ret_id may be NULL. */
int cw_create(struct cw *w, uint64_t size, const char *token, char ret_id[CW_ID]);
int cw_delete(struct cw *w, const char *volume);
int cw_resize(struct cw *w, const char *volume, uint64_t size);
int cw_attach(struct cw *w, const char *volume, const char *instance, char ret_export[64]);
int cw_detach(struct cw *w, const char *volume, bool force);
int cw_register(struct cw *w, char ret_id[CW_ID]);
int cw_deregister(struct cw *w, const char *instance);
/* Done when it is cut; it is uploaded behind. */
int cw_snapshot(struct cw *w, const char *volume, char ret_id[CW_ID]);
/* A volume made of the snapshot, of its size. */
/* Of all that w->own has: two, by the ids of their volumes. */
int cw_snapshot_group(struct cw *w, char ret_ids[2][CW_ID]);
int cw_restore(struct cw *w, const char *snapshot, bool full, char ret_id[CW_ID]);
int cw_snapshot_delete(struct cw *w, const char *snapshot);
/* Everything is checked, every stored block read: what is wrong fails the test. */
int cw_check(struct cw *w);

/* What the lists say. The caller releases. */
struct cw_list {
	struct control_op op;
	unsigned n;
	struct control_volume *volumes;
	struct control_instance *instances;
};
int cw_list(struct cw *w, struct cw_list *list, bool instances);
const struct control_volume *cw_find(const struct cw_list *list, const char *id); /* or NULL */

/* A client by name. 0 or what resolving it gave. */
int cw_resolve(struct cw *w, const char *name, bool local, bool claim, struct export_op **ret_op);
void cw_release(struct cw *w, struct export_op *op);
/* One request to a resolved device, on its loop. */
int cw_io(struct cw *w, const struct export_info *info, enum block_op what, uint64_t offset,
	  uint64_t length, void *buf);
/* Segments that the store has lent to the volume, and volumes that it has. */
unsigned cw_segments(struct cw *w, const char *volume);
unsigned cw_objects(struct cw *w);

#endif
