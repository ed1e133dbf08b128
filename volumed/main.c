/* SPDX-License-Identifier: Apache-2.0
 *
 * volumed: block storage for virtual machines, served over NBD. man/volumed.8 describes it.
 */
#include "volumed/check_store.h"
#include "volumed/daemon.h"

#include <argp.h>

const char *argp_program_version = "volumed " VOLUMED_VERSION;

static int run(const struct options *options)
{
	switch (options->mode) {
	case MODE_CHECK:
		return check_store(options);
	case MODE_SERVE:
	case MODE_STDIO:
		return daemon_run(options);
	}
	return 2;
}

int main(int argc, char **argv)
{
	struct options options;
	int status;

	options_parse(argc, argv, &options);
	log_set_level(options.log_level);
	status = run(&options);
	arena_free(&options.memory);
	return status;
}
