/* SPDX-License-Identifier: Apache-2.0
 *
 * Records and the superblock. The map's blobs are in format_map.c.
 */
#include "engine/format.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "engine/format_private.h"

#include <errno.h>

#define PIN_NAMES 2552 /* offset in the superblock */

static uint32_t volume_seed(struct id volume)
{
	return (uint32_t)hash_u64(volume.lo ^ hash_u64(volume.hi));
}

uint32_t block_sum(struct id volume, uint64_t lba, const void *block)
{
	uint64_t place = hash_u64(((uint64_t)volume_seed(volume) << 32) ^ lba);

	return crc32c((uint32_t)place ^ (uint32_t)(place >> 32), block, BLOCK_SIZE);
}

void prologue_put(struct cursor *c, uint64_t magic, struct id volume)
{
	cursor_put_le64(c, magic);
	cursor_put_le32(c, 0); /* the checksum, by prologue_seal */
	cursor_put_le16(c, FORMAT_VERSION);
	cursor_put_le16(c, 0);
	cursor_put_le32(c, 0); /* the length, by prologue_seal */
	cursor_put_le32(c, 0);
	cursor_put_le64(c, volume.hi);
	cursor_put_le64(c, volume.lo);
}

uint32_t prologue_seal(uint8_t *buf, size_t len, struct id volume)
{
	uint32_t sum;

	CHECK(len >= FORMAT_PROLOGUE);
	put_le32(buf + 16, (uint32_t)len);
	sum = crc32c(volume_seed(volume), buf + 12, len - 12);
	put_le32(buf + 8, sum);
	return sum;
}

int prologue_check(const uint8_t *buf, size_t len, uint64_t magic, struct id volume,
		   size_t *ret_len)
{
	uint32_t length;

	if (len < FORMAT_PROLOGUE || get_le64(buf) != magic)
		return -ENOENT;
	if (get_le64(buf + 24) != volume.hi || get_le64(buf + 32) != volume.lo)
		return -ENOENT;
	length = get_le32(buf + 16);
	if (length < FORMAT_PROLOGUE || length > STRUCTURE_MAX)
		return -EBADMSG;
	*ret_len = length;
	if (length > len)
		return -ENODATA;
	if (crc32c(volume_seed(volume), buf + 12, length - 12) != get_le32(buf + 8))
		return -EBADMSG;
	/* Only a sound structure can be trusted to say that it is newer. */
	if (get_le16(buf + 12) != FORMAT_VERSION || get_le16(buf + 14) != 0)
		return -ENOTSUP;
	return 0;
}

/* ---- Records ----------------------------------------------------------------------------------
 */

size_t record_header_bytes(uint32_t n_runs, uint32_t n_sums)
{
	return RECORD_FIXED + (size_t)n_runs * RUN_BYTES + (size_t)n_sums * 4;
}

static void run_encode(struct cursor *c, const struct run *run)
{
	cursor_put_le64(c, run->lba);
	cursor_put_le64(c, run->blocks);
	cursor_put_u8(c, run->type);
	cursor_put_u8(c, run->flags);
	cursor_put_u8(c, 0); /* key slot */
	cursor_put_u8(c, 0); /* codec */
	cursor_put_le32(c, run->payload_offset);
	cursor_put_le32(c, run->stored);
	cursor_put_le32(c, 0);
	cursor_put_le64(c, run->nonce);
	cursor_put_le64(c, run->argument);
}

