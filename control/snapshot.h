/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files about snapshots share.
 */
#ifndef CONTROL_SNAPSHOT_H
#define CONTROL_SNAPSHOT_H

#include "control/internal.h"
#include "snapshots/repository.h"

/* Unavailable, with the reason, if there is no repository. */
int snapshot_check_repository(struct control *c, struct control_error *error);
/* Job: a snapshot as the repository (info, or NULL) and the catalog (row, or NULL) have it. */
int snapshot_describe(struct catalog *c, struct arena *memory, const struct catalog_snapshot *row,
		      const struct snap_info *info, struct control_snapshot *ret_s,
		      struct err *err);
/* Job: the op's result is this one. */
int snapshot_result(struct catalog *c, struct task *t, const struct catalog_snapshot *row);

/* Job: the row of t->snapshot, of t->volume, which is checked, with its tags and an event. */
int snapshot_add(struct catalog *c, struct task *t);
/* What is known of how whole the snapshot is. -ENOMEM. */
int snapshot_work_describe(struct control *c, struct arena *memory, struct id id,
			   struct control_snapshot *s);
void snapshot_fail_limit(struct control_error *error);

#endif
