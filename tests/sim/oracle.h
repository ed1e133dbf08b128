/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client of a block device (block/block.h) may legally see. The oracle numbers every write,
 * gives it bytes that name the write and the sector, and judges what is read, live and after a
 * crash, by the promises of engine/engine.h:
 *
 *  live   a read sees for each sector the newest write that ended before the read began, or one
 * that was in flight since; and never something older than what an earlier read has shown (E4). Of
 * two writes that overlapped in flight, each up to 1 MiB is whole. E1     after a power cut
 * everything is there that a FLUSH or FUA has made durable; after the death of the process
 * everything that was acknowledged E2     what is there is a prefix of an order in which a write
 * that ended before another was submitted comes first, and which agrees with what reads have shown
 *  E3     writes (and trims, zeroes) up to 1 MiB are there whole or not at all
 *  E5     a trim zeroes the whole 4-KiB blocks inside it and touches nothing else
 *
 * A write that failed may be there or not, as if it had been in flight at its end. A trim counts as
 * a write of zeroes. Zeroes bear no number: where several writes could have made them, the oracle
 * assumes the one that demands least.
 *
 * No I/O in here: tests call begin and end around each request. Judgements return false, with the
 * reason in oracle_text(). Units are sectors of 512 bytes.
 */
#ifndef TESTS_SIM_ORACLE_H
#define TESTS_SIM_ORACLE_H

#include "block/block.h"

#include <stdbool.h>
#include <stdint.h>

struct oracle;

/* A device of `n_sectors` that reads as zeroes. `salt` tells devices apart: bytes of another are
 * wrong everywhere. */
struct oracle *oracle_new(uint64_t n_sectors, uint64_t salt);
void oracle_free(struct oracle *o); /* NULL is legal */
/* From now on a crash is judged as that of a physical disk, which writes in place: by E1, sector by
 * sector, since E2 and E3 are not promised. */
void oracle_in_place(struct oracle *o);
const char *oracle_text(const struct oracle *o);
uint64_t oracle_sectors(const struct oracle *o);

/* A WRITE (fills buf), TRIM or WRITE_ZEROES is about to be submitted. Returns its number, 1 and
 * up. */
uint32_t oracle_write_begin(struct oracle *o, enum block_op op, bool fua, uint64_t first,
			    uint64_t n, void *buf);
/* It was answered. */
void oracle_write_end(struct oracle *o, uint32_t number, int error);

/* A token to give to the end. */
uint64_t oracle_flush_begin(struct oracle *o);
void oracle_flush_end(struct oracle *o, uint64_t token, int error);

uint64_t oracle_read_begin(struct oracle *o);
bool oracle_read_end(struct oracle *o, uint64_t token, uint64_t first, uint64_t n, const void *buf);
/* As oracle_read_end, for sectors of which STATUS said that they read as zeroes. */
bool oracle_zero_end(struct oracle *o, uint64_t token, uint64_t first, uint64_t n);

/* The device is longer now, by sectors that read as zeroes. (After a crash while it grew, the test
 * looks at its size, and calls this before it shows the sectors.) */
void oracle_grow(struct oracle *o, uint64_t n_sectors);

/* The device was closed cleanly: all that was acknowledged is durable. */
void oracle_closed(struct oracle *o);

/* A copy, to judge a snapshot by that was asked for at `asked` (oracle_read_begin) and has its
 * place in the order now: as a power cut now, after a flush of all that had ended then. */
struct oracle *oracle_of_cut(const struct oracle *o, uint64_t asked);
/* Its writes from now on are told from those of the oracle that it is a copy of. */
void oracle_apart(struct oracle *o);

enum oracle_crash { ORACLE_POWER_CUT, ORACLE_KILL };

/* After a crash: begin (several crashes in a row are one; a power cut outweighs), show every sector
 * once, in any pieces, then judge. What was there is the base for all that comes after. Beginning
 * anew forgets what was shown. */
void oracle_crash_begin(struct oracle *o, enum oracle_crash kind);
bool oracle_crash_see(struct oracle *o, uint64_t first, uint64_t n, const void *buf);
bool oracle_crash_end(struct oracle *o);

#endif
