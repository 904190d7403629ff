"""What an operator can choose, from the environment or the command line; every limit of the server stands here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from omni2.errors import InputError

PREFIX = "OMNI2_"
LISTS = ("origins",)


@dataclass(frozen=True)
class Settings:
    """Limits and switches; each is read from `OMNI2_<NAME>` by `from_environment`.

    `origins` are the web pages' addresses whose WebSockets are let in besides the server's own; "*" lets in all.
    """

    model: str = "nano"
    device: str = "cpu"
    weights: str = "auto"  # float32, bfloat16 or int8; auto is the fastest that the device has
    api_key: str = ""  # empty: no authentication
    origins: tuple[str, ...] = ()
    max_sessions: int = 8  # answers decoded at once
    realtime: int = 1  # 0 lets in as many as there are seats, though all answers fall behind real time
    max_queue: int = 16  # requests that wait for a seat
    max_connections: int = 64  # open realtime connections; likewise requests under way
    queue_seconds: float = 10.0  # longest wait for a seat
    max_body: int = 32 * 2**20  # bytes
    max_audio_seconds: float = 30.0
    max_pixels: int = 50_000_000
    idle_seconds: float = 300.0  # a realtime connection without an event
    stall_seconds: float = 30.0  # a client that neither sends its request nor reads its answer
    total_seconds: float = 3600.0  # a realtime connection or a request in all
    rate: int = 0  # requests a minute and key (or address without keys); 0: no limit
    drain_seconds: float = 20.0  # for running answers after SIGTERM

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: object) -> "Settings":
        """Defaults, then `OMNI2_*` variables, then what is `given` and not None.

        Raises InputError for a value that does not fit.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for field in fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is None:
                continue
            default = getattr(cls, field.name)
            try:
                values[field.name] = tuple(text.split(",")) if field.name in LISTS else type(default)(text)
            except ValueError as error:
                kind = type(default).__name__
                raise InputError(f"{PREFIX}{field.name.upper()} is a {kind}, not {text!r}") from error
        return cls(**(values | {name: value for name, value in given.items() if value is not None}))  # type: ignore[arg-type]
