#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Transmission: each command, each way to get it wrong, and the error that the spec names."""
import signal
import threading

from wire import *


class Requests:
    """With simple and with structured replies (the classes below)."""

    structured = False

    def setUp(self):
        self.nbd = self.into(structured=self.structured)

    def test_write_then_read(self):
        """What was written is read back, at any sector and length, and nothing around it."""
        data = pattern(3 * MiB, 1)
        self.assertEqual(self.nbd.write(0, data), 0)
        for offset, length in ((0, 512), (512, 4096), (4096 - 512, 1024), (MiB - 512, 69632),
                               (1536, 1 * MiB), (512, 2 * MiB + 512)):
            new = pattern(length, offset)
            self.assertEqual(self.nbd.write(offset, new), 0)
            data = data[:offset] + new + data[offset + length:]
            self.assertEqual(self.nbd.read(0, len(data)), data)

    def test_payload_largest(self):
        """32 MiB in one command, aligned to a page or not."""
        for offset in (0, 512):
            data = pattern(32 * MiB, offset)
            self.assertEqual(self.nbd.write(offset, data), 0)
            self.assertEqual(self.nbd.read(offset, len(data)), data)

    def test_payload_too_large_refused_and_eaten(self):
        """Up to 64 MiB the payload is read, refused, and the connection goes on."""
        for n in (32 * MiB + 512, 64 * MiB):
            self.assertEqual(self.nbd.write(0, bytes(n)), EINVAL)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_payload_absurd_drops(self):
        """Above 64 MiB the connection ends at once, without waiting for the payload."""
        for n in (64 * MiB + 512, 0xfffffe00):
            nbd = self.into(structured=self.structured)
            nbd.request(WRITE, 0, n)
            self.assertTrue(nbd.is_closed())

    def test_read_too_large_refused(self):
        """More than 32 MiB to read is refused before anything is read."""
        wanted = EOVERFLOW if self.structured else EINVAL
        for n in (32 * MiB + 512, 0xfffffe00):
            self.assertEqual(self.nbd.error(READ, 0, n), wanted)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_past_the_end(self):
        """EINVAL for READ, TRIM, CACHE; ENOSPC for WRITE and WRITE_ZEROES; also on overflow."""
        size = self.nbd.size
        top = (1 << 64) - 512
        for offset, length in ((size, 512), (size - 512, 1024), (size + MiB, 4096), (top, 512),
                               (top, 1024), (1 << 63, 512)):
            for kind in (READ, TRIM, CACHE):
                self.assertEqual(self.nbd.error(kind, offset, length), EINVAL, (kind, offset))
            self.assertEqual(self.nbd.write(offset, bytes(length)), ENOSPC)
            self.assertEqual(self.nbd.error(ZEROES, offset, length), ENOSPC)
        self.assertEqual(self.nbd.error(READ, size - 512, 512), 0)

    def test_unaligned_einval(self):
        """Offsets and lengths that are no multiples of 512; payload is eaten."""
        for offset, length in ((1, 512), (0, 511), (256, 256), (512, 513)):
            for kind in (READ, TRIM, CACHE, ZEROES):
                self.assertEqual(self.nbd.error(kind, offset, length), EINVAL)
            self.assertEqual(self.nbd.write(offset, bytes(length)), EINVAL)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_zero_length_einval(self):
        """A range of nothing is refused, and the connection goes on."""
        for kind in (READ, WRITE, TRIM, CACHE, ZEROES):
            self.assertEqual(self.nbd.error(kind, 0, 0), EINVAL)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_unknown_command_einval(self):
        """Unknown commands have no payload and get EINVAL."""
        for kind in (8, 9, 77, 0xffff):
            self.assertEqual(self.nbd.error(kind, 0, 512), EINVAL)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_unknown_flag_einval(self):
        """Unknown flags get EINVAL; a WRITE's payload is consumed."""
        for bit in range(5, 16):
            for kind in (READ, FLUSH, TRIM, CACHE, ZEROES):
                length = 0 if kind == FLUSH else 512
                self.assertEqual(self.nbd.error(kind, 0, length, 1 << bit), EINVAL)
            self.assertEqual(self.nbd.write(0, bytes(4096), 1 << bit), EINVAL)
        self.assertEqual(self.nbd.error(FLUSH), 0)

    def test_flag_of_another_command_einval(self):
        """A flag that belongs to other commands."""
        legal = {READ: DF if self.structured else 0, WRITE: 0, FLUSH: 0, TRIM: 0, CACHE: 0,
                 ZEROES: NO_HOLE | FAST_ZERO}
        for kind, allowed in legal.items():
            for flag in (NO_HOLE, DF, REQ_ONE, FAST_ZERO):
                if flag & allowed:
                    continue
                length = 0 if kind == FLUSH else 512
                payload = bytes(length) if kind == WRITE else b""
                self.assertEqual(self.nbd.error(kind, 0, length, flag, payload=payload), EINVAL,
                                 (kind, flag))

    def test_fua_everywhere(self):
        """FUA is legal on every command."""
        self.assertEqual(self.nbd.write(0, bytes(4096), FUA), 0)
        self.assertEqual(self.nbd.error(FLUSH, 0, 0, FUA), 0)
        for kind in (READ, TRIM, CACHE, ZEROES):
            self.assertEqual(self.nbd.error(kind, 0, 4096, FUA), 0)

    def test_flush_with_range_einval(self):
        """The client must send zeroes there."""
        for offset, length in ((512, 0), (0, 512)):
            self.assertEqual(self.nbd.error(FLUSH, offset, length), EINVAL)

    def test_trim_and_zeroes(self):
        """Zeroed ranges read as zeroes, whole trimmed blocks too; the rest stays."""
        data = pattern(64 * KiB, 2)
        for kind, flags in ((TRIM, 0), (ZEROES, 0), (ZEROES, NO_HOLE), (ZEROES, NO_HOLE | FUA)):
            self.assertEqual(self.nbd.write(0, data), 0)
            self.assertEqual(self.nbd.error(kind, 8192, 16384, flags), 0)
            self.assertEqual(self.nbd.read(0, len(data)),
                             data[:8192] + bytes(16384) + data[8192 + 16384:])
        self.assertEqual(self.nbd.write(0, data), 0)
        self.assertEqual(self.nbd.error(ZEROES, 512, 4096), 0)
        self.assertEqual(self.nbd.read(0, len(data)), data[:512] + bytes(4096) + data[4608:])

    def test_bad_magic_drops_after_answers(self):
        """Garbage ends the connection; what came before it is answered."""
        self.nbd.request(READ, 0, 4096, cookie=1)
        self.nbd.send(request(READ, 0, 512, magic=0x25609514))
        self.assertEqual(self.nbd.reply().cookie, 1)
        self.assertTrue(self.nbd.is_closed())

    def test_disc_after_reads_answers_then_closes(self):
        """DISC has no reply; everything before it has."""
        for i in range(20):
            self.nbd.request(READ, i * 4096, 4096, cookie=i)
        self.nbd.send(request(DISC))
        self.assertEqual({self.nbd.reply().cookie for _ in range(20)}, set(range(20)))
        self.assertTrue(self.nbd.is_closed())

    def test_half_close_answers_all(self):
        """A client that has finished sending still gets its 17 replies."""
        for i in range(16):
            self.nbd.request(WRITE, i * 4096, 4096, cookie=i, payload=pattern(4096, i))
        self.nbd.request(FLUSH, cookie=16)
        self.nbd.sock.shutdown(socket.SHUT_WR)
        replies = [self.nbd.reply() for _ in range(17)]
        self.assertEqual({r.cookie for r in replies}, set(range(17)))
        self.assertEqual({r.error for r in replies}, {0})
        self.assertTrue(self.nbd.is_closed())

    def test_pipelined_mixture(self):
        """Many requests in one segment, good and bad mixed, large and small payloads."""
        flat, wanted = b"", {}
        for i in range(100):
            n = (512, 4096, 65536, 300 * KiB)[i % 4]
            kind = (WRITE, READ, WRITE, 99, CACHE)[i % 5]
            bad = i % 7 == 0
            payload = pattern(n, i) if kind == WRITE else b""
            flat += request(kind, 0, n, 1 << 9 if bad else 0, i, payload)
            self.nbd.lengths[i] = n if kind == READ else 0
            wanted[i] = EINVAL if bad or kind == 99 else 0
        reader = {}
        sender = self.nbd.sock.dup()
        self.addCleanup(sender.close)
        thread = threading.Thread(target=sender.sendall, args=(flat,))
        thread.start()
        for _ in range(100):
            reply = self.nbd.reply()
            reader[reply.cookie] = reply.error
        thread.join()
        self.assertEqual(reader, wanted)