void record_encode(uint8_t *buf, struct record_header *h, const struct run *runs,
		   const uint32_t *sums)
{
	size_t used = record_header_bytes(h->n_runs, h->n_sums);
	struct cursor c = cursor_over(buf, used);

	CHECK(used <= h->header_length);
	prologue_put(&c, MAGIC_RECORD, h->volume);
	cursor_put_le64(&c, h->incarnation);
	cursor_put_le64(&c, h->sequence);
	cursor_put_le64(&c, h->durable);
	cursor_put_le32(&c, h->previous);
	cursor_put_le32(&c, h->generation);
	cursor_put_le64(&c, h->segment);
	cursor_put_le32(&c, h->offset / BLOCK_SECTOR);
	cursor_put_le32(&c, h->header_length / BLOCK_SECTOR);
	cursor_put_le32(&c, h->payload_length / BLOCK_SECTOR);
	cursor_put_le32(&c, h->n_runs);
	cursor_put_le32(&c, h->n_sums);
	cursor_put_le32(&c, 0);
	cursor_put_le64(&c, h->owner_term);
	cursor_put_le64(&c, 0);
	cursor_put_le64(&c, 0);
	for (uint32_t i = 0; i < h->n_runs; i++)
		run_encode(&c, &runs[i]);
	for (uint32_t i = 0; i < h->n_sums; i++)
		cursor_put_le32(&c, sums[i]);
	CHECK(!c.bad);
	CHECK(c.left == 0);
	memset(buf + used, 0, h->header_length - used);
	h->checksum = prologue_seal(buf, used, h->volume);
}

static void record_fields(const uint8_t *buf, struct record_header *h)
{
	h->volume.hi = get_le64(buf + 24);
	h->volume.lo = get_le64(buf + 32);
	h->checksum = get_le32(buf + 8);
	h->incarnation = get_le64(buf + 40);
	h->sequence = get_le64(buf + 48);
	h->durable = get_le64(buf + 56);
	h->previous = get_le32(buf + 64);
	h->generation = get_le32(buf + 68);
	h->segment = get_le64(buf + 72);
	h->offset = get_le32(buf + 80) * BLOCK_SECTOR;
	h->header_length = get_le32(buf + 84) * BLOCK_SECTOR;
	h->payload_length = get_le32(buf + 88) * BLOCK_SECTOR;
	h->n_runs = get_le32(buf + 92);
	h->n_sums = get_le32(buf + 96);
	h->owner_term = get_le64(buf + 104);
}

/* What a bug of a writer could get wrong though the checksum is right. */
static int record_runs_check(const uint8_t *buf, const struct record_header *h)
{
	uint64_t sums = 0;

	for (uint32_t i = 0; i < h->n_runs; i++) {
		struct run run;

		record_run(buf, i, &run);
		if (run.type < RUN_WRITE || run.type > RUN_PAD) {
			if (run.flags & RUN_MUST_UNDERSTAND)
				return -ENOTSUP;
			continue;
		}
		if (run.lba > VOLUME_SIZE_MAX / BLOCK_SIZE ||
		    run.blocks > VOLUME_SIZE_MAX / BLOCK_SIZE)
			return -EBADMSG;
		if (run.type == RUN_MOVE && run.blocks <= RECORD_BLOCKS_MAX)
			sums += run.blocks;
		if (run.type == RUN_SNAPSHOT && h->n_runs != 1)
			return -EBADMSG;
		if (!run_has_payload(&run))
			continue;
		sums += run.blocks;
		if (run.blocks > RECORD_BLOCKS_MAX ||
		    run.stored != run.blocks * (BLOCK_SIZE / BLOCK_SECTOR))
			return -EBADMSG;
		if ((uint64_t)run.payload_offset + run.stored > h->payload_length / BLOCK_SECTOR)
			return -EBADMSG;
	}
	return sums == h->n_sums ? 0 : -EBADMSG;
}

int record_decode(const uint8_t *buf, size_t len, struct id volume, struct record_header *ret_h)
{
	struct record_header h;
	size_t used;
	int r = prologue_check(buf, len, MAGIC_RECORD, volume, &used);

	if (r == -ENODATA) {
		if (used > RECORD_HEADER_MAX)
			return -EBADMSG;
		ret_h->header_length = (uint32_t)used;
		return -ENODATA;
	}
	if (r < 0)
		return r;
	if (used < RECORD_FIXED)
		return -EBADMSG;
	record_fields(buf, &h);
	if (h.n_runs > RECORD_RUNS_MAX || h.n_sums > RECORD_BLOCKS_MAX)
		return -EBADMSG;
	if (used != record_header_bytes(h.n_runs, h.n_sums) || h.header_length < used)
		return -EBADMSG;
	if (h.header_length > RECORD_HEADER_MAX || h.payload_length > RECORD_PAYLOAD_MAX)
		return -EBADMSG;
	r = record_runs_check(buf, &h);
	if (r < 0)
		return r;
	*ret_h = h;
	return 0;
}

