/* SPDX-License-Identifier: Apache-2.0
 *
 * All objects under a prefix, one after the other, read or only named.
 */
#include "snapshots/sweep_internal.h"

#include <errno.h>
#include <string.h>

static void scan_page(struct snap_sweeping *s, const char *after);

static struct snap_sweeping *of(struct blob_op *blob)
{
	return container_of(blob, struct snap_sweeping, blob);
}

static void scan_on_object(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result == -ENOENT) {
		scan_next(s); /* it has gone meanwhile */
		return;
	}
	if (blob->result < 0) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, blob->name, "can't be read",
					blob->result));
		return;
	}
	if (s->on_object(s, &s->entries[s->at - 1], (uint64_t)blob->result))
		scan_next(s);
}

static void scan_go_on(struct snap_sweeping *s)
{
	while (s->at < s->n_entries) {
		const struct blob_entry *e = &s->entries[s->at++];

		if (!s->names_only) {
			s->blob.done = scan_on_object;
			blob_read(s->repository->blobs, s->loop, &s->blob, e->name, s->bytes, 0,
				  BLOB_SWAP_MAX);
			return;
		}
		if (!s->on_object(s, e, 0))
			return;
	}
	scan_page(s, s->entries[s->n_entries - 1].name);
}

void scan_next(struct snap_sweeping *s)
{
	lease_check(s, scan_go_on);
}

static void scan_on_page(struct blob_op *blob)
{
	struct snap_sweeping *s = of(blob);

	if (blob->result < 0) {
		sweep_end(s, blob_error(&s->sweep->err, s->repository, s->prefix, "can't be listed",
					blob->result));
		return;
	}
	s->n_entries = (uint32_t)blob->result;
	s->at = 0;
	if (s->n_entries == 0)
		s->on_end(s);
	else
		scan_next(s);
}

static void scan_page(struct snap_sweeping *s, const char *after)
{
	char copy[BLOB_NAME_MAX];

	memcpy(copy, after, strlen(after) + 1);
	s->blob.done = scan_on_page;
	blob_list(s->repository->blobs, s->loop, &s->blob, s->prefix, copy, s->entries,
		  BLOB_LIST_MAX);
}

void scan_start(struct snap_sweeping *s, const char *prefix, bool names_only,
		bool (*on_object)(struct snap_sweeping *s, const struct blob_entry *entry,
				  uint64_t len),
		void (*on_end)(struct snap_sweeping *s))
{
	s->prefix = prefix;
	s->names_only = names_only;
	s->on_object = on_object;
	s->on_end = on_end;
	scan_page(s, "");
}
