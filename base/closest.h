/* SPDX-License-Identifier: Apache-2.0
 *
 * "Did you mean ...?": which of some names a person most likely meant.
 */
#ifndef BASE_CLOSEST_H
#define BASE_CLOSEST_H

#include <stddef.h>

/* Letters to change, add, drop or swap with their neighbour to get from a to b. Names longer than
 * 63 bytes are compared up to there. */
unsigned closest_distance(const char *a, const char *b);

/* Offered one name after the other, keeps the one that is nearest to `typed`. */
struct closest {
	const char *typed;
	const char *best; /* NULL: none was near enough to be meant */
	unsigned distance;
};
void closest_offer(struct closest *c, const char *name);

#endif
