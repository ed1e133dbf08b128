/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop's engine: pools, the turn hook, and the way in for requests. A request is only noted
 * when it is submitted; the hook looks at all that came in the turn together. That is where groups
 * form.
 */
#include "engine/engine.h"

#include "base/check.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

#define N_OPS      4096
#define N_RECORDS  64
#define N_READ_IOS 1024
/* Two edges for each op, a bounce for each read: block_get never fails. */
#define N_BLOCKS(n_ops)   (2 * (n_ops) + N_READ_IOS)
#define CHECKPOINT_LOG    (512 * MiB)
#define CHECKPOINT_BLOCKS (1024 * 1024)
#define MAP_MEMORY        (128 * MiB)
#define GC_SLACK          (256 * MiB)
#define CHECKPOINT_IDLE   (5 * NSEC_PER_SEC)
#define HYDRATE_RETRY     (30 * NSEC_PER_SEC)

static void engine_run(struct io_hook *hook);

static void engine_defaults(struct engine_config *c)
{
	if (c->n_ops == 0)
		c->n_ops = N_OPS;
	if (c->n_buffers == 0)
		c->n_buffers = N_RECORDS;
	if (c->map_memory == 0)
		c->map_memory = MAP_MEMORY;
	if (c->checkpoint_log == 0)
		c->checkpoint_log = CHECKPOINT_LOG;
	if (c->checkpoint_blocks == 0)
		c->checkpoint_blocks = CHECKPOINT_BLOCKS;
	if (c->gc_slack == 0)
		c->gc_slack = GC_SLACK;
	if (c->checkpoint_idle_ns == 0)
		c->checkpoint_idle_ns = CHECKPOINT_IDLE;
	if (c->hydrate_retry_ns == 0)
		c->hydrate_retry_ns = HYDRATE_RETRY;
}

static uint64_t clamp(uint64_t x, uint64_t min, uint64_t max)
{
	return max_u64(min, min_u64(x, max));
}

/* The map's memory: half for pages; of the rest, a quarter for reading and writing them, and what
 * remains for overlays. */
static void engine_share(struct engine *e)
{
	struct engine_config *c = &e->config;

	if (c->checkpoints_max == 0)
		c->checkpoints_max = (uint32_t)clamp(c->map_memory / (16 * MiB), 1, 4);
	c->map_out_bytes = (uint32_t)round_down(
	    clamp(c->map_memory / 16 / c->checkpoints_max / 2, MAP_OUT_MIN, MAP_OUT_MAX), 4096);
	c->map_loads =
	    (uint32_t)clamp(c->map_memory / 16 / BLOB_BUFFER, MAP_LOADS_MIN, MAP_LOADS_MAX);
	e->overlay_limit = max_u64(c->map_memory / 8 * 3, OVERLAYS_MIN);
}

static bool engine_pools(struct engine *e)
{
	engine_share(e);
	e->ops = pool_new(sizeof(struct op), e->config.n_ops);
	e->records = pool_new(sizeof(struct record), e->config.n_buffers);
	e->read_ios = pool_new(sizeof(struct read_io), N_READ_IOS);
	e->blocks = pool_new(BLOCK_SIZE, N_BLOCKS(e->config.n_ops));
	e->loads = pool_new(sizeof(struct map_load), e->config.map_loads);
	e->blobs = pool_new(BLOB_BUFFER, e->config.map_loads);
	e->map_cache = map_cache_new(e->config.map_memory / 2);
	e->scratch = mem_alloc(sizeof(*e->scratch));
	e->gap = mem_alloc_pages(READ_GAP_MAX);
	return confirm_new(e) == 0 && e->ops && e->records && e->read_ios && e->blocks &&
	       e->loads && e->blobs && e->map_cache && e->scratch && e->gap;
}

int engine_new(struct io_loop *loop, struct store *store, const struct engine_config *config,
	       struct engine **ret_engine, struct err *err)
{
	struct engine *e = mem_alloc(sizeof(*e));

	if (!e)
		return err_set(err, -ENOMEM, "no memory for the volume engine");
	e->loop = loop;
	e->store = store;
	if (config)
		e->config = *config;
	engine_defaults(&e->config);
	list_init(&e->kicked);
	list_init(&e->no_record);
	fair_init(e);
	list_init(&e->map_loads);
	list_init(&e->volumes);
	list_init(&e->openings);
	list_init(&e->no_overlay);
	list_init(&e->checkpoint_queue);
	list_init(&e->leaf_starving);
	list_init(&e->gc_queue);
	list_init(&e->resizes);
	list_init(&e->hook.node);
	if (!engine_pools(e)) {
		engine_free(e);
		return err_set(err, -ENOMEM, "no memory for the volume engine's pools");
	}
	e->hook.run = engine_run;
	io_hook_add(loop, &e->hook);
	*ret_engine = e;
	return 0;
}

void engine_free(struct engine *e)
{
	if (!e)
		return;
	CHECK(e->n_volumes == 0);
	if (!list_empty(&e->hook.node))
		io_hook_remove(&e->hook);
	gc_free(e);
	confirm_free(e);
	pool_free(e->ops);
	pool_free(e->records);
	pool_free(e->read_ios);
	pool_free(e->blocks);
	pool_free(e->loads);
	pool_free(e->blobs);
	map_cache_free(e->map_cache);
	mem_free(e->scratch);
	mem_free_pages(e->gap, READ_GAP_MAX);
	mem_free(e);
}

/* ---- The way in ---------------------------------------------------------------------------------
 */

static void engine_on_wake(struct io_op *op)
{
	container_of(op, struct engine, wake)->waking = false;
}

/* Whoever submits from a hook that runs after ours would not be heard: a wake asks for one more
 * turn. */
