/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening:
 *
 *     READ <-> WAIT_READ -> LOOK -> [GROW -> WAIT_GROW -> WAIT_SYNC ->] [SUPER -> WAIT_SUPER ->]
 *     TABLE <-> WAIT_TABLE -> SERVE -> END
 *
 * Every entry of the table is looked at before anything is changed. A disk goes on only if the
 * store is of this host, the entry of this boot, and the key there; else it ends: its key, if any,
 * is destroyed before the table says so.
 */
#include "base/check.h"
#include "base/mem.h"
#include "base/size.h"
#include "instance-store/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum open_state {
	OPEN_READ,
	OPEN_WAIT_READ,
	OPEN_LOOK,
	OPEN_GROW,
	OPEN_WAIT_GROW,
	OPEN_WAIT_SYNC,
	OPEN_SUPER,
	OPEN_WAIT_SUPER,
	OPEN_TABLE,
	OPEN_WAIT_TABLE,
	OPEN_SERVE,
	OPEN_END,
};

struct opener {
	struct io_op io;
	struct istore_open *open;
	struct istore *s;
	enum open_state state;
	uint8_t *head;
	unsigned half;
	unsigned n_unreadable;
	bool is_new; /* an empty file */
	bool format;
	bool write_super;
	bool write_slot[ISTORE_SLOTS];
	struct keep_item *items[ISTORE_SLOTS];
	unsigned index;
};

static void open_step(struct opener *o);
static void open_begin(struct io_op *io);
static void open_on_io(struct io_op *io);
static void open_on_pair(struct istore *s, int error);
static void open_on_answer(struct io_op *io);

static void open_enter(struct opener *o, enum open_state state)
{
	o->state = o->open->err.code ? OPEN_END : state;
}

/* ---- Which store is it ------------------------------------------------------------- */

static bool is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* A new store: nothing but zeroes in its head, or a superblock that was never finished. */
static bool may_format(const struct opener *o, const int errors[2])
{
	return errors[0] != -ENOTSUP && errors[1] == -ENODATA &&
	       (errors[0] == -ENODATA || errors[0] == -EUCLEAN) &&
	       is_zero(o->head + ISTORE_PAGE, ISTORE_HEAD_SIZE - ISTORE_PAGE);
}

static uint64_t choose_slice_size(uint64_t size)
{
	uint64_t slice = ISTORE_SLICE_SIZE_MIN;

	/* About 4,000 slices, so that what is rounded up is little, and the table of a disk too. */
	while (slice < ISTORE_SLICE_SIZE_MAX && size / slice > 4096)
		slice *= 2;
	return slice;
}

static int plan_format(struct opener *o)
{
	struct istore *s = o->s;
	const struct istore_config *c = &s->config;
	struct io_file_info info;
	uint64_t size = c->size;
	uint64_t slice = c->slice_size;

	io_file_info(s->file, &info);
	if (!c->create)
		return err_set(&o->open->err, -ENOENT, "%s: there is no instance store", c->path);
	if (info.is_device)
		size = info.size;
	if (size < ISTORE_HEAD_SIZE + ISTORE_SLICE_SIZE_MIN)
		return err_set(&o->open->err, -EINVAL,
			       "%s is new, and an instance store has at least %" PRIu64
			       " MiB: say how large it is to be (--size SIZE)",
			       c->path, (ISTORE_HEAD_SIZE + ISTORE_SLICE_SIZE_MIN) / MiB);
	size -= ISTORE_HEAD_SIZE;
	if (slice == 0)
		slice = choose_slice_size(size);
	if (slice < ISTORE_SLICE_SIZE_MIN || slice > ISTORE_SLICE_SIZE_MAX ||
	    (slice & (slice - 1)) || size / slice == 0 || size / slice > ISTORE_SLICES_MAX)
		return err_set(&o->open->err, -EINVAL,
			       "slices of %" PRIu64 " bytes: a power of two from 1 MiB to 16 GiB "
			       "that fits the store 1 to %" PRIu64 " times is needed",
			       slice, ISTORE_SLICES_MAX);
	s->super = (struct istore_super){
	    .host = c->keep->host,
	    .slice_size = slice,
	    .n_slices = size / slice,
	    .made_at = io_wall_clock(s->loop),
	};
	io_random(s->loop, &s->super.uuid, sizeof(s->super.uuid));
	o->format = true;
	o->write_super = true;
	return 0;
}

