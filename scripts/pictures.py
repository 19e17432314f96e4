#!/usr/bin/env python3
"""Draws docs/pictures/*.svg.

  scripts/pictures.py           writes them
  scripts/pictures.py --check   exit code 1 where a file is not what this script draws

Each picture paints its own background and follows the reader's choice of light or dark, so it can be read in a page of
either kind. A text that is too wide for its box, by a careful guess, is an error. Python's standard library is enough.
"""

import html
import math
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "pictures"

# Name of a color: in light, in dark.
COLORS = {
    "paper": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#a9b1ba"),
    "line": ("#7d8590", "#8b949e"),
    "panel": ("#f6f8fa", "#161b22"),
    "edge": ("#d1d9e0", "#30363d"),
    "blue": ("#0969da", "#4493f8"),
    "blue-fill": ("#ddf4ff", "#122c4d"),
    "green": ("#1a7f37", "#3fb950"),
    "green-fill": ("#dafbe1", "#12331d"),
    "orange": ("#bc4c00", "#db6d28"),
    "orange-fill": ("#fff1e5", "#42240f"),
    "red": ("#cf222e", "#f85149"),
    "red-fill": ("#ffebe9", "#481a1d"),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# Widest usual fonts: width of a letter as a part of its size.
LETTER, MONO_LETTER = 0.58, 0.61
# Texts that do not fit.
TOO_WIDE = []


def style():
    def variables(which):
        return " ".join(f"--{name}: {pair[which]};" for name, pair in COLORS.items())

    rules = [
        f":root {{ {variables(0)} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(1)} }} }}",
        f"text {{ font-family: {FONT}; font-size: 14px; fill: var(--ink); }}",
        ".title { font-weight: 600; font-size: 16px; } .bold { font-weight: 600; }",
        ".small { font-size: 12px; } .soft { fill: var(--soft); }",
        f".mono {{ font-family: {MONO}; font-size: 13px; }}",
        ".paper { fill: var(--paper); } .head { fill: var(--line); }",
        ".panel { fill: var(--panel); stroke: var(--edge); }",
        ".plain { fill: var(--paper); stroke: var(--line); }",
        ".line { fill: none; stroke: var(--line); stroke-width: 1.5; }",
        ".thin { fill: none; stroke: var(--edge); stroke-width: 1.5; }",
        ".dash { stroke-dasharray: 5 4; }",
    ]
    for color in ["blue", "green", "orange", "red"]:
        rules.append(f".{color} {{ fill: var(--{color}-fill); stroke: var(--{color}); stroke-width: 1.5; }}")
        rules.append(f".{color}-copy {{ fill: var(--paper); stroke: var(--{color}); stroke-width: 1.5; }}")
        rules.append(f".{color}-text {{ fill: var(--{color}); }}")
    return "\n".join(rules)


class Picture:
    def __init__(self, name, width, height, title, description, top=0):
        self.name, self.width, self.height = name, width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {top} {width} {height - top}" width="{width}" height="{height - top}" '
            f'role="img" aria-labelledby="title description">',
            f'<title id="title">{html.escape(title)}</title>',
            f'<desc id="description">{html.escape(description)}</desc>',
            f"<style>\n{style()}\n</style>",
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            'orient="auto-start-reverse"><path class="head" d="M 0 0.5 L 10 5 L 0 9.5 z"/></marker></defs>',
            f'<rect class="paper" y="{top}" width="{width}" height="{height - top}" rx="8"/>',
        ]

    def text(self, x, y, text, kind="", anchor="start", width=None):
        size = 12 if "small" in kind else 16 if "title" in kind else 13 if "mono" in kind else 14
        wide = len(text) * size * (MONO_LETTER if "mono" in kind else LETTER)
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[anchor]
        if wide > (width or self.width) or left < 0 or left + wide > self.width:
            TOO_WIDE.append(f"{self.name}: {text} ({wide:.0f})")
        self.parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
            if kind
            else f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def box(self, x, y, width, height, kind="plain", round_by=6):
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{round_by}"/>')

    def line(self, path, kind="line", start=False, end=False):
        ends = (' marker-start="url(#head)"' if start else "") + (' marker-end="url(#head)"' if end else "")
        self.parts.append(f'<path class="{kind}" d="{path}"{ends}/>')

    def number(self, x, y, number):
        self.parts.append(f'<circle class="blue" cx="{x}" cy="{y}" r="11"/>')
        self.text(x, y + 4.5, str(number), "small bold", "middle")

    def lines(self, x, y, lines, kind="", anchor="start", step=19, width=None):
        for at, text in enumerate(lines):
            self.text(x, y + at * step, text, kind, anchor, width)

    def finish(self):
        return "\n".join([*self.parts, "</svg>", ""])


