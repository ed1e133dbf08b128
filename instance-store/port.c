/* SPDX-License-Identifier: Apache-2.0
 *
 * Disks that are served, and the `struct exports` that finds them by name.
 *
 * A port and its claims belong to the main loop, the gate and the holders to the disk's. Between
 * them go messages: a claim is freed only when its holder has let go and no message to it is under
 * way.
 */
#include "base/check.h"
#include "base/mem.h"
#include "base/size.h"
#include "instance-store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct claim {
	struct list node; /* port->claims */
	struct port *port;
	/* The holder's loop. */
	void (*leave)(void *holder, bool at_once);
	void *holder; /* NULL: it has let go */
	/* The main loop. */
	bool released;
	bool asking;
	struct io_msg ask_msg;
	struct io_msg release_msg;
};

static void resolve(struct exports *exports, struct export_op *op);
static void resolve_on_main(struct io_msg *msg);
static void answer_on_loop(struct io_msg *msg);
static void release(struct exports *exports, void *claim_handle);
static void release_on_main(struct io_msg *msg);
static void ask_on_loop(struct io_msg *msg);
static void ask_on_main(struct io_msg *msg);
static void close_on_loop(struct io_msg *msg);
static void port_on_drained(struct gate *gate);
static void close_on_main(struct io_msg *msg);
static unsigned list_names(struct exports *exports, bool local, unsigned first, unsigned max,
			   char names[][EXPORT_DESCRIPTION_MAX]);

int istore_ports_init(struct istore *s)
{
	s->exports = (struct exports){.resolve = resolve, .release = release, .list = list_names};
	list_init(&s->ports);
	return -pthread_mutex_init(&s->names_lock, NULL);
}

void istore_ports_destroy(struct istore *s)
{
	pthread_mutex_destroy(&s->names_lock);
}

const char *istore_export_name(struct id instance, uint32_t number, char text[ISTORE_EXPORT_MAX])
{
	char id[ID_TEXT_MAX];

	snprintf(text, ISTORE_EXPORT_MAX, "%s" ISTORE_EXPORT_MIDDLE "%u",
		 id_format(instance, ISTORE_INSTANCE, id), number);
	return text;
}

static const char *port_name(const struct port *p, char text[ISTORE_EXPORT_MAX])
{
	const struct istore_slot *slot = &p->store->slots[p->slot];

	return istore_export_name(slot->instance, slot->number, text);
}

/* ---- Life -------------------------------------------------------------------------- */

int istore_port_open(struct istore *s, unsigned slot, struct keep_item *item, struct err *err)
{
	struct port *p = mem_alloc(sizeof(*p));
	struct istore_disk_config config = {
	    .loop = s->config.loops[slot % s->config.n_loops],
	    .file = s->file,
	    .item = item,
	    .size = s->slots[slot].size,
	    .slice_size = s->super.slice_size,
	    .slices = istore_space_slices(&s->slots[slot], s->super.slice_size),
	};
	int r;

	if (!p || !config.slices) {
		mem_free(p);
		mem_free(config.slices);
		return err_set(err, -ENOMEM, "out of memory for a disk");
	}
	r = istore_disk_new(&config, &p->disk, err);
	if (r < 0) {
		mem_free(p);
		return r;
	}
	p->store = s;
	p->slot = slot;
	p->loop = config.loop;
	p->item = item;
	list_init(&p->claims);
	gate_init(&p->gate, istore_disk_dev(p->disk), p->loop, s->slots[slot].generation);
	pthread_mutex_lock(&s->names_lock);
	list_add_tail(&s->ports, &p->node);
	pthread_mutex_unlock(&s->names_lock);
	return 0;
}

struct port *istore_port_find(struct istore *s, unsigned slot)
{
	list_for_each (&s->ports, node) {
		struct port *p = list_entry(node, struct port, node);

		if (p->slot == slot)
			return p;
	}
	return NULL;
}

static void ask(struct claim *claim)
{
	claim->asking = true;
	claim->ask_msg.run = ask_on_loop;
	io_post(claim->port->loop, &claim->ask_msg);
}

void istore_port_fence(struct port *p)
{
	struct istore *s = p->store;

	if (p->state != PORT_OPEN)
		return;
	s->keep->ops->destroy_key(s->keep, p->item);
	pthread_mutex_lock(&s->names_lock);
	p->state = PORT_CLOSING;
	pthread_mutex_unlock(&s->names_lock);
	p->msg.run = close_on_loop;
	io_post(p->loop, &p->msg);
	list_for_each (&p->claims, node)
		ask(list_entry(node, struct claim, node));
}

static void close_on_loop(struct io_msg *msg)
{
	struct port *p = container_of(msg, struct port, msg);

	gate_close(&p->gate, port_on_drained);
}

static void port_on_drained(struct gate *gate)
{
	struct port *p = container_of(gate, struct port, gate);

	p->msg.run = close_on_main;
	io_post(p->store->loop, &p->msg);
}

static void close_on_main(struct io_msg *msg)
{
	struct port *p = container_of(msg, struct port, msg);

	p->state = PORT_CLOSED;
	istore_on_port(p->store);
}

