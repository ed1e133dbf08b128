/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/blobs_sim.h"

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/machine/machine.h"

#include <errno.h>
#include <string.h>

#define LATENCY_NS UINT64_C(200000)

struct object {
	struct list node; /* by name */
	char name[BLOB_NAME_MAX];
	uint8_t *bytes;
	uint64_t size;
	uint64_t punched; /* bytes */
	uint64_t modified;
};

/* An operation in flight, with what it needs of the caller's. */
struct pending {
	struct list node;
	struct blob_op *op;
	int kind;
	int error; /* injected */
	bool stalled;
	char name[BLOB_NAME_MAX];
	uint8_t *wanted;
	uint8_t *expected;
	uint64_t wanted_len;
	uint64_t expected_len;
	uint64_t offset;
	uint64_t len;
};

struct blobs_sim {
	struct sim *sim;
	struct list objects;
	struct list pending;
	uint32_t chance;
	uint32_t slow;
	int nth_kind;
	uint64_t nth;
	int nth_error;
	bool nth_stall;
	uint64_t started;
};

/* What a daemon holds; freed with its life. */
struct handle {
	struct blobs blobs;
	struct blobs_sim *b;
};

/* ---- Objects ----------------------------------------------------------------------------------
 */

static struct object *find(struct blobs_sim *b, const char *name)
{
	list_for_each (&b->objects, node) {
		struct object *o = container_of(node, struct object, node);

		if (strcmp(o->name, name) == 0)
			return o;
	}
	return NULL;
}

static void object_drop(struct object *o)
{
	if (!o)
		return;
	list_remove(&o->node);
	sim_release(o->bytes);
	sim_release(o);
}

static void object_make(struct blobs_sim *b, const char *name, const uint8_t *bytes, uint64_t size)
{
	struct object *o = sim_alloc(sizeof(*o));
	struct list *at = &b->objects;

	memcpy(o->name, name, strlen(name) + 1);
	o->bytes = sim_alloc(size + 1);
	memcpy(o->bytes, bytes, size);
	o->size = size;
	o->modified = sim_time(b->sim);
	list_for_each (&b->objects, node)
		if (strcmp(container_of(node, struct object, node)->name, name) < 0)
			at = node;
	list_add_head(at, &o->node);
}

/* ---- Effects ----------------------------------------------------------------------------------
 */

static int64_t apply_swap(struct blobs_sim *b, struct pending *p)
{
	struct object *o = find(b, p->name);

	if (!o != !p->expected)
		return -ESTALE;
	if (o && (o->size != p->expected_len || memcmp(o->bytes, p->expected, o->size) != 0))
		return -ESTALE;
	object_drop(o);
	if (p->wanted)
		object_make(b, p->name, p->wanted, p->wanted_len);
	return 0;
}

static int64_t apply_punch(struct blobs_sim *b, struct pending *p)
{
	struct object *o = find(b, p->name);

	if (!o)
		return -ENOENT;
	CHECK(p->offset + p->len <= o->size);
	memset(o->bytes + p->offset, 0, p->len);
	o->punched += p->len;
	return 0;
}

static int64_t apply_change(struct blobs_sim *b, struct pending *p)
{
	switch ((enum blob_kind)p->kind) {
	case BLOB_PUT:
		if (find(b, p->name))
			return -EEXIST;
		object_make(b, p->name, p->wanted, p->wanted_len);
		return 0;
	case BLOB_REMOVE:
		object_drop(find(b, p->name));
		return 0;
	case BLOB_SWAP:
		return apply_swap(b, p);
	case BLOB_PUNCH:
		return apply_punch(b, p);
	case BLOB_READ:
	case BLOB_LIST:
		break;
	}
	return 0;
}

static int64_t apply_read(struct blobs_sim *b, struct blob_op *op)
{
	struct object *o = find(b, op->name);
	uint64_t n;

	if (!o)
		return -ENOENT;
	n = op->offset < o->size ? min_u64(op->len, o->size - op->offset) : 0;
	memcpy(op->buf, o->bytes + op->offset, n);
	return (int64_t)n;
}

