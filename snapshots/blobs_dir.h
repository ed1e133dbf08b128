/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects as files of a directory (snapshots/blobs.h), on a local or a shared file system that has
 * link(2), atomic rename and, between its machines, flock(2).
 */
#ifndef SNAPSHOTS_BLOBS_DIR_H
#define SNAPSHOTS_BLOBS_DIR_H

#include "snapshots/blobs.h"

/* Set-up call: blocks. With `create`, makes the directory if it is missing (its parent exists).
 * Removes what a writer that died a day ago or earlier has left half written. 0 or a negative
 * errno. */
int blobs_dir_open(const char *path, bool create, struct blobs **ret_blobs, struct err *err);

#endif
