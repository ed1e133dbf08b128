/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads all of a device, piece by piece, and shows it to the oracle.
 */
#include "tests/sim/workload.h"

#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define PIECE     (256 * KiB)
#define STEPS_MAX 1000000 /* for one read; more is a read that never ends */

struct verify {
	struct sim *sim;
	struct io_loop *loop;
	struct block_dev *dev;
	struct oracle *oracle;
	bool crash;
	uint8_t *memory;
	struct block_req req;
	struct io_op start;
	uint64_t token;
	bool done;
};

static char text[400];

static void on_read(struct block_req *req)
{
	container_of(req, struct verify, req)->done = true;
}

/* On the loop's turn, as a request should come. */
static void on_start(struct io_op *op)
{
	struct verify *v = container_of(op, struct verify, start);

	block_submit(v->dev, &v->req);
}

static bool show(struct verify *v)
{
	uint64_t first = v->req.offset / BLOCK_SECTOR;
	uint64_t n = v->req.length / BLOCK_SECTOR;

	if (v->crash)
		return oracle_crash_see(v->oracle, first, n, v->req.buf);
	return oracle_read_end(v->oracle, v->token, first, n, v->req.buf);
}

static enum verify_end read_piece(struct verify *v, uint64_t offset, uint64_t len)
{
	v->done = false;
	v->start.done = on_start;
	v->req = (struct block_req){
	    .op = BLOCK_READ,
	    .offset = offset,
	    .length = len,
	    .buf = (void *)(uintptr_t)round_up((uintptr_t)v->memory, BLOCK_SIZE),
	    .done = on_read,
	};
	memset(v->req.buf, 0xee, len);
	v->token = oracle_read_begin(v->oracle);
	io_defer(v->loop, &v->start, 0);
	switch (sim_run_until(v->sim, sim_flag_is_set, &v->done, STEPS_MAX)) {
	case SIM_DONE:
		break;
	case SIM_DEAD:
		return VERIFY_DEAD;
	case SIM_IDLE:
	case SIM_STEPS:
		return VERIFY_STUCK;
	}
	if (v->req.error) {
		snprintf(text, sizeof(text), "reading %llu bytes at %llu: error %d",
			 (unsigned long long)len, (unsigned long long)offset, v->req.error);
		return VERIFY_WRONG;
	}
	if (show(v))
		return VERIFY_OK;
	snprintf(text, sizeof(text), "%s", oracle_text(v->oracle));
	return VERIFY_WRONG;
}

static enum verify_end read_all(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				struct oracle *oracle, bool crash)
{
	/* A resize that failed may have taken effect all the same; nobody was promised more. */
	uint64_t size = min_u64(block_size(dev), oracle_sectors(oracle) * BLOCK_SECTOR);
	struct verify v = {sim, loop, dev, oracle, crash, .memory = NULL};
	enum verify_end end = VERIFY_OK;

	text[0] = '\0';
	v.memory = sim_alloc(PIECE + BLOCK_SIZE);
	for (uint64_t at = 0; at < size && end == VERIFY_OK; at += PIECE)
		end = read_piece(&v, at, min_u64(PIECE, size - at));
	sim_release(v.memory);
	return end;
}

enum verify_end workload_verify_crash(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				      struct oracle *oracle, const char **ret_text)
{
	enum verify_end end = read_all(sim, loop, dev, oracle, true);

	*ret_text = text;
	if (end != VERIFY_OK)
		return end;
	if (oracle_crash_end(oracle))
		return VERIFY_OK;
	*ret_text = oracle_text(oracle);
	return VERIFY_WRONG;
}

enum verify_end workload_verify_live(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				     struct oracle *oracle, const char **ret_text)
{
	*ret_text = text;
	return read_all(sim, loop, dev, oracle, false);
}
