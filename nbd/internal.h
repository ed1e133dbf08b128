/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the NBD server know of each other.
 *
 *   server.c     listeners, caps, stop      loops[0]
 *   handshake.c  option haggling            loops[0]
 *   conn.c       a connection in transmission: receiver, requests, sender; on its device's loop
 *   lane.c       one loop's share of the server: its memory, hook, deadlines
 *
 * A peer is one socket from accept to close. It is in a handshake first; with an export it goes to
 * that device's lane by io_post and comes back the same way to be buried.
 */
#ifndef NBD_INTERNAL_H
#define NBD_INTERNAL_H

#include "base/log.h"
#include "nbd/limits.h"
#include "nbd/memory.h"
#include "nbd/options.h"
#include "nbd/reply.h"
#include "nbd/request.h"
#include "nbd/server.h"

struct nbd_conn;
struct nbd_handshake;
struct nbd_listener;

/* One loop's share. Its own loop touches it, but for the counters. */
struct nbd_lane {
	struct nbd_server *server;
	struct io_loop *loop;
	struct nbd_memory memory;
	struct list conns;
	struct list dirty; /* connections with something to send or to finish */
	struct io_hook hook;
	bool hooked;
	struct io_op tick; /* runs while there are deadlines, or memory to give back */
	bool ticking;
	bool resident;    /* pools may have memory to give back, */
	uint64_t trim_at; /* and this is when to look */
	bool stopping;    /* connections drain */
	bool closing;     /* connections are gone; the tick and the hook go */
	uint64_t stop_deadline;
	struct log_limit log;
	struct io_msg stop_msg;
	struct io_msg close_msg;

	/* Counters: written here, read by any thread. */
	uint64_t connections;
	uint64_t connected;
	uint64_t requests;
	uint64_t errors;
	uint64_t bytes_read;
	uint64_t bytes_written;
};

static inline void nbd_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* Something that a client asked for. */
struct nbd_request {
	struct block_req block;
	struct nbd_conn *conn;
	struct nbd_request_header header;
	void *memory; /* payload buffer of `kind`, or NULL */
	enum nbd_class kind;
	uint32_t payload_left; /* of a WRITE: bytes still to come */
	uint32_t error;        /* NBD's */
	const char *why;       /* static text for the error, or NULL */
	struct list link;      /* on the connection's `ready` or `sent` */
	uint32_t header_size;
	uint8_t reply[NBD_REPLY_HEADER_MAX];
	struct block_extent one; /* BLOCK_STATUS with REQ_ONE */
};

enum nbd_receive_state {
	RECEIVE_PARSE,        /* takes requests out of the buffer */
	RECEIVE_WAIT_BYTES,   /* a receive into the buffer runs */
	RECEIVE_WAIT_PAYLOAD, /* a receive into a request's memory runs */
	RECEIVE_WAIT_TURN,    /* too many in flight, or in line for memory */
	RECEIVE_WAIT_LINGER,  /* a receive into nowhere runs */
	RECEIVE_ENDED,
};

enum nbd_conn_state {
	CONN_SERVE,
	CONN_DRAIN, /* receives nothing more, answers the rest */
	CONN_WAIT_FLUSH,
	CONN_LINGER,
	CONN_END,
};

/* A peer. Memory from the server's pool. */
struct nbd_conn {
	struct nbd_server *server;
	struct io_sock *sock;
	struct io_op *ended; /* of nbd_server_serve_one, or NULL */
	struct io_msg msg;
	struct list node; /* of the lane */
	char peer[64];
	bool local;

	/* What the handshake found. */
	char name[NBD_LOG_NAME]; /* of the export: cut and made printable */
	struct nbd_terms terms;
	struct block_dev *dev;
	void *claim;
	struct nbd_lane *lane;

	bool arrived; /* on its lane, and was it asked to leave before? (The lane's, both.) */
	enum nbd_leave { LEAVE_NOT, LEAVE_DRAINED, LEAVE_AT_ONCE } leave;
	enum nbd_conn_state state;
	const char *cause; /* of the end, for the log */
	bool dead;         /* nothing more is sent */
	bool dirty;
	struct list dirty_node;
	uint32_t n_in_flight; /* requests from their slot to their reply */
	uint64_t n_requests;
	uint64_t n_errors;
	struct block_req flush; /* the last one */

	/* Receiver. */
	enum nbd_receive_state receive_state;
	struct io_op receive;
	size_t receive_least; /* less than this is the end of the stream */
	uint8_t *buffer;      /* NBD_RECEIVE_BUFFER */
	size_t head;          /* buffer[head..tail) is not parsed yet */
	size_t tail;
	struct nbd_request *incoming; /* a WRITE whose payload is not complete */
	uint64_t incoming_since;
	struct list turn_node; /* in line for memory */
	bool has_turn;         /* just left the line: may take before those who stand in it */
	unsigned linger_rounds;

	/* Sender. */
	bool sending;
	uint64_t sending_since;
	uint64_t sending_bytes;
	struct io_op send;
	struct list ready; /* answers that wait to be sent */
	struct list sent;  /* answers under way */
	struct iovec *iov; /* NBD_SEND_IOVECS */
};

enum nbd_handshake_state {
	HANDSHAKE_GREET,
	HANDSHAKE_READ_FLAGS,
	HANDSHAKE_WAIT_FLAGS,
	HANDSHAKE_READ_OPTION,
	HANDSHAKE_WAIT_OPTION,
	HANDSHAKE_READ_DATA, /* of an option that we will answer, or throw away */
	HANDSHAKE_WAIT_DATA,
	HANDSHAKE_ANSWER,
	HANDSHAKE_WAIT_RESOLVE,
	HANDSHAKE_LIST, /* the next batch of export names */
	HANDSHAKE_WAIT_SENT,
	HANDSHAKE_TRANSMIT, /* the peer moves to its device's loop */
	HANDSHAKE_END,
};

