"""Types of settings: what annotations mean, and which values fit."""

import pytest

from crystalfm.config.python_source import parse_expression
from crystalfm.config.value_types import AnyOf, Choice, DictOf, ListOf, Scalar, mismatch, parse_type


def parse(text):
    return parse_type(parse_expression(text))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [0, -3], [1.0, True, "1", None, [1]]),
        ("float", [0.5, 2], [False, "0.5", None]),
        ("str", ["", "a"], [1, None, ["a"]]),
        ("bool", [True, False], [0, "true", None]),
        ("int | None", [1, None], ["1", 1.5]),
        ("Optional[float]", [1, None], ["x"]),
        ("'int | str'", [1, "a"], [1.5]),
        ("list[str]", [[], ["a"]], ["a", [1], None]),
        ("list[float] | None", [[1, 0.5], None], [["a"], 1]),
        ("dict[str, str]", [{}, {"gap": "eV"}], [{"gap": 1}, [], {1: "a"}]),
        ("Literal['a', 'b']", ["a"], ["c", 1]),
        ("Literal['auto'] | int", ["auto", 3], ["other", True]),
        ("Literal[1, 2]", [1], [True, "1", 3]),
        ("Any", [1, None, {}], []),
    ],
)
def test_annotation_accepts(annotation, good, bad):
    kind = parse(annotation)
    assert [value for value in good if not kind.accepts(value)] == []
    assert [value for value in bad if kind.accepts(value)] == []


@pytest.mark.parametrize("annotation", ["TargetScaling", "Mapping[str, EncoderNetwork]", "int | Store", "a.b"])
def test_types_that_yaml_cannot_hold(annotation):
    assert parse(annotation) is None
    assert parse_type(None) is None


def test_alias_is_looked_up():
    aliases = {"Name": parse_expression("Literal['x', 'y'] | None")}
    kind = parse_type(parse_expression("list[Name]"), aliases.get)
    assert kind == ListOf(AnyOf((Choice(("x", "y")), Scalar("None"))))
    assert kind.choices == ("x", "y")


def test_structured_types_own_their_keys():
    assert parse("dict[str, int] | None").structured
    assert not parse("list[int]").structured
    assert parse("Mapping[str, float]") == DictOf(Scalar("float"))


@pytest.mark.parametrize(
    ("annotation", "value", "message", "remedy"),
    [
        ("int", "abc", "'abc' does not fit: expected a whole number", ""),
        ("Literal['adamw', 'adam']", "adamm", "'adamm' does not fit: expected adamw | adam", "did you mean 'adam'?"),
        ("list[str] | None", "gap", "expected a list (text each) | null", "write a list: [gap]"),
        ("str | None", 3, "3 does not fit", "write it as text: '\"3\"'"),
        (
            "str | None",
            float("inf"),
            "inf does not fit",
            "words like InF and NaN are read as numbers; write text in two pairs of quotes: '\"InF\"'",
        ),
        ("int", {"a": 1}, "a section of keys does not fit", ""),
        ("int", None, "null does not fit", ""),
        ("bool", 1, "expected true or false", ""),
    ],
)
def test_mismatch_says_what_would_fit(annotation, value, message, remedy):
    wrong = mismatch(parse(annotation), value)
    assert message in wrong[0]
    assert wrong[1] == remedy


def test_no_mismatch_for_a_fitting_value():
    assert mismatch(parse("int | None"), None) is None
