/* SPDX-License-Identifier: Apache-2.0
 *
 * The completion script for bash: fixed code, and the tables as case statements. It needs nothing
 * but bash, and asks the daemon for volumes and instances.
 */
#include "cli/help.h"
#include "cli/request.h"

#include <stdio.h>
#include <string.h>

static const char head[] =
    "# Completion of volumectl for bash, made by `volumectl completion bash`.\n"
    "\n"
    "# Ids and names of the rows of a list, as candidates; names with spaces are left out.\n"
    "_volumectl_list() {\n"
    "\tvolumectl \"$1\" list 2>/dev/null |\n"
    "\t\tawk -F '  +' 'NR > 1 { print $1; if ($2 != \"-\" && $2 !~ / /) print $2 }'\n"
    "}\n"
    "\n"
    "# The candidates of a kind for the word $2.\n"
    "_volumectl_words() {\n"
    "\tcase $1 in\n"
    "\tfiles) mapfile -t COMPREPLY < <(compgen -f -- \"$2\") ;;\n"
    "\tvolumes) mapfile -t COMPREPLY < <(compgen -W \"$(_volumectl_list volume)\" -- \"$2\") ;;\n"
    "\tsnapshots)\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -W \"$(_volumectl_list snapshot)\" -- \"$2\")\n"
    "\t\t;;\n"
    "\tinstances)\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -W \"$(_volumectl_list instance)\" -- \"$2\")\n"
    "\t\t;;\n"
    "\tshells) mapfile -t COMPREPLY < <(compgen -W bash -- \"$2\") ;;\n"
    "\tesac\n"
    "}\n"
    "\n";

static const char body[] =
    "_volumectl() {\n"
    "\tlocal current=${COMP_WORDS[COMP_CWORD]} command='' kinds=() options='' value='' word i n=0\n"
    "\n"
    "\tCOMPREPLY=()\n"
    "\tfor ((i = 1; i <= COMP_CWORD; i++)); do\n"
    "\t\tword=${COMP_WORDS[i]}\n"
    "\t\t_volumectl_table \"$command\"\n"
    "\t\tif [ \"$i\" -eq \"$COMP_CWORD\" ]; then\n"
    "\t\t\tbreak\n"
    "\t\telif [ \"$word\" = = ]; then # of --name=value, which bash takes apart\n"
    "\t\t\tcontinue\n"
    "\t\telif [ -n \"$value\" ]; then\n"
    "\t\t\tvalue=\n"
    "\t\telif [[ $word == -* ]]; then\n"
    "\t\t\tvalue=$(_volumectl_value \"$word\")\n"
    "\t\telif [ \"${kinds[0]:-}\" = commands ]; then\n"
    "\t\t\tcommand=${command:+$command }$word\n"
    "\t\telse\n"
    "\t\t\tn=$((n + 1))\n"
    "\t\tfi\n"
    "\tdone\n"
    "\t[ \"$current\" = = ] && current=\n"
    "\tif [ -n \"$value\" ]; then\n"
    "\t\t_volumectl_words \"$value\" \"$current\"\n"
    "\telif [[ $current == -* ]]; then\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\")\n"
    "\telif [ \"${kinds[0]:-}\" = commands ]; then\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -W \"${kinds[*]:1}\" -- \"$current\")\n"
    "\telse\n"
    "\t\t_volumectl_words \"${kinds[n]:-none}\" \"$current\"\n"
    "\tfi\n"
    "}\n"
    "complete -F _volumectl volumectl\n";

static const char *kind_name(enum cli_words words)
{
	switch (words) {
	case WORDS_FILES:
		return "files";
	case WORDS_VOLUMES:
		return "volumes";
	case WORDS_SNAPSHOTS:
		return "snapshots";
	case WORDS_INSTANCES:
		return "instances";
	case WORDS_SHELLS:
		return "shells";
	case WORDS_NONE:
	case WORDS_COMMANDS: /* `help` is not worth a second tree */
		break;
	}
	return "none";
}

/* What kind of value an option takes; nothing if it takes none, or only after "=". */
static void print_value_function(void)
{
	puts("# The kind of value that follows the option.\n"
	     "_volumectl_value() {\n"
	     "\tcase $1 in");
	for (int i = 0; i < OPT_COUNT; i++) {
		const struct cli_option *o = &cli_options[i];

		if (!o->value || o->value_is_optional)
			continue;
		printf("\t--%s", o->name);
		if (o->letter)
			printf(" | -%c", o->letter);
		printf(") echo %s ;;\n", kind_name(o->words));
	}
	puts("\tesac\n}\n");
}

static void print_option_names(uint32_t options)
{
	printf("\t\toptions='");
	for (int i = 0, n = 0; i < OPT_COUNT; i++)
		if (options & OPTION_BIT(i))
			printf("%s--%s", n++ ? " " : "", cli_options[i].name);
	puts("'");
}

static void print_command_case(const struct cli_command *c)
{
	printf("\t'%s')\n\t\tkinds=(", c->name);
	for (unsigned i = 0; i < CLI_ARGUMENTS_MAX && c->arguments[i].name; i++)
		printf("%s%s", i ? " " : "", kind_name(c->arguments[i].words));
	puts(")");
	print_option_names(OPTIONS_GLOBAL | c->options);
	puts("\t\t;;");
}

static void print_group_case(const char *group)
{
	printf("\t'%s')\n\t\tkinds=(commands", group);
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (*group ? cli_command_in_group(c, group) : !strchr(c->name, ' '))
			printf(" %s", cli_command_short(c));
	for (const struct cli_group *g = cli_groups; !*group && g->name; g++)
		printf(" %s", g->name);
	puts(")");
	print_option_names(OPTIONS_GLOBAL | (*group ? 0 : OPTION_BIT(OPT_VERSION)));
	puts("\t\t;;");
}

static void print_bash(void)
{
	fputs(head, stdout);
	print_value_function();
	puts("# Sets kinds (of the arguments) and options of the command.\n"
	     "_volumectl_table() {\n"
	     "\tkinds=()\n"
	     "\toptions=\n"
	     "\tcase $1 in");
	print_group_case("");
	for (const struct cli_group *g = cli_groups; g->name; g++)
		print_group_case(g->name);
	for (const struct cli_command *c = cli_commands; c->name; c++)
		print_command_case(c);
	puts("\tesac\n}\n");
	fputs(body, stdout);
}

int run_completion(struct cli *cli)
{
	const char *shell = cli->line.arguments[0];

	if (strcmp(shell, "bash") != 0)
		return cli_fail(EXIT_USAGE, "there is a completion for bash, and none for '%s'",
				shell);
	print_bash();
	return EXIT_OK;
}
