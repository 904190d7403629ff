"""The embedded model, part by part, from text to `omni2/assets/nano`; each step is taken up where it stopped.

speech → codec ┐
questions ─────┴→ rows → language model → assets
"""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from omni2.bundle import CODEC, ENCODERS, MODEL, Bundle, load, save
from omni2.codec.istft import IstftCodec, IstftConfig
from omni2.config import ModelConfig, Seek
from omni2.efficientnet import EfficientNet
from omni2.errors import InputError, OmniError
from omni2.hub import load_bundle
from omni2.model import OmniLM
from omni2.pickles import load_pickle
from omni2.tokens import NANO, TokenLayout
from omni2.train import fit
from omni2.train.codec_loop import STATE, CodecTraining, train_codec
from omni2.train.data.questions import corpus, unknown
from omni2.train.data.sentences import definitions, shuffled
from omni2.train.data.speech import load_speech
from omni2.train.data.store import shards
from omni2.train.decoder_loop import DecoderTraining, train_decoder
from omni2.train.efficientnet_weights import load_lite
from omni2.train.encoder import load_tiny
from omni2.train.eye import EyeTraining, train_eye
from omni2.train.vocabulary import train_tokenizer
from omni2.weights import read_into

EFFICIENTNET = "efficientnet"
ASSETS = Path(__file__).parents[1] / "assets" / "nano"
SEEK = Seek(beams=2, cascade=0.3, sure=0.8)  # 4 beams found no more right answers
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
    def data(self) -> Path:
        """Folders of rows, one for each source."""
        return self.root / "data"

    @property
    def lm(self) -> Path:
        """The language model's checkpoints, tokenizer, log, and at last the whole model."""
        return self.root / "lm"

    def sources(self) -> tuple[str, ...]:
        """The folders of rows.  Raises OmniError if there are none."""
        found = tuple(str(folder) for folder in sorted(self.data.glob("*")) if shards(folder))
        if not found:
            raise OmniError(f"no rows below {self.data}; make them with `omni2 data build corpus {self.data}/corpus`")
        return found


def make_codec(shop: Workshop, training: CodecTraining, threads: int) -> None:
    """Train the codec on speech of the answer voice."""
    torch.set_num_threads(threads)
    train_codec(load_speech(shop.speech), shop.codec, training)


def make_decoder(shop: Workshop, start: str, training: DecoderTraining, threads: int) -> None:
    """Train the decoder of the workshop's codec, or of the model `start`'s, further; the codes stay as they are.

    Raises InputError: the workshop has another codec than `start`'s, or that is none of this library's.
    """
    torch.set_num_threads(threads)
    if start and (shop.codec / STATE).exists():
        raise InputError(f"{shop.codec} holds a codec of its own; leave --from out, or give other --runs")
    codec = load_bundle(start).codec if start else trained_codec(shop)
    if not isinstance(codec, IstftCodec):
        raise InputError(f"the decoder of {start} cannot be trained here, only that of nano and models trained like it")
    train_decoder(load_speech(shop.speech), shop.codec, codec, training)


def make_eye(start: str, out: Path, training: EyeTraining, threads: int) -> Path:
    """Train the eye of the model `start` further; the folder of the model with it.

    Raises InputError: it has another eye than nano's; OmniError as `train_eye`.
    """
    torch.set_num_threads(threads)
    bundle = load_bundle(start)
    if not isinstance(bundle.vision_encoder, EfficientNet):
        raise InputError(f"the eye of {start} cannot be trained here, only that of nano and models trained like it")
    trained = train_eye(bundle.vision_encoder, out, training)
    save(replace(bundle, vision_encoder=trained), out / fit.MODEL, torch.float32)
    return out / fit.MODEL


def trained_codec(shop: Workshop) -> IstftCodec:
    """The codec as far as it is trained, with its better decoder if there is one.

    Raises OmniError if that was never begun.
    """
    if (shop.codec / CODEC).exists():
        return read_into(lambda: IstftCodec(IstftConfig()), shop.codec / CODEC)
    if not (shop.codec / STATE).exists():
        raise OmniError(f"{shop.codec} holds no codec; train it with `omni2 train codec`, or begin --from a model")
    codec = IstftCodec(IstftConfig())
    codec.load_state_dict(load_pickle(shop.codec / STATE)["codec"])
    return codec.eval()


