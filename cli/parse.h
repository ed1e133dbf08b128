/* SPDX-License-Identifier: Apache-2.0
 *
 * A command line as a struct, by the tables. Pure but for getopt's own state; strings stay in argv.
 */
#ifndef CLI_PARSE_H
#define CLI_PARSE_H

#include "base/err.h"
#include "cli/table.h"

#define CLI_REPEATED_MAX 256

struct cli_line {
	const struct cli_command *command; /* NULL: only a group, or nothing, was named */
	const struct cli_group *group;     /* with command NULL: what --help is about, or NULL */
	uint32_t given;                    /* bits of options */
	const char *value[OPT_COUNT];      /* of those that are given once; NULL: without */
	unsigned n_repeated;
	struct {
		enum cli_option_id id;
		const char *value;
	} repeated[CLI_REPEATED_MAX]; /* the others, in order */
	unsigned n_arguments;
	const char *arguments[CLI_ARGUMENTS_MAX];
};

/* 0; or -EINVAL and an err that says what is wrong, and with what it is best replaced: `command`
 * and `group` tell how far it came. With --help or --version given, nothing else needs to be
 * right. */
int cli_parse(int argc, char **argv, struct cli_line *ret_line, struct err *err);

#endif
