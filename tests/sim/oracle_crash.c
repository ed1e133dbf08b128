/* SPDX-License-Identifier: Apache-2.0
 *
 * What a crash left. The writes that certainly are there are found by a fixed point: those that
 * must be (E1), those that show, and those that ended before the latest submission of any of these
 * (E2: no holes). Each of them, but for large ones of which only a part need be there, raises the
 * floor of all its sectors: that is E3. What shows over such a write comes later in the log; such
 * pairs must not form a circle.
 *
 * Zeroes name no write. If only one can have made them, it shows; if several can, at least the
 * earliest submission among them is a demand on the prefix.
 */
#include "tests/sim/oracle_internal.h"

#include "base/check.h"
#include "base/util.h"
#include "tests/sim/order.h"

#define ENOUGH UINT32_MAX /* as n_makers: the base made them, or a write that is there */

void oracle_crash_begin(struct oracle *o, enum oracle_crash kind)
{
	if (!o->in_crash || kind == ORACLE_POWER_CUT)
		o->crash = kind;
	o->in_crash = true;
	o->n_shown = 0;
}

bool oracle_crash_see(struct oracle *o, uint64_t first, uint64_t n, const void *buf)
{
	CHECK(o->in_crash);
	CHECK(first + n <= o->n_sectors);
	for (uint64_t i = 0; i < n; i++) {
		uint32_t number =
		    oracle_identify(o, first + i, (const uint8_t *)buf + i * BLOCK_SECTOR);

		if (number == RUBBISH)
			return false;
		o->sector[first + i].seen = number;
	}
	o->n_shown += n;
	return true;
}

/* ---- The prefix ---------------------------------------------------------------------- */

/* Marks what shows by its number. */
static bool mark_shown(struct oracle *o)
{
	for (size_t i = 0; i < o->n_writes; i++)
		o->write[i].shows = false;
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		const struct sector *s = &o->sector[i];
		struct write *w = oracle_find(o, s->seen);

		if (w)
			w->shows = true;
		else if (s->seen != s->base && s->seen != ZEROES)
			return oracle_wrong(o, "sector %llu shows write %u, which was gone before",
					    (unsigned long long)i, s->seen);
	}
	return true;
}

static bool must_be_there(const struct oracle *o, const struct write *w)
{
	return w->durable || (w->ok && (w->ended < o->durable || o->crash == ORACLE_KILL));
}

static bool is_atomic(const struct oracle *o, const struct write *w)
{
	return w->n <= ATOMIC_SECTORS && !o->in_place;
}

static void mark_there(struct oracle *o)
{
	uint64_t latest = o->demand; /* submission of what is there */

	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];

		if (w->shows || must_be_there(o, w))
			latest = max_u64(latest, w->submitted);
	}
	for (size_t i = 0; i < o->n_writes; i++) {
		struct write *w = &o->write[i];
		bool all_of_it =
		    must_be_there(o, w) || (!o->in_place && w->ok && w->ended < latest);

		w->there = all_of_it || w->shows;
		w->whole = all_of_it || (w->shows && is_atomic(o, w));
	}
}

static void set_floors(struct oracle *o)
{
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		struct sector *s = &o->sector[i];
		const struct write *w = oracle_find(o, s->read);

		s->floor = 0;
		/* What a read has shown to lie over others lies over them still, if it is there. */
		s->shown_floor = w && w->whole && s->seen != s->read ? s->read_at : 0;
	}
	for (size_t i = 0; i < o->n_writes; i++)
		if (o->write[i].whole)
			oracle_raise_floors(o, &o->write[i], 0, o->n_sectors);
}

/* It can't be seen in this sector. NULL: the base. What failed may come up only after the crash,
 * whatever reads have shown. */
static bool is_covered(const struct sector *s, const struct write *w)
{
	uint64_t ended = w ? w->ended : 0;
	bool failed = w && !w->ok;

	return ended < s->floor || (!failed && ended < s->shown_floor);
}

static void count_maker(struct sector *s, const struct write *w)
{
	if (s->seen != ZEROES || s->n_makers == ENOUGH || is_covered(s, w))
		return;
	s->earliest = s->n_makers ? min_u64(s->earliest, w->submitted) : w->submitted;
	s->maker = w->number;
	s->n_makers = w->there ? ENOUGH : s->n_makers + 1;
}

static void count_makers(struct oracle *o)
{
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		struct sector *s = &o->sector[i];

		s->n_makers = s->base == ZEROES && !is_covered(s, NULL) ? ENOUGH : 0;
	}
	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];

		for (uint64_t k = w->first; w->is_zero && k < w->first + w->n; k++)
			count_maker(&o->sector[k], w);
	}
}

