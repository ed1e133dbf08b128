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
