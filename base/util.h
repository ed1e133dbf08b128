/* SPDX-License-Identifier: Apache-2.0
 *
 * Small arithmetic that every layer needs. No state.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KiB ((uint64_t)1 << 10)
#define MiB ((uint64_t)1 << 20)
#define GiB ((uint64_t)1 << 30)
#define TiB ((uint64_t)1 << 40)

#define NSEC_PER_MSEC ((uint64_t)1000000)
#define NSEC_PER_SEC  ((uint64_t)1000000000)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Down or up to a multiple of n, a power of two. */
static inline uint64_t round_down(uint64_t x, uint64_t n)
{
	return x & ~(n - 1);
}

static inline uint64_t round_up(uint64_t x, uint64_t n)
{
	return (x + n - 1) & ~(n - 1);
}

static inline bool is_aligned(uint64_t x, uint64_t n)
{
	return (x & (n - 1)) == 0;
}

/* A well mixed 64-bit value of x (the splitmix64 finaliser), for hash tables. */
static inline uint64_t hash_u64(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

#endif
