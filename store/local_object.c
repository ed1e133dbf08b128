/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects: small named things that change as a whole (T2). Each has a pair of slots in a segment
 * that the store lent to itself. Writes of a pair are numbered, and number n goes to slot n % 2, so
 * the version before survives a write that is cut short.
 *
 *   get      START -> WAIT_READ -> END
 *   swap     START -> WAIT_FIRST -> WAIT_FIRST_SYNC -> WAIT_SECOND -> WAIT_SECOND_SYNC -> END
 *   mend     START -> WAIT_READ -> WAIT_FIRST -> WAIT_FIRST_SYNC -> END
 *
 * A swap writes both slots, one after the other: when it is done, no slot of what was before is
 * left that damage to the other could bring back. The first write decides. A power cut between the
 * two leaves a "half" pair, which the next opening, or the next swap, mends: its first write goes
 * to the older slot. A deleted object's pair is reused for any name; the numbers go on.
 */
#include "store/local_object.h"
#include "base/check.h"
#include "base/mem.h"
#include "store/local_internal.h"

#include <errno.h>
#include <string.h>

static void object_pump(struct local *l);
static void object_start(struct local *l, struct store_ctl *ctl, bool *want_segment);
static int swap_refusal(struct local *l, const struct store_ctl *ctl, const struct pair *p);
static void op_begin(struct local *l, struct store_ctl *ctl, uint32_t number);
static void op_step(struct object_op *op);
static void op_read(struct object_op *op);
static void op_prepare(struct object_op *op);
static void op_write(struct object_op *op);
static void op_on_io(struct io_op *io);
static void op_sync(struct object_op *op);
static void op_on_sync(struct store_io *io);
static void op_take(struct object_op *op);
static void op_end(struct object_op *op);
static void op_end_swap(struct object_op *op, struct pair *p);

/* ---- Set-up -----------------------------------------------------------------------------------
 */

int object_init(struct local *l)
{
	struct objects *o = &l->objects;

	list_init(&o->waiting);
	list_init(&o->idle);
	o->free = PAIR_NONE;
	o->pairs_per_segment = l->super.segment_size / FORMAT_PAIR_SIZE;
	o->buffers = mem_alloc_pages(LOCAL_OBJECT_OPS * FORMAT_PAIR_SIZE);
	if (!o->buffers)
		return -ENOMEM;
	for (unsigned i = 0; i < LOCAL_OBJECT_OPS; i++) {
		struct object_op *op = &o->ops[i];

		op->local = l;
		op->buffer = o->buffers + i * FORMAT_PAIR_SIZE;
		op->sync.done = op_on_sync;
		for (unsigned slot = 0; slot < 2; slot++) {
			op->io[slot].owner = op;
			op->io[slot].op.done = op_on_io;
		}
		list_add_tail(&o->idle, &op->link);
	}
	object_grow_init(l);
	return object_index_init(o);
}

void object_destroy(struct local *l)
{
	struct objects *o = &l->objects;

	for (uint32_t i = 0; i < o->n_segments; i++)
		mem_free(o->segments[i].pairs);
	mem_free(o->segments);
	mem_free(o->half);
	mem_free(o->buckets);
	mem_free_pages(o->zeroes, LOCAL_ZERO_CHUNK);
	mem_free_pages(o->buffers, LOCAL_OBJECT_OPS * FORMAT_PAIR_SIZE);
}

struct pair *object_pair(struct objects *o, uint32_t number)
{
	return &o->segments[number / o->pairs_per_segment].pairs[number % o->pairs_per_segment];
}

static struct format_slot_place slot_place(struct local *l, uint32_t number, unsigned slot)
{
	struct objects *o = &l->objects;
	const struct object_segment *segment = &o->segments[number / o->pairs_per_segment];

	return (struct format_slot_place){
	    .store = l->super.uuid,
	    .segment = segment->id,
	    .generation = segment->generation,
	    .pair = number % o->pairs_per_segment,
	    .slot = slot,
	};
}

static uint64_t slot_offset(struct local *l, uint32_t number, unsigned slot)
{
	struct format_slot_place place = slot_place(l, number, slot);

	return format_segment_offset(l->super.segment_size, place.segment) +
	       (uint64_t)place.pair * FORMAT_PAIR_SIZE + slot * FORMAT_PAGE;
}

