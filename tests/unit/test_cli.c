/* SPDX-License-Identifier: Apache-2.0
 *
 * cli/: the tables are consistent, command lines are taken apart by them, and people are told what
 * they should have typed.
 */
#include "base/closest.h"
#include "base/util.h"
#include "cli/help.h"
#include "cli/parse.h"
#include "cli/print.h"
#include "cli/request.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WORDS_MAX 16

/* Parses the words of `text`, as "volumectl text". */
static int parse(const char *text, struct cli_line *line, struct err *err)
{
	static char copy[512];
	char *argv[WORDS_MAX + 2] = {(char *)"volumectl"};
	char *rest = copy;
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", text);
	while (rest && *rest) {
		char *word = strsep(&rest, " ");

		assert_true(argc <= WORDS_MAX);
		argv[argc++] = strcmp(word, "''") == 0 ? (char *)"" : word;
	}
	return cli_parse(argc, argv, line, err);
}

/* ---- The tables -------------------------------------------------------------------------------
 */

/* Each command can run, and names are found; what is required is allowed; sentences have no full
 * stop, since help adds it. */
static void table_commands_are_complete(void **state)
{
	(void)state;
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		const char *space = strchr(c->name, ' ');
		char group[32];

		assert_non_null(c->run);
		assert_true(*c->summary && islower((unsigned char)c->summary[0]));
		assert_true(c->summary[strlen(c->summary) - 1] != '.');
		assert_int_equal(c->required & ~c->options, 0);
		assert_int_equal(c->options & OPTIONS_GLOBAL, 0);
		assert_ptr_equal(cli_command_find(c->name), c);
		assert_null(cli_group_find(c->name));
		if (!space)
			continue;
		snprintf(group, sizeof(group), "%.*s", (int)(space - c->name), c->name);
		assert_non_null(cli_group_find(group));
	}
}

/* A letter is one option everywhere, and every option is explained and used. */
static void table_options_are_complete(void **state)
{
	uint32_t used = OPTIONS_GLOBAL | OPTION_BIT(OPT_VERSION);

	(void)state;
	for (const struct cli_command *c = cli_commands; c->name; c++)
		used |= c->options;
	for (int i = 0; i < OPT_COUNT; i++) {
		for (int j = 0; j < i && cli_options[i].letter; j++)
			assert_true(cli_options[i].letter != cli_options[j].letter);
		assert_non_null(cli_options[i].name);
		assert_non_null(cli_options[i].help);
		assert_true(used & OPTION_BIT(i));
	}
}

/* ---- Parsing ----------------------------------------------------------------------------------
 */

/* Options stand anywhere: before the command, within it, after its arguments, in all their forms.
 */
static void parse_options_anywhere(void **state)
{
	static const char *const lines[] = {
	    "--socket /s --json attach vol -i web --device=/dev/sdf",
	    "attach --socket=/s vol --json --instance web -d /dev/sdf",
	    "attach vol -iweb -d/dev/sdf --json --socket /s",
	    "--json attach --device /dev/sdf --instance=web --socket /s -- vol",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct cli_line line;
		struct err err = {0};

		if (parse(lines[i], &line, &err) < 0)
			fail_msg("%s: %s", lines[i], err.text);
		assert_string_equal(line.command->name, "attach");
		assert_int_equal(line.n_arguments, 1);
		assert_string_equal(line.arguments[0], "vol");
		assert_string_equal(line.value[OPT_SOCKET], "/s");
		assert_string_equal(line.value[OPT_INSTANCE], "web");
		assert_string_equal(line.value[OPT_DEVICE], "/dev/sdf");
		assert_true(line.given & OPTION_BIT(OPT_JSON));
		assert_false(line.given & OPTION_BIT(OPT_QUIET));
	}
}

/* Two words make a command, with options between them, too. */
static void parse_groups(void **state)
{
	struct cli_line line;
	struct err err;

	(void)state;
	assert_int_equal(parse("volume --json create -q --size 1GiB", &line, &err), 0);
	assert_string_equal(line.command->name, "volume create");
	assert_string_equal(line.value[OPT_SIZE], "1GiB");
	assert_true(line.given & OPTION_BIT(OPT_JSON));
	assert_true(line.given & OPTION_BIT(OPT_QUIET));
}

