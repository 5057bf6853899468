"""Measuring packages in processes of their own, and the rule that recommends one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standins.packages import Exported

from harrier_edge import bench
from harrier_edge.bench import (
    TIE,
    PackageFigures,
    choose_packages,
    measure,
    recommend,
)
from harrier_edge.cli import main
from harrier_edge.errors import ModelError, ModelNotFoundError, UsageError
from harrier_edge.isolation import in_own_process
from harrier_edge.machine import memory, this_machine
from harrier_edge.package import installed_packages, sha256_of
from harrier_edge.places import cache_folder
from harrier_edge.spec import FAITHFUL
from harrier_export import ExportOptions, export

QUICK = ("--seconds", "0.3")


@pytest.fixture(scope="module")
def tiny_precisions(tiny_gemma: Path, exported: Exported) -> dict[str, Path]:
    """The tiny Gemma in three precisions."""
    return {name: exported(tiny_gemma, name) for name in ("fp32", "int8", "int4")}


@pytest.fixture
def installed(tiny_precisions: dict[str, Path]) -> Path:
    """The same in the cache, as the model `tiny`."""
    revision = cache_folder() / "models" / "tiny" / "abc"
    for name, folder in tiny_precisions.items():
        shutil.copytree(folder, revision / name)
    return revision


def figures(name: str, speed: float, cosine: float | None, disk: float = 1) -> PackageFigures:
    """A measured package; only what the rule looks at differs."""
    return PackageFigures(
        package=Path(name),
        model="m",
        precision=name,
        tokens_per_second=speed,
        spread=0,
        query_ms=1,
        load_s=1,
        memory_mb=None,
        peak_memory_mb=None,
        disk_mb=disk,
        mean_cosine=cosine,
        min_cosine=cosine,
        here_mean_cosine=None,
        here_min_cosine=None,
    )


def spoil_graph(package: Path) -> None:
    """Replace the graph by a file that is none, with a manifest that agrees to it."""
    graph, manifest = package / "model.onnx", package / "manifest.toml"
    old = sha256_of(graph), f"size = {graph.stat().st_size}\n"
    graph.write_bytes(b"no graph")
    text = manifest.read_text("utf-8").replace(old[0], sha256_of(graph))
    manifest.write_text(text.replace(old[1], "size = 8\n"), "utf-8")


def test_all_precisions_of_a_model_are_measured(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole real path: a name in the cache, every package in processes of its own, JSON."""
    assert main(["bench", "-m", "tiny", "--json", "-q", *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["processor"]
    assert report["versions"].keys() == {"harrier-edge", "onnxruntime", "python"}
    assert report["failed"] == []
    packages = {package["precision"]: package for package in report["packages"]}
    assert packages.keys() == {"fp32", "int8", "int4"}
    for name, package in packages.items():
        assert package["package"] == str(installed / name)
        assert package["tokens_per_second"] > 0 < package["query_ms"]
        assert package["load_s"] > 0 <= package["spread"]
        assert 0 < package["disk_mb"] < 10
        assert package["memory_mb"] is None or package["memory_mb"] > 10
        assert package["mean_cosine"] is package["min_cosine"] is None
        assert 0.5 < package["here_min_cosine"] <= package["here_mean_cosine"] <= 1.000001
    assert packages["fp32"]["here_min_cosine"] == pytest.approx(1, abs=1e-6)
    assert packages["int4"]["here_mean_cosine"] < packages["int8"]["here_mean_cosine"] < 1
    chosen = packages[report["recommended_precision"]]
    assert report["recommended"] == chosen["package"]
    assert chosen["here_mean_cosine"] >= FAITHFUL


def test_a_package_that_fails_does_not_stop_the_others(
    tiny_precisions: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One with a changed file and one that does not load are named, a table shows the rest."""
    changed = shutil.copytree(tiny_precisions["int4"], tmp_path / "changed")
    (changed / "tokenizer.json").write_bytes(b"{}")
    graphless = shutil.copytree(tiny_precisions["int8"], tmp_path / "graphless")
    spoil_graph(graphless)
    unreadable = shutil.copytree(tiny_precisions["int8"], tmp_path / "unreadable")
    (unreadable / "manifest.toml").write_text("format = ", "utf-8")
    good = str(tiny_precisions["fp32"])
    assert main(["bench", str(changed), str(graphless), str(unreadable), good, *QUICK]) == 1
    captured = capsys.readouterr()
    assert f"not measured: int4 ({changed}): {changed / 'tokenizer.json'}: has 2" in captured.err
    assert f"not measured: int8 ({graphless})" in captured.err
    assert "is not an ONNX model" in captured.err
    assert f"not measured: unreadable ({unreadable})" in captured.err
    header, row, _, recommended = captured.out.splitlines()
    assert header.split()[:3] == ["tokens/s", "query", "ms"]
    assert row.split()[0] == "fp32"
    assert row.split()[-4:] == ["-", "-", "1.0000", "1.0000"]
    assert recommended.startswith(f"recommended: fp32 ({good}): the fastest with a mean cosine")


def test_packages_take_turns_and_a_busy_machine_is_told(
    tiny_precisions: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rounds go over all packages, medians are kept, and speeds that differ much are a warning."""
    turns = []
    speeds = {"fp32": [[90.0, 100.0, 500.0], [10.0], [110.0]], "int8": [[50.0], [51.0], [52.0]]}
    names = {tiny_precisions[name]: name for name in speeds}

    def sample(work: object, folder: Path, seconds: float, first: bool) -> bench._Sample:
        turns.append((names[folder], seconds, first))
        return bench._Sample(speeds[names[folder]].pop(0), [1.0, 2.0, 9.0], 1, 10, 20, None)

    monkeypatch.setattr(bench, "in_own_process", sample)
    (fp32, int8), failed = measure(list(names), seconds=6)
    assert turns == [(name, 2, n == 0) for n in range(3) for name in ("fp32", "int8")]
    assert failed == []
    assert (fp32.tokens_per_second, fp32.spread) == (100, 1)
    assert (int8.tokens_per_second, int8.spread) == (51, 0.039)
    assert (int8.query_ms, int8.load_s, int8.memory_mb, int8.peak_memory_mb) == (2, 1, 10, 20)
    (message,) = caplog.messages
    assert message.startswith("the speed of fp32 differed by 100% between rounds")


def test_of_the_faithful_the_fastest_is_recommended() -> None:
    """A faster package under the floor is left out, and so is one of unknown fidelity."""
    chosen = recommend(
        [
            figures("fp32", 100, 1.0),
            figures("int8", 300, FAITHFUL),
            figures("int4", 400, FAITHFUL - 0.0001),
            figures("unknown", 500, None),
        ]
    )
    assert (chosen.package, chosen.precision) == (Path("int8"), "int8")
    assert chosen.reason == "the fastest with a mean cosine of 0.998 or more"


def test_a_tie_goes_to_the_smaller_one() -> None:
    """Within 5 % of the fastest, size on disk decides; further away it does not."""
    fastest = figures("int8", 100, 1.0, disk=300)
    close = figures("int4", 100 * (1 - TIE), 1.0, disk=200)
    chosen = recommend([fastest, close])
    assert chosen.precision == "int4"
    assert chosen.reason == "smaller than the fastest, int8, and within 5% of its speed"
    slower = figures("int4", 100 * (1 - TIE) - 0.1, 1.0, disk=200)
    assert recommend([fastest, slower]).precision == "int8"


def test_where_none_is_faithful_the_most_faithful_is_recommended() -> None:
    """However slow it is."""
    chosen = recommend([figures("int8", 1, 0.99), figures("int4", 100, 0.98)])
    assert chosen.precision == "int8"
    assert "the most faithful" in chosen.reason


def test_without_any_fidelity_nothing_is_recommended() -> None:
    """Speed alone recommends nothing; the reason says how to get to know more."""
    chosen = recommend([figures("int8", 1, None)])
    assert chosen.package is None
    assert "measure an fp32 package beside them" in chosen.reason
    assert recommend([]).reason == "no package could be measured"


def test_the_cosine_of_the_manifest_comes_before_the_one_measured_here() -> None:
    """It is to the original, over more texts; without it the one to fp32 counts."""
    here = replace(figures("int8", 1, None), here_mean_cosine=0.9)
    assert here.fidelity == 0.9
    assert replace(here, mean_cosine=0.8).fidelity == 0.8


def test_packages_of_several_models_are_refused(tiny_package: Path, tiny_qwen: Path) -> None:
    """Their speeds and cosines would not compare; the message names each with its fingerprint."""
    other = export(
        tiny_qwen, cache_folder() / "qwen", ExportOptions(precision="fp32", verify=False)
    ).folder
    with pytest.raises(UsageError, match=r"different models, by their fingerprints.*qwen"):
        choose_packages([str(tiny_package), str(other)])
    assert main(["bench", str(tiny_package), str(other)]) == 2


def test_precisions_are_chosen_by_name(
    installed: Path, capsys: pytest.CaptureFixture[str], tiny_gemma: Path
) -> None:
    """One or more, from a name or from folders; an unknown one is answered with what is there."""
    assert choose_packages(["tiny"]) == [installed / name for name in ("fp32", "int4", "int8")]
    assert choose_packages(["tiny"], ["int8", "fp32"]) == [installed / "fp32", installed / "int8"]
    folders = [str(installed / "fp32"), str(installed / "int8"), str(installed / "int8")]
    assert choose_packages(folders, ["int8"]) == [installed / "int8"]
    assert main(["bench", "-m", "tiny", "--precision", "int8, int2"]) == 2
    assert "'int2' is not among the packages of tiny; they have fp32, int4, int8. Name one" in (
        capsys.readouterr().err
    )
    with pytest.raises(ModelNotFoundError, match="no model package 'unheard-of'"):
        choose_packages(["unheard-of"])
    with pytest.raises(ModelNotFoundError, match="it is not a model package"):
        choose_packages([str(tiny_gemma)])


def test_installed_packages_are_those_of_that_name(installed: Path) -> None:
    """All of its precisions and nothing else; a path is no name."""
    assert installed_packages("tiny") == [installed / name for name in ("fp32", "int4", "int8")]
    assert installed_packages("tin") == installed_packages(str(installed)) == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_seconds_are_more_than_none(seconds: float) -> None:
    """Nothing can be measured in no time."""
    with pytest.raises(UsageError, match=r"wanted a number above 0"):
        measure([], seconds=seconds)


@pytest.mark.parametrize(
    ("work", "argument", "message"),
    [
        (os._exit, 3, "ended with exit code 3.*lack of memory"),
        (len, 3, "TypeError: object of type 'int' has no len"),
    ],
    ids=["dies", "raises"],
)
def test_what_happens_in_the_other_process_is_told(
    work: Callable[..., Any], argument: object, message: str
) -> None:
    """A process that dies or fails is an error with a reason, not a hang."""
    with pytest.raises(ModelError, match=message):
        in_own_process(work, argument)


def test_memory_is_of_the_process_that_asks() -> None:
    """A fresh process holds less than one that has just filled 200 MB, and remembers no more."""
    filled = bytearray(b"x") * 200_000_000
    ours, fresh = memory(), in_own_process(memory)
    if ours.now_mb is None or ours.peak_mb is None:
        pytest.skip("this system does not tell")
    assert ours.peak_mb >= ours.now_mb > 200
    assert fresh.peak_mb < ours.peak_mb - len(filled) / 2e6


def test_the_machine_is_named() -> None:
    """What speed depends on is there on every system."""
    machine = this_machine()
    assert machine.processor
    assert machine.cores >= 1
    assert machine.system


def test_help_and_readme_state_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """With the figures that the rule has."""
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
    for text in (capsys.readouterr().out, readme):
        words = " ".join(text.split())
        assert f"cosine of {FAITHFUL} or more" in words
        assert f"within {TIE:.0%} of the fastest" in words


def test_what_was_measured_here_is_listed(
    tiny_precisions: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By `models`, until the package is another."""
    folder = cache_folder() / "models" / "tiny" / "abc" / "fp32"
    shutil.copytree(tiny_precisions["fp32"], folder)
    assert main(["bench", "tiny", "--json", *QUICK]) == 0
    (figures,) = json.loads(capsys.readouterr().out)["packages"]
    assert main(["models", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[-1]  # behind the built-in model's
    assert row["tokens_per_second"] == figures["tokens_per_second"]
    assert row["query_ms"] == figures["query_ms"]
    assert main(["models"]) == 0
    assert f"{row['query_ms']:.1f} ms a query" in capsys.readouterr().out
    manifest = folder / "manifest.toml"
    manifest.write_text(manifest.read_text("utf-8") + "\n", "utf-8")
    assert main(["models"]) == 0
    assert "speed not measured" in capsys.readouterr().out
