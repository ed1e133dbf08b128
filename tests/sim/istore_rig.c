/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/istore_rig.h"

#include "base/check.h"
#include "base/mem.h"
#include "instance-store/map.h"

#include <errno.h>
#include <string.h>

/* A life that ends leaves behind what GnuTLS holds of its own: it is no memory of the machine's. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libgnutls";
}

/* ---- The keep ------------------------------------------------------------------------ */

struct sim_item {
	struct keep_item item; /* first */
	struct list node;
	struct id store;
	uint8_t key[ISTORE_KEY_SIZE];
};

struct sim_keep {
	struct keep keep; /* first */
	struct keep_sim *owner;
	struct id store;
};

static struct sim_keep *keep_of(struct keep *keep)
{
	return container_of(keep, struct sim_keep, keep);
}

/* What a dead process does has no effect. */
static bool is_dead(struct keep *keep)
{
	return sim_is_dead(keep_of(keep)->owner->sim);
}

static void point(struct keep *keep)
{
	struct keep_sim *k = keep_of(keep)->owner;

	if (k->kill_after > 0 && --k->kill_after == 0)
		sim_kill(k->sim);
}

static struct sim_item *find(struct keep *keep, const struct keep_name *name)
{
	struct sim_keep *k = keep_of(keep);

	list_for_each (&k->owner->items, node) {
		struct sim_item *i = list_entry(node, struct sim_item, node);

		if (id_equal(i->store, k->store) && i->item.name.slot == name->slot &&
		    i->item.name.generation == name->generation)
			return i;
	}
	return NULL;
}

static void item_free(struct sim_item *i)
{
	list_remove(&i->node);
	sim_release(i->item.map);
	sim_release(i);
}

static int keep_make(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		     const uint8_t key[ISTORE_KEY_SIZE], struct keep_item **ret_item,
		     struct err *err)
{
	struct sim_keep *k = keep_of(keep);
	struct sim_item *i;

	if (is_dead(keep))
		return err_set(err, -EIO, "dead");
	CHECK(!find(keep, name));
	i = sim_alloc(sizeof(*i));
	i->item = (struct keep_item){.name = *name, .n_blocks = n_blocks, .key = i->key};
	i->item.map = sim_alloc(map_words(n_blocks) * sizeof(uint64_t));
	i->store = k->store;
	memcpy(i->key, key, ISTORE_KEY_SIZE);
	list_add_tail(&k->owner->items, &i->node);
	*ret_item = &i->item;
	point(keep);
	return 0;
}

static int keep_open(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		     struct keep_item **ret_item, struct err *err)
{
	struct sim_item *i = find(keep, name);

	/* A key that outlasted its boot is given out: the store must not ask for it. */
	if (!i || !i->item.key || i->item.n_blocks != n_blocks)
		return err_set(err, -ENOENT, "no such key");
	*ret_item = &i->item;
	return 0;
}

static void keep_destroy_key(struct keep *keep, struct keep_item *item)
{
	struct sim_item *i = container_of(item, struct sim_item, item);

	if (is_dead(keep))
		return;
	memset(i->key, 0, sizeof(i->key));
	item->key = NULL;
	point(keep);
}

static void keep_close(struct keep *keep, struct keep_item *item)
{
	if (!item || is_dead(keep) || item->key)
		return;
	item_free(container_of(item, struct sim_item, item));
	point(keep);
}

static int keep_sweep(struct keep *keep, bool (*wanted)(void *arg, const struct keep_name *name),
		      void *arg, struct err *err)
{
	struct sim_keep *k = keep_of(keep);
	int n = 0;

	(void)err;
	list_for_each_safe (&k->owner->items, node) {
		struct sim_item *i = list_entry(node, struct sim_item, node);

		if (!id_equal(i->store, k->store) || wanted(arg, &i->item.name))
			continue;
		item_free(i);
		n++;
	}
	return n;
}

static void keep_free(struct keep *keep)
{
	mem_free(keep_of(keep));
}

static const struct keep_ops sim_keep_ops = {
    .make = keep_make,
    .open = keep_open,
    .destroy_key = keep_destroy_key,
    .close = keep_close,
    .sweep = keep_sweep,
    .free = keep_free,
};

