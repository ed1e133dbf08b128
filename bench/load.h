/* SPDX-License-Identifier: Apache-2.0
 *
 * A run of load: optionally fills the disk, warms up, measures, and, where contents are verified,
 * reads everything back. One thread.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "base/err.h"
#include "bench/hist.h"
#include "bench/remote.h"

#include <sys/types.h>

#define LOAD_CONNECTIONS_MAX 256
#define LOAD_DEPTH_MAX       4096
#define LOAD_BLOCK_MAX       (32 * MiB)

enum load_pattern {
	LOAD_NONE, /* for a fill alone */
	LOAD_RANDREAD,
	LOAD_RANDWRITE,
	LOAD_READ,
	LOAD_WRITE,
	LOAD_MIXED, /* random, `read_percent` of them reads */
};

struct load_config {
	const char *address; /* see remote_open() */
	const char *export_name;
	unsigned connections;
	unsigned depth; /* for each connection */
	enum load_pattern pattern;
	unsigned read_percent;
	uint32_t block_size;
	unsigned skew; /* so many of 100 random I/Os go to 100 - skew of 100 blocks; 0: none */
	uint64_t working_set; /* bytes from the disk's start; 0: all of it */
	bool fill;            /* write the working set in sequence and flush, before the run */
	uint32_t fill_block;
	bool fua;
	unsigned flush_every; /* a flush after so many writes, of all connections; 0: none */
	bool verify;
	bool keep_going; /* count errors instead of stopping at the first */
	uint64_t warmup_ns;
	uint64_t runtime_ns; /* 0: until max_ios */
	uint64_t max_ios;    /* 0: until runtime_ns */
	uint64_t seed;
	unsigned timeout_s; /* of a handshake, and of a server that answers nothing */
	pid_t server_pid;   /* 0: not known */
};

struct load_result {
	struct remote remote;
	struct hist read;
	struct hist write;
	struct hist flush;
	uint64_t bytes;
	uint64_t elapsed_ns;
	uint64_t longest_silence_ns; /* between two answers, while requests were in flight */
	uint64_t client_cpu_ns;
	uint64_t server_cpu_ns; /* 0 without server_pid */
	uint64_t machine_cpu_ns;
	uint64_t fill_bytes;
	uint64_t fill_ns;
	uint64_t compared;   /* blocks of known contents that were read */
	uint64_t errors;     /* error replies */
	uint64_t mismatches; /* blocks that held something else */
	char first_error[ERR_TEXT_MAX];
};

/* 0, or -errno and *err. Errors that `keep_going` counted are in the result. */
int load_run(const struct load_config *config, struct load_result *ret_result, struct err *err);

#endif
