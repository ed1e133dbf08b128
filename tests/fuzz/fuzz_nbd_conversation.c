/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole conversation with the NBD server, on the simulated machine: what the peer says arrives in
 * pieces, and then it hangs up. The input is
 *
 *   byte 0   how it ends: 0 the peer finishes sending, 1 it resets, 2 the server stops; + 4: a good
 *            handshake precedes what it says, + 8: one with structured replies and base:allocation
 *   byte 1   the machine's seed, which cuts the pieces; a reset and a stop come after so many steps
 *   byte 2.. what the peer says
 *
 * Whatever it says, the connection ends, the server stops, and no claim and no memory is left. Who
 * has got into transmission and finishes sending gets one whole answer to each whole request.
 */
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "block/export_table.h"
#include "block/ram.h"
#include "nbd/limits.h"
#include "nbd/protocol.h"
#include "nbd/server.h"
#include "tests/sim/machine/sim.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK         (4 * MiB)
#define REQUESTS_MAX 4096
#define STEPS        2000000

enum end { END_FINISHED, END_RESET, END_STOP };

/* What is owed to the peer: cookies are numbers of requests. */
struct owed {
	uint16_t type;
	uint32_t length;
	bool answered;
};

struct talk {
	struct sim *sim;
	struct io_loop *loop;
	struct ram *ram;
	struct export_table table;
	struct nbd_server *server;
	struct io_op stop; /* on the loop, as the server wants it */
	struct io_op stopped;
	bool is_stopped;
	struct io_sock *peer;
	enum end end;
	bool skip_handshake;
	bool structured;
	uint8_t *said;
	size_t n_said;
	uint8_t *heard;
	size_t n_heard;
	size_t room;
	struct owed owed[REQUESTS_MAX];
	unsigned n_owed;
};

/* ---- What the peer says ---- */

static size_t put_option(uint8_t *to, uint32_t option, const void *data, uint32_t length)
{
	put_be64(to, NBD_OPTION_MAGIC);
	put_be32(to + 8, option);
	put_be32(to + 12, length);
	if (length > 0)
		memcpy(to + NBD_OPTION_HEADER_SIZE, data, length);
	return NBD_OPTION_HEADER_SIZE + length;
}

