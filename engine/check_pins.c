/* SPDX-License-Identifier: Apache-2.0
 *
 * The last part of the full walk: what pinned roots refer to, by views. Blocks of a base are the
 * repository's to check.
 */
#include "engine/volume.h"

#include "base/check.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

struct pins {
	struct volume_op *op; /* volume_check */
	struct volume_pin pins[VOLUME_PINS];
	unsigned n;
	unsigned at;
	bool reading; /* the unit that was found */
	struct volume_op view;
	struct volume_view_req req;
};

static void pins_next(struct pins *p);

static void pins_say(struct pins *p, const char *what, uint64_t number)
{
	char id[ID_TEXT_MAX];
	char text[200];

	p->op->n_wrong++;
	if (!p->op->say)
		return;
	snprintf(text, sizeof(text), "pending snapshot %s: %s %" PRIu64,
		 id_format(p->pins[p->at].snapshot, "snap", id), what, number);
	p->op->say(p->op->arg, text);
}

static void read_done(struct pins *p)
{
	for (uint32_t i = 0; i < VOLUME_UNIT_BLOCKS; i++)
		if (p->req.states[i] == VOLUME_BLOCK_BAD)
			pins_say(p, "it has lost block", p->req.unit * VOLUME_UNIT_BLOCKS + i);
	p->req.unit++;
}

static void on_req(struct volume_view_req *req)
{
	struct pins *p = container_of(req, struct pins, req);

	if (check_is_stopped(p->op)) {
		err_set(&p->op->err, -ECANCELED, "its check was stopped");
		volume_view_close(req->view);
		p->at = p->n;
		pins_next(p);
		return;
	}
	if (p->reading) {
		read_done(p);
	} else if (req->error == -ENOENT) {
		volume_view_close(req->view);
		p->at++;
		pins_next(p);
		return;
	}
	/* What can't be found is read all the same, and is lost then. */
	p->reading = !p->reading;
	if (p->reading)
		volume_view_read(req);
	else
		volume_view_next(req);
}

static void on_view(struct volume_op *op)
{
	struct pins *p = container_of(op, struct pins, view);

	if (op->err.code) {
		pins_say(p, "its root can't be read, of sequence", p->pins[p->at].sequence);
		p->at++;
		pins_next(p);
		return;
	}
	p->reading = false;
	p->req.view = op->view;
	p->req.unit = 0;
	volume_view_next(&p->req);
}

static void pins_next(struct pins *p)
{
	struct volume_op *op = p->op;

	while (p->at < p->n && !p->pins[p->at].ready)
		p->at++;
	if (p->at == p->n) {
		mem_free_pages(p->req.buf, VOLUME_UNIT);
		mem_free(p);
		op->done(op);
		return;
	}
	p->view = (struct volume_op){
	    .volume = op->volume, .snapshot = p->pins[p->at].snapshot, .done = on_view};
	volume_view_open(&p->view);
}

void check_pins(struct volume_op *op)
{
	struct pins *p = mem_alloc(sizeof(*p));

	CHECK(p);
	p->op = op;
	p->n = volume_pins(op->volume, p->pins);
	p->req = (struct volume_view_req){.done = on_req,
					  .all = true,
					  .skip_base = true,
					  .buf = p->n ? mem_alloc_pages(VOLUME_UNIT) : NULL};
	CHECK(p->n == 0 || p->req.buf);
	pins_next(p);
}
