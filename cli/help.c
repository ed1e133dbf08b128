/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"

#include "base/util.h"
#include "cli/client.h"
#include "cli/print.h"
#include "cli/request.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WIDTH   80
#define COLUMN  28 /* of the explanations */
#define COLUMN2 24 /* of the commands' */

/* Appends to what is in `ret`, which has 160 bytes. */
__attribute__((format(printf, 2, 3))) static void append(char ret[160], const char *format, ...)
{
	size_t used = strlen(ret);
	va_list args;

	va_start(args, format);
	vsnprintf(ret + used, 160 - used, format, args);
	va_end(args);
}

const char *help_usage(const struct cli_command *command, char ret[160])
{
	ret[0] = '\0';
	append(ret, "%s %s", CLI_PROGRAM, command->name);
	for (unsigned i = 0; i < CLI_ARGUMENTS_MAX && command->arguments[i].name; i++)
		append(ret, command->arguments[i].optional ? " [%s]" : " %s",
		       command->arguments[i].name);
	for (int i = 0; i < OPT_COUNT; i++)
		if (command->required & OPTION_BIT(i))
			append(ret, " --%s %s", cli_options[i].name, cli_options[i].value);
	append(ret, " [OPTION...]");
	return ret;
}

/* "  name    text", the text from `column` on. */
static void print_entry(const char *name, const char *text, unsigned column)
{
	unsigned used = (unsigned)printf("  %s", name);

	if (used + 2 > column)
		printf("\n%*s", (int)column, "");
	else
		printf("%*s", (int)(column - used), "");
	print_wrapped(text, column, WIDTH);
}

static void print_option(const struct cli_option *o)
{
	char name[80];
	size_t used = 0;

	if (o->letter)
		used = (size_t)snprintf(name, sizeof(name), "-%c, ", o->letter);
	else
		used = (size_t)snprintf(name, sizeof(name), "    ");
	used += (size_t)snprintf(name + used, sizeof(name) - used, "--%s", o->name);
	if (o->value)
		snprintf(name + used, sizeof(name) - used, o->value_is_optional ? "[=%s]" : " %s",
			 o->value);
	print_entry(name, o->help, COLUMN);
}

static void print_options(uint32_t options)
{
	for (int i = 0; i < OPT_COUNT; i++)
		if (options & OPTION_BIT(i))
			print_option(&cli_options[i]);
}

static void print_exits(void)
{
	puts("\nExit status:");
	for (unsigned i = 0; i < cli_n_exits; i++)
		printf("  %d  %s\n", (int)cli_exits[i].status, cli_exits[i].meaning);
}

static void print_sentence(const char *text)
{
	char sentence[200];

	snprintf(sentence, sizeof(sentence), "%c%s.", toupper((unsigned char)text[0]), text + 1);
	print_wrapped(sentence, 0, WIDTH);
}

/* ---- Levels ------------------------------------------------------------------------ */

void help_top(void)
{
	printf("Usage: %s COMMAND [ARGUMENT...] [OPTION...]\n", CLI_PROGRAM);
	puts("Manages the volumes of a volumed and their attachments to instances.\n\nCommands:");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		print_entry(c->name, c->summary, COLUMN2);
	puts("\nOptions of all commands:");
	print_options(OPTIONS_GLOBAL | OPTION_BIT(OPT_VERSION));
	putchar('\n');
	print_wrapped("A volume (VOL) or INSTANCE is named by its id, or by its name while no "
		      "other has it. Sizes: 4096, 512MiB, 10GiB, 1.5TiB (powers of 1024), or "
		      "10GB (of 1000).",
		      0, WIDTH);
	print_exits();
	printf("\n%s COMMAND --help explains a command; man %s says more.\n", CLI_PROGRAM,
	       CLI_PROGRAM);
}

void help_group(const struct cli_group *group)
{
	printf("Usage: %s %s COMMAND [ARGUMENT...] [OPTION...]\n", CLI_PROGRAM, group->name);
	print_sentence(group->summary);
	puts("\nCommands:");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (cli_command_in_group(c, group->name))
			print_entry(c->name, c->summary, COLUMN2);
	printf("\n%s %s COMMAND --help explains one.\n", CLI_PROGRAM, group->name);
}

