/* SPDX-License-Identifier: Apache-2.0
 *
 * A store in one local file or on one block device.
 */
#ifndef STORE_LOCAL_H
#define STORE_LOCAL_H

#include "base/err.h"
#include "store/store.h"

struct store_local_config {
	const char *path;
	bool create; /* format a missing or empty file; a file with foreign bytes is always refused
		      */
	bool read_only;    /* for the checker: takes no lock, raises no term, writes nothing */
	uint64_t max_size; /* a file grows up to this many bytes; 0: no bound but the file system */
	uint32_t segment_size;  /* for a new store; 0: 8 MiB */
	uint32_t pool_segments; /* freed segments that are kept written, for reuse, before punching;
				   0: default. At least what is reserved for copies */
};

struct store_open {
	struct io_loop *loop; /* will own the store */
	struct store_local_config config;
	void (*done)(struct store_open *open);
	struct err err; /* code 0: store is set */
	struct store *store;
	void *private;
};

/* Opens (and with `create` formats) the store; takes the file's lock, raises the owner term
 * durably, reads the segment table. Asynchronous on open->loop. Errors name path, cause and remedy:
 * another daemon holds it
 * (-EBUSY), not a store of ours (-EMEDIUMTYPE), newer format or unknown feature bit (-ENOTSUP),
 * damaged
 * (-EUCLEAN). */
void store_local_open(struct store_open *open);

/* For `volumed --check`: walks the store's own structures and calls `say` for each thing that is
 * wrong. Returns how many. The store was opened (read-only will do). Synchronous reads are not
 * made: it reports what opening found. */
unsigned store_local_check(struct store *store, void (*say)(void *arg, const char *text),
			   void *arg);

#endif