static void parse_repeated(void **state)
{
	struct cli_line line;
	struct err err;

	(void)state;
	assert_int_equal(parse("volume create -s 1G --tag a=1 -t b=2", &line, &err), 0);
	assert_int_equal(line.n_repeated, 2);
	assert_int_equal(line.repeated[0].id, OPT_TAG);
	assert_string_equal(line.repeated[0].value, "a=1");
	assert_string_equal(line.repeated[1].value, "b=2");
}

static void parse_optional_value(void **state)
{
	struct cli_line line;
	struct err err;

	(void)state;
	assert_int_equal(parse("ping --wait", &line, &err), 0);
	assert_true(line.given & OPTION_BIT(OPT_WAIT));
	assert_null(line.value[OPT_WAIT]);
	assert_int_equal(parse("ping --wait=5", &line, &err), 0);
	assert_string_equal(line.value[OPT_WAIT], "5");
}

/* Help needs nothing else to be right, and is about what was named so far. */
static void parse_help_on_each_level(void **state)
{
	struct cli_line line;
	struct err err;

	(void)state;
	assert_int_equal(parse("--help", &line, &err), 0);
	assert_null(line.command);
	assert_null(line.group);
	assert_int_equal(parse("volume -h", &line, &err), 0);
	assert_null(line.command);
	assert_string_equal(line.group->name, "volume");
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		char text[64];

		snprintf(text, sizeof(text), "%s --help", c->name);
		assert_int_equal(parse(text, &line, &err), 0);
		assert_ptr_equal(line.command, c);
		assert_true(line.given & OPTION_BIT(OPT_HELP));
	}
}