void help_command(const struct cli_command *command)
{
	char usage[160];

	printf("Usage: %s\n", help_usage(command, usage));
	print_sentence(command->summary);
	if (*command->details) {
		putchar('\n');
		print_wrapped(command->details, 0, WIDTH);
	}
	puts("\nOptions:");
	print_options(command->options);
	print_options(OPTIONS_GLOBAL);
}

int run_help(struct cli *cli)
{
	const struct cli_line *line = &cli->line;
	const struct cli_command *command;
	const struct cli_group *group;
	char name[80];

	if (line->given & OPTION_BIT(OPT_MDOC)) {
		help_mdoc();
		return EXIT_OK;
	}
	if (line->n_arguments == 0) {
		help_top();
		return EXIT_OK;
	}
	snprintf(name, sizeof(name), "%s%s%s", line->arguments[0], line->n_arguments > 1 ? " " : "",
		 line->n_arguments > 1 ? line->arguments[1] : "");
	command = cli_command_find(name);
	group = cli_group_find(name);
	if (command)
		help_command(command);
	else if (group)
		help_group(group);
	else
		return cli_fail(EXIT_USAGE, "there is no command '%s'; see `volumectl help`", name);
	return EXIT_OK;
}

/* ---- mdoc -------------------------------------------------------------------------- */

/* Text in which a line may not begin like a macro, nor a backslash escape; a sentence a line. */
static void mdoc_text(const char *text)
{
	bool line_start = true;

	for (; *text; text++) {
		if (line_start && (*text == '.' || *text == '\''))
			fputs("\\&", stdout);
		line_start = false;
		if (*text == '\\')
			fputs("\\e", stdout);
		else
			putchar(*text);
		if (*text == '.' && text[1] == ' ') {
			putchar('\n');
			line_start = true;
			text++;
		}
	}
	putchar('\n');
}

/* The same with a capital and a full stop. */
static void mdoc_sentence(const char *text)
{
	char sentence[400];

	snprintf(sentence, sizeof(sentence), "%c%s.", toupper((unsigned char)text[0]), text + 1);
	mdoc_text(sentence);
}

static void mdoc_options(uint32_t options)
{
	if (!options)
		return;
	puts(".Bl -tag -width Ds");
	for (int i = 0; i < OPT_COUNT; i++) {
		const struct cli_option *o = &cli_options[i];

		if (!(options & OPTION_BIT(i)))
			continue;
		fputs(".It ", stdout);
		if (o->letter)
			printf("Fl %c , ", o->letter);
		printf("Fl -%s", o->name);
		if (o->value && o->value_is_optional)
			printf(" Ns Op = Ns Ar %s", o->value);
		else if (o->value)
			printf(" Ar %s", o->value);
		putchar('\n');
		mdoc_sentence(o->help);
	}
	puts(".El");
}

static void mdoc_command(const struct cli_command *c)
{
	printf(".It Cm %s", c->name);
	for (unsigned i = 0; i < CLI_ARGUMENTS_MAX && c->arguments[i].name; i++)
		printf(c->arguments[i].optional ? " Op Ar %s" : " Ar %s", c->arguments[i].name);
	for (int i = 0; i < OPT_COUNT; i++)
		if (c->required & OPTION_BIT(i))
			printf(" Fl -%s Ar %s", cli_options[i].name, cli_options[i].value);
	putchar('\n');
	mdoc_sentence(c->summary);
	if (*c->details)
		mdoc_text(c->details);
	mdoc_options(c->options);
}

/* The marks are for scripts/man.sh. */
void help_mdoc(void)
{
	puts(".\\\" BEGIN commands\n.Sh COMMANDS\n.Bl -tag -width Ds");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		mdoc_command(c);
	puts(".El\n.Sh OPTIONS\nAll commands take these:");
	mdoc_options(OPTIONS_GLOBAL);
	puts(".\\\" END commands\n.\\\" BEGIN exit status\n.Sh EXIT STATUS\n.Bl -tag -width Ds");
	for (unsigned i = 0; i < cli_n_exits; i++) {
		printf(".It %d\n", (int)cli_exits[i].status);
		mdoc_sentence(cli_exits[i].meaning);
	}
	puts(".El\n.\\\" END exit status");
}
