/* SPDX-License-Identifier: Apache-2.0
 *
 * What a volume has in flight with the store, oldest first, so that what never comes back is seen.
 * To begin and to end costs a place in a list and the turn's time: no clock is read, nothing is
 * allocated. A timer of the engine runs only while something is in flight, and ends at the moment
 * at which the oldest would be called stuck.
 */
#ifndef ENGINE_FLIGHT_H
#define ENGINE_FLIGHT_H

#include "engine/engine.h"

/* Belongs to what it tells of; from begin to end it is on its volume's list. */
struct flight {
	struct list link;
	uint64_t since; /* io_now */
	enum volume_io kind;
};

/* Of a volume. */
struct flights {
	struct list list;
	struct flight object; /* of its operations with the store's owner loop */
	struct flight lend;
	struct flight freeing;
	bool told;                  /* that something is stuck, */
	uint64_t told_since;        /* and when what was told of first began */
	struct volume_stall *shown; /* or NULL */
};

void flight_begin(struct volume *v, struct flight *f, enum volume_io kind);
void flight_end(struct volume *v, struct flight *f);

/* Of an engine. */
struct flight_watch {
	struct io_op timer;
	uint64_t at; /* io_now */
	bool runs;
	bool ends; /* it was cancelled */
};

/* A data operation with the store that is seen in flight. Belongs to the engine until `done`. */
struct device_io {
	void (*done)(struct device_io *io);
	int64_t result; /* bytes, 0, or a negative errno */
	struct volume *volume;
	struct flight flight;
	struct store_io store;
};
void device_append(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		   uint32_t offset, struct iovec *iov, int n);
void device_read(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		 uint32_t offset, void *buf, uint32_t len);
void device_readv(struct volume *v, struct device_io *io, enum volume_io kind, uint64_t segment,
		  uint32_t offset, struct iovec *iov, int n);
void device_sync(struct volume *v, struct device_io *io, enum volume_io kind);

/* volume_alloc and volume_free call them. */
void flights_init(struct volume *v);
void flights_free(struct volume *v);
void flights_stats(const struct volume *v, struct volume_stats *stats);

#endif
