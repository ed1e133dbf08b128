/* SPDX-License-Identifier: Apache-2.0
 *
 * The map's blobs: leaves, index pages, usage pages, the root.
 */
#include "base/check.h"
#include "base/util.h"
#include "engine/format.h"
#include "engine/format_private.h"

#include <errno.h>
#include <string.h>

#define BLOB_FIXED        64
#define LEAF_FIXED        128
#define LEAF_RUN_BYTES    24
#define INDEX_REF_BYTES   40
#define USAGE_ENTRY_BYTES 48
#define ROOT_FIXED        80
#define BLOCK_SECTORS     (BLOCK_SIZE / BLOCK_SECTOR)
#define LEAF_SCATTERED    5 /* state of a run */
#define SCATTERED_RUN     3 /* blocks: from so many on a run is smaller by itself */

static void blob_begin(struct cursor *c, uint64_t magic, struct id volume, uint64_t number,
		       uint64_t sequence, uint32_t n)
{
	prologue_put(c, magic, volume);
	cursor_put_le64(c, number);
	cursor_put_le64(c, sequence);
	cursor_put_le32(c, n);
	cursor_put_le32(c, 0);
}

/* Verifies prologue, number and the reference's checksum, and gives a cursor past the fixed part.
 */
static int blob_open(const uint8_t *buf, size_t len, uint64_t magic, struct id volume,
		     uint64_t number, uint32_t sum, struct cursor *ret_c, uint32_t *ret_n)
{
	size_t used;
	int r = prologue_check(buf, len, magic, volume, &used);

	if (r == -ENOTSUP)
		return r;
	if (r < 0 || used != len || len < BLOB_FIXED)
		return -EBADMSG;
	if (get_le32(buf + 8) != sum || get_le64(buf + 40) != number)
		return -EBADMSG;
	*ret_n = get_le32(buf + 56);
	*ret_c = cursor_over(buf + BLOB_FIXED, len - BLOB_FIXED);
	return 0;
}

bool blob_peek(const uint8_t *buf, struct id volume, uint64_t *ret_magic, uint64_t *ret_number,
	       uint32_t *ret_length)
{
	uint64_t magic = get_le64(buf);

	if (magic != MAGIC_LEAF && magic != MAGIC_INDEX && magic != MAGIC_USAGE &&
	    magic != MAGIC_ROOT)
		return false;
	if (get_le64(buf + 24) != volume.hi || get_le64(buf + 32) != volume.lo)
		return false;
	*ret_magic = magic;
	*ret_length = get_le32(buf + 16);
	*ret_number = get_le64(buf + 40);
	return *ret_length >= BLOB_HEAD && *ret_length <= STRUCTURE_MAX;
}

/* ---- Leaves -----------------------------------------------------------------------------------
 */

/* How many entries from `first` on are one run: same state, and for data one after the other on
 * disk. */
static uint32_t leaf_run_length(const struct leaf_content *leaf, uint32_t first)
{
	const struct entry *e = leaf->entries;
	uint32_t n = 1;

	while (first + n < LEAF_BLOCKS && e[first + n].state == e[first].state) {
		if (e[first].state == ENTRY_DATA &&
		    (e[first + n].segment != e[first].segment ||
		     e[first + n].offset != e[first].offset + n * BLOCK_SECTORS))
			break;
		n++;
	}
	return n;
}

static void leaf_run_put(struct cursor *c, const struct leaf_content *leaf, uint32_t first,
			 uint32_t n)
{
	const struct entry *e = &leaf->entries[first];

	cursor_put_le16(c, (uint16_t)first);
	cursor_put_le16(c, (uint16_t)n);
	cursor_put_u8(c, (uint8_t)e->state);
	cursor_put_u8(c, e->state == ENTRY_DATA ? BLOCK_SECTORS : 0);
	cursor_put_u8(c, 0); /* key slot */
	cursor_put_u8(c, 0); /* codec */
	cursor_put_le64(c, e->state == ENTRY_DATA ? e->segment : 0);
	cursor_put_le32(c, e->state == ENTRY_DATA ? e->offset : 0);
	cursor_put_le32(c, 0);
	if (e->state != ENTRY_DATA)
		return;
	for (uint32_t i = 0; i < n; i++)
		cursor_put_le32(c, e[i].sum);
}

/* Blocks that were written at random are runs of one: those share a head, and each says where it
 * is in ten bytes. */
