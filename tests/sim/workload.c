/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/workload.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BYTES_MAX   (2 * MiB)
#define EXTENTS_MAX 16

/* How often, in parts of their sum. */
struct mix {
	uint32_t of[BLOCK_STATUS + 1];
};

struct client {
	struct workload *workload;
	struct mix mix;
	uint64_t max_bytes;
	uint64_t align; /* of most requests */
	uint64_t from;  /* its part of the device, in sectors */
	uint64_t n;
	uint32_t fua;    /* in a million */
	uint32_t ragged; /* aligned to sectors only, in a million */
	uint64_t pause_ns;
};

/* A request at a time, again and again. */
struct slot {
	struct client *client;
	struct io_op timer;
	struct block_req req;
	struct block_extent extents[EXTENTS_MAX];
	uint8_t *memory;
	uint8_t *pages;  /* in memory, aligned to a block */
	uint32_t number; /* of a write, at the oracle */
	uint64_t token;  /* of a read or flush */
	bool busy;
};

struct workload {
	struct sim *sim;
	struct io_loop *loop;
	struct block_dev *dev;
	struct oracle *oracle;
	struct workload_options options;
	struct client *client;
	struct slot *slot;
	unsigned n_slots;
	unsigned n_busy;
	uint64_t n_issued;
	bool stopped;
	struct workload_counts counts;
	bool failed;
	char text[400];
};

static void pause_slot(struct slot *s);
static void slot_on_timer(struct io_op *op);
static void issue(struct slot *s);
static void slot_on_done(struct block_req *req);
static void judge(struct slot *s);

/* ---- Set-up -------------------------------------------------------------------------- */

/* Kinds of clients, so that seeds differ in more than luck. */
static const struct mix mixes[] = {
    {{[BLOCK_READ] = 30,
      [BLOCK_WRITE] = 50,
      [BLOCK_FLUSH] = 5,
      [BLOCK_TRIM] = 5,
      [BLOCK_WRITE_ZEROES] = 5,
      [BLOCK_CACHE] = 1,
      [BLOCK_STATUS] = 4}},
    {{[BLOCK_READ] = 20, [BLOCK_WRITE] = 80}},
    {{[BLOCK_READ] = 10, [BLOCK_WRITE] = 40, [BLOCK_FLUSH] = 50}},
    {{[BLOCK_READ] = 30,
      [BLOCK_WRITE] = 25,
      [BLOCK_FLUSH] = 5,
      [BLOCK_TRIM] = 20,
      [BLOCK_WRITE_ZEROES] = 15,
      [BLOCK_STATUS] = 5}},
    {{[BLOCK_READ] = 80, [BLOCK_WRITE] = 18, [BLOCK_FLUSH] = 2}},
};

static uint64_t one_of(struct sim *sim, const uint64_t *choices, size_t n)
{
	return choices[sim_below(sim, n)];
}
#define ONE_OF(sim, ...)                                                                           \
	one_of(sim, (const uint64_t[]){__VA_ARGS__},                                               \
	       sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void client_init(struct client *c, struct workload *w)
{
	uint64_t n = block_size(w->dev) / BLOCK_SECTOR;

	c->workload = w;
	c->mix = mixes[sim_below(w->sim, ARRAY_SIZE(mixes))];
	c->max_bytes = w->options.max_bytes;
	if (!c->max_bytes)
		c->max_bytes = ONE_OF(w->sim, 4 * KiB, 64 * KiB, 256 * KiB, BYTES_MAX);
	c->align = ONE_OF(w->sim, 512, 4096, 4096, 65536);
	/* Some stay in a hot spot, so that requests overlap in flight. */
	c->n = min_u64(n, ONE_OF(w->sim, 64, 512, n, n));
	c->from = sim_below(w->sim, n - c->n + 1);
	c->fua = (uint32_t)ONE_OF(w->sim, 0, 0, 50000, 500000);
	c->ragged = (uint32_t)ONE_OF(w->sim, 0, 100000, 500000);
	c->pause_ns = ONE_OF(w->sim, 100, 10000, 1000000);
}

static void slot_init(struct slot *s, struct client *c)
{
	s->client = c;
	s->memory = sim_alloc(round_up(c->max_bytes, c->align) + 2 * BLOCK_SIZE);
	s->pages = (uint8_t *)(uintptr_t)round_up((uintptr_t)s->memory, BLOCK_SIZE);
}

struct workload *workload_start(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				struct oracle *oracle, const struct workload_options *options)
{
	struct workload *w = sim_alloc(sizeof(*w));

	if (options)
		w->options = *options;
	if (!w->options.clients)
		w->options.clients = 1 + (unsigned)sim_below(sim, 3);
	if (!w->options.depth)
		w->options.depth = (unsigned)ONE_OF(sim, 1, 4, 16);
	CHECK(w->options.max_bytes <= BYTES_MAX);
	CHECK(oracle_sectors(oracle) == block_size(dev) / BLOCK_SECTOR);
	w->sim = sim;
	w->loop = loop;
	w->dev = dev;
	w->oracle = oracle;
	w->n_slots = w->options.clients * w->options.depth;
	w->client = sim_alloc(w->options.clients * sizeof(*w->client));
	w->slot = sim_alloc(w->n_slots * sizeof(*w->slot));
	for (unsigned i = 0; i < w->options.clients; i++)
		client_init(&w->client[i], w);
	for (unsigned i = 0; i < w->n_slots; i++) {
		slot_init(&w->slot[i], &w->client[i / w->options.depth]);
		pause_slot(&w->slot[i]);
	}
	return w;
}

void workload_free(struct workload *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < w->n_slots; i++)
		sim_release(w->slot[i].memory);
	sim_release(w->slot);
	sim_release(w->client);
	sim_release(w);
}

