/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the sweep share:
 *
 *   sweep.c        the phases, in order
 *   sweep_lease.c  who may sweep
 *   sweep_scan.c   listing and reading small objects
 *   sweep_mark.c   walking trees
 *   sweep_free.c   removing and punching packs
 *   marks.c        which items are needed, and by whom
 */
#ifndef SNAPSHOTS_SWEEP_INTERNAL_H
#define SNAPSHOTS_SWEEP_INTERNAL_H

#include "snapshots/internal.h"
#include "snapshots/sweep.h"

/* ---- marks.c ----------------------------------------------------------------------------------
 */

#define OWNER_NONE   UINT32_C(0)
#define OWNER_SHARED UINT32_MAX

/* A pack, and for each of its items who needs it: nobody, one root (its number + 1), or several. */
struct mark_pack {
	struct snap_pack id;
	bool listed; /* else: a tree names it, and the list that came before did not have it */
	bool copy;   /* a second copy is there */
	uint64_t size;
	uint64_t stored;
	uint64_t modified;
	uint64_t live; /* bytes of items that are needed */
	uint32_t n_slots;
	uint32_t *owner;
};

struct marks {
	struct mark_pack *packs;
	uint32_t n;
	uint32_t room;
	uint32_t *table; /* number of a pack + 1 */
	uint32_t table_size;
};

void marks_free(struct marks *m);
/* The pack; added if it is not there. NULL: out of memory. */
struct mark_pack *marks_pack(struct marks *m, const struct snap_pack *id);
/* The pack, or NULL. */
struct mark_pack *marks_find(const struct marks *m, const struct snap_pack *id);
/* Where the item's owner stands; NULL: out of memory. */
uint32_t *marks_owner(struct marks *m, const struct snap_item *item, struct mark_pack **ret_pack);

/* ---- The rest ---------------------------------------------------------------------------------
 */

/* A tree that is needed. */
struct sweep_root {
	struct snap_item root;
	struct id id;
	bool completed; /* its share is told */
	int64_t unique; /* bytes that only it needs */
};

struct tombstone {
	struct id id;
	uint64_t renewals; /* it is removed only if it is still the same */
};

enum sweep_phase {
	PHASE_LEASE,
	PHASE_CLOCK,
	PHASE_PACKS,
	PHASE_TOMBSTONES,
	PHASE_HOLDS,
	PHASE_SNAPSHOTS,
	PHASE_MARK,
	PHASE_FREE,
	PHASE_BURY,
	PHASE_GIVE_BACK,
};

struct sweep_list {
	void *items;
	uint32_t n;
	uint32_t room;
};

struct snap_sweeping {
	struct repository *repository;
	struct io_loop *loop;
	struct snap_sweep *sweep;
	struct snap_sweep_memory *memory;
	enum sweep_phase phase;
	bool cancelled;
	int error;

	/* Lease. */
	struct lease lease;
	bool has_lease;
	uint64_t renewed_at;
	uint8_t lease_old[LEASE_BYTES];
	uint8_t lease_new[LEASE_BYTES];
	uint64_t lease_old_len;
	void (*lease_next)(struct snap_sweeping *s);

	/* Scan of a prefix. */
	struct blob_entry *entries;
	uint32_t n_entries;
	uint32_t at;
	const char *prefix;
	bool names_only;
	/* False: it has started something, and calls scan_next or sweep_end itself. */
	bool (*on_object)(struct snap_sweeping *s, const struct blob_entry *entry, uint64_t len);
	void (*on_end)(struct snap_sweeping *s);
	uint8_t *bytes; /* BLOB_SWAP_MAX */
	uint8_t *changed;
	struct snap_info *info;
	struct blob_op blob;

	/* What was found. */
	struct marks marks;
	struct sweep_list roots;      /* struct sweep_root */
	struct sweep_list tombstones; /* struct tombstone, sorted by id */
	struct sweep_list pending;    /* struct id, sorted: their packs stay */

	/* Mark. */
	struct pages *pages;
	struct page_wait wait;
	uint32_t root_at;
	uint64_t pos;
	struct io_op defer;

	/* Free. */
	uint32_t pack_at;
	uint32_t slot_at;
	bool on_copy;
	uint32_t n_items;
	struct pack_item *items;
	uint8_t *pack_end;
	struct io_op timer;
	void (*timer_next)(struct snap_sweeping *s);
};

/* ---- sweep.c ---- */
/* To the end, whatever the phase; 0: it has run through. */
void sweep_end(struct snap_sweeping *s, int error);
int sweep_no_memory(struct snap_sweeping *s);
/* A zeroed new element, or NULL. */
void *sweep_list_add(struct sweep_list *list, size_t size);
bool sweep_has_tombstone(const struct snap_sweeping *s, struct id id);
bool sweep_is_pending(const struct snap_sweeping *s, struct id id);

/* ---- sweep_lease.c ---- */
void lease_take(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s));
/* Goes on with `next` if the lease is still ours, else ends the sweep. Renews it when it is time.
 */
void lease_check(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s));
void lease_give_back(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s));

/* ---- sweep_scan.c ---- */
void scan_start(struct snap_sweeping *s, const char *prefix, bool names_only,
		bool (*on_object)(struct snap_sweeping *s, const struct blob_entry *entry,
				  uint64_t len),
		void (*on_end)(struct snap_sweeping *s));
void scan_next(struct snap_sweeping *s);

/* ---- sweep_mark.c ---- */
void mark_start(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s));

/* ---- sweep_free.c ---- */
void free_start(struct snap_sweeping *s, void (*next)(struct snap_sweeping *s));

#endif
