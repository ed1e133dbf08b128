/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/world.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define STEPS_MAX 20000000

void world_init(struct world *w, struct sim *sim)
{
	memset(w, 0, sizeof(*w));
	w->sim = sim;
	w->store_config.path = "store";
	w->store_config.create = true;
	w->config.confirm_rest_ns = 1;
}

struct id world_volume_id(unsigned i)
{
	struct id id = {.hi = 1, .lo = 0x1000 + i};

	return id;
}

struct id world_snapshot_id(unsigned number)
{
	return (struct id){.hi = 2, .lo = number + 1};
}

/* Steps until *flag. 0 or -ESHUTDOWN. */
static int world_wait(struct world *w, bool *flag)
{
	enum sim_end end = sim_run_until(w->sim, sim_flag_is_set, flag, STEPS_MAX);

	if (end == SIM_DONE)
		return 0;
	if (end != SIM_DEAD)
		sim_fail(w->sim, "the world stands still (%s)",
			 end == SIM_IDLE ? "idle" : "too many steps");
	return -ESHUTDOWN;
}

struct store_opening {
	struct store_open open;
	bool done;
};

static void on_store_open(struct store_open *open)
{
	container_of(open, struct store_opening, open)->done = true;
}

static void on_bad_block(void *arg, struct id volume, uint64_t lba, const char *why)
{
	struct world *w = arg;

	(void)volume;
	w->bad_blocks++;
	sim_trace(w->sim, "bad block %llu: %s", (unsigned long long)lba, why);
}

static void on_stuck(void *arg, struct id volume, enum volume_io oldest, uint64_t age_ns, bool over)
{
	struct world *w = arg;

	w->n_stuck += !over;
	w->n_stuck_over += over;
	w->stuck_kind = oldest;
	w->stuck_age_ns = age_ns;
	w->stuck_volume = volume;
	sim_trace(w->sim, "%s is %s: %llu ns", volume_io_name(oldest), over ? "done" : "stuck",
		  (unsigned long long)age_ns);
}

int world_begin(struct world *w)
{
	struct io_loop_config loop_config = {.name = "world", .cpu = -1};
	struct store_opening *o = mem_alloc(sizeof(*o));
	int r;

	memset(w->volumes, 0, sizeof(w->volumes));
	memset(w->stalls, 0, sizeof(w->stalls));
	w->engine = NULL;
	w->store = NULL;
	w->config.bad_block = on_bad_block;
	w->config.bad_block_arg = w;
	w->config.stuck = on_stuck;
	w->n_stuck = 0;
	w->n_stuck_over = 0;
	r = io_loop_new(&loop_config, &w->loop, &w->err);
	if (r < 0)
		return r;
	o->open.loop = w->loop;
	o->open.config = w->store_config;
	o->open.done = on_store_open;
	store_local_open(&o->open);
	r = world_wait(w, &o->done);
	if (r < 0)
		return r;
	w->err = o->open.err;
	if (w->err.code)
		return w->err.code;
	w->store = o->open.store;
	mem_free(o);
	return engine_new(w->loop, w->store, &w->config, &w->engine, &w->err);
}

struct volume_call {
	struct volume_op op;
	struct world *world;
	bool done;
};

static void on_volume_op(struct volume_op *op)
{
	container_of(op, struct volume_call, op)->done = true;
}

static void on_say(void *arg, const char *text)
{
	struct volume_call *call = arg;

	sim_trace(call->world->sim, "check: %s", text);
}

static int world_call(struct world *w, struct volume_call *call,
		      void (*start)(struct volume_op *op))
{
	int r;

	call->world = w;
	call->op.engine = w->engine;
	call->op.done = on_volume_op;
	start(&call->op);
	r = world_wait(w, &call->done);
	if (r < 0)
		return r;
	w->err = call->op.err;
	return call->op.err.code;
}

static struct volume_call *call_new(struct world *w, unsigned i)
{
	struct volume_call *call = mem_alloc(sizeof(*call));

	CHECK(call);
	call->op.id = world_volume_id(i);
	call->op.volume = w->volumes[i];
	return call;
}

int world_create(struct world *w, unsigned i, uint64_t size)
{
	struct volume_call *call = call_new(w, i);
	int r;

	call->op.size = size;
	call->op.snapshot = w->base_ids[i];
	call->op.base_size = w->base_sizes[i];
	r = world_call(w, call, volume_create);
	mem_free(call);
	return r;
}

int world_open(struct world *w, unsigned i)
{
	struct volume_call *call = call_new(w, i);
	int r;

	call->op.read_only = w->store_config.read_only;
	call->op.deleted = w->deleted[i];
	call->op.base = w->bases[i];
	call->op.stall = &w->stalls[i];
	r = world_call(w, call, volume_open);
	if (r == 0)
		w->volumes[i] = call->op.volume;
	mem_free(call);
	return r;
}

