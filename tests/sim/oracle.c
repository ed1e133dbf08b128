/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes, their bytes, and live reads. oracle_crash.c judges what a crash left.
 */
#include "tests/sim/oracle_internal.h"

#include "base/check.h"
#include "base/util.h"
#include "tests/sim/machine/sim.h"
#include "tests/sim/order.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAGIC         UINT64_C(0x6f7261636c650000)
#define WORDS         (BLOCK_SECTOR / 8)
#define BLOCK_SECTORS (BLOCK_SIZE / BLOCK_SECTOR)

struct oracle *oracle_new(uint64_t n_sectors, uint64_t salt)
{
	struct oracle *o = sim_alloc(sizeof(*o));

	o->salt = salt;
	o->clock = 1;
	o->n_sectors = n_sectors;
	o->sector = sim_alloc(n_sectors * sizeof(*o->sector));
	return o;
}

void oracle_free(struct oracle *o)
{
	if (!o)
		return;
	sim_release(o->sector);
	sim_release(o->write);
	sim_release(o);
}

void oracle_in_place(struct oracle *o)
{
	o->in_place = true;
}

void oracle_grow(struct oracle *o, uint64_t n_sectors)
{
	struct sector *longer = sim_alloc(n_sectors * sizeof(*longer));

	CHECK(n_sectors >= o->n_sectors);
	memcpy(longer, o->sector, o->n_sectors * sizeof(*longer));
	sim_release(o->sector);
	o->sector = longer;
	o->n_sectors = n_sectors;
}

struct oracle *oracle_of_cut(const struct oracle *o, uint64_t asked)
{
	struct oracle *copy = sim_alloc(sizeof(*copy));

	*copy = *o;
	copy->sector = sim_alloc(o->n_sectors * sizeof(*o->sector));
	memcpy(copy->sector, o->sector, o->n_sectors * sizeof(*o->sector));
	copy->write = sim_alloc((o->n_writes + 1) * sizeof(*o->write));
	copy->room = o->n_writes + 1;
	if (o->n_writes)
		memcpy(copy->write, o->write, o->n_writes * sizeof(*o->write));
	for (size_t i = 0; i < copy->n_writes; i++)
		copy->write[i].durable = false;
	copy->durable = asked;
	copy->in_crash = false;
	return copy;
}

void oracle_apart(struct oracle *o)
{
	o->last_number += 1u << 24;
}

const char *oracle_text(const struct oracle *o)
{
	return o->text;
}

uint64_t oracle_sectors(const struct oracle *o)
{
	return o->n_sectors;
}

bool oracle_wrong(struct oracle *o, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(o->text, sizeof(o->text), format, args);
	va_end(args);
	return false;
}

/* ---- Bytes --------------------------------------------------------------------------- */

static uint64_t word_of(const struct oracle *o, uint32_t number, uint64_t lba, unsigned i)
{
	switch (i) {
	case 0:
		return MAGIC;
	case 1:
		return number;
	case 2:
		return lba;
	default:
		return hash_u64((o->salt ^ ((uint64_t)number << 32)) + lba * WORDS + i);
	}
}

static void fill(const struct oracle *o, uint32_t number, uint64_t first, uint64_t n, uint8_t *buf)
{
	for (uint64_t s = 0; s < n; s++) {
		for (unsigned i = 0; i < WORDS; i++) {
			uint64_t word = word_of(o, number, first + s, i);

			memcpy(buf + s * BLOCK_SECTOR + i * 8, &word, 8);
		}
	}
}

/* The number in these bytes, ZEROES, or RUBBISH (and the text says what is wrong with it). */
uint32_t oracle_identify(struct oracle *o, uint64_t lba, const uint8_t *bytes)
{
	uint64_t word[WORDS];
	uint64_t any = 0;

	memcpy(word, bytes, sizeof(word));
	for (unsigned i = 0; i < WORDS; i++)
		any |= word[i];
	if (any == 0)
		return ZEROES;
	if (word[0] != MAGIC || word[1] == 0 || word[1] > o->last_number) {
		oracle_wrong(
		    o, "sector %llu holds bytes that nobody wrote: %016llx %016llx %016llx ...",
		    (unsigned long long)lba, (unsigned long long)word[0],
		    (unsigned long long)word[1], (unsigned long long)word[2]);
		return RUBBISH;
	}
	for (unsigned i = 0; i < WORDS; i++) {
		if (word[i] != word_of(o, (uint32_t)word[1], lba, i)) {
			oracle_wrong(o, "sector %llu holds sector %llu of write %llu, %s",
				     (unsigned long long)lba, (unsigned long long)word[2],
				     (unsigned long long)word[1],
				     word[2] == lba ? "damaged or of another device" : "misplaced");
			return RUBBISH;
		}
	}
	return (uint32_t)word[1];
}

