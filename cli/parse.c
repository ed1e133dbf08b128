/* SPDX-License-Identifier: Apache-2.0
 *
 * getopt_long runs once for each piece of "volumectl [options] word [options] word [options and
 * arguments]", since what it may meet depends on the words so far.
 */
#include "cli/parse.h"

#include "base/closest.h"
#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define LONG_BASE 256 /* getopt's value for cli_options[i] is LONG_BASE + i */

struct parser {
	int argc;
	char **argv; /* argv[0] is not looked at */
	uint32_t allowed;
	struct cli_line *line;
	struct err *err;
	struct option longs[OPT_COUNT + 1];
	char shorts[2 + 3 * OPT_COUNT + 1];
};

static void allow(struct parser *p, uint32_t options, bool stop_at_word)
{
	unsigned n = 0;
	size_t used = 0;

	p->allowed = options;
	if (stop_at_word)
		p->shorts[used++] = '+';
	p->shorts[used++] = ':';
	for (unsigned i = 0; i < OPT_COUNT; i++) {
		const struct cli_option *o = &cli_options[i];
		int has_value = !o->value              ? no_argument
				: o->value_is_optional ? optional_argument
						       : required_argument;

		if (!(options & OPTION_BIT(i)))
			continue;
		p->longs[n++] = (struct option){o->name, has_value, NULL, LONG_BASE + (int)i};
		if (!o->letter)
			continue;
		p->shorts[used++] = o->letter;
		for (int colons = has_value; colons > 0; colons--)
			p->shorts[used++] = ':';
	}
	p->longs[n] = (struct option){0};
	p->shorts[used] = '\0';
}

/* The place in cli_options of what getopt returned. */
static int option_of(const struct parser *p, int key)
{
	if (key >= LONG_BASE)
		return key - LONG_BASE;
	for (int i = 0; i < OPT_COUNT; i++)
		if ((p->allowed & OPTION_BIT(i)) && cli_options[i].letter == key)
			return i;
	return -1;
}

static int take_option(struct parser *p, int id, const char *value)
{
	struct cli_line *line = p->line;

	if (cli_options[id].repeatable) {
		if (line->n_repeated == CLI_REPEATED_MAX)
			return err_set(p->err, -EINVAL, "more than %d of --%s", CLI_REPEATED_MAX,
				       cli_options[id].name);
		line->repeated[line->n_repeated].id = (enum cli_option_id)id;
		line->repeated[line->n_repeated++].value = value;
	} else if (cli_options[id].value && (line->given & OPTION_BIT(id))) {
		return err_set(p->err, -EINVAL, "--%s is given twice", cli_options[id].name);
	}
	line->given |= OPTION_BIT(id);
	line->value[id] = value;
	return 0;
}

/* `word` is "--name" or "--name=value". */
static int unknown_long(struct parser *p, const char *word)
{
	struct closest closest;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);
	closest = (struct closest){.typed = name};
	for (int i = 0; i < OPT_COUNT; i++)
		if (p->allowed & OPTION_BIT(i))
			closest_offer(&closest, cli_options[i].name);
	if (closest.best)
		return err_set(p->err, -EINVAL, "there is no option --%s here; did you mean --%s?",
			       name, closest.best);
	return err_set(p->err, -EINVAL, "there is no option --%s here", name);
}

static int wrong_option(struct parser *p, int key)
{
	const char *word = optind > 0 && optind <= p->argc ? p->argv[optind - 1] : "";
	int id = option_of(p, optopt);

	if (key == ':' && id >= 0)
		return err_set(p->err, -EINVAL, "--%s needs a value: --%s %s", cli_options[id].name,
			       cli_options[id].name, cli_options[id].value);
	if (optopt >= LONG_BASE)
		return err_set(p->err, -EINVAL, "--%s takes no value", cli_options[id].name);
	if (optopt)
		return err_set(p->err, -EINVAL, "there is no option -%c here", optopt);
	return unknown_long(p, word);
}

