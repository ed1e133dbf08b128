/* SPDX-License-Identifier: Apache-2.0
 *
 * The control plane, one thing at a time: what each operation does, what it refuses, what the next
 * life finds.
 */
#include "base/util.h"
#include "tests/sim/control_world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct cw world;

static int setup(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	cw_init(&world, sim_new(11, &options));
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
	return 0;
}

/* With a repository. */
static int setup_region(void **state)
{
	struct sim_options options = {.alignment = 4096};

	(void)state;
	cw_init(&world, sim_new(11, &options));
	world.objects = blobs_sim_new(world.sim);
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
	return 0;
}

static int teardown_region(void **state)
{
	(void)state;
	assert_int_equal(cw_end(&world), 0);
	blobs_sim_free(world.objects);
	assert_int_equal(sim_mem_in_use(world.sim), 0);
	sim_free(world.sim);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(cw_end(&world), 0);
	assert_int_equal(sim_mem_in_use(world.sim), 0);
	sim_free(world.sim);
	return 0;
}

static void again(void)
{
	assert_int_equal(cw_end(&world), 0);
	if (cw_begin(&world) != 0)
		fail_msg("start: %s", world.err.text);
}

static void state_is(const char *id, const char *state)
{
	struct cw_list list;
	const struct control_volume *v;

	assert_int_equal(cw_list(&world, &list, false), 0);
	v = cw_find(&list, id);
	if (!state)
		assert_null(v);
	else if (!v)
		fail_msg("%s is gone", id);
	else
		assert_string_equal(v->state, state);
	control_op_release(&list.op);
}

static void fails_with(struct control_op op, const char *code)
{
	assert_true(cw_op(&world, &op) < 0);
	assert_string_equal(op.error.code, code);
	assert_true(strlen(op.error.text) > 0);
	control_op_release(&op);
}

static uint8_t pattern[8192];

static const uint8_t *filled(unsigned seed)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)hash_u64(seed * 100000 + i);
	return pattern;
}

static void write_by_name(const char *name, unsigned seed)
{
	struct export_op *client = NULL;

	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(cw_io(&world, &client->info, BLOCK_WRITE, 4096, sizeof(pattern),
			       (void *)(uintptr_t)filled(seed)),
			 0);
	cw_release(&world, client);
}

static void read_by_name(const char *name, unsigned seed)
{
	struct export_op *client = NULL;
	uint8_t got[sizeof(pattern)];

	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(cw_io(&world, &client->info, BLOCK_READ, 4096, sizeof(got), got), 0);
	assert_memory_equal(got, filled(seed), sizeof(got));
	cw_release(&world, client);
}

/* A volume lives: created, attached, written, detached, attached again, deleted; its space is back.
 */
static void volume_life(void **state)
{
	char id[CW_ID];
	char one[64];
	char two[64];

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	state_is(id, "available");
	assert_int_equal(cw_attach(&world, id, NULL, one), 0);
	state_is(id, "in-use");
	write_by_name(one, 1);
	assert_int_equal(cw_detach(&world, id, false), 0);
	state_is(id, "available");
	assert_int_equal(cw_resolve(&world, one, true, false, NULL), -ENOENT);
	assert_int_equal(cw_attach(&world, id, NULL, two), 0);
	assert_string_not_equal(one, two);
	assert_int_equal(cw_resolve(&world, one, true, false, NULL), -ENOENT);
	read_by_name(two, 1);
	assert_int_equal(cw_delete(&world, id), -EBUSY);
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_true(cw_segments(&world, id) > 0);
	assert_int_equal(cw_check(&world), 0);
	assert_int_equal(cw_delete(&world, id), 0);
	assert_int_equal(cw_settle(&world), 0);
	state_is(id, NULL);
	assert_int_equal(cw_segments(&world, id), 0);
	assert_int_equal(cw_objects(&world), 0);
	assert_int_equal(cw_check(&world), 0);
}

