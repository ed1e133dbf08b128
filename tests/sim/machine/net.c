/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake network. A connection is two pipes; a pipe holds bytes that have arrived at the
 * receiver, then bytes still on the wire, then perhaps the end. Pieces of random length arrive
 * after random delays. A sender finds room for PIPE_ROOM bytes, so that a peer who does not read
 * makes it wait.
 */
#include "tests/sim/machine/machine.h"

#include "base/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PIPE_ROOM ((size_t)262144)

struct pipe {
	uint8_t *bytes;
	size_t room;
	size_t n;       /* in bytes[] */
	size_t arrived; /* of them */
	uint64_t due;   /* of the next piece */
	bool finished;  /* the sender sends no more */
	bool end_seen;  /* and the receiver can tell */
	bool held;
	size_t pass; /* bytes that may pass although held */
};

struct conn {
	struct pipe pipe[2]; /* [i]: what end i sends */
	struct io_sock *end[2];
	bool reset;
};

struct waiting {
	struct io_op *op; /* NULL: none */
	struct io_loop *loop;
};

struct io_sock {
	struct list node; /* sim->socks */
	struct sim *sim;
	struct conn *conn; /* NULL: a listener */
	int side;
	unsigned number;
	bool local;
	bool inside;
	bool shut;

	struct waiting recv;
	uint8_t *recv_buf;
	size_t recv_min;
	size_t recv_max;

	struct waiting send;
	struct iovec *send_iov;
	int send_n_iov;
	uint8_t *send_bytes;
	size_t send_len;
	size_t send_moved;
	uint64_t send_due;

	struct waiting accept;
	struct io_sock **accept_ret;
	struct list backlog; /* listener: inside ends not yet accepted */
	struct list in_backlog;
};

/* ---- Pipes --------------------------------------------------------------------------- */

static struct pipe *out_of(const struct io_sock *s)
{
	return &s->conn->pipe[s->side];
}

static struct pipe *in_of(const struct io_sock *s)
{
	return &s->conn->pipe[!s->side];
}

static void pipe_append(struct sim *sim, struct pipe *p, const void *bytes, size_t len)
{
	if (p->n + len > p->room) {
		size_t room = max_u64(p->n + len, p->room * 2);
		uint8_t *wider = sim_alloc(room);

		if (p->n)
			memcpy(wider, p->bytes, p->n);
		sim_release(p->bytes);
		p->bytes = wider;
		p->room = room;
	}
	if (p->n == p->arrived)
		p->due = sim->now + sim_latency(sim, sim->tempo.net_ns);
	if (len)
		memcpy(p->bytes + p->n, bytes, len);
	p->n += len;
}

static size_t pipe_take(struct pipe *p, void *buf, size_t len)
{
	CHECK(len <= p->arrived);
	if (len == 0)
		return 0;
	memcpy(buf, p->bytes, len);
	memmove(p->bytes, p->bytes + len, p->n - len);
	p->n -= len;
	p->arrived -= len;
	return len;
}

static bool pipe_can_move(const struct pipe *p)
{
	if (p->n > p->arrived)
		return !p->held || p->pass > 0;
	return p->finished && !p->end_seen && !p->held;
}

/* Mostly small pieces, and often all of it. */
static size_t choose_piece(struct sim *sim, size_t n)
{
	switch (sim_below(sim, 4)) {
	case 0:
		return 1 + sim_below(sim, min_u64(n, 40));
	case 1:
		return 1 + sim_below(sim, n);
	default:
		return n;
	}
}

static void pipe_move(struct sim *sim, struct pipe *p)
{
	size_t n = p->n - p->arrived;

	if (p->held)
		n = min_u64(n, p->pass);
	if (n) {
		n = choose_piece(sim, n);
		p->arrived += n;
		if (p->held)
			p->pass -= n;
	}
	if (p->finished && p->arrived == p->n && !p->held)
		p->end_seen = true;
	p->due = sim->now + sim_latency(sim, sim->tempo.net_ns);
	sim_note(sim, n);
}

/* ---- Operations that wait ------------------------------------------------------------ */

static void finish(struct waiting *w, int64_t result)
{
	struct io_op *op = w->op;

	w->op = NULL;
	loop_complete(w->loop, op, result);
}

