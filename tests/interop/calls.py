"""What a member says of itself: docs/protocol.md, sections 1, 7 and 9, as the caller."""

import base64
import http.client
import random
import time

from node import Refused, sha_of
from wire import (
    PUSH,
    RECORD,
    TYPES,
    Malformed,
    Unsealed,
    WrongType,
    decode_answer,
    is_signed,
    place_of_answer,
    place_of_request,
    request_type,
    sign,
    signed_answer,
    signed_request,
)  # fmt: skip

TRY, KEPT = 5.0, 8.0  # seconds: for one try, and that a connection is kept without use
AGAIN, TRIES = 0.5, 3
LONGEST_WAIT = 30.0
WISHES = 64
LISTS_IN_A_TICK = 6
IN_A_PUSH = {"records": 64, "relays": 64, "asks": 8, "words": 8, "suspects": 64}


class Failed(Exception):
    """No answer came that counts."""


class Calls:
    # One try

    def send(self, line, address, path, envelope, timeout):
        """`line` keeps the connection to a node; gives back the status, the seal and the body."""
        connection, used, where = line.get("connection"), line.get("used", 0), line.get("to")
        if connection is None or time.monotonic() - used > KEPT or where != address:
            connection = http.client.HTTPConnection(address)
            line.update(connection=connection, to=address)
        connection.timeout = timeout
        if connection.sock:
            connection.sock.settimeout(timeout)
        try:
            connection.request("POST", path, envelope)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            line.clear()
            raise Failed(f"{address}: {error!r}") from error
        line["used"] = time.monotonic()
        return answer.status, answer.getheader("Dsn-Seal"), body

    def ask(self, line, address, path, message, key, timeout=TRY):
        """One request; gives back the status and the message, its signature verified."""
        kind = request_type(path, message.get("form"))
        if kind is not PUSH:
            payload = kind.write({**message, "signature": bytes(64)})
            message = {**message, "signature": sign(self.key, signed_request(path, payload))}
        envelope = self.network.seal(place_of_request(path), TYPES[path], kind.write(message))
        is_kept = bool(line.get("connection"))
        try:
            status, seal, body = self.send(line, address, path, envelope, timeout)
        except Failed:
            # The other side may have ended a kept connection; a push may be said again.
            if not is_kept or timeout < TRY or path == "/data":
                raise
            status, seal, body = self.send(line, address, path, envelope, timeout)
        tag = envelope[-32:]
        try:
            if status == 204:
                body = base64.b64decode((seal or "") + "=" * (-len(seal or "") % 4), validate=True)
            payload = self.network.open(place_of_answer(path, status, tag), TYPES[path], body)
            answer = decode_answer(path, status, payload)
        except (Malformed, Unsealed, WrongType, ValueError, KeyError) as error:
            raise Failed(f"{address}: {error!r}") from error
        if "signature" in answer:
            key = answer.get("public_key", key)
            if not is_signed(key, answer["signature"], signed_answer(path, tag, payload)):
                raise Failed(f"{address}: a wrong signature")
        if answer.get("reason") == 30:
            raise Failed(f"{address}: {answer['text']}")
        return status, answer

    # What is due to a node

    def pump(self, peer):
        """Begins the next call to a node, if something is due and none is under way."""
        with self.lock:
            if peer.busy or self.has_ended:
                return
            call = self.next_call(peer, time.monotonic())
            if call:
                peer.busy = True
                peer.call_since = time.monotonic()
                self.senders.submit(self.run, peer, call)

    def next_call(self, peer, now):
        if now < peer.wait_until or peer.status == "left":
            return None
        waiting = peer.errands or peer.accusations or peer.asks or peer.words
        if waiting and all(peer.where()) and (peer.is_connected or self.is_large()):
            return "push"
        if self.is_deaf or not (peer.kept_at or peer.address):
            return None
        wants = peer.owes or peer.wishes or waiting
        if wants and (not peer.is_connected or "hello" in peer.owes):
            return "hello"
        if "ping" in peer.owes:
            return "ping"
        if "peers" in peer.owes and now >= peer.exchange_until:
            if self.lists >= LISTS_IN_A_TICK:
                return None
            self.lists += 1
            return "peers"
        return "pull" if peer.wishes else None

    def run(self, peer, call):
        path = {"push": "/update", "pull": "/update"}.get(call, "/" + call)
        try:
            getattr(self, "call_" + call)(peer)
        except Failed as why:
            with self.lock:
                self.failed(peer, path, str(why))
        except Exception as error:  # a fault of this program, which its test shall see
            self.log("fault", what=repr(error), call=call, node=peer.node_id)
            raise
        finally:
            with self.lock:
                peer.busy, peer.call_since = False, None
        self.pump(peer)

    def failed(self, peer, path, why):
        now = time.monotonic()
        self.log("failed", node=peer.node_id, path=path, why=why)
        peer.answered_last = False
        peer.failures += 1
        peer.owes.discard("ping")
        if peer.failures < TRIES:
            peer.wait_until = now + AGAIN
        else:
            self.came_to_nothing(peer, now)
        self.call_failed(peer, path, now)

    def came_to_nothing(self, peer, now):
        peer.is_connected = False
        peer.wait = min(max(peer.wait * 2, self.tick / 2), max(LONGEST_WAIT, self.tick))
        peer.wait_until = now + peer.wait * random.uniform(0.5, 1)

    def answered(self, peer):
        peer.failures, peer.answered_last = 0, True
        self.heard(peer)

    # HELLO

    def first_hello(self, proof=None):
        return {"lowest": 1, "highest": 1, "from": self.node_id, "public_key": self.public_key,
                "incarnation": self.incarnation, "program": "python", "proof": proof,
                "port": int(self.address.rsplit(":", 1)[1]), "advertise": self.address}  # fmt: skip

    def call_hello(self, peer):
        with self.lock:
            peer.owes.discard("hello")
            address = peer.kept_at or peer.address
            line = self.line_of(peer)
            knows = peer.is_proved and peer.session is not None
        if not knows and not self.learn(line, address, peer):
            return
        for _ in range(2):
            with self.lock:
                given = self.session_for(peer.node_id, peer.public_key)
                proof = {"to": peer.node_id, "session": peer.session, "given": given,
                         "number": self.next_number(peer)}  # fmt: skip
                message = self.first_hello(proof)
            status, answer = self.ask(line, address, "/hello", message, peer.public_key)
            with self.lock:
                if status == 204:
                    self.answered(peer)
                    peer.is_connected = peer.is_reached = True
                    peer.owes.add("ping")
                    self.bring_own_to(peer)
                    return
                if status == 200:
                    self.learned(peer, answer, address)
                    continue
                self.log("hello refused", node=peer.node_id, reason=answer["reason"])
                if answer["reason"] == 23:
                    peer.number_out = max(peer.number_out, answer["number"])
                    continue
                self.came_to_nothing(peer, time.monotonic())
                return
        with self.lock:
            self.came_to_nothing(peer, time.monotonic())

    def learn(self, line, address, peer=None):
        """The first step. Gives back the peer that answers, if it is the one called."""
        status, answer = self.ask(line, address, "/hello", self.first_hello(), None)
        with self.lock:
            if status != 200 or answer["node_id"] == self.node_id:
                if peer:
                    self.came_to_nothing(peer, time.monotonic())
                return None
            found = self.peer(answer["node_id"])
            return self.learned(found, answer, address) and (
                found if peer in (None, found) else None
            )

    def learned(self, peer, answer, address):
        if peer.is_proved and peer.public_key != answer["public_key"]:
            self.log("another key", node=peer.node_id)
            self.came_to_nothing(peer, time.monotonic())
            return False
        self.prove(peer, answer["public_key"])
        if peer.incarnation and peer.incarnation != answer["incarnation"]:
            peer.is_new = True
        peer.incarnation, peer.session = answer["incarnation"], answer["session"]
        peer.address, peer.is_reached = address, True
        self.answered(peer)
        return True

    def call_bootstrap(self, address):
        """Whoever answers there becomes known, and gets the second step."""
        try:
            peer = self.learn({}, address)
        except Failed as why:
            return self.log("bootstrap failed", why=str(why))
        if peer:
            with self.lock:
                if not peer.is_connected:
                    peer.owes.add("hello")
            self.pump(peer)
        return None

    # PING, PEERS, pull

    def header(self, peer):
        return {"from": self.node_id, "to": peer.node_id, "incarnation": self.incarnation,
                "session": peer.session, "number": self.next_number(peer)}  # fmt: skip

    def call_signed(self, peer, path, more, timeout=TRY):
        """One that needs a connection. Gives back nothing where it was refused."""
        with self.lock:
            message = {**self.header(peer), **more}
            line, address = self.line_of(peer), peer.kept_at or peer.address
        _, answer = self.ask(line, address, path, message, peer.public_key, timeout)
        with self.lock:
            if "reason" not in answer:
                self.answered(peer)
                peer.is_reached = True
                return answer
            self.log("refused there", node=peer.node_id, path=path, reason=answer["reason"])
            if answer["reason"] in (10, 13, 27):
                peer.is_connected = False
                peer.owes.add("hello")
            elif answer["reason"] == 23:
                peer.number_out = max(peer.number_out, answer["number"])
            else:
                self.came_to_nothing(peer, time.monotonic())
            return None

    def call_ping(self, peer):
        with self.lock:
            peer.owes.discard("ping")
            view = self.view()
        answer = self.call_signed(peer, "/ping", {"view": view}, self.tick / 3)
        if answer:
            with self.lock:
                peer.wait = 0.0
                self.probes.append(True)
                del self.probes[:-10]
                self.compare(peer, answer["view"])
                self.read_mail(peer, answer["mail"])

    def compare(self, peer, view):
        """Their view beside mine. What differs for two thirds of a tick is asked for."""
        now = time.monotonic()
        if view == self.view():
            peer.differs_since, peer.is_new = None, False
            peer.exchange_until = peer.exchange_wait = 0.0
            return
        has_grace = not peer.is_new and now - self.began > 2 * self.tick
        if not peer.differs_since:
            peer.differs_since = now
        if not has_grace or now - peer.differs_since >= self.tick * 2 / 3:
            peer.owes.add("peers")
            peer.is_new = False

    def call_peers(self, peer):
        with self.lock:
            peer.owes.discard("peers")
            buckets = b"".join(self.buckets())
        answer = self.call_signed(peer, "/peers", {"buckets": buckets})
        if not answer:
            return
        with self.lock:
            doubted = 0
            peer.wishes = {}
            for known in answer["known"]:
                doubted += self.read_known(peer, known, doubted)
            if not peer.wishes:
                self.exchange_waits(peer)
            self.log("list", node=peer.node_id, known=len(answer["known"]),
                     wishes=len(peer.wishes))  # fmt: skip

    def read_known(self, peer, known, doubted):
        node_id, version = known["node_id"], known["version"]
        if node_id == self.node_id:
            if version["fingerprint"] != self.own.fingerprint:
                peer.holds = None
                self.bring_own_to(peer)
            return 0
        other = self.peer(node_id)
        other.is_lost_by_list = known["is_lost"]
        if not other.address and known["address"]:
            other.address = known["address"]
        held = other.held
        if held and held.fingerprint == version["fingerprint"]:
            if known["is_lost"] and other.status == "alive" and doubted < 4:
                self.begin_doubt(other, time.monotonic())
                return 1
            if other.status == "lost" and not known["is_lost"]:
                other.owes.add("hello")
                other.wait_until = 0.0
        elif version["timestamp"] and any(known["rank"]) and len(peer.wishes) < WISHES:
            ranked = self.rank_of(node_id)
            is_same = known["rank"] == ranked and other.public_key
            is_newer = not held or version["timestamp"] >= held.timestamp
            is_better = not other.public_key or (not other.is_proved and known["rank"] < ranked)
            if is_newer if is_same else is_better:
                peer.wishes[node_id] = self.version_of(node_id)
        return 0

    def exchange_waits(self, peer):
        peer.exchange_wait = min(max(peer.exchange_wait * 2, self.tick / 2), LONGEST_WAIT)
        peer.exchange_until = time.monotonic() + peer.exchange_wait * random.uniform(0.5, 1)

    def call_pull(self, peer):
        with self.lock:
            wishes = [{"node_id": node_id, **peer.wishes[node_id]}
                      for node_id in sorted(peer.wishes, key=str.encode)]  # fmt: skip
            peer.wishes = {}
        answer = self.call_signed(peer, "/update", {"form": 1, "wishes": wishes})
        if not answer:
            return
        with self.lock:
            before = self.view()
            try:
                self.take_records(answer.get("records", []), "pull")
            except Refused as why:
                self.log("a pull counts as none", why=why.text)
            if self.view() == before:
                self.exchange_waits(peer)
            else:
                # The rest of what was wished for comes next.
                peer.owes.add("peers" if len(wishes) > len(answer["records"]) else "ping")
                peer.differs_since = None

    # Push

    def call_push(self, peer):
        with self.lock:
            address, incarnation = peer.where()
            errands, accusations, message = self.compose(peer, incarnation)
            line = self.line_of(peer)
        small = sum(len(RECORD.write(record)) for record in message["records"]) <= 16 << 10
        timeout = self.tick / 3 if small else TRY
        try:
            status, answer = self.ask(line, address, "/update", message, None, timeout)
        except Failed:
            with self.lock:
                self.push_failed(peer, errands, accusations, message)
            raise
        with self.lock:
            self.push_answered(peer, address, errands, accusations, message, status, answer)

    def compose(self, peer, incarnation):
        """Takes all that waits for a node, as far as it goes into one push."""
        errands = {}
        for owner in sorted(peer.errands, key=str.encode)[: IN_A_PUSH["records"]]:
            errands[owner] = peer.errands.pop(owner)
        accusations = {}
        room = IN_A_PUSH["suspects"] // 2
        for owner in sorted(peer.accusations, key=str.encode)[:room]:
            accusations[owner] = peer.accusations.pop(owner)
        wholes = [e.held.record for e in errands.values() if e.is_whole]
        parts = [e.held.came for e in errands.values() if not e.is_whole]
        records = [self.marked(record) for record in wholes + parts]
        stretches = {}
        for owner, errand in [*errands.items(), *accusations.items()]:
            for ring, stretch in errand.stretches.items():
                stretches[owner, ring] = stretch
        names = sorted(stretches, key=lambda name: (name[0].encode(), name[1]))
        relays = [{"owner": owner, "ring": ring, "after": stretches[owner, ring][0],
                   "through": stretches[owner, ring][1]} for owner, ring in names]  # fmt: skip
        # The answer has one signature: one ask about the receiver itself goes at a time.
        of_it = [ask for ask in peer.asks if ask["about"] == peer.node_id]
        asks = [ask for ask in peer.asks if ask["about"] != peer.node_id][:7] + of_it[:1]
        words = peer.words[: IN_A_PUSH["words"]]
        peer.asks = [ask for ask in peer.asks if ask not in asks]
        peer.words = peer.words[len(words) :]
        return errands, accusations, {
            "form": 0, "to": peer.node_id, "incarnation": incarnation, "records": records,
            "relays": relays[: IN_A_PUSH["relays"]], "asks": asks, "words": words,
            "suspects": [{"node_id": owner, "fingerprint": accusation.fingerprint}
                         for owner, accusation in accusations.items()],
        }  # fmt: skip

    def marked(self, record):
        """With the other one of the two right signatures, if the test wants to see our way."""
        if not self.marks or record["node_id"] == self.node_id:
            return record
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        s = order - int.from_bytes(record["signature"][32:], "big")
        return {**record, "signature": record["signature"][:32] + s.to_bytes(32, "big")}

    def push_failed(self, peer, errands, accusations, message):
        """What went in vain is no part of a tree any more; it is brought again, twice."""
        self.head_answered(peer, errands, accusations, lambda owner: False)
        for waiting, gone in ((peer.errands, errands), (peer.accusations, accusations)):
            for owner, errand in gone.items():
                errand.tries += 1
                if owner not in waiting and errand.tries < TRIES:
                    errand.stretches = {} if owner != self.node_id else errand.stretches
                    waiting[owner] = errand
        self.asks_taken(message["asks"], False)
        self.asks_answered(peer, message["asks"], None)

    def push_answered(self, peer, address, errands, accusations, message, status, answer):
        peer.failures = 0
        verdicts = {item["node_id"]: item for item in answer.get("records", [])}
        is_refused = "reason" in answer and not verdicts
        now_reached = not is_refused and status in (200, 204)
        if now_reached and peer.home() and peer.home()["address"] == address:
            peer.address, peer.is_reached, peer.answered_last = address, True, True
        again = set()
        went = {record["node_id"]: sha_of(record) for record in message["records"]}
        for owner, errand in errands.items():
            reason = answer["reason"] if is_refused else verdicts.get(owner, {}).get("reason")
            self.log("brought", owner=owner, timestamp=errand.held.timestamp, to=peer.node_id,
                     rings=sorted(errand.stretches), partial=not errand.is_whole,
                     reason=reason, sha=went[owner], marked=self.marks)  # fmt: skip
            if reason in (20, 26) and not errand.is_whole:
                self.bring("record", peer, errand.held, errand.stretches, is_whole=True)
                again.add(owner)
            elif owner == self.node_id and reason is None:
                peer.holds = errand.held.fingerprint
                self.is_introduced = True
            elif owner == self.node_id and reason == 20 and verdicts[owner]["head"]:
                self.shown_head(verdicts[owner]["head"])

        def took(owner):
            return None if owner in again else not is_refused and owner not in verdicts

        self.head_answered(peer, errands, accusations, took)
        self.asks_taken(message["asks"], not is_refused)
        self.asks_answered(peer, message["asks"], answer.get("here"))
        if is_refused and answer["reason"] in (13, 14):
            self.log("refused there", node=peer.node_id, path="/update", reason=answer["reason"])
            peer.is_connected = False
            peer.owes.add("hello")

    def line_of(self, peer):
        return self.lines.setdefault(peer.node_id, {})

    def shown_head(self, shown):
        if shown["timestamp"] > self.own.timestamp:
            self.shown_of_own(type("Shown", (), {"timestamp": shown["timestamp"]}))