static int source_open(struct keep_source *source, struct id store, struct keep **ret_keep,
		       struct err *err)
{
	struct sim_keep *k = mem_alloc(sizeof(*k));

	if (!k)
		return err_set(err, -ENOMEM, "out of memory");
	k->keep.ops = &sim_keep_ops;
	k->owner = container_of(source, struct keep_sim, source);
	k->store = store;
	*ret_keep = &k->keep;
	return 0;
}

static void keep_lose_all(struct keep_sim *k)
{
	while (!list_empty(&k->items))
		item_free(list_first(&k->items, struct sim_item, node));
	k->source.boot.lo++;
}

/* ---- Lives --------------------------------------------------------------------------- */

struct rig *istore_rig_new(uint64_t seed, const struct sim_options *options)
{
	struct rig *r = sim_alloc(sizeof(*r));

	r->sim = sim_new(seed, options);
	r->keep.source = (struct keep_source){
	    .open = source_open, .boot = {.hi = 1, .lo = 1}, .host = {.hi = 7, .lo = 7}};
	r->keep.sim = r->sim;
	list_init(&r->keep.items);
	r->config = (struct istore_config){
	    .path = RIG_PATH,
	    .n_loops = 2,
	    .create = true,
	    .size = 24 * MiB,
	    .slice_size = MiB,
	};
	return r;
}

void istore_rig_free(struct rig *r)
{
	keep_lose_all(&r->keep);
	sim_free(r->sim);
	sim_release(r);
}

static void on_open(struct istore_open *open)
{
	container_of(open, struct rig, open)->opened = true;
}

bool istore_rig_open(struct rig *r)
{
	const struct io_loop_config loop = {.name = "istore", .cpu = -1};

	r->opened = false;
	if (!r->loop) {
		CHECK(io_loop_new(&loop, &r->loop, NULL) == 0);
		CHECK(io_loop_new(&loop, &r->other, NULL) == 0);
	}
	r->config.loops[0] = r->loop;
	r->config.loops[1] = r->other;
	r->config.keep = &r->keep.source;
	r->open = (struct istore_open){.config = r->config, .done = on_open};
	istore_open(&r->open);
	if (sim_run_until(r->sim, sim_flag_is_set, &r->opened, RIG_STEPS) != SIM_DONE)
		return false;
	r->store = r->open.store;
	return r->open.err.code == 0;
}

void istore_rig_arm(struct rig *r, enum rig_end end, uint64_t k)
{
	if (end == RIG_KILL)
		sim_kill_after(r->sim, k);
	else
		sim_cut_after(r->sim, k);
}

void istore_rig_reboot(struct rig *r, enum rig_end end)
{
	if (!sim_is_dead(r->sim) && end == RIG_KILL)
		sim_kill(r->sim);
	sim_reboot(r->sim);
	r->keep.kill_after = 0;
	r->loop = NULL;
	r->store = NULL;
	if (end == RIG_CUT)
		keep_lose_all(&r->keep);
}

struct flag_op {
	struct io_op io;
	bool *flag;
};

static void on_closed(struct io_op *io)
{
	*container_of(io, struct flag_op, io)->flag = true;
}

void istore_rig_close(struct rig *r)
{
	bool *closed = sim_alloc(sizeof(*closed));
	struct flag_op op = {.io.done = on_closed, .flag = closed};

	istore_close(r->store, &op.io);
	CHECK(sim_run_until(r->sim, sim_flag_is_set, closed, RIG_STEPS) == SIM_DONE);
	r->store = NULL;
	sim_release(closed);
}

/* ---- Operations ---------------------------------------------------------------------- */

struct done_op {
	struct istore_op op;
	bool done;
};

static void on_done(struct istore_op *op)
{
	container_of(op, struct done_op, op)->done = true;
}

