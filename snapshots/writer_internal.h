/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the writer share:
 *
 *   writer.c        start, puts, seal, abort
 *   writer_tree.c   the tree's pages in memory
 *   writer_pack.c   packs: filled one at a time, stored a few at a time
 *   writer_reuse.c  what earlier attempts have stored
 */
#ifndef SNAPSHOTS_WRITER_INTERNAL_H
#define SNAPSHOTS_WRITER_INTERNAL_H

#include "snapshots/internal.h"
#include "snapshots/writer.h"

#define PAGE_PACKS      2
#define PAGE_PACK_BYTES (2 * MiB)

/* A packed block, until its pack is stored. */
struct snap_buffer {
	struct list link;
	struct codec_block block;
	uint8_t *bytes; /* BLOCK_STORED_MAX */
};

enum pack_state { PACK_FREE, PACK_FILLING, PACK_STORING };

struct pack_out {
	struct snap_writer *writer;
	enum pack_state state;
	struct snap_pack id;
	uint32_t n;
	uint32_t length; /* the head included */
	struct pack_item *items;
	struct iovec *iov;
	struct list buffers; /* data packs */
	uint8_t *pages;      /* page packs: PAGE_PACK_BYTES */
	bool copy;           /* the second copy is being stored */
	struct blob_op blob;
	uint8_t head[PACK_HEAD];
	uint8_t *end; /* PACK_END_MAX */
};

struct leaf {
	struct list lru; /* writer->leaves; the most recently used first */
	bool dirty;
	struct snap_page page;
};

struct reuse_entry {
	uint32_t block;
	struct snap_entry entry;
};

enum writer_step {
	START_READ,
	START_PARENT,
	START_SWAP,
	START_PARENT_AGAIN,
	START_ROOT,
	START_REUSE,
	START_UNDO,
	WRITING,
	SEAL_DATA,
	SEAL_LEAVES,
	SEAL_INNER,
	SEAL_ROOT,
	SEAL_STORE,
	SEAL_SWAP,
	ABORT_REST,
	ABORT_SWAP,
	END,
};

struct snap_writer {
	struct repository *repository;
	struct io_loop *loop;
	struct snap_writer_config config;
	struct snap_writer_op *op; /* start, seal or abort, under way */
	enum writer_step step;
	bool keep;
	uint32_t busy; /* what is under way in all: works, blob operations, loads, the timer */
	int failed;    /* the first error; nothing but the end follows */
	struct err failure;
	struct snap_writer_stats stats;

	/* The snapshot's object. */
	struct snap_info info;
	uint64_t renewals;
	bool resumed;     /* packs of earlier attempts may be used */
	bool parent_held; /* by the earlier attempt: no need to look at it */
	uint8_t *old;     /* what it is now */
	uint8_t *new;     /* what it shall become */
	uint8_t *found;   /* what it was found to be */
	uint64_t old_len;
	uint64_t new_len;
	void (*on_swap)(struct snap_writer *w, int error);
	int swap_error;
	struct snap_item new_root; /* what the seal will say */
	uint64_t new_blocks;
	struct blob_op blob;
	struct repository_op get;
	struct snap_info *parent;
	struct io_op timer; /* of the renewal */
	bool timer_runs;
	bool ended; /* only what is scheduled is waited for */
	int end_error;

	/* writer.c: puts on their way. */
	struct list free_buffers;
	struct snap_buffer *buffers;
	uint8_t *buffer_bytes;
	uint32_t n_buffers;
	struct list to_pack;   /* snap_puts that wait for a buffer */
	struct list to_settle; /* snap_puts that wait for their entry */
	struct io_op settle;
	bool settle_runs;

	/* writer_pack.c */
	uint32_t n_packs;
	struct pack_out *packs;
	struct pack_out page_packs[PAGE_PACKS];
	uint32_t next_pack;

	/* writer_tree.c */
	struct pages *pages;
	struct page_wait wait;
	bool loading;
	uint32_t load_leaf; /* for whom */
	struct snap_page *root;
	bool root_dirty;
	struct snap_page *inner[PAGE_FANOUT];
	bool inner_dirty[PAGE_FANOUT];
	struct leaf *leaf_memory;
	struct list leaves;
	struct list free_leaves;
	uint32_t seal_at;

	/* writer_reuse.c */
	struct reuse_entry *reuse;
	uint32_t n_reuse;
	uint32_t reuse_room;
	struct blob_entry *reuse_names;
	uint32_t reuse_n_names;
	uint32_t reuse_at;
	char reuse_after[BLOB_NAME_MAX];
	struct pack_item *reuse_items;
	uint8_t *reuse_bytes;
	struct snap_pack reuse_pack;
	uint64_t reuse_size;
};

/* ---- writer.c ---- */
/* The first error counts. */
void writer_fail(struct snap_writer *w, int error, const struct err *err);
/* Something that was waited for may go on: a pack is free, a page is there, nothing is busy. */
void writer_kick(struct snap_writer *w);
void writer_began(struct snap_writer *w);
void writer_ended(struct snap_writer *w);
/* Where writer_reuse.c goes on. */
void writer_started(struct snap_writer *w);

/* ---- writer_pack.c ---- */
int packs_open(struct snap_writer *w);
void packs_close(struct snap_writer *w);
/* Takes the buffer. False: no pack is free; try again after writer_kick. */
bool pack_add_block(struct snap_writer *w, uint32_t block, struct snap_buffer *buffer,
		    struct snap_entry *ret);
bool pack_add_page(struct snap_writer *w, const struct snap_page *page, struct snap_entry *ret);
/* Bytes of a page in a pack that is not stored yet; NULL: it is none of these. */
const uint8_t *pack_page(struct snap_writer *w, const struct snap_item *item);
/* Starts storing what is being filled. */
void packs_flush_data(struct snap_writer *w);
void packs_flush_pages(struct snap_writer *w);

/* ---- writer_tree.c ---- */
int tree_open(struct snap_writer *w);
void tree_close(struct snap_writer *w);
/* Loads the parent's root page; writer_kick when it is there. */
bool tree_load_root(struct snap_writer *w);
/* The leaf that holds `block`; NULL: it is on its way (writer_kick), or the writer has failed. */
struct leaf *tree_leaf(struct snap_writer *w, uint64_t block);
/* Each returns true when all is written, false: wait for writer_kick. */
bool tree_write_leaves(struct snap_writer *w);
bool tree_write_inner(struct snap_writer *w);
bool tree_write_root(struct snap_writer *w);

/* ---- writer_reuse.c ---- */
void reuse_begin(struct snap_writer *w);
/* The entry of a stored block with this hash, or NULL. */
const struct snap_entry *reuse_find(const struct snap_writer *w, uint64_t block,
				    const uint8_t hash[SNAP_HASH]);
void reuse_close(struct snap_writer *w);

#endif
