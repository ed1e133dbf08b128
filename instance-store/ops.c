/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and ending disks, one operation at a time:
 *
 *     IDLE -> PAUSE -> WAIT_PAUSE -> NEXT -> [WAIT_PORT ->] [MAKE -> WAIT_MAKE ->] WAIT_TABLE ->
 *     [PUBLISH ->] NEXT ... -> END -> IDLE
 *
 * Discarding pauses meanwhile, so that no slice changes hands under a punch. The order is what
 * makes a crash harmless: the key of what ends is destroyed at once, when the operation is
 * submitted; what is inside the disk has drained before its slices may be another's; a new key
 * exists before the table speaks of it, and an old one is gone before the table stops speaking of
 * it.
 */
#include "base/check.h"
#include "base/mem.h"
#include "instance-store/internal.h"
#include "instance-store/map.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void run_step(struct istore *s);
static void run_on_table(struct istore *s, int error);
static void make_in_worker(struct io_work *work);
static void make_on_loop(struct io_work *work);
static void op_on_deferred(struct io_op *io);

static void run_enter(struct istore *s, enum run_state state)
{
	s->state = state;
}

static bool is_about(const struct istore_op *op, const struct istore_slot *slot)
{
	if (slot->state != ISTORE_SLOT_USED)
		return false;
	if (op->kind == ISTORE_LIST && id_is_zero(op->instance))
		return true;
	return id_equal(slot->instance, op->instance) &&
	       (op->kind == ISTORE_LIST || op->number == ISTORE_ALL || slot->number == op->number);
}

static bool ends_disks(const struct istore_op *op)
{
	return op->kind == ISTORE_WIPE || op->kind == ISTORE_DELETE;
}

/* ---- Telling ----------------------------------------------------------------------- */

void istore_stats(const struct istore *s, struct istore_stats *ret_stats)
{
	uint64_t size = s->super.slice_size;

	*ret_stats = (struct istore_stats){
	    .size = s->super.n_slices * size,
	    .used = s->n_owned * size,
	    .slice_size = size,
	    .to_discard = s->n_dirty * size,
	    .discarded = s->discarder.discarded,
	    .discard_error = s->discarder.error,
	    .failed = s->failed != 0,
	};
}

static void tell(struct istore *s, unsigned slot, struct istore_info *ret_info)
{
	const struct istore_slot *t = &s->slots[slot];
	const struct port *p = istore_port_find(s, slot);

	*ret_info = (struct istore_info){
	    .instance = t->instance,
	    .number = t->number,
	    .size = t->size,
	    .generation = t->generation,
	};
	if (!p || p->state != PORT_OPEN)
		return;
	ret_info->served = true;
	ret_info->written = istore_disk_written(p->disk);
	ret_info->connections = p->n_claims;
}

static void list_disks(struct istore *s, struct istore_op *op)
{
	unsigned n = 0;

	istore_stats(s, &op->stats);
	for (unsigned i = 0; i < ISTORE_SLOTS; i++)
		n += is_about(op, &s->slots[i]);
	op->infos = mem_calloc(n + 1, sizeof(*op->infos));
	if (!op->infos) {
		err_set(&op->error, -ENOMEM, "out of memory");
		return;
	}
	for (unsigned i = 0; i < ISTORE_SLOTS; i++)
		if (is_about(op, &s->slots[i]))
			tell(s, i, &op->infos[op->n_infos++]);
}

void istore_op_release(struct istore_op *op)
{
	mem_free(op->infos);
	op->infos = NULL;
	op->n_infos = 0;
}

/* ---- Coming in --------------------------------------------------------------------- */

/* No key of what is to end outlives this. */
static void fence_all(struct istore *s, const struct istore_op *op)
{
	list_for_each (&s->ports, node) {
		struct port *p = list_entry(node, struct port, node);

		if (is_about(op, &s->slots[p->slot]))
			istore_port_fence(p);
	}
}

