/* SPDX-License-Identifier: Apache-2.0
 *
 * What io/ does with transfers that stop short, which a healthy kernel seldom shows: the results
 * are made up here, and given to the functions that the ring gives them to.
 */
#include "tests/unit/test_io_common.h"

#include "io/internal.h"

#include <sys/socket.h>

#define BLOCK 4096

static struct io_file *file;
static struct io_sock *sock;
static uint8_t *buf;
static uint64_t alignment;

static int setup(void **state)
{
	char path[] = "/tmp/test-io-partial-XXXXXX";
	struct io_file_info info;
	struct err err;
	int fd = mkstemp(path);
	int ret;

	(void)state;
	buf = mem_alloc_pages(64 * BLOCK);
	if (fd < 0 || !buf)
		return -1;
	close(fd);
	ret = io_file_open(path, 0, &file, &err);
	unlink(path);
	if (ret < 0)
		return ret;
	io_file_info(file, &info);
	alignment = info.alignment;
	sock = io_sock_from_fd(socket(AF_UNIX, SOCK_STREAM, 0)); /* no byte is moved on it */
	return sock ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	io_file_close(file);
	io_sock_close(sock);
	mem_free_pages(buf, 64 * BLOCK);
	return 0;
}

static struct io_op file_op(enum op_kind kind, struct iovec *iov, int n)
{
	struct io_op op = {.kind = (int)kind, .file = file, .offset = 8 * BLOCK};

	op_set_iov(&op, iov, n);
	return op;
}

/* Iovecs are worn off from the front: within one, at its end, over several and over empty ones. */
static void advance_wears_off_iovecs(void **state)
{
	struct iovec iov[] = {{buf, 10}, {buf + 100, 0}, {buf + 200, 5}, {buf + 300, 7}, {buf, 0}};
	struct io_op op = {0};

	(void)state;
	op_set_iov(&op, iov, 5);
	assert_int_equal(op.wanted, 22);
	op_advance(&op, 3);
	assert_ptr_equal(op.iov, &iov[0]);
	assert_ptr_equal(iov[0].iov_base, buf + 3);
	assert_int_equal(iov[0].iov_len, 7);
	op_advance(&op, 7);
	assert_int_equal(op.moved, 10);
	assert_ptr_equal(op.iov, &iov[2]);
	assert_int_equal(op.n_iov, 3);
	op_advance(&op, 6);
	assert_ptr_equal(op.iov, &iov[3]);
	assert_ptr_equal(iov[3].iov_base, buf + 301);
	assert_int_equal(iov[3].iov_len, 6);
	op_advance(&op, 6);
	assert_int_equal(op.n_iov, 0);
	assert_int_equal(op.moved, op.wanted);
}

/* A write that stops short goes on where it stopped, in file and memory. */
static void short_write_goes_on(void **state)
{
	struct iovec iov[] = {{buf, 2 * BLOCK}, {buf + 16 * BLOCK, 2 * BLOCK}};
	struct io_op op = file_op(OP_WRITE, iov, 2);
	struct io_uring_sqe sqe;

	(void)state;
	assert_int_equal(file_complete(&op, 3 * BLOCK), OP_AGAIN);
	memset(&sqe, 0, sizeof(sqe));
	file_prepare(&op, &sqe);
	assert_int_equal(sqe.opcode, IORING_OP_WRITE);
	assert_int_equal(sqe.off, 11 * BLOCK);
	assert_int_equal(sqe.addr, (uintptr_t)(buf + 17 * BLOCK));
	assert_int_equal(sqe.len, BLOCK);
	assert_int_equal(file_complete(&op, BLOCK), OP_DONE);
	assert_int_equal(op.result, 4 * BLOCK);
}

/* One that stops within a block goes on from the start of that block: direct I/O takes nothing
 * else. */
static void short_write_goes_on_aligned(void **state)
{
	struct iovec iov = {buf, 4 * BLOCK};
	struct io_op op = file_op(OP_WRITE, &iov, 1);

	(void)state;
	assert_int_equal(file_complete(&op, BLOCK + (int)alignment - 1), OP_AGAIN);
	assert_int_equal(op.moved, BLOCK);
	assert_ptr_equal(op.iov->iov_base, buf + BLOCK);
	assert_int_equal(file_complete(&op, -ENOSPC), OP_DONE);
	assert_int_equal(op.result, -ENOSPC);
}

/* One that does not get on is an error, and is not tried for ever. */
static void no_progress_is_eio(void **state)
{
	struct iovec iov = {buf, 4 * BLOCK};
	struct io_op op = file_op(OP_WRITE, &iov, 1);

	(void)state;
	assert_int_equal(file_complete(&op, 0), OP_DONE);
	assert_int_equal(op.result, -EIO);
	op = file_op(OP_READ, &iov, 1);
	assert_int_equal(file_complete(&op, (int)alignment - 1), OP_DONE);
	assert_int_equal(op.result, -EIO);
}

