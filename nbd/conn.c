/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection in the transmission phase: the sender, and how it ends. The receiver is in
 * receive.c; between the two, requests are with the device, in any number and order.
 *
 *   SERVE -> DRAIN         the peer hung up or said goodbye, or we stop
 *   DRAIN -> WAIT_FLUSH    we stop, all is answered: what was written becomes durable
 *   DRAIN, WAIT_FLUSH -> LINGER   FIN is sent; unread bytes are thrown away
 *   LINGER -> END
 */
#include "base/check.h"
#include "nbd/errno.h"
#include "nbd/internal.h"
#include "nbd/protocol.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum next { AGAIN, WAIT };

static void conn_enter(struct nbd_conn *conn, enum nbd_conn_state state);
static void request_on_block(struct block_req *block);
static void request_succeed(struct nbd_request *request);
static void conn_send(struct nbd_conn *conn);
static int gather(struct nbd_conn *conn);
static void conn_on_sent(struct io_op *op);
static enum next conn_drained(struct nbd_conn *conn);
static void conn_on_flushed(struct block_req *block);
static enum next conn_linger(struct nbd_conn *conn);
static void conn_end(struct nbd_conn *conn);

/* Connection memory: the receive buffer, then the iovecs. */
#define CONN_MEMORY (NBD_RECEIVE_BUFFER + NBD_SEND_IOVECS * sizeof(struct iovec))

void nbd_conn_start(struct nbd_conn *conn)
{
	struct nbd_lane *lane = conn->lane;

	list_init(&conn->ready);
	list_init(&conn->sent);
	list_init(&conn->turn_node);
	list_init(&conn->dirty_node);
	list_add_tail(&lane->conns, &conn->node);
	nbd_count(&lane->connections, 1);
	nbd_count(&lane->connected, 1);
	conn->state = CONN_SERVE;
	conn->receive_state = RECEIVE_PARSE;
	conn->buffer = mem_alloc_pages(CONN_MEMORY);
	if (conn->buffer)
		conn->iov = (struct iovec *)(conn->buffer + NBD_RECEIVE_BUFFER);
	else
		nbd_conn_kill(conn, "there is no memory for its buffer");
	log_info("nbd: %s connected to export %s", conn->peer, conn->name);
	if (lane->stopping)
		nbd_conn_drain(conn, "the server stops");
	conn->arrived = true;
	if (conn->leave != LEAVE_NOT)
		nbd_conn_leave(conn, conn->leave == LEAVE_AT_ONCE);
	nbd_receive_step(conn);
}

/* Before it has arrived nothing of it can reach the device. */
void nbd_conn_leave(void *holder, bool at_once)
{
	struct nbd_conn *conn = holder;

	conn->leave = at_once ? LEAVE_AT_ONCE : LEAVE_DRAINED;
	if (!conn->arrived)
		return;
	if (at_once)
		nbd_conn_kill(conn, "its volume was detached by force");
	else
		nbd_conn_drain(conn, "its volume was detached");
}

void nbd_conn_step(struct nbd_conn *conn)
{
	for (;;) {
		switch (conn->state) {
		case CONN_SERVE:
			conn_send(conn);
			return;
		case CONN_DRAIN:
			conn_send(conn);
			if (conn_drained(conn) == WAIT)
				return;
			continue;
		case CONN_WAIT_FLUSH:
			return;
		case CONN_LINGER:
			if (conn_linger(conn) == WAIT)
				return;
			continue;
		case CONN_END:
			conn_end(conn);
			return;
		}
	}
}

static void conn_enter(struct nbd_conn *conn, enum nbd_conn_state state)
{
	conn->state = state;
}

/* ---- Requests ---- */

void nbd_request_submit(struct nbd_request *request)
{
	request->block.done = request_on_block;
	block_submit(request->conn->dev, &request->block);
}

static void request_on_block(struct block_req *block)
{
	struct nbd_request *request = container_of(block, struct nbd_request, block);

	if (block->error == -ESHUTDOWN)
		nbd_conn_kill(request->conn, "its attachment was fenced");
	nbd_request_answer(request, nbd_error(block->error), nbd_error_text(block->error));
}

