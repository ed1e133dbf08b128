/* SPDX-License-Identifier: Apache-2.0
 *
 * Two machines on the main loop. Their WAIT states are the only places where they sleep.
 *
 *     start:  STORE -> WAIT_STORE -> [WAIT_REGION] -> SERVICE -> CONTROL -> WAIT_CONTROL ->
 * LIST -> WAIT_LIST -> SERVE -> DONE stop:   SERVER -> WAIT_SERVER -> CONTROL -> WAIT_CONTROL ->
 * API <-> WAIT_API API -> STORE -> WAIT_STORE -> SIGNALS -> WAIT_SIGNALS -> DONE
 *
 * An error while starting, or a signal that comes during it, ends the first machine at its next
 * step; the second takes down whatever is there.
 */
#include "volumed/daemon.h"

#include "api/api.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "control/control.h"
#include "engine/engine.h"
#include "metadata/worker.h"
#include "nbd/server.h"
#include "store/local.h"
#include "volumed/bad_blocks.h"
#include "volumed/data_dir.h"
#include "volumed/hints.h"
#include "volumed/pipes.h"
#include "volumed/region.h"
#include "volumed/signals.h"
#include "volumed/sockets.h"
#include "volumed/stop_watch.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define MAP_MEMORY_MIN (4 * MiB)  /* of a thread */
#define BALLAST_SIZE   (16 * MiB) /* what a full disk leaves for deletes and detaches */
#define API_POLL_NS    (5 * NSEC_PER_MSEC)
#define SWEEP_INTERVAL (3600 * NSEC_PER_SEC) /* of the repository */
#define LISTED_MAX     16                    /* volumes that the ready line names */

enum start_state {
	START_STORE,
	START_WAIT_STORE,
	START_WAIT_REGION,
	START_SERVICE,
	START_CONTROL,
	START_WAIT_CONTROL,
	START_LIST,
	START_WAIT_LIST,
	START_SERVE,
	START_DONE,
};

enum stop_state {
	STOP_SERVER,
	STOP_WAIT_SERVER,
	STOP_CONTROL,
	STOP_WAIT_CONTROL,
	STOP_API,
	STOP_WAIT_API,
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
	struct control_home homes[OPTIONS_THREADS_MAX]; /* the first one's loop is the main loop */
	unsigned n_homes;
	struct bad_blocks bad_blocks[OPTIONS_THREADS_MAX];
	struct engine_load loads[OPTIONS_THREADS_MAX];
	unsigned n_threads; /* homes from the second on whose loops run in threads of their own */
	struct signals signals;
	struct store_open store_open;
	struct store *store;
	struct region region;
	struct io_loop *catalog_loop;
	bool catalog_runs; /* its thread */
	struct catalog *catalog;
	struct catalog_worker *catalog_worker;
	char nbd_socket[PATH_MAX];
	char host[HOST_NAME_MAX + 1];
	struct control *control;
	struct listeners api_listeners;
	struct api *api;
	struct nbd_server *server;
	struct pipes pipes;

	struct control_start control_start;
	struct control_stop control_stop;
	struct stop_watch stop_watch;
	struct control_op list; /* of what is attached, to say so */
	struct io_op begin;
	struct io_op server_stopped;
	struct io_op connection_ended; /* of --stdio */
	struct io_op api_poll;
	struct store_ctl store_close;
};

static void start_begin(struct io_op *op);
static void start_step(struct daemon *d);
static void start_on_store(struct store_open *open);
static void start_on_region(struct region *region);
static void start_on_control(struct control_start *start);
static void start_on_list(struct control_op *op);
static void on_signal(struct signals *signals);
static void on_connection_ended(struct io_op *op);
static void stop_step(struct daemon *d);
static void stop_on_server(struct io_op *op);
static void stop_on_control(struct control_stop *stop);
static void stop_on_api_poll(struct io_op *op);
static void stop_on_store(struct store_ctl *ctl);
static void stop_on_signals(struct signals *signals);

