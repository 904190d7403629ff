"""Who may come in and how much they may bring."""

import base64
import binascii
import hmac
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from PIL import Image

from omni2.audio import Wave, to_waveform
from omni2.errors import InputError
from omni2.serve.problems import Problem, too_many
from omni2.serve.settings import Settings
from omni2.vision import load_picture

MINUTE = 60.0  # seconds
KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser, which cannot set headers, hands a WebSocket its key


def authorised(
    headers: Mapping[str, str], query: Mapping[str, str], subprotocols: Iterable[str], settings: Settings
) -> bool:
    """Whether one of the places for a key holds the right one: the Authorization header, `?api_key=`, a subprotocol."""
    if not settings.api_key:
        return True
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = [token.strip()] if scheme.lower() == "bearer" else []
    given += [query.get("api_key", "")]
    given += [name.removeprefix(KEY_PROTOCOL) for name in subprotocols if name.startswith(KEY_PROTOCOL)]
    return any(hmac.compare_digest(key.encode(), settings.api_key.encode()) for key in given)


def origin_allowed(origin: str | None, host: str | None, settings: Settings) -> bool:
    """Whether a page at `origin` may open a WebSocket to `host`; who sends no origin is no browser and may."""
    if origin is None or "*" in settings.origins:
        return True
    return origin in (f"http://{host}", f"https://{host}", *settings.origins)


def from_base64(text: str, param: str) -> bytes:
    """The bytes of strict base64; Problem 422 for anything else.  `param` is the field's name."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid_request_error", "invalid_base64", f"{param} is not base64", param) from error


def sound(data: bytes, settings: Settings) -> Wave:
    """Decode a sound file to (samples,) float32 at 16 kHz.  Raises InputError; slow: not for the event loop."""
    return to_waveform(data, max_seconds=settings.max_audio_seconds)


def picture(data: bytes, settings: Settings) -> Image.Image:
    """Decode a picture file to RGB.  Raises InputError; slow: not for the event loop."""
    decoded = load_picture(data)
    if decoded.width * decoded.height > settings.max_pixels:
        raise InputError(f"the picture has more than {settings.max_pixels:,} pixels; make it smaller")
    return decoded


class Rates:
    """Counts each key's requests of the running minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._until = 0.0  # the minute's end
        self._counts: Counter[str] = Counter()

    def take(self, key: str) -> None:
        """Count one request of `key`.  Raises Problem 429 above `limit` a minute; 0 is no limit."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + MINUTE
            self._counts.clear()
        self._counts[key] += 1
        if 0 < self.limit < self._counts[key]:
            raise too_many(self.limit, math.ceil(self._until - now))
