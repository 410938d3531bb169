"""A disk whose cache is lost when the power goes: an NBD server over a Unix socket.

Writes stay in memory until a flush (or FUA). At the cut a random subset of the blocks that were
not flushed reaches the disk after all, in no order, as in a real drive. The protocol is
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, what qemu needs of it.
"""

import contextlib
import os
import random
import socket
import struct
import threading
from pathlib import Path
from typing import Self

SECTOR = 512
# What the disk writes whole or not at all. Smaller pieces would test the file system instead: ext4
# refuses to mount where a commit block of its journal, 4 KiB with one checksum, was torn.
BLOCK_SECTORS = 8
# Fixed newstyle negotiation.
GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)  # fixed newstyle, no zeroes
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
OPTION_ABORT, OPTION_GO = 2, 7
REPLY_ACK, REPLY_INFO, REPLY_UNSUPPORTED = 1, 3, 2**31 + 1
INFO_EXPORT = 0
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
# Transmission.
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1
EINVAL = 22


class Disk:
    """`with Disk(image, socket) as disk:` serves one client after another, until the end.

    `disk.drive` is for qemu. After the client is dead, `cut(rng)` is what the loss of power does.
    With `fail_after(n)` the disk itself stops at the n-th write from now, and sets `failed`.
    """

    def __init__(self, file: Path, address: Path) -> None:
        self.drive = f"file=nbd+unix:///?socket={address},format=raw,cache=none"
        self.failed = threading.Event()
        self._writes_left: int | None = None
        self._file = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        self._cache: dict[int, bytes] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        address.unlink(missing_ok=True)
        self._listener.bind(str(address))
        self._listener.listen()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def fail_after(self, writes: int) -> None:
        self._writes_left = writes

    def cut(self, rng: random.Random) -> str:
        """Keep some unflushed blocks, forget the others; says how many sectors that are."""
        assert self._idle.wait(30), "a client is still connected"
        blocks = sorted({number // BLOCK_SECTORS for number in self._cache})
        lucky = {block for block in blocks if rng.random() < 0.5}
        kept = [number for number in self._cache if number // BLOCK_SECTORS in lucky]
        for number in kept:
            os.pwrite(self._file, self._cache[number], number * SECTOR)
        said = f"{len(kept)} of {len(self._cache)} unflushed sectors kept"
        self._cache.clear()
        self.failed.clear()
        self._writes_left = None
        return said

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.close(self._file)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._idle.clear()
            with client, contextlib.suppress(EOFError, ConnectionError):
                if self._negotiate(client):
                    self._transmit(client)
            self._idle.set()

    def _negotiate(self, client: socket.socket) -> bool:
        client.sendall(GREETING)
        _read(client, 4)
        while True:
            magic, option, length = struct.unpack(">QII", _read(client, 16))
            assert magic == OPTION_MAGIC
            _read(client, length)
            if option == OPTION_ABORT:
                return False
            if option != OPTION_GO:
                self._reply_option(client, option, REPLY_UNSUPPORTED)
                continue
            flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA
            export = struct.pack(">HQH", INFO_EXPORT, self._size, flags)
            self._reply_option(client, option, REPLY_INFO, export)
            self._reply_option(client, option, REPLY_ACK)
            return True

    def _reply_option(
        self, client: socket.socket, option: int, kind: int, payload: bytes = b""
    ) -> None:
        head = struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(payload))
        client.sendall(head + payload)

    def _transmit(self, client: socket.socket) -> None:
        while True:
            head = struct.unpack(">IHHQQI", _read(client, 28))
            magic, flags, command, cookie, offset, length = head
            assert magic == REQUEST_MAGIC
            answer, error = b"", 0
            if command == READ:
                answer = self._fetch(offset, length)
            elif command == WRITE:
                self._store(offset, _read(client, length), durable=bool(flags & FUA))
                if self._fails():
                    return _ignore(client)
            elif command == FLUSH:
                self._flush()
            elif command == DISCONNECT:
                return
            else:
                error = EINVAL
            client.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, cookie) + answer)

    def _fetch(self, offset: int, length: int) -> bytes:
        found = bytearray(os.pread(self._file, length, offset))
        for place in range(0, length, SECTOR):
            if cached := self._cache.get((offset + place) // SECTOR):
                found[place : place + SECTOR] = cached
        return bytes(found)

    def _store(self, offset: int, written: bytes, *, durable: bool) -> None:
        assert offset % SECTOR == len(written) % SECTOR == 0
        for place in range(0, len(written), SECTOR):
            number = (offset + place) // SECTOR
            self._cache[number] = written[place : place + SECTOR]
            if durable:
                os.pwrite(self._file, self._cache.pop(number), number * SECTOR)

    def _fails(self) -> bool:
        """Counts a write; True if it was the last that the disk took."""
        if self._writes_left is None:
            return False
        self._writes_left -= 1
        if self._writes_left > 0:
            return False
        self.failed.set()
        return True

    def _flush(self) -> None:
        for number, content in self._cache.items():
            os.pwrite(self._file, content, number * SECTOR)
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _ignore(client: socket.socket) -> None:
    """Never answer again, until the client is gone."""
    while client.recv(65536):
        pass


def _read(client: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        more = client.recv(length - len(received))
        if not more:
            raise EOFError
        received += more
    return bytes(received)
