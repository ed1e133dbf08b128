/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd_ram: RAM disks over NBD, for the protocol tests. It prints "ready" when it serves. Exports:
 *
 *   ram        the default: a plain disk; SIGUSR1 doubles its size
 *   read-only  the same disk, not to be written through this name
 *   slow       holds requests for a while (20 ms), then starts them in reverse order
 *   faulty     fails by offset: 1 MiB: EIO, 2 MiB: ENOSPC, 3 MiB: fast zeroing is not fast
 *   gated      SIGUSR2 fences it
 *   lonely     without MULTI_CONN
 *
 * SIGTERM stops it; it then prints its counters.
 */
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "block/export_table.h"
#include "block/gate.h"
#include "block/ram.h"
#include "nbd/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_LOOPS 4

struct options {
	const char *socket_path;
	unsigned port;
	uint64_t size;
	unsigned n_loops;
	bool stdio;
	uint64_t slow_ns;
	struct nbd_config nbd;
};

struct slow {
	struct block_dev dev;
	struct block_dev *below;
	struct io_loop *loop;
	struct list held;
	struct io_op timer;
	uint64_t delay_ns;
	uint64_t flushes;
	bool waiting;
};

struct faulty {
	struct block_dev dev;
	struct block_dev *below;
	struct io_loop *loop;
	struct list failed;
	struct io_op deferred;
	bool deferring;
};

struct program {
	struct options options;
	struct io_loop *loops[MAX_LOOPS];
	struct ram *ram;
	struct block_dev read_only;
	struct slow slow;
	struct faulty faulty;
	struct gate gate;
	struct export_table table;
	struct nbd_server *server;
	struct io_msg stop;
	struct io_msg grow;
	struct io_msg fence;
	struct io_op stopped;
	struct io_op ended;
	bool stopping;
};

/* ---- Odd devices ---- */

static void pass_on(struct block_dev *dev, struct block_req *req)
{
	struct program *p = container_of(dev, struct program, read_only);

	block_submit(ram_dev(p->ram), req);
}

static const struct block_ops read_only_ops = {.name = "read-only", .submit = pass_on};

static void slow_submit(struct block_dev *dev, struct block_req *req)
{
	struct slow *slow = container_of(dev, struct slow, dev);

	slow->flushes += req->op == BLOCK_FLUSH;
	list_add_head(&slow->held, &req->link);
	if (slow->waiting)
		return;
	slow->waiting = true;
	io_timer(slow->loop, &slow->timer, slow->delay_ns);
}

static void slow_on_timer(struct io_op *op)
{
	struct slow *slow = container_of(op, struct slow, timer);
	struct list *node;

	slow->waiting = false;
	while ((node = list_pop(&slow->held)))
		block_submit(slow->below, list_entry(node, struct block_req, link));
}

static const struct block_ops slow_ops = {.name = "slow", .submit = slow_submit};

static int fault_of(const struct block_req *req)
{
	if (req->op == BLOCK_FLUSH)
		return 0;
	switch (req->offset / MiB) {
	case 1:
		return -EIO;
	case 2:
		return block_op_writes(req->op) ? -ENOSPC : 0;
	case 3:
		return req->flags & BLOCK_FAST_ZERO ? -ENOTSUP : 0;
	default:
		return 0;
	}
}

static void faulty_submit(struct block_dev *dev, struct block_req *req)
{
	struct faulty *f = container_of(dev, struct faulty, dev);

	if (!fault_of(req)) {
		block_submit(f->below, req);
		return;
	}
	list_add_tail(&f->failed, &req->link);
	if (f->deferring)
		return;
	f->deferring = true;
	io_defer(f->loop, &f->deferred, 0);
}

static void faulty_on_deferred(struct io_op *op)
{
	struct faulty *f = container_of(op, struct faulty, deferred);
	struct list *node;

	f->deferring = false;
	while ((node = list_pop(&f->failed))) {
		struct block_req *req = list_entry(node, struct block_req, link);

		block_done(req, fault_of(req));
	}
}

static const struct block_ops faulty_ops = {.name = "faulty", .submit = faulty_submit};

