/* SPDX-License-Identifier: Apache-2.0
 *
 * AES-256-XTS by GnuTLS. The data unit is a block of 4 KiB, its tweak the block's number in the
 * disk. Nothing is allocated but by xts_new. One thread at a time.
 */
#ifndef INSTANCE_STORE_XTS_H
#define INSTANCE_STORE_XTS_H

#include "base/err.h"
#include "instance-store/format.h"

struct xts;

/* The two halves of `key` must differ: -EINVAL. */
int xts_new(const uint8_t key[ISTORE_KEY_SIZE], struct xts **ret_xts, struct err *err);
void xts_free(struct xts *xts); /* NULL is legal; what is left of the key is overwritten */
/* `n` blocks, of which the first has the number `block`. `from` and `to` may be the same. */
void xts_encrypt(struct xts *xts, uint64_t block, uint64_t n, const void *from, void *to);
void xts_decrypt(struct xts *xts, uint64_t block, uint64_t n, const void *from, void *to);

#endif
