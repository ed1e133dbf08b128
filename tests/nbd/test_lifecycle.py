#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Peers that hang up, stall, crowd or flood; and how the server stops. One bad client never stops
another."""
import random
import signal
import socket
import struct
import subprocess
import threading
import time

from wire import *


class HangUp(Case):
    def test_handshake_cut_anywhere(self):
        """After each byte of a handshake the peer goes: politely, or with RST."""
        script = struct.pack(">I", 3)
        for option, data in ((OPT_STRUCTURED_REPLY, b""), (OPT_LIST, b""),
                             (OPT_SET_META, meta_data(self.export, ["base:allocation"])),
                             (OPT_INFO, go_data(self.export, [3])),
                             (OPT_GO, go_data(self.export, [1, 2, 3]))):
            script += b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data
        for n in range(len(script) + 1):
            for address in self.addresses:
                client = self.client(address)
                client.send(script[:n])
                client.reset() if n % 2 else client.close()
        self.assert_serves()

    def test_requests_cut_anywhere(self):
        """After each byte of requests the peer goes: in headers, in payloads, with answers due."""
        script = (request(READ, 0, 4096, cookie=1) + request(WRITE, 0, 600, payload=bytes(600)) +
                  request(WRITE, 0, 512, payload=bytes(512)) + request(FLUSH))
        for n in list(range(0, 64)) + list(range(600, len(script) + 1, 7)):
            for address in self.addresses:
                client = self.into(structured=n % 3 == 0, address=address)
                client.send(script[:n])
                client.reset() if n % 2 else client.close()
        self.assert_serves()

    def test_large_payload_cut(self):
        """The peer goes within a payload that is received in place; nothing of it is written."""
        before = pattern(MiB, 9)
        self.assertEqual(self.into().write(0, before), 0)
        for n in (0, 1, 65536, 300 * KiB, MiB - 1):
            client = self.into(address=self.addresses[-1])
            client.send(request(WRITE, 0, MiB, payload=bytes(n)))
            client.reset() if n % 2 else client.close()
        self.assert_serves()
        self.assertEqual(self.into().read(0, MiB), before)

    def test_replies_not_wanted(self):
        """The peer asks for megabytes and goes without reading them."""
        for address in self.addresses:
            for _ in range(8):
                client = self.into(address=address)
                for i in range(16):
                    client.request(READ, 0, 4 * MiB, cookie=i)
                client.reset()
        self.assert_serves()

    def test_handshake_byte_by_byte(self):
        """A peer may be slow: each byte comes by itself."""
        client = self.client(self.addresses[-1])
        client.receive(18)
        data = go_data(self.export, [3])
        for byte in struct.pack(">I8sII", 3, b"IHAVEOPT", OPT_GO, len(data)) + data:
            client.send(bytes([byte]))
        while client.option_reply(OPT_GO)[0] != REP_ACK:
            pass
        for byte in request(WRITE, 0, 512, cookie=5, payload=pattern(512)):
            client.send(bytes([byte]))
        client.lengths[5] = 0
        self.assertEqual(client.reply().error, 0)


class Garbage(Case):
    def test_mutated_conversations(self):
        """Hundreds of conversations with wrong bytes in them: none stops the server, none leaves
        anything behind."""
        option = lambda kind, data=b"": b"IHAVEOPT" + struct.pack(">II", kind, len(data)) + data
        whole = (struct.pack(">I", 3) + option(OPT_STRUCTURED_REPLY) + option(OPT_LIST) +
                 option(OPT_SET_META, meta_data(self.export, ["base:allocation"])) +
                 option(OPT_GO, go_data(self.export, [1, 2, 3])))
        talk = (request(WRITE, 0, 1024, payload=pattern(1024)) + request(READ, 512, 8192, DF) +
                request(STATUS, 0, MiB) + request(ZEROES, 0, MiB, NO_HOLE) + request(FLUSH) +
                request(TRIM, 0, MiB) + request(CACHE, 0, 512) + request(DISC))
        rng = random.Random(3)
        for _ in range(600):
            stream = bytearray(whole + talk)
            # Most mistakes after the handshake: otherwise few get beyond it.
            first = 0 if rng.random() < 0.3 else len(whole)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(first, len(stream))
                kind = rng.randrange(3)
                if kind == 0:
                    stream[at] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    stream[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff))
                else:
                    del stream[at:at + rng.randrange(1, 8)]
            client = self.client(rng.choice(self.addresses))
            client.sock.settimeout(5)
            try:
                client.send(stream)
                client.sock.shutdown(socket.SHUT_WR)
                while client.sock.recv(1 << 20):
                    pass
            except (ConnectionError, OSError) as error:
                self.assertNotIsInstance(error, TimeoutError, "the server neither answers nor ends")
            client.close()
        self.assert_serves()


class Crowd(Case):
    def test_64_connections_many_in_flight(self):
        """64 clients with 64 requests each under way: everyone reads back their own."""
        clients = [self.into(structured=i % 2 == 0, address=self.addresses[i % len(self.addresses)])
                   for i in range(64)]
        place = lambda c, i: (c * 64 + i) * 8192
        for c, client in enumerate(clients):
            client.send(b"".join(
                request(WRITE, place(c, i), 4096, cookie=i, payload=pattern(4096, c * 64 + i))
                for i in range(64)))
            client.lengths = dict.fromkeys(range(64), 0)
        for client in clients:
            self.assertEqual({client.reply().error for _ in range(64)}, {0})
        for c, client in enumerate(clients):
            for i in range(64):
                client.request(READ, place(c, i), 4096, cookie=i)
        for c, client in enumerate(clients):
            for _ in range(64):
                reply = client.reply()
                self.assertEqual(reply.data, pattern(4096, c * 64 + reply.cookie))

    def test_more_in_flight_than_allowed(self):
        """A flood of small requests in one go: all are answered, none is lost."""
        client = self.into()
        n = 5000
        sender = client.sock.dup()
        self.addCleanup(sender.close)
        flood = b"".join(request(READ, i * 512, 512, cookie=i) for i in range(n))
        client.lengths = dict.fromkeys(range(n), 512)
        thread = threading.Thread(target=sender.sendall, args=(flood,))
        thread.start()
        cookies = {client.reply().cookie for _ in range(n)}
        thread.join()
        self.assertEqual(cookies, set(range(n)))

    def test_flush_covers_other_connections(self):
        """MULTI_CONN: what one connection wrote, another reads and flushes."""
        a, b = self.into(), self.into()
        if not a.flags & 1 << 8:
            self.skipTest("the export does not offer MULTI_CONN")
        self.assertEqual(a.write(0, pattern(4096, 3)), 0)
        self.assertEqual(b.error(FLUSH), 0)
        self.assertEqual(b.read(0, 4096), pattern(4096, 3))


class SmallCaps(Case):
    only_ram = True
    args = ("--handshake-ms", "1500", "--max-handshakes", "4", "--max-connections", "12",
            "--max-in-flight", "4")

    def test_silent_handshake_ends(self):
        """Who never finishes the handshake is dropped after the deadline, wherever it stands."""
        silent = [self.client() for _ in range(3)]
        silent[1].greet()
        silent[2].greet()
        silent[2].option(OPT_GO, b"", 100)
        start = time.monotonic()
        for client in silent:
            while not client.is_closed():
                pass
        self.assertGreater(time.monotonic() - start, 1)

    def test_connection_cap(self):
        """One too many is refused at once; when somebody leaves, there is room again."""
        clients = [self.into() for _ in range(12)]
        self.assertTrue(self.client().is_closed())
        clients.pop().close()

        def admitted():
            client = self.client()
            try:
                client.greet()
                return True
            except Closed:
                return False
            finally:
                client.close()
        self.eventually(admitted)
        for client in clients:
            self.assertEqual(client.error(FLUSH), 0)
            client.close()
        self.eventually(admitted)

    def test_pipeline_longer_than_in_flight_cap(self):
        """With four requests allowed in flight, 200 pipelined ones are answered in turn."""
        client = self.into("slow")
        for i in range(40):
            client.request(WRITE, i * 512, 512, cookie=i, payload=pattern(512, i))
        self.assertEqual({client.reply().cookie for _ in range(40)}, set(range(40)))


class CrowdedHandshakes(Case):
    only_ram = True
    args = ("--handshake-ms", "60000", "--max-handshakes", "4")

    def test_handshakes_crowded_out(self):
        """Silent peers fill the places for handshakes; an honest one still gets in."""
        for _ in range(10):
            self.client()
        self.assert_serves()


class Stalls(Case):
    """A loop with room for one payload of 32 MiB."""

    only_ram = True
    args = ("--memory", "64MiB", "--stall-ms", "1000")

    def stalled_writer(self):
        client = self.into(address=self.addresses[-1])
        client.send(request(WRITE, 0, 32 * MiB, payload=bytes(MiB)))
        return client

    def test_stalled_payload_makes_room_for_others(self):
        """Who stalls within a payload and holds memory that others wait for is dropped; small
        requests never notice."""
        bad, good = self.stalled_writer(), self.into()
        time.sleep(0.2)
        other = self.into()
        good.request(WRITE, 0, 32 * MiB, cookie=1)
        thread = threading.Thread(target=good.send, args=(pattern(32 * MiB),))
        thread.start()
        start = time.monotonic()
        self.assertEqual(other.write(40 * MiB, bytes(4096)), 0)
        self.assertLess(time.monotonic() - start, 5, "a small request waited for the stalled one")
        self.assertEqual(good.reply().error, 0)
        thread.join()
        bad.sock.settimeout(TIMEOUT)
        self.assertTrue(bad.is_closed())

    def test_stall_alone_is_patience(self):
        """As long as nobody waits for memory, a payload may take its time."""
        client = self.into()
        client.send(request(WRITE, 0, MiB, cookie=1, payload=bytes(MiB - 512)))
        client.lengths[1] = 0
        time.sleep(2.5)
        client.send(bytes(512))
        self.assertEqual(client.reply().error, 0)

    def test_unread_replies_alone_are_patience(self):
        """Who waits for memory that nobody else wants, since it holds all of it, may take its time:
        a guest that is paused, say, finds its disk again."""
        client = self.into(address=self.addresses[-1])
        for i in range(16):
            client.request(READ, 0, 4 * MiB, cookie=i)
        time.sleep(2.5)
        for _ in range(16):
            self.assertEqual(len(client.reply().data), 4 * MiB)

    def test_unread_replies_make_room_for_others(self):
        """Who never reads its replies and holds memory that others wait for is dropped."""
        bad = self.into(address=self.addresses[-1])
        for i in range(64):
            bad.request(READ, 0, 32 * MiB, cookie=i)
        time.sleep(0.2)
        good = self.into()
        self.assertEqual(len(good.read(0, 32 * MiB)), 32 * MiB)
        self.assertEqual(good.write(0, pattern(32 * MiB)), 0)


class Turns(Case):
    """As above, but with all the patience that there is by default."""

    only_ram = True
    args = ("--memory", "64MiB")

    def test_many_large_requests_take_turns(self):
        """Eight clients with 32 MiB each share room for one of them; all get done."""
        clients = [self.into() for _ in range(8)]
        threads = [threading.Thread(target=c.write, args=(0, bytes(32 * MiB))) for c in clients]
        results = []

        def work(client):
            results.append(client.write(0, bytes(32 * MiB)))
            results.append(len(client.read(0, 32 * MiB)))
        threads = [threading.Thread(target=work, args=(c,)) for c in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(results), [0] * 8 + [32 * MiB] * 8)


class Memory(Case):
    only_ram = True

    def test_fresh_is_small_and_large_requests_are_given_back(self):
        """A fresh server is below 64 MiB; memory of large requests returns when they rest."""
        self.assertLess(self.server.resident(), 64 * MiB)
        clients = [self.into() for _ in range(8)]
        for client in clients:
            for i in range(8):
                client.request(READ, 0, 4 * MiB, cookie=i)
            for i in range(8):
                self.assertEqual(client.reply().error, 0)
        self.eventually(lambda: self.server.resident() < 32 * MiB)


class Probes(Case):
    only_ram = True

    def test_connect_and_drop_is_silent(self):
        """Port probes and clients that only list leave no line in the log."""
        for address in self.addresses:
            self.client(address).close()
            client = self.client(address)
            client.receive(18)
            client.close()
            client = self.client(address)
            client.greet()
            client.haggle(OPT_LIST)
            client.haggle(OPT_ABORT)
            client.close()
        self.into().close()
        self.eventually(lambda: "left export" in self.server.said())
        self.assertEqual(len(self.server.said().splitlines()), 2, self.server.said())

    def test_errors_are_logged_and_limited(self):
        """A flood of bad requests is a few lines a second, each of which names peer and rule."""
        client = self.into()
        for _ in range(2000):
            client.error(READ, 1, 512)
        said = self.server.said()
        self.assertIn("export ram: request 0 at 1+512 failed: offset and length must be", said)
        self.assertLess(said.count("must be multiples"), 1000)


class Stop(unittest.TestCase):
    only_ram = True

    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.close)

    def into(self, name, **more):
        client = Client(self.server.socket)
        self.addCleanup(client.close)
        client.go(name, **more)
        return client

    def test_idle_connections(self):
        """Idle clients see the end of the stream, and the server goes quickly."""
        clients = [self.into("ram") for _ in range(5)]
        start = time.monotonic()
        counters = self.server.stop()
        self.assertLess(time.monotonic() - start, 5)
        for client in clients:
            self.assertTrue(client.is_closed())
        self.assertEqual((counters["claims"], counters["connections"]), (0, 0))

    def test_what_was_received_is_answered(self):
        """Requests in flight are answered without an error, never ESHUTDOWN; they are made durable;
        then FIN."""
        self.server.close()
        self.server = Server("--slow-ms", "400")
        self.addCleanup(self.server.close)
        client = self.into("slow")
        for i in range(16):
            client.request(WRITE, i * 4096, 4096, cookie=i, payload=bytes(4096))
        # Refused at once: its answer says that all before it have been received.
        self.assertEqual(client.error(READ, 1, 512, cookie=99), EINVAL)
        self.server.tell(signal.SIGTERM)
        replies = [client.reply() for _ in range(16)]
        self.assertEqual({r.cookie for r in replies}, set(range(16)))
        self.assertEqual({r.error for r in replies}, {0})
        self.assertTrue(client.is_closed())
        counters = self.server.stopped()
        self.assertEqual((counters["requests"], counters["slow-flushes"]), (17, 1))

    def test_who_waits_for_memory_does_not_hold_it_up(self):
        """Two peers stall with all the large buffers; one stands in line for them."""
        self.server.close()
        self.server = Server("--memory", "64MiB")
        self.addCleanup(self.server.close)
        clients = [self.into("ram") for _ in range(3)]
        for client in clients:
            client.send(request(WRITE, 0, 32 * MiB, payload=bytes(100 * KiB)))
            time.sleep(0.05)
        start = time.monotonic()
        self.assertEqual(self.server.stop()["claims"], 0)
        self.assertLess(time.monotonic() - start, 20)
        for client in clients:
            self.assertTrue(client.is_closed())

    def test_under_load(self):
        """Clients that never stop sending do not keep the server from stopping; nobody gets an
        error, and every answer is whole."""
        stop, errors = [], []

        def work(client):
            try:
                i = 0
                while not stop:
                    client.request(WRITE, i % 1000 * 4096, 4096, cookie=i, payload=bytes(4096))
                    i += 1
                    if i > 32:
                        errors.append(client.reply().error)
            except (Closed, BrokenPipeError, ConnectionResetError):
                pass
        clients = [self.into("ram", structured=i % 2 == 0) for i in range(4)]
        threads = [threading.Thread(target=work, args=(c,)) for c in clients]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        counters = self.server.stop()
        stop.append(True)
        for thread in threads:
            thread.join()
        self.assertEqual(set(errors), {0})
        self.assertEqual(counters["errors"], 0)

    def test_handshake_gets_shutdown(self):
        """Who still haggles gets ERR_SHUTDOWN (ABORT its ACK), then the end."""
        clients = [Client(self.server.socket) for _ in range(4)]
        for client in clients:
            self.addCleanup(client.close)
            client.greet()
            self.assertEqual(client.haggle(77)[0], ERR_UNSUP)
        self.server.tell(signal.SIGTERM)
        time.sleep(0.1)
        self.assertEqual(clients[0].info("ram", OPT_GO)[0], ERR_SHUTDOWN)
        self.assertEqual(clients[1].haggle(OPT_LIST)[0], ERR_SHUTDOWN)
        self.assertEqual(clients[2].haggle(OPT_ABORT)[0], REP_ACK)
        for client in clients:
            self.assertTrue(client.is_closed())
        self.server.stopped()

    def test_partial_request_does_not_hold_it_up(self):
        """A peer within a header or a payload, or one that does not take its replies."""
        header, payload, deaf = (self.into("ram") for _ in range(3))
        header.send(request(WRITE, 0, 512)[:20])
        payload.send(request(WRITE, 0, MiB, payload=bytes(1000)))
        for i in range(32):
            deaf.request(READ, 0, MiB, cookie=i)
        time.sleep(0.2)
        start = time.monotonic()
        self.server.stop()
        self.assertLess(time.monotonic() - start, 20)

    def test_stdio_serves_one_and_ends(self):
        """As inetd starts it: one connection on descriptor 0, and the program ends with it."""
        ours, theirs = socket.socketpair()
        with subprocess.Popen([Server.program, "--stdio"], stdin=theirs,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            theirs.close()
            client = Client.__new__(Client)
            client.sock, client.structured, client.lengths = ours, False, {}
            ours.settimeout(TIMEOUT)
            client.go("ram")
            self.assertEqual(client.write(0, pattern(4096)), 0)
            self.assertEqual(client.read(0, 4096), pattern(4096))
            client.send(request(DISC))
            self.assertTrue(client.is_closed())
            client.close()
            said = process.stderr.read().decode()
            self.assertEqual(process.wait(TIMEOUT), 0)
        self.assertIn("stopped: connections 0 connected 1", said)


if __name__ == "__main__":
    main()
