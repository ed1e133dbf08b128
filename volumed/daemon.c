/* SPDX-License-Identifier: Apache-2.0
 *
 * Two machines on the main loop. Their WAIT states are the only places where they sleep.
 *
 *     start:  STORE -> WAIT_STORE -> VOLUMES -> WAIT_VOLUMES -> LISTEN -> DONE
 *     stop:   SERVER -> WAIT_SERVER -> VOLUMES -> WAIT_VOLUMES -> STORE -> WAIT_STORE ->
 *             SIGNALS -> WAIT_SIGNALS -> DONE
 *
 * An error while starting, or a signal that comes during it, ends the first machine at its next
 * step; the second takes down whatever is there.
 */
#include "volumed/daemon.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "block/export_table.h"
#include "nbd/server.h"
#include "store/local.h"
#include "volumed/data_dir.h"
#include "volumed/hints.h"
#include "volumed/pipes.h"
#include "volumed/signals.h"
#include "volumed/sockets.h"
#include "volumed/volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define BAD_BLOCK_BURST 10 /* lines a second */

enum start_state {
	START_STORE,
	START_WAIT_STORE,
	START_VOLUMES,
	START_WAIT_VOLUMES,
	START_LISTEN,
	START_DONE,
};

enum stop_state {
	STOP_SERVER,
	STOP_WAIT_SERVER,
	STOP_VOLUMES,
	STOP_WAIT_VOLUMES,
	STOP_STORE,
	STOP_WAIT_STORE,
	STOP_SIGNALS,
	STOP_WAIT_SIGNALS,
	STOP_DONE,
};

struct daemon {
	const struct options *options;
	enum start_state start_state;
	enum stop_state stop_state;
	bool stop_wanted; /* by a signal, or by the end of the one connection */
	struct err err;   /* the first thing that went wrong */

	/* The parts, in the order in which they are made. */
	struct data_dir dir;
	struct listeners listeners;
	struct home homes[OPTIONS_THREADS_MAX]; /* the first one's loop is the main loop */
	unsigned n_homes;
	unsigned n_threads; /* homes from the second on whose loops run in threads of their own */
	struct signals signals;
	struct store_open store_open;
	struct store *store;
	struct volumes volumes;
	struct export_table exports;
	struct nbd_server *server;
	struct pipes pipes;

	struct io_op begin;
	struct io_op server_stopped;
	struct io_op connection_ended; /* of --stdio */
	struct store_ctl store_close;
};

static void start_begin(struct io_op *op);
static void start_step(struct daemon *d);
static void start_on_store(struct store_open *open);
static void start_on_volumes(struct volumes *volumes);
static void on_signal(struct signals *signals);
static void on_connection_ended(struct io_op *op);
static void stop_step(struct daemon *d);
static void stop_on_server(struct io_op *op);
static void stop_on_volumes(struct volumes *volumes);
static void stop_on_store(struct store_ctl *ctl);
static void stop_on_signals(struct signals *signals);

static struct io_loop *main_loop(struct daemon *d)
{
	return d->homes[0].loop;
}

/* ---- The parts --------------------------------------------------------------------------------
 */

/* Each connection takes a descriptor; the soft limit of 1024 is for programs that use select(2). */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warning("the limit of open files stays as it is: %s", strerror(errno));
}

static int make_listeners(struct daemon *d)
{
	const struct options *o = d->options;
	int r = 0;

	if (o->mode == MODE_STDIO)
		return 0;
	r = listeners_inherit(&d->listeners, &d->err);
	if (r == 0)
		r = listeners_add_unix(&d->listeners, d->dir.socket, &d->err);
	for (unsigned i = 0; r == 0 && i < o->n_listen; i++)
		r = listeners_add_tcp(&d->listeners, o->listen[i], o->allow_remote, &d->err);
	return r;
}

static int make_loops(struct daemon *d)
{
	char name[16];
	struct io_loop_config config = {.name = name, .cpu = -1};
	int r;

	for (unsigned i = 0; i < d->options->threads; i++) {
		snprintf(name, sizeof(name), "loop/%u", i);
		r = io_loop_new(&config, &d->homes[i].loop, &d->err);
		if (r < 0)
			return r;
		d->n_homes++;
	}
	return 0;
}

