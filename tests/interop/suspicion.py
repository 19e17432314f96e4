"""Who is there: probes, doubts, asks, words and accusations of docs/protocol.md, sections 7, 9."""

import os
import random
import time

from relays import RINGS, Errand, ring_key
from wire import is_signed, sign, signed_here

ASKED_FIRST, ASKED_THEN = 3, 5
PENDING_OF_OTHERS = 16
IN_DOUBT_OF_A_LIST = 4
PROBES_COUNTED = 10
MAIL_TICKS = 2
ASKS_IN_MAIL, WORDS_IN_MAIL, SUSPECTS_IN_MAIL = 8, 8, 64


class Accusation(Errand):
    def __init__(self, fingerprint):
        super().__init__(None, False)
        self.fingerprint = fingerprint


class Suspicion:
    def factor(self):
        """Who fails often waits longer."""
        failed = self.probes[-PROBES_COUNTED:].count(False)
        return min(failed - 1, 8) if failed >= 3 else 1

    def third(self):
        return self.tick / 3 * self.factor()

    # Probes

    def callable(self):
        return [p for p in self.peers.values() if p.status == "alive" and p.address]

    def choose_links(self):
        """In a large network the next two on ring 1, and those half around, a quarter, and so on."""
        peers = [p for p in self.peers.values()
                 if p.status in ("alive", "suspect") and (p.is_proved or p.held)]  # fmt: skip
        if not self.is_large():
            return peers
        mine = ring_key(1, self.node_id)[0]
        peers.sort(key=lambda p: (ring_key(1, p.node_id)[0] - mine) % 2**64)
        links = peers[:2]
        distances = [(ring_key(1, p.node_id)[0] - mine) % 2**64 for p in peers]
        for power in range(63, -1, -1):
            if not distances or 1 << power <= distances[0]:
                break
            at = next((n for n, distance in enumerate(distances) if distance >= 1 << power), 0)
            if peers[at] not in links:
                links.append(peers[at])
        return links

    def probe(self, now):
        alive = self.callable()
        if not alive or self.own.has_left:
            return
        mine = ring_key(1, self.node_id)[0]
        alive.sort(key=lambda p: (ring_key(1, p.node_id)[0] - mine) % 2**64)
        self.probe_turn = not self.probe_turn
        peer = alive[0]
        if not self.probe_turn:
            links = [p for p in self.links if p in alive]
            peer = min(links or alive, key=lambda p: p.heard or 0)
        self.count["probed"] += 1
        peer.owes.add("ping")
        self.pump(peer)

    def call_failed(self, peer, path, now):
        if path in ("/ping", "/hello"):
            if peer.doubt and peer.doubt["stage"] == 0:
                self.ask_others(peer, now)
            elif not peer.doubt:
                self.begin_doubt(peer, now)
            if peer.lost_at and peer.status == "alive":
                self.suspect(peer, now, "accused, and gives no answer here")

    # Doubts

    def begin_doubt(self, peer, now, is_silent=False):
        if peer.doubt or peer.lost_at or peer.status != "alive":
            return
        if not is_silent and not peer.is_reached:
            return
        self.log("doubt", node=peer.node_id, silent=is_silent)
        peer.doubt = {"stage": 0, "until": now + self.third(), "asked": set(), "took": False,
                      "by_call": not is_silent}  # fmt: skip
        peer.owes.add("ping")
        peer.wait_until = 0.0
        if is_silent:
            self.ask_others(peer, now)
        self.pump(peer)

    def ask_others(self, peer, now):
        doubt = peer.doubt
        doubt["stage"] += 1
        doubt["until"] = now + self.third()
        self.ask_some(peer, ASKED_FIRST if doubt["stage"] == 1 else ASKED_THEN, doubt["asked"])

    def ask_some(self, peer, count, asked):
        others = [p for p in self.peers.values() if p.is_connected and p.status == "alive"
                  and not p.doubt and p is not peer and p.node_id not in asked]  # fmt: skip
        for other in random.sample(others, min(count, len(others))):
            challenge = os.urandom(16)
            asked.add(other.node_id)
            self.waits_for_word[challenge] = {"about": peer.node_id, "asked": other.node_id,
                                              "until": time.monotonic() + 3 * self.tick}  # fmt: skip
            other.asks.append({"about": peer.node_id, "asker": self.node_id,
                               "challenge": challenge})  # fmt: skip
            self.pump(other)

    def go_on_with_doubt(self, peer, now):
        doubt = peer.doubt
        waiting = [w for w in self.waits_for_word.values() if w["about"] == peer.node_id]
        is_over = doubt["stage"] > 0 and doubt["asked"] and not waiting
        if now < doubt["until"] and not is_over:
            return
        if doubt["stage"] < 2:
            return self.ask_others(peer, now)
        heard_any = max((p.heard or 0 for p in self.peers.values()), default=0)
        if now - heard_any > self.tick * 4 / 3:
            return self.blame_myself(now)
        peer.doubt = None
        if not doubt["took"] or not self.would_count(peer, now):
            return self.begin_doubt(peer, now)
        return self.accuse(peer, now)

    def blame_myself(self, now):
        for peer in self.peers.values():
            if peer.status == "alive":
                peer.doubt = None
                peer.lost_at = now + self.tick * 0.8 * self.factor()
                self.set_status(peer, "suspect", "nobody is heard here")

    # Accusations

    def would_count(self, peer, now):
        return not peer.accused or now - peer.accused >= 2 * self.tick

    def suspect(self, peer, now, why):
        self.set_status(peer, "suspect", why)
        if peer.is_connected:
            self.ask_some(peer, ASKED_FIRST, set())

    def accuse(self, peer, now):
        peer.accused, peer.accused_of = now, peer.held and peer.held.fingerprint
        peer.lost_at = now + self.tick * 0.8 * self.factor()
        self.log("accuses", node=peer.node_id)
        self.suspect(peer, now, "no answer, whoever tried")
        if not peer.held:
            return
        self.accuse_to(peer, peer, peer.held.fingerprint, {})
        if self.is_large():
            for ring in RINGS:
                self.pass_on("suspect", peer.held, (ring, self.node_id, self.node_id))
        else:
            for other in self.peers.values():
                if other.is_connected and other is not peer:
                    self.accuse_to(other, peer, peer.held.fingerprint, {})

    def accuse_to(self, other, peer, fingerprint, stretches):
        accusation = other.accusations.get(peer.node_id)
        if not accusation or accusation.fingerprint != fingerprint:
            accusation = other.accusations[peer.node_id] = Accusation(fingerprint)
        accusation.stretches.update(stretches)
        self.pump(other)

    def hear_accusation(self, suspect):
        now = time.monotonic()
        if suspect["node_id"] == self.node_id:
            self.log("accused", is_present=suspect["fingerprint"] == self.own.fingerprint)
            return self.refute(suspect["fingerprint"])
        peer = self.peers.get(suspect["node_id"])
        is_held = peer and peer.held and peer.held.fingerprint == suspect["fingerprint"]
        if not is_held or peer.status != "alive" or not self.would_count(peer, now):
            return None
        self.log("hears of", node=peer.node_id)
        peer.accused, peer.accused_of = now, suspect["fingerprint"]
        peer.lost_at = now + self.tick * 0.8 * self.factor()
        peer.check_until = now + self.tick / 3
        if peer.is_connected:
            self.accuse_to(peer, peer, suspect["fingerprint"], {})
        peer.owes.add("ping")
        peer.wait_until = 0.0
        return self.pump(peer)

    # Asks and words

    def try_for_another(self, ask):
        asker, about = self.peers.get(ask["asker"]), self.peers.get(ask["about"])
        is_known = asker and (asker.is_connected or asker.called_at)
        if not is_known or len(self.asked_by_others) >= PENDING_OF_OTHERS:
            return
        challenge = ask["challenge"]
        if not about or not about.public_key or not all(about.where()):
            return self.tell_word(asker, ask, None)
        self.log("asked", about=ask["about"], asker=ask["asker"])
        now = time.monotonic()
        ticks = MAIL_TICKS if self.takes_mail(about, now) else 1
        self.asked_by_others[challenge] = {"ask": ask, "until": now + ticks * self.tick}
        if self.takes_mail(about, now):
            return
        about.asks.append(ask)
        self.pump(about)

    def tell_word(self, asker, ask, here):
        self.log("word", about=ask["about"], asker=asker.node_id, here=here is not None)
        now, word = time.monotonic(), {**ask, "here": here}
        del word["asker"]
        if self.takes_mail(asker, now):
            until = now + MAIL_TICKS * self.tick
            self.asked_by_others[ask["challenge"]] = {"ask": ask, "until": until, "word": word}
            return
        asker.words.append(word)
        self.pump(asker)

    # Mail

    def takes_mail(self, peer, now):
        """It calls, and can't be called."""
        was_called = peer.called_at and now - peer.called_at <= MAIL_TICKS * self.tick
        return peer.answered_last is False and was_called

    def mail_for(self, peer, now):
        peer.called_at = peer.called_at or now
        if not self.takes_mail(peer, now):
            return None
        pending, new = self.asked_by_others, MAIL_TICKS * self.tick
        challenges = [challenge for challenge, it in pending.items()
                      if it["ask"]["about"] == peer.node_id and "word" not in it]  # fmt: skip
        words = [it["word"] for it in pending.values()
                 if it["ask"]["asker"] == peer.node_id and "word" in it]  # fmt: skip
        suspects = [(p.node_id, p.accused_of) for p in self.peers.values()
                    if p is not peer and p.status == "lost" and p.accused_of
                    and p.lost_since and now - p.lost_since < new]  # fmt: skip
        if peer.accused and now - peer.accused < new:
            suspects.append((peer.node_id, peer.accused_of))
        suspects.sort(key=lambda item: item[0].encode())
        if not challenges and not words and not suspects:
            return None
        self.log("mail", to=peer.node_id, asks=len(challenges), words=len(words))
        return {"challenges": challenges[:ASKS_IN_MAIL], "words": words[:WORDS_IN_MAIL],
                "suspects": [{"node_id": name, "fingerprint": accused_of}
                             for name, accused_of in suspects[:SUSPECTS_IN_MAIL]]}  # fmt: skip

    def read_mail(self, peer, mail):
        if not mail:
            return
        for challenge in mail["challenges"]:
            here = sign(self.key, signed_here(self.node_id, challenge))
            word = {"about": self.node_id, "challenge": challenge, "here": here}
            if all(word["challenge"] != waiting["challenge"] for waiting in peer.words):
                peer.words.append(word)
        for word in mail["words"]:
            self.hear_word(word)
        for suspect in mail["suspects"]:
            self.hear_accusation(suspect)
        self.pump(peer)

    def asks_answered(self, peer, asks, here):
        """A push with asks went to a node; `here` is its signature, None if there was none."""
        for ask in asks:
            pending = self.asked_by_others.get(ask["challenge"])
            if ask["about"] != peer.node_id or not pending or "word" in pending:
                continue
            said = signed_here(peer.node_id, ask["challenge"])
            is_right = bool(here) and is_signed(peer.public_key, here, said)
            if here and not is_right:
                continue  # it was made for another ask in the same push
            del self.asked_by_others[ask["challenge"]]
            if is_right and peer.status == "lost":
                peer.owes.add("hello")
                peer.wait_until = 0.0
            asker = self.peers.get(ask["asker"])
            if asker:
                self.tell_word(asker, ask, here)

    def asks_taken(self, asks, took):
        for ask in asks:
            waits = self.waits_for_word.get(ask["challenge"])
            if not waits:
                continue
            about = self.peers[waits["about"]]
            if not took:
                del self.waits_for_word[ask["challenge"]]
            elif about.doubt:
                about.doubt["took"] = True

    def hear_word(self, word):
        waits = self.waits_for_word.get(word["challenge"])
        if not waits:
            return self.hear_what_was_asked(word)
        if waits["about"] != word["about"]:
            return None
        peer, here = self.peers[word["about"]], word["here"]
        said = signed_here(peer.node_id, word["challenge"])
        if here and not (peer.public_key and is_signed(peer.public_key, here, said)):
            return None
        del self.waits_for_word[word["challenge"]]
        self.log("hears a word", about=peer.node_id, here=here is not None)
        if here:
            peer.vouched = time.monotonic()
            self.clear(peer)
            if peer.status in ("suspect", "lost"):
                self.set_status(peer, "alive", "vouched for")
        return None

    def hear_what_was_asked(self, word):
        """One that can only call answers by itself what others asked of it."""
        pending, about = self.asked_by_others.get(word["challenge"]), self.peers.get(word["about"])
        is_open = pending and "word" not in pending and pending["ask"]["about"] == word["about"]
        if not is_open or not about or not about.public_key or not word["here"]:
            return
        said = signed_here(about.node_id, word["challenge"])
        asker = self.peers.get(pending["ask"]["asker"])
        if asker and is_signed(about.public_key, word["here"], said):
            del self.asked_by_others[word["challenge"]]
            self.tell_word(asker, pending["ask"], word["here"])

    # The beat

    def look_after_all(self, now):
        for challenge, pending in list(self.asked_by_others.items()):
            if now >= pending["until"]:
                del self.asked_by_others[challenge]
                asker = self.peers.get(pending["ask"]["asker"])
                if asker and "word" not in pending:
                    self.tell_word(asker, pending["ask"], None)
        for challenge, waits in list(self.waits_for_word.items()):
            if now >= waits["until"]:
                del self.waits_for_word[challenge]
        for peer in list(self.peers.values()):
            if peer.call_since and now - peer.call_since > self.tick / 3:
                self.begin_doubt(peer, now)
            if peer.doubt:
                self.go_on_with_doubt(peer, now)
            if peer.lost_at and peer.status == "alive" and now >= peer.check_until:
                self.suspect(peer, now, "accused, and not heard in a third of a tick")
            if peer.lost_at and now >= peer.lost_at and peer.status == "suspect":
                peer.doubt = peer.lost_at = None
                peer.lost_since = now
                self.set_status(peer, "lost", "silent since it was accused")

    def at_tick(self, now):
        self.links = self.choose_links()
        lost = [p for p in self.peers.values() if p.status == "lost" and now >= p.wait_until]
        looked_for = [min(lost, key=lambda p: p.failures)] if lost else []
        for peer in [*self.links, *looked_for]:
            if not peer.is_connected and peer.status != "left":
                peer.owes.add("hello")
        for peer in self.peers.values():
            last = max(peer.heard or 0, peer.vouched or 0)
            if peer.status == "alive" and last and now - last > 2 * self.tick:
                is_apart = peer in self.links and peer.is_reached and not peer.is_connected
                if is_apart or peer.answered_last is False:
                    self.begin_doubt(peer, now, is_silent=True)
            if peer.status == "suspect":
                if now - peer.known_since > 4 * self.tick and not peer.heard:
                    self.set_status(peer, "lost", "it was never heard")
                peer.owes.add("ping" if peer.is_connected else "hello")
        missed = any(p.status in ("suspect", "lost") for p in self.peers.values())
        alive = [p for p in self.callable() if p.is_connected]
        self.turn += 1
        known_well = any(p.status in ("suspect", "lost") and p.heard and now - p.heard < 300
                         for p in self.peers.values())  # fmt: skip
        if missed and alive and self.turn % (2 if known_well else 10) == 0:
            random.choice(alive).owes.add("peers")
        late = [p for p in alive if p.differs_since and now - p.differs_since > self.tick * 2 / 3]
        for peer in random.sample(late, min(4, len(late))):
            peer.owes.add("ping")
        for peer in self.peers.values():
            self.pump(peer)
