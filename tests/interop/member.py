"""A member of a dsn network in Python that serves, relays, is probed, probes and refutes.

    member.py NODE-ID HOST:PORT NETWORK-KEY-FILE TICK

joins the network of the node at HOST:PORT, with ticks of TICK seconds. It was written from
docs/protocol.md; what it leaves out is allowed by that page or is for a node that lives long: the
files, an allow-list, what an operator had forgotten, gifts, and making room in a full table.

It prints what happens as one JSON object a line, and takes commands on stdin, one a line:

    set KEY VALUE     changes its own state
    deaf, hear        answers nothing but pushes, and calls nobody but by pushes; and again
    ghosts COUNT      brings all others so many records of nodes that are not there
    mark, unmark      gives what it relays the other right signature, so that it can be told
    reach NODE ADDRESS  where this node alone can call another one
    fetch NODE OWNER  asks a node for what it holds of an owner, and prints it
    wrong NODE        asks a node to relay what it may not: wrong.py
    dump              prints all that it holds, and what it thinks of the others
    leave             says goodbye

Needs the package `cryptography`. tests/interop.rs runs it.
"""

import random
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from answers import Answers, Server
from calls import Calls, Failed
from node import Held, Table, line
from relays import Relays
from suspicion import Suspicion
from cryptography.hazmat.primitives.asymmetric import ec
from wire import NO_VERSION, RECORD, Network, keys_of_file, whole
from wrong import Wrong

SENDERS = 24
TRIES_TO_FETCH = 100


class Member(Answers, Calls, Relays, Suspicion, Wrong, Table):
    def __init__(self, node_id, network, tick, log):
        super().__init__(node_id, network, tick, log)
        self.watchers = []  # they see each record that is pushed here
        self.claims, self.passed, self.heads = {}, {}, []
        self.probes, self.probe_turn, self.links, self.turn, self.lists = [], False, [], 0, 0
        self.waits_for_word, self.asked_by_others = {}, {}
        self.lines, self.count = {}, Counter()
        self.is_introduced = self.is_deaf = self.marks = self.has_ended = False
        self.senders = ThreadPoolExecutor(SENDERS)
        self.server = Server(self)
        self.start_at(f"127.0.0.1:{self.server.server_address[1]}")

    def hears(self, path):
        return path == "/update"

    def start(self, bootstrap):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        threading.Thread(target=self.beat, args=(bootstrap,), daemon=True).start()

    def beat(self, bootstrap):
        tick_at = time.monotonic() + self.tick / 2
        probe_at = bootstrap_at = 0.0
        while not self.has_ended:
            now = time.monotonic()
            if now >= bootstrap_at and not self.is_deaf:
                bootstrap_at = now + random.uniform(8, 13) * self.tick
                self.senders.submit(self.call_bootstrap, bootstrap)
            with self.lock:
                self.look_after_heads(now)
                self.look_after_all(now)
                if self.to_refute:
                    self.refute(self.to_refute)
                if now >= probe_at and not self.is_deaf:
                    probe_at = now + self.tick / 3 * random.uniform(0.9, 1)
                    self.probe(now)
                if now >= tick_at:
                    tick_at = now + self.tick * random.uniform(0.9, 1)
                    self.lists = 0
                    self.at_tick(now)
            time.sleep(0.02)

    def dump(self):
        held = {peer.node_id: peer.held for peer in self.peers.values() if peer.held}
        held[self.node_id] = self.own
        return {
            "large": self.is_large(),
            "view": self.view().hex(),
            "count": dict(self.count),
            "status": {peer.node_id: peer.status for peer in self.peers.values()},
            "links": [peer.node_id for peer in self.links],
            "connected": sum(peer.is_connected for peer in self.peers.values()),
            "held": {name: RECORD.write(of.record).hex() for name, of in held.items()},
        }

    def bring_ghosts(self, count):
        """Records of nodes that are not there: they are counted where a network is large."""
        for number in range(count):
            key, name = ec.generate_private_key(ec.SECP256R1()), f"ghost{number}"
            held = Held(whole(name, key, time.time_ns() // 1000, {}))
            for peer in list(self.peers.values()):
                if peer.is_connected:
                    self.bring("record", peer, held, {})
            self.take(held, "own")

    def keep_gate(self):
        """An address that takes every connection and answers nobody."""
        gate = socket.create_server(("127.0.0.1", 0))

        def close_all():
            while True:
                gate.accept()[0].close()

        threading.Thread(target=close_all, daemon=True).start()
        return f"127.0.0.1:{gate.getsockname()[1]}"

    def fetch(self, node_id, owner):
        """What another node holds of an owner, as it would pass it on."""
        peer, wishes = self.peers[node_id], [{"node_id": owner, **NO_VERSION}]
        for _ in range(TRIES_TO_FETCH):
            try:
                if not peer.is_connected:
                    self.call_hello(peer)
                answer = self.call_signed(peer, "/update", {"form": 1, "wishes": wishes})
            except Failed as why:
                self.log("failed", node=node_id, path="fetch", why=str(why))
                answer = None
            if answer is not None:
                records = [RECORD.write(record).hex() for record in answer.get("records", [])]
                return self.log("fetched", node=node_id, owner=owner, records=records)
            time.sleep(0.1)
        return self.log("fault", what="nothing was fetched", node=node_id)

    def command(self, words):
        with self.lock:
            if words[0] == "set":
                entries = {**self.own.entries, words[1]: words[2].encode()}
                self.change(entries)
            elif words[0] in ("deaf", "hear"):
                self.is_deaf = words[0] == "deaf"
            elif words[0] == "reach":
                self.peer(words[1]).kept_at = words[2]
            elif words[0] == "fetch":
                self.senders.submit(self.fetch, *words[1:])
            elif words[0] == "wrong":
                self.senders.submit(self.say_wrong, words[1])
            elif words[0] == "ghosts":
                self.bring_ghosts(int(words[1]))
            elif words[0] in ("mark", "unmark"):
                self.marks = words[0] == "mark"
            elif words[0] == "dump":
                self.log("dump", **self.dump())
            elif words[0] == "leave":
                self.change(flags=1)


def main(node_id, bootstrap, key_file, tick):
    lock = threading.Lock()

    def log(event, **what):
        with lock:
            print(line(event, at=round(time.monotonic(), 3), **what), flush=True)

    member = Member(node_id, Network(keys_of_file(key_file)[0]), float(tick), log)
    log("listening", address=member.address, gate=member.keep_gate())
    member.start(bootstrap)
    for words in map(str.split, sys.stdin):
        member.command(words)
    member.has_ended = True


if __name__ == "__main__":
    main(*sys.argv[1:])
