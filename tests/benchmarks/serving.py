"""Many clients at once: throughput against one at a time, whether every answer is right, and the memory.

python -m tests.benchmarks.serving --clients 64 --minutes 2

The server is `open-musiclm serve` with the model in the box, a process of its own. First one client asks for one piece after another; then many ask at
once for the given time, some of them slowly (they read a byte now and then), some of whom leave, some of whom ask for what
there is not. Each piece is held against the same one made alone. A client that is told to come back does so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection

#: what is asked for: prompts and seeds, of one length
PROMPTS = ("a calm piano melody", "fast drums", "a bright organ", "strings in a major key")
NUM_SEEDS = 4
WRONG = (
    b"{",
    b'{"input": ""}',
    b'{"input": "x", "duration": 1e9}',
    b'{"input": 3}',
    b"\xff\x00",
    b'{"input": "x", "seed": -1}',
)
REFUSALS = {400, 422, 429}


@dataclass
class Tally:
    """What came back, by kind."""

    counts: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, seconds: float | None = None) -> None:
        with self.lock:
            self.counts[kind] += 1
            if seconds is not None:
                self.seconds.append(seconds)


class Clients:
    """Of one server.

    Args:
        port: its own.
        duration: of each piece, in seconds.
        expected: hash of each piece made alone, by (prompt, seed).
    """

    def __init__(self, port: int, duration: float, expected: dict[tuple[str, int], str]):
        self.port, self.duration, self.expected = port, duration, expected
        self.tally = Tally()

    def body(self, prompt: str, seed: int) -> bytes:
        return json.dumps({"input": prompt, "seed": seed, "duration": self.duration}).encode()

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def alone(self, keys: list[tuple[str, int]]) -> float:
        """One after another: fills `expected`; seconds of sound a second."""
        started = time.perf_counter()
        for key in keys:
            status, _, sound = self.ask(self.body(*key))
            assert status == 200, sound
            self.expected[key] = hashlib.sha256(sound).hexdigest()
        return self.duration * len(keys) / (time.perf_counter() - started)

    def client(self, number: int, until: float) -> None:
        """One of many: most ask and wait, some read slowly, some leave, some ask for what there is not."""
        drawn = random.Random(number)
        while time.perf_counter() < until:
            kind = (
                "leaves"
                if number % 16 == 0
                else "wrong"
                if number % 16 == 1
                else "slow"
                if number % 16 == 2
                else "asks"
            )
            key = drawn.choice(PROMPTS), drawn.randrange(NUM_SEEDS)
            try:
                if kind == "leaves":
                    self.leave(self.body(*key), drawn.uniform(0.05, 3.0))
                elif kind == "wrong":
                    status, _, told = self.ask(drawn.choice(WRONG))
                    self.tally.add(
                        "refused politely" if status in REFUSALS and b"message" in told else f"WRONG: {status}"
                    )
                    time.sleep(0.2)
                elif kind == "slow":
                    self.check(key, *self.slowly(self.body(*key)), kind)
                else:
                    started = time.perf_counter()
                    self.check(key, *self.ask(self.body(*key)), kind, started)
            except OSError as error:
                self.tally.add(f"LOST: {error!r}")

    def check(
        self,
        key: tuple[str, int],
        status: int,
        headers: dict[str, str],
        sound: bytes,
        kind: str,
        started: float | None = None,
    ) -> None:
        if status == 429:
            self.tally.add("told to come back")
            time.sleep(min(float(headers.get("retry-after", headers.get("Retry-After", 1))), 3.0))
        elif status != 200:
            self.tally.add(f"WRONG: {status}")
        elif hashlib.sha256(sound).hexdigest() == self.expected[key]:
            self.tally.add(f"right ({kind})", None if started is None else time.perf_counter() - started)
        else:
            self.tally.add("WRONG: other bytes")

    def open(self, body: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=300)
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def leave(self, body: bytes, seconds: float) -> None:
        with self.open(body):
            time.sleep(seconds)
        self.tally.add("left")

    def slowly(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """A few bytes at a time, with pauses."""
        with self.open(body) as connection:
            told = b""
            while part := connection.recv(16384):
                told += part
                time.sleep(0.05)
        head, _, sound = told.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), headers, sound


def memory(process: int) -> float:
    """Resident, in MB."""
    with open(f"/proc/{process}/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--duration", type=float, default=4.0, help="seconds of each piece")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--queue", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    import torch

    from .machine import describe, table

    print(describe(torch.device(args.device)))
    command = [sys.executable, "-m", "open_musiclm", "serve", "--port", "0", "--device", args.device]
    command += ["--rows", str(args.rows), "--queue", str(args.queue)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline().split("/docs")[0].rpartition(":")[2])

    clients = Clients(port, args.duration, {})
    keys = [(prompt, seed) for prompt in PROMPTS for seed in range(NUM_SEEDS)]
    clients.alone(keys[:2])  # first calls
    one = clients.alone(keys)
    before, started = memory(server.pid), time.perf_counter()
    until = started + 60 * args.minutes
    threads = [threading.Thread(target=clients.client, args=(number, until)) for number in range(args.clients)]
    for each in threads:
        each.start()
    seen = []
    while any(each.is_alive() for each in threads):
        time.sleep(5)
        seen.append(memory(server.pid))
    elapsed = time.perf_counter() - started
    counts = clients.tally.counts
    right = sum(number for kind, number in counts.items() if kind.startswith("right"))
    many = right * args.duration / elapsed
    waits = sorted(clients.tally.seconds)
    half = len(seen) // 2

    rows = [["one at a time", f"{one:.1f}", "1.0", ""]]
    wait = f"{waits[len(waits) // 2]:.1f}, {waits[int(0.95 * len(waits))]:.1f}" if waits else ""
    rows.append([f"{args.clients} clients", f"{many:.1f}", f"{many / one:.1f}", wait])
    print(f"pieces of {args.duration:g} s, batches of up to {args.rows} rows, {elapsed:.0f} s")
    print("\n".join(table(["", "s of sound a second", "times", "wait: median, 95 % (s)"], rows)))
    print("answers: " + ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())))
    bad = {kind: number for kind, number in counts.items() if kind.startswith(("WRONG", "LOST"))}
    print("every answer was right or a polite refusal, none was lost" if not bad else f"NOT RIGHT: {bad}")
    if seen:
        first, second = max(seen[: half or 1]), max(seen[half:])
        print(
            f"memory: {before:.0f} MB before, at most {first:.0f} MB in the first half, {second:.0f} MB in the second"
        )
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
