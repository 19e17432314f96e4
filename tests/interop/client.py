"""A member of a dsn network in Python, written from docs/protocol.md alone.

    client.py HOST:PORT NETWORK-KEY-FILE    joins the node at that address
    client.py --page docs/protocol.md       checks the examples of section 10 of that page

The first form says HELLO, PING, PEERS, UPDATE and DATA, right and wrong, as nodes that nobody can
call back, and checks every byte of the answers. The network has to be at rest meanwhile. It prints
what it learned as one JSON object. Both forms end with an exception at the first byte that the
page does not allow. Needs the package `cryptography`. tests/interop.rs runs both.
"""

import base64
import http.client
import json
import os
import re
import sys
import time

from cryptography.hazmat.primitives.asymmetric import ec
from wire import (
    ANSWERS,
    HERE,
    NO_VERSION,
    NOWHERE,
    PUSH,
    REFUSAL,
    TYPES,
    Network,
    bucket_of,
    buckets,
    changed,
    decode,
    decode_answer,
    digest,
    head,
    keys_of_file,
    partial,
    place_of_answer,
    place_of_request,
    public_bytes,
    rank,
    request_type,
    sign,
    signed,
    signed_answer,
    signed_here,
    signed_request,
    verify,
    verify_held,
    verify_record,
    version,
    view,
    whole,
)  # fmt: skip

# Section 10: the examples. The caller of all of them is alpha, and the receiver is beta.


def blocks_of(part):
    """What stands before each indented block, and the hex digits at the beginning of its lines."""
    for before, block in re.findall(r"([^\n]*):\n\n((?:    .*\n?)+)", part):
        yield before, bytes.fromhex("".join(line.split()[0] for line in block.splitlines()))


def examples_of(page):
    intro, *parts = re.split(r"\n### `(.*)`\n", page.split("\n## 10. Examples\n")[1])
    assert "the network key is `000102…1f`" in intro
    keys = {before.split()[-1]: block for before, block in blocks_of(intro)}
    examples = {}
    for name, part in zip(parts[::2], parts[1::2]):
        titles = r"\A\n`(/\w+)`, (?:request|status (\d+), answers `(.*)`)\. "
        [(path, status, answers)] = re.findall(titles, part)
        blocks = {"Payload": b"", **dict(blocks_of(part))}
        assert bool(blocks["Payload"]) != ("\nThe payload is empty.\n" in part)
        examples[name] = (path, int(status or 0), answers, blocks["Payload"], blocks["Envelope"])
    return keys, examples


def check_example(name, keys, examples):
    """Gives back the message, with the signature of the one who speaks verified."""
    network = Network(bytes(range(32)))
    path, status, answers, payload, envelope = examples[name]
    if status:
        request_tag = examples[answers][-1][-32:]
        place = place_of_answer(path, status, request_tag)
        kind, message = ANSWERS.get((path, status), REFUSAL), decode_answer(path, status, payload)
        kind = HERE if "here" in message else kind
        speaker, said = "beta", signed_answer(path, request_tag, payload)
    else:
        place, kind = place_of_request(path), request_type(path, payload[0])
        message = decode(kind, payload)
        speaker, said = "alpha", signed_request(path, payload)
    assert network.open(place, TYPES[path], envelope) == payload
    assert network.seal(place, TYPES[path], payload, envelope[:16]) == envelope
    assert kind.write(message) == payload, "written again it is the same"
    if "signature" in message:
        verify(keys[speaker], message["signature"], said)
    assert message.get("public_key", keys[speaker]) == keys[speaker]
    return message


def check_page(page):
    keys, examples = examples_of(open(page).read())
    messages = {name: check_example(name, keys, examples) for name in examples}
    for message in messages.values():
        for record in message.get("records", []):
            if "flags" in record:
                if "base" not in record:
                    assert record["public_key"] == keys[record["node_id"]]
                    verify_record(record)
            elif record["head"]:
                verify_held(keys[record["node_id"]], record)

    ask, _ = messages["update-request-asks"]["asks"]
    verify(keys["beta"], messages["update-here"]["here"], signed_here("beta", ask["challenge"]))

    [base] = messages["update-request"]["records"]
    record = changed(base, messages["update-request-partial"]["records"][0])
    verify_record(record)
    assert record["entries"] == {"load": b"0.43"} and record["home"] == base["home"]
    moved = changed(base, messages["update-request-moved"]["records"][0])
    verify_record(moved)
    assert moved["entries"] == base["entries"] and moved["home"]["address"] == "10.0.0.2:8000"
    [refused] = messages["update-refusal"]["records"]
    assert refused["head"]["digest"] == digest(base["entries"])
    asked, answer = messages["peers-request"]["buckets"], messages["peers-answer"]
    known = {item["node_id"]: item for item in answer["known"]}
    assert answer["differing"] == sum({1 << bucket_of(node_id) for node_id in known})
    assert known["beta"]["rank"] == rank("beta", keys["beta"])
    hashes = [asked[at : at + 16] for at in range(0, len(asked), 16)]
    of_alpha = buckets({"alpha": base}, missed=["gamma"])
    assert hashes[bucket_of("alpha")] == of_alpha[bucket_of("alpha")]
    differs = [at for at in range(32) if hashes[at] != of_alpha[at]]
    assert differs == [bucket_of("delta")], "what alpha holds of delta is not on the page"
    print(json.dumps({"checked": list(examples)}))