static bool is_scattered(const struct leaf_content *leaf, uint32_t first, uint32_t *ret_n)
{
	const struct entry *e = &leaf->entries[first];

	*ret_n = leaf_run_length(leaf, first);
	return e->state == ENTRY_DATA && *ret_n < SCATTERED_RUN &&
	       e->offset + (*ret_n - 1) * BLOCK_SECTORS <= UINT16_MAX;
}

/* How many blocks from `first` on share a head, and the lowest segment among them. */
static uint32_t scattered_length(const struct leaf_content *leaf, uint32_t first, uint64_t *ret_low)
{
	uint64_t low = leaf->entries[first].segment;
	uint64_t high = low;
	uint32_t length = 0;
	uint32_t n;

	while (first + length < LEAF_BLOCKS && is_scattered(leaf, first + length, &n)) {
		uint64_t segment = leaf->entries[first + length].segment;

		if (max_u64(high, segment) - min_u64(low, segment) > UINT32_MAX)
			break;
		low = min_u64(low, segment);
		high = max_u64(high, segment);
		length += n;
	}
	*ret_low = low;
	return length;
}

static void scattered_put(struct cursor *c, const struct leaf_content *leaf, uint32_t first,
			  uint32_t n, uint64_t low)
{
	cursor_put_le16(c, (uint16_t)first);
	cursor_put_le16(c, (uint16_t)n);
	cursor_put_u8(c, LEAF_SCATTERED);
	cursor_put_u8(c, BLOCK_SECTORS);
	cursor_put_le16(c, 0); /* key slot, codec */
	cursor_put_le64(c, low);
	cursor_put_le32(c, 0);
	cursor_put_le32(c, 0);
	for (const struct entry *e = &leaf->entries[first]; e < &leaf->entries[first + n]; e++) {
		cursor_put_le32(c, (uint32_t)(e->segment - low));
		cursor_put_le16(c, (uint16_t)e->offset);
		cursor_put_le32(c, e->sum);
	}
}

size_t leaf_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		   const struct leaf_content *leaf, uint32_t *ref_sum)
{
	struct cursor c = cursor_over(buf, LEAF_BYTES_MAX);
	uint32_t n_runs = 0;
	size_t len;

	blob_begin(&c, MAGIC_LEAF, volume, number, sequence, 0);
	for (int i = 0; i < LEAF_BIRTHS; i++)
		cursor_put_le64(&c, leaf->birth[i]);
	for (uint32_t first = 0, n; first < LEAF_BLOCKS; first += n) {
		uint32_t scattered = 0;
		uint64_t low = 0;

		if (is_scattered(leaf, first, &n))
			scattered = scattered_length(leaf, first, &low);
		if (leaf->entries[first].state == ENTRY_INHERIT)
			continue;
		if (scattered > n)
			scattered_put(&c, leaf, first, n = scattered, low);
		else
			leaf_run_put(&c, leaf, first, n);
		n_runs++;
	}
	CHECK(!c.bad);
	len = (size_t)(c.p - buf);
	put_le32(buf + 56, n_runs);
	*ref_sum = prologue_seal(buf, len, volume);
	return len;
}

static int scattered_get(struct cursor *c, struct entry *e, uint32_t n, uint64_t low)
{
	for (uint32_t i = 0; i < n; i++, e++) {
		uint64_t segment = low + cursor_get_le32(c);

		if (segment >> 48)
			return -EBADMSG;
		e->state = ENTRY_DATA;
		e->segment = segment & ((UINT64_C(1) << 48) - 1);
		e->offset = cursor_get_le16(c);
		e->sum = cursor_get_le32(c);
	}
	return c->bad ? -EBADMSG : 0;
}