static int make_signals(struct daemon *d)
{
	d->signals.on_stop = on_signal;
	d->signals.on_closed = stop_on_signals;
	return signals_open(&d->signals, main_loop(d), &d->err);
}

static void open_store(struct daemon *d)
{
	d->store_open = (struct store_open){
	    .loop = main_loop(d),
	    .config =
		{
		    .path = d->dir.store,
		    .create = true,
		    .max_size = d->options->store_max_size,
		},
	    .done = start_on_store,
	};
	store_local_open(&d->store_open);
}

/* E4: what can't be read as it was written is named. A rotten disk must not fill the log, too. */
static void on_bad_block(void *arg, struct id volume, uint64_t lba, const char *why)
{
	struct home *home = arg;
	char text[ID_TEXT_MAX];

	if (log_limit_pass(&home->bad_blocks, io_now(home->loop), BAD_BLOCK_BURST))
		log_error(
		    "%s: block %" PRIu64 " (bytes %" PRIu64 " to %" PRIu64
		    ") can't be read: %s; the rest of the volume is served. Stop volumed and run "
		    "volumed --check to see all that is bad",
		    id_format(volume, "vol", text), lba, lba * BLOCK_SIZE,
		    lba * BLOCK_SIZE + BLOCK_SIZE - 1, why);
}

/* Engines first, then the threads: what they do there begins with a message. */
static int start_homes(struct daemon *d)
{
	int r;

	for (unsigned i = 0; i < d->n_homes; i++) {
		struct home *home = &d->homes[i];
		struct engine_config config = {.bad_block = on_bad_block, .bad_block_arg = home};

		r = engine_new(home->loop, d->store, &config, &home->engine, &d->err);
		if (r < 0)
			return r;
	}
	for (unsigned i = 1; i < d->n_homes; i++) {
		r = io_loop_start(d->homes[i].loop, &d->err);
		if (r < 0)
			return r;
		d->n_threads++;
	}
	return 0;
}

static void open_volumes(struct daemon *d)
{
	d->volumes.loop = main_loop(d);
	d->volumes.store = d->store;
	d->volumes.homes = d->homes;
	d->volumes.n_homes = d->n_homes;
	d->volumes.first_size = d->options->volume_size;
	d->volumes.done = start_on_volumes;
	volumes_open(&d->volumes);
}

static int fill_exports(struct daemon *d)
{
	char id[ID_TEXT_MAX];
	char size[SIZE_TEXT_MAX];
	char description[EXPORT_DESCRIPTION_MAX];
	int r;

	export_table_init(&d->exports);
	/* Who asks for the default never gets another disk than before. */
	d->exports.no_default = !d->volumes.all[0].volume;
	for (unsigned i = 0; i < d->volumes.n; i++) {
		struct served *s = &d->volumes.all[i];

		if (!s->volume)
			continue;
		id_format(s->id, "vol", id);
		snprintf(description, sizeof(description), "volume of %s",
			 size_format(block_size(&s->gate.dev), size));
		r = export_table_add(&d->exports, id, description, &s->gate.dev, s->home->loop,
				     true);
		if (r < 0)
			return err_set(&d->err, r, "volume %s can't be served: %s", id,
				       strerror(-r));
	}
	return 0;
}

static int make_server(struct daemon *d)
{
	struct io_loop *loops[OPTIONS_THREADS_MAX];
	struct nbd_config config = {
	    .exports = &d->exports.exports,
	    .loops = loops,
	    .n_loops = d->n_homes,
	};

	for (unsigned i = 0; i < d->n_homes; i++)
		loops[i] = d->homes[i].loop;
	return nbd_server_new(&config, &d->server, &d->err);
}

static int serve_listeners(struct daemon *d)
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

static int serve_stdio(struct daemon *d)
{
	struct io_sock *sock;
	int fd = -1;
	int r = pipes_open(&d->pipes, &fd, &d->err);

	if (r < 0)
		return r;
	sock = io_sock_from_fd(fd);
	if (!sock)
		return err_set(&d->err, -ENOMEM, "--stdio: out of memory");
	d->connection_ended.done = on_connection_ended;
	r = nbd_server_serve_one(d->server, sock, &d->connection_ended);
	return r < 0 ? err_set(&d->err, r, "--stdio: %s", strerror(-r)) : 0;
}

