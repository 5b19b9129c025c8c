# Compiles sources into byte code that is valid whatever the modification time of the source is. Reads one line of JSON per file:
# source, path of the byte code, whether the source is to be checked by its hash (PEP 552). A source that does not compile leaves an empty
# file, so that it is not tried again.
import json
import os
import py_compile
import sys
import warnings

warnings.simplefilter("ignore")
for line in sys.stdin:
    source, output, checked = json.loads(line)
    mode = py_compile.PycInvalidationMode
    os.makedirs(os.path.dirname(output), exist_ok=True)
    try:
        py_compile.compile(
            source,
            cfile=output,
            dfile=source,
            doraise=True,
            invalidation_mode=mode.CHECKED_HASH if checked else mode.UNCHECKED_HASH,
        )
    except Exception:
        open(output, "wb").close()
