/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots as points in the log. A cut is a SNAPSHOT record: when it is published, the active
 * overlay freezes and waits, in the order of the log, for a checkpoint of its own, whose root is
 * the snapshot's. So a cut waits for no checkpoint, and a checkpoint's root never runs past a cut
 * that has no pin: replay finds the record and does the same again.
 *
 *   asked -> sequenced (lookups of MOVE and HYDRATE begin anew) -> published, frozen -> durable:
 * done
 *                                                                      \-> checkpoint -> pin
 *
 * The barrier: a MOVE or HYDRATE counts where the active overlay knows of no change since its
 * lookup. A cut empties that overlay. So between lookup and publishing there is no cut: what was
 * looked up before a cut has its place in the log before the cut, or is looked up again after it.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

/* ---- What is pinned, and on its way ------------------------------------------------------------
 */

static unsigned pins_used(const struct volume *v)
{
	unsigned n = 0;

	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		n += v->sb.pins[i].checkpoint != 0;
	list_for_each (&v->cuts, node)
		n++;
	return n;
}

struct superblock_pin *pin_find(struct superblock *sb, struct id snapshot)
{
	for (int i = 0; i < SUPERBLOCK_PINS; i++)
		if (sb->pins[i].checkpoint != 0 && id_equal(sb->pins[i].snapshot, snapshot))
			return &sb->pins[i];
	return NULL;
}

bool cut_is_waiting(const struct volume *v, struct id snapshot)
{
	list_for_each (&v->cuts, node)
		if (id_equal(list_entry(node, struct cut, link)->snapshot, snapshot))
			return true;
	return false;
}

static struct volume_op *asked_find(const struct volume *v, struct id snapshot)
{
	list_for_each (&v->cuts_asked, node) {
		struct volume_op *op = list_entry(node, struct volume_op, link);

		if (id_equal(op->snapshot, snapshot))
			return op;
	}
	return NULL;
}

unsigned volume_pins(const struct volume *v, struct volume_pin ret_pins[VOLUME_PINS])
{
	unsigned n = 0;

	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		const struct superblock_pin *pin = &v->sb.pins[i];

		if (pin->checkpoint != 0)
			ret_pins[n++] = (struct volume_pin){.snapshot = pin->snapshot,
							    .sequence = pin->sequence,
							    .size = pin->size,
							    .ready = true};
	}
	list_for_each (&v->cuts, node) {
		const struct cut *cut = list_entry(node, struct cut, link);

		ret_pins[n++] = (struct volume_pin){
		    .snapshot = cut->snapshot, .sequence = cut->sequence, .size = cut->size};
	}
	return n;
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

static void on_refused(struct io_op *turn)
{
	struct volume_op *op = container_of(turn, struct volume_op, turn);

	op->done(op);
}

void volume_op_refuse(struct volume_op *op, int error, const char *what)
{
	char text[ID_TEXT_MAX];

	err_set(&op->err, error, "volume %s: %s", id_format(op->volume->id, "vol", text), what);
	op->turn.done = on_refused;
	io_defer(op->volume->loop, &op->turn, 0);
}

static const char *why_not(const struct volume *v, const struct volume_op *op, int *ret_error)
{
	unsigned n = pins_used(v);

	list_for_each (&v->cuts_asked, node)
		n++;
	*ret_error = -EROFS;
	if (v->read_only || v->closing || (v->sb.flags & SUPERBLOCK_DELETED))
		return "no snapshot can be taken of it: it is not open for writing";
	*ret_error = -EIO;
	if (v->failed)
		return "no snapshot can be taken of it: its log has stopped; open it anew";
	*ret_error = -EEXIST;
	if (pin_find((struct superblock *)&v->sb, op->snapshot) ||
	    cut_is_waiting(v, op->snapshot) || asked_find(v, op->snapshot))
		return "it has a pending snapshot of that id already";
	*ret_error = -EAGAIN;
	if (n >= SUPERBLOCK_PINS)
		return "five snapshots of it are pending; try again when one has completed";
	if (op->hold_ns && (v->hold_op || v->hold_armed))
		return "it is held for another snapshot";
	return NULL;
}

void volume_snapshot(struct volume_op *op)
{
	struct volume *v = op->volume;
	const char *why;
	int error;

	CHECK(!id_is_zero(op->snapshot));
	op->err.code = 0;
	why = why_not(v, op, &error);
	if (why) {
		volume_op_refuse(op, error, why);
		return;
	}
	if (op->hold_ns)
		v->hold_op = op;
	op->cut_state = CUT_ASKED;
	op->telling = op->ended = false;
	list_add_tail(&v->cuts_asked, &op->link);
	if (!cuts_start(v) && list_empty(&v->resize))
		list_add_tail(&v->engine->resizes, &v->resize);
}

bool cuts_start(struct volume *v)
{
	list_for_each (&v->cuts_asked, node) {
		struct volume_op *volume_op = list_entry(node, struct volume_op, link);
		struct op *op;

		if (volume_op->cut_state != CUT_ASKED)
			continue;
		op = op_get(v, OP_SNAPSHOT);
		if (!op)
			return false;
		op->volume_op = volume_op;
		volume_op->cut_state = CUT_QUEUED;
		/* Ahead of writes: nobody waits for the answers that they will get. */
		list_add_head(&v->write_queue, &op->link);
		volume_kick(v);
	}
	return true;
}

/* ---- Placing -----------------------------------------------------------------------------------
 */

void cut_sequenced(struct volume *v, struct volume_op *op, uint64_t sequence)
{
	op->sequence = sequence;
	op->cut_state = CUT_SEQUENCED;
	v->n_cutting++;
	gc_bar(v);
	hydrate_bar(v);
	if (v->hold_op == op)
		v->hold = sequence;
}

