"""The judge of histories is judged: on histories that are known to be good or bad, and against a plain search."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from call_history import (
    CONFLICT,
    DONE,
    READ,
    REFUSED,
    SWAP,
    UNKNOWN,
    WRITE,
    Op,
    Register,
    in_order_of_index,
    indexes_are_one_order,
    linearizable,
    search,
    step,
)


def w(value: str, began: float, ended: float, index: int, outcome: str = DONE) -> Op:
    return Op("k", WRITE, value, began=began, ended=ended, index=index, outcome=outcome)


def r(value: str, began: float, ended: float, index: int) -> Op:
    return Op("k", READ, value, began=began, ended=ended, index=index, outcome=DONE)


def s(value: str, expected: int, began: float, ended: float, index: int, outcome: str = DONE) -> Op:
    return Op("k", SWAP, value, expected, began, ended, outcome, index)


def test_reads_after_writes_see_them() -> None:
    assert linearizable([w("a", 0, 1, 5), r("a", 2, 3, 5)])
    assert not linearizable([w("a", 0, 1, 5), r("", 2, 3, 0)]), "an acknowledged write is gone"


def test_a_read_during_a_write_may_see_either() -> None:
    assert linearizable([w("a", 0, 1, 5), w("b", 2, 5, 9), r("a", 3, 4, 5)])
    assert linearizable([w("a", 0, 1, 5), w("b", 2, 5, 9), r("b", 3, 4, 9)])
    assert not linearizable([w("a", 0, 1, 5), w("b", 2, 6, 9), r("b", 3, 4, 9), r("a", 4.5, 5, 5)]), "time runs back"


def test_an_unknown_write_may_take_effect_late_or_never() -> None:
    lost = w("b", 2, 3, 0, UNKNOWN)
    assert linearizable([w("a", 0, 1, 5), lost, r("a", 4, 5, 5)])
    assert linearizable([w("a", 0, 1, 5), lost, r("a", 4, 5, 5), r("b", 6, 7, 9)])
    assert not linearizable([w("a", 0, 1, 5), lost, r("b", 4, 5, 9), r("a", 6, 7, 5)])
    assert not linearizable([w("a", 0, 1, 5), w("b", 2, 3, 0, REFUSED), r("b", 4, 5, 9)]), "refused, yet done"


def test_indexes_only_grow() -> None:
    assert not linearizable([w("a", 0, 1, 5), w("b", 2, 3, 4)])
    assert linearizable([w("a", 0, 4, 5), w("b", 1, 3, 4), r("a", 5, 6, 5)])


def test_of_two_swaps_with_the_same_index_one_wins() -> None:
    first = w("a", 0, 1, 5)
    assert linearizable([first, s("b", 5, 2, 4, 6), s("c", 5, 2, 4, 0, CONFLICT)])
    assert not linearizable([first, s("b", 5, 2, 4, 6), s("c", 5, 2, 4, 7)]), "both won"
    assert not linearizable([first, s("c", 5, 2, 4, 0, CONFLICT)]), "nobody was there to lose against"


def test_a_swap_may_lose_against_a_write_of_unknown_end() -> None:
    assert linearizable([w("a", 0, 1, 5), w("b", 2, 3, 0, UNKNOWN), s("c", 5, 4, 5, 0, CONFLICT)])


def test_a_swap_that_lost_names_the_winner() -> None:
    first = w("a", 0, 1, 5)
    assert linearizable([first, w("b", 2, 3, 6), s("c", 5, 4, 5, 6, CONFLICT)])
    assert not linearizable([first, w("b", 2, 3, 6), s("c", 5, 4, 5, 7, CONFLICT)]), "nobody wrote at 7"
    assert linearizable([first, w("b", 2, 3, 0, UNKNOWN), s("c", 5, 4, 5, 7, CONFLICT)])
    assert not linearizable([first, w("b", 6, 7, 0, UNKNOWN), s("c", 5, 4, 5, 7, CONFLICT)]), "it began later"
    assert not linearizable([first, w("b", 2, 3, 6), s("c", 5, 0, 1.5, 5, CONFLICT)]), (
        "it lost against what it demanded"
    )


def test_the_order_of_the_log_and_the_search_agree() -> None:
    rng, verdicts = random.Random(9), []
    for _ in range(2000):
        ops = [
            replace(op, index=rng.randint(1, 9)) if op.outcome == CONFLICT else op
            for op in _random_history(rng)
            if op.outcome != UNKNOWN
        ]
        # Places in the log are given once.
        if len({op.index for op in ops if op.kind != READ and op.outcome == DONE}) == sum(
            op.kind != READ and op.outcome == DONE for op in ops
        ):
            verdicts.append(in_order_of_index(ops))
            assert verdicts[-1] == search(ops), ops
    assert len(verdicts) > 300
    assert sum(verdicts) > 20


def test_the_same_answers_as_trying_every_order() -> None:
    rng = random.Random(4)
    verdicts = [search(ops) for ops in (_random_history(rng) for _ in range(400))]
    rng = random.Random(4)
    assert verdicts == [_tries_every_order(_random_history(rng)) for _ in range(400)]
    assert 40 < sum(verdicts) < 360, "the histories are all alike"


def _random_history(rng: random.Random) -> list[Op]:
    ops = []
    for number in range(6):
        began = rng.uniform(0, 6)
        ended = began + rng.uniform(0.1, 4)
        dice = rng.random()
        if dice < 0.5:
            ops.append(w(f"v{number}", began, ended, rng.randint(1, 9), rng.choice([DONE, DONE, UNKNOWN])))
        elif dice < 0.8 and ops:
            seen = rng.choice(ops)
            ops.append(r(seen.value, began, ended, seen.index))
        else:
            ops.append(
                s(f"v{number}", rng.randint(1, 9), began, ended, rng.randint(1, 9), rng.choice([DONE, CONFLICT]))
            )
    return ops


def _tries_every_order(ops: list[Op]) -> bool:
    known = [op for op in ops if op.outcome != UNKNOWN]
    unknown = [op for op in ops if op.outcome == UNKNOWN and op.kind != READ]
    for n_happened in range(len(unknown) + 1):
        for happened in itertools.combinations(unknown, n_happened):
            if any(_explains(order) for order in itertools.permutations([*known, *happened])):
                return True
    return False


def _explains(order: tuple[Op, ...]) -> bool:
    state: Register | None = Register()
    for place, op in enumerate(order):
        if any(later.outcome != UNKNOWN and later.ended < op.began for later in order[place:]):
            return False
        state = step(state, op) if state is not None else None
        if state is None:
            return False
    return True


def test_places_in_the_log_follow_time_across_registers() -> None:
    one, other = Op("a", WRITE, "1", 0, 0, 1, DONE, 5), Op("b", WRITE, "2", 0, 2, 3, DONE, 6)
    assert indexes_are_one_order([one, other])
    assert not indexes_are_one_order([one, Op("b", WRITE, "2", 0, 2, 3, DONE, 4)])
    assert not indexes_are_one_order([one, Op("b", WRITE, "2", 0, 0, 3, DONE, 5)])
