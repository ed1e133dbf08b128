/* SPDX-License-Identifier: Apache-2.0 */
#include "base/crc32c.h"

#include "base/check.h"

#include <isa-l/crc.h>
#include <limits.h>

uint32_t crc32c(uint32_t seed, const void *buf, size_t len)
{
	CHECK(len <= INT_MAX);
	return crc32_iscsi((unsigned char *)(uintptr_t)buf, (int)len, seed);
}