# A member, and what it says.


class Member:
    def __init__(self, node_id, address, network):
        self.node_id, self.network = node_id, network
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.incarnation, self.given, self.number = os.urandom(16), os.urandom(16), 0
        self.connection = http.client.HTTPConnection(address, timeout=5)
        self.to = self.to_key = self.to_incarnation = self.session = None

    def send(self, path, envelope):
        """Gives back the status and the message, decoded and with its signature verified."""
        self.connection.request("POST", path, envelope)
        answer = self.connection.getresponse()
        status, body, tag = answer.status, answer.read(), envelope[-32:]
        if status == 204:
            assert body == b"", "a 204 has no body"
            seal = answer.getheader("Dsn-Seal")
            assert "=" not in seal, "base64 without padding"
            body = base64.b64decode(seal + "=" * (-len(seal) % 4), validate=True)
        payload = self.network.open(place_of_answer(path, status, tag), TYPES[path], body)
        message = decode_answer(path, status, payload)
        if "signature" in message:
            key = message.get("public_key", self.to_key)
            verify(key, message["signature"], signed_answer(path, tag, payload))
        return status, message

    def envelope(self, path, message):
        """Seals a request; signs it first, unless it is a push or has a signature already."""
        kind = request_type(path, message.get("form"))
        if kind != PUSH and "signature" not in message:
            payload = kind.write({**message, "signature": bytes(64)})
            message = {**message, "signature": sign(self.key, signed_request(path, payload))}
        return self.network.seal(place_of_request(path), TYPES[path], kind.write(message))

    def ask(self, path, message):
        return self.send(path, self.envelope(path, message))

    def next_number(self):
        self.number = max(self.number + 1, now())
        return self.number

    def header(self, **other):
        return {"from": self.node_id, "to": self.to, "incarnation": self.incarnation,
                "session": self.session, "number": self.next_number(), **other}  # fmt: skip

    def first_hello(self, **other):
        # Nobody listens at port 1: what the node sends us is refused at once.
        return {"lowest": 1, "highest": 1, "from": self.node_id, "program": "python", "port": 1,
                "public_key": public_bytes(self.key), "incarnation": self.incarnation,
                "advertise": None, "proof": None, **other}  # fmt: skip

    def second_hello(self, **other):
        return self.first_hello(proof={"to": self.to, "session": self.session, "given": self.given,
                                       "number": self.next_number(), **other})  # fmt: skip

    def meet(self):
        status, answer = self.ask("/hello", self.first_hello())
        assert (status, answer["version"]) == (200, 1), (status, answer)
        self.to, self.to_key = answer["node_id"], answer["public_key"]
        self.to_incarnation, self.session = answer["incarnation"], answer["session"]
        return answer

    def ping(self, **other):
        return self.ask("/ping", {**self.header(**other), "view": view({})})

    def peers(self, records, missed=()):
        """Which buckets differ, and what is known in them."""
        hashes = b"".join(buckets(records, missed))
        status, answer = self.ask("/peers", {**self.header(), "buckets": hashes})
        assert status == 200, (status, answer)
        return answer["differing"], {item["node_id"]: item for item in answer["known"]}

    def pull(self, versions):
        wishes = [{"node_id": node_id, **versions[node_id]} for node_id in sorted(versions)]
        return self.ask("/update", {"form": 1, **self.header(), "wishes": wishes})

    def push(self, *records, **other):
        return self.ask("/update", {"form": 0, "to": self.to, "incarnation": self.to_incarnation,
                                    "records": records, "relays": [], "asks": [], "words": [],
                                    "suspects": [], **other})  # fmt: skip

    def data(self, message_id, data):
        return self.ask("/data", {**self.header(), "id": message_id, "bytes": data})


