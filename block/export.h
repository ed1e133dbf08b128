/* SPDX-License-Identifier: Apache-2.0
 *
 * Export names to devices. A server of a wire protocol (nbd/) asks by name and gets a device, the
 * loop it lives on and a claim on it; it knows no volumes, catalog or engine. Whoever wires the
 * daemon provides a `struct exports`; block/export_table.c is the plain one over a fixed list.
 */
#ifndef BLOCK_EXPORT_H
#define BLOCK_EXPORT_H

#include "block/block.h"
#include "io/io.h"

#define EXPORT_NAME_MAX        4096 /* bytes, NBD spec */
#define EXPORT_DESCRIPTION_MAX 256  /* bytes, ours */

/* What a resolver tells of an export. */
struct export_info {
	char name[EXPORT_NAME_MAX + 1]; /* canonical (the default export "" has one, too) */
	char description[EXPORT_DESCRIPTION_MAX]; /* "" if none */
	struct block_dev *dev;
	struct io_loop *loop; /* where dev lives: its requests are submitted there */
	uint64_t size;        /* block_size(dev) at this moment */
	bool read_only;
	bool multi_conn; /* flush and FUA cover all connections */
};

struct exports;

/* An operation on exports; belongs to the resolver until `done`, which runs on `loop`, never inside
 * the call. */
struct export_op {
	struct io_loop *loop; /* the caller's */
	void (*done)(struct export_op *op);
	char name[EXPORT_NAME_MAX + 1];
	bool local; /* the peer is on a unix socket */
	bool claim; /* resolve only: also hold the device open, until release */
	/* With a claim: asks its holder to let go, after its last replies or at once. Called on the
	 * device's loop, between resolve and release, perhaps more than once. NULL: it can't be
	 * asked. */
	void (*leave)(void *holder, bool at_once);
	void *holder;

	int error;               /* 0, -ENOENT, -EACCES, -EAGAIN (not open yet), -ESHUTDOWN */
	struct export_info info; /* valid if error is 0 */
	void *claim_handle;      /* valid if claimed; give it to release */

	struct io_op op; /* the resolver's own */
	struct io_msg msg;
	void *private;
};

struct exports {
	void (*resolve)(struct exports *exports, struct export_op *op);
	/* Gives a claim back, from the device's loop, when no request of the connection is left.
	 * The device may be closed after that. */
	void (*release)(struct exports *exports, void *claim_handle);
	/* Fills names[] with the n-th and following names that this peer may see; returns how many
	 * were written (at most max), 0 at the end. Any thread; does not block. */
	unsigned (*list)(struct exports *exports, bool local, unsigned first, unsigned max,
			 char names[][EXPORT_DESCRIPTION_MAX]);
};

#endif
