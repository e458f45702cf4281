"""How deep, how many, how fast, with how much money: for any sequence of spawns."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from policy.trees import NOW, chain, ended, job, spec, spending, submission

from claude_jobs.domain.job import Job
from claude_jobs.domain.usage import NANO, nusd
from claude_jobs.errors import RecursionRefused
from claude_jobs.policy.recursion import (
    RATE_WINDOW_MS,
    RecursionLimits,
    Tree,
    check,
    left_nusd,
    link,
    share,
    shown,
    task_key,
)

ROOMY = RecursionLimits(depth=1_000, total=1_000, rate=1_000)


def refused(links: list[Job], tree: Tree, limits: RecursionLimits, now_ms: int = NOW) -> RecursionRefused:
    with pytest.raises(RecursionRefused) as error:
        check(links, submission(), tree, limits, now_ms)
    return error.value


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_deepest_depth_is_the_limit_itself(depth: int) -> None:
    names = [f"j-{number}" for number in range(depth + 1)]
    limits = replace(ROOMY, depth=depth)

    check(chain(*names)[:-1], submission(), Tree(total=1), limits, NOW)
    error = refused(chain(*names), Tree(total=1), limits)

    assert (error.limit, error.value, error.chain) == ("depth", depth, tuple(names))
    assert (error.retryable, error.retry_after_s) == (False, None)


def test_the_depth_error_shows_chain_limit_and_the_ways_out() -> None:
    root = replace(job("j-aaaaa"), label="build  it")
    error = refused([root, job("j-bbbbb", root)], Tree(total=2), RecursionLimits(depth=1))

    assert error.message == (
        "This job would be at depth 2; CLAUDE_MAX_RECURSION_DEPTH=1 allows no deeper one. "
        "Chain: j-aaaaa [build it] > j-bbbbb > the new job. "
        "Do the rest of the work yourself in this job, or return what should be done as your answer. "
        "The operator may raise CLAUDE_MAX_RECURSION_DEPTH."
    )


def test_a_job_that_was_forbidden_to_spawn_is_told_so() -> None:
    error = refused([job("j-aaaaa"), job("j-bbbbb", job("j-aaaaa"), forbids_nest=True)], Tree(total=2), ROOMY)

    assert (error.limit, error.chain) == ("nest", ("j-aaaaa", "j-bbbbb"))
    assert error.message == (
        "Job j-bbbbb was submitted with nest=false (--no-nest), so it spawns no jobs. "
        "Chain: j-aaaaa > j-bbbbb > the new job. "
        "Do the rest of the work yourself in this job, or return what should be done as your answer. "
        "Whoever submits it may leave nest=false out."
    )


def test_a_job_that_was_just_not_given_our_server_may_spawn() -> None:
    check([job("j-aaaaa", nest=False)], submission(), Tree(total=1), ROOMY, NOW)


@pytest.mark.parametrize(
    ("limits", "limit", "name"),
    [
        (RecursionLimits(depth=0), "depth", "CLAUDE_MAX_RECURSION_DEPTH=0"),
        (RecursionLimits(total=0), "total", "CLAUDE_MAX_TOTAL_JOBS=0"),
        (RecursionLimits(rate=0), "rate", "CLAUDE_JOBS_MAX_SPAWN_RATE=0"),
    ],
)
def test_zero_means_zero(limits: RecursionLimits, limit: str, name: str) -> None:
    error = refused(chain("j-a"), Tree(total=1), limits)

    assert (error.limit, error.value, error.retry_after_s) == (limit, 0, None)
    assert name in error.message
    assert "yourself" in error.message


def test_total_zero_holds_for_roots_too_and_nothing_else_does() -> None:
    check([], submission(), Tree(total=0), RecursionLimits(depth=0, at_depth=0, rate=0), NOW)

    assert refused([], Tree(total=0), RecursionLimits(total=0)).chain == ()


def test_every_job_ever_made_counts_against_the_total() -> None:
    limits = replace(ROOMY, total=30)

    check(chain("j-a"), submission(), Tree(total=29), limits, NOW)
    assert refused(chain("j-a"), Tree(total=30), limits).limit == "total"


@st.composite
def spawns(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(which job asks, ms since the request before); the clock may go back."""
    return draw(st.lists(st.tuples(st.integers(0, 60), st.integers(-20_000, 40_000)), max_size=60))


