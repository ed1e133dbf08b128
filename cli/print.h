/* SPDX-License-Identifier: Apache-2.0
 *
 * Output for people: aligned columns, "name: value" lists, progress. Text from the daemon is
 * printed with its control characters replaced, so that no name can play with a terminal.
 */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>

#define PRINT_COLUMNS_MAX 10

struct print_column {
	const char *title;
	bool right; /* aligned to the right: numbers */
};

struct print_table {
	const struct print_column *columns;
	unsigned n_columns;
	unsigned n_rows;
	unsigned max_rows;
	const char **cells;
	struct arena memory;
};

void print_table_init(struct print_table *t, const struct print_column *columns, unsigned n);
/* Adds a row of n_columns texts, which are copied; NULL is "-", as is "". -ENOMEM or 0. */
int print_table_add(struct print_table *t, const char *const *cells);
/* Prints it, titles first, and frees it. */
void print_table_end(struct print_table *t);

/* "name:  value", the values in one column. */
void print_field(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The text as it may be shown, in `ret`. */
const char *print_safe(const char *text, char *ret, size_t size);
/* Columns that the text takes (UTF-8, one for each character). */
unsigned print_width(const char *text);
/* Text as lines of at most `width` columns, each after `indent` spaces; the first one is there
 * already. */
void print_wrapped(const char *text, unsigned indent, unsigned width);

/* A line on a terminal's standard error that the next one replaces. */
void print_progress_allow(bool allowed);
void print_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_progress_end(void);

#endif
