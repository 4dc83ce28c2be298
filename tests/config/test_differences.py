"""Which changes of a configuration a resumed run may have."""

from __future__ import annotations

from typing import Any

import pytest

from crystalfm.config.differences import differences, require_resumable
from crystalfm.contracts import UserError

BASE: dict[str, Any] = {
    "seed": 1,
    "trainer": {"max_epochs": 2, "precision": "32-true"},
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]},
    "scheduler": {"name": "plateau"},
    "paths": {"runs": "runs"},
    "callbacks": {"ema_decay": None},
}


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**BASE, **{name: {**BASE.get(name, {}), **values} for name, values in sections.items()}}


def test_equal_trees_have_no_difference() -> None:
    assert differences(BASE, changed()) == []


def test_a_key_that_earlier_versions_lack_counts_as_null() -> None:
    newer = changed(trainer={"batch_budget": None}, optimizer={"rank": {"targets": None}})
    assert differences(BASE, newer) == differences(newer, BASE) == []
    found = differences(BASE, changed(trainer={"batch_budget": 64}, callbacks={"ema_decay": 0.9}))
    assert [item.key for item in found] == ["callbacks.ema_decay", "trainer.batch_budget"]


def test_safe_changes_are_returned() -> None:
    found = require_resumable(BASE, changed(trainer={"max_epochs": 5}, paths={"runs": "elsewhere"}), "x.ckpt")
    assert [str(item) for item in found] == ["paths.runs: runs -> elsewhere", "trainer.max_epochs: 2 -> 5"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("optimizer", {"lr": 2e-3}),
        ("optimizer", {"betas": [0.9, 0.99]}),
        ("trainer", {"precision": "bf16-mixed"}),
        ("callbacks", {"ema_decay": 0.9}),
    ],
)
def test_changes_that_alter_the_training_are_refused(section: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"! {section}\."):
        require_resumable(BASE, changed(**{section: values}), "x.ckpt")


def test_keys_that_came_or_went_count(tmp_path: Any) -> None:
    found = differences(BASE, {**BASE, "extra": 1})
    assert [(item.key, item.before, item.now, item.safe) for item in found] == [("extra", "(absent)", 1, False)]


def test_a_cosine_schedule_fixes_the_length_of_training() -> None:
    before = changed(scheduler={"name": "cosine"})
    now = {**before, "trainer": {**before["trainer"], "max_epochs": 9}}
    with pytest.raises(UserError, match=r"! trainer\.max_epochs: 2 -> 9"):
        require_resumable(before, now, "x.ckpt")


def test_a_key_is_safe_by_whole_names_only() -> None:
    found = differences({"name": "a", "name_of_model": "b"}, {"name": "c", "name_of_model": "d"})
    assert {item.key: item.safe for item in found} == {"name": True, "name_of_model": False}
