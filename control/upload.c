/* SPDX-License-Identifier: Apache-2.0
 *
 *     VIEWS (until all are open) -> WAIT_WRITER -> COPY -> SEAL -> WAIT_SEAL -> END
 *                                                    '-> ABORT -> WAIT_ABORT -> END
 *
 * COPY: the scan finds the next unit that changed, a free slot reads it and gives it to the writer.
 */
#include "control/upload.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum upload_state {
	UPLOAD_VIEWS,
	UPLOAD_WAIT_VIEW,
	UPLOAD_WRITER,
	UPLOAD_WAIT_WRITER,
	UPLOAD_COPY,
	UPLOAD_WAIT_SEAL,
	UPLOAD_WAIT_ABORT,
	UPLOAD_END,
};

static void upload_step(struct upload *u);
static void upload_on_home(struct io_msg *msg);
static void upload_on_stop(struct io_msg *msg);
static void upload_on_return(struct io_msg *msg);
static void upload_on_view(struct volume_op *op);
static void upload_on_writer(struct snap_writer_op *op);
static void upload_on_scan(struct volume_view_req *req);
static void upload_on_timer(struct io_op *op);
static void slot_on_read(struct volume_view_req *req);
static void slot_on_put(struct snap_put *put);

void upload_begin(struct upload *u)
{
	u->units = round_up(u->config.size, VOLUME_UNIT) / VOLUME_UNIT;
	u->state = UPLOAD_VIEWS;
	u->msg.run = upload_on_home;
	io_post(u->home->loop, &u->msg);
}

void upload_stop(struct upload *u)
{
	if (u->stop_posted)
		return;
	u->stop_posted = true;
	u->stop_msg.run = upload_on_stop;
	io_post(u->home->loop, &u->stop_msg);
}

static void upload_on_home(struct io_msg *msg)
{
	upload_step(container_of(msg, struct upload, msg));
}

static void upload_on_stop(struct io_msg *msg)
{
	struct upload *u = container_of(msg, struct upload, stop_msg);

	u->stopping = true;
	if (u->timer_runs)
		io_timer_cancel(u->home->loop, &u->timer);
	if (u->state == UPLOAD_COPY)
		upload_step(u);
}

/* The first end counts. */
static void set_end(struct upload *u, enum upload_end end, int error, const char *text)
{
	if (u->err.code)
		return;
	u->end = end;
	err_set(&u->err, error, "%s", text);
}

/* ---- Beginning ------------------------------------------------------------------------------- */

static void open_view(struct upload *u)
{
	u->state = UPLOAD_WAIT_VIEW;
	u->op = (struct volume_op){
	    .engine = u->home->engine,
	    .volume = u->volume,
	    .snapshot = u->config.id,
	    .done = upload_on_view,
	};
	volume_view_open(&u->op);
}

static void upload_on_view(struct volume_op *op)
{
	struct upload *u = container_of(op, struct upload, op);
	struct upload_slot *slot = u->n_views ? &u->slots[u->n_views - 1] : NULL;

	u->state = UPLOAD_VIEWS;
	if (op->err.code) {
		set_end(u, op->err.code == -ENOMEM ? UPLOAD_STOPPED : UPLOAD_FAILED, op->err.code,
			op->err.text);
		u->state = UPLOAD_END;
	} else if (!slot) {
		u->scan_view = op->view;
		u->n_views++;
	} else {
		slot->upload = u;
		slot->view = op->view;
		slot->buf = mem_alloc_pages(VOLUME_UNIT);
		u->n_views++;
		if (!slot->buf) {
			set_end(u, UPLOAD_STOPPED, -ENOMEM, "out of memory");
			u->state = UPLOAD_END;
		}
	}
	if (u->state == UPLOAD_VIEWS && u->n_views == 1 + UPLOAD_SLOTS)
		u->state = UPLOAD_WRITER;
	upload_step(u);
}

static void start_writer(struct upload *u)
{
	u->state = UPLOAD_WAIT_WRITER;
	u->writer_op = (struct snap_writer_op){.done = upload_on_writer};
	snap_writer_start(u->control->config.repository, u->home->loop, &u->config, &u->writer_op);
}

