"""A member of a dsn network in Python, written from docs/protocol.md alone.

    client.py HOST:PORT NETWORK-KEY-FILE

It says HELLO twice, PING, PEERS, UPDATE and DATA to the node at that address, as a node of its own
that nobody can call back, and checks every byte of the answers. It prints what it learned and was
told as one JSON object. It ends with an exception at the first answer that docs/protocol.md
does not allow. Needs the package `cryptography`. tests/interop.rs runs it.
"""

import hashlib
import hmac
import http.client
import json
import os
import re
import struct
import sys
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TYPES = {"/hello": 1, "/peers": 2, "/update": 3, "/ping": 4, "/data": 5}
NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


# Section 2 and 3: the network key and the envelope.


class Network:
    def __init__(self, path):
        lines = [line.strip() for line in open(path)]
        keys = [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]
        self.encryption, self.authentication = (
            HKDF(hashes.SHA256(), 32, salt=b"dsn/1", info=info).derive(keys[0])
            for info in (b"encryption", b"authentication")
        )

    def crypt(self, nonce, text):
        return Cipher(algorithms.AES(self.encryption), modes.CTR(nonce)).encryptor().update(text)

    def tag(self, place, rest):
        text = b"dsn/1 envelope" + place + rest
        return hmac.digest(self.authentication, text, "sha256")

    def seal(self, path, payload):
        nonce = os.urandom(16)
        rest = nonce + self.crypt(nonce, bytes([TYPES[path]]) + payload)
        return rest + self.tag(b"\x01" + short(path.encode()), rest)

    def open(self, path, status, request_tag, envelope):
        rest, tag = envelope[:-32], envelope[-32:]
        place = b"\x02" + short(path.encode()) + struct.pack("<H", status) + request_tag
        assert len(envelope) >= 49, "the envelope is whole"
        assert hmac.compare_digest(tag, self.tag(place, rest)), "the answer is sealed for us"
        opened = self.crypt(rest[:16], rest[16:])
        assert opened[0] == TYPES[path], "the answer has the type of the request"
        return opened[1:]


# Section 4: the encoding.


def short(text):
    return bytes([len(text)]) + text


def u16(number):
    return struct.pack("<H", number)


def u64(number):
    return struct.pack("<Q", number)


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return u64(len(value)) + value


class Reader:
    def __init__(self, payload):
        self.payload, self.at = payload, 0

    def take(self, length):
        self.at += length
        assert self.at <= len(self.payload), "nothing is missing"
        return self.payload[self.at - length : self.at]

    def u16(self):
        return struct.unpack("<H", self.take(2))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def bool(self):
        byte = self.take(1)[0]
        assert byte in (0, 1)
        return byte == 1

    def bytes(self):
        return self.take(self.u64())

    def text(self):
        return self.bytes().decode()

    def node_id(self):
        node_id = self.text()
        assert NODE_ID.match(node_id), node_id
        return node_id

    def option(self, item):
        return item() if self.bool() else None

    def list(self, item):
        return [item() for _ in range(self.u64())]

    def end(self):
        assert self.at == len(self.payload), "no byte is left over"


# Section 5 and 6: signatures and records.


def sign(key, message):
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify(public, signature, message):
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def digest(entries):
    groups = {}
    for key, value in sorted(entries.items()):
        number = sha(key)[0]
        leaf = sha(b"\x00", u16(len(key)), key, value)
        groups.setdefault(number >> 4, {}).setdefault(number & 15, []).append(leaf)
    whole = b""
    for group, buckets in sorted(groups.items()):
        inner = b"".join(bytes([low]) + sha(b"\x01", *buckets[low]) for low in sorted(buckets))
        whole += bytes([group]) + sha(b"\x02", inner)
    return sha(b"\x03", whole)


def head(node_id, timestamp, left, entries):
    return short(node_id.encode()) + u64(timestamp) + bytes([left]) + digest(entries)


def fingerprint(node_id, timestamp, left, entries):
    return sha(b"dsn/1 version", head(node_id, timestamp, left, entries))[:16]


def make_record(node_id, key, timestamp, entries):
    pairs = b"".join(text(name) + text(value) for name, value in sorted(entries.items()))
    signature = sign(key, b"dsn/1 record" + head(node_id, timestamp, False, entries))
    return (
        text(node_id) + public_bytes(key) + u64(timestamp) + b"\x00"
        + u64(len(entries)) + pairs + signature
    )  # fmt: skip


def read_record(reader):
    node_id, public = reader.node_id(), reader.take(65)
    timestamp, left = reader.u64(), reader.bool()
    pairs = reader.list(lambda: (reader.bytes(), reader.bytes()))
    entries = dict(pairs)
    assert pairs == sorted(entries.items()), "keys rise, each stands once"
    verify(public, reader.take(64), b"dsn/1 record" + head(node_id, timestamp, left, entries))
    return {"node_id": node_id, "public": public, "timestamp": timestamp, "entries": entries,
            "fingerprint": fingerprint(node_id, timestamp, left, entries)}  # fmt: skip


def public_bytes(key):
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


# Section 7: the messages.


