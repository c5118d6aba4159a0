"""`boneage serve`: the page and the API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import PhasesOption, ViewsOption, echo, log, refuse
from boneage.cli.predict import AnywayOption, CalibrationOption, LevelOption, ReferenceOption

if TYPE_CHECKING:
    from boneage.serving.guard import Settings
    from boneage.serving.workers import Workers

DEFAULT_RUN = "rsna-best"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MOST_WORKERS = 4

RunsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Run folders, or names of shipped models; their answers are averaged. "
        f"Default: {DEFAULT_RUN}.",
    ),
]
HostOption = Annotated[str, typer.Option(help="Address to listen at.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port. 0 finds a free one.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="BONEAGE_TOKEN",
        show_envvar=True,
        help="Word that requests for answers must bring (Authorization: Bearer).",
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Let everybody ask who reaches the address.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes. Default: the cores, at most 4."),
]
TimeoutOption = Annotated[
    float, typer.Option(min=1, max=3600, metavar="SECONDS", help="Most time for an answer.")
]
UploadOption = Annotated[
    int, typer.Option("--max-upload-mb", min=1, max=256, help="Largest file, in MiB.")
]
QueueOption = Annotated[
    int, typer.Option(min=0, help="Requests that may wait. More get status 503.")
]


def serve(
    runs: RunsArgument = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    insecure: InsecureOption = False,
    workers: WorkersOption = None,
    timeout: TimeoutOption = 60.0,
    max_upload_mb: UploadOption = 64,
    queue: QueueOption = 64,
    level: LevelOption = None,
    anyway: AnywayOption = False,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    reference: ReferenceOption = None,
    calibration: CalibrationOption = None,
) -> None:
    """Answer for radiographs on a page in the browser, and over HTTP.

    Research use only. Do not use the answer for diagnosis.

    Nothing that is uploaded is stored. The page is at the address that the command prints, and
    the description of the API at /docs below it. On another address than this computer's own,
    the server needs a --token.

    SIGTERM and Ctrl-C end it when the requests in progress are answered, within 30 s.

    Exit code 0: ended by SIGTERM or Ctrl-C. 2: an option is wrong, or a model can't be read.
    """
    _check_options(token, level)
    from boneage.runtime.machine import check_workers
    from boneage.runtime.provenance import usable_cores
    from boneage.serving.guard import Settings
    from boneage.serving.workers import Workers

    if workers is not None:
        check_workers(workers, f"--workers {workers}")
    is_open = bool(token) or insecure
    settings = Settings(
        log=log,
        token=token,
        hosts=None if is_open else frozenset((*_LOOPBACK, host.lower())),
        largest_upload=max_upload_mb * 2**20,
    )
    with _bound(host, port, is_open=is_open) as listener:
        started = Workers(
            _model_options(runs, level, anyway, views, phases, reference, calibration),
            count=workers or min(_MOST_WORKERS, usable_cores()),
            queue=queue,
            seconds=timeout,
            log=log,
        )
        try:
            with _own_signals():
                asyncio.run(_serve(started, listener, host, settings))
        finally:
            started.end()


def _check_options(token: str | None, level: float | None) -> None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        refuse("--token", "it is empty, or not in ASCII", "Choose letters and digits.")
    if level is not None and not 0 < level < 1:
        refuse(f"--level {level:g}", "it is no share between 0 and 1", "Write 0.9 for 90 %.")
    for package in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)


def _model_options(
    runs: list[Path] | None,
    level: float | None,
    anyway: bool,
    views: int | None,
    phases: int | None,
    reference: Path | None,
    calibration: Path | None,
) -> dict[str, Any]:
    """Return the arguments of `load`, as a worker gets them."""
    return {
        "runs": [str(run) for run in runs or (Path(DEFAULT_RUN),)],
        "level": level,
        "anyway": anyway,
        "views": views,
        "phases": phases,
        "reference": None if reference is None else str(reference),
        "calibration": None if calibration is None else str(calibration),
    }


@contextlib.contextmanager
def _bound(host: str, port: int, *, is_open: bool) -> Iterator[socket.socket]:
    """Give a socket at an address, which does not listen yet.

    Raises:
        InputError: There is no such address, another program has it, or other computers could
            ask although the server is not open to them.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            if not (is_open or ip_address(address[0]).is_loopback):
                fix = "Give a --token, or --insecure if everybody who reaches it may ask."
                refuse(f"--host {host}", "other computers could ask this server", fix)
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            if os.name != "nt":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            what = f"the server can't listen there ({error.strerror or error})"
            refuse(f"--host {host} --port {port}", what, "Choose another --port or --host.")
        yield listener


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Leave the signals to the server: the command would end half a second after one."""
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


async def _serve(workers: Workers, listener: socket.socket, host: str, settings: Settings) -> None:
    """Wait for a worker, then answer until a signal comes."""
    from boneage.serving.app import create_app
    from boneage.serving.server import serve as listen

    app = create_app(workers, settings)
    try:
        await workers.start()
        for note in workers.description.get("notes", ()):
            log(f"note: {note}")
        port = listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        await listen(app, listener, lambda: echo(f"http://{name}:{port}/"))
    finally:
        await workers.stop()
