"""Tests of the disk that forgets: what the rig proves is worth as much as this disk."""

import os
import random
import socket
import struct
import tempfile
import threading
import unittest

import disk

SECTOR = 512
SIZE = 64 * 1024
# Far more than anything takes on a busy machine, s.
PATIENCE = 30


def entry(kind, offset=0, data=b""):
    return disk.Entry(kind, 0.0, offset, len(data), data if kind == disk.WRITE else None)


def connected(path):
    """A connection that waits for no answer for ever."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(path)
    return connection


class Client:
    """As much of an NBD client as the tests need."""

    def __init__(self, path):
        self.connection = connected(path)
        disk.receive(self.connection, 18)
        # Something that is not known first, as real clients do.
        self.connection.sendall(struct.pack(">I", 3) + struct.pack(">8sII", disk.OPTION_MAGIC, 8, 0))
        assert struct.unpack(">QIII", disk.receive(self.connection, 20))[2] == disk.REP_UNSUPPORTED
        self.connection.sendall(struct.pack(">8sII", disk.OPTION_MAGIC, disk.OPT_GO, 6) + bytes(6))
        disk.receive(self.connection, 20 + 12 + 20)

    def ask(self, command, offset=0, length=0, data=b"", answer=0):
        head = disk.REQUEST.pack(disk.REQUEST_MAGIC, 0, command, 7, offset, length or len(data))
        self.connection.sendall(head + data)
        _, fault, _ = struct.unpack(">IIQ", disk.receive(self.connection, 16))
        return fault, disk.receive(self.connection, answer)

    def close(self):
        self.connection.sendall(disk.REQUEST.pack(disk.REQUEST_MAGIC, 0, disk.CMD_DISCONNECT, 7, 0, 0))
        self.connection.close()


class DiskTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def bytes_after(self, entries, place, kept):
        """What is on the disk after a power cut of which this is kept."""
        image = disk.Image(self.path("base"), SIZE)
        image.advance(entries, disk.flushed(entries, place))
        copy = image.copy(self.path("copy"))
        for piece in kept:
            copy.put(*piece)
        for each in (image, copy):
            each.close()
        with open(self.path("copy"), "rb") as file:
            return file.read()

    def test_all_left_out_loses_exactly_what_was_not_flushed(self):
        rng = random.Random(1)
        entries, flushed, now = [], bytes(SIZE), bytearray(SIZE)
        for number in range(150):
            kind = rng.choice([disk.WRITE, disk.WRITE, disk.WRITE, disk.ZERO, disk.FLUSH])
            length = rng.randrange(1, 20) * SECTOR
            offset = rng.randrange((SIZE - length) // SECTOR) * SECTOR
            if kind == disk.FLUSH:
                entries.append(entry(kind))
                flushed = bytes(now)
            else:
                data = bytes(length) if kind == disk.ZERO else bytes([number % 255 + 1]) * length
                entries.append(entry(kind, offset, data))
                now[offset : offset + length] = data
            place = len(entries)
            self.assertEqual(self.bytes_after(entries, place, []), flushed, number)
            since = entries[disk.flushed(entries, place) :]
            all_of_it = [(e.offset, e.length, e.data) for e in since]
            self.assertEqual(self.bytes_after(entries, place, all_of_it), now, number)

    def test_each_sector_is_an_old_or_a_new_one(self):
        old, new = b"o" * 16 * SECTOR, b"n" * 16 * SECTOR
        entries = [
            entry(disk.WRITE, 0, old), entry(disk.FLUSH), entry(disk.WRITE, SECTOR, new), entry(disk.ZERO, 0, old),
            entry(disk.FLUSH),
        ]
        seen = set()
        for seed in range(400):
            kept, lost = disk.remains(entries, 4, random.Random(seed), SECTOR)
            found = self.bytes_after(entries, 4, kept)
            sectors = [found[at : at + SECTOR] for at in range(0, 17 * SECTOR, SECTOR)]
            for sector in sectors:
                self.assertEqual(sector.count(sector[0]), SECTOR, "no sector is torn")
            letters = b"".join(sector[:1] for sector in sectors)
            self.assertIn(letters[:1], (b"o", b"\0"))
            self.assertEqual(lost == 0, len(kept) == 2 and sum(p[1] for p in kept) == 32 * SECTOR)
            seen.add(letters)
        self.assertIn(b"o" * 16 + b"\0", seen, "all is lost")
        self.assertIn(b"o" + b"n" * 16, seen, "the first one alone")
        self.assertIn(b"\0" * 17, seen, "the second one over a lost one")
        self.assertIn(b"\0" * 16 + b"n", seen, "both")
        self.assertGreater(len(seen), 50, "and parts of them")
        # A flush that ended before the cut leaves nothing to lose.
        self.assertEqual(disk.remains(entries, 5, random.Random(1), SECTOR), ([], 0))

    def test_a_torn_write_is_cut_at_sectors_of_the_disk(self):
        write = entry(disk.WRITE, 7 * SECTOR, bytes(range(1, 251)) * 40 + b"x" * 240)
        for seed in range(200):
            for start, length in disk.torn(write, random.Random(seed), disk.BLOCK):
                for edge in (start, start + length):
                    is_end = edge in (0, write.length)
                    self.assertTrue(is_end or (write.offset + edge) % disk.BLOCK == 0)

    def test_a_listener_has_its_name_once_it_listens(self):
        refused = []

        def knock(path):
            """Connects as soon as there is something, as the rig does."""
            while not os.path.exists(path):
                pass
            try:
                connected(path).close()
            except OSError as why:
                refused.append(why)

        for number in range(200):
            path = self.path(f"listener-{number}")
            knocker = threading.Thread(target=knock, args=(path,), daemon=True)
            knocker.start()
            with disk.listen(path):
                knocker.join(PATIENCE)
            self.assertFalse(knocker.is_alive())
        self.assertEqual(refused, [])

    def test_the_server_logs_what_it_is_told(self):
        paths = [self.path(name) for name in ("nbd", "side", "log")]
        listeners = [disk.listen(path) for path in paths[:2]]
        # A daemon: where this test fails, nobody waits for it.
        server = threading.Thread(target=disk.serve, args=(*listeners, paths[2], SIZE), daemon=True)
        server.start()
        client = Client(paths[0])
        side = connected(paths[1])

        def place():
            side.sendall(b"?")
            return int(side.recv(64))

        self.assertEqual(place(), 0)
        self.assertEqual(client.ask(disk.CMD_WRITE, SECTOR, data=b"w" * SECTOR), (0, b""))
        self.assertEqual(place(), 1)
        self.assertEqual(client.ask(disk.CMD_FLUSH), (0, b""))
        self.assertEqual(client.ask(disk.CMD_TRIM, 0, SECTOR), (0, b""))
        self.assertEqual(client.ask(disk.CMD_WRITE_ZEROES, SECTOR, SECTOR // 2), (0, b""))
        self.assertEqual(client.ask(disk.CMD_WRITE, 0, data=bytes(SECTOR)), (0, b""))
        self.assertEqual(client.ask(disk.CMD_WRITE, SIZE, data=b"x"), (disk.EINVAL, b""))
        half = bytes(SECTOR // 2)
        expected = bytes(SECTOR) + half + b"w" * (SECTOR // 2)
        self.assertEqual(client.ask(disk.CMD_READ, 0, 2 * SECTOR, answer=2 * SECTOR), (0, expected))
        self.assertEqual(place(), 5)
        client.close()
        side.close()
        server.join(PATIENCE)
        self.assertFalse(server.is_alive(), "the server ends with its client")
        found = [(e.kind, e.offset, e.length, e.data) for e in disk.read_log(paths[2])]
        self.assertEqual(found, [
            (disk.WRITE, SECTOR, SECTOR, b"w" * SECTOR), (disk.FLUSH, 0, 0, None), (disk.ZERO, 0, SECTOR, None),
            (disk.ZERO, SECTOR, SECTOR // 2, None), (disk.ZERO, 0, SECTOR, None),
        ])
        times = [e.at for e in disk.read_log(paths[2])]
        self.assertEqual(times, sorted(times))


if __name__ == "__main__":
    unittest.main()
