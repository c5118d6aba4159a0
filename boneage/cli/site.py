"""`boneage site`: the page as static files, with the model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import ViewsOption, echo
from boneage.runtime.files import check_new_folder

DEFAULT_RUN = "rsna-best"

OutArgument = Annotated[Path, typer.Argument(help="Folder to make.")]
RunArgument = Annotated[Path, typer.Argument(help="The model: a run folder, or a shipped model.")]
PackagesOption = Annotated[
    Path | None,
    typer.Option(help="Folder with the archives of npm. Default: npm fetches them."),
]


def site(
    out: OutArgument,
    run: RunArgument = Path(DEFAULT_RUN),
    views: ViewsOption = None,
    packages: PackagesOption = None,
) -> None:
    """Write the page as a folder for any web server; the model runs in the browser.

    Research use only. Do not use the answer for diagnosis.

    The radiograph never leaves the computer. After the first visit, the page works without a
    network. It reads PNG and JPEG, and has no heat map. ONNX Runtime and OpenCV come from npm, in
    fixed versions whose checksums are compared. The browser frames like rsna-best only.

    Exit code 0: written. 2: the model is of another kind, or a package can't be fetched.
    """
    check_new_folder(out)
    from boneage.prediction.shipped import open_run
    from boneage.serving.site import write_site

    write_site(out, open_run(run), views=views, packages=packages)
    echo(f"{out}: offer this folder at any address. For a try: python -m http.server -d {out}")