/* Every slip is named, with the nearest thing that is right. */
static void parse_refuses(void **state)
{
	static const struct {
		const char *line;
		const char *says;
	} cases[] = {
	    {"", "say what to do"},
	    {"volume", "say what to do with volumes"},
	    {"volme list", "no command 'volme'; did you mean 'volume'?"},
	    {"volume lst", "no command 'volume lst'; did you mean 'volume list'?"},
	    {"volume xyzzy", "no command 'volume xyzzy'"},
	    {"atach vol", "did you mean 'attach'?"},
	    {"create", "no command 'create'"},
	    {"''", "no command ''"},
	    {"volume ''", "no command 'volume '"},
	    {"volume resize a", "--size SIZE is missing"},
	    {"volume show", "VOL is missing"},
	    {"volume show a b", "'b' is one argument too many"},
	    {"status now", "'now' is one argument too many"},
	    {"volume create --sise 1G", "no option --sise here; did you mean --size?"},
	    {"volume create --sise=1G", "did you mean --size?"},
	    {"volume create --size", "--size needs a value: --size SIZE"},
	    {"volume create -s", "--size needs a value"},
	    {"volume create -s 1G -s 2G", "--size is given twice"},
	    {"volume list --force", "no option --force here"},
	    {"volume list --json=yes", "--json takes no value"},
	    {"volume list -x", "no option -x here"},
	    {"-x volume list", "no option -x here"},
	    {"--size 1G volume create", "no option --size here"},
	    {"volume list --version", "no option --version here"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli_line line;
		struct err err = {0};

		if (parse(cases[i].line, &line, &err) != -EINVAL ||
		    !strstr(err.text, cases[i].says))
			fail_msg("'%s': %s", cases[i].line, err.text);
	}
}

/* A list of options has a bound. */
static void parse_bounds_repeated(void **state)
{
	static char *argv[CLI_REPEATED_MAX + 10];
	struct cli_line line;
	struct err err;
	int argc = 0;

	(void)state;
	argv[argc++] = (char *)"volumectl";
	argv[argc++] = (char *)"volume";
	argv[argc++] = (char *)"list";
	for (int i = 0; i < CLI_REPEATED_MAX; i++)
		argv[argc++] = (char *)"-fa=b";
	assert_int_equal(cli_parse(argc, argv, &line, &err), 0);
	argv[argc++] = (char *)"-fa=b";
	assert_int_equal(cli_parse(argc, argv, &line, &err), -EINVAL);
}

/* ---- Suggestions and output -------------------------------------------------------------------
 */

static void closest_distances(void **state)
{
	(void)state;
	assert_int_equal(closest_distance("", ""), 0);
	assert_int_equal(closest_distance("abc", "abc"), 0);
	assert_int_equal(closest_distance("", "abc"), 3);
	assert_int_equal(closest_distance("abc", ""), 3);
	assert_int_equal(closest_distance("abc", "axc"), 1);
	assert_int_equal(closest_distance("abc", "abxc"), 1);
	assert_int_equal(closest_distance("abxc", "abc"), 1);
	assert_int_equal(closest_distance("acb", "abc"), 1);
	assert_int_equal(closest_distance("kitten", "sitting"), 3);
}

/* A suggestion is near, or there is none. */
static void closest_suggests(void **state)
{
	struct closest c = {.typed = "dettach"};
	struct closest far = {.typed = "frobnicate"};
	struct closest begun = {.typed = "de"};

	(void)state;
	closest_offer(&c, "attach");
	closest_offer(&c, "detach");
	closest_offer(&c, "delete");
	assert_string_equal(c.best, "detach");
	closest_offer(&far, "attach");
	assert_null(far.best);
	closest_offer(&begun, "deregister");
	assert_string_equal(begun.best, "deregister");
}

/* What could play with a terminal is not printed as it is. */
static void print_replaces_control_characters(void **state)
{
	char text[32];

	(void)state;
	assert_string_equal(print_safe("a\x1b[2Jb\n\x7f", text, sizeof(text)), "a?[2Jb??");
	assert_string_equal(print_safe("\xc3\xa4", text, sizeof(text)), "\xc3\xa4");
	assert_string_equal(print_safe("too long", text, 4), "too");
}

static void print_counts_characters(void **state)
{
	(void)state;
	assert_int_equal(print_width("abc"), 3);
	assert_int_equal(print_width("\xc3\xa4\xe2\x82\xac"), 2);
}

/* Each HTTP status has its exit status. */
static void exit_of_http_status(void **state)
{
	(void)state;
	assert_int_equal(cli_exit_of(200), EXIT_OK);
	assert_int_equal(cli_exit_of(202), EXIT_OK);
	assert_int_equal(cli_exit_of(400), EXIT_USAGE);
	assert_int_equal(cli_exit_of(404), EXIT_NOT_FOUND);
	assert_int_equal(cli_exit_of(409), EXIT_CONFLICT);
	assert_int_equal(cli_exit_of(500), EXIT_FAILED);
	assert_int_equal(cli_exit_of(503), EXIT_UNREACHABLE);
	assert_int_equal(cli_exit_of(507), EXIT_NO_SPACE);
}

/* The usage line has what is needed, and only that. */
static void help_usage_line(void **state)
{
	char text[160];

	(void)state;
	assert_string_equal(help_usage(cli_command_find("volume create"), text),
			    "volumectl volume create [OPTION...]");
	assert_string_equal(help_usage(cli_command_find("volume resize"), text),
			    "volumectl volume resize VOL --size SIZE [OPTION...]");
	assert_string_equal(help_usage(cli_command_find("instance register"), text),
			    "volumectl instance register [NAME] [OPTION...]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(table_commands_are_complete),
	    cmocka_unit_test(table_options_are_complete),
	    cmocka_unit_test(parse_options_anywhere),
	    cmocka_unit_test(parse_groups),
	    cmocka_unit_test(parse_repeated),
	    cmocka_unit_test(parse_optional_value),
	    cmocka_unit_test(parse_help_on_each_level),
	    cmocka_unit_test(parse_refuses),
	    cmocka_unit_test(parse_bounds_repeated),
	    cmocka_unit_test(closest_distances),
	    cmocka_unit_test(closest_suggests),
	    cmocka_unit_test(print_replaces_control_characters),
	    cmocka_unit_test(print_counts_characters),
	    cmocka_unit_test(exit_of_http_status),
	    cmocka_unit_test(help_usage_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