static int check(const struct istore *s, struct istore_op *op)
{
	if (s->closing)
		return err_set(&op->error, -ESHUTDOWN, "the daemon is stopping");
	if (op->kind == ISTORE_TIDY || op->kind == ISTORE_LIST)
		return 0;
	if (id_is_zero(op->instance))
		return err_set(&op->error, -EINVAL, "an instance is missing");
	if (op->number >= ISTORE_DISKS_MAX &&
	    (op->kind == ISTORE_CREATE || op->number != ISTORE_ALL))
		return err_set(&op->error, -EINVAL,
			       "disk number %" PRIu32 ": the disks of an instance have the numbers "
			       "0 to %d",
			       op->number, ISTORE_DISKS_MAX - 1);
	if (op->kind != ISTORE_CREATE)
		return 0;
	if (op->size == 0 || op->size > s->super.n_slices * s->super.slice_size)
		return err_set(&op->error, op->size ? -ENOSPC : -EINVAL,
			       "a disk of %" PRIu64
			       " bytes: this store has room for at most %" PRIu64,
			       op->size, s->super.n_slices * s->super.slice_size);
	op->size = round_up(op->size, ISTORE_PAGE);
	return 0;
}

static void op_answer(struct istore *s, struct istore_op *op)
{
	op->io.done = op_on_deferred;
	io_defer(s->loop, &op->io, 0);
}

static void op_on_deferred(struct io_op *io)
{
	struct istore_op *op = container_of(io, struct istore_op, io);

	op->done(op);
}

void istore_submit(struct istore *s, struct istore_op *op)
{
	op->error.code = 0;
	op->infos = NULL;
	op->n_infos = 0;
	op->n_done = 0;
	op->existed = false;
	if (check(s, op) < 0) {
		op_answer(s, op);
		return;
	}
	if (op->kind == ISTORE_LIST) {
		list_disks(s, op);
		op_answer(s, op);
		return;
	}
	if (ends_disks(op))
		fence_all(s, op);
	list_add_tail(&s->queue, &op->node);
	if (s->state == RUN_IDLE)
		run_step(s);
}

/* ---- Steps ------------------------------------------------------------------------- */

/* The slot of the disk that is there, or a free one; -1: neither. */
static int find_slot(const struct istore *s, const struct istore_op *op)
{
	int free_one = -1;

	for (int i = ISTORE_SLOTS - 1; i >= 0; i--) {
		if (is_about(op, &s->slots[i]))
			return i;
		if (s->slots[i].state == ISTORE_SLOT_FREE)
			free_one = i;
	}
	return free_one;
}

/* A new key: the disk reads as zeroes. */
static void next_generation(struct istore *s)
{
	s->next.state = ISTORE_SLOT_USED;
	s->next.generation = ++s->generation;
	s->next.boot = s->config.keep->boot;
}

static void next_create(struct istore *s)
{
	struct istore_op *op = s->running;
	int i = find_slot(s, op);

	run_enter(s, RUN_END);
	if (i < 0) {
		err_set(&op->error, -EAGAIN,
			"the disk table is full of disks, or of ended ones that are still being "
			"discarded: try again later");
		return;
	}
	s->index = (unsigned)i;
	if (s->slots[i].state == ISTORE_SLOT_USED) {
		op->existed = true;
		if (s->slots[i].size != op->size)
			err_set(&op->error, -EEXIST,
				"the instance has this disk already, with %" PRIu64
				" bytes: delete it first",
				s->slots[i].size);
		else if (!istore_port_find(s, s->index))
			err_set(&op->error, -EIO,
				"the disk is there and can't be served: delete it first");
		return;
	}
	s->next =
	    (struct istore_slot){.instance = op->instance, .number = op->number, .size = op->size};
	if (istore_space_choose(s, &s->next, &op->error) < 0)
		return;
	next_generation(s);
	run_enter(s, RUN_MAKE);
}

/* True: there was one more. */
static bool find_next(struct istore *s)
{
	for (; s->index < ISTORE_SLOTS; s->index++)
		if (is_about(s->running, &s->slots[s->index]))
			return true;
	return false;
}

