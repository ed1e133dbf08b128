/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers in byte buffers: little-endian for our disk formats, big-endian for the NBD wire. And a
 * cursor that can't leave its buffer: after an overrun it reads zeroes, drops writes, and says so
 * in `bad`.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include "base/util.h"

#include <string.h>

static inline uint16_t get_le16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t get_le32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t get_le64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void put_le16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put_le32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put_le64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t get_be16(const void *p)
{
	return __builtin_bswap16(get_le16(p));
}

static inline uint32_t get_be32(const void *p)
{
	return __builtin_bswap32(get_le32(p));
}

static inline uint64_t get_be64(const void *p)
{
	return __builtin_bswap64(get_le64(p));
}

static inline void put_be16(void *p, uint16_t v)
{
	put_le16(p, __builtin_bswap16(v));
}

static inline void put_be32(void *p, uint32_t v)
{
	put_le32(p, __builtin_bswap32(v));
}

static inline void put_be64(void *p, uint64_t v)
{
	put_le64(p, __builtin_bswap64(v));
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the accessors above assume it");

struct cursor {
	uint8_t *p;
	size_t left;
	bool bad;
};

static inline struct cursor cursor_over(const void *buf, size_t len)
{
	struct cursor c = {.p = (uint8_t *)(uintptr_t)buf, .left = len, .bad = false};

	return c;
}

/* The next n bytes, or NULL (and `bad` is set). */
static inline uint8_t *cursor_take(struct cursor *c, size_t n)
{
	uint8_t *p = c->p;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	c->left -= n;
	return p;
}

#define CURSOR_NUMBER(type, name)                                                                  \
	static inline type cursor_get_##name(struct cursor *c)                                     \
	{                                                                                          \
		uint8_t *p = cursor_take(c, sizeof(type));                                         \
		return p ? get_##name(p) : 0;                                                      \
	}                                                                                          \
	static inline void cursor_put_##name(struct cursor *c, type v)                             \
	{                                                                                          \
		uint8_t *p = cursor_take(c, sizeof(type));                                         \
		if (p)                                                                             \
			put_##name(p, v);                                                          \
	}

CURSOR_NUMBER(uint16_t, le16)
CURSOR_NUMBER(uint32_t, le32)
CURSOR_NUMBER(uint64_t, le64)
CURSOR_NUMBER(uint16_t, be16)
CURSOR_NUMBER(uint32_t, be32)
CURSOR_NUMBER(uint64_t, be64)

static inline uint8_t cursor_get_u8(struct cursor *c)
{
	uint8_t *p = cursor_take(c, 1);

	return p ? *p : 0;
}

static inline void cursor_put_u8(struct cursor *c, uint8_t v)
{
	uint8_t *p = cursor_take(c, 1);

	if (p)
		*p = v;
}

#endif