def network():
    picture = Picture(
        "network", 760, 372, "A network of three nodes",
        "kitchen, garden and shed each hold their own state and live copies of the two others; each is connected to each.",
    )
    owners = {
        "kitchen": ("blue", "light=off"),
        "garden": ("green", "temperature=17.5"),
        "shed": ("orange", "door=open"),
    }
    width, height = 236, 136
    places = {"kitchen": (24, 24), "garden": (500, 24), "shed": (262, 186)}
    picture.line("M 264 72 H 496", start=True, end=True)
    picture.line("M 142 164 V 254 H 258", start=True, end=True)
    picture.line("M 618 164 V 254 H 502", start=True, end=True)
    picture.text(380, 60, "changes, at once", "small soft", "middle")
    picture.text(380, 92, "encrypted, signed", "small soft", "middle")
    for node, (x, y) in places.items():
        picture.box(x, y, width, height, "panel", 8)
        picture.text(x + 14, y + 25, node, "title")
        order = [node] + [other for other in owners if other != node]
        for row, owner in enumerate(order):
            color, value = owners[owner]
            top = y + 36 + row * 32
            picture.box(x + 12, top, width - 24, 27, color if owner == node else f"{color}-copy", 5)
            picture.text(x + 22, top + 18, owner, "small", width=70)
            picture.text(x + width - 22, top + 18, value, "small bold", "end", 140)
    picture.box(24, 338, 28, 16, "blue", 4)
    picture.text(60, 351, "own state, durable on its owner's disk", "small soft")
    picture.box(330, 338, 28, 16, "blue-copy", 4)
    picture.text(366, 351, "live copy, held by every other node", "small soft")
    return picture


def code():
    picture = Picture(
        "code", 900, 646, "The map of the code",
        "Layers of modules from the command line at the top to the protocol core at the bottom; each uses only what is below it.",
    )

    def room(x, y, width, name, what, kind="plain", height=58):
        picture.box(x, y, width, height, kind)
        picture.text(x + 12, y + 23, name, "bold", width=width - 20)
        picture.text(x + 12, y + 43, what, "small soft", width=width - 20)

    def layer(y, name, rooms):
        picture.text(24, y, name, "small soft")
        width = (852 - 14 * (len(rooms) - 1)) // len(rooms)
        for at, (name, what, *kind) in enumerate(rooms):
            room(24 + at * (width + 14), y + 8, width, name, what, *kind)

    picture.text(24, 34, "What is drawn higher may use what is drawn lower, never the other way around.")
    layer(60, "the command, and all threads", [
        ("main, cli", "words in, answers and exit codes out"),
        ("runtime", "starts, names, stops and joins all threads"),
    ])
    layer(152, "who asks, and who is asked", [
        ("control", "the local socket: people and scripts"),
        ("driver", "the one mutex around the node", "orange"),
    ])
    picture.line("M 443 189 H 453", end=True)
    layer(244, "between the world and the rules", [
        ("server", "the port: gate, workers"),
        ("client", "one try of a request"),
        ("steps", "bytes to rules, and back", "green"),
        ("keeper", "when what is written", "green"),
    ])
    layer(318, "", [
        ("events", "to those who listen"),
        ("credentials", "keys, known peers"),
        ("journal", "the own state on disk"),
        ("config", "flags, environment, file"),
    ])
    picture.text(24, 422, "the core", "small soft")
    picture.box(24, 430, 638, 164, "green")
    picture.text(36, 454, "protocol", "bold")
    picture.text(36, 474, "knows no clock, disk, network or thread: bytes, time and chance come in, actions go out", "small soft", width=620)
    for at, (name, what) in enumerate([
        ("wire", "messages to bytes and back"), ("crypto", "seal, open, sign, verify"), ("entries", "keys, values, digest"),
        ("peers", "who is known, and how"), ("node", "the rules"), ("keystream", "AES, a crate for speed"),
    ]):
        x, y = 36 + at % 3 * 207, 486 + at // 3 * 50
        picture.box(x, y, 199, 44, "plain", 5)
        picture.text(x + 10, y + 18, name, "small bold", width=180)
        picture.text(x + 10, y + 35, what, "small soft", width=185)
    room(676, 430, 200, "durable", "files outlive power cuts")
    picture.box(24, 612, 22, 14, "green", 4)
    picture.text(54, 624, "pure: the simulator runs it in virtual time", "small soft")
    picture.box(400, 612, 22, 14, "orange", 4)
    picture.text(430, 624, "holds the state of the node", "small soft")
    return picture


