/* SPDX-License-Identifier: Apache-2.0
 *
 * Goes through the slices that are marked, one unit at a time. What nobody has is given back whole;
 * of a slice that a disk has, only what that disk has not written, and by the disk itself, which
 * knows what is under way. Where nothing is marked any more, the table says so (ISTORE_TIDY).
 */
#include "base/check.h"
#include "instance-store/internal.h"
#include "instance-store/map.h"

#include <errno.h>

#define UNIT_FREE (64 * MiB)
#define UNIT_USED (16 * MiB) /* which a disk's requests may have to wait for */

static void discard_next(struct istore *s);
static void discard_on_punch(struct io_op *io);
static void discard_on_loop(struct io_msg *msg);
static void discard_on_disk(struct istore_discard *discard);
static void discard_on_main(struct io_msg *msg);
static void unit_done(struct istore *s, int error);
static void discard_on_timer(struct io_op *op);
static void discard_on_tidy(struct istore_op *op);

static struct istore *store_of(struct discarder *d)
{
	return container_of(d, struct istore, discarder);
}

void istore_discard_init(struct istore *s)
{
	struct discarder *d = &s->discarder;

	d->io.done = discard_on_punch;
	d->timer.done = discard_on_timer;
	d->discard.done = discard_on_disk;
}

static bool is_busy(const struct discarder *d)
{
	return d->punching || d->waiting || d->paused || d->tidying;
}

void istore_discard_kick(struct istore *s)
{
	if (!is_busy(&s->discarder) && !s->closing)
		discard_next(s);
}

void istore_discard_pause(struct istore *s)
{
	s->discarder.paused = true;
	if (!s->discarder.punching)
		istore_on_paused(s);
}

void istore_discard_resume(struct istore *s)
{
	s->discarder.paused = false;
	istore_discard_kick(s);
}

static void tidy(struct istore *s)
{
	struct discarder *d = &s->discarder;
	bool any = false;

	for (unsigned i = 0; i < ISTORE_SLOTS; i++)
		any |= s->slots[i].state == ISTORE_SLOT_ENDED || s->slots[i].discard;
	if (!any || s->failed)
		return;
	d->tidying = true;
	d->tidy = (struct istore_op){.kind = ISTORE_TIDY, .done = discard_on_tidy};
	istore_submit(s, &d->tidy);
}

static void discard_on_tidy(struct istore_op *op)
{
	struct discarder *d = container_of(op, struct discarder, tidy);

	d->tidying = false;
	if (store_of(d)->closing)
		istore_on_paused(store_of(d));
	else if (op->error.code == 0)
		istore_discard_kick(store_of(d));
}

/* Where in its disk the part of the slice is that comes next. */
static uint64_t offset_in_disk(const struct istore *s, unsigned slot)
{
	const struct istore_slot *t = &s->slots[slot];
	uint64_t n = 0;

	for (uint32_t e = 0; e < t->n_extents; e++) {
		uint64_t first = t->extents[e].first;

		if (s->discarder.slice - first < t->extents[e].count) {
			n += s->discarder.slice - first;
			return n * s->super.slice_size + s->discarder.done;
		}
		n += t->extents[e].count;
	}
	CHECK(false);
	return 0;
}

static void slice_done(struct istore *s)
{
	struct discarder *d = &s->discarder;

	map_clear(s->dirty, d->slice, d->slice + 1);
	s->n_dirty--;
	d->done = 0;
}

/* A disk's last slice may be longer than what is left of the disk. */
static bool begin_used(struct istore *s, struct port *p)
{
	struct discarder *d = &s->discarder;
	uint64_t offset = offset_in_disk(s, p->slot);
	uint64_t size = s->slots[p->slot].size;

	if (offset >= size)
		return false;
	d->unit = min_u64(min_u64(UNIT_USED, s->super.slice_size - d->done), size - offset);
	d->port = p;
	d->discard.offset = offset;
	d->discard.length = d->unit;
	d->punching = true;
	d->msg.run = discard_on_loop;
	io_post(p->loop, &d->msg);
	return true;
}

static void begin_free(struct istore *s)
{
	struct discarder *d = &s->discarder;

	d->unit = min_u64(UNIT_FREE, s->super.slice_size - d->done);
	d->punching = true;
	io_punch(s->loop, &d->io, s->file,
		 istore_slice_offset(s->super.slice_size, d->slice) + d->done, d->unit);
}

static void discard_next(struct istore *s)
{
	struct discarder *d = &s->discarder;

	while (s->n_dirty > 0) {
		uint64_t n = s->super.n_slices;
		unsigned owner;
		struct port *p;

		if (d->slice >= n || !map_get(s->dirty, d->slice)) {
			d->slice = map_run_end(s->dirty, d->slice < n ? d->slice : 0, n, false);
			d->done = 0;
			if (d->slice == n)
				d->slice = map_run_end(s->dirty, 0, n, false);
		}
		owner = s->owners[d->slice];
		if (!owner) {
			begin_free(s);
			return;
		}
		p = istore_port_find(s, owner - 1u);
		if (p && p->state == PORT_OPEN && begin_used(s, p))
			return;
		/* Nothing is left of it; or it is being wiped, and will be marked again. */
		slice_done(s);
	}
	tidy(s);
}

static void discard_on_punch(struct io_op *io)
{
	struct discarder *d = container_of(io, struct discarder, io);

	unit_done(store_of(d), io->result < 0 ? (int)io->result : 0);
}

static void discard_on_loop(struct io_msg *msg)
{
	struct discarder *d = container_of(msg, struct discarder, msg);

	istore_disk_discard(d->port->disk, &d->discard);
}

static void discard_on_disk(struct istore_discard *discard)
{
	struct discarder *d = container_of(discard, struct discarder, discard);

	d->msg.run = discard_on_main;
	io_post(store_of(d)->loop, &d->msg);
}

static void discard_on_main(struct io_msg *msg)
{
	struct discarder *d = container_of(msg, struct discarder, msg);

	unit_done(store_of(d), d->discard.error);
}

static void unit_done(struct istore *s, int error)
{
	struct discarder *d = &s->discarder;
	uint64_t rate = s->config.discard_rate;

	d->punching = false;
	d->port = NULL;
	d->done += d->unit;
	if (error)
		d->error = error;
	else
		d->discarded += d->unit;
	if (d->done >= s->super.slice_size || error)
		slice_done(s);
	if (d->paused) {
		istore_on_paused(s);
		return;
	}
	if (rate == 0 || error) {
		discard_next(s);
		return;
	}
	d->waiting = true;
	io_timer(s->loop, &d->timer, d->unit * NSEC_PER_SEC / rate);
}

static void discard_on_timer(struct io_op *op)
{
	struct discarder *d = container_of(op, struct discarder, timer);

	d->waiting = false;
	if (store_of(d)->closing)
		istore_on_paused(store_of(d));
	else
		istore_discard_kick(store_of(d));
}
