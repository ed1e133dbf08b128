/* SPDX-License-Identifier: Apache-2.0
 *
 * CPU time from getrusage(2) and /proc.
 */
#include "bench/cpu.h"

#include "base/mem.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct process {
	pid_t pid;
	pid_t parent;
	uint64_t ticks; /* own, and of children that were waited for */
	bool counted;
};

static bool stat_read(const char *pid_text, struct process *ret_process);
static uint64_t sum_tree(struct process *all, size_t n, pid_t root);

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

uint64_t cpu_self_ns(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * NSEC_PER_SEC +
	       (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000;
}

int cpu_process_ns(pid_t pid, uint64_t *ret_ns)
{
	struct process *all = NULL;
	size_t n = 0, room = 0;
	struct dirent *entry;
	bool found = false;
	DIR *dir = opendir("/proc");

	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (n == room) {
			struct process *more = mem_realloc(all, (room + 256) * sizeof(*all));

			if (!more)
				break;
			all = more;
			room += 256;
		}
		if (stat_read(entry->d_name, &all[n])) {
			found = found || all[n].pid == pid;
			n++;
		}
	}
	closedir(dir);
	if (found)
		*ret_ns = ticks_to_ns(sum_tree(all, n, pid));
	mem_free(all);
	return found ? 0 : -ESRCH;
}

/* False for what is not a process, or no longer one. */
static bool stat_read(const char *pid_text, struct process *ret_process)
{
	uint64_t own_user, own_system, waited_user, waited_system;
	char path[64], line[1024];
	char *end, *rest;
	long pid = strtol(pid_text, &end, 10);
	size_t len;
	int parent;
	FILE *f;

	if (pid <= 0 || *end)
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	len = fread(line, 1, sizeof(line) - 1, f);
	fclose(f);
	line[len] = 0;
	/* The name in parentheses may itself hold spaces and parentheses. */
	rest = strrchr(line, ')');
	if (!rest || sscanf(rest + 1,
			    " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
			    " %" SCNu64 " %" SCNu64,
			    &parent, &own_user, &own_system, &waited_user, &waited_system) != 5)
		return false;
	*ret_process = (struct process){
	    .pid = (pid_t)pid,
	    .parent = parent,
	    .ticks = own_user + own_system + waited_user + waited_system,
	};
	return true;
}

static uint64_t sum_tree(struct process *all, size_t n, pid_t root)
{
	uint64_t ticks = 0;
	bool more = true;

	for (size_t i = 0; i < n; i++)
		if (all[i].pid == root) {
			all[i].counted = true;
			ticks = all[i].ticks;
		}
	/* Each pass adds the children of what was added before. */
	while (more) {
		more = false;
		for (size_t i = 0; i < n; i++)
			for (size_t p = 0; p < n && !all[i].counted; p++)
				if (all[p].counted && all[p].pid == all[i].parent) {
					all[i].counted = true;
					ticks += all[i].ticks;
					more = true;
				}
	}
	return ticks;
}

int cpu_machine_ns(uint64_t *ret_ns)
{
	uint64_t user, nice, system, irq, softirq;
	FILE *f = fopen("/proc/stat", "re");
	int n;

	if (!f)
		return -errno;
	n = fscanf(f, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64 " %" SCNu64, &user,
		   &nice, &system, &irq, &softirq);
	fclose(f);
	if (n != 5)
		return -EIO;
	*ret_ns = ticks_to_ns(user + nice + system + irq + softirq);
	return 0;
}
