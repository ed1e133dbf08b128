/* SPDX-License-Identifier: Apache-2.0
 *
 * Phases, and what each asks of the connections. The loop is: fill all free slots and send, wait,
 * take all replies.
 */
#include "bench/load.h"

#include "base/check.h"
#include "base/mem.h"
#include "bench/conn.h"
#include "bench/cpu.h"
#include "bench/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* What writes are made of when nobody compares: random, so that nothing below can compress it. */
#define PAYLOAD_POOL (4 * MiB)
/* A fill keeps no more than this in flight, whatever the depth. */
#define FILL_IN_FLIGHT (16 * MiB)
/* How far a random choice walks on from a block that is in use. */
#define CLAIM_TRIES 64
#define EVENTS      64
#define TICK_MS     100

enum phase { PHASE_FILL, PHASE_SYNC, PHASE_RUN, PHASE_READBACK };

struct load {
	const struct load_config *config;
	struct load_result *result;
	struct err *err;
	struct remote remote;
	struct conn *conns[LOAD_CONNECTIONS_MAX];
	bool polls_out[LOAD_CONNECTIONS_MAX];
	int epoll_fd;
	uint64_t working_set;
	uint32_t fill_block;
	uint8_t *payload;
	uint8_t *buffers; /* one for each slot, when verifying */
	size_t payload_size;
	size_t buffer_size;
	size_t buffers_size;
	struct verify *verify;
	uint64_t random_state;
	uint64_t in_flight;
	uint64_t last_reply_ns;

	enum phase phase;
	bool over; /* nothing more is to be started in this phase */
	bool measuring;
	uint64_t cursor; /* of sequential patterns */
	uint64_t issued;
	unsigned unflushed_writes;
	uint64_t start_ns;
	uint64_t measure_ns;
};

static int load_open(struct load *l);
static int check_remote(struct load *l);
static int load_memory(struct load *l);
static int open_connection(struct load *l, unsigned i);
static int run_phases(struct load *l);
static int run_phase(struct load *l, enum phase phase);
static int phase_tick(struct load *l, uint64_t now);
static int measure_start(struct load *l);
static int measure_end(struct load *l);
static int send_all(struct load *l);
static int wait_and_receive(struct load *l);
static bool load_next(void *arg, struct request *r);
static bool next_fill(struct load *l, struct request *r);
static bool next_flush(struct request *r);
static bool next_run(struct load *l, struct request *r);
static bool next_readback(struct load *l, struct request *r);
static bool choose_random(struct load *l, uint64_t *ret_offset);
static bool choose_sequential(struct load *l, uint64_t *ret_offset);
static void prepare(struct load *l, struct request *r);
static int load_done(void *arg, struct request *r, uint32_t error, uint64_t now_ns);
static int count_error(struct load *l, const struct request *r, uint32_t error);
static int check_contents(struct load *l, struct request *r, uint32_t error);
static void record(struct load *l, const struct request *r, uint64_t now);
static void load_close(struct load *l);

int load_run(const struct load_config *config, struct load_result *ret_result, struct err *err)
{
	struct load l = {.config = config, .result = ret_result, .err = err, .epoll_fd = -1};
	int rc;

	memset(ret_result, 0, sizeof(*ret_result));
	l.random_state = hash_u64(config->seed + 1);
	rc = load_open(&l);
	if (rc == 0)
		rc = run_phases(&l);
	ret_result->remote = l.remote;
	if (l.verify)
		ret_result->compared = verify_compared(l.verify);
	load_close(&l);
	return rc;
}

static uint64_t next_random(struct load *l)
{
	l->random_state += UINT64_C(0x9e3779b97f4a7c15);
	return hash_u64(l->random_state);
}

static int load_open(struct load *l)
{
	int rc = 0;

	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return err_set(l->err, -errno, "epoll_create1: %s", strerror(errno));
	for (unsigned i = 0; i < l->config->connections && rc == 0; i++)
		rc = open_connection(l, i);
	return rc;
}

