/* SPDX-License-Identifier: Apache-2.0
 *
 * Ports, and the `struct exports` that finds them by name.
 *
 * A port and its claims belong to control's loop; the gate and the holders to the loop of the
 * volume's home. Between them go messages: a claim is freed only when its holder has let go of it
 * and no message to the holder is under way.
 */
#include "base/check.h"
#include "base/mem.h"
#include "base/size.h"
#include "control/internal.h"
#include "control/snapdev.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct claim {
	struct export_claim base; /* first */
	struct list node;         /* port->claims */
	struct port *port;
	/* The holder's loop. */
	void (*leave)(void *holder, bool at_once);
	void *holder; /* NULL: it has let go */
	/* Control's loop. */
	bool released;
	bool asking;    /* ask_msg is under way */
	bool at_once;   /* what it is asked, */
	bool ask_again; /* and then this */
	struct io_msg ask_msg;
	struct io_msg release_msg;
};

/* What exports.list shows: the volumes of this machine's own instance. */
struct export_names {
	pthread_mutex_t lock;
	unsigned n;
	unsigned room;
	struct id *ids;
};

static void resolve(struct exports *exports, struct export_op *op);
static void resolve_on_control(struct io_msg *msg);
static void answer(struct export_op *op, struct port *p, int error);
static void answer_on_loop(struct io_msg *msg);
static void release(struct exports *exports, void *claim_handle);
static void release_port(struct control *c, struct export_claim *base);
static void release_on_control(struct io_msg *msg);
static void ask_on_home(struct io_msg *msg);
static void ask_on_return(struct io_msg *msg);
static void close_on_home(struct io_msg *msg);
static void port_on_drained(struct gate *gate);
static void close_on_return(struct io_msg *msg);
static unsigned list_names(struct exports *exports, bool local, unsigned first, unsigned max,
			   char names[][EXPORT_DESCRIPTION_MAX]);

/* ---- Names that peers may see ------------------------------------------------------ */

int exports_init(struct control *c)
{
	c->exports = (struct exports){.resolve = resolve, .release = release, .list = list_names};
	list_init(&c->ports);
	list_init(&c->snapdevs);
	c->names = mem_alloc(sizeof(*c->names));
	return c->names && pthread_mutex_init(&c->names->lock, NULL) == 0 ? 0 : -ENOMEM;
}

void exports_free(struct control *c)
{
	if (!c->names)
		return;
	pthread_mutex_destroy(&c->names->lock);
	mem_free(c->names->ids);
	mem_free(c->names);
}

static void names_add(struct control *c, struct id volume)
{
	struct export_names *names = c->names;

	pthread_mutex_lock(&names->lock);
	if (names->n == names->room) {
		unsigned room = names->room ? 2 * names->room : 64;
		struct id *wider = mem_realloc(names->ids, room * sizeof(*wider));

		if (wider) {
			names->ids = wider;
			names->room = room;
		}
	}
	if (names->n < names->room) /* without memory it is served, and not listed */
		names->ids[names->n++] = volume;
	pthread_mutex_unlock(&names->lock);
}

static void names_remove(struct control *c, struct id volume)
{
	struct export_names *names = c->names;

	pthread_mutex_lock(&names->lock);
	for (unsigned i = 0; i < names->n; i++) {
		if (id_equal(names->ids[i], volume)) {
			names->ids[i] = names->ids[--names->n];
			break;
		}
	}
	pthread_mutex_unlock(&names->lock);
}

static unsigned list_names(struct exports *exports, bool local, unsigned first, unsigned max,
			   char out[][EXPORT_DESCRIPTION_MAX])
{
	struct control *c = container_of(exports, struct control, exports);
	unsigned n = 0;
	char id[ID_TEXT_MAX];

	if (!local)
		return 0;
	pthread_mutex_lock(&c->names->lock);
	for (; n < max && first + n < c->names->n; n++)
		snprintf(out[n], EXPORT_DESCRIPTION_MAX, "%s",
			 id_format(c->names->ids[first + n], CATALOG_VOLUME_PREFIX, id));
	pthread_mutex_unlock(&c->names->lock);
	return n;
}

/* ---- Life of a port ---------------------------------------------------------------- */

static bool is_own(const struct port *p)
{
	return id_equal(p->instance, p->control->own_instance);
}