static int check_host(struct opener *o)
{
	struct istore *s = o->s;
	char is[ID_TEXT_MAX];
	char here[ID_TEXT_MAX];

	if (id_equal(s->super.host, s->config.keep->host))
		return 0;
	if (!s->config.adopt)
		return err_set(&o->open->err, -EXDEV,
			       "%s is the instance store of the machine %s, and this is %s: its "
			       "data is not served here; take it back there, or say --adopt to end "
			       "all its disks and use it for this machine",
			       s->config.path, uuid_format(s->super.host, is),
			       uuid_format(s->config.keep->host, here));
	return 0;
}

static int look_at_super(struct opener *o)
{
	struct istore *s = o->s;
	struct istore_super supers[2];
	int errors[2];
	struct io_file_info info;
	uint64_t end;
	int best;

	for (unsigned i = 0; i < 2; i++)
		errors[i] = istore_super_decode(o->head + istore_super_offset(i), &supers[i]);
	if (may_format(o, errors))
		return plan_format(o);
	if (errors[0] == -ENOTSUP || errors[1] == -ENOTSUP)
		return err_set(&o->open->err, -ENOTSUP,
			       "%s: an instance store of a newer version: install that",
			       s->config.path);
	if (errors[0] < 0 && errors[1] < 0 && errors[0] != -EUCLEAN && errors[1] != -EUCLEAN)
		return err_set(&o->open->err, -EMEDIUMTYPE,
			       "%s is no instance store, and not empty; it is left alone: choose "
			       "another file or device, or clear its first 8 MiB yourself",
			       s->config.path);
	if (errors[0] < 0 && errors[1] < 0)
		return err_set(&o->open->err, -EUCLEAN,
			       "%s: both superblocks are damaged: nothing can be served of it",
			       s->config.path);
	best = errors[0] < 0 || (errors[1] == 0 && supers[1].sequence > supers[0].sequence);
	s->super = supers[best];
	o->write_super = errors[!best] < 0 || supers[!best].sequence != s->super.sequence;
	o->open->n_repaired += o->write_super;
	io_file_info(s->file, &info);
	end = istore_slice_offset(s->super.slice_size, s->super.n_slices);
	if (info.size < end)
		return err_set(&o->open->err, -EUCLEAN,
			       "%s has %" PRIu64 " bytes and was made with %" PRIu64,
			       s->config.path, info.size, end);
	return check_host(o);
}

/* ---- Which disks go on ------------------------------------------------------------- */

static int look_at_slot(struct opener *o, unsigned i)
{
	struct istore *s = o->s;
	struct istore_slot copies[2] = {{0}};
	struct istore_judgement j;
	uint64_t versions[2];
	int errors[2];

	for (unsigned c = 0; c < 2; c++) {
		errors[c] = istore_slot_decode(o->head + istore_slot_offset(i, c), &s->super, i,
					       &copies[c]);
		versions[c] = copies[c].version;
	}
	j = istore_slot_judge(errors, versions);
	o->open->n_repaired += j.damaged;
	o->write_slot[i] = j.repair;
	if (j.copy >= 0) {
		s->slots[i] = copies[j.copy];
		return 0;
	}
	o->write_slot[i] = true;
	if (s->config.give_up_damaged)
		return 0;
	return err_set(&o->open->err, -EUCLEAN,
		       "%s: entry %u of the disk table is damaged in both copies, and its disk, if "
		       "there was one, can't be served; say --give-up-damaged to go on without it",
		       s->config.path, i);
}

/* The key decides. An error that says nothing of the key leaves everything as it is. */
static int open_key(struct opener *o, unsigned i)
{
	struct istore *s = o->s;
	struct istore_slot *t = &s->slots[i];
	const struct keep_name name = {.slot = i, .generation = t->generation};
	bool ours = id_equal(t->boot, s->config.keep->boot) &&
		    id_equal(s->super.host, s->config.keep->host);
	int r = -ENOENT;

	if (ours)
		r = s->keep->ops->open(s->keep, &name, t->size / ISTORE_PAGE, &o->items[i],
				       &o->open->err);
	if (r == 0)
		return 0;
	if (r != -ENOENT)
		return r;
	o->open->err.code = 0;
	t->state = ISTORE_SLOT_ENDED;
	t->discard = false;
	o->write_slot[i] = true;
	o->open->n_ended++;
	return 0;
}

static bool is_wanted(void *arg, const struct keep_name *name)
{
	const struct opener *o = arg;

	return name->slot < ISTORE_SLOTS && o->items[name->slot] &&
	       o->items[name->slot]->name.generation == name->generation;
}