# What it does.


def now():
    return time.time_ns() // 1000


def refused(answer, status, reason, number=0, records=()):
    """All of a refusal but its text is as it should be; gives back the records in it."""
    message = answer[1]
    verdicts = [(item["node_id"], item["reason"]) for item in message["records"]]
    got = (answer[0], message["reason"], message["number"], verdicts)
    assert got == (status, reason, number, list(records)), answer
    return message["records"]


def http_alone(network, address):
    """What gets no envelope, and an envelope of another type."""

    def got(path, body, method="POST"):
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert got("/other", b"") == (404, b"") and got("/ping", b"", "GET") == (405, b"")
    assert got("/ping", bytes(100)) == (400, b"")
    request = network.seal(place_of_request("/ping"), TYPES["/data"], b"")
    assert got("/data", request) == (400, b""), "its tag is made for another path"
    status, body = got("/ping", request)
    place = place_of_answer("/ping", status, request[-32:])
    payload = network.open(place, TYPES["/ping"], body)
    refused((status, decode_answer("/ping", status, payload)), 400, 2)


def hello(me, stranger):
    told = me.meet()
    assert told["seen"] == "%s:%d" % me.connection.sock.getsockname()
    refused(me.ping(), 401, 10)  # so far nothing has changed
    second = me.envelope("/hello", me.second_hello())
    assert me.send("/hello", second)[0] == 204
    refused(me.send("/hello", second), 406, 23, number=me.number)
    assert me.ask("/hello", me.second_hello())[0] == 204, "a new number is fine"

    # A first step with another incarnation does not replace the one that we have.
    assert me.ask("/hello", me.first_hello(incarnation=os.urandom(16)))[0] == 200
    assert me.ping()[0] == 200

    # Another caller has another session. With ours it is told its own once more.
    session = stranger.meet()["session"]
    status, again = stranger.ask("/hello", stranger.second_hello(session=me.session))
    assert (status, again["session"]) == (200, session) and session != me.session
    refused(stranger.ping(), 401, 10)

    assert me.ask("/hello", me.first_hello(lowest=0, highest=9))[1]["version"] == 1
    refused(me.ask("/hello", me.first_hello(lowest=2, highest=3)), 505, 40)
    refused(me.ask("/hello", me.first_hello(lowest=2, highest=1)), 400, 1)
    refused(me.ask("/hello", me.first_hello(port=0)), 406, 22)
    refused(me.ask("/hello", me.second_hello(to="another")), 401, 14)
    refused(me.ask("/hello", me.second_hello(number=2**63)), 406, 22)
    return told


def wrong_headers(me):
    refused(me.ping(to="another"), 401, 14)
    refused(me.ping(session=os.urandom(16)), 401, 13)
    refused(me.ping(number=2**63), 406, 22)
    refused(me.ping(incarnation=os.urandom(16)), 401, 10)
    header = {**me.header(), "view": view({})}
    refused(me.ask("/ping", {**header, "signature": bytes(64)}), 401, 11)
    assert me.ask("/ping", header)[0] == 200, "the wrong signature took no number"
    refused(me.ask("/ping", header), 406, 23, number=me.number)


def check_view(me, records):
    status, answer = me.ping()
    assert (status, answer["view"], answer["twin"]) == (200, view(records), None)


def first_records(me):
    """Pulls all that is there and brings a record of our own. Gives back all that is held then."""
    everything = [str(number) for number in range(1000)]  # a name for each bucket
    differing, known = me.peers({}, missed=everything)
    assert differing == 2**32 - 1
    assert known.pop(me.node_id) == {
        "node_id": me.node_id, "address": None, "version": NO_VERSION, "is_lost": False,
        "rank": rank(me.node_id, public_bytes(me.key)),
    }  # fmt: skip
    status, answer = me.pull({node_id: NO_VERSION for node_id in known})
    records = {record["node_id"]: record for record in answer["records"]}
    assert status == 200 and records.keys() == known.keys()
    for node_id, record in records.items():
        verify_record(record)
        told = {name: known[node_id][name] for name in ("node_id", "rank", "version")}
        ranked = rank(node_id, record["public_key"])
        assert told == {"node_id": node_id, "rank": ranked, "version": version(record)}
        assert known[node_id]["address"]
    assert records[me.to]["public_key"] == me.to_key
    assert me.pull({node_id: version(records[node_id]) for node_id in records}) == (204, {})

    mine = whole(me.node_id, me.key, now(), {"language": b"Python", "raw": b"\x00\xff"})
    assert me.push(mine) == me.push(mine) == (204, {}), "the same again is fine"
    return {**records, me.node_id: mine}


