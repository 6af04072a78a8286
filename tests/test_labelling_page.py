"""The labelling page, by its requests."""

import base64
import json
import socket
import struct
import urllib.error
import urllib.request
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from skbayes import ActiveLearner
from skbayes.active.__main__ import main, make_learner, read
from skbayes.active.page import png
from skbayes.active.serve import _plain
from skbayes.active.session import Session

SCRIPT = "<script>document.title = 'run'</script> good <b>word</b>"
TEXTS = [SCRIPT] + [f"{'good fine' if i % 2 else 'bad awful'} word{i % 7}" for i in range(39)]


def ask(server, path, body=None, token=None, host=None):
    """Status, body and headers of a request."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}")
    request.add_header("X-Token", server.token if token is None else token)
    if host is not None:
        request.add_header("Host", host)
    if body is not None:
        request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, found, headers = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, found, headers = error.code, error.read(), error.headers
    if headers["Content-Type"] == "application/json":
        found = json.loads(found)
    return status, found, headers


def text_learner():
    y = np.full(40, None, dtype=object)
    y[1:5] = ["yes", "no", "yes", "no"]
    inner = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return ActiveLearner(inner, classes=["no", "yes"], random_state=0).fit(TEXTS, y)


@pytest.fixture
def text():
    learner = text_learner()
    with learner.serve() as server:
        yield SimpleNamespace(learner=learner, server=server)


def test_label_ten_undo_one_reload_resume(tmp_path):
    path = tmp_path / "labels.sqlite"
    learner = text_learner().open_store(path)
    with learner.serve() as server:
        state = ask(server, "/api/next")[1]
        for number in range(10):
            assert state["n_labelled"] == 4 + number
            assert state["content"] == {"kind": "text", "text": TEXTS[state["item"]]}
            assert len(state["proba"]) == 2
            assert "margin" in state["why"]
            choice = int("good" in state["content"]["text"])
            last = state["item"]
            status, state, _ = ask(server, "/api/label", {"item": last, "choice": choice})
            assert status == 200
        assert len(state["curve"]) == 10
        state = ask(server, "/api/undo", {})[1]
        assert state["item"] == last and state["n_labelled"] == 13
        again = ask(server, "/api/next")[1]  # a reload
        assert again["n_labelled"] == 13
        state = ask(server, "/api/skip", {"item": again["item"]})[1]
        assert state["n_skipped"] == 1 and state["item"] != again["item"]
    resumed = text_learner().open_store(path)
    assert resumed.n_answers_ == 9
    with resumed.serve() as server:
        state = ask(server, "/api/next")[1]
        assert (state["n_labelled"], state["n_skipped"]) == (13, 1)
        assert state["item"] == learner.query()[0]


def test_token_and_host(text):
    for token in ("", "wrong", text.server.token[:-1]):
        for path, body in (("/", None), ("/api/next", None), ("/api/label", {"item": 7})):
            assert ask(text.server, path, body, token=token)[0] == 403
    query = f"/?token={text.server.token}"
    assert text.server.url.endswith(query)
    assert ask(text.server, query, token="")[0] == 200
    # through a tunnel the port is another
    for host in ("localhost:8888", "127.0.0.1", "LOCALHOST:1", "[::1]:99"):
        assert ask(text.server, "/", host=host)[0] == 200
    for host in ("evil.example", "localhost.evil.example", "[", "localhost@evil.example"):
        status, found, _ = ask(text.server, "/", host=host)
        assert status == 403 and "not known as" in found["error"]
    assert text.server.host == "127.0.0.1"
    assert text.learner.n_answers_ == 0
    with pytest.raises(ValueError, match="8 characters"):
        text.learner.serve(token="short")


def test_the_page_runs_its_own_script_only(text):
    _, page, headers = ask(text.server, "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert page.count(nonce.encode()) == page.count(b"nonce=") == 2
    assert nonce.encode() not in ask(text.server, "/")[1]  # a new one each time
    # rows come as JSON, and are put in as text
    assert b"event.repeat" in page  # a key held down
    assert b"innerHTML" not in page and b"script>document" not in page
    for path in ("/nothing", "/etc/passwd", "/../secret"):
        assert ask(text.server, path)[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/label", {"item": 7, "choice": 2}, "choice=2"),
        ("/api/label", {"item": 7}, "choice=None"),
        ("/api/label", {"item": 40, "choice": 0}, "item=40"),
        ("/api/label", {"item": "7", "choice": 0}, "item='7'"),
        ("/api/label", {"choice": 0}, "item=None"),
        ("/api/label", b"[1]", "not a JSON object"),
        ("/api/label", b"{", "Expecting"),
        ("/api/label", b"[" * 60_000, "nested too deeply"),
        ("/api/label", b" " * 70_000, "too large"),
        ("/api/undo", {}, "nothing to take back"),
    ],
)
def test_bad_requests(text, path, body, message):
    status, found, _ = ask(text.server, path, body)
    assert status == 400
    assert message in found["error"]
    assert text.learner.n_answers_ == 0


def test_pictures_tables_and_scores():
    X, truth = load_digits(return_X_y=True)
    y = np.where(np.arange(300) < 30, truth[:300], -1)
    learner = ActiveLearner(LogisticRegression(max_iter=200), random_state=0).fit(X[:300], y)
    test = {"X_test": X[1000:], "y_test": truth[1000:]}
    with learner.serve(image_shape=(8, 8), names=[f"digit {c}" for c in range(10)], **test) as it:
        state = ask(it, "/api/next")[1]
        assert state["classes"][3] == "digit 3"
        data = base64.b64decode(state["content"]["data"].split(",")[1])
        width, height = struct.unpack(">II", data[16:24])
        assert (width, height) == (8, 8)
        state = ask(it, "/api/label", {"item": state["item"], "choice": 3})[1]
        assert len(state["curve"]) == 2
        assert state["score"] == f"{learner.score(X[1000:], truth[1000:]):.3f}"
    with learner.serve(show=lambda i: {"row": i, "note": "<i>x</i>"}) as server:
        state = ask(server, "/api/next")[1]
        assert state["content"]["cells"] == [["row", str(state["item"])], ["note", "<i>x</i>"]]


def test_png_holds_the_picture():
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (3, 5, 3), (3, 5, 4), (3, 5, 1), (1, 3, 5)):
        image = rng.integers(0, 255, shape)
        data = png(image, 0, 255)
        assert data[25] == {3: 2, 4: 6}.get(shape[-1], 0)
        start = data.index(b"IDAT")
        size = struct.unpack(">I", data[start - 4 : start])[0]
        raw = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + size]), np.uint8)
        rows = raw.reshape(3, -1)
        assert (rows[:, 0] == 0).all()
        np.testing.assert_array_equal(rows[:, 1:].reshape(image.shape), image)
    for shape in ((3, 5, 2), (2, 3, 5), (3, 5, 3, 1)):
        with pytest.raises(ValueError, match="A picture has the shape"):
            png(np.zeros(shape), 0, 255)


def test_regression_and_the_end():
    X, y = np.arange(6.0)[:, None], np.array([0.0, 1.0, 2.0, np.nan, np.nan, np.nan])
    learner = ActiveLearner(Ridge(), "random", random_state=0).fit(X, y)
    with learner.serve() as server:
        state = ask(server, "/api/next")[1]
        assert state["regression"] and state["content"]["cells"][0][0] == "x0"
        assert ask(server, "/api/label", {"item": state["item"], "value": "x"})[0] == 400
        for _ in range(3):
            state = ask(server, "/api/label", {"item": state["item"], "value": "2.5"})[1]
        assert state["done"] and state["n_labelled"] == 6


def test_without_classes_or_labels():
    X, truth = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="must know the classes"):
        ActiveLearner(LogisticRegression()).fit(X).serve()
    learner = ActiveLearner(LogisticRegression(max_iter=300), classes=[0, 1, 2]).fit(X)
    with learner.serve() as server:
        state = ask(server, "/api/next")[1]
        assert state["proba"] is None and "no model yet" in state["why"]
        for _ in range(8):
            choice = int(truth[state["item"]])
            state = ask(server, "/api/label", {"item": state["item"], "choice": choice})[1]
    assert learner.n_answers_ == 8


def test_command_line(tmp_path, capsys):
    path = tmp_path / "data.csv"
    path.write_text(
        'text,kind\n"good, fine",yes\nbad awful,no\n' + "good one,\nbad one,\n" * 5,
        encoding="utf-8",
    )
    options = {
        "data": str(path),
        "text": "text",
        "label": "kind",
        "classes": ["no", "yes"],
        "model": "logistic",
        "acquisition": "auto",
        "seed": 0,
    }
    learner, _ = make_learner(SimpleNamespace(**options))
    assert len(learner.labelled_()[1]) == 2
    assert learner.query().tolist()
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(9)), encoding="utf-8")
    options.update(data=str(table), text=None, label=None)
    learner, show = make_learner(SimpleNamespace(**options))
    assert show(4) == {"a": 4.0, "b": 1.0}
    np.save(tmp_path / "images.npy", np.zeros((5, 4, 4)))
    options.update(data=str(tmp_path / "images.npy"))
    assert make_learner(SimpleNamespace(**options))[0].X_.shape == (5, 4, 4)
    for extra, message in (
        (["--text", "nothing"], "no column 'nothing'"),
        ([], "texts need --text"),
        (["--text", "text", "--label", "kind", "--classes", "a", "b"], "not among --classes"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(
                ["serve", str(path), "--store", str(tmp_path / "x"), "--classes", "a", "b", *extra]
            )
        assert message in str(stop.value.code)


def test_other_addresses_and_ports(text):
    with pytest.raises(ValueError, match="port=99999"):
        text.learner.serve(port=99999)
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6")
    with text.learner.serve(host="::1") as server:
        assert server.url.startswith(f"http://[::1]:{server.port}/")
        with urllib.request.urlopen(server.url, timeout=30) as answer:
            assert answer.status == 200


def test_a_row_that_was_answered_meanwhile(tmp_path):
    path = tmp_path / "labels.sqlite"
    eve, bob = (text_learner().open_store(path, name) for name in ("eve", "bob"))
    session = Session(eve)
    item = session.state()["item"]
    bob.teach(item, "no")
    state = session.label({"item": item, "choice": 1})
    assert f"Row {item} was answered or skipped meanwhile" in state["message"]
    assert eve.labels_[item] == "no" and state["item"] != item
    assert session.label({"item": state["item"], "choice": 1})["message"] == ""


def test_labelling_goes_on_without_a_model(text, monkeypatch):
    item = ask(text.server, "/api/next")[1]["item"]

    def fail(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(LogisticRegression, "fit", fail)
        for number in range(2):
            status, state, _ = ask(text.server, "/api/label", {"item": item, "choice": 1})
            assert status == 200 and state["n_labelled"] == 5 + number
            assert state["item"] != item and state["content"]["kind"] == "text"
            assert "no memory" in state["why"] and state["proba"] is None
            item = state["item"]
    state = ask(text.server, "/api/next")[1]
    assert "margin" in state["why"] and len(state["proba"]) == 2


def test_undo_of_a_skip_leaves_the_curve(text):
    rows = text.learner.labelled_()
    session = Session(text.learner, X_test=rows[0], y_test=rows[1])
    state = session.label({"item": session.state()["item"], "choice": 1})
    session.skip({"item": state["item"]})
    assert len(session.undo({})["curve"]) == 2
    assert len(session.undo({})["curve"]) == 1


def test_numbers_that_json_has_not():
    found = json.dumps(_plain({"a": [np.float64("nan"), np.inf, np.int64(2)], 3: True}))
    assert json.loads(found) == {"a": [None, None, 2], "3": True}


def test_files_that_the_command_line_refuses(tmp_path, capsys):
    def message(name, content, *extra):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SystemExit) as stop:
            main(["serve", str(path), "--store", "x", "--classes", "a", "b", *extra])
        return str(stop.value.code) if stop.value.code != 2 else capsys.readouterr().err

    assert "row 3, column 'b' is an empty cell" in message("a.csv", b"a,b\n1,2\n1,\n")
    assert "several columns of the name 'a'" in message("a.csv", b"a,a\n1,2\n")
    found = message("a.csv", b"a,b\n1,\xff\n")
    assert "a.csv cannot be read as a table in UTF-8" in found
    assert "a.npy cannot be read as an array" in message("a.npy", b"")
    assert "from 0 to 65535" in message("a.csv", b"a\n1\n", "--port", "99999")
    path = tmp_path / "bom.csv"
    path.write_text("\ufefftext\n" + "x" * 200_000 + "\n", encoding="utf-8")
    assert len(read(str(path), "text", None, ["a", "b"])[0][0]) == 200_000


def test_labels_of_a_store_are_written_as_a_table(tmp_path, capsys):
    path = tmp_path / "labels.sqlite"
    learner = text_learner().open_store(path, "eve")
    learner.teach([7, 5], ["yes", "no"], sample_weight=[1.0, 2.0]).teach(7, "no").skip(8)
    learner.teach(9, "no").undo()
    main(["export", str(path), "--output", str(tmp_path / "out.csv")])
    table = [line.split(",")[:4] for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert table[0] == ["row", "label", "weight", "annotator"]
    assert table[1:] == [["5", "no", "2.0", "eve"], ["7", "no", "1.0", "eve"]]
    main(["export", str(path)])
    assert capsys.readouterr().out == (tmp_path / "out.csv").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "nothing")])
    assert "There is no file" in str(stop.value.code)
