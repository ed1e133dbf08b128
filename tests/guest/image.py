# SPDX-License-Identifier: Apache-2.0
"""The test guest's kernel and initramfs: Debian's stock kernel, taken from its package, and a
busybox system with the tools of the file systems. All of it is kept in build/guest/ (GUEST_CACHE).
As a program it makes them, and downloads the package if there is none yet; the tests take what
is there."""
import contextlib
import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.abspath(os.environ.get("GUEST_CACHE", os.path.join(ROOT, "build/guest")))
KERNEL = os.path.join(CACHE, "kernel")
INITRAMFS = os.path.join(CACHE, "initramfs")
META_PACKAGE = "linux-image-amd64"
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# With what they depend on. The kernel asks for file systems and checksums by itself.
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "nbd", "ext4", "xfs", "btrfs", "vfat",
           "nls_ascii", "nls_cp437", "crc32c_generic", "xxhash_generic", "blake2b_generic"]
# Where they are found, to unpack no more of the package than needed.
MODULE_PLACES = re.compile(r"""
    ^kernel/( crypto/ | lib/ | fs/(ext4|jbd2|xfs|btrfs|fat|nls)/ | fs/mbcache
    | drivers/virtio/ | drivers/block/(virtio_blk|nbd)\. | drivers/net/(virtio_net|net_failover)\.
    | net/core/failover\. )""", re.VERBOSE)
PROGRAMS = ["mkfs.ext4", "e2fsck", "resize2fs", "mkfs.xfs", "xfs_repair", "mkfs.btrfs", "btrfs",
            "mkfs.vfat", "fsck.vfat", "nbd-client"]
TOOLS = ["cc", "qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", *PROGRAMS]


class Unavailable(Exception):
    """There can be no guest here: its tests are skipped, and say why."""


def ready():
    """Returns the paths of the kernel and of the initramfs."""
    need_tools()
    if not is_fresh():
        raise Unavailable("there is no guest's kernel yet: make guest-image gets it")
    return KERNEL, INITRAMFS


def make():
    need_tools()
    if is_fresh():
        return
    os.makedirs(CACHE, exist_ok=True)
    package = kernel_package()
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        version = unpack(package, scratch)
        write_whole(INITRAMFS, initramfs(scratch, version))
        write_whole(KERNEL, elf_kernel(os.path.join(scratch, "vmlinuz")))


def need_tools():
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=SEARCH_PATH)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found: scripts/setup.sh guest installs them")


def is_fresh():
    made = [KERNEL, INITRAMFS]
    sources = [os.path.join(HERE, name) for name in ("image.py", "init.sh", "nbd_resize.c")]
    return all(map(os.path.exists, made)) and \
        min(map(os.path.getmtime, made)) > max(map(os.path.getmtime, sources))


def write_whole(path, data):
    """So that whoever finds the file finds all of it."""
    with open(path + ".tmp", "wb") as file:
        file.write(data)
    os.rename(path + ".tmp", path)


# ---- The kernel's package

def kernel_package():
    """The path of the kernel's package, downloaded unless one is there."""
    for name in os.listdir(CACHE):
        if name.startswith("linux-image-") and name.endswith(".deb"):
            return os.path.join(CACHE, name)
    try:
        return download_kernel()
    except Unavailable:
        # A machine that had all other packages may have no lists, or old ones.
        if os.environ.get("NO_SETUP"):
            raise
    ask_apt(*([] if os.geteuid() == 0 else ["sudo", "-n"]), "apt-get", "-q", "update")
    return download_kernel()


def download_kernel():
    apt = ask_apt("apt-cache", "depends", META_PACKAGE)
    name = re.search(r"Depends: (linux-image-\S+)", apt)
    if not name:
        raise Unavailable(f"apt knows no {META_PACKAGE}: {apt.strip()}")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        ask_apt("apt-get", "download", name[1], cwd=scratch)
        deb = os.listdir(scratch)[0]
        os.rename(os.path.join(scratch, deb), os.path.join(CACHE, deb))
    return os.path.join(CACHE, deb)


def ask_apt(*command, **kwargs):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900,
                              env=dict(os.environ, LC_ALL="C"), **kwargs)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        said = " ".join(line for line in done.stderr.splitlines() if line.startswith("E:"))
        raise Unavailable(f"{' '.join(command)} failed: {said}")
    return done.stdout


