/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's life, as a parts list.
 */
#ifndef INSTANCE_STORED_DAEMON_H
#define INSTANCE_STORED_DAEMON_H

#include "instance-stored/options.h"

/* Runs until a signal. The exit status. */
int daemon_run(const struct options *options);

#endif
