/* SPDX-License-Identifier: Apache-2.0
 *
 * The data folder: made at first use, held by one daemon at a time.
 */
#ifndef VOLUMED_DATA_DIR_H
#define VOLUMED_DATA_DIR_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>

struct data_dir {
	int fd; /* holds the lock; -1: not open */
	char path[PATH_MAX];
	char store[PATH_MAX];     /* the store's file or device */
	char socket[PATH_MAX];    /* DIR/nbd.sock */
	char api[PATH_MAX];       /* DIR/volumed.sock */
	char catalog[PATH_MAX];   /* DIR/catalog */
	char snapshots[PATH_MAX]; /* DIR/snapshots */
};

/* Opens and locks DIR, and makes it (mode 0700) if `create`. `store` may be NULL: DIR/store.
 * -EBUSY: another process holds it. */
int data_dir_open(struct data_dir *dir, const char *path, const char *store, bool create,
		  struct err *err);
void data_dir_close(struct data_dir *dir);

#endif
