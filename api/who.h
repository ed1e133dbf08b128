/* SPDX-License-Identifier: Apache-2.0
 *
 * Who asks, for the events: the program's name for itself and the user that the kernel knows.
 */
#ifndef API_WHO_H
#define API_WHO_H

#include "base/arena.h"

struct MHD_Connection;

/* "volumectl, user alice"; NULL: no memory. */
const char *who_is(struct MHD_Connection *connection, struct arena *memory);

#endif