void nbd_request_answer(struct nbd_request *request, uint32_t error, const char *why)
{
	struct nbd_conn *conn = request->conn;
	struct nbd_lane *lane = conn->lane;
	uint64_t cookie = request->header.cookie;

	request->error = error;
	request->why = why;
	if (error) {
		conn->n_errors++;
		nbd_count(&lane->errors, 1);
		if (error != NBD_ENOTSUP &&
		    log_limit_pass(&lane->log, io_now(lane->loop), NBD_LOG_BURST))
			log_warning("nbd: %s, export %s: request %u at %" PRIu64 "+%" PRIu32
				    " failed: %s",
				    conn->peer, conn->name, request->header.type,
				    request->header.offset, request->header.length, why);
	}
	if (error && conn->terms.structured)
		request->header_size =
		    (uint32_t)nbd_reply_error(request->reply, cookie, error, (uint16_t)strlen(why));
	else if (error)
		request->header_size = (uint32_t)nbd_reply_simple(request->reply, cookie, error);
	else
		request_succeed(request);
	list_add_tail(&conn->ready, &request->link);
	nbd_lane_mark(lane, conn);
}

static void request_succeed(struct nbd_request *request)
{
	struct nbd_conn *conn = request->conn;
	const struct block_req *block = &request->block;
	uint64_t cookie = request->header.cookie;
	size_t n;

	if (block->op == BLOCK_STATUS) {
		CHECK(block->n_extents > 0);
		n = nbd_reply_status(request->reply, cookie, NBD_BASE_ALLOCATION_ID,
				     block->n_extents);
		nbd_extents_to_wire(block->extents, block->n_extents);
	} else if (block->op == BLOCK_READ && conn->terms.structured) {
		n = nbd_reply_data(request->reply, cookie, block->offset, (uint32_t)block->length);
	} else {
		n = nbd_reply_simple(request->reply, cookie, 0);
	}
	if (block->op == BLOCK_READ)
		nbd_count(&conn->lane->bytes_read, block->length);
	if (block->op == BLOCK_WRITE)
		nbd_count(&conn->lane->bytes_written, block->length);
	request->header_size = (uint32_t)n;
}

void nbd_request_release(struct nbd_request *request)
{
	struct nbd_conn *conn = request->conn;
	struct nbd_memory *memory = &conn->lane->memory;

	CHECK(conn->n_in_flight > 0);
	conn->n_in_flight--;
	if (request->memory)
		pool_put(memory->pools[request->kind], request->memory);
	pool_put(memory->pools[NBD_CLASS_SLOT], request);
}

/* ---- Sender ---- */

static void release_all(struct list *requests)
{
	struct list *node;

	while ((node = list_pop(requests)))
		nbd_request_release(list_entry(node, struct nbd_request, link));
}

static void conn_send(struct nbd_conn *conn)
{
	int n;

	if (conn->sending)
		return;
	if (conn->dead)
		release_all(&conn->ready);
	if (list_empty(&conn->ready))
		return;
	n = gather(conn);
	conn->sending = true;
	conn->sending_since = io_now(conn->lane->loop);
	conn->send.done = conn_on_sent;
	io_send(conn->lane->loop, &conn->send, conn->sock, conn->iov, n);
}

/* The bytes after a reply's header, if any. */
static struct iovec reply_body(const struct nbd_request *request)
{
	const struct block_req *block = &request->block;

	if (request->error) {
		bool told = request->conn->terms.structured;

		return (struct iovec){(void *)(uintptr_t)request->why,
				      told ? strlen(request->why) : 0};
	}
	if (block->op == BLOCK_READ)
		return (struct iovec){block->buf, block->length};
	if (block->op == BLOCK_STATUS)
		return (struct iovec){block->extents, (size_t)block->n_extents * 8};
	return (struct iovec){NULL, 0};
}

/* As many of the ready answers as go into one send. */
static int gather(struct nbd_conn *conn)
{
	int n = 0;

	conn->sending_bytes = 0;
	while (!list_empty(&conn->ready) && n + 2 <= NBD_SEND_IOVECS &&
	       conn->sending_bytes < NBD_SEND_BYTES) {
		struct nbd_request *request = list_first(&conn->ready, struct nbd_request, link);
		struct iovec body = reply_body(request);

		list_remove(&request->link);
		list_add_tail(&conn->sent, &request->link);
		conn->iov[n++] = (struct iovec){request->reply, request->header_size};
		if (body.iov_len > 0)
			conn->iov[n++] = body;
		conn->sending_bytes += request->header_size + body.iov_len;
	}
	return n;
}

