/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for set-up and background work, and pools for the data path. Data-path code takes from
 * pools that were sized at start: an empty pool is backpressure, never an allocation.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory, or NULL. Free with mem_free. */
void *mem_alloc(size_t size);
void *mem_calloc(size_t n, size_t size);
/* Keeps the contents up to the smaller size; new bytes are not zeroed. NULL leaves `old` alone. */
void *mem_realloc(void *old, size_t size);
void mem_free(void *p);

/* Zeroed memory, page-aligned, for direct I/O; resident only once touched. Free with
 * mem_free_pages. */
void *mem_alloc_pages(size_t size);
void mem_free_pages(void *p, size_t size);
/* Asks for huge pages below memory of mem_alloc_pages; for tables that are touched all over. Best
 * effort: a machine may have them switched off. */
void mem_use_huge_pages(void *p, size_t size);

/* Fixed-size objects, `n` of them, one thread. Objects of at least a page are page-aligned. */
struct pool;
struct pool *pool_new(size_t object_size, size_t n);
void pool_free(struct pool *p); /* NULL is legal; every object must be back */
void *pool_get(struct pool *p); /* NULL when empty; contents are what the last user left */
void pool_put(struct pool *p, void *object);
/* Right after pool_new: for objects that go to and from devices in large pieces. Few large pages
 * are pinned and described to the device faster than many small ones: reading 128 KiB took less
 * than two thirds of the time. Such a pool gives its memory back when all of it has rested. */
void pool_use_huge_pages(struct pool *p);
size_t pool_in_use(const struct pool *p);
size_t pool_available(const struct pool *p);
/* Gives the memory of page-sized objects that were not in use since the last call back to the
 * kernel. False when nothing is left to give back: no need to call again until a pool_get. */
bool pool_trim(struct pool *p);

#endif
