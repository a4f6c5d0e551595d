"""Random things sent to a server: bytes, frames of RFC 6455, and commands that are nearly right."""

from __future__ import annotations

import asyncio
import json
import struct
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from rawsocket import BINARY, CLOSE, PING, PONG, TEXT, frame
from threadwire.protocol import decode_frame

EXAMPLES = json.loads((Path(__file__).parent.parent / "frames.json").read_text(encoding="utf-8"))["commands"]
GOOD = [command for commands in EXAMPLES["good"].values() for command in commands]
BAD = [example["text"] for example in EXAMPLES["bad"] if "text" in example]
#: Values that have made JSON readers stumble.
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    2**70,
    1e308,
    -0.0,
    "",
    "\u0000",
    "\ud83d\ude00" * 20,
    "x" * 5000,
    [],
    {},
    [[]],
    {"": None},
    {"__proto__": 1, "type": "send"},
    [1] * 200,
]
#: Few, so that the attackers meet on them.
THREADS = [f"fuzz-{number}" for number in range(6)]
#: How long one attacker reads what came back, in seconds, at most.
_READ_SECONDS = 2.0


class Fuzz:
    """Attackers of one server, all by one seed; ``seen`` counts what they did and what they were told."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = Random(seed)
        self.seen: Counter[str] = Counter()
        #: What no server should say.
        self.faults: list[str] = []

    async def run(self, seconds: float, attackers: int = 12) -> None:
        """Attack for so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def attack(random: Random) -> None:
            while loop.time() < end:
                kind = random.choice([self._bytes, self._frames, self._commands, self._commands, self._queries])
                self.seen[kind.__name__.strip("_")] += 1
                with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                    await kind(random)

        await asyncio.gather(*(attack(Random(self._random.random())) for _ in range(attackers)))

    # --- kinds ------------------------------------------------------------------------------------

    async def _bytes(self, random: Random) -> None:
        """Anything, as if it were HTTP."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            start = random.choice([b"", b"GET /ws HTTP/1.1\r\n", b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
            writer.write(start + random.randbytes(random.randrange(2000)) + random.choice([b"", b"\r\n\r\n"]))
            if random.random() < 0.5:
                writer.write_eof()
            async with asyncio.timeout(random.uniform(0, 0.5)):
                await reader.read()
        finally:
            writer.transport.abort()

    async def _queries(self, random: Random) -> None:
        """A WebSocket with odd parameters."""
        names = ("thread_id", "after", "epoch", "history", "on_disconnect", "include_types", "raw", "token", "ticket")
        values = ("", "0", "-1", "x" * 300, "a%00b", "%ff", "true", "continue", "chat_model,tool", "..%2f..%2fetc")
        query = "&".join(f"{random.choice(names)}={random.choice(values)}" for _ in range(random.randrange(6)))
        await self._upgraded(random, query, [])

    async def _frames(self, random: Random) -> None:
        """Frames whose opcodes, flags, lengths and order are as they come."""
        await self._upgraded(random, _thread(random), [_frame(random) for _ in range(random.randrange(1, 30))])

    async def _commands(self, random: Random) -> None:
        """Commands that are right, nearly right, and not at all."""
        frames = [frame(_command(random)) for _ in range(random.randrange(1, 25))]
        await self._upgraded(random, _thread(random), frames)

    # --- one connection ---------------------------------------------------------------------------

    async def _upgraded(self, random: Random, query: str, frames: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            async with asyncio.timeout(30):
                head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b" ")[1].decode()
            self.seen[status] += 1
            if status.startswith("5"):
                self.faults.append(f"{status} to {query}")
            if status != "101":
                return
            reading = asyncio.create_task(self._read(reader))
            for data in frames:
                cut = random.randrange(1, len(data) + 1)
                # In two parts, the second of which may never come.
                writer.write(data[:cut])
                if random.random() < 0.1:
                    await asyncio.sleep(0.01)
                if random.random() < 0.98:
                    writer.write(data[cut:])
                await writer.drain()
            if random.random() < 0.3:
                writer.write(frame(struct.pack("!H", 1000), CLOSE))
            await asyncio.wait({reading}, timeout=random.uniform(0, _READ_SECONDS))
            reading.cancel()
            await asyncio.wait({reading})
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            first, size = await reader.readexactly(2)
            if size == 126:
                [size] = struct.unpack("!H", await reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await reader.readexactly(8))
            payload = await reader.readexactly(size)
            if first & 0xF == TEXT:
                self._told(payload)
            elif first & 0xF == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if payload else 0
                self.seen[f"close {code}"] += 1
                if code == 1011:
                    self.faults.append(f"close {payload!r}")
                return

    def _told(self, payload: bytes) -> None:
        found = json.loads(payload)
        try:
            decode_frame(payload.decode())
        except Exception as error:
            self.faults.append(f"{error!r}: {payload[:500]!r}")
        if found["type"] == "error" and found["code"] in ("internal", "storage_error"):
            self.faults.append(payload.decode()[:500])
        if found["type"] == "run_finished" and (found.get("error") or {}).get("code") in ("internal", "storage_error"):
            self.faults.append(payload.decode()[:500])
        self.seen[f"{found['type']} {found.get('code', '')}".strip()] += 1


def _thread(random: Random) -> str:
    return f"thread_id={random.choice(THREADS)}&on_disconnect={random.choice(['cancel', 'continue'])}"


def _frame(random: Random) -> bytes:
    if random.random() < 0.2:
        return random.randbytes(random.randrange(1, 200))
    payload = random.choice(
        [
            random.randbytes(random.randrange(200)),
            b"",
            b"\xff\xfe",
            b'{"type":"ping"}',
            struct.pack("!H", random.randrange(65536)) + random.randbytes(random.randrange(4)),
        ]
    )
    opcode = random.choice([TEXT, TEXT, BINARY, CLOSE, PING, PONG, 0, 0, random.randrange(16)])
    length = random.choice([None, None, None, random.choice([0, 1, 125, 126, 65536, 2**20 + 1, 2**31, 2**63 - 1])])
    first = random.choice([0, 0, 0, 0x40, 0x70])
    data = bytearray(frame(payload, opcode, fin=random.random() < 0.7, length=length, first=first))
    if random.random() < 0.1:
        # Not masked.
        data[1] &= 0x7F
    return bytes(data)


def _command(random: Random) -> bytes:
    if random.random() < 0.1:
        return str(random.choice(BAD)).encode("utf-8", "surrogatepass")
    command = json.loads(json.dumps(random.choice(GOOD)))
    if random.random() < 0.5:
        command["id"] = f"c{random.randrange(1000)}"
    for _ in range(random.choice([0, 0, 1, 1, 2, 5])):
        _mutate(random, command)
    data = bytearray(json.dumps(command, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass"))
    if random.random() < 0.1 and data:
        # A byte that is wrong, or an end that is missing.
        position = random.randrange(len(data))
        data = data[:position] + (
            bytes([random.randrange(256)]) + data[position + 1 :] if random.random() < 0.5 else b""
        )
    return bytes(data)


def _mutate(random: Random, value: Any) -> None:
    """Change something somewhere inside."""
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], dict | list):
                walk(inside[key])

    walk(value)
    if not places:
        return
    container, key = random.choice(places)
    way = random.randrange(5)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[random.choice(["x", "type", "id", "run_id", "content", "", "\u0000"])] = deepcopy(random.choice(ODD))
    elif way == 2:
        deep: Any = deepcopy(random.choice(ODD))
        for _ in range(random.choice([3, 60, 70, 150])):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        container[key] = deep
    elif way == 3 and isinstance(container[key], str):
        text = container[key]
        position = random.randrange(len(text) + 1)
        container[key] = (
            text[:position] + random.choice(["\u0000", "\u202e", "'; DROP TABLE runs; --", "../"]) + text[position:]
        )
    else:
        container[key] = deepcopy(random.choice(ODD))
