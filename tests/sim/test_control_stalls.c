/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that does not answer, seen from the control plane: what people are told, what a detach, a
 * deletion and a stop do meanwhile, and that nothing of a detached client lands where somebody else
 * could see it (E7).
 */
#include "base/mem.h"
#include "base/util.h"
#include "tests/sim/control_world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define AFTER  (30 * NSEC_PER_SEC)
#define BLOCKS 8192

static struct cw world;
static char volume[CW_ID]; /* attached */
static char name[64];
static char other[CW_ID];
static struct export_op *client;
static uint8_t *old;
static uint8_t *new;
static uint8_t *got;

/* ---- The disk, time, requests -------------------------------------------------------- */

static enum sim_fate hang(void *arg, struct sim_disk_op *op)
{
	unsigned kinds = *(const unsigned *)arg;

	return strcmp(op->path, "store") == 0 && (op->kind & kinds) ? SIM_STALL : SIM_PROCEED;
}

static void hang_all(unsigned of)
{
	static unsigned kinds;

	kinds = of;
	sim_disk_hook(world.sim, hang, &kinds);
}

static void answer(void)
{
	sim_disk_hook(world.sim, NULL, NULL);
	sim_release_stalled(world.sim);
}

struct pause {
	struct io_op timer;
	bool over;
};

static void on_pause(struct io_op *op)
{
	container_of(op, struct pause, timer)->over = true;
}

static void pass(uint64_t ns)
{
	static struct pause p;

	memset(&p, 0, sizeof(p));
	p.timer.done = on_pause;
	io_timer(world.homes[0].loop, &p.timer, ns);
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &p.over, 10000000), SIM_DONE);
}

static void finish(bool *done)
{
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, done, 10000000), SIM_DONE);
}

/* A request that may hang. */
struct request {
	struct io_msg msg;
	struct block_req req;
	struct block_dev *dev;
	bool done;
};

static void on_request(struct block_req *req)
{
	container_of(req, struct request, req)->done = true;
}

static void request_on_home(struct io_msg *msg)
{
	struct request *r = container_of(msg, struct request, msg);

	block_submit(r->dev, &r->req);
}

static void begin(struct request *r, enum block_op op, uint8_t *buf)
{
	memset(r, 0, sizeof(*r));
	r->req = (struct block_req){.op = op, .length = BLOCKS, .buf = buf, .done = on_request};
	r->dev = client->info.dev;
	r->msg.run = request_on_home;
	io_post(client->info.loop, &r->msg);
}

/* An operation that may hang. */
struct call {
	struct control_op op;
	bool done;
};

static void on_call(struct control_op *op)
{
	container_of(op, struct call, op)->done = true;
}

static void submit(struct call *c, struct control_op op)
{
	memset(c, 0, sizeof(*c));
	c->op = op;
	c->op.done = on_call;
	control_submit(world.control, &c->op);
}

static struct control_op detach_op(void)
{
	return (struct control_op){.kind = CONTROL_DETACH,
				   .detach = {.volume = volume, .force = true}};
}

static int io(enum block_op op, uint8_t *buf)
{
	return cw_io(&world, &client->info, op, 0, buf ? BLOCKS : 0, buf);
}

static void buffers_new(void)
{
	old = mem_alloc_pages(BLOCKS);
	new = mem_alloc_pages(BLOCKS);
	got = mem_alloc_pages(BLOCKS);
	memset(old, 1, BLOCKS);
	memset(new, 2, BLOCKS);
}

