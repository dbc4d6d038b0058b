"""A stream of messages inside a connection, in both directions, each with its own credit.

What may be on its way, or wait for the reader at the other end, is limited by the window that the reading end grants;
it grants more as its reader takes messages. So a slow reader stops its own sender and nobody else.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from nomadpy.model.errors import Invalid, Unavailable
from nomadpy.rpc.frames import PIECE_BYTES, PIECE_COST, Cancel, Credit, Data, End, Failure, pack
from nomadpy.rpc.handlers import StreamEnded, to_error


class Carrier(Protocol):
    """What a stream needs from its connection."""

    def put(self, frame: bytes) -> None:
        """Sends a short frame soon."""

    def put_in_turn(self, ident: int, frames: list[bytes]) -> None:
        """Sends frames behind those with the same id."""


class MessageStream:
    """One end of a stream. One task may receive and any number may send."""

    def __init__(self, ident: int, carrier: Carrier, *, window: int, credit: int, message_bytes: int) -> None:
        self.ident = ident
        self._carrier = carrier
        self._window, self._message_bytes = window, message_bytes
        self._credit = self._credit_max = credit
        self._inbox: deque[Data] = deque()
        self._inbox_bytes = 0
        self._consumed = 0
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._changed: trio.Event | None = None
        self._granted: trio.Event | None = None
        self._sending = trio.Lock()
        self._torn = False
        self._failure: Failure | None = None
        self._peer_ended = False
        self.ended = False
        self.finished = False
        """Whether the other end is through with the stream: it returned, failed or was lost."""

    # ------------------------------------------------------------------ for those who talk

    async def send(self, data: bytes) -> None:
        """Sends one message; waits while the reader at the other end is behind. Raises StreamEnded when nobody reads
        it, or the error with which the other end gave up."""
        if len(data) > self._message_bytes:
            raise Invalid(f"a message of {len(data)} bytes; a stream carries at most {self._message_bytes}")
        async with self._sending:
            at, size = 0, len(data)
            try:
                while True:
                    await self._wait_for_credit(size - at)
                    end = min(size, at + PIECE_BYTES, at + self._credit - PIECE_COST)
                    self._credit -= end - at + PIECE_COST
                    piece = data if end - at == size else data[at:end]
                    self._carrier.put_in_turn(self.ident, [pack(Data(self.ident, piece, last=end == size))])
                    at = end
                    if at == size:
                        return
            finally:
                # Half a message cannot be taken back, and nothing behind it would be understood.
                self._torn = self._torn or 0 < at < size

    async def receive(self) -> bytes | None:
        """The next message, None once the other end has sent its last one. Raises the NomadError with which the other
        end gave up, Unavailable when the connection was lost."""
        await trio.lowlevel.checkpoint()
        while True:
            while self._inbox:
                message = self._take_piece(self._inbox.popleft())
                if message is not None:
                    return message
            if self._failure is not None:
                raise to_error(self._failure)
            if self._peer_ended:
                return None
            self._changed = trio.Event()
            await self._changed.wait()

    async def end(self) -> None:
        """Says that no message follows; receiving goes on."""
        await trio.lowlevel.checkpoint()
        self.end_now(final=False)

    # ------------------------------------------------------------------ for the connection

    def end_now(self, *, final: bool) -> None:
        """``end`` without waiting; ``final`` when nobody receives at this end any more."""
        if self._torn:
            self._carrier.put_in_turn(self.ident, [pack(Failure(self.ident, Unavailable.code, 500, "cut off"))])
        elif final or not self.ended:
            self._carrier.put_in_turn(self.ident, [pack(End(self.ident, final))])
        self.ended = True

    def abandon(self) -> None:
        """Tells the other end that nobody is interested any more."""
        self._carrier.put(pack(Cancel(self.ident)))

    def take_data(self, frame: Data) -> None:
        """Takes a piece that arrived. Raises Invalid when the other end had no credit for it."""
        self._inbox_bytes += len(frame.data) + PIECE_COST
        if self._inbox_bytes + self._consumed > self._window or self._peer_ended:
            raise Invalid("a piece of a stream came without credit or after the end")
        self._inbox.append(frame)
        self._notify()

    def take_credit(self, n_bytes: int) -> None:
        """Allows more to be sent."""
        self._credit = min(self._credit + n_bytes, self._credit_max)
        self._notify_sender()

    def take_end(self, *, final: bool) -> None:
        """The other end sends no more; with ``final`` it does not read either."""
        self._peer_ended = True
        self.finished = self.finished or final
        self._notify()
        self._notify_sender()

    def fail(self, failure: Failure) -> None:
        """The other end gave up, or the connection was lost. What arrived before can still be received."""
        self._failure = self._failure or failure
        self.finished = True
        self._notify()
        self._notify_sender()

    # ------------------------------------------------------------------ inside

    async def _wait_for_credit(self, size: int) -> None:
        # Crumbs are not worth a frame.
        wanted = PIECE_COST + min(size, 1024)
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise to_error(self._failure)
            if self.finished or self.ended:
                raise StreamEnded("the stream has ended: nobody reads what is sent")
            if self._torn:
                raise StreamEnded("an earlier message of this stream was cut off")
            if self._credit >= wanted:
                return
            self._granted = self._granted or trio.Event()
            await self._granted.wait()

    def _take_piece(self, frame: Data) -> bytes | None:
        """The whole message once its last piece was taken."""
        cost = len(frame.data) + PIECE_COST
        self._inbox_bytes -= cost
        self._consumed += cost
        if self._consumed * 4 >= self._window and not self.finished:
            self._carrier.put(pack(Credit(self.ident, self._consumed)))
            self._consumed = 0
        if frame.last and not self._pieces:
            return frame.data
        self._pieces.append(frame.data)
        self._pieces_bytes += len(frame.data)
        if self._pieces_bytes > self._message_bytes:
            raise Invalid(f"a message of more than {self._message_bytes} bytes on a stream")
        if not frame.last:
            return None
        message = b"".join(self._pieces)
        self._pieces, self._pieces_bytes = [], 0
        return message

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _notify_sender(self) -> None:
        if self._granted is not None:
            self._granted.set()
            self._granted = None
