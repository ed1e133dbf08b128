/* SPDX-License-Identifier: Apache-2.0
 *
 * CPU time used so far, in nanoseconds: by ourselves, by a server with its threads and children,
 * by the whole machine. The last two come in ticks (10 ms): let runs take seconds.
 */
#ifndef BENCH_CPU_H
#define BENCH_CPU_H

#include <stdint.h>
#include <sys/types.h>

uint64_t cpu_self_ns(void);
/* All threads, io_uring's workers included, of `pid` and of its descendants. 0 or -errno. */
int cpu_process_ns(pid_t pid, uint64_t *ret_ns);
/* Everything but idle and waiting: also shows what the kernel's own threads do for a server. */
int cpu_machine_ns(uint64_t *ret_ns);

#endif
