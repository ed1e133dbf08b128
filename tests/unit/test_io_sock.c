/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream sockets and listeners on the real machine.
 */
#include "tests/unit/test_io_common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct io_sock *sock; /* our end */
static int peer;             /* the other end: a plain descriptor */

static int setup(void **state)
{
	int fds[2];

	if (test_loop_setup(state) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		return -1;
	sock = io_sock_from_fd(fds[0]);
	peer = fds[1];
	return sock ? 0 : -1;
}

static int teardown(void **state)
{
	io_sock_close(sock);
	close(peer);
	return test_loop_teardown(state);
}

/* ---- Receiving -------------------------------------------------------------------------------
 */

static void peer_sends(const char *text)
{
	assert_int_equal(write(peer, text, strlen(text)), (ssize_t)strlen(text));
}

/* A receive takes what is there, if that is at least min, and never more than max. */
static void recv_takes_between_min_and_max(void **state)
{
	struct test_op t;
	char buf[16] = "";

	(void)state;
	peer_sends("abcdefgh");
	io_recv(test_loop, test_op(&t), sock, buf, 1, 3);
	assert_int_equal(test_result(&t), 3);
	assert_string_equal(buf, "abc");
	io_recv(test_loop, test_op(&t), sock, buf, 2, sizeof(buf));
	assert_int_equal(test_result(&t), 5);
	assert_memory_equal(buf, "defgh", 5);
}

struct trickle {
	pthread_t thread;
	int fd;
	const char *text;
	size_t piece;
};

static void *trickle_main(void *context)
{
	struct trickle *t = context;

	for (size_t done = 0, len = strlen(t->text); done < len; done += t->piece) {
		size_t n = min_u64(t->piece, len - done);

		usleep(2000);
		if (write(t->fd, t->text + done, n) != (ssize_t)n)
			break;
	}
	return NULL;
}

static void trickle_start(struct trickle *t, const char *text, size_t piece)
{
	*t = (struct trickle){.fd = peer, .text = text, .piece = piece};
	assert_int_equal(pthread_create(&t->thread, NULL, trickle_main, t), 0);
}

/* A receive goes on until it has min bytes, however small the pieces in which they come. */
static void recv_waits_for_min(void **state)
{
	struct trickle trickle;
	struct test_op t;
	char buf[16] = "";

	(void)state;
	trickle_start(&trickle, "abcdefghij", 3);
	io_recv(test_loop, test_op(&t), sock, buf, 8, 9);
	assert_int_equal(test_result(&t), 9);
	assert_string_equal(buf, "abcdefghi");
	pthread_join(trickle.thread, NULL);
}

/* The same where min is max: exactly so much. */
static void recv_of_exact_length(void **state)
{
	struct trickle trickle;
	struct test_op t;
	char buf[16] = "";

	(void)state;
	trickle_start(&trickle, "abcdefghij", 3);
	io_recv(test_loop, test_op(&t), sock, buf, 10, 10);
	assert_int_equal(test_result(&t), 10);
	assert_string_equal(buf, "abcdefghij");
	pthread_join(trickle.thread, NULL);
}

/* When the peer has finished sending, a receive gives what came before that, then 0. */
static void recv_ends_at_end_of_stream(void **state)
{
	struct test_op t;
	char buf[16];

	(void)state;
	peer_sends("abc");
	shutdown(peer, SHUT_WR);
	io_recv(test_loop, test_op(&t), sock, buf, 8, 8);
	assert_int_equal(test_result(&t), 3);
	io_recv(test_loop, test_op(&t), sock, buf, 1, 8);
	assert_int_equal(test_result(&t), 0);
}

/* A descriptor that was non-blocking waits all the same, and does not burn the CPU meanwhile. */
static void nonblocking_descriptor_waits(void **state)
{
	struct trickle trickle;
	struct io_sock *again;
	struct test_op t;
	char buf[4];
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	again = io_sock_from_fd(fds[0]);
	assert_non_null(again);
	assert_int_equal(fcntl(fds[0], F_GETFL) & O_NONBLOCK, 0);
	trickle = (struct trickle){.fd = fds[1], .text = "abcd", .piece = 1};
	assert_int_equal(pthread_create(&trickle.thread, NULL, trickle_main, &trickle), 0);
	io_recv(test_loop, test_op(&t), again, buf, 4, 4);
	assert_int_equal(test_result(&t), 4);
	pthread_join(trickle.thread, NULL);
	io_sock_close(again);
	close(fds[1]);
}

/* ---- Sending ---------------------------------------------------------------------------------
 */

#define BIG (8 * MiB)

struct reader {
	pthread_t thread;
	int fd;
	uint64_t n_read;
	uint64_t n_wrong;
};

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i + i / 251);
}

