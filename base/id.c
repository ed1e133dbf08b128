/* SPDX-License-Identifier: Apache-2.0 */
#include "base/id.h"

#include "base/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ID_DIGITS 17

struct id id_from_random(const uint8_t random[16])
{
	struct id id = {.hi = random[0] & 0xf, .lo = get_le64(random + 8)};

	return id;
}

struct id id_in_zone(const uint8_t random[16], unsigned zone)
{
	struct id id = id_from_random(random);

	id.hi = zone >> 4 & 0xf;
	id.lo = id.lo >> 4 | (uint64_t)(zone & 0xf) << 60;
	return id;
}

unsigned id_zone(struct id id)
{
	return (unsigned)(id.hi & 0xf) << 4 | (unsigned)(id.lo >> 60);
}

const char *id_format(struct id id, const char *prefix, char text[ID_TEXT_MAX])
{
	snprintf(text, ID_TEXT_MAX, "%s-%01x%016" PRIx64, prefix, (unsigned)(id.hi & 0xf), id.lo);
	return text;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int id_parse(const char *text, const char *prefix, struct id *ret_id)
{
	size_t prefix_length = strlen(prefix);
	struct id id = {0};

	if (strlen(text) != prefix_length + 1 + ID_DIGITS)
		return -EINVAL;
	if (memcmp(text, prefix, prefix_length) != 0 || text[prefix_length] != '-')
		return -EINVAL;
	text += prefix_length + 1;
	for (int i = 0; i < ID_DIGITS; i++) {
		int digit = hex_digit(text[i]);

		if (digit < 0)
			return -EINVAL;
		id.hi = id.hi << 4 | id.lo >> 60;
		id.lo = id.lo << 4 | (uint64_t)digit;
	}
	*ret_id = id;
	return 0;
}

const char *uuid_format(struct id id, char text[ID_TEXT_MAX])
{
	snprintf(text, ID_TEXT_MAX, "%016" PRIx64 "%016" PRIx64, id.hi, id.lo);
	return text;
}

int id_compare(const void *a, const void *b)
{
	const struct id *x = a;
	const struct id *y = b;

	if (x->hi != y->hi)
		return x->hi < y->hi ? -1 : 1;
	return x->lo < y->lo ? -1 : x->lo > y->lo;
}