void workload_stop(struct workload *w)
{
	w->stopped = true;
}

bool workload_is_over(void *arg)
{
	const struct workload *w = arg;

	return w->failed || w->n_busy == 0;
}

const char *workload_failure(const struct workload *w)
{
	return w->failed ? w->text : NULL;
}

struct workload_counts workload_counts(const struct workload *w)
{
	return w->counts;
}

/* ---- A request ----------------------------------------------------------------------- */

static const char *op_name(enum block_op op)
{
	static const char *const name[] = {"read", "write", "flush", "trim",
					   "zero", "cache", "status"};

	return name[op];
}

static void fail(struct slot *s, const char *what)
{
	struct workload *w = s->client->workload;

	w->failed = true;
	snprintf(w->text, sizeof(w->text), "%s [%llu, +%llu) sectors: %s", op_name(s->req.op),
		 (unsigned long long)(s->req.offset / BLOCK_SECTOR),
		 (unsigned long long)(s->req.length / BLOCK_SECTOR), what);
	sim_trace(w->sim, "%s", w->text);
}

static void pause_slot(struct slot *s)
{
	struct workload *w = s->client->workload;

	if (w->stopped || w->failed || (w->options.n_ops && w->n_issued >= w->options.n_ops))
		return;
	w->n_issued++;
	w->n_busy++;
	s->timer.done = slot_on_timer;
	io_timer(w->loop, &s->timer, sim_below(w->sim, s->client->pause_ns));
}

static void slot_on_timer(struct io_op *op)
{
	issue(container_of(op, struct slot, timer));
}

static enum block_op choose_op(struct sim *sim, const struct mix *mix)
{
	uint64_t sum = 0;
	uint64_t at;
	size_t op;

	for (op = 0; op < ARRAY_SIZE(mix->of); op++)
		sum += mix->of[op];
	at = sim_below(sim, sum);
	for (op = 0; at >= mix->of[op]; op++)
		at -= mix->of[op];
	return (enum block_op)op;
}

/* Small sizes mostly, now and then the largest. */
static uint64_t choose_sectors(struct sim *sim, uint64_t max)
{
	switch (sim_below(sim, 16)) {
	case 0:
	case 1:
		return 1 + sim_below(sim, max);
	case 2:
		return max;
	default:
		return 1 + sim_below(sim, min_u64(max, 64));
	}
}

static void choose_range(struct slot *s)
{
	const struct client *c = s->client;
	struct sim *sim = c->workload->sim;
	/* While the device grows its oracle may not know yet. */
	uint64_t all = min_u64(block_size(c->workload->dev) / BLOCK_SECTOR,
			       oracle_sectors(c->workload->oracle));
	uint64_t align = sim_chance(sim, c->ragged) ? 1 : c->align / BLOCK_SECTOR;
	bool has_payload = s->req.op == BLOCK_READ || s->req.op == BLOCK_WRITE;
	uint64_t max = min_u64(has_payload ? c->max_bytes / BLOCK_SECTOR : all, c->n);
	uint64_t n = round_up(choose_sectors(sim, max), align);
	uint64_t first;

	/* Trims and the like go up to everything. */
	if (!has_payload && sim_below(sim, 30) == 0) {
		s->req.offset = 0;
		s->req.length = all * BLOCK_SECTOR;
		return;
	}
	first = round_down(c->from + sim_below(sim, c->n), align);
	n = min_u64(n, all - first);
	s->req.offset = first * BLOCK_SECTOR;
	s->req.length = n * BLOCK_SECTOR;
}

static void choose_flags(struct slot *s)
{
	const struct client *c = s->client;
	struct sim *sim = c->workload->sim;

	if (block_op_writes(s->req.op) && sim_chance(sim, c->fua))
		s->req.flags |= BLOCK_FUA;
	if (s->req.op == BLOCK_WRITE_ZEROES && sim_below(sim, 3) == 0)
		s->req.flags |= BLOCK_NO_HOLE;
	if (s->req.op == BLOCK_WRITE_ZEROES && sim_below(sim, 10) == 0)
		s->req.flags |= BLOCK_FAST_ZERO;
	if (s->req.op == BLOCK_STATUS && sim_below(sim, 3) == 0)
		s->req.flags |= BLOCK_REQ_ONE;
}