static void engine_wake(struct engine *e)
{
	if (e->waking)
		return;
	e->waking = true;
	e->wake.done = engine_on_wake;
	io_defer(e->loop, &e->wake, 0);
}

void engine_submit(struct block_dev *dev, struct block_req *req)
{
	struct volume *v = container_of(dev, struct volume, dev);

	req->device_private = v;
	fair_ask(v, req);
	engine_wake(v->engine);
}

static enum op_kind kind_of(enum block_op op)
{
	switch (op) {
	case BLOCK_READ:
		return OP_READ;
	case BLOCK_WRITE:
		return OP_WRITE;
	case BLOCK_FLUSH:
		return OP_FLUSH;
	case BLOCK_TRIM:
		return OP_TRIM;
	case BLOCK_WRITE_ZEROES:
		return OP_ZERO;
	case BLOCK_CACHE:
	case BLOCK_STATUS:
		return OP_STATUS;
	}
	CHECK(false);
	return OP_STATUS;
}

static void flush_start(struct op *op)
{
	op->sequence = op->volume->published;
	log_wait_durable(op);
}

static void op_start(struct op *op)
{
	switch (op->kind) {
	case OP_READ:
		read_start(op);
		break;
	case OP_WRITE:
	case OP_ZERO:
	case OP_TRIM:
	case OP_RESIZE:
		write_start(op);
		break;
	case OP_MOVE:
	case OP_SNAPSHOT:
	case OP_HYDRATE:
		CHECK(false); /* they go straight to the log's queue */
		break;
	case OP_FLUSH:
		flush_start(op);
		break;
	case OP_STATUS:
		status_start(op);
		break;
	}
}

static void engine_take(struct volume *v, struct block_req *req)
{
	struct op *op;

	if (req->op == BLOCK_CACHE) { /* a hint that we need not take */
		block_done(req, 0);
		return;
	}
	op = op_get(v, kind_of(req->op));
	CHECK(op); /* fair.c has looked */
	op->req = req;
	op_start(op);
}

/* First come, first served: who goes on waiting stays at the head. */
static void volume_feed_starved(struct volume *v)
{
	while (!list_empty(&v->starved) && fair_may_read_io(v) && fair_may_read(v)) {
		struct op *op = list_entry(list_pop(&v->starved), struct op, link);

		op->parked = false;
		v->starved_again = false;
		read_step(op);
		if (!v->starved_again)
			continue;
		list_add_head(&v->starved, list_pop_tail(&v->starved));
		break;
	}
	if (!list_empty(&v->starved) && list_empty(&v->starving))
		list_add_tail(&v->engine->starving, &v->starving);
}

static void engine_feed_starved(struct engine *e)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, &e->starving);
	for (struct list *node; (node = list_pop(&now));)
		volume_feed_starved(list_entry(node, struct volume, starving));
}

static void engine_run(struct io_hook *hook)
{
	struct engine *e = container_of(hook, struct engine, hook);
	struct list *node;

	if (!list_empty(&e->starving))
		engine_feed_starved(e);
	if (!list_empty(&e->leaf_starving))
		leaf_feed_starved(e);
	while ((node = list_pop(&e->resizes))) {
		if (volume_ops_start(list_entry(node, struct volume, resize)))
			continue;
		list_add_head(&e->resizes, node);
		break;
	}
	fair_take(e, engine_take);
	while ((node = list_pop(&e->kicked)))
		log_run(list_entry(node, struct volume, kick));
}

void volume_kick(struct volume *v)
{
	if (list_empty(&v->kick))
		list_add_tail(&v->engine->kicked, &v->kick);
}

/* ---- Ops and blocks -----------------------------------------------------------------------------
 */

struct op *op_get(struct volume *v, enum op_kind kind)
{
	struct op *op = pool_get(v->engine->ops);

	if (!op) {
		v->engine->short_of_ops = true;
		return NULL;
	}
	v->n_ops++;
	memset(op, 0, sizeof(*op));
	op->volume = v;
	op->kind = kind;
	list_init(&op->link);
	list_init(&op->lock);
	list_init(&op->wait.link);
	return op;
}

void op_put(struct op *op)
{
	struct engine *e = op->volume->engine;

	fair_op_ended(op->volume);
	pool_put(e->ops, op);
	if (e->short_of_ops) {
		e->short_of_ops = false;
		engine_wake(e);
	}
}

void op_done(struct op *op)
{
	struct engine *e = op->volume->engine;
	struct block_req *req = op->req;
	struct volume_op *volume_op = op->volume_op;
	struct gc *gc = op->gc;
	struct hydrate_unit *unit = op->unit;
	enum op_kind kind = op->kind;
	int error = op->error;

	CHECK(!op->locked);
	CHECK(list_empty(&op->link));
	if (op->head)
		block_put(e, op->head);
	if (op->tail)
		block_put(e, op->tail);
	op_put(op);
	if (req) {
		block_done(req, error);
	} else if (gc) {
		gc_on_moved(gc, error);
	} else if (unit) {
		hydrate_on_logged(unit, error);
	} else if (kind == OP_SNAPSHOT) {
		cut_done(volume_op, error);
	} else {
		volume_op->err.code = error;
		volume_op->done(volume_op);
	}
}

uint8_t *block_get(struct engine *e)
{
	uint8_t *block = pool_get(e->blocks);

	CHECK(block);
	return block;
}

void block_put(struct engine *e, uint8_t *block)
{
	pool_put(e->blocks, block);
}

void op_starve(struct op *op)
{
	struct volume *v = op->volume;

	CHECK(!op->parked);
	op->parked = true;
	v->starved_again = true;
	list_add_tail(&v->starved, &op->link);
	if (list_empty(&v->starving))
		list_add_tail(&v->engine->starving, &v->starving);
}
