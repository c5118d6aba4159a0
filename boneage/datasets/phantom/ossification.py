"""When the ossification centres of the hand appear, widen and fuse: the phantom's clock.

All times are on one clock, the **boys' clock**: months of a boy of average maturation.
`maturity_months` converts an age and a sex to that clock, and every drawing depends on the clock
alone. So, as in life, one image means two ages, one for a girl and one for a boy, and the sex
carries information that the pixels do not.

The numbers are rounded from the sources. They draw a plausible hand with the right order and
spacing. They are no clinical standard: never read a child's hand with them.

Sources:
    Appearance: medians of Garn SM, Rohmann CG, Silverman FN. Radiographic standards for
        postnatal ossification and tooth calcification. Med Radiogr Photogr 1967;43:45-66. The
        carpal order of boys there is capitate, hamate, triquetral, lunate, scaphoid, trapezium,
        trapezoid; the pisiform follows at about 10 years in boys.
    Order, widening, capping and fusion: Greulich WW, Pyle SI. Radiographic Atlas of Skeletal
        Development of the Hand and Wrist, 2nd ed. Stanford 1959; Gilsanz V, Ratib O. Hand Bone
        Age. A Digital Atlas of Skeletal Maturity, 2nd ed. Springer 2012,
        doi:10.1007/978-3-642-23762-1 (fusion: distal phalanges, metacarpals, proximal phalanges,
        middle phalanges, at last ulna and radius); Tanner JM et al. Assessment of Skeletal
        Maturity and Prediction of Adult Height (TW2), 2nd ed. Academic Press 1983 (stages:
        epiphysis as wide as its shaft, capping, fusing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Sex = Literal["F", "M"]

OLDEST_LEAD_MONTHS = 24.0
LEAD_RISE_MONTHS = 30.0


def sex_lead_months(age_months: float) -> float:
    """Return how many months girls of this age are ahead of the boys' clock.

    `24 * (1 - exp(-age / 30))`: nothing at birth, 7 months at 10 months of age, 21 at 5 years,
    23.7 at 11 years, two years in the teens. The curve fits the differences between the boys' and
    girls' medians of Garn et al. (1967, see the module): distal radius 3 months, triquetral 8,
    lunate 18, scaphoid 19, trapezium 21, ulna 21, adductor sesamoid 24.

    Args:
        age_months: Age of a girl, months, 0 or more.

    Returns:
        The lead, months, 0 to 24.
    """
    return OLDEST_LEAD_MONTHS * (1.0 - math.exp(-age_months / LEAD_RISE_MONTHS))


def maturity_months(age_months: float, sex: Sex) -> float:
    """Return the boys' clock of a child of average maturation, which determines its image.

    Args:
        age_months: Age, months, 0 or more.
        sex: "F" or "M".

    Returns:
        The age for a boy; the age plus `sex_lead_months` for a girl. It rises with age.
    """
    return age_months + (sex_lead_months(age_months) if sex == "F" else 0.0)


@dataclass(frozen=True, slots=True)
class RoundBone:
    """A carpal bone or the sesamoid: appears as a dot and grows into its adult shape.

    Attributes:
        name: The bone.
        appears: First visible, months on the boys' clock.
        complete: Adult size and shape reached, months on the boys' clock.
    """

    name: str
    appears: float
    complete: float

    def growth(self, maturity: float) -> float:
        """Return the linear size as a share of the adult's, 0 (not visible) to 1."""
        if maturity < self.appears:
            return 0.0
        done = min((maturity - self.appears) / (self.complete - self.appears), 1.0)
        return 0.28 + 0.72 * math.pow(done, 0.65)