static int serve(struct daemon *d)
{
	int r = fill_exports(d);

	if (r == 0)
		r = make_server(d);
	if (r < 0)
		return r;
	return d->options->mode == MODE_STDIO ? serve_stdio(d) : serve_listeners(d);
}

/* ---- What it says -----------------------------------------------------------------------------
 */

static void warn_without_direct_io(const struct daemon *d)
{
	int fd = open(d->dir.store, O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0 && errno == EINVAL)
		log_warning("%s: this file system has no direct I/O; data is cached twice, and a "
			    "flush takes longer; choose ext4, xfs or a block device for speed",
			    d->dir.store);
	if (fd >= 0)
		close(fd);
}

static void say_ready(const struct daemon *d)
{
	char text[800];
	char id[ID_TEXT_MAX];
	char size[SIZE_TEXT_MAX];
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < d->volumes.n && used < sizeof(text); i++) {
		const struct served *s = &d->volumes.all[i];

		if (s->volume)
			used += (size_t)snprintf(text + used, sizeof(text) - used, " %s (%s)",
						 id_format(s->id, "vol", id),
						 size_format(block_size(&s->gate.dev), size));
	}
	if (used < sizeof(text))
		used += (size_t)snprintf(text + used, sizeof(text) - used, " on%s",
					 d->options->mode == MODE_STDIO ? " standard input" : "");
	for (unsigned i = 0; i < d->listeners.n && used < sizeof(text); i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, " %s",
					 d->listeners.all[i].name);
	log_info("ready:%s", text);
	sd_notifyf(0, "READY=1\nSTATUS=Serving %u of %u volumes", d->volumes.n_open, d->volumes.n);
	if (d->options->hints)
		hints_print(&d->listeners);
}

/* ---- Starting ---------------------------------------------------------------------------------
 */

static void start_enter(struct daemon *d, enum start_state state)
{
	d->start_state = state;
}

/* After each gap. */
static void start_go_on(struct daemon *d, enum start_state next)
{
	start_enter(d, d->err.code || d->stop_wanted ? START_DONE : next);
}

static void start_step(struct daemon *d)
{
	for (;;) {
		switch (d->start_state) {
		case START_STORE:
			start_enter(d, START_WAIT_STORE);
			open_store(d);
			return;
		case START_WAIT_STORE:
			d->err = d->store_open.err;
			if (!d->err.code) {
				d->store = d->store_open.store;
				warn_without_direct_io(d);
				start_homes(d);
			}
			start_go_on(d, START_VOLUMES);
			continue;
		case START_VOLUMES:
			start_enter(d, START_WAIT_VOLUMES);
			open_volumes(d);
			return;
		case START_WAIT_VOLUMES:
			d->err = d->volumes.err;
			if (!d->err.code && d->volumes.n_open == 0)
				err_set(&d->err, -EUCLEAN,
					"%s: none of its volumes can be opened; `volumed --check "
					"%s` says what is wrong",
					d->dir.store, d->dir.path);
			start_go_on(d, START_LISTEN);
			continue;
		case START_LISTEN:
			if (serve(d) == 0)
				say_ready(d);
			start_enter(d, START_DONE);
			continue;
		case START_DONE:
			if (d->err.code || d->stop_wanted)
				stop_step(d);
			return;
		}
	}
}

static void start_begin(struct io_op *op)
{
	start_step(container_of(op, struct daemon, begin));
}

static void start_on_store(struct store_open *open)
{
	start_step(container_of(open, struct daemon, store_open));
}

static void start_on_volumes(struct volumes *volumes)
{
	start_step(container_of(volumes, struct daemon, volumes));
}

