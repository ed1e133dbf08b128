/* SPDX-License-Identifier: Apache-2.0
 *
 * What disk.c (requests and what they hold) and piece.c (how they are carried out) share.
 */
#ifndef INSTANCE_STORE_DISK_INTERNAL_H
#define INSTANCE_STORE_DISK_INTERNAL_H

#include "instance-store/disk.h"
#include "instance-store/map.h"
#include "instance-store/xts.h"

#define PIECE        ((uint64_t)128 * KiB)
#define N_PIECES     128 /* 16 MiB of buffers, resident as they are used */
#define N_OPS        128 /* what a connection may have in flight */
#define PIECES_OF_OP 8
/* Bytes that are encrypted or decrypted in a turn of the loop: some 20 us. Then what was started
 * goes to the device, and what was finished to its owner, so that disk, cipher and client work at
 * the same time. */
#define TURN_BYTES    ((uint64_t)128 * KiB)
#define BLOCK_OF(off) ((off) / BLOCK_SIZE)
#define BLOCK_END(at) (round_up(at, BLOCK_SIZE) / BLOCK_SIZE)

struct op {
	struct list node; /* disk->ops in order of arrival; or disk->free_ops, disk->finished */
	struct block_req *req;          /* or */
	struct istore_discard *discard; /* this */
	uint64_t first;                 /* blocks that it holds */
	uint64_t end;
	uint64_t at; /* bytes of the disk: where the next piece begins */
	uint64_t stop;
	unsigned in_flight;
	bool reads;
	bool waiting; /* for an earlier one */
	bool starved; /* wants a piece, or room in the turn */
	int error;
};

enum piece_state {
	PIECE_WAIT_READ,
	PIECE_WAIT_TURN, /* read, to be decrypted */
	PIECE_WAIT_HEAD,
	PIECE_WAIT_TAIL,
	PIECE_WAIT_WRITE,
	PIECE_WAIT_PUNCH,
};

struct piece {
	struct io_op io;
	struct list node; /* disk->free_pieces or to_decrypt */
	struct istore_disk *disk;
	struct op *op;
	enum piece_state state;
	uint64_t offset; /* bytes of the disk */
	uint64_t length;
	uint64_t lo; /* read: blocks that are read */
	uint64_t hi;
	uint8_t *to; /* read: where block `lo` goes */
	uint8_t *buf;
};

struct istore_disk {
	struct block_dev dev;
	struct istore_disk_config config;
	struct xts *xts;
	uint64_t *map;
	uint64_t n_written; /* blocks */
	int failed;         /* a sync failed: nobody knows what the disk has */

	struct list ops;
	unsigned n_waiting;
	unsigned n_starved;
	struct list free_ops;
	struct list free_pieces;
	struct list backlog; /* requests without an op */

	uint64_t turn_at;    /* io_now */
	uint64_t turn_bytes; /* that went through the cipher in this turn */
	struct list to_decrypt;
	struct io_op turn;
	bool turn_runs;

	struct list finished;
	struct io_op finish;
	bool finish_runs;

	struct list to_sync; /* requests that wait for the next sync */
	struct list syncing;
	struct io_op sync;
	bool sync_runs;

	struct op all_ops[N_OPS + 1]; /* the last is for discards */
	struct piece all_pieces[N_PIECES];
	uint8_t *buffers;
};

/* ---- disk.c */

/* Nothing of it is under way, and nothing more is to be. */
bool istore_op_is_over(const struct op *op);
/* Off the list of ops, so that what waits for it can start; answered on a later turn. */
void istore_op_finish_later(struct istore_disk *d, struct op *op);
/* Answers it now. */
void istore_op_end(struct istore_disk *d, struct op *op);

/* ---- piece.c */

/* Starts as many pieces of an op as may be. */
void istore_op_go_on(struct istore_disk *d, struct op *op);
void istore_piece_on_io(struct io_op *io);
void istore_disk_on_turn(struct io_op *io);

#endif
