/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a fake file: sparse, in chunks that images share until one of them changes.
 */
#ifndef TESTS_SIM_MACHINE_IMAGE_H
#define TESTS_SIM_MACHINE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

struct chunk;

/* All zeroes is an empty image. */
struct image {
	struct chunk **chunks; /* NULL: zeroes */
	size_t n;
	uint64_t size; /* bytes; what is past it reads as zeroes */
};

void image_read(const struct image *image, uint64_t offset, void *buf, size_t len);
/* `buf` NULL writes zeroes. The size follows if the range goes past it. */
void image_write(struct image *image, uint64_t offset, const void *buf, uint64_t len);
void image_resize(struct image *image, uint64_t size);
/* `image` becomes what `from` is. */
void image_become(struct image *image, const struct image *from);
void image_free(struct image *image);

#endif
