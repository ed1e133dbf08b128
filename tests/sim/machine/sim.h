/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated machine: io/io.h over a fake disk, network and clock, in which a seed decides
 * everything. No threads, no wall clock, no real files. One seed is one run, bit for bit, and
 * sim_digest() proves it.
 *
 * There is one machine at a time: sim_new makes it, io_loop_new and io_file_open find it. Nothing
 * happens but inside sim_step, sim_run_until, io_loop_run and io_loop_join.
 *
 * A machine lives several lives. Its disk (the "platters") lasts; loops, operations, timers, work,
 * server ends of sockets, open files and everything that base/mem.h gave out end with the life, so
 * a test drops a daemon by sim_reboot() and leaks nothing. What must last longer is sim_alloc's.
 *
 * Rules of io.h that this machine watches, and tells by the failure handler (default: print seed
 * and trace, abort): operations from another loop's turn, an op started twice, bad alignment, a
 * buffer of a write or send that changes under way, files and sockets closed with operations in
 * flight, hooks that never come to rest.
 */
#ifndef TESTS_SIM_MACHINE_SIM_H
#define TESTS_SIM_MACHINE_SIM_H

#include "io/io.h"

struct sim;

/* ---- The machine --------------------------------------------------------------------- */

/* Chances are in a million, for each operation. All zeroes: a disk without faults. */
struct sim_options {
	uint32_t alignment;  /* of the disk: 512 or 4096; 0: 512 */
	bool is_device;      /* files are block devices: punched ranges hold rubbish */
	uint64_t capacity;   /* bytes that all files together may grow to; 0: no bound */
	uint32_t fail_read;  /* -EIO */
	uint32_t fail_write; /* -EIO; some of its sectors may have landed */
	uint32_t fail_sync;  /* -EIO; see disk.c for what it does to unsynced data */
	uint32_t slow;       /* a latency a thousand times the usual */
	uint32_t stall;      /* never completes */
	uint32_t lose_write; /* completes, and is not there */
	uint32_t misdirect;  /* lands somewhere else in the file */
	/* A disk with a queue, first come, first served, in place of latencies by seed: it works on
	 * so many operations at a time (0: no queue), each takes op_ns, and moves 4 KiB after 4 KiB
	 * through one pipe. */
	uint32_t channels; /* at most 64 */
	uint32_t op_ns;
	uint32_t page_ns;
};

struct sim *sim_new(uint64_t seed, const struct sim_options *options); /* NULL: no faults */
void sim_free(struct sim *sim);                                        /* NULL is legal */
struct sim *sim_current(void);
struct sim_options *sim_options(struct sim *sim); /* may be changed at any time */
uint64_t sim_seed(const struct sim *sim);
/* A hash over every decision so far. */
uint64_t sim_digest(const struct sim *sim);

/* Chance for tests: the machine's own generator. */
uint64_t sim_random(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t n); /* 0 .. n-1; n > 0 */
bool sim_chance(struct sim *sim, uint32_t in_a_million);

/* Zeroed memory of the test's own, which outlives a life; never NULL. */
void *sim_alloc(size_t size);
void sim_release(void *p); /* NULL is legal */
/* Allocations of base/mem.h that this life has not given back. */
size_t sim_mem_in_use(const struct sim *sim);

enum sim_end {
	SIM_DONE,  /* the condition holds */
	SIM_IDLE,  /* nothing is left to happen, and it does not hold */
	SIM_STEPS, /* max_steps were not enough */
	SIM_DEAD,  /* the power was cut, or the process killed */
};

/* One event: a device operation ends, a loop takes a turn, bytes arrive, a worker runs. False:
 * there was none, or the machine is dead. The clock moves by a little for each event, and jumps
 * when nothing is ready. */
bool sim_step(struct sim *sim);
/* Steps until `cond`, which is asked before each step. Each loop gets at least one turn, so that
 * hooks see what the test did meanwhile. `cond` NULL: until idle. */
enum sim_end sim_run_until(struct sim *sim, bool (*cond)(void *arg), void *arg, uint64_t max_steps);
/* For sim_run_until: true once the bool at arg is. */
bool sim_flag_is_set(void *arg);
uint64_t sim_time(const struct sim *sim); /* virtual ns */

/* ---- Ends of a life ------------------------------------------------------------------ */

/* Power goes: see the fault model in disk.c. From here on nothing reaches the disk and no loop
 * takes another turn (the turn under way ends in vain); then sim_reboot. */
void sim_cut(struct sim *sim);
/* The process dies: every write that completed is kept (though not yet durable), those in flight
 * are each kept, dropped or torn. */
void sim_kill(struct sim *sim);
/* The same, right after the k-th "point" from now (1 is the next). Each write, sync, grow, punch
 * and reserve has two: when it has been started, and when it has ended. 0: never. */
void sim_cut_after(struct sim *sim, uint64_t k);
void sim_kill_after(struct sim *sim, uint64_t k);
/* Points of this life so far. */
uint64_t sim_points(const struct sim *sim);
bool sim_is_dead(const struct sim *sim);
/* Ends the life (by a power cut if nothing else did), lets the platters settle, frees the daemon's
 * memory, and begins the next life. */
