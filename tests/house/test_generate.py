"""The generators: what is stale is found, moved over, or removed; the rest is left alone."""

from pathlib import Path

import pytest

from tests.house.tree import contract
from tools import api_reference, generate, state_diagrams
from tools.clients.languages import LANGUAGES
from tools.markdown import cell, link


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_changed_a_new_and_a_dropped_output_are_moved_over(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "root",
        {
            "gen/python/same.py": "1",
            "gen/python/changed.py": "1",
            "gen/queries/dropped.py": "1",
            "gen/go/of_another_generator.go": "1",
        },
    )
    copy = tree(
        tmp_path / "copy",
        {"gen/python/same.py": "1", "gen/python/changed.py": "2", "gen/python/a/new.py": "3"},
    )
    same = (root / "gen/python/same.py").stat().st_mtime_ns

    changes = list(generate.differences(root, copy))
    generate.apply(root, copy, changes)

    assert changes == ["gen/python/a/new.py", "gen/python/changed.py", "gen/queries/dropped.py"]
    assert list(generate.differences(root, copy)) == []
    assert (root / "gen/python/changed.py").read_text(encoding="utf-8") == "2"
    assert (root / "gen/python/same.py").stat().st_mtime_ns == same
    assert (root / "gen/go/of_another_generator.go").exists()


def test_a_language_without_its_toolchain_is_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert generate.ready(committed_only=False) == []

    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [
        f"skipped the {language.name} client" for language in LANGUAGES
    ]
    assert "skipped the Go client: no `go` on the PATH" in told


def test_a_generator_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(generate.GeneratorFailed, match=r"^buf generate failed:\n.*does not exist"):
        generate.run(["buf", "generate"], tmp_path)


def test_the_diagrams_replace_only_what_is_between_the_markers(tmp_path: Path) -> None:
    page = f"before\n{state_diagrams.BEGIN}\nold\n{state_diagrams.END}\nafter\n"
    text = state_diagrams.render(tree(tmp_path, {state_diagrams.PAGE: page}))

    assert text.startswith(f"before\n{state_diagrams.BEGIN}\n")
    assert text.endswith(f"\n{state_diagrams.END}\nafter\n")
    assert "old" not in text
    assert text.count("```mermaid\nstateDiagram-v2") == text.count("\n### ") >= 3


@pytest.mark.parametrize(
    "page", ["", state_diagrams.BEGIN, state_diagrams.END + state_diagrams.BEGIN]
)
def test_a_page_without_both_markers_is_refused(tmp_path: Path, page: str) -> None:
    with pytest.raises(state_diagrams.MarkersMissing):
        state_diagrams.render(tree(tmp_path, {state_diagrams.PAGE: page}))


def test_every_link_of_the_api_reference_leads_to_a_heading_of_it() -> None:
    page = api_reference.render(contract())
    headings = {link(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")}
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links
    assert links <= headings


def test_a_comment_cannot_end_the_cell_it_stands_in() -> None:
    assert cell("a | b\n <c> `<d>`") == "a \\| b &lt;c&gt; `<d>`"
