"""A new model of the released shape: Qwen2's weights do what they did, and each stage of the paper runs on a toy."""

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from folders import Holder, clip_weights, snac_folder
from lessons import plan, rows, write
from toys import LAYOUT, photo, tiny_tokenizer, tone

from omni2.encoder import AudioEncoder
from omni2.errors import CheckpointError
from omni2.omni import OmniModel
from omni2.train.fit import run
from omni2.train.presets import MINI_OMNI2
from omni2.train.released import begin, grow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as on the hub: Qwen2, the encoders, the codec."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sizes = {"vocab_size": LAYOUT.text_ids, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = Qwen2Config(
        **sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e6
    )
    model = Qwen2ForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.2)
    model.save_pretrained(root / "qwen2")
    tiny_tokenizer().save(str(root / "qwen2" / "tokenizer.json"))
    (root / "encoders").mkdir()
    whisper = {f"encoder.{k}": v for k, v in AudioEncoder(80, 1500, 64, 1, 1).state_dict().items()}
    torch.save({"dims": {}, "model_state_dict": whisper}, root / "encoders" / "small.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(Holder(clip_weights())), str(root / "encoders" / "ViT-B-32.pt"))
    snac_folder(root / "snac")
    return root


def new(parts: Path):
    return begin(*(str(parts / name) for name in ("qwen2", "encoders", "snac")), layout=LAYOUT)


def test_qwen2_does_what_it_did(parts: Path):
    from transformers import Qwen2Model

    qwen2 = Qwen2Model.from_pretrained(parts / "qwen2").eval()
    lm = new(parts).lm.eval()
    ids = torch.arange(0, 60, 5)[None]
    with torch.no_grad():
        ours = lm(lm.embedding(ids))
        theirs = qwen2(input_ids=ids).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.equal(lm.embedding.weight[: LAYOUT.text_ids], qwen2.embed_tokens.weight)
    rest = lm.embedding.weight[LAYOUT.text_ids :]
    assert len(rest) == LAYOUT.vocab_size - LAYOUT.text_ids
    assert rest.std().item() == pytest.approx(qwen2.embed_tokens.weight.std().item(), rel=0.1)


@pytest.mark.parametrize("damage", ["missing", "other", "short"])
def test_other_weights_are_refused(parts: Path, tmp_path: Path, damage: str):
    config, weights = parts / "qwen2" / "config.json", parts / "qwen2" / "model.safetensors"
    layout = replace(LAYOUT, text_ids=303) if damage == "short" else LAYOUT
    if damage == "missing":
        weights = tmp_path / "none.safetensors"
    if damage == "other":
        settings = json.loads(config.read_text()) | {"num_hidden_layers": 3}
        config = tmp_path / "config.json"
        config.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="Qwen2"):
        grow(config, weights, layout, 64, 32)


def test_each_stage_of_the_paper_runs_and_the_model_answers(parts: Path, tmp_path: Path):
    """Rows with sounds and pictures themselves: features are made on the way."""
    made = rows(("a dog ran",), heard=64, seen=32, listens=True)
    codes = {row.answer_text: row.answer_codes for row in made if row.task == "read"}
    made = [replace(row, answer_codes=codes.get(row.answer_text, row.answer_codes)) for row in made]
    write(tmp_path / "data", made)
    stages = tuple(replace(stage, steps=2, warmup=1) for stage in MINI_OMNI2.stages)
    model = run(plan(tmp_path, "out", stages, begin=partial(new, parts), streamed=True, batch=2))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["name"] for row in log if row["kind"] == "train"] == [s.name for s in stages for _ in range(2)]
    loaded = OmniModel.from_pretrained(model)
    assert loaded.abilities == {"answer", "transcribe", "see", "listen"}
    answer = loaded.answer(tone(), image=photo())
    assert answer.finish_reason
    assert loaded.transcribe(tone()) is not None
