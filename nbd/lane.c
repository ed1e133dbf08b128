/* SPDX-License-Identifier: Apache-2.0
 *
 * One loop's share of the server. Its hook runs once in each turn, after all completions at hand:
 * so the answers that became ready together leave in one send, and freed memory goes to who waits.
 */
#include "base/check.h"
#include "nbd/internal.h"

#include <errno.h>

static void lane_hook(struct io_hook *hook);
static void lane_serve_line(struct nbd_lane *lane);
static void lane_on_tick(struct io_op *op);
static void lane_drop_slow(struct nbd_lane *lane);
static void lane_on_stop(struct io_msg *msg);
static void lane_on_close(struct io_msg *msg);
static void lane_quiet(struct nbd_lane *lane);

int nbd_lane_init(struct nbd_lane *lane, struct nbd_server *server, struct io_loop *loop,
		  uint64_t budget)
{
	int error = nbd_memory_init(&lane->memory, budget, sizeof(struct nbd_request));

	if (error)
		return error;
	lane->server = server;
	lane->loop = loop;
	list_init(&lane->conns);
	list_init(&lane->dirty);
	lane->tick.done = lane_on_tick;
	lane->stop_msg.run = lane_on_stop;
	lane->close_msg.run = lane_on_close;
	lane->hook.run = lane_hook;
	io_hook_add(loop, &lane->hook);
	lane->hooked = true;
	return 0;
}

void nbd_lane_free(struct nbd_lane *lane)
{
	if (lane->hooked)
		io_hook_remove(&lane->hook);
	nbd_memory_free(&lane->memory);
}

void nbd_lane_mark(struct nbd_lane *lane, struct nbd_conn *conn)
{
	if (conn->dirty)
		return;
	conn->dirty = true;
	list_add_tail(&lane->dirty, &conn->dirty_node);
}

void nbd_lane_need_tick(struct nbd_lane *lane)
{
	if (lane->ticking)
		return;
	lane->ticking = true;
	io_timer(lane->loop, &lane->tick, NBD_TICK);
}

static void lane_hook(struct io_hook *hook)
{
	struct nbd_lane *lane = container_of(hook, struct nbd_lane, hook);
	struct list *node;

	lane_serve_line(lane);
	while ((node = list_pop(&lane->dirty))) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, dirty_node);

		conn->dirty = false;
		nbd_conn_step(conn);
	}
}

/* Each who stands in line takes one thing in its turn and, if it wants more, goes to the end. */
static void lane_serve_line(struct nbd_lane *lane)
{
	for (int i = 0; i < NBD_N_CLASSES; i++) {
		struct list *line = &lane->memory.waiting[i];

		while (!list_empty(line) && pool_available(lane->memory.pools[i]) > 0)
			nbd_receive_resume(list_first(line, struct nbd_conn, turn_node), true);
	}
}

/* ---- Deadlines ---- */

static void lane_on_tick(struct io_op *op)
{
	struct nbd_lane *lane = container_of(op, struct nbd_lane, tick);
	uint64_t now = io_now(lane->loop);

	lane->ticking = false;
	if (lane->closing) {
		lane_quiet(lane);
		return;
	}
	lane_drop_slow(lane);
	if (lane->stopping && now > lane->stop_deadline) {
		list_for_each (&lane->conns, node)
			nbd_conn_kill(list_entry(node, struct nbd_conn, node),
				      "it did not take its last replies in time");
	}
	if (lane->resident && now >= lane->trim_at) {
		lane->resident = nbd_memory_trim(&lane->memory);
		lane->trim_at = now + NBD_TRIM;
	}
	if (lane->resident || nbd_memory_wanted(&lane->memory, NULL) ||
	    (lane->stopping && !list_empty(&lane->conns)))
		nbd_lane_need_tick(lane);
}

/* When others wait for memory, who holds some has to move. */
static void lane_drop_slow(struct nbd_lane *lane)
{
	uint64_t now = io_now(lane->loop);
	uint64_t stall = lane->server->stall_ns;

	list_for_each (&lane->conns, node) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, node);
		uint64_t second = NSEC_PER_SEC;

		if (!nbd_memory_wanted(&lane->memory, &conn->turn_node))
			continue;
		if (conn->incoming && now > conn->incoming_since + stall +
						conn->incoming->block.length / NBD_SLOWEST * second)
			nbd_conn_kill(conn, "it was too slow to send data while others waited");
		else if (conn->sending && now > conn->sending_since + stall +
						    conn->sending_bytes / NBD_SLOWEST * second)
			nbd_conn_kill(conn, "it was too slow to take replies while others waited");
	}
}

/* ---- Stopping ---- */

void nbd_lane_stop(struct nbd_lane *lane)
{
	io_post(lane->loop, &lane->stop_msg);
}

static void lane_on_stop(struct io_msg *msg)
{
	struct nbd_lane *lane = container_of(msg, struct nbd_lane, stop_msg);

	lane->stopping = true;
	lane->stop_deadline = io_now(lane->loop) + NBD_STOP_REPLIES;
	list_for_each (&lane->conns, node)
		nbd_conn_drain(list_entry(node, struct nbd_conn, node), "the server stops");
	nbd_lane_need_tick(lane);
}

void nbd_lane_close(struct nbd_lane *lane)
{
	io_post(lane->loop, &lane->close_msg);
}

static void lane_on_close(struct io_msg *msg)
{
	struct nbd_lane *lane = container_of(msg, struct nbd_lane, close_msg);

	CHECK(list_empty(&lane->conns));
	lane->closing = true;
	if (lane->ticking)
		io_timer_cancel(lane->loop, &lane->tick);
	else
		lane_quiet(lane);
}

static void lane_quiet(struct nbd_lane *lane)
{
	io_hook_remove(&lane->hook);
	lane->hooked = false;
	nbd_server_lane_closed(lane);
}
