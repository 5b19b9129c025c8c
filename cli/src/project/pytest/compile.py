# Compiles sources into byte code that is valid whatever the modification time of the source is here. Arguments: how it is going to be checked
# (checked, unchecked: PEP 552; pytest), and the modification time that pytest will see. Reads one line of JSON per file: source, path of the
# byte code. A source that does not compile leaves an empty file, so that it is not tried again.
import importlib.util
import json
import marshal
import os
import py_compile
import sys
import warnings

warnings.simplefilter("ignore")
kind, time = sys.argv[1], int(sys.argv[2])


def rewrite(source, output):
    """As pytest does it and checks it (_pytest/assertion/rewrite.py, _write_pyc_fp and _read_pyc)."""
    from pathlib import Path

    from _pytest.assertion.rewrite import _rewrite_test

    status, code = _rewrite_test(Path(source), None)
    numbers = [0, time & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF]
    header = importlib.util.MAGIC_NUMBER + b"".join(number.to_bytes(4, "little") for number in numbers)
    partial = "%s.%d" % (output, os.getpid())
    with open(partial, "wb") as file:
        file.write(header + marshal.dumps(code))
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
