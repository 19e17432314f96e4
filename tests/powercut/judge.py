"""The second half: the power is cut at places of a recording, nodes start on what the disk kept, and are asked."""

import bisect
import glob
import os
import random
from collections import Counter

import disk
from machine import Node, Refused, mount, unmount
from record import WRITERS

# How much later than promised a sync may end on a busy machine, s.
MARGIN = 1


class Findings:
    """What was found after one cut or after many."""

    def __init__(self):
        self.cuts = self.checked = self.lost_writes = self.cut_off = self.set_aside = 0
        # What is gone that had to be there, by kind; and how many changes that are.
        self.losses, self.changes_lost = Counter(), 0
        # The same where `set` is taken to mean that the change is on disk, whatever was asked for.
        self.strict_losses = 0
        self.complaints = []

    def complain(self, kind, text):
        self.losses[kind] += 1
        self.complaints.append(text)

    def add(self, other):
        for name, value in vars(other).items():
            if name != "complaints":
                setattr(self, name, getattr(self, name) + value)


def draw_place(recording, rng):
    """A place to cut at: some anywhere in the log, some anywhere in time, some where it may hurt most."""
    begin, end = recording.begins, len(recording.entries)
    way = rng.randrange(5)
    if way == 0:
        return rng.randint(begin, end)
    if way == 4:
        # Where the disk may forget much.
        places = [rng.randint(begin, end) for _ in range(10)]
        return max(places, key=lambda place: place - disk.flushed(recording.entries, place))
    if way == 1:
        at = rng.uniform(recording.entries[begin].at, recording.entries[-1].at)
        return max(begin, bisect.bisect([entry.at for entry in recording.entries], at))
    if way == 2:
        changes = rng.choice([history.changes for history in recording.histories if history.changes])
        place = rng.choice([change.acknowledged or change.asked for change in changes])
    else:
        place = rng.choice(recording.moments)
    return min(max(place + rng.choice([0, 0, 0, -1, 1, 2, 4, 8, 16]), begin), end)


def first_missing(history, found, demanded, asked, in_order):
    """The first of the writer's changes that had to be there and is not; nothing where all is well.

    In order: the keys are as after the last change that counts. Else each key by itself is as it was at some time since the
    changes that had to be there: what was not synced may be lost in the middle, too.
    """
    state = history.after(demanded)
    states = [dict(state)]
    for change in history.changes[demanded:asked]:
        change.apply(state)
        states.append(dict(state))
    if found in states:
        return None
    keys = set(found).union(*states)
    if not in_order and all(any(found.get(key) == at.get(key) for at in states) for key in keys):
        return None
    if in_order:
        state, best = {}, None
        for number, change in enumerate([None, *history.changes[:asked]]):
            if change is not None:
                change.apply(state)
            best = number if state == found else best
        # Where it is as it never was, nobody knows how much is lost.
        return 0 if best is None else best
    missing = [
        number
        for number, change in enumerate(history.changes[:demanded])
        if any(all(found.get(key) != at.get(key) for at in states) for key in change.entries)
    ]
    return missing[0] if missing else 0


def judge_changes(recording, place, name, entries, findings):
    """Whether what was acknowledged before the power went is there."""
    end = len(recording.entries)
    cut_at = recording.entries[min(place, end - 1)].at
    interval = recording.interval()
    for history in (history for history in recording.histories if history.node == name):
        changes, found = history.changes, history.own(entries)
        asked = sum(change.asked <= place for change in changes)

        def demanded(wait):
            """So many of the changes have to be there, if each is on disk so long after it was acknowledged."""
            numbers = (
                number
                for number, change in enumerate(changes[:asked], 1)
                if change.acknowledged is not None and change.acknowledged <= place
                if wait is None or change.acknowledged_at + wait + MARGIN <= cut_at
            )
            return max(numbers, default=0)

        count = demanded(interval)
        findings.checked += sum(change.acknowledged is not None for change in changes[:count])
        missing = first_missing(history, found, count, asked, in_order=interval is None)
        if missing is not None:
            findings.changes_lost += count - missing
            keys = {key: (found.get(key) or "")[:20] for key in history.after(count)}
            findings.complain("change", f"{name}: {history.prefix} changes from {missing} to {count} of {asked}: {keys}")
        if interval is not None:
            strict = demanded(None)
            missing = first_missing(history, found, strict, asked, in_order=True)
            findings.strict_losses += 0 if missing is None else max(strict - missing, 1)


