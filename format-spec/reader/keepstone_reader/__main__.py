"""verify, list and restore, from the command line."""

import argparse
import datetime
import os
import sys

from . import age
from .region import AccessError, Region
from .restore import Restore
from .verify import verify
from .wire import FormatError


def arguments():
    parser = argparse.ArgumentParser(prog="keepstone_reader", description="A second reader of keepstone repositories.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("verify", "check every digest, name, signature, role, commitment, chunk and reference"),
        ("list", "list the snapshots that count"),
        ("restore", "write a snapshot into a new or empty directory"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("region", help="a region in a local directory")
        if name == "restore":
            command.add_argument("snapshot", help="its id, or enough of it; 'latest' for the newest")
            command.add_argument("target")
        command.add_argument("--passphrase-file", help="holds the passphrase, and one newline at most; else KEEPSTONE_PASSPHRASE")
        command.add_argument("--identity", help="an age identity file")
        command.add_argument("--pin", help="the root's fingerprint, 64 hexadecimal digits")
        command.add_argument("--no-pin", action="store_true", help="accept any root key")
        if name == "restore":
            command.add_argument("--ignore-segments", action="store_true", help="find chunks by the packs alone")
    return parser.parse_args()


def secrets(options):
    identities, passphrase = [], None
    if options.identity:
        with open(options.identity, encoding="ascii") as file:
            identities = age.parse_identities(file.read())
    elif options.passphrase_file:
        with open(options.passphrase_file, "rb") as file:
            passphrase = file.read().removesuffix(b"\n")
    elif "KEEPSTONE_PASSPHRASE" in os.environ:
        passphrase = os.environb[b"KEEPSTONE_PASSPHRASE"]
    else:
        raise AccessError("give --passphrase-file, --identity or KEEPSTONE_PASSPHRASE")
    return passphrase, identities


def open_region(options):
    if not options.pin and not options.no_pin:
        raise AccessError("give --pin FINGERPRINT, or --no-pin to accept any root key")
    pin = bytes.fromhex(options.pin) if options.pin else None
    region = Region(options.region, pin)
    region.unlock(*secrets(options))
    return region


def report(problems):
    for where, error in problems:
        shown = os.fsdecode(where) if isinstance(where, bytes) else where
        print(f"{shown}: {error}", file=sys.stderr)
    return 1 if problems else 0


def pick(snapshots, wanted):
    if wanted == "latest" and snapshots:
        return max(snapshots.items(), key=lambda item: item[1].started_at)
    found = [item for item in snapshots.items() if item[0].hex().startswith(wanted)]
    if len(found) != 1:
        raise AccessError(f"{len(found)} counted snapshots begin with '{wanted}'")
    return found[0]


def show(snapshots):
    for snapshot_id, snapshot in sorted(snapshots.items(), key=lambda item: item[1].started_at):
        taken = datetime.datetime.fromtimestamp(snapshot.started_at // 10**9, datetime.timezone.utc)
        files, directories, others, size, _, issues = snapshot.counts
        marks = [mark for mark, there in (("partial", snapshot.partial), ("held", snapshot.held)) if there]
        print(
            f"{snapshot_id.hex()}  {taken:%Y-%m-%dT%H:%M:%SZ}  {snapshot.dataset}  {snapshot.host}  "
            f"{files} files, {directories} directories, {others} others, {size} bytes, {issues} issues"
            f"  [{', '.join(snapshot.tags)}] {' '.join(marks)}".rstrip()
        )


def run(options):
    region, problems = open_region(options), []
    if options.command == "verify":
        counts = verify(region, problems)
        print(", ".join(f"{count} {what}" for what, count in counts.items()), f"- {len(problems)} problems")
        if not region.can_read:
            print(f"slot {region.slot.label} can't open payloads: chunks and trees were not checked")
        return report(problems)
    snapshots = region.counted(problems)
    if options.command == "list":
        show(snapshots)
        return report(problems)
    snapshot_id, snapshot = pick(snapshots, options.snapshot)
    if not region.can_read:
        raise AccessError(f"slot {region.slot.label} can't open payloads")
    if options.ignore_segments:
        region.scan_packs(problems)
    else:
        region.load_segments(problems)
    restore = Restore(region, options.target)
    restore.run(snapshot)
    print(f"{snapshot_id.hex()}: {restore.entries} entries, {restore.bytes} bytes")
    return report(problems + restore.problems)


def main():
    try:
        return run(arguments())
    except FormatError as error:
        print(f"damaged: {error}", file=sys.stderr)
    except (AccessError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