static int leaf_run_get(struct cursor *c, struct leaf_content *leaf, uint32_t *next)
{
	uint32_t first = cursor_get_le16(c);
	uint32_t n = cursor_get_le16(c);
	uint8_t state = cursor_get_u8(c);
	uint8_t stored = cursor_get_u8(c);
	uint64_t segment;
	uint32_t offset;

	if (cursor_get_le16(c) != 0)
		return -ENOTSUP; /* a key or a codec */
	segment = cursor_get_le64(c);
	offset = cursor_get_le32(c);
	cursor_get_le32(c);
	if (c->bad || n == 0 || first < *next || first + n > LEAF_BLOCKS || state > LEAF_SCATTERED)
		return -EBADMSG;
	if ((state == ENTRY_DATA || state == LEAF_SCATTERED) &&
	    (stored != BLOCK_SECTORS || segment >> 48))
		return -EBADMSG;
	*next = first + n;
	if (state == LEAF_SCATTERED)
		return scattered_get(c, &leaf->entries[first], n, segment);
	for (uint32_t i = 0; i < n; i++) {
		struct entry *e = &leaf->entries[first + i];

		e->state = state;
		if (state != ENTRY_DATA)
			continue;
		e->segment = segment & ((UINT64_C(1) << 48) - 1);
		e->offset = offset + i * BLOCK_SECTORS;
		e->sum = cursor_get_le32(c);
	}
	return c->bad ? -EBADMSG : 0;
}

int leaf_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		struct leaf_content *ret_leaf)
{
	struct cursor c;
	uint32_t n;
	uint32_t next = 0;
	int r = blob_open(buf, len, MAGIC_LEAF, volume, number, sum, &c, &n);

	if (r < 0)
		return r;
	memset(ret_leaf, 0, sizeof(*ret_leaf));
	for (int i = 0; i < LEAF_BIRTHS; i++)
		ret_leaf->birth[i] = cursor_get_le64(&c);
	for (uint32_t i = 0; i < n && r == 0; i++)
		r = leaf_run_get(&c, ret_leaf, &next);
	if (r == 0 && (c.bad || c.left != 0))
		r = -EBADMSG;
	return r;
}

/* ---- Index pages ------------------------------------------------------------------------------
 */

size_t index_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		    const struct blob_ref refs[INDEX_LEAVES], uint32_t *ref_sum)
{
	struct cursor c = cursor_over(buf, INDEX_BYTES_MAX);
	uint32_t n = 0;
	size_t len;

	blob_begin(&c, MAGIC_INDEX, volume, number, sequence, 0);
	for (uint32_t slot = 0; slot < INDEX_LEAVES; slot++) {
		if (refs[slot].length == 0)
			continue;
		cursor_put_le32(&c, slot);
		cursor_put_le32(&c, 0);
		blob_ref_put(&c, &refs[slot]);
		n++;
	}
	CHECK(!c.bad);
	len = (size_t)(c.p - buf);
	put_le32(buf + 56, n);
	*ref_sum = prologue_seal(buf, len, volume);
	return len;
}

int index_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		 struct blob_ref ret_refs[INDEX_LEAVES])
{
	struct cursor c;
	uint32_t n;
	int r = blob_open(buf, len, MAGIC_INDEX, volume, number, sum, &c, &n);

	if (r < 0)
		return r;
	if (n > INDEX_LEAVES || c.left != (size_t)n * INDEX_REF_BYTES)
		return -EBADMSG;
	memset(ret_refs, 0, sizeof(ret_refs[0]) * INDEX_LEAVES);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t slot = cursor_get_le32(&c);

		cursor_get_le32(&c);
		if (slot >= INDEX_LEAVES)
			return -EBADMSG;
		blob_ref_get(&c, &ret_refs[slot]);
		if (ret_refs[slot].length < LEAF_FIXED || ret_refs[slot].length > LEAF_BYTES_MAX)
			return -EBADMSG;
	}
	return 0;
}

/* ---- Usage pages ------------------------------------------------------------------------------
 */

size_t usage_encode(uint8_t *buf, struct id volume, uint64_t number, uint64_t sequence,
		    const struct usage_entry entries[USAGE_SEGMENTS], uint32_t *ref_sum)
{
	struct cursor c = cursor_over(buf, USAGE_BYTES_MAX);
	uint32_t n = 0;
	size_t len;

	blob_begin(&c, MAGIC_USAGE, volume, number, sequence, 0);
	for (uint32_t slot = 0; slot < USAGE_SEGMENTS; slot++) {
		const struct usage_entry *e = &entries[slot];

		if (e->stream == 0)
			continue;
		cursor_put_le32(&c, slot);
		cursor_put_le32(&c, e->generation);
		cursor_put_le64(&c, e->segment);
		cursor_put_le32(&c, e->live);
		cursor_put_le32(&c, e->written);
		cursor_put_le64(&c, e->newest);
		cursor_put_le64(&c, e->lent_at);
		cursor_put_le64(&c, e->stream);
		n++;
	}
	CHECK(!c.bad);
	len = (size_t)(c.p - buf);
	put_le32(buf + 56, n);
	*ref_sum = prologue_seal(buf, len, volume);
	return len;
}

