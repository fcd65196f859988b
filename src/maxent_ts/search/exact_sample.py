"""Exact, independent draws from π for bounded rewards, by an envelope on the tree that every rejection tightens.

Let b = exp(λ r_max). The tree gives every prefix an upper bound of its soft value,

    Ū(s) = K(s) + M(s)·b ≥ E_p[exp(λ r) | s],        K known exactly, M prior mass not evaluated

A proposal walks from the root to a child with weight p(a|s)·Ū(sa) and out of the tree with weight ρ(s)·b, where p goes on.
One that ends at an evaluated leaf is accepted; one that left the tree with x, with probability exp(λ r(x)) / b. Then an
accepted x has probability p(x)·exp(λ r(x)) / Ū(root) in every proposal, so its law is π, whatever happened before. The
chance of acceptance is Z / Ū(root): as everything evaluated joins the tree, Ū falls to Z and it rises to 1.

With 0/1 rewards and λ → ∞ this is the trie of CARS (arXiv 2510.01902) for hard constraints; here rewards are soft.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np

from maxent_ts.errors import SettingError
from maxent_ts.search.base import Parallel, Rollouts, Search
from maxent_ts.search.certificate import tree_certificate
from maxent_ts.search.completions import reward_of, score_written
from maxent_ts.tree import NO_COMPLETION, ROOT, Tree
from maxent_ts.types import Completion, Outcome, Rollout, Target

__all__ = ["exact_sample"]


def exact_sample(
    rng: np.random.Generator,
    target: Target,
    *,
    num_rollouts: int | None = None,
    num_parallel: int = 4,
    num_return_sequences: int = 1,
) -> Search:
    """Draw independent samples from π itself.

    Stops when there are `num_return_sequences`, or at the end of the budget with as many as were accepted. Drawing goes on
    in batches from one envelope; those accepted in a batch beyond the number asked for are not returned.

    Args:
        rng: Walks and accepts.
        target: Gives λ and `reward_range`, whose upper end must be finite.
        num_rollouts: Proposals at most that the model has to write; None goes on until the budget is spent.
        num_parallel: Proposals made from the same envelope.
        num_return_sequences: Number of samples.

    Raises:
        SettingError: if the reward has no finite upper bound, or the budget ended before a sample was accepted.
    """
    if not math.isfinite(target.reward_range[1]):
        raise SettingError(
            "exact_sample needs a reward with a finite upper bound, but this one has none. Give the reward a `range`, clip it, "
            "or use maxent_sample, which needs no bound."
        )
    if num_parallel < 1:
        raise SettingError(f"num_parallel must be at least 1, but is {num_parallel}.")
    tree = Tree(target)
    accepted: list[Completion] = []
    num_left = math.inf if num_rollouts is None else num_rollouts
    num_proposals, start = 0, _acceptance_log(tree)
    while len(accepted) < num_return_sequences and num_left > 0:
        num = int(min(num_parallel, num_left))
        walks = [_walk(tree, rng) for _ in range(num)]
        proposals = yield from _finish(tree, walks)
        if not proposals:
            break
        for _, rollout, completion in proposals:
            num_proposals += 1
            num_left -= rollout is not None
            log_accept = 0.0 if rollout is None else target.tilt * (reward_of(completion) - target.reward_range[1])
            if math.log1p(-rng.random()) < log_accept:
                accepted.append(completion)
        tree.extend([(node, rollout, reward_of(one)) for node, rollout, one in proposals if rollout is not None])
    if not accepted:
        raise SettingError(
            f"No exact sample was accepted among {num_proposals} proposals: about {math.exp(_acceptance_log(tree)):.2g} of them "
            "are. Raise the budget, lower the tilt, give the reward a narrower range, or use maxent_sample, which is approximate."
        )
    return _outcome(tree, accepted[:num_return_sequences], num_proposals, len(accepted), start)


def _acceptance_log(tree: Tree) -> float:
    """Return the log of the chance that a proposal is accepted, with the tree's own estimate of Z; at most 0."""
    lower, estimate, upper = tree.log_partition()
    return min(max(estimate, lower) - upper, 0.0)


def _walk(tree: Tree, rng: np.random.Generator) -> int:
    """Return the node where a proposal leaves the tree, or the evaluated leaf where it ends."""
    log_bound = tree.target.tilt * tree.target.reward_range[1]
    node = ROOT
    while tree.completion[node] == NO_COMPLETION:
        children = list(tree.children[node].values())
        logits = [tree.log_unseen[node] + log_bound]
        logits += [
            tree.logprob[child] + float(np.logaddexp(tree.log_known[child], tree.log_open[child] + log_bound)) for child in children
        ]
        choice = int(np.argmax(np.array(logits) + rng.gumbel(size=len(logits))))
        if choice == 0:
            return node
        node = children[choice - 1]
    return node


def _finish(tree: Tree, walks: list[int]) -> Generator[Any, Any, list[tuple[int, Rollout | None, Completion]]]:
    """Let the model write what the tree does not hold. Returns node, rollout (None: the tree held it) and completion.

    A proposal that the budget cannot finish ends the list: to keep later, shorter ones would favour what is short.
    """
    leaving = [node for node in walks if tree.completion[node] == NO_COMPLETION]
    branches = iter((yield Parallel(tuple(Rollouts(tree.prefix(node), 1, tuple(tree.children[node])) for node in leaving))))
    found: list[tuple[int, Rollout | None]] = []
    for node in walks:
        branch = next(branches) if tree.completion[node] == NO_COMPLETION else None
        if branch is not None and not branch.rollouts:
            break
        found.append((node, None if branch is None else branch.rollouts[0]))
    scored = iter((yield from score_written(tree, [(node, one) for node, one in found if one is not None])))
    return [
        (node, rollout, tree.completions[tree.completion[node]] if rollout is None else next(scored)) for node, rollout in found
    ]


def _outcome(tree: Tree, returned: list[Completion], num_proposals: int, num_accepted: int, start: float) -> Outcome:
    index = {one.tokens: i for i, one in enumerate(tree.completions)}
    weights = np.exp(tree.log_weights())
    info = {
        **tree_certificate(tree),
        "exact_samples": float(len(returned)),
        "num_proposals": float(num_proposals),
        "acceptance_rate": num_accepted / num_proposals,
        "acceptance_first": math.exp(start),
        "acceptance_last": math.exp(_acceptance_log(tree)),
    }
    chosen = tuple(index[one.tokens] for one in returned)
    return Outcome(tuple(tree.completions), tuple(float(one) for one in weights / weights.sum()), chosen, info, tree)
