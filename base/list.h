/* SPDX-License-Identifier: Apache-2.0
 *
 * An intrusive, circular, doubly linked list. A node that is on no list points at itself, so that
 * removing it twice is harmless.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/util.h"

struct list {
	struct list *next;
	struct list *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list *l, struct list *node)
{
	node->next = l;
	node->prev = l->prev;
	l->prev->next = node;
	l->prev = node;
}

static inline void list_add_head(struct list *l, struct list *node)
{
	list_add_tail(l->next, node);
}

static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

/* First node, taken off the list; NULL when the list is empty. */
static inline struct list *list_pop(struct list *l)
{
	struct list *node = l->next;

	if (node == l)
		return NULL;
	list_remove(node);
	return node;
}

/* The same with the last. */
static inline struct list *list_pop_tail(struct list *l)
{
	struct list *node = l->prev;

	if (node == l)
		return NULL;
	list_remove(node);
	return node;
}

/* Moves all of `from` to the end of `to`. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(l, type, member)    container_of((l)->next, type, member)

#define list_for_each(l, node) for (struct list *node = (l)->next; node != (l); node = node->next)

/* As list_for_each, and the body may remove `node`. */
#define list_for_each_safe(l, node)                                                                \
	for (struct list *node = (l)->next, *node##_next = node->next; node != (l);                \
	     node = node##_next, node##_next = node->next)

#endif
