/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "control/internal.h"

static struct list *bucket_of(struct control *c, struct id id)
{
	return &c->disks[hash_u64(id.lo ^ hash_u64(id.hi)) % DISK_BUCKETS];
}

struct disk *disk_find(struct control *c, struct id id)
{
	list_for_each (bucket_of(c, id), node) {
		struct disk *d = list_entry(node, struct disk, node);

		if (id_equal(d->id, id))
			return d;
	}
	return NULL;
}

struct disk *disk_find_or_make(struct control *c, struct id id)
{
	struct disk *d = disk_find(c, id);

	if (d)
		return d;
	d = mem_alloc(sizeof(*d));
	if (!d)
		return NULL;
	d->control = c;
	d->id = id;
	list_init(&d->waiting);
	stall_init(d);
	list_add_tail(bucket_of(c, id), &d->node);
	return d;
}

bool disk_is_needed(const struct disk *d)
{
	return d->port || d->uploader || d->scrub || d->hydrator || d->check;
}

void disk_drop_if_idle(struct disk *d)
{
	/* One that could not be opened is kept for its error. */
	if (d->task || d->volume || disk_is_needed(d) || d->open_error.code ||
	    !list_empty(&d->waiting))
		return;
	list_remove(&d->node);
	mem_free(d);
}

struct home *disk_choose_home(struct control *c)
{
	struct home *best = &c->homes[0];

	for (unsigned i = 1; i < c->config.n_homes; i++)
		if (c->homes[i].n_open < best->n_open)
			best = &c->homes[i];
	return best;
}
