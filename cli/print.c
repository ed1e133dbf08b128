/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include "base/mem.h"
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FIELD_WIDTH 16

const char *print_safe(const char *text, char *ret, size_t size)
{
	size_t used = 0;

	for (; *text && used + 1 < size; text++) {
		unsigned char c = (unsigned char)*text;

		ret[used++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
	ret[used] = '\0';
	return ret;
}

unsigned print_width(const char *text)
{
	unsigned width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80; /* no continuation byte */
	return width;
}

/* ---- Tables ------------------------------------------------------------------------ */

void print_table_init(struct print_table *t, const struct print_column *columns, unsigned n)
{
	*t = (struct print_table){.columns = columns, .n_columns = n};
}

static int make_room(struct print_table *t)
{
	unsigned max = t->max_rows ? 2 * t->max_rows : 16;
	const char **cells;

	if (t->n_rows < t->max_rows)
		return 0;
	cells = mem_realloc(t->cells, sizeof(*cells) * max * t->n_columns);
	if (!cells)
		return -ENOMEM;
	t->cells = cells;
	t->max_rows = max;
	return 0;
}

int print_table_add(struct print_table *t, const char *const *cells)
{
	char text[1024];

	if (make_room(t) < 0)
		return -ENOMEM;
	for (unsigned i = 0; i < t->n_columns; i++) {
		const char *cell = cells[i] && *cells[i] ? cells[i] : "-";
		const char *copy = arena_text(&t->memory, print_safe(cell, text, sizeof(text)));

		if (!copy)
			return -ENOMEM;
		t->cells[t->n_rows * t->n_columns + i] = copy;
	}
	t->n_rows++;
	return 0;
}

static void print_cell(const char *text, unsigned width, bool right, bool last)
{
	unsigned own = print_width(text);
	int pad = width > own ? (int)(width - own) : 0;

	if (right)
		printf("%*s%s", pad, "", text);
	else
		printf("%s%*s", text, last ? 0 : pad, "");
	fputs(last ? "\n" : "  ", stdout);
}

void print_table_end(struct print_table *t)
{
	unsigned width[PRINT_COLUMNS_MAX] = {0};
	unsigned n = t->n_columns;

	for (unsigned i = 0; i < n; i++) {
		width[i] = print_width(t->columns[i].title);
		for (unsigned row = 0; row < t->n_rows; row++)
			width[i] = (unsigned)max_u64(width[i], print_width(t->cells[row * n + i]));
	}
	for (unsigned i = 0; i < n; i++)
		print_cell(t->columns[i].title, width[i], t->columns[i].right, i + 1 == n);
	for (unsigned row = 0; row < t->n_rows; row++)
		for (unsigned i = 0; i < n; i++)
			print_cell(t->cells[row * n + i], width[i], t->columns[i].right,
				   i + 1 == n);
	mem_free(t->cells);
	arena_free(&t->memory);
}

/* ---- Lines ------------------------------------------------------------------------- */

void print_field(const char *name, const char *format, ...)
{
	char text[4096];
	char safe[4096];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	printf("%s:%*s%s\n", name, FIELD_WIDTH - (int)strlen(name), "",
	       print_safe(text, safe, sizeof(safe)));
}

void print_wrapped(const char *text, unsigned indent, unsigned width)
{
	unsigned column = indent;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (column > indent && column + 1 + len > width) {
			printf("\n%*s", (int)indent, "");
			column = indent;
		} else if (column > indent) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)len, text);
		column += (unsigned)len;
		text += len;
		text += strspn(text, " ");
	}
	putchar('\n');
}

/* ---- Progress ---------------------------------------------------------------------- */

static struct {
	bool allowed;
	bool shown;
} progress;

void print_progress_allow(bool allowed)
{
	progress.allowed = allowed && isatty(STDERR_FILENO);
}

void print_progress(const char *format, ...)
{
	va_list args;

	if (!progress.allowed)
		return;
	fputs("\r\033[K", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fflush(stderr);
	progress.shown = true;
}

void print_progress_end(void)
{
	if (progress.shown)
		fputs("\r\033[K", stderr);
	progress.shown = false;
}
