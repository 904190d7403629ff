"""Steps in few shapes are the steps of the model."""

import pytest
import torch
from toys import prompts, tiny_bundle, tone

from omni2.engine import Engine
from omni2.errors import InputError
from omni2.model import OmniLM, Rows
from omni2.omni import OmniModel
from omni2.static import StaticLM, power, recorded


def watched(lm: OmniLM, shapes: set[tuple[int, int | None]]) -> StaticLM:
    """`lm` in few shapes, not compiled, which are told."""

    def watch(step):
        def run(x: torch.Tensor, rows: Rows) -> torch.Tensor:
            shapes.add((len(x), rows.length))
            return step(x, rows)

        return run

    return StaticLM(lm, watch)


def test_powers_of_two() -> None:
    assert [power(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_conversations_that_come_and_go_decode_the_same_tokens_in_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni2.static.SHORTEST", 16)
    lm, shapes = tiny_bundle(block_size=60).lm, set()
    decoded = []
    for one in (lm, watched(lm, shapes)):
        engine, got = Engine(one, 8), []
        talks = []
        for prompt in list(prompts().values())[:4]:
            talks.append(engine.submit(prompt))
            got += [next(talk, None) for talk in talks for _ in range(3)]
        decoded.append([*got, *(list(talk) for talk in talks)])
    assert decoded[0] == decoded[1]
    assert {n for n, _ in shapes} <= {1, 2, 4, 8}
    assert {16, 60} < {length for _, length in shapes} <= {16, 32, 60}


def test_what_is_too_many_changes_no_row() -> None:
    lm = tiny_bundle().lm
    static = watched(lm, set())
    cache = static.cache(3)
    before = cache.keys[:, :3].clone()
    x = torch.randn(3, 1, lm.config.n_embd)
    rows = Rows(cache, torch.tensor([2, 0, 1]), torch.tensor([4, 0, 2]))
    with torch.inference_mode():
        static(x, rows)
    changed = (cache.keys[:, :3] != before).any(-1).any(2).any(0)
    assert changed.nonzero().tolist() == [[0, 0], [1, 2], [2, 4]]


@pytest.mark.slow
def test_compiled_steps_are_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, **options: real(step, backend="aot_eager", dynamic=False))
    lm = tiny_bundle().lm
    prompt = next(iter(prompts().values()))
    slow, fast = (
        [next(steps) for steps in [Engine(one, 2).submit(prompt)] for _ in range(4)]
        for one in (lm, StaticLM(lm, recorded))
    )
    assert slow == fast


def test_a_model_whose_steps_are_recorded_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: asked.append(options) or step)
    bundle = tiny_bundle()
    plain, model = OmniModel(bundle), OmniModel(bundle, recorded=True)
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]
    assert isinstance(model.engine.lm, StaticLM)
    assert [answer.text for answer in (plain.answer(tone()), model.answer(tone()))] == 2 * [plain.answer(tone()).text]
    with pytest.raises(InputError, match="cannot move"):
        model.engine.lm.to("cpu")


def test_what_openvino_compiled_is_not_recorded() -> None:
    fast = pytest.importorskip("omni2.fast").FastParts("int8").remake(tiny_bundle())
    with pytest.raises(InputError, match="OpenVINO"):
        OmniModel(fast, recorded=True)
