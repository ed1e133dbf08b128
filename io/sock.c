/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream sockets and listeners.
 */
#include "io/internal.h"

#include "base/mem.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A peer whose machine is gone is noticed after about 90 s. */
#define KEEPALIVE_IDLE_S     60
#define KEEPALIVE_INTERVAL_S 10
#define KEEPALIVE_PROBES     3

struct io_sock {
	int fd;
	int family;
	bool listens;
	bool shut;            /* a listener that accepts no more */
	struct io_op *accept; /* under way */
	char peer[64];        /* as it was when connected: logs name it after its end, too */
};

/* ---- Life ------------------------------------------------------------------------------------
 */

static void address_format(const struct sockaddr_storage *address, char text[64])
{
	const struct sockaddr_in *in4 = (const void *)address;
	const struct sockaddr_in6 *in6 = (const void *)address;
	char ip[INET6_ADDRSTRLEN] = "";

	if (address->ss_family == AF_UNIX) {
		snprintf(text, 64, "unix");
	} else if (address->ss_family == AF_INET) {
		inet_ntop(AF_INET, &in4->sin_addr, ip, sizeof(ip));
		snprintf(text, 64, "%s:%u", ip, ntohs(in4->sin_port));
	} else if (address->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], ip, sizeof(ip));
		snprintf(text, 64, "%s:%u", ip, ntohs(in6->sin6_port));
	} else if (address->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof(ip));
		snprintf(text, 64, "[%s]:%u", ip, ntohs(in6->sin6_port));
	} else {
		snprintf(text, 64, "unknown");
	}
}

/* A unix socket never grows its buffer, and its default holds less than two replies of 128 KiB:
 * we would wait for the client to read where the disk could work. The kernel doubles this for its
 * bookkeeping, and caps it at net.core.wmem_max. */
#define UNIX_SEND_BUFFER (512 * 1024)

