/* SPDX-License-Identifier: Apache-2.0 */
#include "volumed/bad_blocks.h"

#include "block/block.h"
#include "io/io.h"

#include <inttypes.h>

#define BURST 10 /* lines a second */

/* E4: what can't be read as it was written is named. A rotten disk must not fill the log, too. */
void bad_blocks_on_block(void *arg, struct id volume, uint64_t lba, const char *why)
{
	struct bad_blocks *bad = arg;
	char text[ID_TEXT_MAX];

	if (log_limit_pass(&bad->limit, io_now(bad->loop), BURST))
		log_error("%s: block %" PRIu64 " (bytes %" PRIu64 " to %" PRIu64
			  ") can't be read: %s; the rest of the volume is served. volumectl "
			  "scrub finds all that is bad, volumectl volume show lists it",
			  id_format(volume, "vol", text), lba, lba * BLOCK_SIZE,
			  lba * BLOCK_SIZE + BLOCK_SIZE - 1, why);
}

/* E8: counters that lie are named, and cost nothing but the space. */
void bad_blocks_on_segment(void *arg, struct id volume, uint64_t segment, uint64_t lba)
{
	struct bad_blocks *bad = arg;
	char text[ID_TEXT_MAX];

	if (log_limit_pass(&bad->limit, io_now(bad->loop), BURST))
		log_error("%s: segment %" PRIu64 " was counted as empty, but block %" PRIu64
			  " lives in it; it stays, nothing is lost. volumectl check "
			  "finds all counters that are wrong",
			  id_format(volume, "vol", text), segment, lba);
}

/* Whoever waits for it in a VM sees only that nothing goes on. */
void bad_blocks_on_stuck(void *arg, struct id volume, enum volume_io oldest, uint64_t age_ns,
			 bool over)
{
	const char *with = volume_io_with(oldest);
	const char *what = volume_io_name(oldest);
	uint64_t seconds = age_ns / NSEC_PER_SEC;
	char text[ID_TEXT_MAX];

	(void)arg;
	id_format(volume, "vol", text);
	if (over)
		log_warning("%s: I/O to %s completes again; it was stalled for %" PRIu64 " s", text,
			    with, seconds);
	else
		log_error("%s: I/O to %s has not completed for %" PRIu64
			  " s: %s; what waits for it waits on, nothing is lost: look at the disk "
			  "below (dmesg, its health, its network). volumectl status shows it "
			  "while it lasts",
			  text, with, seconds, what);
}
