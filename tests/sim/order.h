/* SPDX-License-Identifier: Apache-2.0
 *
 * Is there an order of events, each with a beginning and an end, in which what ended before another
 * began comes first, and given pairs are in a given order?
 */
#ifndef TESTS_SIM_ORDER_H
#define TESTS_SIM_ORDER_H

#include <stdbool.h>
#include <stdint.h>

struct order;

struct order_node {
	uint32_t number;
	uint64_t began;
	uint64_t ended;
};

struct order *order_new(void);
void order_free(struct order *order);
/* `a` comes before `b`. */
void order_add(struct order *order, struct order_node a, struct order_node b);
/* False: there is none, and `a` and `b` are two that stand in each other's way. */
bool order_holds(struct order *order, uint32_t *ret_a, uint32_t *ret_b);

#endif
