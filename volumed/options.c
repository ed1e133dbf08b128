/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/options.h"

#include "base/size.h"
#include "base/util.h"

#include <argp.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum option_key {
	KEY_DATA_DIR = 'd',
	KEY_LISTEN = 'l',
	KEY_STORE = 256,
	KEY_STORE_MAX_SIZE,
	KEY_VOLUME_SIZE,
	KEY_THREADS,
	KEY_CHECK,
	KEY_STDIO,
	KEY_ALLOW_REMOTE,
	KEY_LOG_LEVEL,
	KEY_HINTS,
};

/* clang-format off */
static const struct argp_option option_table[] = {
	{"data-dir", KEY_DATA_DIR, "DIR", 0,
	 "Keep everything in DIR (made if missing) and serve DIR/nbd.sock", 1},
	{"nbd-listen", KEY_LISTEN, "ADDR:PORT", 0,
	 "Serve NBD on this TCP address, too: 127.0.0.1:10809 or [::1]:10809 (repeatable)", 1},
	{"allow-remote-plaintext", KEY_ALLOW_REMOTE, NULL, 0,
	 "Let --nbd-listen take an address that other machines can reach. There is no TLS and no "
	 "password here: whoever can connect can read and write every volume", 1},
	{"store", KEY_STORE, "PATH", 0, "A file or block device, in place of DIR/store", 2},
	{"store-max-size", KEY_STORE_MAX_SIZE, "SIZE", 0,
	 "Bound of the store file's growth (default: what the file system has)", 2},
	{"volume-size", KEY_VOLUME_SIZE, "SIZE", 0,
	 "Size of the first volume, made when the store has none (default: 10GiB)", 2},
	{"threads", KEY_THREADS, "N", 0, "Threads that serve volumes (default: one a core)", 3},
	{"log-level", KEY_LOG_LEVEL, "LEVEL", 0, "error, warning, info (default) or debug", 3},
	{"hints", KEY_HINTS, NULL, 0, "When ready, print commands to try", 3},
	{"stdio", KEY_STDIO, NULL, 0,
	 "Serve one NBD connection on standard input and output, then end", 4},
	{"check", KEY_CHECK, "DIR", 0,
	 "Walk the store of a stopped daemon without changing it and say what is wrong; exit "
	 "status 0: clean, 1: something is wrong, 2: could not look", 4},
	{0},
};
/* clang-format on */

static uint64_t parse_size(struct argp_state *state, const char *name, const char *arg)
{
	uint64_t bytes = 0;
	int r = size_parse(arg, &bytes);

	if (r < 0)
		argp_error(state, "--%s: '%s' is %s: write it as 10GiB, 512MiB or 4096", name, arg,
			   r == -ERANGE ? "too large" : "no size");
	return bytes;
}

static uint64_t parse_volume_size(struct argp_state *state, const char *arg)
{
	uint64_t bytes = parse_size(state, "volume-size", arg);

	if (bytes == 0 || !is_aligned(bytes, 4096) || bytes > 64 * TiB)
		argp_error(state,
			   "--volume-size: '%s': a volume has a multiple of 4096 bytes, at most "
			   "64TiB",
			   arg);
	return bytes;
}

static unsigned parse_threads(struct argp_state *state, const char *arg)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(arg, &end, 10);
	if (errno || end == arg || *end || n < 1 || n > OPTIONS_THREADS_MAX)
		argp_error(state, "--threads: '%s' is not a number from 1 to %d", arg,
			   OPTIONS_THREADS_MAX);
	return (unsigned)n;
}

static enum log_level parse_log_level(struct argp_state *state, const char *arg)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(arg, names[i]) == 0)
			return (enum log_level)i;
	argp_error(state, "--log-level: '%s' is not one of error, warning, info, debug", arg);
	return LOG_LEVEL_INFO;
}

static void set_mode(struct argp_state *state, struct options *o, enum options_mode mode)
{
	if (o->mode != MODE_SERVE && o->mode != mode)
		argp_error(state, "--check and --stdio exclude each other");
	o->mode = mode;
}

static void add_listen(struct argp_state *state, struct options *o, const char *arg)
{
	if (o->n_listen == OPTIONS_LISTEN_MAX)
		argp_error(state, "--nbd-listen: at most %d of them", OPTIONS_LISTEN_MAX);
	else
		o->listen[o->n_listen++] = arg;
}

static void set_data_dir(struct argp_state *state, struct options *o, const char *arg)
{
	if (o->data_dir)
		argp_error(state, "more than one data folder: '%s' and '%s'", o->data_dir, arg);
	if (*arg == '\0')
		argp_error(state, "the name of the data folder is empty");
	o->data_dir = arg;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case KEY_DATA_DIR:
		set_data_dir(state, o, arg);
		return 0;
	case KEY_LISTEN:
		add_listen(state, o, arg);
		return 0;
	case KEY_ALLOW_REMOTE:
		o->allow_remote = true;
		return 0;
	case KEY_STORE:
		o->store = arg;
		return 0;
	case KEY_STORE_MAX_SIZE:
		o->store_max_size = parse_size(state, "store-max-size", arg);
		return 0;
	case KEY_VOLUME_SIZE:
		o->volume_size = parse_volume_size(state, arg);
		return 0;
	case KEY_THREADS:
		o->threads = parse_threads(state, arg);
		return 0;
	case KEY_LOG_LEVEL:
		o->log_level = parse_log_level(state, arg);
		return 0;
	case KEY_HINTS:
		o->hints = true;
		return 0;
	case KEY_STDIO:
		set_mode(state, o, MODE_STDIO);
		return 0;
	case KEY_CHECK:
		set_mode(state, o, MODE_CHECK);
		set_data_dir(state, o, arg);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': there are no arguments but options", arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->data_dir)
			argp_error(state, "say where the data is: --data-dir DIR");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static unsigned count_cores(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)min_u64((uint64_t)CPU_COUNT(&set), OPTIONS_THREADS_MAX);
}

void options_parse(int argc, char **argv, struct options *ret_options)
{
	static const struct argp argp = {
	    .options = option_table,
	    .parser = parse_option,
	    .doc = "Block storage for virtual machines, served over NBD.\v"
		   "SIZE is a number with K, M, G, T (powers of 1024), KiB ..., or KB ... (powers "
		   "of 1000). SIGTERM or SIGINT stops the daemon cleanly; a second one ends it at "
		   "once, which loses nothing that was acknowledged.",
	};

	*ret_options = (struct options){
	    .volume_size = 10 * GiB,
	    .threads = count_cores(),
	    .log_level = LOG_LEVEL_INFO,
	};
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, ret_options);
}
