"""What a member answers: docs/protocol.md, sections 1, 3 and 7, as the receiver."""

import base64
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from node import CALLERS_REPLACED, Refused, size_in_an_answer
from wire import (
    ANSWERS,
    HERE,
    REFUSAL,
    STATUSES,
    TYPES,
    U16,
    Malformed,
    OverLimit,
    Reader,
    Unsealed,
    WrongType,
    bucket_of,
    decode_request,
    is_signed,
    place_of_answer,
    place_of_request,
    rank,
    sign,
    signed_answer,
    signed_here,
    signed_request,
)  # fmt: skip

MOST_BYTES = (1 << 20) + (64 << 10)
TWIN_IS_TOLD = 90.0  # seconds
INBOX_MESSAGES, INBOX_BYTES = 256, 4 << 20
IN_AN_ANSWER = 256 << 10  # bytes of records in the answer to a pull


class Answers:
    def answer(self, path, envelope, origin):
        """Status and envelope of the answer; nothing where the request did not open."""
        tag = envelope[-32:]
        try:
            payload = self.network.open(place_of_request(path), TYPES[path], envelope)
        except Unsealed:
            return 400, b""
        except WrongType as error:
            return self.sealed_refusal(path, tag, Refused(2, str(error)))
        try:
            with self.lock:
                status, message = self.answer_to(path, payload, origin)
        except Malformed as error:
            return self.sealed_refusal(path, tag, Refused(1, str(error)))
        except OverLimit as error:
            return self.sealed_refusal(path, tag, Refused(22, str(error)))
        except Refused as why:
            self.log("refused", path=path, reason=why.reason, text=why.text)
            return self.sealed_refusal(path, tag, why)
        kind = HERE if "here" in message else ANSWERS[path, status]
        if path != "/update":
            payload = kind.write({**message, "signature": bytes(64)})
            message["signature"] = sign(self.key, signed_answer(path, tag, payload))
        return status, self.sealed_answer(path, status, tag, kind.write(message))

    def sealed_answer(self, path, status, tag, payload):
        return self.network.seal(place_of_answer(path, status, tag), TYPES[path], payload)

    def sealed_refusal(self, path, tag, why):
        status = STATUSES[why.reason]
        text = "".join(char if " " <= char <= "~" else "?" for char in why.text)[:500]
        payload = REFUSAL.write({"reason": why.reason, "text": text, "number": why.number,
                                 "records": list(why.records)})  # fmt: skip
        return status, self.sealed_answer(path, status, tag, payload)

    def answer_to(self, path, payload, origin):
        if path == "/hello":
            reader = Reader(payload)
            lowest, highest = U16.read(reader), U16.read(reader)
            if lowest > highest:
                raise Refused(1, "the lowest version is above the highest")
            if not lowest <= 1 <= highest:
                raise Refused(40, "only version 1 is spoken here")
        message = decode_request(path, payload)
        if path == "/hello":
            return self.hello(message, payload, origin)
        if message.get("form") == 0:
            return self.pushed(message)
        peer = self.caller(path, message, payload, origin)
        name = {"/peers": "listed", "/update": "pulled", "/ping": "pinged", "/data": "data"}[path]
        return getattr(self, name)(peer, message)

    def check_number(self, number, highest):
        if not 1 <= number < 1 << 63:
            raise Refused(22, "a number is 1 to 2^63 - 1")
        if number <= highest:
            raise Refused(23, "the number is not above all before", highest)

    # HELLO

    def hello(self, message, payload, origin):
        node_id, public_key = message["from"], message["public_key"]
        said, proof = signed_request("/hello", payload), message["proof"]
        if not is_signed(public_key, message["signature"], said):
            raise Refused(11, "the signature is wrong")
        session = self.session_for(node_id, public_key)
        if proof and proof["to"] != self.node_id:
            raise Refused(14, "that is another node")
        if not proof or proof["session"] != session:
            return 200, {
                "version": 1, "node_id": self.node_id, "public_key": self.public_key,
                "incarnation": self.incarnation, "session": session, "program": "python",
                "advertise": self.address, "seen": f"{origin[0]}:{origin[1]}",
            }  # fmt: skip
        number, peer = proof["number"], self.peers.get(node_id)
        if not 1 <= number < 1 << 63:
            raise Refused(22, "a number is 1 to 2^63 - 1")
        known = peer.public_key if peer and peer.is_proved else None
        if node_id == self.node_id or (known and known != public_key):
            self.check_number(number, self.claims.get((node_id, public_key), 0))
            self.claims[node_id, public_key] = number
            is_mine = node_id == self.node_id and public_key == self.public_key
            if peer:
                self.see_twin(peer, f"{origin[0]}:{message['port']}", public_key)
            raise Refused(25 if is_mine else 12, "who may not be in under this name")
        peer = self.peer(node_id)
        self.check_number(number, peer.number_in)
        peer.number_in = number
        incarnation = message["incarnation"]
        if incarnation in peer.replaced:
            raise Refused(15, "a later incarnation took its place")
        self.prove(peer, public_key)
        if peer.incarnation != incarnation:
            if peer.incarnation:
                peer.replaced = [*peer.replaced, peer.incarnation][-CALLERS_REPLACED:]
            peer.incarnation, peer.is_new, peer.last_data = incarnation, True, None
            if peer.status == "left":
                self.set_status(peer, "suspect", "another run says HELLO")
        peer.session, peer.is_connected, peer.called_here = proof["given"], True, True
        address = message["advertise"] or f"{origin[0]}:{message['port']}"
        if peer.address != address and not peer.is_reached:
            peer.address = address
        if not peer.is_reached:
            peer.owes.add("ping")
        peer.wait_until = 0.0
        self.heard(peer)
        self.bring_own_to(peer)
        return 204, {}

    # PEERS, pull, PING, DATA

    def see_twin(self, peer, address, public_key):
        twin = {"address": address, "public_key": public_key}
        peer.twin = twin, time.monotonic() + TWIN_IS_TOLD

    def caller(self, path, message, payload, origin):
        if message["to"] != self.node_id:
            raise Refused(14, "that is another node")
        peer = self.peers.get(message["from"])
        if not peer or not peer.is_proved:
            raise Refused(10, "say HELLO first")
        said = signed_request(path, payload)
        if not is_signed(peer.public_key, message["signature"], said):
            raise Refused(11, "the signature is wrong")
        if message["session"] != self.session_for(peer.node_id, peer.public_key):
            raise Refused(13, "that is another session")
        self.check_number(message["number"], peer.number_in)
        peer.number_in = message["number"]
        if message["incarnation"] != peer.incarnation:
            is_replaced = message["incarnation"] in peer.replaced
            if is_replaced:
                self.see_twin(peer, f"{origin[0]}:{origin[1]}", peer.public_key)
            raise Refused(15 if is_replaced else 10, "that is another incarnation")
        self.heard(peer)
        if not peer.is_connected:
            peer.owes.add("hello")
        return peer

    def listed(self, peer, message):
        theirs = [message["buckets"][at : at + 16] for at in range(0, 512, 16)]
        mine = self.buckets()
        differing = [number for number in range(32) if theirs[number] != mine[number]]
        known = []
        for node_id in sorted([*self.peers, self.node_id], key=str.encode):
            if bucket_of(node_id) not in differing:
                continue
            other = self.peers.get(node_id)
            address, is_lost = self.address, False
            if other:
                is_good = other.status == "alive" or other.is_reached
                is_told = is_good and other is not peer and other.status != "left"
                address, is_lost = other.address if is_told else None, other.status == "lost"
            ranked = self.rank_of(node_id) if other else rank(node_id, self.public_key)
            known.append({"node_id": node_id, "address": address, "rank": ranked,
                          "version": self.version_of(node_id), "is_lost": is_lost})  # fmt: skip
        return 200, {"differing": sum(1 << number for number in differing), "known": known}

    def pulled(self, _peer, message):
        records, size = [], 0
        for wish in message["wishes"]:
            held = self.held_of(wish["node_id"])
            if not held or held.fingerprint == wish["fingerprint"]:
                continue
            size += size_in_an_answer(held)
            if records and size > IN_AN_ANSWER:
                break
            records.append(held.record)
        return (200, {"records": records}) if records else (204, {})

    def pinged(self, peer, message):
        self.count["pinged"] += 1
        self.compare(peer, message["view"])
        twin, until = peer.twin or (None, 0)
        now = time.monotonic()
        mail = self.mail_for(peer, now)
        peer.called_at = now
        return 200, {"view": self.view(), "twin": twin if now < until else None, "mail": mail}

    def data(self, peer, message):
        if peer.last_data is not None and message["id"] <= peer.last_data:
            if message["id"] == peer.last_data:
                return 200, {}
            raise Refused(23, "a lower id than the last one")
        mine = [data for sender, data in self.inbox if sender == peer.node_id]
        free = INBOX_MESSAGES - INBOX_MESSAGES // 4 - len(self.inbox)
        waiting = sum(len(data) for _, data in self.inbox)
        free_bytes = INBOX_BYTES - INBOX_BYTES // 4 - waiting
        mine_bytes = sum(map(len, mine)) + len(message["bytes"])
        is_in = len(mine) < free and mine_bytes <= free_bytes
        is_first = not mine and len(message["bytes"]) <= 16 << 10
        has_room = len(self.inbox) < INBOX_MESSAGES
        has_room = has_room and waiting + len(message["bytes"]) <= INBOX_BYTES
        if not (is_in or (is_first and has_room)):
            raise Refused(24, "the inbox is full")
        peer.last_data = message["id"]
        self.inbox.append((peer.node_id, message["bytes"]))
        self.log("data", sender=peer.node_id, bytes=message["bytes"].hex())
        return 200, {}

    # Push

    def pushed(self, message):
        if message["to"] != self.node_id:
            raise Refused(14, "that is another node")
        if message["incarnation"] != self.incarnation:
            raise Refused(13, "that is another incarnation of me")
        for record in message["records"]:
            for watcher in self.watchers:
                watcher(record)
        refused = self.take_records(message["records"], "push")
        for word in message["words"]:
            self.hear_word(word)
        for suspect in message["suspects"]:
            self.hear_accusation(suspect)
        self.pass_on_what_came(message)
        here = None
        for ask in message["asks"]:
            if ask["about"] != self.node_id:
                self.try_for_another(ask)
            elif here is None and not self.is_deaf:
                here = sign(self.key, signed_here(self.node_id, ask["challenge"]))
        if refused:
            why = f"{len(refused)} of {len(message['records'])} records are refused"
            refused.sort(key=lambda item: item["node_id"].encode())
            raise Refused(refused[0]["reason"], why, records=refused)
        return (200, {"here": here}) if here else (204, {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20  # seconds that a connection may be without use

    def do_POST(self):
        lengths = self.headers.get_all("Content-Length") or ["0"]
        is_plain = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()
        is_plain = is_plain and "Transfer-Encoding" not in self.headers
        if not is_plain or int(lengths[0]) > MOST_BYTES:
            self.close_connection = True
            return self.reply(400)
        body = self.rfile.read(int(lengths[0]))
        if self.path not in TYPES:
            return self.reply(404)
        node = self.server.node
        if node.is_deaf and not node.hears(self.path):
            self.close_connection = True
            return None
        status, envelope = 500, b""
        try:
            status, envelope = node.answer(self.path, body, self.client_address)
        finally:
            if (status, envelope) == (500, b""):
                self.reply(500)
        return self.reply(status, envelope)

    def reply(self, status, envelope=b""):
        seal = base64.b64encode(envelope).decode().rstrip("=")
        length = f"Content-Length: {len(envelope)}" if status != 204 else f"Dsn-Seal: {seal}"
        end = "Connection: close\r\n" if self.close_connection else ""
        head = f"HTTP/1.1 {status} x\r\n{length}\r\n{end}\r\n".encode()
        self.wfile.write(head + (b"" if status == 204 else envelope))

    def other_method(self):
        self.close_connection = True
        self.reply(405 if self.path in TYPES else 404)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.other_method
        raise AttributeError(name)

    def handle_expect_100(self):
        return True

    def send_error(self, *_):
        self.close_connection = True
        self.reply(400)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, node):
        super().__init__(("127.0.0.1", 0), Handler)
        self.node = node

    def handle_error(self, request, client_address):
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)
