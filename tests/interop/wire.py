"""The bytes of docs/protocol.md: sections 2 to 7, for who calls and for who answers.

Both the client and the member of this folder use it. What breaks the encoding is `Malformed`
(400/1 where a request does it), what breaks a limit of section 4 is `OverLimit` (406/22).
"""

import hashlib
import hmac
import ipaddress
import os
import re
import unicodedata
from collections import namedtuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Malformed(Exception):
    pass


class OverLimit(Exception):
    pass


def need(is_so, what, kind=Malformed):
    if not is_so:
        raise kind(what)


TYPES = {"/hello": 1, "/peers": 2, "/update": 3, "/ping": 4, "/data": 5}


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def short(text):
    return bytes([len(text)]) + text


# Sections 2 and 3: the network key and the envelope.


def keys_of_file(path):
    lines = [line.strip() for line in open(path)]
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def place_of_request(path):
    return b"\x01" + short(path.encode())


def place_of_answer(path, status, request_tag):
    return b"\x02" + short(path.encode()) + status.to_bytes(2, "little") + request_tag


class Unsealed(Exception):
    pass


class WrongType(Exception):
    pass


class Network:
    def __init__(self, key):
        self.encryption, self.authentication = (
            HKDF(hashes.SHA256(), 32, salt=b"dsn/1", info=info).derive(key)
            for info in (b"encryption", b"authentication")
        )

    def crypt(self, nonce, text):
        return Cipher(algorithms.AES(self.encryption), modes.CTR(nonce)).encryptor().update(text)

    def tag(self, place, rest):
        return hmac.digest(self.authentication, b"dsn/1 envelope" + place + rest, "sha256")

    def seal(self, place, kind, payload, nonce=None):
        nonce = nonce or os.urandom(16)
        rest = nonce + self.crypt(nonce, bytes([kind]) + payload)
        return rest + self.tag(place, rest)

    def open(self, place, kind, envelope):
        rest, tag = envelope[:-32], envelope[-32:]
        need(len(envelope) >= 49, "the envelope is whole", Unsealed)
        is_right = hmac.compare_digest(tag, self.tag(place, rest))
        need(is_right, "it is sealed for this place", Unsealed)
        opened = self.crypt(rest[:16], rest[16:])
        need(opened[0] == kind, "it has the type of its path", WrongType)
        return opened[1:]


# Section 4: the encoding. A type reads a value from a Reader, and writes it to bytes. What is
# written may break a rule, to be refused.


class Reader:
    def __init__(self, payload):
        self.payload, self.at = payload, 0

    def take(self, size):
        self.at += size
        need(self.at <= len(self.payload), "nothing is missing")
        return self.payload[self.at - size : self.at]


Type = namedtuple("Type", "read write")


def number(size):
    return Type(
        lambda reader: int.from_bytes(reader.take(size), "little"),
        lambda value: value.to_bytes(size, "little"),
    )


def fixed(size):
    return Type(lambda reader: reader.take(size), lambda value: value)


def read_bool(reader):
    byte = reader.take(1)[0]
    need(byte in (0, 1), byte)
    return byte == 1


U8, U16, U32, U64 = number(1), number(2), number(4), number(8)
BOOL = Type(read_bool, lambda value: bytes([value]))
RING = Type(lambda reader: int(read_bool(reader)), lambda value: bytes([value]))
BYTES = Type(
    lambda reader: reader.take(U64.read(reader)), lambda value: U64.write(len(value)) + value
)


def text(is_right):
    def read(reader):
        try:
            value = BYTES.read(reader).decode()
        except UnicodeDecodeError as error:
            raise Malformed(error) from error
        need(is_right(value), value)
        return value

    return Type(read, lambda value: BYTES.write(value.encode()))


def option(item):
    return Type(
        lambda reader: item.read(reader) if BOOL.read(reader) else None,
        lambda value: b"\x00" if value is None else b"\x01" + item.write(value),
    )


