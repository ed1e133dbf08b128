/* SPDX-License-Identifier: Apache-2.0
 *
 * The volumes that the daemon serves: opened each on its own loop, and closed there.
 *
 * Threads: called on volumes->loop, where `done` runs, too. Between `done` of opening and the call
 * that closes, each volume and gate belongs to its home's loop.
 */
#ifndef VOLUMED_VOLUMES_H
#define VOLUMED_VOLUMES_H

#include "base/log.h"
#include "block/gate.h"
#include "engine/engine.h"
#include "volumed/volume_list.h"

/* A loop on which volumes live. */
struct home {
	struct io_loop *loop;
	struct engine *engine;
	struct log_limit bad_blocks;
};

struct served {
	struct volumes *owner;
	struct home *home;
	struct id id;
	struct volume *volume; /* NULL: not open, err says why */
	struct gate gate;
	struct err err;
	struct volume_op op;
	struct io_msg msg;
};

enum volumes_state {
	VOLUMES_LIST,
	VOLUMES_WAIT_LIST,
	VOLUMES_CREATE,
	VOLUMES_WAIT_CREATE,
	VOLUMES_OPEN,
	VOLUMES_WAIT_OPEN,
	VOLUMES_OPENED,
	VOLUMES_CLOSE,
	VOLUMES_WAIT_CLOSE,
	VOLUMES_CLOSED,
};

struct volumes {
	/* The owner sets these. */
	struct io_loop *loop;
	struct store *store;
	struct home *homes;
	unsigned n_homes;
	uint64_t first_size; /* bytes of the volume that an empty store gets */
	void (*done)(struct volumes *volumes);

	/* Results. code 0 says that the list is complete, not that all of it is open. */
	struct err err;
	unsigned n;
	unsigned n_open;
	struct served all[VOLUME_LIST_MAX];

	enum volumes_state state;
	unsigned pending; /* homes that have not answered yet */
	struct volume_list list;
	struct volume_op create;
};

/* Lists the store's volumes, makes the first one if there is none, and opens all of them, spread
 * over the homes in turn. A volume that can't be opened is logged, and left with volume == NULL. */
void volumes_open(struct volumes *volumes);
/* Closes what is open: durable and checkpointed. No request is in flight. Failures are logged and
 * counted in err. */
void volumes_close(struct volumes *volumes);

#endif
