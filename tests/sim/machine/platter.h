/* SPDX-License-Identifier: Apache-2.0
 *
 * A fake file as the medium sees it: what every reader sees now, what is durable, and the changes
 * between the two, in the order in which they completed. disk.c states the fault model.
 */
#ifndef TESTS_SIM_MACHINE_PLATTER_H
#define TESTS_SIM_MACHINE_PLATTER_H

#include "tests/sim/machine/image.h"
#include "tests/sim/machine/machine.h"

#define SECTOR ((uint64_t)512) /* a device writes one whole, or not at all */

struct platter {
	struct list node; /* sim->files */
	char *path;
	struct image now;
	struct image durable;
	struct list changes; /* struct change, oldest first */
	bool locked;
	unsigned n_open;
};

/* A write, a punch (data NULL) or a growth (data NULL, `grows`) that is not durable yet. */
struct change {
	struct list node;
	uint64_t offset;
	uint64_t len;
	uint8_t *data;
	bool grows;    /* changes nothing but the size: to offset + len */
	uint64_t tick; /* when it completed */
};

struct platter *platter_find(struct sim *sim, const char *path);
struct platter *platter_make(struct sim *sim, const char *path);
void platter_free(struct platter *p);
/* Bytes that all files have grown to. */
uint64_t platters_size(struct sim *sim);

/* The change happens now; it becomes durable later or never. Takes `data` over. */
void platter_change(struct sim *sim, struct platter *p, const struct change *what, uint8_t *data);
/* As platter_change, for some of its sectors by chance: perhaps none, perhaps all. */
void platter_tear(struct sim *sim, struct platter *p, const struct change *what, uint8_t *data);
/* What completed before `tick` is durable. */
void platter_commit(struct platter *p, uint64_t tick);
/* A sync of what completed before `tick` failed. */
void platter_spoil(struct sim *sim, struct platter *p, uint64_t tick);
/* disk.c: a write, sync or growth from start to end, with its fate and its two points. The bytes
 * written, 0, or a negative errno: -EIO once the life has ended. */
int64_t disk_do_now(struct sim *sim, struct platter *p, enum sim_disk_kind kind, uint64_t offset,
		    uint64_t len, const void *data);
/* The power is gone. */
void platter_settle(struct sim *sim, struct platter *p);

#endif
