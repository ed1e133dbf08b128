/* SPDX-License-Identifier: Apache-2.0
 *
 * What an operator is told on a machine that refuses io_uring. Each case is a child process that
 * has taken something from itself.
 */
#include "tests/unit/test_io_common.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Lets io_uring_setup fail with `error` in this process. */
static int refuse_io_uring(int error)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {ARRAY_SIZE(filter), filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int take_descriptors(int unused)
{
	struct rlimit none = {3, 3};

	(void)unused;
	return setrlimit(RLIMIT_NOFILE, &none);
}

enum child_end { CHILD_OK, CHILD_CANT_TEST, CHILD_WRONG_CODE, CHILD_WRONG_TEXT };

static int child_run(int (*take)(int), int argument, int code, const char *remedy)
{
	struct io_loop_config config = {.name = "test", .cpu = -1};
	struct io_loop *loop = NULL;
	struct err err;

	if (take(argument) < 0)
		return CHILD_CANT_TEST;
	if (io_loop_new(&config, &loop, &err) != code || err.code != code || loop)
		return CHILD_WRONG_CODE;
	return strstr(err.text, remedy) ? CHILD_OK : CHILD_WRONG_TEXT;
}

static void refused(int (*take)(int), int argument, int code, const char *remedy)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0)
		_exit(child_run(take, argument, code, remedy));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == CHILD_CANT_TEST)
		skip();
	assert_int_equal(WEXITSTATUS(status), CHILD_OK);
}

/* Without io_uring in the kernel, the error says which kernel is needed. */
static void refused_by_old_kernel(void **state)
{
	(void)state;
	refused(refuse_io_uring, ENOSYS, -ENOSYS, "Linux 6.1");
	refused(refuse_io_uring, EINVAL, -EINVAL, "Linux 6.1");
}

/* Under a filter of system calls, it says what to allow. */
static void refused_by_filter(void **state)
{
	(void)state;
	refused(refuse_io_uring, EPERM, -EPERM, "io_uring");
}

/* Without memory or descriptors, it says which limit to raise. */
static void refused_by_limits(void **state)
{
	(void)state;
	refused(refuse_io_uring, ENOMEM, -ENOMEM, "LimitMEMLOCK");
	refused(refuse_io_uring, EMFILE, -EMFILE, "LimitNOFILE");
	refused(take_descriptors, 0, -EMFILE, "LimitNOFILE");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(refused_by_old_kernel),
	    cmocka_unit_test(refused_by_filter),
	    cmocka_unit_test(refused_by_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
