/* SPDX-License-Identifier: Apache-2.0
 *
 * An SQLite VFS over the simulated machine's disk, so that one power cut hits the log and the
 * catalog together, and one seed decides both.
 */
#ifndef TESTS_SIM_VFS_H
#define TESTS_SIM_VFS_H

#define SIM_VFS "sim" /* its name, for catalog_config */

/* Makes it known to SQLite; again is no error. */
void sim_vfs_register(void);

#endif
