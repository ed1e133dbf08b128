/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshots/sweep_internal.h"

#include "base/mem.h"

#include <string.h>

void marks_free(struct marks *m)
{
	for (uint32_t i = 0; i < m->n; i++)
		mem_free(m->packs[i].owner);
	mem_free(m->packs);
	mem_free(m->table);
	*m = (struct marks){0};
}

static uint32_t slot_of(const struct marks *m, const struct snap_pack *id)
{
	uint64_t h = hash_u64(id->snapshot.lo ^ hash_u64(id->snapshot.hi) ^
			      hash_u64((uint64_t)id->attempt << 32 | id->number));
	uint32_t at = (uint32_t)h & (m->table_size - 1);

	while (m->table[at] && !pack_equal(&m->packs[m->table[at] - 1].id, id))
		at = (at + 1) & (m->table_size - 1);
	return at;
}

static bool grow(struct marks *m)
{
	uint32_t size = m->table_size ? m->table_size * 2 : 256;
	struct mark_pack *packs = mem_realloc(m->packs, size / 2 * sizeof(*packs));
	uint32_t *table;

	if (!packs)
		return false;
	m->packs = packs;
	table = mem_calloc(size, sizeof(*table));
	if (!table)
		return false;
	mem_free(m->table);
	m->table = table;
	m->table_size = size;
	m->room = size / 2;
	for (uint32_t i = 0; i < m->n; i++)
		m->table[slot_of(m, &m->packs[i].id)] = i + 1;
	return true;
}

struct mark_pack *marks_find(const struct marks *m, const struct snap_pack *id)
{
	uint32_t number = m->table_size ? m->table[slot_of(m, id)] : 0;

	return number ? &m->packs[number - 1] : NULL;
}

struct mark_pack *marks_pack(struct marks *m, const struct snap_pack *id)
{
	struct mark_pack *p = marks_find(m, id);

	if (p)
		return p;
	if (m->n == m->room && !grow(m))
		return NULL;
	p = &m->packs[m->n++];
	*p = (struct mark_pack){.id = *id};
	m->table[slot_of(m, id)] = m->n;
	return p;
}

uint32_t *marks_owner(struct marks *m, const struct snap_item *item, struct mark_pack **ret_pack)
{
	struct mark_pack *p = marks_pack(m, &item->pack);

	if (!p)
		return NULL;
	*ret_pack = p;
	if (item->slot >= p->n_slots) {
		uint32_t n = (uint32_t)round_up(item->slot + 1, 32);
		uint32_t *owner = mem_realloc(p->owner, n * sizeof(*owner));

		if (!owner)
			return NULL;
		memset(owner + p->n_slots, 0, (n - p->n_slots) * sizeof(*owner));
		p->owner = owner;
		p->n_slots = n;
	}
	return &p->owner[item->slot];
}