def structure(fields):
    return Type(
        lambda reader: {name: kind.read(reader) for name, kind in fields.items()},
        lambda values: b"".join(kind.write(values[name]) for name, kind in fields.items()),
    )


def list_of(item, most, name=None):
    """`name` is the field that rises from item to item, where there is one."""

    def read(reader):
        count = U64.read(reader)
        need(count <= most, count)
        items = [item.read(reader) for _ in range(count)]
        if name:
            names = [item[name].encode() for item in items]
            need(names == sorted(set(names)), "names rise, each stands once")
        return items

    return Type(read, lambda items: U64.write(len(items)) + b"".join(map(item.write, items)))


def pairs_of(value):
    """A list of keys and values, as a dictionary. How many there may be is a limit."""
    pairs = list_of(structure({"key": text(lambda _: True), "value": value}), 1 << 64, "key")
    return Type(
        lambda reader: {pair["key"]: pair["value"] for pair in pairs.read(reader)},
        lambda items: pairs.write([{"key": key, "value": items[key]} for key in sorted(items)]),
    )


def decode(kind, payload):
    reader = Reader(payload)
    value = kind.read(reader)
    need(reader.at == len(payload), "no byte is left over")
    return value


def is_node_id(text):
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text)


def is_address(text):
    parts = re.fullmatch(
        r"(\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._][A-Za-z0-9._-]{0,252}):([0-9]+)", text
    )
    if not parts or len(text) > 260 or not 1 <= int(parts[3]) <= 65535:
        return False
    try:
        return not parts[2] or bool(ipaddress.IPv6Address(parts[2]))
    except ValueError:
        return False


# Characters of a key that are not seen or turn a line around.
UNSEEN = [0xAD, 0x61C, 0x180E, 0xFEFF] + [
    character
    for first, last in ((0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFFF9, 0xFFFB),
                        (0xE0000, 0xE007F))
    for character in range(first, last + 1)
]  # fmt: skip


def is_key(text):
    controls = any(unicodedata.category(character) == "Cc" for character in text)
    unseen = any(ord(character) in UNSEEN for character in text)
    return 1 <= len(text.encode()) <= 256 and not controls and not unseen and "=" not in text


def is_printable(most):
    return lambda text: re.fullmatch(f"[ -~]{{0,{most}}}", text)


# Sections 6 and 7: records and messages. A RUN is an incarnation or a session.

KEY, RUN, SIGNATURE = fixed(65), fixed(16), fixed(64)
NODE_ID, ADDRESS, PROGRAM = text(is_node_id), text(is_address), text(is_printable(32))
VERSION = {"timestamp": U64, "fingerprint": fixed(16)}
NO_VERSION = {"timestamp": 0, "fingerprint": bytes(16)}

START = {"node_id": NODE_ID, "timestamp": U64, "flags": U8}
HOME = structure({"incarnation": RUN, "address": option(ADDRESS)})
CHANGES = {"base": fixed(16), "digest": fixed(32), "changes": pairs_of(option(BYTES))}
RECORDS = {
    # By the flags without the lowest one.
    0: structure({
        **START, "public_key": KEY, "home": HOME, "entries": pairs_of(BYTES),
        "signature": SIGNATURE,
    }),
    2: structure({**START, **CHANGES, "signature": SIGNATURE}),
    6: structure({**START, "home": HOME, **CHANGES, "signature": SIGNATURE}),
}  # fmt: skip


def read_record(reader):
    at = reader.at
    flags = structure(START).read(reader)["flags"]
    need(flags & ~1 in RECORDS, flags)
    reader.at = at
    return RECORDS[flags & ~1].read(reader)


def write_record(record):
    kind = (6 if "home" in record else 2) if "base" in record else 0
    return RECORDS[kind].write(record)