class SimpleReplies(Requests, Case):
    def test_df_einval(self):
        """DF needs structured replies."""
        self.assertEqual(self.nbd.error(READ, 0, 512, DF), EINVAL)

    def test_status_einval(self):
        """BLOCK_STATUS needs structured replies and a context."""
        self.assertEqual(self.nbd.error(STATUS, 0, 512), EINVAL)
        self.assertTrue(self.nbd.call(STATUS, 0, 512).simple)


class StructuredReplies(Requests, Case):
    structured = True

    def test_read_errors_are_structured(self):
        """Once negotiated, READ never gets a simple reply, not even for EINVAL."""
        for args in ((1, 512), (0, 0), (self.nbd.size, 512), (0, 33 * MiB)):
            self.assertFalse(self.nbd.call(READ, *args).simple)

    def test_errors_say_why(self):
        """Errors bring a sentence for people."""
        self.assertIn("512", self.nbd.call(READ, 1, 512).text)
        self.assertIn("unknown", self.nbd.call(55, 0, 512).text)

    def test_df_one_chunk(self):
        """DF is accepted, for the largest reads too."""
        self.assertEqual(self.nbd.error(READ, 0, 64 * KiB, DF), 0)
        self.assertEqual(self.nbd.error(READ, 0, 32 * MiB, DF), 0)

    def test_status_without_context_einval(self):
        """BLOCK_STATUS with structured replies but no context."""
        self.assertEqual(self.nbd.error(STATUS, 0, 512), EINVAL)