void record_run(const uint8_t *buf, uint32_t i, struct run *ret_run)
{
	const uint8_t *p = buf + RECORD_FIXED + (size_t)i * RUN_BYTES;

	ret_run->lba = get_le64(p);
	ret_run->blocks = get_le64(p + 8);
	ret_run->type = p[16];
	ret_run->flags = p[17];
	ret_run->payload_offset = get_le32(p + 20);
	ret_run->stored = get_le32(p + 24);
	ret_run->nonce = get_le64(p + 32);
	ret_run->argument = get_le64(p + 40);
}

uint32_t record_sum(const uint8_t *buf, uint32_t n_runs, uint32_t i)
{
	return get_le32(buf + RECORD_FIXED + (size_t)n_runs * RUN_BYTES + (size_t)i * 4);
}

/* ---- The superblock ---------------------------------------------------------------------------
 */

void blob_ref_put(struct cursor *c, const struct blob_ref *ref)
{
	cursor_put_le64(c, ref->segment);
	cursor_put_le32(c, ref->offset);
	cursor_put_le32(c, ref->length);
	cursor_put_le32(c, ref->sum);
	cursor_put_le32(c, 0);
	cursor_put_le64(c, ref->birth);
}

void blob_ref_get(struct cursor *c, struct blob_ref *ref)
{
	ref->segment = cursor_get_le64(c);
	ref->offset = cursor_get_le32(c);
	ref->length = cursor_get_le32(c);
	ref->sum = cursor_get_le32(c);
	cursor_get_le32(c);
	ref->birth = cursor_get_le64(c);
}

void superblock_encode(uint8_t buf[SUPERBLOCK_BYTES], const struct superblock *sb)
{
	struct cursor c = cursor_over(buf, SUPERBLOCK_BYTES);

	memset(buf, 0, SUPERBLOCK_BYTES);
	CHECK(sb->n_ended <= SUPERBLOCK_ENDED);
	prologue_put(&c, MAGIC_SUPERBLOCK, sb->volume);
	cursor_take(&c, 12); /* no feature bits yet */
	cursor_put_le32(&c, sb->flags);
	cursor_put_le64(&c, sb->size);
	cursor_put_le32(&c, BLOCK_SIZE);
	cursor_put_le16(&c, 3);
	cursor_put_le16(&c, 1);
	cursor_put_le64(&c, sb->incarnation);
	cursor_put_le64(&c, sb->checkpoint);
	cursor_put_le64(&c, sb->sequence);
	cursor_put_le32(&c, sb->sequence_sum);
	cursor_put_le32(&c, 0);
	cursor_put_le64(&c, sb->replay_segment);
	cursor_put_le32(&c, sb->replay_offset);
	cursor_put_le32(&c, 0);
	blob_ref_put(&c, &sb->root);
	cursor_put_le64(&c, sb->base.hi);
	cursor_put_le64(&c, sb->base.lo);
	cursor_put_le64(&c, sb->base_size);
	cursor_put_le64(&c, sb->hydrated);
	cursor_take(&c, 8);
	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		cursor_put_le64(&c, sb->pins[i].checkpoint);
		cursor_put_le64(&c, sb->pins[i].sequence);
		blob_ref_put(&c, &sb->pins[i].root);
	}
	cursor_put_le32(&c, sb->n_ended);
	cursor_put_le32(&c, 0);
	for (uint32_t i = 0; i < sb->n_ended; i++) {
		cursor_put_le64(&c, sb->ended[i].incarnation);
		cursor_put_le64(&c, sb->ended[i].last);
	}
	CHECK(!c.bad);
	c = cursor_over(buf + PIN_NAMES, SUPERBLOCK_BYTES - PIN_NAMES);
	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		cursor_put_le64(&c, sb->pins[i].snapshot.hi);
		cursor_put_le64(&c, sb->pins[i].snapshot.lo);
		cursor_put_le64(&c, sb->pins[i].size);
	}
	CHECK(!c.bad);
	prologue_seal(buf, SUPERBLOCK_BYTES, sb->volume);
}

