"""Drawing one token: the distribution, what is left out of it, and what a row depends on."""

import numpy as np
import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.generation.sampling import SamplingSettings, draw, uniform_stream

LOGITS = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
GRID = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]


def shares(logits=LOGITS, allowed=None, **settings):
    rows = logits.expand(len(GRID), -1)
    masks = None if allowed is None else torch.tensor([allowed]).expand(len(GRID), -1)
    columns, _ = draw(rows, masks, GRID, SamplingSettings(**settings))
    return np.bincount(columns.numpy(), minlength=logits.shape[1]) / len(GRID)


def test_tokens_are_drawn_with_the_probabilities_of_the_model():
    np.testing.assert_allclose(shares(), LOGITS[0].softmax(0).numpy(), atol=1e-3)


def test_temperature_divides_the_logits():
    np.testing.assert_allclose(shares(temperature=0.5), (LOGITS[0] * 2).softmax(0).numpy(), atol=1e-3)
    assert shares(temperature=0.0)[2] == 1.0


def test_probabilities_are_renormalised_over_the_allowed_tokens():
    expected = np.exp([0.0, 1.0, -1.0])
    found = shares(allowed=[True, True, False, True])
    np.testing.assert_allclose(found[[0, 1, 3]], expected / expected.sum(), atol=1e-3)
    assert found[2] == 0.0


def test_truncation_acts_on_the_allowed_tokens():
    allowed = [True, True, False, True]
    assert (shares(allowed=allowed, top_k=2) > 0).tolist() == [True, True, False, False]
    assert (shares(allowed=allowed, top_p=0.5) > 0).tolist() == [False, True, False, False]
    # 0.67 + 0.24 + 0.09: the second is needed for 0.7, the third is not.
    assert (shares(allowed=allowed, top_p=0.7) > 0).tolist() == [True, True, False, False]


def test_log_probabilities_are_those_at_temperature_one_without_truncation():
    settings = SamplingSettings(temperature=0.3, top_k=1)
    column, value = draw(LOGITS, torch.tensor([[True, True, False, True]]), torch.tensor([0.5]), settings)
    expected = np.exp([0.0, 1.0, -1.0])
    assert column.item() == 1
    assert value.item() == pytest.approx(np.log(expected[1] / expected.sum()))


def test_a_forbidden_token_is_not_drawn_at_the_ends():
    ends = torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)
    masks = torch.tensor([[False, True, True, False]]).expand(2, -1)
    columns, _ = draw(LOGITS.expand(2, -1), masks, ends, SamplingSettings())
    assert columns.tolist() == [1, 2]


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    uniforms = torch.from_numpy(uniform_stream(0, 0, 9))
    settings = SamplingSettings(top_p=0.8)
    together = draw(logits, None, uniforms, settings)
    alone = [draw(logits[row : row + 1], None, uniforms[row : row + 1], settings) for row in range(9)]
    assert together[0].tolist() == [column.item() for column, _ in alone]


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(UserError, match="not numbers"):
        draw(torch.tensor([[float("nan"), 0.0]]), None, torch.tensor([0.5]), SamplingSettings())


def test_random_numbers_belong_to_seed_index_and_position():
    stream = uniform_stream(3, 7, 20)
    np.testing.assert_array_equal(stream[:5], uniform_stream(3, 7, 5))
    assert not np.intersect1d(stream, uniform_stream(3, 8, 20)).size
    assert not np.intersect1d(stream, uniform_stream(4, 7, 20)).size
    assert ((stream >= 0) & (stream < 1)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0},
        {"max_new_tokens": 0}, {"batch_size": 0}, {"seed": -1}, {"seed": 2**64},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SamplingSettings(**wrong)
