/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/machine/image.h"

#include "base/util.h"
#include "tests/sim/machine/sim.h"

#include <string.h>

#define CHUNK ((size_t)65536)

struct chunk {
	size_t refs;
	uint8_t bytes[CHUNK];
};

static void chunk_put(struct chunk *c)
{
	if (c && --c->refs == 0)
		sim_release(c);
}

static void make_room(struct image *image, size_t n)
{
	struct chunk **wider;
	size_t room = max_u64(n, image->n * 2);

	if (n <= image->n)
		return;
	wider = sim_alloc(room * sizeof(struct chunk *));
	if (image->n)
		memcpy(wider, image->chunks, image->n * sizeof(*wider));
	sim_release(image->chunks);
	image->chunks = wider;
	image->n = room;
}

/* The chunk, for this image alone. */
static struct chunk *own_chunk(struct image *image, size_t i)
{
	struct chunk *c;

	make_room(image, i + 1);
	c = image->chunks[i];
	if (c && c->refs == 1)
		return c;
	image->chunks[i] = sim_alloc(sizeof(*c));
	image->chunks[i]->refs = 1;
	if (c) {
		memcpy(image->chunks[i]->bytes, c->bytes, CHUNK);
		chunk_put(c);
	}
	return image->chunks[i];
}

void image_read(const struct image *image, uint64_t offset, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		size_t i = offset / CHUNK;
		size_t at = offset % CHUNK;
		size_t part = min_u64(len, CHUNK - at);

		if (i < image->n && image->chunks[i])
			memcpy(p, image->chunks[i]->bytes + at, part);
		else
			memset(p, 0, part);
		p += part;
		offset += part;
		len -= part;
	}
}

/* Zeroes [at, at + len) of chunk i. */
static void zero_part(struct image *image, size_t i, size_t at, size_t len)
{
	if (i >= image->n || !image->chunks[i])
		return;
	if (len == CHUNK) {
		chunk_put(image->chunks[i]);
		image->chunks[i] = NULL;
	} else {
		memset(own_chunk(image, i)->bytes + at, 0, len);
	}
}

void image_write(struct image *image, uint64_t offset, const void *buf, uint64_t len)
{
	const uint8_t *p = buf;

	image->size = max_u64(image->size, offset + len);
	while (len > 0) {
		size_t i = offset / CHUNK;
		size_t at = offset % CHUNK;
		size_t part = min_u64(len, CHUNK - at);

		if (p) {
			memcpy(own_chunk(image, i)->bytes + at, p, part);
			p += part;
		} else {
			zero_part(image, i, at, part);
		}
		offset += part;
		len -= part;
	}
}

void image_resize(struct image *image, uint64_t size)
{
	if (size < image->size)
		image_write(image, size, NULL, image->size - size);
	image->size = size;
}

void image_become(struct image *image, const struct image *from)
{
	image_free(image);
	make_room(image, from->n);
	for (size_t i = 0; i < from->n; i++) {
		image->chunks[i] = from->chunks[i];
		if (from->chunks[i])
			from->chunks[i]->refs++;
	}
	image->size = from->size;
}

void image_free(struct image *image)
{
	for (size_t i = 0; i < image->n; i++)
		chunk_put(image->chunks[i]);
	sim_release(image->chunks);
	*image = (struct image){0};
}
