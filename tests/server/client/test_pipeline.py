"""The call forms of transformers' zero-shot-image-classification pipeline, each made with both pipelines.

The forms are those of transformers 5.23: in the tests of this pipeline and of all pipelines, in the
docstrings, and in the cases that `load_image` and `Pipeline.__call__` distinguish.
"""

import base64
import functools
import http.server
import threading

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import pipeline as transformers_pipeline
from transformers.pipelines.pt_utils import KeyDataset

import tritonclip
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client, InvalidInputError, LabelWarning, ZeroShotClassifier
from tritonclip._answers.predictions import PredictionBatch, Predictions

FOLDER = ROOT / "scripts" / "demo" / "images"
NAMES = ["red_circle.jpg", "green_heart_rotated.jpg"]
PATHS = [str(FOLDER / name) for name in NAMES]
LABELS = ["a red circle", "a green heart"]
TASK = "zero-shot-image-classification"
TOLERANCE = 1e-4
reference_pipeline = functools.partial(transformers_pipeline, dtype="float32")  # as the server

pytestmark = pytest.mark.filterwarnings("ignore:.*(pin_memory|num_workers):UserWarning")


class Pictures(Dataset):
    """A map-style dataset that has neither `__iter__` nor an IndexError at its end."""

    def __len__(self):
        return len(PATHS)

    def __getitem__(self, index):
        return picture(index % len(PATHS))


class PictureStream(IterableDataset):
    def __iter__(self):
        return map(picture, range(len(PATHS)))


def picture(index=0):
    with Image.open(PATHS[index]) as image:
        image.load()
    return image


def pictures():
    return [picture(index) for index in range(len(PATHS))]


def generated():
    yield from pictures()


def data_url():
    return "data:image/jpeg;base64," + bare_base64()


def bare_base64():
    return base64.b64encode((FOLDER / NAMES[0]).read_bytes()).decode()


def rows():
    return [{"image": path, "target": index} for index, path in enumerate(PATHS)]


CREATIONS = {
    "task and model by keyword": lambda make, model: make(task=TASK, model=model),
    "task by position": lambda make, model: make(TASK, model=model),
    "task and model by position": lambda make, model: make(TASK, model),
    "device": lambda make, model: make(TASK, model=model, device="cpu"),
    "batch_size and num_workers": lambda make, model: make(TASK, model=model, batch_size=2, num_workers=0),
    "hypothesis_template": lambda make, model: make(TASK, model=model, hypothesis_template="art: {}"),
    "timeout": lambda make, model: make(TASK, model=model, timeout=30),
}
CALLS = {
    "PIL image": lambda pipe: pipe(picture(), candidate_labels=LABELS),
    "labels by position": lambda pipe: pipe(picture(), LABELS),
    "image by keyword": lambda pipe: pipe(image=picture(), candidate_labels=LABELS),
    "images by keyword, one": lambda pipe: pipe(images=picture(), candidate_labels=LABELS, image=None),
    "images by keyword, list": lambda pipe: pipe(None, LABELS, images=pictures()),
    "path": lambda pipe: pipe(PATHS[0], candidate_labels=LABELS),
    "data URL": lambda pipe: pipe(data_url(), candidate_labels=LABELS),
    "PIL images of other modes": lambda pipe: pipe(
        [picture().convert(mode) for mode in ("1", "P", "RGBA")], candidate_labels=LABELS
    ),
    "PIL image with an orientation": lambda pipe: pipe(picture(1), candidate_labels=LABELS),
    "list of PIL images": lambda pipe: pipe(pictures(), candidate_labels=LABELS),
    "list of one": lambda pipe: pipe([picture()], candidate_labels=LABELS),
    "list of paths": lambda pipe: pipe(PATHS, candidate_labels=LABELS),
    "mixed list": lambda pipe: pipe([PATHS[0], picture(1)], candidate_labels=LABELS),
    "list with batch_size": lambda pipe: pipe([picture()] * 3, candidate_labels=LABELS, batch_size=2),
    "one image with batch_size": lambda pipe: pipe(picture(), candidate_labels=LABELS, batch_size=2),
    "list with num_workers": lambda pipe: pipe(PATHS, candidate_labels=LABELS, num_workers=0),
    "generator": lambda pipe: pipe(generated(), candidate_labels=LABELS),
    "generator with batch_size": lambda pipe: pipe(generated(), candidate_labels=LABELS, batch_size=2),
    "empty generator": lambda pipe: pipe((one for one in ()), candidate_labels=LABELS),
    "dataset": lambda pipe: pipe(Pictures(), candidate_labels=LABELS),
    "dataset with batch_size": lambda pipe: pipe(Pictures(), candidate_labels=LABELS, batch_size=2),
    "iterable dataset": lambda pipe: pipe(PictureStream(), candidate_labels=LABELS),
    "KeyDataset": lambda pipe: pipe(KeyDataset(rows(), "image"), candidate_labels=LABELS),
    "template": lambda pipe: pipe(picture(), LABELS, hypothesis_template="This is {} on a wall."),
    "template of labels that are sentences": lambda pipe: pipe(picture(), LABELS, hypothesis_template="{}"),
    "timeout": lambda pipe: pipe(picture(), candidate_labels=LABELS, timeout=30),
    "no timeout": lambda pipe: pipe(picture(), candidate_labels=LABELS, timeout=None),
    "tuple of labels": lambda pipe: pipe(picture(), candidate_labels=tuple(LABELS)),
    "one label": lambda pipe: pipe(picture(), candidate_labels=LABELS[:1]),
    "a label twice": lambda pipe: pipe(picture(), candidate_labels=[*LABELS, LABELS[0]]),
}
REJECTED = {
    "dtype": (lambda pipe, make, model: make(TASK, model=model, dtype="float32"), "the server decides it"),
    "tokenizer": (
        lambda pipe, make, model: make(TASK, model=model, tokenizer=str(DEMO_CHECKPOINT)),
        "the server decides it",
    ),
    "tokenizer_kwargs": (
        lambda pipe, make, model: pipe(picture(), LABELS, tokenizer_kwargs={"padding": True}),
        "the server decides it",
    ),
    "bare base64": (lambda pipe, make, model: pipe(bare_base64(), LABELS), "image 0: "),
    "template without a place for the label": (
        lambda pipe, make, model: pipe(picture(), LABELS, hypothesis_template="a photo"),
        "expected exactly one plain {} for the label",
    ),
    "blank label": (lambda pipe, make, model: pipe(picture(), [*LABELS, ""]), "label 2: it is blank"),
    "unknown argument": (
        lambda pipe, make, model: pipe(picture(), LABELS, multi_label=True),
        "unexpected keyword argument 'multi_label'",
    ),
    "length of an answer": (lambda pipe, make, model: len(pipe(Pictures(), LABELS)), "has no len"),
}
"""Forms that transformers accepts and this pipeline rejects; client/README.md has the reasons."""


