"""What a member of a dsn network knows, and which records it takes: docs/protocol.md, section 6,
the table of section 7, and who is alive in section 9.

All of it is under one lock. Times are seconds of a clock that never goes back.
"""

import hmac
import json
import os
import threading
import time

from cryptography.hazmat.primitives.asymmetric import ec
from wire import (
    NO_VERSION,
    Malformed,
    OverLimit, RECORD,
    buckets_of,
    changed,
    digest,
    fingerprint_of_lost,
    head,
    hold_state,
    is_signed,
    partial,
    public_bytes,
    rank,
    sha,
    short,
    size_of,
    view_of,
    whole,
)  # fmt: skip

LARGE = 32  # others that were met or of which a record is held: with more a network is large
CALLERS_REPLACED = 8  # incarnations of one node that are remembered after later ones
VERSIONS_TO_STAY_ABOVE = 16  # times a run goes above what an earlier one made


class Held:
    """A version that was verified. `came` is the record as it came, whole or partial."""

    def __init__(self, record, came=None):
        self.record, self.came = record, came or record
        self.digest = digest(record["entries"])
        self.head = head_with(record, self.digest, record["home"])
        self.fingerprint = fingerprint(record["public_key"], self.head)
        self.order = order(record, self.digest, record["home"])
        self.is_large = sum(len(k.encode()) + len(v) for k, v in record["entries"].items()) > 16384

    def __getattr__(self, name):
        return self.record[name]

    @property
    def has_left(self):
        return bool(self.record["flags"] & 1)

    def version(self):
        return {"timestamp": self.timestamp, "fingerprint": self.fingerprint}

    def head_to_show(self):
        return {"timestamp": self.timestamp, "left": self.has_left, "digest": self.digest,
                "home": self.home, "signature": self.signature}  # fmt: skip


def head_with(record, digest, home):
    return head(record["node_id"], record["timestamp"], record["flags"] & 1, digest, home)


def fingerprint(public_key, head):
    return sha(b"dsn/1 version", public_key, head)[:16]


def order(record, digest, home):
    address = (home["address"] is not None, (home["address"] or "").encode())
    return record["timestamp"], record["flags"] & 1, digest, home["incarnation"], address


class Peer:
    def __init__(self, node_id, now):
        self.node_id, self.known_since = node_id, now
        self.public_key, self.is_proved = None, False
        self.incarnation, self.replaced = None, []
        self.session = None  # what it wants to be named
        self.number_in = self.number_out = 0
        self.address, self.is_reached, self.answered_last = None, False, None
        self.kept_at = None  # an address that others do not know: the test's word
        self.is_connected = self.called_here = False
        self.called_at = self.lost_since = None
        self.held, self.floor = None, {}
        self.status, self.heard, self.vouched = "suspect", None, None
        self.lost_version = None  # what was held of it when it was lost
        self.accused = self.accused_of = self.lost_at = self.doubt = None
        self.is_lost_by_list = self.spread_next = False
        self.holds = None  # fingerprint of the own version that it took
        self.call_since, self.check_until = None, 0.0
        self.differs_since, self.is_new = None, True
        self.last_data = self.twin = None
        self.busy, self.failures, self.wait_until, self.wait = False, 0, 0.0, 0.0
        self.exchange_until, self.exchange_wait = 0.0, 0.0
        self.owes = set()  # of "hello", "ping", "peers"
        self.wishes = {}
        self.errands, self.accusations = {}, {}
        self.asks, self.words = [], []

    def home(self):
        return self.held.home if self.held else None

    def where(self):
        """Address and incarnation that a push goes to."""
        home = self.home()
        if self.kept_at:
            return self.kept_at, home["incarnation"] if home else self.incarnation
        if self.is_connected or not home or not home["address"]:
            return self.address, self.incarnation
        is_present = home["incarnation"] == self.incarnation and self.is_reached
        return (self.address if is_present else home["address"]), home["incarnation"]

    def can_be_brought(self):
        address, incarnation = self.where()
        return self.status in ("alive", "suspect") and bool(address and incarnation)


class Refused(Exception):
    def __init__(self, reason, text, number=0, records=()):
        super().__init__(text)
        self.reason, self.text, self.number, self.records = reason, text, number, records


