/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/machine/platter.h"

#include "base/check.h"

#include <string.h>

struct platter *platter_find(struct sim *sim, const char *path)
{
	list_for_each (&sim->files, node) {
		struct platter *p = container_of(node, struct platter, node);

		if (strcmp(p->path, path) == 0)
			return p;
	}
	return NULL;
}

struct platter *platter_make(struct sim *sim, const char *path)
{
	struct platter *p = sim_alloc(sizeof(*p));
	size_t n = strlen(path) + 1;

	p->path = sim_alloc(n);
	memcpy(p->path, path, n);
	list_init(&p->changes);
	list_add_tail(&sim->files, &p->node);
	return p;
}

static void change_free(struct change *c)
{
	list_remove(&c->node);
	sim_release(c->data);
	sim_release(c);
}

static void drop_changes(struct platter *p)
{
	list_for_each_safe (&p->changes, node)
		change_free(container_of(node, struct change, node));
}

void platter_free(struct platter *p)
{
	drop_changes(p);
	image_free(&p->now);
	image_free(&p->durable);
	list_remove(&p->node);
	sim_release(p->path);
	sim_release(p);
}

uint64_t platters_size(struct sim *sim)
{
	uint64_t size = 0;

	list_for_each (&sim->files, node)
		size += container_of(node, struct platter, node)->now.size;
	return size;
}

static void apply(struct image *image, const struct change *c)
{
	if (!c->grows)
		image_write(image, c->offset, c->data, c->len);
	else if (image->size < c->offset + c->len)
		image_resize(image, c->offset + c->len);
}

void platter_change(struct sim *sim, struct platter *p, const struct change *what, uint8_t *data)
{
	struct change *c = sim_alloc(sizeof(*c));

	*c = *what;
	c->data = data;
	c->tick = sim->tick++;
	list_add_tail(&p->changes, &c->node);
	apply(&p->now, c);
}

/* ---- Tearing ------------------------------------------------------------------------- */

/* How a write comes apart. */
enum tear { ALL, NONE, HEAD, TAIL, ANY_SECTOR, N_TEARS };

struct tearing {
	enum tear how;
	uint64_t from; /* the boundary of HEAD and TAIL, in sectors */
};

static struct tearing choose_tearing(struct sim *sim, uint64_t len)
{
	struct tearing t = {.how = (enum tear)sim_below(sim, N_TEARS)};

	t.from = sim_below(sim, len / SECTOR + 1);
	sim_note(sim, (uint64_t)t.how << 32 | t.from);
	return t;
}

static bool lands(struct sim *sim, const struct tearing *t, uint64_t sector)
{
	switch (t->how) {
	case ALL:
		return true;
	case NONE:
	case N_TEARS:
		return false;
	case HEAD:
		return sector < t->from;
	case TAIL:
		return sector >= t->from;
	case ANY_SECTOR:
		return sim_below(sim, 2);
	}
	return false;
}

/* Calls `piece` for each run of sectors that lands. */
static void for_each_piece(struct sim *sim, struct platter *p, const struct change *c,
			   void (*piece)(struct sim *sim, struct platter *p,
					 const struct change *piece))
{
	struct tearing t = choose_tearing(sim, c->len);
	struct change part = *c;
	uint64_t n = c->len / SECTOR;
	uint64_t start = 0;

	if (c->grows) {
		if (t.how == ALL || t.how == HEAD)
			piece(sim, p, c);
		return;
	}
	for (uint64_t i = 0; i < n;) {
		start = i;
		while (i < n && lands(sim, &t, i))
			i++;
		if (i > start) {
			part.offset = c->offset + start * SECTOR;
			part.len = (i - start) * SECTOR;
			part.data = c->data ? c->data + start * SECTOR : NULL;
			piece(sim, p, &part);
		} else {
			i++;
		}
	}
}

static void piece_changes(struct sim *sim, struct platter *p, const struct change *c)
{
	uint8_t *data = NULL;

	if (c->data) {
		data = sim_alloc(c->len);
		memcpy(data, c->data, c->len);
	}
	platter_change(sim, p, c, data);
}

void platter_tear(struct sim *sim, struct platter *p, const struct change *what, uint8_t *data)
{
	struct change c = *what;

	c.data = data;
	for_each_piece(sim, p, &c, piece_changes);
	sim_release(data);
}

static void piece_is_durable(struct sim *sim, struct platter *p, const struct change *c)
{
	(void)sim;
	apply(&p->durable, c);
}

/* ---- Syncs --------------------------------------------------------------------------- */

void platter_commit(struct platter *p, uint64_t tick)
{
	list_for_each_safe (&p->changes, node) {
		struct change *c = container_of(node, struct change, node);

		if (c->tick < tick) {
			apply(&p->durable, c);
			change_free(c);
		}
	}
}

