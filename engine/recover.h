/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to recover.c (the opening machine), recover_map.c (root, pages, segments) and replay.c
 * (the log).
 */
#ifndef ENGINE_RECOVER_H
#define ENGINE_RECOVER_H

#include "engine/volume.h"

enum opening_state {
	OPENING_SUPERBLOCK,
	OPENING_ROOT,
	OPENING_USAGE,
	OPENING_LIST,
	OPENING_HEADS,
	OPENING_REPLAY,
	OPENING_SCAN,
	OPENING_APPLY,
	OPENING_SYNC,
	OPENING_SWAP,
	OPENING_CHECKPOINT,
	OPENING_END,
};

/* A segment in which the log may go on. */
struct candidate {
	struct segment *segment;
	bool valid; /* its first record could be read */
	bool used;  /* the log was followed into it */
	struct record_header first;
};

/* A record that is kept back, in log order. */
struct found {
	struct record_header h;
	struct segment *segment;
	size_t header_at; /* of its bytes in `headers` */
	bool payload_good;
};

struct opening {
	struct volume *volume;
	struct volume_op *op;
	struct list queue; /* others are being opened */
	enum opening_state state;
	int error;
	bool asleep;

	/* One read at a time. */
	struct device_io io;
	struct segment *reading;
	bool blob_asked;
	uint8_t *buf;
	size_t buf_size;
	uint32_t want; /* bytes, rounded to the alignment */
	uint32_t skip;

	/* Map. */
	uint8_t *root; /* a copy of the root blob */
	struct root_content root_content;
	uint64_t map_live; /* bytes of leaves and index pages, by the usage pages */
	uint32_t i;        /* in whatever list the state walks */
	struct store_ctl list;

	/* Log. */
	struct candidate *candidates;
	uint32_t n_candidates;
	struct segment *at; /* where the log goes on; NULL: look for a candidate */
	uint32_t offset;
	uint64_t expected;
	uint32_t previous;
	uint32_t window; /* bytes of buf that are valid, from `offset` */
	uint32_t window_size;
	bool window_end;
	struct found *found;
	uint32_t n_found;
	uint32_t found_room;
	uint8_t *headers;
	size_t headers_used;
	size_t headers_room;
	uint64_t durable; /* newest sequence that some header calls durable */
	uint32_t n_kept;
	struct checkpoint_wait wait;
};

/* The steps: 0: go on; 1: asleep; negative errno: opening->op->err is set. */
int open_read(struct opening *o, uint64_t segment, uint32_t offset, uint32_t length);
int open_error(struct opening *o, int code, const char *what);
int open_root(struct opening *o);
int open_root_read(struct opening *o);
int open_usage(struct opening *o);
int open_list(struct opening *o);
int open_heads(struct opening *o);
int open_replay(struct opening *o);
int open_scan(struct opening *o);
int open_apply(struct opening *o);
void open_release_unused(struct opening *o);
void open_wake(struct opening *o);

#endif