/* EINTR and EAGAIN are tried again, and are then allowed to block, in a thread of the kernel. */
static void again_and_interrupted_are_retried(void **state)
{
	static const int codes[] = {-EINTR, -EAGAIN};
	static const enum op_kind kinds[] = {OP_READ, OP_WRITE, OP_SYNC, OP_GROW, OP_PUNCH};
	struct iovec iov = {buf, 4 * BLOCK};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds) * ARRAY_SIZE(codes); i++) {
		struct io_op op = file_op(kinds[i / 2], &iov, 1);
		struct io_uring_sqe sqe;

		memset(&sqe, 0, sizeof(sqe));
		file_prepare(&op, &sqe);
		assert_int_equal(sqe.flags & IOSQE_ASYNC, 0);
		assert_int_equal(file_complete(&op, codes[i % 2]), OP_AGAIN);
		file_prepare(&op, &sqe);
		assert_int_equal(sqe.flags & IOSQE_ASYNC, IOSQE_ASYNC);
	}
}

/* More than one system call can take is cut, and the rest follows. */
static void huge_transfers_are_cut(void **state)
{
	struct iovec *iov = mem_calloc(1500, sizeof(*iov));
	struct io_op op;
	struct io_uring_sqe sqe = {0};

	(void)state;
	iov[0] = (struct iovec){NULL, (size_t)3 << 30};
	op = file_op(OP_WRITE, iov, 1);
	file_prepare(&op, &sqe);
	assert_int_equal(sqe.len, 1 << 30);
	for (int i = 0; i < 1500; i++)
		iov[i] = (struct iovec){buf, BLOCK};
	op = file_op(OP_READ, iov, 1500);
	file_prepare(&op, &sqe);
	assert_int_equal(sqe.len, 1024);
	assert_int_equal(file_complete(&op, 1024 * BLOCK), OP_AGAIN);
	file_prepare(&op, &sqe);
	assert_int_equal(sqe.len, 476);
	assert_int_equal(sqe.addr, (uintptr_t)&iov[1024]);
	mem_free(iov);
}

/* A send that stops short goes on with the rest, byte for byte. */
static void short_send_goes_on(void **state)
{
	struct iovec iov[] = {{buf, 100}, {buf + 200, 100}, {buf + 400, 100}};
	struct io_op op = {.kind = OP_SEND, .sock = sock};
	struct io_uring_sqe sqe;
	struct msghdr msg;

	(void)state;
	op_set_iov(&op, iov, 3);
	assert_int_equal(sock_complete(&op, 133), OP_AGAIN);
	sock_prepare(&op, &sqe, &msg);
	assert_int_equal(sqe.opcode, IORING_OP_SENDMSG);
	assert_true(sqe.msg_flags & MSG_NOSIGNAL);
	assert_ptr_equal(msg.msg_iov, &iov[1]);
	assert_int_equal(msg.msg_iovlen, 2);
	assert_ptr_equal(iov[1].iov_base, buf + 233);
	assert_int_equal(sock_complete(&op, -EAGAIN), OP_AGAIN);
	assert_int_equal(sock_complete(&op, -EINTR), OP_AGAIN);
	assert_int_equal(sock_complete(&op, 67), OP_AGAIN);
	sock_prepare(&op, &sqe, &msg);
	assert_int_equal(sqe.opcode, IORING_OP_SEND);
	assert_true(sqe.msg_flags & MSG_NOSIGNAL);
	assert_int_equal(sock_complete(&op, 100), OP_DONE);
	assert_int_equal(op.result, 300);
}

/* A receive of a fixed length leaves the waiting to the kernel; one of any length does not. */
static void recv_waits_in_the_kernel_for_all(void **state)
{
	struct io_op op = {.kind = OP_RECV, .sock = sock};
	struct io_uring_sqe sqe;

	(void)state;
	op_set_buf(&op, buf, 100);
	sock_prepare(&op, &sqe, NULL);
	assert_int_equal(sqe.msg_flags, MSG_WAITALL);
	assert_int_equal(sock_complete(&op, 40), OP_AGAIN);
	sock_prepare(&op, &sqe, NULL);
	assert_int_equal(sqe.msg_flags, MSG_WAITALL);
	assert_int_equal(sqe.len, 60);
	assert_int_equal(sock_complete(&op, -ECONNRESET), OP_DONE);
	assert_int_equal(op.result, -ECONNRESET);
	op_set_buf(&op, buf, 100);
	op.wanted = 50;
	sock_prepare(&op, &sqe, NULL);
	assert_int_equal(sqe.msg_flags, 0);
	assert_int_equal(sock_complete(&op, 49), OP_AGAIN);
	assert_int_equal(sock_complete(&op, 20), OP_DONE);
	assert_int_equal(op.result, 69);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(advance_wears_off_iovecs),
	    TEST(short_write_goes_on),
	    TEST(short_write_goes_on_aligned),
	    TEST(no_progress_is_eio),
	    TEST(again_and_interrupted_are_retried),
	    TEST(huge_transfers_are_cut),
	    TEST(short_send_goes_on),
	    TEST(recv_waits_in_the_kernel_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