/* Each change has been written, is still to be written by a later sync, or has been forgotten:
 * readers see it, no sync will ever make it durable. */
void platter_spoil(struct sim *sim, struct platter *p, uint64_t tick)
{
	list_for_each_safe (&p->changes, node) {
		struct change *c = container_of(node, struct change, node);
		uint64_t fate;

		if (c->tick >= tick)
			continue;
		fate = sim_below(sim, 3);
		sim_note(sim, fate);
		if (fate == 0)
			for_each_piece(sim, p, c, piece_is_durable);
		if (fate <= 1)
			change_free(c);
	}
}

/* ---- Power cut ----------------------------------------------------------------------- */

/* Puts the list in a random order. */
static void shuffle(struct sim *sim, struct list *list)
{
	struct list mixed;
	struct list *node;

	list_init(&mixed);
	while ((node = list_pop(list)))
		if (sim_below(sim, 2))
			list_add_tail(&mixed, node);
		else
			list_add_head(&mixed, node);
	list_splice_tail(list, &mixed);
}

/* A file whose growth was lost is as long as it was at the last sync, or at any moment since. */
static uint64_t choose_size(struct sim *sim, const struct platter *p, uint64_t synced)
{
	uint64_t size = synced;

	list_for_each (&p->changes, node) {
		const struct change *c = container_of(node, struct change, node);

		if (c->offset + c->len > size && (c->grows || c->data) && sim_below(sim, 2))
			size = c->offset + c->len;
	}
	return size;
}

void platter_settle(struct sim *sim, struct platter *p)
{
	/* One mood for the whole file: nothing lands, all does, or each by chance. Whole-or-nothing
	 * states are as likely as mixed ones, and find other bugs. */
	static const uint32_t moods[] = {0, 100000, 500000, 900000, 1000000};
	uint32_t keep = moods[sim_below(sim, ARRAY_SIZE(moods))];
	uint64_t synced = p->durable.size;
	uint64_t size = choose_size(sim, p, synced);

	if (sim_below(sim, 2))
		shuffle(sim, &p->changes);
	list_for_each_safe (&p->changes, node) {
		struct change *c = container_of(node, struct change, node);

		if (sim_chance(sim, keep))
			apply(&p->durable, c);
		else if (sim_below(sim, 2))
			for_each_piece(sim, p, c, piece_is_durable);
		change_free(c);
	}
	/* Growth is lost as often as not, and takes the data with it. */
	if (p->durable.size > synced && sim_below(sim, 2))
		image_resize(&p->durable, max_u64(size, synced));
	else if (p->durable.size < size)
		image_resize(&p->durable, size);
	image_become(&p->now, &p->durable);
	sim_note(sim, p->durable.size);
}

/* ---- For tests ----------------------------------------------------------------------- */

static struct platter *must_find(struct sim *sim, const char *path)
{
	struct platter *p = platter_find(sim, path);

	CHECK(p);
	return p;
}

bool sim_file_exists(struct sim *sim, const char *path)
{
	return platter_find(sim, path) != NULL;
}

uint64_t sim_file_size(struct sim *sim, const char *path)
{
	return must_find(sim, path)->now.size;
}

void sim_file_peek(struct sim *sim, const char *path, uint64_t offset, void *buf, size_t len)
{
	image_read(&must_find(sim, path)->now, offset, buf, len);
}

void sim_file_plant(struct sim *sim, const char *path, uint64_t offset, const void *buf, size_t len)
{
	struct platter *p = platter_find(sim, path);

	if (!p)
		p = platter_make(sim, path);
	image_write(&p->now, offset, buf, len);
	image_write(&p->durable, offset, buf, len);
}

void sim_file_truncate(struct sim *sim, const char *path, uint64_t size)
{
	struct platter *p = must_find(sim, path);

	image_resize(&p->now, size);
	image_resize(&p->durable, size);
}

void sim_file_remove(struct sim *sim, const char *path)
{
	struct platter *p = must_find(sim, path);

	CHECK(p->n_open == 0);
	platter_free(p);
}

static void flip(struct image *image, uint64_t offset, unsigned bit)
{
	uint8_t byte;

	image_read(image, offset, &byte, 1);
	byte ^= (uint8_t)(1u << bit);
	image_write(image, offset, &byte, 1);
}

uint64_t sim_file_rot(struct sim *sim, const char *path, uint64_t offset, uint64_t len)
{
	struct platter *p = must_find(sim, path);
	uint64_t at = offset + sim_below(sim, len);
	unsigned bit = (unsigned)sim_below(sim, 8);

	CHECK(at < p->now.size);
	sim_trace(sim, "rot: bit %u of byte %llu of %s", bit, (unsigned long long)at, path);
	flip(&p->now, at, bit);
	if (at < p->durable.size)
		flip(&p->durable, at, bit);
	return at;
}
