/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/volume_list.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void volume_list_on_batch(struct store_ctl *ctl);

void volume_list_get(struct volume_list *list)
{
	list->n = 0;
	list->err = (struct err){0};
	memset(&list->ctl, 0, sizeof(list->ctl));
	list->ctl.loop = list->loop;
	list->ctl.done = volume_list_on_batch;
	list->store->ops->object_list(list->store, &list->ctl);
}

/* A volume's id has 68 bits; the store may hold objects of other kinds. */
static bool is_volume(struct id id)
{
	return id.hi <= 0xf && !id_is_zero(id);
}

static int compare_ids(const void *a, const void *b)
{
	const struct id *x = a;
	const struct id *y = b;

	if (x->hi != y->hi)
		return x->hi < y->hi ? -1 : 1;
	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static int widen(struct volume_list *list)
{
	unsigned room = list->room ? 2 * list->room : 256;
	struct id *wider = mem_realloc(list->ids, room * sizeof(*wider));

	if (!wider)
		return err_set(&list->err, -ENOMEM, "no memory for the list of volumes");
	list->ids = wider;
	list->room = room;
	return 0;
}

static int take_batch(struct volume_list *list)
{
	for (uint32_t i = 0; i < list->ctl.n; i++) {
		const struct store_segment *s = &list->ctl.segments[i];
		struct id id = {.hi = s->id, .lo = s->incarnation};

		if (!is_volume(id))
			continue;
		if (list->n == list->room && widen(list) < 0)
			return list->err.code;
		list->ids[list->n++] = id;
	}
	return 0;
}

static void volume_list_on_batch(struct store_ctl *ctl)
{
	struct volume_list *list = container_of(ctl, struct volume_list, ctl);

	if (ctl->error)
		err_set(&list->err, ctl->error, "listing the volumes of the store: %s",
			strerror(-ctl->error));
	else if (ctl->n > 0 && take_batch(list) == 0) {
		list->store->ops->object_list(list->store, ctl);
		return;
	}
	if (list->n > 0)
		qsort(list->ids, list->n, sizeof(list->ids[0]), compare_ids);
	list->done(list);
}