/* Reads slowly, in odd pieces, so that the sender meets a full socket all the time. */
static void *reader_main(void *context)
{
	struct reader *r = context;
	uint8_t buf[7777];

	while (r->n_read < BIG) {
		ssize_t n = read(r->fd, buf, sizeof(buf));

		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			r->n_wrong += buf[i] != pattern(r->n_read + (uint64_t)i);
		r->n_read += (uint64_t)n;
		if (r->n_read % 64 == 0)
			usleep(100);
	}
	return NULL;
}

static void send_big(struct io_sock *to, int from, int n_iov)
{
	uint8_t *data = mem_alloc(BIG);
	struct iovec *iov = mem_calloc((size_t)n_iov, sizeof(*iov));
	struct reader reader = {.fd = from};
	struct test_op t;
	size_t done = 0;

	for (uint64_t i = 0; i < BIG; i++)
		data[i] = pattern(i);
	for (int i = 0; i < n_iov; i++) {
		/* Parts of all sizes, and some of none. */
		size_t part = i % 5 == 0 ? 0 : BIG / (uint64_t)n_iov + (uint64_t)(i % 7);

		part = i == n_iov - 1 ? BIG - done : min_u64(part, BIG - done);
		iov[i] = (struct iovec){data + done, part};
		done += part;
	}
	assert_int_equal(pthread_create(&reader.thread, NULL, reader_main, &reader), 0);
	io_send(test_loop, test_op(&t), to, iov, n_iov);
	assert_int_equal(test_result(&t), BIG);
	pthread_join(reader.thread, NULL);
	assert_int_equal(reader.n_read, BIG);
	assert_int_equal(reader.n_wrong, 0);
	mem_free(iov);
	mem_free(data);
}

/* A send completes when all of it is sent, in order, however slowly the peer reads. */
static void send_big_over_unix(void **state)
{
	(void)state;
	send_big(sock, peer, 1);
	send_big(sock, peer, 2);
	send_big(sock, peer, 1024);
}

/* No bytes to send is a result like any other. */
static void send_of_nothing_completes(void **state)
{
	struct iovec iov = {NULL, 0};
	struct test_op t;

	(void)state;
	io_send(test_loop, test_op(&t), sock, &iov, 1);
	assert_int_equal(test_result(&t), 0);
	io_send(test_loop, test_op(&t), sock, NULL, 0);
	assert_int_equal(test_result(&t), 0);
}

/* A peer that has gone is an error, and no signal ends the process. */
static void send_to_gone_peer_is_epipe(void **state)
{
	char buf[4096] = "";
	struct iovec one = {buf, sizeof(buf)}, two[2] = {{buf, 1}, {buf, 2}};
	struct test_op t;

	(void)state;
	close(peer);
	peer = -1;
	io_send(test_loop, test_op(&t), sock, &one, 1);
	assert_int_equal(test_result(&t), -EPIPE);
	io_send(test_loop, test_op(&t), sock, two, 2);
	assert_int_equal(test_result(&t), -EPIPE);
}

/* ---- Shutting down ---------------------------------------------------------------------------
 */

struct shut_timer {
	struct io_op op;
	struct io_sock *sock;
};

