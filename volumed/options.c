/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/options.h"

#include "base/util.h"
#include "volumed/config.h"
#include "volumed/settings.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_key {
	KEY_SETTING = 256, /* the n-th of settings[] is KEY_SETTING + n */
	KEY_CONFIG = KEY_SETTING + SETTINGS_MAX,
	KEY_CHECK,
	KEY_STDIO,
	KEY_HINTS,
};

/* clang-format off */
static const struct argp_option own_options[] = {
	{"config", KEY_CONFIG, "FILE", 0,
	 "Read settings from FILE, of which each has the name of an option; options given here "
	 "override it", 1},
	{"hints", KEY_HINTS, NULL, 0, "When ready, print commands to try", 3},
	{"stdio", KEY_STDIO, NULL, 0,
	 "Serve one NBD connection on standard input and output, then end", 4},
	{"check", KEY_CHECK, "DIR", 0,
	 "Walk the store of a stopped daemon without changing it and say what is wrong; exit "
	 "status 0: clean, 1: something is wrong, 2: could not look", 4},
};
/* clang-format on */

static int key_of(unsigned setting)
{
	return settings[setting].letter ? settings[setting].letter : KEY_SETTING + (int)setting;
}

/* All of them, as argp wants them: own_options after the settings. */
static void make_options(struct argp_option *ret)
{
	unsigned n = 0;

	for (const struct setting *s = settings; s->name; s++, n++)
		ret[n] = (struct argp_option){
		    .name = s->name,
		    .key = key_of(n),
		    .arg = s->arg,
		    .doc = s->doc,
		    .group = s->group,
		};
	memcpy(ret + n, own_options, sizeof(own_options));
}

/* The setting whose option has that key, or -1. */
static int find_key(int key)
{
	for (unsigned i = 0; settings[i].name; i++)
		if (key_of(i) == key)
			return (int)i;
	return -1;
}

static void set_mode(struct argp_state *state, struct options *o, enum options_mode mode)
{
	if (o->mode != MODE_SERVE && o->mode != mode)
		argp_error(state, "--check and --stdio exclude each other");
	o->mode = mode;
}

static void take_setting(struct argp_state *state, struct options *o, int i, const char *arg)
{
	const struct setting *s = &settings[i];
	uint32_t bit = UINT32_C(1) << i;
	struct err err;

	if ((o->given & bit) && strcmp(s->name, "data-dir") == 0)
		argp_error(state, "more than one data folder: '%s' and '%s'", o->data_dir, arg);
	if (s->set(o, arg ? arg : "yes", &err) < 0)
		argp_error(state, "--%s: %s", s->name, err.text);
	o->given |= bit;
}

static void read_config(struct argp_state *state, struct options *o)
{
	struct err err;

	if (!o->config || config_load(o->config, o, &err) == 0)
		return;
	fprintf(stderr, "%s: %s\n", state->name, err.text);
	exit(argp_err_exit_status);
}

static void at_end(struct argp_state *state, struct options *o)
{
	read_config(state, o);
	if (!o->data_dir)
		argp_error(state, "say where the data is: --data-dir DIR");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	int setting = find_key(key);

	if (setting >= 0) {
		take_setting(state, o, setting, arg);
		return 0;
	}
	switch (key) {
	case KEY_CONFIG:
		if (o->config)
			argp_error(state, "more than one --config: '%s' and '%s'", o->config, arg);
		o->config = arg;
		return 0;
	case KEY_HINTS:
		o->hints = true;
		return 0;
	case KEY_STDIO:
		set_mode(state, o, MODE_STDIO);
		return 0;
	case KEY_CHECK:
		set_mode(state, o, MODE_CHECK);
		take_setting(state, o, setting_find("data-dir"), arg);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': there are no arguments but options", arg);
		return 0;
	case ARGP_KEY_END:
		at_end(state, o);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void options_parse(int argc, char **argv, struct options *ret_options)
{
	struct argp_option options[SETTINGS_MAX + ARRAY_SIZE(own_options) + 1] = {0};
	struct argp argp = {
	    .options = options,
	    .parser = parse_option,
	    .doc = "Block storage for virtual machines, served over NBD.\v"
		   "SIZE is a number with K, M, G, T (powers of 1024), KiB ..., or KB ... (powers "
		   "of 1000). SIGTERM or SIGINT stops the daemon cleanly; a second one ends it at "
		   "once, which loses nothing that was acknowledged.",
	};

	settings_init(ret_options);
	make_options(options);
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, ret_options);
}
