"""Numbers of a config that are out of range are refused by their name."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

Ranges = Mapping[str, tuple[float, float]]
"""Field to the least and the largest value that it may have."""
FROM_ONE, FROM_ZERO, SHARE = (1, inf), (0, inf), (0, 1)


def check_ranges(config: Any, ranges: Ranges, prefix: str = "") -> None:
    """ValueError, naming the field and what is allowed, where a field of a dataclass is out of its range."""
    for name, (least, largest) in ranges.items():
        if not least <= (value := getattr(config, name)) <= largest:  # a nan is refused, too
            allowed = f"at least {least:g}" if largest == inf else f"from {least:g} to {largest:g}"
            raise ValueError(f"{prefix}{name} is {value}; it must be {allowed}")