static int look_at_table(struct opener *o)
{
	struct istore *s = o->s;
	int r = istore_space_init(s, &o->open->err);

	for (unsigned i = 0; i < ISTORE_SLOTS && r == 0; i++) {
		r = look_at_slot(o, i);
		s->generation = max_u64(s->generation, s->slots[i].generation);
	}
	for (unsigned i = 0; i < ISTORE_SLOTS && r == 0; i++)
		if (s->slots[i].state == ISTORE_SLOT_USED)
			r = istore_space_take(s, i, &o->open->err);
	for (unsigned i = 0; i < ISTORE_SLOTS && r == 0; i++) {
		if (s->slots[i].state != ISTORE_SLOT_USED)
			continue;
		r = open_key(o, i);
		if (s->slots[i].state == ISTORE_SLOT_ENDED)
			istore_space_give(s, i);
	}
	if (r < 0)
		return r;
	for (unsigned i = 0; i < ISTORE_SLOTS; i++)
		if (s->slots[i].state == ISTORE_SLOT_ENDED || s->slots[i].discard)
			istore_space_set_dirty(s, &s->slots[i]);
	r = s->keep->ops->sweep(s->keep, is_wanted, o, &o->open->err);
	return r < 0 ? r : 0;
}

/* What was read tells all: nothing has been changed yet. */
static void look(struct opener *o)
{
	struct istore *s = o->s;

	if (look_at_super(o) < 0)
		return;
	if (s->config.keep->open(s->config.keep, s->super.uuid, &s->keep, &o->open->err) < 0)
		return;
	if (look_at_table(o) < 0)
		return;
	if (!id_equal(s->super.host, s->config.keep->host)) {
		s->super.host = s->config.keep->host;
		o->write_super = true;
	}
}

/* ---- Reading and making ------------------------------------------------------------ */

static void read_half(struct opener *o)
{
	uint64_t offset = o->half * ISTORE_COPY_DISTANCE;

	o->io.done = open_on_io;
	if (o->is_new)
		io_defer(o->s->loop, &o->io, 0);
	else
		io_read(o->s->loop, &o->io, o->s->file, o->head + offset, ISTORE_COPY_DISTANCE,
			offset);
}

/* What can't be read is as good as damaged: the other half has it all, too. */
static void take_half(struct opener *o)
{
	int error = o->io.result < 0 ? (int)o->io.result : 0;

	if (error) {
		memset(o->head + o->half * ISTORE_COPY_DISTANCE, 0xff, ISTORE_COPY_DISTANCE);
		o->n_unreadable++;
	}
	if (o->n_unreadable == 2)
		err_set(&o->open->err, error, "reading %s: %s", o->s->config.path,
			strerror(-error));
	o->half++;
}

static void take_result(struct opener *o)
{
	if (o->io.result < 0)
		err_set(&o->open->err, (int)o->io.result, "%s: making it: %s", o->s->config.path,
			strerror((int)-o->io.result));
}

/* ---- The machine ------------------------------------------------------------------- */

static void serve(struct opener *o)
{
	struct istore *s = o->s;

	for (unsigned i = 0; i < ISTORE_SLOTS && !o->open->err.code; i++) {
		if (!o->items[i])
			continue;
		if (istore_port_open(s, i, o->items[i], &o->open->err) == 0) {
			o->items[i] = NULL;
			o->open->n_disks++;
		}
	}
}

/* False: all that had to be is written. */
static bool next_slot(struct opener *o)
{
	for (; o->index < ISTORE_SLOTS; o->index++) {
		if (!o->write_slot[o->index])
			continue;
		istore_table_write(o->s, o->index, &o->s->slots[o->index], open_on_pair);
		return true;
	}
	return false;
}

static void end(struct opener *o)
{
	struct istore_open *open = o->open;
	struct istore *s = o->s;

	mem_free_pages(o->head, ISTORE_HEAD_SIZE);
	for (unsigned i = 0; i < ISTORE_SLOTS; i++)
		if (o->items[i])
			s->keep->ops->close(s->keep, o->items[i]);
	if (open->err.code) {
		while (!list_empty(&s->ports))
			istore_port_free(list_first(&s->ports, struct port, node));
		istore_free(s);
	} else {
		s->opener = NULL;
		open->store = s;
		istore_discard_kick(s);
	}
	mem_free(o);
	open->op.done = open_on_answer;
	io_defer(open->config.loops[0], &open->op, 0);
}

static void open_on_answer(struct io_op *io)
{
	struct istore_open *open = container_of(io, struct istore_open, op);

	open->done(open);
}