def change():
    picture = Picture(
        "change", 980, 500, "A change on its way",
        "From dsn set over the journal of the owner to the sender, and through the gate of another node to its copy.",
    )
    picture.box(24, 24, 450, 452, "panel", 8)
    picture.box(506, 24, 450, 452, "panel", 8)
    picture.text(40, 50, "garden, the owner", "title")
    picture.text(522, 50, "kitchen, any other node", "title")

    def step(x, y, number, name, lines, kind="plain"):
        height = 34 + 16 * len(lines)
        picture.box(x, y, 418, height, kind)
        picture.number(x + 20, y + 19, number)
        picture.text(x + 40, y + 24, name, "bold", width=372)
        picture.lines(x + 40, y + 42, lines, "small soft", step=16, width=372)
        return y + height

    def down(x, top, bottom):
        picture.line(f"M {x} {top} V {bottom - 1}", end=True)

    step(40, 64, 1, "dsn set temperature=17.5", ["a line to the control socket; it is queued"])
    down(249, 114, 134)
    step(40, 134, 2, "the journal's thread", [
        "takes all changes that wait, signs a version of each,", "writes them with one sync"], "orange")
    down(249, 200, 220)
    step(40, 220, 3, "Node::on_set", ["the new version is the node's state; set returns;", "each free peer is owed it"], "green")
    down(249, 286, 306)
    step(40, 306, 4, "a sender", ["takes the newest state: a patch where the peer holds", "one of the last 64 versions, else all of it; seals it"])
    picture.line("M 458 339 H 490 V 89 H 518", end=True)
    picture.text(40, 396, "Durable before anybody sees it. To one peer one request", "small soft", width=418)
    picture.text(40, 412, "is in flight at a time: ten changes that come meanwhile", "small soft", width=418)
    picture.text(40, 428, "cost it one more. A slow peer delays nobody else.", "small soft", width=418)
    step(522, 64, 5, "the gate", ["reads a whole request; its party waits for its turn;", "tiny_http deals it to a worker"])
    down(731, 130, 162)
    step(522, 162, 6, "a worker, outside the lock", ["opens the envelope, decodes, and checks the owner's", "signature of what would be news; then seals the", "answer: garden notes which version kitchen holds"], "orange")
    down(731, 244, 276)
    step(522, 276, 7, "the node, under the lock", ["takes the version into its table: what was not", "verified can be answered, never applied;", "watch prints the change"], "green")
    picture.text(522, 396, "Who was off or cut off gets it later: the view in each", "small soft", width=418)
    picture.text(522, 412, "answer to a PING says whether both hold the same, and", "small soft", width=418)
    picture.text(522, 428, "if not, lists are compared and what is missing is pulled.", "small soft", width=418)
    picture.box(40, 446, 22, 14, "green", 4)
    picture.text(70, 458, "rules, pure", "small soft")
    picture.box(170, 446, 22, 14, "orange", 4)
    picture.text(200, 458, "signatures, never under the lock", "small soft")
    return picture