def merged(extents):
    """Neighbours with the same flags become one: a server need not do so."""
    result = []
    for length, flags in extents:
        if result and result[-1][1] == flags:
            length += result.pop()[0]
        result.append((length, flags))
    return result


class BlockStatus(Case):
    def setUp(self):
        self.nbd = self.into(structured=True, contexts=["base:allocation"])
        self.nbd.error(TRIM, 0, 16 * MiB)

    def test_extents(self):
        """Data and holes, in order, none empty, their sum as long as was asked for."""
        self.assertEqual(self.nbd.write(4 * MiB, pattern(MiB)), 0)
        extents = merged(self.nbd.call(STATUS, 0, 16 * MiB).extents)
        self.assertEqual(extents, [(4 * MiB, 3), (MiB, 0), (11 * MiB, 3)])

    def test_req_one(self):
        """One extent, no longer than the request."""
        self.assertEqual(self.nbd.write(4 * MiB, pattern(MiB)), 0)
        self.assertEqual(self.nbd.call(STATUS, 0, 16 * MiB, REQ_ONE).extents, [(4 * MiB, 3)])
        self.assertEqual(self.nbd.call(STATUS, MiB, MiB, REQ_ONE).extents, [(MiB, 3)])
        self.assertEqual(self.nbd.call(STATUS, 4 * MiB, 4096, REQ_ONE).extents, [(4096, 0)])

    def test_crumbs(self):
        """Thousands of extents: a long but bounded answer that a client can continue from."""
        for i in range(600):
            self.nbd.request(WRITE, i * 8192, 4096, cookie=i, payload=bytes(4096))
        for i in range(600):
            self.assertEqual(self.nbd.reply().error, 0)
        at, seen = 0, []
        while at < 600 * 8192:
            extents = self.nbd.call(STATUS, at, 600 * 8192 - at).extents
            at += sum(length for length, _ in extents)
            seen += extents
        self.assertEqual(merged(seen), [(4096, 0), (4096, 3)] * 600)

    def test_bad_range_einval(self):
        """Past the end, nothing, or across sectors."""
        size = self.nbd.size
        for offset, length in ((size, 512), (size - 512, 1024), (0, 0), (1, 512), (0, 100),
                               ((1 << 64) - 512, 1024)):
            reply = self.nbd.call(STATUS, offset, length)
            self.assertEqual(reply.error, EINVAL)
            self.assertFalse(reply.simple)

    def test_whole_disk(self):
        """The longest length that the protocol has, or the disk's."""
        length = min(self.nbd.size, 0xfffffe00)
        extents = self.nbd.call(STATUS, 0, length).extents
        self.assertLessEqual(sum(n for n, _ in extents), length)


