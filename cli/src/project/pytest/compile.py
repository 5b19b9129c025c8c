# Compiles sources into byte code that is valid whatever the modification time of the source is here. Arguments: how it is going to be checked
# (checked, unchecked: PEP 552; pytest), and the modification time that an older pytest will see. Reads one line of JSON per file: source, path of the
# byte code. A source that does not compile leaves an empty file, so that it is not tried again.
import json
import os
import py_compile
import sys
import warnings

warnings.simplefilter("ignore")
kind, time = sys.argv[1], int(sys.argv[2])


def rewrite(source, output):
    """With pytest's own functions (_pytest/assertion/rewrite.py): it checks by hash from 9.2 on, by time and length before."""
    from pathlib import Path
    from types import SimpleNamespace

    from _pytest.assertion.rewrite import _rewrite_test, _write_pyc_fp

    checked_by, code = _rewrite_test(Path(source), None)
    if not isinstance(checked_by, bytes):
        checked_by = SimpleNamespace(st_mtime=time, st_size=checked_by.st_size)
    partial = "%s.%d" % (output, os.getpid())
    with open(partial, "wb") as file:
        _write_pyc_fp(file, checked_by, code)
    os.replace(partial, output)


def compile_one(source, output):
    if kind == "pytest":
        return rewrite(source, output)
    modes = py_compile.PycInvalidationMode
    mode = modes.CHECKED_HASH if kind == "checked" else modes.UNCHECKED_HASH
    py_compile.compile(source, cfile=output, dfile=source, doraise=True, invalidation_mode=mode)


for line in sys.stdin:
    source, output = json.loads(line)
    os.makedirs(os.path.dirname(output), exist_ok=True)
    try:
        compile_one(source, output)
    except Exception:
        open(output, "wb").close()
