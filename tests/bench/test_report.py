"""What a run of the benchmarks keeps and shows."""

from __future__ import annotations

from pathlib import Path

from bench.report import Result, line, previous, save


def test_a_mark_is_reached_from_the_right_side() -> None:
    assert Result("rate", 0.3, "bare", 0.3).reached
    assert not Result("rate", 0.29, "bare", 0.3).reached
    assert Result("memory", 69, "MiB", 70, lower=True).reached
    assert not Result("memory", 71, "MiB", 70, lower=True).reached
    assert Result("no mark", 1, "x").reached


def test_each_result_is_compared_with_the_latest_run_that_has_it(tmp_path: Path) -> None:
    old, older = Result("rate", 2.0, "bare", parts={"ours": 4.0}), Result("memory", 50.0, "MiB")
    save([Result("rate", 1.0, "bare"), older], quick=False, folder=tmp_path).rename(tmp_path / "20260101T000000.json")
    save([old], quick=True, folder=tmp_path).rename(tmp_path / "20260102T000000-quick.json")
    assert previous(tmp_path) == {"rate": old, "memory": older}


def test_a_line_tells_the_mark_and_the_change() -> None:
    now, before = Result("rate", 0.2, "bare", 0.3, parts={"ours": 1234.5}), Result("rate", 0.25, "bare")
    text = line(now, before)
    assert "MISS >= 0.3" in text
    assert "-20%" in text
    assert "ours 1,234" in text
    assert "new" in line(now, None)