/* What is attached is served again after a restart, under the same name, with its data. */
static void restart_serves_again(void **state)
{
	char id[CW_ID];
	char other[CW_ID];
	char name[64];

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, other), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	write_by_name(name, 2);
	again();
	assert_int_equal(world.started.n_volumes, 2);
	assert_int_equal(world.started.n_attached, 1);
	assert_int_equal(world.started.n_served, 1);
	read_by_name(name, 2);
	read_by_name(id, 2);
	read_by_name("", 2);
	state_is(other, "available");
	assert_int_equal(cw_check(&world), 0);
}

/* The volume's id and "" are names on a unix socket alone, and for this machine's own instance. */
static void names_of_an_attachment(void **state)
{
	char id[CW_ID];
	char guest[CW_ID];
	char name[64];

	(void)state;
	assert_int_equal(cw_register(&world, guest), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_resolve(&world, id, true, false, NULL), -ENOENT);
	assert_int_equal(cw_resolve(&world, "", true, false, NULL), -ENOENT);
	assert_int_equal(cw_attach(&world, id, guest, name), 0);
	assert_int_equal(cw_resolve(&world, name, false, false, NULL), 0);
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), 0);
	assert_int_equal(cw_resolve(&world, id, true, false, NULL), -ENOENT);
	assert_int_equal(cw_resolve(&world, "", true, false, NULL), -ENOENT);
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, id, true, false, NULL), 0);
	assert_int_equal(cw_resolve(&world, "", true, false, NULL), 0);
	assert_int_equal(cw_resolve(&world, id, false, false, NULL), -ENOENT);
	assert_int_equal(cw_resolve(&world, "", false, false, NULL), 0);
	name[3] = name[3] == '0' ? '1' : '0';
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), -ENOENT);
	name[3] = '\0';
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), -ENOENT);
}

/* With two attachments "" names neither. */
static void default_name_is_of_the_only_one(void **state)
{
	char id[2][CW_ID];

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(cw_create(&world, 64 * MiB, NULL, id[i]), 0);
		assert_int_equal(cw_attach(&world, id[i], NULL, NULL), 0);
	}
	assert_int_equal(cw_resolve(&world, "", true, false, NULL), -ENOENT);
	assert_int_equal(cw_detach(&world, id[0], false), 0);
	assert_int_equal(cw_resolve(&world, "", true, false, NULL), 0);
}

/* E7: after a forced detach nothing of the old client lands, though it still holds its device; the
 * volume can be attached elsewhere at once. */
static void force_detach_fences(void **state)
{
	struct export_op *old = NULL;
	uint8_t got[sizeof(pattern)];
	char id[CW_ID];
	char guest[CW_ID];
	char one[64];
	char two[64];

	(void)state;
	assert_int_equal(cw_register(&world, guest), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_attach(&world, id, NULL, one), 0);
	assert_int_equal(cw_resolve(&world, one, true, true, &old), 0);
	assert_int_equal(cw_io(&world, &old->info, BLOCK_WRITE, 4096, sizeof(pattern),
			       (void *)(uintptr_t)filled(3)),
			 0);
	assert_int_equal(cw_detach(&world, id, true), 0);
	state_is(id, "available");
	assert_int_equal(cw_attach(&world, id, guest, two), 0);
	assert_int_equal(cw_io(&world, &old->info, BLOCK_WRITE, 4096, sizeof(pattern),
			       (void *)(uintptr_t)filled(4)),
			 -ESHUTDOWN);
	assert_int_equal(cw_io(&world, &old->info, BLOCK_READ, 4096, sizeof(got), got), -ESHUTDOWN);
	assert_int_equal(cw_resolve(&world, one, true, true, NULL), -ENOENT);
	read_by_name(two, 3);
	cw_release(&world, old);
	read_by_name(two, 3);
}