static void try_recv(struct io_sock *s)
{
	struct pipe *in = in_of(s);
	size_t n;

	if (!s->recv.op)
		return;
	if (s->shut) {
		finish(&s->recv, 0);
	} else if (s->conn->reset) {
		finish(&s->recv, -ECONNRESET);
	} else if (in->arrived >= s->recv_min) {
		n = min_u64(s->recv_max, in->arrived);
		n = s->recv_min + sim_below(s->sim, n - s->recv_min + 1);
		finish(&s->recv, (int64_t)pipe_take(in, s->recv_buf, n));
	} else if (in->end_seen) {
		finish(&s->recv, (int64_t)pipe_take(in, s->recv_buf, in->arrived));
	}
}

static bool send_can_move(const struct io_sock *s)
{
	return s->send.op &&
	       (s->shut || s->conn->reset || !s->conn->end[!s->side] || out_of(s)->n < PIPE_ROOM);
}

static void check_send_stable(const struct io_sock *s)
{
	const uint8_t *was = s->send_bytes;

	for (int i = 0; i < s->send_n_iov; i++) {
		if (memcmp(was, s->send_iov[i].iov_base, s->send_iov[i].iov_len) != 0) {
			sim_fail(s->sim, "the buffer of a send on socket %u changed under way",
				 s->number);
			return;
		}
		was += s->send_iov[i].iov_len;
	}
}

static void end_send(struct io_sock *s, int64_t result)
{
	check_send_stable(s);
	finish(&s->send, result);
	sim_release(s->send_iov);
	sim_release(s->send_bytes);
	s->send_iov = NULL;
	s->send_bytes = NULL;
}

static void move_send(struct io_sock *s)
{
	struct pipe *out = out_of(s);
	size_t n;

	if (s->shut) {
		end_send(s, -EPIPE);
	} else if (s->conn->reset) {
		end_send(s, -ECONNRESET);
	} else if (!s->conn->end[!s->side]) {
		end_send(s, -EPIPE);
	} else {
		n = min_u64(PIPE_ROOM - out->n, s->send_len - s->send_moved);
		n = n ? choose_piece(s->sim, n) : 0;
		pipe_append(s->sim, out, s->send_bytes + s->send_moved, n);
		s->send_moved += n;
		s->send_due = s->sim->now + sim_latency(s->sim, s->sim->tempo.net_ns / 4 + 1);
		if (s->send_moved == s->send_len)
			end_send(s, (int64_t)s->send_len);
	}
}

static void try_accept(struct io_sock *listener)
{
	struct list *node;

	if (!listener->accept.op || list_empty(&listener->backlog))
		return;
	node = list_pop(&listener->backlog);
	*listener->accept_ret = container_of(node, struct io_sock, in_backlog);
	finish(&listener->accept, 0);
}

/* ---- Making and closing -------------------------------------------------------------- */

static struct io_sock *sock_make(struct sim *sim, struct conn *conn, int side, bool local,
				 bool inside)
{
	struct io_sock *s = sim_alloc(sizeof(*s));

	s->sim = sim;
	s->conn = conn;
	s->side = side;
	s->local = local;
	s->inside = inside;
	s->number = sim->n_socks++;
	list_init(&s->backlog);
	list_init(&s->in_backlog);
	list_add_tail(&sim->socks, &s->node);
	if (conn)
		conn->end[side] = s;
	return s;
}

struct io_sock *sim_listen(struct sim *sim, bool local)
{
	return sock_make(sim, NULL, 0, local, true);
}

void sim_pair(struct sim *sim, bool local, struct io_sock **ret_inside,
	      struct io_sock **ret_outside)
{
	struct conn *conn = sim_alloc(sizeof(*conn));

	*ret_inside = sock_make(sim, conn, 0, local, true);
	*ret_outside = sock_make(sim, conn, 1, local, false);
}

struct io_sock *sim_connect(struct sim *sim, struct io_sock *listener)
{
	struct io_sock *inside;
	struct io_sock *outside;

	CHECK(!listener->conn);
	sim_pair(sim, listener->local, &inside, &outside);
	list_add_tail(&listener->backlog, &inside->in_backlog);
	try_accept(listener);
	return outside;
}

static void conn_free(struct conn *conn)
{
	for (int i = 0; i < 2; i++)
		sim_release(conn->pipe[i].bytes);
	sim_release(conn);
}