/* Parses both slots of a pair. data[i] points into `bytes` where slot i is whole. */
static struct format_pair pair_parse(struct local *l, uint32_t number, const uint8_t *bytes,
				     const bool unreadable[2], struct format_slot slots[2],
				     const uint8_t *data[2])
{
	int errors[2];

	for (unsigned slot = 0; slot < 2; slot++) {
		struct format_slot_place place = slot_place(l, number, slot);

		errors[slot] = unreadable[slot]
				   ? -EUCLEAN
				   : format_slot_decode(bytes + slot * FORMAT_PAGE, &place,
							&slots[slot], &data[slot]);
	}
	return format_pair_judge(errors, slots);
}

int object_load_pair(struct local *l, uint32_t number, const uint8_t *bytes,
		     const bool unreadable[2])
{
	struct objects *o = &l->objects;
	struct pair *p = object_pair(o, number);
	struct format_slot slots[2];
	const uint8_t *data[2];
	struct format_pair judged = pair_parse(l, number, bytes, unreadable, slots, data);
	uint64_t segment = slot_place(l, number, 0).segment;

	p->name = judged.slot.name;
	p->version = judged.slot.version;
	p->sequence = judged.slot.sequence;
	if (judged.damaged)
		local_find(l, judged.state == FORMAT_PAIR_LOST ? FINDING_SLOT_LOST : FINDING_SLOT,
			   segment, number % o->pairs_per_segment, 0);
	if (judged.state == FORMAT_PAIR_LOST) {
		p->state = PAIR_LOST;
		return 0;
	}
	if (judged.state == FORMAT_PAIR_LIVE) {
		if (object_find(o, p->name) != PAIR_NONE) {
			local_find(l, FINDING_SLOT_TWICE, segment, number % o->pairs_per_segment,
				   0);
			p->state = PAIR_LOST;
			return 0;
		}
		p->state = PAIR_LIVE;
		object_index_add(o, number);
	}
	if (judged.half)
		return object_add_half(o, number);
	if (judged.state == FORMAT_PAIR_FREE)
		object_put_free(o, number);
	return 0;
}

/* ---- Serving ----------------------------------------------------------------------------------
 */

void object_get(struct local *l, struct store_ctl *ctl)
{
	list_add_tail(&l->objects.waiting, &ctl->link);
	object_pump(l);
}

void object_swap(struct local *l, struct store_ctl *ctl)
{
	CHECK(ctl->length <= STORE_OBJECT_MAX);

	list_add_tail(&l->objects.waiting, &ctl->link);
	object_pump(l);
}

/* Starts what can be started. Operations on one object go one after the other, as they came. */
static void object_pump(struct local *l)
{
	bool want_segment = false;

	list_for_each_safe (&l->objects.waiting, node) {
		struct store_ctl *ctl = list_entry(node, struct store_ctl, link);

		if (list_empty(&l->objects.idle))
			break;
		object_start(l, ctl, &want_segment);
	}
	if (want_segment)
		object_grow(l);
}

/* Answers, starts, or leaves it waiting. */
static void object_start(struct local *l, struct store_ctl *ctl, bool *want_segment)
{
	struct objects *o = &l->objects;
	uint32_t number = object_find(o, ctl->volume);
	struct pair *p = number == PAIR_NONE ? NULL : object_pair(o, number);
	int error = 0;

	if (p && p->busy)
		return;
	if (ctl->kind == CTL_OBJECT_SWAP)
		error = swap_refusal(l, ctl, p);
	else if (!p)
		error = -ENOENT;
	if (!error && !p) {
		number = object_take_free(o);
		if (number == PAIR_NONE) {
			*want_segment = true;
			return;
		}
		p = object_pair(o, number);
		p->name = ctl->volume;
		p->state = PAIR_CREATING;
		object_index_add(o, number);
	}
	list_remove(&ctl->link);
	if (error)
		ctl_finish(ctl, error);
	else
		op_begin(l, ctl, number);
}

static int swap_refusal(struct local *l, const struct store_ctl *ctl, const struct pair *p)
{
	if (l->control_failed || sync_failed(l))
		return -EIO;
	if (ctl->version == 0 || ctl->version - 1 != (p ? p->version : 0))
		return -ESTALE;
	if (!p && ctl->length == 0)
		return -ENOENT;
	return 0;
}

