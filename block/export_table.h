/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain `struct exports`: a fixed list of named devices. The first one is also the default
 * export "".
 *
 * Threads: filled before it is used, then read by any. Claims are counted with atomics, since they
 * are taken on one loop and given back on another.
 */
#ifndef BLOCK_EXPORT_TABLE_H
#define BLOCK_EXPORT_TABLE_H

#include "block/export.h"

#define EXPORT_TABLE_MAX      64 /* enough for tests and a daemon without a catalog */
#define EXPORT_TABLE_NAME_MAX (EXPORT_DESCRIPTION_MAX - 1)

struct export_entry {
	char name[EXPORT_TABLE_NAME_MAX + 1];
	char description[EXPORT_DESCRIPTION_MAX];
	struct block_dev *dev;
	struct io_loop *loop;
	bool multi_conn;
	uint64_t claims;
};

struct export_table {
	struct exports exports; /* what a server is given */
	unsigned n;
	bool no_default; /* "" names nothing: the device that should be it could not be opened */
	struct export_entry entries[EXPORT_TABLE_MAX];
};

void export_table_init(struct export_table *table);
/* `dev` lives on `loop`; multi_conn: its flush and FUA cover all connections. -ENAMETOOLONG,
 * -EEXIST, -ENOSPC when the table is full. */
int export_table_add(struct export_table *table, const char *name, const char *description,
		     struct block_dev *dev, struct io_loop *loop, bool multi_conn);
/* Any thread: connections that hold the n-th export. */
uint64_t export_table_claims(const struct export_table *table, unsigned n);

#endif
