# SPDX-License-Identifier: Apache-2.0
"""The servers that are measured: how each is started, reached and stopped.

All but volumed serve the same preconditioned file, one after the other, so that they stand on the
same blocks of the disk. `kind` says what their numbers may be compared with:

  raw     no server: fio on the file itself
  direct  O_DIRECT: an answered write has reached the disk
  cached  page cache: an answered write is in memory, a read may never see the disk
  ours    volumed, which is direct too
  null    no disk at all: what the protocol and the sockets cost
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import time

START_DEADLINE = 30
STOP_DEADLINE = 30
MAX_CONNECTIONS = "16"


class ServerError(Exception):
    """A server that does not start, dies or does not stop. The text names its log."""


class Place:
    """Where servers find the file and put sockets and logs."""

    def __init__(self, directory, file, size, logs, port, volumed):
        self.directory = directory
        self.file = file
        self.size = size
        self.logs = logs
        self.transport = "unix"  # or "tcp"; may change while no server runs
        self.port = port
        self.volumed = volumed

    @property
    def tcp(self):
        return self.transport == "tcp"

    def path(self, name):
        return os.path.join(self.directory, name)


class Server:
    name = ""
    title = ""
    kind = ""
    tool = ""
    package = ""
    export = ""
    # Alternatives, tried in order until one starts.
    variants = ("",)

    def __init__(self, place):
        self.place = place
        self.process = None
        self.variant = self.variants[0]

    def command(self):
        raise NotImplementedError

    def missing(self):
        """What keeps this server from being run, or None."""
        if shutil.which(self.tool):
            return None
        return f"{self.tool} is not installed (Debian package {self.package})"

    def socket_path(self):
        # Relative, since a socket's path has only 107 characters.
        return os.path.relpath(self.place.path(f"{self.name}.sock"))

    def address(self):
        if self.place.tcp:
            return f"127.0.0.1:{self.place.port}"
        return "unix:" + self.socket_path()

    def uri(self):
        if self.place.tcp:
            return f"nbd://127.0.0.1:{self.place.port}/{self.export}"
        return f"nbd+unix:///{self.export}?socket={self.socket_path()}"

    def log_path(self):
        return os.path.join(self.place.logs, f"{self.name}.log")

    def start(self):
        """Starts the first variant that works, and returns when it accepts connections."""
        while True:
            try:
                self.launch()
                self.wait_until_ready()
                return
            except ServerError:
                self.stop()
                left = self.variants[self.variants.index(self.variant) + 1:]
                if not left:
                    raise
                self.variant = left[0]

    def launch(self):
        if not self.place.tcp and os.path.exists(self.socket_path()):
            os.unlink(self.socket_path())
        with open(self.log_path(), "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)

    def wait_until_ready(self):
        deadline = time.monotonic() + START_DEADLINE
        while not self.accepts():
            if not self.alive():
                raise ServerError(f"{self.name} did not start; see {self.log_path()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not ready after {START_DEADLINE} s; "
                                  f"see {self.log_path()}")
            time.sleep(0.05)

    def accepts(self):
        """Connects and leaves before the handshake."""
        family = socket.AF_INET if self.place.tcp else socket.AF_UNIX
        target = ("127.0.0.1", self.place.port) if self.place.tcp else self.socket_path()
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(target)
            except OSError:
                return False
        return True

    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """SIGTERM, and SIGKILL for one that ignores it. Nothing to do if it is gone."""
        if not self.alive():
            self.process = None
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise ServerError(f"{self.name} did not stop on SIGTERM and was killed") from None
        finally:
            self.process = None


class Nbdkit(Server):
    name = "nbdkit"
    title = "nbdkit file"
    kind = "cached"
    tool = "nbdkit"
    package = "nbdkit"
    options = ()

    def plugin(self):
        return ["file", self.place.file, *self.options]

    def command(self):
        where = ["-i", "127.0.0.1", "-p", str(self.place.port)]
        if not self.place.tcp:
            where = ["-U", self.socket_path()]
        return ["nbdkit", "-f", *where, *self.plugin()]


class NbdkitDropBehind(Nbdkit):
    """The nearest that nbdkit has to direct I/O: the page cache, emptied behind each request."""
    name = "nbdkit-none"
    title = "nbdkit file cache=none"
    options = ("cache=none",)


class NbdkitNull(Nbdkit):
    """Reads zeroes and forgets what is written."""
    name = "nbdkit-null"
    title = "nbdkit null"
    kind = "null"

    def plugin(self):
        return ["null", str(self.place.size)]


class QemuNbd(Server):
    name = "qemu-nbd"
    title = "qemu-nbd cache=none"
    kind = "direct"
    tool = "qemu-nbd"
    package = "qemu-utils"
    variants = ("io_uring", "native")

    def command(self):
        where = ["-b", "127.0.0.1", "-p", str(self.place.port)]
        if not self.place.tcp:
            where = ["-k", os.path.abspath(self.socket_path())]
        return ["qemu-nbd", "--persistent", "-e", MAX_CONNECTIONS, "-f", "raw", "--cache=none",
                f"--aio={self.variant}", *where, self.place.file]


class QemuStorageDaemon(Server):
    name = "qemu-storage-daemon"
    title = "qemu-storage-daemon direct"
    kind = "direct"
    tool = "qemu-storage-daemon"
    package = "qemu-system-common"
    export = "disk"
    variants = ("io_uring", "native")

    def command(self):
        where = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.place.port}"
        if not self.place.tcp:
            where = f"addr.type=unix,addr.path={self.socket_path()}"
        file = self.place.file.replace(",", ",,")  # how QEMU writes a comma in a value
        return ["qemu-storage-daemon",
                "--blockdev", f"driver=file,node-name=disk,filename={file},"
                              f"cache.direct=on,aio={self.variant}",
                "--nbd-server", f"{where},max-connections={MAX_CONNECTIONS}",
                "--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"]


class NbdServer(Server):
    """Goes to the background by itself, and is then known by its pid file."""
    name = "nbd-server"
    title = "nbd-server"
    kind = "cached"
    tool = "nbd-server"
    package = "nbd-server"
    export = "disk"

    def pid_path(self):
        return self.place.path("nbd-server.pid")

    def launch(self):
        where = f"listenaddr = 127.0.0.1\nport = {self.place.port}"
        if not self.place.tcp:
            where = f"unixsock = {os.path.abspath(self.socket_path())}"
        with open(self.place.path("nbd-server.conf"), "w", encoding="utf-8") as conf:
            conf.write(f"[generic]\n{where}\n[disk]\nexportname = {self.place.file}\n"
                       "flush = true\nfua = true\n")
        if os.path.exists(self.pid_path()):
            os.unlink(self.pid_path())
        super().launch()
        self.process.wait()

    def command(self):
        # It closes every possible descriptor for each client: a usual limit makes that short.
        return ["prlimit", f"--nofile=1024:{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}",
                "nbd-server", "-C", self.place.path("nbd-server.conf"), "-p", self.pid_path(),
                "-M", MAX_CONNECTIONS]

    def pid(self):
        try:
            with open(self.pid_path(), encoding="ascii") as f:
                return int(f.read())
        except (OSError, ValueError):
            return 0

    def wait_until_ready(self):
        deadline = time.monotonic() + START_DEADLINE
        while not (self.pid() and self.accepts()):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not start; see {self.log_path()} and syslog")
            time.sleep(0.05)

    def alive(self):
        pid = self.pid()
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                return pid > 0 and f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def stop(self):
        deadline = time.monotonic() + STOP_DEADLINE
        pid = self.pid()
        self.process = None
        if not self.alive():
            return
        os.kill(pid, signal.SIGTERM)
        while self.alive():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise ServerError(f"{self.name} did not stop on SIGTERM and was killed")
            time.sleep(0.05)


class Volumed(Server):
    name = "volumed"
    title = "volumed"
    kind = "ours"
    tool = "volumed"

    def missing(self):
        if os.access(self.place.volumed, os.X_OK):
            return None
        return f"{self.place.volumed} is not built (run make)"

    def data_dir(self):
        return self.place.path("volumed")

    def socket_path(self):
        return os.path.relpath(os.path.join(self.data_dir(), "nbd.sock"))

    def command(self):
        command = [self.place.volumed, "--data-dir", self.data_dir(),
                   "--volume-size", str(self.place.size)]
        if self.place.tcp:
            command += ["--nbd-listen", f"127.0.0.1:{self.place.port}"]
        return command

    def launch(self):
        os.makedirs(self.data_dir(), exist_ok=True)
        super().launch()


ALL = (NbdkitNull, Nbdkit, NbdkitDropBehind, QemuNbd, QemuStorageDaemon, NbdServer, Volumed)
