"""A study from the command line: lay it out or go on with it, serve the page, write the results."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import MissingExtraError, OutputError
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.runs.output_folder import OutputFolder, check_output_folder
from odin_rm.serve.http import address_of, listen
from odin_rm.serve.study.config import DESIGN, StudyConfig
from odin_rm.serve.study.design import Study, lay_out
from odin_rm.serve.study.results import annotation_rows, study_results
from odin_rm.serve.study.store import FILE, StudyStore

ANNOTATIONS, RESULTS = "annotations.json", "study.json"

_SECONDS_TO_FINISH = 5


def open_study(config: StudyConfig) -> StudyStore:
    """The study in the output folder: the one that is there, or a new one.

    Raises:
        OdinError: unusable outputs, or a folder that holds a study of other outputs, of another design, or another run.
    """
    folder = check_output_folder(str(config.output), "study", resume=True)
    if (folder / FILE).exists():
        OutputFolder(folder, "study").tidy()
        store = StudyStore(folder)
        # The sample is drawn anew to compare it, which also refuses files that are not fit for it any more.
        _check_same(folder, store.study, lay_out(config, store.study.secret))
        return store
    study = lay_out(config, secrets.token_hex(16))
    with OutputFolder(folder, "study") as output:
        output.claim(resume=True)
        settings = {name: value for name, value in asdict(config).items() if name not in ("token", "results")}
        atomic_write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        atomic_write_json(folder / "environment.json", environment_record())
        return StudyStore.create(folder, study)  # last: where it is, the study is whole


def _check_same(folder: Path, there: Study, here: Study) -> None:
    for side in ("a", "b"):
        old, new = getattr(there, side), getattr(here, side)
        if old["sha256"] != new["sha256"]:
            what = f"the folder holds a study of other outputs of --{side} ({old['generator']}, {old['file']})"
            raise OutputError(what, where=str(folder), fix="Give the same files, or choose another folder.")
    for name in DESIGN:
        if there.settings[name] != here.settings[name]:
            what = f"the folder holds a study with {name} {there.settings[name]!r}, not {here.settings[name]!r}"
            raise OutputError(what, where=str(folder), fix="Give the same settings, or choose another folder.")


def serve(config: StudyConfig, ready: Callable[[StudyStore, str], None]) -> StudyStore:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        config: the settings.
        ready: is called with the study and the page's address before the first request is taken.

    Returns:
        The study, for its results.

    Raises:
        OdinError: what :func:`open_study` refuses, no such address, a port in use.
    """
    try:
        import uvicorn

        from odin_rm.serve.study.app import LOCAL_HOSTS, make_app
        from odin_rm.serve.study.server import server_settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "study") from error
    with listen(config.host, config.port) as listener:
        store = open_study(config)
        hosts = [*LOCAL_HOSTS, config.host] if config.token is None else None
        app = make_app(store, question=config.question, token=config.token, hosts=hosts)
        settings = server_settings(app, timeout_graceful_shutdown=_SECONDS_TO_FINISH)
        ready(store, f"{address_of(config.host, listener)}/")
        # Ctrl-C is the way a study ends; uvicorn raises it again after it has finished what was under way.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listener])
    return store


def write_results(store: StudyStore, *, samples: int) -> dict[str, Any]:
    """Write ``annotations.json`` and ``study.json`` beside the study.

    Returns:
        The content of ``study.json``.

    Raises:
        DataError: there is no rating yet.
    """
    ratings = store.ratings()
    content = study_results(store.study, ratings, samples=samples)
    atomic_write_json(store.path.parent / ANNOTATIONS, annotation_rows(store.study, ratings))
    atomic_write_json(store.path.parent / RESULTS, content)
    return content
