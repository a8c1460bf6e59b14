"""``--objective bradley_terry``: one head and the ranking loss, the vanilla arm."""

from __future__ import annotations

from odin_rm.objectives.length_term import LengthPenalised
from odin_rm.objectives.registry import BradleyTerrySettings


class BradleyTerry(LengthPenalised):
    """``L_R`` of one head; with ``--length_weight`` also ``lambda_L |rho(r_Q, L)|``, or what its options make of it."""

    settings: BradleyTerrySettings