def unpack(package, scratch):
    """Takes the kernel and the modules out of the package. Returns the kernel's version."""
    version = None
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package],
                          stdout=subprocess.PIPE) as dpkg, \
            tarfile.open(fileobj=dpkg.stdout, mode="r|") as tar:
        for entry in tar:
            path = re.fullmatch(r"\./(?:usr/)?lib/modules/([^/]+)/(.*)", entry.name)
            kernel = re.fullmatch(r"\./boot/vmlinuz-(.*)", entry.name)
            if kernel:
                version = kernel[1]
                copy_out(tar, entry, os.path.join(scratch, "vmlinuz"))
            elif path and entry.isfile() and (MODULE_PLACES.match(path[2]) or
                                              path[2] in ("modules.order", "modules.builtin")):
                copy_out(tar, entry, os.path.join(scratch, "lib/modules", path[1], path[2]))
    if dpkg.returncode or not version:
        raise RuntimeError(f"{package} holds no kernel: remove it, and the next run gets another")
    return version


def copy_out(tar, entry, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = tar.extractfile(entry).read()
    if path.endswith(".ko.xz"):
        path, data = path[:-3], lzma.decompress(data)
    with open(path, "wb") as file:
        file.write(data)


def elf_kernel(path):
    """The kernel that a bzImage holds compressed: emulated, unpacking it would take seconds at
    each boot. Where the compression is unknown, the bzImage itself."""
    with open(path, "rb") as file:
        image = file.read()
    setup_sectors = image[0x1f1] or 4
    start, length = struct.unpack_from("<II", image, 0x248)
    start += (setup_sectors + 1) * 512
    payload = image[start:start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        kernel = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        kernel = gzip.decompress(payload[:-4])
    else:
        return image
    return kernel if kernel.startswith(b"\x7fELF") else image


# ---- The initramfs

class Cpio:
    """An archive in the format that the kernel unpacks ("newc"). Folders come by themselves."""

    def __init__(self):
        self.parts = []
        self.names = set()

    def add(self, name, mode, data=b""):
        if name in self.names:
            return
        parent = os.path.dirname(name)
        if parent:
            self.add(parent, 0o40755)
        self.names.add(name)
        self._entry(name, mode, data)

    def _entry(self, name, mode, data):
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + name.encode() + b"\0", data):
            self.parts.append(part + bytes(-len(part) % 4))

    def file(self, name, source):
        with open(source, "rb") as file:
            self.add(name, 0o100755, file.read())

    def link(self, name, target):
        self.add(name, 0o120777, target.encode())

    def bytes(self):
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self.parts)


def initramfs(scratch, version):
    cpio = Cpio()
    cpio.file("init", os.path.join(HERE, "init.sh"))
    for folder in ("proc", "sys", "dev", "tmp", "run", "mnt", "etc"):
        cpio.add(folder, 0o40755)
    cpio.link("sbin", "bin")
    cpio.link("etc/mtab", "/proc/mounts")
    with contextlib.suppress(FileNotFoundError):
        cpio.file("etc/mke2fs.conf", "/etc/mke2fs.conf")
    for program in PROGRAMS:
        add_program(cpio, shutil.which(program, path=SEARCH_PATH))
    busybox = shutil.which("busybox", path=SEARCH_PATH)
    add_program(cpio, busybox)
    resize = os.path.join(scratch, "nbd_resize")
    subprocess.run(["cc", "-O2", "-o", resize, os.path.join(HERE, "nbd_resize.c")], check=True)
    add_program(cpio, resize)
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True,
                                 check=True).stdout.split():
        cpio.link("bin/" + applet, "busybox")
    add_modules(cpio, scratch, version)
    return cpio.bytes()


def add_program(cpio, path):
    cpio.file("bin/" + os.path.basename(path), path)
    libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+\.so\S*)", libraries):
        cpio.file(library.lstrip("/"), library)


def add_modules(cpio, scratch, version):
    """Adds MODULES and what they depend on, and depmod's tables, by which the guest finds them."""
    subprocess.run(["depmod", "-b", scratch, version], check=True, stderr=subprocess.DEVNULL,
                   env=dict(os.environ, PATH=SEARCH_PATH))
    folder = os.path.join("lib/modules", version)
    depends = {}
    with open(os.path.join(scratch, folder, "modules.dep")) as table:
        for line in table:
            path, needs = line.split(":")
            depends[path] = needs.split()
    by_name = {os.path.basename(path)[:-3].replace("-", "_"): path for path in depends}
    builtin = os.path.join(scratch, folder, "modules.builtin")
    with open(builtin) as table:
        builtins = {os.path.basename(line.strip())[:-3].replace("-", "_") for line in table}
    for name in MODULES:
        if name in builtins:
            continue
        if name not in by_name:
            raise RuntimeError(f"kernel {version} has no module {name}")
        for path in [by_name[name], *depends[by_name[name]]]:
            cpio.file(os.path.join(folder, path), os.path.join(scratch, folder, path))
    for table in ("modules.dep", "modules.alias", "modules.softdep", "modules.builtin"):
        cpio.file(os.path.join(folder, table), os.path.join(scratch, folder, table))


if __name__ == "__main__":
    try:
        make()
    except Unavailable as error:
        sys.exit(f"guest tests: {error}")
