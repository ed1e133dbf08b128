/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes as people write them.
 */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stdint.h>

#define SIZE_TEXT_MAX 32

/* "10GiB", "512MiB", "4096", "1.5TiB"; K, M, G, T, P with or without "iB" are powers of 1024, "KB"
 * and the like powers of 1000. 0, -EINVAL (no such form) or -ERANGE (2^63 or more). */
int size_parse(const char *text, uint64_t *ret_bytes);
/* "10 GiB", "1.5 MiB", "512 B". Returns `text`. */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX]);

#endif