static void add_exports(struct program *p)
{
	struct block_dev *ram = ram_dev(p->ram);
	struct io_loop *loop = p->loops[p->options.n_loops - 1];
	struct block_dev odd = {.size = block_size(ram)};
	struct export_table *t = &p->table;

	p->read_only = odd;
	p->read_only.ops = &read_only_ops;
	p->read_only.flags = BLOCK_DEV_READ_ONLY;
	p->slow = (struct slow){.dev = odd, .below = ram, .loop = loop};
	p->slow.delay_ns = p->options.slow_ns;
	p->slow.dev.ops = &slow_ops;
	p->slow.timer.done = slow_on_timer;
	list_init(&p->slow.held);
	p->faulty = (struct faulty){.dev = odd, .below = ram, .loop = loop};
	p->faulty.dev.ops = &faulty_ops;
	p->faulty.deferred.done = faulty_on_deferred;
	list_init(&p->faulty.failed);
	gate_init(&p->gate, ram, loop, 1);

	export_table_init(t);
	CHECK(export_table_add(t, "ram", "a disk in memory", ram, loop, true) == 0);
	CHECK(export_table_add(t, "read-only", "", &p->read_only, loop, true) == 0);
	CHECK(export_table_add(t, "slow", "", &p->slow.dev, loop, true) == 0);
	CHECK(export_table_add(t, "faulty", "", &p->faulty.dev, loop, true) == 0);
	CHECK(export_table_add(t, "gated", "", &p->gate.dev, loop, true) == 0);
	CHECK(export_table_add(t, "lonely", "", ram, loop, false) == 0);
}

/* ---- Signals become messages ---- */

static void on_stop(struct io_msg *msg)
{
	struct program *p = container_of(msg, struct program, stop);

	if (!p->stopping)
		nbd_server_stop(p->server, &p->stopped);
	p->stopping = true;
}

static void on_grow(struct io_msg *msg)
{
	struct program *p = container_of(msg, struct program, grow);

	CHECK(ram_grow(p->ram, block_size(ram_dev(p->ram)) * 2) == 0);
	printf("grown\n");
	fflush(stdout);
}

static void on_fenced(struct gate *gate)
{
	(void)gate;
	printf("fenced\n");
	fflush(stdout);
}

static void on_fence(struct io_msg *msg)
{
	struct program *p = container_of(msg, struct program, fence);

	if (!p->gate.closed)
		gate_close(&p->gate, on_fenced);
}

static void on_stopped(struct io_op *op)
{
	(void)op;
	kill(getpid(), SIGINT);
}

static void on_ended(struct io_op *op)
{
	(void)op;
	kill(getpid(), SIGTERM);
}

/* ---- Set-up ---- */

static void usage(void)
{
	fprintf(stderr, "usage: nbd_ram [--socket PATH] [--port N] [--stdio] [--size SIZE]\n"
			"  [--loops N] [--memory SIZE] [--stall-ms N] [--handshake-ms N]\n"
			"  [--max-connections N] [--max-handshakes N] [--max-in-flight N]\n"
			"  [--slow-ms N]\n");
	exit(2);
}

static uint64_t number(const char *text)
{
	uint64_t n;

	if (size_parse(text, &n) != 0)
		usage();
	return n;
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
	    {"socket", required_argument, NULL, 's'},
	    {"port", required_argument, NULL, 'p'},
	    {"stdio", no_argument, NULL, 'i'},
	    {"size", required_argument, NULL, 'z'},
	    {"loops", required_argument, NULL, 'l'},
	    {"memory", required_argument, NULL, 'm'},
	    {"stall-ms", required_argument, NULL, 't'},
	    {"handshake-ms", required_argument, NULL, 'h'},
	    {"max-connections", required_argument, NULL, 'c'},
	    {"max-handshakes", required_argument, NULL, 'k'},
	    {"max-in-flight", required_argument, NULL, 'f'},
	    {"slow-ms", required_argument, NULL, 'w'},
	    {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		uint64_t n = c == 's' || c == 'i' || c == '?' ? 0 : number(optarg);

		switch (c) {
		case 's':
			o->socket_path = optarg;
			break;
		case 'p':
			o->port = (unsigned)n;
			break;
		case 'i':
			o->stdio = true;
			break;
		case 'z':
			o->size = n;
			break;
		case 'l':
			o->n_loops = (unsigned)min_u64(max_u64(n, 1), MAX_LOOPS);
			break;
		case 'm':
			o->nbd.memory_per_loop = n;
			break;
		case 't':
			o->nbd.stall_ns = n * NSEC_PER_MSEC;
			break;
		case 'h':
			o->nbd.handshake_ns = n * NSEC_PER_MSEC;
			break;
		case 'c':
			o->nbd.max_connections = (uint32_t)n;
			break;
		case 'k':
			o->nbd.max_handshakes = (uint32_t)n;
			break;
		case 'f':
			o->nbd.max_in_flight = (uint32_t)n;
			break;
		case 'w':
			o->slow_ns = n * NSEC_PER_MSEC;
			break;
		default:
			usage();
		}
	}
}

