/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of snapshots: names from a listing, then each one's object, one after the other.
 */
#include "snapshots/internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

static void list_more(struct snap_list *list);
static void list_next(struct snap_list *list);

static void finish(struct snap_list *list, int error)
{
	mem_free(list->entries);
	mem_free(list->bytes);
	list->entries = NULL;
	list->bytes = NULL;
	list->error = error;
	list->done(list);
}

static void on_object(struct blob_op *blob)
{
	struct snap_list *list = container_of(blob, struct snap_list, blob);
	struct snap_info *info = &list->infos[list->n];
	struct id id = list->after;
	int r;

	if (blob->result == -ENOENT) { /* swept meanwhile */
		list_next(list);
		return;
	}
	if (blob->result < 0) {
		finish(list, blob_error(&list->err, list->repository, blob->name, "can't be read",
					blob->result));
		return;
	}
	r = manifest_decode(list->bytes, (size_t)blob->result, id, info, NULL);
	if (r < 0)
		*info = (struct snap_info){.id = id};
	if (r < 0 || info->state != SNAP_DELETED)
		list->n++;
	list_next(list);
}

static void list_next(struct snap_list *list)
{
	char name[BLOB_NAME_MAX];

	while (list->at < list->n_entries && list->n < list->max) {
		const struct blob_entry *e = &list->entries[list->at++];

		if (manifest_name_parse(e->name, &list->after) < 0)
			continue;
		list->blob.done = on_object;
		blob_read(list->repository->blobs, list->loop, &list->blob,
			  manifest_name(list->after, name), list->bytes, 0, BLOB_SWAP_MAX);
		return;
	}
	if (list->n == list->max)
		finish(list, 0);
	else
		list_more(list);
}

static void on_names(struct blob_op *blob)
{
	struct snap_list *list = container_of(blob, struct snap_list, blob);

	if (blob->result <= 0) {
		finish(list, blob_error(&list->err, list->repository, blob->name, "can't be listed",
					blob->result));
		return;
	}
	list->n_entries = (uint32_t)blob->result;
	list->at = 0;
	list_next(list);
}

static void list_more(struct snap_list *list)
{
	char after[BLOB_NAME_MAX] = "";

	/* Names that are no snapshot's must not be met again and again. */
	if (list->n_entries > 0)
		memcpy(after, list->entries[list->n_entries - 1].name, BLOB_NAME_MAX);
	else if (!id_is_zero(list->after))
		manifest_name(list->after, after);
	list->blob.done = on_names;
	blob_list(list->repository->blobs, list->loop, &list->blob, PREFIX_SNAPSHOTS, after,
		  list->entries, BLOB_LIST_MAX);
}

static void on_no_memory(struct io_op *defer)
{
	struct blob_op *blob = container_of(defer, struct blob_op, op);
	struct snap_list *list = container_of(blob, struct snap_list, blob);

	finish(list, err_set(&list->err, -ENOMEM, "out of memory for a list of snapshots"));
}

void snap_list_page(struct repository *repository, struct io_loop *loop, struct snap_list *list)
{
	CHECK(list->max > 0);
	list->repository = repository;
	list->loop = loop;
	list->n = 0;
	list->at = 0;
	list->n_entries = 0;
	list->entries = mem_calloc(BLOB_LIST_MAX, sizeof(*list->entries));
	list->bytes = mem_alloc(BLOB_SWAP_MAX);
	if (list->entries && list->bytes) {
		list_more(list);
		return;
	}
	list->blob.op.done = on_no_memory;
	io_defer(loop, &list->blob.op, 0);
}