static size_t put_handshake(uint8_t *to, bool structured)
{
	static const uint8_t context[] = "\0\0\0\3ram\0\0\0\1\0\0\0\17base:allocation";
	static const uint8_t go[] = "\0\0\0\3ram\0";
	size_t n = NBD_CLIENT_FLAGS_SIZE;

	put_be32(to, NBD_C_FIXED_NEWSTYLE | NBD_C_NO_ZEROES);
	if (structured) {
		n += put_option(to + n, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		n += put_option(to + n, NBD_OPT_SET_META_CONTEXT, context, sizeof(context) - 1);
	}
	return n + put_option(to + n, NBD_OPT_GO, go, sizeof(go));
}

/* Numbers the requests, and notes which of them are whole and legal enough for an answer. */
static void note_requests(struct talk *t, uint8_t *p, size_t size)
{
	while (size >= NBD_REQUEST_SIZE && get_be32(p) == NBD_REQUEST_MAGIC) {
		uint16_t type = get_be16(p + 6);
		uint32_t length = get_be32(p + 24);
		size_t whole = NBD_REQUEST_SIZE + (type == NBD_CMD_WRITE ? (size_t)length : 0);

		if (type == NBD_CMD_DISC || size < whole || t->n_owed == REQUESTS_MAX)
			return;
		put_be64(p + 8, t->n_owed);
		t->owed[t->n_owed++] = (struct owed){.type = type, .length = length};
		p += whole;
		size -= whole;
	}
}

static void compose(struct talk *t, const uint8_t *data, size_t size)
{
	t->end = (data[0] & 3) % 3;
	t->skip_handshake = data[0] & 4;
	t->structured = t->skip_handshake && data[0] & 8;
	t->said = sim_alloc(512 + size);
	if (t->skip_handshake)
		t->n_said = put_handshake(t->said, t->structured);
	memcpy(t->said + t->n_said, data + 2, size - 2);
	if (t->skip_handshake)
		note_requests(t, t->said + t->n_said, size - 2);
	t->n_said += size - 2;
}

/* ---- What it hears ---- */

static void hear(struct talk *t)
{
	size_t n = sim_arrived(t->peer);

	if (t->room - t->n_heard < n) {
		uint8_t *more = sim_alloc(t->room = 2 * (t->room + n));

		if (t->n_heard > 0)
			memcpy(more, t->heard, t->n_heard);
		sim_release(t->heard);
		t->heard = more;
	}
	CHECK(sim_recv(t->peer, t->heard + t->n_heard, n) == n);
	t->n_heard += n;
}

static bool is_spoken_to(void *arg)
{
	const struct talk *t = arg;

	return t->end != END_RESET && sim_arrived(t->peer) > 0;
}

/* Until nothing more happens; the peer reads what comes. */
static void settle(struct talk *t)
{
	enum sim_end end;

	while ((end = sim_run_until(t->sim, is_spoken_to, t, STEPS)) == SIM_DONE)
		hear(t);
	CHECK(end == SIM_IDLE);
}

/* Greeting, and whole answers to options; returns where they end. */
static size_t check_haggling(const struct talk *t)
{
	const uint8_t *p = t->heard;
	size_t at = NBD_GREETING_SIZE;

	CHECK(t->n_heard >= at);
	CHECK(get_be64(p) == NBD_MAGIC);
	CHECK(get_be64(p + 8) == NBD_OPTION_MAGIC);
	while (t->n_heard - at >= NBD_REP_HEADER_SIZE && get_be64(p + at) == NBD_REP_MAGIC) {
		uint32_t option = get_be32(p + at + 8);
		uint32_t rep = get_be32(p + at + 12);
		uint32_t length = get_be32(p + at + 16);

		CHECK(length <= NBD_STRING_MAX + 6);
		CHECK(t->n_heard - at >= NBD_REP_HEADER_SIZE + length);
		at += NBD_REP_HEADER_SIZE + length;
		if (option == NBD_OPT_GO && rep == NBD_REP_ACK)
			break;
	}
	return at;
}

static struct owed *find(struct talk *t, const uint8_t *cookie)
{
	uint64_t n = get_be64(cookie);

	CHECK(n < t->n_owed);
	CHECK(!t->owed[n].answered);
	t->owed[n].answered = true;
	return &t->owed[n];
}

static size_t check_simple(struct talk *t, const uint8_t *p)
{
	const struct owed *owed = find(t, p + 8);

	CHECK(!t->structured || owed->type != NBD_CMD_READ);
	if (get_be32(p + 4) == 0 && owed->type == NBD_CMD_READ)
		return NBD_SIMPLE_REPLY_SIZE + (size_t)owed->length;
	return NBD_SIMPLE_REPLY_SIZE;
}

static size_t check_chunk(struct talk *t, const uint8_t *p)
{
	const struct owed *owed = find(t, p + 8);
	uint16_t type = get_be16(p + 6);
	uint32_t length = get_be32(p + 16);

	CHECK(t->structured);
	CHECK(get_be16(p + 4) == NBD_CHUNK_DONE);
	if (type == NBD_CHUNK_OFFSET_DATA)
		CHECK(owed->type == NBD_CMD_READ && length == 8 + owed->length);
	else if (type == NBD_CHUNK_BLOCK_STATUS)
		CHECK(owed->type == NBD_CMD_BLOCK_STATUS && length >= 12 && length % 8 == 4);
	else
		CHECK(type == NBD_CHUNK_ERROR && length >= 6);
	return NBD_CHUNK_HEADER_SIZE + (size_t)length;
}

static void check_answers(struct talk *t)
{
	size_t at = check_haggling(t);

	if (!t->skip_handshake)
		return;
	while (t->n_heard > at) {
		const uint8_t *p = t->heard + at;

		CHECK(t->n_heard - at >= NBD_SIMPLE_REPLY_SIZE);
		if (get_be32(p) == NBD_SIMPLE_MAGIC) {
			at += check_simple(t, p);
		} else {
			CHECK(get_be32(p) == NBD_STRUCTURED_MAGIC);
			CHECK(t->n_heard - at >= NBD_CHUNK_HEADER_SIZE);
			at += check_chunk(t, p);
		}
		CHECK(at <= t->n_heard);
	}
	for (unsigned i = 0; i < t->n_owed && t->end == END_FINISHED; i++)
		CHECK(t->owed[i].answered);
}

/* ---- The conversation ---- */

static void on_stop(struct io_op *op)
{
	struct talk *t = container_of(op, struct talk, stop);

	nbd_server_stop(t->server, &t->stopped);
}

static void on_stopped(struct io_op *op)
{
	struct talk *t = container_of(op, struct talk, stopped);

	t->is_stopped = true;
}

static void begin(struct talk *t, uint8_t seed)
{
	const struct io_loop_config loop = {.name = "nbd", .cpu = -1};
	struct nbd_config config = {
	    .exports = &t->table.exports,
	    .loops = &t->loop,
	    .n_loops = 1,
	    .memory_per_loop = 4 * MiB, /* so that requests have to wait for it */
	};
	struct io_sock *inside;
	struct err err;

	log_set_level(LOG_LEVEL_ERROR);
	t->sim = sim_new(seed, NULL);
	CHECK(io_loop_new(&loop, &t->loop, &err) == 0);
	CHECK(ram_new(t->loop, DISK, 0, &t->ram, &err) == 0);
	export_table_init(&t->table);
	CHECK(export_table_add(&t->table, "ram", "", ram_dev(t->ram), t->loop, true) == 0);
	CHECK(nbd_server_new(&config, &t->server, &err) == 0);
	sim_pair(t->sim, seed & 1, &inside, &t->peer);
	CHECK(nbd_server_serve_one(t->server, inside, NULL) == 0);
	t->stop.done = on_stop;
	t->stopped.done = on_stopped;
}

static void hang_up(struct talk *t)
{
	if (t->end == END_FINISHED)
		sim_half_close(t->peer);
	else if (t->end == END_RESET)
		sim_reset(t->peer);
	else
		io_defer(t->loop, &t->stop, 0);
}

static void finish(struct talk *t)
{
	struct nbd_stats stats;

	nbd_server_stats(t->server, &stats);
	CHECK(stats.connections == 0);
	CHECK(export_table_claims(&t->table, 0) == 0);
	if (t->end != END_STOP)
		io_defer(t->loop, &t->stop, 0);
	settle(t);
	CHECK(t->is_stopped);
	nbd_server_free(t->server);
	ram_free(t->ram);
	io_sock_close(t->peer);
	io_loop_free(t->loop);
	CHECK(sim_mem_in_use(t->sim) == 0);
	sim_free(t->sim);
	sim_release(t->said);
	sim_release(t->heard);
	sim_release(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct talk *t;

	if (size < 2)
		return 0;
	t = sim_alloc(sizeof(*t));
	begin(t, data[1]);
	compose(t, data, size);
	if (t->n_said > 0)
		sim_send(t->peer, t->said, t->n_said);
	sim_run_until(t->sim, NULL, NULL, t->end == END_FINISHED ? 1 : data[1]);
	hang_up(t);
	settle(t);
	if (t->end != END_RESET)
		check_answers(t);
	finish(t);
	return 0;
}
