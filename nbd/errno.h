/* SPDX-License-Identifier: Apache-2.0
 *
 * The one place where our errors become NBD's.
 */
#ifndef NBD_ERRNO_H
#define NBD_ERRNO_H

#include <stdint.h>

/* An NBD error for a negative errno, 0 for 0. Never ESHUTDOWN: QEMU hands that to the guest, and
 * never ENOMEM, which the spec asks to avoid. */
uint32_t nbd_error(int error);
/* What to tell people about it: a static text, NULL for 0. */
const char *nbd_error_text(int error);

#endif