/* Leaves a stream: the peer sees the end, or a reset. */
static void leave_conn(struct io_sock *s, bool reset)
{
	struct conn *conn = s->conn;

	conn->end[s->side] = NULL;
	if (!conn->end[!s->side]) {
		conn_free(conn);
		return;
	}
	/* Bytes that nobody will read become a reset, as on a real socket. */
	conn->reset |= reset || in_of(s)->n > 0;
	out_of(s)->finished = true;
	if (conn->reset)
		try_recv(conn->end[!s->side]);
}

static void sock_drop(struct io_sock *s, bool reset)
{
	struct list *node;

	while ((node = list_pop(&s->backlog)))
		sock_drop(container_of(node, struct io_sock, in_backlog), true);
	if (s->conn)
		leave_conn(s, reset);
	list_remove(&s->in_backlog);
	list_remove(&s->node);
	sim_release(s->send_iov);
	sim_release(s->send_bytes);
	sim_release(s);
}

void io_sock_close(struct io_sock *sock)
{
	if (!sock)
		return;
	if (sock->recv.op || sock->send.op || sock->accept.op)
		sim_fail(sock->sim, "socket %u is closed with an operation in flight",
			 sock->number);
	sock_drop(sock, false);
}

/* ---- io.h ---------------------------------------------------------------------------- */

struct io_sock *io_sock_from_fd(int fd)
{
	(void)fd; /* this machine has no descriptors */
	return NULL;
}

void io_sock_shutdown(struct io_loop *loop, struct io_sock *sock)
{
	if (!sim_may_start(loop, "io_sock_shutdown"))
		return;
	loop_started(loop);
	sock->shut = true;
	if (sock->accept.op)
		finish(&sock->accept, -ECANCELED);
	if (!sock->conn)
		return;
	out_of(sock)->finished = true;
	try_recv(sock);
	if (sock->send.op)
		move_send(sock);
}

const char *io_sock_peer(const struct io_sock *sock, char text[64])
{
	if (sock->local)
		snprintf(text, 64, "unix");
	else
		snprintf(text, 64, "192.0.2.1:%u", 1024 + sock->number);
	return text;
}

bool io_sock_is_local(const struct io_sock *sock)
{
	return sock->local;
}

/* False if the op must not wait. */
static bool begin(struct io_loop *loop, struct io_op *op, struct io_sock *sock, struct waiting *w,
		  const char *what)
{
	if (!sim_may_start(loop, what))
		return false;
	loop_started(loop);
	op->loop = loop;
	op->sock = sock;
	if (w->op) {
		sim_fail(sock->sim, "%s on socket %u while another runs", what, sock->number);
		return false;
	}
	w->op = op;
	w->loop = loop;
	return true;
}

void io_accept(struct io_loop *loop, struct io_op *op, struct io_sock *listener,
	       struct io_sock **ret_sock)
{
	CHECK(!listener->conn);
	if (!begin(loop, op, listener, &listener->accept, "io_accept"))
		return;
	listener->accept_ret = ret_sock;
	if (listener->shut)
		finish(&listener->accept, -ECANCELED);
	else
		try_accept(listener);
}

void io_recv(struct io_loop *loop, struct io_op *op, struct io_sock *sock, void *buf, size_t min,
	     size_t max)
{
	CHECK(sock->conn);
	CHECK(min >= 1);
	CHECK(min <= max);
	if (!begin(loop, op, sock, &sock->recv, "io_recv"))
		return;
	sock->recv_buf = buf;
	sock->recv_min = min;
	sock->recv_max = max;
	memset(buf, 0xd7, min);
	try_recv(sock);
}