def judge_files(node, findings):
    """What the node said of damaged files, and whether it said all."""
    said = node.log_text()
    findings.cut_off += "the last write was cut off" in said
    for path in glob.glob(os.path.join(node.data, node.name, "*.damaged-*")):
        findings.set_aside += 1
        if path not in said:
            findings.complain("silence", f"{node.name} does not name {path}: {said}")
    # Files that are replaced in one step are the old or the new ones.
    for word in ("known_peers was damaged", "can't be read", "can't be written", "can't be used"):
        if word in said:
            findings.complain("damage", f"{node.name}: {said}")


def judge_node(recording, place, node, findings):
    judge_files(node, findings)
    with node.control() as control:
        status = control.ask(op="status")
        entries = control.ask(op="state", node=node.name)["entries"]
        peers = {peer["node_id"]: peer["public_key"] for peer in control.ask(op="peers")}
    key, known_from = recording.identities.get(node.name, (None, None))
    if key is not None and known_from <= place and status["public_key"] != key:
        findings.complain("own key", f"{node.name} had the key {key}, and has {status['public_key']}")
    if node.name == "a" and recording.network_key[1] <= place:
        with open(node.network_key, "rb") as file:
            if file.read() != recording.network_key[0]:
                findings.complain("network key", "the network key is another one")
    for (owner, peer), (key, pinned_from) in recording.pins.items():
        if owner == node.name and pinned_from <= place and peers.get(peer) != key:
            findings.complain("peer", f"{node.name} had pinned {key} of {peer}, and has {peers.get(peer)}")
    judge_changes(recording, place, node.name, entries, findings)


class Cutter:
    """Cuts the power at places of one recording, which have to rise."""

    def __init__(self, program, folder, recording):
        self.program, self.folder, self.recording = program, folder, recording
        self.base = disk.Image(os.path.join(folder, "base"), recording.file_system.size)
        self.mount_point = os.path.join(folder, "cut")
        self.images = 0
        os.makedirs(self.mount_point, exist_ok=True)

    def leave(self, place, rng):
        """An image with what the disk kept; gives its path, and how many writes it lost."""
        recording = self.recording
        self.base.advance(recording.entries, disk.flushed(recording.entries, place))
        # A new file each time: of one that is known, mount would take the device that may still hold what was before.
        self.images += 1
        path = os.path.join(self.folder, f"image-{self.images}")
        image = self.base.copy(path)
        kept, lost = disk.remains(recording.entries, place, rng, recording.file_system.sector)
        for piece in kept:
            image.put(*piece)
        image.close()
        return path, lost

    def cut(self, place, rng):
        findings = Findings()
        findings.cuts = 1
        image, lost = self.leave(place, rng)
        findings.lost_writes = lost
        try:
            mount(image, self.mount_point, self.recording.file_system)
        except OSError as why:
            findings.complain("file system", str(why))
            os.remove(image)
            return findings
        nodes = [
            Node(self.program, self.mount_point, name)
            for name in WRITERS
            if self.recording.ready.get(name, place + 1) <= place
        ]
        try:
            self.start_and_ask(place, nodes, findings)
        finally:
            for node in nodes:
                node.kill()
            unmount(self.mount_point)
            os.remove(image)
        return findings

    def start_and_ask(self, place, nodes, findings):
        for node in nodes:
            # Nobody is there: what it knows is what the disk kept.
            bootstrap = None if node.name == "a" else "127.0.0.1:1"
            node.spawn("always", bootstrap, os.path.join(self.folder, f"{node.name}.log"))
        for node in nodes:
            if not node.await_start():
                findings.complain("start", f"{node.name} does not start: {node.log_text()}")
                continue
            try:
                judge_node(self.recording, place, node, findings)
            except (OSError, Refused) as why:
                findings.complain("start", f"{node.name}: {why}: {node.log_text()}")

    def close(self):
        self.base.close()
