/* SPDX-License-Identifier: Apache-2.0
 *
 * What to try on a running daemon, as lines that can be pasted into a shell (volumed --hints).
 */
#ifndef VOLUMED_HINTS_H
#define VOLUMED_HINTS_H

#include "control/control.h"
#include "volumed/sockets.h"

/* On standard output, for these sockets and the daemon's first volume. */
/* For one attached volume; NULL: there is nothing to try. */
void hints_print(const struct listeners *listeners, const struct control_volume *volume);

#endif
