# Says what this interpreter is made of, as one line of JSON. Runs on the host, before anything is sent anywhere.
import json
import os
import site
import sys
import sysconfig


def distributions():
    try:
        from importlib import metadata
    except ImportError:
        return None, []
    pytest = None
    editable = []
    for distribution in metadata.distributions():
        name = (distribution.metadata.get("Name") or "").lower()
        if name == "pytest":
            pytest = distribution.version
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        except (ValueError, OSError):
            continue
        url = origin.get("url", "")
        if origin.get("dir_info", {}).get("editable") and url.startswith("file://"):
            from urllib.request import url2pathname

            editable.append(url2pathname(url[len("file://"):]))
    return pytest, editable


paths = sysconfig.get_paths()
pytest_version, editable = distributions()
directories = [entry for entry in sys.path if entry and os.path.isabs(entry) and os.path.exists(entry)]
print(
    json.dumps(
        {
            "executable": sys.executable,
            "prefix": os.path.abspath(sys.prefix),
            "base_prefix": os.path.abspath(sys.base_prefix),
            "base_executable": getattr(sys, "_base_executable", None) or os.path.realpath(sys.executable),
            "version": list(sys.version_info[:3]),
            "cache_tag": sys.implementation.cache_tag,
            "standard_library": sorted({paths["stdlib"], paths["platstdlib"]}),
            "site_packages": sorted({paths["purelib"], paths["platlib"]}),
            "path": directories,
            "user_base": site.getuserbase() if site.ENABLE_USER_SITE and site.getusersitepackages() in sys.path else None,
            "editable": editable,
            "pytest": pytest_version,
        }
    )
)
