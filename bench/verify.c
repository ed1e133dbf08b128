/* SPDX-License-Identifier: Apache-2.0
 *
 * A table of versions, one entry a block.
 */
#include "bench/verify.h"

#include "base/check.h"
#include "base/mem.h"

struct block {
	uint32_t version;
	bool claimed;
	bool known;
};

struct verify {
	uint64_t seed;
	uint64_t compared;
	uint64_t n;
	uint32_t block_size;
	struct block *blocks;
};

struct verify *verify_new(uint64_t size, uint32_t block_size, uint64_t seed)
{
	struct verify *v = mem_alloc(sizeof(*v));

	if (!v)
		return NULL;
	v->seed = seed;
	v->block_size = block_size;
	v->n = size / block_size;
	v->blocks = mem_calloc(v->n, sizeof(v->blocks[0]));
	if (!v->blocks) {
		mem_free(v);
		return NULL;
	}
	return v;
}

void verify_free(struct verify *v)
{
	if (!v)
		return;
	mem_free(v->blocks);
	mem_free(v);
}

bool verify_claim(struct verify *v, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / v->block_size;
	uint64_t end = (offset + length) / v->block_size;

	CHECK(end <= v->n);
	for (uint64_t i = first; i < end; i++)
		if (v->blocks[i].claimed)
			return false;
	for (uint64_t i = first; i < end; i++)
		v->blocks[i].claimed = true;
	return true;
}

void verify_stamp(struct verify *v, uint64_t offset, uint64_t length, void *buf)
{
	uint8_t *p = buf;

	for (uint64_t at = 0; at < length; at += v->block_size) {
		struct block *b = &v->blocks[(offset + at) / v->block_size];
		struct stamp s = {.seed = v->seed, .offset = offset + at, .version = ++b->version};

		stamp_fill(p + at, v->block_size, s);
	}
}

void verify_written(struct verify *v, uint64_t offset, uint64_t length, bool failed)
{
	for (uint64_t at = 0; at < length; at += v->block_size) {
		struct block *b = &v->blocks[(offset + at) / v->block_size];

		CHECK(b->claimed);
		b->claimed = false;
		b->known = !failed;
	}
}

bool verify_read(struct verify *v, uint64_t offset, uint64_t length, const void *buf,
		 char text[STAMP_TEXT_MAX])
{
	const uint8_t *p = buf;
	bool good = true;

	for (uint64_t at = 0; at < length; at += v->block_size) {
		struct block *b = &v->blocks[(offset + at) / v->block_size];
		struct stamp s = {.seed = v->seed, .offset = offset + at, .version = b->version};

		CHECK(b->claimed);
		b->claimed = false;
		if (!p || !b->known)
			continue;
		v->compared++;
		good = good && stamp_check(p + at, v->block_size, s, text);
	}
	return good;
}

uint64_t verify_compared(const struct verify *v)
{
	return v->compared;
}

bool verify_known(const struct verify *v, uint64_t offset)
{
	return v->blocks[offset / v->block_size].known;
}
