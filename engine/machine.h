/* machine.h: what this process may use of its machine; asked once, for the plan at open. */
#ifndef NEXTD_MACHINE_H
#define NEXTD_MACHINE_H

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

int machine_n_threads(void);            /* physical cores, within affinity and the control groups' quota; >= 1 */
uint64_t machine_available_bytes(void); /* memory that can still be had, within the control groups; 0: unknown */

/* The same of a machine whose /proc and /sys lie under `root` ("" is this one), for a process that may run on `cpus` (cpus_bytes long). */
int machine_n_threads_of(const char *root, const cpu_set_t *cpus, size_t cpus_bytes);
uint64_t machine_available_bytes_of(const char *root);

#endif
