/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include "base/mem.h"
#include "base/util.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define BLOCK_BYTES 8192
#define ALIGNMENT   _Alignof(max_align_t)

struct arena_block {
	struct arena_block *older;
	size_t size;
	size_t used;
	_Alignas(max_align_t) unsigned char bytes[];
};

void *arena_alloc(struct arena *arena, size_t size)
{
	struct arena_block *b = arena->newest;
	void *p;

	if (size > SIZE_MAX / 2)
		return NULL;
	size = round_up(size, ALIGNMENT);
	if (!b || b->size - b->used < size) {
		size_t room = max_u64(size, BLOCK_BYTES);

		b = mem_alloc(sizeof(*b) + room);
		if (!b)
			return NULL;
		b->size = room;
		b->older = arena->newest;
		arena->newest = b;
	}
	p = b->bytes + b->used;
	b->used += size;
	return p;
}

void *arena_calloc(struct arena *arena, size_t n, size_t size)
{
	if (size && n > SIZE_MAX / 2 / size)
		return NULL;
	return arena_alloc(arena, n * size);
}

char *arena_text(struct arena *arena, const char *text)
{
	size_t length = text ? strlen(text) : 0;
	char *copy = arena_alloc(arena, length + 1);

	if (copy && length > 0)
		memcpy(copy, text, length);
	return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
	va_list args;
	va_list again;
	char *text = NULL;
	int length;

	va_start(args, format);
	va_copy(again, args);
	length = vsnprintf(NULL, 0, format, args);
	if (length >= 0)
		text = arena_alloc(arena, (size_t)length + 1);
	if (text)
		vsnprintf(text, (size_t)length + 1, format, again);
	va_end(again);
	va_end(args);
	return text;
}

void arena_free(struct arena *arena)
{
	struct arena_block *b = arena->newest;

	while (b) {
		struct arena_block *older = b->older;

		mem_free(b);
		b = older;
	}
	arena->newest = NULL;
}
