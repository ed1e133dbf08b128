/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine itself: chance, the choice of the next event, lives, the trace.
 */
#include "tests/sim/machine/machine.h"

#include "base/check.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* io_loop_new and io_file_open name no machine: they mean this one. */
static struct sim *current;

/* ---- Chance -------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, int n)
{
	return (x << n) | (x >> (64 - n));
}

/* xoshiro256** */
uint64_t sim_random(struct sim *sim)
{
	uint64_t *s = sim->rng;
	uint64_t result = rotate(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

uint64_t sim_below(struct sim *sim, uint64_t n)
{
	CHECK(n > 0);
	return sim_random(sim) % n;
}

bool sim_chance(struct sim *sim, uint32_t in_a_million)
{
	return in_a_million > 0 && sim_below(sim, 1000000) < in_a_million;
}

static void seed_generator(struct sim *sim, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		seed += UINT64_C(0x9e3779b97f4a7c15);
		sim->rng[i] = hash_u64(seed);
	}
}

void sim_note(struct sim *sim, uint64_t what)
{
	sim->digest = hash_u64(rotate(sim->digest, 5) ^ what ^ UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t sim_latency(struct sim *sim, uint64_t usual_ns)
{
	return usual_ns / 4 + sim_below(sim, usual_ns * 2);
}

static void choose_tempo(struct sim *sim)
{
	static const uint64_t usual[] = {2000, 20000, 200000, 2000000};

	sim->tempo.read_ns = usual[sim_below(sim, ARRAY_SIZE(usual))];
	sim->tempo.write_ns = usual[sim_below(sim, ARRAY_SIZE(usual))];
	sim->tempo.sync_ns = usual[sim_below(sim, ARRAY_SIZE(usual))] * 4;
	sim->tempo.net_ns = usual[sim_below(sim, ARRAY_SIZE(usual))];
}

/* ---- Making and ending --------------------------------------------------------------- */

void *sim_alloc(size_t size)
{
	void *p = calloc(1, size);

	CHECK(p);
	return p;
}

void sim_release(void *p)
{
	free(p);
}

/* The address sanitizer calls this, if it is there, before it ends the program. */
void __asan_on_error(void);

void __asan_on_error(void)
{
	if (current)
		sim_print_trace(current);
}

static void on_abort(int signal_number)
{
	(void)signal_number;
	if (current)
		sim_print_trace(current);
}

struct sim *sim_new(uint64_t seed, const struct sim_options *options)
{
	struct sim *sim = sim_alloc(sizeof(*sim));

	sim_free(current); /* a test that failed left it behind */
	current = sim;
	sim->seed = seed;
	seed_generator(sim, seed);
	if (options)
		sim->options = *options;
	if (!sim->options.alignment)
		sim->options.alignment = 512;
	choose_tempo(sim);
	list_init(&sim->loops);
	list_init(&sim->works);
	list_init(&sim->files);
	list_init(&sim->disk_ops);
	list_init(&sim->socks);
	signal(SIGABRT, on_abort);
	mem_life_begin();
	return sim;
}

void sim_free(struct sim *sim)
{
	if (!sim)
		return;
	CHECK(sim == current);
	loops_drop(sim);
	disk_end_life(sim);
	disk_free(sim);
	net_free(sim);
	mem_life_end();
	signal(SIGABRT, SIG_DFL);
	current = NULL;
	sim_release(sim);
}

struct sim *sim_current(void)
{
	CHECK(current);
	return current;
}

struct sim_options *sim_options(struct sim *sim)
{
	return &sim->options;
}

uint64_t sim_seed(const struct sim *sim)
{
	return sim->seed;
}

uint64_t sim_digest(const struct sim *sim)
{
	return sim->digest;
}

uint64_t sim_time(const struct sim *sim)
{
	return sim->now;
}

size_t sim_mem_in_use(const struct sim *sim)
{
	(void)sim;
	return mem_life_in_use();
}

/* ---- Lives --------------------------------------------------------------------------- */

static void end_now(struct sim *sim, enum sim_life how)
{
	if (sim->life != ALIVE)
		return;
	sim->life = how;
	sim_note(sim, (uint64_t)how);
	sim_trace(sim, "---- %s ----", how == KILLED ? "process killed" : "power cut");
}

void sim_cut(struct sim *sim)
{
	end_now(sim, POWER_CUT);
}

void sim_kill(struct sim *sim)
{
	end_now(sim, KILLED);
}

static void end_after(struct sim *sim, uint64_t k, enum sim_life how)
{
	sim->end_point = k ? sim->points + k : 0;
	sim->end_life = how;
}

void sim_cut_after(struct sim *sim, uint64_t k)
{
	end_after(sim, k, POWER_CUT);
}

void sim_kill_after(struct sim *sim, uint64_t k)
{
	end_after(sim, k, KILLED);
}

uint64_t sim_points(const struct sim *sim)
{
	return sim->points;
}

void sim_point(struct sim *sim)
{
	sim->points++;
	if (sim->end_point && sim->points >= sim->end_point)
		end_now(sim, sim->end_life);
}

bool sim_is_dead(const struct sim *sim)
{
	return sim->life != ALIVE;
}

void sim_reboot(struct sim *sim)
{
	CHECK(!sim->turn);
	end_now(sim, POWER_CUT);
	loops_drop(sim);
	disk_end_life(sim);
	net_end_life(sim);
	mem_life_end();
	sim->life = ALIVE;
	sim->points = 0;
	sim->end_point = 0;
	sim->nth = 0;
	mem_life_begin();
	sim_trace(sim, "---- new life ----");
}

/* ---- The next event ------------------------------------------------------------------ */

/* Nothing is ready: to the next moment at which something is. False: there is none. */
static bool jump_clock(struct sim *sim)
{
	uint64_t due = min_u64(loops_next_due(sim), min_u64(disk_next_due(sim), net_next_due(sim)));

	if (due == UINT64_MAX)
		return false;
	sim->now = max_u64(sim->now, due);
	return true;
}

static bool do_one(struct sim *sim)
{
	size_t loops = loops_ready(sim);
	size_t disk = disk_ready(sim);
	size_t net = net_ready(sim);
	size_t n;

	if (loops + disk + net == 0)
		return false;
	n = sim_below(sim, loops + disk + net);
	sim->now += 1 + sim_below(sim, 2000);
	sim_note(sim, n);
	if (n < loops)
		loops_do_nth(sim, n);
	else if (n < loops + disk)
		disk_do_nth(sim, n - loops);
	else
		net_do_nth(sim, n - loops - disk);
	return true;
}

bool sim_step(struct sim *sim)
{
	if (sim->life != ALIVE)
		return false;
	if (do_one(sim))
		return true;
	return jump_clock(sim) && do_one(sim);
}

enum sim_end sim_run_until(struct sim *sim, bool (*cond)(void *arg), void *arg, uint64_t max_steps)
{
	CHECK(!sim->turn);
	loop_start_all(sim);
	loops_wake_all(sim);
	for (uint64_t i = 0;; i++) {
		if (cond && cond(arg))
			return SIM_DONE;
		if (sim->life != ALIVE)
			return SIM_DEAD;
		if (i == max_steps)
			return SIM_STEPS;
		if (!sim_step(sim) && sim->life == ALIVE)
			return cond && cond(arg) ? SIM_DONE : SIM_IDLE;
	}
}

bool sim_flag_is_set(void *arg)
{
	return *(bool *)arg;
}

bool sim_may_start(struct io_loop *loop, const char *what)
{
	struct sim *sim = sim_current();

	if (sim->life != ALIVE)
		return false;
	if (sim->turn && sim->turn != loop)
		sim_fail(sim, "%s on loop %s, from the turn of loop %s", what, loop_name(loop),
			 loop_name(sim->turn));
	return true;
}

/* ---- Telling ------------------------------------------------------------------------- */

void sim_trace(struct sim *sim, const char *format, ...)
{
	char *line = sim->trace[sim->n_trace++ % TRACE_LINES];
	int used = snprintf(line, TRACE_WIDTH, "%12.3f us  ", (double)sim->now / 1000);
	va_list args;

	va_start(args, format);
	vsnprintf(line + used, (size_t)(TRACE_WIDTH - used), format, args);
	va_end(args);
}

void sim_print_trace(struct sim *sim)
{
	uint64_t first = sim->n_trace > TRACE_LINES ? sim->n_trace - TRACE_LINES : 0;

	fprintf(stderr, "sim: the last events of seed %llu (point %llu of this life):\n",
		(unsigned long long)sim->seed, (unsigned long long)sim->points);
	for (uint64_t i = first; i < sim->n_trace; i++)
		fprintf(stderr, "  %s\n", sim->trace[i % TRACE_LINES]);
	fflush(stderr);
}

void sim_on_failure(struct sim *sim, void (*fail)(void *arg, const char *text), void *arg,
		    bool quiet)
{
	sim->fail = fail;
	sim->fail_arg = arg;
	sim->fail_quiet = quiet;
}

void sim_fail(struct sim *sim, const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	sim_trace(sim, "FAILED: %s", text);
	if (!sim->fail) {
		fprintf(stderr, "sim: seed %llu failed: %s\n", (unsigned long long)sim->seed, text);
		abort(); /* on_abort prints the trace */
	}
	if (!sim->fail_quiet) {
		fprintf(stderr, "sim: seed %llu failed: %s\n", (unsigned long long)sim->seed, text);
		sim_print_trace(sim);
	}
	sim->fail(sim->fail_arg, text);
}
