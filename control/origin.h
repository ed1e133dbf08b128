/* SPDX-License-Identifier: Apache-2.0
 *
 * The snapshot that a volume was made of, as the engine reads it (engine/engine.h, struct
 * volume_base): a reader in the repository, by a hold that has the volume's name. Lives on the
 * volume's loop from the volume's opening to the engine's release.
 */
#ifndef CONTROL_ORIGIN_H
#define CONTROL_ORIGIN_H

#include "control/internal.h"
#include "snapshots/repository.h"

#define HOLD_TIME                                                                                  \
	(60 * 24 * 3600 * NSEC_PER_SEC) /* renewed at each opening of the volume, and each day */

/* A task's volume_op on the volume's loop, in place of volume_open: opens the task's
 * volume.base first. If that can't be had the volume is opened all the same; what is not copied yet
 * then reads as EIO. */
void origin_open(struct volume_op *op);
/* Control's loop: lets go of the hold of the task's volume, enters `state` and steps, with the
 * result in t->forget_error. False: it has entered it, and there is nothing to wait for. A hold
 * that can't be released ends by itself. */
bool origin_forget(struct task *t, int state);

#endif