static void listen_on(struct program *p, int fd, const struct sockaddr *address, socklen_t length)
{
	struct io_sock *sock;

	CHECK(fd >= 0);
	if (bind(fd, address, length) < 0 || listen(fd, 512) < 0) {
		perror("nbd_ram: bind");
		exit(1);
	}
	sock = io_sock_from_fd(fd);
	CHECK(sock);
	CHECK(nbd_server_listen(p->server, sock) == 0);
}

static void open_sockets(struct program *p)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET};
	int one = 1;
	int fd;

	if (p->options.socket_path) {
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", p->options.socket_path);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		unlink(un.sun_path);
		listen_on(p, fd, (struct sockaddr *)&un, sizeof(un));
	}
	if (p->options.port) {
		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		in.sin_port = htons((uint16_t)p->options.port);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		listen_on(p, fd, (struct sockaddr *)&in, sizeof(in));
	}
	if (p->options.stdio) {
		p->ended.done = on_ended;
		CHECK(nbd_server_serve_one(p->server, io_sock_from_fd(dup(0)), &p->ended) == 0);
	}
}

static void run(struct program *p, const sigset_t *signals)
{
	struct io_loop *device_loop = p->loops[p->options.n_loops - 1];
	struct err err;
	int signal;

	for (unsigned i = 0; i < p->options.n_loops; i++)
		CHECK(io_loop_start(p->loops[i], &err) == 0);
	if (!p->options.stdio) {
		printf("ready\n");
		fflush(stdout);
	}
	for (;;) {
		sigwait(signals, &signal);
		if (signal == SIGTERM)
			io_post(p->loops[0], &p->stop);
		else if (signal == SIGUSR1)
			io_post(device_loop, &p->grow);
		else if (signal == SIGUSR2)
			io_post(device_loop, &p->fence);
		else
			break; /* SIGINT: the server has stopped */
	}
	for (unsigned i = 0; i < p->options.n_loops; i++) {
		io_loop_stop(p->loops[i]);
		io_loop_join(p->loops[i]);
	}
}

static void say_counters(const struct program *p)
{
	struct nbd_stats s;
	uint64_t claims = 0;

	nbd_server_stats(p->server, &s);
	for (unsigned i = 0; i < p->table.n; i++)
		claims += export_table_claims(&p->table, i);
	fprintf(p->options.stdio ? stderr : stdout,
		"stopped: connections %" PRIu64 " connected %" PRIu64 " refused %" PRIu64
		" requests %" PRIu64 " errors %" PRIu64 " read %" PRIu64 " written %" PRIu64
		" claims %" PRIu64 " slow-flushes %" PRIu64 "\n",
		s.connections, s.connected, s.refused, s.requests, s.errors, s.bytes_read,
		s.bytes_written, claims, p->slow.flushes);
}

int main(int argc, char **argv)
{
	static struct program p = {
	    .options = {.size = 64 * MiB, .n_loops = 2, .slow_ns = 20 * NSEC_PER_MSEC},
	    .stop = {.run = on_stop},
	    .grow = {.run = on_grow},
	    .fence = {.run = on_fence},
	    .stopped = {.done = on_stopped},
	};
	sigset_t signals;
	struct err err;

	parse(argc, argv, &p.options);
	/* Before any thread begins, so that all of them leave the signals to run(). */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	for (unsigned i = 0; i < p.options.n_loops; i++) {
		struct io_loop_config config = {.name = "loop", .cpu = -1};

		if (io_loop_new(&config, &p.loops[i], &err) < 0) {
			fprintf(stderr, "nbd_ram: %s\n", err.text);
			return 1;
		}
	}
	CHECK(ram_new(p.loops[p.options.n_loops - 1], p.options.size, 0, &p.ram, &err) == 0);
	add_exports(&p);
	p.options.nbd.exports = &p.table.exports;
	p.options.nbd.loops = p.loops;
	p.options.nbd.n_loops = p.options.n_loops;
	CHECK(nbd_server_new(&p.options.nbd, &p.server, &err) == 0);
	open_sockets(&p);
	run(&p, &signals);
	say_counters(&p);
	nbd_server_free(p.server);
	ram_free(p.ram);
	for (unsigned i = 0; i < p.options.n_loops; i++)
		io_loop_free(p.loops[i]);
	return 0;
}
