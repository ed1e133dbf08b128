/* SPDX-License-Identifier: Apache-2.0
 *
 * The serving daemon: daemon_start is its parts list, and what it built comes down in reverse.
 */
#ifndef VOLUMED_DAEMON_H
#define VOLUMED_DAEMON_H

#include "volumed/options.h"

/* Serves until a signal (or, with MODE_STDIO, until the connection ends), then stops cleanly. Every
 * error is logged. Returns the exit status: 0 after a clean stop, 1 otherwise. */
int daemon_run(const struct options *options);

#endif