#define NBD_HANDSHAKE_OUTPUT                                                                       \
	(8 * KiB) /* the longest reply: two names of 4 KiB at most, or a batch */

/* A peer that haggles. Memory from the server's pool. */
struct nbd_handshake {
	struct nbd_conn *conn;
	struct list node; /* of the server, oldest first */
	enum nbd_handshake_state state;
	enum nbd_handshake_state after_send;
	uint64_t since;
	const char *cause; /* why it is killed, or NULL */
	bool spoke;        /* the peer said something: its end is worth a line */

	/* What was agreed on so far. */
	bool fixed;
	bool no_zeroes;
	bool structured;
	bool allocation; /* base:allocation was selected, for this export: */
	char meta_name[EXPORT_NAME_MAX + 1];

	uint32_t n_options;
	struct nbd_option option; /* the one in hand */
	struct nbd_go go;         /* its data, for options that resolve a name */
	struct nbd_meta meta;
	uint32_t data_left; /* still to come */
	size_t wanted;      /* of the receive under way */
	unsigned n_listed;
	struct export_op resolve;

	struct io_op op;
	struct iovec iov;
	struct cursor out;
	uint8_t input[NBD_OPTION_DATA_MAX];
	uint8_t output[NBD_HANDSHAKE_OUTPUT];
};

struct nbd_listener {
	struct nbd_server *server;
	struct io_sock *sock; /* NULL when it is closed */
	struct io_sock *accepted;
	struct io_op accept;
	bool running;
	uint64_t not_before; /* a pause after an error */
};

struct nbd_server {
	struct exports *exports;
	struct io_loop *loop; /* loops[0] */
	uint32_t max_connections;
	uint32_t max_handshakes;
	uint32_t max_in_flight;
	uint64_t handshake_ns;
	uint64_t stall_ns;

	unsigned n_lanes;
	struct nbd_lane *lanes;
	unsigned lanes_open;

	unsigned n_listeners;
	struct nbd_listener listeners[NBD_LISTENERS_MAX];
	struct pool *conn_pool;
	struct pool *handshake_pool;
	struct list handshakes; /* oldest first */
	uint32_t n_conns;       /* peers, haggling or served */
	uint32_t n_served;

	struct io_op tick; /* runs while there are handshakes, or listeners that pause */
	bool ticking;
	bool stopping;
	bool tick_cancelled;
	bool lanes_closing;
	uint64_t stop_deadline;
	struct io_op *stopped;
	struct log_limit log;
	uint64_t refused; /* counter */
};

/* lane.c */
int nbd_lane_init(struct nbd_lane *lane, struct nbd_server *server, struct io_loop *loop,
		  uint64_t budget);
void nbd_lane_free(struct nbd_lane *lane);
void nbd_lane_mark(struct nbd_lane *lane, struct nbd_conn *conn); /* dirty */
void nbd_lane_need_tick(struct nbd_lane *lane);
/* From loops[0]: all connections drain; or (when none is left) the lane goes quiet and says so. */
void nbd_lane_stop(struct nbd_lane *lane);
void nbd_lane_close(struct nbd_lane *lane);

/* conn.c */
/* Begins the transmission phase, on conn->lane's loop. */
void nbd_conn_start(struct nbd_conn *conn);
/* Takes the connection one step further: called for dirty ones by the lane's hook. */
void nbd_conn_step(struct nbd_conn *conn);
/* Ends in good order: finishes what was received. */
void nbd_conn_drain(struct nbd_conn *conn, const char *cause);
/* export_op's `leave`. */
void nbd_conn_leave(void *holder, bool at_once);
/* Ends at once: what is under way is finished without an answer. */
void nbd_conn_kill(struct nbd_conn *conn, const char *cause);

/* All of the request is here and it is legal: over to the device. */
void nbd_request_submit(struct nbd_request *request);
/* The request's result is known. */
void nbd_request_answer(struct nbd_request *request, uint32_t error, const char *why);
/* The request's answer is with the peer, or dropped: its memory goes back. */
void nbd_request_release(struct nbd_request *request);

/* receive.c */
void nbd_receive_step(struct nbd_conn *conn);
/* Out of RECEIVE_WAIT_TURN, if it is there: to go on, or to end. */
void nbd_receive_resume(struct nbd_conn *conn, bool has_turn);
void nbd_receive_give_up(struct nbd_conn *conn);
/* Throws away what the peer still sent, up to a bufferful; then marks the connection. */
void nbd_receive_linger(struct nbd_conn *conn);

/* handshake.c */
/* Haggles with a new peer, to whom no byte has been sent yet. */
void nbd_handshake_start(struct nbd_handshake *handshake, struct nbd_conn *conn);
/* Makes it end soon; a no-op when it already ends. */
void nbd_handshake_kill(struct nbd_handshake *handshake, const char *cause);

/* server.c */
struct nbd_lane *nbd_server_lane(struct nbd_server *server, const struct io_loop *loop);
/* The handshake is over: its peer goes to conn->lane, or is buried if there is none. */
void nbd_server_handshake_ended(struct nbd_handshake *handshake);
/* Any loop: the peer is closed and leaves for good. */
void nbd_server_bury(struct nbd_conn *conn);
/* Any loop. */
void nbd_server_lane_closed(struct nbd_lane *lane);

#endif
