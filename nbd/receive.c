/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiver of a connection. One receive brings up to a buffer full of requests; small payloads
 * are copied out of the buffer, the rest of a large one is received where it belongs. When too many
 * requests are in flight, or memory is short, it stops receiving: TCP tells the peer to wait.
 *
 *   PARSE <-> WAIT_BYTES      the buffer holds no whole request
 *   PARSE <-> WAIT_PAYLOAD    a large payload is under way
 *   PARSE <-> WAIT_TURN       too many in flight, or in line for memory
 *   PARSE  -> ENDED           end of stream, DISC, error, stop
 *   ENDED <-> WAIT_LINGER     what still comes is thrown away before the socket is closed
 */
#include "base/check.h"
#include "nbd/internal.h"
#include "nbd/protocol.h"

#include <errno.h>
#include <string.h>

enum next { AGAIN, WAIT };

static void receive_enter(struct nbd_conn *conn, enum nbd_receive_state state);
static enum next receive_parse(struct nbd_conn *conn);
static enum next receive_header(struct nbd_conn *conn);
static enum next request_begin(struct nbd_conn *conn, const struct nbd_request_header *header);
static bool take(struct nbd_conn *conn, enum nbd_class kind, void **ret_memory);
static enum next request_prepare(struct nbd_request *request);
static enum next receive_payload(struct nbd_conn *conn);
static enum next receive_more(struct nbd_conn *conn, size_t least);
static void request_complete(struct nbd_request *request);
static void receive_on_io(struct io_op *op);
static void receive_end(struct nbd_conn *conn, const char *cause);

void nbd_receive_step(struct nbd_conn *conn)
{
	for (;;) {
		switch (conn->receive_state) {
		case RECEIVE_PARSE:
			if (receive_parse(conn) == WAIT)
				return;
			continue;
		case RECEIVE_WAIT_BYTES:
			if (conn->receive.result > 0)
				conn->tail += (size_t)conn->receive.result;
			break;
		case RECEIVE_WAIT_PAYLOAD:
			if (conn->receive.result > 0)
				conn->incoming->payload_left -= (uint32_t)conn->receive.result;
			break;
		case RECEIVE_WAIT_LINGER:
			receive_enter(conn, RECEIVE_ENDED);
			nbd_lane_mark(conn->lane, conn);
			return;
		case RECEIVE_WAIT_TURN:
		case RECEIVE_ENDED:
			return;
		}
		receive_enter(conn, RECEIVE_PARSE);
		if (conn->receive.result < 0)
			receive_end(conn, "the connection broke");
		else if ((size_t)conn->receive.result < conn->receive_least)
			receive_end(conn, conn->incoming || conn->tail > conn->head
					      ? "it hung up within a request"
					      : "it hung up");
	}
}

static void receive_enter(struct nbd_conn *conn, enum nbd_receive_state state)
{
	conn->receive_state = state;
}

static enum next receive_parse(struct nbd_conn *conn)
{
	if (conn->dead || (conn->state != CONN_SERVE && conn->state != CONN_DRAIN)) {
		receive_end(conn, conn->cause);
		return WAIT;
	}
	return conn->incoming ? receive_payload(conn) : receive_header(conn);
}

static enum next receive_header(struct nbd_conn *conn)
{
	struct nbd_request_header header;

	if (conn->tail - conn->head < NBD_REQUEST_SIZE)
		return receive_more(conn, NBD_REQUEST_SIZE - (conn->tail - conn->head));
	if (!nbd_request_parse(conn->buffer + conn->head, &header)) {
		receive_end(conn, "it sent garbage instead of a request");
		return WAIT;
	}
	if (header.type == NBD_CMD_DISC) {
		receive_end(conn, "it said goodbye");
		return WAIT;
	}
	if (nbd_request_payload(&header) > NBD_DROP_PAYLOAD) {
		receive_end(conn, "it announced more than 64 MiB in one write");
		return WAIT;
	}
	return request_begin(conn, &header);
}

/* Takes slot and memory. Without them the header stays in the buffer, for another try. */
static enum next request_begin(struct nbd_conn *conn, const struct nbd_request_header *header)
{
	struct nbd_request *request;
	void *slot;

	if (conn->n_in_flight >= conn->server->max_in_flight) {
		receive_enter(conn, RECEIVE_WAIT_TURN);
		return WAIT;
	}
	if (!take(conn, NBD_CLASS_SLOT, &slot))
		return WAIT;
	request = slot;
	memset(request, 0, sizeof(*request));
	request->conn = conn;
	request->header = *header;
	request->payload_left = nbd_request_payload(header);
	conn->n_in_flight++;
	if (request_prepare(request) == WAIT) {
		conn->n_in_flight--;
		pool_put(conn->lane->memory.pools[NBD_CLASS_SLOT], slot);
		return WAIT;
	}
	conn->has_turn = false;
	conn->head += NBD_REQUEST_SIZE;
	conn->n_requests++;
	nbd_count(&conn->lane->requests, 1);
	conn->incoming = request;
	conn->incoming_since = io_now(conn->lane->loop);
	return AGAIN;
}

/* One thing of the class; or none, and the connection stands in line for it. */
static bool take(struct nbd_conn *conn, enum nbd_class kind, void **ret_memory)
{
	struct nbd_memory *memory = &conn->lane->memory;
	void *p = NULL;

	if (conn->has_turn || list_empty(&memory->waiting[kind]))
		p = pool_get(memory->pools[kind]);
	if (!p) {
		conn->has_turn = false;
		list_add_tail(&memory->waiting[kind], &conn->turn_node);
		receive_enter(conn, RECEIVE_WAIT_TURN);
		nbd_lane_need_tick(conn->lane);
		return false;
	}
	*ret_memory = p;
	return true;
}