static void shut_now(struct io_op *op)
{
	io_sock_shutdown(test_loop, container_of(op, struct shut_timer, op)->sock);
}

/* So that what was started is already waiting in the kernel. */
static void shut_soon(struct shut_timer *timer, struct io_sock *which)
{
	*timer = (struct shut_timer){.op.done = shut_now, .sock = which};
	io_timer(test_loop, &timer->op, 5 * NSEC_PER_MSEC);
}

/* Shutting down ends a receive that waits with 0, and one that comes later, too. */
static void shutdown_ends_recv(void **state)
{
	struct shut_timer timer;
	struct test_op t;
	char buf[8];

	(void)state;
	io_recv(test_loop, test_op(&t), sock, buf, 8, 8);
	shut_soon(&timer, sock);
	assert_int_equal(test_result(&t), 0);
	io_recv(test_loop, test_op(&t), sock, buf, 1, 8);
	assert_int_equal(test_result(&t), 0);
}

/* Shutting down ends a send that waits for a peer that does not read. */
static void shutdown_ends_send(void **state)
{
	uint8_t *data = mem_alloc(BIG);
	struct iovec iov[2] = {{data, BIG / 2}, {data + BIG / 2, BIG / 2}};
	struct shut_timer timer;
	struct test_op t;

	(void)state;
	io_send(test_loop, test_op(&t), sock, iov, 2);
	shut_soon(&timer, sock);
	assert_int_equal(test_result(&t), -EPIPE);
	mem_free(data);
}

/* ---- Listeners -------------------------------------------------------------------------------
 */

union address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

/* A listener on a free port or on an abstract unix address; *address is where it is. */
static struct io_sock *listen_on(int family, union address *address)
{
	socklen_t len = sizeof(*address);
	int fd = socket(family, SOCK_STREAM, 0);

	memset(address, 0, sizeof(*address));
	address->any.sa_family = (sa_family_t)family;
	if (family == AF_INET)
		address->in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (family == AF_INET6)
		address->in6.sin6_addr = in6addr_loopback;
	else
		len = sizeof(sa_family_t); /* the kernel chooses a name */
	if (fd < 0 || bind(fd, &address->any, len) < 0 || listen(fd, 4) < 0) {
		close(fd);
		return NULL;
	}
	len = sizeof(*address);
	assert_int_equal(getsockname(fd, &address->any, &len), 0);
	return io_sock_from_fd(fd);
}

static int connect_to(const union address *address)
{
	socklen_t len = sizeof(*address);
	int fd = socket(address->any.sa_family, SOCK_STREAM, 0);

	if (address->any.sa_family == AF_UNIX)
		len = (socklen_t)(sizeof(sa_family_t) + 6); /* NUL and five digits */
	else if (address->any.sa_family == AF_INET)
		len = sizeof(address->in4);
	assert_int_equal(connect(fd, &address->any, len), 0);
	return fd;
}

/* An accepted TCP socket has its options, its peer's name, and carries bytes both ways. */
static void accept_takes_a_tcp_connection(void **state)
{
	struct io_sock *accepted = NULL;
	int option = 0, client, lowest, second;
	socklen_t len = sizeof(option);
	union address address;
	struct io_sock *listener = listen_on(AF_INET, &address);
	char text[64], expected[64];
	struct test_op t;

	(void)state;
	assert_non_null(listener);
	io_accept(test_loop, test_op(&t), listener, &accepted);
	/* The client's descriptor, and then the accepted one, is the lowest that is free. */
	lowest = dup(STDERR_FILENO);
	second = dup(STDERR_FILENO);
	close(lowest);
	close(second);
	client = connect_to(&address);
	assert_int_equal(client, lowest);
	assert_int_equal(test_result(&t), 0);
	assert_non_null(accepted);
	assert_false(io_sock_is_local(accepted));
	len = sizeof(address);
	assert_int_equal(getsockname(client, &address.any, &len), 0);
	snprintf(expected, sizeof(expected), "127.0.0.1:%u", ntohs(address.in4.sin_port));
	assert_string_equal(io_sock_peer(accepted, text), expected);
	len = sizeof(option);
	assert_int_equal(getsockopt(second, IPPROTO_TCP, TCP_NODELAY, &option, &len), 0);
	assert_int_equal(option, 1);
	assert_int_equal(getsockopt(second, SOL_SOCKET, SO_KEEPALIVE, &option, &len), 0);
	assert_int_equal(option, 1);
	send_big(accepted, client, 1000);
	close(client);
	io_sock_close(accepted);
	io_sock_close(listener);
}

