/* SPDX-License-Identifier: Apache-2.0
 *
 * Reaching an NBD export: the socket and the fixed newstyle handshake with NBD_OPT_GO. Shares
 * nothing with nbd/, so that a mistake there does not meet itself here. Blocking, with deadlines.
 */
#ifndef BENCH_REMOTE_H
#define BENCH_REMOTE_H

#include "base/err.h"

#include <stdint.h>

#define REMOTE_HAS_FLAGS  (1u << 0)
#define REMOTE_READ_ONLY  (1u << 1)
#define REMOTE_FLUSH      (1u << 2)
#define REMOTE_FUA        (1u << 3)
#define REMOTE_MULTI_CONN (1u << 8)

struct remote {
	uint64_t size;
	uint16_t flags; /* REMOTE_*, as on the wire */
	uint32_t min_block;
	uint32_t max_block;
};

/* Connects to "unix:PATH", "HOST:PORT" or "[HOST]:PORT" and opens the export for simple replies.
 * On success *ret_fd is a non-blocking socket in the transmission phase. */
int remote_open(const char *address, const char *export_name, unsigned timeout_s,
		struct remote *ret_remote, int *ret_fd, struct err *err);

#endif