def tables(me, records):
    """PEERS about what is held, about what we miss, and about a node that we lack."""
    assert me.peers(records) == (0, {}), "both hold the same"
    for node_id, record in records.items():
        differing, known = me.peers(records, missed=[node_id])
        beside = {other for other in records if bucket_of(other) == bucket_of(node_id)}
        assert (differing, known.keys()) == (1 << bucket_of(node_id), beside)
        assert bool(known[node_id]["address"]) == (node_id != me.node_id)
        assert known[node_id]["version"] == version(record)

    before = dict(records)
    absent = whole("absent", ec.generate_private_key(ec.SECP256R1()), now(), {"a": b"1"})
    assert me.push(absent)[0] == 204
    records["absent"] = absent
    check_view(me, records)
    differing, known = me.peers(before)
    assert differing == 1 << bucket_of("absent")
    assert known["absent"] == {
        "node_id": "absent", "address": None, "version": version(absent), "is_lost": False,
        "rank": rank("absent", absent["public_key"]),
    }  # fmt: skip


def pushes(me, records):
    mine, theirs, start = records[me.node_id], records[me.to], now()

    def own(entries, timestamp=start):
        return whole(me.node_id, me.key, timestamp, entries)

    def holds(record):
        return me.pull({me.node_id: NO_VERSION}) == (200, {"records": [record]})

    stale = own({}, mine["timestamp"] - 1)
    [verdict] = refused(me.push(stale), 406, 20, records=[(me.node_id, 20)])
    verify_held(mine["public_key"], verdict)
    assert verdict["head"] == {
        "timestamp": mine["timestamp"], "left": False, "digest": digest(mine["entries"]),
        "home": mine["home"], "signature": mine["signature"],
    }  # fmt: skip
    [verdict] = refused(me.push(theirs), 406, 21, records=[(me.to, 21)])
    assert verdict["head"] is None
    other = whole(me.node_id, ec.generate_private_key(ec.SECP256R1()), start, {})
    refused(me.push(other), 401, 12, records=[(me.node_id, 12)])

    # These are refused as a whole.
    refused(me.push({**own({}), "signature": bytes(64)}), 401, 11)
    refused(me.push(mine, mine), 400, 1)
    refused(me.push({**mine, "flags": 4}), 400, 1)
    refused(me.push(mine, to="another"), 401, 14)
    refused(me.push(mine, incarnation=os.urandom(16)), 401, 13)
    for entries in ({"a=b": b""}, {"": b""}, {"\x7f": b""}, {"a" * 257: b""}, {"a": bytes(65537)},
                    {f"{n}": bytes(65536) for n in range(10, 26)},
                    {f"{n}": b"" for n in range(10000, 26385)}):  # fmt: skip
        refused(me.push(own(entries)), 406, 22)
    refused(me.push(own({}, 0)), 406, 22)
    refused(me.push(own({}, 2**53)), 406, 22)
    assert holds(mine)

    # One that is refused keeps no other one out: here a partial one behind a whole one.
    after = digest({"language": b"Python", "more": b"1"})
    refused(me.push(partial(mine, me.key, start, {"more": b"1"}, after)), 400, 1)
    change = partial(mine, me.key, start, {"more": b"1", "raw": None}, after)
    refused(me.push(theirs, change), 406, 21, records=[(me.to, 21)])
    records[me.node_id] = changed(mine, change)
    assert holds(records[me.node_id])

    # A partial one says where we live now, and the next one says nothing of it: as the base does.
    here = {"incarnation": me.incarnation, "address": "10.0.0.9:1"}
    for at, home, value in ((1, here, b"2"), (2, None, b"3")):
        base = records[me.node_id]
        after = digest({**base["entries"], "more": value})
        change = partial(base, me.key, start + at, {"more": value}, after, home)
        assert me.push(change)[0] == 204
        records[me.node_id] = changed(base, change)
        assert records[me.node_id]["home"] == here and holds(records[me.node_id])
    elsewhere = head(me.node_id, start + 3, 0, after, NOWHERE)
    lie = partial(records[me.node_id], me.key, start + 3, {}, after)
    refused(me.push(signed(me.key, lie, elsewhere)), 401, 11)
    late = partial(mine, me.key, start + 4, {"more": b"2"}, after)
    [verdict] = refused(me.push(late), 406, 26, records=[(me.node_id, 26)])
    assert verdict["head"] is None and holds(records[me.node_id])


