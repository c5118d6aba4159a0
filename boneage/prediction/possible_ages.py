"""Check that the answers of a network can be bone ages.

Labels are bone ages from 0 to 240 months. The answer for a newborn may be a little below 0, because
every answer has an error. Such an answer becomes the nearest possible age. An answer further off
means that the network is damaged, untrained or another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault

MAX_AGE_MONTHS = 240.0
MARGIN_MONTHS = 12.0
"""How far an answer may be outside the possible ages. Good models have an MAE of 4 to 8 months."""


def limit_answers(months: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return answers, with the nearest possible age in place of one up to a year outside.

    Args:
        months: float64 (n,), the answers of a network.

    Returns:
        float64 (n,). Answers further off are unchanged; see `possible_answers`.
    """
    limited = np.clip(months, 0.0, MAX_AGE_MONTHS)
    return np.where(np.abs(months - limited) <= MARGIN_MONTHS, limited, months)


def possible_answers(months: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return for each answer whether it is a bone age from 0 to 240 months; False for NaN."""
    return np.asarray((months >= 0) & (months <= MAX_AGE_MONTHS))


def answer_faults(images: Sequence[str], months: npt.NDArray[np.float64]) -> list[Fault]:
    """Return one fault for each image whose answer is no possible bone age.

    Args:
        images: The path or the image_id of each image.
        months: float64 (n,), limited by `limit_answers`.
    """
    return [
        Fault(
            images[row],
            f"the model answers {months[row]:.4g} months, which is no bone age",
            "Check the radiograph. If others have such answers too, the model is damaged, "
            "untrained or another one.",
            expected=f"0 to {MAX_AGE_MONTHS:g} months",
        )
        for row in np.flatnonzero(~possible_answers(months)).tolist()
    ]