class Huge(Case):
    """A disk of 8 GiB."""

    args = ("--size", "8GiB")

    def extents(self, nbd, length):
        """All up to there: an answer may stop before the end."""
        at, seen = 0, []
        while at < length:
            seen += nbd.call(STATUS, at, length - at).extents
            at = sum(n for n, _ in seen)
        return merged(seen)

    def test_zeroes_and_trim_of_nearly_4_gib(self):
        """In one command, as Linux sends them."""
        nbd = self.into(structured=True, contexts=["base:allocation"])
        for kind, flags in ((TRIM, 0), (ZEROES, 0), (ZEROES, FAST_ZERO), (CACHE, 0)):
            self.assertEqual(nbd.write(2 << 30, pattern(MiB)), 0)
            self.assertEqual(nbd.error(kind, 512 * KiB, 0xfffffe00, flags), 0)
            if kind != CACHE:
                self.assertEqual(nbd.read(2 << 30, MiB), bytes(MiB))
                self.assertEqual(self.extents(nbd, 0xfffffe00), [(0xfffffe00, 3)])
        self.assertEqual(nbd.call(STATUS, MiB, 0xfffffe00).error, 0)


class OddExports(Case):
    only_ram = True

    def test_read_only_eperm(self):
        """EPERM for what writes, payload eaten; the rest works."""
        for structured in (False, True):
            nbd = self.into("read-only", structured)
            self.assertEqual(nbd.write(0, bytes(4096)), EPERM)
            self.assertEqual(nbd.write(0, bytes(MiB), FUA), EPERM)
            self.assertEqual(nbd.error(TRIM, 0, 4096), EPERM)
            self.assertEqual(nbd.error(ZEROES, 0, 4096), EPERM)
            self.assertEqual(nbd.error(ZEROES, nbd.size, 4096), EPERM)
            for kind, length in ((READ, 4096), (FLUSH, 0), (CACHE, 4096)):
                self.assertEqual(nbd.error(kind, 0, length), 0)

    def test_device_errors_reach_the_client(self):
        """EIO, ENOSPC, ENOTSUP of the device; the connection goes on."""
        for structured in (False, True):
            nbd = self.into("faulty", structured)
            self.assertEqual(nbd.error(READ, MiB, 4096), EIO)
            self.assertEqual(nbd.write(MiB, bytes(4096)), EIO)
            self.assertEqual(nbd.error(TRIM, MiB, 4096), EIO)
            self.assertEqual(nbd.write(2 * MiB, bytes(MiB)), ENOSPC)
            self.assertEqual(nbd.error(ZEROES, 3 * MiB, MiB, FAST_ZERO), ENOTSUP)
            self.assertEqual(nbd.error(ZEROES, 3 * MiB, MiB), 0)
            self.assertEqual(nbd.error(READ, 0, 4096), 0)

    def test_answers_in_any_order(self):
        """A slow device turns the order round; cookies tell whose answer it is."""
        nbd = self.into("slow")
        for i in range(10):
            nbd.request(WRITE, i * 4096, 4096, cookie=i, payload=pattern(4096, i))
        order = [nbd.reply().cookie for _ in range(10)]
        self.assertEqual(sorted(order), list(range(10)))
        self.assertNotEqual(order, list(range(10)))
        for i in range(10):
            self.assertEqual(nbd.read(i * 4096, 4096), pattern(4096, i))


class LiveChanges(Case):
    only_ram = True

    def test_grown_disk_is_served_at_once(self):
        """I/O is checked against the size as it is, not as it was in the handshake."""
        nbd = self.into("ram")
        self.assertEqual(nbd.error(READ, nbd.size, 512), EINVAL)
        self.server.tell(signal.SIGUSR1)
        self.server.expect("grown")
        self.assertEqual(nbd.write(nbd.size, pattern(4096)), 0)
        self.assertEqual(nbd.read(nbd.size, 4096), pattern(4096))
        self.assertEqual(nbd.error(READ, 2 * nbd.size, 512), EINVAL)
        self.assertEqual(self.into("ram").size, 2 * nbd.size)

    def test_fenced_connection_is_dropped(self):
        """Behind a closed gate no request is answered: the client's next step is to reconnect."""
        nbd = self.into("gated")
        self.assertEqual(nbd.write(0, pattern(4096)), 0)
        self.server.tell(signal.SIGUSR2)
        self.server.expect("fenced")
        nbd.request(WRITE, 0, 4096, payload=bytes(4096))
        self.assertTrue(nbd.is_closed())
        self.assertEqual(self.into("ram").read(0, 4096), pattern(4096))


if __name__ == "__main__":
    main()
