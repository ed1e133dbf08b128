/* SPDX-License-Identifier: Apache-2.0
 *
 * What of a volume is known to be bad: blocks that don't hold what was written, and pages of the
 * map that can't be read from disk. The volume is impaired while there is any. A place goes when it
 * is overwritten, trimmed, or found good again.
 *
 * The list is bounded. When it is full, what else is bad is only counted, and the volume stays
 * impaired until a scrub has found all of it good.
 */
#include "base/util.h"
#include "engine/volume.h"

#include <errno.h>
#include <string.h>

static void bad_health(struct volume *v)
{
	if (v->stats.health == VOLUME_OK && bad_is_any(v))
		v->stats.health = VOLUME_IMPAIRED;
	else if (v->stats.health == VOLUME_IMPAIRED && !bad_is_any(v))
		v->stats.health = VOLUME_OK;
}

/* One more piece of the kind; pieces that touch are one. */
static void bad_add(struct volume *v, enum volume_bad_kind kind, uint64_t lba, uint64_t blocks,
		    const char *why)
{
	struct bad_list *bad = &v->bad;

	for (unsigned i = 0; i < bad->n; i++) {
		struct volume_bad *b = &bad->places[i];

		if (b->kind != kind || lba > b->lba + b->blocks || b->lba > lba + blocks)
			continue;
		blocks = max_u64(lba + blocks, b->lba + b->blocks);
		b->lba = min_u64(lba, b->lba);
		b->blocks = blocks - b->lba;
		return;
	}
	if (bad->n == VOLUME_BAD_MAX)
		bad->more = true;
	else
		bad->places[bad->n++] =
		    (struct volume_bad){.lba = lba, .blocks = blocks, .kind = kind, .why = why};
}

static void bad_take(struct volume *v, enum volume_bad_kind kind, uint64_t lba, uint64_t blocks)
{
	struct bad_list *bad = &v->bad;

	for (unsigned i = 0; i < bad->n;) {
		struct volume_bad b = bad->places[i];
		uint64_t end = b.lba + b.blocks;

		if (b.kind != kind || lba >= end || b.lba >= lba + blocks) {
			i++;
			continue;
		}
		bad->places[i] = bad->places[--bad->n];
		if (b.lba < lba)
			bad_add(v, kind, b.lba, lba - b.lba, b.why);
		if (end > lba + blocks)
			bad_add(v, kind, lba + blocks, end - lba - blocks, b.why);
	}
	bad_health(v);
}

static void bad_note(struct volume *v, enum volume_bad_kind kind, uint64_t lba, uint64_t blocks,
		     const char *why)
{
	struct engine_config *config = &v->engine->config;

	v->stats.bad_reads++;
	bad_add(v, kind, lba, blocks, why);
	bad_health(v);
	if (config->bad_block)
		config->bad_block(config->bad_block_arg, v->id, lba, why);
}

bool bad_is_any(const struct volume *v)
{
	return v->bad.n > 0 || v->bad.more;
}

void volume_bad_block(struct volume *v, uint64_t lba, const char *why)
{
	bad_note(v, VOLUME_BAD_BLOCKS, lba, 1, why);
}

void bad_some(struct volume *v, uint64_t lba, const char *why)
{
	struct engine_config *config = &v->engine->config;

	v->stats.bad_reads++;
	v->bad.more = true;
	bad_health(v);
	if (config->bad_block)
		config->bad_block(config->bad_block_arg, v->id, lba, why);
}

static uint64_t page_blocks(enum map_page_kind kind)
{
	return kind == MAP_LEAF ? LEAF_BLOCKS : LEAF_BLOCKS * INDEX_LEAVES;
}

void bad_page(struct volume *v, enum map_page_kind kind, uint64_t number)
{
	uint64_t blocks = page_blocks(kind);

	if (kind == MAP_LEAF)
		bad_note(v, VOLUME_BAD_LEAF, number * blocks, blocks, "its map leaf can't be read");
	else
		bad_note(v, VOLUME_BAD_INDEX, number * blocks, blocks,
			 "its map's index page can't be read");
}

void bad_page_good(struct volume *v, enum map_page_kind kind, uint64_t number)
{
	uint64_t blocks = page_blocks(kind);

	if (v->bad.n > 0)
		bad_take(v, kind == MAP_LEAF ? VOLUME_BAD_LEAF : VOLUME_BAD_INDEX, number * blocks,
			 blocks);
}

void bad_root(struct volume *v, uint32_t number)
{
	bad_note(v, VOLUME_BAD_ROOT, number, 1, "what opening it needs is damaged on disk");
}

void bad_root_good(struct volume *v, uint32_t number)
{
	if (v->bad.n > 0)
		bad_take(v, VOLUME_BAD_ROOT, number, 1);
}

void bad_good(struct volume *v, uint64_t lba, uint64_t blocks)
{
	if (v->bad.n > 0)
		bad_take(v, VOLUME_BAD_BLOCKS, lba, blocks);
}

void bad_published(struct volume *v, const struct record_header *h, const struct run *runs)
{
	for (uint32_t i = 0; i < h->n_runs; i++) {
		uint32_t type = runs[i].type;

		if (type == RUN_WRITE || type == RUN_ZERO || type == RUN_TRIM ||
		    type == RUN_HYDRATE)
			bad_good(v, runs[i].lba, runs[i].blocks);
	}
}

bool bad_begin_anew(struct volume *v)
{
	bool more = v->bad.more;

	v->bad.more = false;
	return more;
}

void bad_end_anew(struct volume *v, bool more)
{
	v->bad.more |= more;
	bad_health(v);
}

unsigned volume_bad(const struct volume *v, struct volume_bad ret_places[VOLUME_BAD_MAX],
		    bool *ret_more)
{
	memcpy(ret_places, v->bad.places, v->bad.n * sizeof(ret_places[0]));
	*ret_more = v->bad.more;
	return v->bad.n;
}
