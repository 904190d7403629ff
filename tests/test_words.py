from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import LAYOUT, tiny_tokenizer

from omni2.words import BROKEN, WordStream


def pieces(ids: list[int]) -> list[str]:
    words = WordStream(tiny_tokenizer(), LAYOUT)
    return [*(words.push(token) for token in ids), words.flush()]


@given(st.text())
@example("naïve 🤖👩‍👩‍👧 ขอบคุณ 你好\n\t ")
@example("\ufffd")
@example("a\ufffdb")
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_whole(text: str) -> None:
    assert "".join(pieces(tiny_tokenizer().encode(text).ids)) == text


@given(st.lists(st.integers(0, LAYOUT.text_block - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_ids_come_back_as_the_decoded_whole(ids: list[int]) -> None:
    """Broken bytes too; specials and ids the tokenizer does not have say nothing."""
    words = [token for token in ids if token < LAYOUT.text_ids]
    assert "".join(pieces(ids)) == tiny_tokenizer().decode(words)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=BROKEN)))
@settings(max_examples=100, deadline=None)
def test_no_piece_holds_part_of_a_character(text: str) -> None:
    assert not any(BROKEN in piece for piece in pieces(tiny_tokenizer().encode(text).ids))


def test_words_are_told_as_soon_as_they_are_certain() -> None:
    tokenizer = tiny_tokenizer()
    words = WordStream(tokenizer, LAYOUT)
    told = [words.push(token) for token in tokenizer.encode("ab").ids]
    assert "".join(told) == "ab"
    assert words.flush() == ""
    robot = [words.push(token) for token in tokenizer.encode("🤖").ids]
    assert len(robot) > 1
    assert [*robot[:-1], robot[-1]] == [""] * (len(robot) - 1) + ["🤖"]


def test_a_cut_off_character_is_shown_as_broken_at_the_end() -> None:
    words = WordStream(tiny_tokenizer(), LAYOUT)
    ids = tiny_tokenizer().encode("a🤖").ids[:-1]
    assert "".join(words.push(token) for token in ids) == "a"
    assert words.flush().startswith(BROKEN)


def test_specials_say_nothing() -> None:
    words = WordStream(tiny_tokenizer(), LAYOUT)
    specials = [LAYOUT.eot, LAYOUT.pad_text, LAYOUT.answer_text, LAYOUT.asr, LAYOUT.text_block - 1]
    assert [words.push(token) for token in specials] == [""] * 5
    assert words.flush() == ""