bool istore_rig_do(struct rig *r, struct istore_op *op)
{
	struct done_op *d = sim_alloc(sizeof(*d));
	bool ok;

	d->op = *op;
	d->op.done = on_done;
	istore_submit(r->store, &d->op);
	ok = sim_run_until(r->sim, sim_flag_is_set, &d->done, RIG_STEPS) == SIM_DONE;
	*op = d->op;
	if (ok)
		istore_op_release(op);
	sim_release(d);
	return ok && op->error.code == 0;
}

bool istore_rig_create(struct rig *r, uint64_t instance, uint32_t number, uint64_t size)
{
	struct istore_op op = {
	    .kind = ISTORE_CREATE, .instance.lo = instance, .number = number, .size = size};

	return istore_rig_do(r, &op);
}

bool istore_rig_end(struct rig *r, enum istore_op_kind kind, uint64_t instance, uint32_t number)
{
	struct istore_op op = {.kind = kind, .instance.lo = instance, .number = number};

	return istore_rig_do(r, &op);
}

struct resolved {
	struct export_op op;
	bool done;
};

static void on_resolved(struct export_op *op)
{
	container_of(op, struct resolved, op)->done = true;
}

struct block_dev *istore_rig_dev(struct rig *r, uint64_t instance, uint32_t number)
{
	struct resolved *x = sim_alloc(sizeof(*x));
	struct exports *exports = istore_exports(r->store);
	struct block_dev *dev = NULL;

	x->op.loop = r->loop;
	x->op.done = on_resolved;
	x->op.local = true;
	istore_export_name((struct id){.lo = instance}, number, x->op.name);
	exports->resolve(exports, &x->op);
	if (sim_run_until(r->sim, sim_flag_is_set, &x->done, RIG_STEPS) == SIM_DONE &&
	    x->op.error == 0)
		dev = x->op.info.dev;
	r->dev_loop = dev ? x->op.info.loop : NULL;
	sim_release(x);
	return dev;
}

/* ---- Requests ------------------------------------------------------------------------ */

struct rig_req {
	struct block_req req;
	bool done;
};

static void on_req(struct block_req *req)
{
	container_of(req, struct rig_req, req)->done = true;
}

bool istore_rig_io(struct rig *r, struct block_dev *dev, enum block_op op, uint32_t flags,
		   uint64_t offset, uint64_t length, void *buf)
{
	struct rig_req *q = sim_alloc(sizeof(*q));
	bool ok;

	q->req = (struct block_req){.op = op,
				    .flags = flags,
				    .offset = offset,
				    .length = length,
				    .buf = buf,
				    .done = on_req};
	block_submit(dev, &q->req);
	ok = sim_run_until(r->sim, sim_flag_is_set, &q->done, RIG_STEPS) == SIM_DONE &&
	     q->req.error == 0;
	sim_release(q);
	return ok;
}

#define PIECE (256 * KiB)

bool istore_rig_is_zero(struct rig *r, struct block_dev *dev)
{
	uint8_t *memory = sim_alloc(PIECE + BLOCK_SIZE);
	uint8_t *buf = (uint8_t *)(uintptr_t)round_up((uintptr_t)memory, BLOCK_SIZE);
	bool ok = true;

	for (uint64_t at = 0; at < block_size(dev) && ok; at += PIECE) {
		uint64_t n = min_u64(PIECE, block_size(dev) - at);

		memset(buf, 0x55, n);
		ok = istore_rig_io(r, dev, BLOCK_READ, 0, at, n, buf) && buf[0] == 0 &&
		     memcmp(buf, buf + 1, n - 1) == 0;
	}
	sim_release(memory);
	return ok;
}

bool istore_rig_has_plaintext(struct rig *r)
{
	static const char needle[] = "elcaro"; /* in the oracle's magic, as it lies in memory */
	uint64_t size = sim_file_size(r->sim, RIG_PATH);
	uint8_t *all = sim_alloc(size + 1);
	bool found = false;

	sim_file_peek(r->sim, RIG_PATH, 0, all, size);
	for (uint64_t at = ISTORE_HEAD_SIZE; at + BLOCK_SECTOR <= size && !found;
	     at += BLOCK_SECTOR)
		found = memcmp(all + at + 2, needle, 6) == 0;
	sim_release(all);
	return found;
}
