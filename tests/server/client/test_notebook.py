"""The example notebook, run by Jupyter's kernel against the real server."""

import nbclient
import nbformat

from tests.helpers.servers import ROOT

NOTEBOOK = ROOT / "client" / "examples" / "notebook.ipynb"
MAX_OUTPUT_CHARS = 100_000


def test_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_notebook_runs_and_displays_its_answers(server, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITONCLIP_URL", server.grpc_url)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    outputs = [cell.outputs[0].data for cell in notebook.cells if cell.get("outputs")]
    shown = [output.get("text/html", "") for output in outputs]
    assert all(len(html) < MAX_OUTPUT_CHARS for html in shown)
    assert [html.count("<img") for html in shown if "<img" in html] == [1, 3, 2]
    texts = [output["text/plain"] for output in outputs]
    assert texts[0].startswith("<tritonclip.Client grpc://") and texts[-1] == "'red_circle.jpg'"
    assert any(text.startswith("<tritonclip.ZeroShotClassifier 5 labels ('a red circle', ") for text in texts)
