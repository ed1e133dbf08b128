# SPDX-License-Identifier: Apache-2.0
"""NBD by hand: a client that can say anything, right or wrong, and the servers to say it to."""
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TIMEOUT = 30

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 5, 6, 7
OPT_STRUCTURED_REPLY, OPT_LIST_META, OPT_SET_META = 8, 9, 10

REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID = ERR + 1, ERR + 2, ERR + 3
ERR_UNKNOWN, ERR_SHUTDOWN, ERR_TOO_BIG = ERR + 6, ERR + 7, ERR + 9

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16

EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 5, 22, 28, 75, 95

KiB, MiB = 1 << 10, 1 << 20


class Closed(Exception):
    """The server hung up."""


def string(text):
    if isinstance(text, str):
        text = text.encode()
    return struct.pack(">I", len(text)) + text


def go_data(name, infos=()):
    return string(name) + struct.pack(">H", len(infos)) + b"".join(
        struct.pack(">H", i) for i in infos)


def meta_data(name, queries):
    return string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))


def request(kind, offset=0, length=0, flags=0, cookie=0, payload=b"", magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length) + payload


class Reply:
    """One whole answer: error, payload (of READ), extents (of BLOCK_STATUS), text (of errors)."""

    def __init__(self, cookie, error=0, data=b"", extents=None, text="", simple=False):
        self.cookie, self.error, self.data = cookie, error, data
        self.extents, self.text, self.simple = extents, text, simple


