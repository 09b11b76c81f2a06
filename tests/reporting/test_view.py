"""``undertow view``: what the local server answers, to whom, and what it writes as files."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from command import run, some_rows
from run_folders import TOKENS, audited, compared, made, trained
from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.reporting.viewing.server import HEADERS, ReportServer
from undertow.reporting.viewing.site import LONGEST_QUERY, Site
from undertow.runs.settings import LossSettings, Shard


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of each kind, over the same data."""
    folder = tmp_path_factory.mktemp("runs")
    data, model = made(folder)
    train = trained(data, model, folder / "dpo")
    return {
        "data": data,
        "audit": audited(data, model, folder / "scores"),
        "train": train,
        "other": trained(data, model, folder / "simpo", loss=LossSettings("simpo", 2.0, {"gamma": 1.0})),
        "compare": compared(data, model, train / "model", folder / "moved"),
    }


class Client:
    """Requests to a server of these folders, by hand."""

    def __init__(self, *folders: Path) -> None:
        self.server = ReportServer(Site(folders))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def ask(self, target: str, *, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.putrequest(method, target, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{self.server.port}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def json(self, target: str) -> Any:
        status, headers, body = self.ask(target)
        assert (status, headers["Content-Type"]) == (200, "application/json"), body
        return json.loads(body)

    def raw(self, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as connection:
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65536):
                received += part
        return received

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.server.site.close()


@pytest.fixture(scope="module")
def client(runs: dict[str, Path]) -> Iterator[Client]:
    made = Client(runs["compare"])
    yield made
    made.close()


def test_it_listens_on_the_loopback_address_alone(client: Client) -> None:
    assert client.server.socket.getsockname()[0] == "127.0.0.1"
    assert client.server.url == f"http://127.0.0.1:{client.server.port}/"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LocalHost:{port}"])
def test_its_own_names_are_answered(client: Client, host: str) -> None:
    assert client.ask("/pairs", host=host.format(port=client.server.port))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}", "127.0.0.1:{port}@evil.example", "0.0.0.0:{port}", "[::1]:{port}",
        "127.0.0.1:{port}, evil.example",
    ],
)  # fmt: skip
def test_other_names_are_not(client: Client, host: str) -> None:
    status, headers, body = client.ask("/", host=host.format(port=client.server.port))
    assert status == 421
    assert b"<" not in body
    assert headers["Content-Type"].startswith("text/plain")


