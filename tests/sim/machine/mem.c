/* SPDX-License-Identifier: Apache-2.0
 *
 * base/mem.c with every allocation of a life on a list, so that the end of the life can free what
 * the abandoned daemon held. It is linked instead of base/mem.c. Pages get a guard page behind
 * them.
 */
#include "tests/sim/machine/machine.h"

#include "base/check.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD 4096

static bool in_life;
static struct list blocks = {&blocks, &blocks};
static struct list regions = {&regions, &regions};
static size_t n_blocks; /* and regions, of this life */

/* Stands before each block. */
struct block_head {
	struct list node;
	size_t size;
	size_t of_life;
};

struct region {
	struct list node;
	void *p;
	size_t size;
	bool of_life;
};

static void *tracked_calloc(size_t n, size_t size)
{
	struct block_head *b;
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes))
		return NULL;
	b = calloc(1, sizeof(*b) + bytes);
	if (!b)
		return NULL;
	b->size = bytes;
	b->of_life = in_life;
	n_blocks += in_life;
	list_add_tail(&blocks, &b->node);
	return b + 1;
}

static void tracked_free(void *p)
{
	struct block_head *b;

	if (!p)
		return;
	b = (struct block_head *)p - 1;
	n_blocks -= b->of_life;
	list_remove(&b->node);
	free(b);
}

static void *tracked_realloc(void *old, size_t size)
{
	void *p = tracked_calloc(1, size);

	if (p && old) {
		size_t was = ((struct block_head *)old - 1)->size;

		memcpy(p, old, was < size ? was : size);
		tracked_free(old);
	}
	return p;
}

static void *tracked_map(size_t size)
{
	struct region *r = calloc(1, sizeof(*r));

	CHECK(r);
	r->p = mmap(NULL, size + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->p == MAP_FAILED) {
		free(r);
		return MAP_FAILED;
	}
	CHECK(mprotect((char *)r->p + size, GUARD, PROT_NONE) == 0);
	r->size = size;
	r->of_life = in_life;
	n_blocks += in_life;
	list_add_tail(&regions, &r->node);
	return r->p;
}

static void region_free(struct region *r)
{
	n_blocks -= r->of_life;
	list_remove(&r->node);
	munmap(r->p, r->size + GUARD);
	free(r);
}

static void tracked_unmap(void *p, size_t size)
{
	list_for_each (&regions, node) {
		struct region *r = container_of(node, struct region, node);

		if (r->p == p) {
			CHECK(r->size == size);
			region_free(r);
			return;
		}
	}
	CHECK(!"mem_free_pages of pages that mem_alloc_pages did not give");
}

void mem_life_begin(void)
{
	in_life = true;
}

void mem_life_end(void)
{
	list_for_each_safe (&blocks, node) {
		struct block_head *b = container_of(node, struct block_head, node);

		if (b->of_life)
			tracked_free(b + 1);
	}
	list_for_each_safe (&regions, node) {
		struct region *r = container_of(node, struct region, node);

		if (r->of_life)
			region_free(r);
	}
	in_life = false;
}

size_t mem_life_in_use(void)
{
	return n_blocks;
}

#define calloc                           tracked_calloc
#define realloc                          tracked_realloc
#define free                             tracked_free
#define mmap(addr, len, prot, fl, fd, o) tracked_map(len)
#define munmap                           tracked_unmap
#include "base/mem.c"