/* Room for the extents of a range: one for each sector at most. */
static uint64_t status_size(uint64_t length)
{
	return min_u64(length / BLOCK_SECTOR * sizeof(struct block_extent), NBD_STATUS_BUFFER);
}

/* Checks the request and gets the memory that it needs; a refused one needs none. */
static enum next request_prepare(struct nbd_request *request)
{
	struct nbd_conn *conn = request->conn;
	struct block_req *block = &request->block;
	uint64_t skew = 0;
	uint64_t size = 0;

	request->error =
	    nbd_request_check(&request->header, &conn->terms, conn->dev, block, &request->why);
	if (request->error)
		return AGAIN;
	if (block->op == BLOCK_STATUS && (block->flags & BLOCK_REQ_ONE)) {
		block->extents = &request->one;
		block->max_extents = 1;
		return AGAIN;
	}
	if (block->op == BLOCK_READ || block->op == BLOCK_WRITE) {
		skew = block->offset % BLOCK_SIZE;
		size = block->length;
	} else if (block->op == BLOCK_STATUS) {
		size = status_size(block->length);
	} else {
		return AGAIN;
	}
	request->kind = nbd_memory_class(skew, size);
	if (!take(conn, request->kind, &request->memory))
		return WAIT;
	block->buf = (uint8_t *)request->memory + skew;
	if (block->op == BLOCK_STATUS) {
		block->extents = request->memory;
		block->max_extents = (uint32_t)(size / sizeof(struct block_extent));
	}
	conn->lane->resident = true;
	nbd_lane_need_tick(conn->lane);
	return AGAIN;
}

/* The payload of the incoming request: out of the buffer what is there, then more. */
static enum next receive_payload(struct nbd_conn *conn)
{
	struct nbd_request *request = conn->incoming;
	uint32_t left = request->payload_left;
	uint32_t n = (uint32_t)min_u64(conn->tail - conn->head, left);
	uint8_t *to = NULL;

	if (request->memory)
		to = (uint8_t *)request->block.buf + request->block.length - left;
	if (to && n > 0)
		memcpy(to, conn->buffer + conn->head, n);
	conn->head += n;
	left -= n;
	request->payload_left = left;
	if (left == 0) {
		conn->incoming = NULL;
		request_complete(request);
		return AGAIN;
	}
	if (!to || left < NBD_DIRECT_PAYLOAD)
		return receive_more(conn, min_u64(left, NBD_RECEIVE_BUFFER));
	if (conn->state != CONN_SERVE) {
		receive_end(conn, conn->cause);
		return WAIT;
	}
	conn->receive_least = left;
	receive_enter(conn, RECEIVE_WAIT_PAYLOAD);
	conn->receive.done = receive_on_io;
	io_recv(conn->lane->loop, &conn->receive, conn->sock, to + n, left, left);
	return WAIT;
}

/* What is left in the buffer is less than a header, so that moving it costs nothing. */
static enum next receive_more(struct nbd_conn *conn, size_t least)
{
	if (conn->state != CONN_SERVE) {
		receive_end(conn, conn->cause);
		return WAIT;
	}
	CHECK(conn->tail - conn->head < NBD_REQUEST_SIZE);
	memmove(conn->buffer, conn->buffer + conn->head, conn->tail - conn->head);
	conn->tail -= conn->head;
	conn->head = 0;
	conn->receive_least = min_u64(least, NBD_RECEIVE_BUFFER - conn->tail);
	receive_enter(conn, RECEIVE_WAIT_BYTES);
	conn->receive.done = receive_on_io;
	io_recv(conn->lane->loop, &conn->receive, conn->sock, conn->buffer + conn->tail,
		conn->receive_least, NBD_RECEIVE_BUFFER - conn->tail);
	return WAIT;
}

static void receive_on_io(struct io_op *op)
{
	nbd_receive_step(container_of(op, struct nbd_conn, receive));
}

/* All of it is here. */
static void request_complete(struct nbd_request *request)
{
	if (request->error)
		nbd_request_answer(request, request->error, request->why);
	else
		nbd_request_submit(request);
}

/* Nothing more is parsed; the rest of the connection ends when it is ready. */
static void receive_end(struct nbd_conn *conn, const char *cause)
{
	struct nbd_request *request = conn->incoming;

	receive_enter(conn, RECEIVE_ENDED);
	conn->incoming = NULL;
	if (request)
		nbd_request_release(request);
	nbd_conn_drain(conn, cause);
	nbd_lane_mark(conn->lane, conn);
}

void nbd_receive_resume(struct nbd_conn *conn, bool has_turn)
{
	if (conn->receive_state != RECEIVE_WAIT_TURN)
		return;
	list_remove(&conn->turn_node);
	conn->has_turn = has_turn;
	receive_enter(conn, RECEIVE_PARSE);
	nbd_receive_step(conn);
	conn->has_turn = false;
}

void nbd_receive_give_up(struct nbd_conn *conn)
{
	if (conn->receive_state != RECEIVE_WAIT_TURN)
		return;
	list_remove(&conn->turn_node);
	receive_enter(conn, RECEIVE_ENDED);
}

void nbd_receive_linger(struct nbd_conn *conn)
{
	CHECK(conn->receive_state == RECEIVE_ENDED);
	receive_enter(conn, RECEIVE_WAIT_LINGER);
	conn->receive.done = receive_on_io;
	io_recv(conn->lane->loop, &conn->receive, conn->sock, conn->buffer, 1, NBD_RECEIVE_BUFFER);
}
