"""What is bundled for evaluation is known to the guard."""

from omni2.eval import vision
from omni2.train.data.leaks import Guard, digest
from omni2.train.data.schema import Row


def test_the_reserved_artists_drawings_are_guarded():
    row = Row("1", "see", "toy", "MIT", question_text="what is it", sha256=digest(vision.FONT))
    assert "kept for evaluation" in Guard().reason(row)
    assert Guard().reason(Row("2", "see", "toy", "MIT", question_text="what is it", sha256="0" * 64)) == ""
