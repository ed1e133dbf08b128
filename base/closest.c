/* SPDX-License-Identifier: Apache-2.0 */
#include "base/closest.h"

#include "base/util.h"

#include <string.h>

#define COMPARED_MAX 63

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned least = a < b ? a : b;

	return least < c ? least : c;
}

/* Row by row of the table d(i, j): how far a's first i letters are from b's first j. */
unsigned closest_distance(const char *a, const char *b)
{
	unsigned rows[3][COMPARED_MAX + 1];
	unsigned *before = rows[0]; /* row i - 2 */
	unsigned *above = rows[1];
	unsigned *row = rows[2];
	size_t a_len = strnlen(a, COMPARED_MAX);
	size_t b_len = strnlen(b, COMPARED_MAX);

	for (unsigned j = 0; j <= b_len; j++)
		row[j] = j;
	for (unsigned i = 1; i <= a_len; i++) {
		unsigned *oldest = before;

		before = above;
		above = row;
		row = oldest;
		row[0] = i;
		for (unsigned j = 1; j <= b_len; j++) {
			row[j] = min3(above[j] + 1, row[j - 1] + 1,
				      above[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = min3(row[j], before[j - 2] + 1, row[j]);
		}
	}
	return row[b_len];
}

/* A third of the letters may be wrong: beyond that a suggestion misleads. */
void closest_offer(struct closest *c, const char *name)
{
	unsigned distance = closest_distance(c->typed, name);
	bool begins = c->typed[0] && strncmp(c->typed, name, strlen(c->typed)) == 0;

	if (!begins && distance * 3 > strnlen(name, COMPARED_MAX) + 1)
		return;
	if (c->best && distance >= c->distance)
		return;
	c->best = name;
	c->distance = distance;
}
