"""What is drawn: the shares of tasks, answers drawn evenly, held-out texts never, streams that go on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import CONFIG, FRAME_RATE, STAGES, frames, mixture, rows, write
from toys import HEARD, LAYOUT, SEEN, tiny_tokenizer

from omni2.errors import OmniError
from omni2.prompt import PromptBuilder
from omni2.tokens import LAYERS, TEXT_LAYER
from omni2.train.data.schema import Row, keyed
from omni2.train.mixture import Mixture, loosened, masked, restyled
from omni2.train.samples import IGNORE, paced
from omni2.train.sources import Pool, Stream, is_held_out
from omni2.train.stages import KINDS, Stage

PLAIN = Stage("plain", {"A1T2": 1.0}, 1, 1e-3, masked=0.0, loose=0.0)


def drawn(mix: Mixture, stage: Stage, n: int = 300) -> list:
    rng = np.random.default_rng(0)
    return [mix.draw(stage, rng) for _ in range(n)]


def said(sample) -> tuple[int, ...]:
    return tuple(token for token in sample.targets[TEXT_LAYER].tolist() if token != IGNORE)


def test_everyday_sentences_are_transcribed_and_out_of_scope():
    mix = mixture(("a dog ran", "the sun set"))
    spoken = {tuple(mix.encode(text)) for text in ("a dog ran", "the sun set")}
    share = np.mean([s.heard in spoken for s in drawn(mix, Stage("s", {"A1T1": 1.0}, 1, 1e-3, sentences=0.5))])
    assert 0.4 < share < 0.65
    answers = {said(s) for s in drawn(mix, Stage("s", {"A1T2": 1.0}, 1, 1e-3)) if s.heard in spoken}
    assert answers == {(*mix.encode("no"), LAYOUT.eot)}


def test_answers_are_drawn_evenly_however_many_questions_they_have():
    many = [
        keyed(Row("", "answer", "toy", "MIT", question_text=f"{i}", answer_text="often" if i else "once"))
        for i in range(40)
    ]
    mix = Mixture(Pool(many, 0), tiny_tokenizer(), LAYOUT, CONFIG, FRAME_RATE)
    counts = Counter(said(s) for s in drawn(mix, Stage("s", {"T1T2": 1.0}, 1, 1e-3)))
    assert all(100 < n < 200 for n in counts.values())


def test_every_task_says_what_it_has_to():
    mix, rng = mixture(seen=SEEN, listens=True), np.random.default_rng(0)
    build = PromptBuilder(LAYOUT, 2)
    for task, kind in KINDS.items():
        row = mix.source.draw(kind, PLAIN, rng)
        sample = mix.sample(task, row, PLAIN, rng)
        assert {span.modality for span in sample.prompt.spans} == ({"audio"} if kind.asked == "sound" else set()) | (
            {"image"} if kind.picture else set()
        )
        answer = row.answer_text if task != "A1T1" else row.question_text
        ids = mix.encode(answer) if task != "listen" else [LAYOUT.irq if row.label == "irq" else LAYOUT.n_irq]
        assert said(sample) == (*ids, LAYOUT.eot)
        assert (sample.targets[0] != IGNORE).any() == (kind.reply == "speech")
        assert sample.prompt.audio_out == (kind.reply == "speech")
    heard = torch.zeros(7, HEARD)
    listening, transcription = build.listening(heard), build.transcription(heard)
    assert listening.ids.shape == transcription.ids.shape
    assert (listening.ids != transcription.ids).nonzero().tolist() == [[TEXT_LAYER, len(listening) - 1]]
    assert listening.ids[TEXT_LAYER, -1] == LAYOUT.listen
    assert not listening.audio_out


def test_words_are_put_where_the_voice_says_them():
    config = replace(CONFIG, text_lead=2)
    mix = Mixture(Pool(rows(), 0), tiny_tokenizer(), LAYOUT, config, 10.0)
    row = Row(
        "k", "read", "toy", "MIT", answer_text="a dog ran", answer_codes=frames(20), answer_starts=(0.1, 0.9, 1.5)
    )
    text = mix.sample("T1A1", row, PLAIN, np.random.default_rng(0)).targets[TEXT_LAYER]
    encoded = tiny_tokenizer().encode("a dog ran")
    second = next(i for i, (_, end) in enumerate(encoded.offsets) if end > 2)
    emitted = ((text >= 0) & (text < LAYOUT.text_ids)).nonzero().flatten().tolist()
    assert text[emitted].tolist() == encoded.ids
    assert emitted[0] == 0
    assert emitted[second] == 7  # 0.9 s is frame 9
    assert text[emitted[-1] + 1] == LAYOUT.eot
    assert set(text[: emitted[-1]].tolist()) - set(encoded.ids) == {LAYOUT.pad_text}
    guessed = mix.sample("T1A1", replace(row, answer_starts=None), PLAIN, np.random.default_rng(0)).targets[TEXT_LAYER]
    assert guessed[(guessed >= 0) & (guessed < LAYOUT.text_ids)].tolist() == encoded.ids


def test_words_said_faster_than_a_token_a_step_wait_for_each_other():
    assert paced([0.0, 0.0, 0.05, 1.0, 1.0], 10.0, 2) == [0, 1, 2, 8, 9]


def test_pictures_are_drawn_by_topic_and_described_only_where_nothing_is_asked():
    shown = torch.zeros(5, 8)

    def picture(i: int, topic: str, question: str) -> Row:
        row = Row("", "see", "toy", "MIT", topic, sha256=str(i), picture_features=shown)
        return keyed(replace(row, question_text=question, answer_text=f"{topic} {i}"))

    asked = [picture(i, "name" if i else "colour", "what") for i in range(20)]
    pool = Pool([*asked, picture(0, "caption", "")], 0)
    rng = np.random.default_rng(0)
    topics = Counter(pool.draw(KINDS["VT1T2"], PLAIN, rng).topic for _ in range(200))
    assert {*topics} == {"name", "colour"}
    assert min(topics.values()) > 70
    assert {pool.draw(KINDS["VT2"], PLAIN, rng).answer_text for _ in range(20)} == {"caption 0"}


def test_both_labels_are_drawn_alike():
    mix = mixture(listens=True)
    labels = Counter(said(s)[0] for s in drawn(mix, Stage("s", {"listen": 1.0}, 1, 1e-3)))
    assert {*labels} == {LAYOUT.irq, LAYOUT.n_irq}
    assert min(labels.values()) > 100


def test_what_a_microphone_hears_is_drawn_by_situation():
    row = Row("", "listen", "toy", "MIT", question_features=HEARD, topic="near", label="n-irq")
    over, ordered = replace(row, topic="over"), replace(row, topic="ordered", label="irq")
    pool = Pool([replace(r, key=str(i)) for i, r in enumerate([row, over, *[ordered] * 30])], 0)
    topics = [pool.draw(KINDS["listen"], PLAIN, np.random.default_rng(i)).topic for i in range(150)]
    assert all(30 < n < 70 for n in Counter(topics).values())


def test_tasks_without_rows_are_left_out():
    stage = Stage("s", {"A1T2": 0.5, "VT2": 0.3, "listen": 0.2}, 1, 1e-3)
    assert {*mixture().possible(stage).mixture} == {"A1T2"}
    with pytest.raises(OmniError, match="no rows for the stage 's'"):
        mixture().possible(Stage("s", {"VT2": 1.0}, 1, 1e-3))
    assert not mixture().possible(Stage("s", {"VT2": 1.0}, 0, 1e-3)).mixture


def test_what_is_too_long_is_never_drawn():
    tight = mixture()
    tight.config = replace(CONFIG, block_size=14)
    stage = Stage("s", {"A1T2": 1.0, "A1A2": 1.0}, 1, 1e-3)
    assert all(len(s) <= 14 for s in drawn(tight, stage, 50))
    tight.config = replace(CONFIG, block_size=5)
    with pytest.raises(OmniError, match="longer than the 5 positions"):
        drawn(tight, stage, 1)


def test_rows_without_features_say_what_to_do():
    row = replace(rows()[0], question_features=None, question_audio=b"sound")
    with pytest.raises(OmniError, match="no encoder features"):
        mixture().sample("A1T2", row, PLAIN, np.random.default_rng(0))
    encoded = Mixture(
        Pool([row], 0),
        tiny_tokenizer(),
        LAYOUT,
        CONFIG,
        FRAME_RATE,
        lambda r: replace(r, question_features=torch.ones(9, HEARD)),
    )
    assert drawn(encoded, PLAIN, 1)[0].prompt.spans[0].features.shape == (9, HEARD)


def texts(n: int) -> list[Row]:
    return [keyed(Row("", "answer", "toy", "MIT", question_text=f"question {i}", answer_text=f"{i}")) for i in range(n)]


@pytest.mark.parametrize("streamed", [False, True])
def test_held_out_texts_are_never_drawn(tmp_path: Path, streamed: bool):
    made = texts(200)
    out = {row.answer_text for row in made if is_held_out(vars(row))}
    assert 0 < len(out) < 12
    source = Stream([write(tmp_path / "data", made)], 0) if streamed else Pool(made)
    kind, rng = KINDS["T1T2"], np.random.default_rng(0)
    assert {source.draw(kind, PLAIN, rng).answer_text for _ in range(1000)}.isdisjoint(out)
    unseen = source.held_out()
    assert {unseen.draw(kind, PLAIN, rng).answer_text for _ in range(100)} == out


def test_a_stream_goes_on_where_it_stood_and_turns_in_another_order(tmp_path: Path):
    folder = write(tmp_path / "data", texts(30))
    kind, rng = KINDS["T1T2"], np.random.default_rng(0)
    whole = Stream([folder], 5)
    order = [whole.draw(kind, PLAIN, rng).answer_text for _ in range(80)]
    used = {row.answer_text for row in texts(30) if not is_held_out(vars(row))}
    n = len(used)
    assert {*order[:n]} == {*order[n : 2 * n]} == used
    assert order[:n] != order[n : 2 * n]
    cut = Stream([folder], 5)
    for _ in range(n + 7):
        cut.draw(kind, PLAIN, rng)
    again = Stream([folder], 5)
    again.restore(cut.place())
    assert [again.draw(kind, PLAIN, rng).answer_text for _ in range(20)] == order[n + 7 : n + 27]
    halves = [Stream([folder], 5).split(part, 2) for part in range(2)]
    shares = [{half.draw(kind, PLAIN, rng).answer_text for _ in range(10)} for half in halves]
    assert shares[0].isdisjoint(shares[1]), "in one turn no row is read by both"


def test_a_stream_without_such_rows_says_so(tmp_path: Path):
    stream = Stream([write(tmp_path / "data", texts(4))], 0)
    assert stream.serves(KINDS["T1T2"])
    assert not stream.serves(KINDS["listen"])
    with pytest.raises(OmniError, match="no rows of 'answer' can be used"):
        stream.draw(KINDS["A1A2"], PLAIN, np.random.default_rng(0))


def test_masking_and_loosening_keep_what_matters():
    rng = np.random.default_rng(1)
    features = torch.ones(60, HEARD)
    for _ in range(30):
        out = masked(features, 0.4, rng)
        assert out.shape == features.shape
        assert (out.mean(1) < 0.5).sum() <= 16
        text = loosened("What is the capital of France?", 0.5, rng)
        assert "capital" in text.lower()
        assert "france" in text.lower()
    assert masked(features, 0.0, rng) is features
    assert loosened("What is the capital?", 0.0, rng) == "What is the capital?"


def test_another_manner_keeps_what_is_said():
    def plain(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / x.std(0, correction=0)

    torch.manual_seed(0)
    features, other = torch.randn(60, HEARD), 3 * torch.randn(20, HEARD) + 5
    made = [restyled(features, other, np.random.default_rng(seed)) for seed in range(200)]
    for out in made:
        torch.testing.assert_close(plain(out), plain(features), rtol=1e-3, atol=1e-3)
    shifts = [float(((out.mean(0) - features.mean(0)) / (other.mean(0) - features.mean(0))).mean()) for out in made]
    assert min(shifts) >= -1e-3
    assert max(shifts) == pytest.approx(0.5, abs=0.02)
    assert restyled(features[:1], other[:1], np.random.default_rng(0)).isfinite().all()


def test_pictures_and_sounds_take_on_the_manner_of_others():
    mix = mixture(seen=SEEN, listens=True)
    for task in ("VA1T2", "VT1T2", "A1T2", "A1T1", "listen"):
        row = mix.source.draw(KINDS[task], PLAIN, np.random.default_rng(0))
        for share, changed in ((0.0, False), (1.0, True)):
            stage = replace(PLAIN, mixture={task: 1.0}, restyled=share)
            samples = [mix.sample(task, row, stage, np.random.default_rng(seed)) for seed in range(12)]
            features = [torch.cat([span.features.flatten() for span in sample.prompt.spans]) for sample in samples]
            same = [torch.equal(one, features[0]) for one in features]
            assert all(same) != changed, (task, share)


def test_a_sound_that_nobody_hears_is_not_encoded():
    sounds, pool = [], mixture(seen=SEEN)
    mix = Mixture(
        pool.source, pool.tokenizer, LAYOUT, CONFIG, FRAME_RATE, lambda row: sounds.append(row.question_audio) or row
    )
    for task in ("VT1T2", "VA1T2"):
        row = replace(mix.source.draw(KINDS[task], PLAIN, np.random.default_rng(0)), question_audio=b"sound")
        mix.sample(task, row, PLAIN, np.random.default_rng(0))
    assert sounds == [None, b"sound"]


def test_every_part_draws_its_own_samples_and_layers_are_whole():
    mix = mixture()
    one, two = (mix.batches(STAGES[0], 4, 0, 0, part, 2) for part in (0, 1))
    assert all(s.targets.shape[0] == LAYERS for batch in one for s in batch)
    assert any(len(a) != len(b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
