/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for libFuzzer where there is none: runs a target on each seed file, and then on
 * mutations of them that a fixed generator makes, so that a run can be repeated.
 *
 *   fuzz_xxx RUNS SEED-FILE...
 */
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEEDS_MAX 256
#define INPUT_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seed {
	uint8_t *bytes;
	size_t length;
};

static struct seed seeds[SEEDS_MAX];
static size_t n_seeds;
static uint64_t state = 1;

static uint64_t next(void)
{
	state += UINT64_C(0x9e3779b97f4a7c15);
	return hash_u64(state);
}

static uint64_t below(uint64_t n)
{
	return n ? next() % n : 0;
}

static int seed_load(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct seed *seed = &seeds[n_seeds];

	if (!f)
		return -1;
	seed->bytes = malloc(INPUT_MAX);
	seed->length = seed->bytes ? fread(seed->bytes, 1, INPUT_MAX, f) : 0;
	fclose(f);
	if (!seed->bytes)
		return -1;
	n_seeds++;
	return 0;
}

/* One small change. */
static size_t mutate(uint8_t *bytes, size_t length)
{
	static const uint8_t odd[] = {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, ':', 16, 28};
	size_t at = below(length);
	size_t n;

	switch (below(6)) {
	case 0: /* a bit */
		if (length)
			bytes[at] ^= (uint8_t)(1 << below(8));
		return length;
	case 1: /* an odd byte */
		if (length)
			bytes[at] = odd[below(ARRAY_SIZE(odd))];
		return length;
	case 2: /* cut the end */
		return at;
	case 3: /* take something out */
		n = below(length - at);
		memmove(bytes + at, bytes + at + n, length - at - n);
		return length - n;
	case 4: /* repeat something */
		n = below(min_u64(length - at, INPUT_MAX - length));
		memmove(bytes + at + n, bytes + at, length - at);
		return length + n;
	default: /* append noise */
		n = below(min_u64(64, INPUT_MAX - length));
		for (size_t i = 0; i < n; i++)
			bytes[length + i] = (uint8_t)next();
		return length + n;
	}
}

static void run_mutant(void)
{
	const struct seed *seed = &seeds[below(n_seeds)];
	static uint8_t work[INPUT_MAX];
	size_t length = seed->length;
	uint8_t *exact;

	memcpy(work, seed->bytes, length);
	for (uint64_t i = below(6) + 1; i > 0; i--)
		length = mutate(work, length);
	/* Memory of just that size: reading past it is what the sanitizers see. */
	exact = malloc(length ? length : 1);
	if (!exact)
		exit(1);
	memcpy(exact, work, length);
	LLVMFuzzerTestOneInput(exact, length);
	free(exact);
}

int main(int argc, char **argv)
{
	unsigned long runs = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;

	for (int i = 2; i < argc && n_seeds < SEEDS_MAX; i++) {
		if (seed_load(argv[i]) < 0) {
			perror(argv[i]);
			return 1;
		}
	}
	if (runs == 0 || n_seeds == 0) {
		fprintf(stderr, "usage: %s RUNS SEED-FILE...\n", argv[0]);
		return 2;
	}
	for (size_t i = 0; i < n_seeds; i++)
		LLVMFuzzerTestOneInput(seeds[i].bytes, seeds[i].length);
	for (unsigned long i = 0; i < runs; i++)
		run_mutant();
	for (size_t i = 0; i < n_seeds; i++)
		free(seeds[i].bytes);
	printf("%s: %zu seeds, %lu mutations\n", argv[0], n_seeds, runs);
	return 0;
}
