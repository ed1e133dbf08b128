/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and checking stamped contents.
 */
#include "bench/stamp.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WORDS (STAMP_SECTOR / sizeof(uint64_t))

static void sector_fill(uint64_t *word, struct stamp s);
static void describe(const uint64_t *word, struct stamp want, char text[STAMP_TEXT_MAX]);

void stamp_fill(void *buf, size_t len, struct stamp stamp)
{
	uint8_t *p = buf;

	for (size_t at = 0; at < len; at += STAMP_SECTOR) {
		struct stamp s = stamp;

		s.offset += at;
		sector_fill((uint64_t *)(void *)(p + at), s);
	}
}

static void sector_fill(uint64_t *word, struct stamp s)
{
	uint64_t mix = hash_u64(s.seed ^ hash_u64(s.offset + 1)) + s.version;

	word[0] = s.seed;
	word[1] = s.offset;
	word[2] = s.version;
	for (size_t i = 3; i < WORDS; i++)
		word[i] = hash_u64(mix + i * UINT64_C(0x9e3779b97f4a7c15));
}

bool stamp_check(const void *buf, size_t len, struct stamp stamp, char text[STAMP_TEXT_MAX])
{
	const uint8_t *p = buf;
	uint64_t want[WORDS];

	for (size_t at = 0; at < len; at += STAMP_SECTOR) {
		struct stamp s = stamp;

		s.offset += at;
		sector_fill(want, s);
		if (memcmp(want, p + at, STAMP_SECTOR) != 0) {
			memcpy(want, p + at, STAMP_SECTOR);
			describe(want, s, text);
			return false;
		}
	}
	return true;
}

static void describe(const uint64_t *word, struct stamp want, char text[STAMP_TEXT_MAX])
{
	int n = snprintf(text, STAMP_TEXT_MAX,
			 "sector at %" PRIu64 " should be version %" PRIu64 ", but is ",
			 want.offset, want.version);
	char *rest = text + n;
	size_t left = STAMP_TEXT_MAX - (size_t)n;
	bool zero = true;

	for (size_t i = 0; i < WORDS; i++)
		zero = zero && word[i] == 0;
	if (zero)
		snprintf(rest, left, "all zeroes");
	else if (word[0] != want.seed)
		snprintf(rest, left, "not from this run (begins %016" PRIx64 ")", word[0]);
	else if (word[1] != want.offset || word[2] != want.version)
		snprintf(rest, left, "version %" PRIu64 " of the sector at %" PRIu64, word[2],
			 word[1]);
	else
		snprintf(rest, left, "damaged behind its first 24 bytes");
}
