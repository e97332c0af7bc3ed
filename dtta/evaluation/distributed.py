"""The processes, on one machine or several, that one command was started as, and how they share its work.

    accelerate launch --num_processes 8 -m dtta evaluate ... --out rows     one for each GPU
    torchrun --nproc-per-node 2 -m dtta evaluate ... --out rows             the same without GPUs

Nobody owns a part of the work: each process draws the next piece when it is free, so that a slow one holds up nobody.
They agree by a counter that the first process keeps (torch's ``TCPStore``), and write to a folder that all of them see.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread

LONG = timedelta(days=365)  # a process may work on one stream for days
BEAT = 5  # seconds between two signs of life
SILENT = 300  # seconds without any, after which a process is taken for dead; loading a checkpoint can stop it for some


class RankError(RuntimeError):
    """Another of the processes has stopped. The sentence says which one and why."""


class Ranks:
    """All processes of one command; made by ``join``.

    Attributes:
        rank: the number of this one.
        count: how many there are.
    """

    def __init__(self):
        from accelerate import PartialState  # slow to import, and only needed here
        from accelerate.utils import broadcast_object_list
        from accelerate.utils.environment import parse_flag_from_env
        from torch.cuda import is_available
        from torch.distributed import TCPStore

        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not is_available())
        self.rank, self.count, self._round = state.process_index, state.num_processes, 0
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        options = dict(world_size=None, timeout=LONG, wait_for_workers=False)
        if self.first:
            self._store = TCPStore(host, 0, is_master=True, **options)
        (port,) = broadcast_object_list([self._store.port if self.first else None])
        if not self.first:
            self._store = TCPStore(host, port, is_master=False, **options)
        self._heard: dict[int, tuple[int, float]] = {}
        self._over = Event()
        self._heart = Thread(target=self._beat, daemon=True)
        self._heart.start()

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, merges and prints."""
        return self.rank == 0

    def share(self, make: Callable[[], object]) -> object:
        """What the first process makes, for all of them; it must be such as JSON can hold.

        Raises:
            RankError: making it failed. In the first process: what it failed with.
        """
        self._round += 1
        if self.first:
            with self.failing():
                told = json.dumps(make())
            self._ask(lambda store: store.set(f"{self._round}/told", told))
        else:
            self.wait(lambda: self._ask(lambda store: store.check([f"{self._round}/told"])))
        return json.loads(self._ask(lambda store: store.get(f"{self._round}/told")))

    def draw(self) -> int:
        """A number, counted from 0, that no other process has drawn since the last ``share``."""
        return self.add("drawn") - 1

    def add(self, name: str, amount: int = 1) -> int:
        """Count something that all processes count since the last ``share``; returns the sum."""
        self._check()
        return self._ask(lambda store: store.add(f"{self._round}/{name}", amount))

    def wait(self, ready: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until something is so, however long the others take.

        Raises:
            RankError: another process has failed, or gives no sign of life any more.
        """
        next_look = 0.0
        while not ready():
            meanwhile()
            self._check()
            if time.monotonic() > next_look:
                self._listen()
                next_look = time.monotonic() + BEAT
            time.sleep(0.02)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """An error inside is told to the other processes, which then stop too."""
        try:
            yield
        except RankError:
            raise
        except BaseException as error:
            sentence = f"process {self.rank} has stopped: {error or type(error).__name__}"
            self._ask(lambda store: store.set("failed", sentence))
            raise

    def leave(self) -> None:
        """At the end: the first process keeps the counter until nobody needs it any more."""
        self._over.set()
        self._heart.join()  # a thread that is still asking as the interpreter ends would bring it down
        with suppress(RankError):  # who leaves last may find the door open
            self._ask(lambda store: store.add("left", 1))
        if self.first:
            deadline = time.monotonic() + 10  # one that was killed never says so
            while self._ask(lambda store: store.add("left", 0)) < self.count and time.monotonic() < deadline:
                time.sleep(0.02)

    def _beat(self) -> None:
        with suppress(RankError):
            while not self._over.wait(BEAT):
                self._ask(lambda store: store.add(f"alive/{self.rank}", 1))

    def _listen(self) -> None:
        """Launchers stop all processes with the first that dies. Where there was none, nobody tells."""
        now = time.monotonic()
        for rank in range(self.count):
            beats = self._ask(lambda store, rank=rank: store.add(f"alive/{rank}", 0))
            if self._heard.get(rank, (None, 0))[0] != beats:
                self._heard[rank] = (beats, now)
            elif now - self._heard[rank][1] > SILENT:
                silent = f"process {rank} has given no sign of life for {SILENT} seconds"
                raise RankError(f"{silent}; all rows are kept: give the same command again, and it goes on")

    def _check(self) -> None:
        if self._ask(lambda store: store.check(["failed"])):
            raise RankError(self._ask(lambda store: store.get("failed")).decode())

    def _ask(self, question: Callable):
        try:
            return question(self._store)
        except RuntimeError as error:  # torch's errors of connection are of this kind
            raise RankError("the first process is gone; give the same command again, and it goes on") from error


def join() -> Ranks | None:
    """The processes that this one was started with by ``accelerate launch`` or ``torchrun``; None: it is alone."""
    return Ranks() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