/* A detach lets a client go that holds on for a while, no longer; a forced one hurries it up. */
static void detach_waits_for_clients(void **state)
{
	struct export_op *client = NULL;
	char id[CW_ID];
	char name[64];
	uint64_t began;

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	began = sim_time(world.sim);
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_true(sim_time(world.sim) - began >= 10 * NSEC_PER_SEC);
	assert_true(sim_time(world.sim) - began < 20 * NSEC_PER_SEC);
	cw_release(&world, client);

	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	began = sim_time(world.sim);
	assert_int_equal(cw_detach(&world, id, true), 0);
	assert_true(sim_time(world.sim) - began < NSEC_PER_SEC);
	cw_release(&world, client);
}

/* A volume grows while it is attached and while it is not; it never shrinks. The next life knows.
 */
static void resize_grows(void **state)
{
	struct export_op *client = NULL;
	struct control_op op = {.kind = CONTROL_VOLUME_RESIZE};
	char id[CW_ID];
	char name[64];

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_resize(&world, id, 96 * MiB), 0);
	assert_int_equal(cw_check(&world), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_true(client->info.size == 96 * MiB);
	assert_int_equal(cw_io(&world, &client->info, BLOCK_WRITE, 96 * MiB, 4096, pattern),
			 -ENOSPC);
	assert_int_equal(cw_resize(&world, id, 128 * MiB), 0);
	assert_int_equal(cw_io(&world, &client->info, BLOCK_WRITE, 96 * MiB, 4096, pattern), 0);
	cw_release(&world, client);
	op.resize.volume = id;
	op.resize.size = 127 * MiB;
	fails_with(op, "InvalidParameterValue");
	again();
	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_true(client->info.size == 128 * MiB);
	cw_release(&world, client);
	assert_int_equal(cw_check(&world), 0);
}

/* A client token makes a volume once, whatever the number of tries; other arguments are refused. */
static void create_is_idempotent(void **state)
{
	char one[CW_ID];
	char two[CW_ID];
	struct control_op op = {
	    .kind = CONTROL_VOLUME_CREATE,
	    .create = {.size = 65 * MiB, .client_token = "a token", .name = "disk"},
	};

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, "a token", one), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, "a token", two), 0);
	assert_string_equal(one, two);
	again();
	assert_int_equal(cw_create(&world, 64 * MiB, "a token", two), 0);
	assert_string_equal(one, two);
	assert_int_equal(cw_objects(&world), 1);
	fails_with(op, "IdempotentParameterMismatch");
	assert_int_equal(cw_delete(&world, one), 0);
	assert_int_equal(cw_settle(&world), 0);
	op.create.size = 64 * MiB;
	fails_with(op, "IdempotentParameterMismatch");
	op.create.client_token = "another";
	assert_int_equal(cw_op(&world, &op), 0);
	control_op_release(&op);
}

