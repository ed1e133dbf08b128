/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects (snapshots/blobs.h) on the simulated machine. They outlive its lives, as platters do.
 * Fault model:
 *
 *  - Operations complete in any order, after latencies by seed. Each takes effect at one moment,
 *    whole, between its start and its `done`; reads and lists see one moment.
 *  - At the end of a life each put, swap, remove or punch in flight has happened, whole, or not at
 *    all. What completed stays.
 *  - Start and effect of each are points (tests/sim/machine/sim.h) at which a life may end.
 *  - By call: errors (the operation may have happened all the same), operations that never
 *    complete, flipped bits, lost objects.
 */
#ifndef TESTS_SIM_BLOBS_SIM_H
#define TESTS_SIM_BLOBS_SIM_H

#include "snapshots/blobs.h"
#include "tests/sim/machine/sim.h"

struct blobs_sim;

struct blobs_sim *blobs_sim_new(struct sim *sim);
void blobs_sim_free(struct blobs_sim *b); /* NULL is legal */
/* A handle for a daemon of this life. */
struct blobs *blobs_sim_open(struct blobs_sim *b);
/* After each sim_reboot: what was in flight settles. */
void blobs_sim_settle(struct blobs_sim *b);

/* The n-th operation from now (1 is the next) of this kind (enum blob_kind; -1: any) gets `error`,
 * or with `stall` never completes. Once. */
void blobs_sim_nth(struct blobs_sim *b, int kind, uint64_t n, int error, bool stall);
/* Those that never complete go on. */
void blobs_sim_release(struct blobs_sim *b);
/* Chance in a million that a mutating operation, or a read, fails with -EIO. */
void blobs_sim_chance(struct blobs_sim *b, uint32_t in_a_million);

/* Chance in a million that an operation takes thirty times as long. */
void blobs_sim_slow(struct blobs_sim *b, uint32_t in_a_million);

/* Behind the daemon's back. */
bool blobs_sim_exists(struct blobs_sim *b, const char *name);
uint64_t blobs_sim_size(struct blobs_sim *b, const char *name);
uint64_t blobs_sim_count(struct blobs_sim *b, const char *prefix);
uint64_t blobs_sim_stored(struct blobs_sim *b, const char *prefix); /* bytes, holes left out */
/* The i-th object under the prefix, in order; NULL: there are fewer. */
const char *blobs_sim_name(struct blobs_sim *b, const char *prefix, uint64_t i);
void blobs_sim_flip(struct blobs_sim *b, const char *name, uint64_t byte, unsigned bit);
void blobs_sim_lose(struct blobs_sim *b, const char *name);
/* As if it had been written so long ago. */
void blobs_sim_age(struct blobs_sim *b, uint64_t ns);
uint64_t blobs_sim_started(struct blobs_sim *b); /* operations of all kinds so far */

#endif
