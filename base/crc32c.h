/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC32C (Castagnoli) by ISA-L. `seed` binds a checksum to where its bytes belong, so that right
 * bytes in a wrong place fail too.
 */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t seed, const void *buf, size_t len);

#endif
