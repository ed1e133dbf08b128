/* SPDX-License-Identifier: Apache-2.0
 *
 * volumed --check DIR: walks the store of a stopped daemon without changing it.
 */
#ifndef VOLUMED_CHECK_STORE_H
#define VOLUMED_CHECK_STORE_H

#include "volumed/options.h"

/* Says on standard output what it looked at and what is wrong. Returns the exit status: 0 clean, 1
 * something is wrong, 2 could not look. */
int check_store(const struct options *options);

#endif