static int64_t apply_list(struct blobs_sim *b, struct blob_op *op)
{
	struct blob_entry *e = op->buf;
	int64_t n = 0;

	list_for_each (&b->objects, node) {
		struct object *o = container_of(node, struct object, node);

		if ((uint64_t)n == op->len)
			break;
		if (strncmp(o->name, op->name, strlen(op->name)) != 0 ||
		    strcmp(o->name, op->after) <= 0)
			continue;
		memcpy(e[n].name, o->name, BLOB_NAME_MAX);
		e[n].size = o->size;
		e[n].stored = o->size - min_u64(o->punched, o->size - 1);
		e[n].modified = io_wall_clock(op->loop) - (sim_time(b->sim) - o->modified);
		n++;
	}
	return n;
}

static void pending_drop(struct pending *p)
{
	list_remove(&p->node);
	sim_release(p->wanted);
	sim_release(p->expected);
	sim_release(p);
}

/* ---- Operations -------------------------------------------------------------------------------
 */

static void on_timer(struct io_op *timer)
{
	struct blob_op *op = container_of(timer, struct blob_op, op);
	struct pending *p = (struct pending *)(uintptr_t)op->private[0];
	struct blobs_sim *b = container_of(op->blobs, struct handle, blobs)->b;
	bool changes = op->kind != BLOB_READ && op->kind != BLOB_LIST;

	if (p->error && (!changes || sim_below(b->sim, 2)))
		op->result = p->error;
	else if (op->kind == BLOB_READ)
		op->result = apply_read(b, op);
	else if (op->kind == BLOB_LIST)
		op->result = apply_list(b, op);
	else
		op->result = apply_change(b, p);
	if (p->error)
		op->result = p->error;
	sim_trace(b->sim, "blob kind %d %s = %lld", op->kind, op->name, (long long)op->result);
	pending_drop(p);
	if (changes)
		sim_point(b->sim);
	if (!sim_is_dead(b->sim))
		op->done(op);
}

static uint8_t *copy_of(const void *bytes, uint64_t len)
{
	uint8_t *p = sim_alloc(len + 1);

	memcpy(p, bytes, len);
	return p;
}

static void keep_bytes(struct pending *p, struct blob_op *op)
{
	if (op->kind == BLOB_PUT) {
		for (int i = 0; i < op->n_iov; i++)
			p->wanted_len += op->iov[i].iov_len;
		CHECK(p->wanted_len <= BLOB_SIZE_MAX);
		p->wanted = sim_alloc(p->wanted_len + 1);
		p->wanted_len = 0;
		for (int i = 0; i < op->n_iov; i++) {
			memcpy(p->wanted + p->wanted_len, op->iov[i].iov_base, op->iov[i].iov_len);
			p->wanted_len += op->iov[i].iov_len;
		}
	} else if (op->kind == BLOB_SWAP) {
		p->wanted_len = op->wanted_len;
		p->expected_len = op->expected_len;
		if (op->wanted)
			p->wanted = copy_of(op->wanted, op->wanted_len);
		if (op->expected)
			p->expected = copy_of(op->expected, op->expected_len);
	}
}

static void sim_start(struct blobs *blobs, struct blob_op *op)
{
	struct blobs_sim *b = container_of(blobs, struct handle, blobs)->b;
	struct pending *p;
	bool stall = false;

	if (sim_is_dead(b->sim))
		return;
	p = sim_alloc(sizeof(*p));
	b->started++;
	p->op = op;
	p->kind = op->kind;
	p->offset = op->offset;
	p->len = op->len;
	memcpy(p->name, op->name, BLOB_NAME_MAX);
	keep_bytes(p, op);
	if (sim_chance(b->sim, b->chance))
		p->error = -EIO;
	if (b->nth && (b->nth_kind < 0 || b->nth_kind == op->kind) && --b->nth == 0) {
		p->error = b->nth_error;
		stall = b->nth_stall;
	}
	list_add_tail(&b->pending, &p->node);
	op->private[0] = (uint64_t)(uintptr_t)p;
	op->op.done = on_timer;
	p->stalled = stall;
	if (!stall)
		io_timer(op->loop, &op->op,
			 sim_latency(b->sim, LATENCY_NS) * (sim_chance(b->sim, b->slow) ? 30 : 1));
	if (op->kind != BLOB_READ && op->kind != BLOB_LIST)
		sim_point(b->sim);
}

