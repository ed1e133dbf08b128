/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include "base/check.h"
#include "base/util.h"

#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096

void *mem_alloc(size_t size)
{
	return calloc(1, size);
}

void *mem_calloc(size_t n, size_t size)
{
	return calloc(n, size);
}

void *mem_realloc(void *old, size_t size)
{
	return realloc(old, size);
}

void mem_free(void *p)
{
	free(p);
}

void *mem_alloc_pages(size_t size)
{
	void *p = mmap(NULL, round_up(size, PAGE), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void mem_free_pages(void *p, size_t size)
{
	if (p)
		munmap(p, round_up(size, PAGE));
}

void mem_use_huge_pages(void *p, size_t size)
{
	madvise(p, round_up(size, PAGE), MADV_HUGEPAGE);
}

struct pool {
	char *objects;
	size_t stride;
	size_t n;
	size_t n_free;
	size_t n_clean; /* at the bottom of the stack: objects whose pages are not resident */
	size_t n_idle;  /* least n_free since the last pool_trim */
	bool huge;
	uint32_t free_index[]; /* a stack of the objects at hand */
};

struct pool *pool_new(size_t object_size, size_t n)
{
	struct pool *p = mem_alloc(sizeof(*p) + n * sizeof(p->free_index[0]));

	if (!p)
		return NULL;
	p->stride = round_up(object_size, object_size >= PAGE ? PAGE : 64);
	p->n = n;
	p->n_free = n;
	p->n_clean = n;
	p->n_idle = n;
	p->objects = mem_alloc_pages(p->stride * n);
	if (!p->objects) {
		mem_free(p);
		return NULL;
	}
	/* The last freed is the next taken, and a fresh pool starts at its low end: few pages
	 * touched. */
	for (size_t i = 0; i < n; i++)
		p->free_index[i] = (uint32_t)(n - 1 - i);
	return p;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	CHECK(p->n_free == p->n);
	mem_free_pages(p->objects, p->stride * p->n);
	mem_free(p);
}

void *pool_get(struct pool *p)
{
	if (p->n_free == 0)
		return NULL;
	p->n_free--;
	p->n_clean = min_u64(p->n_clean, p->n_free);
	p->n_idle = min_u64(p->n_idle, p->n_free);
	return p->objects + p->stride * p->free_index[p->n_free];
}

void pool_put(struct pool *p, void *object)
{
	size_t offset = (size_t)((char *)object - p->objects);

	CHECK(p->n_free < p->n);
	CHECK(offset % p->stride == 0);
	CHECK(offset / p->stride < p->n);
	p->free_index[p->n_free++] = (uint32_t)(offset / p->stride);
}

size_t pool_in_use(const struct pool *p)
{
	return p->n - p->n_free;
}

size_t pool_available(const struct pool *p)
{
	return p->n_free;
}

void pool_use_huge_pages(struct pool *p)
{
	mem_use_huge_pages(p->objects, p->stride * p->n);
	p->huge = true;
}

/* A huge page that is given back in part is broken up, and costs more than it did; so all or
 * none. */
static void pool_trim_huge(struct pool *p)
{
	if (p->n_idle < p->n || p->n_clean == p->n)
		return;
	madvise(p->objects, p->stride * p->n, MADV_DONTNEED);
	p->n_clean = p->n;
}

/* Free objects are a stack, so those at its bottom rest longest. */
static void pool_trim_small(struct pool *p)
{
	for (size_t i = p->n_clean; i < p->n_idle; i++)
		madvise(p->objects + p->stride * p->free_index[i], p->stride, MADV_DONTNEED);
	p->n_clean = max_u64(p->n_clean, p->n_idle);
}

bool pool_trim(struct pool *p)
{
	if (p->stride < PAGE)
		return false;
	if (p->huge)
		pool_trim_huge(p);
	else
		pool_trim_small(p);
	p->n_idle = p->n_free;
	return p->n_clean < p->n;
}
