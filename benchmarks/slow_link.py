"""A long way: what comes on one side goes out on the other so much later, at any rate.

Usage: slow_link.py TARGET_PORT DELAY_MS    prints its port; when its standard input ends it prints
JSON: `sent` and `received`, bytes to and from the target, and `connections`.

A connection costs a round trip before its first byte, as the handshake does on a long way.
"""

import asyncio
import json
import os
import sys

CHUNK = 256 * 1024


class Way:
    """All connections to one target."""

    def __init__(self, target: int, delay: float) -> None:
        self.target, self.delay = target, delay
        self.counts = {"sent": 0, "received": 0, "connections": 0}

    async def carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        opened_at = asyncio.get_running_loop().time() + 2 * self.delay
        far, onward = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self.relay(near, onward, "sent", opened_at), self.relay(far, back, "received", 0.0)
        )

    async def relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        what: str,
        opened_at: float,
    ) -> None:
        """One direction: reading goes on while what was read is under way."""
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, content = await under_way.get()
                await asyncio.sleep(due - clock())
                if not content:
                    writer.close()
                    return
                self.counts[what] += len(content)
                writer.write(content)

        delivery = asyncio.create_task(deliver())
        content = b"-"
        while content:
            try:
                content = await reader.read(CHUNK)
            except ConnectionError:
                content = b""
            under_way.put_nowait((max(clock(), opened_at) + self.delay, content))
        await delivery


async def main() -> None:
    way = Way(int(sys.argv[1]), int(sys.argv[2]) / 1000)
    server = await asyncio.start_server(way.carry, "127.0.0.1", 0, limit=4 * CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(way.counts), flush=True)
    os._exit(0)  # with whatever is still under way


if __name__ == "__main__":
    asyncio.run(main())
