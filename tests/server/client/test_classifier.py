"""ZeroShotClassifier compared with the server's ranking and with the transformers pipeline."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.parity import scores_of
from tests.helpers.pictures import telling_images
from tests.helpers.reference import LABELS as REFERENCE_LABELS
from tests.helpers.reference import reference_answers
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client, InvalidInputError, ZeroShotClassifier

SAMPLE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["a red circle", "a blue square", "the digit 7", "a green heart"]


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as client:
        yield client


def by_label(ranked):
    return [[{each["label"]: each["score"] for each in one}[label] for label in LABELS] for one in ranked]


def test_one_template_gives_the_scores_of_the_server(client):
    images = list(telling_images().values())
    local = ZeroShotClassifier(client, LABELS)(images)
    np.testing.assert_allclose(by_label(local), by_label(client.classify(images, LABELS)), atol=1e-5)


def test_repr_is_one_short_line(client):
    long = ["a word " * 10, *(f"label {number}\n" for number in range(20))]
    shown = repr(ZeroShotClassifier(client, long, templates=["{}", "a {}"]))
    start = "<tritonclip.ZeroShotClassifier 21 labels ('a word a word "
    assert shown.startswith(start) and shown.endswith(
        f", 'label 1\\n', ...), 2 templates, {client.endpoint}>"
    )
    assert "\n" not in shown and len(shown) < 200


@pytest.mark.parametrize("images", [SAMPLE, [SAMPLE, SAMPLE]], ids=["one", "list"])
def test_answer_is_displayed_with_its_image(client, images):
    found = ZeroShotClassifier(client, LABELS)(images)
    assert found == ZeroShotClassifier(client, LABELS)(images) and found._repr_html_().count(
        "<img"
    ) == np.size(images)


def test_embeddings_of_several_templates_are_averaged(client):
    templates = ["a photo of {}", "This is {}.", "{}"]
    classifier = ZeroShotClassifier(client, LABELS, templates=templates)
    prompts = np.stack(
        [client.embed_texts([template.format(label) for template in templates]) for label in LABELS]
    )
    means = prompts.mean(axis=1)
    np.testing.assert_allclose(
        classifier.text_embeds, means / np.linalg.norm(means, axis=1)[:, None], atol=1e-6
    )
    assert classifier(SAMPLE, top_k=1)[0]["label"] == "a red circle"


def test_many_prompts_are_split_into_several_requests(client):
    labels = [f"label {number}" for number in range(1001)]
    classifier = ZeroShotClassifier(client, labels, templates=["{}", "a photo of {}"])
    assert classifier.text_embeds.shape == (1001, 512)
    last = ZeroShotClassifier(client, labels[-1:], templates=["{}", "a photo of {}"])
    np.testing.assert_allclose(classifier.text_embeds[-1:], last.text_embeds, atol=1e-5)


def test_call_with_pipeline_arguments_gives_the_scores_of_the_pipeline(client):
    images, labels = telling_images(), list(REFERENCE_LABELS)
    ours = ZeroShotClassifier(client)
    found = ours(list(images.values()), candidate_labels=labels)
    expected = reference_answers(DEMO_CHECKPOINT).pipeline_scores(images)
    np.testing.assert_allclose(scores_of(found), expected, atol=1e-4)
    assert all(one == sorted(one, key=lambda each: -each["score"]) for one in found)
    assert ours(Image.open(SAMPLE), candidate_labels=LABELS)[0]["label"] == "a red circle"
    assert len(ours([str(SAMPLE), str(SAMPLE)], candidate_labels=LABELS)) == 2


def test_loaded_classifier_equals_the_saved_one(client, tmp_path):
    classifier = ZeroShotClassifier(client, LABELS, templates=["{}", "a photo of {}"])
    classifier.save(tmp_path / "labels.npz")
    loaded = ZeroShotClassifier.load(client, tmp_path / "labels.npz")
    assert (loaded.labels, loaded.templates) == (classifier.labels, classifier.templates)
    assert loaded(SAMPLE) == classifier(SAMPLE)


def test_labels_that_end_with_nulls_survive_saving(client, tmp_path):
    labels = ["a red circle\0", "a blue square\0\0", "\0", "käse\n"]
    classifier = ZeroShotClassifier(client, labels, templates=["{}\0"])
    classifier.save(tmp_path / "labels.npz")
    loaded = ZeroShotClassifier.load(client, tmp_path / "labels.npz")
    assert (loaded.labels, loaded.templates) == (tuple(labels), ("{}\0",))
    assert [one["label"] for one in loaded(SAMPLE)] == [one["label"] for one in classifier(SAMPLE)]


def test_classifier_that_an_earlier_version_saved_is_loaded(client, tmp_path):
    classifier = ZeroShotClassifier(client, LABELS, templates=["{}", "a photo of {}"])
    classifier.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        kept = {name: file[name] for name in file if not name.endswith("_json")}
    np.savez(tmp_path / "old.npz", labels=LABELS, templates=classifier.templates, **kept)
    loaded = ZeroShotClassifier.load(client, tmp_path / "old.npz")
    assert (loaded.labels, loaded.templates) == (classifier.labels, classifier.templates)
    assert loaded(SAMPLE) == classifier(SAMPLE)


def test_file_that_is_missing_damaged_or_of_other_weights_is_rejected(client, tmp_path):
    classifier = ZeroShotClassifier(client, LABELS)
    other = tmp_path / "other.npz"
    np.savez(other, labels=["a"], templates=["{}"], text_embeds=classifier.text_embeds[:1], sha256="0" * 64)
    with pytest.raises(InvalidInputError, match=f"made with sha256 {'0' * 12}, but the server serves "):
        ZeroShotClassifier.load(client, other)
    (tmp_path / "text.npz").write_text("no archive")
    for path in (tmp_path / "text.npz", tmp_path / "absent.npz"):
        with pytest.raises(InvalidInputError, match="is not a saved classifier"):
            ZeroShotClassifier.load(client, path)


def rewrite(path, **changes):
    """Change fields of a saved classifier; None removes one."""
    with np.load(path) as file:
        fields = dict(file) | changes
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})


def test_classifier_of_other_settings_is_rejected_with_both_identities(client, tmp_path):
    path = tmp_path / "labels.npz"
    ZeroShotClassifier(client, LABELS).save(path)
    rewrite(path, identity="f" * 64)  # of the same weights
    served = client.models()[0].identity
    with pytest.raises(InvalidInputError, match=f"identity {'f' * 12}, .* identity {served[:12]}; make the"):
        ZeroShotClassifier.load(client, path)


def test_classifier_without_identity_is_loaded_with_a_warning(client, tmp_path):
    path = tmp_path / "labels.npz"
    classifier = ZeroShotClassifier(client, LABELS)
    classifier.save(path)
    rewrite(path, identity=None)
    with pytest.warns(UserWarning, match="was written by an earlier release, which recorded the weights"):
        loaded = ZeroShotClassifier.load(client, path)
    assert loaded(SAMPLE) == classifier(SAMPLE)


def test_saved_embeddings_that_are_damaged_are_rejected(client, tmp_path):
    path = tmp_path / "labels.npz"
    classifier = ZeroShotClassifier(client, LABELS)
    for text_embeds in (classifier.text_embeds[:1], np.full_like(classifier.text_embeds, np.nan)):
        classifier.save(path)
        rewrite(path, text_embeds=text_embeds)
        with pytest.raises(InvalidInputError, match="do not belong to its labels, or are not finite"):
            ZeroShotClassifier.load(client, path)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], "{}", "labels: the list is empty"),
        (["a"], [], "templates: the list is empty"),
        (["a"], "x", "template"),
    ],
)
def test_invalid_labels_and_templates_are_rejected(client, labels, templates, message):
    with pytest.raises(InvalidInputError, match=message):
        ZeroShotClassifier(client, labels, templates=templates)
