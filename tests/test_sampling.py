import pytest
import torch
from torch import Tensor

from omni2.config import Pick, Sampling
from omni2.errors import InputError
from omni2.sampling import sample

LOGITS = torch.tensor([2.0, 0.0, 3.0, 1.0, -1.0])  # from the best: 2, 0, 3, 1, 4


def draw(pick: Pick, n: int = 4000, seed: int = 0, logits: Tensor = LOGITS) -> Tensor:
    return sample(logits.expand(n, -1), pick, torch.Generator().manual_seed(seed))


def shares(drawn: Tensor) -> Tensor:
    return torch.bincount(drawn, minlength=5) / len(drawn)


def test_greedy_takes_the_best_and_the_first_of_equals() -> None:
    rows = torch.tensor([[0.0, 5.0, 1.0], [7.0, 7.0, 7.0], [-3.0, -2.0, -2.0]])
    generator = torch.Generator()
    before = generator.get_state()
    assert sample(rows, Pick(), generator).tolist() == [1, 0, 1]
    assert sample(rows, Pick(temperature=2.0, top_k=1), generator).tolist() == [1, 0, 1]
    assert torch.equal(generator.get_state(), before), "greedy picks must not use up randomness"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_are_those_of_the_softmax(temperature: float) -> None:
    drawn = draw(Pick(temperature))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (4000,)
    torch.testing.assert_close(shares(drawn), (LOGITS / temperature).softmax(-1), atol=0.03, rtol=0)


def test_top_k_draws_from_the_k_best_in_their_proportion() -> None:
    expected = torch.zeros(5)
    expected[[2, 0]] = LOGITS[[2, 0]].softmax(-1)
    torch.testing.assert_close(shares(draw(Pick(1.0, top_k=2))), expected, atol=0.03, rtol=0)


def test_top_k_beyond_the_vocabulary_cuts_nothing() -> None:
    assert torch.equal(draw(Pick(1.0, top_k=99)), draw(Pick(1.0)))


def test_top_p_draws_from_the_fewest_that_hold_it() -> None:
    p = LOGITS.softmax(-1)
    best, second = float(p[2]), float(p[2] + p[0])
    assert set(draw(Pick(1.0, top_p=best - 0.01)).tolist()) == {2}
    assert set(draw(Pick(1.0, top_p=best + 0.01)).tolist()) == {2, 0}
    assert set(draw(Pick(1.0, top_p=second + 0.01)).tolist()) == {2, 0, 3}
    assert set(draw(Pick(1.0, top_p=1e-9)).tolist()) == {2}
    assert set(draw(Pick(1.0, top_p=1e-282)).tolist()) == {2}  # nothing, to float32


def test_top_p_is_measured_within_the_top_k() -> None:
    """Of the best two alone the best holds 73 %, of all five 64 %: .7 then takes one of two but two of five."""
    assert set(draw(Pick(1.0, top_k=2, top_p=0.7)).tolist()) == {2}
    assert set(draw(Pick(1.0, top_p=0.7)).tolist()) == {2, 0}


def test_seeds() -> None:
    assert torch.equal(draw(Pick(1.0), seed=3), draw(Pick(1.0), seed=3))
    assert not torch.equal(draw(Pick(1.0), seed=3), draw(Pick(1.0), seed=4))


def test_impossible_ids_are_never_drawn() -> None:
    drawn = draw(Pick(10.0), logits=torch.tensor([-torch.inf, 0.0, 0.0]))
    assert set(drawn.tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 10.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
    ],
)
def test_impossible_picks_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        Pick(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("max_tokens", [0, -5])
def test_impossible_samplings_are_refused(max_tokens: int) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        Sampling(max_tokens=max_tokens)


def test_defaults_are_greedy_as_in_the_released_models() -> None:
    assert Sampling() == Sampling(Pick(0.0, 0, 1.0), Pick(0.0, 0, 1.0), 0, None)


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 5e-151])
def test_no_temperature_is_too_cold(temperature: float) -> None:
    logits = torch.tensor([[1.0, 3.0, -50.0], [60.0, 7.0, 8.0]])
    assert sample(logits, Pick(temperature), torch.Generator().manual_seed(0)).tolist() == [1, 0]
