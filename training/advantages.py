"""Advantages: how much better an answer, or a token of it, was than expected. NumPy alone."""

from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]
_EPSILON = 1e-4
"""Added to a standard deviation, as TRL does: a group of almost equal rewards does not explode."""


def group_advantages(rewards_GK: np.ndarray, scale: Scale = "group") -> tuple[np.ndarray, np.ndarray]:
    """Rewards of K answers to each of G prompts, relative to the other answers to the same prompt.

    A_gk = (r_gk - mean_k r_gk) / std (DeepSeekMath, arXiv:2402.03300, section 4.1.2). scale: std of the group, of the
    whole batch, or none (Dr. GRPO, arXiv:2503.20783: dividing favours prompts that are almost always or almost never
    solved). Returns (advantages (G, K), whether all rewards of a group are equal (G,): such a group teaches nothing).
    """
    centred_GK = rewards_GK - rewards_GK.mean(1, keepdims=True)
    equal_G = np.isclose(np.ptp(rewards_GK, axis=1), 0.0)
    centred_GK[equal_G] = 0.0
    if scale == "none" or rewards_GK.shape[1] < 2:
        return centred_GK, equal_G
    axis = 1 if scale == "group" else None
    deviation = rewards_GK.std(axis, ddof=1, keepdims=True)
    return centred_GK / (deviation + _EPSILON), equal_G


def generalized_advantages(
    rewards_T: np.ndarray, values_T: np.ndarray, discount: float, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """GAE (Schulman et al. 2016, arXiv:1506.02438, eq. 16) of one answer, whose end is the end of the episode.

    delta_t = r_t + gamma V_{t+1} - V_t, V_T = 0; A_t = sum_k (gamma lambda)^k delta_{t+k}. Returns (advantages (T,),
    returns A + V (T,): what the value head is to predict).
    """
    advantages_T = np.zeros_like(rewards_T)
    following, next_value = 0.0, 0.0
    for t in range(len(rewards_T) - 1, -1, -1):
        delta = rewards_T[t] + discount * next_value - values_T[t]
        following = delta + discount * smoothing * following
        advantages_T[t] = following
        next_value = values_T[t]
    return advantages_T, advantages_T + values_T


def whiten(values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over all tokens of a rollout."""
    return (values - values.mean()) / (values.std() + 1e-8)
