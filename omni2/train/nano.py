"""The embedded model, part by part, from text to `omni2/assets/nano`; each step is taken up where it stopped.

speech → codec → codes ┐
questions ─────────────┴→ language model → assets
"""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.multiprocessing.spawn import spawn

from omni2.bundle import Bundle, save
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.config import ModelConfig
from omni2.errors import OmniError
from omni2.hub import load_bundle
from omni2.model import OmniLM
from omni2.pickles import load_pickle
from omni2.tokens import NANO
from omni2.train.codec_loop import CodecTraining, train_codec
from omni2.train.data.questions import Item, corpus, unknown
from omni2.train.data.sentences import definitions, examples, shuffled
from omni2.train.data.shards import build_questions, read_questions
from omni2.train.data.speech import build_speech, load_speech
from omni2.train.data.voices import ANSWER, voice
from omni2.train.encoder import load_tiny
from omni2.train.loop import Training, train
from omni2.train.mixture import Mixture
from omni2.train.run import save_state
from omni2.train.stages import GENERALISE, SPEAK, STEADY, UNDERSTAND
from omni2.train.vocabulary import train_tokenizer

ASSETS = Path(__file__).parents[1] / "assets" / "nano"
HELD_OUT = 200  # definitions, and as many examples, that no part is trained on: for measuring codec and transcription
CONFIG = ModelConfig(
    n_layer=6,
    n_head=6,
    n_query_groups=2,
    head_size=64,
    n_embd=384,
    intermediate_size=1024,
    block_size=1024,
    whisper_adapter_dim=384,
    adapter_size=768,
    audio_stride=4,
)


@dataclass(frozen=True)
class Workshop:
    """Where each part lies under one folder."""

    root: Path

    @property
    def speech(self) -> Path:
        """Speech of the answer voice."""
        return self.root / "speech"

    @property
    def codec(self) -> Path:
        """The codec's checkpoint and log."""
        return self.root / "codec"

    @property
    def questions(self) -> Path:
        """Shards of spoken questions."""
        return self.root / "questions"

    @property
    def sentences(self) -> Path:
        """Shards of spoken everyday sentences, to learn to transcribe from."""
        return self.root / "sentences"

    @property
    def codes(self) -> Path:
        """Codec frames of all answers."""
        return self.root / "frames.safetensors"

    @property
    def lm(self) -> Path:
        """The language model's checkpoint, tokenizer and log."""
        return self.root / "lm"


def items() -> list[Item]:
    """All intents, the out-of-scope one last."""
    return [*corpus(), unknown()]


def take_up(shop: Workshop, model: str) -> None:
    """Begin with the codec, tokenizer and language model of a finished model: training goes on from there."""
    bundle = load_bundle(model)
    if not isinstance(bundle.codec, IstftCodec):
        raise OmniError(f"{model} is no model of this chain; give nano or a folder made by `omni2 train assets`")
    for folder in (shop.codec, shop.lm):
        folder.mkdir(parents=True, exist_ok=True)
    save_state({"codec": bundle.codec.state_dict()}, shop.codec / "codec.pt")
    save_state({"lm": bundle.lm.state_dict(), "done": {"stage": 0, "step": 0}}, shop.lm / "lm.pt")
    bundle.tokenizer.save(str(shop.lm / "tokenizer.json"))


def make_speech(shop: Workshop, hours: float = 2.5) -> None:
    """Read dictionary definitions aloud in the answer voice."""
    build_speech(shuffled(definitions(), 0)[:-HELD_OUT], shop.speech, hours)


def make_codec(shop: Workshop, steps: int, threads: int) -> None:
    """Train the codec on that speech."""
    torch.set_num_threads(threads)
    train_codec(load_speech(shop.speech), shop.codec, CodecTraining(steps=steps))


def make_questions(shop: Workshop, phrasings: int, passes: int, workers: int) -> None:
    """Say so many phrasings of every intent `passes` times in drawn voices and keep the encoder's features.

    The out-of-scope intent has ten times as many.
    """
    texts = [text for item in corpus() for text in shuffled(list(item.train), 0)[:phrasings]]
    texts += shuffled(list(unknown().train), 0)[: 10 * phrasings]
    build_questions(texts, shop.questions, passes, workers)