static struct io_loop *main_loop(struct daemon *d)
{
	return d->homes[0].loop;
}

/* ---- The parts --------------------------------------------------------------------- */

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
	if (r == 0)
		r = listeners_add_unix(&d->api_listeners, d->dir.api, &d->err);
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

static bool open_region(struct daemon *d)
{
	const char *place = d->options->snapshots ? d->options->snapshots : d->dir.snapshots;

	d->region.done = start_on_region;
	return region_open(&d->region, place, main_loop(d));
}

static int make_engines(struct daemon *d)
{
	uint64_t map_memory = d->options->map_memory / d->n_homes;
	char size[SIZE_TEXT_MAX];
	int r;

	if (d->options->map_memory && map_memory < MAP_MEMORY_MIN)
		return err_set(
		    &d->err, -EINVAL,
		    "map-memory is too small for %u threads, of which each takes a share: "
		    "set it to %s or more, or threads to less",
		    d->n_homes, size_format(MAP_MEMORY_MIN * d->n_homes, size));

	for (unsigned i = 0; i < d->n_homes; i++) {
		struct control_home *home = &d->homes[i];
		struct engine_config config = {
		    .map_memory = map_memory,
		    .loads = d->loads,
		    .n_loads = d->n_homes,
		    .load = i,
		    .bad_block = bad_blocks_on_block,
		    .doubtful = bad_blocks_on_segment,
		    .stuck = bad_blocks_on_stuck,
		    .stuck_after_ns = d->options->io_stuck_after * NSEC_PER_SEC,
		    .bad_block_arg = &d->bad_blocks[i],
		};

		d->bad_blocks[i].loop = home->loop;
		r = engine_new(home->loop, d->store, &config, &home->engine, &d->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int start_threads(struct daemon *d)
{
	int r;

	for (unsigned i = 1; i < d->n_homes; i++) {
		r = io_loop_start(d->homes[i].loop, &d->err);
		if (r < 0)
			return r;
		d->n_threads++;
	}
	return 0;
}

/* The catalog has a loop and a thread to itself: SQLite blocks. */
static int start_catalog(struct daemon *d)
{
	const struct io_loop_config loop = {.name = "catalog", .cpu = -1};
	const struct catalog_config config = {
	    .path = d->dir.catalog,
	    .ballast_size = BALLAST_SIZE,
	};
	int r = catalog_open(&config, &d->catalog, &d->err);

	if (r == 0)
		r = io_loop_new(&loop, &d->catalog_loop, &d->err);
	if (r < 0)
		return r;
	d->catalog_worker = catalog_worker_new(d->catalog, d->catalog_loop);
	if (!d->catalog_worker)
		return err_set(&d->err, -ENOMEM, "out of memory");
	r = io_loop_start(d->catalog_loop, &d->err);
	d->catalog_runs = r == 0;
	return r;
}

/* The address that people are told, of each kind. */
static void name_listeners(struct daemon *d, struct control_config *config)
{
	for (unsigned i = 0; i < d->listeners.n; i++) {
		const struct listener *l = &d->listeners.all[i];

		if (l->is_unix && !config->nbd_socket && realpath(l->name, d->nbd_socket))
			config->nbd_socket = d->nbd_socket;
		if (!l->is_unix && !config->nbd_tcp)
			config->nbd_tcp = l->name;
	}
}

static int make_control(struct daemon *d)
{
	struct control_config config = {
	    .loop = main_loop(d),
	    .store = d->store,
	    .catalog = d->catalog_worker,
	    .homes = d->homes,
	    .n_homes = d->n_homes,
	    .version = argp_program_version + strlen("volumed "),
	    .zone = d->options->zone,
	    .zone_number = d->options->zone_number,
	    .first_volume_size = d->options->volume_size,
	    .overcommit_limit = d->options->overcommit_limit,
	    .detach_wait_ns = d->options->detach_wait * NSEC_PER_SEC,
	    .repository = d->region.repository,
	    .no_repository = d->region.err.text,
	    .upload_rate = d->options->upload_rate,
	    .hydration_rate = d->options->hydration_rate,
	    .sweep_interval_ns = d->options->sweep_rate ? SWEEP_INTERVAL : 0,
	    .sweep_rate = d->options->sweep_rate,
	};

	if (gethostname(d->host, sizeof(d->host)) == 0 && d->host[0])
		config.host = d->host;
	name_listeners(d, &config);
	return control_new(&config, &d->control, &d->err);
}

/* It answers from now on; until control has started, that it is not ready. */
static int make_api(struct daemon *d)
{
	struct listener *l = &d->api_listeners.all[0];
	const struct api_config config = {.control = d->control, .listen_fd = l->fd};
	int r;

	if (d->options->mode == MODE_STDIO)
		return 0;
	r = api_new(&config, &d->api, &d->err);
	if (r == 0)
		l->fd = -1;
	return r;
}

static int make_server(struct daemon *d)
{
	struct io_loop *loops[OPTIONS_THREADS_MAX];
	struct nbd_config config = {
	    .exports = control_exports(d->control),
	    .loops = loops,
	    .n_loops = d->n_homes,
	};

	for (unsigned i = 0; i < d->n_homes; i++)
		loops[i] = d->homes[i].loop;
	return nbd_server_new(&config, &d->server, &d->err);
}

/* Engines and the server have a part on each loop, so they come before the threads; what happens on
 * those begins with a message. */
static int make_service(struct daemon *d)
{
	int r = make_engines(d);

	if (r == 0)
		r = start_catalog(d);
	if (r == 0)
		r = make_control(d);
	if (r == 0)
		r = make_server(d);
	if (r == 0)
		r = start_threads(d);
	return r == 0 ? make_api(d) : r;
}

static void start_control(struct daemon *d)
{
	d->control_start.done = start_on_control;
	control_start(d->control, &d->control_start);
}

static void list_attached(struct daemon *d)
{
	static const char *const in_use[] = {"in-use"};
	static const struct control_filter filter = {"status", in_use, 1};

	d->list = (struct control_op){
	    .kind = CONTROL_VOLUME_LIST,
	    .done = start_on_list,
	    .list = {.filters = &filter, .n_filters = 1, .max_results = LISTED_MAX},
	};
	control_submit(d->control, &d->list);
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
	return d->options->mode == MODE_STDIO ? serve_stdio(d) : serve_listeners(d);
}

/* ---- What it says ------------------------------------------------------------------ */

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
	const struct control_start *c = &d->control_start;
	char text[800];
	char size[SIZE_TEXT_MAX];
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < d->list.n_items && used < sizeof(text); i++) {
		const struct control_volume *v = &d->list.result.volumes[i];

		used += (size_t)snprintf(text + used, sizeof(text) - used, " %s (%s)", v->id,
					 size_format(v->size, size));
	}
	if (d->list.next_token && used < sizeof(text))
		used += (size_t)snprintf(text + used, sizeof(text) - used, " and more");
	if (used < sizeof(text))
		used += (size_t)snprintf(text + used, sizeof(text) - used, " on%s",
					 d->options->mode == MODE_STDIO ? " standard input" : "");
	for (unsigned i = 0; i < d->listeners.n && used < sizeof(text); i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, " %s",
					 d->listeners.all[i].name);
	log_info("%u volumes, %u attached, %u of these served", c->n_volumes, c->n_attached,
		 c->n_served);
	log_info("ready:%s", text);
	sd_notifyf(0, "READY=1\nSTATUS=Serving %u of %u attached volumes", c->n_served,
		   c->n_attached);
	if (d->options->hints)
		hints_print(&d->listeners, d->dir.api,
			    d->list.n_items ? d->list.result.volumes : NULL);
}

/* ---- Starting ---------------------------------------------------------------------- */

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
			}
			start_go_on(d, START_WAIT_REGION);
			if (d->start_state == START_WAIT_REGION && open_region(d))
				return;
			continue;
		case START_WAIT_REGION:
			region_say(&d->region);
			start_go_on(d, START_SERVICE);
			continue;
		case START_SERVICE:
			make_service(d);
			start_go_on(d, START_CONTROL);
			continue;
		case START_CONTROL:
			start_enter(d, START_WAIT_CONTROL);
			start_control(d);
			return;
		case START_WAIT_CONTROL:
			d->err = d->control_start.err;
			start_go_on(d, START_LIST);
			continue;
		case START_LIST:
			start_enter(d, START_WAIT_LIST);
			list_attached(d);
			return;
		case START_WAIT_LIST:
			if (d->list.error.code)
				err_set(&d->err, d->list.error.err, "%s", d->list.error.text);
			start_go_on(d, START_SERVE);
			continue;
		case START_SERVE:
			if (serve(d) == 0)
				say_ready(d);
			start_enter(d, START_DONE);
			continue;
		case START_DONE:
			control_op_release(&d->list);
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

