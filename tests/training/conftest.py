from __future__ import annotations

from collections.abc import Callable

import pytest


class Killed(BaseException):
    """Stands for a kill. Nothing in the project catches it."""


def kill() -> None:
    raise Killed


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Train, and do something at a moment: a method of `RunRecorder`, an epoch and a batch."""
    from boneage.training.recorder import RunRecorder
    from boneage.training.trainer import train

    def train_until(
        moment: str,
        epoch: int,
        number: int,
        *arguments: object,
        then: Callable[[], None] = kill,
        error: type[BaseException] = Killed,
        **options: object,
    ) -> None:
        own = getattr(RunRecorder, moment)

        def method(self: RunRecorder, batch_or_epoch: int, logs: object = None) -> None:
            if (self.state.epoch, batch_or_epoch) == (epoch, number):
                then()
            own(self, batch_or_epoch, logs)

        with monkeypatch.context() as patch:
            patch.setattr(RunRecorder, moment, method)
            with pytest.raises(error):
                train(*arguments, progress=False, **options)

    return train_until
