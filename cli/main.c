/* SPDX-License-Identifier: Apache-2.0
 *
 * volumectl: the admin's command line. man/volumectl.1 describes it.
 */
#include "base/mem.h"
#include "cli/client.h"
#include "cli/help.h"
#include "cli/print.h"
#include "cli/request.h"

#include <locale.h>
#include <stdio.h>

static int show_help(const struct cli_line *line)
{
	if (line->command)
		help_command(line->command);
	else if (line->group)
		help_group(line->group);
	else
		help_top();
	return EXIT_OK;
}

static int complain_usage(const struct cli_line *line, const struct err *err)
{
	const char *about = line->command ? line->command->name
			    : line->group ? line->group->name
					  : "";
	char usage[160];

	cli_fail(EXIT_USAGE, "%s", err->text);
	if (line->command)
		fprintf(stderr, "Usage: %s\n", help_usage(line->command, usage));
	fprintf(stderr, "`%s%s%s --help` says more.\n", CLI_PROGRAM, *about ? " " : "", about);
	return EXIT_USAGE;
}

/* A full disk behind standard output is a failure, too. */
static int finish(int status)
{
	if (fflush(stdout) != 0 || ferror(stdout))
		return cli_fail(status == EXIT_OK ? EXIT_FAILED : status,
				"writing to standard output failed");
	return status;
}

int main(int argc, char **argv)
{
	static struct cli cli;
	struct err err;
	int status;

	setlocale(LC_ALL, "");
	json_set_alloc_funcs(mem_alloc, mem_free);
	if (cli_parse(argc, argv, &cli.line, &err) < 0)
		return complain_usage(&cli.line, &err);
	if (cli.line.given & OPTION_BIT(OPT_HELP))
		return finish(show_help(&cli.line));
	if (cli.line.given & OPTION_BIT(OPT_VERSION)) {
		puts(CLI_PROGRAM " " VOLUMED_VERSION);
		return finish(EXIT_OK);
	}
	cli.json = cli.line.given & OPTION_BIT(OPT_JSON);
	cli.quiet = cli.line.given & OPTION_BIT(OPT_QUIET);
	print_progress_allow(!cli.json && !cli.quiet);
	status = cli.line.command->run(&cli);
	client_free(cli.client);
	return finish(status);
}