def make_sentences(shop: Workshop, passes: int, workers: int) -> None:
    """Say everyday sentences `passes` times in drawn voices and keep the encoder's features."""
    build_questions(shuffled(examples(), 0)[:-HELD_OUT], shop.sentences, passes, workers)


def make_codes(shop: Workshop) -> None:
    """Say every answer in the answer voice and keep the codec's frames."""
    codec = trained_codec(shop)
    frames = {}
    for item in items():
        wave, _ = voice(ANSWER).say(item.answer)
        frames[item.answer] = codec.encode(torch.from_numpy(wave))
    save_file(frames, shop.codes)


def trained_codec(shop: Workshop) -> IstftCodec:
    """The codec as far as it is trained."""
    codec = IstftCodec(IstftConfig())
    codec.load_state_dict(load_pickle(shop.codec / "codec.pt")["codec"])
    return codec.eval()


def tokenizer(shop: Workshop) -> Tokenizer:
    """The text tokens, trained when first asked for."""
    file = shop.lm / "tokenizer.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = [t for item in items() for t in [*item.train, *[item.answer] * 10]]
        train_tokenizer(texts + shuffled(definitions(), 1)[:3000], NANO.text_ids).save(str(file))
    loaded: Tokenizer = Tokenizer.from_file(str(file))
    return loaded


def new_lm() -> OmniLM:
    """A language model with fresh weights; outputs of the blocks start small (GPT-2's initialisation)."""
    torch.manual_seed(0)
    lm = OmniLM(CONFIG, NANO)
    for name, weight in lm.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * CONFIG.n_layer) if "proj" in name else 0.02)
    nn.init.normal_(lm.embedding.weight, std=0.05)
    return lm


def make_lm(shop: Workshop, steps: tuple[int, int, int, int], batch: int, processes: int) -> None:
    """Train the language model in its four stages of so many `steps`, on so many processes of one thread."""
    if not shop.codes.exists() and any(steps[1:]):
        raise OmniError(f"{shop.codes} is missing; make it with `omni2 data codes`")
    tokenizer(shop)
    if processes == 1:
        _train_rank(0, 1, shop, steps, batch)
        return
    spawn(_train_rank, (processes, shop, steps, batch), processes)  # type: ignore[no-untyped-call]


def _train_rank(rank: int, world: int, shop: Workshop, steps: tuple[int, int, int, int], batch: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "29471")
    torch.set_num_threads(1)
    frames = load_file(shop.codes) if shop.codes.exists() else {}
    spoken, sentences = read_questions(shop.questions), read_questions(shop.sentences)
    mixture = Mixture(items(), spoken, frames, tokenizer(shop), NANO, CONFIG.audio_stride, sentences)
    stages = [replace(s, steps=n) for s, n in zip((UNDERSTAND, SPEAK, GENERALISE, STEADY), steps, strict=True)]
    train(new_lm(), mixture, stages, shop.lm, Training(batch=batch))


def make_assets(shop: Workshop, out: Path = ASSETS) -> None:
    """Put the parts together as a model folder in float16."""
    lm = new_lm()
    lm.load_state_dict(load_pickle(shop.lm / "lm.pt")["lm"])
    abilities = frozenset({"answer", "transcribe", "speak"})
    codec = trained_codec(shop)
    bundle = Bundle(lm.eval(), tokenizer(shop), load_tiny(), None, codec, "trimmed", abilities, "nano")
    save(bundle, out, torch.float16)
    rows = [f"| {name} | {size:,} | `{digest}` |" for name, size, digest in hashes(out)]
    table = "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *rows])
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    (out / "README.md").write_text(card.replace("{files}", table), encoding="utf-8")


def hashes(folder: Path = ASSETS) -> list[tuple[str, int, str]]:
    """Name, bytes and SHA-256 of every weight file in `folder`."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    return [(p.name, p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
