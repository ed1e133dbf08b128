/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tables say, for people: help on each level, and the list of commands as mdoc for the man
 * page. On standard output.
 */
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "cli/table.h"

void help_top(void);
void help_group(const struct cli_group *group);
void help_command(const struct cli_command *command);
/* "volumectl volume create --size SIZE [OPTION...]", in `ret`. */
const char *help_usage(const struct cli_command *command, char ret[160]);
void help_mdoc(void);

#endif
