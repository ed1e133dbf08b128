/* SPDX-License-Identifier: Apache-2.0
 *
 * Volumes whose I/O with the disk below does not complete: what is said of them, and who need not
 * wait for it. The engine tells on the volume's loop; a message brings it here.
 */
#include "base/mem.h"
#include "control/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

static void stall_on_change(struct volume_stall *stall);
static void stall_on_control(struct io_msg *msg);

void stall_init(struct disk *d)
{
	d->stall.changed = stall_on_change;
}

/* ---- What is said ------------------------------------------------------------------ */

bool stall_look(const struct disk *d, struct stall *ret)
{
	enum volume_io kind;
	uint64_t age;

	if (!volume_stall_now(&d->stall, io_now(d->control->loop), &kind, &age))
		return false;
	ret->io = volume_io_name(kind);
	ret->ns = age;
	snprintf(ret->text, sizeof(ret->text), "I/O to %s has not completed for %" PRIu64 " s: %s",
		 volume_io_with(kind), age / NSEC_PER_SEC, ret->io);
	return true;
}

unsigned control_stalled(const struct control *c, char ret_text[CONTROL_STALL_TEXT])
{
	unsigned n = 0;

	for (unsigned i = 0; i < DISK_BUCKETS; i++)
		list_for_each (&c->disks[i], node) {
			const struct disk *d = list_entry(node, struct disk, node);
			struct stall stall;
			char id[ID_TEXT_MAX];

			if (stall_look(d, &stall) && n++ == 0)
				snprintf(ret_text, CONTROL_STALL_TEXT, "%s: %s",
					 id_format(d->id, CATALOG_VOLUME_PREFIX, id), stall.text);
		}
	return n;
}

void stall_describe(struct control *c, struct arena *memory, struct control_volume *v)
{
	struct disk *d;
	struct stall stall;
	struct id id;

	if (id_parse(v->id, CATALOG_VOLUME_PREFIX, &id) < 0)
		return;
	d = disk_find(c, id);
	if (!d)
		return;
	if (d->volume)
		v->io_performance = "normal";
	if (!stall_look(d, &stall))
		return;
	v->io_performance = "stalled";
	v->stalled_io = stall.io;
	v->stalled_ns = stall.ns;
	v->stalled_text = arena_text(memory, stall.text);
}

/* ---- Who need not wait ------------------------------------------------------------- */

/* Nothing was done for it yet. */
static bool may_be_refused(const struct task *t)
{
	return t->op && t->state == 0 && !t->private;
}

bool stall_refuses(struct task *t)
{
	struct stall stall;
	char id[ID_TEXT_MAX];

	if (!may_be_refused(t) || !stall_look(t->disk, &stall))
		return false;
	control_fail(&t->error, "IncorrectState", -EBUSY,
		     "Volume '%s' is busy: another operation on it waits, since %s; try again when "
		     "that is over",
		     id_format(t->disk->id, CATALOG_VOLUME_PREFIX, id), stall.text);
	return true;
}

static void refuse_waiting(struct disk *d)
{
	list_for_each_safe (&d->waiting, node) {
		struct task *t = list_entry(node, struct task, node);

		if (!stall_refuses(t))
			continue;
		list_remove(&t->node);
		task_end(t);
	}
}

/* Nothing of the disk is gone: who closes the volume hears of that by a later message from the same
 * loop. */
static void stall_on_change(struct volume_stall *stall)
{
	struct disk *d = container_of(stall, struct disk, stall);

	if (atomic_exchange(&d->stall_told, true))
		return;
	d->stall_msg.run = stall_on_control;
	io_post(d->control->loop, &d->stall_msg);
}

static void stall_on_control(struct io_msg *msg)
{
	struct disk *d = container_of(msg, struct disk, stall_msg);
	struct stall stall;

	atomic_store(&d->stall_told, false);
	if (!d->task || !stall_look(d, &stall))
		return;
	refuse_waiting(d);
	detach_on_stall(d->task);
}