RECORD = Type(read_record, write_record)
HEADER = {"from": NODE_ID, "to": NODE_ID, "incarnation": RUN, "session": RUN, "number": U64}
PROOF = structure({"to": NODE_ID, "session": RUN, "number": U64, "given": RUN})
RANKED = {"rank": fixed(8), "version": structure(VERSION)}
KNOWN = structure({
    "node_id": NODE_ID, "address": option(ADDRESS), **RANKED, "is_lost": BOOL,
})  # fmt: skip
WISH = structure({"node_id": NODE_ID, **VERSION})
TWIN = structure({"address": ADDRESS, "public_key": KEY})
HEAD = structure({
    "timestamp": U64, "left": BOOL, "digest": fixed(32), "home": HOME, "signature": SIGNATURE,
})  # fmt: skip
REFUSED = structure({"node_id": NODE_ID, "reason": U16, "head": option(HEAD)})

RELAY = structure({"owner": NODE_ID, "ring": RING, "after": NODE_ID, "through": NODE_ID})
ASK = structure({"about": NODE_ID, "asker": NODE_ID, "challenge": RUN})
WORD = structure({"about": NODE_ID, "challenge": RUN, "here": option(SIGNATURE)})
SUSPECT = structure({"node_id": NODE_ID, "fingerprint": fixed(16)})
MAIL = structure({
    "challenges": list_of(RUN, 8), "words": list_of(WORD, 8),
    "suspects": list_of(SUSPECT, 64, "node_id"),
})  # fmt: skip


def ordered(kind, names_of):
    """A list of which no two have one name, in the order that the names say."""

    def read(reader):
        items = kind.read(reader)
        names = [names_of(item) for item in items]
        need(names == sorted(set(names)), "in rising order, each once")
        return items

    return Type(read, kind.write)


def read_records(reader):
    """At most 64 whole ones, then partial ones, in an order of their own; no node twice."""
    records = list_of(RECORD, 65).read(reader)
    wholes = [record["node_id"].encode() for record in records if "base" not in record]
    rest = [record["node_id"].encode() for record in records[len(wholes) :]]
    need(all("base" in record for record in records[len(wholes) :]), "whole ones come first")
    need(len(wholes) <= 64 and wholes == sorted(wholes) and rest == sorted(rest), "in order")
    need(len(set(wholes + rest)) == len(records), "a node is in the list once")
    return records


PUSHED = Type(read_records, list_of(RECORD, 65).write)
RELAYS = ordered(list_of(RELAY, 64), lambda relay: (relay["owner"].encode(), relay["ring"]))
PUSH = structure({
    "form": U8, "to": NODE_ID, "incarnation": RUN, "records": PUSHED,
    "relays": RELAYS, "asks": list_of(ASK, 8), "words": list_of(WORD, 8),
    "suspects": list_of(SUSPECT, 64, "node_id"),
})  # fmt: skip
REQUESTS = {
    "/hello": structure({
        "lowest": U16, "highest": U16, "from": NODE_ID, "public_key": KEY, "incarnation": RUN,
        "program": PROGRAM, "port": U16, "advertise": option(ADDRESS), "proof": option(PROOF),
        "signature": SIGNATURE,
    }),
    "/peers": structure({**HEADER, "buckets": fixed(32 * 16), "signature": SIGNATURE}),
    "/update": structure({
        "form": U8, **HEADER, "wishes": list_of(WISH, 64, "node_id"), "signature": SIGNATURE,
    }),
    "/ping": structure({**HEADER, "view": fixed(16), "signature": SIGNATURE}),
    "/data": structure({**HEADER, "id": U64, "bytes": BYTES, "signature": SIGNATURE}),
}  # fmt: skip
ANSWERS = {
    ("/hello", 200): structure({
        "version": U16, "node_id": NODE_ID, "public_key": KEY, "incarnation": RUN, "session": RUN,
        "program": PROGRAM, "advertise": option(ADDRESS), "seen": ADDRESS, "signature": SIGNATURE,
    }),
    ("/hello", 204): structure({"signature": SIGNATURE}),
    ("/peers", 200): structure({
        "differing": U32, "known": list_of(KNOWN, 1025, "node_id"), "signature": SIGNATURE,
    }),
    ("/update", 200): structure({"records": list_of(RECORD, 64, "node_id")}),
    ("/update", 204): structure({}),
    ("/ping", 200): structure({
        "view": fixed(16), "twin": option(TWIN), "mail": option(MAIL), "signature": SIGNATURE,
    }),
    ("/data", 200): structure({"signature": SIGNATURE}),
}  # fmt: skip
HERE = structure({"here": SIGNATURE})
REFUSAL = structure({
    "reason": U16, "text": text(is_printable(500)), "number": U64, "records": list_of(REFUSED, 65),
})  # fmt: skip
STATUSES = {
    1: 400, 2: 400, 10: 401, 11: 401, 12: 401, 13: 401, 14: 401, 15: 401, 16: 401, 20: 406,
    21: 406, 22: 406, 23: 406, 24: 406, 25: 406, 26: 406, 27: 406, 30: 500, 40: 505,
}  # fmt: skip


