"""The functions of ``os`` that the disk store calls, on the simulated disk of the machine whose code calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from godrive.simulation.disk import BLOCK, FIRST_HANDLE, Disk, Entry, Inode, Open, status
from godrive.simulation.loop import Process, process
from godrive.simulation.machine import Life


class FileSystem:
    """In place of the module ``os``: the disk of the machine whose code calls."""

    def __getattr__(self, name: str) -> Any:
        if name.isupper() or name in {"urandom", "cpu_count", "strerror", "environ", "devnull", "fspath", "path"}:
            return getattr(os, name)
        raise AttributeError(f"the simulated disk has no {name}")

    # Where a call arrives

    def _disk(self) -> Disk:
        owner: Any = process()
        disk: Disk = owner.machine.disk
        return disk

    def _read(self) -> Disk:
        owner: Process = process()
        owner.check()
        disk = self._disk()
        if disk.slow:
            owner.delay(disk.chance.random() * disk.slow)
        return disk

    def _change(self, name: str) -> Disk:
        process().effect("disk")
        disk = self._read()
        if disk.failing.get(name, 0) > 0:
            disk.failing[name] -= 1
            raise OSError(disk.errno, os.strerror(disk.errno))
        return disk

    def _folder(self, disk: Disk, handle: int | None, name: str) -> tuple[Inode, str]:
        """The folder in which *name* is, and the last component."""
        if handle is None:
            return disk.at(name), "."
        return self._handle(disk, handle).inode, name

    @staticmethod
    def _handle(disk: Disk, handle: int) -> Open:
        try:
            return disk.handles[handle]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    @staticmethod
    def _find(folder: Inode, name: str) -> Inode:
        if name == ".":
            return folder
        found = folder
        for part in name.split("/"):
            if not found.is_folder:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            if part not in found.entries:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            found = found.entries[part]
        return found

    # Files

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = os.fspath(path)
        creates = bool(flags & os.O_CREAT)
        unnamed = (flags & os.O_TMPFILE) == os.O_TMPFILE
        disk = self._change("open") if creates or unnamed else self._read()
        folder, last = self._folder(disk, dir_fd, name)
        if unnamed:
            if not disk.has_unnamed:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            inode = Inode(is_folder=False, now=process().wall_time())
        elif creates and last not in folder.entries:
            inode = Inode(is_folder=False, now=process().wall_time())
            inode.links = 1
            folder.entries[last] = inode
        else:
            inode = self._find(folder, last)
            if creates and flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            if flags & os.O_DIRECTORY and not inode.is_folder:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            if flags & os.O_TRUNC:
                inode.changes_from(0)
                inode.data.clear()
        if creates or unnamed:
            process().effect("disk")
        handle = disk.boot * FIRST_HANDLE + len(disk.handles)
        while handle in disk.handles:
            handle += 1
        disk.handles[handle] = Open(inode, flags)
        return handle

    def close(self, handle: int) -> None:
        if handle < FIRST_HANDLE:
            os.close(handle)  # of a real file, which SQLite opens by itself
            return
        if not isinstance(process(), Life) or handle // FIRST_HANDLE != (disk := self._disk()).boot:
            return  # memory of a killed process is finalised, perhaps while another runs
        self._handle(disk, handle)
        del disk.handles[handle]

    def dup(self, handle: int) -> int:
        disk = self._read()
        opened = self._handle(disk, handle)
        other = max(disk.handles) + 1
        disk.handles[other] = opened
        return other

    def _put(self, disk: Disk, inode: Inode, data: Any, at: int) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        grows = max(0, at + size - len(inode.data))
        if grows and disk.used + grows > disk.capacity:
            size = max(0, disk.capacity - disk.used + (len(view) - grows))
            if not size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif size > 1 and disk.short_writes and disk.chance.random() < disk.short_writes:
            size = disk.chance.randrange(1, size)
        before = len(inode.data)
        inode.changes_from(min(at, before))
        if at > before:
            inode.data.extend(bytes(at - before))
        inode.data[at : at + size] = view[:size]
        disk.used += len(inode.data) - before
        inode.mtime = process().wall_time()
        process().effect("disk")
        return size

    def write(self, handle: int, data: Any) -> int:
        disk = self._change("write")
        opened = self._handle(disk, handle)
        at = len(opened.inode.data) if opened.flags & os.O_APPEND else opened.at
        size = self._put(disk, opened.inode, data, at)
        opened.at = at + size
        return size

    def writev(self, handle: int, buffers: Any) -> int:
        return self.write(handle, b"".join(buffers))

    def pwrite(self, handle: int, data: Any, offset: int) -> int:
        disk = self._change("write")
        return self._put(disk, self._handle(disk, handle).inode, data, offset)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        disk = self._read()
        return bytes(self._handle(disk, handle).inode.data[offset : offset + size])

    def preadv(self, handle: int, buffers: Any, offset: int, flags: int = 0) -> int:
        read = 0
        for buffer in buffers:
            data = self.pread(handle, len(buffer), offset + read)
            buffer[: len(data)] = data
            read += len(data)
        return read

    def read(self, handle: int, size: int) -> bytes:
        opened = self._handle(self._read(), handle)
        data = bytes(opened.inode.data[opened.at : opened.at + size])
        opened.at += len(data)
        return data

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        opened = self._handle(self._read(), handle)
        start = {os.SEEK_SET: 0, os.SEEK_CUR: opened.at, os.SEEK_END: len(opened.inode.data)}[whence]
        opened.at = start + offset
        return opened.at

    def ftruncate(self, handle: int, size: int) -> None:
        disk = self._change("write")
        inode = self._handle(disk, handle).inode
        inode.changes_from(size)
        data = inode.data
        disk.used += size - len(data)
        if size < len(data):
            del data[size:]
        else:
            data.extend(bytes(size - len(data)))
        process().effect("disk")

    def copy_file_range(
        self, source: int, target: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> int:
        opened = self._handle(self._disk(), source)
        start = opened.at if offset_src is None else offset_src
        data = self.pread(source, count, start)
        if offset_src is None:
            opened.at += len(data)
        if not data:
            return 0
        return self.write(target, data) if offset_dst is None else self.pwrite(target, data, offset_dst)

    def fsync(self, handle: int) -> None:
        disk = self._change("fsync")
        inode, owner = self._handle(disk, handle).inode, process()
        if isinstance(owner, Life) and owner.machine.deaths and inode.is_dirty():
            owner.before_sync()
        inode.save()
        process().effect("disk")

    fdatasync = fsync

    def fstat(self, handle: int) -> os.stat_result:
        return status(self._handle(self._read(), handle).inode)

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        disk = self._read()
        return status(self._find(*self._folder(disk, dir_fd, os.fspath(path))))

    def fstatvfs(self, handle: int) -> Any:
        disk = self._read()
        return SimpleNamespace(f_bavail=max(0, disk.capacity - disk.used) // BLOCK, f_frsize=BLOCK)

    def setxattr(self, handle: int, name: str, value: bytes) -> None:
        disk = self._change("setxattr")
        if not disk.has_notes:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        self._handle(disk, handle).inode.notes[name] = value

    def getxattr(self, file: int | str, name: str, *, follow_symlinks: bool = True) -> bytes:
        disk = self._read()
        if isinstance(file, str):  # /proc/self/fd/<open folder>/<path>
            _, _, _, _, folder, path = file.split("/", 5)
            notes = self._find(*self._folder(disk, int(folder), path)).notes
        else:
            notes = self._handle(disk, file).inode.notes
        if name not in notes:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return notes[name]

    # Folders

    def scandir(self, handle: int) -> _Scan:
        inode = self._handle(self._read(), handle).inode
        return _Scan([Entry(name, child) for name, child in inode.entries.items()])

    def listdir(self, handle: int) -> list[str]:
        return list(self._handle(self._read(), handle).inode.entries)

    def mkdir(self, name: str, mode: int = 0o777, *, dir_fd: int) -> None:
        disk = self._change("mkdir")
        folder, _ = self._folder(disk, dir_fd, name)
        if name in folder.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        folder.entries[name] = Inode(is_folder=True, now=process().wall_time())
        for mounted, root in disk.roots.items():
            if folder is root:  # SQLite's files are real, and may lie in it
                os.makedirs(f"{mounted}/{name}", exist_ok=True)  # noqa: PTH103 - no path to be walked
        process().effect("disk")

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        disk = self._change("rmdir")
        folder, _ = self._folder(disk, dir_fd, name)
        if self._find(folder, name).entries:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        del folder.entries[name]
        process().effect("disk")

    def link(
        self,
        source: str,
        name: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int,
        follow_symlinks: bool = True,
    ) -> None:
        disk = self._change("link")
        if source.startswith("/proc/self/fd/"):
            inode = self._handle(disk, int(source.rpartition("/")[2])).inode
        else:
            inode = self._find(*self._folder(disk, src_dir_fd, source))
        folder, _ = self._folder(disk, dst_dir_fd, name)
        if name in folder.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        folder.entries[name] = inode
        inode.links += 1
        process().effect("disk")

    def unlink(self, name: str, *, dir_fd: int) -> None:
        disk = self._change("unlink")
        folder, _ = self._folder(disk, dir_fd, name)
        inode = self._find(folder, name)
        if inode.is_folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        del folder.entries[name]
        inode.links -= 1
        if not inode.links:
            disk.used -= len(inode.data)
        process().effect("disk")

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        disk = self._change("rename")
        old, _ = self._folder(disk, src_dir_fd, source)
        new, _ = self._folder(disk, dst_dir_fd, target)
        inode = self._find(old, source)
        del old.entries[source]
        new.entries[target] = inode
        process().effect("disk")

    replace = rename


class _Scan:
    """An iterator of entries that can be closed."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> _Scan:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def close(self) -> None:
        """Nothing is held."""