/* Takes options up to the end, or (stop_at_word) up to the first word. Then optind says where. */
static int take_options(struct parser *p)
{
	int key;

	optind = 0; /* start anew */
	opterr = 0;
	while ((key = getopt_long(p->argc, p->argv, p->shorts, p->longs, NULL)) != -1) {
		int id = key == '?' || key == ':' ? -1 : option_of(p, key);
		int r = id < 0 ? wrong_option(p, key) : take_option(p, id, optarg);

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- The words of the command ------------------------------------------------------ */

static int unknown_word(struct parser *p, const char *word)
{
	const struct cli_group *group = p->line->group;
	struct closest closest = {.typed = word};

	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (group ? cli_command_in_group(c, group->name) : !strchr(c->name, ' '))
			closest_offer(&closest, cli_command_short(c));
	for (const struct cli_group *g = cli_groups; !group && g->name; g++)
		closest_offer(&closest, g->name);
	if (!closest.best)
		return err_set(p->err, -EINVAL, "there is no command '%s%s%s'",
			       group ? group->name : "", group ? " " : "", word);
	return err_set(p->err, -EINVAL, "there is no command '%s%s%s'; did you mean '%s%s%s'?",
		       group ? group->name : "", group ? " " : "", word, group ? group->name : "",
		       group ? " " : "", closest.best);
}

static int take_word(struct parser *p, const char *word)
{
	struct cli_line *line = p->line;
	char name[64];

	snprintf(name, sizeof(name), "%s%s%s", line->group ? line->group->name : "",
		 line->group ? " " : "", word);
	line->command = cli_command_find(name);
	if (line->command)
		return 0;
	if (!line->group)
		line->group = cli_group_find(word);
	else
		return unknown_word(p, word);
	return line->group ? 0 : unknown_word(p, word);
}

static int take_words(struct parser *p)
{
	while (!p->line->command) {
		int r;

		allow(p, OPTIONS_GLOBAL | OPTION_BIT(OPT_VERSION), true);
		r = take_options(p);
		if (r < 0)
			return r;
		if (optind >= p->argc)
			return 0;
		r = take_word(p, p->argv[optind]);
		if (r < 0)
			return r;
		p->argc -= optind;
		p->argv += optind;
	}
	return 0;
}

/* ---- What the command takes -------------------------------------------------------- */

static int take_arguments(struct parser *p)
{
	const struct cli_command *command = p->line->command;
	struct cli_line *line = p->line;

	for (int i = optind; i < p->argc; i++) {
		unsigned n = line->n_arguments;

		if (n == CLI_ARGUMENTS_MAX || !command->arguments[n].name)
			return err_set(p->err, -EINVAL, "'%s' is one argument too many",
				       p->argv[i]);
		line->arguments[line->n_arguments++] = p->argv[i];
	}
	return 0;
}

static int complain_missing(struct parser *p)
{
	const struct cli_line *line = p->line;
	const struct cli_command *command = line->command;

	for (unsigned i = line->n_arguments; i < CLI_ARGUMENTS_MAX; i++)
		if (command->arguments[i].name && !command->arguments[i].optional)
			return err_set(p->err, -EINVAL, "%s is missing",
				       command->arguments[i].name);
	for (int i = 0; i < OPT_COUNT; i++)
		if (command->required & ~line->given & OPTION_BIT(i))
			return err_set(p->err, -EINVAL, "--%s %s is missing", cli_options[i].name,
				       cli_options[i].value);
	return 0;
}

int cli_parse(int argc, char **argv, struct cli_line *ret_line, struct err *err)
{
	struct parser p = {.argc = argc, .argv = argv, .line = ret_line, .err = err};
	int r;

	*ret_line = (struct cli_line){0};
	r = take_words(&p);
	if (r < 0)
		return r;
	if (ret_line->command) {
		allow(&p, OPTIONS_GLOBAL | ret_line->command->options, false);
		r = take_options(&p);
		if (r == 0)
			r = take_arguments(&p);
	}
	if (r < 0 || (ret_line->given & (OPTION_BIT(OPT_HELP) | OPTION_BIT(OPT_VERSION))))
		return r;
	if (ret_line->command)
		return complain_missing(&p);
	if (ret_line->group)
		return err_set(err, -EINVAL, "say what to do with %ss", ret_line->group->name);
	return err_set(err, -EINVAL, "say what to do");
}
