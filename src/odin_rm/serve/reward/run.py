"""A reward server from the command line: load the models, listen, serve until told to end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from odin_rm.core.errors import ConfigError, MissingExtraError
from odin_rm.core.signals import interruptible
from odin_rm.serve.http import LOCAL_NAMES, Limits, address_of, is_loopback, listen, read_key, server_settings
from odin_rm.serve.reward.config import TOKEN_VARIABLE, ServeConfig

if TYPE_CHECKING:
    from odin_rm.serve.reward.models import ServedModel

_KEEP_ALIVE_SECONDS = 75
_LAST_SECONDS = 0.5
_KEY_FILES_MODE = 0o077


def serve(config: ServeConfig, ready: Callable[[dict[str, ServedModel], str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; requests under way are finished.

    Args:
        config: the settings.
        ready: is called with the models and the address before the first request is taken.

    Raises:
        OdinError: a model that cannot be loaded, a port in use, no key where one is needed.
    """
    try:
        import uvicorn

        from odin_rm.serve.reward.app import Draining, Service, make_app
        from odin_rm.serve.reward.queue import QueueSettings
        from odin_rm.serve.reward.replicas import start_replicas
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    key = check_access(config)
    _check_tls(config)
    with listen(config.host, config.port) as listener:
        models, replicas = start_replicas(config, load_models)
        limits = Limits(
            body_bytes=int(config.max_body_mb * 2**20),
            pending_bytes=max(256 * 2**20, 2 * int(config.max_body_mb * 2**20)),
            header_seconds=config.header_seconds,
            body_seconds=config.body_seconds,
            connections=config.max_connections,
        ).within_descriptors()
        service = Service(
            models,
            QueueSettings(
                window=config.window_ms / 1000,
                batch_tokens=config.batch_tokens or config.microbatch_tokens,
                most_texts=config.max_waiting_texts,
                most_tokens=config.max_waiting_tokens,
                cache_size=config.cache_size,
            ),
            limits,
            most_texts=config.max_texts,
            score_seconds=config.score_seconds,
            key=key,
            hosts=(*LOCAL_NAMES, config.host) if key is None else None,
            log_requests=config.log_requests,
            replicas=tuple(replicas),
        )
        if config.log_requests:
            _log_to_stderr()
        draining = Draining()
        settings = server_settings(
            make_app(service, draining),
            limits,
            log_level="error",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
        ready(models, address_of(config.host, listener, tls=config.tls_cert is not None))

        class Server(uvicorn.Server):
            """Goes on taking requests for a moment when it is to end: those that are on their way already."""

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                draining.now = True
                await asyncio.sleep(_LAST_SECONDS)
                await super().shutdown(sockets)

        # Ctrl-C and SIGTERM are its ordinary end, which uvicorn raises again when it has finished.
        try:
            with interruptible(), suppress(KeyboardInterrupt):
                Server(settings).run(sockets=[listener])
        finally:
            for one in replicas:
                one.close()


def check_access(config: ServeConfig) -> str | None:
    """The key that callers must show.

    Raises:
        ConfigError: others can reach the server and there is no key, or its file can be read by everybody.
    """
    key = read_key(config.token_file, TOKEN_VARIABLE, os.environ)
    if config.token_file is not None and Path(config.token_file).stat().st_mode & _KEY_FILES_MODE:
        logging.getLogger("odin_rm.serve").warning("%s can be read by other users of this machine", config.token_file)
    if key is None and not is_loopback(config.host):
        fix = f"Pass --token_file FILE, or set {TOKEN_VARIABLE}, or leave --host at 127.0.0.1."
        raise ConfigError(f"{config.host} can be reached by others", where="--host", fix=fix)
    return key


def _check_tls(config: ServeConfig) -> None:
    if config.tls_cert is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        what = f"certificate or key cannot be used ({error.strerror or error})"
        raise ConfigError(what, where="--tls_cert", fix="Give PEM files of a certificate and its key.") from error


def load_models(config: ServeConfig) -> dict[str, ServedModel]:
    """The models by name, loaded and verified.

    Raises:
        OdinError: one cannot be loaded.
    """
    from odin_rm.model.scoring import load_scorer
    from odin_rm.serve.reward.models import served

    models = {}
    for name, path in config.models():
        scorer = load_scorer(
            path,
            column=config.column,
            dtype=config.dtype,
            device=config.device,
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            read_at=config.read_at,
            calibration=config.calibration,
        )
        scorer.batch_layout, scorer.tree_attention = config.batch_layout, config.tree_attention
        models[name] = served(
            name,
            path,
            scorer,
            max_length=config.max_length,
            overlong=config.overlong,
            microbatch_tokens=config.microbatch_tokens,
            free_text=config.free_text,
            attributes=config.measured(),
        )
        models[name].warm_up()
    return models


class _JsonLines(logging.Formatter):
    """A line of JSON for each record, so that a collector of logs can read it; a traceback is one of its fields."""

    def format(self, record: logging.LogRecord) -> str:
        said = record.getMessage()
        line = {"time": self.formatTime(record), "level": record.levelname}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        event = said if said.startswith("{") else json.dumps(said)
        return f'{json.dumps(line)[:-1]}, "event": {event}}}'


def _log_to_stderr() -> None:
    logger = logging.getLogger("odin_rm.serve")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines())
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
