"""Tables of figures, and the targets they are held against."""

import re
from pathlib import Path

import pytest

from omni2.errors import InputError
from omni2.eval.report import MARKS, Figure, Table, as_json, by, joined, markdown, put_table, refreshed, share
from omni2.eval.targets import Target

SPOKEN = Figure("qa.spoken", "spoken, right", 91.26, "%", 120)
STOI = Figure("codec.stoi", "codec: STOI", 0.9512)
ASR = Figure("asr.test-clean", "WER", 30.0, "%", 5)
PLAIN = Figure("latency.first", "first sound", 218.4, "ms", 9)


def test_a_table_holds_figures_against_their_targets():
    rows = markdown(Table([SPOKEN, STOI, PLAIN])).splitlines()
    assert rows[0] == "| what | figure | target | reached |"
    assert rows[2] == "| spoken, right (120) | 91.3 % | ≥ 92 | **no** |"
    assert rows[3] == "| codec: STOI | 0.951 | ≥ 0.95 | yes |"
    assert rows[4] == "| first sound (9) | 218 ms |  |  |"


def test_published_figures_stand_beside_and_empty_columns_are_left_out():
    assert markdown(Table([PLAIN])).splitlines()[0] == "| what | figure |"
    table = markdown(Table([ASR], ["a note"]))
    assert "Mini-Omni2: 4.8 (arXiv 2410.11190)" in table
    assert table.endswith("\n\n- a note")
    assert markdown(Table([], ["cannot see"])) == "- cannot see"


@pytest.mark.parametrize(
    ("target", "words", "inside", "outside"),
    [
        (Target(92), "≥ 92", 92.0, 91.9),
        (Target(6, at_most=True), "≤ 6", 6.0, 6.1),
        (Target(1, below=True), "< 1", 0.9, 1.0),
        (Target(25, at_most=True, aim=True), "aim ≤ 25", 3.0, 26.0),
    ],
)
def test_targets(target: Target, words: str, inside: float, outside: float):
    assert str(target) == words
    assert target.reached(inside)
    assert not target.reached(outside)


def test_json_has_everything():
    found = as_json(Table([SPOKEN, PLAIN], ["n"]))
    assert found["notes"] == ["n"]
    assert found["figures"][0] == {
        "key": "qa.spoken",
        "what": "spoken, right",
        "value": 91.26,
        "unit": "%",
        "count": 120,
        "target": "≥ 92",
        "reached": False,
        "released": None,
    }
    assert found["figures"][1]["reached"] is None


def test_tables_join_without_details_and_wrong_answers_are_made_when_read():
    made = []
    lines = (made.append(i) or f"line {i}" for i in range(2))
    table = joined([Table([SPOKEN], ["one"], lines), Table([Figure("x", "x", 1, detail=True)], ["two"], ["last"])])
    assert (table.figures, table.notes, made) == ([SPOKEN], ["one", "two"], [])
    assert list(table.wrong) == ["line 0", "line 1", "last"]


def test_small_helpers():
    assert share([True, False, False, True]) == 50
    assert share([]) == 0
    assert by(["ab", "c", "ad"], lambda one: one[0]) == {"a": ["ab", "ad"], "c": ["c"]}


def test_a_table_is_put_between_its_marks(tmp_path: Path):
    file = tmp_path / "card.md"
    file.write_text(f"before\n{MARKS[0]}\nold \\1\n{MARKS[1]}\nafter\n")
    put_table(file, lambda old: old.strip().replace("old", "| new"))
    put_table(file, lambda old: f"{old.strip()} |")
    assert file.read_text() == f"before\n{MARKS[0]}\n| new \\1 |\n{MARKS[1]}\nafter\n"
    file.write_text("no marks")
    with pytest.raises(InputError, match="nano-table"):
        put_table(file, lambda old: "| new |")


def test_a_part_of_a_table_is_printed_anew_and_the_rest_stays():
    later = "… from its end to silence, median"
    whole = Table(
        [
            SPOKEN,
            Figure("a", "order, clean", 1),
            Figure("b", later, 2, "s", 20),
            Figure("c", "order, 5 dB", 3),
            Figure("d", later, 4, "s", 17),
            Figure("e", "false stops (2 in 20 min)", 6),
        ],
        ["words missed most: a 2 of 20", "photograph lion.jpg, right: a lion", "photograph gone.jpg, right: a gap"],
    )
    part = Table(
        [
            Figure("c", "order, 5 dB", 30),
            Figure("d", later, 40, "s", 18),
            Figure("e", "false stops (0 in 20 min)", 0),
            Figure("f", "of a topic", 1, detail=True),
        ],
        ["photograph lion.jpg, wrong: a cat", "photograph new.jpg, right: a cow"],
    )
    old = markdown(whole)
    assert refreshed(f"\n{old}\n", whole) == old
    expected = old.replace("(17)", "(18)").replace("4 s", "40 s").replace("dB | 3 |", "dB | 30 |")
    expected = expected.replace("(2 in 20 min) | 6 |", "(0 in 20 min) | 0 |")
    expected = expected.replace("right: a lion", "wrong: a cat").replace(
        "gone.jpg, right: a gap", "new.jpg, right: a cow"
    )
    assert refreshed(old, part) == expected
    for empty in ("\n", "\nnothing was measured yet\n"):
        assert refreshed(empty, part) == markdown(part)


def test_no_two_rows_of_the_readmes_table_could_be_taken_for_one_another():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme[readme.index(MARKS[0]) + len(MARKS[0]) : readme.index(MARKS[1])]
    above, names = "", []
    for line in table.splitlines():
        if line.startswith("|"):
            what = re.sub(r" \(\d.*\)$", "", line.split("|")[1].strip())
            above = above if what.startswith("…") else what
            names.append((above, what))
    assert len(set(names)) == len(names) > 50
