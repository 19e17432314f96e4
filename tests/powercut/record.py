"""The first half: nodes live on a disk that forgets, and it is written down what they acknowledged, and when."""

import os
import pickle
import random
import subprocess
import threading
import time

import disk
from machine import PATIENCE, ForgetfulDisk, Node, Refused, await_true

# Programs that change the state of a node at the same time.
WRITERS = {"a": 3, "b": 1}
# Values of a key have about one size, bytes: so all of them fit, and each size is often written.
SIZES = [(1, 1), (2, 300), (4000, 4200), (500, 20_000), (61_440, 61_440)]
SIZE_WEIGHTS = [4, 6, 4, 3, 1]
# Between two changes of a writer, s: else a disk that syncs nothing would be full before there is something to cut.
REST_MAX = 0.03
# A pinned key is written 200 ms after it is known, and the file shows it a moment before it is durable, s. This is far more.
PEERS_DURABLE_AFTER = 1.5
# How long a recording goes on, s; with a time until the sync, twice that time is added.
LENGTH = 5


class Change:
    """One change that a writer asked for: places in the log, and what it makes of its keys."""

    def __init__(self, asked, entries):
        self.asked, self.entries = asked, entries
        # Nothing as long as it was not acknowledged: then it may be there or not.
        self.acknowledged, self.acknowledged_at = None, None

    def apply(self, state):
        for key, value in self.entries.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value


class History:
    """All that one writer changed, in its order."""

    def __init__(self, node, number):
        self.node, self.prefix, self.changes = node, f"w{number}.", []

    def after(self, count):
        """The keys of the writer after so many of its changes."""
        state = {}
        for change in self.changes[:count]:
            change.apply(state)
        return state

    def own(self, entries):
        return {key: value for key, value in entries.items() if key.startswith(self.prefix)}


class Recording:
    """What is kept of all this for the cuts; it can be written to a file."""

    def __init__(self, file_system, sync):
        self.file_system, self.sync = file_system, sync
        self.entries = []
        # Cuts are made from this place on: the file system is made by then.
        self.begins = 0
        self.histories = []
        # Of each node: from which place on it can be started, and its public key with the place where it was told.
        self.ready, self.identities = {}, {}
        self.network_key = None
        # (node, id of its peer) → (public key, place)
        self.pins = {}
        # Places where something happened that is more than one change.
        self.moments = []

    def interval(self):
        """After how many seconds a change is on disk for certain; nothing where that is when it is acknowledged."""
        units = {"ms": 0.001, "s": 1}
        for unit, factor in units.items():
            number = self.sync.removesuffix(unit)
            if number.isdigit():
                return int(number) * factor
        return None

    def save(self, path):
        with open(path, "wb") as file:
            pickle.dump(self, file)

    @staticmethod
    def load(path):
        with open(path, "rb") as file:
            return pickle.load(file)


