"""The start of the command line. Until the signals are handled, it imports next to nothing."""

from __future__ import annotations

from boneage.training.stop_signals import ended_by_signals


def main() -> None:
    """Run the command line.

    | exit code | meaning |
    |---|---|
    | 0 | done |
    | 1 | `stress`: a gate is failed |
    | 2 | the input is wrong, or a check failed; the messages say what to do |
    | 3 | `predict`: an image is refused |
    | 129, 130, 143 | ended by SIGHUP (a closed terminal), by Ctrl-C, by SIGTERM |
    | 141 | nobody reads the output |
    """
    with ended_by_signals():
        from boneage.cli.app import run

        run()
