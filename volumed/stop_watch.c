/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/stop_watch.h"

#include "base/log.h"
#include "base/util.h"
#include "control/control.h"

#include <inttypes.h>

#define EVERY (10 * NSEC_PER_SEC)

static void on_timer(struct io_op *op)
{
	struct stop_watch *w = container_of(op, struct stop_watch, timer);
	uint64_t seconds = (io_now(w->loop) - w->began) / NSEC_PER_SEC;
	char text[CONTROL_STALL_TEXT];
	unsigned n = w->control ? control_stalled(w->control, text) : 0;

	if (n > 0)
		log_warning("stopping since %" PRIu64 " s: %s%s; nothing that was acknowledged is "
			    "lost if it is killed, or by a second signal",
			    seconds, text, n > 1 ? ", and other volumes" : "");
	else
		log_info("stopping since %" PRIu64 " s", seconds);
	io_timer(w->loop, &w->timer, EVERY);
}

void stop_watch_start(struct stop_watch *w, struct io_loop *loop, struct control *control)
{
	w->loop = loop;
	w->control = control;
	w->began = io_now(loop);
	w->timer.done = on_timer;
	io_timer(loop, &w->timer, EVERY);
}