/* All best effort: a socket without them still works. */
static void unix_set_options(int fd)
{
	const int bytes = UNIX_SEND_BUFFER;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static void tcp_set_options(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
	    {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
	    {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			   sizeof(options[i].value));
}

static bool is_listener(int fd)
{
	int listens = 0;
	socklen_t len = sizeof(listens);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens;
}

struct io_sock *io_sock_from_fd(int fd)
{
	struct io_sock *sock = mem_alloc(sizeof(*sock));
	struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof(address);
	int flags = fcntl(fd, F_GETFL);

	if (!sock) {
		close(fd);
		return NULL;
	}
	/* On a non-blocking descriptor the ring answers EAGAIN, where we want it to wait. */
	if (flags >= 0 && flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	/* A listener has no peer, but an address of its own. */
	if (getpeername(fd, (struct sockaddr *)&address, &len) < 0) {
		len = sizeof(address);
		getsockname(fd, (struct sockaddr *)&address, &len);
	}
	sock->fd = fd;
	sock->family = address.ss_family;
	sock->listens = is_listener(fd);
	address_format(&address, sock->peer);
	if (sock->family == AF_INET || sock->family == AF_INET6)
		tcp_set_options(fd);
	else if (sock->family == AF_UNIX)
		unix_set_options(fd);
	return sock;
}

void io_sock_close(struct io_sock *sock)
{
	if (!sock)
		return;
	close(sock->fd);
	mem_free(sock);
}

void io_sock_shutdown(struct io_loop *loop, struct io_sock *sock)
{
	if (!sock->listens) {
		/* It may be unconnected already: then all its operations have ended, too. */
		shutdown(sock->fd, SHUT_RDWR);
		return;
	}
	/* Whoever shares the listening socket (a service manager) goes on: shutdown(2) would end
	 * it for all. */
	sock->shut = true;
	if (sock->accept)
		ring_cancel(loop, sock->accept);
}

const char *io_sock_peer(const struct io_sock *sock, char text[64])
{
	memcpy(text, sock->peer, sizeof(sock->peer));
	return text;
}

bool io_sock_is_local(const struct io_sock *sock)
{
	return sock->family == AF_UNIX;
}

/* ---- Operations ------------------------------------------------------------------------------
 */

/* In io_op.private. */
struct accept_private {
	struct io_sock **ret_sock;
};

static struct accept_private *accept_private(struct io_op *op)
{
	return (struct accept_private *)op->private;
}

static void sock_start(struct io_loop *loop, struct io_op *op, struct io_sock *sock, int kind)
{
	loop_started(loop);
	op->loop = loop;
	op->sock = sock;
	op->kind = kind;
	ring_start(loop, op);
}

void io_accept(struct io_loop *loop, struct io_op *op, struct io_sock *listener,
	       struct io_sock **ret_sock)
{
	if (listener->shut) {
		io_defer(loop, op, -ECANCELED);
		return;
	}
	accept_private(op)->ret_sock = ret_sock;
	listener->accept = op;
	sock_start(loop, op, listener, OP_ACCEPT);
}

void io_recv(struct io_loop *loop, struct io_op *op, struct io_sock *sock, void *buf, size_t min,
	     size_t max)
{
	CHECK(min >= 1);
	CHECK(min <= max);
	op_set_buf(op, buf, max);
	op->wanted = min;
	sock_start(loop, op, sock, OP_RECV);
}

void io_send(struct io_loop *loop, struct io_op *op, struct io_sock *sock, struct iovec *iov, int n)
{
	op_set_iov(op, iov, n);
	if (op->wanted == 0)
		io_defer(loop, op, 0);
	else
		sock_start(loop, op, sock, OP_SEND);
}

/* ---- The ring's side -------------------------------------------------------------------------
 */

static void send_prepare(struct io_op *op, struct io_uring_sqe *sqe, struct msghdr *msg)
{
	const int flags = MSG_NOSIGNAL | MSG_WAITALL;

	if (op->n_iov == 1) {
		io_uring_prep_send(sqe, op->sock->fd, op->iov->iov_base,
				   min_u64(op->iov->iov_len, XFER_BATCH_MAX), flags);
		return;
	}
	*msg = (struct msghdr){
	    .msg_iov = op->iov,
	    .msg_iovlen = min_u64((unsigned)op->n_iov, IOV_BATCH_MAX),
	};
	io_uring_prep_sendmsg(sqe, op->sock->fd, msg, (unsigned)flags);
}

static void recv_prepare(struct io_op *op, struct io_uring_sqe *sqe)
{
	size_t room = op->iov->iov_len;
	int flags = op->moved + room == op->wanted ? MSG_WAITALL : 0;

	io_uring_prep_recv(sqe, op->sock->fd, op->iov->iov_base, min_u64(room, XFER_BATCH_MAX),
			   flags);
}

void sock_prepare(struct io_op *op, struct io_uring_sqe *sqe, struct msghdr *msg)
{
	if (op->kind == OP_ACCEPT)
		io_uring_prep_accept(sqe, op->sock->fd, NULL, NULL, SOCK_CLOEXEC);
	else if (op->kind == OP_RECV)
		recv_prepare(op, sqe);
	else
		send_prepare(op, sqe, msg);
}

static enum op_next accept_complete(struct io_op *op, int result)
{
	struct io_sock *listener = op->sock;
	struct io_sock *sock;

	if (result == -EINTR || result == -EAGAIN || result == -ECONNABORTED) {
		if (!listener->shut)
			return OP_AGAIN; /* the next one, then */
		result = -ECANCELED;
	}
	listener->accept = NULL;
	op->result = result;
	if (result >= 0) {
		sock = io_sock_from_fd(result);
		op->result = sock ? 0 : -ENOMEM;
		if (sock)
			*accept_private(op)->ret_sock = sock;
	}
	return OP_DONE;
}

enum op_next sock_complete(struct io_op *op, int result)
{
	if (op->kind == OP_ACCEPT)
		return accept_complete(op, result);
	if (result == -EINTR || result == -EAGAIN)
		return OP_AGAIN;
	op->result = result;
	if (result < 0)
		return OP_DONE;
	op_advance(op, (size_t)result);
	op->result = (int64_t)op->moved;
	if (op->moved >= op->wanted)
		return OP_DONE;
	if (result > 0)
		return OP_AGAIN;
	if (op->kind == OP_SEND) /* not a byte of many moved: not to be tried for ever */
		op->result = -EIO;
	return OP_DONE; /* a receive: the peer has finished sending */
}
