/* SPDX-License-Identifier: Apache-2.0
 *
 * What to try on a running daemon, as lines that can be pasted into a shell (volumed --hints).
 */
#ifndef VOLUMED_HINTS_H
#define VOLUMED_HINTS_H

#include "control/control.h"
#include "volumed/sockets.h"

/* On standard output: how to use the attached volume (NULL: none is), and how volumectl reaches the
 * daemon by the API socket `api`. */
void hints_print(const struct listeners *listeners, const char *api,
		 const struct control_volume *volume);

#endif
