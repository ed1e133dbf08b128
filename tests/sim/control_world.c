/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/control_world.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/util.h"
#include "snapshots/repository.h"
#include "tests/sim/vfs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STEPS_MAX 20000000

void cw_init(struct cw *w, struct sim *sim)
{
	memset(w, 0, sizeof(*w));
	w->sim = sim;
	w->store_max_size = 2 * GiB;
	sim_vfs_register();
}

static struct io_loop *main_loop(struct cw *w)
{
	return w->homes[0].loop;
}

/* Steps until *flag. 0 or -ESHUTDOWN. */
static int wait_for(struct cw *w, bool *flag)
{
	enum sim_end end = sim_run_until(w->sim, sim_flag_is_set, flag, STEPS_MAX);

	if (end == SIM_DONE)
		return 0;
	if (end != SIM_DEAD)
		sim_fail(w->sim, "the world stands still (%s)",
			 end == SIM_IDLE ? "idle" : "too many steps");
	return -ESHUTDOWN;
}

int cw_settle(struct cw *w)
{
	/* Timers of the engine may go on for ever; a while of steps is enough for what is behind.
	 */
	enum sim_end end = sim_run_until(w->sim, NULL, NULL, 200000);

	return end == SIM_DEAD ? -ESHUTDOWN : 0;
}

/* ---- A life ------------------------------------------------------------------------ */

struct store_opening {
	struct store_open open;
	bool done;
};

static void on_store_open(struct store_open *open)
{
	container_of(open, struct store_opening, open)->done = true;
}

static int open_store(struct cw *w)
{
	struct store_opening *o = mem_alloc(sizeof(*o));
	int r;

	CHECK(o);
	o->open.loop = main_loop(w);
	o->open.config = (struct store_local_config){
	    .path = "store",
	    .create = true,
	    .max_size = w->store_max_size,
	    .segment_size = 4 * MiB,
	};
	o->open.done = on_store_open;
	store_local_open(&o->open);
	r = wait_for(w, &o->done);
	if (r < 0)
		return r;
	w->err = o->open.err;
	w->store = o->open.store;
	mem_free(o);
	return w->err.code;
}

static int make_loops(struct cw *w)
{
	static const char *const names[CW_HOMES] = {"main", "other"};
	struct io_loop_config config = {.name = "catalog", .cpu = -1};
	int r = io_loop_new(&config, &w->catalog_loop, &w->err);

	for (unsigned i = 0; i < CW_HOMES && r == 0; i++) {
		config.name = names[i];
		r = io_loop_new(&config, &w->homes[i].loop, &w->err);
	}
	return r;
}

static int make_engines(struct cw *w)
{
	/* Small, and quick to rest: no checkpoint for idleness comes between two steps of a test.
	 */
	const struct engine_config config = {
	    .n_ops = 64,
	    .n_buffers = 8,
	    .map_memory = 2 * MiB,
	    .checkpoint_idle_ns = 3600 * NSEC_PER_SEC,
	    .stuck_after_ns = w->stuck_after_ns,
	};
	int r = 0;

	for (unsigned i = 0; i < CW_HOMES && r == 0; i++)
		r = engine_new(w->homes[i].loop, w->store, &config, &w->homes[i].engine, &w->err);
	return r;
}

static int open_catalog(struct cw *w)
{
	const struct catalog_config config = {
	    .path = "catalog",
	    .vfs = SIM_VFS,
	    .ballast_size = w->ballast_size,
	};
	int r = catalog_open(&config, &w->catalog, &w->err);

	if (r < 0)
		return sim_is_dead(w->sim) ? -ESHUTDOWN : r;
	w->worker = catalog_worker_new(w->catalog, w->catalog_loop);
	CHECK(w->worker);
	return 0;
}

struct repository_opening {
	struct repository_op op;
	bool done;
};

static void on_repository(struct repository_op *op)
{
	container_of(op, struct repository_opening, op)->done = true;
}

static int open_repository(struct cw *w)
{
	struct repository_opening *o;
	int r;

	w->repository = NULL;
	if (!w->objects)
		return 0;
	o = mem_alloc(sizeof(*o));
	CHECK(o);
	o->op.done = on_repository;
	repository_open(blobs_sim_open(w->objects), main_loop(w), true, &o->op);
	r = wait_for(w, &o->done);
	if (r < 0)
		return r;
	w->err = o->op.err;
	w->repository = o->op.repository;
	mem_free(o);
	return w->err.code;
}

struct starting_call {
	struct control_start start;
	bool done;
};

static void on_started(struct control_start *start)
{
	container_of(start, struct starting_call, start)->done = true;
}