static void buffers_free(void)
{
	mem_free_pages(old, BLOCKS);
	mem_free_pages(new, BLOCKS);
	mem_free_pages(got, BLOCKS);
}

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	cw_init(&world, sim_new(17, &options));
	world.stuck_after_ns = AFTER;
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
	buffers_new();
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, volume), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, other), 0);
	assert_int_equal(cw_attach(&world, volume, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(io(BLOCK_WRITE, old), 0);
	assert_int_equal(io(BLOCK_FLUSH, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	buffers_free();
	assert_int_equal(cw_end(&world), 0);
	assert_int_equal(sim_mem_in_use(world.sim), 0);
	sim_free(world.sim);
	return 0;
}

/* ---- What is told -------------------------------------------------------------------- */

static void shows(const char *id, const char *io_performance)
{
	struct cw_list list;
	const struct control_volume *v;

	assert_int_equal(cw_list(&world, &list, false), 0);
	v = cw_find(&list, id);
	assert_non_null(v);
	assert_string_equal(v->io_performance, io_performance);
	assert_int_equal(v->stalled_text != NULL, strcmp(io_performance, "stalled") == 0);
	if (v->stalled_text) {
		assert_non_null(strstr(v->stalled_text, "I/O to the store has not completed for"));
		assert_non_null(strstr(v->stalled_text, v->stalled_io));
		assert_true(v->stalled_ns >= AFTER);
	}
	control_op_release(&list.op);
}

static void health_is(const char *health, const char *io_performance)
{
	struct control_op op = {.kind = CONTROL_VOLUME_SHOW, .show = {.volume = volume}};

	assert_int_equal(cw_op(&world, &op), 0);
	assert_string_equal(op.result.volumes->health, health);
	assert_string_equal(op.result.volumes->io_performance, io_performance);
	control_op_release(&op);
}

/* Whether the daemon's status warns of the volume's I/O. */
static bool is_warned_of(void)
{
	struct control_op op = {.kind = CONTROL_STATUS};
	bool found = false;

	assert_int_equal(cw_op(&world, &op), 0);
	for (unsigned i = 0; i < op.result.status->n_warnings; i++)
		found |= strstr(op.result.status->warnings[i], volume) &&
			 strstr(op.result.status->warnings[i], "has not completed for");
	assert_int_equal(op.result.status->healthy, op.result.status->n_warnings == 0);
	control_op_release(&op);
	return found;
}

/* As long as it lasts, list, show and status say so, of that volume. */
static void people_are_told(void **state)
{
	struct request write;

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER / 2);
	shows(volume, "normal");
	health_is("ok", "normal");
	assert_false(is_warned_of());
	pass(AFTER);
	shows(volume, "stalled");
	shows(other, "not-applicable");
	health_is("impaired", "stalled");
	assert_true(is_warned_of());
	assert_int_equal(io(BLOCK_READ, got), 0); /* reads go on, and see what was there */
	assert_memory_equal(got, old, BLOCKS);
	assert_false(write.done);
	answer();
	finish(&write.done);
	assert_int_equal(write.req.error, 0);
	pass(NSEC_PER_SEC);
	shows(volume, "normal");
	health_is("ok", "normal");
	assert_false(is_warned_of());
	cw_release(&world, client);
}

/* A volume that is being opened, too: the attachment says what it waits for. */
static void opening_is_told_of(void **state)
{
	struct cw_list list;
	const struct control_volume *v;
	struct call attach;

	(void)state;
	cw_release(&world, client);
	hang_all(SIM_READ);
	submit(&attach, (struct control_op){.kind = CONTROL_ATTACH, .attach = {.volume = other}});
	pass(AFTER + NSEC_PER_SEC);
	shows(other, "stalled");
	shows(volume, "normal");
	assert_int_equal(cw_list(&world, &list, false), 0);
	v = cw_find(&list, other);
	assert_int_equal(v->n_attachments, 1);
	assert_string_equal(v->attachments->state, "attaching");
	assert_non_null(strstr(v->attachments->error_text, "has not completed for"));
	control_op_release(&list.op);
	assert_false(attach.done);
	answer();
	finish(&attach.done);
	assert_null(attach.op.error.code);
	control_op_release(&attach.op);
	shows(other, "normal");
}

/* ---- Detach, delete, stop ------------------------------------------------------------ */

static void is_still_detaching(struct call *c)
{
	assert_true(c->done);
	assert_null(c->op.error.code);
	assert_string_equal(c->op.result.attachment->state, "detaching");
	assert_non_null(strstr(c->op.result.attachment->error_text, "has not completed for"));
	control_op_release(&c->op);
}

static void is_refused(struct control_op op)
{
	uint64_t began = sim_time(world.sim);

	assert_int_equal(cw_op(&world, &op), -EBUSY);
	assert_string_equal(op.error.code, "IncorrectState");
	assert_non_null(strstr(op.error.text, "has not completed for"));
	control_op_release(&op);
	assert_true(sim_time(world.sim) - began < NSEC_PER_SEC);
}

static void others_are_refused(void)
{
	is_refused((struct control_op){.kind = CONTROL_ATTACH, .attach = {.volume = volume}});
	is_refused(
	    (struct control_op){.kind = CONTROL_VOLUME_DELETE, .delete = {.volume = volume}});
	is_refused((struct control_op){.kind = CONTROL_VOLUME_RESIZE,
				       .resize = {.volume = volume, .size = 128 * MiB}});
}

static void attached_anew_it_reads(const uint8_t *expected)
{
	struct export_op *now = NULL;

	assert_int_equal(cw_attach(&world, volume, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &now), 0);
	assert_int_equal(cw_io(&world, &now->info, BLOCK_READ, 0, BLOCKS, got), 0);
	assert_memory_equal(got, expected, BLOCKS);
	cw_release(&world, now);
}

static const char *state_of(void)
{
	static char state[32];
	struct cw_list list;

	assert_int_equal(cw_list(&world, &list, false), 0);
	snprintf(state, sizeof(state), "%s", cw_find(&list, volume)->state);
	control_op_release(&list.op);
	return state;
}

/* E7: while a write of the old client is with a disk that does not answer, nobody can have the
 * volume: a forced detach says so within the time after which I/O is called stalled, and is over
 * when the disk answers. What the old client sends from the detach on is refused. */
static void forced_detach_says_why(void **state)
{
	struct request write;
	struct call detach;
	struct call again;

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(NSEC_PER_SEC);
	submit(&detach, detach_op());
	pass(AFTER / 2);
	assert_false(detach.done); /* it may yet be over in a moment */
	pass(AFTER / 2 + NSEC_PER_SEC);
	is_still_detaching(&detach);
	assert_int_equal(io(BLOCK_WRITE, old), -ESHUTDOWN);
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), -ENOENT);
	submit(&again, detach_op());
	pass(NSEC_PER_SEC);
	is_still_detaching(&again);
	others_are_refused();
	assert_string_equal(state_of(), "in-use");
	pass(10 * AFTER);
	assert_string_equal(state_of(), "in-use");
	assert_false(write.done);
	answer();
	assert_int_equal(cw_settle(&world), 0);
	assert_true(write.done);
	assert_string_equal(state_of(), "available");
	cw_release(&world, client);
	attached_anew_it_reads(write.req.error ? old : new);
	assert_int_equal(cw_check(&world), 0);
}

