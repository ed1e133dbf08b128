/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of snapshots/ share; nobody else includes it.
 *
 *   blobs.c, blobs_dir.c       objects
 *   format.c, format_page.c    their bytes
 *   codec.c                    hashes, packing
 *   repository.c               the place, snapshots' objects, holds
 *   list.c                     lists of snapshots
 *   writer.c, writer_tree.c, writer_pack.c, writer_reuse.c    uploads
 *   reader.c, pages.c, walk.c, view.c, base.c                 reading
 *   sweep.c, sweep_lease.c, sweep_mark.c, marks.c             giving space back
 *   copy.c                     copy, verify
 */
#ifndef SNAPSHOTS_INTERNAL_H
#define SNAPSHOTS_INTERNAL_H

#include "snapshots/codec.h"
#include "snapshots/format.h"
#include "snapshots/repository.h"

struct repository {
	struct blobs *blobs;
	struct id uuid;
};

/* Sets err to "PLACE: NAME: what: strerror", unless result is 0 or more. Returns the error. */
int blob_error(struct err *err, const struct repository *r, const char *name, const char *what,
	       int64_t result);
/* As snap_get, but what the hold says. */
void snap_get_held(struct repository *repository, struct io_loop *loop, struct repository_op *op,
		   struct id id, const char *holder, struct snap_info *info);

/* ---- pages.c: tree pages, verified, in a cache of fixed size ----------------------------------
 */

struct pages;

struct page_wait {
	/* `bytes` are a checked page, and there until the callback returns; NULL: `error` (-EIO)
	 * and err say why. */
	void (*done)(struct page_wait *wait, const uint8_t *bytes, int error);
	struct err *err; /* filled on error; may be NULL */
	struct list link;
	struct snap_item item;
	unsigned level;
	uint32_t number;
};

/* NULL: out of memory. `bytes` 0: the default. */
struct pages *pages_new(struct repository *repository, struct io_loop *loop, uint32_t bytes);
void pages_free(struct pages *pages); /* nobody waits; NULL is legal */
/* The page, if it is at hand: until the next call or turn. */
const uint8_t *pages_find(struct pages *pages, const struct snap_item *item);
/* Calls wait->done later, never inside. item, level, number, done are set. */
void pages_load(struct pages *pages, struct page_wait *wait);

/* ---- reader.c ---------------------------------------------------------------------------------
 */

struct snap_reader {
	struct repository *repository;
	struct io_loop *loop;
	struct pages *pages;
	struct snap_reading *readings; /* n_readings */
	uint32_t n_readings;
	uint8_t *buffers;
	struct list idle;    /* readings */
	struct list waiting; /* snap_reads */
	struct snap_info info;
};

/* For what has an info already. NULL: out of memory. `reads` 0: it can only walk. */
struct snap_reader *reader_new(struct repository *repository, struct io_loop *loop,
			       const struct snap_info *info, uint32_t cache_bytes, uint32_t reads);

static inline uint64_t blocks_of(uint64_t size)
{
	return (size + SNAP_BLOCK - 1) / SNAP_BLOCK;
}

#endif