static int start_control(struct cw *w)
{
	struct starting_call *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(call);
	w->config.loop = main_loop(w);
	w->config.store = w->store;
	w->config.catalog = w->worker;
	w->config.homes = w->homes;
	w->config.n_homes = CW_HOMES;
	w->config.repository = w->repository;
	w->config.host = "here";
	w->config.nbd_socket = "/run/nbd.sock";
	r = control_new(&w->config, &w->control, &w->err);
	if (r < 0)
		return r;
	call->start.done = on_started;
	control_start(w->control, &call->start);
	r = wait_for(w, &call->done);
	if (r < 0)
		return r;
	w->started = call->start;
	w->err = call->start.err;
	mem_free(call);
	return w->err.code;
}

int cw_begin(struct cw *w)
{
	int r;

	w->catalog = NULL;
	w->control = NULL;
	w->err = (struct err){0};
	r = make_loops(w);
	if (r == 0)
		r = open_store(w);
	if (r == 0)
		r = make_engines(w);
	if (r == 0)
		r = open_catalog(w);
	if (r == 0)
		r = open_repository(w);
	if (r == 0)
		r = start_control(w);
	return r;
}

struct stopping_call {
	struct control_stop stop;
	struct store_ctl ctl;
	bool done;
};

static void on_stopped(struct control_stop *stop)
{
	container_of(stop, struct stopping_call, stop)->done = true;
}

static void on_store_closed(struct store_ctl *ctl)
{
	container_of(ctl, struct stopping_call, ctl)->done = true;
}

static void free_parts(struct cw *w)
{
	catalog_worker_free(w->worker);
	catalog_close(w->catalog);
	w->catalog = NULL;
	for (unsigned i = 0; i < CW_HOMES; i++)
		io_loop_free(w->homes[i].loop);
	io_loop_free(w->catalog_loop);
}

int cw_end(struct cw *w)
{
	struct stopping_call *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(call);
	call->stop.done = on_stopped;
	control_stop(w->control, &call->stop);
	r = wait_for(w, &call->done);
	if (r < 0)
		return r;
	r = call->stop.err.code;
	control_free(w->control);
	repository_close(w->repository);
	call->done = false;
	call->ctl.loop = main_loop(w);
	call->ctl.done = on_store_closed;
	w->store->ops->close(w->store, &call->ctl);
	if (wait_for(w, &call->done) < 0)
		return -ESHUTDOWN;
	for (unsigned i = 0; i < CW_HOMES; i++)
		engine_free(w->homes[i].engine);
	if (r == 0)
		r = call->ctl.error;
	mem_free(call);
	free_parts(w);
	return r;
}

void cw_reboot(struct cw *w)
{
	/* SQLite's memory is not the life's. Nothing that closing it writes reaches the disk. */
	if (!sim_is_dead(w->sim))
		sim_cut(w->sim);
	catalog_close(w->catalog);
	w->catalog = NULL;
	sim_reboot(w->sim);
	if (w->objects)
		blobs_sim_settle(w->objects);
}

/* ---- Operations -------------------------------------------------------------------- */

struct op_call {
	struct control_op op;
	bool done;
};

static void on_op(struct control_op *op)
{
	container_of(op, struct op_call, op)->done = true;
}

int cw_op(struct cw *w, struct control_op *op)
{
	struct op_call *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(call);
	call->op = *op;
	call->op.done = on_op;
	control_submit(w->control, &call->op);
	r = wait_for(w, &call->done);
	if (r < 0)
		return r; /* the life's memory is gone soon */
	*op = call->op;
	mem_free(call);
	err_set(&w->err, op->error.code ? op->error.err : 0, "%s",
		op->error.code ? op->error.text : "");
	return op->error.code ? op->error.err : 0;
}

static int op_and_release(struct cw *w, struct control_op *op)
{
	int r = cw_op(w, op);

	if (r != -ESHUTDOWN)
		control_op_release(op);
	return r;
}