@settings(deadline=None)
@given(spawns(), st.integers(0, 5), st.integers(0, 20), st.integers(0, 8))
def test_no_sequence_of_spawns_breaks_a_limit(asked: list[tuple[int, int]], depth: int, total: int, rate: int) -> None:
    limits = RecursionLimits(depth=depth, total=total, rate=rate)
    tree, now_ms = [job("j-0")], NOW
    made_ms: list[int] = []
    for number, (place, passed_ms) in enumerate(asked, 1):
        now_ms += passed_ms
        links = lineage(tree, tree[place % len(tree)])
        counted = Tree(total=len(tree), recent_ms=tuple(at for at in made_ms if at > now_ms - RATE_WINDOW_MS))
        try:
            check(links, submission(), counted, limits, now_ms)
        except RecursionRefused as error:
            assert error.chain == tuple(one.id for one in links)
            continue
        tree.append(job(f"j-{number}", links[-1]))
        made_ms.append(now_ms)
        assert sum(at > now_ms - RATE_WINDOW_MS for at in made_ms) <= rate

    assert len(tree) <= max(1, total)
    assert max(one.depth for one in tree) <= depth


def lineage(tree: list[Job], last: Job) -> list[Job]:
    known = {one.id: one for one in tree}
    links = [last]
    while links[-1].parent_id is not None:
        links.append(known[links[-1].parent_id])
    return links[::-1]


RECENT = st.lists(st.integers(NOW - 2 * RATE_WINDOW_MS, NOW), min_size=1, max_size=40).map(sorted)


@given(RECENT, st.integers(1, 10))
def test_the_rate_says_exactly_when_to_ask_again(recent_ms: list[int], rate: int) -> None:
    limits, tree = replace(ROOMY, rate=rate), Tree(total=1, recent_ms=tuple(recent_ms))
    if sum(at > NOW - RATE_WINDOW_MS for at in recent_ms) < rate:
        check(chain("j-a"), submission(), tree, limits, NOW)
        return
    error = refused(chain("j-a"), tree, limits)

    assert error.retryable
    assert error.retry_after_s is not None
    then_ms = NOW + round(error.retry_after_s * 1000)
    assert NOW < then_ms <= NOW + RATE_WINDOW_MS
    check(chain("j-a"), submission(), tree, limits, then_ms)
    assert refused(chain("j-a"), tree, limits, then_ms - 1).limit == "rate"


def test_a_clock_that_ran_ahead_delays_for_one_window_at_most() -> None:
    tree = Tree(total=1, recent_ms=(NOW + 3_600_000,) * 3)

    assert refused(chain("j-a"), tree, replace(ROOMY, rate=3)).retry_after_s == RATE_WINDOW_MS / 1000


PROMPT = "Count the Lines of README.md"
SAME = (
    "count the lines of readme.md",
    "  Count\tthe\n\n Lines of\u00a0README.md ",
    "COUNT THE LINES OF README.MD",
    "Count the Lines of README.ｍｄ",
)


@pytest.mark.parametrize("prompt", SAME)
def test_white_space_case_and_form_make_no_other_task(prompt: str) -> None:
    assert task_key(spec(prompt=prompt)) == task_key(spec(prompt=PROMPT))


@pytest.mark.parametrize(
    "other", [{"prompt": "Count the lines of a.md"}, {"cwd": "/work/sub"}, {"model": "haiku"}, {"prompt": "\ud800"}]
)
def test_another_prompt_directory_or_model_is_another_task(other: dict[str, str]) -> None:
    assert task_key(spec(**{"prompt": PROMPT, **other})) != task_key(spec(prompt=PROMPT))


SPACES = st.text(" \t\n\u00a0", min_size=1, max_size=3)


