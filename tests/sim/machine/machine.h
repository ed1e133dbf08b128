/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the simulated machine know of each other. Tests include sim.h.
 */
#ifndef TESTS_SIM_MACHINE_MACHINE_H
#define TESTS_SIM_MACHINE_MACHINE_H

#include "base/list.h"
#include "tests/sim/machine/sim.h"

#define TRACE_LINES 400
#define TRACE_WIDTH 120
#define LOOPS_MAX   64 /* in one life; mail keeps a queue for each sender */

enum sim_life { ALIVE, POWER_CUT, KILLED };

/* The speed of this run's devices: seeds differ in what is slow. */
struct tempo {
	uint64_t read_ns;
	uint64_t write_ns;
	uint64_t sync_ns;
	uint64_t net_ns;
};

struct sim {
	uint64_t seed;
	uint64_t rng[4];
	uint64_t digest;
	uint64_t now;
	struct sim_options options;
	uint64_t channel_free_at[64];
	uint64_t pipe_free_at;
	struct tempo tempo;
	enum sim_life life;

	/* loop.c */
	struct list loops;
	unsigned n_loops;     /* made in this life */
	struct io_loop *turn; /* whose turn it is; NULL: the test's */
	struct list works;    /* sim_work, not yet run */

	/* disk.c */
	struct list files;    /* platters */
	struct list disk_ops; /* in flight */
	uint64_t tick;        /* orders starts and ends of device operations */
	uint64_t points;
	uint64_t end_point; /* 0: none */
	enum sim_life end_life;
	enum sim_fate (*hook)(void *arg, struct sim_disk_op *op);
	void *hook_arg;
	unsigned nth_kinds;
	uint64_t nth; /* 0: none */
	enum sim_fate nth_fate;
	int nth_error;

	/* net.c */
	struct list socks;
	unsigned n_socks;

	void (*fail)(void *arg, const char *text);
	void *fail_arg;
	bool fail_quiet;
	uint64_t n_trace;
	char trace[TRACE_LINES][TRACE_WIDTH];
};

/* sim.c */
void sim_note(struct sim *sim, uint64_t what); /* into the digest */
void sim_point(struct sim *sim);               /* a place where a life may end */
uint64_t sim_latency(struct sim *sim, uint64_t usual_ns);
/* True if the caller may act on `loop` now: it is alive, and it is this loop's turn. */
bool sim_may_start(struct io_loop *loop, const char *what);

/* loop.c. `ready` counts what could happen now, do_nth does one of them, next_due says when the
 * clock has something to wake up for (UINT64_MAX: never). disk.c and net.c have the same three. */
size_t loops_ready(struct sim *sim);
void loops_do_nth(struct sim *sim, size_t n);
uint64_t loops_next_due(struct sim *sim);
void loops_wake_all(struct sim *sim);
void loops_drop(struct sim *sim);
void loop_start_all(struct sim *sim);
bool loop_is_stopped(const struct io_loop *loop);
void loop_started(struct io_loop *loop); /* an operation: the hooks have work again */
/* The op has ended: its loop will deliver it. */
void loop_complete(struct io_loop *loop, struct io_op *op, int64_t result);
struct sim *loop_sim(const struct io_loop *loop);
const char *loop_name(const struct io_loop *loop);

size_t disk_ready(struct sim *sim);
void disk_do_nth(struct sim *sim, size_t n);
uint64_t disk_next_due(struct sim *sim);
void disk_forget_loop(struct sim *sim, struct io_loop *loop); /* it is freed */
void disk_end_life(struct sim *sim);                          /* settles the platters */
void disk_free(struct sim *sim);

size_t net_ready(struct sim *sim);
void net_do_nth(struct sim *sim, size_t n);
uint64_t net_next_due(struct sim *sim);
void net_forget_loop(struct sim *sim, struct io_loop *loop);
void net_end_life(struct sim *sim);
void net_free(struct sim *sim);

/* mem.c */
void mem_life_begin(void);
void mem_life_end(void); /* frees all that base/mem.h gave out since */
size_t mem_life_in_use(void);

#endif
