"""Lessons run from top to bottom when nobody answers, and reply when somebody does."""

import json
import re
from pathlib import Path

import pytest

from cxr_companion.report.execute import declared_parameters, run_notebook
from cxr_companion.report.questions import answer_key, open_quiz, read_questions

LESSONS = sorted((Path(__file__).resolve().parents[1] / "nbs/lessons").glob("[0-9][0-9]_*.ipynb"))
GAN = next(path for path in LESSONS if path.stem == "10_gan_from_zero")
by_name = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def code_of(path: Path) -> list[str]:
    """The code cells of a notebook, as text."""
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def said(executed: Path) -> str:
    """Everything that an executed notebook shows as text."""
    cells = json.loads(executed.read_text())["cells"]
    outputs = [o for c in cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    texts = [o.get("text") or o.get("data", {}).get("text/html") or "" for o in outputs]
    return "\n".join("".join(text) for text in texts)


def answered(path: Path, to: Path, answers: dict[str, object]) -> Path:
    """A copy of a lesson into which somebody wrote answers."""
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        asked = re.search(r'quiz\.ask\("(\w+)"', "".join(cell["source"]))
        if asked and asked[1] in answers:
            lines = "".join(cell["source"]).splitlines(keepends=True)
            cell["source"] = [f"answer = {answers[asked[1]]!r}\n", *lines[1:]]
    to.write_text(json.dumps(notebook))
    return to


@by_name
def test_lesson_exports_nothing_and_declares_its_parameters(path):
    assert not any("#| export" in cell or "#| default_exp" in cell for cell in code_of(path))
    declared = declared_parameters(path)
    assert {"preset", "seed", "steps"} <= set(declared) and declared["preset"].default == "smoke"
    assert all(p.help for p in declared.values()), "every parameter says what it is"
    assert (path.parent / ".notest").is_file()


@by_name
def test_questions_and_lesson_agree(path):
    """What is asked is what is sealed, nothing is answered beforehand, and each question has one right answer."""
    asked = [re.search(r'quiz\.ask\("(\w+)"', cell) for cell in code_of(path)]
    answers = [cell.splitlines()[0] for cell, found in zip(code_of(path), asked, strict=True) if found]
    quiz = open_quiz(path.stem)
    assert sorted(found[1] for found in asked if found) == sorted(quiz.questions)
    assert 6 <= len(quiz.questions) and all(line.startswith("answer = None") for line in answers)
    key = answer_key(quiz.questions)
    assert key.groupby("question")["right"].sum().to_dict() == dict.fromkeys(quiz.questions, 1)


def test_nobody_reads_the_answers_off():
    """Neither the lesson nor the file beside it holds the words of a reply."""
    file = GAN.with_name(f"{GAN.stem}.questions.yaml")
    shown = GAN.read_text() + file.read_text()
    replies = answer_key(read_questions(file))["reply"]
    assert len(replies) > 20 and not any(reply in shown for reply in replies)


def test_replies_to_right_wrong_and_no_answers():
    quiz = open_quiz(GAN.stem)
    assert (quiz.ask("chance", 1.39).status, quiz.ask("chance", 0.69).status) == ("right", "wrong")
    assert quiz.ask("chance", 0.69).text.startswith("log 2 is one of the two terms.")
    assert quiz.ask("chance", 17).text == quiz.questions["chance"].hint
    for row in answer_key(quiz.questions).itertuples():
        reply = quiz.ask(row.question, 3.0 if row.answer == "from the run" else row.answer, right=3.0)
        assert (reply.status == "right", row.reply in reply.text) == (row.right, True)
        assert row.right or quiz.questions[row.question].hint in reply.text
    for name in quiz.questions:
        assert quiz.ask(name, None, right=3.0).status == "not answered"
        assert quiz.ask(name, "what?", right=3.0).status == "not understood"
    assert quiz.score() == f"0 of {len(quiz.questions)} right, 0 wrong, {len(quiz.questions)} not answered"


def test_gan_lesson_runs(home):
    """Unattended first, as a teacher rehearses it; then with a right, a wrong and a strange answer."""
    small = dict(n_films=150, steps=4)
    text = said(run_notebook(home / "nbs/lessons" / GAN.name, home / "alone.ipynb", small))
    assert "0 of 8 right, 0 wrong, 8 not answered" in text and "SIMULATED" in text
    assert (home / "alone.ipynb").read_text().count('"image/png"') == 7, "each figure is shown"
    given = answered(GAN, home / "given.ipynb", {"chance": 1.386, "blind": "a", "share": "lots"})
    text = said(run_notebook(given, home / "answered.ipynb", small))
    assert "1 of 8 right, 1 wrong, 6 not answered" in text
    assert "Batches of films go into D alone." in text and "isn&#x27;t a number" in text


def test_gan_lesson_refuses_an_unknown_preset(home):
    from cxr_companion.report.execute import NotebookFailed

    with pytest.raises(NotebookFailed, match="preset must be one of smoke, live, got 'class'"):
        run_notebook(GAN, home / "bad.ipynb", {"preset": "class"})