/* The same on IPv6, whose addresses are shown in brackets. */
static void accept_takes_an_ipv6_connection(void **state)
{
	struct io_sock *accepted = NULL;
	union address address;
	struct io_sock *listener = listen_on(AF_INET6, &address);
	char text[64];
	struct test_op t;
	int client;

	(void)state;
	if (!listener)
		skip(); /* a machine without IPv6 */
	io_accept(test_loop, test_op(&t), listener, &accepted);
	client = connect_to(&address);
	assert_int_equal(test_result(&t), 0);
	assert_int_equal(strncmp(io_sock_peer(accepted, text), "[::1]:", 6), 0);
	close(client);
	io_sock_close(accepted);
	io_sock_close(listener);
}

/* The same on a unix socket; connections that wait are taken one by one. */
static void accept_takes_unix_connections(void **state)
{
	struct io_sock *accepted[2] = {0};
	union address address;
	struct io_sock *listener = listen_on(AF_UNIX, &address);
	struct test_op t[2];
	char text[64];
	int clients[2];

	(void)state;
	assert_non_null(listener);
	for (int i = 0; i < 2; i++)
		clients[i] = connect_to(&address);
	for (int i = 0; i < 2; i++)
		io_accept(test_loop, test_op(&t[i]), listener, &accepted[i]);
	test_run();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(t[i].op.result, 0);
		assert_non_null(accepted[i]);
		assert_true(io_sock_is_local(accepted[i]));
		assert_string_equal(io_sock_peer(accepted[i], text), "unix");
		close(clients[i]);
		io_sock_close(accepted[i]);
	}
	io_sock_close(listener);
}

static void shutdown_ends_accept(int family)
{
	struct io_sock *accepted = NULL;
	union address address;
	struct io_sock *listener = listen_on(family, &address);
	struct shut_timer timer;
	struct test_op t;

	assert_non_null(listener);
	io_accept(test_loop, test_op(&t), listener, &accepted);
	shut_soon(&timer, listener);
	assert_true(test_result(&t) < 0);
	assert_null(accepted);
	io_accept(test_loop, test_op(&t), listener, &accepted);
	assert_true(test_result(&t) < 0);
	io_sock_close(listener);
}

/* Shutting down a listener ends an accept that waits, and one that comes later, with an error. */
static void shutdown_ends_accept_tcp(void **state)
{
	(void)state;
	shutdown_ends_accept(AF_INET);
}

static void shutdown_ends_accept_unix(void **state)
{
	(void)state;
	shutdown_ends_accept(AF_UNIX);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(recv_takes_between_min_and_max),
	    TEST(recv_waits_for_min),
	    TEST(recv_of_exact_length),
	    TEST(recv_ends_at_end_of_stream),
	    TEST(nonblocking_descriptor_waits),
	    TEST(send_big_over_unix),
	    TEST(send_of_nothing_completes),
	    TEST(send_to_gone_peer_is_epipe),
	    TEST(shutdown_ends_recv),
	    TEST(shutdown_ends_send),
	    TEST(accept_takes_a_tcp_connection),
	    TEST(accept_takes_an_ipv6_connection),
	    TEST(accept_takes_unix_connections),
	    TEST(shutdown_ends_accept_tcp),
	    TEST(shutdown_ends_accept_unix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