/* What is made before the loop runs. */
static int daemon_start(struct daemon *d)
{
	const struct options *o = d->options;
	int r;

	raise_descriptor_limit();
	r = data_dir_open(&d->dir, o->data_dir, o->store, true, &d->err);
	if (r == 0)
		r = make_listeners(d);
	if (r == 0)
		r = make_loops(d);
	if (r == 0)
		r = make_signals(d);
	if (r < 0)
		return r;
	d->begin.done = start_begin;
	io_defer(main_loop(d), &d->begin, 0);
	return 0;
}

/* ---- Stopping ---------------------------------------------------------------------------------
 */

static void want_stop(struct daemon *d)
{
	if (d->stop_wanted)
		return;
	d->stop_wanted = true;
	log_info("stopping");
	sd_notify(0, "STOPPING=1");
	if (d->start_state == START_DONE && !d->err.code)
		stop_step(d);
}

static void on_signal(struct signals *signals)
{
	want_stop(container_of(signals, struct daemon, signals));
}

static void on_connection_ended(struct io_op *op)
{
	want_stop(container_of(op, struct daemon, connection_ended));
}

static void stop_enter(struct daemon *d, enum stop_state state)
{
	d->stop_state = state;
}

static void stop_server(struct daemon *d)
{
	d->server_stopped.done = stop_on_server;
	nbd_server_stop(d->server, &d->server_stopped);
}

static void close_volumes(struct daemon *d)
{
	d->volumes.done = stop_on_volumes;
	volumes_close(&d->volumes);
}

static void close_store(struct daemon *d)
{
	d->store_close.loop = main_loop(d);
	d->store_close.done = stop_on_store;
	d->store->ops->close(d->store, &d->store_close);
}

static void stop_step(struct daemon *d)
{
	for (;;) {
		switch (d->stop_state) {
		case STOP_SERVER:
			stop_enter(d, d->server ? STOP_WAIT_SERVER : STOP_VOLUMES);
			if (!d->server)
				continue;
			stop_server(d);
			return;
		case STOP_WAIT_SERVER:
			stop_enter(d, STOP_VOLUMES);
			continue;
		case STOP_VOLUMES:
			stop_enter(d, STOP_WAIT_VOLUMES);
			close_volumes(d);
			return;
		case STOP_WAIT_VOLUMES:
			if (!d->err.code)
				d->err = d->volumes.err;
			stop_enter(d, STOP_STORE);
			continue;
		case STOP_STORE:
			stop_enter(d, d->store ? STOP_WAIT_STORE : STOP_SIGNALS);
			if (!d->store)
				continue;
			close_store(d);
			return;
		case STOP_WAIT_STORE:
			d->store = NULL;
			if (d->store_close.error && !d->err.code)
				err_set(&d->err, d->store_close.error, "closing %s: %s",
					d->dir.store, strerror(-d->store_close.error));
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
			io_loop_stop(main_loop(d));
			return;
		}
	}
}

static void stop_on_server(struct io_op *op)
{
	stop_step(container_of(op, struct daemon, server_stopped));
}

static void stop_on_volumes(struct volumes *volumes)
{
	stop_step(container_of(volumes, struct daemon, volumes));
}

static void stop_on_store(struct store_ctl *ctl)
{
	stop_step(container_of(ctl, struct daemon, store_close));
}

static void stop_on_signals(struct signals *signals)
{
	stop_step(container_of(signals, struct daemon, signals));
}

/* What is left once the main loop has ended; everything is quiet. */
static void daemon_free(struct daemon *d)
{
	nbd_server_free(d->server);
	pipes_close(&d->pipes);
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_stop(d->homes[i].loop);
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_join(d->homes[i].loop);
	for (unsigned i = 0; i < d->n_homes; i++)
		engine_free(d->homes[i].engine);
	for (unsigned i = 0; i < d->n_homes; i++)
		io_loop_free(d->homes[i].loop);
	listeners_close(&d->listeners);
	data_dir_close(&d->dir);
	mem_free(d);
}

int daemon_run(const struct options *options)
{
	struct daemon *d = mem_alloc(sizeof(*d));
	int status;
	int r;

	if (!d) {
		log_error("out of memory");
		return 1;
	}
	d->options = options;
	d->dir.fd = -1;
	if (daemon_start(d) == 0) {
		r = io_loop_run(main_loop(d));
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