int usage_decode(const uint8_t *buf, size_t len, struct id volume, uint64_t number, uint32_t sum,
		 struct usage_entry ret_entries[USAGE_SEGMENTS])
{
	struct cursor c;
	uint32_t n;
	int r = blob_open(buf, len, MAGIC_USAGE, volume, number, sum, &c, &n);

	if (r < 0)
		return r;
	if (n > USAGE_SEGMENTS || c.left != (size_t)n * USAGE_ENTRY_BYTES)
		return -EBADMSG;
	memset(ret_entries, 0, sizeof(ret_entries[0]) * USAGE_SEGMENTS);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t slot = cursor_get_le32(&c);
		struct usage_entry *e;

		if (slot >= USAGE_SEGMENTS)
			return -EBADMSG;
		e = &ret_entries[slot];
		e->generation = cursor_get_le32(&c);
		e->segment = cursor_get_le64(&c);
		e->live = cursor_get_le32(&c);
		e->written = cursor_get_le32(&c);
		e->newest = cursor_get_le64(&c);
		e->lent_at = cursor_get_le64(&c);
		e->stream = (uint8_t)cursor_get_le64(&c);
		if (e->stream == 0 || e->segment >> 48)
			return -EBADMSG;
	}
	return 0;
}

/* ---- The root ---------------------------------------------------------------------------------
 */

size_t root_bytes(uint32_t n_index, uint32_t n_usage)
{
	return ROOT_FIXED + ((size_t)n_index + n_usage) * INDEX_REF_BYTES;
}

void root_begin(uint8_t *buf, struct id volume, const struct root_content *root)
{
	struct cursor c = cursor_over(buf, ROOT_FIXED);

	prologue_put(&c, MAGIC_ROOT, volume);
	cursor_put_le64(&c, root->checkpoint);
	cursor_put_le64(&c, root->sequence);
	cursor_put_le64(&c, root->size);
	cursor_put_le32(&c, root->n_index);
	cursor_put_le32(&c, root->n_usage);
	cursor_put_le64(&c, root->live);
	CHECK(!c.bad);
	CHECK(c.left == 0);
}

void root_put_ref(uint8_t *buf, uint32_t i, uint32_t number, const struct blob_ref *ref)
{
	struct cursor c =
	    cursor_over(buf + ROOT_FIXED + (size_t)i * INDEX_REF_BYTES, INDEX_REF_BYTES);

	cursor_put_le32(&c, number);
	cursor_put_le32(&c, 0);
	blob_ref_put(&c, ref);
}

void root_finish(uint8_t *buf, struct id volume, const struct root_content *root, uint32_t *ref_sum)
{
	*ref_sum = prologue_seal(buf, root_bytes(root->n_index, root->n_usage), volume);
}

int root_decode(const uint8_t *buf, size_t len, struct id volume, uint32_t sum,
		struct root_content *ret_root)
{
	struct root_content root;
	size_t used;
	int r = prologue_check(buf, len, MAGIC_ROOT, volume, &used);

	if (r == -ENOTSUP)
		return r;
	if (r < 0 || used != len || len < ROOT_FIXED || get_le32(buf + 8) != sum)
		return -EBADMSG;
	root.checkpoint = get_le64(buf + 40);
	root.sequence = get_le64(buf + 48);
	root.size = get_le64(buf + 56);
	root.n_index = get_le32(buf + 64);
	root.n_usage = get_le32(buf + 68);
	root.live = get_le64(buf + 72);
	if (root.n_index > len || root.n_usage > len ||
	    root_bytes(root.n_index, root.n_usage) != len)
		return -EBADMSG;
	if (root.size > VOLUME_SIZE_MAX || root.size % BLOCK_SIZE)
		return -EBADMSG;
	*ret_root = root;
	return 0;
}

void root_get_ref(const uint8_t *buf, uint32_t i, uint32_t *ret_number, struct blob_ref *ret_ref)
{
	struct cursor c =
	    cursor_over(buf + ROOT_FIXED + (size_t)i * INDEX_REF_BYTES, INDEX_REF_BYTES);

	*ret_number = cursor_get_le32(&c);
	cursor_get_le32(&c);
	blob_ref_get(&c, ret_ref);
}
