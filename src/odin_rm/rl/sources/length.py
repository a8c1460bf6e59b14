"""Length alone as the reward: how far does a policy get by writing more? (Singhal et al. 2023, 2310.03716)"""

from __future__ import annotations

import numpy as np

from odin_rm.rl.records import JudgedResponses, RewardRequest


class LengthSource:
    """Pays one per response token of the policy, end token not counted."""

    name = "length_only"
    reward_mean: float | None = None
    reward_std: float | None = None

    def judge(self, request: RewardRequest) -> JudgedResponses:
        """``L(y)`` of each response."""
        return JudgedResponses(np.asarray(request.response_tokens, dtype=np.float64))
