"""What every test runs under."""

from __future__ import annotations

import os

from hypothesis import settings

# Read by TensorFlow when it is first imported: its greeting would drown the tests' own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The same examples on every machine and every day, however slow the machine is; nothing on disk.
settings.register_profile("same-everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("same-everywhere")
