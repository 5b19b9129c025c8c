"""Runs pytest as `python -m pytest` would, and tells what happens in frames.

Started as `python -c SOURCE list|run COUNT ARGUMENT... NODEID...`, with COUNT arguments for pytest. A frame is a line of its own on the
descriptor that was standard output: the nonce, a blank, a JSON object in ASCII. Everything else that is written goes to standard error.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile


class Frames:
    """The way out: a copy of standard output that nothing else can reach, and that children do not inherit."""

    def __init__(self, nonce):
        self.prefix = "\n" + nonce + " "
        self.process = os.getpid()
        self.descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, **frame):
        # A test that forks and comes back must not speak for its parent.
        if os.getpid() != self.process:
            return
        data = (self.prefix + json.dumps(frame) + "\n").encode("ascii")
        while data:
            data = data[os.write(self.descriptor, data):]


def plain(text):
    """The text without lone surrogates, which JSON can't carry."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def both_ends(text, limit):
    """The text, or its head and its tail; the reader cuts to the byte, this bounds what is sent."""
    text = plain(text)
    if len(text) <= limit:
        return text
    return text[:limit // 2] + "\n[%d characters left out]\n" % (len(text) - limit) + text[-(limit // 2):]


class Names:
    """Node ids, told apart where a project has the same one twice."""

    def __init__(self):
        self.counts = {}

    def name(self, item):
        nodeid = plain(item.nodeid)
        count = self.counts[nodeid] = self.counts.get(nodeid, 0) + 1
        return nodeid if count == 1 else "%s#%d" % (nodeid, count)


class Plugin:
    """What list and run share."""

    def __init__(self, frames, output_limit):
        self.frames = frames
        self.output_limit = output_limit
        self.sent = 0
        self.errors = 0

    def pytest_configure(self, config):
        # The fleet is the one that distributes, stops early and repeats.
        for option, value in (("dist", "no"), ("numprocesses", None), ("tx", []), ("maxfail", 0)):
            if hasattr(config.option, option):
                setattr(config.option, option, value)

    def pytest_collectreport(self, report):
        if report.failed:
            self.errors += 1
            words = both_ends(getattr(report, "longreprtext", None) or report.longrepr, self.output_limit)
            self.frames.send(event="collection_error", name=plain(report.nodeid), output=words)


class ListPlugin(Plugin):
    def pytest_configure(self, config):
        super().pytest_configure(config)
        config.option.collectonly = True

    def pytest_collection_finish(self, session):
        names = Names()
        for item in session.items:
            self.frames.send(event="case", name=names.name(item))
            self.sent += 1


class RunPlugin(Plugin):
    def __init__(self, frames, output_limit, wanted):
        super().__init__(frames, output_limit)
        self.wanted = {name: position for position, name in enumerate(wanted)}
        self.positions = {}
        self.reports = []

    def pytest_configure(self, config):
        super().pytest_configure(config)
        config.option.continue_on_collection_errors = True
        # Only now: the root, the configuration file and the first conftest files follow from the project's own arguments.
        root = str(getattr(config, "rootpath", None) or config.rootdir)
        files = dict.fromkeys(os.path.normpath(os.path.join(root, name.split("::", 1)[0])) for name in self.wanted)
        if all(os.path.exists(file) for file in files):
            config.args[:] = files
            if hasattr(config.option, "pyargs"):
                config.option.pyargs = False

    def pytest_collection_modifyitems(self, session, config, items):
        outcome = yield
        names = Names()
        kept, dropped = [], []
        for item in items:
            position = self.wanted.get(names.name(item))
            if position is None or id(item) in self.positions:
                dropped.append(item)
            else:
                self.positions[id(item)] = position
                kept.append(item)
        items[:] = kept
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        return outcome.get_result()

    def pytest_runtest_protocol(self, item, nextitem):
        position = self.positions.get(id(item))
        self.reports = []
        if position is not None:
            self.frames.send(event="start", case=position)
        outcome = yield
        if outcome.excinfo is None and position is not None and self.reports:
            self.frames.send(event="result", case=position, **self.combine())
            self.sent += 1

    def pytest_runtest_logreport(self, report):
        if report.when == "setup":
            self.reports = []
        self.reports.append(report)

    def combine(self):
        """One result of a case's phases, as pytest counts them; the first failure gives the words."""
        duration = sum(getattr(report, "duration", 0) for report in self.reports)
        failed = [report for report in self.reports if report.failed]
        if failed:
            message = "error at %s: " % failed[0].when if failed[0].when != "call" else ""
            parts = [str(getattr(report, "longreprtext", None) or report.longrepr) for report in failed]
            parts += ["%s\n%s" % section for section in self.reports[-1].sections]
            output = both_ends("\n".join(parts), self.output_limit)
            return dict(verdict="failed", duration=duration, message=message + crash(failed[0]), output=output)
        for report in self.reports:
            expected = getattr(report, "wasxfail", None)
            if expected is not None:
                kind = "failed as expected" if report.skipped else "passed, which was not expected"
                message = plain("%s: %s" % (kind, expected) if expected else kind)
                return dict(verdict="passed", duration=duration, message=message[:1024], output="")
            if report.skipped:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                message = plain(reason[9:] if reason.startswith("Skipped: ") else reason)
                return dict(verdict="skipped", duration=duration, message=message[:1024], output="")
        return dict(verdict="passed", duration=duration, message="", output="")


def crash(report):
    """The failure in one line."""
    place = getattr(report.longrepr, "reprcrash", None)
    text = getattr(place, "message", None) or str(getattr(report, "longreprtext", None) or report.longrepr)
    return plain(next((line for line in text.splitlines() if line.strip()), ""))[:1024]


def main():
    frames = Frames(os.environ.pop("MUSTER_FRAME_NONCE"))
    output_limit = int(os.environ.pop("MUSTER_FRAME_OUTPUT"))
    mode, count = sys.argv[1], int(sys.argv[2])
    arguments, wanted = sys.argv[3:3 + count], sys.argv[3 + count:]
    # `python -m pytest` has the working directory first, as an absolute path.
    if sys.path and sys.path[0] == "":
        sys.path[0] = os.getcwd()

    import pytest

    # Wrappers, in the form that pytest 7 and 9 both know.
    RunPlugin.pytest_collection_modifyitems = pytest.hookimpl(hookwrapper=True, tryfirst=True)(
        RunPlugin.pytest_collection_modifyitems
    )
    RunPlugin.pytest_runtest_protocol = pytest.hookimpl(hookwrapper=True, tryfirst=True)(
        RunPlugin.pytest_runtest_protocol
    )
    for kind in (ListPlugin, RunPlugin):
        kind.pytest_configure = pytest.hookimpl(tryfirst=True)(kind.pytest_configure)

    sys.argv[:] = [os.path.join(os.path.dirname(pytest.__file__), "__main__.py")] + arguments
    plugin = ListPlugin(frames, output_limit) if mode == "list" else RunPlugin(frames, output_limit, wanted)
    # The cache plugin stays, because fixtures and options need it; what it remembers is thrown away.
    cache = tempfile.mkdtemp(prefix="muster-pytest-cache-")
    if os.getpid() == frames.process:
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    status = int(pytest.main(arguments + ["-o", "cache_dir=" + cache], plugins=[plugin]))
    frames.send(event="end", status=status, count=plugin.sent, errors=plugin.errors)
    sys.exit(status)


main()
