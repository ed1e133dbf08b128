/* SPDX-License-Identifier: Apache-2.0
 *
 * libinih splits the lines; this file hands it one line after the other, and so knows their
 * numbers.
 */
#include "volumed/config.h"

#include "base/closest.h"
#include "base/util.h"
#include "volumed/settings.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct config {
	const char *path;
	FILE *file;
	unsigned line;
	size_t bytes;
	unsigned line_of[SETTINGS_MAX]; /* where each was set; 0: nowhere yet */
	struct options *options;
	struct options checked; /* takes what the command line overrides */
	struct err *err;
	bool failed;
};

/* "FILE:LINE: what". Returns 0, which tells libinih that the line is wrong. */
__attribute__((format(printf, 2, 3))) static int complain(struct config *c, const char *format, ...)
{
	char text[ERR_TEXT_MAX];
	va_list args;

	if (c->failed)
		return 0;
	c->failed = true;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	err_set(c->err, -EINVAL, "%s:%u: %s", c->path, c->line, text);
	return 0;
}

static void complain_unknown(struct config *c, const char *name)
{
	struct closest closest = {.typed = name};

	for (const struct setting *s = settings; s->name; s++)
		closest_offer(&closest, s->name);
	if (closest.best)
		complain(c, "there is no setting '%s'; did you mean %s?", name, closest.best);
	else
		complain(c, "there is no setting '%s'; volumed.conf(5) lists them", name);
}

static void read_error(struct config *c, const char *what)
{
	c->failed = true;
	err_set(c->err, -EIO, "%s: reading it failed: %s", c->path, what);
}

/* What fgets does, and the line checked before libinih sees it. NULL ends the reading. */
static char *next_line(char *ret, int size, void *stream)
{
	struct config *c = stream;
	size_t len;

	if (c->failed)
		return NULL;
	if (!fgets(ret, size, c->file)) {
		if (ferror(c->file))
			read_error(c, strerror(errno));
		return NULL;
	}
	c->line++;
	len = strlen(ret);
	c->bytes += len;
	if (c->bytes > CONFIG_FILE_MAX)
		complain(c, "the file is larger than %d bytes: this is no config of volumed",
			 CONFIG_FILE_MAX);
	else if (len == 0 || (ret[len - 1] != '\n' && !feof(c->file)))
		complain(c, "the line has a zero byte, or more than %d bytes", size - 2);
	else if (ret[strspn(ret, " \t")] == '[')
		complain(c, "there are no [sections]: write 'name = value' alone");
	return c->failed ? NULL : ret;
}

/* 1: fine, as libinih wants it. */
static int take_setting(void *user, const char *section, const char *name, const char *value)
{
	struct config *c = user;
	struct err err = {0};
	int i = setting_find(name);
	const struct setting *s = &settings[i < 0 ? 0 : i];
	struct options *to = c->options;
	const char *kept;

	(void)section;
	if (i < 0) {
		complain_unknown(c, name);
		return 0;
	}
	if (c->line_of[i] && !(s->flags & SETTING_REPEATABLE))
		return complain(c, "%s is set twice; it was in line %u before: remove one", name,
				c->line_of[i]);
	c->line_of[i] = c->line;
	if (*value == '\0')
		return complain(c,
				"%s has no value: give it one, or remove the line for its "
				"default",
				name);
	if (c->options->given & (UINT32_C(1) << i))
		to = &c->checked;
	kept = arena_text(&c->options->memory, value);
	if (!kept)
		return complain(c, "out of memory");
	if (s->set(to, kept, &err) < 0)
		return complain(c, "%s: %s", name, err.text);
	return 1;
}

static int parse(struct config *c)
{
	int line;

	ini_max_line = CONFIG_LINE_MAX + 3;
	ini_allow_multiline = false;
	ini_inline_comment_prefixes = (char *)"#;";
	ini_stop_on_first_error = true;
	line = ini_parse_stream(next_line, c, take_setting, c);
	if (line != 0 && !c->failed) {
		c->line = line > 0 ? (unsigned)line : c->line;
		complain(c, "this is no 'name = value', and no comment (# ...)");
	}
	return c->failed ? (c->err ? c->err->code : -EINVAL) : 0;
}

int config_load(const char *path, struct options *options, struct err *err)
{
	struct config c = {.path = path, .options = options, .err = err};
	int r;

	settings_init(&c.checked);
	c.file = fopen(path, "re");
	if (!c.file)
		return err_set(err, -errno, "config file %s: %s", path, strerror(errno));
	r = parse(&c);
	fclose(c.file);
	return r;
}
