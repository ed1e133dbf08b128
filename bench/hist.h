/* SPDX-License-Identifier: Apache-2.0
 *
 * A histogram of nanoseconds, log-linear: each power of two has 64 buckets, so a percentile is
 * within 0.8 % of the truth whatever its size. Recording is an index and an increment. One thread.
 */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include "base/util.h"

#define HIST_SUB_BITS 6
#define HIST_SUB      (1u << HIST_SUB_BITS)
/* Values of 2^40 ns (18 minutes) and more share the last bucket. */
#define HIST_BUCKETS ((40 - HIST_SUB_BITS + 1) * HIST_SUB)

struct hist {
	uint64_t count;
	uint64_t sum;
	uint64_t min;
	uint64_t max;
	uint64_t bucket[HIST_BUCKETS];
};

static inline unsigned hist_index(uint64_t ns)
{
	unsigned shift;

	if (ns < HIST_SUB)
		return (unsigned)ns;
	if (ns >> 40)
		return HIST_BUCKETS - 1;
	shift = 63 - (unsigned)__builtin_clzll(ns) - HIST_SUB_BITS;
	return (shift << HIST_SUB_BITS) + (unsigned)(ns >> shift);
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
	h->bucket[hist_index(ns)]++;
	h->sum += ns;
	if (h->count++ == 0 || ns < h->min)
		h->min = ns;
	if (ns > h->max)
		h->max = ns;
}

void hist_reset(struct hist *h);
void hist_merge(struct hist *into, const struct hist *from);
/* The middle of the bucket that holds the given part (0 to 1) of all values; 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double part);

#endif
