/* SPDX-License-Identifier: Apache-2.0
 *
 * Completed snapshots as read-only exports. On the unix socket, whose peers are trusted, a snapshot
 * goes by its id. One reader and one hold in the repository serve all connections; both go with the
 * last of them.
 */
#ifndef CONTROL_SNAPDEV_H
#define CONTROL_SNAPDEV_H

#include "control/internal.h"

/* How a claim of a port is told from a snapshot's: the first member of each. */
struct export_claim {
	void (*release)(struct control *c, struct export_claim *claim); /* on the device's loop */
};

/* Control's loop. False: the name is no snapshot's, or not for this peer. True: it will be
 * answered. */
bool snapdev_resolve(struct control *c, struct export_op *op);

#endif