static void conn_on_sent(struct io_op *op)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, send);

	conn->sending = false;
	release_all(&conn->sent);
	if (op->result < 0)
		nbd_conn_kill(conn, "it took no more replies");
	nbd_lane_mark(conn->lane, conn);
	if (list_empty(&conn->turn_node)) /* it waited for nothing but this */
		nbd_receive_resume(conn, false);
}

/* ---- The end ---- */

void nbd_conn_drain(struct nbd_conn *conn, const char *cause)
{
	if (conn->state != CONN_SERVE)
		return;
	conn->cause = cause;
	conn_enter(conn, CONN_DRAIN);
	nbd_lane_mark(conn->lane, conn);
}

void nbd_conn_kill(struct nbd_conn *conn, const char *cause)
{
	if (conn->dead)
		return;
	conn->dead = true;
	nbd_receive_give_up(conn);
	if (conn->state == CONN_SERVE || conn->state == CONN_DRAIN) {
		conn->cause = cause;
		conn_enter(conn, CONN_DRAIN);
	}
	io_sock_shutdown(conn->lane->loop, conn->sock);
	nbd_lane_mark(conn->lane, conn);
}

/* An incoming request whose receive still runs is not waited for: stopping does not depend on what
 * the peer may yet send. */
static enum next conn_drained(struct nbd_conn *conn)
{
	uint32_t unfinished = conn->n_in_flight - (conn->incoming ? 1 : 0);

	if (unfinished > 0 || conn->sending || conn->receive_state == RECEIVE_WAIT_TURN)
		return WAIT;
	if (conn->lane->stopping && !conn->dead && !(conn->dev->flags & BLOCK_DEV_READ_ONLY)) {
		conn->flush = (struct block_req){.op = BLOCK_FLUSH, .done = conn_on_flushed};
		conn_enter(conn, CONN_WAIT_FLUSH);
		block_submit(conn->dev, &conn->flush);
		return WAIT;
	}
	io_sock_shutdown(conn->lane->loop, conn->sock);
	conn_enter(conn, CONN_LINGER);
	return AGAIN;
}

static void conn_on_flushed(struct block_req *block)
{
	struct nbd_conn *conn = container_of(block, struct nbd_conn, flush);

	if (block->error && block->error != -ESHUTDOWN)
		log_error("nbd: the last flush of export %s failed (%s): what was not flushed "
			  "before may be lost in a power cut",
			  conn->name, strerror(-block->error));
	io_sock_shutdown(conn->lane->loop, conn->sock);
	conn_enter(conn, CONN_LINGER);
	nbd_lane_mark(conn->lane, conn);
}

static enum next conn_linger(struct nbd_conn *conn)
{
	if (conn->receive_state != RECEIVE_ENDED)
		return WAIT; /* its receive ends soon: the socket is shut down */
	if (conn->dead || conn->linger_rounds == NBD_LINGER_ROUNDS ||
	    (conn->linger_rounds > 0 && conn->receive.result <= 0)) {
		conn_enter(conn, CONN_END);
		return AGAIN;
	}
	conn->linger_rounds++;
	nbd_receive_linger(conn);
	return WAIT;
}

static void conn_end(struct nbd_conn *conn)
{
	struct nbd_lane *lane = conn->lane;

	CHECK(conn->n_in_flight == 0);
	CHECK(!conn->sending);
	CHECK(list_empty(&conn->turn_node));
	CHECK(!conn->dirty);
	log_info("nbd: %s left export %s: %s (%" PRIu64 " requests, %" PRIu64 " errors)",
		 conn->peer, conn->name, conn->cause, conn->n_requests, conn->n_errors);
	lane->server->exports->release(lane->server->exports, conn->claim);
	io_sock_close(conn->sock);
	mem_free_pages(conn->buffer, CONN_MEMORY);
	list_remove(&conn->node);
	nbd_count(&lane->connections, (uint64_t)-1);
	nbd_server_bury(conn);
}
