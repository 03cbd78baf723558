import math

import numpy as np
import pytest

from clip_common.groups import (
    EmbeddingError,
    RequestError,
    check_finite,
    element_name,
    read_elements,
    split_rows,
)
from clip_common.parameters import Parameters
from clip_common.responder import run_isolating_failures
from clip_common.tower import pass_slices


def texts(*rows):
    return np.array(rows, dtype=object)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 63, 64, 65, 200, 1000])
def test_passes_cover_all_items_in_order_and_are_few_and_even(count):
    slices = list(pass_slices(count, 64))
    assert [index for part in slices for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == math.ceil(count / 64)
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_embedding_that_is_not_finite_is_reported_with_its_place(value):
    embeds = np.eye(6, 4, dtype=np.float32)
    check_finite("image", embeds, (2, 3, 3, 8, 8))
    embeds[4, 2] = value
    with pytest.raises(EmbeddingError, match="^image 1 of row 1 has an embedding with NaN or infinity"):
        check_finite("image", embeds, (2, 3, 3, 8, 8))


def test_infinities_of_both_signs_do_not_cancel():
    embeds = np.array([[1, 0], [math.inf, -math.inf]], np.float32)
    with pytest.raises(EmbeddingError, match="label 1 has an embedding with NaN"):
        check_finite("label", embeds, (1, 2))


def test_split_rows_keeps_the_order():
    parts = split_rows(np.arange(12).reshape(6, 2), [1, 3, 2])
    assert [part.tolist() for part in parts] == [[[0, 1]], [[2, 3], [4, 5], [6, 7]], [[8, 9], [10, 11]]]


def test_elements_are_flattened_and_keep_trailing_zeros():
    group = read_elements("image", texts([b"a\0", b"b"], [b"", b"d"]), max_count=4, max_bytes=4)
    assert group.shape == (2, 2)
    assert group.items == [b"a\0", b"b", b"", b"d"]


@pytest.mark.parametrize(
    ("tensor", "limits", "message"),
    [
        (np.empty((1, 0), object), {}, r"no images: the tensor has shape \[1, 0\]"),
        (
            texts([b"a", b"b"], [b"c", b"d"]),
            {"max_count": 3},
            r"4 in one request, the limit is 3 \(max_images\)",
        ),
        (
            texts([b"abc", b"de"]),
            {"max_bytes": 4},
            r"5 bytes of images, the limit is 4 \(max_request_bytes\)",
        ),
    ],
)
def test_request_over_a_limit_is_rejected_and_the_limit_named(tensor, limits, message):
    with pytest.raises(RequestError, match=message):
        read_elements("image", tensor, **{"max_count": 10, "max_bytes": 10, **limits})


def test_tensor_without_batch_dimension_is_rejected():
    with pytest.raises(RequestError, match=r"images has shape \[2\]; send \[rows, images per row\]"):
        read_elements("image", texts([b"a", b"b"])[0], max_count=9, max_bytes=9)


def test_element_name_includes_the_row_only_if_there_are_several():
    assert element_name("label", 3, (1, 5)) == "label 3"
    assert element_name("label", 7, (2, 5)) == "label 2 of row 1"


def test_failing_batch_is_retried_group_by_group():
    def run(groups):
        if "poison" in groups:
            raise MemoryError("too much")
        return [{"got": group} for group in groups]

    outcomes = run_isolating_failures(run, ["a", "poison", "b"])
    assert outcomes[0] == {"got": "a"}
    assert isinstance(outcomes[1], MemoryError)
    assert outcomes[2] == {"got": "b"}


def test_parameters_are_read_by_type():
    parameters = Parameters(
        {"parameters": {"limit": {"string_value": "12"}, "precision": {"string_value": "float32"}}}
    )
    assert parameters.integer("limit", minimum=1) == 12
    assert parameters.choice("precision", ("auto", "float32")) == "float32"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda parameters: parameters.text("absent"), "'absent' is missing from config.pbtxt"),
        (lambda parameters: parameters.integer("word"), "'word' must be a whole number, not 'many'"),
        (lambda parameters: parameters.integer("limit", minimum=13), "'limit' must be at least 13, not 12"),
        (lambda parameters: parameters.choice("word", ("few",)), "'word' must be one of few, not 'many'"),
    ],
)
def test_invalid_parameter_is_named(read, message):
    parameters = Parameters(
        {"parameters": {"limit": {"string_value": "12"}, "word": {"string_value": "many"}}}
    )
    with pytest.raises(ValueError, match=message):
        read(parameters)
