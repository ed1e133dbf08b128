/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static enum log_level level_shown = LOG_LEVEL_INFO;
static const char *program = "volumed";

void log_set_program(const char *name)
{
	program = name;
}

void log_set_level(enum log_level level)
{
	level_shown = level;
}

bool log_enabled(enum log_level level)
{
	return level <= level_shown;
}

void log_line(enum log_level level, const char *format, ...)
{
	static const char *const word[] = {"error: ", "warning: ", "", "debug: "};
	static const char *const priority[] = {"<3>", "<4>", "<6>", "<7>"};
	char line[1024];
	va_list args;
	int used;
	int more;

	if (!log_enabled(level))
		return;
	used = snprintf(line, sizeof(line), "%s%s: %s",
			getenv("JOURNAL_STREAM") ? priority[level] : "", program, word[level]);
	va_start(args, format);
	more = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
	va_end(args);
	used += more < 0 ? 0 : more;
	if (used > (int)sizeof(line) - 2)
		used = (int)sizeof(line) - 2;
	line[used++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)used) < 0)
		return; /* nowhere left to say it */
}

bool log_limit_pass(struct log_limit *limit, unsigned long now_ns, unsigned burst)
{
	unsigned long second = now_ns / 1000000000UL;

	if (second != limit->second) {
		limit->second = second;
		limit->burst_used = 0;
		if (limit->suppressed)
			log_line(LOG_LEVEL_WARNING, "%u similar lines left out", limit->suppressed);
		limit->suppressed = 0;
	}
	if (limit->burst_used < burst) {
		limit->burst_used++;
		return true;
	}
	limit->suppressed++;
	return false;
}
