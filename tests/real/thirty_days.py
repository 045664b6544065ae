#!/usr/bin/env python3
"""Thirty days of daily backups by two writers, with a maintainer and an owner who forget and collect while
backups run; every snapshot kept is restored and compared with its day's source at every step.

    thirty_days.py PROGRAM TREE [TREE…] [--days 30] [--keep 7] [--work /dev/shm]

The trees are the versions of one source, say dated releases of a kernel; the days walk through them and each day
edits a few files besides. Prints what each role reclaimed, and what collecting took. Exits 1 when anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import resource
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


class Slot:
    """Somebody with a key and a cache of their own."""

    def __init__(self, world, name, identity):
        self.world, self.name = world, name
        self.env = dict(os.environ, KEEPSTONE_CONFIG=world.config, KEEPSTONE_IDENTITY=identity,
                        KEEPSTONE_CACHE_DIR=os.path.join(world.base, "cache", name), KEEPSTONE_HOST=name)

    def run(self, *arguments, accepted=(0,)):
        began = time.monotonic()
        done = subprocess.run([self.world.program, "--json", *arguments], env=self.env, capture_output=True, text=True)
        if done.returncode not in accepted:
            raise SystemExit(f"{self.name}: {' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        self.seconds = time.monotonic() - began
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
    parser.add_argument("--work", default="/dev/shm")
    arguments = parser.parse_args()
    base = tempfile.mkdtemp(prefix="keepstone-days.", dir=arguments.work)
    try:
        sys.exit(days(arguments, base))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def days(arguments, base):
    world = World(os.path.realpath(arguments.program), base)
    writers = [world.add(name, "writer") for name in ("alpha", "beta")]
    maintainer = world.add("keeper", "maintainer")
    wanted = {}
    sources = {writer.name: os.path.join(base, "source", writer.name) for writer in writers}
    reclaimed = {"maintainer": 0, "owner": 0}
    collecting = []
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

        def collect():
            for slot, role in ((maintainer, "maintainer"), (world.owner, "owner")):
                slot.run("forget", "--keep-last", str(arguments.keep))
                before = stored(base)
                # Somebody else collecting at the same moment is no failure.
                slot.run("gc", accepted=(0, 3))
                collecting.append((role, slot.seconds, max(0, before - stored(base))))

        backing_up = [threading.Thread(target=guarded, args=(lambda w=w: wanted.__setitem__(
            w.run("backup", sources[w.name], "--dataset", w.name)["snapshot"], manifest(sources[w.name])),)) for w in writers]
        threads = backing_up + [threading.Thread(target=guarded, args=(collect,))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if failures:
            raise failures[0]
        kept = [entry["id"] for entry in world.owner.run("snapshots")]
        for snapshot in kept:
            for region in "ab":
                if region == "b" and snapshot != kept[-1]:
                    continue
                target = os.path.join(base, "restored")
                world.owner.run("--region", region, "restore", snapshot, "--to", target)
                if manifest(target) != wanted[snapshot]:
                    print(f"day {day}: snapshot {snapshot} restored from region {region} differs")
                    return 1
                restores += 1
                shutil.rmtree(target)
        print(f"day {day}: {len(kept)} snapshots kept, all restored alike; {stored(base) >> 20} MiB in both regions", flush=True)
    for _ in range(3):
        before = stored(base)
        world.owner.run("gc", "--now")
        reclaimed["owner"] += max(0, before - stored(base))
    report = world.owner.run("check", "--read-data")
    for role, _, got in collecting:
        reclaimed[role] += got
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sorted(seconds for _, seconds, _ in collecting)
    print(f"{restores} restores, all alike. Reclaimed, net of what backups stored meanwhile: "
          + ", ".join(f"{role} {got >> 20} MiB" for role, got in reclaimed.items()))
    print(f"collections: {len(seconds)}, median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s; "
          f"peak of any command {used.ru_maxrss >> 10} MiB; {stored(base) >> 20} MiB left; check: {report.get('sound', report)}")
    return 0


if __name__ == "__main__":
    main()
