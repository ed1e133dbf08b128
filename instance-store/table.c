/* SPDX-License-Identifier: Apache-2.0
 *
 * Every page of the head exists twice. A change is made durable in the first copy, then in the
 * second: whatever happens in between, one of them is whole.
 */
#include "base/check.h"
#include "instance-store/internal.h"

static void pair_step(struct pair_write *w);
static void pair_on_io(struct io_op *io);

static void pair_start(struct istore *s, uint64_t first, uint64_t second,
		       void (*done)(struct istore *s, int error))
{
	struct pair_write *w = &s->pair;

	CHECK(!w->done);
	w->store = s;
	w->pages = s->pages;
	w->offsets[0] = first;
	w->offsets[1] = second;
	w->step = 0;
	w->done = done;
	w->io.done = pair_on_io;
	pair_step(w);
}

static void pair_step(struct pair_write *w)
{
	struct istore *s = w->store;
	unsigned copy = w->step / 2;

	if (w->step % 2 == 0)
		io_write(s->loop, &w->io, s->file, w->pages + copy * ISTORE_PAGE, ISTORE_PAGE,
			 w->offsets[copy]);
	else
		io_sync(s->loop, &w->io, s->file);
}

static void pair_on_io(struct io_op *io)
{
	struct pair_write *w = container_of(io, struct pair_write, io);
	void (*done)(struct istore *, int) = w->done;
	int error = io->result < 0 ? (int)io->result : 0;

	w->step++;
	if (!error && w->step < 4) {
		pair_step(w);
		return;
	}
	w->done = NULL;
	if (error)
		w->store->failed = error;
	done(w->store, error);
}

void istore_table_write(struct istore *s, unsigned index, const struct istore_slot *next,
			void (*done)(struct istore *s, int error))
{
	struct istore_slot *slot = &s->slots[index];
	struct istore_slot page = *next;

	page.version = (slot->version + 1) | 1;
	istore_slot_encode(&page, s->super.uuid, index, s->pages);
	page.version++;
	istore_slot_encode(&page, s->super.uuid, index, s->pages + ISTORE_PAGE);
	*slot = page;
	pair_start(s, istore_slot_offset(index, 0), istore_slot_offset(index, 1), done);
}

void istore_super_write(struct istore *s, void (*done)(struct istore *s, int error))
{
	s->super.sequence++;
	istore_super_encode(&s->super, s->pages);
	istore_super_encode(&s->super, s->pages + ISTORE_PAGE);
	pair_start(s, istore_super_offset(0), istore_super_offset(1), done);
}
