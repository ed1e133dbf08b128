/* SPDX-License-Identifier: Apache-2.0
 *
 * Between local_object.c (operations on objects) and local_object_index.c (names, free pairs, new
 * segments). Owner loop only.
 */
#ifndef STORE_LOCAL_OBJECT_H
#define STORE_LOCAL_OBJECT_H

#include "store/local_internal.h"

/* local_object.c */
struct pair *object_pair(struct objects *o, uint32_t number);
void object_serve(struct local *l);
void object_refuse_waiting(struct local *l, int error);

/* local_object_index.c */
int object_index_init(struct objects *o);
uint32_t object_find(struct objects *o, struct id name); /* PAIR_NONE: no such object */
void object_index_add(struct objects *o, uint32_t number);
void object_index_remove(struct objects *o, uint32_t number);
void object_put_free(struct objects *o, uint32_t number);
uint32_t object_take_free(struct objects *o); /* PAIR_NONE: there is none */
int object_add_half(struct objects *o, uint32_t number);
void object_grow_init(struct local *l);
void object_grow(struct local *l);

#endif
