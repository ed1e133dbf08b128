/* SPDX-License-Identifier: Apache-2.0 */
#include "nbd/errno.h"

#include "nbd/protocol.h"

#include <errno.h>
#include <stddef.h>

uint32_t nbd_error(int error)
{
	switch (-error) {
	case 0:
		return 0;
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case ENOTSUP:
		return NBD_ENOTSUP;
	default:
		return NBD_EIO;
	}
}

const char *nbd_error_text(int error)
{
	switch (nbd_error(error)) {
	case 0:
		return NULL;
	case NBD_EPERM:
		return "the device is read-only";
	case NBD_EINVAL:
		return "the device refused the request";
	case NBD_ENOSPC:
		return "no space is left in the store";
	case NBD_ENOTSUP:
		return "it would not be fast";
	default:
		return "input/output error of the device";
	}
}
