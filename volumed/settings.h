/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's settings, once: each is a long option of the command line, and by the same name a
 * key of the config file. options.c and config.c work from this table alone.
 */
#ifndef VOLUMED_SETTINGS_H
#define VOLUMED_SETTINGS_H

#include "base/err.h"
#include "volumed/options.h"

enum setting_flags {
	SETTING_IS_SWITCH = 1,  /* needs no value on the command line; yes or no in a file */
	SETTING_REPEATABLE = 2, /* each time adds to a list */
};

struct setting {
	const char *name;
	char letter;     /* its short option, or 0 */
	const char *arg; /* "SIZE", as in --help; NULL for a switch */
	const char *doc;
	int flags;
	int group; /* of --help */
	/* Keeps `value` itself, which lives as long as the options. The text of an error begins
	 * with what is wrong with the value; the caller puts before it where the value stands. */
	int (*set)(struct options *o, const char *value, struct err *err);
};

/* Ends with a NULL name. */
extern const struct setting settings[];

#define SETTINGS_MAX 32
/* The place of `name` in the table, or -1. */
int setting_find(const char *name);
/* Puts the defaults. */
void settings_init(struct options *o);

#endif
