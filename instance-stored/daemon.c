/* SPDX-License-Identifier: Apache-2.0
 *
 * Start:  the store is opened, and with it locked; then sockets, server, threads.
 * Stop:   the server answers what it has; then operations end, the store closes, signals.
 * An error while starting, or a signal during it, takes down whatever is there.
 */
#include "instance-stored/daemon.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "instance-store/istore.h"
#include "instance-store/keep_tmpfs.h"
#include "instance-stored/http.h"
#include "nbd/server.h"
#include "volumed/signals.h"
#include "volumed/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define POLL_NS (5 * NSEC_PER_MSEC)

enum stop_state {
	STOP_SERVER,
	STOP_WAIT_SERVER,
	STOP_HTTP,
	STOP_WAIT_HTTP,
	STOP_STORE,
	STOP_WAIT_STORE,
	STOP_SIGNALS,
	STOP_WAIT_SIGNALS,
	STOP_DONE,
};

struct daemon {
	const struct options *options;
	struct err err;
	bool started;
	bool stop_wanted;
	enum stop_state stop_state;

	char store_path[PATH_MAX];
	char nbd_path[PATH_MAX];
	char api_path[PATH_MAX];
	struct io_loop *loops[OPTIONS_THREADS_MAX];
	unsigned n_loops;
	unsigned n_threads; /* loops from the second on that run */
	struct signals signals;
	struct keep_tmpfs_source keep;
	struct istore_open open;
	struct istore *store;
	struct listeners listeners;
	struct listeners api_listeners;
	struct nbd_server *server;
	struct http *http;

	struct io_op server_stopped;
	struct io_op http_poll;
	struct io_op store_closed;
};

static void start_on_store(struct istore_open *open);
static void on_signal(struct signals *signals);
static void stop_step(struct daemon *d);
static void stop_on_server(struct io_op *op);
static void stop_on_poll(struct io_op *op);
static void stop_on_store(struct io_op *op);
static void stop_on_signals(struct signals *signals);

/* ---- The parts --------------------------------------------------------------------- */

