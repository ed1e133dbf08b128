/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients of one block device: random requests by seed, several in flight, overlapping, of all
 * kinds and sizes; everything that comes back is judged by an oracle. Runs on the device's loop.
 * Its memory is the test's: after a crash free it and start another with the same oracle.
 */
#ifndef TESTS_SIM_WORKLOAD_H
#define TESTS_SIM_WORKLOAD_H

#include "block/block.h"
#include "tests/sim/machine/sim.h"
#include "tests/sim/oracle.h"

/* Zero: chosen by the seed, each client for itself. */
struct workload_options {
	unsigned clients;
	unsigned depth;     /* requests in flight of each */
	uint64_t n_ops;     /* in all; zero: no end */
	uint64_t max_bytes; /* of a read or write; at most 2 MiB */
	bool errors_ok;     /* requests may fail: the test injects faults */
	int only_error;     /* with errors_ok: only with this one; zero: with any */
};

struct workload;

struct workload *workload_start(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				struct oracle *oracle, const struct workload_options *options);
void workload_free(struct workload *w); /* abandons what is in flight; NULL is legal */
/* Issues nothing more. */
void workload_stop(struct workload *w);
/* For sim_run_until: nothing is in flight and no more will come, or something was wrong. */
bool workload_is_over(void *w);
/* What was wrong; NULL: nothing. */
const char *workload_failure(const struct workload *w);

struct workload_counts {
	uint64_t answered;
	uint64_t errors;
	uint64_t verified; /* sectors that were read and judged */
};
struct workload_counts workload_counts(const struct workload *w);

enum verify_end {
	VERIFY_OK,
	VERIFY_WRONG, /* the oracle says no, or a read failed: *ret_text says what */
	VERIFY_DEAD,  /* the machine died meanwhile */
	VERIFY_STUCK, /* a read never ended */
};

/* Reads all of the device. After a crash (oracle_crash_begin was called): is what is there legal?
 * Live: is it what the clients were told? Steps the machine. */
enum verify_end workload_verify_crash(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				      struct oracle *oracle, const char **ret_text);
enum verify_end workload_verify_live(struct sim *sim, struct io_loop *loop, struct block_dev *dev,
				     struct oracle *oracle, const char **ret_text);

#endif
