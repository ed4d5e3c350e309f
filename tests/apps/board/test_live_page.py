"The page that runs a model in the browser: the same tokens, masks, pictures and predictions as in Python."

import functools
import http.server
import json
import random
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accessible import objections
from boards import BOARD, answered, masked, pixels, shipped, untrained
from chromium import needs_chromium, tab
from PIL import Image

from mvl_bench.apps.board.codec import from_link, from_url, pack, to_link, to_url, unpack
from mvl_bench.apps.board.events import EXAMPLES, example_board, random_mask
from mvl_bench.apps.board.live_page import (
    FRONT,
    RUNTIME_FILES,
    export_live,
    runtime_files,
    tokenizer_table,
)
from mvl_bench.apps.board.onnx_export import DenseInputs, dense_model, example_inputs, export_onnx
from mvl_bench.apps.board.respond import _guess, react
from mvl_bench.core import UserError, by_hand, update
from mvl_bench.data.images import resize
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import (
    chips,
    cut_off,
    encode,
    piece_tokenizer,
    typed_marks,
    word_chips,
)
from mvl_bench.inference.reconstruction import Guess
from mvl_bench.models.mlim import MLIM, mlim_tiny
from mvl_bench.patches import patchify

LIVE = FRONT / "live"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Compute small models on one thread, as the page does."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
ODD = "ÉCLAIR naïve façade — “quoted” don't it’s ½ x² 3.5% #tag @you a_b top-left re-re-read 花が red花 ДОМ ёж ΣΟΦΟΣ İstanbul straße ﬁn".split()
ODD += "[MASK] [UNK] [pad] 🙂 👩‍🚀 \u200b \u00ad e\u0301te\u0301 \ufffd C++ $5 a,b;c -- … ?! 한국어 ไทย नमस्ते עברית ".split()


