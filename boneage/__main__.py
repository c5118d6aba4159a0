"""`python -m boneage` is the command `boneage`."""

from __future__ import annotations

from boneage.cli.main import main

if __name__ == "__main__":
    main()
