/* SPDX-License-Identifier: Apache-2.0 */
#include "instance-stored/options.h"

#include "base/log.h"
#include "base/size.h"
#include "base/util.h"
#include "instance-store/keep_tmpfs.h"

#include <argp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define KEY_DIR      "/run/instance-stored/keys"
#define DISCARD_RATE GiB
#define THREADS      4 /* by default, at most: a few VMs keep no more busy */

enum option_key {
	KEY_DATA_DIR = 256,
	KEY_STORE,
	KEY_SIZE,
	KEY_SLICE_SIZE,
	KEY_KEY_DIR,
	KEY_ALLOW_DISK,
	KEY_ADOPT,
	KEY_GIVE_UP,
	KEY_DISCARD_RATE,
	KEY_THREADS,
	KEY_MACHINE_ID,
	KEY_BOOT_ID,
	KEY_DEBUG,
};

/* clang-format off */
static const struct argp_option all_options[] = {
	{"data-dir", KEY_DATA_DIR, "DIR", 0,
	 "The folder of the sockets nbd.sock and instance-stored.sock, and of the store unless "
	 "--store names it; is made if it is missing", 1},
	{"store", KEY_STORE, "PATH", 0,
	 "A file or block device in place of DIR/store; a device has to be empty, or an instance "
	 "store", 1},
	{"size", KEY_SIZE, "SIZE", 0, "How large a new store file is to be", 1},
	{"slice-size", KEY_SLICE_SIZE, "SIZE", 0,
	 "What disks are made of in a new store: a power of two from 1 MiB (default: by the size "
	 "of the store)", 1},
	{"key-dir", KEY_KEY_DIR, "DIR", 0,
	 "Where keys and maps of written blocks live, on tmpfs (default: " KEY_DIR "); 32 MiB for "
	 "each TiB of disks", 2},
	{"allow-key-dir-on-disk", KEY_ALLOW_DISK, NULL, 0,
	 "For tests: keys may lie where they outlast the host's power", 2},
	{"discard-rate", KEY_DISCARD_RATE, "SIZE", 0,
	 "Discard what ended at most at this rate a second (default: 1 GiB; 0: no bound)", 3},
	{"threads", KEY_THREADS, "N", 0,
	 "Threads that serve disks (default: one for each processor, at most 4)", 3},
	{"adopt", KEY_ADOPT, NULL, 0,
	 "Take over a store that another machine has made: all its disks end", 4},
	{"give-up-damaged", KEY_GIVE_UP, NULL, 0,
	 "Go on without disks whose entry in the disk table is damaged in both copies", 4},
	{"machine-id", KEY_MACHINE_ID, "FILE", 0,
	 "What names this machine (default: " KEEP_MACHINE_ID ")", 5},
	{"boot-id", KEY_BOOT_ID, "FILE", 0,
	 "What names its boot (default: " KEEP_BOOT_ID ")", 5},
	{"debug", KEY_DEBUG, NULL, 0, "Log more", 5},
	{0},
};
/* clang-format on */

static uint64_t size_of(struct argp_state *state, const char *name, const char *arg)
{
	uint64_t size = 0;

	if (size_parse(arg, &size) < 0)
		argp_error(state, "--%s '%s': write a size as in 100GiB", name, arg);
	return size;
}

static unsigned threads_of(struct argp_state *state, const char *arg)
{
	char *end;
	unsigned long n = strtoul(arg, &end, 10);

	if (*end || n == 0 || n > OPTIONS_THREADS_MAX)
		argp_error(state, "--threads '%s': a number from 1 to %d is needed", arg,
			   OPTIONS_THREADS_MAX);
	return (unsigned)n;
}

static void at_end(struct argp_state *state, const struct options *o)
{
	if (!o->data_dir)
		argp_error(state, "say where its sockets are to be: --data-dir DIR");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case KEY_DATA_DIR:
		o->data_dir = arg;
		return 0;
	case KEY_STORE:
		o->store = arg;
		return 0;
	case KEY_SIZE:
		o->size = size_of(state, "size", arg);
		return 0;
	case KEY_SLICE_SIZE:
		o->slice_size = size_of(state, "slice-size", arg);
		return 0;
	case KEY_KEY_DIR:
		o->key_dir = arg;
		return 0;
	case KEY_ALLOW_DISK:
		o->allow_key_dir_on_disk = true;
		return 0;
	case KEY_ADOPT:
		o->adopt = true;
		return 0;
	case KEY_GIVE_UP:
		o->give_up_damaged = true;
		return 0;
	case KEY_DISCARD_RATE:
		o->discard_rate = size_of(state, "discard-rate", arg);
		return 0;
	case KEY_THREADS:
		o->threads = threads_of(state, arg);
		return 0;
	case KEY_MACHINE_ID:
		o->machine_id = arg;
		return 0;
	case KEY_BOOT_ID:
		o->boot_id = arg;
		return 0;
	case KEY_DEBUG:
		log_set_level(LOG_LEVEL_DEBUG);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is no command; there are create, list, wipe, delete, event",
			   arg);
		return 0;
	case ARGP_KEY_END:
		at_end(state, o);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static unsigned default_threads(void)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return 1;
	return (unsigned)min_u64((uint64_t)CPU_COUNT(&cpus), THREADS);
}

void options_parse(int argc, char **argv, struct options *ret_options)
{
	static const struct argp argp = {
	    .options = all_options,
	    .parser = parse_option,
	    .args_doc = "",
	    .doc = "Local disks of the virtual machines of this host, served over NBD.\v"
		   "To use a daemon that runs: instance-stored create INSTANCE NUMBER SIZE, list "
		   "[INSTANCE], wipe INSTANCE [NUMBER], delete INSTANCE [NUMBER], event INSTANCE "
		   "EVENT; `instance-stored list --help` tells more.",
	};

	*ret_options = (struct options){
	    .key_dir = KEY_DIR,
	    .discard_rate = DISCARD_RATE,
	    .threads = default_threads(),
	    .machine_id = KEEP_MACHINE_ID,
	    .boot_id = KEEP_BOOT_ID,
	};
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, ret_options);
}