class Table:
    def __init__(self, node_id, network, tick, log):
        self.node_id, self.network, self.tick, self.log = node_id, network, tick, log
        self.lock = threading.RLock()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = public_bytes(self.key)
        self.incarnation, self.secret = os.urandom(16), os.urandom(32)
        self.peers, self.inbox = {}, []
        self.began = time.monotonic()
        self.own = self.address = None
        self.went_above = 0
        self.last_refutation, self.to_refute = 0.0, None

    def start_at(self, address):
        self.address = address
        home = {"incarnation": self.incarnation, "address": address}
        self.own = Held(whole(self.node_id, self.key, time.time_ns() // 1000, {}, home=home))

    def peer(self, node_id):
        if node_id not in self.peers:
            self.peers[node_id] = Peer(node_id, time.monotonic())
        return self.peers[node_id]

    def is_large(self):
        counted = (peer.is_proved or peer.held for peer in self.peers.values())
        return sum(map(bool, counted)) > LARGE

    def session_for(self, node_id, public_key):
        caller = short(node_id.encode()) + public_key
        return hmac.digest(self.secret, caller, "sha256")[:16]

    def next_number(self, peer):
        peer.number_out = max(peer.number_out + 1, time.time_ns() // 1000)
        return peer.number_out

    def rank_of(self, node_id):
        peer = self.peers.get(node_id)
        return rank(node_id, peer.public_key) if peer and peer.public_key else bytes(8)

    # Views

    def fingerprints(self):
        of = {self.node_id: self.own.fingerprint}
        lost_counts = self.is_large()
        for peer in self.peers.values():
            if peer.held:
                is_lost = lost_counts and peer.status == "lost"
                mark = fingerprint_of_lost(peer.held.fingerprint) if is_lost else None
                of[peer.node_id] = mark or peer.held.fingerprint
        return of

    def view(self):
        return view_of(self.fingerprints())

    def buckets(self):
        missed = [p.node_id for p in self.peers.values() if p.status in ("suspect", "lost")]
        return buckets_of(self.fingerprints(), missed)

    # Who is there

    def set_status(self, peer, status, why):
        if peer.status != status:
            self.log("status", node=peer.node_id, was=peer.status, now=status, why=why)
            peer.status = status
            if status == "lost":
                peer.lost_version = peer.held and peer.held.fingerprint

    def clear(self, peer):
        """No doubt and no accusation is left of it."""
        if peer.doubt and peer.doubt["by_call"]:
            # It was there, and gave no answer here: this node may be the slow one.
            self.probes.append(False)
        peer.doubt = peer.lost_at = peer.accused_of = None

    def heard(self, peer):
        """Something that it signed came from it directly."""
        peer.heard = time.monotonic()
        self.clear(peer)
        if peer.held and peer.held.has_left and peer.status == "left":
            return
        was_away = peer.status != "alive"
        if peer.status == "lost":
            self.owe_after_loss(peer)
        self.set_status(peer, "alive", "heard")
        if was_away:
            peer.wait_until = peer.exchange_until = 0.0
            peer.is_new = True

    def owe_after_loss(self, peer):
        peer.spread_next = True
        if peer.held:
            self.accuse_to(peer, peer, peer.held.fingerprint, {})

    # Records

    def prove(self, peer, public_key):
        """The key that a node proved by a HELLO takes the place of one from hearsay."""
        if peer.public_key != public_key:
            self.drop_record(peer)
        peer.public_key, peer.is_proved = public_key, True

    def drop_record(self, peer):
        if peer.held:
            peer.floor[peer.public_key] = peer.held
        peer.held = None

    def judge(self, record):
        """The table of section 7. Gives back what would be taken, unverified, or None."""
        node_id, is_partial = record["node_id"], "base" in record
        if node_id == self.node_id:
            if not is_partial and record["public_key"] == self.public_key:
                held = Held(record)
                if held.order > self.own.order:
                    return held
            raise Refused(21, "a record of my own")
        peer = self.peers.get(node_id)
        held = peer and peer.held
        if is_partial:
            if not held:
                raise Refused(26, "the base is not held")
            public_key, home = held.public_key, record.get("home", held.home)
            digested = record["digest"]
        else:
            public_key, home = record["public_key"], record["home"]
            digested = digest(record["entries"])
        known = peer and peer.public_key
        if known and known != public_key:
            # Of two keys from hearsay the one of lower rank is believed.
            if peer.is_proved or rank(node_id, known) < rank(node_id, public_key):
                raise Refused(12, "another key is pinned")
            held = None
        new = order(record, digested, home)
        if held and new < held.order:
            raise Refused(20, "a newer version is held", records=held)
        if held and fingerprint(public_key, head_with(record, digested, home)) == held.fingerprint:
            return None
        floor = peer and peer.floor.get(public_key)
        if floor and record["timestamp"] < floor.timestamp:
            raise Refused(20, "a newer version was held", records=floor)
        if is_partial:
            if record["base"] != held.fingerprint:
                raise Refused(26, "the base is not held")
            return {"partial": record, "base": held, "head": head_with(record, digested, home)}
        return Held(record)

    def take_records(self, records, way):
        """All that is new is verified before any of it is taken. Gives back what was refused."""
        refused, taken = [], []
        for record in records:
            try:
                new = self.judge(record)
            except Refused as why:
                shown = why.records.head_to_show() if why.records else None
                refused.append({"node_id": record["node_id"], "reason": why.reason, "head": shown})
                continue
            if new is not None:
                taken.append(new)
        for new in taken:
            is_partial = isinstance(new, dict)
            key = new["base"].public_key if is_partial else new.public_key
            signed_head = new["head"] if is_partial else new.head
            signature = (new["partial"] if is_partial else new.record)["signature"]
            if not is_signed(key, signature, b"dsn/1 record" + signed_head):
                raise Refused(11, "the signature of a record is wrong")
        taken = [self.made_whole(new) if isinstance(new, dict) else new for new in taken]
        for held in taken:
            if held.node_id == self.node_id:
                self.shown_of_own(held)
                refused.append({"node_id": held.node_id, "reason": 21, "head": None})
            else:
                self.take(held, way)
        return refused

    def made_whole(self, new):
        try:
            record = changed(new["base"].record, new["partial"])
            hold_state(record["entries"])
        except Malformed as error:
            raise Refused(1, str(error)) from error
        except OverLimit as error:
            raise Refused(22, str(error)) from error
        return Held(record, came=new["partial"])

    def take(self, held, way):
        peer = self.peer(held.node_id)
        if peer.public_key != held.public_key:
            self.drop_record(peer)
            peer.public_key = held.public_key
        peer.held = held
        self.log("took", owner=held.node_id, timestamp=held.timestamp, way=way,
                 partial="base" in held.came, sha=sha_of(held.came))  # fmt: skip
        self.clear(peer)
        if peer.incarnation != held.home["incarnation"]:
            peer.is_connected = False
        if held.has_left:
            self.set_status(peer, "left", "it said goodbye")
        elif peer.status == "left":
            self.set_status(peer, "suspect", "a version without the goodbye")
        elif peer.heard is None:
            if self.is_large() and held.home["address"] and not peer.is_lost_by_list:
                self.set_status(peer, "alive", "a record came")
        elif peer.status == "suspect" or (peer.status == "lost" and self.is_large()):
            self.set_status(peer, "alive", "a newer version")
        if peer.spread_next:
            peer.spread_next = False
            self.bring_all_around(held)

    # Own versions

    def change(self, entries=None, flags=0, above=0):
        """Makes a new version of the own record and has it brought to all."""
        before = self.own
        entries = before.entries if entries is None else entries
        timestamp = max(time.time_ns() // 1000, before.timestamp + 1, above + 1)
        made = whole(self.node_id, self.key, timestamp, entries, flags, before.home)
        differs = {key: value for key, value in entries.items() if before.entries.get(key) != value}
        differs.update({key: None for key in before.entries if key not in entries})
        came = None
        if not flags:
            came = partial(before.record, self.key, timestamp, differs, digest(entries))
            came["signature"] = made["signature"]
        self.own = Held(made, came)
        self.log("changed", timestamp=timestamp)
        self.bring_own()

    def shown_of_own(self, held):
        """Somebody holds a version with our signature that this run did not make."""
        if held.timestamp >= self.own.timestamp and self.went_above < VERSIONS_TO_STAY_ABOVE:
            self.went_above += 1
            self.change(above=held.timestamp)

    def refute(self, named):
        """An accusation of this node itself: at most one version each half tick refutes it."""
        now = time.monotonic()
        if named != self.own.fingerprint or self.own.has_left:
            self.to_refute = None
            return
        if now - self.last_refutation < self.tick / 2:
            self.to_refute = named
        else:
            self.last_refutation, self.to_refute = now, None
            self.log("refuted", timestamp=self.own.timestamp)
            self.change()

    def held_of(self, node_id):
        if node_id == self.node_id:
            return self.own
        peer = self.peers.get(node_id)
        return peer.held if peer else None

    def version_of(self, node_id):
        held = self.held_of(node_id)
        return held.version() if held else NO_VERSION


def size_in_an_answer(held):
    return size_of(held.entries) + 256


def sha_of(record):
    return sha(RECORD.write(record)).hex()


def line(event, **what):
    return json.dumps({"event": event, **what})
