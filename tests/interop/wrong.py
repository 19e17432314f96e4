"""What a relay may be asked and may not do: a real node is asked, and this member sees what comes.

The versions are of an owner that is nobody. Each that the node must not pass on is followed by one
that it must: when that one came here, the other one did not, though the node was asked before.
"""

import os
import threading
import time

from cryptography.hazmat.primitives.asymmetric import ec

from relays import ring_key
from wire import digest, partial, whole

OWNER = "nobody"
PATIENCE = 60.0  # seconds
TIMES = 3


class Wrong:
    def say_wrong(self, node_id):
        try:
            Asked(self, self.peers[node_id]).all()
        except Exception as error:
            self.log("fault", what=repr(error), at_line=error.__traceback__.tb_next.tb_lineno)
            raise
        self.log("said wrong", to=node_id)


class Asked:
    """One node that is asked, and the versions of one owner."""

    def __init__(self, member, peer):
        self.member, self.peer = member, peer
        self.key, self.timestamp = ec.generate_private_key(ec.SECP256R1()), time.time_ns() // 1000
        self.came = {}
        member.watchers.append(self.watch)
        self.arrived = threading.Condition()

    def watch(self, record):
        if record["node_id"] == OWNER:
            with self.arrived:
                at = record["timestamp"]
                self.came[at] = self.came.get(at, 0) + 1
                self.arrived.notify_all()

    def version(self, **entries):
        self.timestamp += 1
        values = {key: value.encode() for key, value in entries.items()}
        return whole(OWNER, self.key, self.timestamp, values)

    def push(self, *records, to=None, **other):
        """Status and reason that it is answered with."""
        with self.member.lock:
            address, incarnation = self.peer.where()
        message = {"form": 0, "to": self.peer.node_id, "incarnation": incarnation,
                   "records": list(records), "relays": [], "asks": [], "words": [],
                   "suspects": [], **other}  # fmt: skip
        status, answer = self.member.ask({}, address, "/update", message, None)
        return status, answer.get("reason")

    def relays(self, after, through, rings=(0,), owner=OWNER):
        return [{"owner": owner, "ring": ring, "after": after, "through": through}
                for ring in rings]  # fmt: skip

    def wait_for(self, record):
        with self.arrived:
            at = record["timestamp"]
            if not self.arrived.wait_for(lambda: at in self.came, PATIENCE):
                raise AssertionError("a version that was to be passed on did not come")

    def is_passed_on(self, *before):
        """A version that goes all around comes here, and none of those before it came."""
        good, me = self.version(good="yes"), self.peer.node_id
        assert self.push(good, relays=self.relays(me, me)) == (204, None)
        self.wait_for(good)
        came = [record["timestamp"] for record in before if record["timestamp"] in self.came]
        assert not came, (came, self.came)
        return good

    def all(self):
        node, mine = self.peer.node_id, self.member.node_id
        # It names itself as both ends: that is the whole ring, with itself in it.
        first = self.is_passed_on()

        # It is not in the stretch, though all others are.
        names = sorted([*self.member.peers, mine], key=lambda name: ring_key(0, name))
        before = names[names.index(node) - 1]
        outside = self.version(outside="yes")
        assert self.push(outside, relays=self.relays(node, before)) == (204, None)
        # A version that came without a word of relays, and one that is another owner's.
        silent = self.version(silent="yes")
        assert self.push(silent) == (204, None)
        foreign = self.version(foreign="yes")
        others = self.relays(node, node, owner="stranger")
        assert self.push(foreign, relays=others) == (204, None)
        # The owner is known there, and this push brings nothing of it.
        assert self.push(relays=self.relays(node, node)) == (204, None)
        second = self.is_passed_on(outside, silent, foreign)

        # Not new, not verified, made of what is not held: none of these is a version to pass on.
        around = self.relays(node, node)
        assert self.push(first, relays=around) == (406, 20)
        unsigned = {**self.version(unsigned="yes"), "signature": os.urandom(64)}
        assert self.push(unsigned, relays=around) == (401, 11)
        self.timestamp += 1
        after = digest({"good": b"no"})
        late = partial(first, self.key, self.timestamp, {"good": b"no"}, after)
        assert self.push(late, relays=around) == (406, 26)
        self.timestamp += 1
        lie = partial(second, self.key, self.timestamp, {"good": b"no"}, digest({}))
        assert self.push(lie, relays=around) == (400, 1)
        count = dict(self.came)
        third = self.is_passed_on(unsigned, late, lie)
        assert self.came[first["timestamp"]] == count[first["timestamp"]]

        # The same again, as often as one likes, and with other stretches: once a tree.
        for _ in range(TIMES):
            assert self.push(third, relays=around) == (204, None)
            assert self.push(third, relays=self.relays(before, mine)) == (204, None)
        self.is_passed_on()
        assert self.came[third["timestamp"]] <= TIMES, self.came

        # Names that nobody has are places on the ring as any other.
        anywhere = self.version(anywhere="yes")
        behind = names[names.index(mine) - 1] + "-"
        assert self.push(anywhere, relays=self.relays(behind, node)) == (204, None)
        self.wait_for(anywhere)

        # What is no list of relays is no message.
        good = self.version(good="again")
        one = self.relays(node, node)
        assert self.push(good, relays=one + one) == (400, 1)
        assert self.push(good, relays=self.relays(node, node, rings=(1, 0))) == (400, 1)
        assert self.push(good, relays=self.relays(node, node, rings=(2,))) == (400, 1)
        many = [{**one[0], "owner": f"owner{number:03}"} for number in range(65)]
        assert self.push(good, relays=many) == (400, 1)
        assert self.push(good, relays=self.relays("a b", node)) == (400, 1)
        last = self.is_passed_on(good)
        assert self.push(last) == (204, None)
