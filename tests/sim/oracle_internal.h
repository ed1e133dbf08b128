/* SPDX-License-Identifier: Apache-2.0
 *
 * How the oracle judges. Time is a counter of begins and ends. Write a comes strictly before write
 * b if a ended before b was submitted; others may be in either order.
 *
 * For one sector, `floor` is the latest submission among the writes of it that certainly have taken
 * effect. What ended before `floor` lies under one of them and can't be seen.
 */
#ifndef TESTS_SIM_ORACLE_INTERNAL_H
#define TESTS_SIM_ORACLE_INTERNAL_H

#include "tests/sim/oracle.h"

#include <stddef.h>

#define UNDER_WAY      UINT64_MAX
#define ATOMIC_SECTORS (BLOCK_ATOMIC_MAX / BLOCK_SECTOR)
#define ZEROES         0          /* as a number: nobody's bytes */
#define RUBBISH        UINT32_MAX /* as a number: what no write of ours makes */

struct order;

struct write {
	uint32_t number;
	bool is_zero;
	bool fua;
	bool ok;      /* ended without error */
	bool durable; /* by its own FUA */
	uint64_t first;
	uint64_t n; /* 0: a trim too small to do anything */
	uint64_t submitted;
	uint64_t ended; /* UNDER_WAY */

	/* Of the judgement after a crash. */
	bool shows; /* some sector shows it */
	bool there; /* it is part of the prefix... */
	bool whole; /* ... and of a large one, every part is */
};

struct sector {
	uint32_t base; /* number at the last power cut */
	uint32_t read; /* what a read saw that began and ended then (0: none has) */
	uint64_t read_at;
	uint64_t read_ended;
	uint32_t seen; /* after the crash */

	/* Of the judgement under way. */
	bool may_be_zero;  /* live */
	uint32_t n_makers; /* writes that may have made these zeroes */
	uint32_t maker;    /* one of them */
	uint64_t earliest; /* submission of the earliest of them */
	uint64_t floor;
	uint64_t shown_floor; /* after a crash: the same, since a read has shown it */
};

struct oracle {
	uint64_t salt;
	uint64_t clock;
	uint64_t n_sectors;
	struct sector *sector;
	struct write *write; /* since the last power cut, by number */
	size_t n_writes;
	size_t room;
	uint32_t last_number;
	uint64_t durable; /* what ended before is durable */

	bool in_place; /* no E2, no E3 after a crash */
	enum oracle_crash crash;
	bool in_crash;
	uint64_t n_shown;
	uint64_t demand; /* something submitted then, or later, is there */

	char text[300];
};

/* Sets the text; returns false. */
bool oracle_wrong(struct oracle *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The number in these bytes of a sector, ZEROES, or RUBBISH (and the text says what is wrong). */
uint32_t oracle_identify(struct oracle *o, uint64_t lba, const uint8_t *bytes);
/* NULL: it is not of this time. */
struct write *oracle_find(const struct oracle *o, uint32_t number);
/* `w` has taken effect in its part of [first, first + n). */
void oracle_raise_floors(struct oracle *o, const struct write *w, uint64_t first, uint64_t n);
/* Where `under` has written, `over_number` was seen. */
void oracle_order(const struct oracle *o, struct order *order, const struct write *under,
		  uint32_t over_number);

#endif
