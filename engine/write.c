/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes, zeroes and trims on their way to the log's queue. A block that a write covers in part (an
 * edge) is read, merged and written whole. From the reading until the op has its place in the log
 * its edges are locked: nothing else may change them in between. An edge is locked only when no
 * write over it is under way.
 *
 *   new -> (edges?) -> blocked -> locked, edges read -> merged -> write_queue -> sequenced:
 * unlocked
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static void write_place(struct op *op);
static bool write_may_go(struct op *op);
static void write_go(struct op *op);

/* The block range, and which of its ends is covered in part. */
static void write_range(struct op *op, bool *ret_head, bool *ret_tail)
{
	uint64_t begin = op->req->offset;
	uint64_t end = begin + op->req->length;

	*ret_head = *ret_tail = false;
	if (op->kind == OP_TRIM) { /* the edges of a trim stay as they were */
		op->first = round_up(begin, BLOCK_SIZE) / BLOCK_SIZE;
		op->end = max_u64(end / BLOCK_SIZE, op->first);
		return;
	}
	op->first = begin / BLOCK_SIZE;
	op->end = round_up(end, BLOCK_SIZE) / BLOCK_SIZE;
	*ret_head = begin % BLOCK_SIZE != 0;
	*ret_tail = end % BLOCK_SIZE != 0;
	if (op->end - op->first == 1 && *ret_tail) { /* both edges in one block: it is a head */
		*ret_head = true;
		*ret_tail = false;
	}
}

void write_start(struct op *op)
{
	struct engine *e = op->volume->engine;
	bool head = false;
	bool tail = false;

	if (op->kind == OP_RESIZE) {
		op->first = 0;
		op->end = 1;
	} else {
		write_range(op, &head, &tail);
	}
	op->next = op->first;
	if (op->volume->failed)
		op->error = -EIO;
	if (head)
		op->head = block_get(e);
	if (tail)
		op->tail = block_get(e);
	if (op->error) {
		op->next = op->end;
		op_done(op);
	} else if (op->first ==
		   op->end) { /* a trim that holds no whole block; with FUA still a flush */
		op->sequence = op->req->flags & BLOCK_FUA ? op->volume->published : 0;
		log_wait_durable(op);
	} else {
		write_place(op);
	}
}

static bool op_has_edges(const struct op *op)
{
	return op->head || op->tail;
}

/* Whether `other` changes a block that is an edge of `op`. */
static bool touches_edge(const struct op *op, const struct op *other)
{
	if (op->head && other->first <= op->first && op->first < other->end)
		return true;
	return op->tail && other->first <= op->end - 1 && op->end - 1 < other->end;
}

static bool conflicts(const struct op *a, const struct op *b)
{
	return touches_edge(a, b) || touches_edge(b, a);
}

/* The common case (no edges anywhere) costs two looks at empty lists. */
static void write_place(struct op *op)
{
	struct volume *v = op->volume;

	if (write_may_go(op))
		write_go(op);
	else
		list_add_tail(&v->blocked, &op->link);
}

/* No lock, and nobody who waits already, is in the way; and with edges no write under way either.
 */
static bool write_may_go(struct op *op)
{
	struct volume *v = op->volume;

	list_for_each (&v->locks, node)
		if (touches_edge(list_entry(node, struct op, lock), op))
			return false;
	list_for_each (&v->blocked, node) {
		struct op *other = list_entry(node, struct op, link);

		if (other == op)
			break;
		if (conflicts(other, op))
			return false;
	}
	if (!op_has_edges(op))
		return true;
	list_for_each (&v->write_queue, node)
		if (touches_edge(op, list_entry(node, struct op, link)))
			return false;
	list_for_each (&v->in_flight, node) {
		struct record *rec = list_entry(node, struct record, link);

		for (uint32_t i = 0; i < rec->n_ops; i++)
			if (touches_edge(op, rec->ops[i]))
				return false;
	}
	list_for_each (&v->locks, node)
		if (touches_edge(op, list_entry(node, struct op, lock)))
			return false;
	return true;
}

static void write_go(struct op *op)
{
	struct volume *v = op->volume;

	if (!op_has_edges(op)) {
		list_add_tail(&v->write_queue, &op->link);
		volume_kick(v);
		return;
	}
	op->locked = true;
	list_add_tail(&v->locks, &op->lock);
	read_start(op);
}

void write_retry_blocked(struct volume *v)
{
	list_for_each_safe (&v->blocked, node) {
		struct op *op = list_entry(node, struct op, link);

		if (!v->failed && !write_may_go(op))
			continue;
		list_remove(&op->link);
		if (v->failed) {
			op->error = -EIO;
			op->next = op->end;
			op_done(op);
		} else {
			write_go(op);
		}
	}
}

static void edge_merge(uint8_t *block, uint64_t lba, const struct op *op)
{
	uint64_t start = lba * BLOCK_SIZE;
	uint64_t from = max_u64(start, op->req->offset);
	uint64_t to = min_u64(start + BLOCK_SIZE, op->req->offset + op->req->length);

	if (op->kind == OP_ZERO)
		memset(block + (from - start), 0, to - from);
	else
		memcpy(block + (from - start), (uint8_t *)op->req->buf + (from - op->req->offset),
		       to - from);
}

void write_edges_read(struct op *op)
{
	struct volume *v = op->volume;

	op->next = op->first;
	if (v->failed && !op->error)
		op->error = -EIO;
	if (op->error) { /* a bad block never gets a fresh checksum over bad bytes */
		write_sequenced(op);
		op->next = op->end;
		op_done(op);
		return;
	}
	if (op->head)
		edge_merge(op->head, op->first, op);
	if (op->tail)
		edge_merge(op->tail, op->end - 1, op);
	list_add_tail(&v->write_queue, &op->link);
	volume_kick(v);
}

void write_sequenced(struct op *op)
{
	if (!op->locked)
		return;
	op->locked = false;
	list_remove(&op->lock);
	if (!list_empty(&op->volume->blocked))
		volume_kick(op->volume);
}
