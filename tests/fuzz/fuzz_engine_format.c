/* SPDX-License-Identifier: Apache-2.0
 *
 * The parsers of everything that the engine reads from a disk. The first byte chooses one. A fuzzer
 * can't guess a CRC, so that checksums are made right before each try: what must hold then is what
 * comes after them.
 */
#include "base/crc32c.h"
#include "base/util.h"
#include "engine/format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct id volume = {.hi = 1, .lo = 2};

static void make_right(uint8_t *buf, size_t len, uint64_t magic)
{
	uint32_t seed = (uint32_t)hash_u64(volume.lo ^ hash_u64(volume.hi));
	uint32_t length;

	memcpy(buf, &magic, 8);
	memset(buf + 12, 0, 4);
	buf[12] = FORMAT_VERSION;
	memcpy(buf + 24, &volume.hi, 8);
	memcpy(buf + 32, &volume.lo, 8);
	memcpy(&length, buf + 16, 4);
	if (length < FORMAT_PROLOGUE || length > len)
		length = (uint32_t)len;
	memcpy(buf + 16, &length, 4);
	length = crc32c(seed, buf + 12, length - 12);
	memcpy(buf + 8, &length, 4);
}

static void try_record(uint8_t *buf, size_t len)
{
	struct record_header h;
	struct run run;

	make_right(buf, len, MAGIC_RECORD);
	if (record_decode(buf, len, volume, &h) < 0)
		return;
	for (uint32_t i = 0; i < h.n_runs; i++)
		record_run(buf, i, &run);
	for (uint32_t i = 0; i < h.n_sums; i++)
		record_sum(buf, h.n_runs, i);
}

static void try_blob(uint8_t *buf, size_t len, uint8_t kind)
{
	static struct leaf_content leaf;
	static struct blob_ref refs[INDEX_LEAVES];
	static struct usage_entry usage[USAGE_SEGMENTS];
	static struct superblock sb;
	struct root_content root;
	struct blob_ref ref;
	uint32_t number;
	uint32_t sum;
	static const uint64_t magics[] = {MAGIC_LEAF, MAGIC_INDEX, MAGIC_USAGE, MAGIC_ROOT,
					  MAGIC_SUPERBLOCK};

	make_right(buf, len, magics[kind % ARRAY_SIZE(magics)]);
	memcpy(&sum, buf + 8, 4);
	memcpy(&number, buf + 40, 4);
	leaf_decode(buf, len, volume, number, sum, &leaf);
	index_decode(buf, len, volume, number, sum, refs);
	usage_decode(buf, len, volume, number, sum, usage);
	superblock_decode(buf, len, volume, &sb);
	if (root_decode(buf, len, volume, sum, &root) == 0)
		for (uint32_t i = 0; i < root.n_index + root.n_usage; i++)
			root_get_ref(buf, i, &number, &ref);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *buf;

	if (size < 1 + 64)
		return 0;
	/* Of just that length, so that a sanitizer sees each step beyond it. */
	buf = malloc(size - 1);
	memcpy(buf, data + 1, size - 1);
	if (data[0] % 6 == 0)
		try_record(buf, size - 1);
	else
		try_blob(buf, size - 1, data[0] % 6 - 1);
	free(buf);
	return 0;
}