/* Creations that wait for a free pair get none. */
void object_refuse_waiting(struct local *l, int error)
{
	list_for_each_safe (&l->objects.waiting, node) {
		struct store_ctl *ctl = list_entry(node, struct store_ctl, link);

		if (ctl->kind == CTL_OBJECT_SWAP &&
		    object_find(&l->objects, ctl->volume) == PAIR_NONE) {
			list_remove(&ctl->link);
			ctl_finish(ctl, error);
		}
	}
}

void object_serve(struct local *l)
{
	object_pump(l);
}

/* ---- One operation ----------------------------------------------------------------------------
 */

static void op_begin(struct local *l, struct store_ctl *ctl, uint32_t number)
{
	struct object_op *op = list_entry(list_pop(&l->objects.idle), struct object_op, link);

	op->ctl = ctl;
	op->pair = number;
	op->error = 0;
	op->state = OBJECT_START;
	l->objects.in_use++;
	object_pair(&l->objects, number)->busy = true;
	op_step(op);
}

static bool op_is_swap(const struct object_op *op)
{
	return op->ctl && op->ctl->kind == CTL_OBJECT_SWAP;
}

static void op_step(struct object_op *op)
{
	for (;;) {
		if (op->error)
			op->state = OBJECT_END;
		switch (op->state) {
		case OBJECT_START:
			if (op_is_swap(op)) {
				op_prepare(op);
				op->state = OBJECT_WAIT_FIRST;
				op_write(op);
			} else {
				op->state = OBJECT_WAIT_READ;
				op_read(op);
			}
			return;
		case OBJECT_WAIT_READ:
			op_take(op);
			if (op->error || op->ctl) {
				op->state = OBJECT_END;
				continue;
			}
			op->state = OBJECT_WAIT_FIRST;
			op_write(op);
			return;
		case OBJECT_WAIT_FIRST:
			op->state = OBJECT_WAIT_FIRST_SYNC;
			op_sync(op);
			return;
		case OBJECT_WAIT_FIRST_SYNC:
			if (!op_is_swap(op)) {
				op->state = OBJECT_END;
				continue;
			}
			op->slot.sequence++;
			op->state = OBJECT_WAIT_SECOND;
			op_write(op);
			return;
		case OBJECT_WAIT_SECOND:
			op->state = OBJECT_WAIT_SECOND_SYNC;
			op_sync(op);
			return;
		case OBJECT_WAIT_SECOND_SYNC:
			op->state = OBJECT_END;
			continue;
		case OBJECT_END:
			op_end(op);
			return;
		}
	}
}

/* Each slot by itself: a disk that can't read one may still read the other. */
static void op_read(struct object_op *op)
{
	struct local *l = op->local;

	op->in_flight = 2;
	for (unsigned slot = 0; slot < 2; slot++)
		io_read(l->loop, &op->io[slot].op, l->file, op->buffer + slot * FORMAT_PAGE,
			FORMAT_PAGE, slot_offset(l, op->pair, slot));
}

static void op_prepare(struct object_op *op)
{
	const struct pair *p = object_pair(&op->local->objects, op->pair);
	const struct store_ctl *ctl = op->ctl;

	CHECK(ctl);

	op->slot = (struct format_slot){
	    .name = ctl->volume,
	    .version = ctl->version,
	    .sequence = p->sequence + 1,
	    .length = ctl->length,
	    .deleted = ctl->length == 0,
	};
	op->data = ctl->data;
}

static void op_write(struct object_op *op)
{
	struct local *l = op->local;
	unsigned slot = op->slot.sequence % 2;
	struct format_slot_place place = slot_place(l, op->pair, slot);
	uint8_t *page = op->buffer + slot * FORMAT_PAGE;

	format_slot_encode(&op->slot, &place, op->data, page);
	op->in_flight = 1;
	io_write(l->loop, &op->io[slot].op, l->file, page, FORMAT_PAGE,
		 slot_offset(l, op->pair, slot));
}

static void op_on_io(struct io_op *io)
{
	struct object_op *op = container_of(io, struct object_io, op)->owner;

	/* A slot that can't be read counts as damaged; op_take looks. */
	if (io->result < 0 && op->state != OBJECT_WAIT_READ)
		op->error = (int)io->result;
	if (--op->in_flight == 0)
		op_step(op);
}

