/* SPDX-License-Identifier: Apache-2.0 */
#include "nbd/memory.h"

#include "base/check.h"
#include "base/util.h"
#include "nbd/limits.h"

#include <errno.h>

#define PAGE 4096

/* Sizes of the upper classes have a page more, for payloads that do not begin at a page. Shares are
 * in parts of 64 of the budget. */
/* clang-format off */
static const struct {
	size_t size;
	unsigned share;
	unsigned least;
} classes[] = {
    [NBD_CLASS_4K] = {4 * KiB, 4, 16},
    [NBD_CLASS_16K] = {16 * KiB, 4, 8},
    [NBD_CLASS_64K] = {64 * KiB, 8, 4},
    [NBD_CLASS_256K] = {256 * KiB + PAGE, 14, 2},
    [NBD_CLASS_1M] = {MiB + PAGE, 7, 2},
    [NBD_CLASS_4M] = {4 * MiB + PAGE, 10, 1},
    [NBD_CLASS_32M] = {NBD_MAX_PAYLOAD + PAGE, 17, 1},
};
/* clang-format on */

int nbd_memory_init(struct nbd_memory *memory, uint64_t budget, size_t slot_size)
{
	for (int i = 0; i < NBD_N_CLASSES; i++)
		list_init(&memory->waiting[i]);
	memory->pools[NBD_CLASS_SLOT] = pool_new(slot_size, NBD_SLOTS_PER_LOOP);
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		size_t n = (size_t)(budget / 64 * classes[i].share / classes[i].size);

		memory->pools[i] = pool_new(classes[i].size, max_u64(n, classes[i].least));
	}
	for (int i = 0; i < NBD_N_CLASSES; i++) {
		if (!memory->pools[i])
			return -ENOMEM;
	}
	for (int i = NBD_CLASS_64K; i <= NBD_CLASS_32M; i++)
		pool_use_huge_pages(memory->pools[i]);
	return 0;
}

void nbd_memory_free(struct nbd_memory *memory)
{
	for (int i = 0; i < NBD_N_CLASSES; i++)
		pool_free(memory->pools[i]);
}

enum nbd_class nbd_memory_class(uint64_t skew, uint64_t length)
{
	enum nbd_class kind = NBD_CLASS_4K;

	while (classes[kind].size < skew + length) {
		kind++;
		CHECK(kind < ARRAY_SIZE(classes));
	}
	return kind;
}

bool nbd_memory_wanted(const struct nbd_memory *memory, const struct list *except)
{
	for (int i = 0; i < NBD_N_CLASSES; i++) {
		/* One who waits is in one line. */
		const struct list *first = memory->waiting[i].next;

		if (first == except)
			first = first->next;
		if (first != &memory->waiting[i])
			return true;
	}
	return false;
}

bool nbd_memory_trim(struct nbd_memory *memory)
{
	bool more = false;

	for (int i = 0; i < NBD_N_CLASSES; i++)
		more |= pool_trim(memory->pools[i]);
	return more;
}
