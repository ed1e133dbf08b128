/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that use a running daemon.
 */
#ifndef INSTANCE_STORED_CLIENT_H
#define INSTANCE_STORED_CLIENT_H

#include <stdbool.h>

/* Whether argv[1] is one of them. */
bool client_is_command(int argc, char **argv);
/* Runs it. The exit status: 0; 1: it was refused, or there is no daemon; 2: bad usage. */
int client_run(int argc, char **argv);

#endif
