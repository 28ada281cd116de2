"""How a blob is cut into parts, and what its parts must be to become it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.parts import LARGEST_PART, MIB, MOST_PARTS, SMALLEST_PART, PartPlan, SentPart, StoredPart, plan_parts
from godrive.errors import Conflict, DriveError, Invalid
from godrive.model import ETag
from tests.cases import each

PLAN = PartPlan(size_bytes=2 * SMALLEST_PART + 1, part_size=SMALLEST_PART)


def part(number: int, size: int, etag: str = "e") -> StoredPart:
    return StoredPart(number=number, size_bytes=size, etag=ETag(f"{etag}{number}"), modified_at=datetime.now(UTC))


ALL = [part(1, SMALLEST_PART), part(2, SMALLEST_PART), part(3, 1)]


@given(st.integers(1, MOST_PARTS * LARGEST_PART), st.integers(SMALLEST_PART, LARGEST_PART))
def test_the_parts_of_a_plan_are_the_whole_and_few_enough(size: int, part_size: int) -> None:
    plan = plan_parts(size, threshold=0, part_size=part_size)
    assert plan is not None
    assert plan.count <= MOST_PARTS
    assert (plan.count - 1) * plan.part_size + plan.length(plan.count) == size
    assert 1 <= plan.length(plan.count) <= plan.part_size
    assert plan.part_size == part_size or size > (plan.part_size - MIB) * MOST_PARTS  # no larger than it must be


@each(
    ("size", "asked", "planned"),
    [
        (0, None, None),
        (0, SMALLEST_PART, None),
        (100, None, None),
        (101, None, 10 * MIB),
        (1, SMALLEST_PART, SMALLEST_PART),
        (101, SMALLEST_PART, SMALLEST_PART),
    ],
)
def test_a_file_goes_up_in_parts_over_the_threshold_or_if_the_client_asks(
    size: int, asked: int | None, planned: int | None
) -> None:
    plan = plan_parts(size, threshold=100, part_size=10 * MIB, asked=asked)
    assert (plan and plan.part_size) == planned


@each(
    ("size", "asked"),
    [(1, 0), (1, SMALLEST_PART - 1), (1, LARGEST_PART + 1), (MOST_PARTS * SMALLEST_PART + 1, SMALLEST_PART)],
)
def test_parts_that_no_store_takes_are_refused(size: int, asked: int) -> None:
    with pytest.raises(Invalid) as refused:
        plan_parts(size, threshold=100, part_size=10 * MIB, asked=asked)
    assert refused.value.field == "part_size"


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_a_part_that_is_not_planned_has_no_length(number: int) -> None:
    with pytest.raises(Invalid, match=f"no part {number}"):
        PLAN.length(number)


def claims(etags: dict[int, str]) -> list[SentPart]:
    return [SentPart(number=number, etag=ETag(etag)) for number, etag in etags.items()]


def test_all_parts_as_planned_can_be_joined() -> None:
    PLAN.check(ALL, None)
    PLAN.check(ALL, claims({3: '"e3"', 1: "e1", 2: "e2"}))


@each(
    ("stored", "claimed", "error", "says"),
    [
        ([], None, Conflict, "Part 1 of 3 has not arrived."),
        (ALL[:2], None, Conflict, "Part 3 of 3 has not arrived."),
        ([ALL[0], ALL[2]], {1: "e1", 2: "e2", 3: "e3"}, Conflict, "Part 2 of 3 has not arrived."),
        ([ALL[0], part(2, 4), ALL[2]], None, Invalid, f"Part 2 has 4 bytes and not {SMALLEST_PART}: send it again."),
        ([*ALL[:2], part(3, 2)], None, Invalid, "Part 3 has 2 bytes and not 1: send it again."),
        ([*ALL, part(4, 1)], None, Invalid, "Part 4 does not belong to the upload."),
        (ALL, {1: "e1", 3: "e3"}, Invalid, "Part 2 of 3 is not among the parts to join."),
        (ALL, {1: "e1", 2: "e1", 3: "e3"}, Invalid, "Part 2 has another ETag at the store: e2."),
        (ALL, {1: "e1", 2: "e2", 3: "e3", 4: "e4"}, Invalid, "no part 4"),
    ],
)
def test_a_part_that_is_missing_or_wrong_is_named(
    stored: list[StoredPart], claimed: dict[int, str] | None, error: type[DriveError], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)) as refused:
        PLAN.check(stored, None if claimed is None else claims(claimed))
    assert refused.value.field == "parts"
