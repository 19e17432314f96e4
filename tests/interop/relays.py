"""How a version travels through relays: docs/protocol.md, section 7, relays, and section 9."""

import time

from node import order
from wire import digest, sha

HEAD_ANSWERS = 0.15  # seconds
# At most 8 and 16 are allowed. Fewer make deeper trees, so that others have more to pass on.
PARTS, PARTS_OF_A_LARGE_ONE = 4, 16
RINGS = (0, 1)
OWNERS_WAITING = 256


def ring_key(ring, node_id):
    name = node_id.encode()
    return name if ring == 0 else (int.from_bytes(sha(name)[:8], "big"), name)


def is_in(ring, after, through, node_id):
    first, last, at = (ring_key(ring, name) for name in (after, through, node_id))
    if first == last:
        return True
    return first < at <= last if first < last else at > first or at <= last


def from_on(ring, after, node_ids):
    """In the order of the ring, going up from behind `after`."""
    first = ring_key(ring, after)
    return sorted(node_ids, key=lambda name: (ring_key(ring, name) <= first, ring_key(ring, name)))


def cut(names, count):
    """In `count` parts of nearly one size."""
    ends = [len(names) * at // count for at in range(count + 1)]
    return [names[first:last] for first, last in zip(ends, ends[1:])]


def parts_of(me, ring, after, through, others, most):
    """What a stretch is cut into: for each part its nodes, and its stretch."""
    names = from_on(ring, after, [*others, me])
    # For who stands at the beginning of the whole ring all others are behind.
    at = names.index(me) if after != me else -1
    before, behind = names[: max(at, 0)], [name for name in names[at + 1 :] if name != me]
    total = len(before) + len(behind)
    most_before = min(len(before), max(1, round(most * len(before) / total))) if before else 0
    most_before = min(most_before, most - 1) if behind else most_before
    most_behind = min(len(behind), most - most_before)
    parts = []
    for side, count, start, end in ((before, most_before, after, before[-1:]),
                                    (behind, most_behind, me, [through])):  # fmt: skip
        sides = cut(side, count) if side else []
        for number, part in enumerate(sides):
            first = sides[number - 1][-1] if number else start
            last = part[-1] if number + 1 < len(sides) else end[0]
            parts.append((part, first, last))
    return parts


class Errand:
    """A version that a peer is to be brought, with the stretches that it passes it on to."""

    def __init__(self, held, is_whole):
        self.held, self.is_whole, self.stretches, self.tries = held, is_whole, {}, 0


class Relays:
    def pass_on_what_came(self, message):
        """Each relay of a push that has an effect."""
        brought = {record["node_id"]: record for record in message["records"]}
        accused = {suspect["node_id"]: suspect for suspect in message["suspects"]}
        for relay in message["relays"]:
            owner, ring = relay["owner"], relay["ring"]
            peer = self.peers.get(owner)
            stretch = ring, relay["after"], relay["through"]
            if not peer or not peer.held or not is_in(*stretch, self.node_id):
                continue
            goes_around = relay["after"] == relay["through"]
            if goes_around and not self.is_large():
                continue
            held = peer.held
            is_here = owner in brought and self.is_version(brought[owner], held)
            is_named = accused.get(owner, {}).get("fingerprint") == held.fingerprint
            if is_here or is_named:
                # Of an accused version the accusation goes on.
                self.pass_on("suspect" if self.is_accused(peer) else "record", held, stretch)

    def is_accused(self, peer):
        return peer.accused_of == peer.held.fingerprint

    def is_version(self, record, held):
        """Whether a record that came, whole or partial, is the version held."""
        if "base" not in record and record["public_key"] != held.public_key:
            return False
        digested = record["digest"] if "base" in record else digest(record["entries"])
        home = record.get("home", held.home)
        return order(record, digested, home) == held.order

    def pass_on(self, kind, held, stretch, is_own=False):
        ring, after, through = stretch
        if self.passed.get((kind, held.node_id, ring)) == held.fingerprint:
            return self.log("not again", kind=kind, owner=held.node_id, ring=ring)
        self.passed[kind, held.node_id, ring] = held.fingerprint
        others = [peer.node_id for peer in self.peers.values()
                  if peer.can_be_brought() and is_in(ring, after, through, peer.node_id)
                  and peer.node_id != held.node_id]  # fmt: skip
        most = PARTS_OF_A_LARGE_ONE if held.is_large and kind == "record" else PARTS
        self.log("passes on", kind=kind, owner=held.node_id, timestamp=held.timestamp, ring=ring,
                 after=after, through=through, others=len(others))  # fmt: skip
        for part, first, last in parts_of(self.node_id, ring, after, through, others, most):
            self.give(kind, held, ring, part, first, last, is_own)
        return None

    def give(self, kind, held, ring, part, after, through, is_own=False):
        """Brings a version to the head of a part."""
        if not part:
            return
        # What was never called counts as one that answers.
        peers = [self.peers[name] for name in part]
        good = [p for p in peers if p.status == "alive" and not p.doubt and not p.failures]
        head = (good or peers)[0]
        stretch = (after, through) if len(part) > 1 or is_own else None
        self.bring(kind, head, held, {ring: stretch} if stretch else {})
        if len(part) > 1:
            self.log("gives", owner=held.node_id, timestamp=held.timestamp, ring=ring,
                     head=head.node_id, part=part)  # fmt: skip
            self.heads.append({"head": head.node_id, "kind": kind, "held": held, "ring": ring,
                               "part": part, "after": after, "through": through,
                               "until": time.monotonic() + HEAD_ANSWERS})  # fmt: skip

    def bring(self, kind, peer, held, stretches, is_whole=False):
        if kind == "suspect":
            return self.accuse_to(peer, self.peers[held.node_id], held.fingerprint, stretches)
        errand = peer.errands.get(held.node_id)
        if not errand or errand.held.fingerprint != held.fingerprint:
            if errand is None and len(peer.errands) >= OWNERS_WAITING:
                return None
            errand = peer.errands[held.node_id] = Errand(held, is_whole or "base" not in held.came)
        errand.stretches.update(stretches)
        errand.is_whole |= is_whole
        return self.pump(peer)

    def head_answered(self, peer, errands, accusations, took):
        """What the heads made of a push: who took a version has its part, else others get it.

        `took` says None where the same head is brought the whole record next.
        """
        for head in list(self.heads):
            of = errands if head["kind"] == "record" else accusations
            owner = head["held"].node_id
            if head["head"] != peer.node_id or owner not in of:
                continue
            if took(owner) is None:
                head["until"] = time.monotonic() + HEAD_ANSWERS
                continue
            self.heads.remove(head)
            if not took(owner):
                self.split(head)

    def split(self, head):
        """What comes before a head that failed goes to another one, and what comes behind it."""
        name, part, held = head["head"], head["part"], head["held"]
        at = part.index(name)
        peer = self.peers[name]
        waiting = peer.errands if head["kind"] == "record" else peer.accusations
        if held.node_id in waiting:
            waiting[held.node_id].stretches.pop(head["ring"], None)
        self.log("head failed", head=name, owner=held.node_id, ring=head["ring"])
        if at:
            self.give(head["kind"], held, head["ring"], part[:at], head["after"], part[at - 1])
        self.give(head["kind"], held, head["ring"], part[at + 1 :], name, head["through"])

    def look_after_heads(self, now):
        for head in list(self.heads):
            if now >= head["until"]:
                self.heads.remove(head)
                self.split(head)

    # Own versions

    def bring_own(self):
        if self.is_large():
            rings = RINGS[:1] if self.own.is_large else RINGS
            for ring in rings:
                self.pass_on("record", self.own, (ring, self.node_id, self.node_id), is_own=True)
            return
        for peer in self.peers.values():
            if peer.is_connected:
                self.bring_own_to(peer)

    def bring_own_to(self, peer):
        """After a HELLO, and where it is seen to lack the version."""
        if peer.holds == self.own.fingerprint or not peer.where()[1]:
            return
        around = {}
        if not self.is_introduced:
            around = {ring: (self.node_id, self.node_id) for ring in RINGS}
        holds_base = peer.holds and peer.holds == self.own.came.get("base")
        self.bring("record", peer, self.own, around, is_whole=not holds_base)

    def bring_all_around(self, held):
        for ring in RINGS:
            self.pass_on("record", held, (ring, held.node_id, held.node_id))
