/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/pipes.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* Carries bytes until the end of `from`, or until `to` takes no more. */
static void pump(int from, int to)
{
	char buf[64 * 1024];

	for (;;) {
		ssize_t n = read(from, buf, sizeof(buf));
		ssize_t sent = 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		while (sent < n) {
			ssize_t more = write(to, buf + sent, (size_t)(n - sent));

			if (more < 0 && errno != EINTR)
				return;
			sent += more > 0 ? more : 0;
		}
	}
}

static void *pump_in(void *arg)
{
	struct pipes *pipes = arg;

	pump(STDIN_FILENO, pipes->near);
	shutdown(pipes->near, SHUT_WR);
	return NULL;
}

static void *pump_out(void *arg)
{
	struct pipes *pipes = arg;

	pump(pipes->near, STDOUT_FILENO);
	shutdown(pipes->near, SHUT_RDWR); /* if it was standard output that ended */
	return NULL;
}

static int start_pumps(struct pipes *pipes)
{
	int r = pthread_create(&pipes->in, NULL, pump_in, pipes);

	if (r != 0)
		return -r;
	r = pthread_create(&pipes->out, NULL, pump_out, pipes);
	if (r != 0) {
		pthread_cancel(pipes->in);
		pthread_join(pipes->in, NULL);
	}
	return -r;
}

int pipes_open(struct pipes *pipes, int *ret_socket, struct err *err)
{
	int pair[2];
	int r;

	*pipes = (struct pipes){.near = -1};
	if (sd_is_socket(STDIN_FILENO, AF_UNSPEC, SOCK_STREAM, 0) > 0) {
		*ret_socket = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
		return *ret_socket < 0 ? err_set(err, -errno, "--stdio: %s", strerror(errno)) : 0;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(err, -errno, "--stdio: a socket pair: %s", strerror(errno));
	pipes->near = pair[0];
	r = start_pumps(pipes);
	if (r < 0) {
		close(pair[0]);
		close(pair[1]);
		return err_set(err, r, "--stdio: a thread: %s", strerror(-r));
	}
	pipes->pumping = true;
	*ret_socket = pair[1];
	return 0;
}

void pipes_close(struct pipes *pipes)
{
	if (!pipes->pumping)
		return;
	pthread_join(pipes->out, NULL);
	/* Whoever feeds standard input may never end. */
	pthread_cancel(pipes->in);
	pthread_join(pipes->in, NULL);
	close(pipes->near);
	pipes->pumping = false;
}