/* ---- What the client does ------------------------------------------------------------ */

static struct write *write_add(struct oracle *o)
{
	if (o->n_writes == o->room) {
		size_t room = o->room ? o->room * 2 : 256;
		struct write *wider = sim_alloc(room * sizeof(*wider));

		if (o->n_writes)
			memcpy(wider, o->write, o->n_writes * sizeof(*wider));
		sim_release(o->write);
		o->write = wider;
		o->room = room;
	}
	return &o->write[o->n_writes++];
}

struct write *oracle_find(const struct oracle *o, uint32_t number)
{
	size_t low = 0;
	size_t high = o->n_writes;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (o->write[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < o->n_writes && o->write[low].number == number ? &o->write[low] : NULL;
}

uint32_t oracle_write_begin(struct oracle *o, enum block_op op, bool fua, uint64_t first,
			    uint64_t n, void *buf)
{
	struct write *w = write_add(o);
	uint64_t end = first + n;

	CHECK(block_op_writes(op));
	CHECK(end <= o->n_sectors);
	CHECK(++o->last_number < RUBBISH);
	if (op == BLOCK_TRIM) {
		first = round_up(first, BLOCK_SECTORS);
		end = max_u64(first, round_down(end, BLOCK_SECTORS));
	}
	*w = (struct write){
	    .number = o->last_number,
	    .is_zero = op != BLOCK_WRITE,
	    .fua = fua,
	    .first = first,
	    .n = end - first,
	    .submitted = o->clock++,
	    .ended = UNDER_WAY,
	};
	if (op == BLOCK_WRITE)
		fill(o, w->number, first, n, buf);
	return w->number;
}

static void durable_until(struct oracle *o, uint64_t when)
{
	o->durable = max_u64(o->durable, when);
}

void oracle_write_end(struct oracle *o, uint32_t number, int error)
{
	struct write *w = oracle_find(o, number);

	CHECK(w);
	CHECK(w->ended == UNDER_WAY);
	w->ended = o->clock++;
	w->ok = error == 0;
	if (w->ok && w->fua) {
		w->durable = true;
		durable_until(o, w->submitted);
	}
}

uint64_t oracle_flush_begin(struct oracle *o)
{
	return o->clock++;
}

void oracle_flush_end(struct oracle *o, uint64_t token, int error)
{
	if (error == 0)
		durable_until(o, token);
}

void oracle_closed(struct oracle *o)
{
	durable_until(o, o->clock++);
}

/* ---- Live reads ---------------------------------------------------------------------- */

static bool overlaps(const struct write *w, uint64_t first, uint64_t n)
{
	return w->first < first + n && first < w->first + w->n;
}

void oracle_raise_floors(struct oracle *o, const struct write *w, uint64_t first, uint64_t n)
{
	uint64_t end = min_u64(first + n, w->first + w->n);

	for (uint64_t s = max_u64(first, w->first); s < end; s++)
		o->sector[s].floor = max_u64(o->sector[s].floor, w->submitted);
}

void oracle_order(const struct oracle *o, struct order *order, const struct write *under,
		  uint32_t over_number)
{
	const struct write *over;

	if (over_number == under->number || under->n > ATOMIC_SECTORS)
		return;
	over = oracle_find(o, over_number);
	/* Most are strictly ordered already. */
	if (over && over->n <= ATOMIC_SECTORS && under->ended >= over->submitted)
		order_add(order, (struct order_node){under->number, under->submitted, under->ended},
			  (struct order_node){over->number, over->submitted, over->ended});
}

/* Whether a read that began at `token` may see this number, whose write ended then (base: 0). */
static bool is_fresh(const struct sector *s, uint64_t token, uint32_t number, uint64_t ended)
{
	/* What a read has shown to lie over others, later reads do not see under them. */
	bool shown_covered = token > s->read_ended && number != s->read && ended < s->read_at;

	return ended >= s->floor && !shown_covered;
}

/* Floors, and where zeroes are legal, for a read of [first, first + n) that began at `token`. */
static void prepare(struct oracle *o, uint64_t token, uint64_t first, uint64_t n)
{
	for (uint64_t i = first; i < first + n; i++)
		o->sector[i].floor = 0;
	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];

		if (w->ok && w->ended < token && overlaps(w, first, n))
			oracle_raise_floors(o, w, first, n);
	}
	for (uint64_t i = first; i < first + n; i++)
		o->sector[i].may_be_zero =
		    o->sector[i].base == ZEROES && is_fresh(&o->sector[i], token, ZEROES, 0);
	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];
		uint64_t end = min_u64(first + n, w->first + w->n);

		if (w->is_zero && overlaps(w, first, n))
			for (uint64_t k = max_u64(first, w->first); k < end; k++)
				o->sector[k].may_be_zero |=
				    is_fresh(&o->sector[k], token, ZEROES, w->ended);
	}
}

