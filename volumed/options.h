/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line, and the config file that it names, as a struct.
 */
#ifndef VOLUMED_OPTIONS_H
#define VOLUMED_OPTIONS_H

#include "base/arena.h"
#include "base/log.h"

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_LISTEN_MAX  16
#define OPTIONS_THREADS_MAX 256
#define OPTIONS_ZONE_MAX    31

enum options_mode {
	MODE_SERVE,
	MODE_STDIO, /* one connection on stdin and stdout */
	MODE_CHECK, /* walk the store read-only */
};

struct options {
	enum options_mode mode;
	const char *config; /* the file that was read, or NULL */
	uint32_t given;     /* bit i: settings[i] was on the command line */
	const char *data_dir;
	const char *store; /* NULL: DIR/store */
	uint64_t store_max_size;
	const char *snapshots;   /* the repository's folder; NULL: DIR/snapshots */
	uint64_t upload_rate;    /* bytes a second; 0: no bound */
	uint64_t hydration_rate; /* the same */
	unsigned sweep_rate;     /* objects removed a second; 0: this daemon does not sweep */
	uint64_t volume_size;    /* of the first volume; 0: make none */
	double overcommit_limit; /* 0: none */
	const char *zone;
	unsigned zone_number;
	unsigned detach_wait;    /* seconds */
	unsigned io_stuck_after; /* seconds */
	const char *listen[OPTIONS_LISTEN_MAX];
	unsigned n_listen;
	bool allow_remote;
	unsigned threads;
	uint64_t map_memory; /* of all threads; 0: by their number */
	bool hints;
	enum log_level log_level;
	struct arena memory; /* texts from the config file */
};

/* Takes main's arguments. On bad ones it says what is wrong and exits with 2; --help and --version
 * exit with 0. The strings stay in argv, or
 * in options->memory, which main frees. */
void options_parse(int argc, char **argv, struct options *ret_options);

#endif
