/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line of the daemon as a struct.
 */
#ifndef INSTANCE_STORED_OPTIONS_H
#define INSTANCE_STORED_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_THREADS_MAX 64

struct options {
	const char *data_dir;
	const char *store; /* NULL: DIR/store */
	uint64_t size;
	uint64_t slice_size;
	const char *key_dir;
	bool allow_key_dir_on_disk;
	bool adopt;
	bool give_up_damaged;
	uint64_t discard_rate;
	unsigned threads;
	const char *machine_id; /* files */
	const char *boot_id;
};

/* Takes main's arguments. On bad ones it says what is wrong and exits with 2. */
void options_parse(int argc, char **argv, struct options *ret_options);

#endif
