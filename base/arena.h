/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that is given back all at once: what an answer of the control path points at. Not for the
 * data path. One thread at a time.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
	struct arena_block *newest; /* {0} is an empty arena */
};

/* Zeroed and aligned for anything, or NULL. */
void *arena_alloc(struct arena *arena, size_t size);
void *arena_calloc(struct arena *arena, size_t n, size_t size);
/* A copy of the text (NULL: of ""), or NULL when there is no memory. */
char *arena_text(struct arena *arena, const char *text);
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Everything is given back; the arena is empty and may be used again. */
void arena_free(struct arena *arena);

#endif
