/* SPDX-License-Identifier: Apache-2.0
 *
 * While the daemon stops: what that waits for, said in the log now and then. A disk that does not
 * answer keeps it for ever.
 */
#ifndef VOLUMED_STOP_WATCH_H
#define VOLUMED_STOP_WATCH_H

#include "io/io.h"

struct control;

struct stop_watch {
	struct io_loop *loop; /* control's */
	struct control *control;
	uint64_t began; /* io_now */
	struct io_op timer;
};

/* It runs until the loop ends. `control` may be NULL. */
void stop_watch_start(struct stop_watch *watch, struct io_loop *loop, struct control *control);

#endif