/* Each refusal has the code that EC2's clients look for. */
static void refusals(void **state)
{
	char id[CW_ID];
	char guest[CW_ID];
	const char *unknown = "vol-01234567890abcdef";
	struct control_op op = {.kind = CONTROL_VOLUME_SHOW, .show = {.volume = unknown}};

	(void)state;
	fails_with(op, "InvalidVolume.NotFound");
	op.show.volume = "vol-xyz";
	fails_with(op, "InvalidVolumeID.Malformed");
	op.show.volume = NULL;
	fails_with(op, "MissingParameter");
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	op = (struct control_op){.kind = CONTROL_DETACH, .detach = {.volume = id}};
	fails_with(op, "IncorrectState");
	op.detach.volume = unknown;
	fails_with(op, "InvalidVolume.NotFound");
	op = (struct control_op){
	    .kind = CONTROL_ATTACH,
	    .attach = {.volume = id, .instance = "i-01234567890abcdef"},
	};
	fails_with(op, "InvalidInstanceID.NotFound");
	op.attach.instance = "i-short";
	fails_with(op, "InvalidInstanceID.Malformed");
	op.attach.instance = NULL;
	op.attach.device = "/dev/hda";
	fails_with(op, "InvalidParameterValue");
	op.attach.device = "/dev/sdh";
	assert_int_equal(cw_op(&world, &op), 0);
	assert_string_equal(op.result.attachment->device, "/dev/sdh");
	control_op_release(&op);
	fails_with(op, "VolumeInUse");
	op = (struct control_op){.kind = CONTROL_VOLUME_DELETE, .delete = {.volume = id}};
	fails_with(op, "VolumeInUse");
	assert_int_equal(cw_register(&world, guest), 0);
	op = (struct control_op){
	    .kind = CONTROL_DETACH,
	    .detach = {.volume = id, .instance = guest},
	};
	fails_with(op, "InvalidAttachment.NotFound");
	op.detach.instance = NULL;
	op.detach.device = "/dev/sdf";
	fails_with(op, "InvalidAttachment.NotFound");
	op = (struct control_op){.kind = CONTROL_VOLUME_CREATE, .create = {.size = 1}};
	fails_with(op, "InvalidParameterValue");
	op.create.size = 65 * TiB;
	fails_with(op, "InvalidParameterValue");
	op.create.size = 0;
	fails_with(op, "MissingParameter");
	op.create.size = MiB;
	op.create.client_token =
	    "0123456789012345678901234567890123456789012345678901234567890123456789";
	fails_with(op, "InvalidParameterValue");
}

/* Instances come and go; one with a volume stays, and so does this machine's own. */
static void instances(void **state)
{
	char guest[CW_ID];
	char id[CW_ID];
	struct cw_list list;
	struct control_op op = {.kind = CONTROL_INSTANCE_DEREGISTER};

	(void)state;
	assert_int_equal(cw_register(&world, guest), 0);
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_attach(&world, id, guest, NULL), 0);
	op.deregister.instance = guest;
	fails_with(op, "DependencyViolation");
	assert_int_equal(cw_list(&world, &list, true), 0);
	assert_int_equal(list.n, 2);
	for (unsigned i = 0; i < 2; i++) {
		if (list.instances[i].own) {
			op.deregister.instance = list.instances[i].id;
			fails_with(op, "OperationNotPermitted");
		} else {
			assert_string_equal(list.instances[i].id, guest);
			assert_int_equal(list.instances[i].n_attachments, 1);
			assert_string_equal(list.instances[i].attachments->volume, id);
		}
	}
	control_op_release(&list.op);
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_int_equal(cw_deregister(&world, guest), 0);
	op.deregister.instance = guest;
	fails_with(op, "InvalidInstanceID.NotFound");
}

/* A lost catalog costs names and attachments, no volume: all of them are found again. */
static void lost_catalog_adopts(void **state)
{
	char id[3][CW_ID];
	char name[64];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(cw_create(&world, (uint64_t)(i + 1) * 32 * MiB, NULL, id[i]), 0);
	assert_int_equal(cw_attach(&world, id[1], NULL, name), 0);
	write_by_name(name, 5);
	assert_int_equal(cw_end(&world), 0);
	sim_file_remove(world.sim, "catalog");
	if (sim_file_exists(world.sim, "catalog-wal"))
		sim_file_remove(world.sim, "catalog-wal");
	assert_int_equal(cw_begin(&world), 0);
	assert_int_equal(world.started.n_volumes, 3);
	for (int i = 0; i < 3; i++)
		state_is(id[i], "available");
	assert_int_equal(cw_check(&world), 0);
	assert_int_equal(cw_resolve(&world, name, true, false, NULL), -ENOENT);
	assert_int_equal(cw_attach(&world, id[1], NULL, name), 0);
	read_by_name(name, 5);
}