class Member:
    def __init__(self, node_id, address, network):
        self.node_id, self.network = node_id, network
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.session, self.number = os.urandom(16), 0
        self.to = self.to_session = self.to_key = None
        host, port = address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=5)

    def next_number(self):
        self.number = max(self.number + 1, time.time_ns() // 1000)
        return u64(self.number)

    def post(self, path, payload):
        """Seals and sends; opens what comes back: the status, the payload, the request's tag."""
        envelope = self.network.seal(path, payload)
        self.connection.request("POST", path, envelope)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status == 204:
            assert body == b"", "a 204 has no body"
            body = bytes.fromhex(answer.getheader("Dsn-Seal"))
        assert body, f"{path} got {answer.status} without a seal"
        tag = envelope[-32:]
        return answer.status, self.network.open(path, answer.status, tag, body), tag

    def signed(self, path, payload):
        """Sends a signed request, gives back the payload of the 200 or 204 without its signature."""
        kind = bytes([TYPES[path]])
        status, answer, tag = self.post(
            path, payload + sign(self.key, b"dsn/1 request" + kind + payload)
        )
        if status not in (200, 204):
            return status, self.refusal(answer)
        said, signature = answer[:-64], answer[-64:]
        if path == "/hello" and status == 200:
            self.to_key = self.key_in_hello(said)
        verify(self.to_key, signature, b"dsn/1 answer" + kind + tag + said)
        return status, said

    @staticmethod
    def refusal(payload):
        reader = Reader(payload)
        reason, message = reader.u16(), reader.text()
        held = reader.option(
            lambda: (reader.node_id(), reader.u64(), reader.bool(), reader.take(32), reader.take(64))
        )
        number = reader.u64()
        reader.end()
        return {"reason": reason, "text": message, "held": held, "number": number}

    @staticmethod
    def key_in_hello(said):
        reader = Reader(said)
        reader.u16(), reader.node_id()
        return reader.take(65)

    def hello(self):
        to = b"\x00"
        if self.to:
            to = b"\x01" + text(self.to) + self.to_session
        # Nobody listens at port 1: what the node sends us is refused at once.
        payload = (
            u16(1) + u16(1) + text(self.node_id) + public_bytes(self.key) + self.session
            + text("python") + u16(1) + b"\x00" + self.next_number() + to
        )  # fmt: skip
        return self.signed("/hello", payload)

    def hello_first(self):
        status, said = self.hello()
        assert status == 200, (status, said)
        reader = Reader(said)
        version, self.to, _ = reader.u16(), reader.node_id(), reader.take(65)
        self.to_session, program = reader.take(16), reader.text()
        advertise, seen = reader.option(reader.text), reader.text()
        reader.end()
        assert version == 1
        return {"node_id": self.to, "program": program, "advertise": advertise, "seen": seen}

    def header(self):
        both = self.session + self.to_session
        return text(self.node_id) + text(self.to) + both + self.next_number()

    def ping(self):
        status, said = self.signed("/ping", self.header() + bytes(16))
        assert status == 200, (status, said)
        reader = Reader(said)
        view, twin = reader.take(16), reader.option(lambda: (reader.text(), reader.take(65)))
        reader.end()
        return view, twin

    def peers(self):
        status, said = self.signed("/peers", self.header())
        assert status == 200, (status, said)
        reader = Reader(said)
        peers = reader.list(
            lambda: (reader.node_id(), reader.option(reader.text), reader.u64(), reader.take(16))
        )
        reader.end()
        return peers

    def update(self, records, wants):
        payload = text(self.to) + self.to_session + u64(len(records)) + b"".join(records)
        payload += u64(len(wants)) + b"".join(text(want) + u64(0) + bytes(16) for want in wants)
        status, answer, _ = self.post("/update", payload)
        if status not in (200, 204):
            return status, self.refusal(answer)
        reader = Reader(answer)
        records = reader.list(lambda: read_record(reader)) if status == 200 else []
        reader.end()
        return status, records

    def data(self, message_id, data):
        return self.signed("/data", self.header() + u64(message_id) + text(data))


def main(address, key_file):
    me = Member("python", address, Network(key_file))
    hello = me.hello_first()
    status, said = me.hello()
    assert (status, said) == (204, b""), (status, said)

    # Our own record, in one UPDATE with the wish for the node's.
    now = time.time_ns() // 1000
    entries = {b"language": b"Python", b"raw": b"\x00\xff"}
    mine = make_record("python", me.key, now, entries)
    status, records = me.update([mine], [me.to])
    assert status == 200, (status, records)
    [theirs] = records
    assert theirs["node_id"] == me.to and theirs["public"] == me.to_key

    # PEERS names the versions of these two records, and a PING their sum.
    peers = {node_id: rest for node_id, *rest in me.peers()}
    assert list(peers)[0] == me.to, "the receiver stands first"
    ours = fingerprint("python", now, False, entries)
    assert peers["python"] == [None, now, ours], "our address is left out"
    assert peers[me.to][1:] == [theirs["timestamp"], theirs["fingerprint"]]
    view, twin = me.ping()
    both = bytes(a ^ b for a, b in zip(ours, theirs["fingerprint"]))
    assert view == both and twin is None, "the view is that of two records"

    # The same again is fine, and nobody is told twice; an older version is refused.
    assert me.update([mine], []) == (204, [])
    old = make_record("python", me.key, now - 1, {})
    status, refusal = me.update([old], [])
    assert (status, refusal["reason"]) == (406, 20), refusal
    node_id, timestamp, left, held_digest, signature = refusal["held"]
    assert (node_id, timestamp, left, held_digest) == ("python", now, False, digest(entries))
    verify(public_bytes(me.key), signature, b"dsn/1 record" + head("python", now, False, entries))

    assert me.data(1, b"hello from Python") == (200, b"")
    assert me.data(1, b"hello from Python") == (200, b""), "the second is not delivered"
    me.number = 0
    me.next_number = lambda: u64(5)
    status, refusal = me.data(2, b"an old number")
    assert (status, refusal["reason"]) == (406, 23) and refusal["number"] > now, refusal

    state = {name.decode(): value.decode() for name, value in theirs["entries"].items()}
    print(json.dumps({**hello, "state": state}))


if __name__ == "__main__":
    main(*sys.argv[1:])
