/* SPDX-License-Identifier: Apache-2.0
 *
 * The region's snapshot repository, as the daemon opens it. Disks are served without it, too.
 */
#ifndef VOLUMED_REGION_H
#define VOLUMED_REGION_H

#include "snapshots/repository.h"

struct region {
	void (*done)(struct region *region);
	struct repository *repository; /* NULL: it can't be used */
	struct err err;                /* why */
	struct repository_op op;
};

/* Opens the folder, or makes it. Before the loop's other work; blocks for the folder itself. `done`
 * follows if the result is true. */
bool region_open(struct region *region, const char *place, struct io_loop *loop);
/* Says what can't be done without it. */
void region_say(const struct region *region);
void region_close(struct region *region);

#endif
