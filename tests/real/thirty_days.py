#!/usr/bin/env python3
"""Thirty days of daily backups by two writers, with a maintainer and an owner who forget and collect while
backups run; every snapshot kept is restored and compared with its day's source at every step.

    thirty_days.py PROGRAM TREE [TREE…] [--days 30] [--keep 7] [--sample] [--restic PROGRAM] [--work /dev/shm]

The trees are the versions of one source, say dated releases of a kernel; the days walk through them and each day
edits a few files besides. Prints what each role reclaimed, and what collecting took. Exits 1 when anything differs.

With --sample a day ends with two restores: the newest snapshot of one writer from region b, and the oldest kept one
of the other writer from region a, the writers taking turns; the last day restores all that are kept.

With --restic the same days go into a restic repository as well, from the same two hosts, once keepstone is done with
the day; then `restic forget --keep-daily KEEP --prune`. Its prunes have the machine to themselves, as far as this
script has it, and one repository; keepstone's collections run beside two backups, in two regions one after another.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time


def manifest(root):
    """What a restore must bring back, as a digest: names, types, modes, times, link targets, contents."""
    whole = hashlib.blake2b()
    for directory, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names + directories):
            path = os.path.join(directory, name)
            about = os.lstat(path)
            line = [os.path.relpath(path, root), about.st_mode, about.st_mtime_ns]
            if os.path.islink(path):
                line.append(os.readlink(path))
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    line.append(hashlib.file_digest(file, "blake2b").hexdigest())
            whole.update(repr(line).encode())
    return whole.hexdigest()


# Runs a command and writes what it used behind what it says itself. In a process of its own: the peak that the
# kernel tells of a child begins at what its parent had, and this script grows.
MEASURE = """
import json, os, sys, time
began = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
code = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss}, file)
sys.exit(code if code >= 0 else 128 - code)
"""


def measured(command, env):
    """What a command came to, and the seconds, processor seconds and KiB at its peak that it took."""
    with tempfile.NamedTemporaryFile("r") as used:
        done = subprocess.run([sys.executable, "-S", "-E", "-c", MEASURE, used.name, *command], env=env,
                              capture_output=True, text=True)
        return done, json.load(used)


def told(uses):
    """A line on what several runs took."""
    seconds, cpu = sorted(use["seconds"] for use in uses), [use["cpu"] for use in uses]
    return (f"{len(uses)} runs, median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s, "
            f"{sum(seconds):.1f} s in all, {sum(cpu):.1f} s of processor; peak {max(use['peak'] for use in uses) >> 10} MiB")


class Slot:
    """Somebody with a key and a cache of their own."""

    def __init__(self, world, name, identity):
        self.world, self.name = world, name
        self.env = dict(os.environ, KEEPSTONE_CONFIG=world.config, KEEPSTONE_IDENTITY=identity,
                        KEEPSTONE_CACHE_DIR=os.path.join(world.base, "cache", name), KEEPSTONE_HOST=name)

    def run(self, *arguments, accepted=(0,)):
        done, self.used = measured([self.world.program, "--json", *arguments], self.env)
        if done.returncode not in accepted:
            raise SystemExit(f"{self.name}: {' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return json.loads(done.stdout) if done.stdout.strip() else None


class World:
    def __init__(self, program, base):
        self.program, self.base = program, base
        self.config = os.path.join(base, "keepstone.toml")
        owner, recipient = self.identity("owner")
        self.owner = Slot(self, "owner", owner)
        self.owner.run(f"--region=a={base}/region-a", f"--region=b={base}/region-b", "init", "--recipient", recipient)
        with open(self.config, "a") as file:
            file.write('\n[retention]\nforget_window = "1 second"\ngroup_by = "dataset,host"\n')

    def identity(self, name):
        path = os.path.join(self.base, f"{name}.identity")
        subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
        return path, subprocess.run(["age-keygen", "-y", path], check=True, capture_output=True, text=True).stdout.strip()

    def add(self, name, role):
        path, recipient = self.identity(name)
        self.owner.run("key", "add", "--role", role, "--recipient", recipient, "--label", name)
        return Slot(self, name, path)


class Restic:
    """The same days in a restic repository; each host has a cache of its own, and a third one prunes."""

    def __init__(self, program, base, keep):
        self.program, self.base, self.keep = program, base, keep
        self.backups, self.prunes = [], []
        self.run("keeper", "init")

    def run(self, host, *arguments):
        env = dict(os.environ, RESTIC_REPOSITORY=os.path.join(self.base, "restic"), RESTIC_PASSWORD="days",
                   RESTIC_CACHE_DIR=os.path.join(self.base, "restic-cache", host))
        done, used = measured([self.program, *arguments], env)
        if done.returncode != 0:
            raise SystemExit(f"restic {' '.join(arguments)}: exit {done.returncode}\n{done.stderr[-3000:]}")
        return used

    def day(self, day, sources):
        # Every run of this script takes less than a day: the days are those that the snapshots are told.
        date = time.strftime("%Y-%m-%d 12:00:00", time.gmtime(1_700_000_000 + day * 86_400))
        for host, source in sources.items():
            self.backups.append(self.run(host, "backup", "--quiet", "--host", host, "--time", date, source))
        self.prunes.append(self.run("keeper", "forget", "--quiet", "--keep-daily", str(self.keep), "--prune"))

    def stored(self):
        root = os.path.join(self.base, "restic")
        return sum(os.lstat(os.path.join(d, n)).st_size for d, _, names in os.walk(root) for n in names)


def edit(root, day, host, share=0.002):
    """Changes a few files, takes a few away and adds some: alike for the same day and host."""
    draw = random.Random(f"{day} {host}")
    files = sorted(os.path.join(d, n) for d, _, names in os.walk(root) for n in names if not os.path.islink(os.path.join(d, n)))
    for path in draw.sample(files, max(1, int(len(files) * share))):
        with open(path, "ab") as file:
            file.write(f"edited on day {day} by {host}\n".encode())
    for path in draw.sample(files, max(1, int(len(files) * share / 4))):
        os.unlink(path)
    with open(os.path.join(root, f"new-{day}-{host}"), "wb") as file:
        file.write(draw.randbytes(200_000))


def stored(base):
    return sum(os.lstat(os.path.join(d, n)).st_size for r in "ab" for d, _, ns in os.walk(f"{base}/region-{r}") for n in ns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("trees", nargs="+")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--keep", type=int, default=7)
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--restic")
    parser.add_argument("--work", default="/dev/shm")
    arguments = parser.parse_args()
    base = tempfile.mkdtemp(prefix="keepstone-days.", dir=arguments.work)
    try:
        sys.exit(days(arguments, base))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def to_restore(arguments, day, kept):
    """Which snapshots a day restores, each with the region."""
    if not arguments.sample or day + 1 == arguments.days:
        return [(entry, "a") for entry in kept] + [(kept[-1], "b")]
    turn, other = ("alpha", "beta") if day % 2 == 0 else ("beta", "alpha")
    newest = [entry for entry in kept if entry["dataset"] == turn][-1]
    oldest = next(entry for entry in kept if entry["dataset"] == other)
    return [(newest, "b"), (oldest, "a")]


def days(arguments, base):
    world = World(os.path.realpath(arguments.program), base)
    writers = [world.add(name, "writer") for name in ("alpha", "beta")]
    maintainer = world.add("keeper", "maintainer")
    restic = Restic(arguments.restic, base, arguments.keep) if arguments.restic else None
    wanted = {}
    sources = {writer.name: os.path.join(base, "source", writer.name) for writer in writers}
    reclaimed = {"maintainer": 0, "owner": 0}
    # By role and region: what each collection took.
    collecting = {(role, region): [] for role in reclaimed for region in "ab"}
    backups = []
    restores = 0
    current = None
    for day in range(arguments.days):
        version = arguments.trees[day * len(arguments.trees) // arguments.days]
        for writer in writers:
            if version != current:
                shutil.rmtree(sources[writer.name], ignore_errors=True)
                shutil.copytree(version, sources[writer.name], symlinks=True)
            edit(sources[writer.name], day, writer.name)
        current = version
        failures = []

        def guarded(work):
            try:
                work()
            except BaseException as error:  # told after the threads are joined
                failures.append(error)

        def back_up(writer):
            snapshot = writer.run("backup", sources[writer.name], "--dataset", writer.name)["snapshot"]
            backups.append(writer.used)
            wanted[snapshot] = manifest(sources[writer.name])

        def collect():
            for slot, role in ((maintainer, "maintainer"), (world.owner, "owner")):
                slot.run("forget", "--keep-last", str(arguments.keep))
                before = stored(base)
                for region in "ab":
                    # Somebody else collecting at the same moment is no failure.
                    slot.run("--region", region, "gc", accepted=(0, 3))
                    collecting[role, region].append(slot.used)
                reclaimed[role] += max(0, before - stored(base))

        threads = [threading.Thread(target=guarded, args=(lambda w=w: back_up(w),)) for w in writers]
        threads.append(threading.Thread(target=guarded, args=(collect,)))
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if failures:
            raise failures[0]
        kept = world.owner.run("snapshots")
        chosen = to_restore(arguments, day, kept)
        for entry, region in chosen:
            target = os.path.join(base, "restored")
            world.owner.run("--region", region, "restore", entry["id"], "--to", target)
            if manifest(target) != wanted[entry["id"]]:
                print(f"day {day}: snapshot {entry['id']} restored from region {region} differs")
                return 1
            restores += 1
            shutil.rmtree(target)
        if restic:
            restic.day(day, sources)
        print(f"day {day}: {len(kept)} snapshots kept, {len(chosen)} restores alike; {stored(base) >> 20} MiB in both regions"
              + (f", {restic.stored() >> 20} MiB with restic" if restic else ""), flush=True)
    for _ in range(3):
        before = stored(base)
        world.owner.run("gc", "--now")
        reclaimed["owner"] += max(0, before - stored(base))
    report = world.owner.run("check", "--read-data")
    print(f"{restores} restores, all alike. Reclaimed, net of what backups stored meanwhile: "
          + ", ".join(f"{role} {got >> 20} MiB" for role, got in reclaimed.items()))
    print(f"backups: {told(backups)}")
    for (role, region), uses in collecting.items():
        print(f"gc by the {role} in region {region}: {told(uses)}")
    print(f"{stored(base) >> 20} MiB left in both regions; check: {report.get('sound', report)}")
    if restic:
        print(f"restic backups: {told(restic.backups)}")
        print(f"restic forget --prune: {told(restic.prunes)}")
        restic.run("keeper", "check", "--quiet")
        print(f"{restic.stored() >> 20} MiB left with restic; check: passed")
    return 0


if __name__ == "__main__":
    main()