struct port *port_new(struct control *c, const struct catalog_attachment *a)
{
	struct port *p = mem_alloc(sizeof(*p));

	if (!p)
		return NULL;
	p->control = c;
	p->state = PORT_OPENING;
	p->volume = a->volume;
	p->instance = a->instance;
	p->generation = a->generation;
	memcpy(p->export_name, a->export_name, sizeof(p->export_name));
	list_init(&p->claims);
	list_add_tail(&c->ports, &p->node);
	return p;
}

static void answer_waiting(struct port *p, int error)
{
	struct export_op *op = p->resolvers;

	p->resolvers = NULL;
	while (op) {
		struct export_op *next = op->private;

		answer(op, p, error);
		op = next;
	}
}

void port_open(struct port *p, struct disk *d)
{
	CHECK(p->state == PORT_OPENING);
	p->home = d->home;
	gate_init(&p->gate, volume_dev(d->volume), d->home->loop, p->generation);
	p->state = PORT_OPEN;
	if (is_own(p))
		names_add(p->control, p->volume);
	answer_waiting(p, 0);
}

void port_abandon(struct port *p, int error)
{
	CHECK(p->state == PORT_OPENING);
	answer_waiting(p, error);
	list_remove(&p->node);
	mem_free(p);
}

/* From here on it has no name. */
static void unpublish(struct port *p)
{
	if (p->state != PORT_OPEN)
		return;
	p->state = PORT_CLOSING;
	list_remove(&p->node);
	if (is_own(p))
		names_remove(p->control, p->volume);
}

static void ask(struct claim *claim, bool at_once)
{
	if (claim->asking) {
		claim->ask_again |= at_once && !claim->at_once;
		return;
	}
	claim->asking = true;
	claim->at_once = at_once;
	claim->ask_msg.run = ask_on_home;
	io_post(claim->port->home->loop, &claim->ask_msg);
}

void port_ask_to_leave(struct port *p, bool at_once)
{
	unpublish(p);
	list_for_each (&p->claims, node)
		ask(list_entry(node, struct claim, node), at_once);
}

void port_close(struct port *p)
{
	unpublish(p);
	CHECK(p->state == PORT_CLOSING);
	p->msg.run = close_on_home;
	io_post(p->home->loop, &p->msg);
}

static void close_on_home(struct io_msg *msg)
{
	struct port *p = container_of(msg, struct port, msg);

	gate_close(&p->gate, port_on_drained);
}

static void port_on_drained(struct gate *gate)
{
	struct port *p = container_of(gate, struct port, gate);

	p->msg.run = close_on_return;
	io_post(p->control->loop, &p->msg);
}

static void close_on_return(struct io_msg *msg)
{
	struct port *p = container_of(msg, struct port, msg);

	p->state = PORT_CLOSED;
	if (p->closer)
		p->closer->step(p->closer);
}

void port_retire(struct port *p)
{
	if (!p)
		return;
	CHECK(p->state == PORT_CLOSED);
	p->closer = NULL;
	if (p->n_claims == 0)
		mem_free(p); /* else the last claim does */
}

/* ---- Resolving --------------------------------------------------------------------- */

static void resolve(struct exports *exports, struct export_op *op)
{
	struct control *c = container_of(exports, struct control, exports);

	op->private = c;
	op->msg.run = resolve_on_control;
	io_post(c->loop, &op->msg);
}

/* Takes as long for a wrong name as for a right one. */
static bool is_secret(const struct port *p, const char *name)
{
	size_t n = strlen(p->export_name);
	unsigned char differs = strlen(name) != n;

	for (size_t i = 0; i < n && name[i]; i++)
		differs |= (unsigned char)(p->export_name[i] ^ name[i]);
	return !differs;
}

static struct port *find_by_secret(struct control *c, const char *name)
{
	struct port *found = NULL;

	list_for_each (&c->ports, node) {
		struct port *p = list_entry(node, struct port, node);

		if (is_secret(p, name))
			found = p;
	}
	return found;
}

/* The one attachment of this machine's own instance. */
static struct port *find_default(struct control *c)
{
	struct port *found = NULL;

	list_for_each (&c->ports, node) {
		struct port *p = list_entry(node, struct port, node);

		if (!is_own(p))
			continue;
		if (found)
			return NULL;
		found = p;
	}
	return found;
}