static int open_connection(struct load *l, unsigned i)
{
	const struct load_config *config = l->config;
	struct conn_owner owner = {.next = load_next, .done = load_done, .arg = l};
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
	struct remote remote;
	int fd;
	int rc = remote_open(config->address, config->export_name, config->timeout_s, &remote, &fd,
			     l->err);

	if (rc < 0)
		return i == 0 ? rc : err_wrap(l->err, "connection %u", i);
	if (i == 0) {
		l->remote = remote;
		rc = check_remote(l);
		if (rc == 0)
			rc = load_memory(l);
	} else if (remote.size != l->remote.size) {
		rc = err_set(l->err, -EPROTO, "the export changes its size between connections");
	}
	if (rc == 0) {
		l->conns[i] = conn_new(fd, i, config->depth, &owner);
		if (!l->conns[i])
			rc = err_set(l->err, -ENOMEM, "no memory for connection %u", i);
	}
	if (rc < 0) {
		close(fd);
		return rc;
	}
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return err_set(l->err, -errno, "epoll_ctl: %s", strerror(errno));
	for (unsigned s = 0; l->buffers && s < config->depth; s++)
		conn_slot(l->conns[i], s)->buffer =
		    l->buffers + l->buffer_size * ((size_t)i * config->depth + s);
	return 0;
}

static bool pattern_writes(const struct load_config *config)
{
	return config->pattern == LOAD_RANDWRITE || config->pattern == LOAD_WRITE ||
	       config->pattern == LOAD_MIXED;
}

static int check_remote(struct load *l)
{
	const struct load_config *config = l->config;
	const struct remote *r = &l->remote;
	uint32_t bs = config->block_size;
	bool writes = config->fill || pattern_writes(config);

	if (config->working_set > r->size)
		return err_set(l->err, -EINVAL,
			       "the working set of %" PRIu64 " bytes exceeds the export's %" PRIu64,
			       config->working_set, r->size);
	l->working_set = config->working_set ? config->working_set : r->size;
	l->working_set -= l->working_set % bs;
	if (l->working_set == 0)
		return err_set(l->err, -EINVAL,
			       "the export has %" PRIu64 " bytes, less than a block", r->size);
	if (bs % r->min_block != 0 || bs > r->max_block)
		return err_set(l->err, -EINVAL,
			       "the export takes blocks of %" PRIu32 " to %" PRIu32
			       " bytes, not of %" PRIu32,
			       r->min_block, r->max_block, bs);
	if (writes && (r->flags & REMOTE_READ_ONLY))
		return err_set(l->err, -EROFS, "the export is read-only");
	if (config->flush_every && !(r->flags & REMOTE_FLUSH))
		return err_set(l->err, -EOPNOTSUPP, "the export does not offer flush");
	if (config->fua && !(r->flags & REMOTE_FUA))
		return err_set(l->err, -EOPNOTSUPP, "the export does not offer FUA");
	l->fill_block = (uint32_t)min_u64(max_u64(config->fill_block, bs), r->max_block);
	l->fill_block -= l->fill_block % bs;
	return 0;
}

static int load_memory(struct load *l)
{
	const struct load_config *config = l->config;
	size_t slots = (size_t)config->connections * config->depth;
	size_t largest = max_u64(config->block_size, config->fill ? l->fill_block : 0);

	if (config->verify) {
		l->verify = verify_new(l->working_set, config->block_size, config->seed);
		l->buffer_size = round_up(largest, 4 * KiB);
		l->buffers_size = slots * l->buffer_size;
		l->buffers = mem_alloc_pages(l->buffers_size);
		if (!l->verify || !l->buffers)
			return err_set(l->err, -ENOMEM,
				       "no memory to verify with: use a smaller "
				       "working set or queue depth");
		return 0;
	}
	l->payload_size = PAYLOAD_POOL + largest;
	l->payload = mem_alloc_pages(l->payload_size);
	if (!l->payload)
		return err_set(l->err, -ENOMEM, "no memory for the payload");
	for (size_t at = 0; at + sizeof(uint64_t) <= l->payload_size; at += sizeof(uint64_t)) {
		uint64_t x = next_random(l);

		memcpy(l->payload + at, &x, sizeof(x));
	}
	return 0;
}