/* The first start makes a volume and attaches it, once. */
static void first_volume(void **state)
{
	struct cw_list list;
	char id[CW_ID];

	(void)state;
	world.config.first_volume_size = 64 * MiB;
	again();
	assert_int_equal(cw_list(&world, &list, false), 0);
	assert_int_equal(list.n, 1);
	assert_string_equal(list.volumes->state, "in-use");
	snprintf(id, sizeof(id), "%s", list.volumes->id);
	control_op_release(&list.op);
	again();
	assert_int_equal(world.started.n_served, 1);
	assert_int_equal(cw_detach(&world, id, false), 0);
	assert_int_equal(cw_delete(&world, id), 0);
	again();
	assert_int_equal(cw_objects(&world), 0);
	assert_int_equal(world.started.n_volumes, 0);
}

/* Part 4: what would exceed the overcommit is refused; deleting makes room again. */
static void overcommit_is_a_limit(void **state)
{
	char id[CW_ID];
	struct control_op op = {.kind = CONTROL_VOLUME_CREATE};
	uint64_t capacity = world.store->info.capacity;

	(void)state;
	world.config.overcommit_limit = 2.0;
	again();
	assert_int_equal(cw_create(&world, round_down(capacity, 4096), NULL, id), 0);
	op.create.size = round_down(capacity, 4096) + 4096;
	fails_with(op, "InsufficientVolumeCapacity");
	op = (struct control_op){
	    .kind = CONTROL_VOLUME_RESIZE,
	    .resize = {.volume = id, .size = 2 * round_down(capacity, 4096) + 8192},
	};
	fails_with(op, "InsufficientVolumeCapacity");
	assert_int_equal(cw_resize(&world, id, round_down(capacity, 4096) + 4096), 0);
	assert_int_equal(cw_delete(&world, id), 0);
	assert_int_equal(cw_create(&world, 2 * round_down(capacity, 4096), NULL, id), 0);
}

/* Status counts and warns. */
static void status_tells(void **state)
{
	char id[CW_ID];
	struct control_op op = {.kind = CONTROL_STATUS};

	(void)state;
	assert_int_equal(cw_create(&world, 64 * MiB, NULL, id), 0);
	assert_int_equal(cw_create(&world, 32 * MiB, NULL, NULL), 0);
	assert_int_equal(cw_attach(&world, id, NULL, NULL), 0);
	assert_int_equal(cw_op(&world, &op), 0);
	assert_true(op.result.status->healthy);
	assert_int_equal(op.result.status->volumes_in_use, 1);
	assert_int_equal(op.result.status->volumes_available, 1);
	assert_int_equal(op.result.status->volumes_open, 1);
	assert_int_equal(op.result.status->attachments, 1);
	assert_true(op.result.status->provisioned == 96 * MiB);
	control_op_release(&op);
	world.config.overcommit_limit = 97.0 * MiB / (double)world.store->info.capacity;
	again();
	op = (struct control_op){.kind = CONTROL_STATUS};
	assert_int_equal(cw_op(&world, &op), 0);
	assert_false(op.result.status->healthy);
	assert_int_equal(op.result.status->n_warnings, 1);
	assert_non_null(strstr(op.result.status->warnings[0], "overcommit"));
	control_op_release(&op);
}

