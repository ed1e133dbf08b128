/* SPDX-License-Identifier: Apache-2.0
 *
 *     LIST -> WAIT_LIST -+-> CREATE -> WAIT_CREATE -+-> OPEN -> WAIT_OPEN -> OPENED
 *                        '--------------------------'
 *     CLOSE -> WAIT_CLOSE -> CLOSED
 *
 * Any error goes to OPENED, too, with err set.
 */
#include "volumed/volumes.h"

#include "base/check.h"
#include "base/log.h"

static void volumes_step(struct volumes *v);
static void volumes_on_list(struct volume_list *list);
static void volumes_on_create(struct volume_op *op);
static void served_open(struct io_msg *msg);
static void served_on_open(struct volume_op *op);
static void volumes_on_opened(struct io_msg *msg);
static void served_close(struct io_msg *msg);
static void served_on_close(struct volume_op *op);
static void volumes_on_closed(struct io_msg *msg);

static void volumes_enter(struct volumes *v, enum volumes_state state)
{
	v->state = state;
}

/* Runs `run` for each open volume, or for each that is not, on its home. */
static void send_home(struct volumes *v, bool open_ones, void (*run)(struct io_msg *msg))
{
	v->pending = 0;
	for (unsigned i = 0; i < v->n; i++) {
		struct served *s = &v->all[i];

		if ((s->volume != NULL) != open_ones)
			continue;
		v->pending++;
		s->msg.run = run;
		io_post(s->home->loop, &s->msg);
	}
}

static void make_first(struct volumes *v)
{
	uint8_t random[16];

	do {
		io_random(v->loop, random, sizeof(random));
		v->create.id = id_from_random(random);
	} while (id_is_zero(v->create.id));
	v->create.engine = v->homes[0].engine;
	v->create.size = v->first_size;
	v->create.done = volumes_on_create;
	volume_create(&v->create);
}

static void add(struct volumes *v, struct id id)
{
	struct served *s = &v->all[v->n];

	s->owner = v;
	s->id = id;
	s->home = &v->homes[v->n % v->n_homes];
	v->n++;
}

static void volumes_step(struct volumes *v)
{
	for (;;) {
		switch (v->state) {
		case VOLUMES_LIST:
			v->list.loop = v->loop;
			v->list.store = v->store;
			v->list.done = volumes_on_list;
			volumes_enter(v, VOLUMES_WAIT_LIST);
			volume_list_get(&v->list);
			return;
		case VOLUMES_WAIT_LIST:
			v->err = v->list.err;
			for (unsigned i = 0; i < v->list.n; i++)
				add(v, v->list.ids[i]);
			volumes_enter(v, v->err.code ? VOLUMES_OPENED
					 : v->n > 0  ? VOLUMES_OPEN
						     : VOLUMES_CREATE);
			continue;
		case VOLUMES_CREATE:
			volumes_enter(v, VOLUMES_WAIT_CREATE);
			make_first(v);
			return;
		case VOLUMES_WAIT_CREATE:
			v->err = v->create.err;
			if (v->err.code == 0)
				add(v, v->create.id);
			volumes_enter(v, v->err.code ? VOLUMES_OPENED : VOLUMES_OPEN);
			continue;
		case VOLUMES_OPEN:
			volumes_enter(v, VOLUMES_WAIT_OPEN);
			send_home(v, false, served_open);
			continue;
		case VOLUMES_CLOSE:
			volumes_enter(v, VOLUMES_WAIT_CLOSE);
			send_home(v, true, served_close);
			continue;
		case VOLUMES_WAIT_OPEN:
			if (v->pending > 0)
				return;
			volumes_enter(v, VOLUMES_OPENED);
			continue;
		case VOLUMES_WAIT_CLOSE:
			if (v->pending > 0)
				return;
			volumes_enter(v, VOLUMES_CLOSED);
			continue;
		case VOLUMES_OPENED:
		case VOLUMES_CLOSED:
			v->done(v);
			return;
		}
	}
}

void volumes_open(struct volumes *v)
{
	volumes_enter(v, VOLUMES_LIST);
	volumes_step(v);
}

static void volumes_on_list(struct volume_list *list)
{
	volumes_step(container_of(list, struct volumes, list));
}

static void volumes_on_create(struct volume_op *op)
{
	volumes_step(container_of(op, struct volumes, create));
}

/* ---- On the volume's own loop, and back -------------------------------------------------------
 */

static void served_open(struct io_msg *msg)
{
	struct served *s = container_of(msg, struct served, msg);

	s->op = (struct volume_op){
	    .engine = s->home->engine,
	    .id = s->id,
	    .done = served_on_open,
	};
	volume_open(&s->op);
}

static void served_on_open(struct volume_op *op)
{
	struct served *s = container_of(op, struct served, op);

	s->err = op->err;
	if (s->err.code == 0) {
		s->volume = op->volume;
		gate_init(&s->gate, volume_dev(s->volume), s->home->loop, 1);
	}
	s->msg.run = volumes_on_opened;
	io_post(s->owner->loop, &s->msg);
}

static void volumes_on_opened(struct io_msg *msg)
{
	struct served *s = container_of(msg, struct served, msg);
	char id[ID_TEXT_MAX];

	CHECK(s->owner->pending > 0);
	s->owner->pending--;
	if (s->volume)
		s->owner->n_open++;
	else
		log_error("volume %s is not served: %s", id_format(s->id, "vol", id), s->err.text);
	volumes_step(s->owner);
}

void volumes_close(struct volumes *v)
{
	v->err = (struct err){0};
	volumes_enter(v, VOLUMES_CLOSE);
	volumes_step(v);
}

static void served_close(struct io_msg *msg)
{
	struct served *s = container_of(msg, struct served, msg);

	s->op = (struct volume_op){
	    .engine = s->home->engine,
	    .id = s->id,
	    .volume = s->volume,
	    .done = served_on_close,
	};
	volume_close(&s->op);
}

static void served_on_close(struct volume_op *op)
{
	struct served *s = container_of(op, struct served, op);

	s->err = op->err;
	s->volume = NULL;
	s->msg.run = volumes_on_closed;
	io_post(s->owner->loop, &s->msg);
}

static void volumes_on_closed(struct io_msg *msg)
{
	struct served *s = container_of(msg, struct served, msg);
	struct volumes *v = s->owner;
	char id[ID_TEXT_MAX];

	CHECK(v->pending > 0);
	v->pending--;
	v->n_open--;
	if (s->err.code) {
		log_error("volume %s: closing it: %s", id_format(s->id, "vol", id), s->err.text);
		v->err = s->err;
	}
	volumes_step(v);
}
