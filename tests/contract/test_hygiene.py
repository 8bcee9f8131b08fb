"""Habits the repository keeps: nothing unsafe, nothing machine-specific, nothing heavy, seeds always explicit."""

import ast
import functools
import re

import pytest

from tests.contract.source import PACKAGES, ROOT, calls, imports, name, python_files, tracked, tree

MAX_BYTES = 6 * 2**20
PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".ckpt", ".npy", ".npz", ".dill"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ".ini", ".sh", ".css", ""}
#: home folders and mount points of one machine; the container's own user is not one
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|Users|mnt|media)/\w|/home/(?!vmoer\b)\w")
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|DELETE\s+FROM|UPDATE\s+\S+\s+SET|(CREATE|DROP|ALTER)\s+TABLE)\b", re.S
)

#: torch functions that draw from the global generator unless one is passed
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}
NUMPY_OWN = {"default_rng", "Generator", "PCG64", "SeedSequence", "get_state"}
PYTHON_OWN = {"Random", "SystemRandom", "getstate"}


def found_calls(*folders):
    return [(path, node, called) for path in python_files(*folders) for node, called in calls(path)]


def where(path, node):
    return f"{name(path)}:{node.lineno}"


def test_no_large_files():
    heavy = [name(path) for path in tracked() if path.stat().st_size > MAX_BYTES]
    assert not heavy


def test_no_pickles():
    assert not [name(path) for path in tracked() if path.suffix in PICKLES]
    unsafe = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    assert not [
        f"{name(path)}:{line}"
        for path in python_files()
        for line, what in imports(path)
        if what.split(".")[0] in unsafe
    ]


def test_no_paths_of_one_machine():
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.name != "test_hygiene.py":
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if MACHINE_PATH.search(line):
                    found.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


#: a loader that allows less than the safe one; a test writes the kind of file that must be refused
REVIEWED = {
    ("pipelines/spec/yamlfile.py", "yaml.load"),
    ("tests/vmoer/test_models.py", "torch.save"),
    ("tests/adversarial/test_weight_files.py", "torch.save"),
}


@pytest.mark.parametrize(
    "called", ["torch.load", "torch.save", "eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"]
)
def test_unsafe_functions_are_not_called(called):
    found = [
        where(path, node)
        for path, node, what in found_calls()
        if what == called
        if (name(path), called) not in REVIEWED
    ]
    assert not found


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("trust_remote_code", True), ("shell", True), ("allow_pickle", True), ("weights_only", False)],
)
def test_unsafe_switches_are_not_set(keyword, value):
    found = [
        where(path, node)
        for path, node, _ in found_calls()
        for word in node.keywords
        if word.arg == keyword and isinstance(word.value, ast.Constant) and word.value.value is value
    ]
    assert not found


@functools.cache
def under_fork(path):
    """Calls inside a ``with …fork_rng(…)`` block, by identity."""
    return {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
        for inner in ast.walk(node)
    }


def test_the_global_torch_seed_is_only_set_inside_a_fork():
    found = [
        where(path, node)
        for path, node, called in found_calls()
        if called in ("torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.cuda.manual_seed_all")
        if id(node) not in under_fork(path)
    ]
    assert not found


def draws_globally(node, called):
    library, _, function = called.rpartition(".")
    if library == "torch" and function in TORCH_DRAWS:
        return not any(word.arg == "generator" for word in node.keywords)
    if library in ("np.random", "numpy.random"):
        return function not in NUMPY_OWN
    return library == "random" and function not in PYTHON_OWN


def test_random_numbers_come_from_explicit_generators():
    found = [
        f"{where(path, node)}: {called}"
        for path, node, called in found_calls(*PACKAGES, "benchmarks", "tests")
        if "random" not in local_names(path) or not called.startswith("random.")
        if draws_globally(node, called) and id(node) not in under_fork(path) and "test_conformance" not in name(path)
    ]
    assert not found, "\n".join(found)


@functools.cache
def local_names(path):
    """Names assigned in a file: there ``random.x`` is a generator of that name, not the module."""
    return {
        node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {node.arg for node in ast.walk(tree(path)) if isinstance(node, ast.arg)}


def built_text(node):
    """Constant parts of an f-string, a %-format, a .format() or a concatenation; empty for plain constants."""
    if isinstance(node, ast.JoinedStr) and any(isinstance(value, ast.FormattedValue) for value in node.values):
        return " ".join(str(value.value) for value in node.values if isinstance(value, ast.Constant))
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.Add)):
        parts = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
        return " ".join(part for part in parts if isinstance(part, str))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return node.func.value.value if isinstance(node.func.value, ast.Constant) else ""
    return ""


def test_no_sql_is_put_together_from_text_outside_the_store():
    found = [
        where(path, node)
        for path in python_files("vmoer", "pipelines", "app", "benchmarks")
        for node in ast.walk(tree(path))
        if SQL.search(str(built_text(node)))
    ]
    assert not found


def test_the_sql_rule_can_fail():
    for text in ('f"SELECT {a} FROM t"', '"DELETE FROM t WHERE x = %s" % x', '"INSERT INTO {}".format(t)'):
        assert any(SQL.search(str(built_text(node))) for node in ast.walk(ast.parse(text))), text


def test_data_never_reaches_raw_html_unreviewed():
    """``unsafe_allow_html`` only with a constant string."""
    found = [
        where(path, node)
        for path, node, _ in found_calls("app")
        if any(w.arg == "unsafe_allow_html" and getattr(w.value, "value", True) for w in node.keywords)
        if not (node.args and isinstance(node.args[0], ast.Constant))
    ]
    assert not found


def test_line_endings_and_encoding():
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".yaml"}:
            content = path.read_bytes()
            assert b"\r" not in content, f"{name(path)} has Windows line endings"
            content.decode("utf-8")


def test_no_stray_work_is_left():
    """Unfinished work is an issue, not a comment."""
    marker = re.compile(r"#\s*(TO" + r"DO|FIX" + r"ME|XXX|HACK)\b")
    found = [
        f"{name(path)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marker.search(line)
    ]
    assert not found


def test_python_files_stay_readable():
    """One idea per module: under 350 lines of source (tests may be longer)."""
    long = {name(p): n for p in python_files(*PACKAGES) if (n := len(p.read_text("utf-8").splitlines())) > 350}
    assert not long


def test_the_repository_root_is_found():
    assert (ROOT / "pyproject.toml").is_file()
    assert len(python_files(*PACKAGES)) > 50
