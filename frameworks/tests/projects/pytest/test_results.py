import multiprocessing
import os
import subprocess
import sys

import pytest

import helper


def test_passes(tmp_path, cache):
    assert helper.ANSWER == 42
    assert "MUSTER_FRAME_NONCE" not in os.environ
    assert os.path.basename(sys.argv[0]) == "__main__.py"


def test_fails():
    print("some words")
    print("others", file=sys.stderr)
    assert [1, 2] == [1, 3], "lists are hard"


@pytest.mark.parametrize("text", ["plain", "with space", "ünïcode", "a::b[c]", "line\nbreak"])
def test_parameters(text):
    assert text


@pytest.mark.skip(reason="not today")
def test_skipped():
    pass


@pytest.mark.xfail(reason="known bug")
def test_expected_failure():
    assert False


@pytest.mark.xfail(strict=True, reason="was fixed")
def test_unexpected_pass():
    pass


def test_setup_error(broken):
    pass


def test_teardown_error(leaky):
    pass


def test_exits():
    sys.exit(3)


class TestClass:
    def test_method(self, shared):
        shared.append(1)

    def test_other(self, shared):
        assert isinstance(shared, list)


def test_writes_past_the_capture():
    subprocess.run(["/bin/echo", "from a child"], check=True)
    os.write(1, b"to the descriptor\n")


def square(number):
    return number * number


def test_spawns():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]


def test_forks_and_comes_back():
    child = os.fork()
    if child == 0:
        return
    os.waitpid(child, 0)