/* Tells the oracle, which gives a write its bytes. */
static void announce(struct slot *s)
{
	struct oracle *oracle = s->client->workload->oracle;
	struct block_req *req = &s->req;

	switch (req->op) {
	case BLOCK_WRITE:
	case BLOCK_TRIM:
	case BLOCK_WRITE_ZEROES:
		s->number = oracle_write_begin(oracle, req->op, req->flags & BLOCK_FUA,
					       req->offset / BLOCK_SECTOR,
					       req->length / BLOCK_SECTOR, req->buf);
		break;
	case BLOCK_READ:
		memset(req->buf, 0xee, req->length);
		s->token = oracle_read_begin(oracle);
		break;
	case BLOCK_STATUS:
		s->token = oracle_read_begin(oracle);
		break;
	case BLOCK_FLUSH:
		s->token = oracle_flush_begin(oracle);
		break;
	case BLOCK_CACHE:
		break;
	}
}

static void issue(struct slot *s)
{
	struct workload *w = s->client->workload;

	s->req = (struct block_req){.done = slot_on_done};
	s->req.op = choose_op(w->sim, &s->client->mix);
	if (s->req.op != BLOCK_FLUSH)
		choose_range(s);
	choose_flags(s);
	s->req.buf = s->pages + s->req.offset % BLOCK_SIZE;
	s->req.extents = s->extents;
	s->req.max_extents = 1 + (uint32_t)sim_below(w->sim, EXTENTS_MAX);
	announce(s);
	sim_trace(w->sim, "client %u: %s [%llu, +%llu) sectors, number %u, flags %u",
		  (unsigned)(s->client - w->client), op_name(s->req.op),
		  (unsigned long long)(s->req.offset / BLOCK_SECTOR),
		  (unsigned long long)(s->req.length / BLOCK_SECTOR),
		  block_op_writes(s->req.op) ? s->number : 0, s->req.flags);
	s->busy = true;
	block_submit(w->dev, &s->req);
	if (!s->busy)
		fail(s, "was answered inside block_submit");
}

static void slot_on_done(struct block_req *req)
{
	struct slot *s = container_of(req, struct slot, req);
	struct workload *w = s->client->workload;

	if (!s->busy)
		fail(s, "was answered twice");
	s->busy = false;
	w->n_busy--;
	w->counts.answered++;
	judge(s);
	pause_slot(s);
}

static void judge_status(struct slot *s)
{
	struct workload *w = s->client->workload;
	const struct block_req *req = &s->req;
	uint64_t at = req->offset;

	if (req->n_extents == 0 || req->n_extents > req->max_extents)
		fail(s, "has no extents, or too many");
	for (uint32_t i = 0; i < req->n_extents && !w->failed; i++) {
		const struct block_extent *e = &req->extents[i];

		if (e->length == 0 || e->length > req->offset + req->length - at ||
		    !is_aligned(e->length, BLOCK_SECTOR)) {
			fail(s, "has an extent of an impossible length");
			return;
		}
		if ((e->flags & BLOCK_EXTENT_ZERO) &&
		    !oracle_zero_end(w->oracle, s->token, at / BLOCK_SECTOR,
				     e->length / BLOCK_SECTOR))
			fail(s, oracle_text(w->oracle));
		at += e->length;
	}
}

static void judge_error(struct slot *s)
{
	struct workload *w = s->client->workload;
	bool may_refuse = (s->req.flags & BLOCK_FAST_ZERO) && s->req.error == -ENOTSUP;
	char text[80];

	w->counts.errors++;
	if (may_refuse)
		return;
	if (w->options.errors_ok &&
	    (!w->options.only_error || s->req.error == w->options.only_error))
		return;
	snprintf(text, sizeof(text), "failed with error %d (%s)", s->req.error,
		 strerror(-s->req.error));
	fail(s, text);
}

static void judge(struct slot *s)
{
	struct workload *w = s->client->workload;
	const struct block_req *req = &s->req;

	sim_trace(w->sim, "client %u: %s [%llu, +%llu) answered with %d",
		  (unsigned)(s->client - w->client), op_name(req->op),
		  (unsigned long long)(req->offset / BLOCK_SECTOR),
		  (unsigned long long)(req->length / BLOCK_SECTOR), req->error);
	if (block_op_writes(req->op))
		oracle_write_end(w->oracle, s->number, req->error);
	if (req->op == BLOCK_FLUSH)
		oracle_flush_end(w->oracle, s->token, req->error);
	if (req->error) {
		judge_error(s);
	} else if (req->op == BLOCK_READ) {
		w->counts.verified += req->length / BLOCK_SECTOR;
		if (!oracle_read_end(w->oracle, s->token, req->offset / BLOCK_SECTOR,
				     req->length / BLOCK_SECTOR, req->buf))
			fail(s, oracle_text(w->oracle));
	} else if (req->op == BLOCK_STATUS) {
		judge_status(s);
	}
}
