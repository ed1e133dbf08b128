/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/probe.h"

#include "base/mem.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

unsigned probes_done;

static void on_probe(struct io_op *op)
{
	struct probe *p = container_of(op, struct probe, op);

	assert_false(p->done);
	p->done = true;
	p->order = probes_done++;
}

void probe_init(struct probe *p)
{
	*p = (struct probe){.op = {.done = on_probe}};
}

struct io_loop *make_loop(const char *name)
{
	struct io_loop_config config = {.name = name, .cpu = -1};
	struct io_loop *loop = NULL;

	assert_int_equal(io_loop_new(&config, &loop, NULL), 0);
	return loop;
}

struct io_file *open_file(void)
{
	struct io_file *file = NULL;

	assert_int_equal(io_file_open(PATH, IO_OPEN_CREATE, &file, NULL), 0);
	return file;
}

int64_t wait_for(struct sim *sim, struct probe *p)
{
	assert_int_equal(sim_run_until(sim, sim_flag_is_set, &p->done, STEPS), SIM_DONE);
	return p->op.result;
}

int64_t do_write(struct sim *sim, struct io_loop *loop, struct io_file *file, const void *buf,
		 size_t len, uint64_t offset)
{
	struct probe p;

	probe_init(&p);
	io_write(loop, &p.op, file, buf, len, offset);
	return wait_for(sim, &p);
}

int64_t do_read(struct sim *sim, struct io_loop *loop, struct io_file *file, void *buf, size_t len,
		uint64_t offset)
{
	struct probe p;

	probe_init(&p);
	io_read(loop, &p.op, file, buf, len, offset);
	return wait_for(sim, &p);
}

int64_t do_sync(struct sim *sim, struct io_loop *loop, struct io_file *file)
{
	struct probe p;

	probe_init(&p);
	io_sync(loop, &p.op, file);
	return wait_for(sim, &p);
}

bool is_all(const uint8_t *buf, size_t len, uint8_t byte)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != byte)
			return false;
	return true;
}

uint8_t *filled(size_t len, uint8_t byte)
{
	uint8_t *buf = mem_alloc_pages(len);

	assert_non_null(buf);
	memset(buf, byte, len);
	return buf;
}