/* Lists come in pages and by filters; a page's token leads to the next. */
static void lists_in_pages(void **state)
{
	static const char *const in_use[] = {"in-u*"};
	static const char *const disks[] = {"d?sk"};
	const struct control_filter by_state = {"status", in_use, 1};
	const struct control_filter by_tag = {"tag:Name", disks, 1};
	struct control_op op = {.kind = CONTROL_VOLUME_LIST, .list = {.max_results = 2}};
	char id[5][CW_ID];
	char last[CW_ID] = "";
	char token[CW_ID];
	unsigned n = 0;

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(cw_create(&world, 16 * MiB, NULL, id[i]), 0);
	for (;;) {
		assert_int_equal(cw_op(&world, &op), 0);
		for (unsigned i = 0; i < op.n_items; i++, n++) {
			assert_true(strcmp(op.result.volumes[i].id, last) > 0);
			snprintf(last, sizeof(last), "%s", op.result.volumes[i].id);
		}
		if (!op.next_token)
			break;
		snprintf(token, sizeof(token), "%s", op.next_token);
		control_op_release(&op);
		op.list.next_token = token;
	}
	control_op_release(&op);
	assert_int_equal(n, 5);
	assert_int_equal(cw_attach(&world, id[3], NULL, NULL), 0);
	op = (struct control_op){
	    .kind = CONTROL_VOLUME_LIST,
	    .list = {.filters = &by_state, .n_filters = 1},
	};
	assert_int_equal(cw_op(&world, &op), 0);
	assert_int_equal(op.n_items, 1);
	assert_string_equal(op.result.volumes->id, id[3]);
	control_op_release(&op);
	op.list.filters = &by_tag;
	assert_int_equal(cw_op(&world, &op), 0);
	assert_int_equal(op.n_items, 5);
	control_op_release(&op);
	op.list.next_token = "not a token";
	fails_with(op, "InvalidParameterValue");
	op = (struct control_op){.kind = CONTROL_EVENT_LIST, .list = {.max_results = 3}};
	assert_int_equal(cw_op(&world, &op), 0);
	assert_int_equal(op.n_items, 3);
	assert_string_equal(op.result.events[0].what, "attachVolume");
	assert_true(op.result.events[0].sequence > op.result.events[1].sequence);
	control_op_release(&op);
}

static bool timer_over;

static void on_timer(struct io_op *op)
{
	(void)op;
	timer_over = true;
}

/* The files may not grow any more; what is given back may be used. */
static void fill_disk(void)
{
	static const char *const files[] = {"store", "catalog", "catalog-wal", "catalog-ballast"};
	uint64_t sum = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		if (sim_file_exists(world.sim, files[i]))
			sum += sim_file_size(world.sim, files[i]);
	sim_options(world.sim)->capacity = sum;
}

static void time_passes(uint64_t ns)
{
	struct io_op timer = {0};

	timer.done = on_timer;
	timer_over = false;
	io_timer(world.homes[0].loop, &timer, ns);
	assert_int_equal(sim_run_until(world.sim, sim_flag_is_set, &timer_over, 1000000), SIM_DONE);
}

/* On a full disk nothing can be created, but what makes room or ends something goes through, by the
 * catalog's ballast, which comes back once there is room. Without ballast it does not. */
static void full_disk_blocks_no_end(void **state)
{
	const struct control_op create = {.kind = CONTROL_VOLUME_CREATE, .create = {.size = MiB}};
	char id[2][CW_ID];
	char name[64];

	(void)state;
	for (unsigned round = 0; round < 2; round++) {
		world.ballast_size = round == 0 ? 0 : MiB;
		again();
		for (int i = 0; i < 2; i++)
			assert_int_equal(cw_create(&world, 16 * MiB, NULL, id[i]), 0);
		assert_int_equal(cw_attach(&world, id[0], NULL, name), 0);
		again();
		write_by_name(name, 6);
		fill_disk();
		fails_with(create, "InsufficientVolumeCapacity");
		assert_int_equal(cw_delete(&world, id[1]), round == 0 ? -ENOSPC : 0);
		fill_disk(); /* somebody was quicker to take what was given back */
		assert_int_equal(cw_detach(&world, id[0], false), round == 0 ? -ENOSPC : 0);
		sim_options(world.sim)->capacity = 0;
	}
	fill_disk();
	time_passes(11 * NSEC_PER_SEC);
	state_is(id[0], "available"); /* there is no room for the ballast yet */
	assert_in_range(sim_file_size(world.sim, "catalog-ballast"), 1, MiB - 1);
	sim_options(world.sim)->capacity = 0;
	time_passes(11 * NSEC_PER_SEC);
	state_is(id[1], NULL);
	state_is(id[0], "available");
	assert_int_equal(sim_file_size(world.sim, "catalog-ballast"), MiB);
	assert_int_equal(cw_check(&world), 0);
}

