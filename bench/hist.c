/* SPDX-License-Identifier: Apache-2.0
 *
 * What is not on the hot path of the histogram.
 */
#include "bench/hist.h"

#include <string.h>

_Static_assert(HIST_BUCKETS == (40 - HIST_SUB_BITS + 1) * 64, "hist_index() ends there");

void hist_reset(struct hist *h)
{
	memset(h, 0, sizeof(*h));
}

void hist_merge(struct hist *into, const struct hist *from)
{
	if (from->count == 0)
		return;
	if (into->count == 0 || from->min < into->min)
		into->min = from->min;
	into->max = max_u64(into->max, from->max);
	into->count += from->count;
	into->sum += from->sum;
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
}

static uint64_t bucket_middle(unsigned i)
{
	unsigned shift;

	if (i < 2 * HIST_SUB)
		return i;
	shift = (i >> HIST_SUB_BITS) - 1;
	return ((uint64_t)(i - (shift << HIST_SUB_BITS)) << shift) + ((uint64_t)1 << shift) / 2;
}

uint64_t hist_quantile(const struct hist *h, double part)
{
	uint64_t rank = (uint64_t)(part * (double)h->count);
	uint64_t seen = 0;

	if (rank >= h->count)
		return h->max;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > rank)
			return max_u64(h->min, min_u64(h->max, bucket_middle(i)));
	}
	return h->max;
}