static void next_end(struct istore *s)
{
	struct istore_op *op = s->running;
	struct port *p;

	if (!find_next(s)) {
		if (op->n_done == 0)
			err_set(&op->error, -ENOENT, "the instance has no such disk here");
		run_enter(s, RUN_END);
		return;
	}
	p = istore_port_find(s, s->index);
	if (p)
		istore_port_fence(p);
	if (p && p->state != PORT_CLOSED) {
		run_enter(s, RUN_WAIT_PORT);
		return;
	}
	if (p)
		istore_port_retire(p);
	s->next = s->slots[s->index];
	if (op->kind == ISTORE_WIPE) {
		next_generation(s);
		s->next.discard = true;
		run_enter(s, RUN_MAKE);
	} else {
		s->next.state = ISTORE_SLOT_ENDED;
		s->next.discard = false;
		run_enter(s, RUN_WAIT_TABLE);
	}
}

static void next_tidy(struct istore *s)
{
	for (; s->index < ISTORE_SLOTS; s->index++) {
		const struct istore_slot *t = &s->slots[s->index];

		if (t->state != ISTORE_SLOT_ENDED && !t->discard)
			continue;
		if (istore_space_is_dirty(s, t))
			continue;
		s->next = *t;
		s->next.discard = false;
		if (t->state == ISTORE_SLOT_ENDED)
			s->next = (struct istore_slot){.generation = t->generation};
		run_enter(s, RUN_WAIT_TABLE);
		return;
	}
	run_enter(s, RUN_END);
}

static void run_next(struct istore *s)
{
	if (s->failed) {
		err_set(&s->running->error, -EIO,
			"%s: its disk table could not be written (%s): restart the daemon; the "
			"keys of what was to end are destroyed",
			s->config.path, strerror(-s->failed));
		run_enter(s, RUN_END);
	} else if (s->running->kind == ISTORE_CREATE) {
		next_create(s);
	} else if (s->running->kind == ISTORE_TIDY) {
		next_tidy(s);
	} else {
		next_end(s);
	}
}

/* ---- A new key */

static void make_start(struct istore *s)
{
	io_random(s->loop, s->key, sizeof(s->key));
	s->made = NULL;
	s->make.run = make_in_worker;
	s->make.done = make_on_loop;
	io_work_blocking(s->loop, &s->make);
}

static void make_in_worker(struct io_work *work)
{
	struct istore *s = container_of(work, struct istore, make);
	const struct keep_name name = {.slot = s->index, .generation = s->next.generation};

	s->make_result = s->keep->ops->make(s->keep, &name, s->next.size / ISTORE_PAGE, s->key,
					    &s->made, &s->make_err);
	explicit_bzero(s->key, sizeof(s->key));
}

static void make_on_loop(struct io_work *work)
{
	run_step(container_of(work, struct istore, make));
}

static void unmake(struct istore *s)
{
	if (!s->made)
		return;
	s->keep->ops->destroy_key(s->keep, s->made);
	s->keep->ops->close(s->keep, s->made);
	s->made = NULL;
}

/* ---- The table has it */

static void run_on_table(struct istore *s, int error)
{
	struct istore_op *op = s->running;

	if (error) {
		unmake(s);
		err_set(&op->error, error, "%s: writing the disk table: %s", s->config.path,
			strerror(-error));
		run_enter(s, RUN_END);
		run_step(s);
		return;
	}
	op->n_done++;
	switch (op->kind) {
	case ISTORE_CREATE:
		CHECK(istore_space_take(s, s->index, NULL) == 0);
		run_enter(s, RUN_PUBLISH);
		break;
	case ISTORE_WIPE:
		istore_space_set_dirty(s, &s->slots[s->index]);
		run_enter(s, RUN_PUBLISH);
		break;
	case ISTORE_DELETE:
		istore_space_set_dirty(s, &s->slots[s->index]);
		istore_space_give(s, s->index);
		s->index++;
		run_enter(s, RUN_NEXT);
		break;
	case ISTORE_TIDY:
		s->index++;
		run_enter(s, RUN_NEXT);
		break;
	case ISTORE_LIST:
		break;
	}
	run_step(s);
}

