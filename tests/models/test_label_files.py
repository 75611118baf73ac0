"""Every common form of a file of class names gives the same names in the same order."""

import json

import pytest

from attnviz.errors import ModelError
from attnviz.models import as_labels, read_labels
from attnviz.models.label_files import labels_in

NAMES = ("ant", "bee, honey bee", "cat's cradle")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "ant\nbee, honey bee\ncat's cradle\n"),
        ("bom.txt", "\ufeffant\nbee, honey bee\ncat's cradle\n"),
        ("counted.txt", "0 ant\n1: bee, honey bee\n2\tcat's cradle\n\n"),
        ("list.json", json.dumps(NAMES)),
        ("index.json", json.dumps({str(i): n for i, n in enumerate(NAMES)})),
        ("class_to_idx.json", json.dumps({n: i for i, n in reversed(list(enumerate(NAMES)))})),
        ("imagenet.json", json.dumps({str(i): [f"n{i}", n] for i, n in enumerate(NAMES)})),
        ("config.json", json.dumps({"id2label": {str(i): n for i, n in enumerate(NAMES)}})),
        ("coco.json", json.dumps([{"id": i, "name": n} for i, n in enumerate(NAMES)])),
        ("mixed.json", json.dumps([{"id": i, "name": NAMES[i]} for i in (2, 0, 1)])),
        ("one.csv", 'label\nant\n"bee, honey bee"\ncat\'s cradle\n'),
        ("two.csv", 'name,index\n"bee, honey bee",1\nant,0\ncat\'s cradle,2\n'),
        ("bare.csv", '2,cat\'s cradle\n0,ant\n1,"bee, honey bee"\n'),
        ("semi.csv", "id;name\n0;ant\n1;bee, honey bee\n2;cat's cradle\n"),
        ("tab.tsv", "0\tant\n1\tbee, honey bee\n2\tcat's cradle\n"),
        (
            "list.yaml",
            "path: x\nnames:\n- ant  # small\n- 'bee, honey bee'\n- cat's cradle\nnc: 3\n",
        ),
        ("map.yml", "names:\n  0: ant\n  1: bee, honey bee\n  2: cat's cradle\n"),
        ("flow.yaml", "nc: 3\nnames: ['ant', 'bee, honey bee',\n  \"cat's cradle\"]\n"),
        ("flowmap.yaml", "names: {0: ant, 1: 'bee, honey bee', 2: \"cat's cradle\"}  # all\n"),
    ],
)
def test_forms(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == NAMES
    assert as_labels(str(tmp_path / name)) == NAMES


def test_files_of_windows_and_names_that_begin_with_numbers(tmp_path):
    (tmp_path / "wide.txt").write_bytes("ant\r\nbee\r\n".encode("utf-16"))
    assert read_labels(tmp_path / "wide.txt") == ("ant", "bee")
    (tmp_path / "planes.txt").write_text("737 airliner\n747 airliner\n")
    assert read_labels(tmp_path / "planes.txt") == ("737 airliner", "747 airliner")


def test_names_with_commas_and_objects():
    assert read_labels("ant, bee,cat") == ("ant", "bee", "cat")
    assert as_labels({"cat": 2, "ant": 0, "bee": 1}) == ("ant", "bee", "cat")
    assert as_labels({1: "bee", 0: "ant"}) == ("ant", "bee")
    assert as_labels(["ant", "bee"]) == ("ant", "bee")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("one.json", '{"1": "ant", "2": "bee"}', "none for index 0.*counts from 1"),
        ("counted.txt", "1 ant\n2 bee\n", "none for index 0.*counts from 1"),
        (
            "coco.json",
            '{"categories": [{"id": 1, "name": "ant"}, {"id": 3, "name": "bee"}]}',
            "none for index 0, 2",
        ),
        ("gap.json", '{"0": "ant", "2": "bee"}', "none for index 1"),
        ("same.json", '{"ant": 0, "bee": 0}', "indices repeat"),
        ("twice.csv", "0,ant\n0,bee\n", "an index stands in two rows"),
        ("wide.csv", "a,b,c\nd,e,f\n", "which of its columns"),
        ("none.yaml", "classes: 3\n", "no `names:`"),
        ("open.yaml", "names: [a, b\n", "not closed"),
        ("numbers.json", "[[1, 2, 3]]", "is no name"),
    ],
)
def test_forms_that_leave_a_class_without_a_name(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        read_labels(tmp_path / name)


def test_a_missing_file_is_named_with_its_neighbour(tmp_path):
    (tmp_path / "labels.txt").write_text("ant\n")
    with pytest.raises(ModelError, match="did you mean 'labels.txt'"):
        read_labels(tmp_path / "lables.txt")


def test_labels_beside_weights():
    assert labels_in({"state_dict": {}, "class_to_idx": {"bee": 1, "ant": 0}}) == ("ant", "bee")
    assert labels_in({"meta": {"classes": ["ant", "bee"]}}) == ("ant", "bee")
    assert labels_in({"state_dict": {}, "classes": 3, "epoch": 1}) is None
