/* SPDX-License-Identifier: Apache-2.0
 *
 * Partial transfers: what is left of an operation's iovecs after some bytes were moved.
 */
#include "io/internal.h"

void op_set_iov(struct io_op *op, struct iovec *iov, int n)
{
	op->iov = iov;
	op->n_iov = n;
	op->moved = 0;
	op->wanted = 0;
	for (int i = 0; i < n; i++)
		op->wanted += iov[i].iov_len;
}

void op_set_buf(struct io_op *op, void *buf, size_t len)
{
	op->iov_one.iov_base = buf;
	op->iov_one.iov_len = len;
	op_set_iov(op, &op->iov_one, 1);
}

void op_advance(struct io_op *op, size_t n)
{
	op->moved += n;
	while (op->n_iov > 0 && n >= op->iov->iov_len) {
		n -= op->iov->iov_len;
		op->iov++;
		op->n_iov--;
	}
	if (n == 0)
		return;
	CHECK(op->n_iov > 0); /* the kernel moves no more than it was given */
	op->iov->iov_base = (char *)op->iov->iov_base + n;
	op->iov->iov_len -= n;
}
