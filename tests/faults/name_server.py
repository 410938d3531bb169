"""A name server that gives every name one address, or none, or is silent, as a file tells it.

Runs as a program: `name_server.py HOST FILE`. The file holds an IPv4 address, or `silent`, or
`unknown`; it is read at each question.
"""

import socket
import struct
import sys
from pathlib import Path

NAME_ERROR = 3
TYPE_A = 1


def answer(question: bytes, told: str) -> bytes:
    """RFC 1035: the header, the question again, and one record that points to its name."""
    end = question.index(b"\0", 12) + 5
    (kind,) = struct.unpack(">H", question[end - 4 : end - 2])
    found = told != "unknown" and kind == TYPE_A
    code = NAME_ERROR if told == "unknown" else 0
    header = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, found, 0, 0)
    record = (
        struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 0, 4) + socket.inet_aton(told) if found else b""
    )
    return header + question[12:end] + record


def main(host: str, file: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, 53))
        print("ready", flush=True)
        while True:
            question, client = server.recvfrom(4096)
            told = file.read_text().strip()
            if told != "silent":
                server.sendto(answer(question, told), client)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
