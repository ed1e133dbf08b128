/* SPDX-License-Identifier: Apache-2.0
 *
 * Log lines on stderr, in the form journald and people read. Whoever decides what an error means
 * logs it, once: nbd/, control/, api/ and volumed/. Nothing is logged for each request.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Any thread. A line is one write(2). Under systemd (JOURNAL_STREAM) it bears the "<3>" priority
 * prefix. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_set_level(enum log_level level);
/* What lines begin with ("volumed" at first); stays the caller's. Before there are threads. */
void log_set_program(const char *name);
bool log_enabled(enum log_level level);

#define log_error(...)   log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_LEVEL_DEBUG))                                                  \
			log_line(LOG_LEVEL_DEBUG, __VA_ARGS__);                                    \
	} while (0)

/* At most `burst` lines in each second for one call site, then a count of what was left out. */
struct log_limit {
	unsigned long second;
	unsigned burst_used;
	unsigned suppressed;
};
/* True if this line may be printed now. `now_ns` is the caller's clock. */
bool log_limit_pass(struct log_limit *limit, unsigned long now_ns, unsigned burst);

#endif
