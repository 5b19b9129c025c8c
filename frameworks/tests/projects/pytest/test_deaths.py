import ctypes
import os

import pytest


def test_before():
    pass


def test_leaves():
    os._exit(0)


def test_stops_everything():
    pytest.exit("enough", returncode=0)


def test_crashes():
    ctypes.string_at(0)


def test_after():
    pass
