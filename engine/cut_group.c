/* SPDX-License-Identifier: Apache-2.0
 *
 * Cuts of several volumes at one common point:
 *
 *   each part, on its volume's loop: snapshot with a hold -> placed | failed
 *   all placed (or one failed) -> each: release -> released, and durable -> done
 *
 * A volume that holds shows nothing that is behind its cut: neither by an answer nor to a read. So
 * nobody can know of such a write before all cuts have their place, and what he issues then is
 * behind them all.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>

#define HOLD NSEC_PER_SEC

/* ---- On the volume's loop ----------------------------------------------------------------------
 */

/* There is one message each way: the next is sent when the last was taken. What it tells is the
 * part's flags, which are this loop's. */
static void part_tell(struct volume_cut_part *part)
{
	io_post(part->cut->loop, &part->msg_back);
}

static void on_placed(struct volume_op *op)
{
	struct volume_cut_part *part = container_of(op, struct volume_cut_part, op);

	part->placed = true;
	part_tell(part);
}

static void on_cut(struct volume_op *op)
{
	struct volume_cut_part *part = container_of(op, struct volume_cut_part, op);

	part->over = true;
	if (!part->placed || part->released)
		part_tell(part);
}

static void run_place(struct io_msg *msg)
{
	struct volume_cut_part *part = container_of(msg, struct volume_cut_part, msg);

	part->op = (struct volume_op){.volume = part->volume,
				      .snapshot = part->snapshot,
				      .hold_ns = part->cut->hold_ns,
				      .placed = on_placed,
				      .done = on_cut};
	volume_snapshot(&part->op);
}

static void run_release(struct io_msg *msg)
{
	struct volume_cut_part *part = container_of(msg, struct volume_cut_part, msg);

	part->lapsed = !volume_release(part->volume);
	part->released = true;
	if (part->over)
		part_tell(part);
}

/* ---- On the caller's loop ----------------------------------------------------------------------
 */

static void cut_end(struct volume_cut *cut)
{
	cut->err = (struct err){0};
	for (uint32_t i = 0; i < cut->n; i++) {
		struct volume_cut_part *part = &cut->parts[i];

		part->err = part->op.err;
		part->sequence = part->op.sequence;
		if (cut->err.code == 0 && part->err.code)
			cut->err = part->err;
	}
	for (uint32_t i = 0; cut->err.code == 0 && i < cut->n; i++)
		if (cut->parts[i].lapsed)
			err_set(&cut->err, -ETIMEDOUT,
				"the volumes could not be held long enough for a snapshot of all "
				"at one point; try again");
	cut->done(cut);
}

/* All have their place, or at least one has none: nobody needs to be held any longer. */
static void cut_release(struct volume_cut *cut)
{
	cut->left = 0;
	for (uint32_t i = 0; i < cut->n; i++)
		cut->left += cut->parts[i].placed;
	if (cut->left == 0) {
		cut_end(cut);
		return;
	}
	for (uint32_t i = 0; i < cut->n; i++) {
		if (!cut->parts[i].placed)
			continue;
		cut->parts[i].msg.run = run_release;
		io_post(cut->parts[i].loop, &cut->parts[i].msg);
	}
}

static void run_back(struct io_msg *msg)
{
	struct volume_cut_part *part = container_of(msg, struct volume_cut_part, msg_back);
	struct volume_cut *cut = part->cut;

	if (--cut->left > 0)
		return;
	if (cut->releasing) {
		cut_end(cut);
		return;
	}
	cut->releasing = true;
	cut_release(cut);
}

void volume_cut(struct volume_cut *cut)
{
	CHECK(cut->n > 0);
	if (cut->hold_ns == 0)
		cut->hold_ns = HOLD;
	cut->left = cut->n;
	cut->releasing = false;
	for (uint32_t i = 0; i < cut->n; i++) {
		struct volume_cut_part *part = &cut->parts[i];

		part->cut = cut;
		part->placed = part->over = part->released = part->lapsed = false;
		part->msg.run = run_place;
		part->msg_back.run = run_back;
		io_post(part->loop, &part->msg);
	}
}