class Client:
    """A socket that speaks NBD. Reads what the server sends with no mercy for deviations."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(address)
        self.structured = False
        self.lengths = {}

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Close with RST where the transport has it."""
        if self.sock.family == socket.AF_INET:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def receive(self, n):
        data = bytearray(n)
        view, got = memoryview(data), 0
        while got < n:
            try:
                more = self.sock.recv_into(view[got:])
            except ConnectionResetError:
                more = 0
            if not more:
                raise Closed("after %d of %d bytes" % (got, n))
            got += more
        return bytes(data)

    def is_closed(self):
        """Whether the server hangs up without sending another byte."""
        try:
            self.receive(1)
        except Closed:
            return True
        return False

    # Handshake.

    def greet(self, flags=3):
        magic, option, server = struct.unpack(">8s8sH", self.receive(18))
        assert (magic, option) == (b"NBDMAGIC", b"IHAVEOPT")
        if flags is not None:
            self.send(struct.pack(">I", flags))
        return server

    def option(self, option, data=b"", length=None, magic=b"IHAVEOPT"):
        length = len(data) if length is None else length
        self.send(magic + struct.pack(">II", option, length) + data)

    def option_reply(self, option):
        magic, said, rep, length = struct.unpack(">QIII", self.receive(20))
        assert magic == 0x3e889045565a9, hex(magic)
        assert said == option, said
        return rep, self.receive(length)

    def haggle(self, option, data=b"", length=None):
        """Sends an option; returns its final reply and the list of those before."""
        self.option(option, data, length)
        before = []
        while True:
            rep, answer = self.option_reply(option)
            if rep == REP_ACK or rep & ERR:
                return rep, before
            before.append((rep, answer))

    def info(self, name, option=OPT_INFO, infos=()):
        rep, before = self.haggle(option, go_data(name, infos))
        answers = {}
        for kind, answer in before:
            assert kind == REP_INFO
            answers[struct.unpack(">H", answer[:2])[0]] = answer[2:]
        return rep, answers

    def go(self, name="", structured=False, contexts=()):
        """The whole way into transmission. Returns (size, flags)."""
        self.greet()
        if structured:
            assert self.haggle(OPT_STRUCTURED_REPLY)[0] == REP_ACK
        if contexts:
            assert self.haggle(OPT_SET_META, meta_data(name, contexts))[0] == REP_ACK
        self.structured = structured
        rep, answers = self.info(name, OPT_GO, [3])
        assert rep == REP_ACK, hex(rep)
        return struct.unpack(">QH", answers[0])

    # Transmission.

    def request(self, kind, offset=0, length=0, flags=0, cookie=0, payload=b""):
        self.lengths[cookie] = length if kind == READ else 0
        self.send(request(kind, offset, length, flags, cookie, payload))

    def reply(self):
        """The next answer, whosever it is."""
        magic = struct.unpack(">I", self.receive(4))[0]
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.receive(12))
            length = self.lengths.pop(cookie)
            assert not (self.structured and length), "simple reply to a structured READ"
            data = self.receive(length) if not error else b""
            return Reply(cookie, error, data, simple=True)
        assert magic == 0x668e33ef, hex(magic)
        assert self.structured
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        assert flags == 1, "one chunk is a whole reply"
        body = self.receive(length)
        wanted = self.lengths.pop(cookie)
        if kind == 0x8001:
            error, n = struct.unpack(">IH", body[:6])
            assert error and len(body) == 6 + n
            return Reply(cookie, error, text=body[6:].decode())
        if kind == 1:
            assert length == wanted + 8
            return Reply(cookie, data=body[8:])
        assert kind == 5, kind
        words = struct.unpack(">%dI" % (length // 4), body)
        return Reply(cookie, extents=list(zip(words[1::2], words[2::2])))

    def call(self, kind, offset=0, length=0, flags=0, cookie=0x1122334455667788, payload=b""):
        self.request(kind, offset, length, flags, cookie, payload)
        reply = self.reply()
        assert reply.cookie == cookie
        return reply

    def error(self, *args, **kwargs):
        return self.call(*args, **kwargs).error

    def write(self, offset, data, flags=0):
        return self.error(WRITE, offset, len(data), flags, payload=data)

    def read(self, offset, length):
        reply = self.call(READ, offset, length)
        assert reply.error == 0, reply.error
        return reply.data


class Server:
    """nbd_ram, on a unix socket and a TCP port of its own."""

    program = os.path.abspath(os.environ.get(
        "NBD_RAM", os.path.join(ROOT, "build/release/tests/nbd_ram")))

    def __init__(self, *args):
        self.directory = tempfile.TemporaryDirectory(prefix="nbd-test-")
        self.socket = os.path.join(self.directory.name, "sock")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = open(os.path.join(self.directory.name, "log"), "w+")
        self.process = subprocess.Popen(
            [self.program, "--socket", self.socket, "--port", str(self.port), *args],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.expect("ready")

    def expect(self, word):
        line = self.process.stdout.readline()
        assert line.startswith(word), (line, self.said())
        return line

    def said(self):
        self.log.flush()
        with open(self.log.name) as log:
            return log.read()

    def tell(self, number):
        self.process.send_signal(number)

    def resident(self):
        with open("/proc/%d/statm" % self.process.pid) as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def stop(self):
        """Stops it in good order; returns its counters."""
        self.tell(signal.SIGTERM)
        return self.stopped()

    def stopped(self):
        try:
            words = self.expect("stopped:").split()[1:]
            self.process.wait(TIMEOUT)
            assert self.process.returncode == 0, (self.process.returncode, self.said())
            return dict(zip(words[::2], map(int, words[1::2])))
        finally:
            self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()
        self.directory.cleanup()


class Case(unittest.TestCase):
    """Tests against one server: the one that VOLUMED_TEST_SOCKET names (its export
    VOLUMED_TEST_EXPORT is overwritten, and needs 8 GiB), or an nbd_ram for each class."""

    args = ()
    only_ram = False  # needs what only nbd_ram has
    server = None

    @classmethod
    def setUpClass(cls):
        external = os.environ.get("VOLUMED_TEST_SOCKET")
        cls.export = os.environ.get("VOLUMED_TEST_EXPORT", "")
        if external and cls.only_ram:
            raise unittest.SkipTest("needs nbd_ram")
        if external:
            cls.addresses = [external]
            return
        cls.server = Server(*cls.args)
        cls.addresses = [cls.server.socket, ("127.0.0.1", cls.server.port)]

    @classmethod
    def tearDownClass(cls):
        if cls.server and cls.server.process.poll() is None:
            counters = cls.server.stop()
            assert counters["connections"] == 0, counters
            assert counters["claims"] == 0, counters

    def client(self, address=None):
        client = Client(address or self.addresses[0])
        self.addCleanup(client.close)
        return client

    def into(self, name=None, structured=False, contexts=(), address=None):
        """A client in transmission, its size in .size and flags in .flags."""
        client = self.client(address)
        name = self.export if name is None else name
        client.size, client.flags = client.go(name, structured, contexts)
        return client

    def eventually(self, condition, seconds=TIMEOUT):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, "it did not come true in time")
            time.sleep(0.02)

    def assert_serves(self):
        """The server answers a new client."""
        client = self.into()
        self.assertEqual(client.error(FLUSH), 0)
        client.close()


def readable(client, seconds):
    return bool(select.select([client.sock], [], [], seconds)[0])


def pattern(n, seed=0):
    """n bytes that differ from sector to sector."""
    sector = lambda i: struct.pack(">QQ", seed, i) * 32
    return b"".join(sector(i) for i in range((n + 511) // 512))[:n]


class Tap(unittest.TestResult):
    """Results as TAP on standard output."""

    def __init__(self, planned):
        super().__init__()
        self.said_no = False
        print("1..%d" % planned, flush=True)

    def line(self, test, ok, more=""):
        self.said_no |= not ok
        print("%sok %d - %s%s" % ("" if ok else "not ", self.testsRun, test.id(), more),
              flush=True)

    def bad(self, test, error):
        self.line(test, False)
        for text in self._exc_info_to_string(error, test).splitlines():
            print("# " + text, flush=True)

    def addSuccess(self, test):
        self.line(test, True)

    def addError(self, test, error):
        self.bad(test, error)

    def addFailure(self, test, error):
        self.bad(test, error)

    def addSkip(self, test, reason):
        if isinstance(test, unittest.TestCase):
            self.line(test, True, " # SKIP " + reason)


def cases(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        else:
            yield test


def run(suite):
    """Runs what of a suite can run here; exits with 1 if anything failed."""
    external = "VOLUMED_TEST_SOCKET" in os.environ
    suite = unittest.TestSuite(t for t in cases(suite) if not (external and t.only_ram))
    result = Tap(suite.countTestCases())
    suite.run(result)
    sys.exit(result.said_no or result.testsRun == 0)


def main():
    """What `test_x.py [CLASS[.TEST]...]` does."""
    loader = unittest.TestLoader()
    module = sys.modules["__main__"]
    if sys.argv[1:]:
        run(loader.loadTestsFromNames(sys.argv[1:], module))
    run(loader.loadTestsFromModule(module))
