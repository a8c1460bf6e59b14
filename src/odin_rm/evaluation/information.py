"""Information beyond length: what a reward knows of the human label that length does not already tell.

Accuracy confounds content with bias: where humans prefer the longer response, paying for length raises it. So the label
is predicted twice, by logistic models without intercept on the difference chosen minus rejected,

    p(chosen wins) = sigmoid(a * length difference)                               (length only)
    p(chosen wins) = sigmoid(a * length difference + b * quality difference)      (length and quality)

and the figure is the fall of the mean held-out log2 loss from the first to the second, in bits per pair. No intercept,
because a pair has no order of its own: exchanging chosen and rejected negates both features and the label alike.
Five folds by prompt; features are divided by their root mean square in the training folds, so neither the unit of
length nor any affine change of the reward matters. A content-free reward gives about 0 or slightly less (the price of
a useless coefficient).

A straight line in length is a weak baseline: a reward that is a *curved* function of length, and nothing else, beats
it. So the same gain is also measured against a baseline that may bend (``length_curve``): length, its logarithm, and
hinges at the nine deciles of log length. Three smooth columns are not enough: a reward with one sharp bend, such as
``min(length, 300)``, gains 0.013 bits over length, root and logarithm on real pairs while it knows nothing but length
(``benchmarks/length_curves.py``).
"""

from __future__ import annotations

import numpy as np

# Ridge on standardised coefficients, in nats: 0.005 |b|^2 over the whole training set. It only keeps separable data
# finite; against a few dozen pairs it is already invisible.
RIDGE = 0.01
FOLDS = 5
MIN_PROMPTS = 10
_NEWTON_STEPS = 100


def fit_pair_logistic(difference_BK: np.ndarray, *, ridge: float = RIDGE) -> np.ndarray:
    """Coefficients of ``p(chosen wins) = sigmoid(d . b)``, by Newton's method with step halving.

    Minimises ``sum_i log(1 + exp(-d_i . b)) + ridge / 2 |b|^2``, strictly convex, so the answer is unique.

    Args:
        difference_BK: ``(B, K)`` features of chosen minus rejected.
        ridge: strength of the penalty, above 0.

    Returns:
        ``(K,)`` coefficients.
    """
    b = np.zeros(difference_BK.shape[1])
    objective = _objective(difference_BK, b, ridge)
    for _ in range(_NEWTON_STEPS):
        p_lose = np.exp(-np.logaddexp(0.0, difference_BK @ b))
        gradient = -difference_BK.T @ p_lose + ridge * b
        curvature = (difference_BK * (p_lose * (1 - p_lose))[:, None]).T @ difference_BK + ridge * np.eye(len(b))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (trial := _objective(difference_BK, b - size * step, ridge)) > objective and size > 1e-8:
            size /= 2
        if size <= 1e-8:
            break
        improved, objective, b = objective - trial, trial, b - size * step
        if improved <= 1e-12 * max(1.0, objective):
            break
    return b


def _objective(difference_BK: np.ndarray, b: np.ndarray, ridge: float) -> float:
    return float(np.logaddexp(0.0, -difference_BK @ b).sum() + ridge / 2 * (b @ b))


def undefined_information(length_difference: np.ndarray, prompt: np.ndarray) -> str | None:
    """Why the figure is undefined for these pairs, or ``None``.

    Args:
        length_difference: ``(B,)`` length of chosen minus rejected.
        prompt: ``(B,)`` prompt of each pair.
    """
    if len(np.unique(prompt)) < MIN_PROMPTS:
        return f"fewer than {MIN_PROMPTS} prompts with pairs"
    for name, side in (("longer", length_difference > 0), ("shorter", length_difference < 0)):
        if side.all():
            return f"the chosen response is always the {name} one, so length alone tells the label"
    return None


def length_curve(chosen_length: np.ndarray, rejected_length: np.ndarray) -> np.ndarray:
    """Differences, chosen minus rejected, of length, log length and its hinges.

    With ``u = log(1 + length)`` and ``d_1 .. d_9`` the deciles of ``u`` over all responses of the pairs, the columns
    are the differences of length, of ``u`` and of ``max(u - d_k, 0)``: any curve that is straight in ``u`` between
    neighbouring deciles is a combination of them.

    Args:
        chosen_length, rejected_length: ``(B,)`` lengths.

    Returns:
        ``(B, 11)``; fewer columns where deciles coincide.
    """
    return attribute_curve(chosen_length, rejected_length)


def attribute_curve(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """The columns of :func:`length_curve` for one attribute of the responses.

    Several attributes stand side by side: ``np.column_stack`` of their curves is the baseline of a gain beyond curves
    of all of them.

    Args:
        chosen, rejected: ``(B,)`` numbers of at least 0.
    """
    chosen, rejected = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    log_chosen, log_rejected = np.log1p(chosen), np.log1p(rejected)
    both = np.concatenate([log_chosen, log_rejected])
    knots = np.unique(np.quantile(both, np.linspace(0.1, 0.9, 9))) if len(both) else np.zeros(0)
    knots = knots[knots > both.min()] if len(both) else knots  # a hinge at the lowest value is log length again
    hinges = np.maximum(log_chosen[:, None] - knots, 0.0) - np.maximum(log_rejected[:, None] - knots, 0.0)
    return np.column_stack([chosen - rejected, log_chosen - log_rejected, hinges])


def heldout_gain(
    quality_difference: np.ndarray, length_difference: np.ndarray, prompt: np.ndarray, seed: int
) -> np.ndarray:
    """Each pair's fall of the held-out log2 loss when quality joins length.

    Args:
        quality_difference: ``(B,)`` quality of chosen minus rejected.
        length_difference: ``(B,)`` length of chosen minus rejected, or ``(B, K)`` several functions of it
            (:func:`length_curve`).
        prompt: ``(B,)`` prompt numbers; all pairs of a prompt are in one fold.
        seed: of the folds.

    Returns:
        ``(B,)`` bits; their mean is *information beyond length*.
    """
    numbers, prompt_of_pair = np.unique(prompt, return_inverse=True)
    fold_of_prompt = np.random.default_rng(seed).permutation(len(numbers)) % FOLDS
    fold = fold_of_prompt[prompt_of_pair]
    features_BK = np.column_stack([length_difference, quality_difference]).astype(np.float64)
    gain = np.zeros(len(prompt))
    for held in range(FOLDS):
        test = fold == held
        train_BK = features_BK[~test]
        scale = np.sqrt((train_BK**2).mean(axis=0))
        scaled_BK = features_BK / np.where(scale > 0, scale, 1.0)
        losses = []
        for columns in (scaled_BK[:, :-1], scaled_BK):
            b = fit_pair_logistic(columns[~test])
            losses.append(np.logaddexp(0.0, -columns[test] @ b))
        gain[test] = (losses[0] - losses[1]) / np.log(2.0)
    return gain
