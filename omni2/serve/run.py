"""A server's life: load the model, listen, answer, and on SIGTERM or Ctrl-C let running answers finish."""

import asyncio
import logging.config
import os
import socket
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI

from omni2.config import ROWS
from omni2.errors import InputError
from omni2.omni import OmniModel
from omni2.precision import as_weights
from omni2.serve.app import create_app
from omni2.serve.desk import Desk
from omni2.serve.logs import LOGGING, logger
from omni2.serve.settings import Settings

CLOSING_SECONDS = 5  # for the last bytes of answers, once all seats are empty


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises OSError for an address that cannot be had, InputError for a device, CheckpointError for the model.
    """
    logging.config.dictConfig(LOGGING)
    with _bound(host, port) as listener:  # before the model is loaded, so that a taken port is known at once
        app = create_app(load_model(settings), settings)
        Server(app).run([listener])
    logger.info("stopped")


def load_model(settings: Settings) -> OmniModel:
    """The model that `settings` name, with rows for as many answers as there are seats.

    Torch is kept from the event loop's core.  Raises InputError for a device that is not there, CheckpointError.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
    try:
        return OmniModel.from_pretrained(
            settings.model,
            device=settings.device,
            slots=ROWS * settings.max_sessions,
            weights=as_weights(settings.weights),
        )
    except RuntimeError as error:  # torch's words for a device that is not there
        raise InputError(f"cannot use the device {settings.device!r}: {str(error).splitlines()[0]}") from error


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address, but does not listen before the model is there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """Drains before it closes: told to stop, it refuses new work in words until the running answers are finished.

    A second signal ends the waiting.  It exits with status 0, where uvicorn would die of the signal itself.
    """

    def __init__(self, app: FastAPI) -> None:
        self.desk: Desk = app.state.desk
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws_max_size=self.desk.settings.max_body,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.desk.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True

    async def main_loop(self) -> None:
        for server in self.servers:
            host, port = server.sockets[0].getsockname()[:2]
            logger.info("listening at http://%s:%d", f"[{host}]" if ":" in host else host, port)
        await super().main_loop()
        logger.info("draining")
        drained = asyncio.ensure_future(self.desk.drain())
        while not drained.done() and not self.force_exit:
            await asyncio.wait({drained}, timeout=0.1)
        drained.cancel()