def captions(count: int) -> list[str]:
    "Captions as people write them, and odd ones: accents, signs, other scripts, marks of the tokenizer, far too long."
    rng, plain = random.Random(0), list(Scenes().captions(400))
    texts = plain[: count // 2]
    while len(texts) < count:
        words = rng.choice(plain).split() + rng.choices(ODD, k=rng.randint(1, 6))
        rng.shuffle(words)
        text = rng.choice((" ", "  ", "\t", "\n", ", ")).join(words * rng.choice((1, 1, 1, 4)))
        texts.append(rng.choice((text, text.upper(), text.title(), f" {text} ", "a" * 120 + text)))
    return texts


def node(folder, code: str, data) -> dict:
    "Run JavaScript with the page's modules and data; return what it prints as JSON."
    for path in LIVE.glob("*.js"):
        (folder / path.name).write_text(path.read_text())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "run.js").write_text(
        "import fs from 'fs';\nconst data = JSON.parse(fs.readFileSync('data.json'));\n" + code
    )
    done = subprocess.run(["node", "run.js"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TOKENS = """
import { Tokenizer } from './text.js';
const t = new Tokenizer(data.table), n = data.limit;
console.log(JSON.stringify(data.texts.map((text) => [t.encode(text, n), t.chips(text, n), t.words(text, n), t.cutOff(text, n), t.marksIn(text, n)])));
"""


@needs_node
@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_the_page_reads_captions_as_the_library_does(kind, tmp_path):
    tokenizer = untrained().tokenizer if kind == "words" else piece_tokenizer(captions(200), 300)
    texts, limit = captions(1000), 24
    data = dict(table=tokenizer_table(tokenizer), texts=texts, limit=limit)
    for text, found in zip(texts, node(tmp_path, TOKENS, data)):
        row = encode(tokenizer, [text], limit)
        assert found[0] == dict(ids=row.input_ids[0].tolist(), maskable=row.maskable[0].tolist()), text
        for mine, theirs in zip(found[1:3], (chips, word_chips)):
            expected = [chip._asdict() | dict(pieces=list(chip.pieces)) for chip in theirs(tokenizer, text, limit)]
            assert mine == expected, text
        assert found[3] == cut_off(tokenizer, text, limit), text
        assert found[4] == [mark for _, mark in typed_marks(tokenizer, text, limit)], text


GUESS = """
import { Host } from './live.js';
const host = Object.create(Host.prototype), word = { position: 1, text: 'cat', pieces: [1], known: true };
host.data = { longest: 8 };
host.tokenizer = { vocab: data.vocab, chips: () => [word] };
host.words = () => [word];
console.log(JSON.stringify(host.guesses('cat', [1], [0, 2], () => data.logits).guesses[0].top.map(([text]) => text)));
"""


@needs_node
def test_the_page_shows_the_end_of_a_word_as_the_board_does(tmp_path):
    vocab, logits = ["cat", "##d", "##", "#"], [1.0, 4.0, 3.0, 2.0]
    top = tuple((vocab[i], 0.1) for i in np.argsort(logits)[::-1])
    expected = [text for text, _ in _guess(Guess(1, "cat", 0.1, top), True)["top"]]
    assert node(tmp_path, GUESS, dict(vocab=vocab, logits=logits)) == expected and expected[0] == "…d"


def test_another_tokenizer_is_refused():
    tokenizer = untrained().tokenizer
    tokenizer.backend_tokenizer.normalizer = None
    with pytest.raises(UserError, match="neither"):
        tokenizer_table(tokenizer)


MASKS = """
import { PATCHES, WORDS } from './masks.js';
const places = (mask) => mask.flatMap((hidden, i) => (hidden ? [i] : []));
console.log(JSON.stringify(data.cases.map(([seed, patches, words, ratio, row]) => [places(PATCHES[patches](seed, data.grid, ratio, data.square)), places(WORDS[words](seed, row, ratio, data.kinds))])));
"""


@needs_node
def test_the_page_samples_the_same_masks(tmp_path):
    tokenizer = piece_tokenizer(captions(200), 200)
    ids = dict(pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id, vocab_size=len(tokenizer))
    model = untrained(max_text_len=40, img_size=(64, 96), mask_size=16)
    model.cfg, model.tokenizer = update(model.cfg, **ids), tokenizer
    texts, rng, cases, expected = captions(1000), random.Random(1), [], []
    for seed in range(120):
        text, ratio = rng.choice(texts[:500]), rng.random()
        pattern = rng.choice(("random", "block", "grid")), rng.choice(("random", "whole_word", "span", "content"))
        row = encode(tokenizer, [text], 40)
        own = dict(ids=row.input_ids[0].tolist(), maskable=row.maskable[0].tolist())
        cases.append([seed, *pattern, ratio, own])
        board = example_board(model, *EXAMPLES[0]).board
        board = random_mask(model, type(board)(board.image, text, seed=seed, grid=(8, 12), pattern=pattern), ratio, ratio)
        expected.append((list(board.patches), {*board.words}))
    data = dict(cases=cases, grid=[8, 12], square=2, kinds=tokenizer_table(tokenizer)["kinds"])
    for case, (patches, words), (own, tokens) in zip(cases, expected, node(tmp_path, MASKS, data)):
        assert own == patches, case
        assert {*tokens} <= words, case  # the board adds the other pieces of each word


RESIZE = """
import { patchify, resize, unpatchify } from './image.js';
console.log(JSON.stringify(data.map(({ width, height, pixels, size }) => {
  const out = resize({ data: pixels, width, height }, size), patches = patchify(out, [size[0] / 8, size[1] / 8], 8);
  return [Array.from(out), Array.from(patches), Array.from(unpatchify(patches, [size[0] / 8, size[1] / 8], 8))];
})));
"""


@needs_node
def test_the_page_reads_pictures_as_the_library_does(tmp_path):
    rng, cases = np.random.default_rng(0), []
    for height, width, size in ((200, 150, (64, 64)), (37, 90, (64, 64)), (64, 64, (64, 64)), (100, 211, (32, 64))):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        cases.append((picture, size))
    data = [dict(width=p.width, height=p.height, pixels=np.asarray(p.convert("RGBA")).ravel().tolist(), size=size) for p, size in cases]
    for (picture, size), (out, patches, back) in zip(cases, node(tmp_path, RESIZE, data)):
        expected = resize(picture, size)
        assert np.array_equal(np.reshape(out, (*size, 4))[..., :3], expected)
        truth = patchify(torch.tensor(expected).permute(2, 0, 1)[None] / 255, 8)[0]
        assert np.allclose(np.reshape(patches, truth.shape), truth) and back == out


@pytest.mark.parametrize("kind", ["maskvlm", "input", "refined", "mlim"])
def test_the_dense_path_is_the_models_own(kind):
    torch.manual_seed(0)
    changes = dict(maskvlm={}, input=dict(mask_token_at="input"), refined=dict(refine_width=8), mlim={})[kind]
    model = untrained(**changes) if kind != "mlim" else _mlim()
    if model.refiner if kind != "mlim" else None:
        torch.nn.init.normal_(model.refiner.end.weight, std=0.1)
    pair = Scenes().pair(0)
    rows = [pair, pair._replace(caption=None), pair._replace(image=None), pair._replace(caption="a red ball")]
    batch = collate(rows, model.tokenizer, model.cfg.text.max_text_len).scaled()
    for seed in range(5):
        rng = random.Random(seed)
        patches = sorted(rng.sample(range(64), rng.choice((1, 20, 63, 64))))
        masks = by_hand(batch, 64, patches, rng.sample(range(1, 6), 3))
        inputs = DenseInputs(
            patches=patchify(batch.images, 8), image_mask=masks.image_mask, has_image=batch.has_image, input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.bool(), text_mask=masks.text_mask, has_text=batch.has_text,
            pixel_rows=torch.arange(4).expand(2, 4), word_rows=torch.arange(4).expand(2, 4), places=torch.tensor(patches),
        )  # fmt: skip
        with torch.inference_mode():
            own, (found, logits) = model(batch, masks), dense_model(model)(*inputs)
        present = batch.has_image
        torch.testing.assert_close(found[present], own.pixels[present][:, patches], atol=1e-5, rtol=0)
        real = batch.attention_mask.bool() & batch.has_text[:, None]
        torch.testing.assert_close(logits[real], own.word_logits[real], atol=1e-4, rtol=0)


def _mlim():
    "A small MLIM with random weights."
    words = untrained()
    ids = dict(vocab_size=len(words.tokenizer), pad_id=words.cfg.text.pad_id, mask_id=words.cfg.text.mask_id)
    model = MLIM(update(mlim_tiny(), **ids, depth=1, embed_dim=32, num_heads=2)).eval()
    model.tokenizer, model.facts = words.tokenizer, dict(data="scenes")
    return model


def test_a_model_without_a_dense_path_is_refused(tmp_path):
    from mvl_bench.models.registry import load

    with pytest.raises(UserError, match="ideal|vitmae"):
        export_onnx(load("ideal"), tmp_path / "a.onnx")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    "A small model and its ONNX file."
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = untrained()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())  # as in a shipped checkpoint
    return model, export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_onnx_runtime_computes_the_same(graph):
    runtime = pytest.importorskip("onnxruntime")
    model, path = graph
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session, dense = runtime.InferenceSession(path, options), dense_model(model)
    assert tuple(i.name for i in session.get_inputs()) == DenseInputs._fields
    for seed in range(100):
        inputs = example_inputs(model, seed, 1 + seed % 3, 1 + seed % 4, 4 + seed % 9)
        found = session.run(None, {name: x.numpy() for name, x in inputs._asdict().items()})
        with torch.inference_mode():
            for mine, theirs in zip(found, dense(*inputs)):
                assert np.abs(mine - theirs.numpy()).max() < 1e-4


def test_the_weights_take_16_bits_where_nothing_is_lost(graph):
    model, path = graph
    count = sum(p.numel() for p in model.parameters())
    assert path.stat().st_size < 2.1 * count + 200_000
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()  # no trace of this machine


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--runtime .* does not hold"):
        runtime_files(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    if not all((LIVE / "ort" / name).is_file() for name in RUNTIME_FILES):
        with pytest.raises(UserError, match="npm pack"):
            runtime_files()


_Quiet = type("_Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *_: None))


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    "The shipped model, and the address of its page, served as plain files; skipped where a part is not here."
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    try:
        runtime_files()
    except UserError as error:
        pytest.skip(str(error))
    model = shipped()
    folder = export_live(model, tmp_path_factory.mktemp("live") / "page", "maskvlm-tiny")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield model, folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def _open(page, url):
    "Open the page and wait for the model."
    page.goto(url)
    page.locator(BOARD).wait_for()
    page.locator("#board[data-ready]").wait_for(timeout=60_000)


def _requests(model, count: int) -> list[dict]:
    "Requests for the examples' pairs, each with other patches and words hidden."
    rng, requests = random.Random(0), []
    for number in range(count):
        board = replace(example_board(model, *EXAMPLES[number % 6]).board, model="maskvlm-tiny")
        words = [word.position for word in word_chips(model.tokenizer, board.caption, 24)]
        patches = rng.sample(range(64), rng.choice((0, 1, 20, 40, 63, 64)))
        hidden_words = rng.sample(words, rng.randint(0, len(words))) if number % 3 else []
        edit = rng.choice((board.edit, board.caption, "a big green star and a dog", "zebra [MASK]"))
        board = replace(board, patches=tuple(sorted(patches)), words=tuple(sorted(hidden_words)), edit=edit)
        requests.append(dict(state=pack(board), kind="view", given=dict(on=["raw"] * (number % 2)), seq=number, source="test"))
    return requests


def _same(mine, theirs):
    "Compare two columns: numbers nearly, pictures to one step of 8 bits, everything else exactly."
    assert (mine is None) == (theirs is None)
    for name in (theirs or {}).keys() - {"why", "truth", "shown", "guesses", "raw"}:
        if isinstance(theirs[name], (float, list)) and name != "said":
            both = (np.array(values, dtype=float) for values in (mine[name], theirs[name]))
            np.testing.assert_allclose(*both, atol=3e-4, err_msg=name)
        else:
            assert mine[name] == theirs[name], name
    if not theirs:
        return
    assert (mine["raw"] is None) == (theirs["raw"] is None)
    if theirs["raw"]:
        images = (from_url(values["raw"], (64, 64)).astype(int) for values in (mine, theirs))
        assert np.abs(np.subtract(*images)).max() <= 1
    assert len(mine["guesses"]) == len(theirs["guesses"])
    for one, other in zip(mine["guesses"], theirs["guesses"]):
        assert (one["truth"], one["known"]) == (other["truth"], other["known"])
        assert abs(one["probability"] - other["probability"]) < 1e-4
        np.testing.assert_allclose(*([p for _, p in guess["top"]] for guess in (one, other)), atol=1e-4)


@needs_chromium
def test_the_page_answers_as_python_does(browser, page_of):
    model, _, url = page_of
    with tab(browser) as page:
        _open(page, url)
        for request in _requests(model, 100):
            mine = page.evaluate("ask => window.live.host.react(ask)", request)
            raw = "raw" in request["given"]["on"]
            theirs = react({"maskvlm-tiny": model}, request)
            assert mine["state"] == theirs["state"]
            for name in ("story", "notes", "shares", "honest", "models", "next"):
                assert mine["shown"][name] == theirs["shown"][name], name
            for name, column in theirs["shown"]["columns"].items():
                other = mine["shown"]["columns"][name]
                if column and column["raw"] and not raw:  # the page leaves visible patches as they are
                    column["raw"] = _pasted(column["raw"], request["state"])
                _same(other, column)


def _pasted(url: str, state: dict) -> str:
    "Return a raw output with the visible patches of the picture in place."
    board = unpack(state, (64, 64))
    image, hide = from_url(url, (64, 64)), np.isin(np.arange(64), board.patches).reshape(8, 8)
    return to_url(np.where(np.kron(hide, np.ones((8, 8), bool))[..., None], image, board.image))


@needs_chromium
def test_a_visitor_brings_a_picture_and_a_caption(browser, page_of, tmp_path):
    model, _, url = page_of
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(tmp_path / "own.png")
    with tab(browser) as page:
        _open(page, url)
        page.locator("input[type=file]").set_input_files(tmp_path / "own.png")
        page.get_by_label("Its caption").fill("a big red star and a dog")
        with answered(page):
            page.get_by_role("button", name="Open this pair").click()
        assert "Half of your picture" in page.inner_text(".mb-story") and len(masked(page)) == 32
        assert "outside the drawn world" in page.inner_text(".mb-notes") and not objections(page)
        before = pixels(page, "edited")
        with answered(page):
            page.locator(".mb-edit textarea").fill("a big green star and a dog")
        assert pixels(page, "edited") != before
        with answered(page):
            page.locator("[data-word]").first.click()
        with answered(page):
            page.get_by_role("button", name="Clear mask").click()
        assert not masked(page) and not masked(page, "word")
        with answered(page):
            page.get_by_label("Picture hidden: pattern").select_option("block")
        with answered(page):
            page.get_by_role("button", name="Next scene").click()
        assert masked(page) or masked(page, "word")
        page.get_by_role("button", name="Copy link").click()
        page.wait_for_function("() => location.hash.startsWith('#b=')")
        again = unpack(from_link(page.url), (64, 64))
        assert again.scene and list(again.patches) == masked(page)
        with answered(page):
            page.evaluate("link => { location.hash = link; }", to_link(pack(replace(again, patches=(1, 2)))))
        assert masked(page) == [1, 2]


@needs_chromium
def test_stored_answers_where_the_model_cannot_run(browser, page_of):
    _, folder, url = page_of
    for address, script in ((url, "delete window.WebAssembly"), (folder.joinpath("index.html").as_uri(), "")):
        with tab(browser, silent=False) as page:
            page.add_init_script(script)
            page.goto(address)
            page.get_by_text("The page shows stored answers.").wait_for()
            page.locator(BOARD).wait_for()
            with answered(page):
                page.get_by_role("button", name="cat", exact=True).click()
            assert masked(page)