def request_type(path, form):
    return PUSH if (path, form) == ("/update", 0) else REQUESTS[path]


def decode_request(path, payload):
    if path == "/update":
        need(payload[:1] in (b"\x00", b"\x01"), "a push or a pull")
    message = decode(request_type(path, payload[0] if path == "/update" else None), payload)
    hold_to_limits(path, message)
    return message


def hold_to_limits(path, message):
    """The limits of section 4 but that of the number, which is looked at when its turn comes."""
    if path == "/hello":
        need(message["port"] >= 1, "a port", OverLimit)
    if path == "/data":
        need(len(message["bytes"]) <= 1 << 20, "the bytes of DATA", OverLimit)
    for record in message.get("records", []):
        if "flags" in record:
            need(1 <= record["timestamp"] < 1 << 53, "a timestamp", OverLimit)
            hold_entries(record["changes" if "base" in record else "entries"])
            hold_state(record.get("entries", {}))


def hold_entries(entries):
    for key, value in entries.items():
        need(is_key(key) and len(value or b"") <= 65536, "a key and a value", OverLimit)


def hold_state(entries):
    size = size_of(entries)
    need(len(entries) <= 16384 and size <= 1 << 20, "the size of a state", OverLimit)


def size_of(entries):
    return sum(len(key.encode()) + len(value) + 16 for key, value in entries.items())


def decode_answer(path, status, payload):
    if (path, status, len(payload)) == ("/update", 200, 64):
        return {"here": payload}
    if (path, status) in ANSWERS:
        return decode(ANSWERS[path, status], payload)
    refusal = decode(REFUSAL, payload)
    need(STATUSES[refusal["reason"]] == status, (status, refusal))
    return refusal


# Section 5: signatures.


