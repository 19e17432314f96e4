"""A disk that forgets: an NBD server that logs all that it is told, and what a power cut may leave of that.

A write is on such a disk when a flush that came after it has ended. Until then it may be lost, torn, or there while one
before it is not. The server is told apart from real disks by nothing but its log: so each place in the log is a power cut.

    disk.py serve --nbd SOCKET --side SOCKET --log FILE --size BYTES
"""

import argparse
import mmap
import os
import socket
import struct
import sys
import threading
import time
from typing import NamedTuple, Optional

WRITE, ZERO, FLUSH = 1, 2, 3
# What an entry of the log begins with: kind, time, offset, length.
HEAD = struct.Struct(">BdQI")
BLOCK = 4096

# The NBD protocol, as far as it is needed: fixed newstyle, simple replies.
# FUA is not offered: who asks for it gets a write and a flush.
NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
HAS_FLAGS, SEND_FLUSH, SEND_TRIM, SEND_WRITE_ZEROES = 1, 4, 32, 64
CMD_READ, CMD_WRITE, CMD_DISCONNECT, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 6
REQUEST = struct.Struct(">IHHQQI")
EINVAL = 22


class Entry(NamedTuple):
    """Something that the disk was told."""

    kind: int
    at: float
    offset: int
    length: int
    # What was written; nothing where it is zeros.
    data: Optional[bytes]


class Disk:
    """What the disk was told so far, and what it shows while it has power."""

    def __init__(self, size, log):
        self.size = size
        self.image = mmap.mmap(-1, size)
        self.log = log
        # How much of the log there is: the place that a power cut would have now.
        self.place = 0

    def note(self, kind, offset=0, length=0, data=None):
        self.log.write(HEAD.pack(kind, time.monotonic(), offset, length))
        if data is not None:
            self.log.write(data)
        self.place += 1

    def write(self, offset, data):
        self.image[offset : offset + len(data)] = data
        if data.count(0) == len(data):
            self.note(ZERO, offset, len(data))
        else:
            self.note(WRITE, offset, len(data), data)

    def zero(self, offset, length):
        self.image[offset : offset + length] = bytes(length)
        self.note(ZERO, offset, length)

    def flush(self):
        self.note(FLUSH)


def receive(connection, count):
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise ConnectionError("the other side is gone")
        parts += part
    return bytes(parts)


def shake_hands(connection, disk):
    """Agrees upon the one export; says whether requests follow."""
    flags = HAS_FLAGS | SEND_FLUSH | SEND_TRIM | SEND_WRITE_ZEROES
    connection.sendall(NBD_MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
    (client_flags,) = struct.unpack(">I", receive(connection, 4))
    while True:
        magic, option, length = struct.unpack(">8sII", receive(connection, 16))
        if magic != OPTION_MAGIC or length > 65536:
            raise ConnectionError("this is not NBD")
        receive(connection, length)

        def reply(kind, payload=b""):
            head = struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(payload))
            connection.sendall(head + payload)

        if option == OPT_EXPORT_NAME:
            padding = b"" if client_flags & NO_ZEROES else bytes(124)
            connection.sendall(struct.pack(">QH", disk.size, flags) + padding)
            return True
        if option in (OPT_GO, OPT_INFO):
            reply(REP_INFO, struct.pack(">HQH", 0, disk.size, flags))
            reply(REP_ACK)
            if option == OPT_GO:
                return True
        elif option == OPT_ABORT:
            reply(REP_ACK)
            return False
        else:
            reply(REP_UNSUPPORTED)


def serve_requests(connection, disk):
    """One request after the other: so a flush is behind all writes that were answered before it."""
    while True:
        request = REQUEST.unpack(receive(connection, REQUEST.size))
        magic, _, command, handle, offset, length = request
        if magic != REQUEST_MAGIC:
            raise ConnectionError("this is not NBD")
        if command == CMD_DISCONNECT:
            return
        data = receive(connection, length) if command == CMD_WRITE else b""
        fault, answer = 0, b""
        if offset + length > disk.size:
            fault = EINVAL
        elif command == CMD_READ:
            answer = disk.image[offset : offset + length]
        elif command == CMD_WRITE:
            disk.write(offset, data)
        elif command in (CMD_TRIM, CMD_WRITE_ZEROES):
            disk.zero(offset, length)
        elif command == CMD_FLUSH:
            disk.flush()
        else:
            fault = EINVAL
        connection.sendall(struct.pack(">IIQ", REPLY_MAGIC, fault, handle) + answer)