int world_close(struct world *w, unsigned i)
{
	struct volume_call *call = call_new(w, i);
	int r = world_call(w, call, volume_close);

	w->volumes[i] = NULL;
	mem_free(call);
	return r;
}

int world_delete(struct world *w, unsigned i, uint32_t *ret_pins, bool *ret_more)
{
	struct volume_call *call = call_new(w, i);
	int r = world_call(w, call, volume_delete);

	*ret_pins = call->op.pins;
	*ret_more = call->op.more;
	mem_free(call);
	return r;
}

int world_checkpoint(struct world *w, unsigned i)
{
	struct volume_call *call = call_new(w, i);
	int r = world_call(w, call, volume_checkpoint);

	mem_free(call);
	return r;
}

int world_resize(struct world *w, unsigned i, uint64_t size)
{
	struct volume_call *call = call_new(w, i);
	int r;

	call->op.size = size;
	r = world_call(w, call, volume_resize);
	mem_free(call);
	return r;
}

int64_t world_check(struct world *w, unsigned i)
{
	struct volume_call *call = call_new(w, i);
	int64_t r;

	call->op.say = on_say;
	call->op.arg = call;
	r = world_call(w, call, volume_check);
	if (r == 0)
		r = (int64_t)call->op.n_wrong;
	mem_free(call);
	return r;
}

struct pin_call {
	struct volume_op op;
	bool done;
};

static void on_pin(struct volume_op *op)
{
	container_of(op, struct pin_call, op)->done = true;
}

int world_pin(struct world *w, unsigned i, unsigned number, bool unpin, uint64_t *ret_sequence)
{
	struct pin_call *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(call);
	call->op.engine = w->engine;
	call->op.volume = w->volumes[i];
	call->op.done = on_pin;
	call->op.snapshot = world_snapshot_id(number);
	if (unpin)
		volume_unpin(&call->op);
	else
		volume_snapshot(&call->op);
	r = world_wait(w, &call->done);
	if (r == 0)
		r = call->op.err.code;
	w->err = call->op.err;
	if (ret_sequence)
		*ret_sequence = call->op.sequence;
	if (r != -ESHUTDOWN)
		mem_free(call);
	return r;
}

struct closing {
	struct store_ctl ctl;
	bool done;
};

static void on_store_close(struct store_ctl *ctl)
{
	container_of(ctl, struct closing, ctl)->done = true;
}

int world_end(struct world *w)
{
	struct closing *c = mem_alloc(sizeof(*c));
	int r = 0;

	CHECK(c);
	for (unsigned i = 0; i < WORLD_VOLUMES && r == 0; i++)
		if (w->volumes[i])
			r = world_close(w, i);
	if (r < 0)
		return r;
	c->ctl.loop = w->loop;
	c->ctl.done = on_store_close;
	w->store->ops->close(w->store, &c->ctl);
	r = world_wait(w, &c->done);
	if (r == 0)
		r = c->ctl.error;
	mem_free(c);
	if (r == 0) {
		engine_free(w->engine);
		io_loop_free(w->loop);
	}
	return r;
}

struct io_call {
	struct block_req req;
	bool done;
};

static void on_io(struct block_req *req)
{
	container_of(req, struct io_call, req)->done = true;
}

int world_io(struct world *w, unsigned i, enum block_op op, uint32_t flags, uint64_t offset,
	     uint64_t length, void *buf)
{
	struct block_dev *dev = volume_dev(w->volumes[i]);
	bool data = op == BLOCK_READ || op == BLOCK_WRITE;
	size_t room = data ? round_up(length, BLOCK_SIZE) + 2 * BLOCK_SIZE : BLOCK_SIZE;
	uint8_t *pages = mem_alloc_pages(room);
	struct io_call *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(pages && call);
	call->req.op = op;
	call->req.flags = flags;
	call->req.offset = offset;
	call->req.length = length;
	call->req.buf = data ? pages + offset % BLOCK_SIZE : NULL;
	call->req.done = on_io;
	if (op == BLOCK_WRITE)
		memcpy(call->req.buf, buf, length);
	r = block_check(dev, &call->req);
	if (r == 0) {
		block_submit(dev, &call->req);
		r = world_wait(w, &call->done);
		if (r == 0)
			r = call->req.error;
	}
	if (op == BLOCK_READ && r == 0)
		memcpy(buf, call->req.buf, length);
	if (r != -ESHUTDOWN) {
		mem_free_pages(pages, room);
		mem_free(call);
	}
	return r;
}