static bool stale(struct oracle *o, uint64_t lba, uint32_t number)
{
	const struct sector *s = &o->sector[lba];
	const struct write *w = oracle_find(o, number);

	return oracle_wrong(
	    o,
	    "sector %llu reads as of write %u, ended at %llu (0: before the crash), "
	    "though a write submitted at %llu has ended, or a read that began at "
	    "%llu has seen write %u",
	    (unsigned long long)lba, number, (unsigned long long)(w ? w->ended : 0),
	    (unsigned long long)s->floor, (unsigned long long)s->read_at, s->read);
}

static bool live_is_legal(struct oracle *o, uint64_t token, uint64_t lba, uint32_t number)
{
	const struct sector *s = &o->sector[lba];
	const struct write *w = oracle_find(o, number);
	bool legal;

	if (number == ZEROES)
		legal = s->may_be_zero;
	else if (w)
		legal = is_fresh(s, token, number, w->ended);
	else
		legal = number == s->base && is_fresh(s, token, number, 0);
	return legal || stale(o, lba, number);
}

/* Of writes that overlap and have ended, one lies over the other everywhere. `got` is what was seen
 * in [first, first + n). */
static bool live_order_holds(struct oracle *o, uint64_t token, uint64_t first, uint64_t n,
			     const uint32_t *got)
{
	struct order *order = order_new();
	uint32_t a = 0;
	uint32_t b = 0;
	bool ok;

	for (size_t i = 0; i < o->n_writes; i++) {
		const struct write *w = &o->write[i];
		uint64_t end = min_u64(first + n, w->first + w->n);

		if (!w->ok || w->ended >= token || !overlaps(w, first, n))
			continue;
		for (uint64_t k = max_u64(first, w->first); k < end; k++)
			oracle_order(o, order, w, got[k - first]);
	}
	ok = order_holds(order, &a, &b);
	order_free(order);
	return ok || oracle_wrong(o, "writes %u and %u each lie partly over the other", a, b);
}

uint64_t oracle_read_begin(struct oracle *o)
{
	return o->clock++;
}

static bool judge_live(struct oracle *o, uint64_t token, uint64_t first, uint64_t n,
		       const uint32_t *got)
{
	prepare(o, token, first, n);
	for (uint64_t i = 0; i < n; i++)
		if (!live_is_legal(o, token, first + i, got[i]))
			return false;
	for (uint64_t i = 0; i < n; i++) {
		struct sector *s = &o->sector[first + i];

		if (token > s->read_at) {
			s->read = got[i];
			s->read_at = token;
			s->read_ended = o->clock - 1;
		}
	}
	return live_order_holds(o, token, first, n, got);
}

bool oracle_read_end(struct oracle *o, uint64_t token, uint64_t first, uint64_t n, const void *buf)
{
	uint32_t *got = sim_alloc(n * sizeof(*got));
	bool ok = true;

	o->clock++;
	for (uint64_t i = 0; i < n && ok; i++) {
		got[i] = oracle_identify(o, first + i, (const uint8_t *)buf + i * BLOCK_SECTOR);
		ok = got[i] != RUBBISH;
	}
	ok = ok && judge_live(o, token, first, n, got);
	sim_release(got);
	return ok;
}

bool oracle_zero_end(struct oracle *o, uint64_t token, uint64_t first, uint64_t n)
{
	o->clock++;
	prepare(o, token, first, n);
	for (uint64_t i = first; i < first + n; i++)
		if (!o->sector[i].may_be_zero)
			return stale(o, i, ZEROES);
	return true;
}
