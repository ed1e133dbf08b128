/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "instance-store/internal.h"
#include "instance-store/map.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int istore_space_init(struct istore *s, struct err *err)
{
	s->owners = mem_calloc(s->super.n_slices, sizeof(*s->owners));
	s->dirty = mem_calloc(map_words(s->super.n_slices), sizeof(*s->dirty));
	if (s->owners && s->dirty)
		return 0;
	return err_set(err, -ENOMEM, "%s: out of memory", s->config.path);
}

void istore_space_free(struct istore *s)
{
	mem_free(s->owners);
	mem_free(s->dirty);
}

int istore_space_take(struct istore *s, unsigned slot, struct err *err)
{
	const struct istore_slot *d = &s->slots[slot];

	for (uint32_t e = 0; e < d->n_extents; e++) {
		for (uint32_t i = 0; i < d->extents[e].count; i++) {
			uint32_t slice = d->extents[e].first + i;

			if (s->owners[slice])
				return err_set(err, -EUCLEAN,
					       "%s: the disk table is damaged: entries %u and %u "
					       "both have slice %" PRIu32
					       "; nothing is served, and nothing was changed",
					       s->config.path, s->owners[slice] - 1u, slot, slice);
			s->owners[slice] = (uint16_t)(slot + 1);
			s->n_owned++;
		}
	}
	return 0;
}

void istore_space_give(struct istore *s, unsigned slot)
{
	const struct istore_slot *d = &s->slots[slot];

	for (uint32_t e = 0; e < d->n_extents; e++)
		for (uint32_t i = 0; i < d->extents[e].count; i++)
			s->owners[d->extents[e].first + i] = 0;
	s->n_owned -= round_up(d->size, s->super.slice_size) / s->super.slice_size;
}

void istore_space_set_dirty(struct istore *s, const struct istore_slot *slot)
{
	for (uint32_t e = 0; e < slot->n_extents; e++) {
		uint64_t first = slot->extents[e].first;
		uint64_t end = first + slot->extents[e].count;

		s->n_dirty += end - first - map_count(s->dirty, first, end);
		map_set(s->dirty, first, end);
	}
}

bool istore_space_is_dirty(const struct istore *s, const struct istore_slot *slot)
{
	for (uint32_t e = 0; e < slot->n_extents; e++) {
		uint64_t first = slot->extents[e].first;

		if (map_count(s->dirty, first, first + slot->extents[e].count) > 0)
			return true;
	}
	return false;
}

/* Adds a free slice. False: the list of extents is full. */
static bool add_slice(struct istore_slot *slot, uint64_t slice)
{
	struct istore_extent *last = slot->n_extents ? &slot->extents[slot->n_extents - 1] : NULL;

	if (last && last->first + last->count == slice) {
		last->count++;
		return true;
	}
	if (slot->n_extents == ISTORE_EXTENTS_MAX)
		return false;
	slot->extents[slot->n_extents++] =
	    (struct istore_extent){.first = (uint32_t)slice, .count = 1};
	return true;
}

int istore_space_choose(const struct istore *s, struct istore_slot *slot, struct err *err)
{
	uint64_t size = s->super.slice_size;
	uint64_t wanted = round_up(slot->size, size) / size;
	uint64_t n = 0;

	slot->n_extents = 0;
	if (wanted > s->super.n_slices - s->n_owned)
		return err_set(err, -ENOSPC,
			       "the store has %" PRIu64 " MiB left, and the disk takes %" PRIu64
			       " MiB: delete disks, or choose another host",
			       (s->super.n_slices - s->n_owned) * size / MiB, wanted * size / MiB);
	for (int dirty = 0; dirty < 2; dirty++) {
		for (uint64_t i = 0; i < s->super.n_slices && n < wanted; i++) {
			if (s->owners[i] || map_get(s->dirty, i) != (bool)dirty)
				continue;
			if (!add_slice(slot, i))
				return err_set(err, -ENOSPC,
					       "the free part of the store is in too many pieces: "
					       "delete some disks");
			n++;
		}
	}
	return 0;
}

uint32_t *istore_space_slices(const struct istore_slot *slot, uint64_t slice_size)
{
	uint32_t *slices =
	    mem_calloc(round_up(slot->size, slice_size) / slice_size, sizeof(*slices));
	uint64_t n = 0;

	if (!slices)
		return NULL;
	for (uint32_t e = 0; e < slot->n_extents; e++)
		for (uint32_t i = 0; i < slot->extents[e].count; i++)
			slices[n++] = slot->extents[e].first + i;
	return slices;
}
