/* SPDX-License-Identifier: Apache-2.0
 *
 * The keep in a folder on tmpfs: DIR/STORE-UUID/SLOT-GENERATION.key and .map, both mapped into
 * memory. A key's page is locked in memory and left out of core dumps.
 */
#ifndef INSTANCE_STORE_KEEP_TMPFS_H
#define INSTANCE_STORE_KEEP_TMPFS_H

#include "instance-store/keep.h"

struct keep_tmpfs_source {
	struct keep_source source; /* first; with boot and host */
	const char *path;          /* is made, mode 0700, if it is missing */
	bool allow_disk;           /* also where keys would outlast the host's power */
};

/* Sets source.open. The folder must be on tmpfs or ramfs (-EINVAL) unless allow_disk; one process
 * has it at a time for one store (-EBUSY). */
void keep_tmpfs_source_init(struct keep_tmpfs_source *source, const char *path, bool allow_disk);
/* Reads a file of 32 hex digits, dashes or not: what names this machine, or its boot. */
int keep_read_id(const char *path, struct id *ret_id, struct err *err);
#define KEEP_MACHINE_ID "/etc/machine-id"
#define KEEP_BOOT_ID    "/proc/sys/kernel/random/boot_id"

#endif
