/* SPDX-License-Identifier: Apache-2.0
 *
 * What one client of the API, or all of them, can make the daemon hold.
 */
#ifndef API_LIMITS_H
#define API_LIMITS_H

/* Connections at a time; more wait in the kernel's backlog. */
#define API_CONNECTIONS_MAX 256
/* Bytes of request line and headers; 200 filter values fit. A connection has no more memory. */
#define API_HEAD_MAX (64 * 1024)
/* Bytes of a request's body: 50 tags of EC2's largest size fit, at 4 bytes a character. */
#define API_BODY_MAX (256 * 1024)
/* Bytes beyond it that are still read, so that the sender gets an answer and no broken pipe. */
#define API_BODY_DRAIN (1024 * 1024)
/* Seconds without a byte, until the connection is closed. A running operation has no such limit. */
#define API_IDLE_SECONDS 30
/* What is quoted of a client's text in a message. */
#define API_QUOTE_MAX 80
/* Parameters of a query string. */
#define API_PARAMETERS_MAX 512

#endif
