"""Every failure as OpenAI's clients expect it: a status and `{"error": {"type", "code", "message", "param"}}`."""

from dataclasses import dataclass

from omni2.errors import AbilityError, BusyError, ContextLengthError, InputError, OmniError

RETRY_AFTER = 1  # seconds that a client told "busy" should wait


@dataclass(eq=False)
class Problem(OmniError):
    """A failure with its HTTP status; `kind` and `code` are the error object's "type" and "code"."""

    status: int
    kind: str
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object of the reply."""
        error = {"type": self.kind, "code": self.code, "message": self.message, "param": self.param}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def too_large(what: str, limit: str) -> Problem:
    """413: more bytes than the server takes."""
    return Problem(413, "invalid_request_error", "too_large", f"{what} is larger than {limit}; send less")


def busy(why: str = "all seats are taken") -> Problem:
    """503: come back later."""
    return Problem(503, "server_error", "server_busy", f"{why}; try again later", retry_after=RETRY_AFTER)


def unauthorised() -> Problem:
    """401: no key or a wrong one."""
    message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
    return Problem(401, "authentication_error", "invalid_api_key", message)


def too_slow() -> Problem:
    """408: the client took too long."""
    return Problem(408, "invalid_request_error", "timeout", "the request took too long to arrive or to be answered")


def too_many(limit: int, seconds: int) -> Problem:
    """429: over the rate; `seconds` until the next request is let in."""
    message = f"more than {limit} requests a minute; wait {seconds} s"
    return Problem(429, "rate_limit_error", "rate_limit_exceeded", message, retry_after=seconds)


def as_problem(error: BaseException) -> Problem:
    """The `Problem` of any error; what nobody expected becomes a 500 that tells nothing of its inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BusyError):
        return busy(str(error))
    if isinstance(error, ContextLengthError):
        return Problem(422, "invalid_request_error", "context_length_exceeded", str(error))
    if isinstance(error, InputError):
        return Problem(422, "invalid_request_error", "invalid_input", str(error))
    if isinstance(error, AbilityError):
        return Problem(422, "invalid_request_error", "unsupported", str(error))
    return Problem(500, "server_error", "internal_error", "the server failed; its log has the request's id")