static struct control_op of_blocks(enum control_kind kind, const char *snapshot, const char *first)
{
	return (struct control_op){.kind = kind, .blocks = {.snapshot = snapshot, .first = first}};
}

static struct control_op of_block(const char *snapshot, uint64_t index)
{
	return (struct control_op){.kind = CONTROL_SNAPSHOT_BLOCK,
				   .block = {.snapshot = snapshot, .index = index}};
}

/* Writes into block 2 and takes a snapshot, which is completed on return. */
static void write_and_snapshot(const char *volume, const char *name, unsigned seed,
			       char ret_id[CW_ID])
{
	struct export_op *client = NULL;

	assert_int_equal(cw_resolve(&world, name, true, true, &client), 0);
	assert_int_equal(cw_io(&world, &client->info, BLOCK_WRITE, MiB + 4096, sizeof(pattern),
			       (void *)(uintptr_t)filled(seed)),
			 0);
	cw_release(&world, client);
	assert_int_equal(cw_snapshot(&world, volume, ret_id), 0);
	assert_int_equal(cw_settle(&world), 0);
}

/* Blocks that hold something are listed with what they hold, and read so; those that do not are
 * told apart, though there is one behind them. Two snapshots differ where they do. */
static void snapshot_blocks(void **state)
{
	char id[CW_ID], one[CW_ID], two[CW_ID], name[64], sum[64];
	struct control_op op;
	const uint8_t *data;

	(void)state;
	assert_int_equal(cw_create(&world, 8 * MiB, NULL, id), 0);
	assert_int_equal(cw_attach(&world, id, NULL, name), 0);
	write_and_snapshot(id, name, 1, one);
	write_and_snapshot(id, name, 2, two);

	op = of_blocks(CONTROL_SNAPSHOT_BLOCKS, one, NULL);
	assert_int_equal(cw_op(&world, &op), 0);
	assert_int_equal(op.n_items, 1);
	assert_int_equal(op.result.blocks->size, 8 * MiB);
	assert_int_equal(op.result.blocks->blocks[0].index, 2);
	snprintf(sum, sizeof(sum), "%s", op.result.blocks->blocks[0].second);
	control_op_release(&op);

	op = of_block(one, 2);
	assert_int_equal(cw_op(&world, &op), 0);
	assert_string_equal(op.result.blocks->blocks[0].second, sum);
	data = op.result.blocks->data;
	assert_memory_equal(data + 4096, filled(1), sizeof(pattern));
	assert_int_equal(data[4095], 0);
	control_op_release(&op);

	op = of_blocks(CONTROL_SNAPSHOT_CHANGED, two, one);
	assert_int_equal(cw_op(&world, &op), 0);
	assert_int_equal(op.n_items, 1);
	assert_string_equal(op.result.blocks->blocks[0].first, sum);
	assert_string_not_equal(op.result.blocks->blocks[0].second, sum);
	control_op_release(&op);

	fails_with(of_block(one, 1), "InvalidBlock.NotFound");
	fails_with(of_block(one, 3), "InvalidBlock.NotFound");
	fails_with(of_block(one, 16), "InvalidParameterValue");
	assert_int_equal(cw_snapshot_delete(&world, one), 0);
	fails_with(of_block(one, 2), "InvalidSnapshot.NotFound");
	assert_int_equal(cw_check(&world), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(snapshot_blocks, setup_region, teardown_region),
	    TEST(volume_life),
	    TEST(restart_serves_again),
	    TEST(names_of_an_attachment),
	    TEST(default_name_is_of_the_only_one),
	    TEST(force_detach_fences),
	    TEST(detach_waits_for_clients),
	    TEST(resize_grows),
	    TEST(create_is_idempotent),
	    TEST(refusals),
	    TEST(instances),
	    TEST(lost_catalog_adopts),
	    TEST(first_volume),
	    TEST(overcommit_is_a_limit),
	    TEST(status_tells),
	    TEST(lists_in_pages),
	    TEST(full_disk_blocks_no_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
