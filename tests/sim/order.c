/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/order.h"

#include "base/util.h"
#include "tests/sim/machine/sim.h"

#include <string.h>

struct event {
	struct order_node node;
	uint32_t n_before; /* edges that lead here, from events not yet placed */
	bool placed;
};

struct edge {
	uint32_t from; /* indices of events */
	uint32_t to;
};

struct order {
	struct event *event;
	uint32_t n_events;
	uint32_t event_room;
	struct edge *edge;
	uint32_t n_edges;
	uint32_t edge_room;
	struct edge last; /* numbers of the pair that came last: most come again at once */
};

struct order *order_new(void)
{
	return sim_alloc(sizeof(struct order));
}

void order_free(struct order *order)
{
	sim_release(order->event);
	sim_release(order->edge);
	sim_release(order);
}

static void *widen(void *old, uint32_t n, uint32_t *room, size_t size)
{
	void *wider;

	if (n < *room)
		return old;
	*room = *room ? *room * 2 : 16;
	wider = sim_alloc(*room * size);
	if (n)
		memcpy(wider, old, n * size);
	sim_release(old);
	return wider;
}

static uint32_t event_of(struct order *order, const struct order_node *node)
{
	for (uint32_t i = 0; i < order->n_events; i++)
		if (order->event[i].node.number == node->number)
			return i;
	order->event =
	    widen(order->event, order->n_events, &order->event_room, sizeof(*order->event));
	order->event[order->n_events].node = *node;
	return order->n_events++;
}

void order_add(struct order *order, struct order_node a, struct order_node b)
{
	struct edge edge;

	if (order->last.from == a.number && order->last.to == b.number)
		return;
	order->last = (struct edge){a.number, b.number};
	edge.from = event_of(order, &a);
	edge.to = event_of(order, &b);
	for (uint32_t i = 0; i < order->n_edges; i++)
		if (order->edge[i].from == edge.from && order->edge[i].to == edge.to)
			return;
	order->edge = widen(order->edge, order->n_edges, &order->edge_room, sizeof(edge));
	order->edge[order->n_edges++] = edge;
	order->event[edge.to].n_before++;
}

/* Places one event that nothing keeps back. False: there is none. */
static bool place_one(struct order *order)
{
	uint64_t first_end = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < order->n_events; i++)
		if (!order->event[i].placed)
			first_end = min_u64(first_end, order->event[i].node.ended);
	for (i = 0; i < order->n_events; i++)
		if (!order->event[i].placed && order->event[i].n_before == 0 &&
		    order->event[i].node.began <= first_end)
			break;
	if (i == order->n_events)
		return false;
	order->event[i].placed = true;
	for (uint32_t k = 0; k < order->n_edges; k++)
		if (order->edge[k].from == i)
			order->event[order->edge[k].to].n_before--;
	return true;
}

bool order_holds(struct order *order, uint32_t *ret_a, uint32_t *ret_b)
{
	uint32_t n_placed = 0;

	while (n_placed < order->n_events && place_one(order))
		n_placed++;
	if (n_placed == order->n_events)
		return true;
	for (uint32_t k = 0; k < order->n_edges; k++) {
		const struct event *a = &order->event[order->edge[k].from];
		const struct event *b = &order->event[order->edge[k].to];

		if (!a->placed && !b->placed) {
			*ret_a = a->node.number;
			*ret_b = b->node.number;
			break;
		}
	}
	return false;
}