static void superblock_fields(const uint8_t *buf, struct superblock *sb)
{
	struct cursor c = cursor_over(buf, SUPERBLOCK_BYTES);

	cursor_take(&c, 52);
	sb->flags = cursor_get_le32(&c);
	sb->size = cursor_get_le64(&c);
	cursor_take(&c, 8);
	sb->incarnation = cursor_get_le64(&c);
	sb->checkpoint = cursor_get_le64(&c);
	sb->sequence = cursor_get_le64(&c);
	sb->sequence_sum = cursor_get_le32(&c);
	cursor_take(&c, 4);
	sb->replay_segment = cursor_get_le64(&c);
	sb->replay_offset = cursor_get_le32(&c);
	cursor_take(&c, 4);
	blob_ref_get(&c, &sb->root);
	sb->base.hi = cursor_get_le64(&c);
	sb->base.lo = cursor_get_le64(&c);
	sb->base_size = cursor_get_le64(&c);
	sb->hydrated = cursor_get_le64(&c);
	cursor_take(&c, 8);
	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		sb->pins[i].checkpoint = cursor_get_le64(&c);
		sb->pins[i].sequence = cursor_get_le64(&c);
		blob_ref_get(&c, &sb->pins[i].root);
	}
	sb->n_ended = cursor_get_le32(&c);
	cursor_take(&c, 4);
	for (uint32_t i = 0; i < sb->n_ended && i < SUPERBLOCK_ENDED; i++) {
		sb->ended[i].incarnation = cursor_get_le64(&c);
		sb->ended[i].last = cursor_get_le64(&c);
	}
	CHECK(!c.bad);
	c = cursor_over(buf + PIN_NAMES, SUPERBLOCK_BYTES - PIN_NAMES);
	for (int i = 0; i < SUPERBLOCK_PINS; i++) {
		sb->pins[i].snapshot.hi = cursor_get_le64(&c);
		sb->pins[i].snapshot.lo = cursor_get_le64(&c);
		sb->pins[i].size = cursor_get_le64(&c);
	}
	CHECK(!c.bad);
}

int superblock_decode(const uint8_t *buf, size_t len, struct id volume, struct superblock *ret_sb)
{
	struct superblock sb = {.volume = volume};
	size_t used;
	int r = prologue_check(buf, len, MAGIC_SUPERBLOCK, volume, &used);

	if (r == -ENOTSUP)
		return r;
	if (r < 0 || used != SUPERBLOCK_BYTES)
		return -EBADMSG;
	/* Ours is the first version: whatever is asked of us beyond it, we can't. Opening writes,
	 * so that "read-only without" is as strong here as "must understand". */
	if (get_le32(buf + 40) != 0 || get_le32(buf + 44) != 0)
		return -ENOTSUP;
	if (get_le32(buf + 64) != BLOCK_SIZE || get_le16(buf + 68) != 3 || get_le16(buf + 70) != 1)
		return -ENOTSUP;
	superblock_fields(buf, &sb);
	if (sb.n_ended > SUPERBLOCK_ENDED || sb.size > VOLUME_SIZE_MAX || sb.size % BLOCK_SIZE)
		return -EBADMSG;
	if (sb.base_size > sb.size || sb.base_size % BLOCK_SIZE || sb.hydrated % BLOCK_SIZE)
		return -EBADMSG;
	*ret_sb = sb;
	return 0;
}
