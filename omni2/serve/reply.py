"""Streamed replies whose errors, as long as no byte is sent, are still HTTP errors."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class StreamedReply(StreamingResponse):
    """Sends the pieces that `body` makes, and closes it in every case: the seat it holds is given back."""

    def __init__(self, first: bytes | None, body: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(_chain(first, body), media_type=media_type)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._body):
            await super().__call__(scope, receive, send)


async def _chain(first: bytes | None, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if first is not None:
        yield first
    async for piece in body:
        yield piece


async def streamed(body: AsyncGenerator[bytes, None], media_type: str) -> StreamedReply:
    """The reply made of `body`.  Its first piece is awaited here, so what fails before it is raised here."""
    return StreamedReply(await anext(body, None), body, media_type)
