/* SPDX-License-Identifier: Apache-2.0
 *
 * Listeners, caps, stop. All on loops[0]; lanes and peers come and go by io_post.
 */
#include "nbd/server.h"

#include "base/check.h"
#include "nbd/internal.h"

#include <errno.h>
#include <string.h>

static void listener_accept(struct nbd_listener *listener);
static void listener_on_accept(struct io_op *op);
static bool server_peer(struct nbd_server *server, struct io_sock *sock, struct io_op *ended);
static void server_accept_all(struct nbd_server *server);
static void conn_on_arrival(struct io_msg *msg);
static void conn_on_burial(struct io_msg *msg);
static void server_need_tick(struct nbd_server *server);
static void server_on_tick(struct io_op *op);
static void server_stop_step(struct nbd_server *server);
static void server_on_lane_closed(struct io_msg *msg);

/* ---- Set-up ---- */

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
	return value ? value : fallback;
}

static int server_build(struct nbd_server *server, const struct nbd_config *config)
{
	uint64_t memory = or_default(config->memory_per_loop, NBD_MEMORY_PER_LOOP);
	int error = 0;

	server->exports = config->exports;
	server->loop = config->loops[0];
	server->max_connections =
	    (uint32_t)or_default(config->max_connections, NBD_CONNECTIONS_MAX);
	server->max_handshakes = (uint32_t)or_default(config->max_handshakes, NBD_HANDSHAKES_MAX);
	server->max_in_flight = (uint32_t)or_default(config->max_in_flight, NBD_IN_FLIGHT_MAX);
	server->handshake_ns = or_default(config->handshake_ns, NBD_HANDSHAKE_DEADLINE);
	server->stall_ns = or_default(config->stall_ns, NBD_STALL);
	server->tick.done = server_on_tick;
	list_init(&server->handshakes);
	/* Each listener may bring one more while the cap is being reached. */
	server->handshake_pool = pool_new(sizeof(struct nbd_handshake),
					  (size_t)server->max_handshakes + NBD_LISTENERS_MAX);
	server->conn_pool = pool_new(sizeof(struct nbd_conn), server->max_connections);
	server->lanes = mem_calloc(config->n_loops, sizeof(*server->lanes));
	if (!server->handshake_pool || !server->conn_pool || !server->lanes)
		return -ENOMEM;
	for (; server->n_lanes < config->n_loops && !error; server->n_lanes++)
		error = nbd_lane_init(&server->lanes[server->n_lanes], server,
				      config->loops[server->n_lanes], memory);
	server->lanes_open = server->n_lanes;
	return error;
}

int nbd_server_new(const struct nbd_config *config, struct nbd_server **ret_server, struct err *err)
{
	struct nbd_server *server = mem_alloc(sizeof(*server));
	int error = server ? server_build(server, config) : -ENOMEM;

	if (error) {
		nbd_server_free(server);
		return err_set(err, error, "no memory for the NBD server: lower its limits");
	}
	*ret_server = server;
	return 0;
}

void nbd_server_free(struct nbd_server *server)
{
	if (!server)
		return;
	for (unsigned i = 0; i < server->n_lanes; i++)
		nbd_lane_free(&server->lanes[i]);
	for (unsigned i = 0; i < server->n_listeners; i++)
		io_sock_close(server->listeners[i].sock);
	mem_free(server->lanes);
	pool_free(server->conn_pool);
	pool_free(server->handshake_pool);
	mem_free(server);
}

struct nbd_lane *nbd_server_lane(struct nbd_server *server, const struct io_loop *loop)
{
	for (unsigned i = 0; i < server->n_lanes; i++) {
		if (server->lanes[i].loop == loop)
			return &server->lanes[i];
	}
	CHECK(!"the device's loop was not named in nbd_config");
	return NULL;
}

/* ---- Listeners ---- */

int nbd_server_listen(struct nbd_server *server, struct io_sock *sock)
{
	struct nbd_listener *listener;

	if (server->n_listeners == NBD_LISTENERS_MAX)
		return -ENOSPC;
	listener = &server->listeners[server->n_listeners++];
	listener->server = server;
	listener->sock = sock;
	listener->accept.done = listener_on_accept;
	listener_accept(listener);
	return 0;
}