/* Keys are in our memory: it is not dumped, and no other process of ours reads it. */
static void guard_memory(void)
{
	const struct rlimit none = {0};
	struct rlimit files;

	setrlimit(RLIMIT_CORE, &none);
#ifndef __SANITIZE_ADDRESS__ /* which looks for leaks by ptrace */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static void warn_of_swap(void)
{
	char text[512] = "";
	int fd = open("/proc/swaps", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	const char *line = len > 0 ? strchr(text, '\n') : NULL;

	if (fd >= 0)
		close(fd);
	if (line && line[1])
		log_warning("this host swaps: while the daemon does not run, tmpfs and the keys on "
			    "it may be written to the swap device; encrypt it with a key that is "
			    "new at each boot, or switch it off");
}

static int make_paths(struct daemon *d)
{
	const struct options *o = d->options;

	if (mkdir(o->data_dir, 0700) < 0 && errno != EEXIST)
		return err_set(&d->err, -errno, "data folder %s: making it: %s", o->data_dir,
			       strerror(errno));
	if (snprintf(d->nbd_path, PATH_MAX, "%s/nbd.sock", o->data_dir) >= PATH_MAX ||
	    snprintf(d->api_path, PATH_MAX, "%s/instance-stored.sock", o->data_dir) >= PATH_MAX ||
	    snprintf(d->store_path, PATH_MAX, "%s%s", o->store ? o->store : o->data_dir,
		     o->store ? "" : "/store") >= PATH_MAX)
		return err_set(&d->err, -ENAMETOOLONG, "data folder %s: its path is too long",
			       o->data_dir);
	return 0;
}

static int make_loops(struct daemon *d)
{
	char name[16];
	const struct io_loop_config config = {.name = name, .cpu = -1};

	for (unsigned i = 0; i < d->options->threads; i++) {
		int r;

		snprintf(name, sizeof(name), "loop/%u", i);
		r = io_loop_new(&config, &d->loops[i], &d->err);
		if (r < 0)
			return r;
		d->n_loops++;
	}
	return 0;
}

static int make_signals(struct daemon *d)
{
	d->signals.on_stop = on_signal;
	d->signals.on_closed = stop_on_signals;
	return signals_open(&d->signals, d->loops[0], &d->err);
}

static int open_store(struct daemon *d)
{
	const struct options *o = d->options;
	int r;

	keep_tmpfs_source_init(&d->keep, o->key_dir, o->allow_key_dir_on_disk);
	r = keep_read_id(o->machine_id, &d->keep.source.host, &d->err);
	if (r == 0)
		r = keep_read_id(o->boot_id, &d->keep.source.boot, &d->err);
	if (r < 0)
		return r;
	d->open = (struct istore_open){
	    .config =
		{
		    .path = d->store_path,
		    .n_loops = d->n_loops,
		    .keep = &d->keep.source,
		    .create = true,
		    .size = o->size,
		    .slice_size = o->slice_size,
		    .adopt = o->adopt,
		    .give_up_damaged = o->give_up_damaged,
		    .discard_rate = o->discard_rate,
		},
	    .done = start_on_store,
	};
	memcpy(d->open.config.loops, d->loops, sizeof(d->open.config.loops));
	istore_open(&d->open);
	return 0;
}

static int make_server(struct daemon *d)
{
	const struct nbd_config config = {
	    .exports = istore_exports(d->store),
	    .loops = d->loops,
	    .n_loops = d->n_loops,
	};

	return nbd_server_new(&config, &d->server, &d->err);
}

static int start_threads(struct daemon *d)
{
	for (unsigned i = 1; i < d->n_loops; i++) {
		int r = io_loop_start(d->loops[i], &d->err);

		if (r < 0)
			return r;
		d->n_threads++;
	}
	return 0;
}

static int make_http(struct daemon *d)
{
	struct listener *l = &d->api_listeners.all[0];
	int r = http_new(d->store, d->loops[0], l->fd, &d->http, &d->err);

	if (r == 0)
		l->fd = -1;
	return r;
}

static int serve(struct daemon *d)
{
	for (unsigned i = 0; i < d->listeners.n; i++) {
		struct listener *l = &d->listeners.all[i];
		struct io_sock *sock = io_sock_from_fd(l->fd);
		int r = sock ? 0 : -ENOMEM;

		l->fd = -1;
		if (sock)
			r = nbd_server_listen(d->server, sock);
		if (r < 0)
			return err_set(&d->err, r, "listening on %s: %s", l->name, strerror(-r));
	}
	return 0;
}

/* ---- Starting ---------------------------------------------------------------------- */

static void say_ready(const struct daemon *d)
{
	struct istore_stats stats;
	char used[SIZE_TEXT_MAX];
	char size[SIZE_TEXT_MAX];

	istore_stats(d->store, &stats);
	if (d->open.n_ended)
		log_warning(
		    "%u disks have ended: their keys are gone with another boot or host, or "
		    "were lost",
		    d->open.n_ended);
	if (d->open.n_repaired)
		log_warning("%s: %u damaged pages were repaired from their copies", d->store_path,
			    d->open.n_repaired);
	warn_of_swap();
	log_info("ready: %u disks, %s of %s used, on %s and %s", d->open.n_disks,
		 size_format(stats.used, used), size_format(stats.size, size), d->nbd_path,
		 d->api_path);
	sd_notifyf(0, "READY=1\nSTATUS=Serving %u disks", d->open.n_disks);
}

static void start_on_store(struct istore_open *open)
{
	struct daemon *d = container_of(open, struct daemon, open);
	int r = open->err.code;

	d->err = open->err;
	d->store = open->store;
	d->started = true;
	if (r == 0 && !d->stop_wanted)
		r = listeners_inherit(&d->listeners, &d->err);
	if (r == 0 && !d->stop_wanted)
		r = listeners_add_unix(&d->listeners, d->nbd_path, &d->err);
	if (r == 0 && !d->stop_wanted)
		r = listeners_add_unix(&d->api_listeners, d->api_path, &d->err);
	if (r == 0 && !d->stop_wanted)
		r = make_server(d);
	if (r == 0 && !d->stop_wanted)
		r = start_threads(d);
	if (r == 0 && !d->stop_wanted)
		r = make_http(d);
	if (r == 0 && !d->stop_wanted)
		r = serve(d);
	if (r == 0 && !d->stop_wanted)
		say_ready(d);
	else
		stop_step(d);
}

static int daemon_start(struct daemon *d)
{
	int r;

	guard_memory();
	umask(077); /* what we make is nobody else's */
	json_set_alloc_funcs(mem_alloc, mem_free);
	r = make_paths(d);
	if (r == 0)
		r = make_loops(d);
	if (r == 0)
		r = make_signals(d);
	return r == 0 ? open_store(d) : r;
}

/* ---- Stopping ---------------------------------------------------------------------- */

static void on_signal(struct signals *signals)
{
	struct daemon *d = container_of(signals, struct daemon, signals);

	if (d->stop_wanted)
		return;
	d->stop_wanted = true;
	log_info("stopping");
	sd_notify(0, "STOPPING=1");
	if (d->started && !d->err.code)
		stop_step(d);
}

static void stop_enter(struct daemon *d, enum stop_state state)
{
	d->stop_state = state;
}

static void stop_step(struct daemon *d)
{
	for (;;) {
		switch (d->stop_state) {
		case STOP_SERVER:
			http_quiesce(d->http);
			stop_enter(d, d->server ? STOP_WAIT_SERVER : STOP_HTTP);
			if (!d->server)
				continue;
			d->server_stopped.done = stop_on_server;
			nbd_server_stop(d->server, &d->server_stopped);
			return;
		case STOP_WAIT_SERVER:
			stop_enter(d, STOP_HTTP);
			continue;
		case STOP_HTTP:
			if (!http_is_busy(d->http)) {
				http_free(d->http);
				d->http = NULL;
				stop_enter(d, STOP_STORE);
				continue;
			}
			stop_enter(d, STOP_WAIT_HTTP);
			d->http_poll.done = stop_on_poll;
			io_timer(d->loops[0], &d->http_poll, POLL_NS);
			return;
		case STOP_WAIT_HTTP:
			stop_enter(d, STOP_HTTP);
			continue;
		case STOP_STORE:
			stop_enter(d, d->store ? STOP_WAIT_STORE : STOP_SIGNALS);
			if (!d->store)
				continue;
			d->store_closed.done = stop_on_store;
			istore_close(d->store, &d->store_closed);
			return;
		case STOP_WAIT_STORE:
			d->store = NULL;
			stop_enter(d, STOP_SIGNALS);
			continue;
		case STOP_SIGNALS:
			stop_enter(d, STOP_WAIT_SIGNALS);
			signals_close(&d->signals);
			return;
		case STOP_WAIT_SIGNALS:
			stop_enter(d, STOP_DONE);
			continue;
		case STOP_DONE:
			io_loop_stop(d->loops[0]);
			return;
		}
	}
}

static void stop_on_server(struct io_op *op)
{
	stop_step(container_of(op, struct daemon, server_stopped));
}

static void stop_on_poll(struct io_op *op)
{
	stop_step(container_of(op, struct daemon, http_poll));
}

static void stop_on_store(struct io_op *op)
{
	stop_step(container_of(op, struct daemon, store_closed));
}

static void stop_on_signals(struct signals *signals)
{
	stop_step(container_of(signals, struct daemon, signals));
}

/* Everything is quiet. */
static void daemon_free(struct daemon *d)
{
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_stop(d->loops[i]);
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_join(d->loops[i]);
	nbd_server_free(d->server);
	for (unsigned i = 0; i < d->n_loops; i++)
		io_loop_free(d->loops[i]);
	listeners_close(&d->api_listeners);
	listeners_close(&d->listeners);
	mem_free(d);
}

int daemon_run(const struct options *options)
{
	struct daemon *d = mem_alloc(sizeof(*d));
	int status;

	if (!d) {
		log_error("out of memory");
		return 1;
	}
	d->options = options;
	if (daemon_start(d) == 0) {
		int r = io_loop_run(d->loops[0]);

		if (r < 0) {
			/* Nothing can be finished without it; what was acknowledged is safe. */
			log_error("the main loop failed: %s", strerror(-r));
			_exit(1);
		}
	}
	if (d->err.code)
		log_error("%s", d->err.text);
	status = d->err.code ? 1 : 0;
	daemon_free(d);
	return status;
}
