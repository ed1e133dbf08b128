/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of things as 128-bit numbers: store UUIDs, and EC2-style ids ("vol-" and 17 hex digits, 68
 * bits).
 */
#ifndef BASE_ID_H
#define BASE_ID_H

#include <stdbool.h>
#include <stdint.h>

struct id {
	uint64_t hi;
	uint64_t lo;
};

#define ID_TEXT_MAX 40

static inline bool id_equal(struct id a, struct id b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

static inline bool id_is_zero(struct id a)
{
	return a.hi == 0 && a.lo == 0;
}

/* By number, as the catalog and the store list them; for qsort. */
int id_compare(const void *a, const void *b);
/* Makes an id of 17 hex digits out of 16 random bytes. */
struct id id_from_random(const uint8_t random[16]);
/* The same in a zone, 1 to 255: the first two digits name it. */
struct id id_in_zone(const uint8_t random[16], unsigned zone);
unsigned id_zone(struct id id);
/* "vol-0123456789abcdef0" for prefix "vol". Returns `text`. */
const char *id_format(struct id id, const char *prefix, char text[ID_TEXT_MAX]);
/* Takes just that form, lower case. 0 or -EINVAL. */
int id_parse(const char *text, const char *prefix, struct id *ret_id);
/* "%016x%016x" for UUIDs in messages. Returns `text`. */
const char *uuid_format(struct id id, char text[ID_TEXT_MAX]);

#endif
