/* SPDX-License-Identifier: Apache-2.0
 *
 * The instance store of a host: one file or block device, carved into virtual disks of instances.
 *
 *  I1  A disk keeps what was written while its host stays up: over the end of this process, however
 *      it ends. What FLUSH or FUA has acknowledged also survives a power cut of the device alone.
 *  I2  Once a wipe or deletion has begun, no crash brings the data back: the key is destroyed
 * before anything else is done. The same holds after a boot of the host, and on another host. I3  A
 * new disk reads as zeroes at once, whatever its part of the store holds. I4  On the store there is
 * no plaintext, ever. I5  Two disks never share a part of the store, and a disk that ended can
 * change nothing of the next one's. I6  What ended is discarded behind, at a bounded rate; a start
 * goes on with it.
 *
 * Threads: all functions on the main loop (loops[0]), but for the exports, which any loop uses.
 */
#ifndef INSTANCE_STORE_ISTORE_H
#define INSTANCE_STORE_ISTORE_H

#include "block/export.h"
#include "instance-store/keep.h"
#include "io/io.h"

#define ISTORE_LOOPS_MAX     64
#define ISTORE_INSTANCE      "i"          /* prefix of an instance's id: i-0123456789abcdef0 */
#define ISTORE_ALL           UINT32_MAX   /* all disks of the instance */
#define ISTORE_EXPORT_MIDDLE ".ephemeral" /* i-0123456789abcdef0.ephemeral0 */

struct istore;

struct istore_config {
	const char *path;
	struct io_loop *loops[ISTORE_LOOPS_MAX]; /* disks are spread over them */
	unsigned n_loops;
	struct keep_source *keep;
	bool create;           /* format what is new or all zeroes */
	uint64_t size;         /* of a new file; a device is taken whole */
	uint64_t slice_size;   /* of a new store; 0: chosen by its size */
	bool adopt;            /* a store of another host is taken over; its disks end */
	bool give_up_damaged;  /* entries of the table of which both copies are damaged: their disks
				  end */
	uint64_t discard_rate; /* bytes a second; 0: unlimited */
};

struct istore_open {
	struct istore_config config;
	void (*done)(struct istore_open *open);
	struct err err;
	struct istore *store; /* if err.code is 0 */
	/* What it found. */
	unsigned n_disks;    /* that are served on */
	unsigned n_ended;    /* that ended: another boot or host, or their key is gone */
	unsigned n_repaired; /* pages of which one copy was damaged or old */

	struct io_op op; /* its own */
	void *private;
};
void istore_open(struct istore_open *open);

struct istore_info {
	struct id instance;
	uint32_t number;
	uint64_t size;
	uint64_t written; /* bytes */
	uint64_t generation;
	unsigned connections;
	bool served; /* false: it is being wiped, or that has failed */
};

struct istore_stats {
	uint64_t size; /* bytes that disks may take together */
	uint64_t used; /* by disks, whole slices */
	uint64_t slice_size;
	uint64_t to_discard; /* bytes that await it */
	uint64_t discarded;  /* bytes since the start */
	int discard_error;   /* the last one's, or 0 */
	bool failed;         /* the table could not be written: nothing is made or ended any more */
};

enum istore_op_kind {
	ISTORE_CREATE, /* instance, number, size. Again with the same size: the disk that is there
			*/
	ISTORE_WIPE,   /* instance, number or ISTORE_ALL: the disks read as zeroes */
	ISTORE_DELETE, /* instance, number or ISTORE_ALL: the disks end */
	ISTORE_LIST,   /* instance, or zero: all */
	ISTORE_TIDY,   /* of its own */
};

struct istore_op {
	enum istore_op_kind kind;
	struct id instance;
	uint32_t number;
	uint64_t size;
	void (*done)(struct istore_op *op);

	struct err error;          /* -EINVAL, -EEXIST, -ENOENT, -ENOSPC, -EIO, -ESHUTDOWN, ... */
	struct istore_info *infos; /* LIST; CREATE: one. The caller's: istore_op_release */
	unsigned n_infos;
	unsigned n_done; /* WIPE, DELETE: disks */
	bool existed;    /* CREATE */
	struct istore_stats stats;

	struct list node; /* the store's */
	struct io_op io;
};
/* The key of what is wiped or deleted is gone when this returns; `done` runs on a later turn. */
void istore_submit(struct istore *store, struct istore_op *op);
void istore_op_release(struct istore_op *op);
void istore_stats(const struct istore *store, struct istore_stats *ret_stats);
/* "i-0123456789abcdef0.ephemeral0". Returns `text`. */
#define ISTORE_EXPORT_MAX 64
const char *istore_export_name(struct id instance, uint32_t number, char text[ISTORE_EXPORT_MAX]);

struct exports *istore_exports(struct istore *store);

/* No server uses the exports any more. Operations under way are finished, new ones are refused;
 * disks and keys stay. The store is freed when `closed` completes. */
void istore_close(struct istore *store, struct io_op *closed);

#endif
