"""The factor on the loss that keeps small gradients from vanishing in fp16 (Micikevicius et al. 2018)."""

from dataclasses import dataclass

_GROWTH, _BACKOFF, _GROWTH_INTERVAL = 2.0, 0.5, 2000
_FIRST, _LEAST = 2.0**16, 2.0**-14


@dataclass(kw_only=True)
class LossScale:
    """Doubled after 2,000 steps without overflow and halved at an overflow, like torch's GradScaler.

    Stays 1 if not `dynamic`.
    """

    dynamic: bool
    value: float = 1.0
    good_steps: int = 0
    """Steps since the value last changed."""

    @classmethod
    def starting(cls, *, dynamic: bool) -> "LossScale":
        return cls(dynamic=dynamic, value=_FIRST if dynamic else 1.0)

    def update(self, *, skipped: bool) -> None:
        """Call it after every step, alike on every rank."""
        if not self.dynamic:
            return
        self.good_steps = 0 if skipped else self.good_steps + 1
        if skipped:
            self.value = max(_LEAST, self.value * _BACKOFF)
        elif self.good_steps == _GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * _GROWTH, 0