/* The same of a stall that was there before, at once; and of a detach that lets clients go. */
static void detach_of_what_is_stalled(void **state)
{
	struct request write;
	struct call detach;
	struct control_op gently = detach_op();

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER + NSEC_PER_SEC);
	gently.detach.force = false;
	submit(&detach, gently);
	pass(5 * NSEC_PER_SEC);
	assert_false(detach.done); /* the client has its time */
	pass(6 * NSEC_PER_SEC);
	is_still_detaching(&detach);
	submit(&detach, detach_op());
	pass(NSEC_PER_SEC);
	is_still_detaching(&detach);
	answer();
	assert_int_equal(cw_settle(&world), 0);
	assert_string_equal(state_of(), "available");
	cw_release(&world, client);
	attached_anew_it_reads(new);
}

/* What waits in line behind an operation that the disk keeps is refused once that is known; the
 * one that is kept goes on. */
static void those_in_line_are_refused(void **state)
{
	struct call resize;
	struct call detach;

	(void)state;
	hang_all(SIM_WRITE);
	submit(&resize, (struct control_op){.kind = CONTROL_VOLUME_RESIZE,
					    .resize = {.volume = volume, .size = 128 * MiB}});
	pass(NSEC_PER_SEC);
	submit(&detach, detach_op());
	pass(AFTER / 2);
	assert_false(detach.done);
	pass(AFTER / 2 + NSEC_PER_SEC);
	assert_true(detach.done);
	assert_string_equal(detach.op.error.code, "IncorrectState");
	control_op_release(&detach.op);
	assert_false(resize.done);
	answer();
	finish(&resize.done);
	assert_null(resize.op.error.code);
	control_op_release(&resize.op);
	pass(NSEC_PER_SEC);
	cw_release(&world, client);
	assert_int_equal(cw_detach(&world, volume, true), 0);
	attached_anew_it_reads(old);
}