/* What passes by itself, or by making room, is tried again. */
static enum upload_end end_of(int error)
{
	return error == -ESTALE || error == -EINVAL ? UPLOAD_FAILED : UPLOAD_STOPPED;
}

static void started(struct upload *u)
{
	int r = u->writer_op.error;

	u->state = UPLOAD_COPY;
	if (r == 0) {
		u->writer = u->writer_op.writer;
		return;
	}
	u->state = UPLOAD_END;
	u->sealed_before = r == -EEXIST;
	u->parent_gone =
	    !id_is_zero(u->config.parent) && (r == -ENOENT || r == -EAGAIN || r == -EINVAL);
	if (u->sealed_before)
		u->end = UPLOAD_SEALED;
	else
		set_end(u, u->parent_gone ? UPLOAD_STOPPED : end_of(r), r, u->writer_op.err.text);
}

static void upload_on_writer(struct snap_writer_op *op)
{
	upload_step(container_of(op, struct upload, writer_op));
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static void scan_on(struct upload *u)
{
	u->scanning = true;
	u->scan = (struct volume_view_req){
	    .view = u->scan_view,
	    .done = upload_on_scan,
	    .since = u->since,
	    .all = u->all,
	    .unit = u->next,
	};
	if (u->next * VOLUME_UNIT < u->every) {
		/* The base's blocks are in no map: each is looked at. */
		u->scanning = false;
		u->found = true;
		return;
	}
	volume_view_next(&u->scan);
}

static void upload_on_scan(struct volume_view_req *req)
{
	struct upload *u = container_of(req, struct upload, scan);

	u->scanning = false;
	if (req->error == -ENOENT)
		u->scanned = true;
	else if (req->error)
		set_end(u, UPLOAD_FAILED, req->error, "the map of its blocks is damaged");
	else
		u->found = true;
	upload_step(u);
}

static struct upload_slot *free_slot(struct upload *u)
{
	for (unsigned i = 0; i < UPLOAD_SLOTS; i++)
		if (!u->slots[i].busy)
			return &u->slots[i];
	return NULL;
}

static bool is_busy(const struct upload *u)
{
	for (unsigned i = 0; i < UPLOAD_SLOTS; i++)
		if (u->slots[i].busy)
			return true;
	return u->scanning || u->timer_runs;
}

/* True: not yet. */
static bool wait_for_rate(struct upload *u)
{
	uint64_t now = io_now(u->home->loop);

	if (u->timer_runs)
		return true;
	if (u->bytes_per_second == 0)
		return false;
	if (u->due > now) {
		u->timer_runs = true;
		u->timer.done = upload_on_timer;
		io_timer(u->home->loop, &u->timer, u->due - now);
		return true;
	}
	/* What was not used for a while is lost, but for a tenth of a second. */
	u->due = max_u64(u->due, now > NSEC_PER_SEC / 10 ? now - NSEC_PER_SEC / 10 : 0);
	u->due += VOLUME_UNIT * NSEC_PER_SEC / u->bytes_per_second;
	return false;
}

static void upload_on_timer(struct io_op *op)
{
	struct upload *u = container_of(op, struct upload, timer);

	u->timer_runs = false;
	upload_step(u);
}

static void read_unit(struct upload *u, struct upload_slot *slot)
{
	slot->busy = true;
	slot->req = (struct volume_view_req){
	    .view = slot->view,
	    .done = slot_on_read,
	    .unit = u->scan.unit,
	    .buf = slot->buf,
	};
	u->found = false;
	u->next = u->scan.unit + 1;
	__atomic_store_n(&u->units_done, u->scan.unit, __ATOMIC_RELAXED);
	u->scanned = u->next >= u->units;
	volume_view_read(&slot->req);
}

/* True: a block of it is lost. */
static bool has_bad_block(struct upload *u, const struct volume_view_req *req, bool *ret_zero)
{
	char text[ERR_TEXT_MAX];

	*ret_zero = true;
	for (unsigned i = 0; i < VOLUME_UNIT_BLOCKS; i++) {
		*ret_zero &= req->states[i] == VOLUME_BLOCK_ZERO;
		if (req->states[i] != VOLUME_BLOCK_BAD && !req->error)
			continue;
		snprintf(text, sizeof(text),
			 "block %llu of the volume can't be read, so the snapshot would not be "
			 "whole: write the block anew, then take another",
			 (unsigned long long)(req->unit * VOLUME_UNIT_BLOCKS + i));
		set_end(u, UPLOAD_FAILED, -EIO, text);
		return true;
	}
	return false;
}

static void slot_on_read(struct volume_view_req *req)
{
	struct upload_slot *slot = container_of(req, struct upload_slot, req);
	struct upload *u = slot->upload;
	bool zero;

	if (u->err.code || has_bad_block(u, req, &zero)) {
		slot->busy = false;
		upload_step(u);
		return;
	}
	slot->put = (struct snap_put){.done = slot_on_put, .block = req->unit, .buf = slot->buf};
	if (zero)
		snap_writer_drop(u->writer, &slot->put);
	else
		snap_writer_put(u->writer, &slot->put);
}

static void slot_on_put(struct snap_put *put)
{
	struct upload_slot *slot = container_of(put, struct upload_slot, put);
	struct upload *u = slot->upload;

	slot->busy = false;
	if (put->error)
		set_end(u, end_of(put->error), put->error, strerror(-put->error));
	upload_step(u);
}

/* True: asleep. */
static bool copy(struct upload *u)
{
	struct upload_slot *slot;

	while (!u->err.code && !u->stopping && !u->scanned) {
		slot = free_slot(u);
		if (!u->found && !u->scanning) {
			u->scan.unit = u->next;
			scan_on(u);
			continue;
		}
		if (!u->found || !slot || wait_for_rate(u))
			return true;
		read_unit(u, slot);
	}
	return is_busy(u);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void end_writer(struct upload *u)
{
	u->writer_op = (struct snap_writer_op){.done = upload_on_writer, .info = u->info};
	if (u->stopping)
		set_end(u, UPLOAD_STOPPED, -ECANCELED, "it was stopped");
	if (u->err.code) {
		u->state = UPLOAD_WAIT_ABORT;
		snap_writer_abort(u->writer, u->end == UPLOAD_STOPPED, &u->writer_op);
		return;
	}
	u->state = UPLOAD_WAIT_SEAL;
	snap_writer_seal(u->writer, &u->writer_op);
}

static void upload_finish(struct upload *u)
{
	if (u->scan_view)
		volume_view_close(u->scan_view);
	for (unsigned i = 0; i < UPLOAD_SLOTS; i++) {
		if (u->slots[i].view)
			volume_view_close(u->slots[i].view);
		mem_free_pages(u->slots[i].buf, VOLUME_UNIT);
	}
	u->msg.run = upload_on_return;
	io_post(u->control->loop, &u->msg);
}

static void upload_on_return(struct io_msg *msg)
{
	struct upload *u = container_of(msg, struct upload, msg);

	u->done(u);
}

static void upload_step(struct upload *u)
{
	for (;;) {
		switch ((enum upload_state)u->state) {
		case UPLOAD_VIEWS:
			open_view(u);
			return;
		case UPLOAD_WAIT_VIEW:
			return;
		case UPLOAD_WRITER:
			start_writer(u);
			return;
		case UPLOAD_WAIT_WRITER:
			started(u);
			continue;
		case UPLOAD_COPY:
			if (copy(u))
				return;
			end_writer(u);
			return;
		case UPLOAD_WAIT_SEAL:
			if (u->writer_op.error)
				set_end(u, end_of(u->writer_op.error), u->writer_op.error,
					u->writer_op.err.text);
			else
				u->end = UPLOAD_SEALED;
			u->state = UPLOAD_END;
			continue;
		case UPLOAD_WAIT_ABORT:
			u->state = UPLOAD_END;
			continue;
		case UPLOAD_END:
			upload_finish(u);
			return;
		}
	}
}
