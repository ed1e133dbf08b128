/* SPDX-License-Identifier: Apache-2.0
 *
 * What lives exactly as long as a boot of the host: the key of each disk, and the map of its
 * written blocks, which is worth nothing without the key and is lost with it. The real keep is a
 * folder on tmpfs (keep_tmpfs.h); the simulator has one that a power cut empties.
 *
 * A map is memory: what was set survives the death of the process at once. Calls block for as long
 * as memory takes, and are for set-up and workers, but for destroy_key.
 *
 * Threads: one at a time; `make` and `close` for different items may run beside other calls.
 */
#ifndef INSTANCE_STORE_KEEP_H
#define INSTANCE_STORE_KEEP_H

#include "base/err.h"
#include "instance-store/format.h"

struct keep_name {
	uint32_t slot;
	uint64_t generation;
};

struct keep_item {
	struct keep_name name;
	uint64_t n_blocks;
	uint8_t *key;  /* ISTORE_KEY_SIZE bytes; NULL once it is destroyed */
	uint64_t *map; /* map_words(n_blocks) words */
	void *private;
};

struct keep;

struct keep_ops {
	/* A new item: this key, and a map with all bits clear. After an error, or a crash in
	 * between, there is none, or one that `sweep` destroys. */
	int (*make)(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		    const uint8_t key[ISTORE_KEY_SIZE], struct keep_item **ret_item,
		    struct err *err);
	/* -ENOENT: it is gone, or was made in another boot, or is damaged: in any case nothing that
	 * was written under this name can be read again. Another error: it may still be there. */
	int (*open)(struct keep *keep, const struct keep_name *name, uint64_t n_blocks,
		    struct keep_item **ret_item, struct err *err);
	/* The key is overwritten and its name removed: from the first moment on no later `open`
	 * finds it, even if the process dies in here. Takes microseconds. */
	void (*destroy_key)(struct keep *keep, struct keep_item *item);
	/* Lets go of the memory. The map goes too if the key was destroyed. */
	void (*close)(struct keep *keep, struct keep_item *item);
	/* Destroys every item but those that `wanted` says; how many, or -errno. */
	int (*sweep)(struct keep *keep, bool (*wanted)(void *arg, const struct keep_name *name),
		     void *arg, struct err *err);
	void (*free)(struct keep *keep);
};

struct keep {
	const struct keep_ops *ops;
};

/* How a store finds its keep, once it knows its own name. `boot` names the boot of the host. */
struct keep_source {
	int (*open)(struct keep_source *source, struct id store, struct keep **ret_keep,
		    struct err *err);
	struct id boot;
	struct id host;
};

#endif
