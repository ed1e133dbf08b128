/* SPDX-License-Identifier: Apache-2.0
 *
 * The ids of all volumes in a store: its objects that bear a volume's name.
 */
#ifndef VOLUMED_VOLUME_LIST_H
#define VOLUMED_VOLUME_LIST_H

#include "base/err.h"
#include "store/store.h"

struct volume_list {
	struct io_loop *loop;
	struct store *store;
	void (*done)(struct volume_list *list);
	struct err err; /* code 0: ids are set */
	unsigned n;
	unsigned room;
	struct id *ids; /* in the order of their ids; the caller frees them */

	struct store_ctl ctl;
};

/* Asynchronous on list->loop.  */
void volume_list_get(struct volume_list *list);

#endif
