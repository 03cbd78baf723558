"""Search results in drawn pictures, and the commands `index` and `search`."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from tests.helpers.command import run_command
from tests.server.search.conftest import COUNT, FEW
from tritonclip.errors import InvalidInputError
from tritonclip.search import SearchIndex
from tritonclip.search._contact_sheet import write_contact_sheet
from tritonclip.search._types import Entry, Hit
from tritonclip_server.demo.scenes import PAIRS

PICTURES_PER_PAIR = COUNT // len(PAIRS)


@pytest.fixture(scope="module")
def index(clip, indexed):
    with SearchIndex.open(indexed.place, clip) as opened:
        yield opened


def shown(hit):
    """Return the description of a picture from its file name."""
    return hit.entry.name.split(" ", 1)[1].removesuffix(".jpg")


def test_text_query_returns_matching_pictures(clip, index):
    for text in ("red circle", "blue square", "green heart"):
        hits = index.search(clip.embed_texts(f"a {text}"), PICTURES_PER_PAIR)
        assert [shown(hit) for hit in hits] == [text] * PICTURES_PER_PAIR
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)


def test_text_queries_reach_85_percent_precision(clip, index, record_property):
    vectors = clip.embed_texts([f"a {colour} {shape}" for colour, shape in PAIRS])
    correct = [
        sum(shown(hit) == f"{colour} {shape}" for hit in index.search(vector, PICTURES_PER_PAIR))
        for (colour, shape), vector in zip(PAIRS, vectors, strict=True)
    ]
    precision = sum(correct) / (PICTURES_PER_PAIR * len(PAIRS))
    record_property(f"precision@{PICTURES_PER_PAIR}", precision)
    assert precision > 0.85


def test_image_query_returns_itself_first_and_similar_pictures_next(clip, index, indexed):
    path = min(indexed.folder.rglob("*yellow circle.jpg"))
    hits = index.search(clip.embed_images(path), PICTURES_PER_PAIR)
    assert hits[0].entry.path == str(path)
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert {shown(hit) for hit in hits} == {"yellow circle"}


def test_scores_equal_cosines(clip, index):
    text = clip.embed_texts("a red circle")
    for hit in index.search(text, 3):
        assert hit.score == pytest.approx(float(clip.embed_images(hit.entry.path) @ text), abs=1e-5)


@pytest.mark.parametrize("top_k", [0, 1001])
def test_top_k_out_of_range_is_rejected(index, top_k):
    with pytest.raises(InvalidInputError, match="expected 1 to 1000"):
        index.search(np.eye(1, index.identity.dim, dtype=np.float32)[0], top_k)


def test_malformed_query_vector_is_rejected(index):
    dim = index.identity.dim
    for vector in (np.ones(dim), np.zeros(3), np.full(dim, np.nan)):
        with pytest.raises(InvalidInputError, match="vector"):
            index.search(vector.astype(np.float32), 1)


def test_duplicates_by_content_and_by_cosine_are_grouped(clip, few, tmp_path):
    files = sorted(few.rglob("*.jpg"))
    shutil.copy(files[0], few / "copy.jpg")
    from PIL import Image

    with Image.open(files[5]) as image:
        image.save(few / "smaller.jpg", quality=85)
    with SearchIndex.open(tmp_path / "index", clip, create=True) as index:
        index.sync([few])
        (group,) = index.duplicates()
        assert (group.exact, group.cosine) == (True, 1)
        assert [entry.path for entry in group.entries] == [str(files[0]), str(few / "copy.jpg")]
        vectors = clip.embed_images([files[5], few / "smaller.jpg"])
        cosine = float(vectors[0] @ vectors[1])
        groups = index.duplicates(cosine - 1e-4)
        near = next(g for g in groups if str(few / "smaller.jpg") in [e.path for e in g.entries])
        assert not near.exact and near.cosine <= cosine + 1e-4
        assert str(files[5]) in [entry.path for entry in near.entries]
        assert str(few / "smaller.jpg") not in str(index.duplicates(cosine + 1e-4))


def test_commands_index_search_rank_and_list_duplicates(server, few, tmp_path):
    place, url = tmp_path / "index", ("--url", server.grpc_url)
    (few / "broken.jpg").write_bytes(b"no image at all")
    done = run_command("index", few, "--to", place, *url)
    assert done.returncode == 2
    assert "broken.jpg: is not an image" in done.stderr
    summary = rf"{FEW} in the index: {FEW} embedded, 1 failed; [\d.]+ m?s, [\d.]+/s\n"
    assert re.fullmatch(summary, done.stdout)
    (few / "broken.jpg").unlink()
    done = run_command("index", few, "--to", place, "--json", *url)
    assert json.loads(done.stdout)["summary"] == {
        "embedded": 0, "reused": 0, "unchanged": FEW, "deleted": 0, "failed": 0, "kept": 0, "total": FEW,
        "skipped": [],
    }  # fmt: skip
    done = run_command("search", place, "a blue heart", "-k", 2, *url)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].endswith("blue heart.jpg")
    picture = next(few.rglob("*blue heart.jpg"))
    done = run_command("search", place, "--image", picture, "--json", *url)
    assert json.loads(done.stdout)["results"][0]["path"] == str(picture)
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\na blue heart\n", encoding="utf-8")
    ranked = run_command("search", place, "--image", picture, "--texts", captions, "--json", *url)
    run_command("index", "--texts", captions, "--to", place, *url)
    indexed = run_command("search", place, "--image", picture, "--of", "texts", "--json", *url)
    results = [json.loads(done.stdout)["results"] for done in (ranked, indexed)]
    assert (
        [r["name"] for r in results[0]] == [r["name"] for r in results[1]] == ["a blue heart", "a red circle"]
    )
    shutil.copy(picture, few / "copy.jpg")
    run_command("index", few, "--to", place, *url)
    done = run_command("index", "--to", place, "--duplicates")
    assert done.stdout.splitlines()[0] == "2 images, identical content"
    assert done.stdout.splitlines()[-1] == "1 group; 1 redundant image"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("index", "--to", "x"), "nothing to index"),
        (("index", "--to", "x", "--near", "0.9", "."), "--near requires --duplicates"),
        (("search", "x"), "give either TEXT or --image"),
        (("search", "x", "a", "--image", "b"), "give either TEXT or --image"),
        (("index", "no/such/place", "--to", "x"), "no such directory"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_problem(server, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    done = run_command(*arguments, "--url", server.grpc_url)
    assert done.returncode == 2
    assert text in done.stderr


def test_search_without_an_index_exits_with_2(server, tmp_path):
    done = run_command("search", tmp_path / "none", "a text", "--url", server.grpc_url)
    assert done.returncode == 2
    assert done.stderr.startswith("tritonclip: error:") and "is not an index" in done.stderr


class ContactSheet(html.parser.HTMLParser):
    """Tags, attributes and text of a contact sheet."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_contact_sheet_escapes_names_and_paths(few, tmp_path):
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
    picture = few / (hostile.replace("/", "|") + ".jpg")
    shutil.copy(next(few.rglob("*.jpg")), picture)
    hits = [
        Hit(score=0.5, entry=Entry(id="1", kind="image", path=str(picture), name=hostile, sha256="")),
        Hit(score=0.4, entry=Entry(id="2", kind="text", path="/a", name=hostile, sha256="")),
        Hit(score=0.3, entry=Entry(id="3", kind="image", path="/gone.jpg", name="gone", sha256="")),
    ]
    write_contact_sheet(tmp_path / "sheet.html", hostile, hits)
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    sheet = ContactSheet(text)
    assert "script" not in sheet.tags and sheet.tags.count("img") == 1
    assert not [name for name, _ in sheet.attributes if name.startswith("on")]
    (source,) = [value for name, value in sheet.attributes if name == "src"]
    assert source.startswith("data:image/jpeg;base64,")
    assert sheet.texts.count(hostile) == 3  # title, heading, text
    assert "No such file or directory" in text
    assert "default-src 'none'; img-src data:" in text


def test_search_command_writes_a_contact_sheet(server, indexed, tmp_path):
    url = ("--url", server.grpc_url)
    done = run_command("search", indexed.place, "a red circle", "--html", tmp_path / "a.html", *url)
    assert done.returncode == 0
    assert ContactSheet((tmp_path / "a.html").read_text()).tags.count("img") == 10
    picture = next(indexed.folder.rglob("*.jpg"))
    run_command("search", indexed.place, "--image", picture, "-k", 3, "--html", tmp_path / "b.html", *url)
    assert ContactSheet((tmp_path / "b.html").read_text()).tags.count("img") == 4  # including the query image
    done = run_command("search", indexed.place, "a", "--html", tmp_path / "no" / "a.html", *url)
    assert (done.returncode, "cannot write" in done.stderr) == (2, True)
