/* SPDX-License-Identifier: Apache-2.0
 *
 * instance-stored: local disks of a host's virtual machines, served over NBD.
 * man/instance-stored.8 describes it.
 */
#include "base/log.h"
#include "instance-stored/client.h"
#include "instance-stored/daemon.h"

#include <argp.h>

const char *argp_program_version = "instance-stored " VOLUMED_VERSION;

int main(int argc, char **argv)
{
	struct options options;

	if (client_is_command(argc, argv))
		return client_run(argc, argv);
	log_set_program("instance-stored");
	options_parse(argc, argv, &options);
	return daemon_run(&options);
}