def test_a_request_needs_one_host(client: Client) -> None:
    port = client.server.port
    assert client.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 421")
    two = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert client.raw(two.encode()).startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "NONSENSE"]
)
def test_only_get_is_answered(client: Client, method: str) -> None:
    status, headers, _ = client.ask("/", method=method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("target", ["/", "/pairs", "/pairs.json", "/pair.json?row=0", "/nonsense", "/favicon.ico"])
def test_every_answer_carries_the_headers(client: Client, target: str) -> None:
    _, headers, _ = client.ask(target)
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "http" not in headers["Content-Security-Policy"]
    assert headers["Server"].strip() == "undertow"


def test_refusals_carry_them_too(client: Client) -> None:
    for answer in (client.ask("/", host="evil.example"), client.ask("/", method="POST")):
        assert {name: answer[1][name] for name in HEADERS} == HEADERS
    bad = client.raw(b"GET /<script>alert(1)</script> HTTP/9.9\r\n\r\n")
    assert b"nosniff" in bad
    assert b"script>" not in bad


@pytest.mark.parametrize(
    "target",
    ["/report.html", "/compare.json", "/pairs.parquet", "/../compare.json", "/%2e%2e/compare.json", "//etc/passwd",
     "/pairs/", "/run/1/", "/static/page.js", "http://127.0.0.1/", "/\x7f", "/<script>alert(1)</script>"],
)  # fmt: skip
def test_nothing_else_is_there(client: Client, target: str) -> None:
    status, headers, body = client.ask(quote(target, safe="/:%<>()"))
    assert status == 404
    assert headers["Content-Type"].startswith("text/plain")
    assert b"script>" not in body


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/pairs.json?first=x", "first: expected a whole number"),
        ("/pairs.json?first=-1", "first: expected a whole number"),
        ("/pairs.json?count=0", "count=0"),
        ("/pairs.json?count=99999", "count=99999"),
        ("/pairs.json?count=" + "9" * 400, "count: expected a whole number"),
        ("/pairs.json?sort=nonsense", "no such column"),
        ("/pairs.json?sort=row%22%3B--", "no such column"),
        ("/pairs.json?order=up", "order: expected ascending or descending"),
        ("/pairs.json?search=" + "x" * 501, "at most 500"),
        ("/pairs.json?row=1", "Expected count, first, order, search, sort, each at most once"),
        ("/pairs.json?sort=row&sort=row", "each at most once"),
        ("/pairs.json?search=%ff", "UTF-8"),
        ("/pairs.json?" + "a" * (LONGEST_QUERY + 1), "at most 4096"),
        ("/pair.json", "row: expected a whole number"),
        ("/pair.json?row=100000", "no such row"),
        ("/pair.json?row=" + "9" * 30, "row: expected a whole number"),
        ("/pairs?x=1", "no parameters"),
    ],
)
def test_requests_that_make_no_sense(client: Client, target: str, message: str) -> None:
    status, headers, body = client.ask(target)
    assert status == 400
    assert message in body.decode()
    assert headers["Content-Type"].startswith("text/plain")


def test_pairs_come_as_they_stand_in_the_files(client: Client, runs: dict[str, Path]) -> None:
    table = {row["row"]: row for row in pq.read_table(runs["compare"] / "pairs.parquet").to_pylist()}
    found = client.json("/pairs.json?sort=dlogp_chosen&order=descending&count=5")
    assert found["total"] == len(table)
    assert [row["row"] for row in found["rows"]] == sorted(table, key=lambda row: -table[row]["dlogp_chosen"])[:5]
    first = found["rows"][0]
    assert first["dlogp_chosen"] == table[first["row"]]["dlogp_chosen"]
    assert first["chosen"] == some_rows(24)[first["row"]]["chosen"]
    pair = client.json(f"/pair.json?row={first['row']}")
    assert pair["texts"] == {name: some_rows(24)[first["row"]][name] for name in ("prompt", "chosen", "rejected")}
    assert pair["numbers"]["gained_tokens"] == table[first["row"]]["gained_tokens"]


def test_an_audits_pairs(runs: dict[str, Path]) -> None:
    client = Client(runs["audit"])
    try:
        found = client.json("/pairs.json?search=QUESTION%203&sort=ln_ches")
        wanted = [n for n, row in enumerate(some_rows(24)) if "question 3" in row["prompt"].lower()]
        assert sorted(row["row"] for row in found["rows"]) == wanted
        assert client.ask("/")[0] == 200
        assert b'href="pairs"' in client.ask("/")[2]
    finally:
        client.close()


def test_a_training_run_has_no_pairs(runs: dict[str, Path]) -> None:
    client = Client(runs["train"])
    try:
        assert client.ask("/")[0] == 200
        assert client.ask("/pairs")[0] == 404
        assert b'href="pairs"' not in client.ask("/")[2]
    finally:
        client.close()


def test_training_runs_stand_side_by_side_and_each_alone(runs: dict[str, Path]) -> None:
    client = Client(runs["train"], runs["other"])
    try:
        both = client.ask("/")[2].decode()
        assert "Training runs side by side" in both
        assert client.ask("/run/2/")[2] == client.ask("/run/2/")[2]
        assert "simpo" in client.ask("/run/2/")[2].decode()
        assert [client.ask(f"/run/{n}/")[0] for n in (0, 1, 2, 3)] == [404, 200, 200, 404]
    finally:
        client.close()