static void drop(struct port *p)
{
	struct istore *s = p->store;

	istore_disk_free(p->disk);
	s->keep->ops->close(s->keep, p->item);
	mem_free(p);
}

static void unlist(struct port *p)
{
	pthread_mutex_lock(&p->store->names_lock);
	list_remove(&p->node);
	pthread_mutex_unlock(&p->store->names_lock);
}

void istore_port_retire(struct port *p)
{
	CHECK(p->state == PORT_CLOSED);
	unlist(p);
	p->retired = true;
	if (p->n_claims == 0)
		drop(p);
}

void istore_port_free(struct port *p)
{
	CHECK(p->n_claims == 0);
	unlist(p);
	drop(p);
}

struct exports *istore_exports(struct istore *s)
{
	return &s->exports;
}

/* ---- Names ------------------------------------------------------------------------- */

static unsigned list_names(struct exports *exports, bool local, unsigned first, unsigned max,
			   char names[][EXPORT_DESCRIPTION_MAX])
{
	struct istore *s = container_of(exports, struct istore, exports);
	char text[ISTORE_EXPORT_MAX];
	unsigned n = 0, i = 0;

	if (!local)
		return 0;
	pthread_mutex_lock(&s->names_lock);
	list_for_each (&s->ports, node) {
		const struct port *p = list_entry(node, struct port, node);

		if (p->state == PORT_OPEN && n < max && i++ >= first)
			snprintf(names[n++], EXPORT_DESCRIPTION_MAX, "%s", port_name(p, text));
	}
	pthread_mutex_unlock(&s->names_lock);
	return n;
}

static struct port *find_by_name(struct istore *s, const char *name)
{
	char text[ISTORE_EXPORT_MAX];

	list_for_each (&s->ports, node) {
		struct port *p = list_entry(node, struct port, node);

		if (p->state == PORT_OPEN && strcmp(port_name(p, text), name) == 0)
			return p;
	}
	return NULL;
}

/* ---- Resolving --------------------------------------------------------------------- */

static void resolve(struct exports *exports, struct export_op *op)
{
	struct istore *s = container_of(exports, struct istore, exports);

	op->private = s;
	op->msg.run = resolve_on_main;
	io_post(s->loop, &op->msg);
}

static int make_claim(struct export_op *op, struct port *p)
{
	struct claim *claim = mem_alloc(sizeof(*claim));

	if (!claim)
		return -ENOMEM;
	claim->port = p;
	claim->leave = op->leave;
	claim->holder = op->holder;
	list_add_tail(&p->claims, &claim->node);
	p->n_claims++;
	p->store->n_claims++;
	op->claim_handle = claim;
	return 0;
}

static void describe(struct port *p, struct export_info *info)
{
	char name[ISTORE_EXPORT_MAX];
	char size[SIZE_TEXT_MAX];

	info->dev = &p->gate.dev;
	info->loop = p->loop;
	info->size = block_size(info->dev);
	info->read_only = false;
	info->multi_conn = true;
	snprintf(info->name, sizeof(info->name), "%s", port_name(p, name));
	snprintf(info->description, sizeof(info->description), "instance store disk of %s",
		 size_format(info->size, size));
}

static void resolve_on_main(struct io_msg *msg)
{
	struct export_op *op = container_of(msg, struct export_op, msg);
	struct istore *s = op->private;
	struct port *p = op->local ? find_by_name(s, op->name) : NULL;

	op->error = s->closing ? -ESHUTDOWN : p ? 0 : -ENOENT;
	if (op->error == 0)
		describe(p, &op->info);
	if (op->error == 0 && op->claim)
		op->error = make_claim(op, p);
	op->msg.run = answer_on_loop;
	io_post(op->loop, &op->msg);
}

static void answer_on_loop(struct io_msg *msg)
{
	struct export_op *op = container_of(msg, struct export_op, msg);

	op->done(op);
}

/* ---- Claims ------------------------------------------------------------------------ */

static void ask_on_loop(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, ask_msg);

	if (claim->holder && claim->leave)
		claim->leave(claim->holder, true);
	claim->ask_msg.run = ask_on_main;
	io_post(claim->port->store->loop, &claim->ask_msg);
}

static void claim_free_if_over(struct claim *claim)
{
	struct port *p = claim->port;
	struct istore *s = p->store;

	if (!claim->released || claim->asking)
		return;
	list_remove(&claim->node);
	mem_free(claim);
	p->n_claims--;
	s->n_claims--;
	if (p->retired && p->n_claims == 0)
		drop(p);
	if (s->closing)
		istore_on_paused(s);
}

static void ask_on_main(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, ask_msg);

	claim->asking = false;
	claim_free_if_over(claim);
}

/* On the disk's loop. */
static void release(struct exports *exports, void *claim_handle)
{
	struct istore *s = container_of(exports, struct istore, exports);
	struct claim *claim = claim_handle;

	claim->holder = NULL;
	claim->release_msg.run = release_on_main;
	io_post(s->loop, &claim->release_msg);
}

static void release_on_main(struct io_msg *msg)
{
	struct claim *claim = container_of(msg, struct claim, release_msg);

	claim->released = true;
	claim_free_if_over(claim);
}