/* An attached volume is not deleted, stalled or not; what goes on elsewhere is not held up. */
static void delete_and_others(void **state)
{
	struct request write;
	struct control_op op = {.kind = CONTROL_VOLUME_DELETE, .delete = {.volume = volume}};

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER + NSEC_PER_SEC);
	assert_true(cw_op(&world, &op) < 0);
	assert_string_equal(op.error.code, "VolumeInUse");
	control_op_release(&op);
	sim_disk_hook(world.sim, NULL, NULL); /* what hangs goes on hanging */
	assert_int_equal(cw_delete(&world, other), 0);
	pass(NSEC_PER_SEC);
	assert_false(write.done);
	answer();
	finish(&write.done);
	cw_release(&world, client);
}

static void killed(void)
{
	sim_disk_hook(world.sim, NULL, NULL);
	sim_kill(world.sim);
	cw_reboot(&world);
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
	buffers_new();
}

struct stopping {
	struct control_stop stop;
	bool done;
};

static void on_stopped(struct control_stop *stop)
{
	container_of(stop, struct stopping, stop)->done = true;
}

/* A stop waits for the disk, too: nothing is in flight any more when the daemon says that it has
 * ended. Whoever kills it instead loses nothing that was acknowledged. */
static void stop_waits(void **state)
{
	static struct stopping s;
	struct request write;
	char text[CONTROL_STALL_TEXT];

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER + NSEC_PER_SEC);
	memset(&s, 0, sizeof(s));
	s.stop.done = on_stopped;
	control_stop(world.control, &s.stop);
	pass(10 * AFTER);
	assert_false(s.done);
	assert_false(write.done);
	assert_int_equal(control_stalled(world.control, text), 1);
	assert_non_null(strstr(text, volume));
	assert_non_null(strstr(text, "has not completed for"));
	killed();
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(io(BLOCK_READ, got), 0);
	assert_true(memcmp(got, old, BLOCKS) == 0 || memcmp(got, new, BLOCKS) == 0);
	/* And with a disk that answers at last. */
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER + NSEC_PER_SEC);
	memset(&s, 0, sizeof(s));
	s.stop.done = on_stopped;
	control_stop(world.control, &s.stop);
	pass(AFTER);
	assert_false(s.done);
	answer();
	finish(&s.done);
	assert_true(write.done);
	assert_int_equal(s.stop.err.code, 0);
	killed();
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(io(BLOCK_READ, got), 0);
	assert_memory_equal(got, new, BLOCKS);
	cw_release(&world, client);
}

/* A daemon that dies while a detach waits for the disk ends it at the next start. */
static void a_detach_outlives_the_daemon(void **state)
{
	struct request write;
	struct call detach;

	(void)state;
	hang_all(SIM_WRITE);
	begin(&write, BLOCK_WRITE, new);
	pass(AFTER + NSEC_PER_SEC);
	submit(&detach, detach_op());
	pass(NSEC_PER_SEC);
	is_still_detaching(&detach);
	killed();
	assert_int_equal(cw_settle(&world), 0);
	assert_string_equal(state_of(), "available");
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), -ENOENT);
	assert_int_equal(cw_attach(&world, volume, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(io(BLOCK_READ, got), 0);
	assert_true(memcmp(got, old, BLOCKS) == 0 || memcmp(got, new, BLOCKS) == 0);
	cw_release(&world, client);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(people_are_told),
	    TEST(opening_is_told_of),
	    TEST(forced_detach_says_why),
	    TEST(detach_of_what_is_stalled),
	    TEST(those_in_line_are_refused),
	    TEST(delete_and_others),
	    TEST(stop_waits),
	    TEST(a_detach_outlives_the_daemon),
	};

	/* One test alone: its name in SIM_TEST. */
	cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
