/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading what a store holds of its own, for local_open.c. Owner loop only.
 */
#ifndef STORE_LOCAL_LOAD_H
#define STORE_LOCAL_LOAD_H

#include "store/local_internal.h"

#define LOAD_READERS 8
#define LOAD_CHUNK   (1 * MiB)

struct loader;

struct load_reader {
	struct io_op op;
	struct loader *loader;
	uint8_t *buffer;
	uint64_t item;
	uint64_t offset;
	uint64_t len;
	uint64_t piece; /* page by page: where it is at */
	bool unreadable[LOAD_CHUNK / FORMAT_PAGE];
};

struct loader {
	struct local *local;
	enum {
		LOAD_TABLES,  /* an item is one copy of a group's table */
		LOAD_OBJECTS, /* an item is a chunk of a segment */
	} phase;
	uint64_t n_items;
	uint64_t next_item;
	unsigned in_flight;
	int error; /* -ENOMEM */
	void (*done)(struct loader *ld);
	struct load_reader readers[LOAD_READERS];
};

int loader_init(struct loader *ld, struct local *l);
void loader_destroy(struct loader *ld); /* half-built is legal */

/* The groups are there, empty. `done` never runs inside the call. */
void load_tables(struct loader *ld, void (*done)(struct loader *ld));
/* Makes sense of the tables: free segments, segments of objects. -EUCLEAN, -ENOMEM. */
int load_settle_tables(struct local *l, const char *path, struct err *err);
void load_objects(struct loader *ld, void (*done)(struct loader *ld));

#endif
