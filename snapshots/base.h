/* SPDX-License-Identifier: Apache-2.0
 *
 * A snapshot as the base of a volume that was made of it (struct volume_base, engine/engine.h):
 * what the volume has not got yet is read from here.
 */
#ifndef SNAPSHOTS_BASE_H
#define SNAPSHOTS_BASE_H

#include "engine/engine.h"
#include "snapshots/reader.h"

struct snap_base;

/* Over an open reader on the volume's loop, which stays the caller's. What somebody waits for goes
 * ahead of what hydration asks; a quarter of the reader's reads are never hydration's. `released`
 * runs once, when the engine lets go, on the loop: nothing is in flight; with `hydrated` the volume
 * needs the snapshot no longer, and its hold can be released. -ENOMEM. */
int snap_base_new(struct snap_reader *reader, void (*released)(void *arg, bool hydrated), void *arg,
		  struct snap_base **ret_base, struct err *err);
/* For volume_op.base. */
struct volume_base *snap_base_volume_base(struct snap_base *base);
/* After `released`, or when the volume's open failed. NULL is legal. The reader may be closed then.
 */
void snap_base_free(struct snap_base *base);
/* What the last read that failed said, with snapshot, block and object; "" if none did. */
const char *snap_base_error(const struct snap_base *base);

#endif
