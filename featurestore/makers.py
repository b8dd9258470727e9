"""Makers: what made a value. Two values with the same maker are interchangeable; with different makers they are not."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Maker:
    """What made the values of one constituent.

    model: its name; weights: sha256 of its weights ("" where there are none); library: name and version;
    parameters: whatever else changes the values (JSON-able); trained: False for weights that were never trained.
    """

    constituent: str
    model: str
    library: str
    weights: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    trained: bool = True

    @property
    def digest(self) -> str:
        """sha256 over all fields: the maker's identity."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
