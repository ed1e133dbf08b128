/* SPDX-License-Identifier: Apache-2.0
 *
 * Every bound of the NBD server, each with its reason. Nothing that a client sends takes memory or
 * time without one.
 */
#ifndef NBD_LIMITS_H
#define NBD_LIMITS_H

#include "base/util.h"

/* What we advertise. 512: Linux and partition tables want it; without a minimum QEMU may send less
 * than a sector. 32 MiB: what the spec asks of everyone, and the most that QEMU and Linux send. */
#define NBD_MIN_BLOCK       512
#define NBD_PREFERRED_BLOCK 4096
#define NBD_MAX_PAYLOAD     (32 * MiB)

/* A WRITE above NBD_MAX_PAYLOAD is read and refused, since the client may be merely wrong; above
 * this it is dropped, as nobody wants to read gigabytes for an error. */
#define NBD_DROP_PAYLOAD (64 * MiB)

/* The longest legal options are a name of 4096 bytes and a few queries: 16 KiB is ample. More is
 * read and refused; above the drop limit it is an attack or garbage. */
#define NBD_OPTION_DATA_MAX  (16 * KiB)
#define NBD_OPTION_DATA_DROP (64 * KiB)

/* Most clients send about ten options, but `qemu-nbd -L` sends two for each export. The deadline
 * ends an endless haggler, and this one who haggles very fast. */
#define NBD_OPTIONS_MAX 1024

/* Sent together while listing exports. */
#define NBD_LIST_BATCH 16

/* A handshake takes a few round trips. The count bounds memory and descriptors of peers that never
 * finish (CVE-2024-7409 of QEMU); when it is reached, who has been at it for longest, and for at
 * least NBD_HANDSHAKE_MIN, makes room. */
#define NBD_HANDSHAKE_DEADLINE (10 * NSEC_PER_SEC)
#define NBD_HANDSHAKE_MIN      (1 * NSEC_PER_SEC)
#define NBD_HANDSHAKES_MAX     128

/* A few connections for each of some hundred volumes; each may hold NBD_RECEIVE_BUFFER. */
#define NBD_CONNECTIONS_MAX 1024
#define NBD_LISTENERS_MAX   16

/* Linux sends at most 128 at once on a connection, nbdcopy 64, QEMU 16. */
#define NBD_IN_FLIGHT_MAX 128

/* Requests under way on a loop; slots are small, so that this binds only crowds. */
#define NBD_SLOTS_PER_LOOP 8192

/* One receive takes up to this: dozens of requests with 4 KiB each. */
#define NBD_RECEIVE_BUFFER (256 * KiB)
/* A payload with this much still to come is received in place rather than copied. */
#define NBD_DIRECT_PAYLOAD (64 * KiB)
/* IOV_MAX of Linux, and the limit of io_send. */
#define NBD_SEND_IOVECS 1024
/* No reply is added to a send that has this much: memory is freed as a send ends. */
#define NBD_SEND_BYTES MiB

/* Payload memory of a loop; only what is used is resident. */
#define NBD_MEMORY_PER_LOOP (256 * MiB)
/* Room for the extents of one BLOCK_STATUS: 4096 of them. */
#define NBD_STATUS_BUFFER (64 * KiB)

/* While others wait for memory, a peer that takes longer than this, and than one second for each
 * NBD_SLOWEST bytes, to send a payload or to take its replies, is dropped. */
#define NBD_STALL   (20 * NSEC_PER_SEC)
#define NBD_SLOWEST (16 * MiB)

/* When the server stops: how long half-done handshakes may wait for their ERR_SHUTDOWN, and how
 * long replies may wait for a peer that does not read. */
#define NBD_STOP_HANDSHAKES (1 * NSEC_PER_SEC)
#define NBD_STOP_REPLIES    (5 * NSEC_PER_SEC)

/* After a failed accept (no descriptors left, most often). */
#define NBD_ACCEPT_PAUSE (100 * NSEC_PER_MSEC)

/* How often deadlines are looked at, while there are any. */
#define NBD_TICK (250 * NSEC_PER_MSEC)

/* Memory that rested this long goes back to the kernel. */
#define NBD_TRIM (2 * NSEC_PER_SEC)

/* Bytes of an export's name in a log line. */
#define NBD_LOG_NAME 64

/* Lines about bad input that are logged in a second. */
#define NBD_LOG_BURST 10

/* Receives that are thrown away between the end of a connection and close(2), so that unread bytes
 * do not turn our FIN into an RST that could overtake the last replies. */
#define NBD_LINGER_ROUNDS 64

#endif