@given(st.lists(st.text("abcXYZäÖ 12.-", min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_a_task_is_known_again_in_other_clothes(words: list[str], data: st.DataObject) -> None:
    dressed = [data.draw(st.sampled_from([word, word.upper(), word.lower(), word.title()])) for word in words]
    again = data.draw(SPACES).join(dressed) + data.draw(SPACES)

    assert task_key(spec(prompt=again)) == task_key(spec(prompt=" ".join(words)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_job_is_not_its_own_ancestor(place: int) -> None:
    links = chain("j-a", "j-b", "j-c")
    links[place] = replace(links[place], spec=spec(prompt=PROMPT), label="count")
    with pytest.raises(RecursionRefused) as error:
        check(links, submission(prompt=SAME[1]), Tree(total=3), ROOMY, NOW)

    assert (error.value.limit, error.value.chain) == ("cycle", ("j-a", "j-b", "j-c"))
    assert f"{links[place].id} [count] has the same task" in error.value.message


def test_a_long_chain_and_a_long_label_are_shown_short() -> None:
    text = shown([replace(one, label="x" * 200) for one in chain(*(f"j-{number}" for number in range(100)))])

    assert text.startswith("j-0 [xxx")
    assert " > … 88 more … > j-94 [" in text
    assert len(text) < 1_000
    assert link(replace(job("j-a"), label="a\n b")) == "j-a [a b]"


def test_without_a_budget_nothing_is_shared() -> None:
    assert left_nusd(job("j-a"), []) is None
    assert share(submission(), None, 3).spec.max_cost_usd is None
    assert share(submission(max_cost_usd=5.0), None, 3).spec.max_cost_usd == 5.0


def test_what_is_left_counts_own_cost_live_budgets_and_what_the_ended_cost() -> None:
    root = spending(job("j-root", cost=1 * NANO, max_cost_usd=20.0), 2 * NANO)
    live = job("j-live", root, cost=1 * NANO, max_cost_usd=4.0)
    over = job("j-over", root, cost=5 * NANO, max_cost_usd=4.0)
    gone = ended(job("j-gone", root, cost=1 * NANO, max_cost_usd=6.0))
    below_gone = job("j-below", gone, max_cost_usd=3.0)
    below_live = job("j-inside", live, cost=1 * NANO, max_cost_usd=2.0)

    assert left_nusd(root, []) == 17 * NANO
    assert left_nusd(root, [live, below_live]) == 13 * NANO
    assert left_nusd(root, [gone, below_gone]) == 13 * NANO
    assert left_nusd(root, [live, below_live, over, gone, below_gone]) == 4 * NANO
    assert left_nusd(job("j-root", cost=21 * NANO, max_cost_usd=20.0), []) == 0


def test_who_asks_for_none_gets_a_fair_share_and_one_stays() -> None:
    left, shares = 8 * NANO, list[int]()
    for siblings in (3, 2, 1):
        shares.append(nusd(share(submission(), left, siblings).spec.max_cost_usd or 0))
        left -= shares[-1]

    assert shares == [2 * NANO] * 3
    assert left == 2 * NANO


@pytest.mark.parametrize(("asked", "left"), [(2.0, NANO), (None, 0), (None, 1), (1e-9, 0)])
def test_more_than_is_left_is_refused(asked: float | None, left: int) -> None:
    with pytest.raises(RecursionRefused) as error:
        share(submission(max_cost_usd=asked), left, 1, chain=chain("j-a", "j-b"))

    assert (error.value.limit, error.value.chain) == ("budget", ("j-a", "j-b"))
    assert error.value.value == left / NANO
    assert "yourself" in error.value.message


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["spawn", "spawn", "spend", "end"]), st.integers(0, 30), st.floats(0, 1), st.integers(1, 4)
    ),
    max_size=20,
)


@settings(deadline=None)
@given(st.floats(0.000001, 100), MOVES)
def test_no_sequence_of_spawns_and_ends_gives_away_more_than_there_was(
    budget: float, moves: list[tuple[str, int, float, int]]
) -> None:
    """Each job keeps to what it has left; then the whole tree keeps to the root's budget."""
    tree = {"j-0": job("j-0", max_cost_usd=budget)}

    def left(one: Job) -> int:
        found = left_nusd(one, below(tree, one))
        assert found is not None
        return found

    for move, place, part, siblings in moves:
        live = [one for one in tree.values() if not one.is_terminal]
        if not live:
            break
        one = live[place % len(live)]
        if move == "spend":
            usage = replace(one.usage, cost_nusd=one.usage.cost_nusd + int(part * left(one)))
            tree[one.id] = replace(one, usage=usage)
        elif move == "end":
            tree[one.id] = ended(one)
        else:
            spawn(tree, one, None if part < 0.5 else part * 2 * left(one) / NANO, siblings)
        assert sum(other.usage.cost_nusd for other in tree.values()) <= nusd(budget)


def spawn(tree: dict[str, Job], parent: Job, asked: float | None, siblings: int) -> None:
    for number in range(siblings, 0, -1):
        before = left_nusd(parent, below(tree, parent)) or 0
        wanted = submission(max_cost_usd=asked or None)
        try:
            granted = share(wanted, before, number).spec.max_cost_usd
        except RecursionRefused as error:
            assert error.limit == "budget"
            return
        assert granted is not None
        assert 0 < nusd(granted) <= before
        child = job(f"j-{len(tree)}", parent, max_cost_usd=granted)
        tree[child.id] = child
        assert left_nusd(parent, below(tree, parent)) == before - nusd(granted)


def below(tree: dict[str, Job], one: Job) -> list[Job]:
    inside: dict[str | None, Job] = {one.id: one}
    for other in tree.values():  # parents come before their children
        if other.parent_id in inside:
            inside[other.id] = other
    return [other for other in inside.values() if other is not one]