def listen(path):
    """A listener at a path. It has its name once it listens: whoever finds it can connect."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(16)
    os.rename(f"{path}.new", path)
    return listener


def tell_places(listener, disk):
    """The side socket: each byte that comes is asked for the place in the log."""

    def tell(connection):
        with connection:
            while connection.recv(1):
                connection.sendall(b"%d\n" % disk.place)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=tell, args=(connection,), daemon=True).start()


def serve(nbd, side, log_path, size):
    """Serves the one who connects first, until that one goes; takes listeners."""
    with open(log_path, "wb") as log:
        disk = Disk(size, log)
        threading.Thread(target=tell_places, args=(side, disk), daemon=True).start()
        with nbd:
            connection, _ = nbd.accept()
        with connection:
            try:
                if shake_hands(connection, disk):
                    serve_requests(connection, disk)
            except ConnectionError:
                # Whoever used the disk was killed; what it said stands in the log.
                pass


def read_log(path):
    """All entries. One that was cut off, with the server, is none."""
    entries = []
    with open(path, "rb") as log:
        while len(head := log.read(HEAD.size)) == HEAD.size:
            kind, at, offset, length = HEAD.unpack(head)
            data = log.read(length) if kind == WRITE else None
            if data is not None and len(data) < length:
                break
            entries.append(Entry(kind, at, offset, length, data))
    return entries


def flushed(entries, place):
    """How many entries are on the disk for certain when the power goes at a place."""
    while place and entries[place - 1].kind != FLUSH:
        place -= 1
    return place


def torn(entry, random, sector):
    """The pieces of a write of which only some sectors got to the disk, as (offset in the write, length)."""
    first = entry.offset // sector
    count = (entry.offset + entry.length - 1) // sector - first + 1
    cut = random.randrange(count + 1)
    way = random.randrange(3)
    if way == 0:
        kept = range(cut)
    elif way == 1:
        kept = range(cut, count)
    else:
        kept = [number for number in range(count) if random.random() < 0.5]
    pieces = []
    for number in kept:
        start = max((first + number) * sector, entry.offset) - entry.offset
        end = min((first + number + 1) * sector - entry.offset, entry.length)
        if pieces and sum(pieces[-1]) == start:
            pieces[-1] = (pieces[-1][0], end - pieces[-1][0])
        else:
            pieces.append((start, end - start))
    return pieces


def remains(entries, place, random, sector):
    """What the disk kept of the writes since the last flush, in the order in which they got there: any of them, some of
    them torn. Gives (offset, length, data), and how many were lost in whole or in part."""
    writes = [entry for entry in entries[flushed(entries, place) : place] if entry.kind != FLUSH]
    random.shuffle(writes)
    lost_share = random.choice((0, 0.1, 0.3, 0.5, 0.7, 0.9, 1))
    torn_share = random.choice((0, 0, 0.2, 0.5, 1))
    kept, lost = [], 0
    for entry in writes:
        if random.random() < lost_share:
            lost += 1
            continue
        pieces = [(0, entry.length)]
        if random.random() < torn_share:
            pieces = torn(entry, random, sector)
            lost += pieces != [(0, entry.length)]
        for start, length in pieces:
            data = None if entry.data is None else entry.data[start : start + length]
            kept.append((entry.offset + start, length, data))
    return kept, lost


class Image:
    """A file with what a disk has on it. Blocks that were never written are holes."""

    def __init__(self, path, size):
        self.path, self.size = path, size
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.truncate(self.file, size)
        self.blocks = set()
        self.place = 0

    def put(self, offset, length, data):
        blocks = range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
        if data is not None:
            os.pwrite(self.file, data, offset)
            self.blocks.update(blocks)
            return
        for block in self.blocks.intersection(blocks):
            start, end = max(block * BLOCK, offset), min((block + 1) * BLOCK, offset + length)
            os.pwrite(self.file, bytes(end - start), start)

    def advance(self, entries, place):
        """Brings it from where it is in the log to a later place; nothing is lost."""
        for entry in entries[self.place : place]:
            if entry.kind != FLUSH:
                self.put(entry.offset, entry.length, entry.data)
        self.place = place

    def copy(self, path):
        """A copy, which has the same holes."""
        other = Image(path, self.size)
        other.blocks, other.place = set(self.blocks), self.place
        end = 0
        while True:
            try:
                start = os.lseek(self.file, end, os.SEEK_DATA)
            except OSError:
                # There is no more.
                return other
            end = os.lseek(self.file, start, os.SEEK_HOLE)
            os.lseek(other.file, start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(other.file, self.file, start, end - start)

    def close(self):
        os.close(self.file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["serve"])
    for name in ("--nbd", "--side", "--log"):
        parser.add_argument(name, required=True)
    parser.add_argument("--size", type=int, required=True)
    args = parser.parse_args()
    # The side comes first: who finds the other one may ask for places.
    side = listen(args.side)
    serve(listen(args.nbd), side, args.log, args.size)


if __name__ == "__main__":
    sys.exit(main())
