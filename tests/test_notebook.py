"""notebooks/names_to_report.ipynb: runs from its first to its last cell, and is committed without what it printed."""

import sys

import pytest

from support.paths import ROOT

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "names_to_report.ipynb", as_version=4)


def test_it_is_ten_explained_steps_without_outputs():
    kinds = [cell.cell_type for cell in NOTEBOOK.cells]
    assert kinds == ["markdown", "code"] * 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK.cells)


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # The kernel and its commands are of this checkout; the first of these paths is what `fastlt` in a cell is.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fastlt").write_text(f'#!/bin/sh\nexec {sys.executable} -m fastlt.cli "$@"\n')
    (tmp_path / "bin" / "fastlt").chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    ran = nbformat.from_dict(NOTEBOOK)
    ran.cells.insert(2, nbformat.v4.new_code_cell(f"os.environ['PATH'] = '{tmp_path}/bin:' + os.environ['PATH']"))
    client.NotebookClient(ran, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for output in ran.cells[-1].outputs)
    assert "runs/with_auxiliary" in said
    assert (tmp_path / "names_to_report" / "report.html").stat().st_size > 10_000
