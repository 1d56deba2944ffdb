"""What is made from logs is written whole or not at all, and never over one of them."""

import pytest

from mpisim.analysis.outputs import check_output, replacing, write_text
from mpisim.errors import InputError


def test_a_text_comes_back_as_it_was_written_and_replaces_an_older_one(tmp_path):
    out = tmp_path / "new" / "folder" / "runs.csv"
    for text in ("older, and longer", "a,b\n1 – 2,3\r\n"):
        write_text(out, text)
        assert out.read_bytes() == text.encode()
    assert [path.name for path in out.parent.iterdir()] == ["runs.csv"]


def test_a_file_is_as_it_was_if_writing_fails_in_the_middle(tmp_path):
    out = tmp_path / "figure.svg"
    out.write_text("before")

    def fail_in_the_middle():
        with replacing(out) as successor:
            assert successor.suffix == ".svg"
            successor.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_written_is_told_with_its_name(tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "runs.csv"
    with pytest.raises(InputError, match=rf"^{out}: cannot be written: [^\n]+$"):
        write_text(out, "text")


def test_a_folder_and_a_log_are_no_places_to_write_to(tmp_path):
    log = tmp_path / "run.h5"
    log.touch()
    (tmp_path / "link").symlink_to(log)
    with pytest.raises(InputError, match="is a folder: name a file in it"):
        check_output(tmp_path, [log])
    for out in (log, tmp_path / "link", tmp_path / "." / "run.h5"):
        with pytest.raises(InputError, match="is one of the logs"):
            check_output(out, [tmp_path / "other.h5", log])


@pytest.mark.parametrize("out", ["new.h5", "other.csv", "folder/new.csv"])
def test_any_other_place_is_one_to_write_to(tmp_path, out):
    (tmp_path / "run.h5").touch()
    (tmp_path / "other.csv").touch()
    assert check_output(tmp_path / out, [tmp_path / "run.h5", tmp_path / "gone.h5"]) is None
