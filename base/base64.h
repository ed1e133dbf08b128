/* SPDX-License-Identifier: Apache-2.0
 *
 * Base64 (RFC 4648, section 4), as checksums of the EBS direct APIs are written. Pure.
 */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the text of `len` bytes, with its NUL. */
#define BASE64_TEXT(len) (((len) + 2) / 3 * 4 + 1)

/* Returns `text`, which has room for BASE64_TEXT(len). */
char *base64_encode(const uint8_t *bytes, size_t len, char *text);

#endif
