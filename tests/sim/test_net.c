/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake network: streams in pieces, in order, with every kind of end.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/probe.h"

static struct io_sock *accept_one(struct sim *sim, struct io_loop *loop, struct io_sock *listener)
{
	struct io_sock *sock = NULL;
	struct probe p;

	probe_init(&p);
	io_accept(loop, &p.op, listener, &sock);
	assert_int_equal(wait_for(sim, &p), 0);
	assert_non_null(sock);
	return sock;
}

/* Receives `len` bytes in pieces of 1 to 300; returns how many pieces it took. */
static unsigned recv_all(struct sim *sim, struct io_loop *loop, struct io_sock *sock, uint8_t *buf,
			 size_t len)
{
	unsigned pieces = 0;

	for (size_t got = 0; got < len; pieces++) {
		struct probe p;

		probe_init(&p);
		io_recv(loop, &p.op, sock, buf + got, 1, min_u64(300, len - got));
		wait_for(sim, &p);
		assert_true(p.op.result > 0);
		got += (size_t)p.op.result;
	}
	return pieces;
}

/* A stream comes in pieces that differ by seed, and its bytes are right both ways. */
static void socket_stream_in_pieces(void **state)
{
	unsigned fewest = 1000;
	unsigned most = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = sim_new(seed, NULL);
		struct io_loop *loop = make_loop("a");
		struct io_sock *listener = sim_listen(sim, true);
		struct io_sock *client = sim_connect(sim, listener);
		struct io_sock *server = accept_one(sim, loop, listener);
		uint8_t out[2000];
		uint8_t in[2000];
		struct iovec iov = {out, sizeof(out)};
		struct probe p;
		unsigned pieces;

		for (size_t i = 0; i < sizeof(out); i++)
			out[i] = (uint8_t)sim_random(sim);
		sim_send(client, out, sizeof(out));
		pieces = recv_all(sim, loop, server, in, sizeof(in));
		fewest = pieces < fewest ? pieces : fewest;
		most = pieces > most ? pieces : most;
		assert_memory_equal(in, out, sizeof(in));

		probe_init(&p);
		io_send(loop, &p.op, server, &iov, 1);
		assert_int_equal(wait_for(sim, &p), sizeof(out));
		sim_run_until(sim, NULL, NULL, STEPS);
		assert_int_equal(sim_recv(client, in, sizeof(in)), sizeof(in));
		assert_memory_equal(in, out, sizeof(in));
		io_sock_close(server);
		io_sock_close(client);
		sim_free(sim);
	}
	assert_true(fewest < most);
}

/* After a half-close a receiver gets what came before it, then 0; it can still send. */
static void socket_half_close(void **state)
{
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t buf[16];
	struct iovec iov = {buf, 4};
	struct probe p;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	sim_send(client, "abc", 3);
	sim_half_close(client);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 8, 16);
	assert_int_equal(wait_for(sim, &p), 3);
	assert_memory_equal(buf, "abc", 3);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 1, 16);
	assert_int_equal(wait_for(sim, &p), 0);
	probe_init(&p);
	io_send(loop, &p.op, in_end, &iov, 1);
	assert_int_equal(wait_for(sim, &p), 4);
	sim_free(sim);
}

/* Bytes held back stay on the wire until let pass; a reset ends what waits; shutdown does, too. */
static void socket_hold_reset_shutdown(void **state)
{
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t buf[16];
	struct probe p;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	sim_hold(client, true, false);
	sim_send(client, "abcdef", 6);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p.done, STEPS), SIM_IDLE);
	sim_let_pass(client, 2);
	assert_int_equal(wait_for(sim, &p), 2);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	sim_reset(client);
	assert_int_equal(wait_for(sim, &p), -ECONNRESET);

	sim_pair(sim, false, &in_end, &client);
	probe_init(&p);
	io_recv(loop, &p.op, in_end, buf, 2, 2);
	io_sock_shutdown(loop, in_end);
	assert_int_equal(wait_for(sim, &p), 0);
	sim_run_until(sim, NULL, NULL, STEPS);
	assert_true(sim_peer_closed(client));
	sim_free(sim);
}

/* A peer that does not read makes a sender wait; the end of a life resets the outside ends. */
static void socket_backpressure_and_death(void **state)
{
	enum { LEN = 1000000 };
	struct sim *sim = sim_new(4, NULL);
	struct io_loop *loop = make_loop("a");
	struct io_sock *in_end;
	struct io_sock *client;
	uint8_t *bytes = filled(LEN, 5);
	struct iovec iov = {bytes, LEN};
	uint8_t *sink = sim_alloc(LEN);
	struct probe p;
	size_t got = 0;

	(void)state;
	sim_pair(sim, false, &in_end, &client);
	probe_init(&p);
	io_send(loop, &p.op, in_end, &iov, 1);
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p.done, STEPS), SIM_IDLE);
	while (!p.done) {
		got += sim_recv(client, sink, LEN);
		sim_run_until(sim, sim_flag_is_set, &p.done, 50);
	}
	assert_true(got < LEN);
	sim_reboot(sim);
	assert_true(sim_peer_reset(client));
	sim_release(sink);
	sim_free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    /* clang-format off */
	    cmocka_unit_test(socket_stream_in_pieces),
	    cmocka_unit_test(socket_half_close),
	    cmocka_unit_test(socket_hold_reset_shutdown),
	    cmocka_unit_test(socket_backpressure_and_death),
	    /* clang-format on */
	};

	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
