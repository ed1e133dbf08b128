/* SPDX-License-Identifier: Apache-2.0
 *
 * The config file: "name = value" lines, whose names are those of settings.c. man/volumed.conf.5
 * describes it.
 */
#ifndef VOLUMED_CONFIG_H
#define VOLUMED_CONFIG_H

#include "base/err.h"
#include "volumed/options.h"

#define CONFIG_LINE_MAX 1000        /* bytes; long enough for a path or two */
#define CONFIG_FILE_MAX (64 * 1024) /* bytes; a file that is larger is not ours */

/* Puts what the file says into `options`, but for the settings whose bits are set in
 * `options->given`: those are checked, and left as they are. An error names file, line, cause and
 * remedy: -EINVAL for what the file says, else why it could not be read. Texts live in
 * options->memory. */
int config_load(const char *path, struct options *options, struct err *err);

#endif