/* While handshakes are at their cap, newcomers wait in the kernel's queue. */
static void listener_accept(struct nbd_listener *listener)
{
	struct nbd_server *server = listener->server;

	if (listener->running || !listener->sock || server->stopping)
		return;
	if (pool_in_use(server->handshake_pool) >= server->max_handshakes)
		return;
	if (io_now(server->loop) < listener->not_before)
		return;
	listener->running = true;
	io_accept(server->loop, &listener->accept, listener->sock, &listener->accepted);
}

static void listener_on_accept(struct io_op *op)
{
	struct nbd_listener *listener = container_of(op, struct nbd_listener, accept);
	struct nbd_server *server = listener->server;

	listener->running = false;
	if (op->result == 0) {
		if (!server_peer(server, listener->accepted, NULL))
			io_sock_close(listener->accepted);
	} else if (!server->stopping) {
		if (log_limit_pass(&server->log, io_now(server->loop), NBD_LOG_BURST))
			log_error("nbd: accept failed (%s): new clients wait; raise the limit of "
				  "open files if that is the cause",
				  strerror((int)-op->result));
		listener->not_before = io_now(server->loop) + NBD_ACCEPT_PAUSE;
		server_need_tick(server);
	}
	if (server->stopping)
		server_stop_step(server);
	else
		listener_accept(listener);
}

static void server_accept_all(struct nbd_server *server)
{
	for (unsigned i = 0; i < server->n_listeners; i++)
		listener_accept(&server->listeners[i]);
}

/* ---- Peers ---- */

int nbd_server_serve_one(struct nbd_server *server, struct io_sock *sock, struct io_op *ended)
{
	if (server_peer(server, sock, ended))
		return 0;
	io_sock_close(sock);
	return -ENOSPC;
}

static bool server_peer(struct nbd_server *server, struct io_sock *sock, struct io_op *ended)
{
	struct nbd_handshake *handshake;
	struct nbd_conn *conn;

	if (server->stopping || server->n_conns >= server->max_connections) {
		if (!server->stopping &&
		    log_limit_pass(&server->log, io_now(server->loop), NBD_LOG_BURST))
			log_warning("nbd: refused a client: there are %u connections already",
				    server->n_conns);
		return false;
	}
	handshake = pool_get(server->handshake_pool);
	if (!handshake)
		return false; /* only nbd_server_serve_one can meet this */
	conn = pool_get(server->conn_pool);
	CHECK(conn);
	*conn = (struct nbd_conn){.server = server, .sock = sock, .ended = ended};
	conn->local = io_sock_is_local(sock);
	io_sock_peer(sock, conn->peer);
	server->n_conns++;
	nbd_handshake_start(handshake, conn);
	list_add_tail(&server->handshakes, &handshake->node);
	server_need_tick(server);
	return true;
}

void nbd_server_handshake_ended(struct nbd_handshake *handshake)
{
	struct nbd_conn *conn = handshake->conn;
	struct nbd_server *server = conn->server;

	list_remove(&handshake->node);
	pool_put(server->handshake_pool, handshake);
	if (conn->lane) {
		conn->msg.run = conn_on_arrival;
		io_post(conn->lane->loop, &conn->msg);
	} else {
		nbd_count(&server->refused, 1);
		io_sock_close(conn->sock);
		nbd_server_bury(conn);
	}
	server_accept_all(server);
}

static void conn_on_arrival(struct io_msg *msg)
{
	nbd_conn_start(container_of(msg, struct nbd_conn, msg));
}

void nbd_server_bury(struct nbd_conn *conn)
{
	conn->msg.run = conn_on_burial;
	io_post(conn->server->loop, &conn->msg);
}

static void conn_on_burial(struct io_msg *msg)
{
	struct nbd_conn *conn = container_of(msg, struct nbd_conn, msg);
	struct nbd_server *server = conn->server;
	struct io_op *ended = conn->ended;

	pool_put(server->conn_pool, conn);
	server->n_conns--;
	if (ended)
		io_defer(server->loop, ended, 0);
	if (server->stopping)
		server_stop_step(server);
}

/* ---- Deadlines ---- */