static int run_phases(struct load *l)
{
	int rc = 0;

	if (l->config->fill) {
		uint64_t start = conn_clock_ns();

		rc = run_phase(l, PHASE_FILL);
		if (rc == 0 && (l->remote.flags & REMOTE_FLUSH))
			rc = run_phase(l, PHASE_SYNC);
		l->result->fill_ns = conn_clock_ns() - start;
		l->result->fill_bytes = l->working_set;
	}
	if (rc == 0 && l->config->pattern != LOAD_NONE)
		rc = run_phase(l, PHASE_RUN);
	if (rc == 0 && l->verify && (l->config->fill || pattern_writes(l->config)))
		rc = run_phase(l, PHASE_READBACK);
	return rc;
}

static int run_phase(struct load *l, enum phase phase)
{
	int rc = 0;

	CHECK(l->in_flight == 0);
	l->phase = phase;
	l->over = false;
	l->cursor = 0;
	l->issued = 0;
	l->start_ns = conn_clock_ns();
	l->last_reply_ns = l->start_ns;
	while (rc == 0) {
		rc = phase_tick(l, conn_clock_ns());
		if (rc == 0)
			rc = send_all(l);
		if (rc == 0 && l->over && l->in_flight == 0)
			break;
		if (rc == 0)
			rc = wait_and_receive(l);
	}
	if (rc == 0 && phase == PHASE_RUN)
		rc = measure_end(l);
	return rc;
}

static int phase_tick(struct load *l, uint64_t now)
{
	const struct load_config *config = l->config;

	if (l->in_flight > 0 && now > l->last_reply_ns + config->timeout_s * NSEC_PER_SEC)
		return err_set(l->err, -ETIMEDOUT,
			       "the server has answered nothing for %u s, with %" PRIu64
			       " requests in flight",
			       config->timeout_s, l->in_flight);
	if (l->phase != PHASE_RUN)
		return 0;
	if (!l->measuring && now >= l->start_ns + config->warmup_ns)
		return measure_start(l);
	if (l->measuring && config->runtime_ns && now >= l->measure_ns + config->runtime_ns)
		l->over = true;
	return 0;
}

static int server_cpu(struct load *l, uint64_t *ret_ns)
{
	pid_t pid = l->config->server_pid;

	if (pid > 0 && cpu_process_ns(pid, ret_ns) < 0)
		return err_set(l->err, -ESRCH, "there is no process %d (--server-pid)", (int)pid);
	return 0;
}

/* Requests that are in flight now will not be counted: looking at /proc delays them. */
static int measure_start(struct load *l)
{
	struct load_result *result = l->result;
	int rc = server_cpu(l, &result->server_cpu_ns);

	if (rc < 0)
		return rc;
	cpu_machine_ns(&result->machine_cpu_ns);
	result->client_cpu_ns = cpu_self_ns();
	l->measuring = true;
	l->issued = 0;
	l->measure_ns = conn_clock_ns();
	l->last_reply_ns = l->measure_ns;
	return 0;
}

static int measure_end(struct load *l)
{
	struct load_result *result = l->result;
	uint64_t machine = result->machine_cpu_ns;
	uint64_t server = result->server_cpu_ns;
	int rc;

	l->measuring = false;
	result->elapsed_ns = conn_clock_ns() - l->measure_ns;
	result->client_cpu_ns = cpu_self_ns() - result->client_cpu_ns;
	cpu_machine_ns(&machine);
	result->machine_cpu_ns = machine - result->machine_cpu_ns;
	rc = server_cpu(l, &server);
	result->server_cpu_ns = server - result->server_cpu_ns;
	return rc;
}

static int send_all(struct load *l)
{
	for (unsigned i = 0; i < l->config->connections; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
		bool wants_out;
		int rc = conn_send(l->conns[i], l->err);

		if (rc < 0)
			return rc;
		wants_out = conn_wants_out(l->conns[i]);
		if (wants_out == l->polls_out[i])
			continue;
		if (wants_out)
			event.events |= EPOLLOUT;
		if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, conn_fd(l->conns[i]), &event) < 0)
			return err_set(l->err, -errno, "epoll_ctl: %s", strerror(errno));
		l->polls_out[i] = wants_out;
	}
	return 0;
}