class Writer(threading.Thread):
    """Changes keys of its own until it is told to end, over restarts of the node."""

    def __init__(self, session, history, seed, uses_command):
        super().__init__(daemon=True)
        self.session, self.history, self.random = session, history, random.Random(seed)
        self.uses_command = uses_command
        self.control, self.fault = None, None

    def run(self):
        try:
            while not self.session.is_over.is_set():
                self.session.may_write.wait()
                try:
                    self.change()
                except (OSError, ValueError, Refused):
                    self.settle()
                time.sleep(self.random.uniform(0, REST_MAX))
        except Exception as why:  # The recording says it, and ends.
            self.fault = why
        finally:
            if self.control is not None:
                self.control.close()

    def value(self):
        size = self.random.choices(range(len(SIZES)), SIZE_WEIGHTS)[0]
        length = self.random.randint(*SIZES[size])
        return f"{self.history.prefix}{size}", self.random.randbytes(length // 2 + 1).hex()[:length]

    def change(self):
        place = self.session.disk.place_now()
        is_there = list(self.history.after(len(self.history.changes)))
        if is_there and self.random.random() < 0.1:
            entries = {self.random.choice(is_there): None}
        else:
            entries = dict(self.value() for _ in range(self.random.choice([1, 1, 1, 2])))
        change = Change(place, entries)
        self.history.changes.append(change)
        self.tell(change)

    def tell(self, change):
        """Comes back when the node acknowledged the change."""
        self.ask(change.entries)
        change.acknowledged_at = time.monotonic()
        change.acknowledged = self.session.disk.place_now()

    def ask(self, entries):
        node = self.session.nodes[self.history.node]
        gone = [key for key, value in entries.items() if value is None]
        if self.uses_command:
            command = [node.program, "--control", node.socket]
            if gone:
                command += ["unset", *gone]
            else:
                command += ["set", *(f"{key}={value}" for key, value in entries.items())]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ConnectionError(done.stderr)
            return
        if self.control is None:
            self.control = node.control()
        if gone:
            self.control.ask(op="unset", keys=gone)
        else:
            self.control.ask(op="set", entries=entries)

    def settle(self):
        """The node went away, maybe with a change under way: finds out whether that was made."""
        if self.control is not None:
            self.control.close()
            self.control = None
        end = time.monotonic() + PATIENCE
        while not self.session.is_over.is_set():
            try:
                node = self.session.nodes[self.history.node]
                found = self.history.own(node.ask(op="state", node=node.name)["entries"])
                break
            except (OSError, ValueError, Refused):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        else:
            return
        changes = self.history.changes
        if found == self.history.after(len(changes)):
            if changes and changes[-1].acknowledged is None:
                # As whoever got no answer does: the node finds that it is there already.
                self.tell(changes[-1])
            return
        changes.pop()
        if found != self.history.after(len(changes)):
            raise AssertionError(f"{self.history.prefix} of {node.name} is not as it was left")


class Place:
    """The place in the log of a disk, for several threads."""

    def __init__(self, forgetful):
        self.disk, self.lock = forgetful, threading.Lock()

    def place_now(self):
        with self.lock:
            return self.disk.place()


class PinWatch(threading.Thread):
    """Notes from which place on a pinned key has to be there."""

    def __init__(self, session):
        super().__init__(daemon=True)
        self.session, self.seen, self.fault = session, {}, None

    def run(self):
        try:
            while not self.session.is_over.is_set():
                now = time.monotonic()
                for name in WRITERS:
                    for peer, key in pinned(self.session.nodes[name].known_peers).items():
                        self.seen.setdefault((name, peer), (key, now))
                for pin, (key, at) in self.seen.items():
                    if pin not in self.session.recording.pins and now - at > PEERS_DURABLE_AFTER:
                        self.session.pin(pin, key)
                time.sleep(0.1)
        except Exception as why:  # The recording says it, and ends.
            self.fault = why


def pinned(path):
    """The keys in a file of known peers, by id."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split() for line in file if not line.startswith("#")]
    except FileNotFoundError:
        return {}
    return {line[0]: line[1] for line in lines if len(line) == 5 and line[1] != "-"}


class Session:
    """One recording while it is made."""

    def __init__(self, program, folder, file_system, sync, seed):
        self.folder, self.random = folder, random.Random(seed)
        self.recording = Recording(file_system, sync)
        self.forgetful = ForgetfulDisk(os.path.join(folder, "disk"), file_system, self.random)
        self.disk = Place(self.forgetful)
        on_disk, beside = self.forgetful.mount_point, os.path.join(folder, "beside")
        # c is there to be met: it lives on another disk.
        places = {"a": on_disk, "b": on_disk, "c": beside}
        self.nodes = {name: Node(program, place, name) for name, place in places.items()}
        self.is_over, self.may_write = threading.Event(), threading.Event()
        self.may_write.set()
        self.threads = []

    def note(self):
        self.recording.moments.append(self.disk.place_now())

    def pin(self, pin, key):
        self.recording.pins[pin] = (key, self.disk.place_now())
        self.note()

    def start(self, name, bootstrap=None):
        self.note()
        log = os.path.join(self.folder, f"{name}.log")
        self.nodes[name].start(self.recording.sync, bootstrap, log)
        public_key = self.nodes[name].ask(op="status")["public_key"]
        before = self.recording.identities.setdefault(name, (public_key, self.disk.place_now()))
        assert before[0] == public_key, f"{name} has another key after a kill"
        self.note()

    def await_pins(self, *pins):
        for name, peer in pins:
            try:
                await_true(f"the key of {peer} at {name}", lambda: peer in pinned(self.nodes[name].known_peers))
            except TimeoutError as why:
                logs = [f"{node.name}: {node.log_text()}" for node in self.nodes.values() if node.child]
                raise TimeoutError(f"{why}\n" + "\n".join(logs)) from why

    def copy_network_key(self, name):
        """As an operator does who wants it to be there."""
        node = self.nodes[name]
        os.makedirs(node.credentials, mode=0o700)
        file = os.open(node.network_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, self.recording.network_key[0])
        os.fsync(file)
        os.close(file)
        for folder in (node.credentials, os.path.dirname(node.credentials)):
            file = os.open(folder, os.O_RDONLY)
            os.fsync(file)
            os.close(file)
        self.recording.ready[name] = self.disk.place_now()

    def write(self, name):
        for number in range(WRITERS[name]):
            history = History(name, number)
            self.recording.histories.append(history)
            writer = Writer(self, history, self.random.random(), uses_command=number == 0)
            self.threads.append(writer)
            writer.start()

    def live(self):
        """First starts, meetings, a kill, a quiet time after it, and a clean restart, while others write."""
        nodes, recording = self.nodes, self.recording
        unit = (LENGTH + 2 * (recording.interval() or 0)) / 5
        recording.begins = recording.ready["a"] = self.disk.place_now()
        self.threads.append(PinWatch(self))
        self.threads[0].start()
        self.start("a")
        with open(nodes["a"].network_key, "rb") as file:
            recording.network_key = (file.read(), self.disk.place_now())
        self.write("a")
        time.sleep(0.2)
        self.copy_network_key("b")
        self.start("b", nodes["a"].address)
        self.await_pins(("a", "b"), ("b", "a"))
        self.write("b")
        self.sleep(unit)
        os.mkdir(os.path.join(self.folder, "beside"))
        self.copy_network_key("c")
        self.start("c", nodes["a"].address)
        self.await_pins(("a", "c"))
        self.sleep(unit)
        self.note()
        nodes["a"].kill()
        # Nobody writes: what the killed one has not synced, the next one has to.
        self.may_write.clear()
        self.start("a", nodes["b"].address)
        self.sleep(unit + 0.5)
        self.may_write.set()
        self.sleep(unit)
        nodes["b"].stop()
        for peer, key in pinned(nodes["b"].known_peers).items():
            recording.pins.setdefault(("b", peer), (key, self.disk.place_now()))
        self.note()
        self.start("b", nodes["a"].address)
        self.sleep(unit)

    def sleep(self, seconds):
        time.sleep(seconds)
        for thread in self.threads:
            if thread.fault is not None:
                raise thread.fault

    def record(self):
        """Lives, and gives the recording."""
        try:
            self.live()
            end = self.disk.place_now()
        finally:
            self.is_over.set()
            self.may_write.set()
            for node in self.nodes.values():
                node.kill()
            for thread in self.threads:
                thread.join()
            self.forgetful.end()
        self.recording.entries = disk.read_log(self.forgetful.log)[:end]
        return self.recording