static void server_need_tick(struct nbd_server *server)
{
	if (server->ticking)
		return;
	server->ticking = true;
	io_timer(server->loop, &server->tick, NBD_TICK);
}

static void server_drop_late(struct nbd_server *server)
{
	uint64_t now = io_now(server->loop);
	bool crowded = pool_in_use(server->handshake_pool) >= server->max_handshakes;

	list_for_each (&server->handshakes, node) {
		struct nbd_handshake *h = list_entry(node, struct nbd_handshake, node);

		if (now > h->since + server->handshake_ns)
			nbd_handshake_kill(h, "it took too long");
		else if (server->stopping && now > server->stop_deadline)
			nbd_handshake_kill(h, "the server stops");
		else if (crowded && !h->cause && now > h->since + NBD_HANDSHAKE_MIN) {
			nbd_handshake_kill(h, "others wait to begin");
			crowded = false; /* one makes room */
		}
	}
}

static void server_on_tick(struct io_op *op)
{
	struct nbd_server *server = container_of(op, struct nbd_server, tick);
	bool paused = false;

	server->ticking = false;
	server_drop_late(server);
	server_accept_all(server);
	for (unsigned i = 0; i < server->n_listeners; i++)
		paused |= server->listeners[i].not_before > io_now(server->loop);
	if (!list_empty(&server->handshakes) || (paused && !server->stopping))
		server_need_tick(server);
	if (server->stopping)
		server_stop_step(server);
}

/* ---- Stopping ---- */

void nbd_server_stop(struct nbd_server *server, struct io_op *stopped)
{
	CHECK(!server->stopping);
	server->stopping = true;
	server->stopped = stopped;
	server->stop_deadline = io_now(server->loop) + NBD_STOP_HANDSHAKES;
	for (unsigned i = 0; i < server->n_listeners; i++) {
		if (server->listeners[i].running)
			io_sock_shutdown(server->loop, server->listeners[i].sock);
	}
	for (unsigned i = 0; i < server->n_lanes; i++)
		nbd_lane_stop(&server->lanes[i]);
	server_stop_step(server);
}

/* First nobody comes in any more, then all are gone, then the lanes are quiet. */
static void server_stop_step(struct nbd_server *server)
{
	for (unsigned i = 0; i < server->n_listeners; i++) {
		struct nbd_listener *listener = &server->listeners[i];

		if (listener->running)
			return;
		io_sock_close(listener->sock);
		listener->sock = NULL;
	}
	if (server->n_conns > 0 || server->lanes_closing)
		return;
	if (server->ticking) {
		if (!server->tick_cancelled)
			io_timer_cancel(server->loop, &server->tick);
		server->tick_cancelled = true;
		return;
	}
	server->lanes_closing = true;
	for (unsigned i = 0; i < server->n_lanes; i++)
		nbd_lane_close(&server->lanes[i]);
}

void nbd_server_lane_closed(struct nbd_lane *lane)
{
	lane->stop_msg.run = server_on_lane_closed;
	io_post(lane->server->loop, &lane->stop_msg);
}

static void server_on_lane_closed(struct io_msg *msg)
{
	struct nbd_lane *lane = container_of(msg, struct nbd_lane, stop_msg);
	struct nbd_server *server = lane->server;

	CHECK(server->lanes_open > 0);
	if (--server->lanes_open == 0)
		io_defer(server->loop, server->stopped, 0);
}

/* ---- Counters ---- */

static uint64_t counter(const uint64_t *c)
{
	return __atomic_load_n(c, __ATOMIC_RELAXED);
}

void nbd_server_stats(const struct nbd_server *server, struct nbd_stats *ret_stats)
{
	struct nbd_stats sum = {.refused = counter(&server->refused)};

	for (unsigned i = 0; i < server->n_lanes; i++) {
		const struct nbd_lane *lane = &server->lanes[i];

		sum.connections += counter(&lane->connections);
		sum.connected += counter(&lane->connected);
		sum.requests += counter(&lane->requests);
		sum.errors += counter(&lane->errors);
		sum.bytes_read += counter(&lane->bytes_read);
		sum.bytes_written += counter(&lane->bytes_written);
	}
	*ret_stats = sum;
}
