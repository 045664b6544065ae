"""Writes a snapshot's entries into a new directory, and nowhere else."""

import os
import resource
import stat

from . import sequence
from .crypto import DATA, LIST, TREE
from .sequence import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK
from .verify import root_node
from .wire import FormatError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Restore:
    """Every path is opened from its parent's descriptor, without following links: RESTORE-1."""

    def __init__(self, region, target):
        self.region, self.target = region, target
        self.problems, self.entries, self.bytes = [], 0, 0
        self.links = {}
        self.is_root = os.geteuid() == 0

    def run(self, snapshot):
        node = root_node(snapshot.root, self.region.chunk)
        os.makedirs(self.target, exist_ok=True)
        if os.listdir(self.target):
            raise FileExistsError(f"{self.target} is not empty")
        # One descriptor for each directory on the way down.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.top = os.open(self.target, FOLDER)
        stack = []
        try:
            self.enter(stack, self.top, node, b"")
            while stack:
                folder, own, path, children = stack[-1]
                child = self.next(children, path)
                if child is None:
                    stack.pop()
                    self.finish(folder, own, path)
                    if folder != self.top:
                        os.close(folder)
                    continue
                below = path + b"/" + child.name if path else child.name
                try:
                    if child.kind == DIRECTORY:
                        if len(stack) >= 4096:
                            raise FormatError("TREE-9", "too deep")
                        os.mkdir(child.name, 0o700, dir_fd=folder)
                        self.enter(stack, os.open(child.name, FOLDER, dir_fd=folder), child, below)
                    else:
                        self.leaf(folder, child, below)
                        self.entries += 1
                except (OSError, FormatError) as error:
                    self.problems.append((below, error))
        finally:
            os.close(self.top)

    def enter(self, stack, folder, node, path):
        stack.append((folder, node, path, sequence.walk(TREE, node.tree, self.region.chunk)))
        self.entries += 1

    def next(self, children, path):
        try:
            return next(children, None)
        except (FormatError, OSError) as error:
            self.problems.append((path, error))
            return None

    def leaf(self, folder, node, path):
        first = self.links.get(node.link_group) if node.link_group is not None else None
        if first is not None:
            self.link(folder, node.name, first)
            return
        if node.kind == FILE:
            self.file(folder, node, path)
        elif node.kind == SYMLINK:
            os.symlink(node.target, node.name, dir_fd=folder)
            self.finish_by_name(folder, node, path)
        elif node.kind == FIFO:
            os.mkfifo(node.name, 0o600, dir_fd=folder)
            self.finish_by_name(folder, node, path)
        elif node.kind in (CHARACTER, BLOCK):
            if not self.is_root:
                raise PermissionError("only root makes devices")
            kind = stat.S_IFCHR if node.kind == CHARACTER else stat.S_IFBLK
            os.mknod(node.name, kind | 0o600, os.makedev(*node.device), dir_fd=folder)
            self.finish_by_name(folder, node, path)
        if node.link_group is not None:
            self.links[node.link_group] = path

    def link(self, folder, name, first):
        """A further name for what was restored at `first`, found from the target's own descriptor."""
        *parents, last = first.split(b"/")
        at = os.dup(self.top)
        try:
            for parent in parents:
                below = os.open(parent, FOLDER, dir_fd=at)
                os.close(at)
                at = below
            os.link(last, name, src_dir_fd=at, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(at)

    def file(self, folder, node, path):
        file = os.open(node.name, CREATE, 0o600, dir_fd=folder)
        try:
            extents = node.extents if node.list is None else sequence.walk(LIST, node.list, self.region.chunk)
            at = 0
            for extent in extents:
                if at + extent.length > node.size:
                    raise FormatError("LIST-2", "the extents go past the file's size")
                if extent.id is not None:
                    plain = self.region.chunk(DATA, extent.id)
                    if len(plain) != extent.length:
                        raise FormatError("CHUNK-2", f"chunk {extent.id.hex()} is not {extent.length} bytes long")
                    _write(file, plain, at)
                at += extent.length
            if at != node.size:
                raise FormatError("LIST-2", "the extents don't sum to the file's size")
            # A hole at the end takes no room either.
            os.ftruncate(file, node.size)
            self.bytes += node.size
            self.finish(file, node, path)
        except (FormatError, OSError):
            os.unlink(node.name, dir_fd=folder)
            raise
        finally:
            os.close(file)

    def _try(self, path, call, *arguments, **options):
        try:
            call(*arguments, **options)
        except OSError as error:
            self.problems.append((path, error))

    def finish(self, file, node, path):
        """Owner, attributes, mode, times, in this order: RESTORE-2."""
        if self.is_root:
            self._try(path, os.fchown, file, node.uid, node.gid)
        for name, value in node.xattrs:
            self._try(path, os.setxattr, file, name, value)
        self._try(path, os.fchmod, file, node.mode)
        self._try(path, os.utime, file, ns=_times(node))

    def finish_by_name(self, folder, node, path):
        if self.is_root:
            self._try(path, os.chown, node.name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
        here = f"/proc/self/fd/{folder}/".encode() + node.name
        for name, value in node.xattrs:
            self._try(path, os.setxattr, here, name, value, follow_symlinks=False)
        if node.kind != SYMLINK:
            self._try(path, os.chmod, node.name, node.mode, dir_fd=folder)
        self._try(path, os.utime, node.name, ns=_times(node), dir_fd=folder, follow_symlinks=False)


def _times(node):
    modified_at = node.seconds * 10**9 + node.nanoseconds
    return modified_at, modified_at


def _write(file, plain, at):
    view = memoryview(plain)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