def test_runs_of_several_kinds_are_listed(runs: dict[str, Path]) -> None:
    client = Client(runs["train"], runs["compare"])
    try:
        listed = client.ask("/")[2].decode()
        assert 'href="run/1/"' in listed
        assert 'href="run/2/"' in listed
        assert client.json("/run/2/pairs.json?count=1")["total"] == 24
        assert client.ask("/run/1/pairs")[0] == 404
    finally:
        client.close()


def test_a_page_is_made_again_when_the_run_changed(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["compare"], tmp_path / "moved"))
    client = Client(folder)
    try:
        before = client.ask("/")[2]
        assert client.json("/pairs.json")["total"] == 24
        table = pq.read_table(folder / "pairs.parquet")
        pq.write_table(table.slice(0, 20), folder / "new.parquet")
        (folder / "new.parquet").replace(folder / "pairs.parquet")
        summary = json.loads((folder / "compare.json").read_text())
        summary["means"]["displaced"]["value"] = 0.123
        (folder / "compare.json").write_text(json.dumps(summary))
        assert client.json("/pairs.json")["total"] == 20
        assert client.ask("/")[2] != before
    finally:
        client.close()


def test_a_fault_of_ours_is_an_answer_too(client: Client, capsys, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("\x1b[31mbroken")

    monkeypatch.setattr(client.server.site, "answer", broken)
    status, _, body = client.ask("/")
    assert (status, b"broken" in body) == (500, False)
    err = capsys.readouterr().err
    assert "RuntimeError: ␛[31mbroken" in err
    assert "\x1b" not in err


def test_damage_is_said_and_the_server_goes_on(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["compare"], tmp_path / "moved"))
    client = Client(folder)
    try:
        (folder / "pairs.parquet").write_bytes(b"rubbish")
        status, _, body = client.ask("/pairs.json")
        assert (status, b"cannot be read" in body) == (500, True)
        assert client.ask("/favicon.ico")[0] == 204
    finally:
        client.close()


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_ctrl_c(capsys, runs: dict[str, Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[int] = []

    def visit() -> None:
        try:
            for _ in range(2400):  # two minutes: on a busy machine the command takes long to begin
                with contextlib.suppress(ConnectionRefusedError):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                    connection.request("GET", "/")
                    seen.append(connection.getresponse().status)
                    return
                time.sleep(0.05)
        finally:
            signal.raise_signal(signal.SIGINT)  # whatever happened: nothing else ends the command

    visitor = threading.Thread(target=visit)
    visitor.start()
    code, out, err = run(capsys, "view", runs["train"], "--port", port, "--no-open", "--json")
    visitor.join()
    assert (code, seen) == (0, [200])
    assert json.loads(out) == {"url": f"http://127.0.0.1:{port}/"}
    assert err == "serving on this machine only; Ctrl-C ends it\n"


def test_a_taken_port_is_said(capsys, runs: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run(capsys, "view", runs["train"], "--port", port, "--no-open")
    assert (code, out) == (2, "")
    assert f"--port {port}: another program listens there" in err


@pytest.mark.parametrize("port", ["-1", "65536", "99999999"])
def test_a_port_that_cannot_be(capsys, runs: dict[str, Path], port: str) -> None:
    code, _, err = run(capsys, "view", runs["train"], "--port", port, "--no-open")
    assert code == 2
    assert "expected 0 to 65535" in err


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_folders_that_are_no_runs(capsys, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, "view", tmp_path / name, "--no-open")
    assert (code, out) == (2, "")
    assert str(tmp_path / name) in err
    assert "undertow audit" in err


@pytest.mark.parametrize(("kind", "summary"), [("audit", "audit.json"), ("compare", "compare.json")])
def test_a_run_that_is_not_finished_is_refused(
    capsys, runs: dict[str, Path], tmp_path, kind: str, summary: str
) -> None:
    folder = Path(shutil.copytree(runs[kind], tmp_path / kind))
    (folder / summary).unlink()
    code, out, err = run(capsys, "view", folder, "--no-open")
    assert (code, out) == (2, "")
    assert f"not finished (no {summary})" in err


def test_a_training_run_is_shown_while_it_goes_on(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["train"], tmp_path / "run"))
    (folder / "train.json").unlink()
    client = Client(folder)
    try:
        status, _, body = client.ask("/")
        assert (status, b"not finished" in body) == (200, True)
    finally:
        client.close()


def test_the_shards_of_an_audit_are_one(runs: dict[str, Path], tmp_path: Path) -> None:
    model = runs["data"].parent / "model"
    for shard in (1, 2):
        settings = AuditSettings(tokens=TOKENS, dtype="float32", shard=Shard(shard, 2))
        audit_to_folder(runs["data"], str(model), tmp_path / f"shard-{shard}", settings)
    client = Client(tmp_path)
    try:
        found = client.json("/pairs.json?search=question&count=200")
        assert [row["row"] for row in found["rows"]] == list(range(24))
        assert client.ask("/")[0] == 200
    finally:
        client.close()


def test_an_escape_in_a_folders_name_stays_text(capsys, tmp_path: Path) -> None:
    _, _, err = run(capsys, "view", tmp_path / "\x1b[31mred", "--no-open")
    assert "\x1b" not in err
    assert "␛[31mred" in err


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["audit", "train", "compare"])
def test_every_chart_of_the_page_is_written(capsys, runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    page = tmp_path / "page.html"
    code, out, err = run(
        capsys, "view", runs[kind], "--png", tmp_path / "png", "--svg", tmp_path / "svg", "--html", page, "--json"
    )
    assert code == 0, err
    charts = json.loads(page.read_text().split('id="undertow-charts">')[1].split("</script>")[0])["figures"]
    assert charts
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == sorted(f"{name}.png" for name in charts)
    assert sorted(path.name for path in (tmp_path / "svg").iterdir()) == sorted(f"{name}.svg" for name in charts)
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in (tmp_path / "png").iterdir())
    drawn = [path.read_text() for path in (tmp_path / "svg").iterdir()]
    assert all(text.startswith("<svg") and "</svg>" in text and "var(--" not in text for text in drawn)
    assert sorted(json.loads(out.splitlines()[-1])["written"]) == sorted(
        str(path) for path in (page, *(tmp_path / "png").iterdir(), *(tmp_path / "svg").iterdir())
    )


def test_several_training_runs_have_one_page_and_one_chart(capsys, runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    code, _, err = run(capsys, "view", runs["train"], runs["other"], "--html", page, "--svg", tmp_path)
    assert code == 0, err
    assert "Training runs side by side" in page.read_text()
    (chart,) = tmp_path.glob("*.svg")
    assert "simpo" in chart.read_text()


def test_runs_of_several_kinds_have_no_common_page(capsys, runs: dict[str, Path], tmp_path: Path) -> None:
    code, _, err = run(capsys, "view", runs["train"], runs["compare"], "--html", tmp_path / "both.html")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "only training runs have a common page" in err


def test_a_place_that_cannot_be_written(capsys, runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(capsys, "view", runs["train"], "--svg", tmp_path / "file")
    assert code == 2
    assert str(tmp_path / "file") in err


def test_the_server_starts_without_what_only_pages_need() -> None:
    """It once took 8 s before the address was there: torch, transformers and all kinds of pages were imported first."""
    code = (
        "import sys, undertow.reporting.viewing.server\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), sep=' ')\n"
        "print(*(name for name in sys.modules if name.startswith('undertow.reporting.')), sep=' ')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    libraries, rooms = (line.split() for line in done.stdout.splitlines())
    assert not {"torch", "transformers", "altair", "vl_convert", "datasets", "peft"} & set(libraries)
    assert not [room for room in rooms if room.endswith((".audit.page", ".training.page", ".sweep.page"))]
