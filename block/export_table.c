/* SPDX-License-Identifier: Apache-2.0 */
#include "block/export_table.h"

#include "base/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void table_resolve(struct exports *exports, struct export_op *op);
static void table_on_defer(struct io_op *io);
static void table_release(struct exports *exports, void *claim_handle);
static unsigned table_list(struct exports *exports, bool local, unsigned first, unsigned max,
			   char names[][EXPORT_DESCRIPTION_MAX]);

void export_table_init(struct export_table *table)
{
	*table = (struct export_table){
	    .exports = {.resolve = table_resolve, .release = table_release, .list = table_list},
	};
}

static struct export_entry *table_find(struct export_table *table, const char *name)
{
	if (name[0] == '\0')
		return table->n > 0 && !table->no_default ? &table->entries[0] : NULL;
	for (unsigned i = 0; i < table->n; i++) {
		if (strcmp(table->entries[i].name, name) == 0)
			return &table->entries[i];
	}
	return NULL;
}

int export_table_add(struct export_table *table, const char *name, const char *description,
		     struct block_dev *dev, struct io_loop *loop, bool multi_conn)
{
	struct export_entry *e;

	if (strlen(name) > EXPORT_TABLE_NAME_MAX)
		return -ENAMETOOLONG;
	if (name[0] != '\0' && table_find(table, name))
		return -EEXIST;
	if (table->n == EXPORT_TABLE_MAX)
		return -ENOSPC;
	e = &table->entries[table->n++];
	snprintf(e->name, sizeof(e->name), "%s", name);
	snprintf(e->description, sizeof(e->description), "%s", description);
	e->dev = dev;
	e->loop = loop;
	e->multi_conn = multi_conn;
	return 0;
}

uint64_t export_table_claims(const struct export_table *table, unsigned n)
{
	return __atomic_load_n(&table->entries[n].claims, __ATOMIC_ACQUIRE);
}

static void table_resolve(struct exports *exports, struct export_op *op)
{
	struct export_table *table = container_of(exports, struct export_table, exports);
	struct export_entry *e = table_find(table, op->name);

	op->error = e ? 0 : -ENOENT;
	op->claim_handle = NULL;
	if (e) {
		op->info = (struct export_info){
		    .dev = e->dev,
		    .loop = e->loop,
		    .size = block_size(e->dev),
		    .read_only = e->dev->flags & BLOCK_DEV_READ_ONLY,
		    .multi_conn = e->multi_conn,
		};
		snprintf(op->info.name, sizeof(op->info.name), "%s", e->name);
		snprintf(op->info.description, sizeof(op->info.description), "%s", e->description);
	}
	if (e && op->claim) {
		__atomic_add_fetch(&e->claims, 1, __ATOMIC_ACQ_REL);
		op->claim_handle = e;
	}
	op->op.done = table_on_defer;
	io_defer(op->loop, &op->op, 0);
}

static void table_on_defer(struct io_op *io)
{
	struct export_op *op = container_of(io, struct export_op, op);

	op->done(op);
}

static void table_release(struct exports *exports, void *claim_handle)
{
	struct export_entry *e = claim_handle;
	uint64_t before = __atomic_fetch_sub(&e->claims, 1, __ATOMIC_ACQ_REL);

	(void)exports;
	CHECK(before > 0);
}

static unsigned table_list(struct exports *exports, bool local, unsigned first, unsigned max,
			   char names[][EXPORT_DESCRIPTION_MAX])
{
	struct export_table *table = container_of(exports, struct export_table, exports);
	unsigned n = 0;

	(void)local; /* a fixed list hides nothing */
	while (n < max && first + n < table->n) {
		snprintf(names[n], EXPORT_DESCRIPTION_MAX, "%s", table->entries[first + n].name);
		n++;
	}
	return n;
}
