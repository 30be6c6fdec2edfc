"""A TCP relay that holds every byte for a while: a long line, for as long as the test wants it so.

``python relay.py LISTEN_PORT HOST:PORT FILE``: FILE holds the seconds that each direction takes.
"""

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path

_CHUNK = 64 * 1024


class Relay:
    """Passes connections on.

    Parameters
    ----------
    host, port
        Where to.
    delay_file
        Holds the seconds that bytes take in each direction; read anew for each chunk.
    """

    def __init__(self, host: str, port: int, delay_file: Path) -> None:
        self._host = host
        self._port = port
        self._delay_file = delay_file

    async def serve(self, port: int) -> None:
        """Listen on loopback until the process ends."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _until_closed(self._pass_on(reader, far_writer)), _until_closed(self._pass_on(far_reader, writer))
        )

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read at once and write each chunk when its time has come, so that a delay limits no bandwidth."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(_until_closed(_write(waiting, writer)))
        try:
            while chunk := await reader.read(_CHUNK):
                waiting.put_nowait((loop.time() + self._delay(), chunk))
        finally:  # a connection that is reset, as a killed process's is, ends the other one as well
            waiting.put_nowait((loop.time() + self._delay(), b""))
            await writing

    def _delay(self) -> float:
        return float(self._delay_file.read_text())


async def _write(waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    while True:
        due, chunk = await waiting.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        if not chunk:
            writer.close()
            return
        writer.write(chunk)
        await writer.drain()


async def _until_closed(passing: Awaitable[None]) -> None:
    """Take a lost connection as the end of one."""
    try:
        await passing
    except OSError:
        return


def main() -> None:
    """Run the relay."""
    listen, target, delay_file = sys.argv[1:]
    host, port = target.rsplit(":", 1)
    asyncio.run(Relay(host, int(port), Path(delay_file)).serve(int(listen)))


if __name__ == "__main__":
    main()
