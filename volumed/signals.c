/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/signals.h"

#include "base/util.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void signals_on_byte(struct io_op *op);

static int signal_fd = -1;
static volatile sig_atomic_t n_signals;

static void handler(int signal_number)
{
	int saved = errno;
	uint8_t byte = (uint8_t)signal_number;

	n_signals = n_signals + 1;
	if (n_signals > 1)
		_exit(128 + signal_number);
	if (write(signal_fd, &byte, 1) < 0)
		_exit(128 + signal_number);
	errno = saved;
}

int signals_open(struct signals *signals, struct io_loop *loop, struct err *err)
{
	static const int caught[] = {SIGTERM, SIGINT, SIGHUP};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(err, -errno, "a socket for signals: %s", strerror(errno));
	signal_fd = pair[1];
	signals->loop = loop;
	signals->sock = io_sock_from_fd(pair[0]);
	if (!signals->sock)
		return err_set(err, -ENOMEM, "a socket for signals: out of memory");
	signals->op.done = signals_on_byte;
	io_recv(loop, &signals->op, signals->sock, &signals->byte, 1, 1);

	sigfillset(&action.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

static void signals_on_byte(struct io_op *op)
{
	struct signals *signals = container_of(op, struct signals, op);

	if (op->result == 1 && !signals->closing) {
		io_recv(signals->loop, op, signals->sock, &signals->byte, 1, 1);
		signals->on_stop(signals);
		return;
	}
	io_sock_close(signals->sock);
	signals->sock = NULL;
	signals->on_closed(signals);
}

void signals_close(struct signals *signals)
{
	signals->closing = true;
	io_sock_shutdown(signals->loop, signals->sock);
}
