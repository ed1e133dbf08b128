/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks what a volume's pinned roots refer to: root, index pages, leaves and blocks, each against
 * its checksum.
 */
#ifndef TESTS_SIM_PINNED_H
#define TESTS_SIM_PINNED_H

#include "tests/sim/world.h"

/* 0; -ESHUTDOWN: the machine died meanwhile; else *ret_text says what is not whole. */
int pinned_check(struct world *w, unsigned i, const char **ret_text);

#endif