int cw_create(struct cw *w, uint64_t size, const char *token, char ret_id[CW_ID])
{
	struct control_op op = {
	    .kind = CONTROL_VOLUME_CREATE,
	    .create = {.size = size, .client_token = token, .name = "disk"},
	};
	int r = cw_op(w, &op);

	if (r == 0 && ret_id)
		snprintf(ret_id, CW_ID, "%s", op.result.volumes->id);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_delete(struct cw *w, const char *volume)
{
	struct control_op op = {.kind = CONTROL_VOLUME_DELETE, .delete = {.volume = volume}};

	return op_and_release(w, &op);
}

int cw_resize(struct cw *w, const char *volume, uint64_t size)
{
	struct control_op op = {
	    .kind = CONTROL_VOLUME_RESIZE,
	    .resize = {.volume = volume, .size = size},
	};

	return op_and_release(w, &op);
}

int cw_attach(struct cw *w, const char *volume, const char *instance, char ret_export[64])
{
	struct control_op op = {
	    .kind = CONTROL_ATTACH,
	    .attach = {.volume = volume, .instance = instance},
	};
	int r = cw_op(w, &op);

	if (r == 0 && ret_export)
		snprintf(ret_export, 64, "%s", op.result.attachment->export_name);
	if (r == 0)
		snprintf(w->own, sizeof(w->own), "%s", op.result.attachment->instance);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_detach(struct cw *w, const char *volume, bool force)
{
	struct control_op op = {
	    .kind = CONTROL_DETACH,
	    .detach = {.volume = volume, .force = force},
	};

	return op_and_release(w, &op);
}

int cw_register(struct cw *w, char ret_id[CW_ID])
{
	struct control_op op = {
	    .kind = CONTROL_INSTANCE_REGISTER,
	    .instance_register = {.name = "guest"},
	};
	int r = cw_op(w, &op);

	if (r == 0 && ret_id)
		snprintf(ret_id, CW_ID, "%s", op.result.instances->id);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_deregister(struct cw *w, const char *instance)
{
	struct control_op op = {
	    .kind = CONTROL_INSTANCE_DEREGISTER,
	    .deregister = {.instance = instance},
	};

	return op_and_release(w, &op);
}

int cw_snapshot(struct cw *w, const char *volume, char ret_id[CW_ID])
{
	struct control_op op = {
	    .kind = CONTROL_SNAPSHOT_CREATE,
	    .snapshot_create = {.volume = volume, .description = "of a test"},
	};
	int r = cw_op(w, &op);

	if (r == 0 && ret_id)
		snprintf(ret_id, CW_ID, "%s", op.result.snapshots->id);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_snapshot_group(struct cw *w, char ret_ids[2][CW_ID])
{
	struct control_op op = {
	    .kind = CONTROL_SNAPSHOT_GROUP,
	    .snapshot_create = {.instance = w->own, .description = "of a test"},
	};
	int r = cw_op(w, &op);

	for (unsigned i = 0; r == 0 && i < 2; i++)
		snprintf(ret_ids[i], CW_ID, "%s", op.result.snapshots[i].id);
	if (r == 0)
		sim_assert(w->sim, op.n_items == 2);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_restore(struct cw *w, const char *snapshot, bool full, char ret_id[CW_ID])
{
	struct control_op op = {
	    .kind = CONTROL_VOLUME_CREATE,
	    .create = {.snapshot = snapshot, .full = full},
	};
	int r = cw_op(w, &op);

	if (r == 0)
		snprintf(ret_id, CW_ID, "%s", op.result.volumes->id);
	if (r != -ESHUTDOWN)
		control_op_release(&op);
	return r;
}

int cw_snapshot_delete(struct cw *w, const char *snapshot)
{
	struct control_op op = {
	    .kind = CONTROL_SNAPSHOT_DELETE,
	    .snapshot_delete = {.snapshot = snapshot},
	};

	return op_and_release(w, &op);
}

int cw_check(struct cw *w)
{
	struct control_op op = {.kind = CONTROL_CHECK, .check = {.deep = true}};
	int r = cw_op(w, &op);

	if (r == -ESHUTDOWN)
		return r;
	if (r < 0)
		sim_fail(w->sim, "check: %s", op.error.text);
	for (unsigned i = 0; r == 0 && i < op.result.checked->n_findings; i++)
		sim_trace(w->sim, "check: %s", op.result.checked->findings[i]);
	if (r == 0 && op.result.checked->n_wrong)
		sim_fail(w->sim, "check: %llu wrong: %s",
			 (unsigned long long)op.result.checked->n_wrong,
			 op.result.checked->findings[0]);
	control_op_release(&op);
	return r;
}

int cw_list(struct cw *w, struct cw_list *list, bool instances)
{
	int r;

	*list = (struct cw_list){
	    .op = {.kind = instances ? CONTROL_INSTANCE_LIST : CONTROL_VOLUME_LIST}};
	r = cw_op(w, &list->op);
	if (r < 0)
		return r;
	list->n = list->op.n_items;
	if (instances)
		list->instances = list->op.result.instances;
	else
		list->volumes = list->op.result.volumes;
	return 0;
}

const struct control_volume *cw_find(const struct cw_list *list, const char *id)
{
	for (unsigned i = 0; i < list->n; i++)
		if (strcmp(list->volumes[i].id, id) == 0)
			return &list->volumes[i];
	return NULL;
}

/* ---- Clients ----------------------------------------------------------------------- */

struct resolving {
	struct export_op op; /* first: cw_release frees it */
	bool done;
};

static void on_resolved(struct export_op *op)
{
	container_of(op, struct resolving, op)->done = true;
}

int cw_resolve(struct cw *w, const char *name, bool local, bool claim, struct export_op **ret_op)
{
	struct exports *exports = control_exports(w->control);
	struct resolving *call = mem_alloc(sizeof(*call));
	int r;

	CHECK(call);
	call->op.loop = main_loop(w);
	call->op.done = on_resolved;
	call->op.local = local;
	call->op.claim = claim;
	snprintf(call->op.name, sizeof(call->op.name), "%s", name);
	exports->resolve(exports, &call->op);
	r = wait_for(w, &call->done);
	if (r < 0)
		return r;
	r = call->op.error;
	if (r == 0 && ret_op)
		*ret_op = &call->op;
	else
		mem_free(call);
	return r;
}

struct home_call {
	struct io_msg msg;
	struct cw *world;
	struct export_op *op;
	struct block_dev *dev;
	struct block_req req;
	bool done;
};

static void release_on_home(struct io_msg *msg)
{
	struct home_call *call = container_of(msg, struct home_call, msg);
	struct exports *exports = control_exports(call->world->control);

	exports->release(exports, call->op->claim_handle);
	call->done = true;
}

void cw_release(struct cw *w, struct export_op *op)
{
	struct home_call *call = mem_alloc(sizeof(*call));

	CHECK(call);
	call->world = w;
	call->op = op;
	call->msg.run = release_on_home;
	io_post(op->info.loop, &call->msg);
	if (wait_for(w, &call->done) < 0)
		return;
	mem_free(op);
	mem_free(call);
}

static void on_io(struct block_req *req)
{
	container_of(req, struct home_call, req)->done = true;
}

static void io_on_home(struct io_msg *msg)
{
	struct home_call *call = container_of(msg, struct home_call, msg);
	int r = block_check(call->dev, &call->req);

	if (r < 0) {
		call->req.error = r;
		call->done = true;
		return;
	}
	block_submit(call->dev, &call->req);
}

int cw_io(struct cw *w, const struct export_info *info, enum block_op what, uint64_t offset,
	  uint64_t length, void *buf)
{
	struct home_call *call = mem_alloc(sizeof(*call));
	size_t room = round_up(length, BLOCK_SIZE) + BLOCK_SIZE;
	uint8_t *pages = mem_alloc_pages(room);
	int r;

	CHECK(call && pages);
	call->dev = info->dev;
	call->msg.run = io_on_home;
	call->req = (struct block_req){
	    .op = what,
	    .flags = what == BLOCK_WRITE ? BLOCK_FUA : 0,
	    .offset = offset,
	    .length = length,
	    .buf = what == BLOCK_READ || what == BLOCK_WRITE ? pages + offset % BLOCK_SIZE : NULL,
	    .done = on_io,
	};
	if (what == BLOCK_WRITE)
		memcpy(call->req.buf, buf, length);
	io_post(info->loop, &call->msg);
	r = wait_for(w, &call->done);
	if (r < 0)
		return r;
	r = call->req.error;
	if (what == BLOCK_READ && r == 0)
		memcpy(buf, call->req.buf, length);
	mem_free_pages(pages, room);
	mem_free(call);
	return r;
}

/* ---- The store --------------------------------------------------------------------- */

struct store_call {
	struct store_ctl ctl;
	bool done;
};

static void on_ctl(struct store_ctl *ctl)
{
	container_of(ctl, struct store_call, ctl)->done = true;
}

static unsigned count_all(struct cw *w, struct id volume,
			  void (*list)(struct store *store, struct store_ctl *ctl))
{
	struct store_call *call = mem_alloc(sizeof(*call));
	unsigned n = 0;

	CHECK(call);
	call->ctl.loop = main_loop(w);
	call->ctl.done = on_ctl;
	call->ctl.volume = volume;
	do {
		call->done = false;
		list(w->store, &call->ctl);
		if (wait_for(w, &call->done) < 0)
			return n;
		n += call->ctl.n;
	} while (call->ctl.n > 0);
	mem_free(call);
	return n;
}

unsigned cw_segments(struct cw *w, const char *volume)
{
	struct id id = {0};

	CHECK(id_parse(volume, "vol", &id) == 0);
	return count_all(w, id, w->store->ops->list);
}

unsigned cw_objects(struct cw *w)
{
	return count_all(w, (struct id){0}, w->store->ops->object_list);
}
