#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""nbdload against servers that behave, servers that lose data, and servers that break the protocol.

A benchmark's numbers are worth what its client is: each test says which promise it holds.
usage: selftest.py NBDLOAD
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

NBDLOAD = ""
TESTS = []
HELLO = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
OPTION_REPLY = 0x3e889045565a9
REPLY = 0x67446698
SIZE = 1 << 20


def test(function):
    TESTS.append(function)
    return function


def nbdload(*args, timeout=60):
    return subprocess.run([NBDLOAD, *args], capture_output=True, text=True, timeout=timeout,
                          check=False)


def expect(done, code, *texts):
    """The exit code, and each text somewhere in what was printed."""
    said = done.stdout + done.stderr
    if done.returncode != code:
        raise AssertionError(f"exit code {done.returncode}, not {code}: {said}")
    for text in texts:
        if text not in said:
            raise AssertionError(f"\"{text}\" is missing in: {said}")


@contextlib.contextmanager
def nbdkit(*args):
    """Address and process of an nbdkit that is ready."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "sock")
        process = subprocess.Popen(["nbdkit", "-f", "--log=null", "-U", path, *args])
        try:
            while not os.path.exists(path):
                if process.poll() is not None:
                    raise AssertionError("nbdkit does not start")
                time.sleep(0.02)
            yield "unix:" + path, process
        finally:
            process.kill()
            process.wait()


def receive(conn, n):
    data = b""
    while len(data) < n:
        more = conn.recv(n - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def option_reply(kind, data=b""):
    return struct.pack(">QIII", OPTION_REPLY, 7, kind, len(data)) + data


def shake_hands(conn):
    conn.sendall(HELLO)
    receive(conn, 4)
    length = struct.unpack(">QII", receive(conn, 16))[2]
    receive(conn, length)
    conn.sendall(option_reply(3, struct.pack(">HQH", 0, SIZE, 0x10d)) + option_reply(1))


@contextlib.contextmanager
def fake(serve):
    """Address of a server that does what `serve(connection)` says for one client."""
    def run():
        with contextlib.suppress(OSError):
            conn = listener.accept()[0]
            with conn:
                serve(conn)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@test
def verify_good_server_all_patterns():
    """What a server keeps is found right, whatever pattern, connections, flushes and FUA."""
    with nbdkit("memory", "32M") as (address, _):
        for pattern in ("randwrite", "write", "mixed", "randread", "read"):
            done = nbdload("--verify", "--fill", "-p", pattern, "-c", "3", "-q", "16", "-n", "8000",
                           "--flush-every", "7", "--fua", "--json", address)
            expect(done, 0)
            found = json.loads(done.stdout)
            assert found["ios"] == 8000 and found["mismatches"] == 0, found
            assert found["compared"] >= 8192, found
            assert (found["flush_us"]["count"] > 0) == ("read" not in pattern), found


@test
def verify_sizes_and_depths():
    """Blocks of any size, deeper queues than blocks, and a working set that no block divides."""
    with nbdkit("memory", "16M") as (address, _):
        for size, depth in (("512", "1024"), ("12KiB", "64"), ("1MiB", "32"), ("8MiB", "2")):
            done = nbdload("-v", "-f", "-p", "mixed", "-b", size, "-q", depth, "-n", "500",
                           "--working-set", "16000000", "--fill-block", "1MiB", address)
            expect(done, 0, " 0 wrong")


@test
def verify_finds_lost_writes():
    """A server that forgets everything is found out, and the message says what is there."""
    # Each time a fresh one: nbdkit 1.32 may abort when a client leaves with requests in flight.
    with nbdkit("null", "4M") as (address, _):
        expect(nbdload("-v", "-p", "write", "-n", "100", address), 1, "all zeroes")
    with nbdkit("null", "4M") as (address, _):
        done = nbdload("-v", "-k", "-p", "write", "-n", "100", "--json", address)
        expect(done, 1)
        assert json.loads(done.stdout)["mismatches"] == 100, done.stdout


def wrong_disk(wrong_place):
    """A server in memory that writes to `wrong_place(offset)`."""
    disk = bytearray(SIZE + 4096)

    def serve(conn):
        shake_hands(conn)
        with contextlib.suppress(ConnectionError):
            while True:
                kind, cookie, offset, length = struct.unpack(">IHHQQI", receive(conn, 28))[2:]
                answer = struct.pack(">IIQ", REPLY, 0, cookie)
                if kind == 0:
                    answer += disk[offset:offset + length]
                elif kind == 1:
                    place = wrong_place(offset)
                    disk[place:place + length] = receive(conn, length)
                elif kind == 2:
                    return
                conn.sendall(answer)
    return serve


@test
def verify_finds_misplaced_writes():
    """A server that writes one block a sector off is found out; one that does not is not."""
    load = ("-v", "-f", "-p", "none", "-k", "--fill-block", "4KiB")
    with fake(wrong_disk(lambda at: at)) as address:
        expect(nbdload(*load, address), 0, "256 blocks compared, 0 wrong")
    with fake(wrong_disk(lambda at: at + 512 if at == 65536 else at)) as address:
        expect(nbdload(*load, address), 1, "1 wrong", "sector at 65536 should be version 1, but is "
               "all zeroes")
    with fake(wrong_disk(lambda at: at - 4096 if at == 65536 else at)) as address:
        expect(nbdload(*load, address), 1, "2 wrong", "version 1 of the sector at 65536")


@test
def error_replies_stop_or_count():
    """An error reply ends the run with its offset and name; --keep-going counts instead."""
    server = ("--filter=error", "memory", "4M", "error-pread=ENOSPC", "error-pread-rate=10%")
    with nbdkit(*server) as (address, _):
        expect(nbdload("-n", "10000", address), 1, "read of 4096 bytes at", "No space left")
    with nbdkit(*server) as (address, _):
        done = nbdload("-n", "1000", "-k", "--json", address)
        expect(done, 1)
        found = json.loads(done.stdout)
        assert 0 < found["errors"] < 400 and found["ios"] + found["errors"] == 1000, found


@test
def server_death_is_an_error():
    """A killed server ends the run at once, with a message that says so."""
    with nbdkit("memory", "4M") as (address, process):
        threading.Timer(0.5, process.send_signal, [signal.SIGKILL]).start()
        started = time.monotonic()
        done = nbdload("-t", "30", "-c", "2", "-p", "mixed", address)
        expect(done, 1, "in flight")
        assert time.monotonic() - started < 15


@test
def refusals_name_the_cause():
    """What cannot work is refused before any load, with the reason."""
    with nbdkit("--filter=exportname", "memory", "4M", "exportname=disk",
                "exportname-strict=true") as (address, _):
        expect(nbdload("-n", "1", address, "other"), 1, "export \"other\": ")
        expect(nbdload("-n", "1", address, "disk"), 0)
    with nbdkit("-r", "memory", "4M") as (address, _):
        expect(nbdload("-n", "1", "-p", "write", address), 1, "read-only")
        expect(nbdload("-n", "1", "--working-set", "8MiB", address), 1, "working set")
    with nbdkit("--filter=blocksize-policy", "memory", "4M", "blocksize-minimum=4K",
                "blocksize-maximum=64K", "blocksize-preferred=4K") as (address, _):
        expect(nbdload("-n", "1", "-b", "512", address), 1, "takes blocks of 4096 to 65536")
    with nbdkit("--filter=multi-conn", "memory", "4M", "multi-conn-mode=disable") as (address, _):
        expect(nbdload("-n", "1", "-c", "2", address), 0, "CAN_MULTI_CONN")
    expect(nbdload("unix:/nowhere/sock"), 1, "is the server running?")
    expect(nbdload("nonsense"), 1, "unix:PATH or HOST:PORT")


@test
def usage_errors():
    """Each bad value is exit code 2 and is named; nothing is connected."""
    for args in (["-q", "0"], ["-q", "x"], ["-b", "1"], ["-b", "64MiB"], ["-p", "sideways"],
                 ["-t", "-1"], ["--read-percent", "101"], ["--seed", "-1"], ["-p", "none"],
                 ["-t", "0"], ["--nonsense"]):
        expect(nbdload(*args, "unix:/nowhere/sock"), 2, "nbdload")
    expect(nbdload(), 2, "ADDRESS")
    expect(nbdload("--help"), 0, "usage:")


@test
def same_seed_same_requests():
    """One seed is one sequence of offsets: a run can be repeated."""
    def offsets(seed):
        seen = []

        def serve(conn):
            shake_hands(conn)
            with contextlib.suppress(ConnectionError):
                while True:
                    _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI",
                                                                       receive(conn, 28))
                    if kind != 0:
                        return
                    seen.append(offset)
                    conn.sendall(struct.pack(">IIQ", REPLY, 0, cookie) + bytes(length))
        with fake(serve) as address:
            expect(nbdload("-n", "50", "-q", "1", "--seed", seed, address), 0)
        return seen
    first = offsets("7")
    assert len(first) == 50 and first == offsets("7") and first != offsets("8")


def broken(reply, *texts):
    """A server whose answer to the first request is `reply(cookie)`."""
    def serve(conn):
        shake_hands(conn)
        cookie = struct.unpack(">IHHQQI", receive(conn, 28))[3]
        conn.sendall(reply(cookie))
        with contextlib.suppress(ConnectionError):
            receive(conn, 1 << 20)
    with fake(serve) as address:
        expect(nbdload("-n", "10", "-q", "1", "--timeout", "1", address), 1, *texts)


@test
def broken_replies():
    """Wrong magic, unknown and repeated cookies, and silence: each has its message."""
    good = bytes(4096)
    broken(lambda c: struct.pack(">IIQ", 0x668e33ef, 0, c), "668e33ef", "simple reply")
    broken(lambda c: struct.pack(">IIQ", REPLY, 0, c + 1), "no request in flight")
    broken(lambda c: struct.pack(">IIQ", REPLY, 0, 1 << 31), "no request in flight")
    broken(lambda c: 2 * (struct.pack(">IIQ", REPLY, 0, c) + good), "no request in flight")
    broken(lambda c: struct.pack(">IIQ", REPLY, 77777, c), "not an error number of NBD")
    broken(lambda c: struct.pack(">IIQ", REPLY, 0, c) + good[:100], "answered nothing for 1 s")


@test
def replies_in_pieces():
    """Replies that arrive byte by byte are put together."""
    def serve(conn):
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shake_hands(conn)
        with contextlib.suppress(ConnectionError):
            while True:
                kind, cookie = struct.unpack(">IHHQQI", receive(conn, 28))[2:4]
                if kind != 0:
                    return
                for byte in struct.pack(">IIQ", REPLY, 0, cookie) + bytes(512):
                    conn.sendall(bytes([byte]))
    with fake(serve) as address:
        expect(nbdload("-n", "20", "-q", "4", "-b", "512", address), 0)


@test
def broken_handshakes():
    """A peer that is no NBD server, lies about lengths, hangs up or says nothing."""
    def says(data):
        def serve(conn):
            conn.sendall(data)
            with contextlib.suppress(ConnectionError):
                receive(conn, 1 << 20)
        return serve
    export = option_reply(3, struct.pack(">HQH", 0, SIZE, 1))
    for data, text in (
            (b"HTTP/1.1 400 Bad Request\r\n", "not an NBD server"),
            (HELLO + b"x" * 20, "no reply to it"),
            (HELLO + struct.pack(">QIII", OPTION_REPLY, 7, 3, 1 << 31), "2147483648 bytes"),
            (HELLO + option_reply(3, b"\0\0\0"), "malformed"),
            (HELLO + option_reply(1), "did not tell the size"),
            (HELLO + option_reply(0x80000005, b"TLS please"), "TLS please"),
            (HELLO + export, "silent"),
            (HELLO[:5], "silent")):
        with fake(says(data)) as address:
            expect(nbdload("--timeout", "1", "-n", "1", address), 1, text)
    with fake(lambda conn: None) as address:
        expect(nbdload("-n", "1", address), 1, "hung up during the handshake")


@test
def server_cpu_includes_children():
    """--server-pid counts a process below the one that is named."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "sock")
        shell = subprocess.Popen(["sh", "-c", "nbdkit -f -U \"$0\" memory 4M; :", path],
                                 start_new_session=True)
        try:
            while not os.path.exists(path):
                time.sleep(0.02)
            done = nbdload("-t", "1", "--json", "--server-pid", str(shell.pid), "unix:" + path)
            expect(done, 0)
            assert json.loads(done.stdout)["server_cpu_us_per_io"] > 0, done.stdout
            expect(nbdload("-n", "1", "--server-pid", "99999999", "unix:" + path), 1, "no process")
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def main():
    global NBDLOAD
    if len(sys.argv) != 2:
        sys.exit("usage: selftest.py NBDLOAD")
    NBDLOAD = sys.argv[1]
    failed = 0
    for function in TESTS:
        try:
            function()
            print(f"ok {function.__name__}", flush=True)
        except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAILED {function.__name__}: {e}", flush=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
