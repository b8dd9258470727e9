"""How any stage is trained: what the step and the loop ask of a preset. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from featurestore.errors import UsageError, choose


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a stage is trained; a stage's own settings add how it is built and drawn with.

    learning_rate: reached after `warmup` steps, then brought down along a cosine to `final_rate` of itself.
    rates: factors on it for parts of the network, by the beginning of their parameters' names.
    ema_decay: at most; early steps have less. clip: largest norm of the gradient, 0 for none.
    bfloat16: where the device has it; the moving average and the optimiser stay in float32.
    compile: the network to one graph, on a GPU.
    """

    batch_size: int
    steps: int
    learning_rate: float = 1e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 0
    final_rate: float = 1.0
    ema_decay: float = 0.9999
    clip: float = 0.0
    bfloat16: bool = False
    compile: bool = False

    def changed(self, choices: Mapping[str, Any]) -> "Settings":
        """These settings with others instead. choices: name -> value, or the text of one, as a command takes it.

        Raises UsageError for a name that is none, and for a text that is no value of its type.
        """
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(
            self, **{choose("setting", name, known): _as(name, value, known[name]) for name, value in choices.items()}
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Settings":
        """The settings as a checkpoint keeps them."""
        return cls(**{name: _tuples(value) for name, value in data.items()})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _as(name: str, value: Any, before: Any) -> Any:
    """A value in place of one of the same type."""
    if not isinstance(value, str) or isinstance(before, str):
        return value
    try:
        if isinstance(before, bool):
            return _TRUTH[value.lower()]
        if isinstance(before, tuple):
            kind = type(before[0]) if before else str
            return tuple(kind(part) for part in value.split(",") if part)
        if isinstance(before, (int, float)):
            return type(before)(value)
    except (KeyError, ValueError):
        raise UsageError(f"the setting {name} is {before!r}: {value!r} is no value for it") from None
    raise UsageError(f"the setting {name} cannot be said in a line")