def relays():
    """A change in a large network: each ring is cut into stretches, each stretch has a head."""
    picture = Picture(
        "relays", 980, 560, "A change by relays",
        "The owner cuts two rings of all nodes into stretches and brings the change to one head of each, which does the same "
        "with its stretch. A head that is gone costs its stretch 150 ms; in the other ring it is no head.",
    )
    names, hashes = "abcdefghijklmnopqrstuvwx", "aqevkmbtgoxhdrjucpfwlisn"
    gone = "h"

    def ring(x, title, order):
        middle, top, radius = x + 225, 232, 150
        picture.box(x, 24, 450, 382, "panel", 8)
        picture.text(x + 16, 50, title, "title")
        places = {}
        for at, name in enumerate(order):
            angle = 2 * math.pi * at / len(order)
            places[name] = (middle + radius * math.sin(angle), top - radius * math.cos(angle))

        def bring(giver, taker, kind="line"):
            """An arrow that bends towards the middle, from rim to rim."""
            (x0, y0), (x1, y1) = places[giver], places[taker]
            pull = 0.35 * min(1, math.hypot(x1 - x0, y1 - y0) / 260)
            bend = [(a + b) / 2 * (1 - pull) + c * pull for a, b, c in [(x0, x1, middle), (y0, y1, top)]]

            def rim(at):
                dx, dy = bend[0] - at[0], bend[1] - at[1]
                far = math.hypot(dx, dy)
                return at[0] + dx / far * 13, at[1] + dy / far * 13

            (x0, y0), (x1, y1) = rim(places[giver]), rim(places[taker])
            picture.line(f"M {x0:.1f} {y0:.1f} Q {bend[0]:.1f} {bend[1]:.1f} {x1:.1f} {y1:.1f}", kind, end=True)

        owner, others = order[0], order[1:]
        heads = []
        for part in [others[at:at + 6] for at in range(0, len(others), 6)]:
            bring(owner, part[0], "line dash" if part[0] == gone else "line")
            if part[0] == gone:
                part = part[1:]
                bring(owner, part[0])
            heads.append(part[0])
            for taker in part[1:]:
                bring(part[0], taker, "line dash" if taker == gone else "line")
        for name, (cx, cy) in places.items():
            kind = "green" if name == owner else "red" if name == gone else "orange" if name in heads else "plain"
            picture.parts.append(f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="12"/>')
            picture.text(cx, cy + 4, name, "small bold", "middle")

    ring(24, "ring 0: all nodes, by their names", names)
    ring(506, "ring 1: the same nodes, by their hashes", hashes)
    keys = [("green", "the owner"), ("orange", "a head: it passes on"), ("plain", "the others"), ("red", "gone, and not known to be")]
    for at, (kind, text) in enumerate(keys):
        x = 40 + at * 228
        picture.parts.append(f'<circle class="{kind}" cx="{x}" cy="430" r="8"/>')
        picture.text(x + 16, 434, text, "small soft")
    picture.lines(40, 466, [
        "Each ring is cut into 8 stretches (4 here): the owner makes 16 requests, however many nodes there are. A head does the same",
        "with what is before and behind it in its stretch. Nobody keeps a tree: each cuts by its own table when a change comes, and",
        "passes on one version once a ring, whoever asks. Only what is new, and signed by its owner, is passed on.",
        "A head that gives no answer in 150 ms costs its stretch no more than that: another one takes its place. In the other ring it",
        "is none. What both rings let fall is found by views that differ. Up to 32 others are brought a change by its owner alone.",
    ], "small soft", step=18)
    return picture


def states():
    picture = Picture(
        "states", 900, 520, "States of a peer, as another node sees it",
        "suspect until it is heard; alive while it is heard; lost after four ticks; left after its goodbye; what leads where.",
        top=44,
    )

    def state(x, y, name, lines, kind):
        picture.box(x, y, 180, 74, kind, 10)
        picture.text(x + 90, y + 25, name, "title", "middle")
        picture.lines(x + 90, y + 45, lines, "small soft", "middle", 16, 172)

    # Arrows first, so that boxes lie on them.
    picture.line("M 60 111 H 116", end=True)
    picture.text(24, 82, "it becomes", "small soft")
    picture.text(24, 98, "known", "small soft")
    # suspect -> alive, alive -> suspect
    picture.line("M 304 96 H 596", end=True)
    picture.text(450, 86, "heard from it, signed by it", "small", "middle")
    picture.line("M 600 126 H 308", end=True)
    picture.lines(450, 144, ["silent for 2 ticks, and: a call failed, or it", "is not connected, or it never answered", "at the address where it is called"],
                  "small", "middle", 16)
    # suspect -> lost
    picture.line("M 170 152 V 336", end=True)
    picture.lines(182, 236, ["silent for 4 ticks,", "and unanswered, or", "waits for a try of", "its address"], "small", step=16)
    # lost -> alive
    picture.line("M 304 358 C 420 340 560 270 652 156", end=True)
    picture.lines(330, 232, ["heard from it again: it is", "tried for ever, in the end", "every 15 to 30 s"], "small", step=16)
    # alive -> left, left -> alive
    picture.line("M 740 152 V 336", end=True)
    picture.lines(752, 208, ["its goodbye, from", "it or through others"], "small", step=16)
    picture.line("M 700 340 V 156", end=True)
    picture.lines(690, 290, ["HELLO of", "another run"], "small", "end", 16)
    # lost -> left
    picture.line("M 304 392 H 596", end=True)
    picture.lines(450, 384, ["its goodbye, through others"], "small", "middle", 16)
    state(120, 74, "suspect", ["asked at each tick", "whether it is there"], "orange")
    state(600, 74, "alive", ["gets changes at once;", "asked when it is silent"], "green")
    state(120, 340, "lost", ["HELLO now and then;", "state kept for 7 days"], "red")
    state(600, 340, "left", ["not called;", "state kept for 7 days"], "blue")
    picture.text(24, 446, "Not drawn: a suspect that says goodbye, or whose last version says so when its time is over, has left. One that", "small soft")
    picture.text(24, 462, "left is suspect when a newer version without the goodbye comes, or another run answers a HELLO. After 7 days the", "small soft")
    picture.text(24, 478, "state of who is lost or left is dropped, its key stays; forget, or a full table, takes out both. A tick is 3 s.", "small soft")
    picture.text(24, 502, "Each node judges for itself: a link that is cut makes two nodes call each other lost, while both are alive to others.", "small soft")
    return picture


def handshake():
    picture = Picture(
        "handshake", 900, 520, "HELLO in two steps",
        "The caller asks who is there, gets a session to name, and proves with it that it speaks now.",
    )
    left, right = 190, 710
    for x, name in [(left, "garden, the caller"), (right, "kitchen, the receiver")]:
        picture.line(f"M {x} 62 V 496", "thin")
        picture.box(x - 110, 24, 220, 38, "panel", 8)
        picture.text(x, 48, name, "bold", "middle", 216)

    def message(y, title, lines, to_right):
        start, end = (left + 6, right - 6) if to_right else (right - 6, left + 6)
        picture.line(f"M {start} {y} H {end}", end=True)
        picture.text(450, y - 9, title, "bold", "middle", 500)
        picture.lines(450, y + 18, lines, "small soft", "middle", 16, 500)

    def note(x, y, lines, kind="plain"):
        picture.box(x - 140, y, 280, 14 + 17 * len(lines), kind)
        picture.lines(x, y + 19, lines, "small", "middle", 17, 270)

    message(100, "HELLO, first step", ["I am garden with this key, in this run; I listen on port 8000"], True)
    note(right, 132, ["changes nothing, whoever said it"])
    message(194, "200", ["I am kitchen with this key, in this run; name session S when you call;", "I see you at 10.0.0.2"], False)
    note(left, 236, ["its signature covers the question:", "kitchen's key is proved, and pinned"], "green")
    message(318, "HELLO, second step", ["to kitchen, in session S, with a number that only rises;", "name session T when you call me"], True)
    note(right, 360, ["S was given to this caller alone:", "garden speaks now; its key is pinned"], "green")
    message(442, "204", ["signed; from now on each can call the other:", "the own state is pushed, and views are compared by a PING"], False)
    return picture


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    pictures = [network(), code(), change(), relays(), states(), handshake()]
    if TOO_WIDE:
        sys.exit("\n".join(["pictures.py: too wide:", *TOO_WIDE]))
    for picture in pictures:
        path = FOLDER / f"{picture.name}.svg"
        text = picture.finish()
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"pictures.py: not what this script draws: {', '.join(stale)}; run scripts/pictures.py")


main()
