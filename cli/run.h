/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands. Each gets a parsed command line and returns the exit status; what went wrong is
 * said by then.
 */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "cli/parse.h"

struct client;

struct cli {
	struct cli_line line;
	struct client *client; /* NULL until it is needed */
	bool json;
	bool quiet;
};

int run_volume_create(struct cli *cli);
int run_volume_list(struct cli *cli);
int run_volume_show(struct cli *cli);
int run_volume_resize(struct cli *cli);
int run_volume_delete(struct cli *cli);
int run_attach(struct cli *cli);
int run_detach(struct cli *cli);
int run_scrub(struct cli *cli);
int run_snapshot_create(struct cli *cli);
int run_snapshot_verify(struct cli *cli);
int run_snapshot_copy(struct cli *cli);
int run_snapshot_list(struct cli *cli);
int run_snapshot_show(struct cli *cli);
int run_snapshot_export(struct cli *cli);
int run_snapshot_delete(struct cli *cli);
int run_instance_register(struct cli *cli);
int run_instance_list(struct cli *cli);
int run_instance_deregister(struct cli *cli);
int run_status(struct cli *cli);
int run_ping(struct cli *cli);
int run_check(struct cli *cli);
int run_events(struct cli *cli);
int run_completion(struct cli *cli);
int run_help(struct cli *cli);

#endif