void io_send(struct io_loop *loop, struct io_op *op, struct io_sock *sock, struct iovec *iov, int n)
{
	uint8_t *to;

	CHECK(sock->conn);
	CHECK(n >= 1);
	CHECK(n <= 1024);
	if (!begin(loop, op, sock, &sock->send, "io_send"))
		return;
	sock->send_iov = sim_alloc((size_t)n * sizeof(*iov));
	memcpy(sock->send_iov, iov, (size_t)n * sizeof(*iov));
	sock->send_n_iov = n;
	sock->send_len = 0;
	sock->send_moved = 0;
	for (int i = 0; i < n; i++)
		sock->send_len += iov[i].iov_len;
	sock->send_bytes = to = sim_alloc(sock->send_len + 1);
	for (int i = 0; i < n; i++) {
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	/* The array is io/'s now, and altered. */
	memset(iov, 0, (size_t)n * sizeof(*iov));
	sock->send_due = sock->sim->now;
}

/* ---- For the choice of the next event ------------------------------------------------ */

/* Up to two events wait at a socket: a piece arrives, a piece leaves. */
static bool arrives(const struct io_sock *s)
{
	return s->conn && pipe_can_move(in_of(s));
}

static bool leaves(const struct io_sock *s)
{
	return s->conn && send_can_move(s);
}

size_t net_ready(struct sim *sim)
{
	size_t n = 0;

	list_for_each (&sim->socks, node) {
		const struct io_sock *s = container_of(node, struct io_sock, node);

		n += arrives(s) && in_of(s)->due <= sim->now;
		n += leaves(s) && s->send_due <= sim->now;
	}
	return n;
}

void net_do_nth(struct sim *sim, size_t n)
{
	list_for_each (&sim->socks, node) {
		struct io_sock *s = container_of(node, struct io_sock, node);

		if (arrives(s) && in_of(s)->due <= sim->now && n-- == 0) {
			pipe_move(sim, in_of(s));
			try_recv(s);
			return;
		}
		if (leaves(s) && s->send_due <= sim->now && n-- == 0) {
			move_send(s);
			return;
		}
	}
	CHECK(!"no such event");
}

uint64_t net_next_due(struct sim *sim)
{
	uint64_t due = UINT64_MAX;

	list_for_each (&sim->socks, node) {
		const struct io_sock *s = container_of(node, struct io_sock, node);

		if (arrives(s))
			due = min_u64(due, in_of(s)->due);
		if (leaves(s))
			due = min_u64(due, s->send_due);
	}
	return due;
}

/* ---- Ends ---------------------------------------------------------------------------- */

static void forget(struct io_sock *s, const struct io_loop *loop)
{
	if (!loop || s->recv.loop == loop)
		s->recv.op = NULL;
	if (!loop || s->accept.loop == loop)
		s->accept.op = NULL;
	if (!loop || s->send.loop == loop) {
		s->send.op = NULL;
		sim_release(s->send_iov);
		sim_release(s->send_bytes);
		s->send_iov = NULL;
		s->send_bytes = NULL;
	}
}

void net_forget_loop(struct sim *sim, struct io_loop *loop)
{
	list_for_each (&sim->socks, node)
		forget(container_of(node, struct io_sock, node), loop);
}

/* One inside end; false if none is left. */
static bool drop_an_inside_end(struct sim *sim)
{
	list_for_each (&sim->socks, node) {
		struct io_sock *s = container_of(node, struct io_sock, node);

		if (s->inside) {
			sock_drop(s, true);
			return true;
		}
	}
	return false;
}

void net_end_life(struct sim *sim)
{
	list_for_each (&sim->socks, node)
		forget(container_of(node, struct io_sock, node), NULL);
	while (drop_an_inside_end(sim))
		;
}

void net_free(struct sim *sim)
{
	net_end_life(sim);
	while (!list_empty(&sim->socks))
		sock_drop(list_first(&sim->socks, struct io_sock, node), true);
}

/* ---- The test's end ------------------------------------------------------------------ */

void sim_send(struct io_sock *sock, const void *buf, size_t len)
{
	if (sock->conn->end[!sock->side] && !out_of(sock)->finished)
		pipe_append(sock->sim, out_of(sock), buf, len);
}

size_t sim_recv(struct io_sock *sock, void *buf, size_t max)
{
	return pipe_take(in_of(sock), buf, min_u64(max, in_of(sock)->arrived));
}

size_t sim_arrived(const struct io_sock *sock)
{
	return in_of(sock)->arrived;
}

bool sim_peer_closed(const struct io_sock *sock)
{
	return sock->conn->reset || (in_of(sock)->end_seen && in_of(sock)->n == 0);
}

bool sim_peer_reset(const struct io_sock *sock)
{
	return sock->conn->reset;
}

void sim_half_close(struct io_sock *sock)
{
	out_of(sock)->finished = true;
}

void sim_reset(struct io_sock *sock)
{
	sock->conn->reset = true;
	for (int i = 0; i < 2; i++) {
		sock->conn->pipe[i].n = 0;
		sock->conn->pipe[i].arrived = 0;
	}
	for (int i = 0; i < 2; i++)
		if (sock->conn->end[i])
			try_recv(sock->conn->end[i]);
}

void sim_hold(struct io_sock *sock, bool out, bool in)
{
	out_of(sock)->held = out;
	in_of(sock)->held = in;
}

void sim_let_pass(struct io_sock *sock, size_t n)
{
	out_of(sock)->pass += n;
}