@dataclass(frozen=True, slots=True)
class Epiphysis:
    """The epiphysis of a tubular bone.

    Attributes:
        name: The bone it belongs to, such as `proximal-3` or `radius`.
        appears: First visible, months on the boys' clock.
        wide: As wide as its shaft (TW2 stages E to F), likewise.
        caps: Its edges bend over the shaft (TW2 stage G), likewise.
        fusing: The growth plate starts to be bridged (TW2 stage H), likewise.
        fused: Bridged over its whole width, only a scar left (TW2 stage I), likewise.
    """

    name: str
    appears: float
    wide: float
    caps: float
    fusing: float
    fused: float

    def width(self, maturity: float) -> float:
        """Return the width as a share of the shaft's end, 0 (not visible) to 1.06."""
        return _through(
            maturity, (self.appears, self.wide, self.caps, self.fused), (0.2, 0.94, 1.06, 1.0)
        )

    def thickness(self, maturity: float) -> float:
        """Return the thickness along the bone as a share of the adult's, 0 (not visible) to 1."""
        return _through(maturity, (self.appears, self.wide, self.caps), (0.34, 0.84, 1.0))

    def capping(self, maturity: float) -> float:
        """Return how far the edges bend over the shaft, 0 to 1."""
        return _through(maturity, (self.wide, self.caps), (0.0, 1.0))

    def plate(self, maturity: float) -> float:
        """Return how much cartilage is left between shaft and epiphysis, 1 (a child's) to 0."""
        return 1.0 - _through(
            maturity, (self.wide, self.caps, self.fusing, self.fused), (0.0, 0.25, 0.6, 1.0)
        )

    def bridged(self, maturity: float) -> float:
        """Return the share of the growth plate that bone has crossed, 0 to 1."""
        return _through(maturity, (self.fusing, self.fused), (0.0, 1.0))

    def scar(self, maturity: float) -> float:
        """Return the strength of the bright line where the plate was, 0 to 1; it fades."""
        return _through(maturity, (self.fusing, self.fused, self.fused + 30.0), (0.0, 1.0, 0.15))


def _through(maturity: float, months: tuple[float, ...], values: tuple[float, ...]) -> float:
    """Interpolate linearly: 0 before the first month, the last value after the last month."""
    if maturity < months[0]:
        return 0.0
    for i in range(1, len(months)):
        if maturity < months[i]:
            share = (maturity - months[i - 1]) / (months[i] - months[i - 1])
            return values[i - 1] + share * (values[i] - values[i - 1])
    return values[-1]


_ROUND_BONES = (
    RoundBone("capitate", 3, 156),
    RoundBone("hamate", 4, 158),
    RoundBone("triquetral", 29, 164),
    RoundBone("lunate", 49, 164),
    RoundBone("scaphoid", 68, 166),
    RoundBone("trapezium", 70, 168),
    RoundBone("trapezoid", 75, 166),
    RoundBone("pisiform", 124, 178),
    RoundBone("sesamoid", 153, 190),
)

# (row, ray): median appearance in boys, months (Garn et al. 1967)
_APPEARS = {
    ("metacarpal", 1): 31, ("metacarpal", 2): 19, ("metacarpal", 3): 21,
    ("metacarpal", 4): 24, ("metacarpal", 5): 26,
    ("proximal", 1): 36, ("proximal", 2): 17, ("proximal", 3): 16,
    ("proximal", 4): 18, ("proximal", 5): 22,
    ("middle", 2): 26, ("middle", 3): 24, ("middle", 4): 25, ("middle", 5): 41,
    ("distal", 1): 19, ("distal", 2): 38, ("distal", 3): 29, ("distal", 4): 29,
    ("distal", 5): 39,
}  # fmt: skip

# row: wide, caps, fusing, fused (Greulich-Pyle and Gilsanz-Ratib, boys, rounded)
_STAGES = {
    "distal": (112, 154, 172, 186),
    "metacarpal": (108, 160, 180, 194),
    "proximal": (100, 156, 182, 196),
    "middle": (114, 158, 186, 200),
}

_EPIPHYSES = (
    *(
        Epiphysis(f"{row}-{ray}", appears, *_STAGES[row])
        for (row, ray), appears in _APPEARS.items()
    ),
    Epiphysis("radius", 13, 108, 166, 200, 226),
    Epiphysis("ulna", 85, 148, 172, 196, 218),
)

ROUND_BONES: Mapping[str, RoundBone] = MappingProxyType({b.name: b for b in _ROUND_BONES})
EPIPHYSES: Mapping[str, Epiphysis] = MappingProxyType({e.name: e for e in _EPIPHYSES})
CENTRES: tuple[RoundBone | Epiphysis, ...] = (*_ROUND_BONES, *_EPIPHYSES)
