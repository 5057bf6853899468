"""kestrel's recipe: evaluation data is kept out, and its arithmetic is Gemma 3's."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models" / "kestrel"))

from recipe.clean import Held  # noqa: E402

torch = pytest.importorskip("torch")

from recipe.student import Bag, Student, config  # noqa: E402
from recipe.train import Rows  # noqa: E402


@pytest.fixture
def held(tmp_path: Path) -> Held:
    """An evaluation folder of one collection and of one that is for training."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"_id": "1", "text": "Falcons hunt at dawn over the cold river in the far valley. '
        'They rest at noon."}\n',
        "utf-8",
    )
    for name in ("birds", "tatoeba"):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as tar:
            if name == "birds":
                tar.add(corpus, "birds/corpus.jsonl")
            else:
                (tmp_path / "deu-eng.tsv").write_text("Das ist ein Satz.\tThis is one sentence.")
                tar.add(tmp_path / "deu-eng.tsv", "tatoeba/deu-eng.tsv")
    return Held(tmp_path)


@pytest.mark.parametrize(
    ("text", "is_held"),
    [
        ("Falcons hunt at dawn over the cold river in the far valley.", True),
        ("falcons  hunt at dawn, over the cold river in the far VALLEY", True),
        ("We know that hunt at dawn over the cold river in is rare.", True),
        ("Falcons hunt at dawn.", False),
        ("This is one sentence.", False),
    ],
)
def test_what_is_evaluated_is_not_learned(held: Held, text: str, is_held: bool) -> None:
    """A sentence of an evaluation set, or eight of its words in a row, keeps a text out."""
    assert held.has(text) is is_held


def _bag() -> Bag:
    bag = Bag(torch.nn.functional.normalize(torch.randn(50, 384)))
    with torch.no_grad():
        bag.heavy.copy_(torch.randn(384) * 0.5)
    return bag


def test_the_student_begins_as_the_bag() -> None:
    """One layer gives the weighted means that were learned before it, a second changes little."""
    torch.manual_seed(0)
    bag = _bag()
    student = Student(bag)
    ids = torch.randint(3, 50, (8, 12))
    lengths = torch.tensor([12, 4, 6, 9, 12, 5, 3, 8])
    ids[torch.arange(8), lengths - 1] = 1
    with torch.no_grad():
        wanted = bag(ids, lengths)
        assert float((student(ids, lengths) * wanted).sum(1).min()) > 0.99
        student.deepen()
        assert float((student(ids, lengths) * wanted).sum(1).min()) > 0.97


def test_what_few_texts_say_moves_a_row_less() -> None:
    """A step for a row of the table is scaled by its trust, and no other row moves."""
    table = torch.zeros(3, 4)
    rows = Rows(table, torch.tensor([1.0, 0.25, 1.0]))
    for _ in range(3):
        rows.step(torch.tensor([0, 1]), torch.ones(2, 4), rate=0.1)
    assert torch.allclose(table[:, 0], torch.tensor([-0.3, -0.075, 0.0]))


def test_the_student_is_gemma_3() -> None:
    """Its vectors, computed only where needed, are those of transformers' Gemma 3."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(0)
    student = Student(_bag())
    student.deepen()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.dim() == 1 or parameter.shape[0] != 50:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model = Gemma3TextModel(Gemma3TextConfig(**config(50, 2))).eval()
    model.load_state_dict(student.state_dict())
    ids = torch.randint(3, 50, (3, 9))
    lengths = torch.tensor([9, 4, 6])
    with torch.no_grad():
        vectors = student(ids, lengths)
        for row, length in enumerate(lengths.tolist()):
            state = model(ids[row : row + 1, :length]).last_hidden_state[0, -1]
            wanted = torch.nn.functional.normalize(state, dim=0)
            assert float(wanted @ vectors[row]) > 0.99999