static void open_step(struct opener *o)
{
	struct istore *s = o->s;

	for (;;) {
		switch (o->state) {
		case OPEN_READ:
			open_enter(o, OPEN_WAIT_READ);
			read_half(o);
			return;
		case OPEN_WAIT_READ:
			take_half(o);
			open_enter(o, o->half < 2 ? OPEN_READ : OPEN_LOOK);
			continue;
		case OPEN_LOOK:
			look(o);
			open_enter(o, o->format ? OPEN_GROW : OPEN_SUPER);
			continue;
		case OPEN_GROW:
			open_enter(o, OPEN_WAIT_GROW);
			o->io.done = open_on_io;
			io_grow(s->loop, &o->io, s->file,
				istore_slice_offset(s->super.slice_size, s->super.n_slices));
			return;
		case OPEN_WAIT_GROW:
			take_result(o);
			open_enter(o, OPEN_WAIT_SYNC);
			if (o->state == OPEN_END)
				continue;
			io_sync(s->loop, &o->io, s->file);
			return;
		case OPEN_WAIT_SYNC: /* the file has its size: a head without it is not ours */
			take_result(o);
			open_enter(o, OPEN_SUPER);
			continue;
		case OPEN_SUPER:
			open_enter(o, o->write_super ? OPEN_WAIT_SUPER : OPEN_TABLE);
			if (!o->write_super)
				continue;
			istore_super_write(s, open_on_pair);
			return;
		case OPEN_WAIT_SUPER:
			open_enter(o, OPEN_TABLE);
			continue;
		case OPEN_TABLE:
			open_enter(o, OPEN_WAIT_TABLE);
			if (next_slot(o))
				return;
			open_enter(o, OPEN_SERVE);
			continue;
		case OPEN_WAIT_TABLE:
			o->index++;
			open_enter(o, OPEN_TABLE);
			continue;
		case OPEN_SERVE:
			serve(o);
			open_enter(o, OPEN_END);
			continue;
		case OPEN_END:
			end(o);
			return;
		}
	}
}

static void open_begin(struct io_op *io)
{
	open_step(container_of(io, struct opener, io));
}

static void open_on_io(struct io_op *io)
{
	open_step(container_of(io, struct opener, io));
}

static void open_on_pair(struct istore *s, int error)
{
	struct opener *o = s->opener;

	if (error)
		err_set(&o->open->err, error, "%s: writing its head: %s", s->config.path,
			strerror(-error));
	open_step(o);
}

/* ---- Life -------------------------------------------------------------------------- */

static int make_parts(struct opener *o, struct err *err)
{
	struct istore *s = o->s;
	struct io_file_info info;
	int flags = IO_OPEN_EXCLUSIVE | (s->config.create ? IO_OPEN_CREATE : 0);
	int r;

	list_init(&s->queue);
	istore_discard_init(s);
	s->slots = mem_calloc(ISTORE_SLOTS, sizeof(*s->slots));
	s->pages = mem_alloc_pages(2 * ISTORE_PAGE);
	if (!s->slots || !s->pages)
		return err_set(err, -ENOMEM, "%s: out of memory", s->config.path);
	r = io_file_open(s->config.path, flags, &s->file, err);
	if (r < 0)
		return r;
	io_file_info(s->file, &info);
	o->is_new = info.size == 0 && !info.is_device;
	if (o->is_new || info.size >= ISTORE_HEAD_SIZE)
		return 0;
	return err_set(err, -EMEDIUMTYPE,
		       "%s is no instance store: it is smaller than any; it is left alone",
		       s->config.path);
}

void istore_free(struct istore *s)
{
	if (s->keep)
		s->keep->ops->free(s->keep);
	io_file_close(s->file);
	istore_space_free(s);
	istore_ports_destroy(s);
	mem_free(s->slots);
	if (s->pages)
		mem_free_pages(s->pages, 2 * ISTORE_PAGE);
	mem_free(s);
}

void istore_open(struct istore_open *open)
{
	struct istore *s = mem_alloc(sizeof(*s));
	struct opener *o = mem_alloc(sizeof(*o));
	uint8_t *head = mem_alloc_pages(ISTORE_HEAD_SIZE);

	open->err.code = 0;
	open->store = NULL;
	open->n_disks = open->n_ended = open->n_repaired = 0;
	if (!s || !o || !head || istore_ports_init(s) < 0) {
		mem_free(s);
		mem_free(o);
		if (head)
			mem_free_pages(head, ISTORE_HEAD_SIZE);
		err_set(&open->err, -ENOMEM, "%s: out of memory", open->config.path);
		open->op.done = open_on_answer;
		io_defer(open->config.loops[0], &open->op, 0);
		return;
	}
	s->config = open->config;
	s->loop = open->config.loops[0];
	o->open = open;
	o->s = s;
	s->opener = o;
	o->head = head;
	if (make_parts(o, &open->err) < 0)
		o->state = OPEN_END;
	o->io.done = open_begin;
	io_defer(s->loop, &o->io, 0);
}