/* What the zeroes demand. *ret_more: the prefix has grown. */
static bool account_for_zeroes(struct oracle *o, bool *ret_more)
{
	*ret_more = false;
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		const struct sector *s = &o->sector[i];

		if (s->seen != ZEROES || s->n_makers == ENOUGH)
			continue;
		if (s->n_makers == 0)
			return oracle_wrong(o,
					    "sector %llu shows zeroes (before the crash: write %u "
					    "or later ones), though a write submitted at %llu is "
					    "there",
					    (unsigned long long)i, s->base,
					    (unsigned long long)max_u64(s->floor, s->shown_floor));
		if (s->n_makers == 1) {
			struct write *w = oracle_find(o, s->maker);

			*ret_more |= !w->shows;
			w->shows = true;
		} else if (s->earliest > o->demand) {
			*ret_more = true;
			o->demand = s->earliest;
		}
	}
	return true;
}

static bool find_prefix(struct oracle *o)
{
	bool more = true;

	o->demand = 0;
	if (!mark_shown(o))
		return false;
	while (more) {
		mark_there(o);
		set_floors(o);
		count_makers(o);
		if (!account_for_zeroes(o, &more))
			return false;
	}
	return true;
}

/* ---- Judgement ----------------------------------------------------------------------- */

/* The newest write that lies over `w` (NULL: the base) there for good. NULL: a read says so. */
static const struct write *who_covers(const struct oracle *o, uint64_t lba, const struct write *w)
{
	uint64_t ended = w ? w->ended : 0;
	const struct write *last = NULL;

	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *over = &o->write[i];

		if (over->whole && lba >= over->first && lba - over->first < over->n &&
		    over->submitted > ended)
			last = over;
	}
	return last;
}

static bool nothing_is_covered(struct oracle *o)
{
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		const struct sector *s = &o->sector[i];
		const struct write *w = oracle_find(o, s->seen);
		const struct write *over;

		if (s->seen == ZEROES || !is_covered(s, w))
			continue;
		over = who_covers(o, i, w);
		return oracle_wrong(o, "sector %llu shows write %u, though write %u%s is there",
				    (unsigned long long)i, s->seen, over ? over->number : s->read,
				    !over                    ? ", which a read has shown,"
				    : must_be_there(o, over) ? ", which is durable,"
				    : over->shows            ? ", which shows elsewhere,"
							     : ", which comes before others,");
	}
	return true;
}

static bool order_is_possible(struct oracle *o)
{
	struct order *order = order_new();
	uint32_t a = 0;
	uint32_t b = 0;
	bool ok;

	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];

		for (uint64_t k = w->first; w->whole && k < w->first + w->n; k++) {
			const struct sector *s = &o->sector[k];

			if (s->seen != ZEROES)
				oracle_order(o, order, w, s->seen);
			else if (s->n_makers == 1)
				oracle_order(o, order, w, s->maker);
		}
	}
	ok = order_holds(order, &a, &b);
	order_free(order);
	return ok || oracle_wrong(o, "writes %u and %u each lie partly over the other", a, b);
}

/* ---- The new base -------------------------------------------------------------------- */

/* Some sector shows what lies strictly under it: it did not happen, and may not come back. */
static bool did_not_happen(const struct oracle *o, const struct write *w)
{
	for (uint64_t k = w->first; k < w->first + w->n && !w->shows; k++) {
		const struct sector *s = &o->sector[k];
		const struct write *v = oracle_find(o, s->seen);

		if (s->seen != ZEROES && (!v || v->ended < w->submitted))
			return true;
	}
	return false;
}

/* The process is dead, and what it had in flight has ended somehow. All that is not durable still
 * may be lost when the power goes. */
static void adopt_kill(struct oracle *o)
{
	size_t kept = 0;

	for (size_t i = 0; i < o->n_writes; i++) {
		struct write w = o->write[i];

		/* In place, one that shows nowhere may still have zeroed a part. */
		if (!w.ok && !o->in_place && did_not_happen(o, &w))
			continue;
		if (w.ended == UNDER_WAY)
			w.ended = o->clock;
		w.ok |= w.shows && is_atomic(o, &w);
		o->write[kept++] = w;
	}
	o->n_writes = kept;
	o->clock++;
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		o->sector[i].read = o->sector[i].seen;
		o->sector[i].read_at = o->clock;
		o->sector[i].read_ended = o->clock;
	}
	o->clock++;
}

static void adopt_power_cut(struct oracle *o)
{
	o->n_writes = 0;
	for (uint64_t i = 0; i < o->n_sectors; i++) {
		o->sector[i].base = o->sector[i].seen;
		o->sector[i].read = ZEROES;
		o->sector[i].read_at = 0;
		o->sector[i].read_ended = 0;
	}
}

bool oracle_crash_end(struct oracle *o)
{
	CHECK(o->in_crash);
	CHECK(o->n_shown == o->n_sectors);
	if (!find_prefix(o) || !nothing_is_covered(o))
		return false;
	if (!o->in_place && !order_is_possible(o))
		return false;
	if (o->crash == ORACLE_KILL)
		adopt_kill(o);
	else
		adopt_power_cut(o);
	o->in_crash = false;
	return true;
}
