"""A file is written whole or not at all, by one writer at a time, and errors say what to do."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from undertow import files
from undertow.errors import OutputError
from undertow.files import lock, remove_leftovers, write_atomically, write_json

NOBODY = 65534


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def powerless() -> Iterator[None]:
    """As an ordinary user: the superuser is refused nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_nothing_stands_at_the_path_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.bin"
    with write_atomically(path) as file:
        file.write(b"x" * 5_000_000)
        assert not path.exists()
    assert path.read_bytes() == b"x" * 5_000_000
    assert names(path.parent) == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.EIO, "reading the input")])
def test_an_error_of_the_body_passes_and_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, write_atomically(path) as file:
        file.write(b"half of the new")
        raise error
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_a_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    what = r"out\.bin cannot be written: No space left on device\. Free some space"
    with pytest.raises(OutputError, match=what), write_atomically(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_a_write_that_the_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    """The real system call fails here, at the account's file size limit."""
    path = tmp_path / "out.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        what = r"out\.bin cannot be written: File too large"
        with pytest.raises(OutputError, match=what), write_atomically(path) as file:
            for _ in range(100):
                file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_no_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    what = r"Permission denied\. Choose a place that you may write to"
    with powerless(), pytest.raises(OutputError, match=what), write_atomically(folder / "out.bin"):
        pass
    assert names(folder) == []


def test_a_path_below_a_file_or_at_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    what = "A file stands where a folder is needed"
    with pytest.raises(OutputError, match=what), write_atomically(tmp_path / "file" / "out.bin"):
        pass
    with pytest.raises(OutputError, match="is a folder"), write_atomically(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"), write_atomically(tmp_path / "pipe"):
        pass


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "ours"):
        pass
    (tmp_path / "any").touch()
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    with write_atomically(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"new"


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with write_atomically(path) as file:
        file.write(b"first")
        file.flush()
        with pytest.raises(OutputError, match=r"another process is writing it"), write_atomically(path):
            pass
    assert path.read_bytes() == b"first"
    with write_atomically(path) as file:
        file.write(b"2")
    assert path.read_bytes() == b"2"


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    code = (
        "import os, signal, sys; from undertow.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as file:\n"
        "    file.write(b'a long text that is not finished'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert names(tmp_path) == [".out.bin.tmp"]
    with write_atomically(path) as file:
        file.write(b"short")
    assert path.read_bytes() == b"short"
    assert names(tmp_path) == ["out.bin"]


def test_a_lock_holds_until_closed_or_killed(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    with lock(path), pytest.raises(OutputError, match="another process is writing there"):
        lock(path)
    code = (
        "import os, signal, sys; from pathlib import Path; from undertow.files import lock\n"
        "held = lock(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    lock(path).close()


def test_leftovers_only_are_removed(tmp_path: Path) -> None:
    for name in (".out.bin.tmp", "mine.tmp", ".hidden", "out.bin"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "mine.tmp", "out.bin"]


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"β": 0.1, "bad": "\ud800"})
    assert "β" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"nan": float("nan")})


WITHOUT_UNIX = """
import builtins, errno, os, sys
import accelerate, datasets, huggingface_hub, peft, torch, transformers.trainer  # theirs is their own affair

HIDDEN = ("fcntl", "resource", "grp", "pwd", "termios")
real = builtins.__import__

def without(name, globals=None, *rest, **named):
    if name in HIDDEN and (globals or {}).get("__name__", "").startswith("undertow"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *rest, **named)

builtins.__import__ = without
for name in ("O_CLOEXEC", "geteuid", "getuid", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("EDQUOT", "ENOLCK"):
    delattr(errno, name)

import importlib, pkgutil
from pathlib import Path
import undertow
import undertow.files
undertow.files._WINDOWS = True
for module in pkgutil.walk_packages(undertow.__path__, "undertow."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert undertow.models.device.peak_memory_mb(undertow.models.device.choose_device("cpu")) is None

from undertow.runs.folder import RunFolder

class Run(RunFolder):
    command, summary_name = "audit", "audit.json"

out = Path(sys.argv[1])
with undertow.files.write_atomically(out / "a.bin") as file:
    file.write(b"whole")
run = Run(out / "run")
run.begin({"data": "x"}, {})
run.commit({"done": 1})
run.close()
assert Run(out / "run").summary() == {"done": 1}
print(sorted(path.name for path in out.rglob("*") if path.is_file()))
"""


def test_everything_is_imported_and_written_without_what_windows_lacks(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['.lock', 'a.bin', 'audit.json', 'settings.json']"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks the kernel which files are open")
def test_on_windows_a_file_is_closed_before_it_is_renamed_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, unlink = Path.replace, Path.unlink

    def refuse_open(path: Path) -> None:
        if any(link.exists() and link.samefile(path) for link in Path("/proc/self/fd").iterdir()):
            raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used")

    def windows_replace(self: Path, target: Path) -> Path:
        refuse_open(self)
        return replace(self, target)

    def windows_unlink(self: Path, missing_ok: bool = False) -> None:
        refuse_open(self)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", windows_replace)
    monkeypatch.setattr(Path, "unlink", windows_unlink)
    path = tmp_path / "out.bin"
    with pytest.raises(OutputError, match="being used"), write_atomically(path) as file:  # as elsewhere: it shows
        file.write(b"new")
    monkeypatch.setattr(files, "_WINDOWS", True)
    monkeypatch.setattr(os, "O_RDONLY", None)  # a folder cannot be opened
    with write_atomically(path) as file:
        file.write(b"new")
        with pytest.raises(OutputError, match="another process is writing it"), write_atomically(path):
            pass
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyError), write_atomically(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["out.bin"]