SLOW = {
    *list(CREATIONS)[1:],
    "labels by position",
    "image by keyword",
    "images by keyword, list",
    "data URL",
    "PIL images of other modes",
    "PIL image with an orientation",
    "list of paths",
    "template of labels that are sentences",
    "tuple of labels",
    "a label twice",
    "list of one",
    "mixed list",
    "one image with batch_size",
    "list with num_workers",
    "generator with batch_size",
    "dataset with batch_size",
    "no timeout",
}
"""Forms that differ from others in one thing only; `make test-all` runs them."""


def each(forms):
    """Parametrize a test with forms."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "form",
        [pytest.param(form, id=name, marks=[slow] if name in SLOW else []) for name, form in forms.items()],
    )


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def theirs():
    return reference_pipeline(TASK, model=str(DEMO_CHECKPOINT))


def both(client):
    return tritonclip.pipeline(TASK, model=client), ZeroShotClassifier(client, ["something else"])


def compare(found, expected):
    """Check that two answers have the same nesting, and the same score for each label."""
    is_list, found, expected = (
        isinstance(found, list) == isinstance(expected, list),
        list(found),
        list(expected),
    )
    assert is_list or not expected  # transformers makes a list of an empty generator
    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, dict):
            assert set(one) == set(wanted) and isinstance(one["score"], float)
        else:
            compare(one, wanted)
    if expected and isinstance(expected[0], dict):
        assert found == sorted(found, key=lambda one: -one["score"])
        ranked, wanted = (
            sorted((one["label"], one["score"]) for one in answer) for answer in (found, expected)
        )
        assert [label for label, _ in ranked] == [label for label, _ in wanted]
        np.testing.assert_allclose(
            [score for _, score in ranked], [score for _, score in wanted], atol=TOLERANCE
        )


@each(CREATIONS)
def test_pipeline_is_made_as_with_transformers(server, form):
    made, expected = (
        form(tritonclip.pipeline, server.grpc_url),
        form(reference_pipeline, str(DEMO_CHECKPOINT)),
    )
    with made.client:
        assert made.task == expected.task
        compare(made(PATHS[0], LABELS), expected(PATHS[0], LABELS))


@pytest.mark.filterwarnings("ignore::tritonclip.LabelWarning")
@each(CALLS)
def test_call_answers_as_transformers(client, theirs, form):
    answer = form(theirs)
    expected = answer if isinstance(answer, list) else tuple(answer)  # a lazy answer is read once
    for ours in both(client):
        compare(form(ours), expected)


def test_image_by_url_is_classified_as_by_transformers(client, theirs):
    handler = functools.partial(Quiet, directory=FOLDER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{site.server_port}/{NAMES[0]}"
        try:
            expected = theirs(url, LABELS, timeout=20)
            for ours in both(client):
                compare(ours(url, LABELS, timeout=20), expected)
                compare(ours([url] * 2, LABELS), [expected] * 2)
        finally:
            site.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("name", REJECTED)
def test_other_form_is_rejected_with_its_cure(client, name):
    form, text = REJECTED[name]
    with pytest.raises((TypeError, InvalidInputError)) as caught:
        form(tritonclip.pipeline(model=client), tritonclip.pipeline, client.endpoint)
    assert text in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in REJECTED if name != "unknown argument"])
def test_rejected_form_is_one_that_transformers_accepts(theirs, name):
    form, _ = REJECTED[name]
    form(theirs, transformers_pipeline, str(DEMO_CHECKPOINT))


def test_answers_have_the_classes_of_classify(client):
    pipe = tritonclip.pipeline(model=client)
    assert type(pipe(PATHS[0], LABELS)) is Predictions
    several = pipe(PATHS, LABELS, batch_size=2)
    assert type(several) is PredictionBatch and several._repr_html_().count("<img") == len(PATHS)


def test_fixed_labels_take_streams_and_long_lists(client):
    classifier = ZeroShotClassifier(client, LABELS)
    expected = classifier(PATHS, hypothesis_template="not used {}")
    assert [one[0]["label"] for one in expected] == LABELS
    for answers in (classifier(Pictures()), classifier(images=generated(), batch_size=2)):
        assert not isinstance(answers, list)
        compare(list(answers), expected)
    several = classifier(PATHS, batch_size=2, top_k=1)
    assert [[one["label"] for one in each] for each in several] == [[label] for label in LABELS]
    assert several._repr_html_().count("<img") == len(PATHS)


def test_stream_is_read_lazily(client):
    read = []

    def endless():
        while True:
            read.append(picture())
            yield read[-1]

    answers = tritonclip.pipeline(model=client)(endless(), LABELS, batch_size=1, timeout=60)
    assert read == []
    assert next(answers)[0]["label"] == LABELS[0]
    answers.close()
    assert len(read) < 20


def test_call_without_labels_or_images_says_so(client):
    pipe = tritonclip.pipeline(model=client)
    with pytest.raises(InvalidInputError, match="^candidate_labels: there are none; give a list"):
        pipe(PATHS[0])
    with pytest.raises(InvalidInputError, match="^image: there is none; give one image, a list"):
        pipe(candidate_labels=LABELS)
    with pytest.raises(InvalidInputError, match="^image: it is given twice, as image= and as images="):
        pipe(PATHS[0], LABELS, images=PATHS)


def test_defaults_of_the_pipeline_give_way_to_the_call(client):
    pipe = tritonclip.pipeline(model=client, hypothesis_template="{}", timeout=1e-6)
    with pytest.raises(tritonclip.DeadlineExceededError):
        pipe(PATHS[0], LABELS)
    default = tritonclip.pipeline(model=client)(PATHS[0], LABELS)
    compare(pipe(PATHS[0], LABELS, timeout=60, hypothesis_template="This is a photo of {}."), default)


def test_one_label_warns_at_the_line_of_the_call(client):
    with pytest.warns(LabelWarning) as caught:
        tritonclip.pipeline(model=client)(PATHS[0], LABELS[:1])
    assert caught[0].filename == __file__


def test_images_of_a_data_loader_are_embedded(client):
    """The first example of client/README.md."""
    loader = DataLoader(Pictures(), batch_size=2, collate_fn=list)
    embeds = torch.cat([torch.from_numpy(client.embed_images(batch)) for batch in loader])
    np.testing.assert_allclose(embeds, client.embed_images(PATHS), atol=1e-5)


def test_images_of_a_hugging_face_dataset_are_embedded_by_map(client):
    """The second example of client/README.md; `map` pickles the function with the client."""
    dataset = datasets.Dataset.from_dict({"image": PATHS}).cast_column("image", datasets.Image())
    mapped = dataset.map(
        lambda batch: {"embedding": client.embed_images(batch["image"])}, batched=True, batch_size=1
    )
    np.testing.assert_allclose(mapped["embedding"], client.embed_images(PATHS), atol=1e-4)


@pytest.mark.parametrize(
    "column", [lambda dataset: dataset["image"], lambda dataset: KeyDataset(dataset, "image")]
)
def test_column_of_a_hugging_face_dataset_is_a_stream(client, column):
    dataset = datasets.Dataset.from_dict({"image": PATHS}).cast_column("image", datasets.Image())
    answers = tritonclip.pipeline(model=client)(column(dataset), LABELS)
    assert [next(answers)[0]["label"] for _ in PATHS] == LABELS