static int wait_and_receive(struct load *l)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(l->epoll_fd, events, EVENTS, TICK_MS);

	if (n < 0 && errno != EINTR)
		return err_set(l->err, -errno, "epoll_wait: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		int rc = 0;

		if (events[i].events & ~(uint32_t)EPOLLOUT)
			rc = conn_receive(l->conns[events[i].data.u32], l->err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static bool load_next(void *arg, struct request *r)
{
	struct load *l = arg;
	bool some = false;

	if (l->over)
		return false;
	r->fua = false;
	switch (l->phase) {
	case PHASE_FILL:
		some = next_fill(l, r);
		break;
	case PHASE_SYNC:
		some = next_flush(r);
		l->over = true;
		break;
	case PHASE_RUN:
		some = next_run(l, r);
		break;
	case PHASE_READBACK:
		some = next_readback(l, r);
		break;
	}
	if (!some)
		return false;
	if (r->op != CONN_FLUSH)
		prepare(l, r);
	l->in_flight++;
	return true;
}

static bool next_fill(struct load *l, struct request *r)
{
	if (l->in_flight > 0 && (l->in_flight + 1) * l->fill_block > FILL_IN_FLIGHT)
		return false;
	r->op = CONN_WRITE;
	r->offset = l->cursor;
	r->length = (uint32_t)min_u64(l->fill_block, l->working_set - l->cursor);
	if (l->verify && !verify_claim(l->verify, r->offset, r->length))
		return false;
	l->cursor += r->length;
	l->over = l->cursor == l->working_set;
	return true;
}

static bool next_flush(struct request *r)
{
	r->op = CONN_FLUSH;
	r->offset = 0;
	r->length = 0;
	return true;
}

static bool next_run(struct load *l, struct request *r)
{
	const struct load_config *config = l->config;
	bool random = config->pattern != LOAD_READ && config->pattern != LOAD_WRITE;
	bool writes = pattern_writes(config);

	if (config->flush_every && l->unflushed_writes >= config->flush_every) {
		l->unflushed_writes = 0;
		return next_flush(r);
	}
	if (!(random ? choose_random(l, &r->offset) : choose_sequential(l, &r->offset)))
		return false;
	if (config->pattern == LOAD_MIXED)
		writes = next_random(l) % 100 >= config->read_percent;
	r->op = writes ? CONN_WRITE : CONN_READ;
	r->fua = writes && config->fua;
	r->length = config->block_size;
	if (writes)
		l->unflushed_writes++;
	l->issued++;
	if (config->max_ios && l->measuring && l->issued >= config->max_ios)
		l->over = true;
	return true;
}

static bool next_readback(struct load *l, struct request *r)
{
	while (l->cursor < l->working_set && !verify_known(l->verify, l->cursor))
		l->cursor += l->config->block_size;
	l->over = l->cursor == l->working_set;
	if (l->over)
		return false;
	r->op = CONN_READ;
	r->length = l->config->block_size;
	return choose_sequential(l, &r->offset);
}

/* Of each 100 blocks the first 100 - skew are the hot ones: they are all over the disk. */
static uint64_t choose_block(struct load *l, uint64_t n)
{
	unsigned skew = l->config->skew;
	uint64_t hundred;

	if (skew == 0 || n < 100)
		return next_random(l) % n;
	hundred = next_random(l) % (n / 100) * 100;
	if (next_random(l) % 100 < skew)
		return hundred + next_random(l) % (100 - skew);
	return hundred + 100 - skew + next_random(l) % skew;
}

static bool choose_random(struct load *l, uint64_t *ret_offset)
{
	uint32_t bs = l->config->block_size;
	uint64_t block = choose_block(l, l->working_set / bs);

	if (!l->verify) {
		*ret_offset = block * bs;
		return true;
	}
	for (unsigned i = 0; i < CLAIM_TRIES; i++) {
		*ret_offset = (block + i) * bs % l->working_set;
		if (verify_claim(l->verify, *ret_offset, bs))
			return true;
	}
	return false;
}

static bool choose_sequential(struct load *l, uint64_t *ret_offset)
{
	uint32_t bs = l->config->block_size;

	/* The readback ends at the working set's end, a run starts over. */
	if (l->cursor == l->working_set)
		l->cursor = 0;
	if (l->verify && !verify_claim(l->verify, l->cursor, bs))
		return false;
	*ret_offset = l->cursor;
	l->cursor += bs;
	return true;
}

static void prepare(struct load *l, struct request *r)
{
	r->into = l->verify ? r->buffer : NULL;
	if (r->op != CONN_WRITE)
		return;
	if (l->verify) {
		verify_stamp(l->verify, r->offset, r->length, r->buffer);
		r->payload = r->buffer;
	} else {
		r->payload = l->payload + round_down(next_random(l) % PAYLOAD_POOL, 512);
	}
}

static int load_done(void *arg, struct request *r, uint32_t error, uint64_t now_ns)
{
	struct load *l = arg;
	int rc = 0;

	l->in_flight--;
	if (l->measuring && now_ns > l->last_reply_ns)
		l->result->longest_silence_ns =
		    max_u64(l->result->longest_silence_ns, now_ns - l->last_reply_ns);
	l->last_reply_ns = now_ns;
	if (error)
		rc = count_error(l, r, error);
	else if (l->measuring && r->start_ns >= l->measure_ns)
		record(l, r, now_ns);
	if (l->verify && r->op != CONN_FLUSH) {
		int checked = check_contents(l, r, error);

		rc = rc < 0 ? rc : checked;
	}
	return rc;
}

static void record(struct load *l, const struct request *r, uint64_t now)
{
	struct load_result *result = l->result;
	uint64_t ns = now - r->start_ns;

	switch (r->op) {
	case CONN_READ:
		hist_add(&result->read, ns);
		break;
	case CONN_WRITE:
		hist_add(&result->write, ns);
		break;
	case CONN_FLUSH:
		hist_add(&result->flush, ns);
		break;
	}
	result->bytes += r->length;
}

static const char *nbd_error_text(uint32_t error)
{
	/* NBD's numbers are Linux's. */
	return error < 4096 ? strerror((int)error) : "not an error number of NBD";
}

/* Says it now, or counts it and keeps the first for later. */
static int complain(struct load *l, int code, const char *text)
{
	if (!l->config->keep_going)
		return err_set(l->err, code, "%s", text);
	if (!l->result->first_error[0])
		snprintf(l->result->first_error, sizeof(l->result->first_error), "%s", text);
	return 0;
}

static int count_error(struct load *l, const struct request *r, uint32_t error)
{
	static const char *const verbs[] = {
	    [CONN_READ] = "read", [CONN_WRITE] = "write", [CONN_FLUSH] = "flush"};
	char text[ERR_TEXT_MAX];

	l->result->errors++;
	snprintf(text, sizeof(text),
		 "%s of %" PRIu32 " bytes at %" PRIu64 ": server answers error %" PRIu32 " (%s)",
		 verbs[r->op], r->length, r->offset, error, nbd_error_text(error));
	return complain(l, -EIO, text);
}

static int check_contents(struct load *l, struct request *r, uint32_t error)
{
	char text[STAMP_TEXT_MAX];

	if (r->op == CONN_WRITE) {
		verify_written(l->verify, r->offset, r->length, error != 0);
		return 0;
	}
	if (verify_read(l->verify, r->offset, r->length, error ? NULL : r->into, text))
		return 0;
	l->result->mismatches++;
	return complain(l, -EILSEQ, text);
}

static void load_close(struct load *l)
{
	for (unsigned i = 0; i < l->config->connections; i++)
		conn_free(l->conns[i]);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	verify_free(l->verify);
	mem_free_pages(l->payload, l->payload_size);
	mem_free_pages(l->buffers, l->buffers_size);
}
