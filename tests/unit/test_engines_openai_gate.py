"""The order in which requests go to a server, against the best of all orders and a slot that keeps one sequence."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from maxent_ts.engines.base import NextTokensJob
from maxent_ts.engines.openai import OpenAIEngine
from maxent_ts.engines.openai_gate import Gate
from maxent_ts.types import Policy, Tokens
from tests.servers.dialects import dialect_server
from tests.unit.hf_helpers import answers

OTHER = 99
"""A token that is in no prefix."""


class Slot:
    """What llama.cpp keeps for one prompt, and what it computes of prefixes: at least one token of each."""

    def __init__(self, tokens: Tokens = ()) -> None:
        self.tokens = tokens
        self.num_computed = 0
        self.seen: list[Tokens] = []

    def compute(self, prefix: Tokens, written: Tokens = (OTHER,)) -> Tokens:
        """Continue a prefix; returns the whole."""
        common = next((i for i, (a, b) in enumerate(zip(prefix, self.tokens, strict=False)) if a != b), None)
        common = min(len(prefix), len(self.tokens)) if common is None else common
        self.num_computed += max(len(prefix) - common, 1)
        self.seen.append(prefix)
        self.tokens = (*prefix, *written)
        return self.tokens


async def ask(gate: Gate, slot: Slot, prefix: Tokens) -> None:
    """One request."""
    async with gate.turn(1, prefix):
        await asyncio.sleep(0)
        whole = slot.compute(prefix)
    gate.leave(1, whole)


def sent(prefixes: list[Tokens], slot: Slot) -> Slot:
    """Let requests that begin together through the gate to a slot, one at a time."""

    async def main() -> None:
        gate = Gate(1)
        gate.leave(1, slot.tokens)

        async with asyncio.TaskGroup() as group:
            for prefix in prefixes:
                group.create_task(ask(gate, slot, prefix))

    asyncio.run(main())
    assert sorted(slot.seen) == sorted(prefixes)
    return slot


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_the_same_requests_computes_less(seed):
    """Against all orders: catches a sorted order, a greedy one that goes to and fro, and one that forgets what the slot holds."""
    rng = np.random.default_rng(seed)
    prefixes = [tuple(int(one) for one in rng.integers(2, size=rng.integers(9))) for _ in range(6)]
    held = tuple(int(one) for one in rng.integers(2, size=8))
    least = []
    for order in itertools.permutations(prefixes):
        slot = Slot(held)
        for prefix in order:
            slot.compute(prefix)
        least.append(slot.num_computed)
    assert sent(prefixes, Slot(held)).num_computed == min(least)


def test_on_what_a_slot_holds_the_deepest_goes_first_and_elsewhere_the_shallowest():
    """Catches one rule for both: a shallow request ends what a deep one would have found, and a deep one first looks twice."""
    held = (1, 2, 3, 4, 5)
    assert sent([(1,), (1, 2, 3, 4), (1, 2)], Slot(held)).seen == [(1, 2, 3, 4), (1, 2), (1,)]
    assert sent([(1, 7, 8, 9), (1, 7), (1, 7, 8)], Slot(held)).seen == [(1, 7), (1, 7, 8), (1, 7, 8, 9)]
    assert sent([(6, 7), (6,), (1, 2, 3)], Slot(held)).seen == [(1, 2, 3), (6,), (6, 7)]


def test_an_answers_next_request_goes_before_the_others():
    """Catches a place that is given away before the job that held it could ask on: the slot would leave its branch and return."""
    slot = Slot((1, 2, 3, 4))

    async def main() -> None:
        gate = Gate(1)
        gate.leave(1, slot.tokens)

        async def job(prefix: Tokens) -> None:
            await ask(gate, slot, prefix)
            async with asyncio.TaskGroup() as group:  # as a job's rollouts are
                group.create_task(ask(gate, slot, (*prefix, 8)))

        async with asyncio.TaskGroup() as group:
            for prefix in ((1, 2, 3), (1, 2, 7, 7), (1, 2)):
                group.create_task(job(prefix))

    asyncio.run(main())
    assert slot.seen == [(1, 2, 3), (1, 2, 3, 8), (1, 2), (1, 2, 8), (1, 2, 7, 7), (1, 2, 7, 7, 8)]


def test_jobs_submitted_between_two_steps_are_put_in_order_whatever_came_first():
    """Through the engine: catches a first job that goes at once because the others are not there yet."""
    with dialect_server() as (url, _, asked):
        engine = OpenAIEngine(url, timeout=20, max_concurrent_requests=1)
        context = engine.open("ab", Policy(8))
        num_prompt_tokens = context.num_prompt_tokens

        def order(prefixes: list[Tokens]) -> list[Tokens]:
            asked.clear()
            answers(engine, [NextTokensJob(context, prefix, 1) for prefix in prefixes])
            sent = [tuple(one["prompt"][num_prompt_tokens:]) for one in asked if one["max_tokens"] == 1]
            return [prefix for prefix in sent if prefix in prefixes]

        assert order([(1, 1, 2), (2,), (1, 1)]) == [(2,), (1, 1), (1, 1, 2)]
        assert order([(3, 1), (1, 1, 3), (3,)]) == [(1, 1, 3), (3,), (3, 1)]  # the slot is at (1, 1, 2)
        engine.close(context)
        answers(engine, [NextTokensJob(engine.open("ab", Policy(8)), (), 1)])
        assert 1 not in engine._client.gate._left
        engine.shut_down()


def test_groups_go_one_after_the_other_and_a_cancelled_request_keeps_no_place():
    """Catches an order by arrival, and a place that a cancelled request keeps."""

    async def main() -> list[int]:
        gate, seen = Gate(1), []

        async def one(group: int) -> None:
            async with gate.turn(group):
                seen.append(group)
                await asyncio.sleep(0)

        async with gate.turn(0):
            tasks = [asyncio.create_task(one(group)) for group in (5, 1, 4, 2, 3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        async with gate.turn(9):
            seen.append(9)
        return seen

    assert asyncio.run(main()) == [2, 3, 4, 5, 9]


def test_a_second_request_of_a_group_waits():
    """Catches two of one group at once, and a wait without an end."""

    async def main() -> int:
        gate, under_way, most = Gate(3), [], 0
        gate.one_of_each = True

        async def one(group: int, number: int) -> None:
            nonlocal most
            async with gate.turn(group, (number,)):
                under_way.append(group)
                most = max(most, under_way.count(group))
                await asyncio.sleep(0.001)
                under_way.remove(group)

        await asyncio.wait_for(asyncio.gather(*(one(group, number) for group in range(2) for number in range(6))), 5)
        return most

    assert asyncio.run(main()) == 1


def test_what_goes_at_once_is_spread_over_groups():
    """Catches several requests of one prompt at once while another prompt waits: each slot of a server would read each prompt."""

    async def main() -> list[list[int]]:
        gate, under_way, seen = Gate(2), [], []

        async def one(group: int, number: int) -> None:
            async with gate.turn(group, (number,)):
                under_way.append(group)
                seen.append(sorted(under_way))
                await asyncio.sleep(0.001)
                under_way.remove(group)

        await asyncio.gather(*(one(group, number) for group in (1, 2) for number in range(6)))
        return seen

    seen = asyncio.run(main())
    assert len(seen) == 12
    both_wait = seen[:10]
    assert all(len(set(groups)) == len(groups) for groups in both_wait)