def sign(key, message):
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify(public_key, signature, message):
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def is_signed(public_key, signature, message):
    try:
        verify(public_key, signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def signed_request(path, payload):
    return b"dsn/1 request" + bytes([TYPES[path]]) + payload[:-64]


def signed_answer(path, request_tag, payload):
    return b"dsn/1 answer" + bytes([TYPES[path]]) + request_tag + payload[:-64]


def signed_here(node_id, challenge):
    return b"dsn/1 here" + bytes([len(node_id)]) + node_id.encode() + challenge


def public_bytes(key):
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


# Section 6: what is hashed and signed of records.


def digest(entries):
    groups = {}
    for key, value in sorted((key.encode(), value) for key, value in entries.items()):
        bucket = sha(key)[0]
        leaf = sha(b"\x00", len(key).to_bytes(2, "little"), key, value)
        groups.setdefault(bucket >> 4, {}).setdefault(bucket & 15, []).append(leaf)
    root = b""
    for group, buckets in sorted(groups.items()):
        inner = b"".join(bytes([low]) + sha(b"\x01", *buckets[low]) for low in sorted(buckets))
        root += bytes([group]) + sha(b"\x02", inner)
    return sha(b"\x03", root)


def head(node_id, timestamp, left, digest, home):
    address = (home["address"] or "").encode()
    lives = home["incarnation"] + U16.write(len(address)) + address
    return short(node_id.encode()) + U64.write(timestamp) + bytes([left]) + digest + lives


def head_of(record):
    root = digest(record["entries"])
    return head(record["node_id"], record["timestamp"], record["flags"] & 1, root, record["home"])


def signed(key, record, head):
    return {**record, "signature": sign(key, b"dsn/1 record" + head)}


def verify_record(record):
    verify(record["public_key"], record["signature"], b"dsn/1 record" + head_of(record))


def verify_held(public_key, refused):
    """The head of what the receiver holds instead of a record that it refused."""
    held = refused["head"]
    signed = head(*(
        refused["node_id"], held["timestamp"], held["left"], held["digest"], held["home"]
    ))  # fmt: skip
    verify(public_key, held["signature"], b"dsn/1 record" + signed)


def version(record):
    fingerprint = sha(b"dsn/1 version", record["public_key"], head_of(record))[:16]
    return {"timestamp": record["timestamp"], "fingerprint": fingerprint}


def rank(node_id, public_key):
    return sha(b"dsn/1 rank", short(node_id.encode()), public_key)[:8]


def bucket_of(node_id):
    return sha(node_id.encode())[0] >> 3


def buckets_of(fingerprints, missed=()):
    held = [b""] * 32
    for node_id in sorted(fingerprints, key=str.encode):
        held[bucket_of(node_id)] += fingerprints[node_id]
    hashes = [sha(b"dsn/1 bucket of a view", bucket)[:16] for bucket in held]
    for node_id in missed:
        hashes[bucket_of(node_id)] = bytes(16)
    return hashes


def fingerprint_of_lost(fingerprint):
    return sha(b"dsn/1 lost", fingerprint)[:16]


def view_of(fingerprints):
    return sha(b"dsn/1 view", *buckets_of(fingerprints))[:16]


def fingerprints_of(records):
    return {node_id: version(record)["fingerprint"] for node_id, record in records.items()}


def buckets(records, missed=()):
    return buckets_of(fingerprints_of(records), missed)


def view(records):
    return view_of(fingerprints_of(records))


NOWHERE = {"incarnation": bytes(16), "address": None}


def whole(node_id, key, timestamp, entries, flags=0, home=NOWHERE):
    record = {"node_id": node_id, "public_key": public_bytes(key), "flags": flags, "home": home,
              "timestamp": timestamp, "entries": entries}  # fmt: skip
    return signed(key, record, head_of(record))


def partial(base, key, timestamp, changes, digest, home=None):
    """With a home only where that is another one than the base says."""
    moved = {"home": home} if home else {}
    record = {"node_id": base["node_id"], "timestamp": timestamp,
              "flags": 6 if home else 2, "base": version(base)["fingerprint"], "digest": digest,
              "changes": changes, **moved}  # fmt: skip
    return signed(key, record, head(base["node_id"], timestamp, 0, digest, home or base["home"]))


def changed(base, record):
    """The whole record that a partial one makes of its base."""
    need(record["base"] == version(base)["fingerprint"], "it is made of this version")
    entries = {**base["entries"], **record["changes"]}
    entries = {key: value for key, value in entries.items() if value is not None}
    need(digest(entries) == record["digest"], "the change makes what was signed")
    kept = {name: record[name] for name in ("node_id", "timestamp", "signature")}
    home = record.get("home", base["home"])
    kept["public_key"] = base["public_key"]
    return {**kept, "flags": record["flags"] & 1, "home": home, "entries": entries}