def asks(me):
    """Whoever may be asked says that it is there; what nobody waits for changes nothing."""

    def ask(about):
        return {"about": about, "asker": "nobody", "challenge": os.urandom(16)}

    mine = ask(me.to)
    status, answer = me.push(asks=[ask("third"), mine, ask(me.to)])
    assert status == 200, answer
    verify(me.to_key, answer["here"], signed_here(me.to, mine["challenge"]))
    assert me.push(asks=[ask("third")]) == (204, {})
    words = [{"about": "third", "challenge": os.urandom(16), "here": here}
             for here in (None, bytes(64))]  # fmt: skip
    suspects = [{"node_id": "third", "fingerprint": os.urandom(16)}]
    assert me.push(words=words, suspects=suspects) == (204, {})
    refused(me.push(asks=[ask("third")] * 9), 400, 1)
    refused(me.push(suspects=suspects * 2), 400, 1)


def accused(me, records):
    """It refutes an accusation by a newer version, which it brings nobody who can't be called."""
    before = records[me.to]
    suspects = [{"node_id": me.to, "fingerprint": version(before)["fingerprint"]}]
    assert me.push(suspects=suspects) == (204, {})
    for _ in range(100):
        status, answer = me.pull({me.to: version(before)})
        if status == 200:
            [records[me.to]] = answer["records"]
            verify_record(records[me.to])
            assert records[me.to]["timestamp"] > before["timestamp"]
            assert records[me.to]["entries"] == before["entries"]
            return
        time.sleep(0.1)
    raise AssertionError("it does not refute it")


def data(me):
    first = me.next_number()
    assert me.data(first, b"hello from Python")[0] == 200
    assert me.data(first, b"hello from Python")[0] == 200, "the second is not delivered"
    refused(me.data(first - 1, b"a lower id"), 406, 23)
    refused(me.data(first + 1, bytes(1048577)), 406, 22)
    envelope = me.envelope("/data", {**me.header(), "id": first + 1, "bytes": b"bye"})
    assert me.send("/data", envelope)[0] == 200
    refused(me.send("/data", envelope), 406, 23, number=me.number)


def goodbye_and_back(me, records):
    bye = whole(me.node_id, me.key, now(), {"last": b"words"}, flags=1)
    assert me.push(bye)[0] == 204
    check_view(me, {**records, me.node_id: bye})
    before, me.incarnation = me.incarnation, os.urandom(16)
    refused(me.ping(), 401, 10)
    assert me.ask("/hello", me.second_hello())[0] == 204, "the session is the one of before"
    records[me.node_id] = whole(me.node_id, me.key, now(), {"language": b"Python"})
    assert me.push(records[me.node_id])[0] == 204
    check_view(me, records)

    # The old incarnation speaks once more, and the new one is told.
    refused(me.ping(incarnation=before), 401, 15)
    address = "%s:%d" % me.connection.sock.getsockname()
    assert me.ping()[1]["twin"] == {"address": address, "public_key": public_bytes(me.key)}


def impostor(name, address, network):
    """Who claims a name that has another key is refused, after a number check of its own."""
    claims = Member(name, address, network)
    claims.meet()
    second = claims.envelope("/hello", claims.second_hello())
    refused(claims.send("/hello", second), 401, 12)
    refused(claims.send("/hello", second), 406, 23, number=claims.number)


def join(address, key_file):
    network = Network(keys_of_file(key_file)[0])
    http_alone(network, address)
    me = Member("python", address, network)
    told = hello(me, Member("stranger", address, network))
    wrong_headers(me)
    records = first_records(me)
    check_view(me, records)
    tables(me, records)
    pushes(me, records)
    asks(me)
    accused(me, records)
    data(me)
    goodbye_and_back(me, records)
    impostor(me.node_id, address, network)
    impostor(me.to, address, network)

    leaver = Member("leaver", address, network)
    leaver.meet()
    assert leaver.ask("/hello", leaver.second_hello())[0] == 204
    assert leaver.push(whole("leaver", leaver.key, now(), {}, flags=1))[0] == 204
    assert leaver.ping()[0] == 200, "it is answered, and is not alive again"

    state = {key: value.decode() for key, value in records[me.to]["entries"].items()}
    learned = {name: told[name] for name in ("node_id", "program", "advertise", "seen")}
    print(json.dumps({**learned, "state": state, "nodes": sorted(records)}))


if __name__ == "__main__":
    if sys.argv[1] == "--page":
        check_page(sys.argv[2])
    else:
        join(*sys.argv[1:])
