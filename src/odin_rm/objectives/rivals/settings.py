"""The options of the rivals. Options of one name are one flag; what they default to is each objective's own."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.options import option

_WEIGHT = "Weight of the objective's term against the bias."
_RATE = "Learning rate of the objective's own network."
_STEPS = "Steps of the objective's own network after each step of the model."


@dataclass(frozen=True)
class BsrSettings:
    """Options of ``--objective bsr``."""

    penalty_weight: float = option(0.001, _WEIGHT, at_least=0)


@dataclass(frozen=True)
class CrmSettings:
    """Options of ``--objective crm``."""

    penalty_weight: float = option(0.01, _WEIGHT, at_least=0)
    length_bins: int = option(10, "Bins of equally many responses, by length.", at_least=2)
    conditional: bool = option(True, "Compare chosen responses with chosen ones, and rejected with rejected ones.")


@dataclass(frozen=True)
class FimiSettings:
    """Options of ``--objective fimi``."""

    penalty_weight: float = option(1.0, _WEIGHT, at_least=0)
    penalty_start: float = option(0.1, "Share of the steps that the ranking loss trains alone.", at_least=0, below=1)
    aux_learning_rate: float = option(0.003, _RATE, above=0)
    aux_steps: int = option(4, _STEPS, at_least=1)

    def idle(self) -> dict[str, tuple[str, str]]:
        """Without a penalty it has no start."""
        what = "has no effect with --penalty_weight 0", "Give --penalty_weight above 0, or leave it out."
        return {} if self.penalty_weight else {"penalty_start": what}


@dataclass(frozen=True)
class DirSettings:
    """Options of ``--objective dir``."""

    penalty_weight: float = option(1.0, _WEIGHT, at_least=0)
    information_of: str = option(
        "feature",
        "What must not tell which response is longer: the difference of features (the paper) or of rewards.",
        choices=("feature", "reward"),
    )
    aux_learning_rate: float = option(0.003, _RATE, above=0)
    aux_steps: int = option(5, _STEPS, at_least=1)


@dataclass(frozen=True)
class PoeSettings:
    """Options of ``--objective poe``."""

    expert_noise: float = option(
        1.0, "Deviation of the noise on the bias expert's input, in the feature's own deviations.", at_least=0
    )
    aux_learning_rate: float = option(0.01, _RATE, above=0)
    aux_steps: int = option(1, _STEPS, at_least=1)


@dataclass(frozen=True)
class NormBtSettings:
    """``--objective normbt`` has no options."""


@dataclass(frozen=True)
class InformSettings:
    """Options of ``--objective inform``."""

    penalty_weight: float = option(0.1, _WEIGHT, at_least=0)


@dataclass(frozen=True)
class LengthBalancedSettings:
    """Options of ``--objective length_balanced``."""

    balance_bins: int = option(
        1, "Bins of the length ratio within which longer and shorter weigh alike; 1 for two classes.", at_least=1
    )
