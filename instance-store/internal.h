/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the instance store share. Everything is the main loop's, unless it says so.
 */
#ifndef INSTANCE_STORE_INTERNAL_H
#define INSTANCE_STORE_INTERNAL_H

#include "block/gate.h"
#include "instance-store/disk.h"
#include "instance-store/istore.h"

#include <pthread.h>

/* ---- A page and its copy: table.c ------------------------------------------------------------
 */

struct pair_write {
	struct io_op io;
	struct istore *store;
	uint8_t *pages; /* two; a buffer of the store's */
	uint64_t offsets[2];
	unsigned step; /* write, sync, write, sync */
	void (*done)(struct istore *store, int error);
};

/* Writes slots[index] = *next: durable in both copies, or an error, after which the store has
 * failed. One at a time, and not beside istore_super_write. */
void istore_table_write(struct istore *s, unsigned index, const struct istore_slot *next,
			void (*done)(struct istore *s, int error));
/* The same for s->super with its next sequence. */
void istore_super_write(struct istore *s, void (*done)(struct istore *s, int error));

/* ---- A disk that is served: port.c -----------------------------------------------------------
 */

enum port_state {
	PORT_OPEN,
	PORT_CLOSING, /* has no name and no key any more; what is inside drains */
	PORT_CLOSED,
};

struct port {
	struct list node; /* store->ports */
	struct istore *store;
	enum port_state state;
	unsigned slot;
	struct io_loop *loop;
	struct keep_item *item;
	struct istore_disk *disk;
	struct gate gate;   /* the disk's loop */
	struct list claims; /* struct claim */
	unsigned n_claims;
	bool retired; /* goes with its last claim */
	struct io_msg msg;
};

int istore_port_open(struct istore *s, unsigned slot, struct keep_item *item, struct err *err);
/* The port of a slot, or NULL. */
struct port *istore_port_find(struct istore *s, unsigned slot);
/* The key is destroyed, the name gone, and whoever is connected is asked to leave; store->on_port
 * runs when nothing is inside any more. */
void istore_port_fence(struct port *p);
/* It is closed: its slices are free of it. The memory goes with its last claim. */
void istore_port_retire(struct port *p);
/* Nobody is connected: as it is, its key stays. */
void istore_port_free(struct port *p);
int istore_ports_init(struct istore *s);
void istore_ports_destroy(struct istore *s);

/* ---- Who has which slice: space.c ------------------------------------------------------------
 */

int istore_space_init(struct istore *s, struct err *err);
void istore_space_free(struct istore *s);
/* Marks the extents as the slot's. -EUCLEAN if one is another's. */
int istore_space_take(struct istore *s, unsigned slot, struct err *err);
void istore_space_give(struct istore *s, unsigned slot);
void istore_space_set_dirty(struct istore *s, const struct istore_slot *slot);
bool istore_space_is_dirty(const struct istore *s, const struct istore_slot *slot);
/* Chooses extents for slot->size, clean ones first; changes nothing but *slot. */
int istore_space_choose(const struct istore *s, struct istore_slot *slot, struct err *err);
/* The table of a disk's slices, mem_alloc'ed; NULL: no memory. */
uint32_t *istore_space_slices(const struct istore_slot *slot, uint64_t slice_size);

/* ---- Discarding behind: discard.c ------------------------------------------------------------
 */

struct discarder {
	struct io_op io;
	struct io_op timer;
	bool punching;
	bool waiting; /* for the timer */
	bool paused;
	uint64_t slice; /* looked at next, or now */
	uint64_t done;  /* bytes of it */
	uint64_t unit;  /* bytes in flight */
	uint64_t discarded;
	int error;
	/* Of a slice that a disk has: on its loop. */
	struct port *port;
	struct istore_discard discard;
	struct io_msg msg;
	bool tidying;
	struct istore_op tidy;
};

void istore_discard_init(struct istore *s);
/* There may be something to do. */
void istore_discard_kick(struct istore *s);
/* store->on_discard_paused runs, perhaps at once, when no discard is in flight. */
void istore_discard_pause(struct istore *s);
void istore_discard_resume(struct istore *s);

/* ---- The store -------------------------------------------------------------------------------
 */

enum run_state {
	RUN_IDLE,
	RUN_PAUSE,
	RUN_WAIT_PAUSE,
	RUN_NEXT, /* the next slot that the operation is about */
	RUN_WAIT_PORT,
	RUN_MAKE,
	RUN_WAIT_MAKE,
	RUN_WAIT_TABLE,
	RUN_PUBLISH,
	RUN_END,
};

struct istore {
	struct io_loop *loop;
	struct istore_config config;
	struct io_file *file;
	struct keep *keep;
	struct istore_super super;
	struct istore_slot *slots;
	uint64_t generation; /* the greatest so far */
	uint8_t *pages;
	struct pair_write pair;
	int failed;

	uint16_t *owners; /* of each slice: slot + 1; 0: nobody */
	uint64_t *dirty;  /* bits of slices to be discarded */
	uint64_t n_dirty;
	uint64_t n_owned;

	struct exports exports;
	struct list ports;
	unsigned n_claims;          /* of all, retired ones included */
	pthread_mutex_t names_lock; /* of `ports` and their states, for exports.list */
	struct discarder discarder;

	/* The operation under way: ops.c. */
	struct list queue;
	struct istore_op *running;
	enum run_state state;
	unsigned index; /* slot */
	struct istore_slot next;
	bool table_pending;
	struct keep_item *made;
	struct io_work make;
	uint8_t key[ISTORE_KEY_SIZE];
	struct err make_err;
	int make_result;
	struct io_op *closed;
	struct opener *opener; /* while it opens */
	bool closing;
};

/* ops.c: what others call when something that it may wait for has happened. */
void istore_on_port(struct istore *s);
void istore_on_paused(struct istore *s);
void istore_free(struct istore *s);

#endif
