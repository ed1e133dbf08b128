/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SCRUB_H
#define CLI_SCRUB_H

#include "cli/run.h"

#include <jansson.h>

/* Of a volume that was shown: what is bad, and how its scrubs went. */
void print_integrity(const json_t *volume);

/* What is known of how whole a snapshot is. */
void print_verified(const json_t *snapshot);

#endif