static void on_hold_over(struct io_op *timer)
{
	struct volume *v = container_of(timer, struct volume, hold_timer);

	v->hold_armed = false;
	if (v->hold) {
		v->hold = 0;
		v->released = true;
		volume_kick(v);
	}
	volume_close_kick(v);
}

static void on_placed(struct io_op *turn)
{
	struct volume_op *op = container_of(turn, struct volume_op, turn);

	op->telling = false;
	if (op->placed && !op->err.code)
		op->placed(op);
	if (op->ended) /* it is durable already */
		op->done(op);
}

/* Nobody is to be held for this one any more. */
static void cut_unhold(struct volume *v)
{
	v->hold_op = NULL;
	v->hold = 0;
	v->released = true;
	volume_kick(v);
}

/* The one who asked, in this life, is told: later, not from inside publishing. */
static void cut_answer(struct volume *v, struct id snapshot, int error)
{
	struct volume_op *op = asked_find(v, snapshot);

	if (!op)
		return;
	CHECK(op->cut_state == CUT_SEQUENCED);
	op->cut_state = CUT_PLACED;
	op->err.code = error;
	v->n_cutting--;
	list_remove(&op->link);
	if (v->hold_op == op && error) {
		cut_unhold(v);
	} else if (v->hold_op == op) {
		v->hold_op = NULL;
		v->hold_armed = true;
		v->hold_timer.done = on_hold_over;
		io_timer(v->loop, &v->hold_timer, op->hold_ns);
	}
	op->telling = true;
	op->turn.done = on_placed;
	io_defer(v->loop, &op->turn, 0);
}

int cut_place(struct volume *v, const struct run *run)
{
	struct id snapshot = {.hi = run->nonce, .lo = run->argument};
	struct cut *cut = mem_alloc(sizeof(*cut));
	struct overlay fresh;
	int r = overlay_init(&fresh, v->published, 0);

	if (r == 0)
		r = overlay_reserve(&fresh, v->entries_in_flight, v->n_in_flight * 2);
	if (!cut || r < 0) {
		overlay_free(&fresh);
		mem_free(cut);
		cut_answer(v, snapshot, -ENOMEM);
		return -ENOMEM;
	}
	cut->snapshot = snapshot;
	cut->sequence = v->published;
	cut->sum = v->published_sum;
	cut->segment = v->published_segment;
	cut->end = v->published_end;
	cut->size = block_size(&v->dev);
	cut->hydrated = hydrate_cursor(v);
	cut->overlay = v->active;
	v->active = fresh;
	list_add_tail(&v->cuts, &cut->link);
	checkpoint_count_cut(v);
	cut_answer(v, snapshot, 0);
	return 0;
}

void cut_free(struct cut *cut)
{
	list_remove(&cut->link);
	overlay_free(&cut->overlay);
	mem_free(cut);
}

void cut_done(struct volume_op *op, int error)
{
	struct volume *v = op->volume;
	char text[ID_TEXT_MAX];

	if (op->cut_state != CUT_PLACED) { /* it got no place, or that place is lost */
		list_remove(&op->link);
		v->n_cutting -= op->cut_state == CUT_SEQUENCED;
		if (v->hold_op == op)
			cut_unhold(v);
	}
	if (!op->err.code && error)
		op->err.code = error;
	if (op->err.code)
		err_set(&op->err, op->err.code, "volume %s: its snapshot could not be made: %s",
			id_format(v->id, "vol", text), strerror(-op->err.code));
	op->ended = true;
	if (!op->telling)
		op->done(op);
}

bool cut_overlay_get(const struct volume *v, uint64_t lba, struct entry *ret_entry)
{
	for (struct list *node = v->cuts.prev; node != &v->cuts; node = node->prev) {
		const struct overlay *o = &list_entry(node, struct cut, link)->overlay;

		if (!overlay_is_empty(o) && overlay_get(o, lba, ret_entry))
			return true;
	}
	return false;
}

/* ---- Holding -----------------------------------------------------------------------------------
 */

bool volume_release(struct volume *v)
{
	bool held = v->hold != 0;

	v->hold = 0;
	v->released = true;
	if (v->hold_armed)
		io_timer_cancel(v->loop, &v->hold_timer);
	volume_kick(v);
	return held;
}

/* ---- Unpinning ---------------------------------------------------------------------------------
 */

struct unpinning {
	struct checkpoint_wait wait;
	struct volume_op *op;
};

static void on_unpinned(struct checkpoint_wait *wait, int error)
{
	struct unpinning *u = container_of(wait, struct unpinning, wait);
	struct volume_op *op = u->op;
	char text[ID_TEXT_MAX];

	mem_free(u);
	if (error)
		err_set(&op->err, error,
			"volume %s: its snapshot stays pinned: its log has stopped",
			id_format(op->volume->id, "vol", text));
	op->done(op);
}

void volume_unpin(struct volume_op *op)
{
	struct volume *v = op->volume;
	struct unpinning *u;

	op->err.code = 0;
	if (!pin_find(&v->sb, op->snapshot) && !cut_is_waiting(v, op->snapshot)) {
		volume_op_refuse(op, -ENOENT, "it has no pending snapshot of that id");
		return;
	}
	if (view_is_open(v, op->snapshot)) {
		volume_op_refuse(op, -EBUSY, "its snapshot is being read");
		return;
	}
	u = mem_alloc(sizeof(*u));
	if (!u) {
		volume_op_refuse(op, -ENOMEM, "no memory for letting its snapshot go");
		return;
	}
	u->op = op;
	u->wait.done = on_unpinned;
	u->wait.unpin = op->snapshot;
	checkpoint_request(v, &u->wait);
}