static struct port *find_port(struct control *c, const struct export_op *op)
{
	struct port *p = op->name[0] ? find_by_secret(c, op->name) : NULL;
	struct id id;

	if (p)
		return p;
	/* The default export is also for TCP, which is loopback unless somebody took the risk on
	 * himself. */
	if (op->name[0] == '\0')
		return find_default(c);
	if (!op->local)
		return NULL;
	if (id_parse(op->name, CATALOG_VOLUME_PREFIX, &id) < 0)
		return NULL;
	list_for_each (&c->ports, node) {
		p = list_entry(node, struct port, node);
		if (id_equal(p->volume, id) && is_own(p))
			return p;
	}
	return NULL;
}

static void resolve_on_control(struct io_msg *msg)
{
	struct export_op *op = container_of(msg, struct export_op, msg);
	struct control *c = op->private;
	struct port *p = find_port(c, op);

	if (c->stopping)
		answer(op, NULL, -ESHUTDOWN);
	else if (!p && snapdev_resolve(c, op))
		return;
	else if (!p)
		answer(op, NULL, -ENOENT);
	else if (p->state == PORT_OPEN)
		answer(op, p, 0);
	else {
		op->private = p->resolvers;
		p->resolvers = op;
	}
}

static int make_claim(struct export_op *op, struct port *p)
{
	struct claim *claim = mem_alloc(sizeof(*claim));

	if (!claim)
		return -ENOMEM;
	claim->base.release = release_port;
	claim->port = p;
	claim->leave = op->leave;
	claim->holder = op->holder;
	list_add_tail(&p->claims, &claim->node);
	p->n_claims++;
	op->claim_handle = claim;
	return 0;
}

static void describe(const struct export_op *op, const struct port *p, struct export_info *info)
{
	char size[SIZE_TEXT_MAX];
	char id[ID_TEXT_MAX];

	id_format(p->volume, CATALOG_VOLUME_PREFIX, id);
	info->dev = (struct block_dev *)(uintptr_t)&p->gate.dev;
	info->loop = p->home->loop;
	info->size = block_size(info->dev);
	info->read_only = info->dev->flags & BLOCK_DEV_READ_ONLY;
	info->multi_conn = true;
	snprintf(info->name, sizeof(info->name), "%s", op->name[0] ? op->name : id);
	snprintf(info->description, sizeof(info->description), "%s of %s", id,
		 size_format(info->size, size));
}

static void answer(struct export_op *op, struct port *p, int error)
{
	if (error == 0)
		describe(op, p, &op->info);
	if (error == 0 && op->claim)
		error = make_claim(op, p);
	op->error = error;
	op->msg.run = answer_on_loop;
	io_post(op->loop, &op->msg);
}

static void answer_on_loop(struct io_msg *msg)
{
	struct export_op *op = container_of(msg, struct export_op, msg);

	op->done(op);
}

/* ---- Claims ------------------------------------------------------------------------ */

static void ask_on_home(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, ask_msg);

	if (claim->holder && claim->leave)
		claim->leave(claim->holder, claim->at_once);
	claim->ask_msg.run = ask_on_return;
	io_post(claim->port->control->loop, &claim->ask_msg);
}

static void claim_free_if_over(struct claim *claim)
{
	struct port *p = claim->port;

	if (!claim->released || claim->asking)
		return;
	list_remove(&claim->node);
	mem_free(claim);
	p->n_claims--;
	if (p->closer)
		p->closer->step(p->closer);
	else if (p->n_claims == 0 && p->state == PORT_CLOSED)
		mem_free(p);
}

static void ask_on_return(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, ask_msg);
	bool again = claim->ask_again && !claim->released;

	claim->asking = false;
	claim->ask_again = false;
	if (again)
		ask(claim, true);
	else
		claim_free_if_over(claim);
}

/* On the loop of the volume's home. */
static void release(struct exports *exports, void *claim_handle)
{
	struct control *c = container_of(exports, struct control, exports);
	struct export_claim *base = claim_handle;

	base->release(c, base);
}

static void release_port(struct control *c, struct export_claim *base)
{
	struct claim *claim = container_of(base, struct claim, base);

	claim->holder = NULL;
	claim->release_msg.run = release_on_control;
	io_post(c->loop, &claim->release_msg);
}

static void release_on_control(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, release_msg);

	claim->released = true;
	claim_free_if_over(claim);
}
