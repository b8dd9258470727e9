"""Which clips may be used: by consent and by licence. Judged once, on a day that is recorded.

Importable without Arrow, Lance or Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("consent", "consent_until", "licence")
"""What a policy looks at, of a row of `clips`."""

NO_CONSENT = ("", "no", "none", "refused", "withdrawn")


@dataclass(frozen=True)
class Policy:
    """A choice of clips. The default takes all.

    require_consent: only clips with a consent that holds on the day `judged`; one that has run out is as none.
    licences: only clips under one of these; any where it is empty.
    """

    require_consent: bool = False
    licences: tuple[str, ...] = ()
    judged: date = field(default_factory=lambda: datetime.now(UTC).date())

    @property
    def takes_all(self) -> bool:
        return not (self.require_consent or self.licences)

    @property
    def where(self) -> str | None:
        """The policy as a condition on `clips` in SQL, for Lance and for DuckDB; None if it takes all."""
        parts = []
        if self.require_consent:
            refused = ", ".join(f"'{word}'" for word in NO_CONSENT)
            parts.append(f"lower(consent) NOT IN ({refused})")
            parts.append(f"(consent_until IS NULL OR consent_until >= date '{self.judged}')")
        if self.licences:
            parts.append(f"licence IN ({', '.join(_quoted(name) for name in self.licences)})")
        return " AND ".join(parts) or None

    def allows(self, clips: "pa.Table") -> np.ndarray:
        """Which rows of a table with `COLUMNS` may be used: (rows,) bool."""
        import pyarrow as pa
        import pyarrow.compute as pc

        allowed = np.ones(len(clips), bool)
        if self.require_consent:
            consent = pc.utf8_lower(clips["consent"].fill_null(""))
            allowed &= ~pc.is_in(consent, value_set=pa.array(NO_CONSENT)).to_numpy()
            until = clips["consent_until"].fill_null(date.max)
            allowed &= pc.greater_equal(until, pa.scalar(self.judged, pa.date32())).to_numpy()
        if self.licences:
            allowed &= pc.is_in(clips["licence"], value_set=pa.array(self.licences)).to_numpy()
        return allowed

    def allows_one(self, consent: str, consent_until: date | None, licence: str) -> bool:
        """Whether a clip with this consent and licence may be used; "" where there is none."""
        has_consent = consent.lower() not in NO_CONSENT and (consent_until or date.max) >= self.judged
        return (has_consent or not self.require_consent) and (licence in self.licences or not self.licences)

    def record(self) -> dict[str, Any]:
        """What was judged and when, for a job, a run or a snapshot."""
        return {
            "require_consent": self.require_consent,
            "licences": list(self.licences),
            "judged": self.judged.isoformat(),
        }


def policy_of(require_consent: bool, licences: Sequence[str] | None) -> Policy:
    """The policy of a command's options."""
    return Policy(require_consent, tuple(licences or ()))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