static void sim_close(struct blobs *blobs)
{
	mem_free(container_of(blobs, struct handle, blobs));
}

static const struct blobs_ops sim_ops = {
    .name = "simulated",
    .start = sim_start,
    .close = sim_close,
};

void blobs_sim_release(struct blobs_sim *b)
{
	list_for_each (&b->pending, node) {
		struct pending *p = container_of(node, struct pending, node);

		if (p->stalled)
			io_timer(p->op->loop, &p->op->op, 1);
		p->stalled = false;
	}
}

void blobs_sim_slow(struct blobs_sim *b, uint32_t in_a_million)
{
	b->slow = in_a_million;
}

/* ---- For tests --------------------------------------------------------------------------------
 */

struct blobs_sim *blobs_sim_new(struct sim *sim)
{
	struct blobs_sim *b = sim_alloc(sizeof(*b));

	b->sim = sim;
	list_init(&b->objects);
	list_init(&b->pending);
	return b;
}

void blobs_sim_free(struct blobs_sim *b)
{
	if (!b)
		return;
	list_for_each_safe (&b->pending, node)
		pending_drop(container_of(node, struct pending, node));
	list_for_each_safe (&b->objects, node)
		object_drop(container_of(node, struct object, node));
	sim_release(b);
}

struct blobs *blobs_sim_open(struct blobs_sim *b)
{
	struct handle *h = mem_alloc(sizeof(*h));

	CHECK(h);
	h->blobs = (struct blobs){.ops = &sim_ops, .place = "sim"};
	h->b = b;
	return &h->blobs;
}

void blobs_sim_settle(struct blobs_sim *b)
{
	list_for_each_safe (&b->pending, node) {
		struct pending *p = container_of(node, struct pending, node);

		if (sim_below(b->sim, 2))
			apply_change(b, p);
		pending_drop(p);
	}
	b->nth = 0;
}

void blobs_sim_nth(struct blobs_sim *b, int kind, uint64_t n, int error, bool stall)
{
	b->nth_kind = kind;
	b->nth = n;
	b->nth_error = error;
	b->nth_stall = stall;
}

void blobs_sim_chance(struct blobs_sim *b, uint32_t in_a_million)
{
	b->chance = in_a_million;
}

bool blobs_sim_exists(struct blobs_sim *b, const char *name)
{
	return find(b, name) != NULL;
}

uint64_t blobs_sim_size(struct blobs_sim *b, const char *name)
{
	struct object *o = find(b, name);

	return o ? o->size : 0;
}

static bool has_prefix(const struct object *o, const char *prefix)
{
	return strncmp(o->name, prefix, strlen(prefix)) == 0;
}

uint64_t blobs_sim_count(struct blobs_sim *b, const char *prefix)
{
	uint64_t n = 0;

	list_for_each (&b->objects, node)
		n += has_prefix(container_of(node, struct object, node), prefix);
	return n;
}

uint64_t blobs_sim_stored(struct blobs_sim *b, const char *prefix)
{
	uint64_t n = 0;

	list_for_each (&b->objects, node) {
		struct object *o = container_of(node, struct object, node);

		if (has_prefix(o, prefix))
			n += o->size - min_u64(o->punched, o->size);
	}
	return n;
}

const char *blobs_sim_name(struct blobs_sim *b, const char *prefix, uint64_t i)
{
	list_for_each (&b->objects, node) {
		struct object *o = container_of(node, struct object, node);

		if (has_prefix(o, prefix) && i-- == 0)
			return o->name;
	}
	return NULL;
}

void blobs_sim_flip(struct blobs_sim *b, const char *name, uint64_t byte, unsigned bit)
{
	struct object *o = find(b, name);

	CHECK(o);
	CHECK(byte < o->size);
	o->bytes[byte] ^= (uint8_t)(1 << bit);
}

void blobs_sim_lose(struct blobs_sim *b, const char *name)
{
	object_drop(find(b, name));
}

void blobs_sim_age(struct blobs_sim *b, uint64_t ns)
{
	list_for_each (&b->objects, node)
		container_of(node, struct object, node)->modified -= ns;
}

uint64_t blobs_sim_started(struct blobs_sim *b)
{
	return b->started;
}
