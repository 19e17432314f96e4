"""Power cuts on a disk that forgets; scripts/powercut.sh runs this where it may mount, and says what it is for.

    rig.py --program DSN --folder FOLDER --keep FOLDER --seed SEED COUNT
    rig.py --program DSN --folder FOLDER --seed SEED --recording FILE --cut NUMBER
"""

import argparse
import faulthandler
import os
import random
import shutil
import sys
import time

from judge import Cutter, Findings, draw_place
from machine import FILE_SYSTEMS, NO_BARRIER, Lacking
from record import Recording, Session

# Cuts that one recording is good for: then another one has more that is new.
CUTS_A_RECORDING = 250
# Cuts without barriers, where changes have to be lost.
CONTROL_CUTS = 40
# Complaints that are printed of one cut, and cuts with a loss before the run ends.
COMPLAINTS_MAX = 5
LOSSES_MAX = 3
# Far more than a recording or a cut takes on a busy machine, s. What takes longer hangs.
STEP_MAX = 300
KINDS = {
    "change": "acknowledged changes", "own key": "own keys", "network key": "network keys", "peer": "pinned peers",
    "start": "starts refused", "damage": "files damaged", "silence": "files set aside without a word",
    "file system": "file systems that can't be mounted",
}


def plan(count, file_systems):
    """What to record, and how many cuts to make of each: file systems with the strictest sync first."""
    cycle = [(file_system, "always") for file_system in file_systems]
    jobs = []
    while len(jobs) * CUTS_A_RECORDING < count or len(jobs) < len(cycle) + 3:
        turn = len(jobs) // (len(cycle) + 3)
        others = [file_systems[(turn + shift) % len(file_systems)] for shift in range(3)]
        jobs += cycle + list(zip(others, ("shared", "5s", "300ms")))
    jobs = jobs[: max(len(cycle) + 3, -(-count // CUTS_A_RECORDING))]
    shares = [count // len(jobs) + (number < count % len(jobs)) for number in range(len(jobs))]
    return [(*job, share) for job, share in zip(jobs, shares)]


def hang_is_told():
    """From now on so much time is left: then all threads say where they are, and the rig ends with all that it started."""
    faulthandler.dump_traceback_later(STEP_MAX, exit=True)


class Rig:
    def __init__(self, args):
        self.args = args
        self.tables, self.recordings = {}, 0
        self.failed = 0

    def record(self, number, file_system, sync):
        hang_is_told()
        folder = os.path.join(self.args.folder, f"recording-{number}")
        os.mkdir(folder)
        session = Session(self.args.program, folder, file_system, sync, f"{self.args.seed}/{number}")
        recording = session.record()
        shutil.rmtree(folder)
        self.recordings += 1
        return recording

    def cuts(self, number, recording, count):
        """Places and chances of the cuts of a recording, by place."""
        cuts = []
        for cut in range(count):
            rng = random.Random(f"{self.args.seed}/{number}/{cut}")
            cuts.append((draw_place(recording, rng), cut, rng))
        return sorted(cuts, key=lambda cut: cut[:2])

    def cut(self, number, recording, cuts, must_lose=False):
        """Makes the cuts, and prints those that lost something that had to be there."""
        cutter = Cutter(self.args.program, self.args.folder, recording)
        total = Findings()
        for place, cut, rng in cuts:
            hang_is_told()
            findings = cutter.cut(place, rng)
            total.add(findings)
            if findings.losses and not must_lose:
                self.failed += 1
                self.say_loss(number, recording, place, cut, findings)
                if self.failed == LOSSES_MAX:
                    break
        cutter.close()
        return total

    def say_loss(self, number, recording, place, cut, findings):
        print(f"\nLOST: seed {self.args.seed}, recording {number}, cut {cut}, place {place} of {len(recording.entries)}")
        for complaint in findings.complaints[:COMPLAINTS_MAX]:
            print(f"  {complaint}")
        if self.args.keep:
            os.makedirs(self.args.keep, exist_ok=True)
            path = os.path.join(self.args.keep, f"recording-{number}")
            if not os.path.exists(path):
                recording.save(path)
            again = f"scripts/powercut.sh --seed {self.args.seed} --recording {path} --cut {number}/{cut}"
            print(f"  again: {again}", flush=True)

    def job(self, number, file_system, sync, count, must_lose=False):
        began = time.monotonic()
        recording = self.record(number, file_system, sync)
        recorded = time.monotonic()
        found = self.cut(number, recording, self.cuts(number, recording, count), must_lose)
        changes = sum(len(history.changes) for history in recording.histories)
        seconds = f"{recorded - began:.0f} s to record, {time.monotonic() - recorded:.0f} s to cut"
        name = "no barrier" if must_lose else file_system.name
        print(
            f"{name}, --sync {sync}: {changes} changes, {len(recording.entries)} entries in the log; "
            f"{found.cuts} cuts, {found.checked} acknowledged changes looked for; {seconds}", flush=True,
        )
        self.tables.setdefault((name, sync), Findings()).add(found)
        return found

    def run(self):
        file_systems = [each for each in FILE_SYSTEMS if each.is_here()]
        for absent in sorted({each.name for each in FILE_SYSTEMS} - {each.name for each in file_systems}):
            print(f"{absent} is not here: no driver in the kernel, or no mkfs.{absent}")
        print(f"seed {self.args.seed}", flush=True)
        control = self.job("control", NO_BARRIER, "always", CONTROL_CUTS, must_lose=True)
        for number, job in enumerate(plan(self.args.count, file_systems)):
            self.job(number, *job)
            if self.failed >= LOSSES_MAX:
                break
        return self.summary(control)

    def summary(self, control):
        print("\nfile system  sync      cuts   writes lost  changes looked for  cut off  set aside  lost")
        mains = {what: found for what, found in self.tables.items() if found is not control and what[0] != "no barrier"}
        strict = 0
        for (name, sync), found in sorted(mains.items()):
            lost = ", ".join(f"{count} {KINDS[kind]}" for kind, count in found.losses.items()) or "nothing"
            print(
                f"{name:<11}  {sync:<8}  {found.cuts:<5}  {found.lost_writes:<11}  {found.checked:<18}  "
                f"{found.cut_off:<7}  {found.set_aside:<9}  {lost}"
            )
            strict += found.strict_losses if sync == "5s" else 0
        total = Findings()
        for found in mains.values():
            total.add(found)
        print(f"in all: {total.cuts} cuts of {self.recordings - 1} recordings, {total.checked} acknowledged changes looked for")
        lost = ", ".join(f"{count} {KINDS[kind]}" for kind, count in control.losses.items()) or "nothing"
        print(f"control, ext4 without barriers, {control.cuts} cuts: {lost}; {control.changes_lost} changes")
        print(f"control, --sync 5s taken for --sync always: {strict} changes lost")
        if self.failed:
            print(f"POWER CUTS LOST SOMETHING (seed {self.args.seed}; see above)")
            return 1
        if not control.losses["change"] or not strict:
            print("A CONTROL LOST NOTHING: this rig would not see a loss")
            return 1
        print("nothing was lost that was promised, and both controls lost something")
        return 0

    def again(self):
        """One cut of a recording that was kept."""
        recording = Recording.load(self.args.recording)
        number, cut = self.args.cut.split("/")
        rng = random.Random(f"{self.args.seed}/{number}/{cut}")
        found = self.cut(number, recording, [(draw_place(recording, rng), int(cut), rng)])
        print(f"lost: {dict(found.losses) or 'nothing'}")
        return 1 if found.losses else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--program", "--folder", "--seed"):
        parser.add_argument(name, required=True)
    for name in ("--keep", "--recording", "--cut"):
        parser.add_argument(name)
    parser.add_argument("count", type=int, nargs="?", default=0)
    args = parser.parse_args()
    try:
        return Rig(args).again() if args.recording else Rig(args).run()
    except Lacking as why:
        print(f"powercut.sh: {why}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