def tokenizer(shop: Workshop) -> Tokenizer:
    """The text tokens, trained when first asked for."""
    file = shop.lm / "tokenizer.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = [t for item in (*corpus(), unknown()) for t in [*item.train, *[item.answer] * 10]]
        train_tokenizer(texts + shuffled(definitions(), 1)[:3000], NANO.text_ids).save(str(file))
    loaded: Tokenizer = Tokenizer.from_file(str(file))
    return loaded


def new_lm(config: ModelConfig = CONFIG, layout: TokenLayout = NANO) -> OmniLM:
    """A language model with fresh weights; outputs of the blocks start small (GPT-2's initialisation)."""
    torch.manual_seed(0)
    lm = OmniLM(config, layout)
    for name, weight in lm.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layer) if "proj" in name else 0.02)
    nn.init.normal_(lm.embedding.weight, std=0.05)
    return lm


def begin(shop: Workshop, start: str = "", vision: str = "") -> Bundle:
    """The model before its first stage: new, or the finished model `start`.

    `vision` is a model whose vision encoder to take, or "efficientnet" for the packaged weights; the language model
    gets an adapter for it.
    Raises OmniError: a part is missing, CheckpointError: a model cannot be loaded.
    """
    if start:
        bundle = load_bundle(start)
        bundle = replace(bundle, lm=recast(bundle.trainable(), text_lead=CONFIG.text_lead))
    else:
        bundle = Bundle(
            new_lm(), tokenizer(shop), load_tiny(), None, trained_codec(shop), "trimmed", frozenset(), "nano", SEEK
        )
    if not vision:
        return bundle
    eyes = load_lite().encoder if vision == EFFICIENTNET else load_bundle(vision).vision_encoder
    if eyes is None:
        raise OmniError(f"{vision} has no vision encoder")
    return replace(bundle, lm=recast(bundle.trainable(), vision_adapter_dim=eyes.out_width), vision_encoder=eyes)


def recast(lm: OmniLM, **sizes: int) -> OmniLM:
    """`lm` with some `sizes` of its configuration changed; weights that no longer fit begin anew."""
    config = replace(lm.config, **sizes)
    if config == lm.config:
        return lm
    changed, kept = new_lm(config, lm.layout), lm.state_dict()
    fresh = changed.state_dict()
    changed.load_state_dict({k: kept[k] if k in kept and kept[k].shape == w.shape else w for k, w in fresh.items()})
    return changed


def blend(model: Bundle, other: Bundle, share: float) -> Bundle:
    """`model`, its language model and encoders moved by `share`, from 0 to 1, towards those of `other` that they were
    trained from.

    What training took too far comes back, most of what it taught stays (Wortsman et al., arXiv 2109.01903).  Weights
    that `other` does not have in that shape stay as they are.  Raises InputError for another share.
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share lies between 0 and 1, not {share}")
    _move(model.trainable(), other.trainable(), share)
    for mine, before in (
        (model.audio_encoder, other.audio_encoder),
        (model.vision_encoder, other.vision_encoder),
    ):
        if isinstance(mine, nn.Module) and isinstance(before, nn.Module):
            _move(mine, before, share)
    return model


def _move(module: nn.Module, other: nn.Module, share: float) -> None:
    mine, before = module.state_dict(), other.state_dict()
    both = [name for name, value in mine.items() if name in before and before[name].shape == value.shape]
    module.load_state_dict(mine | {name: torch.lerp(mine[name], before[name], share) for name in both})


def make_assets(model: Path, out: Path = ASSETS) -> None:
    """Turn the trained model into the package's own, with its card: int8, the codec float16."""
    save(load(model), out, torch.float16, compact=(MODEL, *ENCODERS))
    rows = [f"| {name} | {size:,} | `{digest}` |" for name, size, digest in hashes(out)]
    table = "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *rows])
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    (out / "README.md").write_text(card.replace("{files}", table), encoding="utf-8")


def hashes(folder: Path = ASSETS) -> list[tuple[str, int, str]]:
    """Name, bytes and SHA-256 of every weight file in `folder`."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    return [(p.name, p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
