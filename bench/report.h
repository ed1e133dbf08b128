/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run found, for people and for programs.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "bench/load.h"

/* Names as the command line has them; NULL and -EINVAL for what is none. */
const char *pattern_name(enum load_pattern pattern);
int pattern_parse(const char *text, enum load_pattern *ret_pattern);

/* A few lines on stdout. */
void report_text(const struct load_config *config, const struct load_result *result);
/* One JSON object on stdout. 0, or -errno. */
int report_json(const struct load_config *config, const struct load_result *result);

#endif
