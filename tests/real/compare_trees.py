#!/usr/bin/env python3
"""Compares two directory trees: names, types, contents and all metadata that a restore must bring back.

Usage: compare_trees.py LEFT RIGHT
Prints each difference, then one line of totals; exits 1 when there is any. The standard library alone.
"""

import errno
import os
import stat
import sys


def xattrs(path):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def same_content(left, right, size):
    """Compares data ranges only; what neither side holds reads as zeros on both."""
    with open(left, "rb", buffering=0) as a, open(right, "rb", buffering=0) as b:
        offset = 0
        while offset < size:
            starts = []
            for handle in (a, b):
                try:
                    starts.append(os.lseek(handle.fileno(), offset, os.SEEK_DATA))
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    starts.append(size)
            offset = min(starts)
            if offset >= size:
                return True
            one = os.pread(a.fileno(), 1 << 20, offset)
            two = os.pread(b.fileno(), 1 << 20, offset)
            if one != two:
                return False
            offset += len(one)
    return True


class Comparison:
    def __init__(self):
        self.entries = 0
        self.bytes = 0
        self.differences = 0
        self.links = ({}, {})

    def differ(self, path, what):
        self.differences += 1
        if self.differences <= 50:
            print(f"{os.fsdecode(path)!r}: {what}")

    def entry(self, left, right):
        one, two = os.lstat(left), os.lstat(right)
        self.entries += 1
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(two.st_mode):
            self.differ(left, "type")
            return
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
            if getattr(one, name) != getattr(two, name):
                self.differ(left, f"{name}: {getattr(one, name)} != {getattr(two, name)}")
        if xattrs(left) != xattrs(right):
            self.differ(left, "extended attributes")
        if stat.S_ISLNK(one.st_mode) and os.readlink(left) != os.readlink(right):
            self.differ(left, "link target")
        if (stat.S_ISCHR(one.st_mode) or stat.S_ISBLK(one.st_mode)) and one.st_rdev != two.st_rdev:
            self.differ(left, "device number")
        if stat.S_ISREG(one.st_mode):
            self.bytes += one.st_size
            if one.st_size != two.st_size:
                self.differ(left, f"size: {one.st_size} != {two.st_size}")
            elif not same_content(left, right, one.st_size):
                self.differ(left, "content")
            holes = one.st_blocks * 512 < one.st_size
            if holes and two.st_blocks * 512 > one.st_blocks * 512 + (1 << 20) + one.st_size // 100:
                self.differ(left, f"holes: {one.st_blocks} blocks became {two.st_blocks}")
            # Hard links: the first name met stands for the file, on both sides alike.
            if one.st_nlink > 1:
                first = self.links[0].setdefault((one.st_dev, one.st_ino), left)
                second = self.links[1].setdefault((two.st_dev, two.st_ino), left)
                if first != second:
                    self.differ(left, "hard-link group")
        if stat.S_ISDIR(one.st_mode):
            names, others = sorted(os.listdir(left)), sorted(os.listdir(right))
            for name in sorted(set(names) ^ set(others)):
                # Sockets are not captured, and that is said at the backup.
                path = os.path.join(left if name in names else right, name)
                if not stat.S_ISSOCK(os.lstat(path).st_mode):
                    self.differ(path, "only on one side")
            for name in sorted(set(names) & set(others)):
                self.entry(os.path.join(left, name), os.path.join(right, name))


def main():
    left, right = (os.fsencode(path) for path in sys.argv[1:3])
    sys.setrecursionlimit(10_000)
    comparison = Comparison()
    comparison.entry(left, right)
    print(f"{comparison.entries} entries, {comparison.bytes} bytes compared: {comparison.differences} differences")
    return 1 if comparison.differences else 0


sys.exit(main())