static void publish(struct istore *s)
{
	struct istore_op *op = s->running;
	int r = istore_port_open(s, s->index, s->made, &op->error);

	if (r < 0)
		unmake(s);
	s->made = NULL;
	if (r == 0 && op->kind == ISTORE_WIPE) {
		s->index++;
		run_enter(s, RUN_NEXT);
	} else {
		run_enter(s, RUN_END);
	}
}

static void finish(struct istore *s)
{
	struct istore_op *op = s->running;

	if (op->kind == ISTORE_CREATE && op->error.code == 0) {
		op->infos = mem_calloc(1, sizeof(*op->infos));
		if (op->infos) {
			tell(s, s->index, op->infos);
			op->n_infos = 1;
		}
	}
	s->running = NULL;
	run_enter(s, RUN_IDLE);
	op_answer(s, op);
}

/* ---- The machine */

static void begin(struct istore *s)
{
	s->running = list_entry(list_pop(&s->queue), struct istore_op, node);
	s->index = 0;
	run_enter(s, RUN_PAUSE);
}

static void run_step(struct istore *s)
{
	for (;;) {
		switch (s->state) {
		case RUN_IDLE:
			if (list_empty(&s->queue)) {
				if (s->closing)
					istore_on_paused(s);
				else
					istore_discard_resume(s);
				return;
			}
			begin(s);
			continue;
		case RUN_PAUSE:
			run_enter(s, RUN_WAIT_PAUSE);
			istore_discard_pause(s);
			return;
		case RUN_WAIT_PAUSE:
			run_enter(s, RUN_NEXT);
			continue;
		case RUN_NEXT:
			run_next(s);
			if (s->state == RUN_WAIT_PORT)
				return;
			if (s->state != RUN_WAIT_TABLE)
				continue;
			istore_table_write(s, s->index, &s->next, run_on_table);
			return;
		case RUN_WAIT_PORT:
			run_enter(s, RUN_NEXT);
			continue;
		case RUN_MAKE:
			run_enter(s, RUN_WAIT_MAKE);
			make_start(s);
			return;
		case RUN_WAIT_MAKE:
			if (s->make_result < 0) {
				s->running->error = s->make_err;
				run_enter(s, RUN_END);
				continue;
			}
			run_enter(s, RUN_WAIT_TABLE);
			istore_table_write(s, s->index, &s->next, run_on_table);
			return;
		case RUN_WAIT_TABLE: /* run_on_table */
			return;
		case RUN_PUBLISH:
			publish(s);
			continue;
		case RUN_END:
			finish(s);
			continue;
		}
	}
}

void istore_on_port(struct istore *s)
{
	if (s->state == RUN_WAIT_PORT)
		run_step(s);
}

/* ---- Closing ----------------------------------------------------------------------- */

static void close_now(struct istore *s)
{
	struct io_op *closed = s->closed;
	struct io_loop *loop = s->loop;

	while (!list_empty(&s->ports))
		istore_port_free(list_first(&s->ports, struct port, node));
	istore_free(s);
	io_defer(loop, closed, 0);
}

void istore_on_paused(struct istore *s)
{
	const struct discarder *d = &s->discarder;

	if (s->state == RUN_WAIT_PAUSE)
		run_step(s);
	else if (s->state == RUN_IDLE && s->closed && s->n_claims == 0 && !d->punching &&
		 !d->waiting && !d->tidying)
		close_now(s);
}

void istore_close(struct istore *s, struct io_op *closed)
{
	CHECK(!s->closing);
	s->closing = true;
	s->closed = closed;
	if (s->discarder.waiting)
		io_timer_cancel(s->loop, &s->discarder.timer);
	if (s->state == RUN_IDLE)
		istore_discard_pause(s);
}
