#!/usr/bin/env python3
"""Runs keepstone and whichever other backup programs are installed on the same input, step by step in
turn, over several rounds; compares every restore with its source; prints medians and ratios.

    compare.py [options] trees FIRST SECOND     two directory trees; the second replaces the first at the same path
    compare.py [options] stream FIRST SECOND    two files given on standard input, say a database's dumps of two days
    compare.py [options] dump [GIB]             the same with a generated dump and edits in 1% of its rows
    compare.py [options] random [GIB]           a file that doesn't compress
    compare.py [options] small [FILES]          files of 2 KiB, half of each random
    compare.py [options] sparse [GIB]           a disk image of which a tenth holds data
    compare.py [options] daily [DAYS]           so many small snapshots of a tree that changes by 1% a day: all backups,
                                                list, latest restore, forget to the last 30, reclaim

Every program runs as its users run it: encryption on, zstd at level 3 where it can be chosen, durable writes
and verification as they are by default. Nothing is downloaded. The repositories, the caches, the input once
more and one restored copy lie below --work, by default in memory (/dev/shm).

Nothing that `daily` has forgotten and reclaimed can be brought back, in any program: keepstone's forget window,
7 days by default, is set to one second there.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
COMPARE_TREES = os.path.join(HERE, "..", "tests", "real", "compare_trees.py")
MIB = 1 << 20


class Failed(Exception):
    """A program ended with an error; what it printed is in the message."""


def run(argv, env, stdin=None, cwd=None, accepted=(0,)):
    """Runs a program to its end: (wall seconds, processor seconds, peak bytes, standard output)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(stdin or os.devnull, "rb") as source:
        began = time.monotonic()
        process = subprocess.Popen(argv, env=env, stdin=source, stdout=out, stderr=err, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read().decode(errors="replace")
        if process.returncode not in accepted:
            err.seek(0)
            said = (printed + err.read().decode(errors="replace"))[-2000:]
            raise Failed(f"{' '.join(argv)}: exit {process.returncode}\n{said}")
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, printed


class Tool:
    """One program with one repository below `base`. `backup` and `restore` give argument lists."""

    name = command = ""
    check = None
    #: What `backup` printed last.
    printed = ""

    def __init__(self, program, base):
        self.program, self.base = program, base
        self.repository = os.path.join(base, "repository")
        os.makedirs(base)
        self.env = dict(os.environ, HOME=base, XDG_CACHE_HOME=os.path.join(base, "cache"))
        self.env |= {key: value.format(base=base, repository=self.repository) for key, value in self.variables.items()}

    variables = {}

    def version(self):
        return run([self.program, "--version"], self.env)[3].split("\n")[0].strip()

    def call(self, *arguments):
        return run([self.program, *arguments], self.env)

    def restored(self, target, source):
        """Where `source` is below the directory that was restored into."""
        return target + source

    # Between the runs of `reclaim`, not counted.
    pause_s = 0

    def prepare_forget(self):
        """What has to be set once for `forget` and `reclaim`."""


class Keepstone(Tool):
    name = "keepstone"
    # The window of one second begins when a collection first sees what is forgotten.
    pause_s = 2
    variables = {
        "KEEPSTONE_CONFIG": "{base}/keepstone.toml",
        "KEEPSTONE_CACHE_DIR": "{base}/cache",
        "KEEPSTONE_IDENTITY": "{base}/identity",
    }

    def create(self):
        run(["age-keygen", "-o", os.path.join(self.base, "identity")], self.env)
        recipient = run(["age-keygen", "-y", os.path.join(self.base, "identity")], self.env)[3].strip()
        self.call("--quiet", f"--region=one={self.repository}", "init", "--recipient", recipient)

    def backup(self, source):
        return [self.program, "--no-progress", "backup", source]

    def backup_stream(self):
        return [self.program, "--no-progress", "backup", "--stdin", "--as", "stream"]

    def restore(self, target):
        return [self.program, "--no-progress", "restore", "latest", "--to", target]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target

    def listing(self):
        return [self.program, "--json", "--no-progress", "snapshots"]

    def snapshots_in(self, printed):
        return len(json.loads(printed))

    def prepare_forget(self):
        with open(self.env["KEEPSTONE_CONFIG"], "a") as file:
            file.write('\n[retention]\nforget_window = "1 second"\n')

    def forget(self, keep):
        return [self.program, "--no-progress", "--quiet", "forget", "--keep-last", str(keep)]

    def reclaim(self):
        # What was forgotten goes once two generations have begun since.
        return [[self.program, "--no-progress", "--quiet", "gc", "--now"]] * 3

    @property
    def check(self):
        return [self.program, "--no-progress", "check", "--read-data"]


class Restic(Tool):
    name = "restic"
    variables = {"RESTIC_PASSWORD": "for this comparison", "RESTIC_CACHE_DIR": "{base}/cache", "RESTIC_REPOSITORY": "{repository}"}

    def version(self):
        return run([self.program, "version"], self.env)[3].split(" compiled")[0].strip()

    def create(self):
        self.call("init", "-q")

    def backup(self, source):
        return [self.program, "-q", "backup", source]

    def backup_stream(self):
        return [self.program, "-q", "backup", "--stdin", "--stdin-filename", "stream"]

    def restore(self, target):
        return [self.program, "-q", "restore", "latest", "--target", target]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target + source

    def listing(self):
        return [self.program, "-q", "snapshots", "--json"]

    def snapshots_in(self, printed):
        return len(json.loads(printed))

    def forget(self, keep):
        return [self.program, "-q", "forget", "--keep-last", str(keep)]

    def reclaim(self):
        return [[self.program, "-q", "prune"]]

    @property
    def check(self):
        return [self.program, "-q", "check", "--read-data"]


class Borg(Tool):
    name = "borg"
    variables = {"BORG_PASSPHRASE": "for this comparison", "BORG_BASE_DIR": "{base}", "BORG_REPO": "{repository}"}
    count = 0

    def create(self):
        self.call("init", "--encryption", "repokey-blake2")

    def _next(self):
        self.count += 1
        return f"::{self.count}"

    def backup(self, source):
        return [self.program, "create", "--compression", "zstd,3", self._next(), source]

    def backup_stream(self):
        return [self.program, "create", "--compression", "zstd,3", "--stdin-name", "stream", self._next(), "-"]

    def restore(self, target):
        os.makedirs(target)
        return [self.program, "extract", "--sparse", f"::{self.count}"]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target + source

    def listing(self):
        return [self.program, "list", "--json"]

    def snapshots_in(self, printed):
        return len(json.loads(printed)["archives"])

    def forget(self, keep):
        return [self.program, "prune", "--keep-last", str(keep)]

    def reclaim(self):
        return [[self.program, "compact"]]

    @property
    def check(self):
        return [self.program, "check", "--verify-data"]


class Rustic(Tool):
    name = "rustic"
    variables = {"RUSTIC_PASSWORD": "for this comparison", "RUSTIC_REPOSITORY": "{repository}", "RUSTIC_CACHE_DIR": "{base}/cache",
                 "RUSTIC_NO_PROGRESS": "true", "RUSTIC_LOG_LEVEL": "warn"}

    def create(self):
        self.call("init")

    def backup(self, source):
        self.source = source
        return [self.program, "backup", source]

    def backup_stream(self):
        self.source = None
        return [self.program, "backup", "--stdin-filename", "stream", "-"]

    def restore(self, target):
        return [self.program, "restore", f"latest:{self.source}" if self.source else "latest", target]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target

    def listing(self):
        return [self.program, "snapshots", "--json"]

    def snapshots_in(self, printed):
        return sum(len(group[1] if isinstance(group, list) else group["snapshots"]) for group in json.loads(printed))

    def forget(self, keep):
        return [self.program, "forget", "--keep-last", str(keep)]

    def reclaim(self):
        return [[self.program, "prune", "--instant-delete", "--keep-delete", "0s"]]

    @property
    def check(self):
        return [self.program, "check", "--read-data"]


class Bupstash(Tool):
    name = "bupstash"
    variables = {"BUPSTASH_KEY": "{base}/key", "BUPSTASH_REPOSITORY": "{repository}", "BUPSTASH_QUERY_CACHE": "{base}/query-cache",
                 "BUPSTASH_SEND_LOG": "{base}/send-log"}

    def create(self):
        self.call("new-key", "-o", os.path.join(self.base, "key"))
        self.call("init")

    def backup(self, source):
        self.stream = False
        return [self.program, "put", "-q", "name=x", source]

    def backup_stream(self):
        self.stream = True
        return [self.program, "put", "-q", "name=x", "-"]

    def restore(self, target):
        item = f"id={self.printed.strip()}"
        os.makedirs(target)
        if self.stream:
            return ["sh", "-c", 'exec "$1" get -q "$2" >"$3"', "sh", self.program, item, os.path.join(target, "stream")]
        return [self.program, "restore", "-q", "--into", target, item]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target


    def listing(self):
        return [self.program, "list", "-q", "--format", "jsonl1"]

    def snapshots_in(self, printed):
        self.listed = [json.loads(line)["id"] for line in printed.splitlines()]
        return len(self.listed)

    def forget(self, keep):
        # It has no rules of its own. What it lists comes oldest first.
        ids = os.path.join(self.base, "ids")
        with open(ids, "w") as file:
            file.write("".join(f"{item}\n" for item in self.listed[:-keep]))
        return ["sh", "-c", 'exec "$1" rm -q --ids-from-stdin <"$2"', "sh", self.program, ids]

    def reclaim(self):
        return [[self.program, "gc", "-q"]]


class Kopia(Tool):
    name = "kopia"
    variables = {"KOPIA_PASSWORD": "for this comparison", "KOPIA_CONFIG_PATH": "{base}/config", "KOPIA_CACHE_DIRECTORY": "{base}/cache",
                 "KOPIA_CHECK_FOR_UPDATES": "false"}

    def create(self):
        self.call("repository", "create", "filesystem", "--path", self.repository)
        self.call("policy", "set", "--global", "--compression=zstd")

    def backup(self, source):
        return [self.program, "snapshot", "create", "--no-progress", "--json", source]

    def backup_stream(self):
        return [self.program, "snapshot", "create", "--no-progress", "--json", "--stdin-file", "stream", "/stream"]

    def restore(self, target):
        return [self.program, "snapshot", "restore", "--no-progress", json.loads(self.printed)["id"], target]

    def restored(self, target, source):
        return os.path.join(target, "stream") if os.path.isfile(source) else target

    def listing(self):
        return [self.program, "snapshot", "list", "--all", "--json"]

    def snapshots_in(self, printed):
        return len(json.loads(printed))

    def prepare_forget(self):
        periods = ["hourly", "daily", "weekly", "monthly", "annual"]
        self.call("policy", "set", "--global", "--keep-latest=30", *[f"--keep-{period}=0" for period in periods])

    def forget(self, keep):
        assert keep == 30
        return [self.program, "snapshot", "expire", "--all", "--delete"]

    def reclaim(self):
        return [[self.program, "maintenance", "run", "--full", "--safety=none"]]

    @property
    def check(self):
        return [self.program, "snapshot", "verify", "--verify-files-percent=100"]


PEERS = [Restic, Borg, Rustic, Bupstash, Kopia]


def size_of(path):
    """Bytes of all files below a directory, as stored."""
    total = 0
    for directory, _, names in os.walk(path):
        total += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
    return total


def place(source, path):
    """Puts a copy of `source` at `path`, in place of what was there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)
    subprocess.run(["cp", "-a", "--sparse=always", source, path], check=True)


# Inputs made here. All are reproducible.


def make_dump(path, gib, edited):
    """A database dump of rows; with `edited`, 1% of them otherwise: half in clusters, half scattered."""
    rows = int(gib * (1 << 30)) // 128
    with open(path, "wb", buffering=1 << 20) as file:
        for row in range(rows):
            version = 0
            # Scattered as by chance: at equal distances it would depend on the key where chunks end between them.
            if edited and ((row // 5000) % 200 == 7 or zlib.crc32(row.to_bytes(8, "little")) % 200 == 0):
                version = 1
            # A digest, since seeding a generator for each row takes five times as long.
            draw = hashlib.blake2b((row * 2 + version).to_bytes(8, "little"), digest_size=32).digest()
            user, amount = (int.from_bytes(part, "little") for part in (draw[:4], draw[4:8]))
            file.write(b"INSERT INTO events VALUES (%d,'user%07d','%s',%d,'%s');\n" % (
                row, user % 10**6, draw[8:28].hex().encode(), amount % 10**9,
                (b"ok", b"failed", b"retried")[draw[28] % 3] + b" " * 3 * (row % 7)))


def make_random(path, gib):
    with open(path, "wb") as file:
        for _ in range(int(gib * 1024)):
            file.write(os.urandom(MIB))


def make_small(path, files):
    for number in range(files):
        directory = os.path.join(path, str(number // 1000))
        if number % 1000 == 0:
            os.makedirs(directory)
        with open(os.path.join(directory, str(number)), "wb") as file:
            file.write((f"file {number} " * 200)[:1024].encode() + os.urandom(1024))


def make_sparse(path, gib):
    os.makedirs(path)
    with open(os.path.join(path, "disk"), "wb") as file:
        file.truncate(gib << 30)
        for part in range(20):
            file.seek((gib << 30) // 20 * part)
            for _ in range(gib * 1024 // 10 // 20):
                file.write(os.urandom(MIB // 2) + b"row of a table " * (MIB // 30))


def text(draw, length):
    words = draw.choices([b"alpha", b"count", b"return", b"index", b"value", b"of", b"the", b"set", b"node", b"\n"], k=length // 5)
    return b" ".join(words)[:length] + b"%d" % draw.randrange(10**12)


def make_tree(path, files):
    """A tree of small files, 1 to 64 KiB each."""
    for number in range(files):
        draw = random.Random(number)
        directory = os.path.join(path, f"{number % 17}", f"{number % 5}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"file-{number}"), "wb") as file:
            file.write(text(draw, 1 << draw.randrange(10, 17)))


def next_day(path, files, day):
    """1% of the files otherwise; every tenth day one more, every twentieth one less."""
    draw = random.Random(10**9 + day)

    def place_of(number):
        return os.path.join(path, f"{number % 17}", f"{number % 5}", f"file-{number}")

    for number in draw.sample(range(files), max(1, files // 100)):
        if os.path.exists(place_of(number)):
            with open(place_of(number), "r+b") as file:
                size = os.path.getsize(place_of(number))
                file.seek(draw.randrange(size))
                file.write(text(draw, 200))
    if day % 10 == 0:
        with open(os.path.join(path, f"new-{day}"), "wb") as file:
            file.write(text(draw, 20_000))
    if day % 20 == 0 and os.path.exists(place_of(day // 20)):
        os.remove(place_of(day // 20))


def inputs(arguments, work):
    """[(step, path of the source to place or None to leave it)]"""
    kind, rest = arguments.workload, arguments.arguments

    def number(default):
        return type(default)(rest[0]) if rest else default

    def made(name, make, *parameters):
        path = os.path.join(work, name)
        make(path, *parameters)
        return path

    if kind in ("trees", "stream"):
        if len(rest) != 2:
            sys.exit(f"{kind}: two paths are needed")
        return [("first backup", os.path.realpath(rest[0])), ("again, unchanged", None), ("next version", os.path.realpath(rest[1]))]
    if kind == "dump":
        days = [made(f"day-{day}", make_dump, number(4.0), day == 2) for day in (1, 2)]
        return [("first backup", days[0]), ("next day", days[1])]
    make, default = {"random": (make_random, 2.0), "small": (make_small, 200_000), "sparse": (make_sparse, 20)}[kind]
    return [("first backup", made("made", make, number(default))), ("again, unchanged", None)]


class Round:
    """One round: its repositories, and where its figures go."""

    def __init__(self, number, tools, work, results):
        self.results, self.work = results, work
        self.base = os.path.join(work, f"round-{number}")
        self.source = os.path.join(work, "source")
        opened = [tool(program, os.path.join(self.base, tool.name)) for tool, program in tools]
        # Nobody is always first after the input was placed.
        self.opened = opened[number % len(opened):] + opened[: number % len(opened)]
        for tool in self.opened:
            tool.create()

    def note(self, tool, step, measured):
        self.results.setdefault(step, {}).setdefault(tool.name, []).append(measured)

    def told(self, tool, step, wall, cpu, peak):
        self.note(tool, step, {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak})
        print(f"  {step:<20} {tool.name:<10} {wall:8.2f} s {cpu:8.2f} s cpu {peak / MIB:7.0f} MiB", flush=True)

    def measure(self, tool, step, argv, **options):
        wall, cpu, peak, printed = run(argv, tool.env, **options)
        self.told(tool, step, wall, cpu, peak)
        return printed

    def restore(self, tool, step):
        """Restores the newest snapshot and compares it with the source."""
        target = os.path.join(self.work, "restored")
        argv = tool.restore(target)
        self.measure(tool, step, argv, cwd=target if isinstance(tool, Borg) else None)
        back = tool.restored(target, self.source)
        comparison = ["cmp", self.source, back] if os.path.isfile(self.source) else [sys.executable, COMPARE_TREES, self.source, back]
        same = subprocess.run(comparison, capture_output=True, text=True)
        if same.returncode not in (0, 1):
            sys.exit(f"{' '.join(comparison)} failed: {same.stderr.strip()}")
        self.note(tool, "restore differs", {"differs": same.returncode != 0, "how": same.stdout[-500:] + same.stderr[-500:]})
        if same.returncode != 0:
            print(f"  {tool.name}: the restore differs: {same.stdout.strip().splitlines()[:3]}")
        shutil.rmtree(target)

    def size(self, tool, step):
        self.note(tool, f"repository, {step}", {"bytes": size_of(tool.repository)})


KEPT = 30
DAILY_FILES = 300


def daily_round(number, tools, days, work, results):
    """Many small snapshots; then what one does with many of them."""
    turn = Round(number, tools, work, results)
    if os.path.exists(turn.source):
        shutil.rmtree(turn.source)
    make_tree(turn.source, DAILY_FILES)
    tenth = max(1, days // 10)
    spent = {tool.name: [] for tool in turn.opened}
    for day in range(days):
        if day:
            next_day(turn.source, DAILY_FILES, day)
        for tool in turn.opened:
            wall, cpu, peak, tool.printed = run(tool.backup(turn.source), tool.env)
            spent[tool.name].append((wall, cpu, peak))
    for step, part in ((f"{days} backups", slice(None)), (f"first {tenth} of them", slice(0, tenth)), (f"last {tenth} of them", slice(-tenth, None))):
        for tool in turn.opened:
            walls, cpus, peaks = zip(*spent[tool.name][part])
            turn.told(tool, step, sum(walls), sum(cpus), max(peaks))
    for tool in turn.opened:
        turn.size(tool, f"{days} snapshots")
        listed = tool.snapshots_in(turn.measure(tool, "list", tool.listing()))
        if listed != days:
            raise Failed(f"{tool.name} lists {listed} snapshots of {days}")
    for tool in turn.opened:
        turn.restore(tool, "latest restore")
    for tool in turn.opened:
        tool.prepare_forget()
        turn.measure(tool, f"forget to {KEPT}", tool.forget(KEPT))
        left = tool.snapshots_in(run(tool.listing(), tool.env)[3])
        if left != min(KEPT, days):
            raise Failed(f"{tool.name} lists {left} snapshots after all but {KEPT} were forgotten")
    for tool in turn.opened:
        runs = []
        for argv in tool.reclaim():
            runs.append(run(argv, tool.env)[:3])
            time.sleep(tool.pause_s)
        walls, cpus, peaks = zip(*runs)
        turn.told(tool, "reclaim", sum(walls), sum(cpus), max(peaks))
        turn.size(tool, "reclaimed")
    for tool in turn.opened:
        turn.measure(tool, f"list of {KEPT}", tool.listing())
        turn.restore(tool, "restore after")
    shutil.rmtree(turn.base)


def one_round(number, tools, steps, work, results):
    """All steps once, each by every tool before the next one."""
    turn = Round(number, tools, work, results)
    source, opened, measure = turn.source, turn.opened, turn.measure
    for step, path in steps:
        if path:
            place(path, source)
        stream = os.path.isfile(source)
        for tool in opened:
            argv = tool.backup_stream() if stream else tool.backup(source)
            tool.printed = measure(tool, step, argv, stdin=source if stream else None)
            turn.size(tool, step)
    for tool in opened:
        turn.restore(tool, "full restore")
    for tool in opened:
        if tool.check:
            measure(tool, "check, all bytes", tool.check)
    shutil.rmtree(turn.base)


def summarize(results, tools):
    """Rows of (what, unit, {tool: (median, least, most)}, ratio of keepstone to the best other)."""
    rows = []

    def row(what, unit, step, key, scale):
        figures = {}
        for tool, measured in results[step].items():
            values = [entry[key] * scale for entry in measured]
            figures[tool] = (statistics.median(values), min(values), max(values))
        others = [figure[0] for tool, figure in figures.items() if tool != "keepstone"]
        ratio = figures["keepstone"][0] / min(others) if others and "keepstone" in figures else None
        rows.append((what, unit, figures, ratio))

    for step in results:
        if step.startswith("repository"):
            row(step, "MiB", step, "bytes", 1 / MIB)
        elif step != "restore differs":
            row(step, "s", step, "wall_s", 1)
    for step in results:
        if not step.startswith("repository") and step != "restore differs":
            row(f"{step}: processor", "s", step, "cpu_s", 1)
    for step in results:
        if not step.startswith("repository") and step != "restore differs":
            row(f"{step}: peak memory", "MiB", step, "peak_bytes", 1 / MIB)
    return rows


def table(rows, names):
    lines = ["| step | " + " | ".join(names) + " | ratio to the best other |", "| --- |" + " ---: |" * (len(names) + 1)]
    for what, unit, figures, ratio in rows:
        cells = []
        for name in names:
            if name not in figures:
                cells.append("–")
                continue
            median, least, most = figures[name]
            digits = 2 if unit == "s" else 0
            spread = f" ({least:.{digits}f}–{most:.{digits}f})" if least != most else ""
            cells.append(f"{median:.{digits}f}{spread}")
        lines.append(f"| {what}, {unit} | " + " | ".join(cells) + f" | {f'{ratio:.2f}' if ratio is not None else '–'} |")
    return "\n".join(lines)


COLOURS = {"keepstone": "#1b6e53", "restic": "#9a9a9a", "borg": "#c4a35a", "rustic": "#b07aa1", "bupstash": "#76a5c4", "kopia": "#d18b7c"}


def plot(rows, names, title):
    """An SVG of the times and sizes, each step as bars against its longest."""
    shown = [row for row in rows if "processor" not in row[0] and "peak" not in row[0]]
    bar, gap, left, width = 14, 14, 230, 520
    height = 64 + sum(bar * len(row[2]) + gap + 4 for row in shown)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 120}" height="{height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>', f'<text x="10" y="22" font-size="14">{title}</text>']
    top = 44
    for what, unit, figures, _ in shown:
        longest = max(figure[0] for figure in figures.values()) or 1
        out.append(f'<text x="10" y="{top + 11}">{what}, {unit}</text>')
        for name in names:
            if name in figures:
                value = figures[name][0]
                out.append(f'<rect x="{left}" y="{top}" width="{max(1, width * value / longest):.1f}" height="{bar - 2}" fill="{COLOURS[name]}"/>')
                out.append(f'<text x="{left + width * value / longest + 6:.1f}" y="{top + 10}" font-size="11">{name} {value:.{2 if unit == "s" else 0}f}</text>')
                top += bar
        top += gap + 4
    return "\n".join(out + ["</svg>", ""])


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} × {model}, {memory} GiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=["trees", "stream", "dump", "random", "small", "sparse", "daily"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--program", default="keepstone", help="the keepstone to measure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", help="only these others, separated by commas; 'none' for keepstone alone")
    parser.add_argument("--work", default="/dev/shm", help="where to put everything")
    parser.add_argument("--json", help="write every figure into this file")
    parser.add_argument("--svg", help="plot the medians into this file")
    arguments = parser.parse_args()
    wanted = None if arguments.tools is None else {name for name in arguments.tools.split(",") if name != "none"}
    if wanted and (unknown := wanted - {tool.name for tool in PEERS}):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    program = shutil.which(arguments.program)
    if not program:
        parser.error(f"there is no program {arguments.program}")
    tools = [(Keepstone, os.path.realpath(program))]
    for tool in PEERS:
        found = shutil.which(tool.name)
        if found and (wanted is None or tool.name in wanted):
            tools.append((tool, found))
        elif wanted and tool.name in wanted:
            parser.error(f"{tool.name} is not installed")
    if not shutil.which("age-keygen"):
        parser.error("age-keygen is needed, for keepstone's identity (Debian: age)")
    with tempfile.TemporaryDirectory(prefix="keepstone-compare.", dir=arguments.work) as work:
        probes = [tool(path, os.path.join(work, "versions", tool.name)) for tool, path in tools]
        versions = ", ".join(probe.version() for probe in probes)
        title = f"{arguments.workload}, {arguments.rounds} rounds, {time.strftime('%Y-%m-%d')}, {machine()}"
        print(f"{title}\n{versions}")
        daily = arguments.workload == "daily"
        steps = None if daily else inputs(arguments, work)
        days = int(arguments.arguments[0]) if daily and arguments.arguments else 1000
        results = {}
        for number in range(arguments.rounds):
            print(f"round {number + 1}")
            try:
                if daily:
                    daily_round(number, tools, days, work, results)
                else:
                    one_round(number, tools, steps, work, results)
            except Failed as error:
                sys.exit(f"stopped: {error}")
    names = [tool.name for tool, _ in tools]
    rows = summarize(results, names)
    print(f"\nMedians of {arguments.rounds} rounds (least–most). {title}. {versions}.\n\n{table(rows, names)}")
    wrong = {tool for tool, entries in results["restore differs"].items() if any(entry["differs"] for entry in entries)}
    print(f"\nRestores that differ from their source: {', '.join(sorted(wrong)) or 'none'}.")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"title": title, "versions": versions, "results": results}, file, indent=1)
    if arguments.svg:
        with open(arguments.svg, "w") as file:
            file.write(plot(rows, names, title))
    sys.exit(1 if "keepstone" in wrong else 0)


if __name__ == "__main__":
    main()
