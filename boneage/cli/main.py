"""The start of the command line. Until the signals are handled, it imports next to nothing."""

from __future__ import annotations

from boneage.training.stop_signals import ended_by_signals


def main() -> None:
    """Run the command line.

    Exit code 0: done, 2: invalid input, 130: interrupted by Ctrl-C, 141: nobody reads the output,
    143: terminated.
    """
    with ended_by_signals():
        from boneage.cli.app import run

        run()
