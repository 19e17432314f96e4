"""A host in small: a file system on a disk that forgets, or on what a power cut left of one, and nodes on it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Far more than anything takes on a busy machine, s.
PATIENCE = 30

MIB = 1 << 20


class FileSystem:
    """How one is made, and what it asks of a disk."""

    def __init__(self, name, mkfs, size, sector, options="", mkfs_choices=((),)):
        self.name, self.mkfs, self.size, self.sector = name, mkfs, size, sector
        self.options, self.mkfs_choices = options, mkfs_choices

    def is_here(self):
        with open("/proc/filesystems", encoding="ascii") as known:
            has_driver = self.name in known.read().split()
        return has_driver and shutil.which(self.mkfs[0]) is not None


# btrfs and f2fs keep their roots in blocks of 4 KiB that are written in one piece, so the disk below them has such sectors;
# the others get sectors of 512 bytes.
FILE_SYSTEMS = [
    FileSystem("ext4", ["mkfs.ext4", "-q", "-F"], 64 * MIB, 512, mkfs_choices=(("-b", "4096"), ("-b", "1024"))),
    FileSystem("xfs", ["mkfs.xfs", "-q", "-f"], 300 * MIB, 512),
    FileSystem("btrfs", ["mkfs.btrfs", "-q", "-f"], 128 * MIB, 4096),
    FileSystem("f2fs", ["mkfs.f2fs", "-q", "-f"], 64 * MIB, 4096),
]
# Without barriers ext4 never waits for the disk: what it says to be written may be gone.
NO_BARRIER = FileSystem("ext4", ["mkfs.ext4", "-q", "-F"], 64 * MIB, 512, options="barrier=0")


class Lacking(Exception):
    """Something that this machine does not have."""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")


def await_true(what, question):
    end = time.monotonic() + PATIENCE
    while not (answer := question()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.01)
    return answer


def mount(image, place, file_system):
    options = ",".join(["loop", "noatime", *filter(None, [file_system.options])])
    run("mount", "-t", file_system.name, "-o", options, image, place)


def unmount(place):
    """Whoever had files there was ended, but ends a moment later."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return run("umount", place)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


class ForgetfulDisk:
    """The disk with its log, its export as a file, and the file system that is mounted from that."""

    def __init__(self, folder, file_system, random):
        self.folder, self.file_system = folder, file_system
        self.processes, self.is_mounted = [], False
        os.mkdir(folder)
        path = lambda name: os.path.join(folder, name)
        self.log, self.mount_point = path("log"), path("m")
        os.mkdir(self.mount_point)
        nbd, side, disk = path("nbd"), path("side"), path("disk")
        self.spawn(
            [sys.executable, os.path.join(HERE, "disk.py"), "serve", "--nbd", nbd, "--side", side]
            + ["--log", self.log, "--size", str(file_system.size)]
        )
        await_true("the disk", lambda: os.path.exists(nbd))
        self.side = socket.socket(socket.AF_UNIX)
        self.side.connect(side)
        open(disk, "wb").close()
        # With cache.direct nothing stands in a cache of ours, and a sync of the file is a flush of the disk.
        exporter = self.spawn(
            ["qemu-storage-daemon", "--blockdev"]
            + [f"driver=nbd,node-name=disk,server.type=unix,server.path={nbd},cache.direct=on", "--export"]
            + [f"fuse,id=export,node-name=disk,mountpoint={disk},writable=on"]
        )
        is_exported = lambda: exporter.poll() is not None or os.path.getsize(disk) == file_system.size
        await_true("the export of the disk", is_exported)
        if exporter.poll() is not None:
            raise Lacking(f"qemu-storage-daemon can't show the disk as a file: {exporter.stderr.read().strip()}")
        try:
            run(*file_system.mkfs, *random.choice(file_system.mkfs_choices), disk)
            mount(disk, self.mount_point, file_system)
        except OSError as why:
            self.end()
            raise Lacking(f"{file_system.name} can't be made and mounted here: {why}") from why
        self.is_mounted = True

    def spawn(self, command):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.processes.append(child)
        return child

    def place(self):
        """How much of the log there is by now."""
        self.side.sendall(b"?")
        return int(self.side.recv(64))

    def end(self):
        if self.is_mounted:
            unmount(self.mount_point)
        # The exporter says goodbye to the disk, which then ends by itself.
        for child in reversed(self.processes):
            if child.args[0] == "qemu-storage-daemon" and child.poll() is None:
                child.terminate()
            child.wait()
            child.stderr.close()
        self.side.close()


class Refused(Exception):
    """What a node says that does not do what it was asked for."""


class Control:
    """A connection to the control socket of a node."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        try:
            self.connection.settimeout(PATIENCE)
            self.connection.connect(path)
        except OSError:
            self.connection.close()
            raise
        self.lines = self.connection.makefile("rb")

    def ask(self, **request):
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        line = self.lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the node is gone")
        answer = json.loads(line)
        if not answer["ok"]:
            raise Refused(answer["error"])
        return answer["result"]

    def close(self):
        self.lines.close()
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Node:
    """A node, with a folder of keys and a folder of states of its own below one place."""

    def __init__(self, program, place, name):
        self.program, self.name = program, name
        self.credentials = os.path.join(place, f"keys-{name}")
        self.data = os.path.join(place, f"data-{name}")
        self.network_key = os.path.join(self.credentials, "network.key")
        self.known_peers = os.path.join(self.credentials, name, "known_peers")
        self.socket = os.path.join(self.data, name, "control.sock")
        self.child, self.address, self.said = None, "127.0.0.1:0", ""

    def spawn(self, sync, bootstrap, log):
        command = [self.program, "run", "--node-id", self.name, "--listen", self.address, "--sync", sync]
        command += ["--credentials", self.credentials, "--data", self.data]
        command += ["--bootstrap", bootstrap] if bootstrap else []
        self.log = log
        with open(log, "w", encoding="utf-8") as stderr:
            self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def await_start(self):
        """Waits until it serves; says whether it does."""
        line = self.child.stdout.readline()
        if not line.startswith("listening on "):
            self.kill()
            return False
        self.address = line.split()[-1]
        return True

    def start(self, sync, bootstrap, log):
        self.spawn(sync, bootstrap, log)
        if not self.await_start():
            raise Refused(f"{self.name} does not start: {self.log_text()}")

    def control(self):
        return Control(self.socket)

    def ask(self, **request):
        with self.control() as control:
            return control.ask(**request)

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def signal(self, number):
        if self.child is not None:
            if self.child.poll() is None:
                self.child.send_signal(number)
            self.child.wait()
            self.child.stdout.close()
            self.child = None

    def kill(self):
        self.signal(signal.SIGKILL)

    def stop(self):
        """A clean stop; when it has ended, all of it is on disk."""
        self.signal(signal.SIGTERM)
