/* SPDX-License-Identifier: Apache-2.0
 *
 * Printing results. Latencies are in microseconds, MB is 10^6 bytes.
 */
#include "bench/report.h"

#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const pattern_names[] = {
    [LOAD_NONE] = "none", [LOAD_RANDREAD] = "randread", [LOAD_RANDWRITE] = "randwrite",
    [LOAD_READ] = "read", [LOAD_WRITE] = "write",       [LOAD_MIXED] = "mixed",
};

const char *pattern_name(enum load_pattern pattern)
{
	return pattern_names[pattern];
}

int pattern_parse(const char *text, enum load_pattern *ret_pattern)
{
	for (unsigned i = 0; i < ARRAY_SIZE(pattern_names); i++)
		if (strcmp(text, pattern_names[i]) == 0) {
			*ret_pattern = (enum load_pattern)i;
			return 0;
		}
	return -EINVAL;
}

static double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

static double us(uint64_t ns)
{
	return (double)ns / 1000;
}

static uint64_t ios(const struct load_result *r)
{
	return r->read.count + r->write.count;
}

static double iops(const struct load_result *r)
{
	return ratio(ios(r), r->elapsed_ns) * 1e9;
}

static double cpu_us_per_io(const struct load_result *r, uint64_t cpu_ns)
{
	return us(cpu_ns) * (ios(r) ? 1.0 / (double)ios(r) : 0);
}

static void text_latency(const char *name, const struct hist *h)
{
	if (h->count == 0)
		return;
	printf("  %-5s %10" PRIu64 "   mean %.1f  p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f us\n",
	       name, h->count, us((uint64_t)ratio(h->sum, h->count)), us(hist_quantile(h, 0.5)),
	       us(hist_quantile(h, 0.99)), us(hist_quantile(h, 0.999)), us(h->max));
}

static void text_fill(const struct load_result *r)
{
	char size[SIZE_TEXT_MAX];

	printf("fill: %s in %.2f s, %.0f MB/s, flushed\n", size_format(r->fill_bytes, size),
	       (double)r->fill_ns / 1e9, ratio(r->fill_bytes, r->fill_ns) * 1e3);
}

static void text_run(const struct load_config *config, const struct load_result *r)
{
	char size[SIZE_TEXT_MAX];

	printf("%s %s, %u x QD%u: %.0f IOPS, %.1f MB/s, %.2f s\n", pattern_name(config->pattern),
	       size_format(config->block_size, size), config->connections, config->depth, iops(r),
	       ratio(r->bytes, r->elapsed_ns) * 1e3, (double)r->elapsed_ns / 1e9);
	text_latency("read", &r->read);
	text_latency("write", &r->write);
	text_latency("flush", &r->flush);
	printf("  CPU us per I/O: client %.2f", cpu_us_per_io(r, r->client_cpu_ns));
	if (config->server_pid)
		printf(", server %.2f", cpu_us_per_io(r, r->server_cpu_ns));
	printf(", whole machine %.2f; longest silence %.1f ms\n",
	       cpu_us_per_io(r, r->machine_cpu_ns), us(r->longest_silence_ns) / 1000);
}

void report_text(const struct load_config *config, const struct load_result *r)
{
	if (config->fill)
		text_fill(r);
	if (config->pattern != LOAD_NONE)
		text_run(config, r);
	if (config->verify)
		printf("verify: %" PRIu64 " blocks compared, %" PRIu64 " wrong\n", r->compared,
		       r->mismatches);
	if (r->errors || r->mismatches)
		printf("%" PRIu64 " error replies, %" PRIu64 " wrong blocks; the first: %s\n",
		       r->errors, r->mismatches, r->first_error);
}

static json_t *json_latency(const struct hist *h)
{
	return json_pack("{sI sf sf sf sf sf sf sf}", "count", (json_int_t)h->count, "mean",
			 ratio(h->sum, h->count) / 1000, "min", us(h->min), "p50",
			 us(hist_quantile(h, 0.5)), "p90", us(hist_quantile(h, 0.9)), "p99",
			 us(hist_quantile(h, 0.99)), "p999", us(hist_quantile(h, 0.999)), "max",
			 us(h->max));
}

static json_t *json_config(const struct load_config *config, const struct load_result *r)
{
	return json_pack("{ss ss sI ss sI si si si sb si sb sI}", "address", config->address,
			 "export", config->export_name, "export_size", (json_int_t)r->remote.size,
			 "pattern", pattern_name(config->pattern), "block_size",
			 (json_int_t)config->block_size, "connections", (int)config->connections,
			 "depth", (int)config->depth, "read_percent", (int)config->read_percent,
			 "fua", (int)config->fua, "flush_every", (int)config->flush_every, "verify",
			 (int)config->verify, "seed", (json_int_t)config->seed);
}

static json_t *json_run(const struct load_config *config, const struct load_result *r)
{
	struct hist all = r->read;

	hist_merge(&all, &r->write);
	return json_pack(
	    "{sf sI sf sf so so so so sf sf so sf}", "seconds", (double)r->elapsed_ns / 1e9, "ios",
	    (json_int_t)ios(r), "iops", iops(r), "mb_per_s", ratio(r->bytes, r->elapsed_ns) * 1e3,
	    "latency_us", json_latency(&all), "read_us", json_latency(&r->read), "write_us",
	    json_latency(&r->write), "flush_us", json_latency(&r->flush), "longest_silence_us",
	    us(r->longest_silence_ns), "client_cpu_us_per_io", cpu_us_per_io(r, r->client_cpu_ns),
	    "server_cpu_us_per_io",
	    config->server_pid ? json_real(cpu_us_per_io(r, r->server_cpu_ns)) : json_null(),
	    "machine_cpu_us_per_io", cpu_us_per_io(r, r->machine_cpu_ns));
}

int report_json(const struct load_config *config, const struct load_result *r)
{
	json_t *root = json_config(config, r);
	json_t *part = NULL;
	int rc = root ? 0 : -ENOMEM;

	if (rc == 0 && config->pattern != LOAD_NONE) {
		part = json_run(config, r);
		rc = part && json_object_update(root, part) == 0 ? 0 : -ENOMEM;
		json_decref(part);
	}
	if (rc == 0) {
		part = json_pack("{sI sI sI sf sI ss}", "compared", (json_int_t)r->compared,
				 "mismatches", (json_int_t)r->mismatches, "errors",
				 (json_int_t)r->errors, "fill_seconds", (double)r->fill_ns / 1e9,
				 "fill_bytes", (json_int_t)r->fill_bytes, "first_error",
				 r->first_error);
		rc = part && json_object_update(root, part) == 0 ? 0 : -ENOMEM;
		json_decref(part);
	}
	if (rc == 0)
		rc = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 ? 0
											    : -EIO;
	if (rc == 0)
		puts("");
	json_decref(root);
	return rc;
}
