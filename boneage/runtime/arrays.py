"""What numpy raises for a damaged `.npy` or `.npz` file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib

ARRAY_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, OverflowError),
    *(SyntaxError, tokenize.TokenError),  # of a header, which is Python text
    *(zipfile.BadZipFile, zlib.error, RuntimeError),
)