static void start_on_region(struct region *region)
{
	start_step(container_of(region, struct daemon, region));
}

static void start_on_control(struct control_start *start)
{
	start_step(container_of(start, struct daemon, control_start));
}

static void start_on_list(struct control_op *op)
{
	start_step(container_of(op, struct daemon, list));
}

/* What is made before the loop runs. */
static int daemon_start(struct daemon *d)
{
	const struct options *o = d->options;
	int r;

	raise_descriptor_limit();
	umask(077); /* what we make is nobody else's */
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

/* ---- Stopping ---------------------------------------------------------------------- */

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

static void stop_control(struct daemon *d)
{
	d->control_stop.done = stop_on_control;
	control_stop(d->control, &d->control_stop);
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
			stop_watch_start(&d->stop_watch, main_loop(d), d->control);
			api_quiesce(d->api);
			stop_enter(d, d->server ? STOP_WAIT_SERVER : STOP_CONTROL);
			if (!d->server)
				continue;
			stop_server(d);
			return;
		case STOP_WAIT_SERVER:
			stop_enter(d, STOP_CONTROL);
			continue;
		case STOP_CONTROL:
			stop_enter(d, d->control ? STOP_WAIT_CONTROL : STOP_API);
			if (!d->control)
				continue;
			stop_control(d);
			return;
		case STOP_WAIT_CONTROL:
			if (!d->err.code)
				d->err = d->control_stop.err;
			stop_enter(d, STOP_API);
			continue;
		case STOP_API:
			if (!d->api || !api_is_busy(d->api)) {
				api_free(d->api);
				stop_enter(d, STOP_STORE);
				continue;
			}
			stop_enter(d, STOP_WAIT_API);
			d->api_poll.done = stop_on_api_poll;
			io_timer(main_loop(d), &d->api_poll, API_POLL_NS);
			return;
		case STOP_WAIT_API:
			stop_enter(d, STOP_API);
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

static void stop_on_control(struct control_stop *stop)
{
	stop_step(container_of(stop, struct daemon, control_stop));
}

static void stop_on_api_poll(struct io_op *op)
{
	stop_step(container_of(op, struct daemon, api_poll));
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
	pipes_close(&d->pipes);
	control_free(d->control);
	if (d->catalog_runs) {
		io_loop_stop(d->catalog_loop);
		io_loop_join(d->catalog_loop);
	}
	catalog_worker_free(d->catalog_worker);
	catalog_close(d->catalog);
	io_loop_free(d->catalog_loop);
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_stop(d->homes[i].loop);
	for (unsigned i = 1; i <= d->n_threads; i++)
		io_loop_join(d->homes[i].loop);
	region_close(&d->region);
	nbd_server_free(d->server);
	for (unsigned i = 0; i < d->n_homes; i++)
		engine_free(d->homes[i].engine);
	for (unsigned i = 0; i < d->n_homes; i++)
		io_loop_free(d->homes[i].loop);
	listeners_close(&d->api_listeners);
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