static void op_sync(struct object_op *op)
{
	local_sync(&op->local->store, op->local->loop, &op->sync);
}

static void op_on_sync(struct store_io *io)
{
	struct object_op *op = container_of(io, struct object_op, sync);

	if (io->result < 0)
		op->error = (int)io->result;
	op_step(op);
}

/* Both slots were read: for a get into its ctl, for a mending to be written again. */
static void op_take(struct object_op *op)
{
	struct local *l = op->local;
	struct pair *p = object_pair(&l->objects, op->pair);
	const bool unreadable[2] = {op->io[0].op.result < 0, op->io[1].op.result < 0};
	struct format_slot slots[2];
	const uint8_t *data[2] = {NULL, NULL};
	struct format_pair judged = pair_parse(l, op->pair, op->buffer, unreadable, slots, data);
	struct store_ctl *ctl = op->ctl;

	if (judged.slot.sequence == 0 || !id_equal(judged.slot.name, p->name)) {
		op->error = -EUCLEAN;
		return;
	}
	op->slot = judged.slot;
	op->data = data[judged.slot.sequence % 2];
	if (!ctl) {
		op->slot.sequence++;
		return;
	}
	if (judged.state != FORMAT_PAIR_LIVE) {
		op->error = -EUCLEAN;
		return;
	}
	ctl->version = op->slot.version;
	ctl->length = op->slot.length;
	ctl->degraded = judged.damaged || op->slot.sequence != p->sequence;
	memcpy(ctl->data, op->data, op->slot.length);
	/* The newest may have been damaged since: then the one before is what we hold. */
	p->version = op->slot.version;
	p->sequence = op->slot.sequence;
}

static void op_end(struct object_op *op)
{
	struct local *l = op->local;
	struct objects *o = &l->objects;
	struct pair *p = object_pair(o, op->pair);
	struct store_ctl *ctl = op->ctl;
	int error = op->error;

	p->busy = false;
	if (op_is_swap(op))
		op_end_swap(op, p);
	if (!ctl) {
		if (!error)
			p->sequence = op->slot.sequence;
		if (!error && p->state == PAIR_FREE)
			object_put_free(o, op->pair);
	}
	o->in_use--;
	list_add_tail(&o->idle, &op->link);
	if (ctl)
		ctl_finish(ctl, error);
	object_mend(l);
	object_pump(l);
	local_quiet(l);
}

static void op_end_swap(struct object_op *op, struct pair *p)
{
	struct local *l = op->local;
	struct objects *o = &l->objects;

	if (op->error) {
		l->control_failed = true;
		if (p->state == PAIR_CREATING) {
			object_index_remove(o, op->pair);
			p->state = PAIR_LOST;
		}
		return;
	}
	p->version = op->slot.version;
	p->sequence = op->slot.sequence;
	p->state = PAIR_LIVE;
	if (op->slot.deleted) {
		object_index_remove(o, op->pair);
		p->state = PAIR_FREE;
		object_put_free(o, op->pair);
	}
}

/* After opening, behind everything else. */
void object_mend(struct local *l)
{
	struct objects *o = &l->objects;

	while (o->n_half > 0 && !list_empty(&o->idle) && !l->closing && !l->control_failed &&
	       !l->read_only) {
		uint32_t number = o->half[--o->n_half];

		/* Under way: a swap just now mends it, too. */
		if (!object_pair(o, number)->busy)
			op_begin(l, NULL, number);
	}
}

/* ---- Listing ----------------------------------------------------------------------------------
 */

void object_list(struct local *l, struct store_ctl *ctl)
{
	struct objects *o = &l->objects;
	uint64_t n_pairs = (uint64_t)o->n_segments * o->pairs_per_segment;

	ctl->n = 0;
	while (ctl->n < STORE_LEND_MAX && ctl->private[0] < n_pairs) {
		const struct pair *p = object_pair(o, (uint32_t)ctl->private[0]++);

		if (p->state != PAIR_LIVE)
			continue;
		ctl->segments[ctl->n++] = (struct store_segment){
		    .id = p->name.hi,
		    .incarnation = p->name.lo,
		};
	}
	ctl_finish(ctl, 0);
}

bool object_is_quiet(const struct local *l)
{
	return l->objects.in_use == 0 && l->objects.grow_state == OBJECT_GROW_IDLE;
}