void sim_reboot(struct sim *sim);

/* ---- Telling ------------------------------------------------------------------------- */

/* A line for the ring of the last events, which is printed when something fails. */
void sim_trace(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_print_trace(struct sim *sim);
/* Whoever is told of failures; NULL: abort. Seed and trace were printed unless `quiet`. If it
 * returns, the run goes on. */
void sim_on_failure(struct sim *sim, void (*fail)(void *arg, const char *text), void *arg,
		    bool quiet);
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define sim_assert(sim, x)                                                                         \
	do {                                                                                       \
		if (!(x))                                                                          \
			sim_fail(sim, "%s:%d: %s", __FILE__, __LINE__, #x);                        \
	} while (0)

/* ---- Disk ---------------------------------------------------------------------------- */

enum sim_disk_kind {
	SIM_READ = 1,
	SIM_WRITE = 2,
	SIM_SYNC = 4,
	SIM_GROW = 8,
	SIM_PUNCH = 16,
	SIM_RESERVE = 32, /* changes nothing; fails by hook only */
};

enum sim_fate {
	SIM_PROCEED,   /* as the options say */
	SIM_FAIL,      /* with an error */
	SIM_STALL,     /* not before sim_release_stalled */
	SIM_SLOW,      /* a thousand times the usual latency */
	SIM_LOSE,      /* write, punch, grow: says done, does nothing. Sync: lies */
	SIM_MISDIRECT, /* write: lands elsewhere in the file */
};

struct sim_disk_op {
	const char *path;
	enum sim_disk_kind kind;
	uint64_t offset;
	uint64_t len;
	int error; /* hook: what SIM_FAIL gives; -EIO at first */
};

/* Asked as each operation starts; NULL: none. */
void sim_disk_hook(struct sim *sim, enum sim_fate (*hook)(void *arg, struct sim_disk_op *op),
		   void *arg);
/* The n-th operation (1 is the next) among `kinds` gets this fate, once. Reset by a reboot. */
void sim_disk_nth(struct sim *sim, unsigned kinds, uint64_t n, enum sim_fate fate, int error);
/* Those that stalled go on. */
void sim_release_stalled(struct sim *sim);
/* Device operations in flight, of these kinds. */
unsigned sim_disk_in_flight(const struct sim *sim, unsigned kinds);

/* Behind the daemon's back. Plant makes bytes that are durable at once. */
bool sim_file_exists(struct sim *sim, const char *path);
uint64_t sim_file_size(struct sim *sim, const char *path);
void sim_file_peek(struct sim *sim, const char *path, uint64_t offset, void *buf, size_t len);
void sim_file_plant(struct sim *sim, const char *path, uint64_t offset, const void *buf,
		    size_t len);
void sim_file_truncate(struct sim *sim, const char *path, uint64_t size);
void sim_file_remove(struct sim *sim, const char *path);
/* Flips one bit somewhere in the range, for good; returns the byte's offset. */
uint64_t sim_file_rot(struct sim *sim, const char *path, uint64_t offset, uint64_t len);

/* Files for code that blocks (SQLite): the same disk, the same faults and points, no loop. 0 or a
 * negative errno; -EIO once the life has ended. The file is made if it is missing. Writes need no
 * alignment: the sectors that they touch are written whole. Reads past the end give zeroes. */
int sim_now_read(struct sim *sim, const char *path, uint64_t offset, void *buf, size_t len);
int sim_now_write(struct sim *sim, const char *path, uint64_t offset, const void *buf, size_t len);
int sim_now_sync(struct sim *sim, const char *path);
/* At once durable, both. */
int sim_now_truncate(struct sim *sim, const char *path, uint64_t size);
int sim_now_remove(struct sim *sim, const char *path);

/* ---- Network ----------------------------------------------------------------------------------
 * An "inside" end belongs to the daemon and dies with it; the peer then sees a reset. An "outside"
 * end is the test's: use it by the functions here, or by io_recv and io_send. Bytes travel in
 * random pieces with random delays.
 */

struct io_sock *sim_listen(struct sim *sim, bool local); /* inside */
/* The outside end of a new connection, which waits to be accepted. */
struct io_sock *sim_connect(struct sim *sim, struct io_sock *listener);
void sim_pair(struct sim *sim, bool local, struct io_sock **ret_inside,
	      struct io_sock **ret_outside);

void sim_send(struct io_sock *sock, const void *buf, size_t len);
size_t sim_recv(struct io_sock *sock, void *buf, size_t max); /* what has come; 0: nothing yet */
size_t sim_arrived(const struct io_sock *sock);               /* bytes that sim_recv would give */
bool sim_peer_closed(const struct io_sock *sock); /* it has finished sending; all read */
bool sim_peer_reset(const struct io_sock *sock);
void sim_half_close(struct io_sock *sock); /* we have finished sending */
void sim_reset(struct io_sock *sock);      /* both ways at once; bytes under way are lost */
/* What this end sends (out) or is sent (in) stays on the wire, but for `n` more bytes of `out`. */
void sim_hold(struct io_sock *sock, bool out, bool in);
void sim_let_pass(struct io_sock *sock, size_t n);

#endif
