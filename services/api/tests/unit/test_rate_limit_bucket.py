"""The arithmetic of a bucket: it never gives more than the quota and what has flowed in since."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_api.rate_limits.bucket import Policy, take
from taskflow_api.rate_limits.takes import Bucket, Take, Taken

policies = st.builds(Policy, st.just("default"), st.integers(1, 10_000_000), st.integers(1, 86_400))
steps = st.lists(
    st.tuples(st.integers(-5_000, 10_000_000), st.integers(1, 20_000_000)), max_size=50
)


@given(policies, steps)
def test_it_counts_as_a_bucket_of_fractions_would(
    policy: Policy, asked: list[tuple[int, int]]
) -> None:
    debt = 0
    tokens = Fraction(policy.quota)
    for elapsed_ms, cost in asked:
        debt = policy.debt_after(debt, elapsed_ms)
        flowed = Fraction(max(0, elapsed_ms) * policy.quota, policy.window_ms)
        tokens = min(Fraction(policy.quota), tokens + flowed)

        granted, (debt,) = take([(policy, debt)], cost)

        price = min(cost, policy.quota)
        assert granted == (tokens >= price)
        if granted:
            tokens -= price
        assert policy.tokens_left(debt) == int(tokens)
        assert Fraction(policy.most_debt - debt, policy.window_ms) == tokens


@given(policies, st.data())
def test_the_times_told_are_the_first_at_which_it_is_so(
    policy: Policy, data: st.DataObject
) -> None:
    debt = data.draw(st.integers(0, policy.most_debt))
    cost = data.draw(st.integers(1, 2 * policy.quota))
    more, left = policy.more_in_ms(debt), policy.tokens_left(debt)
    assert policy.tokens_left(policy.debt_after(debt, more)) > left or left == policy.quota
    assert more == 0 or policy.tokens_left(policy.debt_after(debt, more - 1)) == left
    wait = policy.enough_in_ms(debt, cost)
    assert take([(policy, policy.debt_after(debt, wait))], cost)[0]
    assert wait == 0 or not take([(policy, policy.debt_after(debt, wait - 1))], cost)[0]


@given(st.lists(st.tuples(policies, st.fractions(0, 1)), min_size=1, max_size=3), st.integers(1, 9))
def test_it_is_taken_from_all_or_from_none(
    filled: list[tuple[Policy, Fraction]], cost: int
) -> None:
    held = [(policy, int(policy.most_debt * share)) for policy, share in filled]
    granted, debts = take(held, cost)
    assert granted == all(take([each], cost)[0] for each in held)
    if not granted:
        assert debts == [debt for _, debt in held]


def test_all_numbers_are_exact_in_doubles() -> None:
    largest = Policy("default", 10_000_000, 86_400)
    assert 2 * largest.most_debt < 2**53


def test_what_clients_are_told() -> None:
    tenant, key = Policy("default", 100, 60), Policy("key", 10, 1)
    wanted = Take([Bucket(tenant, "t"), Bucket(key, "k")], cost=20)
    taken = Taken(wanted, False, [50 * tenant.window_ms, 1])
    assert taken.headers() == [
        (b"ratelimit-policy", b'"default";q=100;w=60, "key";q=10;w=1'),
        (b"ratelimit", b'"default";r=50;t=1, "key";r=9;t=1'),
    ]
    assert taken.retry_after_seconds() == 1
    empty = Taken(Take([Bucket(tenant, "t")], cost=10), False, [tenant.most_debt])
    assert empty.retry_after_seconds() == 6
    # The draft: Retry-After is not earlier than the end of `t`.
    assert empty.headers()[1] == (b"ratelimit", b'"default";r=0;t=1')


@pytest.mark.parametrize(("share", "quota"), [(0.5, 50), (0.001, 1), (1.0, 100)])
def test_a_share_is_never_nothing(share: float, quota: int) -> None:
    assert Policy("default", 100, 60).share(share) == Policy("default", quota, 60)
